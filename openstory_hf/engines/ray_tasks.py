"""The nodes of a Ray cluster: a task is a shard, and Ray runs it again elsewhere when its worker or node is lost.

These are plain Ray tasks. datatrove's RayPipelineExecutor makes an actor and a forked process for every task, and
waits for ever when a node is lost while an actor starts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from openstory_hf.engines import Job
from openstory_hf.errors import BuildError, OpenStoryError, UsageError, reason_of
from openstory_hf.plan import Plan, Shard
from openstory_hf.shard import build_task, result_file


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen.

    Args:
        address: of the cluster, as `ray.init` takes it; `RAY_ADDRESS` by default. Without either, Ray is started on
            this machine alone, with `num_proc` cores.
        cpus: cores of a task.
        memory: bytes that a task reserves; 0 reserves none.
        retries: how often a task is run again when its worker or node is lost.
    """

    address: str = ""
    cpus: int = 1
    memory: int = 0
    retries: int = 20


_plans: dict[tuple[str, str], Plan] = {}


def run(job: Job, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Build shards as Ray tasks.

    The head of the plan is put into the cluster once, and each shard travels with its own task.

    Raises:
        UsageError: if there is no cluster at the address.
        BuildError: the first of a shard, or when its workers were lost too often.
    """
    import ray

    options: Options = job.options
    with _connected(options, job.num_proc):
        remote = ray.remote(
            num_cpus=options.cpus,
            max_retries=options.retries,
            **({"memory": options.memory} if options.memory else {}),
        )(_build)
        head = ray.put(job.plan.head())
        key = (job.plan.fingerprint, job.plan.on_error)
        pending = {remote.remote(key, [head], shard, str(job.place), options.cpus): shard for shard in shards}
        try:
            while pending:
                done, _ = ray.wait(list(pending), timeout=1)
                for task in done:
                    shard = pending.pop(task)
                    _fetch(task, shard)
                    if job.place.size(result_file(shard.name)) is None:
                        raise BuildError(
                            f"shard {shard.name} was built, but is not in {job.place}: it must be a folder that all "
                            "nodes share, or a URL"
                        )
                    yield job.finished(shard)
        finally:
            for task in pending:
                with contextlib.suppress(Exception):
                    ray.cancel(task, force=True)


def _fetch(task: Any, shard: Shard) -> None:
    """Wait for a task.

    Raises:
        BuildError: if it failed.
    """
    import ray

    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, OpenStoryError):
            raise BuildError(str(cause)) from None
        raise BuildError(f"shard {shard.name} failed: {reason_of(cause or error)}") from None
    except ray.exceptions.RayError as error:
        said = str(error).strip().partition("\n")[0]
        raise BuildError(
            f"the workers of shard {shard.name} were lost too often, the last time: {type(error).__name__}: {said}. "
            "Run the same command again to continue; if memory was the reason, with --engine-option memory=BYTES"
        ) from None


@contextlib.contextmanager
def _connected(options: Options, num_proc: int) -> Iterator[None]:
    import ray

    if ray.is_initialized():  # by whoever calls us from Python
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = options.address or os.environ.get("RAY_ADDRESS", "")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    try:
        if address:
            del quiet["include_dashboard"]  # the cluster has one or not
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=max(num_proc, options.cpus), **quiet)
    except Exception as error:  # Ray and its transport raise their own
        raise UsageError(
            f"no Ray cluster answers at {address or 'this machine'}: {' '.join(reason_of(error).split())}. Start one "
            "with `ray start --head`, or give --engine-option address=HOST:PORT"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _build(key: tuple[str, str], head: list[Any], shard: Shard, out: str, threads: int) -> None:
    """A task: build a shard, in a process that may have built others of the same plan."""
    if key not in _plans:
        import ray

        _plans.clear()
        _plans[key] = ray.get(head[0])
    build_task(_plans[key], shard, out, threads=threads)

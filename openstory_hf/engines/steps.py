"""The step of a datatrove pipeline that builds a shard; importing this needs datatrove.

A step is pickled with every task, so it has the head of the plan only. The units of a shard lie in the folder, written
once by whoever starts the tasks; like all that is read from there, they are JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datatrove.io import get_datafolder
from datatrove.pipeline.base import PipelineStep

from openstory_hf.engines import Job
from openstory_hf.errors import BuildError, UsageError
from openstory_hf.plan import Plan, Shard, dump_shard, load_shard
from openstory_hf.shard import build_task
from openstory_hf.target import Target, target
from openstory_hf.write import WORK

_plans: dict[tuple[str, str], Plan] = {}


def known(plan: Plan) -> Plan:
    """The same head of a plan as the last time in this process, whose release remembers what it has read."""
    key = plan.fingerprint, plan.on_error
    if key not in _plans:
        _plans.clear()
        _plans[key] = plan
    return _plans[key]


class BuildShard(PipelineStep):  # type: ignore[misc]
    """Builds the shard whose number is the rank.

    Args:
        plan: the head of it.
        out: folder of the build.
        threads: that check and encode frames.
    """

    name = "build a shard"
    type = "openstory"

    def __init__(self, plan: Plan, out: str, threads: int) -> None:
        super().__init__()
        self.plan = plan
        self.out = out
        self.threads = threads

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Build it.

        Raises:
            BuildError: as `build_shard`.
        """
        place = target(self.out)
        text = place.read(units_file(rank))
        if text is None:
            raise BuildError(f"{place}/{units_file(rank)} is missing: do all machines see {place}?")
        shard = load_shard(text)
        with self.track_time():
            build_task(known(self.plan), shard, place, threads=self.threads)
        self.stat_update("records", value=shard.records, unit="shard")


class Call(PipelineStep):  # type: ignore[misc]
    """Calls a function, once."""

    name = "complete the folder"
    type = "openstory"

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self.function = function

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Call it."""
        self.function()


def units_file(number: int) -> str:
    """Where the units of a shard lie for the tasks of datatrove."""
    return f"{WORK}/units/{number:05d}.json"


def prepare(job: Job, shards: Sequence[Shard], logs: str) -> None:
    """Write what the tasks need, and make datatrove's completions say which of them are to run.

    A completion counts only if the shard it stands for is whole, and a whole shard needs no task.

    Args:
        job: what is built.
        shards: that have to be.
        logs: folder of datatrove's logs and completions.

    Raises:
        UsageError: for a place where every small file costs.
        BuildError: if the folder cannot be written.
    """
    if not job.place.hints:
        raise UsageError(
            f"datatrove keeps several files per task, and in {job.place} each would be a commit. Build to a folder or "
            "an object store and use `openstory push`, or choose --engine pool or ray"
        )
    wanted = {shard.name for shard in shards}
    folder = get_datafolder(logs)
    there = set(folder.list_files("completions"))
    for number in job.tasks:
        shard, completion = job.plan.shards[number], f"completions/{number:05d}"
        if shard.name in wanted:
            job.place.publish({units_file(number): dump_shard(shard)})
            if completion in there:
                folder.rm(completion)
        elif completion not in there:
            folder.open(completion, "w").close()


def logs_of(place: Target) -> str:
    """Where the logs of tasks of this machine lie while the folder is built."""
    return f"{place}/{WORK}/datatrove"

"""datatrove's LocalPipelineExecutor: the processes of one machine, with a log and a completion for every task.

It runs in a process group of its own. datatrove waits for ever for a worker that was ended from outside, and prints
tracebacks: here such a worker ends the build with one message, and what datatrove prints goes to a log.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from openstory_hf.engines import Job, NoOptions
from openstory_hf.engines.failures import first_error
from openstory_hf.engines.pool import ended
from openstory_hf.engines.steps import BuildShard, logs_of, prepare
from openstory_hf.errors import BuildError, UsageError
from openstory_hf.plan import Plan, Shard

Options = NoOptions

LOOK = 0.5
"""Seconds between two looks at what is finished."""


class _Work(NamedTuple):
    """What the process of the executor is told."""

    plan: Plan
    out: str
    logs: str
    number: int
    tasks: range
    workers: int
    threads: int


def run(job: Job, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Build shards as tasks of a LocalPipelineExecutor.

    Raises:
        UsageError: for a system without process groups, or a place where every small file costs.
        BuildError: the first of a shard, or when a process was ended from outside.
    """
    if not hasattr(os, "killpg"):
        raise UsageError(f"--engine datatrove-local does not work on {sys.platform}; use --engine pool")
    logs = logs_of(job.place)
    prepare(job, shards, logs)
    workers = max(1, min(job.num_proc, len(shards)))
    work = _Work(
        job.plan.head(), str(job.place), logs, len(job.plan.shards), job.tasks, workers, job.num_proc // workers
    )
    context = multiprocessing.get_context("spawn")
    alive, stop = context.Pipe(duplex=False)  # whoever holds the other end lives until this one is closed
    told, telling = context.Pipe(duplex=False)
    process = context.Process(target=_execute, args=(work, alive, telling))
    process.start()
    telling.close()
    left = {shard.name: shard for shard in shards}
    try:
        while process.exitcode is None:
            wait([process.sentinel], timeout=LOOK)
            there = job.place.names()
            for name in [name for name in left if f"{name}.json" in there]:
                yield job.finished(left.pop(name))
        if process.exitcode:
            raise BuildError(_why(job, shards, told, process.exitcode))
    finally:
        stop.close()
        process.join(timeout=10)
        told.close()


def _why(job: Job, shards: Sequence[Shard], told: Connection, code: int) -> str:
    with contextlib.suppress(EOFError, OSError):
        if told.poll():
            pid, how = told.recv()
            return (
                f"{ended(pid, how, job.place)}, most often for want of memory. "
                "Run the same command again to continue, with fewer --num-proc"
            )
    if error := first_error(job.place, shards):
        return error
    return f"datatrove ended with exit status {code}; its logs: {logs_of(job.place)}"


def _execute(work: _Work, alive: Connection, telling: Connection) -> None:
    """Run the executor; the whole process group ends with the parent, or with any of its workers."""
    os.setsid()
    if "://" in work.logs:
        said = os.open(os.devnull, os.O_WRONLY)
    else:
        Path(work.logs).mkdir(parents=True, exist_ok=True)
        said = os.open(Path(work.logs) / "executor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    threading.Thread(target=_watch, args=(alive, telling), daemon=True).start()
    from datatrove.executor import LocalPipelineExecutor

    LocalPipelineExecutor(
        pipeline=[BuildShard(work.plan, work.out, work.threads)],
        tasks=work.number,
        workers=work.workers,
        logging_dir=work.logs,
        local_tasks=len(work.tasks),
        local_rank_offset=work.tasks.start,
    ).run()


def _watch(alive: Connection, telling: Connection) -> None:
    import multiprocess

    parent = multiprocessing.parent_process()
    seen: dict[int, multiprocess.Process] = {}
    while not wait([alive, *([parent.sentinel] if parent else [])], timeout=0.2):
        seen.update({worker.pid: worker for worker in multiprocess.active_children()})
        for pid, worker in seen.items():
            if worker.exitcode and worker.exitcode not in (1, -signal.SIGTERM):  # a pool ends its workers with these
                telling.send((pid, worker.exitcode))
                os.killpg(0, signal.SIGKILL)
    os.killpg(0, signal.SIGKILL)

"""The processes of one machine. Builders that share a folder take different shards as far as they can."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from openstory_hf.engines import Job, NoOptions
from openstory_hf.errors import BuildError
from openstory_hf.identity import identity
from openstory_hf.plan import Plan, Shard
from openstory_hf.shard import build_task
from openstory_hf.target import Target, begun, builders

Options = NoOptions

LISTED_EVERY = 1.0
"""Seconds between two looks at what other builders are at."""


class Waiting:
    """The shards that are to be built, in the order of the plan while nobody else builds there.

    With other builders, each takes them in an order of its own, and those last that another one is at. So hardly any
    shard is built twice, those of a builder that died are built by the others, and nobody waits for anybody.

    Args:
        job: what is built.
        shards: of it.
    """

    def __init__(self, job: Job, shards: Sequence[Shard]) -> None:
        self._place = job.place
        self._left = list(shards)
        self._mine: set[str] = set()
        self._shuffled = False
        self._listed = -LISTED_EVERY
        self._there: dict[str, int] = {}
        if not job.place.hints:  # nobody can say what he is at
            self._shuffle()

    def _shuffle(self) -> None:
        random.Random(identity()).shuffle(self._left)
        self._shuffled = True

    def __len__(self) -> int:
        return len(self._left)

    def take(self) -> tuple[Shard, bool] | None:
        """The next shard, and whether somebody else has finished it meanwhile; None when there is none left."""
        if not self._left:
            return None
        if time.monotonic() - self._listed >= LISTED_EVERY:
            self._there = self._place.names()
            self._listed = time.monotonic()
            if not self._shuffled and any(other != identity() for other in builders(self._there)):
                self._shuffle()
        at = begun(self._there)
        done = next((shard for shard in self._left if f"{shard.name}.json" in self._there), None)
        shard = done or next((shard for shard in self._left if shard.name not in at), self._left[0])
        self._left.remove(shard)
        return shard, done is not None


def run(job: Job, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Build shards in this process, or in several.

    Raises:
        BuildError: the first of a shard, or when a process was ended from outside.
    """
    waiting = Waiting(job, shards)
    workers = max(1, min(job.num_proc, len(shards)))
    threads = job.num_proc // workers
    if workers > 1:
        yield from _run_processes(job, waiting, workers, threads)
        return
    while taken := waiting.take():
        shard, is_done = taken
        if is_done:
            yield job.finished(shard)
        else:
            build_task(job.plan, shard, job.place, job.report, threads)
            yield shard


def _run_processes(job: Job, waiting: Waiting, workers: int, threads: int) -> Iterator[Shard]:
    context = multiprocessing.get_context("spawn")  # forking a process that runs Arrow threads can deadlock
    # No queue: a worker that ends while it holds the lock of one would leave it locked for all. Writes to a pipe as
    # short as these are whole or not at all, whoever else writes.
    ticks, ticking = context.Pipe(duplex=False)
    alive, stop = context.Pipe(duplex=False)  # whoever holds the other end lives until this one is closed
    others = set(multiprocessing.active_children())

    def relay() -> None:
        with contextlib.suppress(EOFError):  # once nobody holds the other end
            while True:
                tick = ticks.recv()
                if job.report:
                    job.report(*tick)

    relaying = threading.Thread(target=relay, daemon=True)
    relaying.start()
    started: set[BaseProcess] = set()
    task = (job.plan.head(), job.place, ticking, threads, alive)
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, task) as pool:
            futures: dict[Future[None], Shard] = {}
            try:
                while True:
                    while len(futures) < workers and (taken := waiting.take()):
                        shard, is_done = taken
                        if is_done:
                            yield job.finished(shard)
                        else:
                            futures[pool.submit(_build_in_worker, shard)] = shard
                    started |= set(multiprocessing.active_children()) - others
                    if not futures:
                        return
                    for future in wait_for(futures, timeout=1, return_when=FIRST_COMPLETED).done:
                        shard = futures.pop(future)
                        future.result()
                        yield shard
                    if futures and any(worker.exitcode for worker in started):
                        raise BrokenProcessPool  # the pool itself notices some only when another shard is done
            except BaseException:
                stop.close()  # the shards that are begun could take minutes more, and nobody waits for them
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in started:
                    worker.join(timeout=10)
                raise
    except BrokenProcessPool:
        raise BuildError(
            f"{_ended(started, job.place)}, most often for want of memory. "
            "Run the same command again to continue, with fewer --num-proc"
        ) from None
    finally:
        stop.close()
        ticking.close()
        relaying.join(timeout=10)  # a worker that even the end of the others does not end is left behind


def _ended(workers: Iterable[BaseProcess], place: Target) -> str:
    """Which worker was ended from outside, how, and at what; the others were ended here, with 1 or SIGTERM."""
    for worker in workers:
        if worker.exitcode not in (None, 0, 1, -signal.SIGTERM):
            return ended(worker.pid, worker.exitcode or 0, place)
    return "a worker process was ended from outside"


def ended(pid: int | None, code: int, place: Target) -> str:
    """That a worker process of this machine was ended from outside, with what and at which shard."""
    hint = f".begun.{identity(pid)}"
    shards = sorted(name.removesuffix(hint) for name in place.names() if name.endswith(hint))
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return f"worker process {pid}, at {', '.join(shards) or 'its start'}, was ended by {how}"


_task: tuple[Plan, Target, Connection, int]  # of a worker process: sent once, so that the release's index is read once


def _start_worker(plan: Plan, place: Target, ticking: Connection, threads: int, alive: Connection) -> None:
    """Remember the task, and end with the parent or when it says so: a worker must not outlive a killed build."""
    global _task
    _task = plan, place, ticking, threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; it is the parent who decides

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            wait([parent.sentinel, alive])
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _build_in_worker(shard: Shard) -> None:
    plan, place, ticking, threads = _task
    build_task(plan, shard, place, lambda split, number: ticking.send((split, number)), threads)

"""Streams that ranks and workers share, and that go on where they stopped, in the same or another number of them.

Every story of an epoch has a position. What is left of an epoch is a list of intervals of positions; the consumers
(one per rank and worker) take equal contiguous shares of it, so each reads its own part of the files and no other.
A consumer's progress is a number. When the number of consumers changes, the intervals that their shares leave over
are what is left, and are shared anew: this is an *era*. So a state is a few numbers, however large the dataset is.

`datasets` streams are not used for this: a shuffle buffer loses its content on resume, the number of workers may not
change, and skipping reads everything that is skipped (datasets 5.2).
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from openstory_hf.errors import UsageError

Intervals = list[tuple[int, int]]
Consumer = tuple[int, int]
"""(rank, worker)"""

STATE_KEY = "openstory_hf_stream"
STATE_VERSION = 1

_EPOCH, _PASS = 0, 1


def size_of(intervals: Intervals) -> int:
    """Positions in all intervals."""
    return sum(stop - start for start, stop in intervals)


def cut(intervals: Intervals, first: int, last: int) -> Intervals:
    """The intervals of the positions [first, last), counted along the intervals."""
    return _cut(intervals, _before(intervals), first, last)


def _before(intervals: Intervals) -> list[int]:
    """How many positions come before each interval, and behind the last one all."""
    return list(accumulate((stop - start for start, stop in intervals), initial=0))


def _cut(intervals: Intervals, before: Sequence[int], first: int, last: int) -> Intervals:
    found = []
    number = max(0, bisect_right(before, first) - 1)
    while number < len(intervals) and before[number] < last:
        (start, stop), here = intervals[number], before[number]
        low, high = max(first - here, 0), min(last - here, stop - start)
        if low < high:
            found.append((start + low, start + high))
        number += 1
    return found


def bounds(total: int, number: int, count: int) -> tuple[int, int]:
    """The part [first, last) of `total` that consumer `number` out of `count` takes.

    Parts are as large as each other to within one, and never larger than those before them: so no worker of another
    rank has more than the same worker of rank 0.
    """
    size, more = divmod(total, count)
    first = number * size + min(number, more)
    return first, first + size + (number < more)


def share(intervals: Intervals, number: int, count: int) -> Intervals:
    """The part of consumer `number` out of `count`."""
    return cut(intervals, *bounds(size_of(intervals), number, count))


class Taken:
    """How many stories each consumer of an era has taken.

    Args:
        total: stories that the consumers share.
        ranks: number of ranks.
        workers: workers of each rank.
        known: [rank, worker, stories], of all ranks or only of some: data-parallel ranks are in step.
    """

    def __init__(self, total: int, ranks: int, workers: int, known: Iterable[Sequence[int]]) -> None:
        self._total, self._ranks, self._workers = total, ranks, workers
        self._known = {(rank, worker): count for rank, worker, count in known}

    def size(self, rank: int, worker: int) -> int:
        """Stories in the share of a consumer."""
        first, last = bounds(self._total, rank * self._workers + worker, self._ranks * self._workers)
        return last - first

    def of(self, rank: int, worker: int) -> int:
        """Stories a consumer has taken.

        Raises:
            UsageError: if nothing is known of the worker, or not enough.
        """
        if (rank, worker) in self._known:
            return self._known[rank, worker]
        there = min((rank for rank, known in self._known if known == worker), default=None)
        if there is None:
            raise UsageError(
                f"the state knows nothing of worker {worker} of {self._workers}: it is the state of one worker. "
                "Give merge_states(...) the states of all workers, or the state of the whole StatefulDataLoader"
            )
        count, size = self._known[there, worker], self.size(rank, worker)
        if count == self.size(there, worker) < size:
            raise UsageError(
                f"rank {there} was through with its share, which says too little of rank {rank}. "
                "Load the state of rank 0, or merge_states(...) of all ranks"
            )
        return min(count, size)


def left_over(intervals: Intervals, era: Mapping[str, Any]) -> Intervals:
    """What the consumers of an era leave of the intervals they share.

    Args:
        intervals: what they share.
        era: `ranks`, `workers` and `taken`, see `Taken`.

    Raises:
        UsageError: if the era says too little.
    """
    ranks, workers = era["ranks"], era["workers"]
    total, before = size_of(intervals), _before(intervals)
    taken = Taken(total, ranks, workers, era["taken"])
    found: Intervals = []
    for rank in range(ranks):
        for worker in range(workers):
            first, last = bounds(total, rank * workers + worker, ranks * workers)
            for start, stop in _cut(intervals, before, first + taken.of(rank, worker), last):
                if found and found[-1][1] == start:
                    start = found.pop()[0]
                found.append((start, stop))
    return found


class ElasticStream:
    """An iterable over the stories of an epoch; see `load_stories` for what users may rely on.

    A subclass gives `num_stories`, `identity` and `_read`.
    """

    def __init__(self, seed: int, rank: int | None, world_size: int | None) -> None:
        if (rank is None) != (world_size is None) or not 0 <= (rank or 0) < (1 if world_size is None else world_size):
            raise UsageError(
                f"rank={rank} and world_size={world_size}: give neither, or both with 0 <= rank < world_size"
            )
        self.seed = seed
        self._rank, self._world_size = rank, world_size
        self._part: tuple[int, int, int, int] | None = None
        self._shared: Any = _shared_numbers()
        self._loaded: dict[str, Any] | None = None
        self._loaded_by = 0
        self._begun_at: dict[str, Any] | None = None  # the state with which the pass in this process began
        self._progress: dict[str, Any] | None = None

    # -- what a subclass gives

    @property
    def num_stories(self) -> int:
        """Stories of an epoch, over all ranks and workers."""
        raise NotImplementedError

    @property
    def identity(self) -> dict[str, Any]:
        """Whatever decides the order and the content of the stories, as JSON."""
        raise NotImplementedError

    def _read(self, intervals: Intervals, epoch: int) -> Iterator[dict[str, Any]]:
        """The stories at some positions of an epoch."""
        raise NotImplementedError

    # -- epochs

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration is of."""
        return int(self._shared[_EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: another order and other random pictures, if they were asked for.

        Workers of a DataLoader see it too, persistent ones with their next iteration.
        """
        self._shared[_EPOCH] = epoch

    # -- iteration

    def __iter__(self) -> Iterator[dict[str, Any]]:
        progress = self._progress = self._begin()
        self._loaded, self._begun_at = None, self._loaded
        [taken] = progress["taken"]
        rank, worker, skip = taken
        consumers = progress["ranks"] * progress["workers"]
        mine = share(self._remaining(progress["eras"]), rank * progress["workers"] + worker, consumers)
        for row in self._read(cut(mine, skip, size_of(mine)), progress["epoch"]):
            taken[2] += 1
            yield row

    def _begin(self) -> dict[str, Any]:
        """Where an iteration that begins now stands: at the start of the epoch, or at the state that was loaded."""
        rank, ranks, worker, workers = self._consumer()
        use = self._loaded is not None and self._loaded["epoch"] == self.epoch and self._is_first_pass()
        eras, known = _continued(self._loaded if use else None, ranks, workers)
        skip = Taken(size_of(self._remaining(eras)), ranks, workers, known).of(rank, worker) if known else 0
        return {"epoch": self.epoch, "eras": eras, "ranks": ranks, "workers": workers, "taken": [[rank, worker, skip]]}

    def _is_first_pass(self) -> bool:
        """Whether a state that workers inherited is still to be used.

        A DataLoader makes new workers for each pass, and each inherits the state its parent loaded once. It is meant
        for the workers of the first pass, which share the seed of that pass.
        """
        torch = sys.modules.get("torch")
        here = None if torch is None else torch.utils.data.get_worker_info()
        if here is None or self._loaded_by == os.getpid():
            return True
        this = 1 + (here.seed - here.id) % 2**62
        if self._shared[_PASS] == 0:
            self._shared[_PASS] = this
        return bool(self._shared[_PASS] == this)

    def _remaining(self, eras: Iterable[Mapping[str, Any]]) -> Intervals:
        left: Intervals = [(0, self.num_stories)]
        for era in eras:
            left = left_over(left, era)
        return left

    def take_part(self, worker: int, workers: int) -> None:
        """Be one worker of this rank, where nothing else says so: in a process that no DataLoader has started."""
        rank, ranks, _, _ = self._consumer()
        self._part = rank, ranks, worker, workers

    def _consumer(self) -> tuple[int, int, int, int]:
        """(rank, ranks, worker, workers) of this process."""
        if self._part is not None:
            return self._part
        torch = sys.modules.get("torch")
        rank, ranks = self._rank, self._world_size
        if rank is None or ranks is None:
            rank, ranks = 0, 1
            if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
                rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        worker, workers = 0, 1
        if torch is not None and (here := torch.utils.data.get_worker_info()) is not None:
            worker, workers = here.id, here.num_workers
        return rank, ranks, worker, workers

    def _ranks(self) -> tuple[int | None, int | None]:
        """Rank and number of ranks for a copy in a process that torch.distributed does not know of."""
        rank, ranks, _, _ = self._consumer()
        return (rank, ranks) if ranks > 1 else (self._rank, self._world_size)

    # -- states

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, as JSON: a few numbers, whatever the size of the dataset.

        Inside a worker of a DataLoader it is that worker's state; torchdata's `StatefulDataLoader` collects and
        restores them. With a plain DataLoader the workers' progress is not known here: see `state_after`.
        """
        progress = self._progress or self._begin()
        copied = {**progress, "taken": [list(entry) for entry in progress["taken"]], "eras": list(progress["eras"])}
        return {STATE_KEY: STATE_VERSION, "identity": self.identity, **copied}

    def state_after(self, batches: int, batch_size: int, num_workers: int = 0) -> dict[str, Any]:
        """The state after a plain DataLoader has delivered some batches of an epoch, in order.

        For an epoch that was begun at its start, or with a state that was loaded into this stream before. For another
        pass of workers over the same epoch, call `set_epoch` first, or load the state at which it begins.

        Args:
            batches: batches that every rank has taken from its DataLoader since it was made or resumed.
            batch_size: of the DataLoader.
            num_workers: of the DataLoader.
        """
        rank, ranks, _, _ = self._consumer()
        workers = max(1, num_workers)
        # workers begin at what was loaded, again and again; a pass in this process takes it
        state = self._loaded or (None if num_workers else self._begun_at)
        eras, known = _continued(state if state and state["epoch"] == self.epoch else None, ranks, workers)
        shares = Taken(size_of(self._remaining(eras)), ranks, workers, known)
        parts = [shares.size(rank, worker) for worker in range(workers)]
        given = [shares.of(rank, worker) if known else 0 for worker in range(workers)]
        turn = 0
        for _ in range(batches):  # a DataLoader asks its workers in turn, and passes over those that are done
            for _ in range(workers):
                worker, turn = turn % workers, turn + 1
                if given[worker] < parts[worker]:
                    given[worker] = min(given[worker] + batch_size, parts[worker])
                    break
        taken = [[rank, worker, count] for worker, count in enumerate(given)]
        after = {"epoch": self.epoch, "eras": eras, "ranks": ranks, "workers": workers, "taken": taken}
        return {STATE_KEY: STATE_VERSION, "identity": self.identity, **after}

    @property
    def loaded(self) -> Mapping[str, Any] | None:
        """The state that the next iteration goes on at."""
        return self._loaded

    def rewind(self) -> None:
        """Let the next iteration begin at the start of the epoch, whatever was loaded or iterated."""
        self._loaded = self._begun_at = self._progress = None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where a state was taken, in the same or another number of ranks and workers.

        In the same number, every rank may load its own state. In another, all ranks load the same one: that of rank
        0, if all had taken equally many batches, as in data-parallel training; else `merge_states` of all.

        Raises:
            UsageError: if the state is of another dataset, seed or request, with both values.
        """
        if STATE_KEY not in state:
            state = merge_states(state)
        if state[STATE_KEY] != STATE_VERSION:
            raise UsageError(f"the state has version {state[STATE_KEY]}, this package reads {STATE_VERSION}")
        mine, other = self.identity, state["identity"]
        for name in dict.fromkeys((*mine, *other)):
            if mine.get(name) != other.get(name):
                raise UsageError(
                    f"the state is of a stream with {name}={other.get(name)!r}, this one has {mine.get(name)!r}"
                )
        self.rewind()
        self._loaded, self._loaded_by = dict(state), os.getpid()
        if "torch" not in sys.modules or sys.modules["torch"].utils.data.get_worker_info() is None:
            self._shared[_PASS] = 0
        self.set_epoch(state["epoch"])


def merge_states(*states: Mapping[str, Any]) -> dict[str, Any]:
    """One state of those of all workers, or all ranks, taken at the same time.

    Args:
        states: of streams, or of a torchdata `StatefulDataLoader`, which holds those of its workers.

    Raises:
        UsageError: if there is none, if they do not belong together, or if a StatefulDataLoader took its snapshot
            some batches ago (`snapshot_every_n_steps`).
    """
    found = [state for outer in states for state in _states_in(outer)]
    if not found:
        raise UsageError("there is no state of a story stream in what was given")
    merged = {"eras": [], **found[0]}  # loaders that flatten states lose empty lists
    taken: dict[Consumer, int] = {}
    for state in found:
        for name, value in merged.items():
            if name != "taken" and state.get(name, []) != value:
                raise UsageError(f"these states do not belong together: {name} {value!r} and {state.get(name)!r}")
        for rank, worker, count in state["taken"]:
            taken[rank, worker] = max(count, taken.get((rank, worker), 0))
    merged["taken"] = [[*consumer, count] for consumer, count in sorted(taken.items())]
    return merged


def _states_in(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if STATE_KEY in value:
            yield value
            return
        if value.get("_steps_since_snapshot"):
            raise UsageError(
                f"the StatefulDataLoader took its snapshot {value['_steps_since_snapshot']} batches ago; make it with "
                "snapshot_every_n_steps=1, or resume with the same number of workers"
            )
        for inner in value.values():
            yield from _states_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _states_in(inner)


def _continued(
    state: Mapping[str, Any] | None, ranks: int, workers: int
) -> tuple[list[Mapping[str, Any]], list[list[int]]]:
    """The eras behind an iteration by so many consumers that goes on at a state, and what is taken in this one."""
    if state is None:
        return [], []
    eras = list(state.get("eras", ()))  # loaders that flatten states lose empty lists
    if (state["ranks"], state["workers"]) == (ranks, workers):
        return eras, list(state["taken"])
    return [*eras, {name: state[name] for name in ("ranks", "workers", "taken")}], []


def _shared_numbers() -> Any:
    """Numbers that the workers of a DataLoader share with their parent: the epoch, and a pass."""
    torch = sys.modules.get("torch")
    return [0, 0] if torch is None else torch.zeros(2, dtype=torch.int64).share_memory_()


def as_torch(stream: Any) -> Any:
    """Make a stream a torch IterableDataset if torch is there, so that a DataLoader recognises it."""
    torch = sys.modules.get("torch")
    if torch is not None and not isinstance(stream, torch.utils.data.IterableDataset):
        kind = type(stream)
        stream.__class__ = type(
            kind.__name__, (kind, torch.utils.data.IterableDataset), {"__module__": kind.__module__}
        )
    return stream

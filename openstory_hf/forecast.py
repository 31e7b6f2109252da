"""What each rank and worker will read in an epoch, told before it begins, by the order and the shares it will have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openstory_hf.layout import Layout, before_each
from openstory_hf.schedule import SEGMENT, Reads, Schedule
from openstory_hf.sources import AHEAD
from openstory_hf.stream import Intervals, cut, share, size_of

Ints = NDArray[np.int64]

Job = tuple[int, Intervals]
"""A consumer, and positions that it plans at once."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What consumers read, int64 (C,) each.

    Stories and requests are exact. Bytes are as exact as rows of a row group are alike: see `Layout`.

    Args:
        stories: of each consumer.
        requests: for their pictures.
        bytes: of these.
        held: most bytes of pictures that are in memory at a time, those read ahead included.
        index_files: files of which it opens the index.
        index_visits: times that it comes to a block, and so to an index that it may have forgotten.
    """

    stories: Ints
    requests: Ints
    bytes: Ints
    held: Ints
    index_files: Ints
    index_visits: Ints


def shares(schedule: Schedule, ranks: int, workers: int, intervals: Intervals | None = None) -> list[Intervals]:
    """The positions of each consumer, those of rank 0 first.

    Args:
        schedule: of the stories.
        ranks: their number.
        workers: of each rank.
        intervals: what is left of the epoch; all of it if None.
    """
    left = [(0, len(schedule))] if intervals is None else intervals
    return [share(left, number, ranks * workers) for number in range(ranks * workers)]


def forecast(schedule: Schedule, layout: Layout, parts: Sequence[Intervals], epoch: int = 0) -> Forecast:
    """What consumers read of an epoch.

    Args:
        schedule: of the stories.
        layout: of the table that they are read from.
        parts: the positions of each consumer, see `shares`.
        epoch: its number.
    """
    order, blocks, row_bytes = schedule.order(epoch), schedule.blocks, _row_bytes(schedule, layout)
    count, files = len(parts), len(layout.files) - 1
    file_of_block = np.searchsorted(layout.files, blocks.first[:-1], side="right") - 1
    found = {name: np.zeros(count, np.int64) for name in Forecast.__dataclass_fields__}
    found["stories"][:] = [size_of(part) for part in parts]
    opened: list[Ints] = []
    for jobs in _portions(schedule, parts):
        consumer = np.array([number for number, _ in jobs])
        job = np.repeat(np.arange(len(jobs)), [size_of(intervals) for _, intervals in jobs])
        numbers = np.concatenate([order.at(*interval) for interval in _joined(jobs)])
        reads = schedule.reads(numbers, job)
        job_of_run = np.zeros(len(reads.first), np.int64)
        job_of_run[reads.run] = job
        size = _bytes(reads, row_bytes)
        by_run = consumer[job_of_run]
        np.add.at(found["requests"], by_run, 1)
        np.add.at(found["bytes"], by_run, size)
        np.maximum.at(found["held"], consumer, _most_held(reads.run, size, job_of_run, len(jobs)))
        opened.append(np.unique(by_run * files + file_of_block[reads.block]))
        visits = np.unique(job_of_run * len(blocks) + reads.block)
        np.add.at(found["index_visits"], consumer[visits // len(blocks)], 1)
    every = np.unique(np.concatenate([np.zeros(0, np.int64), *opened]))
    found["index_files"] = np.bincount(every // max(1, files), minlength=count).astype(np.int64)
    return Forecast(**found)


def _portions(schedule: Schedule, parts: Sequence[Intervals]) -> Iterator[list[Job]]:
    """Jobs of all consumers, as many at a time as make one segment or a little more."""
    jobs: list[Job] = []
    stories = 0
    for number, part in enumerate(parts):
        for segment in schedule.segments(part):
            jobs.append((number, segment))
            stories += size_of(segment)
            if stories >= SEGMENT:
                yield jobs
                jobs, stories = [], 0
    if jobs:
        yield jobs


def _joined(jobs: Sequence[Job]) -> Intervals:
    """The intervals of jobs one behind the other, those that adjoin as one."""
    found: Intervals = []
    for start, stop in (interval for _, intervals in jobs for interval in intervals):
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, stop))
    return found


def _most_held(run: Ints, size: Ints, job_of_run: Ints, jobs: int) -> Ints:
    """Most bytes of runs that are entered and not left, and of those read ahead, of each job."""
    runs, place = len(size), np.arange(len(run))
    first, last = np.full(runs, len(run)), np.zeros(runs, np.int64)
    np.minimum.at(first, run, place)
    np.maximum.at(last, run, place)
    # runs come in the order of their first use; at the first use of run r, those before it that are not left are held
    ends = np.sort(last)
    sizes_by_end = size[np.argsort(last, kind="stable")]
    begun = np.cumsum(size)
    left = before_each(sizes_by_end)[np.searchsorted(ends, first)]
    ahead = begun[np.minimum(np.arange(runs) + AHEAD, runs - 1)] - begun
    same = job_of_run[np.minimum(np.arange(runs) + AHEAD, runs - 1)] == job_of_run
    most = np.zeros(jobs, np.int64)
    np.maximum.at(most, job_of_run, begun - left + np.where(same, ahead, 0))
    return most


def fetched(
    schedule: Schedule, layout: Layout, parts: Sequence[Intervals], taken: Sequence[int], epoch: int = 0
) -> Ints:
    """What consumers have asked for when they have taken some of their stories, what is read ahead included.

    Args:
        schedule: of the stories.
        layout: of the table that they are read from.
        parts: the positions of each consumer.
        taken: stories that each has taken.
        epoch: its number.

    Returns:
        requests and bytes of each, (C, 2).
    """
    order, row_bytes = schedule.order(epoch), _row_bytes(schedule, layout)
    found = np.zeros((len(parts), 2), np.int64)
    for number, (part, left) in enumerate(zip(parts, taken, strict=True)):
        for segment in schedule.segments(part):
            here = min(left, size_of(segment))
            if here <= 0:
                break
            reads = schedule.reads(np.concatenate([order.at(*interval) for interval in segment]))
            begun = min(int(reads.run[:here].max()) + 1 + AHEAD, len(reads.first))
            found[number] += begun, int(_bytes(reads, row_bytes)[:begun].sum())
            left -= here
    return found


def _row_bytes(schedule: Schedule, layout: Layout) -> NDArray[np.float64]:
    """Bytes of a row of each block, on average."""
    first = schedule.blocks.first
    return np.asarray(np.diff(layout.bytes_before(first)) / np.diff(first))


def _bytes(reads: Reads, row_bytes: NDArray[np.float64]) -> Ints:
    """About how many bytes each run has, (R,)."""
    return np.asarray((reads.stop - reads.first) * row_bytes[reads.block], np.int64)


def after(part: Intervals, taken: int) -> Intervals:
    """The positions that a consumer has left."""
    return cut(part, taken, size_of(part))

"""Where the bytes of pictures come from: files that are mapped, or ranges that are fetched before they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openstory_hf.decoders import Stored
from openstory_hf.errors import OutputError
from openstory_hf.folder import Group, Index

PLACES = ("pictures",)
"""The columns of an index that say where pictures lie."""

LENGTH = 4
"""Bytes in front of a plain Parquet value that say how long it is."""

GROUPS = 64
"""Row groups of which it is remembered where their pictures lie."""

THREADS = 4
AHEAD = 2
"""Runs of rows fetched at once, and how many beyond those in use; one at first."""

Place = Mapping[str, Any]

Run = tuple[int, tuple[int, int]]
"""Rows [first, last) that are entered and left as one, by a number."""


class PictureSource(Protocol):
    """Gives the stored pictures of rows by their place in the files."""

    def enter(self, run: int) -> None:
        """The pictures of a run of rows are wanted now."""

    def leave(self, run: int) -> None:
        """They are no longer wanted."""

    def get(self, run: int, file: int, place: Place) -> Stored:
        """One picture of a run that was entered and not left, as `datasets` stores it.

        Raises:
            OutputError: if the file is not the one that was indexed.
        """

    def close(self) -> None:
        """No more pictures are wanted."""


class MappedPictures:
    """Pictures of local files, through the page cache.

    Args:
        index: of the table and split.
        runs: as for `FetchedPictures`: the system is asked to read them before they are needed. None for rows all
            over the files, of which it is left to the system to read what is needed.
    """

    def __init__(self, index: Index, runs: Iterable[Run] = ()) -> None:
        self._index = index
        self._names = _names(index)
        self._extents = Extents(index)
        self._coming = iter(runs)
        self._waiting: set[int] = set()
        self._entered: set[int] = set()

    def enter(self, run: int) -> None:
        """Ask for the pictures of later runs."""
        if run in self._entered:
            return
        self._entered.add(run)
        self._waiting.discard(run)
        while len(self._waiting) < AHEAD and (coming := next(self._coming, None)) is not None:
            number, rows = coming
            for file, (start, stop) in self._extents.of(*rows).items():
                self._index.folder.storage.will_need(self._index.files[file], start, stop)
            self._waiting |= {number} - self._entered

    def leave(self, run: int) -> None:
        """Forget the run."""
        self._entered.discard(run)

    def close(self) -> None:
        """Nothing to do."""

    def get(self, run: int, file: int, place: Place) -> Stored:
        """As `PictureSource.get`."""
        data = self._index.folder.storage.map(self._index.files[file])
        return _picture(self._index, self._names, file, place, data, 0)


class FetchedPictures:
    """Pictures of files behind a network: each run of rows is one request, sent before the run is needed.

    Args:
        index: of the table and split.
        runs: in the order in which they will be entered.
    """

    def __init__(self, index: Index, runs: Iterable[Run]) -> None:
        self._index = index
        self._names = _names(index)
        self._extents = Extents(index)
        self._coming = iter(runs)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="openstory-fetch")
        self._sent: dict[int, Future[list[tuple[int, int, bytes]]]] = {}
        self._waiting: set[int] = set()
        self._entered: dict[int, list[tuple[int, int, bytes]]] = {}
        self._begun = 0

    def enter(self, run: int) -> None:
        """Wait for the pictures of a run, and send for those of later ones.

        Raises:
            OutputError: if they cannot be read.
        """
        if run in self._entered:
            return
        ahead = min(AHEAD, 1 + self._begun)  # who wants but a few stories does not wait for those behind them
        self._begun += 1
        while run not in self._sent or len(self._waiting) <= ahead:
            coming = next(self._coming, None)
            if coming is None:
                break
            number, rows = coming
            self._sent[number] = self._pool.submit(self._fetch, *rows)
            self._waiting.add(number)
        self._waiting.discard(run)
        self._entered[run] = self._sent[run].result()

    def leave(self, run: int) -> None:
        """Forget the pictures of a run."""
        del self._entered[run], self._sent[run]

    def close(self) -> None:
        """Give up what is still under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def get(self, run: int, file: int, place: Place) -> Stored:
        """As `PictureSource.get`."""
        start, data = next((start, data) for number, start, data in self._entered[run] if number == file)
        return _picture(self._index, self._names, file, place, data, start)

    def _fetch(self, first: int, stop: int) -> list[tuple[int, int, bytes]]:
        """The bytes from the first picture of rows [first, stop) to the last, in each file: (file, offset, bytes)."""
        storage, files = self._index.folder.storage, self._index.files
        extents = self._extents.of(first, stop)
        return [(file, start, storage.range(files[file], start, stop)) for file, (start, stop) in extents.items()]


class Extents:
    """Where the pictures of rows lie in their files, without a look at each picture.

    Args:
        index: of the table and split.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._of_group = lru_cache(GROUPS)(self._whole)

    def of(self, first: int, stop: int) -> dict[int, tuple[int, int]]:
        """From the first picture of rows [first, stop) to the last, lengths in front included: file -> bytes.

        Raises:
            OutputError: if the index cannot be read.
        """
        found: dict[int, tuple[int, int]] = {}
        while first < stop:
            group, inside = self._index.group(first)
            starts, ends = (values[inside : inside + stop - first] for values in self._of_group(group))
            file, start, end = group[0], int(starts.min()), int(ends.max())
            if end:  # there is a picture
                before = found.get(file, (start, end))
                found[file] = min(before[0], start), max(before[1], end)
            first += len(starts)
        return found

    def _whole(self, group: Group) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start and end of every row of a row group; rows without pictures end at 0."""
        table = self._index.rows_of(group, PLACES)
        pictures = table.column("pictures").combine_chunks()
        if pictures.null_count:
            raise self._index.damaged(group[0], "a picture has no place in the files")
        place, rows = pictures.flatten(), np.repeat(np.arange(len(table)), pictures.value_lengths().to_numpy())
        offsets, sizes = (place.field(name).fill_null(0).to_numpy() for name in ("offset", "size"))
        starts, ends = np.full(len(table), np.iinfo(np.int64).max), np.zeros(len(table), np.int64)
        there = offsets >= LENGTH
        np.minimum.at(starts, rows[there], offsets[there] - LENGTH)
        np.maximum.at(ends, rows[there], offsets[there] + sizes[there])
        return starts, ends


def _names(index: Index) -> list[str]:
    return [f"{index.folder.fingerprint}/{file}" for file in index.files]


def _picture(index: Index, names: Sequence[str], file: int, place: Place, data: Any, start: int) -> Stored:
    """A picture out of the bytes of a file that begin at `start`.

    Raises:
        OutputError: if no value of that length is there: the file was changed after it had been indexed.
    """
    offset, size = place["offset"], place["size"]
    first = offset - start
    found: bytes = data[first : first + size]
    if len(found) != size or data[first - LENGTH : first] != size.to_bytes(LENGTH, "little"):
        path = index.folder.path
        raise OutputError(
            f"{path}/{index.files[file]} cannot be read: it is not the file its index was made of. "
            f"`openstory check {path}` finds what was changed"
        )
    return Stored(found, place["path"], (names[file], offset))


def picture_source(index: Index, runs: Iterable[Run], *, scattered: bool = False) -> PictureSource:
    """Pictures of the rows of a table: mapped if they are local, else fetched ahead.

    Args:
        index: of the table and split.
        runs: in the order in which they will be entered.
        scattered: whether all runs are in use at the same time.
    """
    if index.folder.storage.local:
        return MappedPictures(index) if scattered else MappedPictures(index, runs)
    return FetchedPictures(index, runs)

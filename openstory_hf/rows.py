"""Rows of a built table at any place: texts and masks through the index, picture bytes mapped or fetched ahead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openstory_hf.decoders import Stored
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.folder import BuiltFolder, Index
from openstory_hf.late import instances
from openstory_hf.schema import TABLES

PLACES = ("pictures", "file")
"""The columns of an index that say where pictures lie."""

KEPT_ROWS = 4096
"""Rows kept as Python values: neighbouring windows share most of their frames."""

ROWS_AHEAD = 16
"""Rows made at a time where rows are read in their order."""

LENGTH = 4
"""Bytes in front of a plain Parquet value that say how long it is."""

GROUPS = 64
"""Row groups of which it is remembered where their pictures lie."""

THREADS = 4
AHEAD = 2
"""Runs of rows fetched at once, and how many beyond those in use; one at first."""

Place = Mapping[str, Any]


class RowReader:
    """The rows of a table and split as dictionaries, without their pictures.

    Args:
        index: of the table and split.
        columns: the columns to read, all but the pictures by default.
        ahead: rows to make at a time, for rows that are read in their order; Arrow takes as long for one as for ten.
        late: make the instances of a picture when they are asked for, see `LateInstances`.
    """

    def __init__(self, index: Index, columns: Iterable[str], ahead: int = 1, *, late: bool = False) -> None:
        self.index = index
        self._columns = tuple(columns)
        self._ahead = ahead
        self._late = late
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def get(self, row: int) -> dict[str, Any]:
        """One row; not to be changed, others may hold it too."""
        return self.run(row, 1)[0]

    def run(self, first: int, count: int) -> list[dict[str, Any]]:
        """So many rows from the first on; not to be changed."""
        found = list(map(self._kept.get, range(first, first + count)))
        for place, known in enumerate(found):
            if known is None:
                row = first + place
                if row not in self._kept:  # it may have come with another
                    self._make(row, max(self._ahead, count - place))
                found[place] = self._kept[row]
        while len(self._kept) > KEPT_ROWS:
            self._kept.popitem(last=False)
        return found  # type: ignore[return-value]  # none is None any more

    def _make(self, first: int, count: int) -> None:
        """Make some rows from the first on, as far as its row group reaches."""
        table, inside = self.index.find(first, self._columns)
        names, part = table.column_names, table.slice(inside, count)
        columns = [  # faster than the rows at once
            instances(column) if name == "instances" and self._late else column.to_pylist()
            for name, column in zip(names, part.columns, strict=True)
        ]
        for row, of_row in enumerate(zip(*columns, strict=True), first):
            made = dict(zip(names, of_row, strict=True))
            _check_places(self.index, made)
            self._kept[row] = made


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
        runs: as for `FetchedPictures`: the system is asked to read runs before they are needed. None for rows all
            over the files, of which it is left to the system to read what is needed.
        order: likewise.
    """

    def __init__(
        self, index: Index, runs: Mapping[int, tuple[int, int]] | None = None, order: Sequence[int] = ()
    ) -> None:
        self._index = index
        self._names = _names(index)
        self._extents = Extents(index)
        self._runs = runs or {}
        self._coming = iter(order if runs else ())
        self._waiting: set[int] = set()
        self._entered: set[int] = set()

    def enter(self, run: int) -> None:
        """Ask for the pictures of later runs."""
        if not self._runs or run in self._entered:
            return
        self._entered.add(run)
        self._waiting.discard(run)
        while len(self._waiting) < AHEAD and (coming := next(self._coming, None)) is not None:
            for file, (start, stop) in self._extents.of(*self._runs[coming]).items():
                self._index.folder.storage.will_need(self._index.files[file], start, stop)
            self._waiting |= {coming} - self._entered

    def leave(self, run: int) -> None:
        """Nothing to do."""

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
        runs: rows [first, last) of each run.
        order: the runs in the order in which they will be entered.
    """

    def __init__(self, index: Index, runs: Mapping[int, tuple[int, int]], order: Sequence[int]) -> None:
        self._index = index
        self._names = _names(index)
        self._extents = Extents(index)
        self._runs = runs
        self._coming = iter(order)
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
            self._sent[coming] = self._pool.submit(self._fetch, coming)
            self._waiting.add(coming)
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

    def _fetch(self, run: int) -> list[tuple[int, int, bytes]]:
        """The bytes from the first picture of the run to the last, in each file: (file, offset, bytes)."""
        storage, files = self._index.folder.storage, self._index.files
        extents = self._extents.of(*self._runs[run])
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
        """From the first picture of rows [first, stop) to the last, lengths in front included: file -> bytes."""
        found: dict[int, tuple[int, int]] = {}
        while first < stop:
            group, inside = self._index.group(first)
            files, starts, ends = (values[inside : inside + stop - first] for values in self._of_group(group))
            edges = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)]
            for low, high in pairwise(edges):
                file, start, end = int(files[low]), int(starts[low:high].min()), int(ends[low:high].max())
                if end:  # there is a picture
                    before = found.get(file, (start, end))
                    found[file] = min(before[0], start), max(before[1], end)
            first += len(files)
        return found

    def _whole(self, group: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """File, start and end of every row of a row group; rows without pictures end at 0."""
        table = self._index.rows_of(group, PLACES)
        pictures = table.column("pictures").combine_chunks()
        place, rows = pictures.flatten(), np.repeat(np.arange(len(table)), pictures.value_lengths().to_numpy())
        offsets, sizes = (place.field(name).fill_null(0).to_numpy() for name in ("offset", "size"))
        starts, ends = np.full(len(table), np.iinfo(np.int64).max), np.zeros(len(table), np.int64)
        there = offsets >= LENGTH
        np.minimum.at(starts, rows[there], offsets[there] - LENGTH)
        np.maximum.at(ends, rows[there], offsets[there] + sizes[there])
        return table.column("file").to_numpy().astype(np.int64), starts, ends


def _check_places(index: Index, row: Mapping[str, Any]) -> None:
    """Make sure that the places in a row of an index are places at all.

    Raises:
        OutputError: if the index is not one that was written with its files.
    """
    pictures = row.get("pictures", [])
    sound = pictures is not None and all(
        place is None or ((place["offset"] or 0) >= LENGTH and (place["size"] or 0) > 0) for place in pictures
    )
    if not sound or not 0 <= row.get("file", 0) < len(index.files):
        raise index.damaged("a picture has no place in the files")


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


def read_stories(path: str, split: str = "", number: int = 4, story_ids: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A few rows of the `stories` table, spread over the split, or those with the given ids.

    Raises:
        UsageError: for an unknown split or id.
        OutputError: if the folder is not a finished build, or the split is empty.
    """
    folder = BuiltFolder(str(path))
    split = folder.split(split)
    ids = folder.column("stories", split, ["story_id"])["story_id"]
    if not ids:
        raise OutputError(f"{path}: split {split} has no stories")
    if unknown := [name for name in story_ids if name not in ids]:
        raise UsageError(f"{path}: split {split} has no story {unknown[0]!r}; the first is {ids[0]!r}")
    chosen = [ids.index(name) for name in story_ids]
    chosen = chosen or sorted({round(at * (len(ids) - 1) / max(1, number - 1)) for at in range(number)})
    index = folder.index("stories", split)
    light = [name for name in TABLES["stories"] if name != "images"]
    reader = RowReader(index, [*light, *PLACES])
    pictures = picture_source(index, {row: (row, row + 1) for row in chosen}, chosen)
    found = []
    for row in chosen:
        values = reader.get(row)
        pictures.enter(row)
        images = [place and pictures.get(row, values["file"], place) for place in values["pictures"]]
        found.append({**{name: values[name] for name in light}, "images": images})
    return found


def picture_source(
    index: Index, runs: Mapping[int, tuple[int, int]], order: Sequence[int], *, scattered: bool = False
) -> PictureSource:
    """Pictures of the rows of a table: mapped if they are local, else fetched ahead.

    Args:
        index: of the table and split.
        runs: rows [first, last) of each run of rows that is entered and left as one.
        order: the runs in the order in which they will be entered.
        scattered: whether all runs are in use at the same time.
    """
    if index.folder.storage.local:
        return MappedPictures(index) if scattered else MappedPictures(index, runs, order)
    return FetchedPictures(index, runs, order)

"""Rows of a built table at any place: texts and masks through the index, picture bytes mapped or fetched ahead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from openstory_hf.decoders import Stored
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.folder import BuiltFolder, Index
from openstory_hf.schema import TABLES

PLACES = ("pictures", "file")
"""The columns of an index that say where pictures lie."""

KEPT_ROWS = 4096
"""Rows kept as Python values: neighbouring windows share most of their frames."""

LENGTH = 4
"""Bytes in front of a plain Parquet value that say how long it is."""

THREADS = 4
AHEAD = 2
"""Runs of rows fetched at once, and how many beyond those in use."""

Place = Mapping[str, Any]


class RowReader:
    """The rows of a table and split as dictionaries, without their pictures.

    Args:
        index: of the table and split.
        columns: the columns to read, all but the pictures by default.
    """

    def __init__(self, index: Index, columns: Iterable[str]) -> None:
        self.index = index
        self._columns = tuple(columns)
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def get(self, row: int) -> dict[str, Any]:
        """One row; not to be changed, others may hold it too."""
        found = self._kept.get(row)
        if found is None:
            table, inside = self.index.find(row, self._columns)
            found = {name: column[inside].as_py() for name, column in zip(self._columns, table.columns, strict=True)}
            _check_places(self.index, found)
            self._kept[row] = found
            if len(self._kept) > KEPT_ROWS:
                self._kept.popitem(last=False)
        return found


class PictureSource(Protocol):
    """Gives the encoded bytes of pictures by their place in the files."""

    names: list[str]
    """What to call the files, so that no two pictures of any dataset share a name and an offset."""

    def enter(self, run: int) -> None:
        """The pictures of a run of rows are wanted now."""

    def leave(self, run: int) -> None:
        """They are no longer wanted."""

    def get(self, run: int, file: int, place: Place) -> bytes:
        """The bytes of one picture of a run that was entered and not left."""

    def close(self) -> None:
        """No more pictures are wanted."""


class MappedPictures:
    """Pictures of local files, through the page cache."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.names = _names(index)

    def enter(self, run: int) -> None:
        """Nothing to do."""

    def leave(self, run: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def get(self, run: int, file: int, place: Place) -> bytes:
        """The bytes of one picture.

        Raises:
            OutputError: if the file is not the one that was indexed.
        """
        data = self._index.folder.storage.map(self._index.files[file])
        return _picture(self._index, file, place, data, 0)


class FetchedPictures:
    """Pictures of files behind a network: each run of rows is one request, sent before the run is needed.

    Args:
        index: of the table and split.
        runs: rows [first, last) of each run.
        order: the runs in the order in which they will be entered.
    """

    def __init__(self, index: Index, runs: Mapping[int, tuple[int, int]], order: Sequence[int]) -> None:
        self._index = index
        self.names = _names(index)
        self._runs = runs
        self._coming = iter(order)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="openstory-fetch")
        self._sent: dict[int, Future[list[tuple[int, int, bytes]]]] = {}
        self._waiting: set[int] = set()
        self._entered: dict[int, list[tuple[int, int, bytes]]] = {}

    def enter(self, run: int) -> None:
        """Wait for the pictures of a run, and send for those of later ones.

        Raises:
            OutputError: if they cannot be read.
        """
        if run in self._entered:
            return
        while run not in self._sent or len(self._waiting) <= AHEAD:
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

    def get(self, run: int, file: int, place: Place) -> bytes:
        """The bytes of one picture of an entered run.

        Raises:
            OutputError: if the file is not the one that was indexed.
        """
        start, data = next((start, data) for number, start, data in self._entered[run] if number == file)
        return _picture(self._index, file, place, data, start)

    def _fetch(self, run: int) -> list[tuple[int, int, bytes]]:
        """The bytes from the first picture of the run to the last, in each file: (file, offset, bytes)."""
        ends: dict[int, tuple[int, int]] = {}
        for row in range(*self._runs[run]):
            table, inside = self._index.find(row, PLACES)
            pictures, file = (table.column(name)[inside].as_py() for name in PLACES)
            for place in filter(None, pictures):
                first, last = place["offset"] - LENGTH, place["offset"] + place["size"]
                start, stop = ends.get(file, (first, last))
                ends[file] = min(start, first), max(stop, last)
        storage, files = self._index.folder.storage, self._index.files
        return [(file, start, storage.range(files[file], start, stop)) for file, (start, stop) in ends.items()]


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


def _picture(index: Index, file: int, place: Place, data: Any, start: int) -> bytes:
    """A picture out of the bytes of a file that begin at `start`.

    Raises:
        OutputError: if no value of that length is there: the file was changed after it had been indexed.
    """
    first, size = place["offset"] - start, place["size"]
    found: bytes = data[first : first + size]
    if len(found) != size or data[first - LENGTH : first] != size.to_bytes(LENGTH, "little"):
        path = index.folder.path
        raise OutputError(
            f"{path}/{index.files[file]} cannot be read: it is not the file its index was made of. "
            f"`openstory check {path}` finds what was changed"
        )
    return found


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
        images = [stored_image(pictures, row, values["file"], place) for place in values["pictures"]]
        found.append({**{name: values[name] for name in light}, "images": images})
    return found


def picture_source(index: Index, runs: Mapping[int, tuple[int, int]], order: Sequence[int]) -> PictureSource:
    """Pictures of the rows of a table: mapped if they are local, else fetched ahead.

    Args:
        index: of the table and split.
        runs: rows [first, last) of each run of rows that is entered and left as one.
        order: the runs in the order in which they will be entered.
    """
    return MappedPictures(index) if index.folder.storage.local else FetchedPictures(index, runs, order)


def stored_image(source: PictureSource, run: int, file: int, place: Place | None) -> Stored | None:
    """A picture as `datasets` stores it, {"bytes", "path"}; None for one the source does not ship."""
    if place is None:
        return None
    return Stored(source.get(run, file, place), place["path"], (source.names[file], place["offset"]))

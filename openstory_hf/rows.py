"""Rows of a built table at any place: texts and masks through the index, and the pictures of a few rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from openstory_hf.columns import Column, Lists, column
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.folder import BuiltFolder, Index
from openstory_hf.schema import TABLES
from openstory_hf.sources import LENGTH, PLACES, picture_source

ROWS_AHEAD = 64
"""Rows of a block taken out of Arrow at a time where they are read in their order: one takes as long as ten."""

KEPT_ROWS = 4096
"""Rows up to which all of a block are taken where they are read in any order."""


class Rows:
    """A few consecutive rows, by column. What they give is new each time, and may be changed.

    Args:
        piece: rows that these are among.
        at: the first of them, by its number in the piece.
        count: how many.
    """

    __slots__ = ("_at", "_piece", "count")

    def __init__(self, piece: Piece, at: int, count: int) -> None:
        self._piece, self._at, self.count = piece, at, count

    def __contains__(self, name: str) -> bool:
        return name in self._piece.columns

    def column(self, name: str) -> list[Any]:
        """The values of a column."""
        return self._piece.columns[name].some(self._at, self._at + self.count)

    def value(self, name: str, row: int = 0) -> Any:
        """The value of a column in one row."""
        return self._piece.columns[name].one(self._at + row)

    def length(self, name: str, row: int) -> int:
        """The length of a value of a column of lists."""
        return self._lists(name).length(self._at + row)

    def entry(self, name: str, row: int, number: int) -> Any:
        """One entry of a value of a column of lists; the others are not made.

        Raises:
            IndexError: if there is none.
        """
        return self._lists(name).entry(self._at + row, number)

    def file(self, row: int = 0) -> int:
        """Number of the file that holds a row."""
        return self._piece.files[self._at + row]

    def whole(self) -> dict[str, Any]:
        """All columns of the first row, and "file"."""
        return {**{name: self.value(name) for name in self._piece.columns}, "file": self.file()}

    def _lists(self, name: str) -> Lists:
        found = self._piece.columns[name]
        assert isinstance(found, Lists), name
        return found


class Piece:
    """Rows that were taken out of Arrow together.

    Args:
        columns: each of all rows.
        files: number of the file of each row.
        first: number of the first row.
    """

    def __init__(self, columns: Mapping[str, Column], files: Sequence[int], first: int) -> None:
        self.columns, self.files, self.first = columns, files, first

    def rows(self, first: int, count: int) -> Rows | None:
        """Some of them, None if not all are here."""
        at = first - self.first
        return Rows(self, at, count) if at >= 0 and at + count <= len(self.files) else None


class RowReader:
    """The rows of a table and split without their pictures.

    Args:
        index: of the table and split.
        columns: the columns to read, all but the pictures by default.
        ordered: whether the rows of a block are read in their order.
    """

    def __init__(self, index: Index, columns: Iterable[str], *, ordered: bool = False) -> None:
        self.index = index
        self._columns = tuple(columns)
        self._ordered = ordered
        self._held: dict[int, Piece] = {}

    def get(self, row: int) -> dict[str, Any]:
        """One row as a dictionary, and the number of its "file"."""
        return Rows(self._piece(row, row + 1), 0, 1).whole()

    def rows(self, first: int, count: int, block: int, bounds: tuple[int, int]) -> Rows:
        """Some rows of a block, of which some are held until `leave`.

        Args:
            first: the first of them.
            count: how many.
            block: its number.
            bounds: the first row of the block, and behind the last.
        """
        held = self._held.get(block)
        found = held and held.rows(first, count)
        if not found:
            begin, stop = bounds
            if stop - begin > (ROWS_AHEAD if self._ordered else KEPT_ROWS):
                begin, stop = first, min(first + max(count, ROWS_AHEAD if self._ordered else 1), stop)
            self._held[block] = made = self._piece(begin, stop)
            found = Rows(made, first - begin, count)
        return found

    def leave(self, block: int) -> None:
        """No more rows of a block are wanted."""
        self._held.pop(block, None)

    def _piece(self, first: int, stop: int) -> Piece:
        """Rows [first, stop).

        Raises:
            OutputError: if the index is not one that was written with its files.
        """
        tables, files, row = [], [], first
        while row < stop:
            table, inside, file = self.index.find(row, self._columns)
            part = table.slice(inside, stop - row)
            _check_places(self.index, file, part)
            tables.append(part)
            files += [file] * len(part)
            row += len(part)
        whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
        names, arrays = whole.column_names, map(_one_array, whole.columns)
        return Piece({name: column(array) for name, array in zip(names, arrays, strict=True)}, files, first)


def _one_array(chunks: pa.ChunkedArray) -> pa.Array:
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


def _check_places(index: Index, file: int, rows: pa.Table) -> None:
    """Make sure that the places in rows of an index are places at all.

    Raises:
        OutputError: if the index is not one that was written with its files.
    """
    if "pictures" not in rows.column_names:
        return
    pictures = _one_array(rows.column("pictures"))
    places = pictures.flatten()
    there = places.drop_null() if places.null_count else places
    offsets, sizes = (there.field(name).to_numpy(zero_copy_only=False) for name in ("offset", "size"))
    sound = (offsets >= LENGTH) & (sizes > 0)  # which a null, made a NaN, is not
    if pictures.null_count or not sound.all():
        raise index.damaged(file, "a picture has no place in the files")


def read_stories(path: str, split: str = "", number: int = 4, story_ids: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A few rows of the `stories` table, spread over the split, or those with the given ids.

    Raises:
        UsageError: for an unknown split or id.
        OutputError: if the folder is not a finished build, or the split is empty.
    """
    folder = BuiltFolder(str(path))
    split = folder.split(split)
    index = folder.index("stories", split)
    if not len(index):
        raise OutputError(f"{path}: split {split} has no stories")
    if story_ids:
        ids = index.read(["story_id"]).column("story_id").to_pylist()
        if unknown := [name for name in story_ids if name not in ids]:
            raise UsageError(f"{path}: split {split} has no story {unknown[0]!r}; the first is {ids[0]!r}")
        chosen = [ids.index(name) for name in story_ids]
    else:
        chosen = sorted({round(at * (len(index) - 1) / max(1, number - 1)) for at in range(number)})
    light = [name for name in TABLES["stories"] if name != "images"]
    reader = RowReader(index, [*light, *PLACES])
    pictures = picture_source(index, ((row, (row, row + 1)) for row in chosen))
    found = []
    for row in chosen:
        values = reader.get(row)
        pictures.enter(row)
        images = [place and pictures.get(row, values["file"], place) for place in values["pictures"]]
        found.append({**{name: values[name] for name in light}, "images": images})
    return found

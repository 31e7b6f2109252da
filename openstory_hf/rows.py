"""Rows of a built table at any place: texts and masks through the index, and the pictures of a few rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openstory_hf.errors import OutputError, UsageError
from openstory_hf.folder import BuiltFolder, Index
from openstory_hf.late import instances
from openstory_hf.schema import TABLES
from openstory_hf.sources import LENGTH, PLACES, picture_source

KEPT_ROWS = 4096
"""Rows kept as Python values: neighbouring windows share most of their frames."""

ROWS_AHEAD = 16
"""Rows made at a time where rows are read in their order."""


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

    def forget(self, first: int, stop: int) -> None:
        """Rows [first, stop) will not be asked for again."""
        for row in range(first, stop):
            self._kept.pop(row, None)

    def _make(self, first: int, count: int) -> None:
        """Make some rows from the first on, as far as its row group reaches."""
        table, inside, file = self.index.find(first, self._columns)
        names, part = table.column_names, table.slice(inside, count)
        columns = [  # faster than the rows at once
            instances(column) if name == "instances" and self._late else column.to_pylist()
            for name, column in zip(names, part.columns, strict=True)
        ]
        for row, of_row in enumerate(zip(*columns, strict=True), first):
            made = dict(zip(names, of_row, strict=True))
            made["file"] = file
            _check_places(self.index, made)
            self._kept[row] = made


def _check_places(index: Index, row: Mapping[str, Any]) -> None:
    """Make sure that the places in a row of an index are places at all.

    Raises:
        OutputError: if the index is not one that was written with its files.
    """
    pictures = row.get("pictures", [])
    sound = pictures is not None and all(
        place is None or ((place["offset"] or 0) >= LENGTH and (place["size"] or 0) > 0) for place in pictures
    )
    if not sound:
        raise index.damaged(row["file"], "a picture has no place in the files")


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

"""The index of a table: every column but the pictures, and where in its file the bytes of each picture lie.

Parquet stores the bytes of a picture whole and, as we write it, plain. So a reader that has the index can plan any
order and any window, and read texts and masks, without opening the files of the table; a picture is then one range
of bytes of one of them. Each file of a table has an index of its own, `index/<table>-<name of the file>`, which is
fetched in one request: footers of one index over all files would be gigabytes for a million row groups.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features

from openstory_hf.parquet import ParquetWriter

FOLDER = "index"

_PICTURE = pa.struct([("path", pa.string()), ("offset", pa.int64()), ("size", pa.int32())])
_PLACES = [
    pa.field("pictures", pa.list_(_PICTURE)),
    pa.field("picture_bytes", pa.int64()),
]

GROUP_ROWS = 256
"""Rows from which on a row group of an index is closed: few large pictures make a row group of the table, and as many
bytes of footer as of texts would be read for them."""


def index_file(file: str) -> str:
    """Where the index of a file of a table is; both relative to the built folder.

    >>> index_file("stories/train-00000-of-00002.parquet")
    'index/stories-train-00000-of-00002.parquet'
    """
    table, _, name = file.partition("/")
    return f"{FOLDER}/{table}-{name}"


def index_files(table: str, split: str) -> str:
    """The pattern of the indexes of a table and split."""
    return index_file(f"{table}/{split}-*.parquet")


def index_schema(features: Features) -> pa.Schema:
    """The columns of an index: those of the table without `images`, and then

    - `pictures`: per picture its path, and the offset and size of its bytes in the file; null without a picture;
    - `picture_bytes`: the sum of the sizes.
    """  # noqa: D415 - a list follows
    light = [field for field in features.arrow_schema if field.name != "images"]
    return pa.schema([*light, *_PLACES])


class PartWriter:
    """Writes the index of one file of a table while that file is being written.

    Args:
        path: file to write.
        source: the file of the table, growing.
        features: of the table.
    """

    def __init__(self, path: Path, source: Path, features: Features) -> None:
        self.path = path
        self._source = source
        self._schema = index_schema(features)
        self._writer = ParquetWriter(path, self._schema, compression="zstd")
        self._indexed = 0
        self._waiting: list[pa.Table] = []

    def add(self, rows: pa.Table, images: Iterable[Sequence[Mapping[str, Any] | None]]) -> None:
        """Index the row group that has just been written to the source.

        Args:
            rows: all of it.
            images: its pictures once more, as they were before Arrow had them.
        """
        with self._source.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            places = [[None if image is None else self._place(data, image) for image in row] for row in images]
            self._indexed = len(data)
        sums = pa.array([sum(place["size"] for place in row if place) for row in places], pa.int64())
        light = [rows.column(name) for name in self._schema.names[: -len(_PLACES)]]
        self._waiting.append(pa.table([*light, pa.array(places, _PLACES[0].type), sums], schema=self._schema))
        if sum(map(len, self._waiting)) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            whole = pa.concat_tables(self._waiting)
            self._writer.write_table(whole, row_group_size=len(whole))
            self._waiting = []

    def _place(self, data: mmap.mmap, image: Mapping[str, Any]) -> dict[str, Any]:
        value: bytes = image["bytes"]
        # a plain Parquet value: its length, then its bytes; values come in the order of the rows
        length = len(value).to_bytes(4, "little")
        at = data.find(length + value[:64], self._indexed)
        if at < 0 or data[at + 4 : at + 4 + len(value)] != value:
            raise AssertionError(f"{self._source}: the picture {image['path']!r} is not stored plain. This is a bug")
        self._indexed = at + 4 + len(value)
        return {"path": image["path"], "offset": at + 4, "size": len(value)}

    def close(self) -> None:
        """Write what is waiting, and the footer."""
        self._flush()
        self._writer.close()

"""The index of a table: every column but the pictures, and where in its file the bytes of each picture lie.

Parquet stores the bytes of a picture whole and, as we write it, plain. So a reader that has the index can plan any
order and any window, and read texts and masks, without opening the files of the table; a picture is then one range
of bytes of one of them. There is one index per table and split, `index/<table>-<split>.parquet`, with one row group
for each row group of the table.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from openstory_hf.parquet import ParquetWriter

FOLDER = "index"

_PICTURE = pa.struct([("path", pa.string()), ("offset", pa.int64()), ("size", pa.int32())])
_PLACES = [
    pa.field("pictures", pa.list_(_PICTURE)),
    pa.field("picture_bytes", pa.int64()),
]
_FILE = pa.field("file", pa.int32())


def index_file(table: str, split: str) -> str:
    """Where the index of a table and split is, relative to the built folder."""
    return f"{FOLDER}/{table}-{split}.parquet"


def index_schema(features: Features) -> pa.Schema:
    """The columns of an index: those of the table without `images`, and then

    - `pictures`: per picture its path, and the offset and size of its bytes in the file; null without a picture;
    - `picture_bytes`: the sum of the sizes;
    - `file`: number of the file among those of the table and split.
    """  # noqa: D415 - a list follows
    return pa.schema([*_part_schema(features), _FILE])


def _part_schema(features: Features) -> pa.Schema:
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
        self._schema = _part_schema(features)
        self._writer = ParquetWriter(path, self._schema, compression="zstd")
        self._indexed = 0

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
        self._writer.write_table(pa.table([*light, pa.array(places, _PLACES[0].type), sums], schema=self._schema))

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
        """Write the footer."""
        self._writer.close()


def join_parts(parts: Sequence[Path], path: Path, features: Features) -> int:
    """Write the index of a table and split from those of its files, in their order; returns the number of rows."""
    rows = 0
    with ParquetWriter(path, index_schema(features), compression="zstd") as writer:
        for number, part in enumerate(parts):
            with pq.ParquetFile(part) as parquet:
                for group in range(parquet.num_row_groups):
                    table = parquet.read_row_group(group)
                    files = pa.array([number] * len(table), pa.int32())
                    writer.write_table(table.append_column(_FILE, files))
                    rows += len(table)
    return rows

"""Parquet and Arrow IPC files inside a release, read a group of rows at a time and at any place."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from openstory_hf.raw.records import seekable
from openstory_hf.raw.refusing import refusing
from openstory_hf.records import Reject

if TYPE_CHECKING:
    from openstory_hf.raw.release import Raw

MAX_GROUP_BYTES = 2 << 30
"""The most a row group of a Parquet file may unpack to."""

_FILE_MAGIC = b"ARROW1"
_END = b"\xff\xff\xff\xff\0\0\0\0"


class Table:
    """A Parquet file, or an Arrow IPC file or stream as `datasets` saves them; the content tells which.

    The file is mapped, not loaded (one inside a zip is unpacked to a temporary file first), and at most one group of
    rows, the one last read by `row`, is held.

    Args:
        raw: the release.
        name: the file.

    Attributes:
        name: the file.
        columns: names of the top-level columns.
        groups: number of rows of every group (a Parquet row group, an Arrow record batch), in order.

    Raises:
        Reject: if the file is missing or damaged.
    """

    def __init__(self, raw: Raw, name: str) -> None:
        self.name = name
        with refusing("not a readable Parquet or Arrow file", name), seekable(raw, name) as stream:
            content = pa.py_buffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))  # outlives the stream
            kind = _Parquet if content[:4].to_pybytes() == b"PAR1" else _Arrow
            self._file: _Parquet | _Arrow = kind(content)
            self.columns: tuple[str, ...] = tuple(self._file.schema.names)
            self.groups: tuple[int, ...] = tuple(self._file.groups)
        self._stops = list(accumulate(self.groups))
        self._held: tuple[int, Any] | None = None

    def rows(self, columns: Sequence[str] = (), group: int | None = None) -> Iterator[dict[str, Any]]:
        """The rows in order, of the whole file or of one group.

        Args:
            columns: the columns to read, all by default; of a Parquet file the others are not touched.
            group: number of the group.

        Raises:
            Reject: if a group is damaged or too large.
        """
        for number in range(len(self.groups)) if group is None else (group,):
            with refusing("not a readable group of rows", self.name):
                batch = self._file.read(number, list(columns) or list(self.columns))
            for at in range(batch.num_rows):
                yield self._at(batch, at)

    def row(self, index: int) -> dict[str, Any]:
        """One row of the file, counted from 0.

        Raises:
            Reject: as `rows`, or if the file has no such row.
        """
        group = bisect_right(self._stops, index)
        if index < 0 or group == len(self.groups):
            raise Reject(f"row {index:,} of a table of {sum(self.groups):,} rows", file=self.name)
        if self._held is None or self._held[0] != group:
            self._held = None  # never two groups at once
            with refusing("not a readable group of rows", self.name):
                self._held = group, self._file.read(group, list(self.columns))
        return self._at(self._held[1], index - self._stops[group] + self.groups[group])

    def _at(self, batch: Any, row: int) -> dict[str, Any]:
        with refusing("not a readable row", self.name):
            found: dict[str, Any] = batch.slice(row, 1).to_pylist()[0]
            return found


class _Parquet:
    def __init__(self, content: Any) -> None:
        self.file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        self.schema = self.file.schema_arrow
        self.groups = [self.file.metadata.row_group(at).num_rows for at in range(self.file.num_row_groups)]

    def read(self, group: int, columns: list[str]) -> Any:
        size = self.file.metadata.row_group(group).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise ValueError(f"row group {group} unpacks to {size:,} bytes, too many")
        table = self.file.read_row_group(group, columns, use_threads=False)
        table.validate(full=True)
        return table


class _Arrow:
    """Finds the record batches by their place, since a stream has no table of contents."""

    def __init__(self, content: Any) -> None:
        self.content = content
        if content[: len(_FILE_MAGIC)].to_pybytes() == _FILE_MAGIC:
            self.file = pa.ipc.open_file(content)
            self.schema = self.file.schema
            self.groups = [self.file.get_batch(at).num_rows for at in range(self.file.num_record_batches)]
            return
        self.file = None
        stream = pa.BufferReader(content)
        self.schema = pa.ipc.read_schema(stream)
        self.places, self.groups = [], []
        while content[(place := stream.tell()) :][: len(_END)].to_pybytes() != _END:
            batch = self.batch(stream)  # reads headers only: the columns stay where they are in the mapped file
            self.places.append(place)
            self.groups.append(batch.num_rows)

    def batch(self, stream: Any) -> Any:
        try:
            return pa.ipc.read_record_batch(pa.ipc.read_message(stream), self.schema)
        except EOFError:
            raise EOFError("the stream ends without its end mark") from None

    def read(self, group: int, columns: list[str]) -> Any:
        if self.file is not None:
            batch = self.file.get_batch(group)
        else:
            batch = self.batch(pa.BufferReader(self.content[self.places[group] :]))
        batch.validate(full=True)  # damaged offsets would otherwise lead out of the file
        return batch.select(columns)

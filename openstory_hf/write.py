"""Parquet tables in row groups of bounded bytes, and files that appear under their name only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features

from openstory_hf.errors import BuildError
from openstory_hf.identity import identity
from openstory_hf.index import PartWriter
from openstory_hf.parquet import ParquetWriter
from openstory_hf.schema import picture_bytes

WORK = ".build"
"""The hidden folder of a build that is not finished, in the folder it writes."""

ROW_GROUP_TARGET = 24 << 20
ROW_GROUP_LIMIT = 32 << 20
"""Row groups are cut at the target and never pass the limit unless a single row does. Smaller ones cost requests,
larger ones memory; the Hub viewer stops working at 300 MB."""

ROW_GROUP_MOST = 192 << 20
"""The largest target: the limit is in proportion, and `openstory check` accepts no more than that."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says about a write, as one message with what to do.

    Raises:
        BuildError: for any `OSError`.
    """
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Make room there"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "Change the permissions, or choose another --out"
        else:
            hint = "Check the disk"
        raise BuildError(
            f"{path} cannot be written: {why}. {hint}; the same command, run again, continues where this one stopped"
        ) from error


class TableWriter:
    """Writes rows to one Parquet file in row groups of bounded bytes.

    Picture bytes are stored plain (they are compressed already), everything else with zstd; page index and
    content-defined chunking are on, so that readers can skip pages and the Hub can deduplicate re-uploads.

    Args:
        path: file to write.
        index: file to write its index to.
        features: of the table.
        row_group_bytes: picture bytes of a row group.

    Raises:
        BuildError: here and in every method, if the system refuses to write.
    """

    def __init__(self, path: Path, index: Path, features: Features, row_group_bytes: int) -> None:
        self.path = path
        with writing(index):
            self.index = PartWriter(index, path, features)
        self._schema = features.arrow_schema
        leaves = _leaves(self._schema)
        plain = [leaf for leaf in leaves if leaf.startswith("images.")]
        with writing(path):
            self._writer = ParquetWriter(
                path,
                self._schema,
                compression={leaf: "none" if leaf in plain else "zstd" for leaf in leaves},
                use_dictionary=[leaf for leaf in leaves if leaf not in plain],
                column_encoding=dict.fromkeys(plain, "PLAIN"),
                write_page_index=True,
                use_content_defined_chunking={
                    "min_chunk_size": 256 << 10,
                    "max_chunk_size": 1 << 20,
                    "norm_level": 0,
                },
            )
        self._target = row_group_bytes
        self._limit = row_group_bytes * ROW_GROUP_LIMIT // ROW_GROUP_TARGET
        self._pending: list[dict[str, Any]] = []
        self._bytes = 0
        self._columns = set(features)
        self.rows = 0
        self.row_groups = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add a row; whole row groups are written as they fill."""
        if set(row) != self._columns:  # Arrow would fill a missing column with nulls and drop an unknown one
            raise AssertionError(f"row and schema differ in {sorted(set(row) ^ self._columns)}")
        size = picture_bytes(row)
        if self._pending and self._bytes + size > self._limit:
            self._flush()
        self._pending.append(row)
        self._bytes += size
        if self._bytes >= self._target:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            table = _table(self._pending, self._schema)
            with writing(self.path):
                self._writer.write_table(table)
                self.index.add(table, [row["images"] for row in self._pending])
            self.rows += len(self._pending)
            self.row_groups += 1
            self._pending, self._bytes = [], 0

    def close(self) -> None:
        """Write what is pending and the footers."""
        self._flush()
        with writing(self.path):
            self._writer.close()
            self.index.close()


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows as `pa.Table.from_pylist` makes them, but the pictures, nearly all of their bytes, are copied once."""
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        columns.append(_pictures(values, field.type) if field.name == "images" else pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _pictures(rows: Sequence[Sequence[Mapping[str, Any] | None]], kind: pa.DataType) -> pa.ListArray:
    """The column of the pictures of rows; a picture may be None."""
    pictures = [picture for row in rows for picture in row]
    values = [picture["bytes"] if picture else b"" for picture in pictures]
    ends = pa.array(accumulate(map(len, values), initial=0), pa.int32())
    data = pa.Array.from_buffers(pa.binary(), len(values), [None, ends.buffers()[1], pa.py_buffer(b"".join(values))])
    paths = pa.array([picture and picture["path"] for picture in pictures], pa.string())
    missing = pa.array([picture is None for picture in pictures], pa.bool_())
    made = pa.StructArray.from_arrays([data, paths], fields=list(kind.value_type), mask=missing)
    return pa.ListArray.from_arrays(pa.array(accumulate(map(len, rows), initial=0), pa.int32()), made, type=kind)


def _leaves(schema: pa.Schema) -> list[str]:
    """Dotted paths of the Parquet leaf columns of a schema."""

    def walk(path: str, kind: pa.DataType) -> Iterator[str]:
        if pa.types.is_struct(kind):
            for index in range(kind.num_fields):
                yield from walk(f"{path}.{kind.field(index).name}", kind.field(index).type)
        elif pa.types.is_list(kind):
            yield from walk(f"{path}.list.element", kind.value_type)
        else:
            yield path

    return [leaf for column in schema for leaf in walk(column.name, column.type)]


def file_facts(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as stream:
        while number := stream.readinto(chunk):
            digest.update(chunk[:number])
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def publish(temporary: Path, final: Path) -> None:
    """Give a whole file its final name, so that a power cut leaves either nothing or all of it.

    Raises:
        BuildError: if the system refuses.
    """
    make_folder(final.parent)
    with writing(final):
        _sync(temporary)
        os.replace(temporary, final)
        _sync(final.parent)


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, that is still there after a power cut.

    Raises:
        BuildError: if the system refuses.
    """
    if not path.is_dir():
        make_folder(path.parent)
        with writing(path):
            path.mkdir(exist_ok=True)
            _sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a small text file so that it is there whole or not at all.

    Raises:
        BuildError: if the system refuses.
    """
    work = path.parent / WORK  # where nothing half written is ever left behind
    temporary = (work if work.is_dir() else path.parent) / f"{path.name}.tmp-{identity()}"
    make_folder(temporary.parent)
    with writing(path):
        temporary.write_bytes(as_bytes(text))
    publish(temporary, path)


def as_bytes(text: str) -> bytes:
    """A text in UTF-8, whatever it holds: the name of a file need not be text."""
    return text.encode("utf-8", "backslashreplace")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

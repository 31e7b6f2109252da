"""A built dataset: its manifest, the indexes of its tables, and rows at any place."""

from __future__ import annotations

import hashlib
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from openstory_hf.codecs import CODECS
from openstory_hf.errors import OutputError, UsageError, reason_of
from openstory_hf.finish import MANIFEST
from openstory_hf.index import index_file, index_schema
from openstory_hf.info import Character
from openstory_hf.schema import SCHEMA_VERSION, TABLES
from openstory_hf.storage import Storage

WHOLE_INDEX = 16 << 20
"""An index up to this size is fetched in one request; of a larger one only what is needed."""

KEPT_BYTES = 96 << 20
"""Row groups of an index that are kept in memory."""


class BuiltFolder:
    """A built dataset, local, on the Hub or behind a URL.

    Args:
        path: see `storage.Storage`.
        revision: of a repository on the Hub.

    Raises:
        OutputError: if there is no manifest, or it is of another schema version.
    """

    def __init__(self, path: str, revision: str | None = None) -> None:
        self.storage = Storage(path, revision)
        self.path = self.storage.path
        self._indexes: dict[tuple[str, str], Index] = {}
        try:
            manifest = json.loads(self.storage.whole(MANIFEST))
        except (FileNotFoundError, NotADirectoryError):
            raise OutputError(
                f"{self.path} holds no {MANIFEST}. Give the --out folder of a finished `openstory build`, or a "
                "repository made of one"
            ) from None
        except (ValueError, RecursionError) as error:
            raise OutputError(f"{self.path}/{MANIFEST} is not JSON: {error}. Build the folder again") from None
        if not isinstance(manifest, dict) or "schema_version" not in manifest:
            raise OutputError(
                f"{self.path}/{MANIFEST} is not the manifest of an `openstory build`. Build the folder again"
            )
        self.manifest: dict[str, Any] = manifest
        version = manifest["schema_version"]
        if version != SCHEMA_VERSION:
            raise OutputError(
                f"{self.path} has schema version {version}, this package reads {SCHEMA_VERSION}. "
                f"Install openstory_hf {manifest.get('openstory_hf')}, or build the folder again"
            )

        try:
            _check_shape(manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OutputError(
                f"{self.path}/{MANIFEST} is damaged: {reason_of(error)}. Fetch it again, or build the folder again"
            ) from None

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that are the same for the same data, wherever it lies."""
        facts = sorted((file, facts["sha256"]) for file, facts in self.manifest["files"].items())
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def files(self, table: str, split: str) -> list[str]:
        """The files of a table and split, in order; empty if it has none."""
        return [file for file in self.manifest["files"] if file.startswith(f"{table}/{split}-")]

    def split(self, name: str) -> str:
        """The split of that name, or the first one for "".

        Raises:
            UsageError: for a split the folder does not have.
        """
        splits = list(self.manifest["splits"])
        if name and name not in splits:
            raise UsageError(f"{self.path} has no split {name!r}; it has {', '.join(splits)}")
        return name or splits[0]

    def index(self, table: str, split: str) -> Index:
        """The index of a table and split."""
        if (table, split) not in self._indexes:
            self._indexes[table, split] = Index(self, table, split)
        return self._indexes[table, split]

    def column(self, table: str, split: str, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Some columns, other than pictures, of a whole table and split."""
        if not self.files(table, split):
            return {name: [] for name in columns}
        found: dict[str, list[Any]] = self.index(table, split).read(columns).to_pydict()
        return found

    def cast(self) -> tuple[Character, ...]:
        """The recurring cast."""
        return tuple(Character(**{**c, "aliases": tuple(c["aliases"])}) for c in self.manifest["characters"])


def _check_shape(manifest: Mapping[str, Any]) -> None:
    """Make sure that what is read of a manifest is there and of its kind, and names no file outside the folder."""
    for file, facts in [*manifest["files"].items(), *manifest["index"].items()]:
        parts = PurePosixPath(file).parts
        if len(parts) != 2 or ".." in parts or "\\" in file or ":" in file or file.startswith("/"):
            raise ValueError(f"{file!r} is not the name of a table's file")
        numbers = [facts["rows"], facts["bytes"], *([facts["row_groups"]] if file in manifest["files"] else [])]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError(f"{file} has {numbers} rows, bytes and row groups")
        if not isinstance(facts["sha256"], str):
            raise ValueError(f"{file} has no SHA-256")
        table, _, rest = file.partition("/")
        if file in manifest["files"] and index_file(table, rest.split("-")[0]) not in manifest["index"]:
            raise ValueError(f"it names no index for {file}")
    if not manifest["splits"]:
        raise ValueError("it has no splits")
    for split, counts in manifest["splits"].items():
        for table in TABLES:
            if not all(isinstance(counts[table][name], int) for name in ("seen", "written", "rejected")):
                raise ValueError(f"the counts of {split} are not numbers")
    encoded = manifest.get("encoded")
    if encoded is not None and not (encoded["codec"] in CODECS and isinstance(encoded["pictures"], int)):
        raise ValueError(f"{encoded} is not what pictures are encoded as")
    for character in manifest["characters"]:
        Character(**{**character, "aliases": tuple(character["aliases"])})


class Index:
    """The index of a table and split; see `openstory_hf.index`. Safe to use from several threads.

    Raises:
        OutputError: if it cannot be read.
    """

    def __init__(self, folder: BuiltFolder, table: str, split: str) -> None:
        self.folder = folder
        self.files = folder.files(table, split)
        self._name = index_file(table, split)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        facts = folder.manifest["index"].get(self._name)
        if facts is None:
            raise OutputError(f"{folder.path}: the manifest names no {self._name}. Build the folder again")
        try:
            self._file = pq.ParquetFile(self._source(facts["bytes"]), pre_buffer=True)
            metadata = self._file.metadata
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None
        if self._file.schema_arrow.names != index_schema(TABLES[table]).names:
            raise self.damaged("its columns are not those of an index")
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._first: list[int] = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).tolist()

    def _source(self, size: int) -> Any:
        storage = self.folder.storage
        if storage.local:
            return pa.py_buffer(storage.map(self._name))
        if size <= WHOLE_INDEX:
            try:
                return pa.py_buffer(storage.whole(self._name))
            except FileNotFoundError:
                raise OutputError(f"{self.folder.path}/{self._name} is missing. Push or build again") from None
        return storage.open(self._name)

    def damaged(self, reason: str) -> OutputError:
        """The error for an index that cannot be what was written."""
        return self._unreadable(ValueError(reason))

    def _unreadable(self, error: Exception) -> OutputError:
        hint = f"`openstory check {self.folder.path}` finds what is damaged"
        return OutputError(f"{self.folder.path}/{self._name} cannot be read: {error}. {hint}")

    def __len__(self) -> int:
        return self._first[-1]

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns (or leaves of them, as dotted Parquet paths) of all rows."""
        try:
            with self._lock:
                return self._file.read(columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some columns of all rows, one row after another."""
        for number in range(len(self._first) - 1):
            yield from self.rows_of(number, tuple(columns)).to_pylist()

    def group(self, row: int) -> tuple[int, int]:
        """The number of the row group that holds a row, and the row's number in it."""
        number = bisect_right(self._first, row) - 1
        return number, row - self._first[number]

    def find(self, row: int, columns: tuple[str, ...]) -> tuple[pa.Table, int]:
        """The row group that holds a row, and the row's number in it."""
        number, inside = self.group(row)
        return self.rows_of(number, columns), inside

    def rows_of(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        """A row group."""
        key = group, columns
        with self._lock:
            if key not in self._kept:
                try:
                    self._kept[key] = self._file.read_row_group(group, columns=list(columns))
                except (pa.ArrowException, OSError) as error:
                    raise self._unreadable(error) from None
                total = sum(table.nbytes for table in self._kept.values())
                while total > KEPT_BYTES and len(self._kept) > 2:
                    total -= self._kept.popitem(last=False)[1].nbytes
            self._kept.move_to_end(key)
            return self._kept[key]

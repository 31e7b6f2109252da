"""A built dataset: its manifest, the indexes of its tables, and rows at any place."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openstory_hf.codecs import CODECS
from openstory_hf.contents import Contents, contents_file
from openstory_hf.errors import OutputError, UsageError, reason_of
from openstory_hf.finish import MANIFEST, REJECTS
from openstory_hf.index import index_file, index_schema
from openstory_hf.info import Character
from openstory_hf.layout import Layout, before_each
from openstory_hf.schema import SCHEMA_VERSION, TABLES
from openstory_hf.storage import Storage

WHOLE_INDEX = 16 << 20
"""The index of a file is fetched in one request up to this size; of a larger one only what is needed."""

KEPT_BYTES = 96 << 20
"""Row groups of an index that are kept in memory."""

KEPT_FILES, KEPT_FILE_BYTES = 64, 32 << 20
"""Files of an index that are kept open, and in memory where they were fetched."""

Group = tuple[int, int]
"""A row group of an index: number of the file, and number within it."""


class BuiltFolder:
    """A built dataset, local, on the Hub or behind a URL.

    Args:
        path: see `storage.Storage`.
        revision: of a repository on the Hub.
        manifest_file: name of its manifest.

    Raises:
        OutputError: if there is no manifest, or it is of another schema version.
    """

    def __init__(self, path: str, revision: str | None = None, manifest_file: str = MANIFEST) -> None:
        self.storage = Storage(path, revision)
        self.path = self.storage.path
        self._indexes: dict[tuple[str, str], Index] = {}
        try:
            manifest = json.loads(self.storage.whole(manifest_file))
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

    def first_rows(self, table: str, split: str) -> NDArray[np.int64]:
        """The first row of each file of a table and split, and behind the last one the number of rows, (F + 1,)."""
        return before_each([self.manifest["files"][file]["rows"] for file in self.files(table, split)])

    def layout(self, table: str, split: str) -> Layout:
        """How the rows of a table and split lie in its files."""
        return Layout.of([self.manifest["files"][file] for file in self.files(table, split)])

    @contextmanager
    def contents(self, table: str, split: str) -> Iterator[Contents]:
        """The contents of a table and split.

        Raises:
            OutputError: if they cannot be read, be it while they are in use.
        """
        name = contents_file(table, split)
        try:
            yield Contents(table, self.first_rows(table, split), pa.py_buffer(self.storage.whole(name)))
        except FileNotFoundError:
            raise OutputError(f"{self.path}/{name} is missing. Push or build again") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(name, error) from None

    def published(self, split: str) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """For each story of `stories` the row of its first frame in `frames`, and how many frames it has.

        Raises:
            OutputError: if they cannot be read.
        """
        with self.contents("stories", split) as contents:
            return contents.starts(self.first_rows("frames", split)), contents.all_runs()

    def rejects(self) -> list[dict[str, Any]]:
        """What the build left out: `split`, `unit`, `record`, `reason`, `file` and `stories` of each record.

        Raises:
            OutputError: if the list is missing or damaged, or of splits that are not there.
        """
        try:
            lines = self.storage.whole(REJECTS).decode("utf-8").split("\n")  # names may hold other line separators
            found = [json.loads(line) for line in lines if line]
            if unknown := sorted({str(entry["split"]) for entry in found} - set(self.manifest["splits"])):
                raise ValueError(f"there is no split {', '.join(unknown)}")
            if not all(isinstance(entry["reason"], str) and isinstance(entry["stories"], list) for entry in found):
                raise ValueError("a record has no reason, or no list of stories")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._unreadable(REJECTS, error) from error
        return found

    def _unreadable(self, name: str, error: Exception) -> OutputError:
        hint = f"`openstory check {self.path}` finds what is damaged"
        return OutputError(f"{self.path}/{name} cannot be read: {error}. {hint}")

    def column(self, table: str, split: str, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Some columns, other than pictures, of a whole table and split."""
        found: dict[str, list[Any]] = self.index(table, split).read(columns).to_pydict()
        return found

    def cast(self) -> tuple[Character, ...]:
        """The recurring cast."""
        return tuple(Character(**{**c, "aliases": tuple(c["aliases"])}) for c in self.manifest["characters"])


def _check_shape(manifest: Mapping[str, Any]) -> None:
    """Make sure that what is read of a manifest is there and of its kind, and names no file outside the folder."""
    for file, facts in [*manifest["files"].items(), *manifest["index"].items(), *manifest["contents"].items()]:
        parts = PurePosixPath(file).parts
        if len(parts) != 2 or ".." in parts or "\\" in file or ":" in file or file.startswith("/"):
            raise ValueError(f"{file!r} is not the name of a table's file")
        groups = facts["row_groups"] if file in manifest["files"] else []
        numbers = [facts["rows"], facts["bytes"], *groups]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError(f"{file} has {numbers} rows, bytes and rows of row groups")
        if file in manifest["files"] and sum(groups) != facts["rows"]:
            raise ValueError(f"the row groups of {file} do not have its {facts['rows']} rows")
        if not isinstance(facts["sha256"], str):
            raise ValueError(f"{file} has no SHA-256")
        if file in manifest["files"] and manifest["index"][index_file(file)]["rows"] != facts["rows"]:
            raise ValueError(f"{file} and its index have different rows")
    if not manifest["splits"]:
        raise ValueError("it has no splits")
    if not all(isinstance(code, str) for code in manifest["languages"]):
        raise ValueError(f"{manifest['languages']} are not languages")
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
    """The index of a table and split, of which files are opened as they are needed; see `openstory_hf.index`.

    Safe to use from several threads. Of the files and row groups that were read, the last ones are kept.
    """

    def __init__(self, folder: BuiltFolder, table: str, split: str) -> None:
        self.folder = folder
        self.files = folder.files(table, split)
        self.file_first = folder.first_rows(table, split)
        self._names = index_schema(TABLES[table]).names
        self._first_of_file: list[int] = self.file_first.tolist()
        self._first_of_group: dict[int, list[int]] = {}
        self._lock = threading.Lock()
        self._reading = _locks()
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._open_bytes = 0
        self._kept: OrderedDict[tuple[Group, tuple[str, ...]], tuple[pa.Table, int]] = OrderedDict()
        self._kept_bytes = 0
        _indexes.add(self)

    def after_fork(self) -> None:
        """In a process that was forked: locks that threads of the other process hold would never be released."""
        held = [lock.locked() for lock in self._reading]
        self._lock, self._reading = threading.Lock(), _locks()
        for file in list(self._open):
            if held[file % len(held)]:  # and what they were reading may be in any state
                self._close(file)

    def __len__(self) -> int:
        return self._first_of_file[-1]

    def damaged(self, file: int, reason: str) -> OutputError:
        """The error for the index of a file that cannot be what was written."""
        return self._unreadable(file, ValueError(reason))

    def _unreadable(self, file: int, error: Exception) -> OutputError:
        return self.folder._unreadable(index_file(self.files[file]), error)

    def _opened(self, file: int) -> pq.ParquetFile:
        """The index of a file; its lock is held."""
        with self._lock, suppress(KeyError):
            self._open.move_to_end(file)
            return self._open[file]
        name, storage = index_file(self.files[file]), self.folder.storage
        size = self.folder.manifest["index"][name]["bytes"]
        fetched = not storage.local and size <= WHOLE_INDEX
        try:
            if storage.local:
                source = pa.py_buffer(storage.map(name))
            else:
                source = pa.py_buffer(storage.whole(name)) if fetched else storage.open(name, size)
            found = pq.ParquetFile(source, pre_buffer=True)
            if found.schema_arrow.names != self._names:
                raise ValueError("its columns are not those of an index")
            rows = [found.metadata.row_group(number).num_rows for number in range(found.num_row_groups)]
        except FileNotFoundError:
            raise OutputError(f"{self.folder.path}/{name} is missing. Push or build again") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(file, error) from None
        first = np.cumsum([self._first_of_file[file], *rows]).tolist()
        if first[-1] != self._first_of_file[file + 1]:
            raise self.damaged(file, f"it has {sum(rows)} rows, not as many as its table")
        with self._lock:
            self._first_of_group[file] = first
            self._open[file] = found
            self._open_bytes += size if fetched else 0
            while len(self._open) > KEPT_FILES or (self._open_bytes > KEPT_FILE_BYTES and len(self._open) > 2):
                self._close(next(iter(self._open)))
        return found

    def _close(self, file: int) -> None:
        del self._open[file]
        size = self.folder.manifest["index"][index_file(self.files[file])]["bytes"]
        self._open_bytes -= size if not self.folder.storage.local and size <= WHOLE_INDEX else 0

    def read_file(self, file: int, columns: Sequence[str]) -> pa.Table:
        """Some columns (or leaves of them, as dotted Parquet paths) of all rows of a file.

        Raises:
            OutputError: if it cannot be read.
        """
        with self._reading[file % len(self._reading)]:
            opened = self._opened(file)
            try:
                return opened.read(columns=list(columns))
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(file, error) from None

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns (or leaves of them) of all rows of all files."""
        if not self.files:
            return pa.table({name: pa.array([], pa.string()) for name in columns})
        return pa.concat_tables(self.read_file(file, columns) for file in range(len(self.files)))

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some columns of all rows, one row after another."""
        for file in range(len(self.files)):
            yield from self.rows_of_file(file, columns)

    def rows_of_file(self, file: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some columns of the rows of a file, one row after another."""
        for number in range(len(self._groups(file)) - 1):
            yield from self.rows_of((file, number), tuple(columns)).to_pylist()

    def _groups(self, file: int) -> list[int]:
        """First row of each row group of a file, and behind the last."""
        if file not in self._first_of_group:
            with self._reading[file % len(self._reading)]:
                self._opened(file)
        return self._first_of_group[file]

    def group(self, row: int) -> tuple[Group, int]:
        """The row group that holds a row, and the row's number in it."""
        file = bisect_right(self._first_of_file, row) - 1
        first = self._groups(file)
        number = bisect_right(first, row) - 1
        return (file, number), row - first[number]

    def find(self, row: int, columns: tuple[str, ...]) -> tuple[pa.Table, int, int]:
        """The row group that holds a row, the row's number in it, and the number of its file."""
        group, inside = self.group(row)
        return self.rows_of(group, columns), inside, group[0]

    def rows_of(self, group: Group, columns: tuple[str, ...]) -> pa.Table:
        """A row group.

        Raises:
            OutputError: if it cannot be read.
        """
        key, (file, number) = (group, columns), group
        with self._lock, suppress(KeyError):
            self._kept.move_to_end(key)
            return self._kept[key][0]
        with self._reading[file % len(self._reading)]:
            opened = self._opened(file)
            try:
                table = opened.read_row_group(number, columns=list(columns))
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(file, error) from None
        with self._lock:
            if key not in self._kept:
                self._kept[key] = table, table.nbytes
                self._kept_bytes += table.nbytes
            while self._kept_bytes > KEPT_BYTES and len(self._kept) > 2:
                self._kept_bytes -= self._kept.popitem(last=False)[1][1]
        return table


def _locks() -> list[threading.Lock]:
    """A file of an index is opened and read by one thread at a time."""
    return [threading.Lock() for _ in range(16)]


_indexes: weakref.WeakSet[Index] = weakref.WeakSet()


def _after_fork() -> None:
    for index in list(_indexes):
        index.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

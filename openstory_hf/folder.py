"""A built dataset folder, local or behind a URL: its manifest, its row groups, and rows at any place."""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from openstory_hf.build import MANIFEST
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.info import Character
from openstory_hf.schema import SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """One row group of a table: where it is, and the number of its first row within the table and split."""

    file: str
    index: int
    first_row: int
    rows: int


class BuiltFolder:
    """A built dataset folder, local or behind any fsspec URL: its manifest and its row groups.

    Args:
        path: folder or URL.

    Raises:
        OutputError: if there is no manifest, or it is of another schema version.
    """

    def __init__(self, path: str) -> None:
        self.path = str(path)
        self.fs, self.root = fsspec.url_to_fs(self.path)
        try:
            manifest = json.loads(self.fs.cat_file(f"{self.root}/{MANIFEST}"))
        except (FileNotFoundError, NotADirectoryError):
            raise OutputError(
                f"{path} holds no {MANIFEST}. Give the --out folder of a finished `openstory build`"
            ) from None
        except ValueError as error:
            raise OutputError(f"{path}/{MANIFEST} is not JSON: {error}. Build the folder again") from None
        if not isinstance(manifest, dict) or "schema_version" not in manifest:
            raise OutputError(f"{path}/{MANIFEST} is not the manifest of an `openstory build`. Build the folder again")
        self.manifest: dict[str, Any] = manifest
        version = manifest["schema_version"]
        if version != SCHEMA_VERSION:
            raise OutputError(
                f"{path} has schema version {version}, this package reads {SCHEMA_VERSION}. "
                f"Install openstory_hf {manifest.get('openstory_hf')}, or build the folder again"
            )

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

    @contextlib.contextmanager
    def open(self, file: str) -> Iterator[pq.ParquetFile]:
        """Open one Parquet file for reading.

        Raises:
            OutputError: if it cannot be opened, or read later on.
        """
        try:
            with self.fs.open(f"{self.root}/{file}") as stream:
                yield pq.ParquetFile(stream, pre_buffer=True)
        except (pa.ArrowException, OSError) as error:
            hint = f"`openstory check {self.path}` finds what is damaged"
            raise OutputError(f"{self.path}/{file} cannot be read: {error}. {hint}") from None

    def row_groups(self, table: str, split: str) -> list[RowGroup]:
        """All row groups of a table and split in order; reads the footers only."""
        found: list[RowGroup] = []
        row = 0
        for file in self.files(table, split):
            with self.open(file) as parquet:
                for index in range(parquet.num_row_groups):
                    rows = parquet.metadata.row_group(index).num_rows
                    found.append(RowGroup(file=file, index=index, first_row=row, rows=rows))
                    row += rows
        return found

    def column(self, table: str, split: str, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Some light columns of a whole table and split."""
        parts = []
        for file in self.files(table, split):
            with self.open(file) as parquet:
                parts.append(parquet.read(columns=list(columns)))
        return pa.concat_tables(parts).to_pydict() if parts else {name: [] for name in columns}

    def cast(self) -> tuple[Character, ...]:
        """The recurring cast."""
        return tuple(Character(**{**c, "aliases": tuple(c["aliases"])}) for c in self.manifest["characters"])


class RowReader:
    """Random access to the rows of a table through a few row groups kept as Arrow tables."""

    def __init__(
        self, folder: BuiltFolder, table: str, split: str, *, keep: int, groups: Sequence[RowGroup] | None = None
    ) -> None:
        self._folder = folder
        self._groups = folder.row_groups(table, split) if groups is None else groups
        self._starts = [group.first_row for group in self._groups]
        self._keep = keep
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()

    def get(self, row: int, rows: int) -> list[dict[str, Any]]:
        """Rows [row, row + rows) as dictionaries."""
        found: list[dict[str, Any]] = []
        while len(found) < rows:
            at = row + len(found)
            number = int(np.searchsorted(self._starts, at, side="right")) - 1
            group = self._groups[number]
            inside = at - group.first_row
            found += self._table(number).slice(inside, min(rows - len(found), group.rows - inside)).to_pylist()
        return found

    def _table(self, number: int) -> pa.Table:
        if number not in self._kept:
            group = self._groups[number]
            with self._folder.open(group.file) as parquet:
                self._kept[number] = parquet.read_row_group(group.index)
            if len(self._kept) > self._keep:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]


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
    reader = RowReader(folder, "stories", split, keep=1)
    return [reader.get(row, 1)[0] for row in chosen]

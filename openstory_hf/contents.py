"""The contents of a table and split: which rows follow each other, and which frames published stories are made of.

Windows, and published stories with other pictures than the key ones, are found in it without a look at the rows: it
is a file of a few bytes for each sequence. Published stories with their key pictures do without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openstory_hf.index import FOLDER
from openstory_hf.layout import before_each
from openstory_hf.parquet import ParquetWriter

Ints = NDArray[np.int64]

SCHEMA = pa.schema([(name, pa.list_(pa.int64())) for name in ("runs", "starts")])

ENTRIES, RUNS = 256, 1 << 17
"""Files in a row group of the contents, and runs after which it has no further file."""


def contents_file(table: str, split: str) -> str:
    """Where the contents of a table and split are, relative to the built folder."""
    return f"{FOLDER}/{table}-{split}.contents.parquet"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The contents of one file of a table.

    Args:
        runs: of `stories` the frames of each row; of `frames` the lengths of unbroken runs of frames, in their order.
        starts: of `stories` beside `frames`: for each row the first of its rows in the `frames` file of the same name.
    """

    runs: Ints
    starts: Ints = field(default_factory=lambda: np.zeros(0, np.int64))


def entry_of(part: Path, frames_part: Path | None = None) -> Entry:
    """The contents of a file of a table.

    Args:
        part: its index.
        frames_part: for a file of `stories`, the index of the `frames` file of the same name, if there is one.
    """
    if "position" in pq.read_schema(part).names:
        frames = pq.read_table(part, columns=["sequence_id", "position"])
        return Entry(runs=np.diff(_breaks(frames), append=len(frames)))
    stories = pq.read_table(part, columns=["sequence_id", "source", "frame_ids"])
    runs = stories.column("frame_ids").combine_chunks().value_lengths().to_numpy().astype(np.int64)
    return Entry(runs=runs) if frames_part is None else Entry(runs=runs, starts=_starts(stories, frames_part))


def _breaks(frames: pa.Table) -> Ints:
    """The rows of frames at which a run begins: another sequence, or a frame that the build left out before it."""
    [sequence], position = _codes(frames), frames.column("position").to_numpy()
    broken = (np.diff(sequence, prepend=-1) != 0) | (np.diff(position, prepend=-1) != 1)
    return np.flatnonzero(broken)


def _starts(stories: pa.Table, frames_part: Path) -> Ints:
    """The row of the first frame of each story."""
    frames = pq.read_table(frames_part, columns=["sequence_id", "position"])
    of_stories, of_frames = (codes << 32 for codes in _codes(stories, frames))
    wanted = of_stories + stories.column("source").combine_chunks().field("index").to_numpy()
    places = of_frames + frames.column("position").to_numpy()
    sort = np.argsort(places, kind="stable")
    return np.asarray(sort[np.searchsorted(places, wanted, sorter=sort)], np.int64)


def _codes(*tables: pa.Table) -> list[Ints]:
    """Numbers that are the same for the same sequence, in all tables."""
    ids = pa.chunked_array([chunk for table in tables for chunk in table.column("sequence_id").chunks], pa.string())
    codes = np.asarray(ids.combine_chunks().dictionary_encode().indices).astype(np.int64)
    return np.split(codes, np.cumsum([len(table) for table in tables])[:-1])


def write_contents(path: Path, entries: Iterable[Entry]) -> int:
    """Write the contents of a table and split, the entries in the order of its files; returns their number."""
    written = 0
    leaves = [f"{name}.list.element" for name in SCHEMA.names]
    delta = dict.fromkeys(leaves, "DELTA_BINARY_PACKED")
    with ParquetWriter(
        path, SCHEMA, compression="zstd", use_dictionary=False, column_encoding=delta, write_statistics=False
    ) as writer:
        waiting: list[Entry] = []
        runs = 0
        for entry in entries:
            waiting.append(entry)
            runs += len(entry.runs)
            if len(waiting) == ENTRIES or runs >= RUNS:
                written += _write(writer, waiting)
                waiting, runs = [], 0
        written += _write(writer, waiting)
    return written


def _write(writer: ParquetWriter, entries: Sequence[Entry]) -> int:
    if entries:
        columns = {name: _lists([getattr(entry, name) for entry in entries]) for name in SCHEMA.names}
        writer.write_table(pa.table(columns, schema=SCHEMA))
    return len(entries)


def _lists(values: Sequence[Ints]) -> pa.Array:
    ends = before_each([len(of_file) for of_file in values])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.concatenate(values), pa.int64()))


class Contents:
    """The contents of a table and split. There may be tens of millions of runs, so a row group is read at a time.

    Args:
        table: which one.
        files: first row of each file of the table, and behind the last one the number of rows, (F + 1,).
        source: the bytes of the contents.

    Attributes:
        rows: of the table before each row group of the contents, and behind the last one, (G + 1,).

    Raises:
        ValueError, pa.ArrowException: if they are not the contents of such a table.
    """

    def __init__(self, table: str, files: Ints, source: pa.Buffer) -> None:
        self._table, self._files, self._source = table, files, source
        with pq.ParquetFile(source) as file:
            names, metadata = file.schema_arrow.names, file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._first_file = before_each(counts)
        if names != SCHEMA.names or self._first_file[-1] != len(files) - 1:
            raise ValueError(f"it describes {self._first_file[-1]} files of {len(files) - 1}")
        self.rows = files[self._first_file]

    def __len__(self) -> int:
        return len(self.rows) - 1

    def _read(self, group: int, name: str) -> tuple[NDArray[np.int32], Ints]:
        """The numbers of the files of a row group one behind the other, and where those of each begin, (F + 1,)."""
        # opened each time, so that several threads may read
        with pq.ParquetFile(self._source) as file:
            lists = file.read_row_group(group, columns=[name], use_threads=False).column(0).combine_chunks()
        values = lists.flatten()
        if lists.null_count or values.null_count:
            raise ValueError(f"some of its {name} are missing")
        return values.to_numpy().astype(np.int32), before_each(lists.value_lengths().to_numpy())

    def runs(self, group: int) -> NDArray[np.int32]:
        """The runs of the files of a row group, see `Entry`.

        Raises:
            ValueError: if they are not those of the table.
        """
        runs, ends = self._read(group, "runs")
        found = ends if self._table == "stories" else before_each(runs)[ends]
        first, stop = self._first_file[group : group + 2]
        if runs.min(initial=1) < 1 or (found != self._files[first : stop + 1] - self.rows[group]).any():
            raise ValueError("its files have other rows than the manifest says")
        return runs

    def all_runs(self) -> NDArray[np.int32]:
        """The runs of all files."""
        return np.concatenate([np.zeros(0, np.int32), *map(self.runs, range(len(self)))])

    def starts(self, frames: Ints) -> Ints:
        """For each row of `stories` the first of its rows in `frames`.

        Args:
            frames: as `files`, of the table `frames`.

        Raises:
            ValueError: if that is not told, or not in the frames.
        """
        values, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for group in range(len(self)):
            starts, ends = self._read(group, "starts")
            values.append(starts)
            counts.append(np.diff(ends))
        of_files = np.concatenate(counts)
        if (of_files != np.diff(self._files)).any() or len(frames) != len(self._files):
            raise ValueError("it does not say which frames the stories are made of")
        found = np.concatenate(values).astype(np.int64) + np.repeat(frames[:-1], of_files)
        if len(found) and not 0 <= found.min() <= found.max() < frames[-1]:
            raise ValueError("it names frames that are not there")
        return found

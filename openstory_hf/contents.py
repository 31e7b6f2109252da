"""The contents of a table and split: how many rows and bytes lie where, for opening a dataset of any size at once.

An order of stories needs to know how the rows of a table lie in its files, and nothing of what they say. A file of the
table is one row here, with a few numbers for each of its row groups: some megabytes for a million row groups. What
stands in the rows is in the index, of which only the files are opened whose stories are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openstory_hf.index import FOLDER
from openstory_hf.parquet import ParquetWriter

Ints = NDArray[np.int64]

SCHEMA = pa.schema([(name, pa.list_(pa.int64())) for name in ("rows", "bytes", "runs", "starts")])

ENTRIES = 256
"""Files in a row group of the contents."""


def contents_file(table: str, split: str) -> str:
    """Where the contents of a table and split are, relative to the built folder."""
    return f"{FOLDER}/{table}-{split}.contents.parquet"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The contents of one file of a table.

    Args:
        rows: of each row group, (G,).
        bytes: of the pictures of each row group, (G,).
        runs: of `stories` the frames of each row; of `frames` the lengths of unbroken runs of frames, in their order.
        starts: of `stories` beside `frames`: for each row the first of its rows in the `frames` file of the same name.
    """

    rows: Ints
    bytes: Ints
    runs: Ints
    starts: Ints = field(default_factory=lambda: np.zeros(0, np.int64))


def entry_of(source: Path, part: Path, frames_part: Path | None = None) -> Entry:
    """The contents of a file of a table.

    Args:
        source: the file.
        part: its index.
        frames_part: for a file of `stories`, the index of the `frames` file of the same name, if there is one.
    """
    metadata = pq.read_metadata(source)
    rows = np.array([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)], np.int64)
    if not len(rows):
        return Entry(rows=rows, bytes=rows, runs=rows)
    is_frames = "position" in pq.read_schema(part).names
    names = ["sequence_id", "position"] if is_frames else ["sequence_id", "source", "frame_ids"]
    light = pq.read_table(part, columns=[*names, "picture_bytes"])
    sizes = np.add.reduceat(light.column("picture_bytes").to_numpy(), np.cumsum(rows) - rows)
    if is_frames:
        return Entry(rows=rows, bytes=sizes, runs=np.diff(_breaks(light), append=len(light)))
    runs = light.column("frame_ids").combine_chunks().value_lengths().to_numpy().astype(np.int64)
    if frames_part is None:
        return Entry(rows=rows, bytes=sizes, runs=runs)
    return Entry(rows=rows, bytes=sizes, runs=runs, starts=_starts(light, frames_part))


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
        for entry in entries:
            waiting.append(entry)
            if len(waiting) == ENTRIES:
                written += _write(writer, waiting)
                waiting = []
        written += _write(writer, waiting)
    return written


def _write(writer: ParquetWriter, entries: Sequence[Entry]) -> int:
    if entries:
        columns = {name: _lists([getattr(entry, name) for entry in entries]) for name in SCHEMA.names}
        writer.write_table(pa.table(columns, schema=SCHEMA))
    return len(entries)


def _lists(values: Sequence[Ints]) -> pa.Array:
    ends = np.cumsum([0, *map(len, values)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.concatenate(values), pa.int64()))


class Contents:
    """The contents of a table and split.

    Args:
        file_rows: rows of each of its files, as the manifest says, (F,).
        source: the bytes of the contents.

    Raises:
        ValueError, pa.ArrowException: if they are not the contents of those files.
    """

    def __init__(self, file_rows: Sequence[int], source: Any) -> None:
        self.file_first: Ints = np.cumsum([0, *file_rows], dtype=np.int64)
        self._file = pq.ParquetFile(source)
        if self._file.schema_arrow.names != SCHEMA.names or self._file.metadata.num_rows != len(file_rows):
            raise ValueError(f"it describes {self._file.metadata.num_rows} files of {len(file_rows)}")
        self.rows, self.group_first = self._column("rows")
        self.bytes, groups = self._column("bytes")
        ends = np.concatenate([[0], np.cumsum(self.rows, dtype=np.int64)])
        if (groups != self.group_first).any() or self.rows.min(initial=1) < 1 or self.bytes.min(initial=0) < 0:
            raise ValueError("its row groups are not those of a table")
        if (ends[self.group_first] != self.file_first).any():
            raise ValueError("its files have other rows than the manifest says")

    def _column(self, name: str) -> tuple[NDArray[np.int32] | Ints, Ints]:
        """The numbers of all files one behind the other, and where those of each file begin, (F + 1,).

        Numbers that fit into four bytes have no more: there may be tens of millions.
        """
        values, ends = [], [0]
        for batch in self._file.iter_batches(batch_size=ENTRIES, columns=[name], use_threads=False):
            lists = batch.column(0)
            flat = lists.flatten().to_numpy(zero_copy_only=False)
            values.append(flat.astype(np.int32) if flat.max(initial=0) < 1 << 31 else flat)
            ends += (ends[-1] + np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))).tolist()
        return np.concatenate([np.zeros(0, np.int32), *values]), np.array(ends, np.int64)

    def __len__(self) -> int:
        return int(self.file_first[-1])

    def runs(self) -> NDArray[np.int32] | Ints:
        """The runs of all files, see `Entry`."""
        return self._column("runs")[0]

    def starts(self, frames: Contents) -> Ints:
        """For each row of `stories` the first of its rows in `frames`.

        Raises:
            ValueError: if that is not told, or not in the frames.
        """
        starts, ends = self._column("starts")
        if (ends != self.file_first).any() or len(self.file_first) != len(frames.file_first):
            raise ValueError("it does not say which frames the stories are made of")
        found = np.asarray(starts, np.int64) + np.repeat(frames.file_first[:-1], np.diff(ends))
        if len(found) and not 0 <= found.min() <= found.max() < len(frames):
            raise ValueError("it names frames that are not there")
        return found

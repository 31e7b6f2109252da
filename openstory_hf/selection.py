"""Which stories a request is about, in file order: published ones or windows, filtered, without touching a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from openstory_hf.errors import UsageError
from openstory_hf.folder import BuiltFolder, Index

Ints = NDArray[np.int64]
Bounds = tuple[int, int | None]


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which stories to keep. Each condition that is given must hold.

    Args:
        characters: canonical names, each of which is in some frame of the story.
        languages: the story's language is one of these.
        licenses: the story's licence is one of these.
        frames: (least, most) frames; None for no upper bound.
        instances: (least, most) instances over the key pictures of all frames.

    Raises:
        UsageError: for bounds that no story can meet.
    """

    characters: Iterable[str] = ()
    languages: Iterable[str] = ()
    licenses: Iterable[str] = ()
    frames: Bounds = (0, None)
    instances: Bounds = (0, None)

    def __post_init__(self) -> None:
        for name in ("characters", "languages", "licenses"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise UsageError(f"{name}={value!r}: give a list of names")
            object.__setattr__(self, name, tuple(sorted(set(value))))
        for name in ("frames", "instances"):
            least, most = getattr(self, name)
            if most is not None and most < least:
                raise UsageError(f"{name}={(least, most)}: the least is more than the most")
            object.__setattr__(self, name, (least, most))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Stories in file order.

    Args:
        table: the table to read.
        row: first row of each story, (S,).
        rows: rows of each story, (S,).
        start: first frame of each story within its rows, (S,).
        stop: behind its last, (S,).
        story_ids: ids of published stories that are read from `frames`; empty otherwise.
    """

    table: str
    row: Ints
    rows: Ints
    start: Ints
    stop: Ints
    story_ids: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.row)

    def keep(self, mask: NDArray[np.bool_]) -> Selection:
        """The stories for which the mask holds."""
        kept = np.flatnonzero(mask)
        return Selection(
            table=self.table,
            row=self.row[kept],
            rows=self.rows[kept],
            start=self.start[kept],
            stop=self.stop[kept],
            story_ids=[self.story_ids[number] for number in kept.tolist()] if self.story_ids else (),
        )


def select(
    folder: BuiltFolder, split: str, *, length: int | None, stride: int, key_only: bool, where: Where
) -> Selection:
    """The stories of a split.

    Args:
        folder: the built dataset.
        split: which split.
        length: frames of a window, None for published stories.
        stride: frames between the starts of windows.
        key_only: the key picture of each frame is all that is asked for, so that published stories can be read
            from `stories`.
        where: which of them to keep.

    Raises:
        UsageError: if there are no such stories.
    """
    has_frames = bool(folder.files("frames", split))
    if length is None:
        found = _stories(folder, split) if key_only or not has_frames else _published(folder, split)
    else:
        found = _windows(folder, split, length, stride) if has_frames else _inside(folder, split, length, stride)
    kept = found.keep(_matching(folder.index(found.table, split), found, where)) if where != Where() else found
    if len(found) and not len(kept):
        raise UsageError(f"{folder.path}: none of the {len(found)} stories of split {split} meets {where}")
    return kept


def _stories(folder: BuiltFolder, split: str) -> Selection:
    counts = _frame_counts(folder.index("stories", split))
    rows = np.arange(len(counts))
    return Selection(table="stories", row=rows, rows=np.ones_like(rows), start=np.zeros_like(rows), stop=counts)


def _inside(folder: BuiltFolder, split: str, length: int, stride: int) -> Selection:
    """Windows inside the rows of `stories`."""
    counts = _frame_counts(folder.index("stories", split))
    row, start = _starts(counts, length, stride)
    _some(row, folder, split, length, counts)
    return Selection(table="stories", row=row, rows=np.ones_like(row), start=start, stop=start + length)


def _windows(folder: BuiltFolder, split: str, length: int, stride: int) -> Selection:
    """Windows over unbroken runs of `frames`; a frame left out by the build breaks a run."""
    light = folder.index("frames", split).read(["sequence_id", "position"])
    sequence, position = _codes(light.column("sequence_id")), light.column("position").to_numpy()
    first = np.flatnonzero(np.diff(sequence, prepend=-1) | (np.diff(position, prepend=-1) != 1))
    counts = np.diff(first, append=len(sequence))
    run, start = _starts(counts, length, stride)
    _some(run, folder, split, length, counts)
    row = first[run] + start
    span = np.full_like(row, length)
    return Selection(table="frames", row=row, rows=span, start=np.zeros_like(row), stop=span)


def _published(folder: BuiltFolder, split: str) -> Selection:
    """The rows of `frames` that published stories are made of."""
    stories = folder.index("stories", split).read(["story_id", "sequence_id", "source.index"])
    frames = folder.index("frames", split).read(["sequence_id", "position"])
    both = pa.concat_arrays([*stories.column("sequence_id").chunks, *frames.column("sequence_id").chunks])
    codes = _codes(pa.chunked_array([both]))
    of_stories, of_frames = codes[: len(stories)] << 32, codes[len(stories) :] << 32
    starts = of_stories + stories.column("source").combine_chunks().field("index").to_numpy()
    places = of_frames + frames.column("position").to_numpy()
    sort = np.argsort(places, kind="stable")
    row = sort[np.searchsorted(places, starts, sorter=sort)]
    rows = _frame_counts(folder.index("stories", split))
    ids = stories.column("story_id").to_pylist()
    return Selection(table="frames", row=row, rows=rows, start=np.zeros_like(row), stop=rows, story_ids=ids)


def _starts(counts: Ints, length: int, stride: int) -> tuple[Ints, Ints]:
    """Number of the run and start in it, for every window over runs of so many frames."""
    windows = np.maximum(0, (counts - length) // stride + 1)
    run = np.repeat(np.arange(len(counts)), windows)
    start = stride * (np.arange(len(run)) - np.repeat(np.cumsum(windows) - windows, windows))
    return run, start


def _some(found: Ints, folder: BuiltFolder, split: str, length: int, counts: Ints) -> None:
    if not len(found):
        longest = counts.max(initial=0)
        raise UsageError(f"{folder.path}: no sequence of split {split} has {length} frames; the longest has {longest}")


def _codes(column: pa.ChunkedArray) -> Ints:
    """Numbers that are the same for the same text."""
    codes = column.combine_chunks().dictionary_encode()
    return np.asarray(codes.indices).astype(np.int64)


def _frame_counts(index: Index) -> Ints:
    return np.diff(_offsets(index.read(["frame_ids"]).column("frame_ids")))


def _offsets(column: pa.ChunkedArray) -> Ints:
    """Where the entries of each list begin in the flattened column: (R + 1,), whatever the chunks."""
    counts = column.combine_chunks().value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return np.concatenate([[0], np.cumsum(counts)])


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().flatten()


def _matching(index: Index, found: Selection, where: Where) -> NDArray[np.bool_]:
    """Which stories meet the conditions, from the light columns alone."""
    keep = np.ones(len(found), bool)
    for name, values in (("language", where.languages), ("license", where.licenses)):
        if values:
            column = index.read([name]).column(name)
            allowed = pa.compute.is_in(column, value_set=pa.array(values, pa.string()))
            keep &= allowed.combine_chunks().to_numpy(zero_copy_only=False)[found.row]
    # frames [first, last) of each story, counted over all rows
    if found.table == "stories":
        before = _offsets(index.read(["frame_ids"]).column("frame_ids"))[found.row]
        first, last = before + found.start, before + found.stop
    else:
        first, last = found.row, found.row + found.rows
    keep &= _within(last - first, where.frames)
    if where.characters:
        column = index.read(["characters"]).column("characters")
        lists = pa.chunked_array([_flat(column)]) if found.table == "stories" else column
        names, at = _flat(lists), _offsets(lists)
        for name in where.characters:
            seen = np.cumsum(np.asarray(pa.compute.equal(names, name)), dtype=np.int64)
            seen = np.concatenate([[0], seen])[at]
            keep &= seen[last] > seen[first]
    if where.instances != (0, None):
        seen = np.concatenate([[0], np.cumsum(_instances_per_frame(index, found.table))])
        keep &= _within(seen[last] - seen[first], where.instances)
    return keep


def _instances_per_frame(index: Index, table: str) -> Ints:
    """Instances of the key picture of every frame."""
    label = "instances.list.element.list.element.label"
    column = index.read([label]).column("instances")
    per_picture: Ints = np.diff(_offsets(pa.chunked_array([_flat(column)])))
    if table == "stories":
        return per_picture
    key = index.read(["key_image"]).column("key_image").to_numpy()
    of_keys: Ints = per_picture[_offsets(column)[:-1] + key]
    return of_keys


def _within(counts: Ints, bounds: Bounds) -> NDArray[np.bool_]:
    least, most = bounds
    mask: NDArray[np.bool_] = (counts >= least) & (counts <= (inf if most is None else most))
    return mask


def describe(where: Where) -> dict[str, Any]:
    """The conditions that are set, as JSON."""
    return {name: list(value) for name, value in vars(where).items() if value not in ((), (0, None))}

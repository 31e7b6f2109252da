"""Which stories a request is about, in file order: published ones or windows, filtered, without touching a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from openstory_hf.contents import Contents
from openstory_hf.errors import UsageError
from openstory_hf.folder import BuiltFolder, Index
from openstory_hf.layout import before_each, narrow

Ints = NDArray[np.int64]
Bounds = tuple[int, int | None]

HELD_RUNS = 1 << 19
"""Runs of frames that are held to find windows in, 16 bytes each."""


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


class Selection:
    """Stories in file order, of which none is looked at before it is asked for.

    Attributes:
        table: the table to read.
        span: rows that a story takes at most.
    """

    table: str
    span: int = 1

    def __len__(self) -> int:
        raise NotImplementedError

    def places(self, numbers: Ints) -> Places:
        """Where some stories lie, by their number in file order."""
        raise NotImplementedError

    def before(self, rows: Ints) -> Ints:
        """How many stories begin before each of some rows, which ascend."""
        raise NotImplementedError

    def published(self, number: int) -> int | None:
        """The row of `stories` that has the id of a story which is read from `frames`."""
        return None


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where stories lie: int64 (S,) each.

    Args:
        row: first row of each story.
        rows: rows of each story.
        start: first frame of each story within its row, or 0.
        stop: behind its last; -1 for all frames of the row.
    """

    row: Ints
    rows: Ints
    start: Ints
    stop: Ints


class Rows(Selection):
    """The rows of `stories`."""

    table = "stories"

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def places(self, numbers: Ints) -> Places:
        """As `Selection.places`."""
        ones = np.ones_like(numbers)
        return Places(row=numbers, rows=ones, start=np.zeros_like(numbers), stop=-ones)

    def before(self, rows: Ints) -> Ints:
        """As `Selection.before`."""
        return rows


class Windows(Selection):
    """Windows over runs of frames: over rows of `frames`, or inside those of `stories`.

    Of the runs, only those that were asked for last are held.

    Args:
        table: which of them.
        contents: of the table.
        length: frames of a window.
        stride: frames between the starts of windows.

    Attributes:
        longest: most frames of a run.

    Raises:
        ValueError: if the contents are not those of the table.
    """

    def __init__(self, table: str, contents: Contents, length: int, stride: int) -> None:
        self.table, self._contents, self._length, self._stride = table, contents, length, stride
        self._inside = table == "stories"
        self.span = 1 if self._inside else length
        self.longest, largest, counts = 0, 1, []
        for group in range(len(contents)):
            runs = contents.runs(group)
            self.longest = max(self.longest, int(runs.max(initial=0)))
            largest = max(largest, len(runs))
            counts.append(int(self._windows(runs).sum(dtype=np.int64)))
        self._first = before_each(counts)  # window of each row group of the contents
        self._keep = max(1, HELD_RUNS // largest)
        self._held: dict[int, _Runs] = {}

    def __len__(self) -> int:
        return int(self._first[-1])

    def places(self, numbers: Ints) -> Places:
        """As `Selection.places`."""
        row, start = np.empty_like(numbers), np.zeros_like(numbers)
        for group, which in _each(np.searchsorted(self._first, numbers, side="right") - 1):
            runs, inside = self._runs(group), numbers[which] - self._first[group]
            run = _last_not_after(runs.windows, inside)
            frame = self._stride * (inside - runs.windows[run])
            if runs.rows is None:
                row[which], start[which] = self._contents.rows[group] + run, frame
            else:
                row[which] = self._contents.rows[group] + runs.rows[run] + frame
        return Places(row=row, rows=np.full_like(row, self.span), start=start, stop=start + self._length)

    def before(self, rows: Ints) -> Ints:
        """As `Selection.before`."""
        found = np.full(len(rows), len(self), narrow(len(self)))
        there = rows[: np.searchsorted(rows, self._contents.rows[-1])]
        groups = np.searchsorted(there, self._contents.rows)
        for group, (start, stop) in enumerate(pairwise(groups.tolist())):
            if start == stop:
                continue
            runs, inside = self._runs(group), there[start:stop] - self._contents.rows[group]
            if runs.rows is None:
                windows = runs.windows[inside]
            else:
                run = _last_not_after(runs.rows, inside)
                windows = runs.windows[run] - (runs.rows[run] - inside) // self._stride
                windows = np.minimum(windows, runs.windows[run + 1])
            found[start:stop] = self._first[group] + windows
        return found

    def _windows(self, runs: NDArray[np.int32]) -> NDArray[np.int32]:
        """How many there are of each run."""
        return np.maximum((runs - self._length) // self._stride + 1, 0)

    def _runs(self, group: int) -> _Runs:
        found = self._held.pop(group, None)
        if found is None:
            runs = self._contents.runs(group)
            found = _Runs(windows=before_each(self._windows(runs)), rows=None if self._inside else before_each(runs))
        self._held[group] = found
        while len(self._held) > self._keep:
            self._held.pop(next(iter(self._held)), None)
        return found


class _Runs(NamedTuple):
    """What comes before each run of a row group of the contents, and behind the last one: (R + 1,) each.

    Args:
        windows: that begin before it.
        rows: of `frames` before it; None inside rows of `stories`, of which each is a run.
    """

    windows: Ints
    rows: Ints | None


class Published(Selection):
    """Published stories, read from `frames`; in the order of their first frames.

    Args:
        starts: the row of `frames` with the first frame of each story, (S,).
        counts: frames of each story, (S,).
    """

    table = "frames"

    def __init__(self, starts: Ints, counts: NDArray[Any]) -> None:
        self._order = None if (np.diff(starts) >= 0).all() else np.argsort(starts, kind="stable")
        self._starts, self._counts = (v if self._order is None else v[self._order] for v in (starts, counts))
        self.span = int(counts.max(initial=1))

    def __len__(self) -> int:
        return len(self._starts)

    def places(self, numbers: Ints) -> Places:
        """As `Selection.places`."""
        counts = self._counts[numbers].astype(np.int64)
        return Places(row=self._starts[numbers], rows=counts, start=np.zeros_like(counts), stop=counts)

    def before(self, rows: Ints) -> Ints:
        """As `Selection.before`."""
        return np.searchsorted(self._starts, rows)

    def published(self, number: int) -> int:
        """As `Selection.published`."""
        return number if self._order is None else int(self._order[number])


class Kept(Selection):
    """Some of the stories of another selection.

    Args:
        base: the other selection.
        numbers: their numbers in it, ascending, (S,).
    """

    def __init__(self, base: Selection, numbers: Ints) -> None:
        self.table, self.span = base.table, base.span
        self._base, self._numbers = base, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def places(self, numbers: Ints) -> Places:
        """As `Selection.places`."""
        return self._base.places(self._numbers[numbers])

    def before(self, rows: Ints) -> Ints:
        """As `Selection.before`."""
        return np.searchsorted(self._numbers, self._base.before(rows))

    def published(self, number: int) -> int | None:
        """As `Selection.published`."""
        return self._base.published(int(self._numbers[number]))


def _each(groups: Ints) -> Iterator[tuple[int, Ints]]:
    """Each group that is there, and the places at which it is."""
    for group in np.unique(groups).tolist():
        yield group, np.flatnonzero(groups == group)


def _last_not_after(ascending: Ints, numbers: Ints) -> Ints:
    """The last entry that is not after each number."""
    return np.searchsorted(ascending, numbers, side="right") - 1


def select(
    folder: BuiltFolder, split: str, *, length: int | None, stride: int, key_only: bool, where: Where
) -> Selection:
    """The stories of a split. Only filters read the index: some columns of all of it.

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
    found: Selection
    if length is not None:
        table = "frames" if has_frames else "stories"
        with folder.contents(table, split) as contents:
            most = np.iinfo(np.int32).max  # what frames are counted in; no sequence is longer
            windows = found = Windows(table, contents, min(length, most), min(stride, most))
        if not len(found):
            raise UsageError(
                f"{folder.path}: no sequence of split {split} has {length} frames; the longest has {windows.longest}"
            )
    elif key_only or not has_frames:
        found = Rows(int(folder.first_rows("stories", split)[-1]))
    else:
        starts, counts = folder.published(split)
        found = Published(starts, counts)
    if not len(found):
        raise UsageError(
            f"{folder.path}: split {split} has no stories to read; rejects.jsonl says what its build left out"
        )
    if where == Where():
        return found
    kept = Kept(found, _matching(folder.index(found.table, split), found, where))
    if not len(kept):
        raise UsageError(f"{folder.path}: none of the {len(found)} stories of split {split} meets {where}")
    return kept


def _matching(index: Index, found: Selection, where: Where) -> Ints:
    """The numbers of the stories that meet the conditions, from the light columns alone, a file at a time."""
    kept = [np.zeros(0, np.int64)]
    for file, (first, stop) in enumerate(pairwise(found.before(index.file_first).tolist())):
        if first < stop:
            numbers = np.arange(first, stop)
            places = found.places(numbers)
            part = partial(index.read_file, file)
            kept.append(numbers[_meeting(part, found.table, places, index.file_first[file], where)])
    return np.concatenate(kept)


def _meeting(
    read: Callable[[Sequence[str]], pa.Table], table: str, places: Places, first_row: int, where: Where
) -> NDArray[np.bool_]:
    """Which stories of a file meet the conditions.

    Args:
        read: gives some columns of the index of the file.
        table: that the file is of.
        places: of the stories.
        first_row: of the file.
        where: the conditions.
    """
    row = places.row - first_row
    keep = np.ones(len(row), bool)
    for name, values in (("language", where.languages), ("license", where.licenses)):
        if values:
            allowed = pa.compute.is_in(read([name]).column(name), value_set=pa.array(values, pa.string()))
            keep &= allowed.combine_chunks().to_numpy(zero_copy_only=False)[row]
    # frames [first, last) of each story, counted over all rows of the file
    if table == "stories":
        before = _offsets(read(["frame_ids"]).column("frame_ids"))
        first = before[row] + places.start
        last = np.where(places.stop < 0, before[row + 1], before[row] + places.stop)
    else:
        first, last = row, row + places.rows
    keep &= _within(last - first, where.frames)
    if where.characters:
        column = read(["characters"]).column("characters")
        lists = pa.chunked_array([_flat(column)]) if table == "stories" else column
        names, at = _flat(lists), _offsets(lists)
        for name in where.characters:
            seen = before_each(np.asarray(pa.compute.equal(names, name)))[at]
            keep &= seen[last] > seen[first]
    if where.instances != (0, None):
        seen = before_each(_instances_per_frame(read, table))
        keep &= _within(seen[last] - seen[first], where.instances)
    return keep


def _offsets(column: pa.ChunkedArray) -> Ints:
    """Where the entries of each list begin in the flattened column: (R + 1,), whatever the chunks."""
    return before_each(column.combine_chunks().value_lengths().to_numpy(zero_copy_only=False))


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().flatten()


def _instances_per_frame(read: Callable[[Sequence[str]], pa.Table], table: str) -> Ints:
    """Instances of the key picture of every frame."""
    label = "instances.list.element.list.element.label"
    column = read([label]).column("instances")
    per_picture: Ints = np.diff(_offsets(pa.chunked_array([_flat(column)])))
    if table == "stories":
        return per_picture
    key = read(["key_image"]).column("key_image").to_numpy()
    of_keys: Ints = per_picture[_offsets(column)[:-1] + key]
    return of_keys


def _within(counts: Ints, bounds: Bounds) -> NDArray[np.bool_]:
    least, most = bounds
    mask: NDArray[np.bool_] = (counts >= least) & (counts <= (inf if most is None else most))
    return mask


def describe(where: Where) -> dict[str, Any]:
    """The conditions that are set, as JSON."""
    return {name: list(value) for name, value in vars(where).items() if value not in ((), (0, None))}

"""How the rows of a table lie in its files and row groups, from the manifest alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files and row groups of a table and split.

    Row groups are cut by bytes, so all of a file are taken to be as large as each other, but for the last one, which
    is smaller when it has fewer rows than the one before.

    Args:
        files: first row of each file, and behind the last one the number of rows, int64 (F + 1,).
        groups: first row of each row group, likewise, int64 (G + 1,).
        sizes: bytes before each row group, likewise, float64 (G + 1,).
    """

    files: Ints
    groups: Ints
    sizes: NDArray[np.float64]

    @classmethod
    def of(cls, facts: Sequence[Mapping[str, Any]]) -> Layout:
        """The layout of some files of a manifest: `rows`, `bytes`, and `row_groups`, the rows of each row group."""
        counts = np.fromiter((len(file["row_groups"]) for file in facts), np.int64, len(facts))
        every = chain.from_iterable(file["row_groups"] for file in facts)
        # arrays of many megabytes: the rows are summed up where they are
        groups = np.fromiter(chain([0], every), np.int64, int(counts.sum()) + 1)
        rows = groups[1:]
        weights = np.ones(len(rows), np.float32)
        last = np.cumsum(counts)[counts > 1] - 1
        weights[last] = np.minimum(1, rows[last] / rows[last - 1])
        totals = np.fromiter((file["bytes"] for file in facts), np.int64, len(facts))
        if len(rows):
            there = counts > 0
            sums = np.add.reduceat(weights, (np.cumsum(counts) - counts)[there], dtype=np.float64)
            weights *= np.repeat((totals[there] / sums).astype(np.float32), counts[there])
        return cls(
            files=before_each([file["rows"] for file in facts]),
            groups=np.cumsum(groups, out=groups),
            sizes=before_each(weights, np.float64),
        )

    def parts(self, files: int) -> Iterator[Layout]:
        """So many files at a time; rows and bytes are counted from the first of all."""
        for first in range(0, len(self.files) - 1, files):
            bounds = self.files[first : first + files + 1]
            low, high = np.searchsorted(self.groups, bounds[[0, -1]])
            yield Layout(files=bounds, groups=self.groups[low : high + 1], sizes=self.sizes[low : high + 1])

    def __len__(self) -> int:
        return int(self.files[-1])

    def bytes_before(self, rows: Ints) -> Ints:
        """Bytes before some rows: those of a row group are spread evenly over its rows."""
        return np.interp(rows, self.groups, self.sizes).astype(np.int64)


def before_each(values: Any, dtype: Any = np.int64) -> NDArray[Any]:
    """The sum of what comes before each of N values, and behind the last one that of all: (N + 1,)."""
    found = np.zeros(len(values) + 1, dtype)
    np.cumsum(values, out=found[1:])
    return found


def narrow(most: int) -> np.dtype[Any]:
    """The smaller type of numbers up to this one: int32 or int64. There are a few for each of a million blocks."""
    return np.dtype(np.int32 if most < 1 << 31 else np.int64)

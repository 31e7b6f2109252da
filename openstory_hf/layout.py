"""How the rows of a table lie in its files and row groups, from the manifest alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
        sizes: bytes before each row group, likewise, int64 (G + 1,).
    """

    files: Ints
    groups: Ints
    sizes: Ints

    @classmethod
    def of(cls, facts: Iterable[Mapping[str, Any]]) -> Layout:
        """The layout of some files of a manifest: `rows`, `bytes`, and `row_groups`, the rows of each row group."""
        files, rows, sizes = [0], [], []
        for file in facts:
            here = np.asarray(file["row_groups"], np.int64)
            weight = np.ones(len(here))
            if len(here) > 1:
                weight[-1] = min(1.0, here[-1] / here[-2])
            files.append(file["rows"])
            rows.append(here)
            sizes.append(weight * (file["bytes"] / max(1.0, weight.sum())))
        return cls(
            files=np.cumsum(files, dtype=np.int64),
            groups=np.cumsum(np.concatenate([[0], *rows]), dtype=np.int64),
            sizes=np.cumsum(np.concatenate([[0], *sizes])).astype(np.int64),
        )

    def __len__(self) -> int:
        return int(self.files[-1])

    def bytes_before(self, rows: Ints) -> Ints:
        """Bytes before some rows: those of a row group are spread evenly over its rows."""
        return np.interp(rows, self.groups, self.sizes).astype(np.int64)

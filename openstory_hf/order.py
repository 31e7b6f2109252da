"""The order of an epoch: a pure function of the table, the seed and the epoch.

A full shuffle asks for rows from all over the files, which a network cannot give. So rows are cut into blocks of some
hundred kilobytes to megabytes that are read in one request; the blocks are permuted over the whole table, and stories
move within a window that slides over the permuted blocks. At any time one window of blocks is in memory, blocks
enter and leave it one by one, and a resumed epoch has to read again just the window it stopped in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ORDER_VERSION = 1
"""Changes whenever the same seed and epoch give another order, or other pictures."""

BLOCKS = 1024
BLOCK_BYTES = (1 << 20, 4 << 20)
"""A table is cut into so many blocks, within these limits of size: smaller ones cost requests, larger ones memory."""

OVERHANG = 4
"""Windows that start in a block reach beyond it; blocks are at least so many times longer, to bound what is read
twice."""

WINDOW_SHARE = 0.04
WINDOW_BYTES = (8 << 20, 128 << 20)
"""The share of a table that is mixed at a time, within these limits: the memory of a reader, and what a resumed one
reads again."""

FAR, FEW = 0.32, 32
"""More than a few things are moved by this share of their number on average; 1/3 is what chance would give."""

_SHUFFLE, _DRAW = 1, 2


def blocks(row_bytes: Ints, length: int, *, largest: bool = False) -> Ints:
    """The block of each row.

    Args:
        row_bytes: bytes of the pictures of each row, (R,).
        length: rows that a story takes.
        largest: take the largest size at once, for rows that are read in their order.

    Returns:
        int64 (R,), ascending from 0 without gaps.
    """
    total = int(row_bytes.sum())
    size = BLOCK_BYTES[1] if largest else min(max(total / BLOCKS, BLOCK_BYTES[0]), BLOCK_BYTES[1])
    count = max(1, min(round(total / size), len(row_bytes) // max(1, OVERHANG * (length - 1))))
    before = np.cumsum(row_bytes) - row_bytes
    cut: Ints = np.minimum(before * count // max(1, total), count - 1)
    # a row larger than a block leaves gaps
    return np.concatenate([[0], np.cumsum(np.diff(cut) > 0)]) if len(cut) else cut


def window_of(row_bytes: Ints, block_of_row: Ints) -> int:
    """How many blocks are mixed at a time."""
    if not len(row_bytes):
        return 1
    total, count = int(row_bytes.sum()), int(block_of_row[-1]) + 1
    size = min(max(total * WINDOW_SHARE, WINDOW_BYTES[0]), WINDOW_BYTES[1])
    return max(1, round(size * count / max(1, total)))


def shuffled(block: Ints, window: int, seed: int, epoch: int, lap: int = 0) -> Ints:
    """The order of an epoch.

    Args:
        block: the block of each story, (S,).
        window: blocks mixed at a time.
        seed: of the permutation.
        epoch: number of the epoch.
        lap: how often the stories were gone through within the epoch before.

    Returns:
        a permutation of the stories, int64 (S,).
    """
    draw = np.random.default_rng([_SHUFFLE, seed, epoch, lap])
    count = int(block.max(initial=-1)) + 1
    if window >= count:
        return _permutation(draw, len(block))
    turn = _permutation(draw, count)[block]
    return np.argsort(turn + window * draw.random(len(block)), kind="stable")


def _permutation(draw: np.random.Generator, count: int) -> Ints:
    """A permutation drawn anew until it moves things far: a shuffle of few blocks can fall short by chance."""
    while True:
        found = draw.permutation(count)
        if count < FEW or np.abs(found - np.arange(count)).mean() >= FAR * count:
            return found


def draws(stories: int, seed: int, epoch: int, lap: int = 0) -> Ints:
    """A random number below 2**63 for each story, the same wherever the story stands in the order: int64 (S,)."""
    return np.random.default_rng([_DRAW, seed, epoch, lap]).integers(2**63, size=stories, dtype=np.int64)


def pick(draw: int, place: int, count: int) -> int:
    """A number below `count` for a place of a story: one step of SplitMix64 (Steele et al., OOPSLA 2014)."""
    mixed = (draw + (place + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 31)) % count

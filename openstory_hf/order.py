"""The order of an epoch: a pure function of the table, the seed and the epoch.

A full shuffle asks for rows from all over the files, which a network cannot give. So rows are cut into blocks of a few
megabytes, each one request. The blocks are permuted over the whole table, and some of them are read at a time, each
from its beginning to its end, by turns that are drawn. So the stories of a batch come from as many places as those of
a full shuffle; windows that share frames come soon after each other, but not in one batch; a bounded number of blocks
is in memory; and an epoch that is resumed reads what is left of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ORDER_VERSION = 1
"""Changes whenever the same seed and epoch give another order, or other pictures."""

BLOCKS = 1024
BLOCK_BYTES = (1 << 20, 4 << 20)
BLOCK_ROWS = 16
"""A table is cut into so many blocks, within these limits of size, and of at least so many rows: smaller ones cost
requests, larger ones memory."""

OVERHANG = 4
"""Windows that start in a block reach beyond it; blocks are at least so many times longer, to bound what is read
twice."""

AT_A_TIME = 32
AT_A_TIME_BYTES = 128 << 20
"""Blocks that are read at a time: at most so many, of so many bytes in all, and a third of the table."""

SMALL = 32 << 20
"""A table of so few bytes is shuffled fully."""

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
    rows = max(BLOCK_ROWS, OVERHANG * (length - 1))
    count = max(1, min(round(total / size), len(row_bytes) // rows))
    before = np.cumsum(row_bytes) - row_bytes
    cut: Ints = np.minimum(before * count // max(1, total), count - 1)
    # a row larger than a block leaves gaps
    return np.concatenate([[0], np.cumsum(np.diff(cut) > 0)]) if len(cut) else cut


def at_a_time(row_bytes: Ints, block_of_row: Ints) -> int:
    """How many blocks are read at a time; 0 for all of a small table."""
    total, count = int(row_bytes.sum()), int(block_of_row.max(initial=-1)) + 1
    if total <= SMALL:
        return 0
    return max(1, min(AT_A_TIME, AT_A_TIME_BYTES * count // total, count // 3))


def shuffled(block: Ints, width: int, seed: int, epoch: int, lap: int = 0) -> Ints:
    """The order of an epoch.

    Args:
        block: the block of each story, (S,).
        width: blocks read at a time, 0 for a full shuffle.
        seed: of the permutation.
        epoch: number of the epoch.
        lap: how often the stories were gone through within the epoch before.

    Returns:
        a permutation of the stories, int64 (S,).
    """
    draw = np.random.default_rng([_SHUFFLE, seed, epoch, lap])
    if not width:
        return _permutation(draw, len(block))
    _, block = np.unique(block, return_inverse=True)  # filters can empty blocks
    sizes = np.bincount(block)
    by_block = np.argsort(block, kind="stable")
    place = np.empty(len(block))
    place[by_block] = np.arange(len(block)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = _permutation(draw, len(sizes))
    # a block begins at its turn, and its stories are spread over the next `width` turns, one in each equal part
    return np.argsort(turn[block] + width * (place + draw.random(len(block))) / sizes[block], kind="stable")


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

"""The order of an epoch: a pure function of the table, the seed and the epoch.

A full shuffle asks for rows from all over the files, which a network cannot give. So the rows of every file are cut
into blocks of some megabytes. The blocks are permuted over the whole table, and some of them are read at a time, each
from its beginning to its end, by turns that are drawn. So the stories of a batch come from as many places as those of
a full shuffle; windows that share frames come soon after each other, but not in one batch; a bounded number of blocks
is in memory; and an epoch that is resumed reads what is left of them.

Nothing here is as large as the number of stories, but for a full shuffle: which stories stand at some positions is
worked out when it is asked for, from a few numbers for each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openstory_hf.layout import Layout, narrow

Ints = NDArray[np.int64]

ORDER_VERSION = 2
"""Changes whenever the same seed and epoch give another order, or other pictures."""

BLOCKS = 1024
BLOCK_BYTES = (1 << 20, 24 << 20)
BLOCK_ROWS = 16
"""A table is cut into so many blocks, within these limits of size, and of at least so many rows: of fewer, stories
would come from fewer places; of smaller ones, each takes a request."""

PIECE_BYTES = 4 << 20
"""A block is read in pieces of about so many bytes, each of which is one request: larger ones cost memory."""

OVERHANG = 4
"""Windows that start in a block reach beyond it; blocks and pieces are at least so many times longer, to bound what is
read twice."""

AT_A_TIME = 32
AT_A_TIME_BYTES = 128 << 20
"""Blocks that are read at a time: at most so many, with pieces of so many bytes in all, and a third of the table."""

SMALL = 32 << 20
"""A table of so few bytes is shuffled fully."""

FAR, FEW, MANY = 0.32, 32, 100_000
"""More than a few things are moved by this share of their number on average; 1/3 is what chance would give, and gives
with many."""

_SHUFFLE, _DRAW, _PICTURE = 1, 2, 3
_FILES = 256
"""Files that are cut into blocks in one go."""
_TURNS, _CELLS = 1 << 16, 1 << 20
"""Turns, and turns times blocks, that are looked at in one go."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How the rows of a table are cut.

    Args:
        first: first row of each block, and behind the last one the number of rows, int32 or int64 (B + 1,).
        pieces: number of pieces of each block, int32 (B,).
        bytes: of all of them.
    """

    first: NDArray[Any]
    pieces: NDArray[np.int32]
    bytes: int

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def at_a_time(self) -> int:
        """How many blocks are read at a time; 0 for all of a small table."""
        if self.bytes <= SMALL:
            return 0
        return max(1, min(AT_A_TIME, AT_A_TIME_BYTES * int(self.pieces.sum()) // self.bytes, len(self) // 3))

    def rows(self, blocks: NDArray[Any]) -> tuple[Ints, Ints]:
        """First row of each of these blocks and the first behind it, int64: there is room to count on from them."""
        return self.first[blocks].astype(np.int64), self.first[blocks + 1].astype(np.int64)


def blocks(layout: Layout, length: int, *, largest: bool = False, piece_bytes: int = PIECE_BYTES) -> Blocks:
    """Cut a table into blocks.

    Args:
        layout: of the table.
        length: rows that a story takes.
        largest: take the largest size at once, for rows that are read in their order.
        piece_bytes: of the pieces.
    """
    total, kind = int(layout.sizes[-1]), narrow(len(layout))
    size = BLOCK_BYTES[1] if largest else min(max(total / BLOCKS, BLOCK_BYTES[0]), BLOCK_BYTES[1])
    overhang = max(1, OVERHANG * (length - 1))
    first, pieces = [np.zeros(0, kind)], [np.zeros(0, np.int32)]
    for part in layout.parts(_FILES):
        begun = _begun(part, size, max(BLOCK_ROWS, overhang))
        first.append(begun[:-1].astype(kind))
        many = np.minimum(np.round(np.diff(part.bytes_before(begun)) / piece_bytes), np.diff(begun) // overhang)
        pieces.append(np.maximum(many, 1).astype(np.int32))
    first.append(layout.files[-1:].astype(kind))
    return Blocks(first=np.concatenate(first), pieces=np.concatenate(pieces), bytes=total)


def _begun(layout: Layout, size: float, least: int) -> Ints:
    """First row of each block, and behind the last; the blocks of a file have as many bytes as each other."""
    before = layout.bytes_before(layout.files)
    rows, sizes = np.diff(layout.files), np.diff(before)
    count = np.maximum(1, np.minimum(np.round(sizes / size).astype(np.int64), rows // least))
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    wanted = np.repeat(before[:-1], count) + number * np.repeat(sizes / count, count)
    first = np.interp(wanted, layout.sizes, layout.groups).astype(np.int64)
    first[number == 0] = layout.files[:-1]
    return np.unique(np.append(first, layout.files[-1]))


def piece_bytes(width: int) -> int:
    """Bytes of a piece where so many blocks are read at a time: fewer blocks leave memory for fewer requests."""
    return min(max(AT_A_TIME_BYTES // width, PIECE_BYTES), BLOCK_BYTES[1])


class Order(Protocol):
    """The stories of an epoch by their number in file order."""

    def at(self, start: int, stop: int) -> Ints:
        """The stories at the positions [start, stop), int64."""


class InOrder:
    """Stories in the order of the files."""

    def at(self, start: int, stop: int) -> Ints:
        """As `Order.at`."""
        return np.arange(start, stop)


class Freely:
    """A permutation of all stories, which takes 4 bytes for each.

    Args:
        stories: their number.
        seed: of the permutation.
        epoch: number of the epoch.
        lap: how often the stories were gone through within the epoch before.
    """

    def __init__(self, stories: int, seed: int, epoch: int, lap: int = 0) -> None:
        self._found = _permutation(np.random.default_rng([_SHUFFLE, seed, epoch, lap]), stories)

    def at(self, start: int, stop: int) -> Ints:
        """As `Order.at`."""
        return self._found[start:stop].astype(np.int64)


class ByBlocks:
    """Blocks in a permuted order, some of them at a time, each from its beginning to its end.

    A block begins at its turn. Its stories are spread over that and the next `width - 1` turns, evenly but for a
    drawn offset, and the stories of a turn come in an order that is drawn.

    Args:
        before: stories before each block, and behind the last one their number, (B + 1,).
        width: blocks read at a time, at least 1.
        seed: of the permutation.
        epoch: number of the epoch.
        lap: how often the stories were gone through within the epoch before.
    """

    def __init__(self, before: NDArray[Any], width: int, seed: int, epoch: int, lap: int = 0) -> None:
        draw = np.random.default_rng([_SHUFFLE, seed, epoch, lap])
        turns = np.flatnonzero(before[1:] > before[:-1]).astype(np.int32)  # filters can empty blocks
        turns = turns[_permutation(draw, len(turns))]
        self._first = before[turns]
        self._size = (before[turns + 1] - self._first).astype(np.int32, copy=False)
        self._width = max(1, min(width, len(turns)))
        self._offset = draw.random(len(turns), dtype=np.float32)
        self._salt = int(draw.integers(2**63))
        self._before = np.zeros(len(turns) + self._width, before.dtype)
        for some in range(0, len(turns), _TURNS):
            here = slice(some, min(some + _TURNS, len(turns)))
            done = np.zeros(here.stop - some, np.int32)
            for step in range(self._width):
                more = self._done(step + 1, here)
                self._before[some + step + 1 : here.stop + step + 1] += more - done
                done = more
        np.cumsum(self._before, out=self._before)

    def _done(self, step: int | Ints, turn: slice | Ints) -> NDArray[np.int32]:
        """How many stories of the blocks with these turns come in the first steps of their time."""
        size = self._size[turn]
        done = np.clip(np.ceil(size * (step / self._width) - self._offset[turn]), 0, size)
        return np.asarray(done, np.int32)

    def at(self, start: int, stop: int) -> Ints:
        """As `Order.at`."""
        if start >= stop:
            return np.zeros(0, np.int64)
        first = int(np.searchsorted(self._before, start, side="right")) - 1
        last = int(np.searchsorted(self._before, stop, side="left"))
        at_once = max(1, _CELLS // self._width)
        parts = [self._turns(turn, min(turn + at_once, last)) for turn in range(first, last, at_once)]
        skipped = start - int(self._before[first])
        return np.concatenate(parts)[skipped : skipped + stop - start]

    def _turns(self, first: int, last: int) -> Ints:
        """The stories of the turns [first, last)."""
        # each of these turns is step 0 of its own block, step 1 of the block before, ...
        step = np.tile(np.arange(self._width), last - first)
        own = np.repeat(np.arange(first, last), self._width) - step
        there = (own >= 0) & (own < len(self._size))
        step, own = step[there], own[there]
        low, high = self._done(step, own), self._done(step + 1, own)
        count = high - low
        cell = np.repeat(np.arange(len(count)), count)
        number = np.arange(len(cell)) - np.repeat(np.cumsum(count) - count, count)
        stories = self._first[own][cell] + low[cell] + number
        turn = (own + step)[cell] - first
        key = (turn.astype(np.uint64) << np.uint64(32)) | (_mixed(stories, self._salt) >> np.uint64(32))
        mixed = np.argsort(key, kind="stable")
        # where a block has several stories in a turn, they share out their places among them in ascending order
        found: Ints = np.empty_like(stories)
        found[np.argsort(cell[mixed], kind="stable")] = stories
        return found


def _permutation(draw: np.random.Generator, count: int) -> NDArray[np.integer]:
    """A permutation drawn anew until it moves things far: a shuffle of few blocks can fall short by chance."""
    plain = np.arange(count, dtype=narrow(count))
    while True:
        found = draw.permutation(plain)
        if not FEW <= count < MANY or np.abs(found - plain).mean() >= FAR * count:
            return found


def draws(stories: Ints, seed: int, epoch: int, lap: int = 0) -> Ints:
    """A random number below 2**63 for each story, the same wherever the story stands in the order: int64 (S,)."""
    return np.asarray(_mixed(stories, _salt(_DRAW, seed, epoch, lap)) >> np.uint64(1), np.int64)


def picture_draw(seed: int, epoch: int, lap: int = 0) -> int:
    """A random number below 2**63, with which `pick` chooses the picture of each frame for all stories of an epoch."""
    return _salt(_PICTURE, seed, epoch, lap)


def _salt(purpose: int, seed: int, epoch: int, lap: int) -> int:
    return int(np.random.default_rng([purpose, seed, epoch, lap]).integers(2**63))


def _mixed(numbers: Ints, salt: int) -> NDArray[np.uint64]:
    """Random numbers below 2**64, as `pick` makes them."""
    mixed = np.uint64(salt) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def pick(draw: int, place: int, count: int) -> int:
    """A number below `count` for a place of a story or table: one step of SplitMix64 (Steele et al., OOPSLA 2014)."""
    mixed = (draw + (place + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 31)) % count

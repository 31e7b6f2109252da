"""What is read when: the order of the stories of an epoch, and the runs of rows that some of them ask for.

It is made of the layout of a table alone, so what any rank and worker will read can be told without the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openstory_hf import order
from openstory_hf.layout import Layout, narrow
from openstory_hf.order import ByBlocks, Freely, InOrder, Order
from openstory_hf.selection import Places, Selection
from openstory_hf.stream import Intervals, cut, size_of

Ints = NDArray[np.int64]
Shuffle = bool | int | Literal["full"]

SEGMENT = 1 << 17
"""Stories that are planned at once. Where one segment ends and the next begins, the pieces in use are read again."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The runs of rows that stories are read in.

    Args:
        places: of the stories.
        run: of each story, by its place in the other two, (S,).
        block: of each run, in the order in which they are first used, (R,).
        first: its first row, (R,).
        stop: behind its last, (R,).
    """

    places: Places
    run: Ints
    block: Ints
    first: Ints
    stop: Ints


class Schedule:
    """The stories of a request and the pieces of the table that hold them.

    Args:
        layout: of the table that is read.
        selection: the stories.
        shuffle: see `load_stories`.
        seed: of the shuffle.
    """

    def __init__(self, layout: Layout, selection: Selection, shuffle: Shuffle, seed: int) -> None:
        self.selection, self.shuffle, self.seed = selection, shuffle, seed
        piece_bytes = order.piece_bytes(shuffle) if type(shuffle) is int else order.PIECE_BYTES
        self.blocks = order.blocks(layout, selection.span, largest=not shuffle, piece_bytes=piece_bytes)
        # blocks of stories: those that begin in the rows of a block
        before = selection.before(self.blocks.first) if len(selection) else np.zeros(1, np.int64)
        self._first_story = before.astype(narrow(len(selection)), copy=False)
        self._pieces = int(self.blocks.pieces.sum(dtype=np.int64))
        self._first_piece = np.cumsum(self.blocks.pieces, dtype=narrow(self._pieces))
        self._first_piece -= self.blocks.pieces

    def __len__(self) -> int:
        return len(self.selection)

    @property
    def at_a_time(self) -> int:
        """Blocks that are read at a time, 0 for all of them."""
        if self.shuffle is True:
            return self.blocks.at_a_time
        return 0 if self.shuffle == "full" else max(1, int(self.shuffle))

    def order(self, epoch: int, lap: int = 0) -> Order:
        """The order of an epoch.

        `lap` counts how often a mixture went through the stories within the epoch before.
        """
        if not self.shuffle:
            return InOrder()
        if not self.at_a_time:
            return Freely(len(self), self.seed, epoch, lap)
        return ByBlocks(self._first_story, self.at_a_time, self.seed, epoch, lap)

    def segments(self, intervals: Intervals) -> Iterator[Intervals]:
        """Positions in the portions in which they are planned and read."""
        for start in range(0, size_of(intervals), SEGMENT):
            yield cut(intervals, start, start + SEGMENT)

    def block_of(self, numbers: Ints) -> Ints:
        """The block that each story begins in, (S,)."""
        by_number = np.argsort(numbers)  # looking up neighbours one after the other is faster
        found = np.empty_like(by_number)
        found[by_number] = np.searchsorted(self._first_story, numbers[by_number], side="right") - 1
        return found

    def pieces(self, numbers: Ints, block: Ints) -> Ints:
        """The piece of the table that each story of some blocks begins in, numbered through the table, (S,)."""
        first, stories = self._first_story[block], self._first_story[block + 1] - self._first_story[block]
        inside = (numbers - first) * self.blocks.pieces[block] // stories
        return np.asarray(self._first_piece[block] + inside, np.int64)

    def reads(self, numbers: Ints, group: Ints | None = None) -> Reads:
        """The runs of rows that stories are read in: of each piece, as much as they take.

        Args:
            numbers: the stories in the order in which they are read, (S,).
            group: number of the reader of each story, (S,), where several do not share what they read.
        """
        places, block = self.selection.places(numbers), self.block_of(numbers)
        piece = self.pieces(numbers, block)
        if group is not None:
            piece = group * self._pieces + piece
        _, began, run = np.unique(piece, return_index=True, return_inverse=True)
        by_use = np.argsort(began)
        rank = np.empty_like(by_use)
        rank[by_use] = np.arange(len(by_use))
        run = rank[run]
        sort = np.argsort(run, kind="stable")
        starts = np.flatnonzero(np.diff(run[sort], prepend=-1))
        last = places.row + places.rows
        if not len(numbers):
            return Reads(places=places, run=run, block=starts, first=starts, stop=starts)
        return Reads(
            places=places,
            run=run,
            block=block[began[by_use]],
            first=np.minimum.reduceat(places.row[sort], starts),
            stop=np.maximum.reduceat(last[sort], starts),
        )

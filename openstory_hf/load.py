"""Reading a built dataset: published stories, or windows of any length over the frames, one dictionary each.

`load_stories` reads the table that answers the request with the fewest bytes: `stories` for published stories with
their key pictures, `frames` (each stored once) for windows of another length or another choice of picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa

from openstory_hf import order
from openstory_hf.assemble import ADDED, CAPTIONS, RANDOM, Assembly, FrameChoice
from openstory_hf.errors import UsageError
from openstory_hf.folder import BuiltFolder
from openstory_hf.forecast import Forecast, forecast, shares
from openstory_hf.order import Ints, Order
from openstory_hf.references import POLICIES
from openstory_hf.rows import RowReader
from openstory_hf.schedule import SEGMENT, Reads, Schedule, Shuffle
from openstory_hf.schema import STORIES
from openstory_hf.selection import Where, describe, select
from openstory_hf.sources import PLACES, picture_source
from openstory_hf.stream import ElasticStream, Intervals, as_torch

AT_ONCE = 1024
"""Stories of which the numbers are brought into Python at a time."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `load_stories` was asked for; see there."""

    path: str
    split: str
    length: int | None
    stride: int
    frame: FrameChoice
    captions: str
    where: Where
    columns: tuple[str, ...]
    shuffle: Shuffle
    seed: int
    decode: bool
    rank: int | None
    world_size: int | None


def load_stories(
    path: str,
    split: str = "train",
    *,
    length: int | None = None,
    stride: int = 1,
    frame: FrameChoice = "middle",
    captions: str = "original",
    where: Where | None = None,
    columns: Iterable[str] | None = None,
    shuffle: Shuffle = False,
    seed: int = 0,
    decode: bool = False,
    revision: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> StoryStream:
    """Stream stories from a built dataset.

    The order is a pure function of (dataset, request, seed, epoch). Ranks and DataLoader workers get disjoint shares
    that together are complete, and `state_dict` is exact: see `stream`. With `accelerate`, do not pass the DataLoader
    to `prepare`, or give rank=0 and world_size=1: it would share out what is shared out already.

    Args:
        path: a folder written by `openstory build`; `user/repo` of the Hub; or a URL that fsspec knows.
        split: which split.
        length: frames per story; None for the published stories. Any length works where a `frames` table exists;
            otherwise windows are cut inside the published stories.
        stride: frames between the starts of successive windows; only with `length`.
        frame: which picture of a frame that has several: "middle" (the one published stories show), "random" (drawn
            for each story, anew each epoch), "random-per-epoch" (drawn for each frame, anew each epoch: windows that
            share a frame show the same picture of it, which a collator with `cache_mb` decodes once), a number, or
            "all" (then `images` and `instances` have one list per frame).
        captions: what the added column `texts` holds: "original", "referential" (the stored policy), "random" (one of
            these two for each story, drawn anew each epoch), or the name of a policy. Windows are rewritten as they
            are cut: the first frame of each keeps its names.
        where: which stories to keep; decided without touching a picture.
        columns: the columns to give, all by default; fewer are faster. `story_id` and `draw` are always given.
        shuffle: permute the stories, anew each epoch. True reads up to 32 permuted blocks of the dataset at a time,
            each from beginning to end, by turns that are drawn: batches as mixed as a full shuffle's, at most 128 MB
            of pictures in memory, and frames that windows share come soon after each other. A number is that of the
            blocks. "full" permutes the stories freely, which asks for a local folder. See `order`.
        seed: of the shuffle, of random frames and of `draw`.
        decode: give PIL images; otherwise {"bytes", "path"}, which the collators decode where the pixels are needed.
        revision: branch, tag or commit of a repository of the Hub.
        rank: of this process; taken from torch.distributed when it is initialised.
        world_size: number of processes, likewise.

    Returns:
        An iterable of rows with the columns of `schema.STORIES` and two more: `texts`, and `draw`, a random number
        below 2**63 for this story in this epoch, which collators make their random choices by. It is a `torch`
        IterableDataset when torch has been imported.

    Raises:
        OutputError: if the folder is not a finished build.
        UsageError: for an unknown split, policy, column or frame choice, or if there are no such stories.
    """
    folder = BuiltFolder(path, revision)
    request = Request(
        path=folder.path,
        split=folder.split(split),
        length=length,
        stride=stride,
        frame=frame,
        captions=captions,
        where=where or Where(),
        columns=tuple((*STORIES, *ADDED) if columns is None else dict.fromkeys(("story_id", *columns, "draw"))),
        shuffle=shuffle,
        seed=seed,
        decode=decode,
        rank=rank,
        world_size=world_size,
    )
    stream: StoryStream = as_torch(StoryStream(request, folder))
    return stream


class StoryStream(ElasticStream):
    """The iterable that `load_stories` returns."""

    def __init__(self, request: Request, folder: BuiltFolder) -> None:
        super().__init__(request.seed, request.rank, request.world_size)
        self.request = request
        self._order: tuple[Any, Any] = None, None
        self._folder = folder
        _check(request)
        selection = select(
            folder,
            request.split,
            length=request.length,
            stride=request.stride,
            key_only=request.frame == "middle",
            where=request.where,
        )
        if selection.table == "stories" and request.frame not in ("middle", *RANDOM, "all", 0):
            raise UsageError(f"frame={request.frame}, but frames of {request.path} have one picture, number 0")
        layout = folder.layout(selection.table, request.split)
        self.schedule = Schedule(layout, selection, request.shuffle, request.seed)
        pa.default_memory_pool().release_unused()  # what contents and columns were decoded into
        self._assembly = Assembly(
            table=selection.table,
            columns=request.columns,
            frame=request.frame,
            captions=request.captions,
            decode=request.decode,
            cast=folder.cast(),
            policy=folder.manifest["referential_text"]["policy"],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        rank, world_size = self._ranks()
        request = replace(self.request, rank=rank, world_size=world_size)
        return _restored, (request, self._shared, self._loaded, self._loaded_by)

    @property
    def num_stories(self) -> int:
        """Stories of an epoch, over all ranks and workers."""
        return len(self.schedule)

    @property
    def identity(self) -> dict[str, Any]:
        """Whatever decides the order and the content of the stories, as JSON."""
        request = self.request
        names = ("split", "length", "stride", "frame", "captions", "shuffle", "seed")
        return {
            "data": self._folder.fingerprint,
            "order_version": order.ORDER_VERSION,
            **{name: getattr(request, name) for name in names},
            "where": describe(request.where),
        }

    def order(self, epoch: int, lap: int = 0) -> Order:
        """The order of the stories of an epoch; see `Schedule.order`."""
        if self._order[0] != (epoch, lap):
            self._order = (epoch, lap), self.schedule.order(epoch, lap)
        order: Order = self._order[1]
        return order

    def forecast(self, ranks: int, workers: int = 0, epoch: int = 0) -> Forecast:
        """What each worker of each rank will read in an epoch, those of rank 0 first; nothing is read for it.

        Args:
            ranks: their number.
            workers: of the DataLoader of each.
            epoch: its number.
        """
        layout = self._folder.layout(self.schedule.selection.table, self.request.split)
        return forecast(self.schedule, layout, shares(self.schedule, ranks, max(1, workers)), epoch)

    def _read(self, intervals: Intervals, epoch: int) -> Iterator[dict[str, Any]]:
        for segment in self.schedule.segments(intervals):
            order = self.order(epoch)
            numbers = np.concatenate([order.at(start, stop) for start, stop in segment])
            yield from self.stories(numbers, epoch)

    def _blocks(self, reads: Reads, rows: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Of each run its block, and the rows of it: those windows that start there take. All is one to "full"."""
        if self.request.shuffle == "full":
            return [0] * len(reads.block), [(0, rows)] * len(reads.block)
        first, stop = self.schedule.blocks.rows(reads.block)
        stop = np.minimum(stop + (self.schedule.selection.span - 1), rows)
        return reads.block.tolist(), list(zip(first.tolist(), stop.tolist(), strict=True))

    def stories(self, numbers: Ints, epoch: int, lap: int = 0) -> Iterator[dict[str, Any]]:
        """Some stories by their number in file order, one after another.

        Args:
            numbers: int64 (S,). Over a network, numbers that lie near each other should come near each other.
            epoch: which decides what is random about a story.
            lap: likewise.
        """
        for start in range(0, len(numbers), SEGMENT):
            part = numbers[start : start + SEGMENT]
            drawn = order.draws(part, self.request.seed, epoch, lap)
            yield from self._segment(part, drawn, order.picture_draw(self.request.seed, epoch, lap))

    def _segment(self, numbers: Ints, drawn: Ints, of_epoch: int) -> Iterator[dict[str, Any]]:
        selection, assembly, folder = self.schedule.selection, self._assembly, self._folder
        reads = self.schedule.reads(numbers)
        index, scattered = folder.index(selection.table, self.request.split), self.request.shuffle == "full"
        published_index = folder.index("stories", self.request.split)
        ordered = not self.request.shuffle or self.schedule.at_a_time > 0  # within a block
        light = RowReader(index, [*assembly.needed, *PLACES], ordered=ordered)
        ids = RowReader(published_index, ["story_id"], ordered=ordered)
        blocks, bounds = self._blocks(reads, len(index))
        begun, left = Counter(blocks), np.bincount(reads.run).tolist()
        runs = zip(reads.first.tolist(), reads.stop.tolist(), strict=True)
        source = picture_source(index, enumerate(runs), scattered=scattered)
        for_all = self.request.frame == "random-per-epoch"
        try:
            for number, first, count, begin, end, run, draw in _in_python(numbers, reads, drawn):
                block = blocks[run]
                if assembly.with_pictures:
                    source.enter(run)  # before the rows: its index comes with it
                rows = light.rows(first, count, block, bounds[run])
                images = partial(source.get, run)
                if selection.table == "stories":
                    yield assembly.from_story(rows, begin, end, images, draw)
                else:
                    at = selection.published(number)
                    named = None if at is None else ids.rows(at, 1, block, (0, len(published_index)))
                    of_frames = (of_epoch, first) if for_all else (draw, 0)
                    yield assembly.from_frames(rows, named.value("story_id") if named else "", images, draw, of_frames)
                left[run] -= 1
                if not left[run]:
                    if assembly.with_pictures:
                        source.leave(run)
                    begun[block] -= 1
                    if not begun[block]:
                        light.leave(block)
                        ids.leave(block)
        finally:
            source.close()


def _in_python(numbers: Ints, reads: Reads, drawn: Ints) -> Iterator[tuple[int, ...]]:
    """Of each story its number, first row, rows, first frame, end of its frames, run and random number."""
    places = reads.places
    columns = (numbers, places.row, places.rows, places.start, places.stop, reads.run, drawn)
    for start in range(0, len(numbers), AT_ONCE):
        yield from zip(*(column[start : start + AT_ONCE].tolist() for column in columns), strict=True)


def _check(request: Request) -> None:
    known = (*CAPTIONS, *POLICIES)
    if request.captions not in known:
        raise UsageError(f"captions={request.captions!r} is not one of {', '.join(known)}")
    if not (request.frame in ("middle", *RANDOM, "all") or _is_number(request.frame)):
        names = ", ".join(f'"{name}"' for name in ("middle", *RANDOM, "all"))
        raise UsageError(f"frame={request.frame!r} is not {names} or a number from 0")
    if (request.length is not None and request.length < 1) or request.stride < 1:
        raise UsageError(f"length={request.length} and stride={request.stride} must be at least 1")
    shuffle = request.shuffle
    if not (isinstance(shuffle, bool) or shuffle == "full" or (_is_number(shuffle) and shuffle > 1)):
        raise UsageError(f'shuffle={shuffle!r} is not False, True, "full" or a number from 2')
    if not _is_number(request.seed):
        raise UsageError(f"seed={request.seed!r} is not a number from 0")
    columns = (*STORIES, *ADDED)
    if unknown := [name for name in request.columns if name not in columns]:
        raise UsageError(f"there is no column {unknown[0]!r}; the columns are {', '.join(columns)}")


def _is_number(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _restored(request: Request, shared: Any, loaded: dict[str, Any] | None, loaded_by: int) -> StoryStream:
    stream: StoryStream = as_torch(StoryStream(request, BuiltFolder(request.path)))
    stream._shared, stream._loaded, stream._loaded_by = shared, loaded, loaded_by
    return stream

"""Reading a built dataset: published stories, or windows of any length over the frames, one dictionary each.

`load_stories` reads the table that answers the request with the fewest bytes: `stories` for published stories with
their key pictures, `frames` (each stored once) for windows of another length or another choice of picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from openstory_hf import pictures, views
from openstory_hf.errors import UsageError
from openstory_hf.folder import BuiltFolder, RowReader
from openstory_hf.references import POLICIES, rewrite

FrameChoice = Literal["middle", "random", "all"] | int

POOL = 4
"""Row groups whose stories are shuffled together: 4 of 24 MB bound the memory, and mix a few hundred stories."""


@dataclass(frozen=True, slots=True)
class Item:
    """One story to read: rows [row, row + rows) of the table, and of their frames [start, stop)."""

    row: int
    rows: int
    start: int
    stop: int
    story_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `load_stories` was asked for; see there."""

    path: str
    split: str
    length: int | None = None
    stride: int = 1
    frame: FrameChoice = "middle"
    captions: str = "original"
    shuffle: bool = False
    seed: int = 0
    decode: bool = False
    rank: int | None = None
    world_size: int | None = None


def load_stories(
    path: str,
    split: str = "train",
    *,
    length: int | None = None,
    stride: int = 1,
    frame: FrameChoice = "middle",
    captions: str = "original",
    shuffle: bool = False,
    seed: int = 0,
    decode: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
) -> StoryStream:
    """Stream stories from a built dataset.

    Args:
        path: a folder written by `openstory build`, or an fsspec URL of one.
        split: which split.
        length: frames per story; None for the published stories. Any length works where a `frames` table exists;
            otherwise windows are cut inside the published stories.
        stride: frames between the starts of successive windows; only with `length`.
        frame: which picture of a frame that has several: "middle" (the one published stories show), "random" (drawn
            anew each epoch), a number, or "all" (then `images` and `instances` have one list per frame).
        captions: what the added column `texts` holds: "original", "referential" (the stored policy), or the name of
            a policy. Windows are rewritten as they are cut: the first frame of each keeps its names.
        shuffle: permute row groups, and stories within pools of them, anew each epoch; a pure function of
            (dataset, seed, epoch).
        seed: of the shuffle and of random frames.
        decode: give PIL images; otherwise {"bytes", "path"}, which the collators decode where the pixels are needed.
        rank: of this process; taken from torch.distributed when it is initialised.
        world_size: number of processes, likewise.

    Returns:
        An iterable of rows with the columns of `schema.STORIES` and `texts`. It is a `torch` IterableDataset when
        torch has been imported; ranks and DataLoader workers get disjoint shares that together are complete.

    Raises:
        OutputError: if the folder is not a finished build.
        UsageError: for an unknown split, policy or frame choice, or a length no sequence has.
    """
    request = Request(
        path=str(path),
        split=split,
        length=length,
        stride=stride,
        frame=frame,
        captions=captions,
        shuffle=shuffle,
        seed=seed,
        decode=decode,
        rank=rank,
        world_size=world_size,
    )
    return _stream(request)


class StoryStream:
    """The iterable that `load_stories` returns. `set_epoch` chooses the epoch; `num_stories` is its size."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.epoch = 0
        self._folder = BuiltFolder(request.path)
        split = self._folder.split(request.split)
        self._check(request)
        self._table, self._items = _plan(self._folder, split, request)
        if self._table == "stories" and request.frame not in ("middle", "random", "all", 0):
            raise UsageError(f"frame={request.frame}, but frames of {request.path} have one picture, number 0")
        self._groups = self._folder.row_groups(self._table, split)
        self._split = split
        self._cast = self._folder.cast()

    @staticmethod
    def _check(request: Request) -> None:
        rank, world = request.rank, request.world_size
        if (rank is None) != (world is None) or (rank is not None and world is not None and not 0 <= rank < world):
            raise UsageError(f"rank={rank} and world_size={world}: give neither, or both with 0 <= rank < world_size")
        if request.captions not in ("original", "referential", *POLICIES):
            choices = ", ".join(("original", "referential", *POLICIES))
            raise UsageError(f"captions={request.captions!r} is not one of {choices}")
        if not (request.frame in ("middle", "random", "all") or (type(request.frame) is int and request.frame >= 0)):
            raise UsageError(f'frame={request.frame!r} is not "middle", "random", "all" or a number from 0')
        if (request.length is not None and request.length < 1) or request.stride < 1:
            raise UsageError(f"length={request.length} and stride={request.stride} must be at least 1")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.request, self.epoch)

    @property
    def num_stories(self) -> int:
        """Stories of an epoch, over all ranks and workers."""
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: another order and other random pictures, if they were asked for.

        A DataLoader with `persistent_workers=True` keeps copies of the stream and does not see the call.
        """
        self.epoch = epoch

    def order(self, epoch: int) -> list[int]:
        """Positions in `_items` in the order of an epoch."""
        if not self.request.shuffle:
            return list(range(len(self._items)))
        draw = np.random.default_rng([self.request.seed, epoch])
        blocks: dict[int, list[int]] = {}
        starts = [group.first_row for group in self._groups]
        for number, item in enumerate(self._items):
            blocks.setdefault(int(np.searchsorted(starts, item.row, side="right")), []).append(number)
        turn = [blocks[key] for key in draw.permutation(sorted(blocks)).tolist()]
        order: list[int] = []
        for at in range(0, len(turn), POOL):
            pool = [number for block in turn[at : at + POOL] for number in block]
            order += draw.permutation(pool).tolist()
        return order

    def __iter__(self) -> Iterator[dict[str, Any]]:
        consumer, consumers = _share(self.request)
        order = self.order(self.epoch)
        mine = order[len(order) * consumer // consumers : len(order) * (consumer + 1) // consumers]
        rows = RowReader(self._folder, self._table, self._split, keep=POOL + 2, groups=self._groups)
        for number in mine:
            item = self._items[number]
            found = rows.get(item.row, item.rows)
            if self._table == "frames":
                yield self._finish(self._from_frames(item, found, number))
            else:
                yield self._finish(self._from_story(item, found[0]))

    def _from_story(self, item: Item, row: dict[str, Any]) -> dict[str, Any]:
        if (item.start, item.stop) != (0, len(row["frame_ids"])):
            cut = views.cut(row, item.start, item.stop)
            row = self._rewritten(cut, self._folder.manifest["referential_text"]["policy"])
        if self.request.frame == "all":
            row = {**row, **{name: [[value] for value in row[name]] for name in ("images", "instances")}}
        return row

    def _from_frames(self, item: Item, frames: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
        first = frames[0]
        start = first["position"]
        chosen = [self._pick(frame, number, at) for at, frame in enumerate(frames)]
        extras = [json.loads(frame["extras"]) if frame["extras"] else {} for frame in frames]
        row = {
            "story_id": item.story_id or f"{first['dataset']}/{first['sequence_id']}#{start}-{start + len(frames)}",
            "dataset": first["dataset"],
            "sequence_id": first["sequence_id"],
            "language": first["language"],
            "license": first["license"],
            "frame_ids": [frame["frame_id"] for frame in frames],
            "captions": [frame["caption"] for frame in frames],
            "characters": [frame["characters"] for frame in frames],
            "setting": [frame["setting"] for frame in frames],
            "instances": [_taken(frame["instances"], pick) for frame, pick in zip(frames, chosen, strict=True)],
            "timestamps": [frame["timestamp"] for frame in frames],
            "source": first["source"],
            "extras": json.dumps({"frames": extras}, ensure_ascii=False, sort_keys=True) if any(extras) else "",
            "images": [_taken(frame["images"], pick) for frame, pick in zip(frames, chosen, strict=True)],
        }
        return self._rewritten(row, self._folder.manifest["referential_text"]["policy"])

    def _pick(self, frame: Mapping[str, Any], number: int, at: int) -> int | None:
        """Which picture of a frame, None for all; random ones depend on (seed, epoch, story, frame) alone."""
        choice, count = self.request.frame, len(frame["images"])
        if choice == "all":
            return None
        if choice == "middle":
            return int(frame["key_image"])
        if choice == "random":
            return int(np.random.default_rng([self.request.seed, self.epoch, number, at]).integers(count))
        if int(choice) >= count:
            raise UsageError(f"frame={choice}, but {frame['frame_id']} has {count} pictures, numbered from 0")
        return int(choice)

    def _rewritten(self, row: dict[str, Any], policy: str) -> dict[str, Any]:
        made = rewrite(row["captions"], row["characters"], self._cast, policy)
        row["referential_captions"] = [entry.text for entry in made]
        row["mentions"] = [[mention.as_row() for mention in entry.mentions] for entry in made]
        return row

    def _finish(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.request.captions in POLICIES:
            row = self._rewritten(dict(row), self.request.captions)
        row["texts"] = row["captions"] if self.request.captions == "original" else row["referential_captions"]
        if self.request.decode:
            row["images"] = [
                [pictures.decode(image) for image in images] if isinstance(images, list) else pictures.decode(images)
                for images in row["images"]
            ]
        return row


def _taken(values: Sequence[Any], pick: int | None) -> Any:
    return list(values) if pick is None else values[pick]


def _plan(folder: BuiltFolder, split: str, request: Request) -> tuple[str, list[Item]]:
    """The table to read and the stories in file order."""
    has_frames = bool(folder.files("frames", split))
    length = request.length
    if length is None and (request.frame == "middle" or not has_frames):
        frame_ids = folder.column("stories", split, ["frame_ids"])["frame_ids"]
        return "stories", [Item(row, 1, 0, len(ids)) for row, ids in enumerate(frame_ids)]
    if not has_frames:
        assert length is not None
        frame_ids = folder.column("stories", split, ["frame_ids"])["frame_ids"]
        items = [
            Item(row, 1, start, start + length)
            for row, ids in enumerate(frame_ids)
            for start in range(0, len(ids) - length + 1, request.stride)
        ]
        return "stories", _some(items, folder, split, length, max(map(len, frame_ids), default=0))
    light = folder.column("frames", split, ["frame_id", "sequence_id", "position"])
    if length is None:
        row_of = {key: row for row, key in enumerate(zip(light["sequence_id"], light["frame_id"], strict=True))}
        columns = ["story_id", "sequence_id", "frame_ids"]
        published = folder.column("stories", split, columns)
        return "frames", [
            Item(row_of[sequence_id, ids[0]], len(ids), 0, len(ids), story_id)
            for story_id, sequence_id, ids in zip(*(published[name] for name in columns), strict=True)
        ]
    items, longest = [], 0
    for first, last in _runs(light["sequence_id"], light["position"]):
        longest = max(longest, last - first)
        items += [Item(row, length, 0, length) for row in range(first, last - length + 1, request.stride)]
    return "frames", _some(items, folder, split, length, longest)


def _some(items: list[Item], folder: BuiltFolder, split: str, length: int, longest: int) -> list[Item]:
    if not items:
        raise UsageError(f"{folder.path}: no sequence of split {split} has {length} frames; the longest has {longest}")
    return items


def _runs(sequence_ids: Sequence[str], positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows [first, last) of every unbroken run of a sequence; a frame left out by the build breaks it."""
    first = 0
    for row in range(1, len(positions) + 1):
        if row == len(positions) or (sequence_ids[row], positions[row]) != (
            sequence_ids[row - 1],
            positions[row - 1] + 1,
        ):
            yield first, row
            first = row


def _share(request: Request) -> tuple[int, int]:
    """(number, count) of this consumer among all ranks and DataLoader workers."""
    rank, world = request.rank, request.world_size
    torch = sys.modules.get("torch")
    if rank is None or world is None:
        rank, world = 0, 1
        if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    worker, workers = 0, 1
    if torch is not None and (here := torch.utils.data.get_worker_info()) is not None:
        worker, workers = here.id, here.num_workers
    return rank * workers + worker, world * workers


def _stream(request: Request) -> StoryStream:
    """A stream, made a torch IterableDataset if torch is there, so that a DataLoader recognises it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return StoryStream(request)
    both = type("StoryStream", (StoryStream, torch.utils.data.IterableDataset), {"__module__": __name__})
    made: StoryStream = both(request)
    return made


def _restored(request: Request, epoch: int) -> StoryStream:
    stream = _stream(request)
    stream.set_epoch(epoch)
    return stream

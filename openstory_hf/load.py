"""Reading a built dataset: published stories, or windows of any length over the frames, one dictionary each.

`load_stories` reads the table that answers the request with the fewest bytes: `stories` for published stories with
their key pictures, `frames` (each stored once) for windows of another length or another choice of picture.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np

from openstory_hf import order, pictures, views
from openstory_hf.errors import UsageError
from openstory_hf.folder import BuiltFolder
from openstory_hf.order import Ints
from openstory_hf.references import POLICIES, rewrite
from openstory_hf.rows import PLACES, PictureSource, RowReader, picture_source, stored_image
from openstory_hf.schema import STORIES, TABLES
from openstory_hf.selection import Selection, Where, describe, select
from openstory_hf.stream import ElasticStream, Intervals, as_torch

FrameChoice = Literal["middle", "random", "all"] | int
Shuffle = bool | Literal["full"]

CAPTIONS = ("original", "referential", "random")
ADDED = ("texts", "draw")
"""Columns that reading adds to those of `schema.STORIES`."""

_PER_FRAME = {
    "frame_ids": "frame_id",
    "captions": "caption",
    "characters": "characters",
    "setting": "setting",
    "timestamps": "timestamp",
}
_OF_FIRST = ("dataset", "sequence_id", "language", "license", "source")
_REWRITTEN = ("referential_captions", "mentions")


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
            anew each epoch), a number, or "all" (then `images` and `instances` have one list per frame).
        captions: what the added column `texts` holds: "original", "referential" (the stored policy), "random" (one of
            these two for each story, drawn anew each epoch), or the name of a policy. Windows are rewritten as they
            are cut: the first frame of each keeps its names.
        where: which stories to keep; decided without touching a picture.
        columns: the columns to give, all by default; fewer are faster. `story_id` and `draw` are always given.
        shuffle: permute the stories, anew each epoch. True moves them within a window of 4 % of the dataset (8 to 128
            MB of pictures) that slides over its permuted blocks, which suits any place. "full" permutes them freely,
            which suits local folders.
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
        self._folder = folder
        _check(request)
        self._selection = select(
            folder,
            request.split,
            length=request.length,
            stride=request.stride,
            key_only=request.frame == "middle",
            where=request.where,
        )
        if self._selection.table == "stories" and request.frame not in ("middle", "random", "all", 0):
            raise UsageError(f"frame={request.frame}, but frames of {request.path} have one picture, number 0")
        index = folder.index(self._selection.table, request.split)
        row_bytes = index.read(["picture_bytes"]).column("picture_bytes").to_numpy()
        span = int(self._selection.rows.max(initial=1))
        block_of_row = order.blocks(row_bytes, span, largest=not request.shuffle)
        self._block = block_of_row[self._selection.row]
        self._window = order.window_of(row_bytes, block_of_row)
        self._cast = folder.cast()
        self._policy = folder.manifest["referential_text"]["policy"]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.request, self._shared, self._loaded, self._loaded_by)

    @property
    def num_stories(self) -> int:
        """Stories of an epoch, over all ranks and workers."""
        return len(self._selection)

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

    def order(self, epoch: int, lap: int = 0) -> Ints:
        """The stories of an epoch, by their number in file order: a permutation, int64 (num_stories,).

        `lap` counts how often a mixture went through the stories within the epoch before.
        """
        request = self.request
        if not request.shuffle:
            return np.arange(len(self._selection))
        window = len(self._selection) if request.shuffle == "full" else self._window
        return order.shuffled(self._block, window, request.seed, epoch, lap)

    def _read(self, intervals: Intervals, epoch: int) -> Iterator[dict[str, Any]]:
        if not intervals:
            return iter(())
        sequence = self.order(epoch)
        return self.stories(np.concatenate([sequence[start:stop] for start, stop in intervals]), epoch)

    def stories(self, numbers: Ints, epoch: int, lap: int = 0) -> Iterator[dict[str, Any]]:
        """Some stories by their number in file order, one after another.

        Args:
            numbers: int64 (S,). Over a network, numbers that lie near each other should come near each other.
            epoch: which decides what is random about a story.
            lap: likewise.
        """
        selection = self._selection
        drawn = order.draws(len(selection), self.request.seed, epoch, lap)
        index = self._folder.index(selection.table, self.request.split)
        light = RowReader(index, [name for name in self._needed() if name not in ("images", "texts", "draw")])
        run_of = self._block[numbers].tolist()
        pictures_of = picture_source(index, self._runs(numbers), list(dict.fromkeys(run_of)))
        left = Counter(run_of)
        try:
            for number, run in zip(numbers.tolist(), run_of, strict=True):
                if self._with_pictures:
                    pictures_of.enter(run)
                yield self._story(selection, number, light, pictures_of, run, int(drawn[number]))
                left[run] -= 1
                if not left[run] and self._with_pictures:
                    pictures_of.leave(run)
        finally:
            pictures_of.close()

    @property
    def _with_pictures(self) -> bool:
        return "images" in self.request.columns

    def _runs(self, numbers: Ints) -> dict[int, tuple[int, int]]:
        """Rows [first, last) that the stories of each block take."""
        selection, block = self._selection, self._block[numbers]
        by_block = np.argsort(block, kind="stable")
        starts = np.flatnonzero(np.diff(block[by_block], prepend=-1))
        row = selection.row[numbers][by_block]
        first = np.minimum.reduceat(row, starts)
        last = np.maximum.reduceat(row + selection.rows[numbers][by_block], starts)
        runs = zip(block[by_block][starts].tolist(), first.tolist(), last.tolist(), strict=True)
        return {run: (start, stop) for run, start, stop in runs}

    def _needed(self) -> list[str]:
        """The columns of the index that the wanted columns are made of."""
        wanted = set(self.request.columns)
        rewriting = "texts" in wanted and self.request.captions != "original"
        if self._selection.table == "stories":
            if self.request.length is not None or self.request.captions in POLICIES:
                rewriting |= bool(wanted & set(_REWRITTEN))
            if rewriting:
                wanted |= {"captions", "characters", "referential_captions"}
            if "texts" in wanted:
                wanted.add("captions")
            wanted |= {"frame_ids"}
            found = [name for name in TABLES["stories"] if name in wanted]
        else:
            rewriting |= bool(wanted & set(_REWRITTEN))
            made_of = {**_PER_FRAME, **{name: name for name in (*_OF_FIRST, "instances", "extras")}}
            needed = {made_of[name] for name in wanted if name in made_of} | {"dataset", "sequence_id", "position"}
            if rewriting or "texts" in wanted:
                needed |= {"caption", "characters"}
            if self.request.frame == "middle":
                needed.add("key_image")
            found = [name for name in TABLES["frames"] if name in needed or name == "frame_id"]
        # how many pictures a frame has is known by their places
        return [*(name for name in found if name != "images"), *PLACES]

    def _story(
        self,
        selection: Selection,
        number: int,
        light: RowReader,
        source: PictureSource,
        run: int,
        draw: int,
    ) -> dict[str, Any]:
        row = int(selection.row[number])
        if selection.table == "stories":
            start, stop = int(selection.start[number]), int(selection.stop[number])
            made = self._from_story(light.get(row), start, stop, source, run)
        else:
            frames = [light.get(at) for at in range(row, row + int(selection.rows[number]))]
            story_id = selection.story_ids[number] if selection.story_ids else ""
            made = self._from_frames(frames, story_id, source, run, draw)
        made["draw"] = draw
        return self._finish(made, draw)

    def _from_story(
        self, values: Mapping[str, Any], start: int, stop: int, source: PictureSource, run: int
    ) -> dict[str, Any]:
        row = {name: value for name, value in values.items() if name not in PLACES}
        places = values["pictures"][start:stop]
        whole = (start, stop) == (0, len(values["frame_ids"]))
        if not whole:
            row = views.cut(row, start, stop)
            if "referential_captions" in row or "mentions" in row:
                row = self._rewritten(row, self._policy)
        if self._with_pictures:
            row["images"] = [stored_image(source, run, values["file"], place) for place in places]
        if self.request.frame == "all":
            row = {
                name: [[value] for value in values] if name in ("images", "instances") else values
                for name, values in row.items()
            }
        return row

    def _from_frames(
        self, frames: Sequence[Mapping[str, Any]], story_id: str, source: PictureSource, run: int, draw: int
    ) -> dict[str, Any]:
        first, wanted = frames[0], self.request.columns
        start = first["position"]
        row: dict[str, Any] = {
            "story_id": story_id or f"{first['dataset']}/{first['sequence_id']}#{start}-{start + len(frames)}"
        }
        row |= {name: first[name] for name in _OF_FIRST if name in first}
        row |= {name: [frame[of] for frame in frames] for name, of in _PER_FRAME.items() if of in first}
        chosen = [self._pick(frame, draw, at) for at, frame in enumerate(frames)]
        if "instances" in wanted:
            row["instances"] = [_taken(frame["instances"], pick) for frame, pick in zip(frames, chosen, strict=True)]
        if "extras" in wanted:
            extras = [json.loads(frame["extras"]) if frame["extras"] else {} for frame in frames]
            row["extras"] = json.dumps({"frames": extras}, ensure_ascii=False, sort_keys=True) if any(extras) else ""
        if self._with_pictures:
            row["images"] = [
                [stored_image(source, run, frame["file"], place) for place in frame["pictures"]]
                if pick is None
                else stored_image(source, run, frame["file"], frame["pictures"][pick])
                for frame, pick in zip(frames, chosen, strict=True)
            ]
        rewriting = any(name in wanted for name in _REWRITTEN)
        if rewriting or ("texts" in wanted and self.request.captions in ("referential", "random")):
            row = self._rewritten(row, self._policy)
        return row

    def _pick(self, frame: Mapping[str, Any], draw: int, at: int) -> int | None:
        """Which picture of a frame, None for all; random ones depend on (seed, epoch, story, frame) alone."""
        choice, count = self.request.frame, len(frame["pictures"])
        if choice == "all":
            return None
        if choice == "middle":
            return int(frame["key_image"])
        if choice == "random":
            return order.pick(draw, at, count)
        if int(choice) >= count:
            raise UsageError(f"frame={choice}, but {frame['frame_id']} has {count} pictures, numbered from 0")
        return int(choice)

    def _rewritten(self, row: dict[str, Any], policy: str) -> dict[str, Any]:
        made = rewrite(row["captions"], row["characters"], self._cast, policy)
        row["referential_captions"] = [entry.text for entry in made]
        row["mentions"] = [[mention.as_row() for mention in entry.mentions] for entry in made]
        return row

    def _finish(self, row: dict[str, Any], draw: int) -> dict[str, Any]:
        """Add what reading adds, in the order of the columns."""
        captions = self.request.captions
        if captions in POLICIES:
            row = self._rewritten(row, captions)
        if captions == "random":
            captions = ("original", "referential")[order.pick(draw, -1, 2)]
        if "texts" in self.request.columns:
            row["texts"] = row["captions"] if captions == "original" else row["referential_captions"]
        if self.request.decode and self._with_pictures:
            row["images"] = [
                [pictures.decode(image) for image in images] if isinstance(images, list) else pictures.decode(images)
                for images in row["images"]
            ]
        return {name: row[name] for name in self.request.columns}


def _taken(values: Sequence[Any], pick: int | None) -> Any:
    return list(values) if pick is None else values[pick]


def _check(request: Request) -> None:
    known = (*CAPTIONS, *POLICIES)
    if request.captions not in known:
        raise UsageError(f"captions={request.captions!r} is not one of {', '.join(known)}")
    if not (request.frame in ("middle", "random", "all") or _is_number(request.frame)):
        raise UsageError(f'frame={request.frame!r} is not "middle", "random", "all" or a number from 0')
    if (request.length is not None and request.length < 1) or request.stride < 1:
        raise UsageError(f"length={request.length} and stride={request.stride} must be at least 1")
    if request.shuffle not in (False, True, "full"):
        raise UsageError(f'shuffle={request.shuffle!r} is not False, True or "full"')
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

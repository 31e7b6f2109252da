"""A story out of rows of a table: columns asked for, pictures chosen, captions rewritten for its window."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from openstory_hf import pictures, views
from openstory_hf.errors import UsageError
from openstory_hf.info import Character
from openstory_hf.order import pick
from openstory_hf.references import POLICIES, rewrite
from openstory_hf.rows import Rows
from openstory_hf.schema import TABLES
from openstory_hf.sources import Place

FrameChoice = Literal["middle", "random", "random-per-epoch", "all"] | int
Images = Callable[[int, Place], dict[str, Any]]
"""Gives the stored picture of a place in a file."""

CAPTIONS = ("original", "referential", "random")
RANDOM = ("random", "random-per-epoch")
"""Choices of pictures that are drawn: for each story, or for each frame and all stories of an epoch that have it."""

ADDED = ("texts", "draw")
"""Columns that reading adds to those of `schema.STORIES`."""

_OF_FRAME = {
    "frame_ids": "frame_id",
    "captions": "caption",
    "characters": "characters",
    "setting": "setting",
    "timestamps": "timestamp",
}
"""Columns of a story that are lists of a column of its frames."""

_OF_FIRST = ("dataset", "sequence_id", "language", "license", "source")
"""Columns that a story takes from its first frame."""

_REWRITTEN = ("referential_captions", "mentions")


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """How stories are put together; see `load_stories` for what the choices mean.

    Args:
        table: "stories" or "frames", where the rows come from.
        columns: of the stories.
        frame: which picture of a frame.
        captions: what `texts` holds.
        decode: give pictures decoded.
        cast: the recurring cast, whose names are replaced.
        policy: of the referential captions that are stored.
    """

    table: str
    columns: tuple[str, ...]
    frame: FrameChoice
    captions: str
    decode: bool
    cast: tuple[Character, ...]
    policy: str

    @property
    def with_pictures(self) -> bool:
        """Whether pictures are wanted at all."""
        return "images" in self.columns

    @cached_property
    def needed(self) -> list[str]:
        """The columns of the table that the wanted ones are made of."""
        wanted = set(self.columns)
        if "texts" in wanted:
            wanted |= {"captions"} if self.captions == "original" else {"captions", *_REWRITTEN}
        if wanted & set(_REWRITTEN):
            wanted |= {"captions", "characters"}
        if self.table == "stories":
            needed = wanted | {"story_id", "frame_ids"}
        else:
            same = {*_OF_FIRST, "instances", "extras"} & wanted
            listed = {of for name, of in _OF_FRAME.items() if name in wanted}
            needed = {"frame_id", "dataset", "sequence_id", "position", "key_image"} | same | listed
        return [name for name in TABLES[self.table] if name in needed and name != "images"]

    def from_story(self, row: Rows, start: int, stop: int, images: Images, draw: int) -> dict[str, Any]:
        """Frames [start, stop) of a row of `stories` as a story of its own.

        Args:
            row: the columns `needed`, and the places of the pictures.
            start: first frame.
            stop: behind the last; -1 for all of them.
            images: gives the pictures.
            draw: the random number of the story.
        """
        story = {name: row.value(name) for name in self.needed}
        frames = len(story["frame_ids"])
        stop = frames if stop < 0 else stop
        if (start, stop) != (0, frames):
            story = views.cut(story, start, stop)
            story = self._rewritten(story, self.policy)
        if self.with_pictures:
            file, places = row.file(), row.value("pictures")[start:stop]
            story["images"] = [place and images(file, place) for place in places]
        if self.frame == "all":
            for name in {"images", "instances"} & story.keys():
                story[name] = [[value] for value in story[name]]
        return self._finished(story, draw)

    def from_frames(
        self, rows: Rows, story_id: str, images: Images, draw: int, of_frames: tuple[int, int]
    ) -> dict[str, Any]:
        """Rows of `frames` as a story.

        Args:
            rows: of consecutive frames: the columns `needed`, and the places of the pictures.
            story_id: of a published story; else "" for one that names the window.
            images: gives the pictures.
            draw: the random number of the story.
            of_frames: the random number that decides about random pictures, and the place that the first frame has
                among those it decides about.

        Raises:
            UsageError: if a frame has no picture of the number asked for.
        """
        if not story_id:
            start = rows.value("position")
            story_id = f"{rows.value('dataset')}/{rows.value('sequence_id')}#{start}-{start + rows.count}"
        story: dict[str, Any] = {"story_id": story_id}
        story |= {name: rows.value(name) for name in _OF_FIRST if name in rows}
        story |= {name: rows.column(of) for name, of in _OF_FRAME.items() if of in rows}
        chosen = [self._chosen(rows, of_frames, at) for at in range(rows.count)]
        if "instances" in rows:
            story["instances"] = _of_pictures(rows, "instances", chosen)
        if "extras" in rows:
            extras = [json.loads(text) if text else {} for text in rows.column("extras")]
            story["extras"] = json.dumps({"frames": extras}, ensure_ascii=False, sort_keys=True) if any(extras) else ""
        if self.with_pictures:
            shown = _of_pictures(rows, "pictures", chosen)
            story["images"] = [
                [place and images(rows.file(at), place) for place in places]
                if isinstance(places, list)
                else places and images(rows.file(at), places)
                for at, places in enumerate(shown)
            ]
        return self._finished(self._rewritten(story, self.policy), draw)

    def _chosen(self, rows: Rows, of_frames: tuple[int, int], at: int) -> int | None:
        """Which picture of a frame, None for all."""
        choice, count = self.frame, rows.length("pictures", at)
        if choice == "all":
            return None
        if choice == "middle":
            return int(rows.value("key_image", at))
        if choice in RANDOM:
            draw, first = of_frames
            return pick(draw, first + at, count)
        if int(choice) >= count:
            raise UsageError(f"frame={choice}, but {rows.value('frame_id', at)} has {count} pictures, numbered from 0")
        return int(choice)

    def _rewritten(self, story: dict[str, Any], policy: str) -> dict[str, Any]:
        """The story with referential captions of its own window, if they are wanted."""
        texts = "texts" in self.columns and self.captions != "original"
        if texts or not set(_REWRITTEN).isdisjoint(self.columns):
            made = rewrite(story["captions"], story["characters"], self.cast, policy)
            story["referential_captions"] = [entry.text for entry in made]
            story["mentions"] = [[mention.as_row() for mention in entry.mentions] for entry in made]
        return story

    def _finished(self, story: dict[str, Any], draw: int) -> dict[str, Any]:
        """Add what reading adds; the columns asked for, in their order."""
        captions = self.captions
        if captions in POLICIES:
            story = self._rewritten(story, captions)
        if captions == "random":
            captions = ("original", "referential")[pick(draw, -1, 2)]
        if "texts" in self.columns:
            # a list of its own: what a consumer does to one column must not change another
            story["texts"] = list(story["captions" if captions == "original" else "referential_captions"])
        story["draw"] = draw
        if self.decode and self.with_pictures:
            story["images"] = [
                [image and pictures.decode(image) for image in shown]
                if isinstance(shown, list)
                else shown and pictures.decode(shown)
                for shown in story["images"]
            ]
        return {name: story[name] for name in self.columns}


def _of_pictures(rows: Rows, name: str, chosen: Sequence[int | None]) -> list[Any]:
    """What a column says of the chosen picture of each row; a list where all of them are chosen."""
    return [
        rows.value(name, at) if number is None else rows.entry(name, at, number) for at, number in enumerate(chosen)
    ]

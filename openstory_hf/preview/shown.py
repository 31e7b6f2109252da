"""What the sheet and the page share: rows as frames to show, a colour for every character, mask overlays."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageFilter

from openstory_hf import masks, pictures
from openstory_hf.errors import reason_of

T = TypeVar("T")
Spans = Sequence[tuple[int, int, T]]  # start, end (exclusive) and what lies there
Row = Mapping[str, Any]
Colour = tuple[int, int, int]
Colours = Mapping[str, Colour]

# Each has a contrast of at least 4.5 to 1 on white. Neighbours differ in hue, because a name whose colour is taken
# moves on to the next.
_HUES = "#c62828 #1565c0 #2e7d32 #8e24aa #b45309 #007982 #c21873 #5e6c00 #4527a0 #794b38 #455a64 #8e6200"
_PALETTE: tuple[Colour, ...] = tuple(ImageColor.getrgb(hue) for hue in _HUES.split())
PAPER, INK, FAINT, MATTE = (255, 255, 255), (28, 27, 25), (112, 108, 102), (236, 233, 227)


def character_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each name, found by a hash of the name; where that is taken, the next free one.

    Returns:
        name -> (red, green, blue), each 0 to 255, readable on white. The order of `names` does not matter; up to 96
        names have different colours.
    """
    colours: dict[str, Colour] = {}
    for name in sorted(set(names)):
        start = zlib.crc32(name.encode("utf-8")) % len(_PALETTE)
        hues = _PALETTE[start:] + _PALETTE[:start]
        shades = (_shade(hue, 0.72**level) for level in range(8) for hue in hues)
        colours[name] = next((shade for shade in shades if shade not in colours.values()), hues[0])
    return colours


class ShownFrame(NamedTuple):
    """One frame of a row, what is absent made empty. Without a `picture`, `gap` says why."""

    number: int
    picture: Image.Image | None
    gap: str
    frame_id: str
    caption: str
    referential: str
    mentions: list[dict[str, Any]]
    characters: list[str]
    setting: str
    instances: list[dict[str, Any]]
    timestamp: float | None
    stored: Any

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) that masks and boxes are measured in, with or without a picture."""
        if self.picture is not None:
            return self.picture.width, self.picture.height
        if found := segmentations(self.instances):
            height, width = found[0][0]["size"]
            return width, height
        boxes = [item["bbox"] for item in self.instances if item.get("bbox")]
        side = math.ceil(max((max(x + w, y + h) for x, y, w, h in boxes), default=128))
        return side, side

    def spans(self, *, referential: bool = False) -> Spans[str]:
        """(start, end, character) of each mention in one of the two captions."""
        start, end = ("ref_start", "ref_end") if referential else ("start", "end")
        return [(mention[start], mention[end], mention["character"]) for mention in self.mentions]


_EMPTY: dict[str, Any] = {
    "frame_ids": "",
    "captions": "",
    "referential_captions": "",
    "mentions": [],
    "characters": [],
    "setting": "",
    "instances": [],
    "timestamps": None,
    "images": None,
}


def shown_frames(row: Row, decode: Callable[[Any], Image.Image] = pictures.decode) -> Iterator[ShownFrame]:
    """The frames of a row; whatever is absent or unreadable is left empty.

    Args:
        row: of the `stories` table.
        decode: how a stored picture becomes a `picture`; `opened` where its size is enough.
    """
    columns = [row.get(name) or [None] * len(row["captions"]) for name in _EMPTY]
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        filled = [empty if value is None else value for value, empty in zip(values, _EMPTY.values(), strict=True)]
        stored, picture, gap = filled[-1], None, ""
        if stored is None or (isinstance(stored, Mapping) and stored["bytes"] is None):
            gap = "no picture"
        else:
            try:
                picture = decode(stored)
            except pictures.UndecodableError:
                gap = "unreadable picture"
        yield ShownFrame(number, picture, gap, *filled)


def opened(stored: Mapping[str, Any]) -> Image.Image:
    """A stored picture of which only the header has been read, unless it must be turned upright.

    Raises:
        UndecodableError: if it has none.
    """
    try:
        image = Image.open(io.BytesIO(stored["bytes"]))
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception as error:  # Pillow's decoders raise many kinds
        raise pictures.UndecodableError(reason_of(error)) from None
    return image if upright else pictures.decode(stored)


def coloured_names(frames: Sequence[ShownFrame]) -> list[str]:
    """Every name that has a colour in a story, in order of appearance: its characters, then its other objects."""
    cast = [name for frame in frames for name in frame.characters]
    cast += [mention["character"] for frame in frames for mention in frame.mentions]
    return list(dict.fromkeys(cast + [name_of(item) for frame in frames for item in frame.instances]))


def name_of(item: Mapping[str, Any]) -> str:
    """The name an instance is coloured by: its character, else its label."""
    return item.get("character") or item.get("label") or ""


def tag_of(item: Mapping[str, Any]) -> str:
    """What the tag of an instance says: its name, and the score if it has one."""
    score = item.get("score")
    return " ".join(name_of(item).split()) + ("" if score is None else f" {score:.2f}")


def segmentations(instances: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(segmentation, instance) of the instances that have a mask; a null struct may come as nulls inside."""
    found = [(item.get("segmentation"), item) for item in instances]
    return [(segmentation, item) for segmentation, item in found if segmentation and segmentation["counts"]]


def tag_corner(item: Mapping[str, Any]) -> Sequence[float] | None:
    """The COCO box that an instance's tag hangs on: its own, or that of its mask."""
    segmented = segmentations([item])
    return item.get("bbox") or (masks.bbox(segmented[0][0]) if segmented else None)


def mask_overlay(
    instances: Sequence[Mapping[str, Any]], colours: Colours, size: tuple[int, int]
) -> Image.Image | None:
    """The masks of a frame as a translucent RGBA picture with firmer outlines, or None if it has none.

    Only pixels of a mask are touched. Large masks are painted first, so that small ones stay visible.
    """
    found = segmentations(instances)
    if not found:
        return None
    overlay = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    outline = ImageFilter.MinFilter(2 * max(1, round(max(size) / 200)) + 1)
    for segmentation, item in sorted(found, key=lambda pair: -masks.area(pair[0])):
        mask = Image.fromarray(masks.decode(segmentation) * 255).resize(size, Image.Resampling.BILINEAR)
        mask = mask.point(lambda value: 255 * (value >= 128))
        overlay[np.asarray(mask) > 0] = (*colours[name_of(item)], 235)
        overlay[np.asarray(mask.filter(outline)) > 0] = (*colours[name_of(item)], 85)
    return Image.fromarray(overlay, "RGBA")


def pieces(text: str, spans: Spans[T]) -> Iterator[tuple[str, list[T]]]:
    """Cut a text where spans begin and end; each piece comes with what covers it ("they" may stand for several)."""
    cuts = {0, len(text)} | {min(max(cut, 0), len(text)) for start, end, _ in spans for cut in (start, end)}
    for first, last in pairwise(sorted(cuts)):
        yield text[first:last], [value for start, end, value in spans if start <= first and last <= end]


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (round(value * factor) for value in colour)
    return red, green, blue


def counted(number: int, one: str, many: str) -> str:
    """As in "1 story", "2,000 stories"."""
    return f"{number:,} {one if number == 1 else many}"


def facts_of(row: Row) -> str:
    """The line below a story's title: dataset, length, language, licence."""
    licence = f"licence {row['license']}" if row.get("license") else "licence not stated"
    parts = (row.get("dataset"), counted(len(row["captions"]), "frame", "frames"), row.get("language"), licence)
    return " · ".join(part for part in parts if part)

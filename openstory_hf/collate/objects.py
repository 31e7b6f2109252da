"""Training items of single frames, whose objects are what a token speaks of, and how these are cut out of pictures.

The words that `CharacterCollator` and `storygpt_v_stage1`, which is its recipe as released, have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from openstory_hf.collate.common import Row
from openstory_hf.collate.pixels import Geometry

Box = tuple[int, int, int, int]
Mask = NDArray[np.uint8]


class Draws(NamedTuple):
    """Everything random about one training item.

    Attributes:
        frame: number of the frame in its story.
        picture: which of the pictures kept for the frame is shown.
        kept: how many pictures were kept for it.
        dropout: uniform in [0, 1), decides on the condition dropout.
        chosen: numbers of objects, the most wanted first; used if there are more than `max_objects`.
        flip: mirror the picture and the masks.
        noise: seed of the noise around the objects.
    """

    frame: int
    picture: int = 0
    kept: int = 1
    dropout: float = 1.0
    chosen: tuple[int, ...] = ()
    flip: bool = False
    noise: int = 0


class Object(NamedTuple):
    """What a token speaks of.

    Attributes:
        position: the token.
        mask: uint8 (h, w), of the stored picture. None where the published loader would find no file.
        box: what is to be cut out, (left, top, right, bottom) in pixels of the stored picture, end exclusive.
        segmap: uint8 (H, W), the mask on the picture that the model sees.
    """

    position: int
    mask: Mask | None
    box: Box
    segmap: Mask


class Plan(NamedTuple):
    """A training item whose picture is not decoded yet: its text, the ids of it, and the objects in rising order."""

    row: Row
    draws: Draws
    text: str
    input_ids: list[int]
    objects: list[Object]


class Item(NamedTuple):
    """One frame as the model is trained on it; `positions`, `boxes`, `objects` and `segmaps` are parallel.

    Attributes:
        frame: number of the frame in its story.
        text: what was tokenised.
        input_ids: L ids, padding included.
        positions: the token of each object, in rising order.
        boxes: (left, top, right, bottom) of what was cut out, in pixels of the stored picture, end exclusive.
        pixels: uint8 (3, H, W).
        objects: uint8 (n, 3, h, w), the cut-out objects.
        segmaps: uint8 (n, H, W), 0 or 1, in the geometry of `pixels`.
    """

    frame: int
    text: str
    input_ids: list[int]
    positions: list[int]
    boxes: list[Box]
    pixels: torch.Tensor
    objects: torch.Tensor
    segmaps: torch.Tensor


def instances_in(row: Row, frame: int, picture: int) -> Sequence[Mapping[str, Any]]:
    """The instances in a picture of a frame; rows of `load_stories(frame="all")` have a list for each picture."""
    instances: Sequence[Any] = row["instances"][frame]
    return instances[picture] if isinstance(row["images"][frame], list) else instances


def segmap(mask: Mask, geometry: Geometry) -> Mask:
    """A mask in the geometry of the picture: uint8 (H, W), 1 where it covers at least half of a new pixel."""
    height, width = geometry.size
    window = Image.fromarray(mask * np.uint8(255)).crop(geometry.window(*mask.shape))
    return (np.asarray(window.resize((width, height), Image.Resampling.BOX)) >= 128).astype(np.uint8)


def box_of(mask: Mask) -> Box:
    """The tight box around a mask that is not empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def inside(box: Box, height: int, width: int) -> Box:
    """The part of a box that slicing takes from an array: negative corners count from the far side."""
    left, right, _ = slice(box[0], box[2]).indices(width)
    top, bottom, _ = slice(box[1], box[3]).indices(height)
    return left, top, max(left, right), max(top, bottom)


def cut_out(picture: NDArray[np.uint8], mask: Mask, box: Box, noise: np.random.Generator) -> NDArray[np.uint8]:
    """A box of a picture (h, w, 3) with noise around the object, padded with black to a square (or a pixel less)."""
    left, top, right, bottom = box
    window = np.s_[top:bottom, left:right]
    around = noise.integers(0, 256, (bottom - top, right - left, 3), dtype=np.uint8)
    cut = np.where(mask[window][:, :, None] != 0, picture[window], around)
    side = max(cut.shape[:2])
    margins = [((side - length) // 2,) * 2 for length in cut.shape[:2]]
    return np.pad(cut, [*margins, (0, 0)])

"""Decoded pictures and masks to a batch, the same for all contenders; and the decoders they use."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from kornia_rs.io import decode_image_png_u8
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg

from benchmarks.loading.source import LENGTH, Masks, Pixels

Decode = Callable[[bytes], Pixels]
Batch = dict[str, Any]
"""`pixel_values` float32 (B, 5, 3, h, w) and `captions`, B lists of 5; with masks, `instance_masks` as in `grids`."""

GRID = 16
"""Rows and columns of a mask."""


class Story(NamedTuple):
    """What a loader makes of a window, before it is in a batch; `masks` is empty where there are none."""

    pictures: Sequence[Pixels | Image.Image]
    captions: list[str]
    masks: Masks = []  # noqa: RUF012, which is never changed


warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # pictures are only read


def pillow(data: bytes) -> Pixels:
    """The decoder of WebDataset, MosaicML Streaming, LitData, Energon and `datasets`."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def fast(data: bytes) -> Pixels:
    """The decoders of openstory_hf: of JPEG, or of PNG, whose size is in its header."""
    if data[:2] == b"\xff\xd8":
        return decode_jpeg(data)
    size = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    return np.asarray(decode_image_png_u8(data, size, "rgb"))


def normalised(pictures: Sequence[Pixels | Image.Image], out: torch.Tensor | None = None) -> torch.Tensor:
    """Pictures of (h, w, 3) to float32 (B, 5, 3, h, w) in [-1, 1], in the memory of `out` if it is given.

    The fastest of ten ways in plain torch and numpy: each picture is scaled while it is in the cache of the processor.
    """
    arrays = [np.asarray(picture) for picture in pictures]
    shape = (len(arrays) // LENGTH, LENGTH, 3, *arrays[0].shape[:2])
    batch = torch.empty(shape) if out is None else out[: shape[0]]
    for place, array in zip(batch.view(-1, *shape[2:]).numpy(), arrays, strict=True):
        place[...] = array.transpose(2, 0, 1)
        place *= np.float32(1 / 127.5)
        place -= np.float32(1)
    return batch


def tensor(picture: Pixels) -> torch.Tensor:
    """What torchvision's ToTensor and Normalize([0.5], [0.5]) make of a picture."""
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous().float().div_(255).sub_(0.5).div_(0.5)


def grids(masks: Sequence[Sequence[dict[str, Any]]]) -> torch.Tensor:
    """The share of each cell of a 16×16 grid that each mask covers: float32 (B, 5, K, 16, 16), padded with 0.

    As pycocotools and numpy do it fastest: one call decodes the masks of a batch, and the cells are summed as bytes.
    """
    from pycocotools import mask as coco

    decoded = coco.decode([rle for of_picture in masks for rle in of_picture]).T  # (masks, w, h)
    count, width, height = decoded.shape
    wide, high = width // GRID, height // GRID
    columns = decoded.reshape(count * GRID, wide, height).sum(axis=1, dtype=np.uint8)
    cells = columns.reshape(count, GRID, GRID, high).sum(axis=3, dtype=np.uint16)
    shares: NDArray[Any] = cells.transpose(0, 2, 1) * np.float32(1 / (wide * high))
    out = np.zeros((len(masks), max(map(len, masks)), GRID, GRID), np.float32)
    first = 0
    for place, of_picture in zip(out, masks, strict=True):
        place[: len(of_picture)] = shares[first : first + len(of_picture)]
        first += len(of_picture)
    return torch.from_numpy(out.reshape(-1, LENGTH, *out.shape[1:]))


def _batch(pixel_values: torch.Tensor, stories: Sequence[Story]) -> Batch:
    batch = {"pixel_values": pixel_values, "captions": [story.captions for story in stories]}
    if stories[0].masks:
        batch["instance_masks"] = grids([of_picture for story in stories for of_picture in story.masks])
    return batch


def stacked(stories: Sequence[Story]) -> Batch:
    """Some stories to a batch, picture by picture."""
    pictures = [torch.stack([tensor(picture) for picture in story.pictures]) for story in stories]
    return _batch(torch.stack(pictures), stories)


def collated(stories: Sequence[Story]) -> Batch:
    """Some stories to a batch."""
    return _batch(normalised([picture for story in stories for picture in story.pictures]), stories)

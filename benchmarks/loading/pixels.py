"""Decoded pictures to a batch, the same for all contenders; and the decoders they use."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from kornia_rs.io import decode_image_png_u8
from numpy.typing import NDArray
from PIL import Image

from benchmarks.loading.source import LENGTH, SIDE

Pixels = NDArray[np.uint8]
Decode = Callable[[bytes], Pixels]
Batch = dict[str, Any]
"""`pixel_values` float32 (B, 5, 3, 128, 128) and `captions`, B lists of 5."""


warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # pictures are only read


def pillow(data: bytes) -> Pixels:
    """The decoder of WebDataset, MosaicML Streaming, LitData and `datasets`."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def kornia(data: bytes) -> Pixels:
    """The decoder of openstory_hf."""
    return np.asarray(decode_image_png_u8(data, (SIDE, SIDE), "rgb"))


def normalised(pictures: Sequence[Pixels | Image.Image]) -> torch.Tensor:
    """Pictures of (128, 128, 3) to float32 (B, 5, 3, 128, 128) in [-1, 1].

    The fastest of six ways in plain torch and numpy: each picture is scaled while it is in the cache of the processor.
    """
    batch = torch.empty(len(pictures), 3, SIDE, SIDE)
    for place, picture in zip(batch, pictures, strict=True):
        place.copy_(torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)).mul_(1 / 127.5).sub_(1)
    return batch.view(-1, LENGTH, 3, SIDE, SIDE)


def tensor(picture: Pixels) -> torch.Tensor:
    """What torchvision's ToTensor and Normalize([0.5], [0.5]) make of a picture."""
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous().float().div_(255).sub_(0.5).div_(0.5)


def stacked(stories: Sequence[tuple[Sequence[Pixels], list[str]]]) -> Batch:
    """(pictures, captions) of some stories to a batch, picture by picture."""
    pictures = [torch.stack([tensor(picture) for picture in story]) for story, _ in stories]
    return {"pixel_values": torch.stack(pictures), "captions": [captions for _, captions in stories]}


def collated(stories: Sequence[tuple[Sequence[Pixels | Image.Image], list[str]]]) -> Batch:
    """(pictures, captions) of some stories to a batch."""
    pictures = [picture for story, _ in stories for picture in story]
    return {"pixel_values": normalised(pictures), "captions": [captions for _, captions in stories]}

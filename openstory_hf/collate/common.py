"""What collators share: pictures to tensors, one geometry for pictures and masks, texts, random draws, padding."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from openstory_hf import masks, pictures
from openstory_hf.errors import UsageError
from openstory_hf.views import frame_texts, row_error

IGNORE = -100
"""Label of a position that is not trained, as `transformers` and `torch.nn.CrossEntropyLoss` have it."""

Resize = Literal["squash", "center_crop", "pad"]
Dtype = Literal["float32", "uint8"]
Row = Mapping[str, Any]
RGB = tuple[float, float, float]


def check_choice(name: str, value: object, choices: Any) -> None:
    """Make sure an option is one of the values of a `Literal`.

    Raises:
        UsageError: naming the option and its possible values.
    """
    if value not in get_args(choices):
        raise UsageError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}")


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Pad rows on the right to the longest: int64 (B, L)."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.int64)


def story_texts(row: Row, column: str | None) -> list[str]:
    """The text of every frame: of the named column; without a name, "texts" in rows that have it, else "captions".

    Raises:
        RowError: if the row has no such column, no frames, or an entry that is not text.
    """
    texts = frame_texts(row, column or ("texts" if row.get("texts") is not None else "captions"))
    if not texts:
        raise row_error(row, "it has no frames; leave such rows out before collating")
    return texts


def generator(row: Row, seed: int) -> np.random.Generator:
    """The random numbers of one story: a pure function of the row and the seed.

    Rows of `load_stories` carry `draw`, a number of their own that changes with the epoch. Rows of a plain
    `load_dataset` have only their `story_id`, and draw the same in every epoch.
    """
    draw = row.get("draw")
    if draw is None:
        digest = hashlib.blake2b(str(row.get("story_id", "")).encode("utf-8", "surrogatepass"), digest_size=8)
        draw = int.from_bytes(digest.digest(), "big")
    return np.random.default_rng([seed, draw])


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How pictures of any size, and their masks, come to one size: a window on the source, scaled.

    Args:
        size: (h, w) of the result in pixels.
        resize: "squash" takes the whole picture, whatever its shape; "center_crop" the largest centred window
            of the target's shape; "pad" the smallest such window that holds the whole picture.
        fill: RGB of what "pad" adds around the picture.
    """

    size: tuple[int, int]
    resize: Resize
    fill: tuple[int, int, int] = (0, 0, 0)

    def window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in source pixels, end exclusive; reaches beyond the source for "pad"."""
        if self.resize == "squash":
            return 0, 0, width, height
        ratios = height / self.size[0], width / self.size[1]
        scale = min(ratios) if self.resize == "center_crop" else max(ratios)
        high, wide = (max(1, round(side * scale)) for side in self.size)
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high

    def picture(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB picture in the new geometry (bicubic, antialiased): uint8 (h, w, 3)."""
        left, top, right, bottom = self.window(image.height, image.width)
        canvas = Image.new("RGB", (right - left, bottom - top), self.fill)
        canvas.paste(image, (-left, -top))
        return np.array(canvas.resize((self.size[1], self.size[0]), Image.Resampling.BICUBIC))

    def coverage(self, rles: Sequence[Mapping[str, Any]], grid: tuple[int, int]) -> NDArray[np.float32]:
        """Share of each cell of a grid laid over the new picture that each mask covers: float32 (K, *grid)."""
        if self.resize != "squash":
            rles = [self._windowed(rle) for rle in rles]
        return masks.grid(rles, grid)

    def _windowed(self, rle: Mapping[str, Any]) -> masks.RLE:
        mask = masks.decode(rle)
        # Pillow fills what lies outside the source with zeros
        return masks.encode(np.asarray(Image.fromarray(mask).crop(self.window(*mask.shape))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """How stored pictures become one tensor.

    Args:
        geometry: the size, and how a picture comes to it.
        mean: per RGB channel, on values in [0, 1].
        std: per RGB channel.
        dtype: "float32" gives normalised values; "uint8" leaves 0 to 255, a quarter of the bytes for a worker to
            send, and `normalize` does the rest on the device.
        threads: threads that decode, 0 for the calling one. The decoders release the interpreter's lock.
    """

    geometry: Geometry
    mean: RGB = (0.5, 0.5, 0.5)
    std: RGB = (0.5, 0.5, 0.5)
    dtype: Dtype = "float32"
    threads: int = 0

    def __call__(self, frames: Sequence[tuple[Row, int]]) -> torch.Tensor:
        """The pictures of some (row, frame number): float32 or uint8 (I, 3, H, W), I = 0 included.

        Raises:
            RowError: naming the story and the frame whose picture is missing or does not decode.
        """
        if not frames:
            kind = torch.uint8 if self.dtype == "uint8" else torch.float32
            return torch.zeros(0, 3, *self.geometry.size, dtype=kind)
        decoded = _pool(self.threads, os.getpid()).map(self._one, frames) if self.threads else map(self._one, frames)
        pixels = torch.from_numpy(np.stack(list(decoded))).permute(0, 3, 1, 2).contiguous()
        return pixels if self.dtype == "uint8" else normalize(pixels, self.mean, self.std)

    def _one(self, frame: tuple[Row, int]) -> NDArray[np.uint8]:
        row, number = frame
        try:
            return self.geometry.picture(pictures.decode(row["images"][number]))
        except pictures.UndecodableError as error:
            raise row_error(row, f"the picture of frame {number} does not decode: {error}") from None


def normalize(pixels: torch.Tensor, mean: RGB = (0.5, 0.5, 0.5), std: RGB = (0.5, 0.5, 0.5)) -> torch.Tensor:
    """(pixels / 255 - mean) / std, on the device of the pixels.

    Args:
        pixels: uint8 (..., 3, H, W).
        mean: per RGB channel, on values in [0, 1].
        std: per RGB channel.

    Returns:
        float32 of the same shape.
    """
    # one multiplication and one addition a value
    scale = torch.tensor([1 / (255 * value) for value in std], device=pixels.device).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=pixels.device).view(3, 1, 1)
    return pixels.float().mul_(scale).add_(shift)


@cache
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Threads for decoding, kept between batches; a forked process makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="openstory-decode")

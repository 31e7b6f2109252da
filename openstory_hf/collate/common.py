"""What collators share: one geometry for pictures and masks, padding, and checks of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from openstory_hf import masks
from openstory_hf.errors import UsageError

IGNORE = -100
"""Label of a position that is not trained, as `transformers` and `torch.nn.CrossEntropyLoss` have it."""

Resize = Literal["squash", "center_crop", "pad"]


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

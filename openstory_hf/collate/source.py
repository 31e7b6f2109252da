"""How a `StoryTensorCollator` reads frames: pictures, perhaps cropped at random, and captions of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from openstory_hf.collate.common import Row, check_choice
from openstory_hf.collate.encoding import check_pads
from openstory_hf.collate.pixels import CLIP_MEAN, CLIP_STD, RGB, Dtype, Geometry, Pixels, Resize, bytes_of, sides
from openstory_hf.errors import UsageError

Fit = Literal["squash", "center_crop", "pad", "random_crop"]
Place = tuple[float, float]
"""Where a crop lies: the share of the room it has across, and down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Geometry):
    """A geometry whose "center_crop" may lie elsewhere: at `place`."""

    place: Place | None = None

    @property
    def shared(self) -> bool:
        """As `Geometry.shared`: a crop at a random place comes but once."""
        return self.place is None

    def window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """As `Geometry.window`."""
        left, top, right, bottom = Geometry.window(self, height, width)
        if self.place is None:
            return left, top, right, bottom
        wide, high = right - left, bottom - top
        left, top = round(self.place[0] * (width - wide)), round(self.place[1] * (height - high))
        return left, top, left + wide, top + high


@dataclass(frozen=True, kw_only=True)
class Source:
    """How the frames of a story are read a second time, as the condition of the frames after them.

    Args:
        tokenizer: a `transformers` tokenizer for the captions, or None for pictures alone.
        image_size: side of the pictures in pixels, or (h, w).
        resize: as in `StoryTensorCollator`.
        image_mean: mean per RGB channel, on values in [0, 1]; by default CLIP's, which BLIP shares.
        image_std: standard deviation per RGB channel.
        pixel_dtype: "float32" (normalised), or "uint8" to `normalize` on the device.

    Raises:
        UsageError: for an option that cannot work at all.
    """

    tokenizer: Any = None
    image_size: int | tuple[int, int] = 224
    resize: Fit = "squash"
    image_mean: RGB = CLIP_MEAN
    image_std: RGB = CLIP_STD
    pixel_dtype: Dtype = "float32"

    _window: ClassVar[type[Window]] = Window

    def __post_init__(self) -> None:
        check_choice("resize", self.resize, Fit)
        check_choice("pixel_dtype", self.pixel_dtype, Dtype)
        if self.tokenizer is not None:
            check_pads(self.tokenizer)

    def geometries(self, crops: Sequence[Place], pictures: int) -> list[Geometry]:
        """The geometry of each picture.

        Args:
            crops: where each picture is cropped; used for "random_crop" alone.
            pictures: how many.

        Raises:
            UsageError: if there are not as many crops as pictures.
        """
        resize: Resize = "center_crop" if self.resize == "random_crop" else self.resize
        size, fill = sides(self.image_size), bytes_of(self.image_mean)
        if self.resize != "random_crop":
            return [self._window(size=size, resize=resize, fill=fill)] * pictures
        if len(crops) != pictures:
            raise UsageError(f"the draws have {len(crops)} crops for {pictures} pictures")
        return [self._window(size=size, resize=resize, fill=fill, place=crop) for crop in crops]

    def pixels(
        self, frames: Sequence[tuple[Row, int]], crops: Sequence[Place], threads: int, cache_mb: int
    ) -> torch.Tensor:
        """The pictures of some (row, frame number), at least one: float32 or uint8 (I, 3, H, W).

        Raises:
            RowError: naming the story and the frame whose picture is missing or does not decode.
            UsageError: as `geometries`.
        """
        geometries = self.geometries(crops, len(frames))
        pixels = Pixels(
            geometry=geometries[0],
            mean=self.image_mean,
            std=self.image_std,
            dtype=self.pixel_dtype,
            threads=threads,
            cache_mb=cache_mb,
        )
        return pixels(frames, geometries)

    def tokens(self, texts: list[str], max_length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask of some texts, padded and cut to one length: int64 (I, max_length)."""
        encoded = self.tokenizer(
            texts,
            padding="max_length",
            max_length=max_length,
            truncation=True,
            return_attention_mask=True,
            # special tokens spelt out in a caption are mere characters; a slow tokenizer would split added names, too
            split_special_tokens=bool(getattr(self.tokenizer, "is_fast", False)),
        )
        return torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"])

"""Pictures to tensors: one geometry for pictures and masks, decoding in threads, normalisation."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from openstory_hf import decoders, masks, pictures
from openstory_hf.collate import buffers
from openstory_hf.collate.common import Row
from openstory_hf.views import row_error

Resize = Literal["squash", "center_crop", "pad"]
Dtype = Literal["float32", "uint8"]
RGB = tuple[float, float, float]
In = TypeVar("In")
Out = TypeVar("Out")

_KINDS = {"float32": torch.float32, "uint8": torch.uint8}

CLIP_MEAN: RGB = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: RGB = (0.26862954, 0.26130258, 0.27577711)


def sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """The option `image_size`, the side of a square or (h, w), as (h, w)."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width


def bytes_of(colour: RGB) -> tuple[int, int, int]:
    """A colour of values in [0, 1], in whole numbers from 0 to 255."""
    red, green, blue = (round(255 * value) for value in colour)
    return red, green, blue


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

    @property
    def shared(self) -> bool:
        """Whether many pictures come to one geometry, so that their pixels in it are worth keeping."""
        return True

    def window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in source pixels, end exclusive; reaches beyond the source for "pad"."""
        if self.resize == "squash":
            return 0, 0, width, height
        ratios = height / self.size[0], width / self.size[1]
        scale = min(ratios) if self.resize == "center_crop" else max(ratios)
        high, wide = (max(1, round(side * scale)) for side in self.size)
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high

    def pixels(self, source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) in the new geometry: uint8 (h, w, 3), the same array if there is nothing to do."""
        height, width, _ = source.shape
        fits = (height, width) == self.size and self.window(height, width) == (0, 0, width, height)
        return source if fits else self.picture(Image.fromarray(source))

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
        cache_mb: megabytes of decoded pictures to keep for later batches, of each process: windows that share frames
            then share their decoding. Worth its memory where `load_stories` shuffles by blocks.
    """

    geometry: Geometry
    mean: RGB = (0.5, 0.5, 0.5)
    std: RGB = (0.5, 0.5, 0.5)
    dtype: Dtype = "float32"
    threads: int = 0
    cache_mb: int = 0

    def __call__(
        self, frames: Sequence[tuple[Row, int]], geometries: Sequence[Geometry] | None = None
    ) -> torch.Tensor:
        """Some pictures.

        Args:
            frames: (row, frame number) of each; there may be none.
            geometries: of each, all of the same size, in place of `geometry`.

        Returns:
            float32 or uint8 (I, 3, H, W).

        Raises:
            RowError: naming the story and the frame whose picture is missing or does not decode.
        """
        wanted = buffers.empty((len(frames), 3, *self.geometry.size), _KINDS[self.dtype])
        array = wanted.numpy()  # numpy's calls cost less than torch's, and there are some for each picture
        affine = None if self.dtype == "uint8" else _affine(tuple(self.mean), tuple(self.std))
        kept = kept_by(self.cache_mb)
        to = geometries or [self.geometry] * len(frames)
        keys = list(map(_key, frames, numbers_of(to))) if kept else []
        known, made = kept.find(keys) if kept else {}, dict[Hashable, NDArray[np.uint8]]()

        def planes_of(place: int) -> NDArray[np.uint8]:
            (row, number), geometry = frames[place], to[place]
            key = keys[place] if keys else None
            found = known.get(key, made.get(key))  # a batch may show a picture twice
            if found is None:
                found = _decoded(row, number)
                if geometry.shared:
                    found = planes(geometry.pixels(found))
                if key is not None:
                    made[key] = found = np.ascontiguousarray(found)
            return found if geometry.shared else planes(geometry.pixels(found))

        def fill(place: int) -> None:
            values = array[place]
            values[...] = planes_of(place)
            if affine is not None:  # while the picture is in the cache of the processor
                scale, shift = affine
                values *= scale
                values += shift

        in_threads(fill, range(len(frames)), self.threads)
        if kept:
            kept.keep(made)
        return wanted


def kept_by(cache_mb: int) -> decoders.Cache | None:
    """What this process keeps of the pictures of earlier batches, None for an option `cache_mb` of 0."""
    return decoders.shared_cache(cache_mb << 20, os.getpid()) if cache_mb else None


def numbers_of(geometries: Sequence[Geometry]) -> list[int | None]:
    """A number for each geometry, the same for equal ones, to keep things under; None for those that are not shared.

    Numbers are hashed and compared many times faster than geometries.
    """
    there = {id(geometry): geometry for geometry in geometries}
    found = {key: _number(geometry) if geometry.shared else None for key, geometry in there.items()}
    return [found[id(geometry)] for geometry in geometries]


@cache
def _number(geometry: Geometry) -> int:
    return next(_numbers)


_numbers = count()


def _key(frame: tuple[Row, int], geometry: int | None) -> Hashable:
    """Under what the pixels of a frame are kept: in a geometry that others share, else as they were decoded."""
    row, number = frame
    place = decoders.place_of(row["images"][number])
    return place if geometry is None or place is None else (place, geometry)


def _decoded(row: Row, frame: int) -> NDArray[np.uint8]:
    """The pixels of a frame: uint8 (H, W, 3)."""
    try:
        return decoders.rgb(row["images"][frame])
    except pictures.UndecodableError as error:
        raise row_error(row, f"the picture of frame {frame} does not decode: {error}") from None


def planes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (h, w, 3) as one plane for each channel, uint8 (3, h, w): a view, or new memory where that is faster."""
    split = _split()
    apart: NDArray[np.uint8]
    if split is None:
        apart = pixels.transpose(2, 0, 1)
    else:
        apart = np.empty((3, *pixels.shape[:2]), np.uint8)
        split(pixels, list(apart))
    return apart


@cache
def _split() -> Callable[[NDArray[np.uint8], list[NDArray[np.uint8]]], object] | None:
    """OpenCV's way to part channels, five times as fast as numpy's; None where it is not installed."""
    try:
        from cv2 import split
    except ImportError:
        return None
    found: Callable[[NDArray[np.uint8], list[NDArray[np.uint8]]], object] = split
    return found


def decoded(row: Row, frame: int, stored: Any) -> Image.Image:
    """A stored picture of a frame, in RGB.

    Raises:
        RowError: naming the story and the frame, if it does not decode.
    """
    try:
        return pictures.decode(stored)
    except pictures.UndecodableError as error:
        raise row_error(row, f"the picture of frame {frame} does not decode: {error}") from None


def normalize(pixels: torch.Tensor, mean: RGB = (0.5, 0.5, 0.5), std: RGB = (0.5, 0.5, 0.5)) -> torch.Tensor:
    """(pixels / 255 - mean) / std, on the device of the pixels.

    Args:
        pixels: uint8 (..., 3, H, W).
        mean: per RGB channel, on values in [0, 1].
        std: per RGB channel.

    Returns:
        float32 of the same shape.
    """
    values = pixels.float()
    # plain numbers: a tensor of them would have to come to the device, which waits for all that the device has to do
    for channel, (scale, shift) in enumerate(zip(*_factors(mean, std), strict=True)):
        values.select(-3, channel).mul_(scale).add_(shift)
    return values


def _factors(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """What to multiply values from 0 to 255 of each channel with, and what to add then."""
    return [1 / (255 * value) for value in std], [-m / s for m, s in zip(mean, std, strict=True)]


@cache
def _affine(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The factors of numpy arrays: float32 (3, 1, 1) each, () if those of all channels are one."""
    scale, shift = (np.array(factors, np.float32).reshape(3, 1, 1) for factors in _factors(mean, std))
    if len(set(mean)) == len(set(std)) == 1:  # a single number is faster by half
        return scale[0, 0, 0], shift[0, 0, 0]
    return scale, shift


def in_threads(work: Callable[[In], Out], items: Sequence[In], threads: int) -> list[Out]:
    """The results of some work in the order of the items; 0 threads for the calling one."""
    return list(_pool(threads, os.getpid()).map(work, items) if threads else map(work, items))


@cache
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Threads for decoding, kept between batches; a forked process makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="openstory-decode")

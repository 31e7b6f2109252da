"""The pixels of a stored picture, by the fastest decoder that is installed and gives what Pillow gives.

kornia-rs decodes 8-bit RGB PNGs at three to four times the speed of Pillow, simplejpeg (libjpeg-turbo) plain JPEGs at
1.4 times (`benchmarks/decoders.py`); both give the same pixels. They are the extra `openstory_hf[fast]`. Everything
else (palettes, grey, alpha, 16 bits, EXIF orientation, CMYK, ...), and all without the extra, is left to Pillow.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openstory_hf import pictures

Decoder = Callable[[bytes], NDArray[np.uint8]]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_RGB8 = b"\x08\x02\x00\x00\x00"
"""Bit depth 8, colour type RGB, deflate, standard filters, not interlaced: what follows the size in a PNG's header."""

_IHDR = 33
"""Where the chunks behind a PNG's header begin."""

_LARGEST = 64 << 20
"""Pixels of a picture beyond which Pillow and its limits decide."""


class Cache:
    """Pixels and masks made last, for windows that share their frames.

    Args:
        size: bytes to keep.
    """

    def __init__(self, size: int) -> None:
        self._size, self._held = size, 0
        self._kept: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, keys: Iterable[Hashable]) -> dict[Hashable, NDArray[Any]]:
        """What is kept under some keys, not to be changed; keys under which nothing is are left out."""
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        return found

    def keep(self, made: Mapping[Hashable, NDArray[Any]]) -> None:
        """Keep arrays under their keys, and forget those that were not asked for the longest if there is no room."""
        with self._lock:
            for key, values in made.items():
                if key not in self._kept:
                    self._kept[key] = values
                    self._held += values.nbytes
            while self._held > self._size:
                self._held -= self._kept.popitem(last=False)[1].nbytes


@cache
def shared_cache(size: int, pid: int) -> Cache:
    """The cache of a process, one for each size; a forked process makes its own."""
    return Cache(size)


def place_of(value: Mapping[str, Any] | Image.Image) -> Hashable:
    """What tells a stored picture from all others; None if that is not known."""
    return value.place if isinstance(value, Stored) else None


class Stored(dict[str, Any]):
    """A stored picture, {"bytes", "path"}, that knows which one it is."""

    def __init__(self, data: bytes, path: str | None, place: Hashable = None) -> None:
        super().__init__(bytes=data, path=path)
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self["bytes"], self["path"], self.place)


def rgb(value: Mapping[str, Any] | Image.Image) -> NDArray[np.uint8]:
    """The pixels of a stored picture ({"bytes", "path"}) or a decoded one: uint8 (h, w, 3), as `pictures.decode` has.

    Raises:
        UndecodableError: if the bytes are missing or not a picture.
    """
    data = None if isinstance(value, Image.Image) else value["bytes"]
    if data is not None and (fast := _decoder_for(data)) is not None:
        try:
            return fast(data)
        except Exception:  # Pillow reads it after all, or says what is wrong
            pass
    return np.array(pictures.decode(value))  # writable, as tensors want it


def _decoder_for(data: bytes) -> Decoder | None:
    """A decoder that gives what Pillow gives, from the header."""
    if data[:8] == _PNG:
        return _png() if _is_plain_png(data) else None
    if data[:2] == b"\xff\xd8" and pictures.is_plain_jpeg(data):
        return _jpeg()
    return None


def _is_plain_png(data: bytes) -> bool:
    """Whether the bytes are a PNG of 8-bit RGB without orientation and transparent colour, of a usual size."""
    if data[24:29] != _PNG_RGB8 or int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big") > _LARGEST:
        return False
    at = _IHDR
    if data[at + 4 : at + 8] == b"IDAT":  # nothing but pixels, as our own are: no need to look at every chunk
        pixels = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + pixels + 12 == len(data):
            return True
    while at < len(data):
        if data[at + 4 : at + 8] in (b"eXIf", b"tRNS"):
            return False
        at += int.from_bytes(data[at : at + 4], "big") + 12  # length, kind and checksum of the chunk
    return True


@cache
def _png() -> Decoder | None:
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None

    def decode(data: bytes) -> NDArray[np.uint8]:
        size = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
        return np.asarray(decode_image_png_u8(data, size, "rgb"))

    return decode


@cache
def _jpeg() -> Decoder | None:
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None

    def decode(data: bytes) -> NDArray[np.uint8]:
        return np.asarray(decode_jpeg(data, "RGB"))

    return decode

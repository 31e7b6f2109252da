"""The pixels of a stored picture, by the fastest decoder that is installed and gives what Pillow gives.

kornia-rs decodes 8-bit RGB PNGs at three to four times the speed of Pillow, simplejpeg (libjpeg-turbo) plain JPEGs at
1.4 times (`benchmarks/decoders.py`); both give the same pixels. They are the extra `openstory_hf[fast]`. Everything
else (palettes, grey, alpha, 16 bits, EXIF orientation, CMYK, ...), and all without the extra, is left to Pillow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openstory_hf import pictures

Decoder = Callable[[bytes], NDArray[np.uint8]]

_PNG_RGB8 = b"\x08\x02\x00\x00\x00"
"""Bit depth 8, colour type RGB, deflate, standard filters, not interlaced: what follows the size in a PNG's header."""

_LARGEST = 64 << 20
"""Pixels of a picture beyond which Pillow and its limits decide."""


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
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        plain = data[24:29] == _PNG_RGB8 and b"eXIf" not in data and b"tRNS" not in data and _area(data) <= _LARGEST
        return _png() if plain else None
    if data[:2] == b"\xff\xd8" and pictures.is_plain_jpeg(data):
        return _jpeg()
    return None


def _area(data: bytes) -> int:
    return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")


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

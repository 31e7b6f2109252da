"""Encoded pictures: lossless encoding of raw pixels, a decode check that changes nothing, decoding."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from openstory_hf.errors import reason_of


class UndecodableError(ValueError):
    """The bytes are not a whole picture."""


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels (h, w, 3) losslessly; the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def check(data: bytes) -> tuple[int, int]:
    """Make sure the bytes are a whole picture, and return (height, width) as a reader will see them.

    JPEGs are decoded at an eighth of their size, which still reads every coded byte. PNGs must also be whole behind
    the last row, where Pillow's decoder no longer looks but others do.

    Raises:
        UndecodableError: with the decoder's reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            width, height = ImageOps.exif_transpose(image).size if image.getexif() else image.size
            image = Image.open(io.BytesIO(data))
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            Image.open(io.BytesIO(data)).verify()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise UndecodableError(reason_of(error)) from None
    return height, width


def decode(value: Mapping[str, Any] | Image.Image, mode: str = "RGB") -> Image.Image:
    """Decode a stored picture ({"bytes", "path"}), or pass a decoded one through, in the given mode.

    Applies the EXIF orientation, as `datasets.Image` does.

    Raises:
        UndecodableError: if the bytes are missing or not a picture.
    """
    if isinstance(value, Image.Image):
        return value if value.mode == mode else value.convert(mode)
    data = value["bytes"]
    if data is None:
        raise UndecodableError(f"no picture bytes stored for {value.get('path')!r}")
    try:
        image = Image.open(io.BytesIO(data))
        if image.getexif():
            image = ImageOps.exif_transpose(image)
        return image.convert(mode)
    except Exception as error:
        raise UndecodableError(f"{value.get('path')!r}: {reason_of(error)}") from None

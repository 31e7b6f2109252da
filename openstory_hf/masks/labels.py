"""Label images: one integer per pixel says which instance owns it."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from openstory_hf.errors import reason_of
from openstory_hf.masks.codec import RLE, encode


def from_labels(labels: ArrayLike, values: Iterable[int] | None = None) -> dict[int, RLE]:
    """The instances of a label image.

    Args:
        labels: integer array (h, w); 0 is background.
        values: which values to take, in this order, with an empty mask for one that occurs nowhere; by default all
            that occur, but for 0.
    """
    array = np.asarray(labels)
    wanted = np.unique(array[array != 0]) if values is None else values
    return {int(value): encode(array == value) for value in wanted}


def read_labels(data: bytes) -> NDArray[np.uint8]:
    """The pixel values of a label PNG, as an array (h, w): palette indices (mode P) or grey values (mode L).

    Palette entries are colours for people to look at; turning indices into colours would lose them.

    Raises:
        ValueError: if the bytes are not a picture of mode P or L.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise ValueError(f"not a picture: {reason_of(error)}") from None
    if image.mode not in ("P", "L"):
        raise ValueError(f"a label image has mode P or L, this one {image.mode}")
    return np.asarray(image, dtype=np.uint8)

"""Label images: one integer per pixel says which instance owns it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from openstory_hf.errors import reason_of
from openstory_hf.masks.codec import RLE, from_edges


def from_labels(labels: ArrayLike, values: Iterable[int] | None = None) -> dict[int, RLE]:
    """The instances of a label image, all in one pass over its pixels.

    Args:
        labels: integer array (h, w); 0 is background.
        values: which values to take, in this order, with an empty mask for one that occurs nowhere; by default all
            that occur, but for 0, in ascending order.

    Raises:
        ValueError: if the array is not two-dimensional.
    """
    array = np.asarray(labels)
    if array.ndim != 2:
        raise ValueError(f"a label image has two dimensions (h, w), got shape {array.shape}")
    spans, owners = _spans(array)
    wanted = np.unique(owners[owners != 0]).tolist() if values is None else [int(value) for value in values]
    height, width = array.shape
    return {value: from_edges(spans[owners == value].ravel(), (height, width)) for value in wanted}


def _spans(array: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The runs of equal pixels, column by column as run lengths count them: (R, 2) start and stop, and (R,) values.

    Pixels are compared where they lie, row by row; only the places where a value changes are put in the new order.
    """
    height, width = array.shape
    if not array.size:
        return np.zeros((0, 2), dtype=np.int64), array.ravel()
    row, column = np.divmod(np.flatnonzero(array[1:] != array[:-1]), width)
    new_columns = np.flatnonzero(array[0, 1:] != array[-1, :-1]) + 1
    borders = np.concatenate([column * height + row + 1, new_columns * height, [0, array.size]])
    borders.sort()
    spans = np.stack([borders[:-1], borders[1:]], axis=1)
    return spans, array[spans[:, 0] % height, spans[:, 0] // height]


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

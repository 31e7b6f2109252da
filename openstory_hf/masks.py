"""COCO run-length masks: encode, decode, measure, and shrink to a grid.

The stored form is {"size": [h, w], "counts": str}: COCO's compressed run lengths (column-major), counts as ASCII
text. The codec is pycocotools, the reference implementation of the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco


class RLE(TypedDict):
    """COCO compressed run lengths: `size` is [h, w], `counts` is ASCII text."""

    size: list[int]
    counts: str


def encode(mask: ArrayLike) -> RLE:
    """Encode one binary mask.

    Args:
        mask: array (h, w); nonzero is the object.

    Raises:
        ValueError: if the array is not two-dimensional.
    """
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"a mask has two dimensions (h, w), got shape {array.shape}")
    rle = coco.encode(np.asfortranarray(array != 0, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _as_coco(rle: Mapping[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    return {"size": [int(side) for side in rle["size"]], "counts": counts}


def decode(rle: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode one mask to a uint8 array (h, w) of zeros and ones."""
    decoded: NDArray[np.uint8] = coco.decode(_as_coco(rle))
    return decoded


def area(rle: Mapping[str, Any]) -> int:
    """Number of object pixels, without decoding."""
    return int(coco.area(_as_coco(rle)))


def bbox(rle: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Tight COCO box (x, y, width, height) in pixels; all zero for an empty mask."""
    x, y, width, height = (float(value) for value in coco.toBbox(_as_coco(rle)))
    return x, y, width, height


def _axis_weights(size: int, cells: int) -> NDArray[np.float64]:
    """Overlap (cells, size) of each grid cell with each pixel, as a share of the cell."""
    edges = np.linspace(0.0, size, cells + 1)
    pixels = np.arange(size, dtype=np.float64)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0.0, None) * (cells / size)


def grid(rles: Sequence[Mapping[str, Any]], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Share of every grid cell that each mask covers (area averaging, any size to any grid).

    Args:
        rles: K masks, of any sizes.
        shape: (h, w) of the grid.

    Returns:
        float32 array (K, h, w) of values in [0, 1].
    """
    height, width = shape
    out = np.zeros((len(rles), height, width), dtype=np.float32)
    for index, rle in enumerate(rles):
        mask = decode(rle)
        if mask.size:
            rows, columns = _axis_weights(mask.shape[0], height), _axis_weights(mask.shape[1], width)
            out[index] = rows @ mask @ columns.T
    return out

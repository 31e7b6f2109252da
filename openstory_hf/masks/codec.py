"""COCO run lengths: binary masks and boxes in, pixels and measures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
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
    return _stored(coco.encode(np.asfortranarray(array != 0, dtype=np.uint8)))


def decode(rle: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode one mask to a uint8 array (h, w) of zeros and ones.

    Raises:
        ValueError: if the counts are damaged or do not fill the size, here and in every function that reads them.
    """
    decoded: NDArray[np.uint8] = coco.decode([_coco(rle)])[:, :, 0]
    return decoded


def as_rle(value: Mapping[str, Any]) -> RLE:
    """Bring any spelling of COCO run lengths into the stored form.

    Args:
        value: {"size": [h, w], "counts": text, bytes, or a list of run lengths that starts with background}.

    Raises:
        ValueError: if the run lengths do not add up to h * w pixels.
    """
    height, width = (int(side) for side in value["size"])
    counts = value["counts"]
    if isinstance(counts, str | bytes):
        _, runs = _runs({"size": [height, width], "counts": counts})
    else:
        runs = np.array([int(count) for count in counts], dtype=np.int64)
        if runs.min(initial=0) < 0 or runs.sum() != height * width:
            raise ValueError(f"COCO run lengths that do not fill a mask of {height}x{width}")
    if not runs.size:
        return _stored(_coco({"size": [height, width], "counts": b""}))
    # where runs of no pixels lie between two others, those are one
    borders, times = np.unique(np.cumsum(runs)[:-1], return_counts=True)
    return from_edges(borders[(times % 2 == 1) & (borders < height * width)], (height, width))


def run_lengths(rle: Mapping[str, Any]) -> NDArray[np.int64]:
    """The uncompressed run lengths, background first, column by column.

    Raises:
        ValueError: if the counts are not compressed COCO run lengths.
    """
    runs, _ = parse_counts([rle["counts"]])
    runs[1::2] = np.cumsum(runs[1::2])  # from the fourth number on, each is the difference to the last but one
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def parse_counts(counts: Sequence[str | bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the numbers of many count strings at once, differences not yet summed up.

    A number is a run of 5-bit groups, lowest first, one character each; all groups but the last have bit 32, and the
    last has the sign.

    Returns:
        the numbers of all strings one after the other, and how many each string has.

    Raises:
        ValueError: if a string is not compressed COCO run lengths.
    """
    texts = [text.encode("ascii") if isinstance(text, str) else text for text in counts]
    codes = np.frombuffer(b"".join(texts), dtype=np.uint8) - np.uint8(48)  # below "0" wraps to more than 63
    ends = np.array(list(accumulate(map(len, texts))), dtype=np.int64)
    lasts = np.flatnonzero(codes < 32)
    groups = lasts.copy()
    groups[1:] -= lasts[:-1]
    groups[:1] += 1
    most = int(groups.max(initial=1))
    if (codes > 63).any() or most > 7 or not (codes[ends[ends > 0] - 1] < 32).all():
        raise ValueError("not compressed COCO run lengths")
    numbers = codes[lasts].astype(np.int64)
    numbers -= (numbers & 16) << 1
    for back in range(1, most):
        longer = np.flatnonzero(groups > back)
        numbers[longer] = (numbers[longer] << 5) + (codes[lasts[longer] - back] & 31)
    per_text = np.searchsorted(lasts, ends)
    per_text[1:] -= per_text[:-1].copy()
    return numbers, per_text


def from_edges(edges: NDArray[np.int64], size: tuple[int, int]) -> RLE:
    """The mask whose object runs start and stop at the given pixels, numbered column by column.

    Args:
        edges: start, stop, start, stop, ..., strictly increasing, at most h * w.
        size: (h, w) of the picture.
    """
    height, width = size
    borders = np.concatenate(([0], edges, [height * width]))
    counts = borders[1:] - borders[:-1]
    if len(edges) and counts[-1] == 0:  # it ends in the object
        counts = counts[:-1]
    return _stored(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def from_box(box: Sequence[float], size: tuple[int, int]) -> RLE:
    """The mask of a COCO box (x, y, width, height) in a picture of size (h, w)."""
    return _stored(coco.frPyObjects(np.array([box], dtype=np.float64), *size)[0])


def area(rle: Mapping[str, Any]) -> int:
    """Number of object pixels, without decoding."""
    return int(coco.area(_coco(rle)))


def bbox(rle: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Tight COCO box (x, y, width, height) in pixels; all zero for an empty mask."""
    (height, _), runs = _runs(rle)
    stops = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    full = lengths > 0  # pycocotools takes empty runs for pixels
    if not full.any():
        return 0.0, 0.0, 0.0, 0.0
    first, last = (stops - lengths)[full], stops[full] - 1
    left, right = first[0] // height, last[-1] // height
    if (first // height != last // height).any():
        top, bottom = 0, height - 1  # a run goes on in the next column
    else:
        top, bottom = (first % height).min(), (last % height).max()
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def merge(rles: Sequence[Mapping[str, Any]], *, intersect: bool = False) -> RLE:
    """Union (or intersection) of masks of one size, without decoding.

    Raises:
        ValueError: if there are none, or their sizes differ.
    """
    if len({tuple(rle["size"]) for rle in rles}) != 1:
        raise ValueError("merging needs masks of one size, and at least one")
    return _stored(coco.merge([_coco(rle) for rle in rles], intersect))


def iou(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, crowd: Sequence[bool] | None = None
) -> NDArray[np.float64]:
    """Intersection over union of every mask in `first` with every one in `second`, without decoding.

    Args:
        first: M masks.
        second: N masks of the same size.
        crowd: which of `second` are crowd regions, whose union counts the mask of `first` alone (COCO's rule).

    Returns:
        float64 array (M, N).
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    flags = [int(flag) for flag in crowd] if crowd is not None else [0] * len(second)
    return np.asarray(coco.iou([_coco(rle) for rle in first], [_coco(rle) for rle in second], flags))


def _coco(rle: Mapping[str, Any]) -> dict[str, Any]:
    """What pycocotools takes, checked, because it returns uninitialised memory for runs that do not fill the size."""
    size, _ = _runs(rle)
    counts = rle["counts"]
    return {"size": list(size), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def _runs(rle: Mapping[str, Any]) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """(h, w), and the run lengths that fill it."""
    height, width = (int(side) for side in rle["size"])
    runs = run_lengths(rle)
    if min(height, width, runs.min(initial=0)) < 0 or runs.sum() != height * width or height * width >= 1 << 32:
        raise ValueError(f"COCO run lengths that do not fill a mask of {height}x{width}")
    return (height, width), runs


def _stored(rle: Mapping[str, Any]) -> RLE:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}

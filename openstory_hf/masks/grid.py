"""Coverage maps: the share of every cell of a coarse grid that a mask covers, straight from its run lengths.

A mask in column-major order is a set of runs [start, stop). With G(p) the area that the first p pixels take of a cell,
the cell's coverage is the sum of G(stop) - G(start). G(p) has two parts: the whole columns before p's column, and the
pixels above p in its own. A run inside one column, as nearly all are, needs the second part only. So the work grows
with the number of runs, not of pixels, and a batch of masks is one pass of numpy over all their runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openstory_hf.masks.codec import area, parse_counts

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_BATCH = 64
"""Masks to a pass: many share numpy's fixed costs; too many, and their arrays fall out of the caches."""


def grid(rles: Sequence[Mapping[str, Any]], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Share of every grid cell that each mask covers: area averaging, without decoding.

    Cells need not be whole pixels: any size goes to any grid.

    Args:
        rles: K masks, of any sizes; counts as text or bytes.
        shape: (h, w) of the grid.

    Returns:
        float32 array (K, h, w) of values in [0, 1].

    Raises:
        ValueError: if counts are damaged or do not fill their size.
    """
    out = np.zeros((len(rles), *shape), dtype=np.float32)
    work = _work(min(len(rles), _BATCH) * prod(shape))
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, rle in enumerate(rles):
        height, width = rle["size"]
        by_size.setdefault((int(height), int(width)), []).append(index)
    for size, members in by_size.items():
        if min(size) < 1 or size[0] * size[1] >= 1 << 32:
            for index in members:
                area(rles[index])  # nothing to cover, unless the mask is damaged
            continue
        for first in range(0, len(members), _BATCH):
            batch = members[first : first + _BATCH]
            spans, per_mask = _spans([rles[index]["counts"] for index in batch], size[0] * size[1])
            covered, scale = _coverage(spans, per_mask, size, shape, work)
            if batch[-1] - batch[0] + 1 == len(batch):  # one size throughout, as in most batches: no copy between
                np.multiply(covered, scale, out=out[batch[0] : batch[-1] + 1])
            else:
                out[batch] = covered * scale
    return np.maximum(out, 0, out=out)  # sums of signed parts may miss zero by a rounding error


_memory = threading.local()


def _work(cells: int) -> Floats:
    """(3, cells) of memory that every call of a thread uses again: fresh pages would cost more than the arithmetic."""
    held: Floats | None = getattr(_memory, "work", None)
    if held is None or held.shape[1] < cells:
        held = _memory.work = np.empty((3, cells))
    return held


def _spans(counts: Sequence[str | bytes], pixels: int) -> tuple[Ints, Ints]:
    """Parse the count strings of many masks of so many pixels at once.

    Returns:
        (R, 2) start and stop of every object run, column-major pixel numbers, mask after mask (an empty run may stand
        where a mask ends in background); and the number of runs of each mask.
    """
    numbers, per_mask = parse_counts(counts)
    if not per_mask.all():
        raise ValueError("empty COCO run lengths")
    # pairs (background, object) of run lengths, one row each, every mask starting a new row
    rows = (per_mask + 1) >> 1
    first_rows = np.cumsum(rows) - rows
    pairs = np.zeros((int(rows.sum()), 2), dtype=np.int64)
    odd = (per_mask & 1) == 1
    places = np.arange(len(numbers)) + np.repeat(np.cumsum(odd) - odd, per_mask)
    pairs.ravel()[places] = numbers
    # from the fourth on, numbers are differences to the last but one: sum up the columns within each mask
    leading, kept = pairs[first_rows, 0], pairs[first_rows, 1]
    lengths = np.cumsum(pairs, axis=0)
    lengths[:, 1] -= np.repeat(lengths[first_rows, 1] - kept, rows)
    lengths[:, 0] -= np.repeat(lengths[first_rows, 0], rows)
    lengths[first_rows, 0] = leading
    lengths[(first_rows + rows - 1)[odd], 1] = 0
    borders = np.cumsum(lengths.ravel())
    origins = borders[2 * first_rows] - leading
    spans = borders.reshape(-1, 2) - np.repeat(origins, rows)[:, None]
    if lengths.min() < 0 or (spans[first_rows + rows - 1, 1] != pixels).any():
        raise ValueError(f"COCO run lengths that do not fill a mask of {pixels} pixels")
    return spans, rows


def _coverage(
    spans: Ints, per_mask: Ints, size: tuple[int, int], shape: tuple[int, int], work: Floats
) -> tuple[Floats, float]:
    """The covered part of every cell for K masks of one size, from the spans of all their runs.

    Returns:
        float64 (K, h, w), and what to multiply it with to have shares of a cell.
    """
    (height, width), (h, w) = size, shape
    cell_h, cell_w = height / h, width / w
    mask = np.repeat(np.arange(len(per_mask)), per_mask)
    column = spans // height
    row = spans - column * height
    cell_x = column // (width // w) if width % w == 0 else (column / cell_w).astype(np.int64)
    cell_y = row // (height // h) if height % h == 0 else (row / cell_h).astype(np.int64)
    depth = row / cell_h - cell_y  # how far each border reaches into its cell, as a share of it
    cells = (len(per_mask), w, h)
    if width % w == 0:
        covered = _partial_columns(mask, np.minimum(cell_x, w - 1), cell_y, depth, _SIGNS, cells, work)
    else:  # a column of pixels lies in several cells; each gets its share
        covered = np.zeros(cells)
        for step in range(int(np.ceil(1 / cell_w)) + 1):
            at = cell_x + step
            share = np.clip(np.minimum(column + 1, (at + 1) * cell_w) - np.maximum(column, at * cell_w), 0, None)
            covered += _partial_columns(mask, np.minimum(at, w - 1), cell_y, depth, _SIGNS * share, cells, work)
    crossing = np.flatnonzero(column[:, 0] != column[:, 1])
    if len(crossing):
        reach = column[crossing] / cell_w - cell_x[crossing]
        covered += _whole_columns(mask[crossing], cell_x[crossing], reach, cells)[:, :, None] * cell_w
    return covered.transpose(0, 2, 1), 1 / cell_w


_SIGNS = np.array([-1.0, 1.0])  # starts count against, stops count


def _partial_columns(
    mask: Ints, cell_x: Ints, cell_y: Ints, depth: Floats, weight: Floats, cells: tuple[int, int, int], work: Floats
) -> Floats:
    """The pixels above each border in its own column, as covered cells (K, w, h) of a column's width; lies in `work`.

    A border fills the cells above its own wholly and its own to `depth`. The end of the picture, which lies behind
    the last column, has no pixels above it, so the caller may put it into any column.
    """
    _, w, h = cells
    whole, part, below = work[:, : prod(cells)]
    bins = (((mask * w)[:, None] + cell_x) * h + cell_y).ravel()
    weights = np.empty(depth.shape)
    weights[:] = weight
    for total in (whole, part):
        total.fill(0)
        np.add.at(total, bins, weights.ravel())
        weights *= depth
    # everything that ends in a lower cell of the column fills the cells above it
    np.matmul(whole.reshape(-1, h), np.tri(h, k=-1), out=below.reshape(-1, h))
    part += below
    filled: Floats = part.reshape(cells)
    return filled


def _whole_columns(mask: Ints, cell_x: Ints, reach: Floats, shape: tuple[int, ...]) -> Floats:
    """Whole columns before each border, in cells (K, w): stops count, starts count against."""
    masks, w, _ = shape
    bins = (mask[:, None] * (w + 1) + cell_x).ravel()
    signs = np.broadcast_to(_SIGNS, reach.shape)
    whole = np.bincount(bins, weights=signs.ravel(), minlength=masks * (w + 1)).reshape(masks, w + 1)
    part = np.bincount(bins, weights=(signs * reach).ravel(), minlength=whole.size).reshape(masks, w + 1)
    filled: Floats = (part + whole @ np.tri(w + 1, k=-1))[:, :w]
    return filled

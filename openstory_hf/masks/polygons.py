"""COCO polygons: rings [x1, y1, x2, y2, ...] in pixels; the union of the rings is the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from openstory_hf.masks.codec import RLE, _stored, decode

_Point = tuple[int, int]


def from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> RLE:
    """Rasterise polygons into a mask of size (h, w), by COCO's rule.

    Raises:
        ValueError: for a ring of less than three points.
    """
    rings = [[float(value) for value in ring] for ring in polygons]
    if any(len(ring) < 6 or len(ring) % 2 for ring in rings):
        raise ValueError("a polygon is a flat list x1, y1, x2, y2, ... of at least three points")
    if not rings:
        return _stored(coco.encode(np.zeros(size, dtype=np.uint8, order="F")))
    return _stored(coco.merge(coco.frPyObjects(rings, *size)))


def to_polygons(rle: Mapping[str, Any]) -> list[list[int]]:
    """The outlines of a mask along its pixel borders; rasterising them gives the mask back exactly.

    A hole has no ring of its own in this format: it is joined to the outline around it by a cut of no width.
    """
    rings = _rings(decode(rle))
    outer = [ring for ring in rings if _signed_area(ring) > 0]
    joined = dict(enumerate(outer))
    for hole in rings:
        if _signed_area(hole) < 0:
            index = _around(hole, outer)
            joined[index] = joined[index] + [joined[index][0], *hole, hole[0]]
    return [[value for point in ring for value in point] for ring in joined.values()]


def _rings(mask: np.ndarray[Any, Any]) -> list[list[_Point]]:
    """Closed paths along pixel borders with the object on the right-hand side (y grows downwards)."""
    padded = np.pad(mask.astype(bool), 1)
    following: dict[_Point, list[_Point]] = {}
    for axis, forward in ((0, (1, 0)), (1, (0, 1))):
        before, after = padded, np.roll(padded, 1, axis)
        for inside, sign in ((before & ~after, 1 if axis == 0 else -1), (after & ~before, -1 if axis == 0 else 1)):
            for row, column in np.argwhere(inside).tolist():
                corner = (column - 1, row - 1)
                other = (corner[0] + forward[0], corner[1] + forward[1])
                start, stop = (corner, other) if sign > 0 else (other, corner)
                following.setdefault(start, []).append(stop)
    rings = []
    while following:
        start = next(iter(following))
        ring, point = [start], following[start].pop()
        previous = start
        if not following[start]:
            del following[start]
        while point != start:
            choices = following[point]  # two where two pixels touch at a corner: stay with the same one
            nearest = min(choices, key=lambda to: _turn(previous, point, to))
            choices.remove(nearest)
            if not choices:
                del following[point]
            if _turn(previous, point, nearest):
                ring.append(point)
            previous, point = point, nearest
        rings.append(ring)
    return rings


def _turn(before: _Point, at: _Point, to: _Point) -> int:
    """-1 for a turn to the right in a picture, 0 straight on, 1 to the left."""
    cross = (at[0] - before[0]) * (to[1] - at[1]) - (at[1] - before[1]) * (to[0] - at[0])
    return -int(np.sign(cross))


def _signed_area(ring: Sequence[_Point]) -> int:
    """Twice the area, positive where the object is inside."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True))


def _around(hole: Sequence[_Point], outer: Sequence[Sequence[_Point]]) -> int:
    """The smallest outline around the hole, found by the pixel of the hole beside its first border."""
    (x1, y1), (x2, y2) = hole[:2]
    step_x, step_y = int(np.sign(x2 - x1)), int(np.sign(y2 - y1))
    x, y = x1 + 0.5 * (step_x + step_y), y1 + 0.5 * (step_y - step_x)  # half a step ahead, half to the left

    def contains(ring: Sequence[_Point]) -> bool:
        inside = False
        for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
                inside = not inside
        return inside

    return min(
        (index for index, ring in enumerate(outer) if contains(ring)), key=lambda index: _signed_area(outer[index])
    )

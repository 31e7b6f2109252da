"""Instances as Python values when their picture is drawn: most of what a row describes is not.

An instance is four Python objects with others inside. Rows that are kept for later windows would hold hundreds of
thousands of them, through which the garbage collector searches again and again. Lists of texts and numbers cost it
nothing, so only those are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import pyarrow as pa

from openstory_hf.schema import FRAMES

INSTANCES: pa.DataType = FRAMES.arrow_schema.field("instances").type
"""Of each picture of a row, its instances."""

Read = Callable[[int], list[dict[str, Any]]]
"""Gives the instances of a picture, by its number among those of all rows."""


class LateInstances(Sequence[list[dict[str, Any]]]):
    """The instances of each picture of a row, made anew each time they are asked for.

    Args:
        read: of the pictures of all rows.
        start: where those of this one begin.
        stop: and end.
    """

    __slots__ = ("_read", "_start", "_stop")

    def __init__(self, read: Read, start: int, stop: int) -> None:
        self._read, self._start, self._stop = read, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, index: int) -> list[dict[str, Any]]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[dict[str, Any]]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        places = range(self._start, self._stop)[index]
        return self._read(places) if isinstance(places, int) else list(map(self._read, places))

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return map(self._read, range(self._start, self._stop))


def instances(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column of instances, equal to those of its `to_pylist`.

    Args:
        column: of type `INSTANCES`.
    """
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    rows, pictures = _parts(array)
    edges, found = _parts(pictures)
    if array.null_count or pictures.null_count or found.null_count or found.type != INSTANCES.value_type.value_type:
        whole: list[Any] = array.to_pylist()  # not as we write it; what reads it says what is wrong
        return whole
    labels, characters, scores = (_plain(found.field(name)) for name in ("label", "character", "score"))
    boxes, masks = found.field("bbox"), found.field("segmentation")
    sizes, counts = masks.field("size"), _plain(masks.field("counts"))
    boxed, masked, sized = (part.is_valid().to_numpy(False).tolist() for part in (boxes, masks, sizes))
    box_edges, corners = _parts(boxes)
    size_edges, sides = _parts(sizes)
    corners, sides = _plain(corners), _plain(sides)

    def read(picture: int) -> list[dict[str, Any]]:
        return [
            {
                "label": labels[at],
                "character": characters[at],
                "bbox": corners[box_edges[at] : box_edges[at + 1]] if boxed[at] else None,
                "segmentation": {
                    "size": sides[size_edges[at] : size_edges[at + 1]] if sized[at] else None,
                    "counts": counts[at],
                }
                if masked[at]
                else None,
                "score": scores[at],
            }
            for at in range(edges[picture], edges[picture + 1])
        ]

    return [LateInstances(read, rows[row], rows[row + 1]) for row in range(len(array))]


def _parts(array: pa.ListArray) -> tuple[list[int], pa.Array]:
    """Where each list begins and the last one ends among the entries of all, and these entries."""
    edges = array.offsets.to_numpy().tolist() or [0]
    return [edge - edges[0] for edge in edges], array.values.slice(edges[0], edges[-1] - edges[0])


def _plain(array: pa.Array) -> list[Any]:
    """Numbers or texts; by way of numpy it takes a fifth of the time of `to_pylist`."""
    by_numpy = pa.types.is_string(array.type) or not array.null_count
    made: list[Any] = array.to_numpy(zero_copy_only=False).tolist() if by_numpy else array.to_pylist()
    return made

"""Python values of Arrow arrays, made when they are asked for: most of what a row describes is not drawn.

A list of structs, such as the instances of a picture, is several Python objects for each of its entries. Rows that are
kept for later windows would hold hundreds of thousands of them, through which the garbage collector searches again and
again. Lists of texts and numbers cost it nothing, so only those are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import pyarrow as pa

Read = Callable[[int], Any]
"""Gives the value at an index."""


def reader(array: pa.Array) -> Read:
    """A function that makes the value at an index of an array, as `array[index].as_py()` does, but fast.

    Args:
        array: of numbers, texts, and lists and structs of them.
    """
    if pa.types.is_struct(array.type):
        fields = [(field.name, reader(array.field(number))) for number, field in enumerate(array.type)]

        def value(index: int) -> Any:
            return {name: read(index) for name, read in fields}

    elif pa.types.is_list(array.type):
        edges, begun = array.offsets.to_pylist(), array.offsets[0].as_py() if len(array) else 0
        inner = array.values.slice(begun, edges[-1] - begun if len(array) else 0)
        if pa.types.is_nested(inner.type):
            read = reader(inner)

            def value(index: int) -> Any:
                return [read(at) for at in range(edges[index] - begun, edges[index + 1] - begun)]

        else:
            values = inner.to_pylist()

            def value(index: int) -> Any:
                return values[edges[index] - begun : edges[index + 1] - begun]

    else:
        plain: list[Any] = array.to_pylist()
        return plain.__getitem__
    if not array.null_count:
        return value
    there = array.is_valid().to_pylist()
    return lambda index: value(index) if there[index] else None


class LateList(Sequence[Any]):
    """A list within a column of lists, whose entries are made anew each time they are asked for.

    Args:
        read: of the entries of all lists of the column.
        start: where those of this one begin.
        stop: and end.
    """

    __slots__ = ("_read", "_start", "_stop")

    def __init__(self, read: Read, start: int, stop: int) -> None:
        self._read, self._start, self._stop = read, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        places = range(self._start, self._stop)[index]
        return self._read(places) if isinstance(places, int) else [self._read(place) for place in places]

    def __iter__(self) -> Iterator[Any]:
        return map(self._read, range(self._start, self._stop))


def lists(column: pa.ChunkedArray) -> list[LateList | None]:
    """The values of a column of lists."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    edges = array.offsets.to_pylist()
    begun, ended = (edges[0], edges[-1]) if edges else (0, 0)
    read = reader(array.values.slice(begun, ended - begun))
    there = array.is_valid().to_pylist()
    return [
        LateList(read, edges[row] - begun, edges[row + 1] - begun) if there[row] else None for row in range(len(array))
    ]

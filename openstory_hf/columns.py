"""Columns of a table as Python values that are made when they are asked for: most of what rows describe is not.

A story of five frames is a hundred Python objects, lists and dictionaries among them. Rows that were made ahead would
be thousands of these, through which the garbage collector searches again and again: per frame, the longer an epoch the
more. So texts and numbers of all rows are taken out of Arrow at once, each column into one list, which costs the
collector nothing; what holds them is made when a row is asked for, and gone with it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import pyarrow as pa


class Column(Protocol):
    """The values of an array, equal to those of its `to_pylist`, and new each time."""

    def one(self, at: int) -> Any:
        """A value by its number from 0."""

    def some(self, start: int, stop: int) -> list[Any]:
        """Values [start, stop)."""


def column(array: pa.Array) -> Column:
    """A column of any type."""
    if isinstance(array, pa.ListArray):
        return Lists(array)
    if isinstance(array, pa.StructArray):
        return _Structs(array)
    return _Values(array)


_NUMBERS = (pa.lib.IntegerArray, pa.lib.FloatingPointArray, pa.BooleanArray)


class _Values:
    """Texts and numbers."""

    __slots__ = ("values",)

    def __init__(self, array: pa.Array) -> None:
        # by way of numpy in a fifth of the time of `to_pylist`; but with nulls among them, numbers become floats
        by_numpy = isinstance(array, pa.StringArray) or (isinstance(array, _NUMBERS) and not array.null_count)
        self.values: list[Any] = array.to_numpy(zero_copy_only=False).tolist() if by_numpy else array.to_pylist()

    def one(self, at: int) -> Any:
        return self.values[at]

    def some(self, start: int, stop: int) -> list[Any]:
        return self.values[start:stop]


class Lists:
    """Lists of anything.

    Args:
        array: of lists.
    """

    __slots__ = ("_edges", "_entries", "_there")

    def __init__(self, array: pa.ListArray) -> None:
        edges = array.offsets.to_numpy()
        first, last = (int(edges[0]), int(edges[-1])) if len(edges) else (0, 0)
        self._edges: list[int] = (edges - first).tolist()
        entries = array.values.slice(first, last - first)
        self._entries = column(entries) if len(entries) else _NOTHING
        self._there = _there(array)

    def one(self, at: int) -> list[Any] | None:
        """As `Column.one`."""
        if self._there and not self._there[at]:
            return None
        return self._entries.some(self._edges[at], self._edges[at + 1])

    def some(self, start: int, stop: int) -> list[Any]:
        """As `Column.some`."""
        edges, entries = pairwise(self._edges[start : stop + 1]), self._entries
        found: list[Any]
        if isinstance(entries, _Values):  # most lists are of texts or numbers, and calls take time
            values = entries.values
            found = [values[edge:end] for edge, end in edges]
        else:
            found = [entries.some(edge, end) for edge, end in edges]
        return _with_holes(found, self._there, start) if self._there else found

    def length(self, at: int) -> int:
        """The length of a list, 0 for a null."""
        return self._edges[at + 1] - self._edges[at]

    def entry(self, at: int, number: int) -> Any:
        """One entry of a list, by its number from 0; the others are not made.

        Raises:
            IndexError: if there is none.
        """
        if not 0 <= number < self.length(at):
            raise IndexError(f"a list of {self.length(at)} has no entry {number}")
        return self._entries.one(self._edges[at] + number)


class _Structs:
    """Structs, as dictionaries."""

    __slots__ = ("_fields", "_names", "_there")

    def __init__(self, array: pa.StructArray) -> None:
        self._names = [field.name for field in array.type]
        self._fields = [column(array.field(number)) for number in range(len(self._names))]
        self._there = _there(array)

    def one(self, at: int) -> dict[str, Any] | None:
        if self._there and not self._there[at]:
            return None
        return {name: field.one(at) for name, field in zip(self._names, self._fields, strict=True)}

    def some(self, start: int, stop: int) -> list[Any]:
        if start == stop:
            return []
        names, values = self._names, zip(*[field.some(start, stop) for field in self._fields])  # noqa: B905 - slower
        found: list[Any] = [dict(zip(names, of_one)) for of_one in values]  # noqa: B905
        return _with_holes(found, self._there, start) if self._there else found


_NOTHING = _Values(pa.array([], pa.string()))


def _with_holes(values: list[Any], there: list[bool], start: int) -> list[Any]:
    """The same with None for those that are not there; the first of them has this number."""
    return [value if there[at] else None for at, value in enumerate(values, start)]


def _there(array: pa.Array) -> list[bool] | None:
    """Which values are not null; None for all of them."""
    there: list[bool] | None = array.is_valid().to_numpy(zero_copy_only=False).tolist() if array.null_count else None
    return there

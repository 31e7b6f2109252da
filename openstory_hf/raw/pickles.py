"""Pickles of plain containers and arrays, built from harmless stand-ins and never run."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import IO, Any

import numpy as np

from openstory_hf.errors import UnsafePickleError
from openstory_hf.raw.refusing import refusing
from openstory_hf.raw.stand_ins import NUMPY_GLOBALS, STAND_INS

__all__ = ["MAX_NESTING", "MAX_VALUES_PER_BYTE", "NUMPY_GLOBALS", "unpickle"]

MAX_NESTING = 100
"""The most containers that may lie in each other; in the releases it is five."""

MAX_VALUES_PER_BYTE = 100
"""The most values a pickle may unfold to, for each of its bytes: it can name what it holds again and again."""

_ATOMS = frozenset({str, bytes, int, float, complex, bool, type(None)})


class _PlainUnpickler(pickle._Unpickler):
    """An unpickler that builds containers and numbers, and stand-ins for the globals it is told to allow.

    It is the one written in Python, since the one in C takes gigabytes for an index that a few bytes announce, and
    puts whatever there is into dictionaries: hashing tuples of tuples can end the process, or never end.
    """

    def __init__(self, stream: IO[bytes], allow: frozenset[tuple[str, str]], name: str) -> None:
        super().__init__(stream, encoding="latin1")
        self._allow = allow
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allow:
            raise self._unsafe(f"global {module}.{name}")
        return STAND_INS[module, name]

    def get_extension(self, code: int) -> Any:
        """Refuse: the original takes what was once found for a code from a cache, past `find_class`."""
        raise self._unsafe(f"extension {code}")

    def _unsafe(self, what: str) -> UnsafePickleError:
        return UnsafePickleError(
            f"{self._name}: the pickle asks for the {what}, which is not on the list of harmless types; nothing of it "
            "was run. Get the file from its original release, or delete it if it is optional"
        )


def _load_dict(machine: Any) -> None:
    found: dict[Any, Any] = {}
    _fill(found, machine.pop_mark())
    machine.append(found)


def _load_setitem(machine: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _fill(machine.stack[-1], (key, value))


def _load_setitems(machine: Any) -> None:
    pairs = machine.pop_mark()
    _fill(machine.stack[-1], pairs)


def _load_frozenset(machine: Any) -> None:
    machine.append(frozenset(map(_hashable, machine.pop_mark())))


def _load_additems(machine: Any) -> None:
    members = machine.pop_mark()
    set.update(machine.stack[-1], map(_hashable, members))


def _load_nothing(machine: Any) -> None:
    raise ValueError("an opcode that plain values do without")


def _fill(found: Any, pairs: Sequence[Any]) -> None:
    if type(found) is not dict or len(pairs) % 2:
        raise ValueError("keys without a dictionary, or without values")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if _hashable(key) in found:
            raise ValueError("a key occurs twice in a dictionary")
        found[key] = value


def _hashable(value: Any) -> Any:
    """The value, if it takes but a moment to hash.

    Raises:
        ValueError: if it is a container, or an integer beyond 64 bits: those can be chosen to have one hash.
    """
    plain = type(value) in _ATOMS or isinstance(value, np.generic)
    if not plain or (type(value) is int and not -(1 << 63) <= value < 1 << 64):
        raise ValueError(f"{type(value).__name__} as the key of a dictionary or the member of a set")
    return value


_OPCODES: dict[bytes, Callable[[Any], None]] = {
    pickle.DICT: _load_dict,
    pickle.SETITEM: _load_setitem,
    pickle.SETITEMS: _load_setitems,
    pickle.FROZENSET: _load_frozenset,
    pickle.ADDITEMS: _load_additems,
    pickle.LONG4: _load_nothing,
    pickle.BYTEARRAY8: _load_nothing,  # takes the memory that is announced
    pickle.NEXT_BUFFER: _load_nothing,
    pickle.READONLY_BUFFER: _load_nothing,
}
_PlainUnpickler.dispatch = {**pickle._Unpickler.dispatch, **{code[0]: load for code, load in _OPCODES.items()}}


def unpickle(data: bytes, allow: frozenset[tuple[str, str]], name: str) -> Any:
    """The object a pickle spells, from plain containers and the globals in `allow`.

    Raises:
        UnsafePickleError: if it asks for anything else.
        Reject: if it is no pickle, holds something twice in itself, or passes `MAX_NESTING` or `MAX_VALUES_PER_BYTE`.
    """
    with refusing("not a readable pickle", name):
        value = _PlainUnpickler(io.BytesIO(data), allow, name).load()
        values, _ = _unfolded(value, 0, {})
        if values > MAX_VALUES_PER_BYTE * len(data):
            raise ValueError(f"{len(data):,} bytes unfold to {values:,} values, too many")
        return value


def _unfolded(value: Any, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a walk through a value meets, and how deep it gets.

    Args:
        value: to walk through; once, however often it occurs.
        depth: of the containers around it.
        known: id of a container -> what was found.

    Raises:
        ValueError: if it is too deep, holds itself, or something that is not plain data.
    """
    if type(value) in _ATOMS or isinstance(value, np.generic):
        return 1, 0
    if id(value) not in known:
        if depth == MAX_NESTING:
            raise ValueError(f"more than {MAX_NESTING} containers in each other, or one in itself")
        values, deepest = 1, 0
        for part in _parts(value):
            if type(part) in _ATOMS:
                values += 1
                continue
            inner, below = _unfolded(part, depth + 1, known)
            values += inner
            deepest = max(deepest, below)
        known[id(value)] = values, deepest + 1
    values, height = known[id(value)]
    if depth + height > MAX_NESTING:
        raise ValueError(f"more than {MAX_NESTING} containers in each other, or one in itself")
    return values, height


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return chain(value, value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype.hasobject else ()
    raise ValueError(f"{type(value).__name__} is no plain value")

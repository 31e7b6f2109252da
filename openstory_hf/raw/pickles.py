"""Pickles of plain containers and arrays, built from harmless stand-ins and never run."""

from __future__ import annotations

import io
import pickle
from math import prod
from typing import IO, Any

import numpy as np

from openstory_hf.errors import UnsafePickleError
from openstory_hf.raw.refusing import refusing


class _Dtype:
    """What a pickle gets for `numpy.dtype`: numbers, text and object, and of its state only the byte order.

    The state of the real one can hide object pointers in plain bytes, and so crash the process or worse.
    """

    __slots__ = ("dtype",)

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufcSUO":
            raise ValueError(f"arrays of {self.dtype} are not plain numbers, text or objects")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *fields = state
        if any(field is not None for field in fields[:3]):
            raise ValueError("structured arrays are not plain numbers, text or objects")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """What a pickle gets for `numpy.ndarray` and its reconstruct function: memory is taken only for data there is."""

    def __new__(cls, *_: object) -> _Array:
        return np.empty(0, np.uint8).view(cls)

    def __setstate__(self, state: tuple[Any, ...], /) -> None:
        *_, shape, kind, fortran, content = state
        if isinstance(kind, _Dtype):  # from a file; a real dtype means that a process of ours sends the array on
            content = _as_bytes(content)
            expected = prod(shape) * (1 if kind.dtype.hasobject else kind.dtype.itemsize)
            right_type = isinstance(content, list if kind.dtype.hasobject else bytes)
            if not right_type or min(shape, default=0) < 0 or len(content) != expected:
                raise ValueError(f"the content of an array of shape {shape} and type {kind.dtype} is incomplete")
            kind = kind.dtype
        super().__setstate__((1, shape, kind, fortran, content))


class _Scalar:
    """What a pickle gets for the function that makes a numpy scalar."""

    def __new__(cls, kind: _Dtype, content: str | bytes) -> Any:
        data = _as_bytes(content)
        if kind.dtype.hasobject or len(data) != kind.dtype.itemsize:
            raise ValueError(f"the content of a {kind.dtype} scalar is incomplete")
        return np.ndarray((), kind.dtype, data)[()]

    def __setstate__(self, state: object) -> None:
        raise TypeError("a numpy scalar has no state")


def _as_bytes(content: Any) -> Any:
    """The strings of Python 2 are bytes; the unpickler reads them as Latin-1 text."""
    return content.encode("latin1") if isinstance(content, str) else content


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
# All of them define __setstate__ because the BUILD opcode could otherwise set attributes of the classes themselves.

NUMPY_GLOBALS = frozenset(_STAND_INS)
"""What a pickle of numpy arrays needs, in its old and new spelling; nothing else is ever allowed."""


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that builds containers and numbers, and stand-ins for the globals it is told to allow."""

    def __init__(self, stream: IO[bytes], allow: frozenset[tuple[str, str]], name: str) -> None:
        super().__init__(stream, encoding="latin1")
        self._allow = allow
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allow:
            raise UnsafePickleError(
                f"{self._name}: the pickle asks for the global {module}.{name}, which is not on the list of harmless "
                "types; nothing of it was run. Get the file from its original release, or delete it if it is optional"
            )
        return _STAND_INS[module, name]


def unpickle(data: bytes, allow: frozenset[tuple[str, str]], name: str) -> Any:
    """The object a pickle spells, from plain containers and the globals in `allow`."""
    with refusing("not a readable pickle", name):
        return _PlainUnpickler(io.BytesIO(data), allow, name).load()

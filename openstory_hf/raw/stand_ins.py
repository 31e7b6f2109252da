"""What a pickle gets for the six names of numpy it may use: classes that make arrays of the data there is, no more.

Nothing that came with the pickle is compared, multiplied or printed before its type is known: a list times a number
from the same file can be larger than any memory, and a list of lists can take longer to print than anybody lives.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np


class _Dtype:
    """What a pickle gets for `numpy.dtype`: numbers, text and object, and of its state only the byte order.

    The state of the real one can hide object pointers in plain bytes, and so crash the process or worse.
    """

    __slots__ = ("dtype",)

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or len(code) > 16:
            raise ValueError("the code of a type of numbers expected")
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufcSUO":
            raise ValueError(f"arrays of {self.dtype} are not plain numbers, text or objects")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *fields = state
        if any(field is not None for field in fields[:3]):
            raise ValueError("structured arrays are not plain numbers, text or objects")
        if order not in ("<", ">", "|", "="):
            raise ValueError("a byte order expected")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """What a pickle gets for `numpy.ndarray` and its reconstruct function: memory is taken only for data there is."""

    def __new__(cls, *_: object) -> _Array:
        return np.empty(0, np.uint8).view(cls)

    def __setstate__(self, state: tuple[Any, ...], /) -> None:
        *_, shape, kind, order, content = state
        if isinstance(kind, _Dtype):  # from a file; a real dtype means that a process of ours sends the array on
            content, kind = _as_bytes(content), kind.dtype
            if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
                raise ValueError("the shape of an array is not a tuple of whole numbers")
            values = prod(shape)
            right_type = isinstance(content, list if kind.hasobject else bytes)
            if not right_type or len(content) != values * (1 if kind.hasobject else kind.itemsize):
                raise ValueError(f"the content of an array of shape {shape} and type {kind} is incomplete")
            if values and not kind.itemsize:
                raise ValueError(f"{values:,} values of no bytes")
        fortran: Any = bool(order)
        super().__setstate__((1, shape, kind, fortran, content))


class _Scalar:
    """What a pickle gets for the function that makes a numpy scalar."""

    def __new__(cls, kind: _Dtype, content: str | bytes) -> Any:
        if not isinstance(kind, _Dtype):
            raise ValueError("a scalar without a type")
        data = _as_bytes(content)
        if kind.dtype.hasobject or len(data) != kind.dtype.itemsize:
            raise ValueError(f"the content of a {kind.dtype} scalar is incomplete")
        return np.ndarray((), kind.dtype, data)[()]

    def __setstate__(self, state: object) -> None:
        raise TypeError("a numpy scalar has no state")


def _as_bytes(content: Any) -> Any:
    """The strings of Python 2 are bytes; the unpickler reads them as Latin-1 text."""
    return content.encode("latin1") if isinstance(content, str) else content


STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
"""(module, name) -> what a pickle gets for it."""
# All of them define __setstate__ because the BUILD opcode could otherwise set attributes of the classes themselves.

NUMPY_GLOBALS = frozenset(STAND_INS)
"""What a pickle of numpy arrays needs, in its old and new spelling; nothing else is ever allowed."""

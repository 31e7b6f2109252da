"""Plain `.npy` arrays, read with pickling off and only if they are whole."""

from __future__ import annotations

import io
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from openstory_hf.raw.refusing import DAMAGED, refusing
from openstory_hf.records import Reject


def npy_header(data: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and the start of the data of a `.npy` file."""
    size = data[8:10] if data[6:7] == b"\x01" else data[8:12]
    with refusing("not a readable .npy", name):
        return _header(data[: 8 + len(size) + int.from_bytes(size, "little")])


@lru_cache(maxsize=64)  # the arrays of a release share theirs
def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    stream = io.BytesIO(data)
    version = npy_format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"unknown version {version}")
    # 3.0 differs from 2.0 in the names of fields only, and arrays with fields are refused
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if min(shape, default=0) < 0:
        raise ValueError(f"negative sides in the shape {shape}")
    return shape, fortran, dtype, stream.tell()


def read_npy(data: bytes, name: str) -> NDArray[Any]:
    """The array in the bytes of a `.npy` file; see `Raw.npy`."""
    shape, fortran, dtype, start = npy_header(data, name)
    if dtype.kind in "OV":
        raise Reject(f"the array holds {dtype} where plain numbers or text are expected", file=name)
    expected, there = prod(shape) * dtype.itemsize, len(data) - start
    if there != expected:
        raise Reject(
            f"{'truncated' if there < expected else 'overlong'} .npy: the header announces "
            f"{'x'.join(map(str, shape))} {dtype} = {expected:,} bytes, the file holds {there:,}",
            file=name,
            hint=DAMAGED,
        )
    if prod(shape) and not dtype.itemsize:  # a header of a few bytes could announce billions
        raise Reject(f"{prod(shape):,} values of no bytes", file=name)
    with refusing("not a readable .npy", name):
        array: NDArray[Any] = np.ndarray(shape, dtype, data, start, order="F" if fortran else "C")
        return array

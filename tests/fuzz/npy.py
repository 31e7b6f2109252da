"""The `.npy` reader: what numpy reads without pickling, or a refusal; object arrays go through the unpickler."""

import io

import numpy as np

from openstory_hf.errors import OpenStoryError
from openstory_hf.raw.arrays import npy_header, read_npy
from openstory_hf.raw.pickles import NUMPY_GLOBALS, unpickle

from .watch import watched


def _npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


_ARRAYS = [
    np.arange(12, dtype="u1").reshape(3, 4),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(["fred", "wilma"]),
    np.array([b"x"]),
    np.array({"a": [1, 2]}, dtype=object),
    np.array(True),
]
SEEDS = [_npy(array, version) for array in _ARRAYS for version in ((1, 0), (2, 0), (3, 0))]
TOKENS = [
    *(b"'descr': ", b"'fortran_order': ", b"'shape': ", b"True", b"False", b"(3,)", b"()", b"99999999999", b"-1"),
    *(b"'<f8'", b"'|u1'", b"'|O'", b"'|S0'", b"'<U3'", b"'<M8[s]'", b"[('a', '<i4')]", b"\x93NUMPY\x01\x00v\x00"),
]


def one_input(data: bytes) -> None:
    with watched():
        try:
            _, _, dtype, start = npy_header(data, "x")
            if dtype.hasobject:
                unpickle(data[start:], NUMPY_GLOBALS, "x")
                return
            array = read_npy(data, "x")
        except OpenStoryError:
            return
    assert max(array.nbytes, array.size) <= len(data)
    if data[6] == 3:  # numpy reads small deviations of earlier versions only
        data = data[:6] + b"\2" + data[7:]
    expected = np.load(io.BytesIO(data), allow_pickle=False)
    assert (array.dtype, array.shape, array.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())

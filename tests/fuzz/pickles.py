"""The unpickler: plain values or a named refusal, nothing run, and no more to walk through than the file is long."""

import pickle

import numpy as np

from openstory_hf.errors import OpenStoryError
from openstory_hf.raw.pickles import MAX_VALUES_PER_BYTE, NUMPY_GLOBALS, unpickle

from .watch import watched

_ARRAY = np.arange(6, dtype="<i2").reshape(2, 3)
_VALUE = {
    "s_01": ["fred", "wilma"],
    "n": (1, 2.5, None, True, 10**30),
    "a": _ARRAY,
    "x": np.float32(1),
    "set": {1, "b"},
}
_OBJECTS = np.array([["a"], {"b": 1}, None], dtype=object)

SEEDS = [pickle.dumps(value, protocol) for value in (_VALUE, _OBJECTS) for protocol in range(6)]

TOKENS = [
    *(bytes([code]) for code in b"(.012FIJKLMNRSTUVXabcdeghijloqrtu}]){\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a"),
    *(bytes([code]) for code in b"\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"),
    *(f"c{module}\n{name}\n".encode() for module, name in sorted(NUMPY_GLOBALS)),
    *(f"i{module}\n{name}\n".encode() for module, name in sorted(NUMPY_GLOBALS)),
    *(b"\x8c" + bytes([len(name)]) + name.encode() for pair in sorted(NUMPY_GLOBALS) for name in pair),
    *(b"U" + bytes([len(code)]) + code for code in (b"u1", b"<f8", b"O", b"S0", b"U3", b"V8", b"i4,i4", b"M8")),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"\x8c\x02os\x8c\x06system\x93", b"p99999999\n", b"r\xff\xff\xff\x0f"),
]


def one_input(data: bytes) -> None:
    with watched():
        try:
            value = unpickle(data, NUMPY_GLOBALS, "x")
        except OpenStoryError:
            return
    assert len(repr(value)) < 1000 * MAX_VALUES_PER_BYTE * len(data)
    assert len(pickle.dumps(value)) < 1000 * MAX_VALUES_PER_BYTE * len(data)

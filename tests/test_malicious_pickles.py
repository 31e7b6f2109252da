"""Thousands of pickles that would run something: none does, and each ends in an error that names what it asked for.

A pickle is a program for a small stack machine. Here every opcode that can reach a callable meets every callable that
exploits are made of, under every protocol, at the top and inside containers and arrays.
"""

import io
import os
import pickle
import struct

import numpy as np
import pytest
from fuzz.watch import watched

from openstory_hf.errors import OpenStoryError, UnsafePickleError
from openstory_hf.raw.pickles import NUMPY_GLOBALS, unpickle

CALLABLES = [
    line.split()
    for line in """
    os system | posix system | nt system | os popen | os execvp | os remove | os.path join | posix fork
    builtins eval | builtins exec | builtins getattr | builtins setattr | builtins __import__ | builtins compile
    builtins open | builtins map | builtins print | builtins bytearray | builtins type | builtins object
    builtins globals | builtins breakpoint | __builtin__ eval | __builtin__ apply | __builtin__ file
    subprocess Popen | subprocess run | subprocess check_output | commands getoutput | pty spawn | platform popen
    numpy load | numpy fromfile | numpy memmap | numpy loadtxt | numpy save | numpy vectorize | numpy ndarray.tofile
    numpy f2py.os.system | numpy core.multiarray._reconstruct | numpy dtype.type | numpy ndarray.__reduce__
    numpy.core.multiarray scalar.__globals__ | numpy.core.multiarray _reconstruct.__init__ | numpy.core array
    numpy._core.multiarray fromstring | numpy.lib.npyio load | numpy.testing measure | numpy __builtins__ | numpy os
    numpy ndarray.ctypes | numpy.ctypeslib load_library | numpy.distutils.exec_command exec_command
    functools partial | functools reduce | operator attrgetter | operator methodcaller | operator itemgetter
    importlib import_module | importlib._bootstrap _gcd_import | imp load_source | runpy run_path | pkgutil get_data
    codecs encode | codecs decode | codecs open | _codecs encode | copyreg _reconstructor | copyreg __newobj__
    copy_reg _reconstructor | collections OrderedDict | collections defaultdict | types FunctionType | types CodeType
    marshal loads | pickle loads | _pickle loads | pickle Unpickler | shelve open | ctypes CDLL | ctypes memmove
    webbrowser open | shutil rmtree | timeit timeit | pdb run | code interact | cProfile run | pydoc pipepager
    torch load | torch._utils _rebuild_tensor_v2 | torch.storage _load_from_bytes | PIL.Image open | pandas read_pickle
    builtins.str format | str format | builtins str.format.__self__ | __main__ x | sys modules | sys exit
    openstory_hf.raw.stand_ins _Array | openstory_hf.raw.stand_ins np.load | openstory_hf.cli main
    """.replace("\n", "|").split("|")
    if line.strip()
]


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def by_global(module, name):
    return f"c{module}\n{name}\n".encode()


def by_stack_global(module, name):
    return text(module) + text(name) + b"\x93"


def called(module, name, command, push=by_global):
    return push(module, name) + text(command) + b"\x85R"


REACHES = {
    "REDUCE": called,
    "STACK_GLOBAL": lambda *call: called(*call, push=by_stack_global),
    "INST": lambda module, name, command: b"(" + text(command) + f"i{module}\n{name}\n".encode(),
    "OBJ": lambda module, name, command: b"(" + by_global(module, name) + text(command) + b"o",
    "NEWOBJ": lambda module, name, command: by_global(module, name) + text(command) + b"\x85\x81",
    "NEWOBJ_EX": lambda module, name, command: by_stack_global(module, name) + text(command) + b"\x85}\x92",
    "BUILD": lambda module, name, command: by_global(module, name) + b"}" + text("x") + text(command) + b"sb",
    "BUILD slots": lambda module, name, command: by_global(module, name) + b"N}" + text(command) + b"Ns\x86b",
    "BINGET": lambda module, name, command: by_global(module, name) + b"q\x070h\x07" + text(command) + b"\x85R",
    "MEMOIZE": lambda module, name, command: by_stack_global(module, name) + b"\x940h\0" + text(command) + b"\x85R",
    "LONG_BINGET": lambda module, name, command: (
        by_global(module, name) + b"r\7\0\0\x000j\7\0\0\0" + text(command) + b"\x85R"
    ),
}
RUN_BY_PICKLE = set(REACHES) - {"BUILD", "BUILD slots", "NEWOBJ", "NEWOBJ_EX"}  # of a function; those want classes

PLACES = {
    "alone": b"%b",
    "value": b"}X\1\0\0\0k%bs",
    "key": b"}%bNs",
    "member": b"\x8f(%b\x90",
    "frozen": b"(%b\x91",
    "nested": b"(l" * 40 + b"%b" + b"a" * 40,
    "popped": b"%b0N",
    "dtype": b"cnumpy\ndtype\n%b\x85R",
    "shape": b"cnumpy\nndarray\n)\x81(K\1%bcnumpy\ndtype\nX\2\0\0\0u1\x85R\x89C\0tb",
    "content": b"cnumpy\nndarray\n)\x81(K\1K\1\x85cnumpy\ndtype\nX\1\0\0\0O\x85R\x89](%betb",
    "scalar": b"cnumpy.core.multiarray\nscalar\n%bC\0\x86R",
}
PROTOCOLS = (b"", *(b"\x80" + bytes([version]) for version in range(2, 6)))  # 0 and 1 say nothing


def pickles(reach, command):
    """(global, pickle) of everything that one way of reaching it makes."""
    for module, name in CALLABLES:
        for place in PLACES.values():
            for protocol in PROTOCOLS:
                yield f"{module}.{name}", protocol + place.replace(b"%b", REACHES[reach](module, name, command)) + b"."


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("allow", [frozenset(), NUMPY_GLOBALS], ids=["plain", "numpy"])
def test_none_is_run_and_each_is_named(tmp_path, reach, allow):
    marker = tmp_path / "executed"
    count = 0
    for name, data in pickles(reach, f"touch {marker}"):
        with pytest.raises(UnsafePickleError) as caught, watched():
            unpickle(data, allow, "labels.pkl")
        first = "numpy" if data.find(b"cnumpy") >= 0 and not allow else name
        assert str(caught.value).startswith("labels.pkl: the pickle asks for the global")
        assert first in str(caught.value)
        count += 1
    assert count >= 1000
    assert not marker.exists()


@pytest.mark.parametrize("reach", sorted(RUN_BY_PICKLE))
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["0", "2", "3", "4", "5"])
def test_plain_pickle_runs_them(tmp_path, reach, protocol):
    pickle.loads(protocol + REACHES[reach]("os", "system", f"touch {tmp_path / 'executed'}") + b".")
    assert (tmp_path / "executed").exists()


STRUCTURES = {
    "persistent id": b"Pos.system\n.",
    "persistent id of any kind": b"X\2\0\0\0os\x85Q.",
    "an out-of-band buffer": b"\x80\5\x97.",
    "a read-only buffer": b"\x80\5C\1a\x98.",
    "a byte array": b"\x80\5\x96\1\0\0\0\0\0\0\0a.",
    "a long integer": b"\x8b\xff\xff\xff\x7f.",
    "a call of a string": text("os.system") + text("x") + b"\x85R.",
    "a call of a number": b"K\1)R.",
    "a class from a number": b"K\1)\x81.",
    "an instance of a string": b"(" + text("os") + b"o.",
    "state of a list": b"]}X\7\0\0\0__dict__Nsb.",
    "state of a dictionary": b"}}X\t\0\0\0__class__Nsb.",
    "slots of an array": b"cnumpy\nndarray\n)\x81N}X\t\0\0\0__class__Ns\x86b.",
    "state of the class of arrays": b"cnumpy\nndarray\n}X\1\0\0\0xNsb.",
    "the class of arrays itself": b"cnumpy\nndarray\n.",
    "the dtype of nothing": b"cnumpy\ndtype\n)\x81.",
    "appending to a tuple": b")K\1a.",
    "items of an array": b"cnumpy\nndarray\n)\x81K\0K\1s.",
    "additions to a list": b"](K\1\x90.",
    "a missing memo": b"h\7.",
    "a missing mark": b"K\1t.",
    "an empty stack": b".",
    "a protocol of the future": b"\x80\x06N.",
    "no stop": b"N",
    "a global that is not text": b"K\1K\2\x93.",
}


@pytest.mark.parametrize("data", STRUCTURES.values(), ids=STRUCTURES)
def test_programs_that_are_no_plain_value_are_refused(data):
    with pytest.raises(OpenStoryError, match=r"labels\.pkl"), watched():
        unpickle(data, NUMPY_GLOBALS, "labels.pkl")


@pytest.mark.parametrize("name", ["os.system", "numpy.load", "functools.partial"])
def test_they_are_refused_inside_an_npy_as_well(tmp_path, name):
    from openstory_hf.raw import Raw

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    module, _, function = name.partition(".")
    for reach in REACHES.values():
        payload = reach(module, function, f"touch {tmp_path / 'executed'}") + b"."
        (tmp_path / "x.npy").write_bytes(stream.getvalue() + payload)
        with pytest.raises(UnsafePickleError, match=f"x.npy: the pickle asks for the global {name}"):
            Raw(tmp_path).object_npy("x.npy")
    assert os.listdir(tmp_path) == ["x.npy"]

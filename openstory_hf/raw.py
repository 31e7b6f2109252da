"""A read-only, suspicious view of a raw release: a folder or a zip, read in place.

Nothing a user downloaded is ever executed: pickles pass an allow-list, arrays are read without pickling, names
cannot leave the release, and sizes are checked before memory is taken.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import json
import mmap
import os
import pickle
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from openstory_hf.errors import OpenStoryError, SourceError, UnsafePickleError
from openstory_hf.records import Reject

MAX_MEMBER_BYTES = 4 << 30
"""The most a single file of a release may unpack to; larger ones are taken for a decompression bomb."""

_INDEX_SUFFIXES = (".json", ".jsonl", ".pkl", ".md", ".txt", ".csv")
_CHUNK = 1 << 20
_LONGEST_TOKEN = 16  # characters of JSON, strings apart, that the end of a chunk can cut: -Infinity, \ud83d\ude00
_DAMAGED = "Download it again"
_DECODER = json.JSONDecoder()
_BLANKS = (" ", "\t", "\n", "\r")

_T = TypeVar("_T")


@contextlib.contextmanager
def _refusing(what: str, name: str) -> Iterator[None]:
    """Turn whatever damaged data makes a decoder raise (which is almost anything) into a `Reject`."""
    try:
        yield
    except OpenStoryError:
        raise
    except Exception as error:
        raise Reject(f"{what}: {type(error).__name__}: {error}", file=name, hint=_DAMAGED) from None


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


class Raw:
    """A raw release.

    Args:
        path: a folder, or a zip file read in place.
        root: folder inside it to treat as the top, "" for the top itself.

    Names are relative POSIX paths. Links inside a folder are followed, since large folders often live on another
    disk; only regular files are seen. Instances can be pickled; each process opens its own handles.

    Raises:
        SourceError: if the path does not exist or is neither a folder nor a zip.
    """

    def __init__(self, path: str | os.PathLike[str], root: str = "") -> None:
        self.path = Path(path)
        top = _relative(root.strip("/"))
        self.root = "" if top == "." else top
        self._zip: zipfile.ZipFile | None = None
        self._names: dict[str, int] | None = None
        self._pid = os.getpid()
        self._memo: dict[Callable[[Raw], Any], Any] = {}
        if self.path.is_dir():
            self.is_zip = False
        elif self.path.is_file() and zipfile.is_zipfile(self.path):
            self.is_zip = True
        else:
            what = "is not a folder or a zip" if self.path.exists() else "does not exist"
            raise SourceError(
                f"{self.path} {what}. Give --raw the folder or the zip of the raw release; "
                "a zip that was cut short must be downloaded again"
            )

    def __reduce__(self) -> tuple[type[Raw], tuple[Path, str]]:
        return Raw, (self.path, self.root)

    def __repr__(self) -> str:
        return f"Raw({str(self.path)!r}, root={self.root!r})"

    def once(self, make: Callable[[Raw], _T]) -> _T:
        """`make(self)`, called the first time only: for index files that every unit of a release needs."""
        if make not in self._memo:
            self._memo[make] = make(self)
        value: _T = self._memo[make]
        return value

    # -- names ---------------------------------------------------------------------------------------------

    def _archive(self) -> zipfile.ZipFile:
        if self._zip is None or self._pid != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except Exception as error:  # a damaged table of contents raises far more than BadZipFile
                raise SourceError(f"{self.path}: not a readable zip ({error}). {_DAMAGED}") from None
            self._pid = os.getpid()
        return self._zip

    def _inside(self, name: str) -> str:
        return str(PurePosixPath(self.root, _relative(name)))

    def _listing(self) -> dict[str, int]:
        if self._names is None:
            prefix = f"{self.root}/" if self.root else ""
            found = self._members() if self.is_zip else _files(self.path / self.root, prefix)
            self._names = dict(sorted((name[len(prefix) :], size) for name, size in found if name.startswith(prefix)))
        return self._names

    def _members(self) -> Iterator[tuple[str, int]]:
        for member in self._archive().infolist():
            if _is_plain(member.filename):  # folders end in a slash and so are not
                yield member.filename, member.file_size

    def _size(self, name: str) -> int | None:
        """Bytes of a file, None when there is no such file."""
        inside = self._inside(name)
        if self.is_zip or self._names is not None:
            return self._listing().get(_relative(name))
        try:
            status = os.stat(self.path / inside)
        except (OSError, ValueError):  # absent, too long, or not a name this file system can hold
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """The files below the root whose name starts and ends so, sorted."""
        return [name for name in self._listing() if name.startswith(prefix) and name.endswith(suffix)]

    def exists(self, name: str) -> bool:
        """Whether the file is there.

        Raises:
            Reject: if the name leaves the release.
        """
        return self._size(name) is not None

    def size(self, name: str) -> int:
        """Bytes of the file once unpacked, 0 when it is absent.

        Raises:
            Reject: if the name leaves the release.
        """
        return self._size(name) or 0

    def locate(self, *markers: str) -> Raw | None:
        """The shallowest folder that holds one of the marker files, wherever an archive nested it."""
        best: str | None = None
        for name in self._listing():
            folder, _, file = name.rpartition("/")
            if file in markers and (best is None or (folder.count("/"), folder) < (best.count("/"), best)):
                best = folder
                if not folder:
                    break
        if best is None:
            return None
        return self if not best else Raw(self.path, f"{self.root}/{best}" if self.root else best)

    def fingerprint(self) -> str:
        """SHA-256 over every file's name and size, and over the content of the index files among them.

        Raises:
            Reject: if an index file is damaged.
        """
        digest = hashlib.sha256()
        for name, size in self._listing().items():
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            if name.endswith(_INDEX_SUFFIXES):
                with _refusing("the file cannot be read", name), self.open(name) as stream:
                    while chunk := stream.read(_CHUNK):
                        digest.update(chunk)
        return digest.hexdigest()

    # -- bytes ---------------------------------------------------------------------------------------------

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            Reject: if it is missing, too large, or its name leaves the release.
        """
        inside, size = self._inside(name), self._size(name)
        if size is None:
            raise Reject("the file is missing", file=name, hint="Complete the raw release")
        if size > MAX_MEMBER_BYTES:
            raise Reject(f"{size:,} bytes unpacked, more than any file of a release should have", file=name)
        with _refusing("the file cannot be opened", name):
            return self._archive().open(inside) if self.is_zip else (self.path / inside).open("rb")

    def read(self, name: str) -> bytes:
        """The whole content of a file.

        Raises:
            Reject: if it is missing, damaged or too large.
        """
        with _refusing("the file cannot be read", name), self.open(name) as stream:
            return stream.read()

    def text(self, name: str) -> str:
        """A UTF-8 text file, without its byte-order mark.

        Raises:
            Reject: if it is missing or not UTF-8.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Reject(f"not UTF-8 text at byte {error.start}", file=name) from None

    # -- structured files ----------------------------------------------------------------------------------

    def json(self, name: str) -> Any:
        """A JSON file.

        Raises:
            Reject: if it is missing or not JSON, with the line.
        """
        with _refusing("not valid JSON", name):
            return json.loads(self.text(name))

    def records(self, name: str, key: str = "") -> JsonRecords:
        """A large JSON array or object, indexed by id without being held in memory; see `JsonRecords`."""
        return JsonRecords(self, name, key)

    def pickle(self, name: str, allow: frozenset[tuple[str, str]] = frozenset()) -> Any:
        """A pickled file of plain containers, plus the globals in `allow` (at most `NUMPY_GLOBALS`).

        Raises:
            UnsafePickleError: naming the first global that is not allowed, before anything of it is run.
            Reject: if the file is missing or not a pickle.
        """
        if not allow <= NUMPY_GLOBALS:
            raise ValueError(f"not harmless: {sorted(allow - NUMPY_GLOBALS)}")
        return _unpickle(self.read(name), allow, name)

    def npy(self, name: str) -> NDArray[Any]:
        """A numeric or string `.npy` array, read-only, read with pickling off and only if it is whole.

        Raises:
            Reject: if it is missing, truncated, not `.npy`, or holds pickled objects.
        """
        data = self.read(name)
        shape, fortran, dtype, start = _npy_header(data, name)
        if dtype.kind in "OV":
            raise Reject(f"the array holds {dtype} where plain numbers or text are expected", file=name)
        expected, there = prod(shape) * dtype.itemsize, len(data) - start
        if there != expected:
            raise Reject(
                f"{'truncated' if there < expected else 'overlong'} .npy: the header announces "
                f"{'x'.join(map(str, shape))} {dtype} = {expected:,} bytes, the file holds {there:,}",
                file=name,
                hint=_DAMAGED,
            )
        with _refusing("not a readable .npy", name):
            array: NDArray[Any] = np.ndarray(shape, dtype, data, start, order="F" if fortran else "C")
            return array

    def pictures_npy(self, name: str) -> NDArray[np.uint8]:
        """A `.npy` stack of RGB pictures as uint8 (n, h, w, 3), whatever dtype the release stored it in.

        Raises:
            Reject: as `npy`, for another shape, and for values that are not whole numbers from 0 to 255.
        """
        array = self.npy(name)
        if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
            raise Reject(f"shape {array.shape} where (pictures, height, width, 3) is expected", file=name)
        if array.dtype == np.uint8:
            return array
        if array.dtype.kind not in "iuf" or array.min() < 0 or array.max() > 255 or (array != np.rint(array)).any():
            raise Reject(f"{array.dtype} values that are not whole numbers from 0 to 255", file=name)
        return array.astype(np.uint8)

    def object_npy(self, name: str) -> Any:
        """An object `.npy` (a pickle inside), through the allow-list; a 0-d array gives its only element.

        Raises:
            UnsafePickleError: as `pickle`.
            Reject: if it is missing or damaged.
        """
        data = self.read(name)
        shape, _, dtype, start = _npy_header(data, name)
        if not dtype.hasobject:
            return self.npy(name)
        array = _unpickle(data[start:], NUMPY_GLOBALS, name)
        return array.item() if isinstance(array, np.ndarray) and shape == () else array


def _relative(name: str) -> str:
    """The name without detours (`a//./b/` is `a/b`).

    Raises:
        Reject: if it leads out of the release.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise Reject(f"the file name {name!r} would leave the release", file=name)
    return str(path)


def _is_plain(name: str) -> bool:
    try:
        return _relative(name) == name
    except Reject:
        return False


def _files(folder: Path, prefix: str, above: tuple[os.stat_result, ...] = ()) -> Iterator[tuple[str, int]]:
    """Yield (name, size) of every regular file below a folder, through links, but never in a circle."""
    try:
        here = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        raise SourceError(f"{folder}: the folder cannot be listed ({error.strerror}). Make it readable") from None
    if any(os.path.samestat(here, outer) for outer in above):
        return
    for entry in entries:
        name = prefix + entry.name
        try:
            status = entry.stat()
        except OSError:  # a link to nowhere
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _files(Path(entry.path), f"{name}/", (*above, here))
        elif stat.S_ISREG(status.st_mode) and _is_plain(name):
            yield name, status.st_size


def _unpickle(data: bytes, allow: frozenset[tuple[str, str]], name: str) -> Any:
    with _refusing("not a readable pickle", name):
        return _PlainUnpickler(io.BytesIO(data), allow, name).load()


def _npy_header(data: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    stream = io.BytesIO(data)
    with _refusing("not a readable .npy", name):
        version = npy_format.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"unknown version {version}")
        # 3.0 differs from 2.0 in the names of fields only, and arrays with fields are refused
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if min(shape, default=0) < 0:
            raise ValueError(f"negative sides in the shape {shape}")
        return shape, fortran, dtype, stream.tell()


class JsonRecords(Mapping[str, Any]):
    """The records of a large JSON file by id, kept as byte offsets, so memory does not grow with the records.

    Reading a record whose id occurs twice raises `Reject`; array entries without an id are nobody's and are passed
    over. Threads and forked processes may share an instance.

    Args:
        raw: the release.
        name: a JSON array of objects, or an object of id -> value.
        key: for an array, the key that holds the id.

    Raises:
        Reject: if the file is missing or is not such JSON.
    """

    def __init__(self, raw: Raw, name: str, key: str = "") -> None:
        self.name = name
        self._spans: dict[str, tuple[int, int]] = {}
        self._repeated: set[str] = set()
        with _refusing("not a readable JSON array or object", name), _seekable(raw, name) as stream:
            for record_id, span in _Scanner(stream).entries(key):
                if record_id in self._spans:
                    self._repeated.add(record_id)
                self._spans[record_id] = span
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # outlives the stream

    def __getitem__(self, record_id: str) -> Any:
        start, stop = self._spans[record_id]
        if record_id in self._repeated:
            raise Reject("two entries have this id", record=record_id, file=self.name)
        with _refusing("not valid JSON", self.name):
            return json.loads(self._bytes[start:stop].decode("utf-8"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)


@contextlib.contextmanager
def _seekable(raw: Raw, name: str) -> Iterator[IO[bytes]]:
    """The open file, or an unpacked copy of a zip's member, which can be read only forwards."""
    with raw.open(name) as stream:
        if not raw.is_zip:
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, _CHUNK)
            copy.seek(0)
            yield copy


class _Scanner:
    """Walks a JSON array or object entry by entry, holding about one chunk of text or one entry."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.utf8 = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.at = 0  # where in the text the next token starts
        self.ended = False
        self.counted, self.offset = 0, 0  # text[:counted] ends at byte `offset` of the file

    def entries(self, key: str) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield (id, (start byte, stop byte)) of every entry that has an id.

        Raises:
            ValueError, RecursionError: if the file is not strict JSON, or neither an array nor an object.
        """
        if self.next() == "\ufeff":
            self.at += 1
        opening = self.take("[", "{")
        closing = "]" if opening == "[" else "}"
        separator = self.take(closing) if self.next() == closing else ","
        while separator != closing:
            record_id: Any = None
            if opening == "{":
                if self.next() != '"':
                    raise ValueError(f"an id in quotation marks expected at byte {self.position():,}")
                record_id = self.value()
                self.take(":")
            self.next()
            start = self.position()
            value = self.value()
            if opening == "[" and isinstance(value, dict):
                record_id = value.get(key)
            if record_id not in (None, "") or opening == "{":
                yield str(record_id), (start, self.position())
            separator = self.take(",", closing)
        if self.next():
            raise ValueError(f"more text after the end, at byte {self.position():,}")

    def position(self) -> int:
        """The byte offset of text[at] in the file."""
        self.offset += len(self.text[self.counted : self.at].encode("utf-8"))
        self.counted = self.at
        return self.offset

    def more(self) -> None:
        """Forget what is behind and read on; twice as much each time when a single value is that long."""
        self.position()
        rest = self.text[self.at :]
        chunk = self.stream.read(max(_CHUNK, len(rest)))
        self.ended = not chunk
        self.text, self.at, self.counted = rest + self.utf8.decode(chunk, final=self.ended), 0, 0

    def next(self) -> str:
        """Move past blanks; return the character there, "" at the end of the file."""
        while True:
            while self.text[self.at : self.at + 1] in _BLANKS:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def take(self, *wanted: str) -> str:
        """Move past blanks and one of the wanted characters, and return it."""
        found = self.next()
        if found not in wanted:
            found = found or "the end of the file"
            raise ValueError(f"{' or '.join(wanted)} expected at byte {self.position():,}, found {found}")
        self.at += 1
        return found

    def value(self) -> Any:
        """Move past one JSON value, and return it."""
        self.next()
        while True:
            try:
                value, stop = _DECODER.raw_decode(self.text, self.at)
                if stop + 2 < len(self.text) or self.ended:  # else a number might go on: 1 may become 1e+5
                    self.at = stop
                    return value
            except json.JSONDecodeError as error:
                cut = error.pos + _LONGEST_TOKEN >= len(self.text) or error.msg.startswith("Unterminated string")
                if self.ended or not cut:
                    raise ValueError(f"{error.msg}, in the entry at byte {self.position():,}") from None
            self.more()

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
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from openstory_hf.errors import SourceError, UnsafePickleError
from openstory_hf.records import Reject

MAX_MEMBER_BYTES = 4 << 30
"""The most a single file of a release may unpack to; larger ones are taken for a decompression bomb."""

NUMPY_GLOBALS = frozenset(
    (module, name)
    for module, name in (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    )
)
"""What a pickle of numpy arrays needs, in its old and new spelling; nothing else is ever allowed."""

_INDEX_SUFFIXES = (".json", ".jsonl", ".pkl", ".md", ".txt", ".csv")
_CHUNK = 1 << 20

_T = TypeVar("_T")


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that builds containers and numbers, and the globals it is told to allow."""

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
        return super().find_class(module, name)


class Raw:
    """A raw release.

    Args:
        path: a folder, or a zip file read in place.
        root: folder inside it to treat as the top, "" for the top itself.

    Names are relative POSIX paths. Instances can be pickled; each process opens its own handles.

    Raises:
        SourceError: if the path does not exist or is neither a folder nor a zip.
    """

    def __init__(self, path: str | os.PathLike[str], root: str = "") -> None:
        self.path = Path(path)
        self.root = root.strip("/")
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
            raise SourceError(f"{self.path} {what}. Give --raw the folder or the zip of the raw release")

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
            except zipfile.BadZipFile as error:
                raise SourceError(f"{self.path}: not a readable zip ({error}). Download it again") from None
            self._pid = os.getpid()
        return self._zip

    def _inside(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise Reject(f"the file name {name!r} would leave the release", file=name)
        return f"{self.root}/{name}" if self.root else name

    def _listing(self) -> dict[str, int]:
        if self._names is None:
            prefix = f"{self.root}/" if self.root else ""
            names: dict[str, int] = {}
            if self.is_zip:
                for member in self._archive().infolist():
                    if not member.is_dir() and member.filename.startswith(prefix):
                        names[member.filename[len(prefix) :]] = member.file_size
            else:
                top = self.path / self.root
                for folder, folders, files in os.walk(top):
                    folders.sort()
                    relative = PurePosixPath(Path(folder).relative_to(top).as_posix())
                    for file in files:
                        with contextlib.suppress(FileNotFoundError):
                            names[str(relative / file)] = os.stat(os.path.join(folder, file)).st_size
            self._names = dict(sorted(names.items()))
        return self._names

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """The files below the root whose name starts and ends so, sorted."""
        return [name for name in self._listing() if name.startswith(prefix) and name.endswith(suffix)]

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        if not self.is_zip and self._names is None:
            return (self.path / self._inside(name)).is_file()
        return name in self._listing()

    def size(self, name: str) -> int:
        """Bytes of the file once unpacked, 0 when it is absent."""
        if not self.is_zip and self._names is None:
            path = self.path / self._inside(name)
            return path.stat().st_size if path.is_file() else 0
        return self._listing().get(name, 0)

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
        """SHA-256 over every file's name and size, and over the content of the index files among them."""
        digest = hashlib.sha256()
        for name, size in self._listing().items():
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            if name.endswith(_INDEX_SUFFIXES):
                with self.open(name) as stream:
                    while chunk := stream.read(_CHUNK):
                        digest.update(chunk)
        return digest.hexdigest()

    # -- bytes ---------------------------------------------------------------------------------------------

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            Reject: if it is missing, too large, or its name leaves the release.
        """
        inside = self._inside(name)
        if self.size(name) > MAX_MEMBER_BYTES:
            raise Reject(f"{self.size(name):,} bytes unpacked, more than any file of a release should have", file=name)
        try:
            if self.is_zip:
                return self._archive().open(inside)
            return (self.path / inside).open("rb")
        except (KeyError, FileNotFoundError, IsADirectoryError):
            raise Reject("the file is missing", file=name, hint="Complete the raw release") from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise Reject(f"the file cannot be opened: {error}", file=name, hint="Download it again") from None

    def read(self, name: str) -> bytes:
        """The whole content of a file.

        Raises:
            Reject: if it is missing, damaged or too large.
        """
        try:
            with self.open(name) as stream:
                return stream.read()
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise Reject(f"the file cannot be read: {error}", file=name, hint="Download it again") from None

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
        try:
            return json.loads(self.text(name))
        except (json.JSONDecodeError, RecursionError) as error:
            raise Reject(f"not valid JSON: {error}", file=name, hint="Download it again") from None

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
        data = self.read(name)
        try:
            return _PlainUnpickler(io.BytesIO(data), allow, name).load()
        except UnsafePickleError:
            raise
        except Exception as error:  # a damaged pickle can raise almost anything
            raise Reject(
                f"not a readable pickle: {type(error).__name__}: {error}", file=name, hint="Download it again"
            ) from None

    def npy(self, name: str) -> NDArray[Any]:
        """A numeric or string `.npy` array, read with pickling off and only if it is whole.

        Raises:
            Reject: if it is missing, truncated, not `.npy`, or holds pickled objects.
        """
        data = self.read(name)
        shape, fortran, dtype, start = _npy_header(data, name)
        if dtype.hasobject:
            raise Reject("the array holds pickled objects where plain numbers are expected", file=name)
        expected = prod(shape) * dtype.itemsize
        if len(data) - start != expected:
            raise Reject(
                f"truncated .npy: the header announces {'x'.join(map(str, shape))} {dtype} = {expected:,} bytes, "
                f"the file holds {len(data) - start:,}",
                file=name,
                hint="Download it again",
            )
        array = np.frombuffer(data, dtype=dtype, offset=start, count=prod(shape))
        return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)

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
        try:
            array = _PlainUnpickler(io.BytesIO(data[start:]), NUMPY_GLOBALS, name).load()
        except UnsafePickleError:
            raise
        except Exception as error:
            raise Reject(
                f"not a readable pickle: {type(error).__name__}: {error}", file=name, hint="Download it again"
            ) from None
        return array.item() if isinstance(array, np.ndarray) and shape == () else array


def _npy_header(data: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    stream = io.BytesIO(data)
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = npy_format.read_array_header_1_0(stream)
        else:
            shape, fortran, dtype = npy_format.read_array_header_2_0(stream)
    except ValueError as error:
        raise Reject(f"not a readable .npy: {error}", file=name, hint="Download it again") from None
    return shape, fortran, dtype, stream.tell()


class JsonRecords(Mapping[str, Any]):
    """The records of a large JSON file by id, kept as byte offsets, so memory does not grow with the records.

    Reading a record whose id occurs twice raises `Reject`; entries without an id are nobody's and are passed over.

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
        self._stream = self._seekable(raw, name)
        self._repeated: set[str] = set()
        for start, stop, record_id, value in self._scan():
            if not record_id and isinstance(value, dict):
                record_id = str(value.get(key, ""))
            if record_id in self._spans:
                self._repeated.add(record_id)
            elif record_id:
                self._spans[record_id] = (start, stop)

    @staticmethod
    def _seekable(raw: Raw, name: str) -> IO[bytes]:
        stream = raw.open(name)
        if not raw.is_zip:
            return stream
        copy = tempfile.TemporaryFile()  # noqa: SIM115 – deflated members cannot seek; lives as long as self
        while chunk := stream.read(_CHUNK):
            copy.write(chunk)
        return copy

    def _scan(self) -> Iterator[tuple[int, int, str, Any]]:
        """Yield (start byte, stop byte, id or "", value) of every entry, holding about one chunk of text."""
        decoder = json.JSONDecoder()
        utf8 = codecs.getincrementaldecoder("utf-8")()
        self._stream.seek(0)
        text, at, ended = "", 0, False
        counted, offset = 0, 0  # text[:counted] ends at byte `offset` of the file

        def position() -> int:
            """The byte offset of text[at]."""
            nonlocal counted, offset
            offset += len(text[counted:at].encode("utf-8"))
            counted = at
            return offset

        def more() -> None:
            nonlocal text, at, ended, counted
            position()
            chunk = self._stream.read(_CHUNK)
            ended = not chunk
            text, at, counted = text[at:] + utf8.decode(chunk, final=ended), 0, 0

        def skip(characters: str) -> str:
            """Move past blanks and the given characters; return the next character, "" at the end."""
            nonlocal at
            while True:
                while at < len(text) and (text[at].isspace() or text[at] in characters):
                    at += 1
                if at < len(text) or ended:
                    return text[at : at + 1]
                more()

        def value() -> Any:
            nonlocal at
            while True:
                try:
                    found, stop = decoder.raw_decode(text, at)
                    if stop < len(text) or ended:  # a number at the very end might go on
                        at = stop
                        return found
                except json.JSONDecodeError:
                    if ended:
                        raise
                more()

        try:
            opening = skip("\ufeff")
            if opening not in ("[", "{"):
                raise Reject("neither a JSON array nor a JSON object", file=self.name)
            closing = "]" if opening == "[" else "}"
            at += 1
            while (character := skip(",")) != closing:
                if not character:
                    raise Reject("the JSON ends in the middle", file=self.name, hint="Download it again")
                record_id = ""
                if opening == "{":
                    record_id = value()
                    skip(":")
                start = position()
                found = value()
                yield start, position(), record_id, found
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Reject(f"not valid JSON: {error}", file=self.name, hint="Download it again") from None

    def __getitem__(self, record_id: str) -> Any:
        start, stop = self._spans[record_id]
        if record_id in self._repeated:
            raise Reject("two entries have this id", record=record_id, file=self.name)
        self._stream.seek(start)
        return json.loads(self._stream.read(stop - start))

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

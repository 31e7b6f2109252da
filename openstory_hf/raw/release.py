"""A raw release as a set of named files, whether it is a folder or a zip."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from openstory_hf.errors import SourceError
from openstory_hf.masks import read_labels
from openstory_hf.pictures import check, decode, seen_size
from openstory_hf.raw.arrays import npy_header, read_npy
from openstory_hf.raw.pickles import NUMPY_GLOBALS, unpickle
from openstory_hf.raw.records import JsonGroups, JsonRecords
from openstory_hf.raw.refusing import DAMAGED, refusing
from openstory_hf.raw.samples import Samples
from openstory_hf.raw.strict import parse_json
from openstory_hf.raw.tables import Table
from openstory_hf.raw.tars import Tar
from openstory_hf.records import Reject

MAX_MEMBER_BYTES = 4 << 30
"""The most a single file of a release may unpack to; larger ones are taken for a decompression bomb."""

MAX_LINE_BYTES = 64 << 20
"""The most a line may hold; stories are far shorter, and a line is held in memory."""

_INDEX_SUFFIXES = (".json", ".jsonl", ".pkl", ".md", ".txt", ".csv")
_CHUNK = 1 << 20

_T = TypeVar("_T")


class Raw:
    """A raw release.

    Args:
        path: a folder, or a zip file read in place.
        root: folder inside it to treat as the top, "" for the top itself.
        within: zips to step through, each inside the one before; see `archive`.

    Names are relative POSIX paths. Links inside a folder are followed, since large folders often live on another
    disk; only regular files are seen. Instances can be pickled; each process opens its own handles.

    Raises:
        SourceError: if the path does not exist or is neither a folder nor a zip.
    """

    def __init__(self, path: str | os.PathLike[str], root: str = "", within: tuple[str, ...] = ()) -> None:
        self.path = Path(path)
        self.within = within
        top = _relative(root.strip("/"))
        self.root = "" if top == "." else top
        self._zip: zipfile.ZipFile | None = None
        self._names: dict[str, int] | None = None
        self._twice: set[str] = set()
        self._pid = os.getpid()
        self._memo: dict[Callable[[Raw], Any], Any] = {}
        if self.path.is_dir():
            self.is_zip = False
        elif self.path.is_file() and _is_zip(self.path):
            self.is_zip = True
        else:
            what = "is not a folder or a zip" if self.path.exists() else "does not exist"
            raise SourceError(
                f"{self.path} {what}. Give --raw the folder or the zip of the raw release; "
                "a zip that was cut short must be downloaded again"
            )

    def __reduce__(self) -> tuple[type[Raw], tuple[Path, str, tuple[str, ...]]]:
        return Raw, (self.path, self.root, self.within)

    def __repr__(self) -> str:
        return f"Raw({str(self.path)!r}, root={self.root!r}, within={self.within!r})"

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
                for name in self.within:
                    self._zip = zipfile.ZipFile(self._zip.open(name))
            except Exception as error:  # a damaged table of contents raises far more than BadZipFile
                raise SourceError(f"{self.path}: not a readable zip ({error}). {DAMAGED}") from None
            self._pid = os.getpid()
        return self._zip

    def _inside(self, name: str) -> str:
        return f"{self.root}/{_relative(name)}" if self.root else _relative(name)

    def _listing(self) -> dict[str, int]:
        if self._names is None:
            prefix = f"{self.root}/" if self.root else ""
            found = self._members() if self.is_zip else _files(self.path / self.root, prefix)
            ours = sorted((name[len(prefix) :], size) for name, size in found if name.startswith(prefix))
            self._names = dict(ours)
            self._twice = {name for (name, _), (following, _) in pairwise(ours) if name == following}
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

    def total_size(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(self._listing().values())

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
        return self if not best else Raw(self.path, f"{self.root}/{best}" if self.root else best, self.within)

    def archive(self, name: str) -> Raw:
        """A zip inside the release, read in place as a release of its own.

        Every jump to another member of a zip in a zip unpacks the outer one again up to there, so it suits a few
        members read from front to back.

        Raises:
            Reject: if it is missing, too large, not a zip, or its name leaves the release.
        """
        with refusing("not a readable zip", name), self.open(name) as stream:
            zipfile.ZipFile(stream).close()
        inside = self._inside(name)
        return Raw(self.path, within=(*self.within, inside)) if self.is_zip else Raw(self.path / inside)

    def fingerprint(self) -> str:
        """SHA-256 over every file's name and size, and over the content of the index files among them.

        Raises:
            Reject: if an index file is damaged.
        """
        digest = hashlib.sha256()
        for name, size in self._listing().items():
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            if name.endswith(_INDEX_SUFFIXES) or ("/" not in name and name.endswith(".npy")):
                with refusing("the file cannot be read", name), self.open(name) as stream:
                    while chunk := stream.read(_CHUNK):
                        digest.update(chunk)
        return digest.hexdigest()

    # -- bytes ---------------------------------------------------------------------------------------------

    def open(self, name: str, *, limit: int | None = None) -> IO[bytes]:
        """Open a file for reading.

        Args:
            name: the file.
            limit: the most bytes it may unpack to; `MAX_MEMBER_BYTES` unless the caller never holds it as a whole.

        Raises:
            Reject: if it is missing, too large, there twice, or its name leaves the release.
        """
        inside, size = self._inside(name), self._size(name)
        if size is None:
            raise Reject("the file is missing", file=name, hint="Complete the raw release")
        if size > (limit or MAX_MEMBER_BYTES):
            raise Reject(f"{size:,} bytes unpacked, more than any file of a release should have", file=name)
        if _relative(name) in self._twice:
            raise Reject("two members of the zip have this name", file=name, hint=DAMAGED)
        with refusing("the file cannot be opened", name):
            return self._archive().open(inside) if self.is_zip else (self.path / inside).open("rb")

    def read(self, name: str) -> bytes:
        """The whole content of a file.

        Raises:
            Reject: if it is missing, damaged or too large.
        """
        with refusing("the file cannot be read", name), self.open(name) as stream:
            content = stream.read()
            # the checksum of a zip says nothing about the size that is listed
            if self.is_zip and len(content) != (listed := self.size(name)):
                raise EOFError(f"{len(content):,} bytes where the zip lists {listed:,}")
            return content

    def text(self, name: str) -> str:
        """A UTF-8 text file, without its byte-order mark.

        Raises:
            Reject: if it is missing or not UTF-8.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Reject(f"not UTF-8 text at byte {error.start}", file=name) from None

    def lines(self, name: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """The lines of a file, line ends included, each with the byte it begins at; one is held at a time.

        Args:
            name: the file.
            start: the byte where the first line begins.

        Raises:
            Reject: if the file is missing, damaged or too large, or a line is longer than `MAX_LINE_BYTES`.
        """
        with refusing("the file cannot be read", name), self.open(name) as stream:
            stream.seek(start)
            while line := stream.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise Reject(f"the line at byte {start:,} has more than {MAX_LINE_BYTES:,} bytes", file=name)
                yield start, line
                start += len(line)

    # -- structured files ----------------------------------------------------------------------------------

    def json(self, name: str) -> Any:
        """A JSON file.

        Raises:
            Reject: if it is missing or not JSON, with the line.
        """
        with refusing("not valid JSON", name):
            return parse_json(self.text(name))

    def records(self, name: str, key: str = "") -> JsonRecords:
        """A large JSON array or object, indexed by id without being held in memory; see `JsonRecords`."""
        return JsonRecords(self, name, key)

    def grouped(self, name: str, **keys: str) -> dict[str, JsonGroups]:
        """Arrays of a large JSON object, each grouped by a key of its entries without being held in memory.

        `raw.grouped("train.json", annotations="story_id", images="id")["annotations"]["4711"]` lists the annotations
        of one story. A named array that the file lacks is empty. See `JsonGroups`.

        Raises:
            Reject: if the file is missing, or not an object in which what is named are arrays.
        """
        return JsonGroups.read(self, name, keys)

    def tar(self, name: str) -> Tar:
        """A tar inside the release, plain or compressed; see `Tar`."""
        return Tar(self, name)

    def table(self, name: str) -> Table:
        """A Parquet or Arrow IPC file; see `Table`."""
        return Table(self, name)

    def samples(self, name: str) -> Samples:
        """The keyed samples of a WebDataset tar or of a table; see `Samples`."""
        return Samples(self, name)

    def labels(self, data: bytes, name: str) -> NDArray[np.uint8]:
        """The values of a label PNG as an array (h, w): palette indices or grey values, never colours.

        Args:
            data: the encoded picture, from wherever in the release.
            name: what to call it in an error.

        Raises:
            Reject: if it is not a whole picture of mode P or L.
        """
        with refusing("not a label picture", name):
            seen_size(data)  # refuses too many pixels
            return read_labels(data)

    def picture_size(self, data: bytes, name: str) -> tuple[int, int]:
        """(height, width) of an encoded picture as a reader will see it, from its header alone.

        Raises:
            Reject: if it is not a picture.
        """
        with refusing("not a picture", name):
            return seen_size(data)

    def pickle(self, name: str, allow: frozenset[tuple[str, str]] = frozenset()) -> Any:
        """A pickled file of plain containers, plus the globals in `allow` (at most `NUMPY_GLOBALS`).

        Raises:
            UnsafePickleError: naming the first global that is not allowed, before anything of it is run.
            Reject: if the file is missing or not a pickle.
        """
        if not allow <= NUMPY_GLOBALS:
            raise ValueError(f"not harmless: {sorted(allow - NUMPY_GLOBALS)}")
        return unpickle(self.read(name), allow, name)

    def npy(self, name: str) -> NDArray[Any]:
        """A numeric or string `.npy` array, read-only, read with pickling off and only if it is whole.

        Raises:
            Reject: if it is missing, truncated, not `.npy`, or holds pickled objects.
        """
        return read_npy(self.read(name), name)

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

    def pixels(self, name: str) -> NDArray[np.uint8]:
        """The RGB pixels, uint8 (h, w, 3), of an encoded picture: for files that join several pictures in one.

        Raises:
            Reject: if it is missing or not a whole picture.
        """
        data = self.read(name)
        with refusing("not a whole picture", name):
            check(data)
            return np.asarray(decode({"bytes": data, "path": name}))

    def object_npy(self, name: str) -> Any:
        """An object `.npy` (a pickle inside), through the allow-list; a 0-d array gives its only element.

        Raises:
            UnsafePickleError: as `pickle`.
            Reject: if it is missing or damaged.
        """
        data = self.read(name)
        shape, _, dtype, start = npy_header(data, name)
        if not dtype.hasobject:
            return self.npy(name)
        array = unpickle(data[start:], NUMPY_GLOBALS, name)
        return array.item() if isinstance(array, np.ndarray) and shape == () else array


@lru_cache(maxsize=256)  # a file is asked for several times while it is read
def _relative(name: str) -> str:
    """The name without detours (`a//./b/` is `a/b`).

    Raises:
        Reject: if it leads out of the release.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise Reject(f"the file name {name!r} would leave the release", file=name)
    return str(path)


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one that goes on in another file
        return False


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

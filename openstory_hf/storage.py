"""Where a built dataset lies: a local folder, a Hub repository, or any place fsspec knows. Reads files and ranges."""

from __future__ import annotations

import io
import mmap
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from openstory_hf.errors import OutputError, UsageError, reason_of

T = TypeVar("T")

_NAME = r"\w[\w.-]*/\w[\w.-]*"
_ON_HUB = re.compile(rf"hf://datasets/(?P<name>{_NAME})(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.+?))?/?")

_PAUSES = (0.2, 1.0, 3.0, 8.0)
"""Seconds before a failed read from a network is tried again; the clients of the Hub retry on their own besides."""


class Storage:
    """The files of one folder.

    Args:
        path: a local folder, `user/repo` of a dataset on the Hub, or a URL such as `hf://datasets/...`,
            `https://...` or `s3://...`.
        revision: branch, tag or commit; only of a repository on the Hub.
    """

    def __init__(self, path: str, revision: str | None = None) -> None:
        self.path = str(path)
        if "://" not in self.path and not Path(self.path).exists() and re.fullmatch(_NAME, self.path):
            self.path = f"hf://datasets/{self.path}"
        self._hub = _ON_HUB.fullmatch(self.path)
        if self._hub:
            self._pin(revision)
        elif revision:
            raise UsageError(f"revision={revision!r}, but {path} is not a repository of the Hub")
        self._maps: dict[str, mmap.mmap] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.path,)

    def _pin(self, revision: str | None) -> None:
        """Read one commit, whatever is pushed meanwhile."""
        from huggingface_hub import HfApi

        assert self._hub
        name, folder = self._hub["name"], self._hub["folder"]
        wanted = revision or unquote(self._hub["revision"] or "main")
        if not re.fullmatch("[0-9a-f]{40}", wanted):
            try:
                wanted = str(HfApi().dataset_info(name, revision=wanted, expand=["sha"]).sha)
            except Exception as error:  # each version of the Hub's client has its own for a network that fails
                raise OutputError(
                    f"{self.path} (revision {wanted}) cannot be read: {reason_of(error)}. Check the name, the "
                    "network, and that you are logged in (`hf auth login`) where access is restricted"
                ) from None
        self.path = f"hf://datasets/{name}@{wanted}" + (f"/{folder}" if folder else "")
        self._hub = _ON_HUB.fullmatch(self.path)

    def _where(self, file: str) -> tuple[fsspec.AbstractFileSystem, str]:
        # looked up anew each time: fsspec keeps one instance for each process, and none survives a fork
        if self._hub:
            from huggingface_hub import get_token, hf_hub_url

            # HfFileSystem would list folders before it reads a file
            inside = f"{self._hub['folder']}/{file}" if self._hub["folder"] else file
            url = hf_hub_url(self._hub["name"], inside, repo_type="dataset", revision=self._hub["revision"])
            token = get_token()
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return fsspec.filesystem("https", client_kwargs={"headers": headers}), url
        fs, root = fsspec.url_to_fs(self.path)
        return fs, f"{root}/{file}"

    @property
    def local(self) -> bool:
        """Whether the files can be mapped into memory."""
        return isinstance(self._where("")[0], LocalFileSystem)

    def whole(self, file: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: if it is not there.
            OutputError: if it cannot be read.
        """
        fs, path = self._where(file)

        def read() -> bytes:
            if getattr(fs, "async_impl", False):
                return bytes(fs.cat_file(path))
            with fs.open(path, "rb") as stream:
                return bytes(stream.read())

        return self._tried(file, read)

    def range(self, file: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file, in one request.

        Raises:
            OutputError: if they cannot be read.
        """
        fs, path = self._where(file)

        def read() -> bytes:
            if getattr(fs, "async_impl", False):
                data = fs.cat_file(path, start=start, end=stop)
            else:
                with fs.open(path, "rb", cache_type="none") as stream:  # a cache would read ahead
                    stream.seek(start)
                    data = stream.read(stop - start)
            if len(data) != stop - start:
                raise OSError(f"{len(data)} of {stop - start} bytes came")
            return bytes(data)

        try:
            return self._tried(file, read)
        except FileNotFoundError:
            raise OutputError(f"{self.path}/{file} is missing. Push or build again") from None

    def map(self, file: str) -> mmap.mmap:
        """A local file as memory.

        Raises:
            OutputError: if it cannot be opened.
        """
        if file not in self._maps:
            try:
                with open(self._where(file)[1], "rb") as stream:
                    self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise self._damaged(file, error) from None
        return self._maps[file]

    def will_need(self, file: str, start: int, stop: int) -> None:
        """Ask the system to read bytes [start, stop) of a local file into its cache meanwhile, where it can."""
        if hasattr(mmap, "MADV_WILLNEED"):
            first = start - start % mmap.PAGESIZE
            data = self.map(file)
            if first < len(data):  # of a file that was cut, reading the pictures says so
                data.madvise(mmap.MADV_WILLNEED, first, stop - first)

    def open(self, file: str, size: int) -> Ranges:
        """A file of so many bytes for Arrow, which asks for just the ranges it needs."""
        return Ranges(self, file, size)

    def _tried(self, file: str, read: Callable[[], T]) -> T:
        """Read, and again after a pause if a network fails."""
        pauses = () if self.local else _PAUSES
        for pause in (*pauses, None):
            try:
                return read()
            except (FileNotFoundError, NotADirectoryError):
                raise
            except Exception as error:  # each kind of storage raises its own
                if pause is None:
                    raise self._damaged(file, error) from None
                time.sleep(pause)
        raise AssertionError

    def _damaged(self, file: str, error: Exception) -> OutputError:
        if self.local:
            hint = f"`openstory check {self.path}` finds what is damaged"
        else:
            hint = "Check the network and the access rights, and resume from the last state"
        return OutputError(f"{self.path}/{file} cannot be read: {reason_of(error)}. {hint}")


class Ranges(io.RawIOBase):
    """A file that is read range by range, each by itself: it may be used on in a process that was forked.

    Args:
        storage: where the file is.
        file: its name.
        size: its bytes.
    """

    def __init__(self, storage: Storage, file: str, size: int) -> None:
        super().__init__()
        self._storage, self._file, self._size, self._at = storage, file, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer at the end.

        Raises:
            OutputError: if they cannot be read.
        """
        stop = self._size if size < 0 else min(self._at + size, self._size)
        data = self._storage.range(self._file, self._at, stop) if stop > self._at else b""
        self._at += len(data)
        return data

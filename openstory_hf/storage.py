"""Where a built dataset lies: a local folder, a Hub repository, or any place fsspec knows. Reads files and ranges."""

from __future__ import annotations

import mmap
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from openstory_hf.errors import OutputError, reason_of

T = TypeVar("T")

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")

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
        if "://" not in self.path and not Path(self.path).exists() and _REPOSITORY.fullmatch(self.path):
            at = f"@{revision.replace('/', '%2F')}" if revision else ""
            self.path = f"hf://datasets/{self.path}{at}"
        elif revision:
            raise OutputError(f"revision={revision!r}, but {path} is not a repository of the Hub")
        self._maps: dict[str, mmap.mmap] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.path,)

    def _where(self, file: str) -> tuple[fsspec.AbstractFileSystem, str]:
        # looked up anew each time: fsspec keeps one instance for each process, and none survives a fork
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
        return self._tried(file, lambda: bytes(fs.cat_file(path)))

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

        return self._tried(file, read)

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

    def open(self, file: str) -> Any:
        """A binary stream for Arrow, which asks for just the ranges it needs."""
        fs, path = self._where(file)
        return fs.open(path, "rb", cache_type="none")

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

"""Where a build is written: a local folder, or any place fsspec can write to, by one builder or by many at once.

Builders of one plan share a folder without a coordinator. Whatever one of them publishes appears whole, under a name
and with bytes that the plan decides, and the result of a shard comes after its files. So it does no harm if two build
the same shard, and what is there with its result is finished, whoever built it. Hidden in `.build`, until the dataset
is complete:

- `plan-<fingerprint>`: what is being built; two plans in one folder refuse each other;
- `<shard>.json`: the result of a finished shard;
- `builder-<builder>` and `<shard>.begun.<builder>`: who builds and who is at what, so that others take another shard
  first; hints, no locks;
- `<shard>.error`: why it failed the last time;
- `tmp-<builder>-...`: what is being written.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub.utils import OfflineModeIsEnabled  # type: ignore[attr-defined]

from openstory_hf.errors import BuildError, OpenStoryError, UsageError, reason_of
from openstory_hf.identity import identity, is_gone
from openstory_hf.write import WORK, as_bytes, file_facts, make_folder, publish, write_whole, writing

T = TypeVar("T")

_PAUSES = (0.5, 2.0, 8.0, 30.0)
"""Seconds before a step that failed on a network is tried again; the clients of most stores retry besides."""

_CLEARINGS = 8
"""How often the files of a build are removed: another builder may leave one just now, or remove them as well, and then
what was listed is no longer there."""


def target(out: str | os.PathLike[str] | Target) -> Target:
    """The place of that path or URL.

    Raises:
        UsageError: for a URL of a kind that is not known, or whose package is not installed.
    """
    if isinstance(out, Target):
        return out
    text = os.fspath(out)
    if "://" not in text:
        if "::" in text:
            raise UsageError(f"{text}: fsspec takes two colons for a chain of URLs. Choose another --out")
        return _Local(text)
    try:
        fs, path = fsspec.url_to_fs(text)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"{text} cannot be written to: {error}. Install what it names, or choose another --out"
        ) from None
    if isinstance(fs, LocalFileSystem):
        return _Local(path)
    return _Hub(text) if text.startswith("hf://") else _Remote(text)


class Target:
    """The folder of a build, wherever it lies. Names are relative to it."""

    hints = True
    """Whether small files that only help may be written."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return self.path

    def __reduce__(self) -> tuple[Any, ...]:
        return target, (self.path,)

    root: Path | None = None
    """Of a local folder."""

    requests = 16
    """At a time."""

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            BuildError: if it holds something else, or cannot be made.
        """
        raise NotImplementedError

    def names(self, folder: str = WORK) -> dict[str, int]:
        """Names and sizes of the files in one of its folders, without the folder; empty if it is not there."""
        raise NotImplementedError

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if it is not there."""
        raise NotImplementedError

    def size(self, name: str) -> int | None:
        """The size of a file; None if it is not there."""
        raise NotImplementedError

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local folder for temporary files; what is in it is published or forgotten."""
        raise NotImplementedError
        yield

    def publish(self, files: Mapping[str, Path | str]) -> None:
        """Give temporary files, or texts, their final names: each whole or not at all, and one after another.

        Raises:
            BuildError: if that fails.
        """
        raise NotImplementedError

    def fetch(self, name: str, scratch: Path) -> Path:
        """A file as a local one.

        Raises:
            BuildError: if it is not there.
        """
        raise NotImplementedError

    def remove(self, names: list[str]) -> None:
        """Remove files; those that are gone already do not matter."""
        raise NotImplementedError

    def clear(self) -> None:
        """Remove the hidden folder of a finished build."""
        raise NotImplementedError

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        """The bytes of many small files."""
        with ThreadPoolExecutor(self.requests) as pool:
            return list(pool.map(self.read, names))

    def fetch_all(self, names: Sequence[str], scratch: Path) -> list[Path]:
        """Many small files as local ones.

        Raises:
            BuildError: if one is not there.
        """
        with ThreadPoolExecutor(self.requests) as pool:
            return list(pool.map(lambda name: self.fetch(name, scratch), names))

    def same(self, name: str, facts: Mapping[str, Any]) -> bool:
        """Whether a file of the right size has the right bytes, where a look at them is cheap."""
        return True

    def note(self, name: str, text: str) -> None:
        """Write a hint, if hints are cheap there; that it fails is no reason to stop."""
        if self.hints:
            with contextlib.suppress(OSError, OpenStoryError):
                self.publish({name: text})


class _Local(Target):
    """A folder of this machine, or one on a network that is mounted here."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.root: Path = Path(path)

    def prepare(self) -> None:
        make_folder(self.root)
        work = self.root / WORK
        strangers = sorted(entry.name for entry in self.root.iterdir() if entry.name != work.name)
        if strangers and not work.is_dir():
            raise _not_empty(self, strangers)
        make_folder(work)

    def names(self, folder: str = WORK) -> dict[str, int]:
        found = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # somebody else has just removed it
                    if entry.is_file():
                        found[entry.name] = entry.stat().st_size
        return found

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, name: str) -> int | None:
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def same(self, name: str, facts: Mapping[str, Any]) -> bool:
        return bool(file_facts(self.root / name)["sha256"] == facts["sha256"])

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        yield self.root / WORK  # on the same disk, so that a file can be given its name in one step

    def publish(self, files: Mapping[str, Path | str]) -> None:
        for name, content in files.items():
            if isinstance(content, str):
                write_whole(self.root / name, content)
            else:
                publish(content, self.root / name)

    def fetch(self, name: str, scratch: Path) -> Path:
        return self.root / name

    def note(self, name: str, text: str) -> None:
        with contextlib.suppress(OSError):
            (self.root / name).write_bytes(as_bytes(text))

    def remove(self, names: list[str]) -> None:
        for name in names:
            with writing(self.root / name):
                (self.root / name).unlink(missing_ok=True)

    def clear(self) -> None:
        for _ in range(_CLEARINGS):
            shutil.rmtree(self.root / WORK, ignore_errors=True)
            if not (self.root / WORK).exists():
                return


class _Remote(Target):
    """A folder in an object store or another place fsspec knows; a file there is replaced as a whole."""

    def _where(self, name: str = "") -> tuple[fsspec.AbstractFileSystem, str]:
        # looked up anew each time: fsspec keeps one instance for each process, and none survives a fork
        fs, root = fsspec.url_to_fs(self.path)
        return fs, f"{root.rstrip('/')}/{name}".rstrip("/")

    def _tried(self, what: str, step: Callable[[], T]) -> T:
        for pause in (*_PAUSES, None):
            try:
                return step()
            except (FileNotFoundError, NotADirectoryError):
                raise
            except Exception as error:  # each kind of storage raises its own
                if pause is None or isinstance(error, (PermissionError, OfflineModeIsEnabled)):
                    raise BuildError(
                        f"{self.path}: {what} failed: {' '.join(reason_of(error).split())}. Check the network and the "
                        "access rights; the same command, run again, continues where this one stopped"
                    ) from error
                time.sleep(pause)
        raise AssertionError

    def prepare(self) -> None:
        there = self._entries("")
        if there and WORK not in there:
            raise _not_empty(self, sorted(there))

    def _entries(self, folder: str) -> dict[str, Any]:
        fs, path = self._where(folder)

        def listed() -> dict[str, Any]:
            fs.invalidate_cache()  # other machines write there, too
            return {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in fs.ls(path, detail=True)}

        try:
            return self._tried(f"listing {folder or 'it'}", listed)
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def names(self, folder: str = WORK) -> dict[str, int]:
        entries = self._entries(folder)
        return {name: entry["size"] for name, entry in entries.items() if entry["type"] == "file"}

    def read(self, name: str) -> bytes | None:
        fs, path = self._where(name)

        def read() -> bytes:
            fs.invalidate_cache()
            return bytes(fs.cat_file(path))

        try:
            return self._tried(f"reading {name}", read)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, name: str) -> int | None:
        fs, path = self._where(name)

        def size() -> int:
            fs.invalidate_cache()
            return int(fs.size(path))

        try:
            return self._tried(f"looking for {name}", size)
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        place = Path(tempfile.gettempdir())
        for left in place.glob("openstory-build-*"):
            if is_gone(left.name.removeprefix("openstory-build-").rpartition("-")[0]):
                shutil.rmtree(left, ignore_errors=True)
        with writing(place):
            folder = tempfile.mkdtemp(prefix=f"openstory-build-{identity()}-")
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, files: Mapping[str, Path | str]) -> None:
        for name, content in files.items():
            try:
                self._tried(f"writing {name}", partial(self._put, content, name))
            except (FileNotFoundError, NotADirectoryError) as error:  # no such bucket
                raise BuildError(f"{self.path}/{name} cannot be written: {error}. Choose another --out") from error
            if isinstance(content, Path):
                content.unlink()

    def _put(self, content: Path | str, name: str) -> None:
        fs, path = self._where(name)
        if isinstance(content, Path):
            put = partial(fs.put_file, str(content), path)
        else:
            put = partial(fs.pipe_file, path, as_bytes(content))
        try:
            put()
        except (FileNotFoundError, NotADirectoryError):
            if getattr(fs, "async_impl", False):  # an object store has no folders; it is the bucket that is missing
                raise
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            put()

    def fetch(self, name: str, scratch: Path) -> Path:
        fs, path = self._where(name)
        local = scratch / name
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._tried(f"reading {name}", lambda: fs.get_file(path, str(local)))
        except FileNotFoundError:
            raise BuildError(f"{self.path}/{name} is missing. Run the same command again") from None
        return local

    def remove(self, names: list[str]) -> None:
        for name in names:
            fs, path = self._where(name)
            with contextlib.suppress(FileNotFoundError):
                self._tried(f"removing {name}", partial(fs.rm_file, path))

    def clear(self) -> None:
        fs, path = self._where(WORK)

        def gone() -> bool:
            fs.invalidate_cache()
            return not fs.exists(path)

        for _ in range(_CLEARINGS):
            with contextlib.suppress(FileNotFoundError):
                self._tried("removing the files of the build", lambda: fs.rm(glob.escape(path), recursive=True))
            if self._tried("looking for the files of the build", gone):
                return


class _Hub(_Remote):
    """A dataset repository of the Hub. What belongs together is one commit, since commits are what the Hub counts."""

    hints = False

    def __init__(self, path: str) -> None:
        super().__init__(path)
        found = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:/(.+?))?/?", path)
        if not found:
            raise UsageError(
                f"{path} is not a place to build in. Write it as hf://datasets/user/name, with a folder or not"
            )
        self._repository, self._folder = found[1], f"{found[2]}/" if found[2] else ""

    def prepare(self) -> None:
        from huggingface_hub import HfApi

        api = HfApi()
        self._tried(
            "looking for the repository",
            lambda: api.create_repo(self._repository, repo_type="dataset", private=True, exist_ok=True),
        )
        there = self._entries("").keys() - {".gitattributes"}
        if there and WORK not in there:
            raise _not_empty(self, sorted(there))

    def _commit(self, what: str, operations: list[Any]) -> None:
        from huggingface_hub import HfApi

        api = HfApi()
        self._tried(
            what, lambda: api.create_commit(self._repository, operations, commit_message=what, repo_type="dataset")
        )

    def publish(self, files: Mapping[str, Path | str]) -> None:
        from huggingface_hub import CommitOperationAdd

        added = [
            CommitOperationAdd(self._folder + name, as_bytes(content) if isinstance(content, str) else str(content))
            for name, content in files.items()
        ]
        self._commit(f"writing {[*files][-1]}", added)
        for content in files.values():
            if isinstance(content, Path):
                content.unlink()

    def remove(self, names: list[str]) -> None:
        from huggingface_hub import CommitOperationDelete

        if names:
            there = [name for name in names if self.size(name) is not None]
            if there:
                self._commit(f"removing {there[0]}", [CommitOperationDelete(self._folder + name) for name in there])

    def clear(self) -> None:
        self.remove([f"{WORK}/{name}" for name in self.names()])


def _not_empty(place: Target, strangers: list[str]) -> BuildError:
    return BuildError(
        f"{place} is not empty ({', '.join(strangers[:3])}) and does not hold an unfinished build. "
        "Choose another --out"
    )


def begun(names: Mapping[str, int]) -> dict[str, list[str]]:
    """The builders that are at a shard, or were when they ended where nobody can see it: shard -> their names."""
    found: dict[str, list[str]] = {}
    for name in names:
        shard, is_hint, builder = name.partition(".begun.")
        if is_hint and not is_gone(builder):
            found.setdefault(shard, []).append(builder)
    return found


def builders(names: Mapping[str, int]) -> list[str]:
    """The builders that work in the folder, or did when they ended where nobody can see it."""
    found = (name.removeprefix("builder-") for name in names if name.startswith("builder-"))
    return sorted(builder for builder in found if not is_gone(builder))


def parsed(data: bytes | None) -> dict[str, Any] | None:
    """A JSON object of ours; None for anything else."""
    try:
        found = json.loads(data or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None

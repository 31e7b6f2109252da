"""Versioned files in memory, as the Hugging Face Hub keeps them: repositories, commits, branches, tags."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

import yaml

from openstory_hf.testing.server import RefusedError

_LARGE_SUFFIXES = (".arrow", ".bin", ".gz", ".jpg", ".npy", ".npz", ".parquet", ".png", ".safetensors", ".tar", ".zip")
_LARGE = 10 << 20


class File(NamedTuple):
    """A file of a repository. `oid` tells clients whether theirs is the same: SHA-256 of a large file, else Git's."""

    data: bytes
    large: bool
    oid: str

    @classmethod
    def of(cls, data: bytes, large: bool) -> File:
        """With the identity computed."""
        return cls(data, large, hashlib.sha256(data).hexdigest() if large else _git_oid(data))

    def info(self) -> dict[str, Any]:
        """As the trees of the Hub list it; Git itself stores a small pointer for a large file."""
        if not self.large:
            return {"oid": self.oid, "size": len(self.data)}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {len(self.data)}\n"
        large = {"oid": self.oid, "sha256": self.oid, "size": len(self.data), "pointerSize": len(pointer)}
        return {"oid": _git_oid(pointer.encode()), "size": len(self.data), "lfs": large}


@dataclass(frozen=True, kw_only=True, eq=False)
class Commit:
    """A version of all files."""

    oid: str
    parent: Commit | None
    title: str
    files: dict[str, File]
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))

    @classmethod
    def after(cls, parent: Commit | None, title: str, files: dict[str, File]) -> Commit:
        """The next version; its oid depends on nothing but the history."""
        listed = [parent.oid if parent else "", title, sorted((path, file.oid) for path, file in files.items())]
        return cls(oid=_git_oid(json.dumps(listed).encode()), parent=parent, title=title, files=files)

    def history(self) -> Iterator[Commit]:
        """This version and those before it."""
        commit: Commit | None = self
        while commit:
            yield commit
            commit = commit.parent

    def file(self, path: str) -> File:
        """The file at a path.

        Raises:
            RefusedError: if there is none.
        """
        if path not in self.files:
            message = f"{path} does not exist in {self.oid}"
            raise RefusedError(404, message, "EntryNotFound", {"X-Repo-Commit": self.oid})
        return self.files[path]

    def tree(self, folder: str = "", *, recursive: bool = True) -> dict[str, dict[str, Any]]:
        """The files and folders below a folder by path, as the Hub lists them."""
        start = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, file in sorted(self.files.items()):
            if path.startswith(start):
                parts = path[len(start) :].split("/")
                for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                    inner = start + "/".join(parts[:depth])
                    found[inner] = {"type": "directory", "path": inner, "oid": _git_oid(inner.encode()), "size": 0}
                if recursive or len(parts) == 1:
                    found[path] = {"type": "file", "path": path, **file.info()}
        return found

    def last_change(self, path: str) -> dict[str, str]:
        """The version in which a file, or anything below a folder, last changed."""

        def part(commit: Commit | None) -> dict[str, File]:
            files = commit.files if commit else {}
            return {name: file for name, file in files.items() if f"{name}/".startswith(f"{path}/")}

        changed = next(commit for commit in self.history() if part(commit) != part(commit.parent))
        return {"id": changed.oid, "title": changed.title, "date": changed.date}


class Repository:
    """The versions of one repository, by branch, tag and oid. That it is private is told, not enforced."""

    def __init__(self, kind: str, name: str, *, private: bool = False) -> None:
        self.kind, self.name, self.private = kind, name, private
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LARGE_SUFFIXES)
        first = Commit.after(None, "initial commit", {".gitattributes": File.of(attributes.encode(), large=False)})
        self.branches, self.tags, self.commits = {"main": first}, dict[str, Commit](), {first.oid: first}

    def at(self, revision: str) -> Commit:
        """The version a branch, tag or oid names.

        Raises:
            RefusedError: if nothing is called so.
        """
        for versions in (self.branches, self.tags, self.commits):
            if revision in versions:
                return versions[revision]
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(
        self, branch: str, title: str, change: Callable[[dict[str, File]], None], parent: str | None = None
    ) -> Commit:
        """Make the next version of a branch; nothing happens if `change` raises.

        Args:
            branch: its name.
            title: of the commit.
            change: changes the files in place.
            parent: start of the oid the branch must stand at.

        Raises:
            RefusedError: for a branch that does not exist or has moved on, or a README.md with broken metadata.
        """
        if branch not in self.branches:
            raise RefusedError(404, f"{branch} is not a branch", "RevisionNotFound")
        head = self.branches[branch]
        if parent and not head.oid.startswith(parent):
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        change(files)
        _card_data(files)
        commit = Commit.after(head, title, files)
        self.branches[branch] = self.commits[commit.oid] = commit
        return commit

    def info(self, commit: Commit, *, sizes: bool) -> dict[str, Any]:
        """What the Hub says of a repository at a version; of its files the paths alone, or sizes and identities."""
        files = {path: file.info() if sizes else {} for path, file in commit.files.items()}
        return {
            "id": self.name,
            "author": self.name.partition("/")[0],
            "sha": commit.oid,
            "lastModified": commit.date,
            "createdAt": commit.date,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "cardData": _card_data(commit.files),
            "siblings": [{"rfilename": path, "blobId": info.get("oid"), **info} for path, info in files.items()],
        }


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether a file is stored in Git LFS; an empty one never is."""
    return size > 0 and (path.endswith(_LARGE_SUFFIXES) or b"\0" in sample or size > _LARGE)


def front_matter(text: str) -> dict[str, Any]:
    """The metadata of a card; ValueError if it is not a YAML mapping."""
    match = re.match(r"\s*---\r?\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"the metadata is not a mapping but {data!r}")
    return data


def _card_data(files: dict[str, File]) -> dict[str, Any]:
    readme = files.get("README.md")
    try:
        return front_matter(readme.data.decode(errors="replace")) if readme else {}
    except ValueError as error:
        raise RefusedError(400, f"README.md: {error}") from None

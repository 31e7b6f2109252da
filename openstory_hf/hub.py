"""Publishing: a built folder becomes a dataset repository of the Hugging Face Hub, in one commit.

The files are uploaded first. That may take hours, fail and be repeated: what the Hub has is not sent again. Then one
commit replaces the old files by the new ones, so readers find one or the other, never a mixture or a part.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import OfflineModeIsEnabled, validate_repo_id  # type: ignore[attr-defined]

from openstory_hf import card, catalogue
from openstory_hf.check import check, is_executable, is_hidden
from openstory_hf.errors import OpenStoryError, OutputError, UsageError, reason_of
from openstory_hf.folder import BuiltFolder
from openstory_hf.index import FOLDER
from openstory_hf.info import Info
from openstory_hf.schema import TABLES

T = TypeVar("T")

GROUP = 32
"""Files that are uploaded between two points to which a failed upload goes back."""

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 60.0)
"""Seconds before a failed step is tried again; the Hub's client retries most requests on its own besides."""

_PASSING = (408, 409, 412, 425, 429, 500, 502, 503, 504)
"""Answers that may be others later; 409 and 412 say that somebody else has committed meanwhile."""

_SHOWN = 10
"""Problems that the refusal of a folder lists."""


class HubError(OpenStoryError):
    """The Hub refused something, or could not be reached for too long."""


def local_folder(path: str | Path) -> tuple[BuiltFolder, Path]:
    """A built folder that can be written to.

    Raises:
        UsageError: if it is somewhere else.
        OutputError: if it is no finished build.
    """
    if not Path(path).is_dir():
        raise UsageError(f"{path} is not a local folder. Give the --out folder of an `openstory build`")
    return BuiltFolder(str(path)), Path(path)


def write_card(path: str | Path, repository: str = "", *, info: Info | None = None) -> Path:
    """Write the card and `croissant.json` of a built folder again, keeping what people wrote into the card.

    Args:
        path: a local built folder.
        repository: `user/name` it will have on the Hub, for the examples and addresses in both files.
        info: facts of the dataset, by default those in the catalogue.

    Returns:
        The card.

    Raises:
        UsageError: for a folder that is not local, or a dataset the catalogue does not have.
        OutputError: for a folder that is no finished build, or a card whose prose cannot be kept.
    """
    folder, root = local_folder(path)
    info = info or catalogue.get(folder.manifest["dataset"]).INFO
    card.write(root, info, folder.manifest, folder.rejects(), repository=repository, endpoint=HfApi().endpoint)
    return root / card.README


def push(
    path: str | Path,
    repository: str,
    *,
    private: bool = True,
    have_the_rights: bool = False,
    info: Info | None = None,
    quiet: bool = True,
) -> str:
    """Write the card of a built folder, check the folder, and make it the content of a dataset repository.

    Files in hidden folders are left out. Shards of an earlier build that are no longer there are removed from the
    repository; files beside the tables, such as a licence, stay.

    Args:
        path: a local built folder.
        repository: `user/name`; made if it does not exist.
        private: whether it may be seen by its owner only; of a repository that exists this is never changed.
        have_the_rights: whether the user may publish pictures that belong to others.
        info: facts of the dataset, by default those in the catalogue.
        quiet: no progress bar of the check.

    Returns:
        The address of the commit.

    Raises:
        UsageError: for a name that is none, third-party pictures without the rights, a public repository where a
            private one is wanted, or one that holds other data.
        OutputError: if the check finds problems.
        HubError: if the Hub refuses, or fails too often.
    """
    folder, root = local_folder(path)
    info = info or catalogue.get(folder.manifest["dataset"]).INFO
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"{repository!r} cannot be the name of a repository: {error}") from None
    if "/" not in repository:
        raise UsageError(f"{repository!r} is not the name of a repository; write it as user/name")
    if info.third_party and not have_the_rights:
        raise UsageError(
            f"the pictures of {info.title} belong to others and may not be published by just anyone. {info.rights}\n"
            "If you have that permission, push with --i-have-the-rights"
        )
    write_card(root, repository, info=info)
    if problems := check(root, quiet=quiet):
        more = f"\n... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise OutputError(
            f"{root} has {len(problems)} problems; nothing was pushed:\n" + "\n".join(problems[:_SHOWN]) + more
        )
    return _Upload(repository, root).run(private=private, title=f"{info.title}, built by openstory_hf")


class _Difference(NamedTuple):
    """What separates a repository at a commit from the folder."""

    commit: str
    missing: list[str]
    stale: list[str]


class _Upload:
    """A folder on its way to a repository."""

    def __init__(self, repository: str, root: Path) -> None:
        self._api = HfApi()
        self._name = repository
        files = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
        self._files = {file.as_posix(): root / file for file in files if not is_hidden(file.as_posix())}

    def run(self, *, private: bool, title: str) -> str:
        """Do it; returns the address of the commit."""
        self._tried("looking for the repository", lambda: self._make(private))
        added = {name: CommitOperationAdd(name, str(path)) for name, path in self._files.items()}
        missing = self._tried("listing the repository", lambda: self._difference(added)).missing
        for start in range(0, len(missing), GROUP):
            group = [added[name] for name in missing[start : start + GROUP]]
            self._tried("uploading", partial(self._api.preupload_lfs_files, self._name, group, repo_type="dataset"))
        commit = self._tried("the commit", lambda: self._commit(added, title))
        left = self._tried("listing the repository", lambda: self._difference(added, commit)).missing
        if left:
            raise HubError(f"{self._name}: {left[0]} is not there after the commit. Push again")
        return f"{self._api.endpoint}/datasets/{self._name}/commit/{commit}"

    def _make(self, private: bool) -> None:
        try:
            found = self._api.repo_info(self._name, repo_type="dataset")
        except RepositoryNotFoundError:
            self._api.create_repo(self._name, repo_type="dataset", private=private, exist_ok=True)
            return
        if private and not found.private:
            raise UsageError(
                f"{self._name} is a public repository. Push with --public if everybody may have the data, or choose "
                "another name"
            )

    def _difference(self, added: Mapping[str, CommitOperationAdd], commit: str = "") -> _Difference:
        commit = commit or str(self._api.repo_info(self._name, repo_type="dataset", revision="main").sha)
        tree = self._api.list_repo_tree(self._name, recursive=True, repo_type="dataset", revision=commit)
        there = {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}  # folders have none
        others = sorted(
            file for file in there.keys() - added.keys() if file.endswith(".parquet") or is_executable(file)
        )
        stale = [file for file in others if file.split("/")[0] in (*TABLES, FOLDER) and not is_executable(file)]
        if foreign := [file for file in others if file not in stale]:
            raise UsageError(
                f"{self._name} holds {foreign[0]}, which no `openstory build` wrote. Remove it there, or choose "
                "another repository"
            )
        missing = [name for name in added if name not in there or not self._same(added[name], there[name])]
        return _Difference(commit, missing, stale)

    def _same(self, operation: CommitOperationAdd, entry: Any) -> bool:
        if entry.lfs:
            return bool(entry.lfs.sha256 == operation.upload_info.sha256.hex())
        if entry.size != operation.upload_info.size:
            return False
        data = self._files[operation.path_in_repo].read_bytes()
        return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())

    def _commit(self, added: Mapping[str, CommitOperationAdd], title: str) -> str:
        """Commit what the repository lacks now; nothing if an earlier try came through and only its answer did not."""
        found = self._difference(added)
        operations = [added[name] for name in found.missing] + [CommitOperationDelete(name) for name in found.stale]
        if not operations:
            return found.commit
        done = self._api.create_commit(
            self._name, operations, commit_message=title, repo_type="dataset", parent_commit=found.commit
        )
        return str(done.oid)

    def _tried(self, what: str, step: Callable[[], T]) -> T:
        """Take a step, and again after a pause where that may help.

        Raises:
            HubError: when it does not.
        """
        for pause in (*PAUSES, None):
            try:
                return step()
            except OpenStoryError:
                raise
            except Exception as error:  # the client, its HTTP library and Xet raise their own
                status, wait = _answer(error)
                if pause is None or not (status in _PASSING or (status is None and _is_transport(error))):
                    raise HubError(self._advice(what, status, error)) from None
                time.sleep(max(pause, wait))
        raise AssertionError

    def _advice(self, what: str, status: int | None, error: Exception) -> str:
        if status in (401, 403, 404):
            hint = f"Log in with `hf auth login` and a token that may write to {self._name}, and push again"
        else:
            hint = "Push again with the same command: what the Hub has already is not sent again"
        return f"{self._name}: {what} failed: {_said(error)}. Nothing of it is visible there yet. {hint}"


def _answer(error: BaseException) -> tuple[int | None, float]:
    """The status of the answer behind an exception, and the seconds it asks to wait."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            after = cause.response.headers.get("Retry-After", "")
            return cause.response.status_code, float(after) if after.isdecimal() else 0.0
        cause = cause.__cause__
    return None, 0.0


def _is_transport(error: Exception) -> bool:
    """Whether no answer came: a network failed, or Xet, which has no exceptions of its own."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    return isinstance(error, (OSError, RuntimeError)) or type(error).__module__.partition(".")[0].startswith("httpx")


def _said(error: Exception) -> str:
    """What an exception says on one line, without the secrets that addresses carry, or the token."""
    text = re.sub(r"\?\S*", "?...", " ".join(reason_of(error).split()))
    token = get_token()
    return text.replace(token, "...") if token else text

"""A stand-in for the Hugging Face Hub, on this machine and in memory, for the real clients.

The endpoints are those that `huggingface_hub` 1.31 to 2.4 and `datasets` 5 call to create, fill, change, list, read
and delete repositories, with large files over Git LFS. Left out: Xet, pull requests, private and gated repositories,
listings in pages, `.gitignore`, the dataset viewer.
"""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

from openstory_hf.testing.repositories import Commit, File, Repository, front_matter, is_large
from openstory_hf.testing.server import Call, LoggedServer, RefusedError, Reply

_USER = "tester"


class _Route(NamedTuple):
    method: str
    path: re.Pattern[str]
    answer: Callable[..., Reply]
    token: bool


_ROUTES: list[_Route] = []


def _route(method: str, path: str, *, token: bool = False) -> Callable[[Callable[..., Reply]], Callable[..., Reply]]:
    """Let a method of the hub answer requests, some only with its token.

    "{repos}" and "{files}" become the argument `repo`, "{revision}", "{path}" and "{oid}" those of their name.
    """
    parts = {
        "{repos}": r"(?P<kind>model|dataset|space)s/(?P<name>[^/]+(?:/[^/]+)?)",
        "{files}": r"(?:(?P<kind>dataset|space)s/)?(?P<name>[^/]+(?:/[^/]+)?)",
        "{revision}": r"(?P<revision>[^/]+)",
        "{path}": r"(?P<path>.+)",
        "{oid}": r"(?P<oid>[0-9a-f]{64})",
    }
    for name, pattern in parts.items():
        path = path.replace(name, pattern)

    def add(answer: Callable[..., Reply]) -> Callable[..., Reply]:
        _ROUTES.append(_Route(method, re.compile(path), answer, token))
        return answer

    return add


class LocalHub(LoggedServer):
    """A Hub of its own for a test: starts empty, is gone afterwards.

    Clients read where the Hub is from the environment when they are imported, so client code runs in a process of
    its own, with `environment()`::

        with LocalHub() as hub:
            subprocess.run([sys.executable, "-c", code], env=hub.environment(), check=True)
            assert sum(request.bytes for request in hub.requests) == ...

    In the same process, `HfApi`, `HfFileSystem` and `snapshot_download` take `endpoint=hub.url, token=hub.token`;
    uploads there need HF_HUB_DISABLE_XET=1, and everything HF_HUB_OFFLINE unset, before the first import.

    Attributes:
        token: the only one with which changes are allowed; everybody may read.
        latency: seconds each request waits before it is answered.
    """

    token = "hf_local"

    def __init__(self, *, latency: float = 0.0) -> None:
        super().__init__(latency=latency)
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._large: dict[str, File] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> LocalHub:
        self._home = tempfile.TemporaryDirectory(prefix="local-hub-", ignore_cleanup_errors=True)
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._home.cleanup()

    def environment(self) -> dict[str, str]:
        """The environment for a process whose clients talk to this hub, with empty caches, and to nothing else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": self._home.name,
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",  # uploads as Git LFS
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # load_dataset would ask another host
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",  # of the two, clients prefer this one
        }

    def publish(self, folder: str | Path, name: str, revision: str = "main") -> str:
        """Put a folder into a dataset repository, made if need be, without a client; gives the commit's oid."""
        root = Path(folder)
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
        with self._lock:
            repo = self._repositories.setdefault(("dataset", name), Repository("dataset", name))
            added = {path: File.of(data, is_large(path, len(data), data[:512])) for path, data in files.items()}
            return repo.commit(revision, f"Publish {root.name}", lambda files: files.update(added)).oid

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """What a dataset repository holds, by path.

        Raises:
            RefusedError: for an unknown repository or revision.
        """
        with self._lock:
            return {path: file.data for path, file in self._repository("dataset", name).at(revision).files.items()}

    def respond(self, call: Call) -> Reply:
        """Answer a request of a client."""
        for route in _ROUTES:
            match = route.path.fullmatch(call.path)
            if match and route.method == call.method.replace("HEAD", "GET"):
                if route.token:
                    self._check_token(call)
                parts: dict[str, Any] = {key: unquote(value) for key, value in match.groupdict().items() if value}
                with self._lock:
                    if "name" in parts:
                        parts["repo"] = self._repository(parts.pop("kind", "model"), parts.pop("name"))
                    return route.answer(self, call, **parts)
        raise RefusedError(404, f"LocalHub has no {call.method} {call.path}")

    def _repository(self, kind: str, name: str) -> Repository:
        if (kind, name) not in self._repositories:
            raise RefusedError(404, f"{kind} {name} not found", "RepoNotFound")
        return self._repositories[kind, name]

    def _check_token(self, call: Call) -> None:
        if call.headers.get("Authorization") != f"Bearer {self.token}":
            raise RefusedError(401, "Invalid credentials in Authorization header")

    # Accounts, and repositories as a whole.

    @_route("GET", "/api/whoami-v2", token=True)
    def _whoami(self, call: Call) -> Reply:
        rights = {"type": "access_token", "accessToken": {"displayName": "local", "role": "write"}}
        return Reply.of({"type": "user", "id": _USER, "name": _USER, "fullname": _USER, "orgs": [], "auth": rights})

    @_route("POST", "/api/repos/create", token=True)
    def _create(self, call: Call) -> Reply:
        kind, name = _named(call.json())
        address = self.url + (f"/{name}" if kind == "model" else f"/{kind}s/{name}")
        answer = {"url": address, "name": name, "id": name}
        if (kind, name) in self._repositories:
            error = {"error": "You already created this repo"}
            return Reply.of({**answer, **error}, 409, {"X-Error-Message": error["error"]})
        asked = call.json()
        private = bool(asked.get("private")) or asked.get("visibility") == "private"  # clients say either
        self._repositories[kind, name] = Repository(kind, name, private=private)
        return Reply.of(answer)

    @_route("DELETE", "/api/repos/delete", token=True)
    def _delete(self, call: Call) -> Reply:
        repo = self._repository(*_named(call.json()))
        del self._repositories[repo.kind, repo.name]
        return Reply.of({})

    @_route("POST", "/api/validate-yaml")
    def _validate(self, call: Call) -> Reply:
        try:
            data = front_matter(call.json()["content"])
        except ValueError as error:
            return Reply.of({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
        return Reply.of({"errors": [], "warnings": warnings})

    # Branches, tags, history.

    @_route("GET", "/api/{repos}/refs")
    def _refs(self, call: Call, repo: Repository) -> Reply:
        def listed(versions: dict[str, Commit], folder: str) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit.oid}
                for name, commit in versions.items()
            ]

        answer = {"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags")}
        return Reply.of({**answer, "converts": [], "pullRequests": []})

    @_route("POST", "/api/{repos}/branch/{revision}", token=True)
    def _add_branch(self, call: Call, repo: Repository, revision: str) -> Reply:
        return _add_version(repo.branches, revision, repo.at(call.json().get("startingPoint", "main")))

    @_route("DELETE", "/api/{repos}/branch/{revision}", token=True)
    def _delete_branch(self, call: Call, repo: Repository, revision: str) -> Reply:
        return _delete_version(repo.branches, revision)

    @_route("POST", "/api/{repos}/tag/{revision}", token=True)
    def _add_tag(self, call: Call, repo: Repository, revision: str) -> Reply:
        return _add_version(repo.tags, call.json()["tag"], repo.at(revision))

    @_route("DELETE", "/api/{repos}/tag/{revision}", token=True)
    def _delete_tag(self, call: Call, repo: Repository, revision: str) -> Reply:
        return _delete_version(repo.tags, revision)

    @_route("GET", "/api/{repos}/commits/{revision}")
    def _commits(self, call: Call, repo: Repository, revision: str) -> Reply:
        authors = [{"user": _USER}]
        history = repo.at(revision).history()
        return Reply.of(
            [{"id": c.oid, "title": c.title, "message": "", "date": c.date, "authors": authors} for c in history]
        )

    # Writing: what kind of file, large files, the commit.

    @_route("POST", "/api/{repos}/preupload/{revision}", token=True)
    def _preupload(self, call: Call, repo: Repository, revision: str) -> Reply:
        there = repo.at(revision).files
        answer = []
        for asked in call.json()["files"]:
            path = asked["path"]
            large = is_large(path, asked["size"], base64.b64decode(asked["sample"]))
            old = {"oid": there[path].oid} if path in there else {}
            answer.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **old})
        return Reply.of({"files": answer})

    @_route("POST", r"/{files}\.git/info/lfs/objects/batch", token=True)
    def _batch(self, call: Call, repo: Repository) -> Reply:
        answer = []
        for asked in call.json()["objects"]:
            where = f"{self.url}/lfs/{asked['oid']}"
            actions = {"upload": {"href": where, "header": {}}, "verify": {"href": f"{where}/verify"}}
            answer.append({**asked, **({} if asked["oid"] in self._large else {"actions": actions})})
        return Reply.of({"transfer": "basic", "objects": answer})

    @_route("PUT", "/lfs/{oid}")
    def _put(self, call: Call, oid: str) -> Reply:
        file = File.of(call.body, large=True)
        if file.oid != oid:
            raise RefusedError(400, f"{len(call.body)} bytes came whose SHA-256 is {file.oid}, not {oid}")
        self._large[oid] = file
        return Reply()

    @_route("POST", "/lfs/{oid}/verify")
    def _verify(self, call: Call, oid: str) -> Reply:
        if oid not in self._large or len(self._large[oid].data) != call.json()["size"]:
            raise RefusedError(404, f"{oid} was not uploaded, or has another size")
        return Reply.of({})

    @_route("POST", "/api/{repos}/commit/{revision}", token=True)
    def _commit(self, call: Call, repo: Repository, revision: str) -> Reply:
        if "create_pr" in call.query:
            raise RefusedError(400, "LocalHub has no pull requests")
        lines = [json.loads(line) for line in call.body.splitlines()]
        header = lines[0]["value"]
        commit = repo.commit(
            revision, header["summary"], lambda files: self._apply(files, lines[1:]), header.get("parentCommit")
        )
        address = f"{self.url}/{repo.kind}s/{repo.name}/commit/{commit.oid}"
        return Reply.of({"success": True, "commitOid": commit.oid, "commitUrl": address, "hookOutput": ""})

    def _apply(self, files: dict[str, File], operations: Iterable[dict[str, Any]]) -> None:
        for operation in operations:
            key, value = operation["key"], operation["value"]
            path = value["path"].rstrip("/")
            below = [name for name in files if name.startswith(f"{path}/")]
            if key == "file":
                files[path] = File.of(base64.b64decode(value["content"]), large=False)
            elif key == "lfsFile" and value["oid"] in self._large:
                files[path] = self._large[value["oid"]]
            elif key == "deletedFile" and path in files:
                del files[path]
            elif key == "deletedFolder" and below:
                for name in below:
                    del files[name]
            elif key.startswith("deleted"):
                raise RefusedError(404, f"{path} does not exist", "EntryNotFound")
            else:
                raise RefusedError(400, f"{key} {path}: no such operation, or its large file was not uploaded")

    # Reading: listings and files.

    @_route("GET", "/api/{repos}/tree/{revision}(?:/{path})?")
    def _tree(self, call: Call, repo: Repository, revision: str, path: str = "") -> Reply:
        commit = repo.at(revision)
        found = commit.tree(path, recursive=call.query.get("recursive", [""])[0].lower() == "true")
        if path and not found:
            raise RefusedError(404, f"{path} is not a folder of {commit.oid}", "EntryNotFound")
        return _listed(commit, found.values(), call.query)

    @_route("POST", "/api/{repos}/paths-info/{revision}")
    def _paths_info(self, call: Call, repo: Repository, revision: str) -> Reply:
        form = parse_qs(call.body.decode())
        commit = repo.at(revision)
        found = commit.tree()
        return _listed(commit, [found[path] for path in form.get("paths", []) if path in found], form)

    @_route("GET", "/{files}/resolve/{revision}/{path}")
    def _resolve(self, call: Call, repo: Repository, revision: str, path: str) -> Reply:
        commit = repo.at(revision)
        file = commit.file(path)
        large = {"X-Linked-ETag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))} if file.large else {}
        return Reply(
            headers={
                "Content-Type": "application/octet-stream",
                "Accept-Ranges": "bytes",
                "ETag": f'"{file.oid}"',
                "X-Repo-Commit": commit.oid,
                **large,
            },
            body=file.data,
        )

    @_route("GET", "/api/{repos}/revision/{revision}")
    @_route("GET", "/api/{repos}")
    def _info(self, call: Call, repo: Repository, revision: str = "main") -> Reply:
        return Reply.of(repo.info(repo.at(revision), sizes="blobs" in call.query))


def _named(asked: dict[str, Any]) -> tuple[str, str]:
    return asked.get("type") or "model", f"{asked.get('organization') or _USER}/{asked['name']}"


def _add_version(versions: dict[str, Commit], name: str, commit: Commit) -> Reply:
    if name in versions:
        raise RefusedError(409, f"Reference already exists: {name}")
    versions[name] = commit
    return Reply.of({})


def _delete_version(versions: dict[str, Commit], name: str) -> Reply:
    if name not in versions:
        raise RefusedError(404, f"no {name}", "RevisionNotFound")
    del versions[name]
    return Reply.of({})


def _listed(commit: Commit, entries: Iterable[dict[str, Any]], form: dict[str, list[str]]) -> Reply:
    if form.get("expand", [""])[0].lower() == "true":
        return Reply.of([{**entry, "lastCommit": commit.last_change(entry["path"])} for entry in entries])
    return Reply.of(list(entries))

"""The stand-ins for the Hub and for a file server, asked by the real clients in processes of their own."""

import http.client
import json
import subprocess
import sys
import textwrap

import pyarrow.parquet as pq
import pytest

from openstory_hf import catalogue, load_stories
from openstory_hf.build import build
from openstory_hf.errors import UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.testing import FileServer, LocalHub, server

# Waits are recorded, not waited: the clients' own retries run as they are.
PRELUDE = """
import json, sys, time
waited = []
time.sleep = waited.append
from huggingface_hub import *
from huggingface_hub.errors import *
api = HfApi()
REPO = dict(repo_id="me/stories", repo_type="dataset")
"""


def client(hub: LocalHub, code: str, **values: str):
    """Run client code in a process of its own; what it leaves in `result` comes back."""
    code = f"{PRELUDE}\nglobals().update({values!r})\n{textwrap.dedent(code)}\nprint(json.dumps(result))"
    environment = {**hub.environment(), "USE_TORCH": "0"}  # datasets would import it, which takes seconds
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def asked(hub, method: str, ending: str = ""):
    return [request for request in hub.requests if request.method == method and request.path.endswith(ending)]


@pytest.fixture
def hub():
    with LocalHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small dataset folder as `openstory build` writes it."""
    folder = tmp_path_factory.mktemp("built")
    builder = catalogue.get("african_storybook")
    builder.fake(RawWriter(folder / "raw"))
    build(builder, folder / "raw", folder / "out", on_error="quarantine")
    return folder / "out"


class TestRoundTrip:
    def test_upload_folder_arrives_byte_for_byte_and_only_once(self, hub, built):
        code = """
            api.create_repo(**REPO)
            first = api.upload_folder(folder_path=folder, **REPO)
            again = api.upload_folder(folder_path=folder, **REPO)
            result = [first.oid, again.oid, len(api.list_repo_commits(**REPO))]
        """
        first, again, commits = client(hub, code, folder=str(built))
        assert first == again
        assert commits == 2  # the initial one, and the first upload

        here = contents(built)
        there = hub.files("me/stories", first)
        assert there.pop(".gitattributes")
        assert there == here
        tables = [data for path, data in here.items() if path.endswith(".parquet")]
        assert sorted(put.received for put in asked(hub, "PUT")) == sorted(map(len, tables))

    def test_load_dataset_streams_and_maps_what_the_files_hold(self, hub, built):
        hub.publish(built, "me/stories")
        code = """
            from datasets import load_dataset
            rows = [load_dataset("me/stories", split="train", streaming=streaming) for streaming in (True, False)]
            columns = ["story_id", "captions"]
            result = [[{name: row[name] for name in columns} for row in ds.select_columns(columns)] for ds in rows]
        """
        streamed, mapped = client(hub, code)
        files = sorted((built / "stories").glob("train-*.parquet"))
        expected = [row for file in files for row in pq.read_table(file, columns=["story_id", "captions"]).to_pylist()]
        assert expected
        assert streamed == mapped == expected
        size = {f"/{path}": len(data) for path, data in contents(built).items()}
        ranged = [request for request in asked(hub, "GET", ".parquet") if request.range]
        assert ranged
        assert {request.status for request in ranged} == {206}
        for request in ranged:  # what was sent is what was asked for
            first, last = request.range.removeprefix("bytes=").split("-")
            end = next(length for path, length in size.items() if request.path.endswith(path))
            assert request.bytes == min(int(last) + 1, end) - int(first)

    def test_push_to_hub_twice_replaces_the_shards(self, hub):
        code = """
            from datasets import Dataset, load_dataset
            api.create_repo(**REPO)
            for rows, shards in ((10, 2), (6, 1)):
                Dataset.from_dict({"a": list(range(rows))}).push_to_hub("me/stories", num_shards=shards)
            Dataset.from_dict({"a": [7]}).push_to_hub("me/stories", config_name="other", split="test")
            other = load_dataset("me/stories", "other")["test"]
            result = [load_dataset("me/stories", split="train")["a"][:], other["a"][:]]
        """
        assert client(hub, code) == [list(range(6)), [7]]
        assert sorted(path for path in hub.files("me/stories") if path.endswith(".parquet")) == [
            "data/train-00000-of-00001.parquet",
            "other/test-00000-of-00001.parquet",
        ]

    def test_snapshot_is_equal_and_each_byte_sent_once(self, hub, built, tmp_path):
        hub.publish(built, "me/stories", "main")
        code = """
            snapshot_download(local_dir=folder, **REPO)
            cached = snapshot_download(**REPO)
            again = snapshot_download(**REPO)
            result = cached == again
        """
        assert client(hub, code, folder=str(tmp_path / "copy"))
        copy = contents(tmp_path / "copy")
        expected = contents(built)
        assert {path: copy[path] for path in expected} == expected
        for path, data in expected.items():
            gets = [request.bytes for request in asked(hub, "GET", f"/{path}") if "/resolve/" in request.path]
            assert gets == [len(data)] * 2, path  # the folder, and the cache once

    def test_file_system_lists_reads_ranges_and_writes(self, hub, built):
        hub.publish(built, "me/stories")
        code = """
            fs = HfFileSystem()
            root = "datasets/me/stories"
            tables = [name.removeprefix(root + "/") for name in fs.glob(root + "/stories/*.parquet")]
            with fs.open(f"{root}/{tables[0]}", block_size=16) as stream:
                stream.seek(-4, 2)
                end = stream.read().decode()
            with fs.open(f"hf://{root}/notes/a.txt", "wb") as stream:
                stream.write("größer".encode())
            written = fs.read_text(f"{root}/notes/a.txt")
            entry = fs.ls(f"{root}/notes", detail=True, expand_info=True, refresh=True)[0]
            result = [tables, fs.cat_file(f"{root}/{tables[0]}", 0, 4).decode(), end, written, entry["size"],
                      entry["last_commit"]["title"], fs.exists(f"{root}/none.txt"), fs.isdir(f"{root}/stories")]
        """
        tables, start, end, written, size, title, exists, isdir = client(hub, code)
        assert tables == sorted(path for path in contents(built) if path.startswith("stories/"))
        assert (start, end, written, size) == ("PAR1", "PAR1", "größer", 8)
        assert title == "Upload notes/a.txt with huggingface_hub"
        assert (exists, isdir) == (False, True)
        assert hub.files("me/stories")["notes/a.txt"] == "größer".encode()


class TestVersions:
    def test_tags_branches_and_oids_keep_what_they_named(self, hub):
        code = """
            from datasets import load_dataset
            api.create_repo(**REPO)
            def put(value, **where):
                row = json.dumps({"a": value}).encode()
                return api.upload_file(path_or_fileobj=row, path_in_repo="x.jsonl", **where, **REPO)
            def value(revision):
                return json.load(open(hf_hub_download(filename="x.jsonl", revision=revision, **REPO)))["a"]
            first = put(1)
            api.create_tag(tag="v1", **REPO)
            api.create_branch(branch="dev/two", **REPO)
            put(2)
            put(3, revision="dev/two")
            values = [value(revision) for revision in ("v1", first.oid, "main", "dev/two")]
            values += [row["a"] for row in load_dataset("me/stories", split="train", streaming=True, revision="v1")]
            refs = api.list_repo_refs(**REPO)
            tag, = refs.tags
            before = [[ref.name for ref in refs.branches], tag.name, tag.target_commit == first.oid]
            api.delete_tag(tag="v1", **REPO)
            api.delete_branch(branch="dev/two", **REPO)
            refs = api.list_repo_refs(**REPO)
            result = [values, before, [ref.name for ref in refs.branches + refs.tags]]
        """
        assert client(hub, code) == [[1, 1, 2, 3, 1], [["main", "dev/two"], "v1", True], ["main"]]

    def test_deletes(self, hub, tmp_path):
        for name in ("a/x.txt", "a/y.txt", "b/z.txt", "w.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name)
        old = hub.publish(tmp_path, "me/stories")
        code = """
            api.delete_file("w.txt", **REPO)
            api.delete_folder("b", **REPO)
            moves = [CommitOperationCopy("a/x.txt", "c/x.txt"), CommitOperationDelete("a/x.txt")]
            api.create_commit(operations=moves, commit_message="move", **REPO)
            result = [sorted(api.list_repo_files(**REPO)), sorted(api.list_repo_files(revision=old, **REPO))]
            api.delete_repo(**REPO)
            result.append(api.repo_exists(**REPO))
        """
        kept, before, exists = client(hub, code, old=old)
        assert kept == [".gitattributes", "a/y.txt", "c/x.txt"]
        assert before == [".gitattributes", "a/x.txt", "a/y.txt", "b/z.txt", "w.txt"]
        assert not exists

    def test_clients_that_commit_at_once_lose_nothing(self, hub, tmp_path):
        hub.publish(tmp_path, "me/stories")
        code = """
            from concurrent.futures import ThreadPoolExecutor
            def put(number):
                api.upload_file(path_or_fileobj=str(number).encode(), path_in_repo=f"{number}.txt", **REPO)
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(put, range(16)))
            result = len(api.list_repo_commits(**REPO))
        """
        assert client(hub, code) == 18
        expected = {f"{number}.txt": str(number).encode() for number in range(16)}
        assert {path: data for path, data in hub.files("me/stories").items() if path in expected} == expected

    def test_models_have_repositories_of_their_own(self, hub):
        code = """
            api.create_repo("tiny", repo_type="dataset")
            repo = api.create_repo("tiny").repo_id
            api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=repo)
            data = open(hf_hub_download(repo, "config.json")).read()
            result = [repo, data, api.list_repo_files(repo), api.list_repo_files(repo, repo_type="dataset")]
        """
        files = [".gitattributes", "config.json"]
        assert client(hub, code) == ["tester/tiny", "{}", files, files[:1]]

    def test_a_commit_on_a_stale_parent_is_refused_and_changes_nothing(self, hub, tmp_path):
        old = hub.publish(tmp_path, "me/stories")
        code = """
            put = dict(path_in_repo="a.txt", parent_commit=old, **REPO)
            api.upload_file(path_or_fileobj=b"first", **put)
            try:
                api.upload_file(path_or_fileobj=b"second", **put)
            except HfHubHTTPError as error:
                result = error.response.status_code
        """
        assert client(hub, code, old=old) == 412
        assert hub.files("me/stories")["a.txt"] == b"first"


def test_each_mistake_is_the_exception_the_clients_document(hub, tmp_path):
    hub.publish(tmp_path, "me/stories")
    code = """
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
        from functools import partial
        text = dict(path_or_fileobj=b"x", path_in_repo="x.txt", **REPO)
        card = dict(path_or_fileobj="---\\n: [\\n---\\n".encode(), path_in_repo="README.md", **REPO)
        mistakes = {
            "repo": partial(api.dataset_info, "me/none"),
            "revision": partial(api.dataset_info, "me/stories", revision="none"),
            "entry": partial(hf_hub_download, filename="none.txt", **REPO),
            "entry's revision": partial(hf_hub_download, filename="none.txt", revision="none", **REPO),
            "folder": lambda: list(api.list_repo_tree(path_in_repo="none", **REPO)),
            "file system": partial(HfFileSystem().ls, "datasets/me/none"),
            "dataset": partial(load_dataset, "me/none"),
            "upload": partial(api.upload_file, **{**text, "repo_id": "me/none"}),
            "branch": partial(api.upload_file, revision="none", **text),
            "delete": partial(api.delete_file, "none.txt", **REPO),
            "tag": partial(api.delete_tag, tag="none", **REPO),
            "token": partial(api.upload_file, token="wrong", **text),
            "who": partial(api.whoami, token="wrong"),
            "again": partial(api.create_repo, **REPO),
            "card": partial(api.upload_file, **card),
            "no such endpoint": partial(api.super_squash_history, **REPO),
        }
        result = {}
        for name, mistake in mistakes.items():
            try:
                mistake()
            except Exception as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                result[name] = [type(error).__name__, status]
        assert api.create_repo(exist_ok=True, **REPO).repo_id == "me/stories"
        assert waited == []
    """
    assert client(hub, code) == {
        "repo": ["RepositoryNotFoundError", 404],
        "revision": ["RevisionNotFoundError", 404],
        "entry": ["RemoteEntryNotFoundError", 404],
        "entry's revision": ["RevisionNotFoundError", 404],
        "folder": ["RemoteEntryNotFoundError", 404],
        "file system": ["FileNotFoundError", None],
        "dataset": ["DatasetNotFoundError", None],
        "upload": ["RepositoryNotFoundError", 404],
        "branch": ["RevisionNotFoundError", 404],
        "delete": ["RemoteEntryNotFoundError", 404],
        "tag": ["RevisionNotFoundError", 404],
        "token": ["HfHubHTTPError", 401],
        "who": ["HfHubHTTPError", 401],
        "again": ["HfHubHTTPError", 409],
        "card": ["ValueError", None],
        "no such endpoint": ["HfHubHTTPError", 404],
    }
    assert set(hub.files("me/stories")) == {".gitattributes"}


class TestFaults:
    """The clients try again, with the waits they document, and come to the same bytes or to their error."""

    DATA = bytes(range(256)) * 40

    @pytest.fixture
    def hub(self, hub, tmp_path):
        (tmp_path / "x.bin").write_bytes(self.DATA)
        hub.publish(tmp_path, "me/stories")
        return hub

    RANGE = """
        with HfFileSystem().open("datasets/me/stories/x.bin", block_size=1, cache_type="none") as stream:
            stream.seek(1000)
            result = [list(stream.read(500)), waited]
    """

    @pytest.mark.parametrize(
        ("fault", "waits"),
        [
            ({"status": 500}, [1]),
            ({"status": 503, "times": 2}, [1, 2]),
            ({"status": 429, "retry_after": 0}, [1.0]),  # the client adds a second
            ({"status": 429, "retry_after": 30}, [31.0]),
            ({"status": 503, "retry_after": 7}, [8.0]),
            ({"cut": 0}, [1]),
            ({"cut": 499}, [1]),
        ],
    )
    def test_a_range_is_asked_for_again(self, hub, fault, waits):
        hub.faults(r"GET .*x\.bin$", **fault)
        data, waited = client(hub, self.RANGE)
        assert bytes(data) == self.DATA[1000:1500]
        assert waited == waits
        *failed, last = asked(hub, "GET", "x.bin")
        assert len(failed) == len(waits)
        assert {request.range for request in (*failed, last)} == {"bytes=1000-1499"}
        assert (last.status, last.bytes) == (206, 500)
        if "cut" in fault:
            assert [(request.status, request.bytes) for request in failed] == [(206, fault["cut"])]
        else:
            assert {request.status for request in failed} == {fault["status"]}

    def test_a_hub_that_stays_down_is_the_clients_error(self, hub):
        hub.faults("x.bin", status=503, times=100)
        code = """
            try:
                HfFileSystem().cat_file("datasets/me/stories/x.bin")
            except HfHubHTTPError as error:
                result = [error.response.status_code, waited]
        """
        status, waited = client(hub, code)
        assert status == 503
        assert waited == [1, 2, 4, 8, 8]
        assert len(asked(hub, "GET", "x.bin")) == 6

    def test_a_download_cut_in_the_middle_goes_on(self, hub):
        hub.faults("x.bin", cut=5000)
        code = """
            result = list(open(hf_hub_download(filename="x.bin", **REPO), "rb").read())
        """
        assert bytes(client(hub, code)) == self.DATA
        first, second = asked(hub, "GET", "x.bin")
        assert (first.bytes, second.bytes) == (5000, len(self.DATA))  # less than the client's block is not kept

    def test_an_upload_is_sent_again(self, hub):
        hub.faults("PUT /lfs/", status=500)
        code = """
            api.upload_file(path_or_fileobj=b"\\0" * 3000, path_in_repo="y.bin", **REPO)
            result = waited
        """
        assert client(hub, code) == [1]
        assert [(put.status, put.received) for put in asked(hub, "PUT")] == [(500, 3000), (200, 3000)]
        assert hub.files("me/stories")["y.bin"] == bytes(3000)

    def test_a_commit_that_was_overtaken_changes_nothing(self, hub):
        hub.faults("POST .*/commit/", status=412)
        code = """
            result = []
            for _ in range(2):
                try:
                    result.append(api.upload_file(path_or_fileobj=b"y", path_in_repo="y.txt", **REPO).oid)
                except HfHubHTTPError as error:
                    result.append([error.response.status_code, "y.txt" in api.list_repo_files(**REPO)])
        """
        failed, oid = client(hub, code)
        assert failed == [412, False]
        assert hub.files("me/stories", oid)["y.txt"] == b"y"

    def test_a_stream_survives(self, hub, built):
        hub.publish(built, "me/books")
        hub.faults(r"GET .*\.parquet$", cut=100)
        hub.faults(r"GET .*\.parquet$", status=503)
        code = """
            from datasets import load_dataset
            result = [row["story_id"] for row in load_dataset("me/books", split="train", streaming=True)]
        """
        files = sorted((built / "stories").glob("train-*.parquet"))
        assert client(hub, code) == [id for file in files for id in pq.read_table(file)["story_id"].to_pylist()]
        assert [request.status for request in asked(hub, "GET", ".parquet")].count(503) == 1
        assert 100 in [request.bytes for request in asked(hub, "GET", ".parquet")]

    def test_a_fault_is_a_status_or_a_cut(self, hub):
        for arguments in ({}, {"status": 500, "cut": 3}):
            with pytest.raises(UsageError, match="give one of them"):
                hub.faults(**arguments)


class TestServer:
    DATA = b"0123456789"

    @pytest.fixture
    def files(self, tmp_path):
        (tmp_path / "root/sub folder").mkdir(parents=True)
        (tmp_path / "root/sub folder/größe.txt").write_bytes(self.DATA)
        (tmp_path / "root/empty").touch()
        (tmp_path / "secret").write_text("x")
        with FileServer(tmp_path / "root") as files:
            yield files

    PATH = "/sub%20folder/gr%C3%B6%C3%9Fe.txt"

    def get(self, server, path=PATH, method="GET", **headers):
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body, response.headers

    @pytest.mark.parametrize(
        ("asked", "status", "body", "where"),
        [
            ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
            ("bytes=4-4", 206, b"4", "bytes 4-4/10"),
            ("bytes=7-", 206, b"789", "bytes 7-9/10"),
            ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
            ("bytes=-2", 206, b"89", "bytes 8-9/10"),
            ("bytes=-99", 206, DATA, "bytes 0-9/10"),
            ("bytes=10-", 416, b"", "bytes */10"),
            ("bytes=-0", 416, b"", "bytes */10"),
            ("bytes=5-2", 200, DATA, None),  # not a range: as if there were none
            ("bytes=0-1,4-5", 200, DATA, None),  # several may be answered with all
            ("lines=0-1", 200, DATA, None),
            ("bytes=-", 200, DATA, None),
        ],
    )
    def test_ranges(self, files, tmp_path, asked, status, body, where):
        with LocalHub() as hub:
            hub.publish(tmp_path / "root", "me/stories")
            for answers, path in ((files, self.PATH), (hub, f"/datasets/me/stories/resolve/main{self.PATH}")):
                found = self.get(answers, path, Range=asked)
                assert found[:2] == (status, body)
                assert found[2]["Content-Range"] == where
                assert found[2]["Content-Length"] == str(len(body))
                assert answers.requests[-1][2:5] == (asked, status, len(body))

    def test_head_has_the_headers_of_get_and_no_body(self, files):
        status, body, headers = self.get(files, method="HEAD")
        assert (status, body, headers["Content-Length"], headers["Accept-Ranges"]) == (200, b"", "10", "bytes")
        assert files.requests == [("HEAD", "/sub folder/größe.txt", "", 200, 0, 0)]

    def test_nothing_outside_the_folder_is_served(self, files):
        assert self.get(files, "/../secret")[0] == 404
        assert self.get(files, "/%2e%2e/secret")[0] == 404
        assert self.get(files, "/sub%20folder")[0] == 404
        assert self.get(files, "/empty")[:2] == (200, b"")
        assert self.get(files, method="PUT")[0] == 405

    def test_headers_of_a_file_on_the_hub(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(self.DATA)
        (tmp_path / "a.txt").write_bytes(b"hello\n")
        with LocalHub() as hub:
            oid = hub.publish(tmp_path, "me/stories")
            _, _, large = self.get(hub, "/datasets/me/stories/resolve/main/a.parquet", "HEAD")
            _, _, small = self.get(hub, "/datasets/me/stories/resolve/main/a.txt", "HEAD")
            _, _, lost = self.get(hub, "/datasets/me/stories/resolve/main/b.txt", "HEAD")
        sha256 = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"  # printf 0123456789 | sha256sum
        assert large["X-Linked-ETag"] == large["ETag"] == f'"{sha256}"'
        assert (large["X-Linked-Size"], large["X-Repo-Commit"]) == ("10", oid)
        assert small["ETag"] == '"ce013625030ba8dba906f756967f9e9ca394464a"'  # echo hello | git hash-object --stdin
        assert (small["X-Linked-Size"], small["Content-Length"]) == (None, "6")
        assert (lost["X-Error-Code"], lost["X-Repo-Commit"]) == ("EntryNotFound", oid)

    def test_a_body_in_chunks_is_read(self):
        oid = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
        with LocalHub() as hub:
            connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
            for parts, status in (([b"01234", b"56789"], 200), ([b"01234"], 400)):
                connection.request("PUT", f"/lfs/{oid}", body=iter(parts), encode_chunked=True)
                response = connection.getresponse()
                assert (response.status, response.read() == b"") == (status, status == 200)
            assert [request.received for request in hub.requests] == [10, 5]
            connection.close()

    def test_what_it_cannot_read_is_said_and_not_tried_again(self, tmp_path):
        with LocalHub() as hub:
            hub.publish(tmp_path, "me/stories")
            path = "/api/datasets/me/stories/preupload/main"
            status, body, _ = self.get(hub, path, "POST", Authorization=f"Bearer {hub.token}")
        assert status == 501
        assert json.loads(body) == {"error": "LocalHub failed: KeyError('files')"}

    def test_a_cut_closes_the_connection_after_that_many_bytes(self, files):
        files.faults(r"GET .*\.txt$", cut=4)
        with pytest.raises(http.client.IncompleteRead) as cut:
            self.get(files, Range="bytes=2-8")
        assert cut.value.partial == b"2345"
        assert self.get(files)[1] == self.DATA
        assert [(request.status, request.bytes) for request in files.requests] == [(206, 4), (200, 10)]

    def test_latency_comes_before_every_answer(self, files, monkeypatch):
        waits = []
        monkeypatch.setattr(server.time, "sleep", waits.append)
        files.latency = 0.03
        self.get(files)
        self.get(files, "/none")
        assert waits == [0.03, 0.03]

    def test_leaving_closes_kept_connections(self, tmp_path):
        with FileServer(tmp_path) as files:
            connection = http.client.HTTPConnection(files.url.removeprefix("http://"))
            connection.request("GET", "/none")
            assert connection.getresponse().read()
            kept = connection.sock
        assert kept.recv(1) == b""
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            self.get(files)

    def test_load_stories_over_http(self, built):
        pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp")
        with FileServer(built) as files:
            assert list(load_stories(files.url)) == list(load_stories(str(built)))
            assert 206 in {request.status for request in files.requests}


def test_the_environment_forgets_the_users_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", "/home/user/cache")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "secret")
    monkeypatch.setenv("OTHER", "kept")
    monkeypatch.setenv("no_proxy", "example.org")
    with LocalHub() as hub:
        environment = hub.environment()
        assert environment["HF_ENDPOINT"] == hub.url
    assert environment["OTHER"] == "kept"
    assert "HF_HUB_CACHE" not in environment
    assert environment["no_proxy"] == environment["NO_PROXY"] == "127.0.0.1"
    assert "secret" not in environment.values()
    assert "HF_HUB_OFFLINE" not in environment

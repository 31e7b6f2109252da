"""Publishing: what is refused, one commit of whole data, faults, and reading back from the Hub; all on a local one."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from openstory_hf.builders.african_storybook import AfricanStorybook
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from openstory_hf.build import build
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.hub import push
from openstory_hf.testing import LocalHub

REAL = Path(__file__).parents[1].parent / "shared/data/african_storybook"

# Waits are recorded, not waited: the retries of push and of the client run as they are.
PUSH = """
import sys, time
waited = []
time.sleep = waited.append
from openstory_hf import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def run(hub, code, *words, **environment):
    """Run code in a process whose clients talk to the hub."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    env = {**hub.environment(), "USE_TORCH": "0", **environment}  # datasets would import torch, which takes seconds
    return subprocess.run(command, env=env, capture_output=True, text=True)


def pushed(hub, out, *words):
    done = run(hub, PUSH, "push", out, "me/stories", "--quiet", *words)
    assert done.returncode == 0, done.stderr
    return done


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def there(hub, name="me/stories"):
    return {path: data for path, data in hub.files(name).items() if path != ".gitattributes"}


def uploads(hub):
    """The hash of each large file that arrived, as often as it did."""
    return [r.path.rpartition("/")[2] for r in hub.requests if r.method == "PUT" and r.status == 200]


def commits(hub):
    return [r for r in hub.requests if r.method == "POST" and "/commit/" in r.path and r.status == 200]


class Hub(LocalHub):
    """Can lose the answer to a commit, or let somebody else commit before it."""

    def __init__(self):
        super().__init__()
        self.lost_answers = 0
        self.overtaken = 0

    def respond(self, call):
        if "/commit/" in call.path and self.overtaken:
            self.overtaken -= 1
            self.commit_by_hand("stories/train-00099-of-00100.parquet")
        return super().respond(call)

    @property
    def private(self):
        return {name: repository.private for (_, name), repository in self._repositories.items()}

    def commit_by_hand(self, file):
        repository = self._repositories["dataset", "me/stories"]
        repository.commit("main", "by hand", lambda files: files.update({file: files[".gitattributes"]}))

    def answer(self, call):
        reply, stop = super().answer(call)
        if "/commit/" in call.path and self.lost_answers:
            self.lost_answers -= 1
            return reply, 0
        return reply, stop


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("push")
    AfricanStorybook.fake(RawWriter(folder / "raw"))
    build(AfricanStorybook, folder / "raw", folder / "out", on_error="quarantine", row_group_bytes=1, shard_bytes=1)
    assert len(list((folder / "out/stories").iterdir())) > 1
    return folder / "out"


@pytest.fixture
def out(small, tmp_path):
    shutil.copytree(small, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def third_party(tmp_path_factory):
    folder = tmp_path_factory.mktemp("third")
    write_release(RawWriter(folder / "raw"), {"train": {"s_01_e_01": 6}}, variant="B")
    build(FlintstonesSV, folder / "raw", folder / "out", splits=["train"])
    return folder / "out"


# -- what is refused, before anything is sent --------------------------------------------------------------


def test_pictures_of_others_need_the_word_of_who_pushes(hub, third_party):
    with pytest.raises(UsageError) as refused:
        push(third_party, "me/stories")
    assert FlintstonesSV.INFO.rights in str(refused.value)
    assert "--i-have-the-rights" in str(refused.value)
    assert hub.requests == []
    pushed(hub, third_party, "--i-have-the-rights")
    assert there(hub) == contents(third_party)


@pytest.mark.parametrize("file", ["stories/loader.py", "stories.PY", "cache.pkl"])
def test_executable_files_are_refused(out, file):
    (out / file).touch()
    with pytest.raises(OutputError, match="executable files have no place"):
        push(out, "me/stories")


def test_a_folder_that_fails_the_check_is_refused_with_what_failed(out):
    shard = next((out / "stories").iterdir())
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(OutputError, match="nothing was pushed") as refused:
        push(out, "me/stories")
    assert f"stories/{shard.name}: size or SHA-256 differ" in str(refused.value)


@pytest.mark.parametrize("name", ["stories", "me/a/b", "me/st ories", "-me/stories", ""])
def test_a_name_that_is_none_is_refused(out, name):
    with pytest.raises(UsageError, match="name of a repository"):
        push(out, name)


def test_only_local_folders_are_pushed():
    with pytest.raises(UsageError, match="not a local folder"):
        push("me/stories", "me/copy")


# -- what arrives ------------------------------------------------------------------------------------------


def test_the_folder_arrives_whole_private_and_in_one_commit(hub, out):
    (out / "LICENSE").write_text("see extras")
    (out / ".cache").mkdir()
    (out / ".cache/lock").touch()
    done = pushed(hub, out)
    assert hub.private == {"me/stories": True}
    here = {path: data for path, data in contents(out).items() if not path.startswith(".")}
    assert there(hub) == here
    assert {"manifest.json", "rejects.jsonl", "README.md", "croissant.json", "example.png", "LICENSE"} <= set(here)
    assert 'load_dataset("me/stories", split="train"' in here["README.md"].decode()
    assert f"{hub.url}/datasets/me/stories" in here["croissant.json"].decode()
    assert len(commits(hub)) == 1
    assert done.stdout.splitlines()[0].startswith(f"{hub.url}/datasets/me/stories/commit/")
    assert hub.token not in done.stdout + done.stderr


def test_pushing_again_sends_and_commits_nothing(hub, out):
    pushed(hub, out)
    before = len(hub.requests)
    pushed(hub, out)
    assert {request.method for request in hub.requests[before:]} == {"GET"}


def test_shards_of_another_build_go_and_other_files_stay(hub, out, tmp_path):
    pushed(hub, out)
    hub.commit_by_hand("LICENSE")
    AfricanStorybook.fake(RawWriter(tmp_path / "raw"))
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "one", on_error="quarantine")
    whole = {"stories/train-00000-of-00001.parquet", "index/stories-train-00000-of-00001.parquet"}
    assert set(contents(tmp_path / "one")) < set(contents(out)) | whole
    pushed(hub, tmp_path / "one")
    left = there(hub)
    assert left.pop("LICENSE")
    assert left == contents(tmp_path / "one")
    done = run(hub, PUSH, "check", "me/stories")
    assert (done.returncode, done.stdout) == (0, "me/stories: ok\n")


@pytest.mark.parametrize("foreign", ["data/train-00000-of-00001.parquet", "stories.py"])
def test_a_repository_with_other_data_is_refused_before_any_upload(hub, out, tmp_path, foreign):
    (tmp_path / "foreign" / foreign).parent.mkdir(parents=True)
    (tmp_path / "foreign" / foreign).write_text("print()")
    hub.publish(tmp_path / "foreign", "me/stories")
    hub._repositories["dataset", "me/stories"].private = True
    before = hub.files("me/stories")
    done = run(hub, PUSH, "push", out, "me/stories", "--quiet")
    assert done.returncode == 2
    assert f"me/stories holds {foreign}" in done.stderr
    assert uploads(hub) == []
    assert hub.files("me/stories") == before


def test_a_public_repository_is_not_taken_for_a_private_one(hub, out):
    pushed(hub, out, "--public")
    assert hub.private == {"me/stories": False}
    done = run(hub, PUSH, "push", out, "me/stories", "--quiet")
    assert done.returncode == 2
    assert "is a public repository" in done.stderr
    assert "--public" in done.stderr


def test_a_token_that_may_not_write_is_told_so_and_not_shown(hub, out):
    done = run(hub, PUSH, "push", out, "me/stories", "--quiet", HF_TOKEN="hf_of_somebody_else")
    assert done.returncode == 1
    assert "hf auth login" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_of_somebody_else" not in done.stdout + done.stderr
    assert uploads(hub) == []


# -- faults ------------------------------------------------------------------------------------------------

FAULTS = {
    "unavailable": {"status": 503},
    "too many requests": {"status": 429, "retry_after": 1},
    "cut": {"match": "GET /api/", "cut": 20},
    "stale commit": {"match": "POST .*/commit/", "status": 412},
    "upload": {"match": "PUT /lfs/", "status": 500},
}


@pytest.mark.parametrize("kind", FAULTS)
def test_thirty_faults_lose_and_repeat_nothing(hub, out, kind):
    hub.faults(times=30, **FAULTS[kind])
    for _ in range(30):
        done = run(hub, PUSH, "push", out, "me/stories", "--quiet")
        if done.returncode == 0:
            break
        assert done.returncode == 1
        assert "Push again with the same command" in done.stderr
        assert "Traceback" not in done.stderr
        if ("dataset", "me/stories") in hub._repositories:
            assert there(hub) == {}  # all or nothing
    assert hub._faults[0].left == 0
    here = contents(out)
    assert there(hub) == here
    assert len(commits(hub)) == 1
    large = [hashlib.sha256(data).hexdigest() for path, data in here.items() if path.endswith((".parquet", ".png"))]
    assert set(uploads(hub)) == set(large)
    assert len(uploads(hub)) <= len(large)  # shards without a story are alike, and may be sent once or each


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, out):
    hub.lost_answers = 1
    pushed(hub, out)
    assert there(hub) == contents(out)
    assert len(commits(hub)) == 1


def test_a_commit_that_another_has_overtaken_is_made_after_it(hub, out):
    hub.overtaken = 3
    pushed(hub, out)
    assert there(hub) == contents(out)  # the shard that came meanwhile is gone: tables are never mixed
    assert len(commits(hub)) == 1


def test_an_upload_that_gives_up_goes_on_where_it_stopped(hub, out):
    refused = hashlib.sha256(min((out / "index").glob("stories-train-*-of-*")).read_bytes()).hexdigest()
    hub.faults(f"PUT /lfs/{refused}", times=1000, status=503)
    done = run(hub, PUSH, "push", out, "me/stories", "--quiet")
    assert done.returncode == 1
    assert "me/stories: uploading failed" in done.stderr
    assert there(hub) == {}
    sent = uploads(hub)
    assert sent
    hub._faults.clear()
    pushed(hub, out)
    assert there(hub) == contents(out)
    assert refused in uploads(hub)[len(sent) :]
    assert not set(uploads(hub)[len(sent) :]) & set(sent)


# -- and back ----------------------------------------------------------------------------------------------

READ = """
import hashlib, json, sys
from datasets import Image, List, load_dataset
sys.modules["openstory_hf"] = None  # any import of the package now fails
found = {}
for config in ("stories", "annotations"):
    rows = load_dataset(sys.argv[1], config, split="train", streaming=True)
    if "images" in rows.features:
        rows = rows.cast_column("images", List(Image(decode=False)))
    found[config] = []
    for row in rows:
        for image in row.get("images", ()):
            image["bytes"] = hashlib.sha256(image["bytes"]).hexdigest()
        found[config].append(row)
print(json.dumps(found))
"""

LOAD = """
import hashlib, json, sys, time
time.sleep = lambda seconds: None
from openstory_hf import load_stories
from openstory_hf.errors import OutputError
found, failures, state = [], [], None
while True:
    stream = None
    try:
        stream = load_stories(sys.argv[1], split="train", shuffle=True, seed=1, captions="referential")
        if state:
            stream.load_state_dict(state)
        for row in stream:
            row["images"] = [hashlib.sha256(image["bytes"]).hexdigest() for image in row["images"]]
            found.append({key: row[key] for key in ("story_id", "images", "texts", "mentions")})
            state = stream.state_dict()
        break
    except OutputError as error:
        failures.append(str(error))
print(json.dumps([found, failures]))
"""


def read(hub, code, place):
    done = run(hub, code, place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["fake", "real"])
def books(request, small, tmp_path_factory):
    if request.param == "fake":
        return small
    if not REAL.is_dir():
        pytest.skip("the African Storybook sample is not in ../shared/data")
    folder = tmp_path_factory.mktemp("real")
    build(AfricanStorybook, REAL, folder / "out", on_error="quarantine")
    return folder / "out"


def test_what_was_pushed_reads_as_it_does_locally(books):
    with Hub() as hub:
        pushed(hub, books)
        before = len(hub.requests)
        local, remote = read(hub, READ, books), read(hub, READ, "me/stories")
        assert local["stories"]
        assert remote == local
        lighter = [{name: row[name] for name in row if name != "images"} for row in local["stories"]]
        assert local["annotations"] == lighter
        assert read(hub, LOAD, "me/stories") == read(hub, LOAD, books)
        before = len(hub.requests)
        done = run(hub, PUSH, "check", "me/stories")
        assert (done.returncode, done.stdout) == (0, "me/stories: ok\n"), done.stderr
        tables = sum(path.stat().st_size for path in (books / "stories").iterdir())
        parts = [r.bytes for r in hub.requests[before:] if "/resolve/" in r.path and "/stories/train" in r.path]
        assert sum(parts) == tables  # each byte once


@pytest.mark.parametrize("books", ["real"], indirect=True)
def test_annotations_read_a_small_fraction_of_the_pictures(books):
    pictures = sum(path.stat().st_size for path in (books / "stories").iterdir())
    code = """
        import sys
        from datasets import load_dataset
        print(sum(1 for _ in load_dataset(sys.argv[1], "annotations", split="train", streaming=True)))
    """
    with Hub() as hub:
        pushed(hub, books)
        before = len(hub.requests)
        assert read(hub, code, "me/stories") > 0
        assert sum(request.bytes for request in hub.requests[before:]) < 0.05 * pictures


@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"status": 429, "retry_after": 0}, {"cut": 100}],
    ids=["unavailable", "too many requests", "cut"],
)
def test_thirty_faults_while_reading_lose_and_repeat_nothing(small, fault):
    with Hub() as hub:
        pushed(hub, small)
        hub.faults("GET .*/resolve/", times=30, **fault)
        found, failures = read(hub, LOAD, "me/stories")
        expected, none = read(hub, LOAD, small)
    assert hub._faults[0].left == 0
    assert none == []
    assert found == expected
    assert failures
    assert all("Check the network" in failure for failure in failures)


def test_problems_of_a_repository_are_found_with_their_files(small, tmp_path):
    shutil.copytree(small, tmp_path / "out")
    shard = next((tmp_path / "out/stories").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    (tmp_path / "out/stories/loader.py").touch()
    shutil.copy(shard, tmp_path / "out/stories/train-00099-of-00100.parquet")
    (tmp_path / "out/rejects.jsonl").unlink()
    with LocalHub() as hub:
        hub.publish(tmp_path / "out", "me/broken")
        done = run(hub, PUSH, "check", "me/broken", "--quiet")
        local = run(hub, PUSH, "check", tmp_path / "out", "--quiet")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("me/broken: ")
    assert [line.partition(":")[0] for line in lines[:-1]] == [
        line.partition(":")[0] for line in local.stdout.splitlines()[:-1]
    ]
    assert {"stories/loader.py", f"stories/{shard.name}", "rejects.jsonl"} < {line.partition(":")[0] for line in lines}


def test_this_process_never_talked_to_the_hub():
    assert os.environ["HF_HUB_OFFLINE"] == "1"

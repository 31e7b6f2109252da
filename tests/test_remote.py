"""Reading over a network: the same rows, few requests, few bytes, one commit, faults overcome or named."""

import contextlib
import io
import json
import multiprocessing
import shutil
import subprocess
import sys
from itertools import islice
from multiprocessing import Pipe

import huggingface_hub
import numpy as np
import pytest
from openstory_hf.builders import _template
from openstory_hf.builders.african_storybook import AfricanStorybook
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release
from PIL import Image
from torch.utils.data import DataLoader

from openstory_hf import folder, storage
from openstory_hf.build import build
from openstory_hf.builder import StoryBuilder
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.load import load_stories
from openstory_hf.records import Frame, Picture, Sequence, Unit, Window
from openstory_hf.rows import read_stories
from openstory_hf.stats import collect
from openstory_hf.testing import FileServer, LocalHub


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    write_release(RawWriter(folder / "raw"), {"train": {"s_01_e_01": 20, "s_01_e_02": 15}}, variant="B")
    build(FlintstonesSV, folder / "raw", folder / "out", splits=["train"], row_group_bytes=40_000)
    return folder / "out"


def noise(number):
    """A JPEG of about 40 kB that no other is like."""
    pixels = np.random.default_rng(number).integers(0, 256, (176, 176, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=96)
    return buffer.getvalue()


class Large(StoryBuilder):
    """Stories of five pictures of 40 kB; frame k of sequence s shows picture (31 s + k) of a few."""

    INFO = _template.INFO
    KINDS = tuple(noise(number) for number in range(61))
    STORIES = 1000

    @staticmethod
    def fake(raw):
        raw.json("stories.json", Large.STORIES)

    @staticmethod
    def units(raw, split):
        if split != "train":
            return []
        count = raw.json("stories.json")
        return [Unit(unit_id=f"{at:05d}", split=split, data={"at": at}) for at in range(count)]

    @staticmethod
    def sequences(raw, unit):
        def read(frame_id):
            kind = (31 * unit.data["at"] + int(frame_id)) % len(Large.KINDS)
            return Frame(
                frame_id=frame_id,
                caption=f"Picture {kind}.",
                pictures=(Picture(path=f"{kind}.jpg", data=Large.KINDS[kind]),),
            )

        frames = tuple("01234")
        yield Sequence(
            sequence_id=unit.unit_id,
            frame_ids=frames,
            read=read,
            windows=(Window(story_id=unit.unit_id, start=0, stop=5),),
        )


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """200 MB in one file of eight row groups."""
    folder = tmp_path_factory.mktemp("large")
    Large.fake(RawWriter(folder / "raw"))
    manifest = build(Large, folder / "raw", folder / "out", splits=["train"])
    assert 190e6 < sum(facts["bytes"] for facts in manifest["files"].values()) < 230e6
    return folder / "out"


def first(stream, count):
    rows = iter(stream)
    found = [next(rows) for _ in range(count)]
    rows.close()
    return found


REQUESTS = [
    {},
    {"length": 3, "shuffle": True, "frame": "random", "captions": "referential"},
    {"length": 7, "stride": 2, "frame": "all", "shuffle": "full"},
]


@pytest.mark.parametrize("options", REQUESTS)
def test_a_url_gives_the_rows_of_the_folder(out, options):
    with FileServer(out) as server:
        assert list(load_stories(server.url, **options)) == list(load_stories(out, **options))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_from_a_url(out, method):
    expected = {row["story_id"]: row for row in load_stories(out, length=4)}
    with FileServer(out) as server:
        stream = load_stories(server.url, length=4, shuffle=True)
        first(stream, 3)  # so that what a fork inherits has been used
        loader = DataLoader(stream, batch_size=None, num_workers=2, collate_fn=dict, multiprocessing_context=method)
        found = list(loader)
    assert len(found) == len(expected)
    assert all(row["images"] == expected[row["story_id"]]["images"] for row in found)


def test_resuming_at_90_percent_of_200_mb_reads_less_than_15_percent_of_them(large):
    total = sum(path.stat().st_size for path in (large / "stories").iterdir())
    for shuffle in (True, False):
        whole = [row["story_id"] for row in load_stories(large, shuffle=shuffle, columns=("story_id",))]
        stopped = load_stories(large, shuffle=shuffle, columns=("story_id",))
        first(stopped, 900)
        with FileServer(large) as server:
            stream = load_stories(server.url, shuffle=shuffle)
            stream.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
            found = list(stream)
            sent = sum(request.bytes for request in server.requests)
        assert [row["story_id"] for row in found] == whole[900:]
        assert all(row["images"][0]["bytes"] in Large.KINDS for row in found)
        assert sent < 0.15 * total


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_first_batch_takes_few_requests_and_bytes(large, shuffle):
    with FileServer(large) as server:
        assert len(first(load_stories(server.url, shuffle=shuffle), 16)) == 16
        requests = server.requests
    assert len(requests) <= (12 if shuffle else 4)
    assert sum(request.bytes for request in requests) <= 2 * (24 << 20)


def test_filters_and_light_columns_touch_no_picture(large):
    with FileServer(large) as server:
        stream = load_stories(server.url, columns=("captions", "texts"), captions="referential")
        assert sum(1 for _ in stream) == Large.STORIES
        paths = {request.path for request in server.requests}
        sent = sum(request.bytes for request in server.requests)
    assert paths == {"/manifest.json", "/index/stories-train-00000-of-00001.parquet"}
    assert sent < 0.05 * sum(path.stat().st_size for path in (large / "stories").iterdir())


def test_statistics_and_a_few_stories_are_those_of_the_folder(out):
    with FileServer(out) as server:
        assert collect(server.url).as_dict() == collect(out).as_dict()
        assert read_stories(server.url, number=3) == read_stories(out, number=3)


def test_the_memory_of_a_shuffled_reader_is_a_window_of_blocks(large):
    with FileServer(large) as server:
        from openstory_hf import sources

        held, most = {}, 0

        class Watched(sources.FetchedPictures):
            def enter(self, run):
                nonlocal most
                super().enter(run)
                held[run] = sum(len(data) for *_, data in self._entered[run])
                most = max(most, sum(held.values()))

            def leave(self, run):
                super().leave(run)
                del held[run]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "FetchedPictures", Watched)
            for _ in load_stories(server.url, shuffle=True, columns=("images",)):
                pass
    assert not held
    assert 20e6 < most < 80e6  # up to 32 blocks, a third of the table


# -- faults ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 429}, {"status": 500}, {"cut": 0}, {"cut": 5000}], ids=str
)
def test_passing_faults_lose_and_repeat_nothing(out, hurried, fault):
    expected = list(load_stories(out, length=5, shuffle=True, frame="random"))
    with FileServer(out) as server:
        for name in ("/manifest", "/index/", "/frames/"):
            server.faults(match=name, times=2, **fault)
        assert list(load_stories(server.url, length=5, shuffle=True, frame="random")) == expected


def test_a_lasting_fault_is_one_error_that_says_what_to_do(out, hurried):
    with FileServer(out) as server:
        stream = load_stories(server.url)
        server.faults(match="/stories/", times=100, status=503)
        with pytest.raises(OutputError, match=r"stories/train-00000-of-00001\.parquet cannot be read.*503.*resume"):
            list(stream)


def test_a_file_that_was_replaced_after_it_had_been_indexed_is_refused(out, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    [path] = (tmp_path / "out/stories").iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:1000] + b"x" + data[1000:])
    for place in ("folder", "url"):
        with FileServer(tmp_path / "out") as server:
            stream = load_stories(server.url if place == "url" else tmp_path / "out")
            with pytest.raises(OutputError, match="not the file its index was made of"):
                list(stream)


# -- the Hub --------------------------------------------------------------------------------------------------

READ = """
import json, sys
from openstory_hf import load_stories
from openstory_hf.errors import OpenStoryError
try:
    stream = load_stories(sys.argv[1], **json.loads(sys.argv[2]))
    print(json.dumps([[row["story_id"], [len(image["bytes"]) for image in row["images"]]] for row in stream]))
except OpenStoryError as error:
    print(type(error).__name__, error)
"""


def read(hub, path, **options):
    command = [sys.executable, "-c", READ, path, json.dumps(options)]
    done = subprocess.run(command, env=hub.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_repository_is_read_like_a_folder_at_a_revision_and_in_few_requests(out, tmp_path):
    AfricanStorybook.fake(RawWriter(tmp_path / "raw"))
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "books", on_error="quarantine")

    def expected(folder):
        return [[row["story_id"], [len(image["bytes"]) for image in row["images"]]] for row in load_stories(folder)]

    with LocalHub() as hub:
        old = hub.publish(tmp_path / "books", "me/stories")
        before = len(hub.requests)
        assert json.loads(read(hub, "me/stories")) == expected(tmp_path / "books")
        asked = hub.requests[before:]
        assert len(asked) <= 4, asked
        hub.publish(out, "me/stories")
        assert json.loads(read(hub, "hf://datasets/me/stories")) == expected(out)
        assert json.loads(read(hub, "me/stories", revision=old)) == expected(tmp_path / "books")
        assert json.loads(read(hub, f"hf://datasets/me/stories@{old}")) == expected(tmp_path / "books")
        assert "OutputError hf://datasets/me/nothing (revision main) cannot be read" in read(hub, "me/nothing")


def test_a_revision_of_a_folder_is_refused(out):
    with pytest.raises(UsageError, match="is not a repository of the Hub"):
        load_stories(str(out), revision="main")


@pytest.mark.parametrize("whole", [0, 1 << 30])
def test_a_forked_worker_reads_indexes_that_its_parent_has_open(out, monkeypatch, whole):
    monkeypatch.setattr(folder, "WHOLE_INDEX", whole)
    expected = [row["story_id"] for row in load_stories(out, length=3)]
    with FileServer(out) as server:
        stories = load_stories(server.url, length=3)
        assert len(list(islice(stories, 2))) == 2
        stories._folder.index("frames", "train")._kept.clear()  # as after many others
        process = multiprocessing.get_context("fork").Process(target=read_into, args=(stories, pipe := Pipe(False)))
        process.start()
        found = pipe[0].recv() if pipe[0].poll(60) else "it hangs"
        process.kill()
    assert found == expected


def read_into(stories, pipe):
    pipe[1].send([row["story_id"] for row in stories])


def test_a_forked_worker_does_not_wait_for_threads_of_its_parent(out):
    """Threads that fetch hold locks while they read; a fork at that moment would inherit them held for ever."""
    stories = load_stories(out, length=3)
    index = stories._folder.index("frames", "train")
    expected = [row["story_id"] for row in load_stories(out, length=3)]
    with contextlib.ExitStack() as held:
        for lock in (index._lock, *index._reading):
            held.enter_context(lock)
        process = multiprocessing.get_context("fork").Process(target=read_into, args=(stories, pipe := Pipe(False)))
        process.start()
        found = pipe[0].recv() if pipe[0].poll(60) else "it hangs"
        process.kill()
    assert found == expected


def test_a_large_index_is_read_again_when_the_network_fails(out, hurried, monkeypatch):
    monkeypatch.setattr(folder, "WHOLE_INDEX", 0)
    expected = list(load_stories(out, length=3))
    with FileServer(out) as server:
        server.faults(match="/index/", times=2, status=503)
        assert list(load_stories(server.url, length=3)) == expected


def test_a_shard_that_is_missing_behind_a_url_is_named(out, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    (shard,) = (tmp_path / "out/frames").glob("*.parquet")
    with FileServer(tmp_path / "out") as server:
        stories = load_stories(server.url, length=3)
        shard.unlink()
        with pytest.raises(OutputError, match=rf"{shard.name} is missing"):
            list(stories)


def test_a_hub_without_a_network_is_one_error(monkeypatch):
    def gone(*_, **__):
        raise RuntimeError("no route to host")  # as none of the client's own

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", gone)
    with pytest.raises(OutputError, match=r"user/repo.*no route to host.*network"):
        load_stories("user/repo")

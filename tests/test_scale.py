"""What is opened, held and asked for does not grow with a dataset; the full size is `python -m benchmarks.scale`."""

import io
import json
import random
import shutil
import tracemalloc
from itertools import islice
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from benchmarks import huge
from openstory_hf import contents, load, order, rows, schedule, selection
from openstory_hf.build import build
from openstory_hf.contents import Contents, Entry, contents_file, write_contents
from openstory_hf.fakes import RawWriter
from openstory_hf.finish import manifest_text
from openstory_hf.folder import BuiltFolder, Index
from openstory_hf.index import GROUP_ROWS, index_file
from openstory_hf.layout import Layout
from openstory_hf.load import load_stories
from openstory_hf.selection import Kept, Published, Rows, Windows
from openstory_hf.stream import left_over, share, size_of
from openstory_hf.testing import FileServer

GROUPS, ROWS, PICTURE = 40, 5, 100_000
MB = 1 << 20


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """500 shards of 40 row groups: 20,000 row groups, 100,000 stories."""
    folder = tmp_path_factory.mktemp("many")
    return huge.write(folder / "out", shards=500, groups=GROUPS, rows=ROWS, picture_bytes=PICTURE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Several shards of several row groups."""
    folder = tmp_path_factory.mktemp("shards")
    episodes = {f"s_01_e_{number:02d}": 9 + number for number in range(6)}
    write_release(RawWriter(folder / "raw"), {"train": episodes}, variant="B")
    build(FlintstonesSV, folder / "raw", folder / "out", splits=["train"], shard_bytes=1, row_group_bytes=20_000)
    return folder / "out"


# -- opening


@pytest.mark.parametrize(
    ("options", "opening"), [({}, 1), ({"shuffle": True}, 1), ({"shuffle": True, "length": 3}, 2)], ids=str
)
def test_a_dataset_of_many_shards_is_opened_with_few_requests(many, options, opening):
    with FileServer(many) as server:
        stories = load_stories(server.url, **options)
        stories.order(0).at(0, 16)
        assert len(server.requests) == opening <= 3
        rows = list(islice(iter(stories), 16))
        requests = server.requests
    assert [len(row["images"]) for row in rows] == [options.get("length", 5)] * 16
    assert {request.status for request in requests} <= {200, 206}
    assert len(requests) <= (7 if not options else 50)  # a block is a request for its pictures, one for its index


def test_in_order_the_first_story_comes_with_three_requests_and_one_ahead(many):
    with FileServer(many) as server:
        assert len(next(iter(load_stories(server.url)))["images"]) == 5
        paths = sorted(request.path.split("/")[1] for request in server.requests)
    assert paths in (["index", "manifest.json", "stories"], ["index", "manifest.json", "stories", "stories"])


def test_a_local_dataset_opens_the_files_it_reads_and_no_others(many):
    stories = load_stories(many)
    list(islice(iter(stories), 16))
    assert set(stories._folder.storage._maps) == {
        "stories/train-00000-of-00500.parquet",
        "index/stories-train-00000-of-00500.parquet",
    }


def test_rows_are_held_while_their_block_is_read_and_no_longer(many, monkeypatch):
    """32 blocks of 24 MB, of stories of 500 kB, 50 each at most."""
    held = []

    class Reader(rows.RowReader):
        def rows(self, *request):
            found = super().rows(*request)
            held.append((len(self._held), sum(len(piece.files) for piece in self._held.values())))
            return found

    monkeypatch.setattr(load, "RowReader", Reader)
    list(islice(iter(load_stories(many, shuffle=True, columns=("story_id",))), 3000))
    assert len(held) == 3000
    assert max(held)[0] == 32
    assert max(rows for _, rows in held) <= 32 * 50


def held_by(work):
    """Most bytes that Python and numpy hold while some work is done, above what they held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def layout_of(files, groups, rows):
    return Layout.of([{"rows": groups * rows, "bytes": groups * 24 * MB, "row_groups": [rows] * groups}] * files)


def test_more_stories_than_32_bits_count_are_ordered():
    layout = layout_of(files=30, groups=100, rows=1_000_000)
    planned = schedule.Schedule(layout, Rows(len(layout)), True, 0)
    order = planned.order(0)
    found = np.concatenate([order.at(at, at + 1000) for at in range(0, len(layout), 10**9)])
    assert len(set(found.tolist())) == len(found) == 3_000
    assert found.min() >= 0
    assert 2**31 < found.max() < len(layout)
    assert (np.diff(planned.blocks.first[planned.block_of(found)[:, None] + [0, 1]]) > 0).all()


def test_rows_behind_a_block_are_counted_beyond_32_bits():
    """The blocks of this table are kept in four bytes, and windows go on behind the last."""
    layout = layout_of(files=2, groups=1, rows=2**30 - 1)
    cut = order.blocks(layout, 5)
    first, stop = cut.rows(np.array([len(cut) - 1]))
    assert cut.first.dtype == np.int32
    assert first < stop + 4 == 2**31 + 2


def test_planning_takes_memory_for_blocks_and_none_for_stories():
    """64 bytes a block would be 64 MB for a million of them."""

    def plan(files, rows):
        layout = layout_of(files, 100, rows)
        planned = schedule.Schedule(layout, Rows(len(layout)), True, 0)
        assert len(planned.order(0).at(10**5, 10**5 + 1000)) == 1000
        return planned

    assert len(plan(300, 20).blocks) == 30_000
    few, more, longer = (held_by(lambda n=n, r=r: plan(n, r)) for n, r in ((300, 20), (600, 20), (600, 2000)))
    assert more < 2.2 * few
    assert longer < 1.1 * more
    assert more < 60_000 * 100 + 20 * MB  # 1 MB at a time for the turns that are looked at


def test_the_same_rows_come_whatever_the_number_of_stories_planned_at_once(shards, monkeypatch):
    expected = [row["story_id"] for row in load_stories(shards, length=2, shuffle=4)]
    monkeypatch.setattr(schedule, "SEGMENT", 7)
    rows = list(load_stories(shards, length=2, shuffle=4))
    assert [row["story_id"] for row in rows] == expected
    with FileServer(shards) as server:
        assert list(load_stories(server.url, length=2, shuffle=4)) == rows


# -- indexes of files


def test_a_row_group_of_an_index_holds_several_of_a_table_with_few_rows(shards):
    files = json.loads((shards / "manifest.json").read_text())["files"]
    file = max(files, key=lambda name: len(files[name]["row_groups"]))
    table, index = (pq.ParquetFile(shards / name) for name in (file, index_file(file)))
    assert table.num_row_groups > 1 == index.num_row_groups
    assert table.metadata.num_rows == index.metadata.num_rows < GROUP_ROWS


def test_annotations_are_read_from_the_indexes_of_all_shards_without_this_package(shards):
    rows = list(load_dataset(str(shards), "annotations", split="train", streaming=True))
    assert [row["story_id"] for row in rows] == [row["story_id"] for row in load_stories(shards)]
    assert "images" not in rows[0]


def test_what_is_kept_of_an_index_is_bounded(many, monkeypatch):
    monkeypatch.setattr("openstory_hf.folder.KEPT_FILES", 3)
    monkeypatch.setattr("openstory_hf.folder.KEPT_BYTES", 1)
    index = BuiltFolder(str(many)).index("stories", "train")
    for file in range(10):
        table, inside, found = index.find(file * GROUPS * ROWS + 7, ("story_id",))
        assert (found, table.column("story_id")[inside].as_py()) == (file, "synthetic/0000007")
    assert len(index._open) == 3
    assert len(index._kept) == 2
    assert index._kept_bytes == sum(table.nbytes for table, _ in index._kept.values())


def test_a_file_of_an_index_is_fetched_once_by_many_threads(many):
    from concurrent.futures import ThreadPoolExecutor

    with FileServer(many, latency=0.01) as server:
        index = BuiltFolder(server.url).index("stories", "train")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda row: index.find(row, ("story_id",))[1], range(0, 1000, 10)))
        assert len(found) == 100
        asked = [request.path for request in server.requests if "/index/" in request.path]
    assert len(asked) == len(set(asked)) == 5


def test_a_manifest_has_a_line_for_the_row_groups_of_a_file(shards):
    manifest = json.loads((shards / "manifest.json").read_text())
    text = manifest_text(manifest)
    assert json.loads(text) == manifest
    assert text == (shards / "manifest.json").read_text()
    groups = [facts["row_groups"] for facts in manifest["files"].values()]
    assert max(map(len, groups)) > 1
    assert all(f'"row_groups": [{",".join(map(str, rows))}]' in text for rows in groups)


# -- contents


def test_the_contents_of_many_sequences_come_back(tmp_path):
    draw = np.random.default_rng(0)
    entries = [
        Entry(runs=draw.integers(1, 9, size), starts=np.sort(draw.integers(0, 50, size)))
        for size in draw.integers(0, 30, 700)
    ]
    assert write_contents(tmp_path / "contents", iter(entries)) == 700
    files = np.cumsum([0, *(len(entry.runs) for entry in entries)])
    frames = 50 * np.arange(701)
    buffer = pa.py_buffer((tmp_path / "contents").read_bytes())
    found = Contents("stories", files, buffer)
    assert (found.all_runs() == np.concatenate([entry.runs for entry in entries])).all()
    expected = np.concatenate([entry.starts + 50 * file for file, entry in enumerate(entries)])
    assert (found.starts(frames) == expected).all()
    with pytest.raises(ValueError, match="names frames that are not there"):
        found.starts(5 * np.arange(701))
    with pytest.raises(ValueError, match="describes 700 files of 1"):
        Contents("stories", files[:2], buffer)


def test_contents_of_other_rows_are_refused():
    for table, lengths in ("frames", [5, 5]), ("stories", [5, 4]), ("frames", [2, 1]):
        with pytest.raises(ValueError, match="other rows than the manifest says"):
            Windows(table, contents_of(table, [[2, 3], [4]], lengths), 2, 1)
    found = contents_of("frames", [[2, 3], [4]])
    assert [runs.tolist() for runs in map(found.runs, range(len(found)))] == [[2, 3, 4]]


@pytest.mark.parametrize("runs", [[[2, 3], None], [[2, None], [4]]], ids=str)
def test_contents_with_gaps_are_refused(runs):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"runs": runs, "starts": [[], []]}, schema=contents.SCHEMA), buffer)
    with pytest.raises(ValueError, match="some of its runs are missing"):
        Windows("frames", Contents("frames", np.array([0, 5, 9]), pa.py_buffer(buffer.getvalue())), 2, 1)


def test_contents_that_are_gone_are_one_error_and_nobody_else_minds(shards, tmp_path):
    from openstory_hf.errors import OutputError

    shutil.copytree(shards, tmp_path / "out")
    (tmp_path / "out" / contents_file("frames", "train")).unlink()
    assert len(list(load_stories(tmp_path / "out"))) > 0
    with pytest.raises(OutputError, match=r"index/frames-train\.contents\.parquet is missing\. Push or build again"):
        load_stories(tmp_path / "out", length=3)


# -- selections


def contents_of(table, files, rows=None):
    """Contents of files with these runs, and so many rows if these are not those of the runs."""
    buffer = io.BytesIO()
    write_contents(buffer, (Entry(runs=np.array(runs, np.int64)) for runs in files))
    rows = rows or [len(runs) if table == "stories" else sum(runs) for runs in files]
    return Contents(table, np.cumsum([0, *rows]), pa.py_buffer(buffer.getvalue()))


@given(
    st.lists(st.lists(st.integers(1, 12), max_size=6), min_size=1, max_size=8),
    st.integers(1, 6),
    st.integers(1, 4),
    st.booleans(),
    st.data(),
)
@settings(deadline=None)
def test_windows_are_found_where_a_loop_finds_them(files, length, stride, inside, data):
    table, runs = "stories" if inside else "frames", [frames for file in files for frames in file]
    # few files to a row group of the contents, few row groups held: what is read again is found again
    with mock.patch.multiple(contents, ENTRIES=2, RUNS=5), mock.patch.object(selection, "HELD_RUNS", 6):
        found = Windows(table, contents_of(table, files), length, stride)
    assert found.longest == max(runs, default=0)
    expected, row = [], 0
    for number, frames in enumerate(runs):
        for start in range(0, frames - length + 1, stride):
            expected.append((number, 1, start, start + length) if inside else (row + start, length, 0, length))
        row += frames
    assert len(found) == len(expected)
    numbers = np.array(data.draw(st.permutations(range(len(found)))), np.int64)
    places = found.places(numbers)
    places_of = list(zip(places.row, places.rows, places.start, places.stop, strict=True))
    assert places_of == [expected[number] for number in numbers]
    total = len(runs) if inside else sum(runs)
    bounds = np.array(sorted(data.draw(st.lists(st.integers(0, total), min_size=1, max_size=6))))
    assert found.before(bounds).tolist() == [sum(first < bound for first, *_ in expected) for bound in bounds]
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, max(0, len(expected) - 1))))), np.int64)
    if len(expected):
        some = Kept(found, kept)
        assert some.places(np.arange(len(kept))).row.tolist() == [expected[number][0] for number in kept]
        assert some.before(bounds).tolist() == [sum(expected[n][0] < bound for n in kept) for bound in bounds]


def test_published_stories_out_of_order_keep_their_ids():
    found = Published(np.array([5, 0, 5, 2]), np.array([3, 4, 1, 2], np.int32))
    places = found.places(np.arange(4))
    assert places.row.tolist() == [0, 2, 5, 5]
    assert places.rows.tolist() == [4, 2, 3, 1]
    assert [found.published(number) for number in range(4)] == [1, 3, 0, 2]
    assert found.before(np.array([0, 1, 5, 9])).tolist() == [0, 1, 2, 4]


# -- many ranks


def test_what_thousands_of_workers_leave_over_is_shared_again():
    ranks, workers, total = 512, 8, 20_000_000
    draw = random.Random(0)
    taken = [[rank, worker, draw.randrange(4000)] for rank in range(ranks) for worker in range(workers)]
    left = left_over([(0, total)], {"ranks": ranks, "workers": workers, "taken": taken})
    assert size_of(left) == total - sum(count for *_, count in taken)
    assert left == sorted(left)
    again = left_over(left, {"ranks": 100, "workers": 8, "taken": [[0, worker, 5] for worker in range(8)]})
    assert size_of(again) == size_of(left) - 5 * 800
    parts = [share(again, number, 64) for number in range(64)]
    assert max(map(size_of, parts)) - min(map(size_of, parts)) <= 1
    assert sum(map(size_of, parts)) == size_of(again)


def test_blocks_of_a_huge_table_are_as_large_as_its_row_groups():
    found = order.blocks(layout_of(1000, 100, 20), 1)
    assert len(found) == 100_000
    assert found.at_a_time == order.AT_A_TIME
    assert found.at_a_time * found.bytes / found.pieces.sum() <= order.AT_A_TIME_BYTES


def test_an_index_that_has_other_rows_than_its_table_is_refused(shards, tmp_path):
    from openstory_hf.errors import OutputError

    shutil.copytree(shards, tmp_path / "out")
    first, second, *_ = sorted((tmp_path / "out/index").glob("stories-train-*-of-*"))
    second.write_bytes(first.read_bytes())
    index = Index(BuiltFolder(str(tmp_path / "out")), "stories", "train")
    with pytest.raises(OutputError, match=rf"{second.name} cannot be read: it has \d+ rows, not as many as its table"):
        index.read(["story_id"])

"""The build: what it counts, what it writes, and what becomes of one that was stopped, killed or repeated."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Features, Image, List, Value, load_dataset
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import interrupt
from openstory_hf.builders.african_storybook import AfricanStorybook, write_book
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from openstory_hf import shard as shard_room
from openstory_hf import write
from openstory_hf.build import build
from openstory_hf.builder import StoryBuilder
from openstory_hf.errors import BuildError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.identity import identity
from openstory_hf.plan import plan_build
from openstory_hf.raw import Raw
from openstory_hf.records import Reject, Unit
from openstory_hf.schema import FRAMES, STORIES

EPISODES = {
    "train": {"s_01_e_01": 9, "s_01_e_02": 7, "s_01_e_03": 6, "s_01_e_04": 8},
    "val": {"s_02_e_01": 7},
    "test": {"s_02_e_02": 6},
}
SPLITS = {"train": "train", "validation": "val", "test": "test"}
SMALL = {"shard_bytes": 1, "row_group_bytes": 12_000}  # a shard per episode, several row groups per shard
SHARDS = ["train-00000-of-00004", "train-00001-of-00004", "train-00002-of-00004", "train-00003-of-00004"]


def clip(number, episode):
    return f"{episode}_shot_{number * 100:06d}_{number * 100 + 74:06d}"


def npy(raw, number, episode):
    return raw / f"video_frames_sampled/{clip(number, episode)}.npy"


def tree(out):
    """SHA-256 of every file below a folder."""
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(out):
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """A release with a missing clip in the third training episode and a truncated one in the test episode."""
    folder = tmp_path_factory.mktemp("build") / "raw"
    write_release(RawWriter(folder), EPISODES, variant="B")
    npy(folder, 6, "s_01_e_03").unlink()
    damaged = npy(folder, 3, "s_02_e_02")
    damaged.write_bytes(damaged.read_bytes()[:-10])
    return folder


@pytest.fixture(scope="session")
def out(raw, tmp_path_factory):
    """The undisturbed build of `raw`."""
    folder = tmp_path_factory.mktemp("build") / "out"
    build(FlintstonesSV, raw, folder, on_error="quarantine", **SMALL)
    return folder


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """(raw, out) of a release without a bad record."""
    folder = tmp_path_factory.mktemp("sound")
    write_release(RawWriter(folder / "raw"), {"train": {"s_01_e_01": 7}, "val": {"s_01_e_02": 6}}, variant="C")
    build(FlintstonesSV, folder / "raw", folder / "out")
    return folder / "raw", folder / "out"


@pytest.fixture
def books(tmp_path):
    """A release of one good book and a translation of it; returns its writer."""
    writer = RawWriter(tmp_path / "raw")
    write_book(writer, "en/0001_kite", ["One.", "Two."], pictures=3)
    write_book(writer, "fr/0001_le-cerf-volant", ["Un.", "Deux."], pictures=3)
    return writer


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


# -- what is counted ---------------------------------------------------------------------------------------


def test_seen_is_written_plus_rejected_by_a_count_of_the_raw_files(raw, out):
    manifest = json.loads((out / "manifest.json").read_text())
    starts = json.loads((raw / "train-val-test_split.json").read_text())
    whole = max(path.stat().st_size for path in (raw / "video_frames_sampled").iterdir())
    for split, source in SPLITS.items():
        stories, lost, frames, bad = [], [], 0, []
        for episode, count in EPISODES[source].items():
            clips = [clip(number, episode) for number in range(1, count + 1)]
            files = {name: raw / f"video_frames_sampled/{name}.npy" for name in clips}
            broken = {name for name, file in files.items() if not file.exists() or file.stat().st_size < whole}
            frames += count
            bad += sorted(broken)
            for at, name in enumerate(clips):
                if name in starts[source]:
                    (lost if broken & set(clips[at : at + 5]) else stories).append(f"flintstones_sv/{name}")
        counts = manifest["splits"][split]
        assert counts["stories"] == {"seen": len(stories + lost), "written": len(stories), "rejected": len(lost)}
        assert counts["frames"] == {"seen": frames, "written": frames - len(bad), "rejected": len(bad)}
        files = sorted((out / "stories").glob(f"{split}-*"))
        assert [name for file in files for name in pq.read_table(file)["story_id"].to_pylist()] == stories
        rejects = [line for line in lines(out) if line["split"] == split]
        assert [line["record"] for line in rejects] == bad
        assert sorted(name for line in rejects for name in line["stories"]) == sorted(lost)


def test_every_hash_size_and_row_count_of_the_manifest_is_true(out):
    manifest = json.loads((out / "manifest.json").read_text())
    there = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.parquet"))
    assert sorted([*manifest["files"], *manifest["index"], *manifest["contents"]]) == there
    for file, facts in manifest["files"].items():
        found = pq.ParquetFile(out / file)
        assert facts == {
            "rows": found.metadata.num_rows,
            "row_groups": [found.metadata.row_group(at).num_rows for at in range(found.num_row_groups)],
            "bytes": (out / file).stat().st_size,
            "sha256": hashlib.sha256((out / file).read_bytes()).hexdigest(),
        }


def test_zero_stories_are_an_error_that_names_the_first_bad_record(tmp_path):
    write_book(RawWriter(tmp_path / "raw"), "en/0001_short", ["One.", "Two."], pictures=2)
    with pytest.raises(BuildError, match=r"not one story.*2 pages and 2 pictures.*0001_short"):
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize("how", ["raised", "yielded", "malformed"])
def test_a_refusal_that_says_only_what_is_wrong_is_completed_by_its_unit_and_file(books, tmp_path, monkeypatch, how):
    sequences = AfricanStorybook.sequences

    def refusing(raw, unit):
        if "cerf" not in unit.data["file"]:
            yield from sequences(raw, unit)
        elif how == "yielded":
            yield Reject("nothing is right here")
        elif how == "raised":
            raise Reject("nothing is right here")
        else:
            raise KeyError("nothing is right here")

    monkeypatch.setattr(AfricanStorybook, "sequences", staticmethod(refusing))
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    (line,) = lines(tmp_path / "out")
    assert line["unit"] == line["record"]
    assert "cerf" in line["file"]
    with pytest.raises(BuildError, match=rf"nothing is right here.*cerf.*record {line['record']}"):
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "strict")


@pytest.mark.parametrize("good", [None, 2])
def test_bad_records_in_a_row_are_counted_across_units(tmp_path, monkeypatch, good):
    monkeypatch.setattr(shard_room, "MAX_CONSECUTIVE_REJECTS", 2)
    writer = RawWriter(tmp_path / "raw")
    write_book(writer, "en/0000_good", ["One."], pictures=2)
    for number in (1, 2, 3, 4):
        write_book(writer, f"en/{number:04d}_book", ["One.", "Two."], pictures=3 if number == good else 2)
    if good is None:
        with pytest.raises(BuildError, match=r"more than 2 bad records in a row, the last: .*0003_book"):
            build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    else:
        manifest = build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
        assert manifest["splits"]["train"]["stories"] == {"seen": 5, "written": 2, "rejected": 3}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system whose names are bytes")
def test_a_bad_book_whose_file_name_is_not_text_is_still_listed(books, tmp_path):
    write_book(books, "en/0002_short", ["One.", "Two."], pictures=2)
    book = tmp_path / "raw/asp-source/en/0002_short.md"
    os.rename(book, os.fsencode(book).replace(b"short", b"\xff"))
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    (line,) = lines(tmp_path / "out")
    assert line["file"] == "asp-source/en/0002_\udcff.md"


# -- the same bytes, however it is built -------------------------------------------------------------------


def test_two_processes_write_the_bytes_of_one_and_report_every_record(raw, out, tmp_path):
    reported = Counter()

    @contextlib.contextmanager
    def progress(plan):
        yield lambda split, number: reported.update({split: number})

    build(FlintstonesSV, raw, tmp_path / "out", on_error="quarantine", num_proc=2, progress=progress, **SMALL)
    assert tree(tmp_path / "out") == tree(out)
    assert reported == {split: sum(EPISODES[source].values()) for split, source in SPLITS.items()}
    assert len(list((out / "frames").iterdir())) == 6  # so there was something to share


def test_threads_within_a_shard_write_the_bytes_of_one_and_stop_at_the_same_record(raw, tmp_path):
    messages = []
    for cores in (1, 3):
        options = {"splits": ["train"], "num_proc": cores}
        with pytest.raises(BuildError) as caught:
            build(FlintstonesSV, raw, tmp_path / f"stopped-{cores}", **options)
        messages.append(str(caught.value))
        build(FlintstonesSV, raw, tmp_path / f"out-{cores}", on_error="quarantine", row_group_bytes=12_000, **options)
    assert tree(tmp_path / "out-1") == tree(tmp_path / "out-3")
    assert [line["record"] for line in lines(tmp_path / "out-3")] == [clip(6, "s_01_e_03")]
    assert messages[0] == messages[1]
    assert len(list((tmp_path / "out-3/frames").iterdir())) == 1  # so there were threads, not processes


def test_a_finished_build_is_left_alone(raw, out, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(shard_room, "build_shard", None)
    manifest = build(FlintstonesSV, raw, out, on_error="quarantine", **SMALL)
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_build_stopped_before_any_of_its_renames_ends_with_the_same_bytes(sound, tmp_path, monkeypatch):
    raw, out = sound
    replace, expected = os.replace, tree(out)
    stops = 0
    while True:
        calls = 0

        def stopping(source, target, stop=stops):
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt
            replace(source, target)

        again = tmp_path / str(stops)
        monkeypatch.setattr(write.os, "replace", stopping)
        try:
            build(FlintstonesSV, raw, again)
        except KeyboardInterrupt:
            assert not (again / "manifest.json").exists()
            monkeypatch.setattr(write.os, "replace", replace)
            build(FlintstonesSV, raw, again)
            assert tree(again) == expected
            stops += 1
        else:
            break
    # two shards of two tables, each with its index, and a result; the contents of both; plan, rejects, card and
    # its croissant.json, manifest
    assert stops == 2 * (2 * 2 + 1) + 2 * 2 + 5


KILLER = """
import os, signal, sys
from openstory_hf import write
from openstory_hf.cli import main

add, left = write.TableWriter.add, int(sys.argv[1])

def add_or_die(writer, row):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    add(writer, row)

write.TableWriter.add = add_or_die
if __name__ == "__main__":  # worker processes import this file as well
    sys.exit(main(sys.argv[2:]))
"""


def run_and_kill(tmp_path, raw, at_row, *options):
    (tmp_path / "killer.py").write_text(KILLER)
    command = [sys.executable, tmp_path / "killer.py", str(at_row), "build", "flintstones_sv", "--raw", raw]
    command += ["--out", tmp_path / "out", "--quiet", *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_build_killed_twice_continues_and_ends_with_the_same_bytes(raw, tmp_path):
    options = {"on_error": "quarantine", "splits": ["validation", "test"]}
    build(FlintstonesSV, raw, tmp_path / "expected", **options)
    flags = ("--on-error", "quarantine", "--split", "validation", "test")
    for row, finished in ((3, []), (12, ["validation-00000-of-00001.json"])):  # the first shard has 7 + 3 rows
        killed = run_and_kill(tmp_path, raw, row, *flags)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert [path.name for path in (tmp_path / "out/.build").glob("*.json")] == finished
        assert list((tmp_path / "out/.build").glob("tmp-*"))
    build(FlintstonesSV, raw, tmp_path / "out", **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_a_killed_worker_is_one_message_and_the_build_can_be_continued(raw, tmp_path):
    flags = ("--on-error", "quarantine", "--split", "validation", "test", "--num-proc", "2")
    killed = run_and_kill(tmp_path, raw, 8, *flags)
    assert killed.returncode == 1
    assert "Run the same command again" in killed.stderr
    assert "Traceback" not in killed.stderr
    options = {"on_error": "quarantine", "splits": ["validation", "test"]}
    build(FlintstonesSV, raw, tmp_path / "out", **options)
    build(FlintstonesSV, raw, tmp_path / "expected", **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def recorded(monkeypatch):
    """The names of the shards built from now on."""
    names, build_shard = [], shard_room.build_shard

    def recording(plan, shard, *rest):
        names.append(shard.name)
        return build_shard(plan, shard, *rest)

    monkeypatch.setattr(shard_room, "build_shard", recording)
    return names


def test_leftovers_of_processes_that_are_gone_are_removed_and_those_of_others_kept(raw, out, tmp_path, monkeypatch):
    interrupt(monkeypatch, SHARDS[1], FlintstonesSV, raw, tmp_path / "out", on_error="quarantine", **SMALL)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    work, gone, elsewhere = tmp_path / "out/.build", identity(ended.pid), "node7.0123abcd.1"
    marks = ("tmp-{}-stories-x", "x.json.tmp-{}", f"{SHARDS[2]}.begun.{{}}", "builder-{}")
    for builder in (gone, elsewhere, identity()):
        for mark in marks:
            (work / mark.format(builder)).write_text("half")
    interrupt(monkeypatch, SHARDS[1], FlintstonesSV, raw, tmp_path / "out", on_error="quarantine", **SMALL)
    left = {path.name for path in work.iterdir()}
    assert not left & {mark.format(gone) for mark in marks}
    assert {mark.format(elsewhere) for mark in marks} <= left
    build(FlintstonesSV, raw, tmp_path / "out", on_error="quarantine", **SMALL)
    assert tree(tmp_path / "out") == tree(out)


def test_a_finished_shard_that_was_damaged_meanwhile_is_built_again(raw, out, tmp_path, monkeypatch):
    interrupt(monkeypatch, SHARDS[2], FlintstonesSV, raw, tmp_path / "out", on_error="quarantine", **SMALL)
    shard = tmp_path / f"out/frames/{SHARDS[1]}.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    names = recorded(monkeypatch)
    build(FlintstonesSV, raw, tmp_path / "out", on_error="quarantine", **SMALL)
    assert names[:2] == SHARDS[1:3]
    assert tree(tmp_path / "out") == tree(out)


# -- one build, one folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("change", ["release", "options", "policy", "image codec", "splits"])
def test_other_inputs_are_refused_with_what_to_do(books, tmp_path, monkeypatch, finished, change):
    options = {}
    if finished:
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "out")
    else:
        interrupt(monkeypatch, "train-00000-of-00001", AfricanStorybook, tmp_path / "raw", tmp_path / "out")
    if change == "release":
        book = tmp_path / "raw/asp-source/en/0001_kite.md"
        book.write_text(book.read_text().replace("Two.", "Six."))
    elif change == "options":
        options["options"] = {"languages": ["en"]}
    elif change == "image codec":
        options["image_codec"] = "webp"
    elif change == "policy":
        options["policy"] = "algorithm1"
    else:
        options["shard_bytes"] = 1
    before = tree(tmp_path / "out")
    with pytest.raises(BuildError, match=r"other inputs.*Remove the folder, or choose another --out"):
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", **options)
    assert tree(tmp_path / "out") == before


def test_an_unknown_policy_is_refused_before_the_folder_is_claimed(books, tmp_path):
    with pytest.raises(UsageError, match=r"'none'.*algorithm1"):
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", policy="none")
    assert not (tmp_path / "out").exists()
    assert build(AfricanStorybook, tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_folder_that_holds_something_else_is_refused_and_untouched(books, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(BuildError, match=rf"not empty \({name}\).*Choose another --out"):
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "out")
    assert list(tree(tmp_path / "out")) == [name]


@pytest.mark.parametrize("file", [f"stories/{SHARDS[0]}.parquet", "rejects.jsonl", "README.md"])
def test_a_finished_build_that_misses_a_file_is_not_taken_for_whole(raw, tmp_path, file):
    options = {"on_error": "quarantine", **SMALL}
    build(FlintstonesSV, raw, tmp_path / "out", **options)
    (tmp_path / "out" / file).unlink()
    with pytest.raises(BuildError, match=rf"{file} is missing or damaged"):
        build(FlintstonesSV, raw, tmp_path / "out", **options)


# -- error policies ----------------------------------------------------------------------------------------


def test_a_build_that_stopped_at_a_bad_record_goes_on_under_quarantine(raw, out, tmp_path, monkeypatch):
    with pytest.raises(BuildError, match=clip(6, "s_01_e_03")):
        build(FlintstonesSV, raw, tmp_path / "out", **SMALL)
    names = recorded(monkeypatch)
    build(FlintstonesSV, raw, tmp_path / "out", on_error="quarantine", **SMALL)
    assert names == [*SHARDS[2:], "validation-00000-of-00001", "test-00000-of-00001"]
    assert tree(tmp_path / "out") == tree(out)


def test_a_quarantined_build_taken_up_without_quarantine_stops_at_the_first_bad_record(raw, tmp_path, monkeypatch):
    last = "test-00000-of-00001"
    interrupt(monkeypatch, last, FlintstonesSV, raw, tmp_path / "out", on_error="quarantine", **SMALL)
    names, before = recorded(monkeypatch), tree(tmp_path / "out")
    with pytest.raises(BuildError, match=rf"left .* bad records out, the first: .*{clip(6, 's_01_e_03')}"):
        build(FlintstonesSV, raw, tmp_path / "out", **SMALL)
    assert names == []
    assert tree(tmp_path / "out") == before  # for who goes on with quarantine


def test_a_finished_quarantined_build_does_not_pass_for_one_without_bad_records(raw, out):
    before = tree(out)
    with pytest.raises(BuildError, match=r"left bad records out, see .*rejects\.jsonl.*--on-error quarantine"):
        build(FlintstonesSV, raw, out, **SMALL)
    assert tree(out) == before


# -- shards and row groups ---------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50) | st.integers(1000, 5000), min_size=1, max_size=60),
    shard_bytes=st.integers(1, 500),
)
def test_shards_are_runs_of_units_in_numbers_that_divide_evenly(empty, sizes, shard_bytes):
    units = [Unit(unit_id=str(number), split="train", size=size) for number, size in enumerate(sizes)]
    facts = {"INFO": AfricanStorybook.INFO, "units": staticmethod(lambda raw, split, languages: units)}
    sized = type("Sized", (StoryBuilder,), facts)
    shards = plan_build(sized, Raw(empty), shard_bytes=shard_bytes).shards
    assert [unit for shard in shards for unit in shard.units] == units
    assert all(shard.units for shard in shards)
    count = len(shards)
    assert [(shard.index, shard.count) for shard in shards] == [(index, count) for index in range(count)]
    assert count in (1, 2, 4, 6, 8, 12, 16, 24, 32, 48)
    wanted = sum(max(size, 1) for size in sizes) / shard_bytes
    assert count >= wanted or count * 2 > len(units)  # as many as the size asks for or the units allow


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 1600), max_size=25))
def test_a_row_group_is_closed_at_the_target_or_before_a_row_that_would_pass_the_limit(empty, sizes):
    target, limit = 900, 1200
    expected, held = [], []
    for size in sizes:
        if held and sum(held) + size > limit:
            expected.append(held)
            held = []
        held.append(size)
        if sum(held) >= target:
            expected.append(held)
            held = []
    expected += [held] if held else []
    writer = write.TableWriter(
        empty / "rows.parquet", empty / "index.parquet", Features({"images": List(Image())}), target
    )
    for size in sizes:
        half = size // 2
        writer.add({"images": [{"bytes": bytes(part), "path": "x"} for part in (half, size - half)]})
    writer.close()
    parquet = pq.ParquetFile(empty / "rows.parquet")
    rows = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
    assert rows == [len(group) for group in expected]
    assert (writer.rows, writer.row_groups) == (len(sizes), len(expected))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(st.none() | st.tuples(st.binary(max_size=9), st.text(max_size=3))), min_size=1))
def test_pictures_are_stored_as_given_whatever_is_missing_among_them(empty, rows):
    expected = [[one and {"bytes": one[0], "path": one[1]} for one in row] for row in rows]
    writer = write.TableWriter(
        empty / "rows.parquet", empty / "index.parquet", Features({"n": Value("int32"), "images": List(Image())}), 20
    )
    for number, row in enumerate(expected):
        writer.add({"images": row, "n": number})
    writer.close()
    assert pq.read_table(empty / "rows.parquet").to_pylist() == [
        {"n": number, "images": row} for number, row in enumerate(expected)
    ]
    data = (empty / "rows.parquet").read_bytes()
    for row, places in zip(expected, pq.read_table(empty / "index.parquet")["pictures"].to_pylist(), strict=True):
        for picture, place in zip(row, places, strict=True):
            found = place and {"bytes": data[place["offset"] :][: place["size"]], "path": place["path"]}
            assert found == picture


def test_a_build_has_row_groups_of_the_size_asked_for(out):
    most = SMALL["row_group_bytes"] * 4 / 3
    groups = []
    files = [*out.glob("stories/*"), *out.glob("frames/*")]
    for path in files:
        parquet = pq.ParquetFile(path)
        for number in range(parquet.num_row_groups):
            rows = parquet.read_row_group(number, columns=["images"])["images"].to_pylist()
            groups.append((len(rows), sum(len(image["bytes"]) for images in rows for image in images)))
    assert all(rows == 1 or size <= most for rows, size in groups)
    assert max(rows for rows, _ in groups) > 1
    assert len(groups) > len(files)


@pytest.mark.parametrize(("table", "features"), [("stories", STORIES), ("frames", FRAMES)])
def test_pictures_are_plain_everything_else_is_zstd_and_pages_are_indexed(out, table, features):
    for path in (out / table).iterdir():
        parquet = pq.ParquetFile(path)
        assert Features.from_arrow_schema(parquet.schema_arrow) == features
        described = json.loads(parquet.schema_arrow.metadata[b"huggingface"])
        assert described == {"info": {"features": features.to_dict()}}
        columns = set()
        for group in range(parquet.num_row_groups):
            for number in range(parquet.metadata.num_columns):
                chunk = parquet.metadata.row_group(group).column(number)
                is_picture = chunk.path_in_schema.startswith("images.")
                assert chunk.compression == ("UNCOMPRESSED" if is_picture else "ZSTD")
                assert chunk.has_offset_index
                assert chunk.has_column_index
                if is_picture:
                    assert not chunk.has_dictionary_page
                    assert set(chunk.encodings) == {"PLAIN", "RLE"}  # RLE are the list levels
                columns.add(chunk.path_in_schema.partition(".")[0])
        assert columns == (set(features) if parquet.num_row_groups else set())


# -- the card, and readers without this package ------------------------------------------------------------

READER = """
import hashlib, json, sys
sys.modules["openstory_hf"] = None  # any import of the package now fails
from datasets import Image, List, load_dataset

found = {}
for config in ("stories", "frames", "annotations"):
    for split, rows in load_dataset(sys.argv[1], config, streaming=True).items():
        if "images" in rows.features:
            rows = rows.cast_column("images", List(Image(decode=False)))
        for row in rows:
            for image in row.get("images", ()):
                image["bytes"] = hashlib.sha256(image["bytes"]).hexdigest()
            found.setdefault(config, {}).setdefault(split, []).append(row)
print(json.dumps(found))
"""


def stored(out, table, *, pictures=True):
    """Split -> rows by plain pyarrow, with hashes instead of picture bytes; splits without rows are left out."""
    found = {}
    for split in SPLITS:
        for path in sorted((out / table).glob(f"{split}-*")):
            for row in pq.read_table(path).to_pylist():
                for image in row["images"]:
                    image["bytes"] = hashlib.sha256(image["bytes"]).hexdigest()
                if not pictures:
                    del row["images"]
                found.setdefault(split, []).append(row)
    return found


def test_every_config_streams_the_rows_without_this_package(out):
    done = subprocess.run([sys.executable, "-c", READER, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["stories"] == stored(out, "stories")
    assert found["frames"] == stored(out, "frames")
    assert found["annotations"] == stored(out, "stories", pictures=False)
    assert set(found["stories"]) == {"train", "validation"}  # both test stories are lost with their clip
    assert set(found["frames"]) == {"train", "validation", "test"}


def test_the_front_matter_is_what_the_hub_accepts(out):
    loaded = DatasetCard.load(out / "README.md")
    configs = MetadataConfigs.from_dataset_card_data(loaded.data)
    assert list(configs) == ["stories", "frames", "annotations"]
    assert configs.get_default_config_name() == "stories"
    assert "images" not in configs["annotations"]["columns"]
    assert {part["split"] for part in configs["stories"]["data_files"]} == {"train", "validation"}
    front = yaml.safe_load((out / "README.md").read_text("utf-8").split("---\n")[1])
    assert front["license"] == "other"
    assert front["language"] == ["en"]
    described = {entry["config_name"]: entry["splits"] for entry in front["dataset_info"]}
    sizes = {
        config: {split["name"]: split["num_examples"] for split in splits} for config, splits in described.items()
    }
    assert sizes["frames"] == {split: len(rows) for split, rows in stored(out, "frames").items()}
    assert sizes["stories"] == sizes["annotations"] == {s: len(rows) for s, rows in stored(out, "stories").items()}


def test_the_card_states_the_counts_and_what_was_left_out_by_reason(out):
    text = (out / "README.md").read_text("utf-8")
    assert "| train | 13 | 20,132 | 29 |" in text
    assert "test: 2 stories seen = 0 written + 2 rejected" in text
    for reason, count in Counter(line["reason"] for line in lines(out)).items():
        assert f"| {count} | {reason} |" in text


def test_the_card_of_a_build_without_bad_records_says_so(sound):
    _, out = sound
    assert "No record was left out." in (out / "README.md").read_text("utf-8")


# -- the Hugging Face builder ------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["stories", "frames"])
def test_streaming_from_the_raw_release_gives_the_built_rows(sound, tmp_path, table):
    raw, out = sound
    encoded = List(Image(decode=False))
    made = FlintstonesSV(config_name=table, data_dir=str(raw), cache_dir=str(tmp_path))
    for split in ("train", "validation"):
        files = sorted((out / table).glob(f"{split}-*"))
        expected = [row for file in files for row in pq.read_table(file).to_pylist()]
        assert expected
        assert list(made.as_streaming_dataset(split).cast_column("images", encoded)) == expected


def test_download_and_prepare_writes_parquet_that_loads(sound, tmp_path):
    raw, out = sound
    prepared = FlintstonesSV(data_dir=str(raw), cache_dir=str(tmp_path / "cache"))
    prepared.download_and_prepare(str(tmp_path / "prepared"), file_format="parquet")
    files = {"train": str(tmp_path / "prepared/*train*.parquet")}
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
    built = load_dataset(str(out), split="train", streaming=True)
    assert rows.features == built.features
    encoded = List(Image(decode=False))
    assert list(rows.cast_column("images", encoded)) == list(built.cast_column("images", encoded))


def test_good_frames_between_bad_ones_show_that_the_release_is_sound(tmp_path, monkeypatch):
    """A dataset without a table of frames yields no row where a story loses its last picture."""
    monkeypatch.setattr(shard_room, "MAX_CONSECUTIVE_REJECTS", 2)
    writer = RawWriter(tmp_path / "raw")
    for number in range(1, 6):
        write_book(writer, f"en/{number:04d}_book", ["One.", "Two."], pictures=3)
        writer.cut(f"asp-imagebank/medium/{number:04d}/03.jpg", 300)
    write_book(writer, "en/0006_good", ["One."], pictures=2)
    manifest = build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    assert manifest["splits"]["train"]["stories"] == {"seen": 6, "written": 1, "rejected": 5}


@pytest.mark.parametrize("where", [".", "out", "deep/out"])
def test_a_folder_in_the_release_is_no_place_for_its_output(books, tmp_path, where):
    with pytest.raises(UsageError, match="lies in the raw release"):
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "raw" / where)


def test_row_groups_that_check_would_refuse_are_not_built(books, tmp_path):
    with pytest.raises(UsageError, match="choose between"):
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", row_group_bytes=257 << 20)

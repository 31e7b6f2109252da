"""StoryStream: every form of its folders gives the same stories; repeats, splits, paths and what archives can do."""

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections import Counter

import pytest
from datasets import Image, List, load_dataset
from openstory_hf.builders import story_stream
from openstory_hf.builders.story_stream import StoryStream, line_of, picture_key, write_subset

from openstory_hf import shard as shard_room
from openstory_hf.build import build
from openstory_hf.errors import SourceError
from openstory_hf.fakes import RawWriter
from openstory_hf.forms import packed
from openstory_hf.forms.keyframes import seconds
from openstory_hf.raw import Raw
from openstory_hf.raw import release as release_room
from openstory_hf.records import Reject


def built(raw, **options):
    """The stories by id, the rejects by record and the counts of a build."""
    out = raw.parent / f"{raw.name}-out"
    shutil.rmtree(out, ignore_errors=True)
    manifest = build(StoryStream, raw, out, on_error="quarantine", options=options)
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    stories = {}
    for split, table in load_dataset(str(out), streaming=True).items():
        for row in table.cast_column("images", List(Image(decode=False))):
            name = row["story_id"].removeprefix("story_stream/")
            assert name not in stories
            stories[name] = row | {"split": split}
    return stories, {reject["record"]: reject["reason"] for reject in rejects}, manifest["splits"]


def unpack(raw):
    """What a user does who unpacks everything: archives are replaced by their contents."""
    for path in sorted(raw.rglob("*.*")):
        if path.name.endswith((".zip", ".tar.gz")):
            shutil.unpack_archive(path, path.parent)
            path.unlink()


def test_archives_give_the_stories_of_the_unpacked_files(tmp_path):
    StoryStream.fake(RawWriter(tmp_path / "packed"))
    shutil.copytree(tmp_path / "packed", tmp_path / "open")
    unpack(tmp_path / "open")
    shutil.make_archive(str(tmp_path / "zip"), "zip", tmp_path / "packed")
    packed, packed_rejects, packed_counts = built(tmp_path / "packed")
    stories, rejects, counts = built(tmp_path / "open")
    zipped, _, _ = built(tmp_path / "zip.zip")
    for row in (*packed.values(), *stories.values(), *zipped.values()):
        del row["source"]
    assert packed == stories == zipped
    assert packed_rejects == rejects
    assert {s: c["stories"] for s, c in packed_counts.items()} == {s: c["stories"] for s, c in counts.items()}


def test_stories_are_the_lines_of_the_files_with_the_bytes_of_the_pictures(tmp_path):
    StoryStream.fake(RawWriter(tmp_path / "raw"))
    stories, rejects, counts = built(tmp_path / "raw")
    unpack(tmp_path / "raw")
    seen = Counter()
    for file in (tmp_path / "raw").rglob("*.jsonl"):
        subset = file.relative_to(tmp_path / "raw").parts[0]
        for number, text in enumerate(file.read_text().splitlines(), 1):
            name = f"{subset}/{file.stem}/{number}"
            seen["train" if "train" in name or "land/" in name else "validation" if "val" in name else "test"] += 1
            if name not in stories:
                assert any(record.partition("-")[0] == name for record in rejects)
                continue
            line, row = json.loads(text), stories[name]
            assert row["captions"] == line["captions"]
            extras = json.loads(row["extras"])
            assert [frame["image"] for frame in extras["frames"]] == line["images"]
            assert (extras["subset"], extras["line"]) == (subset, {"id": line["id"], "orders": line["orders"]})
            for image, path in zip(row["images"], line["images"], strict=True):
                (picture,) = (tmp_path / "raw" / subset).rglob(path.replace("\\", "/").rpartition("/")[2])
                assert image["bytes"] == picture.read_bytes()
    assert {split: count["stories"]["seen"] for split, count in counts.items()} == seen


def test_every_kind_of_broken_line_is_told_apart(tmp_path):
    StoryStream.fake(RawWriter(tmp_path / "raw"))
    _, rejects, _ = built(tmp_path / "raw")
    assert "George/george_val/1 showed some of its pictures" in rejects["George/george_train/4"]
    assert "30 images and 29 captions" in rejects["George/george_train/5"]
    assert "Python text, which is never evaluated" in rejects["George/george_train/6"]
    assert "Expecting value" in rejects["George/george_train/7"]
    assert "lists images and captions" in rejects["George/george_train/8"]
    assert "000005/000005_keyframe_0-0-21-750.jpg" in rejects["Rabbids/train/2-03"]
    assert "does not decode" in rejects["Rabbids/train/3-05"]
    assert len(rejects) == 7


def test_a_python_line_is_not_run(tmp_path):
    target = tmp_path / "ran"
    lines = [line_of(1), f"{{'id': open({str(target)!r}, 'w')}}\n"]
    write_subset(RawWriter(tmp_path / "raw"), "George", {"train": lines})
    _, rejects, _ = built(tmp_path / "raw")
    assert "Python" in rejects["George/train/2"]
    assert not target.exists()


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("000258/000258_keyframe_0-19-49-688.jpg", "000258/000258_keyframe_0-19-49-688.jpg"),
        ("george_full\\000258\\000258_keyframe_0-19-49-688.jpg", "000258/000258_keyframe_0-19-49-688.jpg"),
        ("./data//image/000258/000258_keyframe_0-19-49-688.jpg", "000258/000258_keyframe_0-19-49-688.jpg"),
        ("000258_keyframe_0-19-49-688.jpg", "000258/000258_keyframe_0-19-49-688.jpg"),
        ("george_full/000258_keyframe_0-19-49-688.jpg", "000258/000258_keyframe_0-19-49-688.jpg"),
        ("S01E02/0007.jpg", "S01E02/0007.jpg"),
    ],
)
def test_paths_of_every_spelling_name_one_picture(path, key):
    assert picture_key(path) == key


def test_unpadded_times_become_seconds_and_the_order_of_the_list_stays(tmp_path):
    assert seconds("000001/000001_keyframe_0-20-10-250.jpg") == 1210.25
    assert seconds("000001/000001_keyframe_1-2-3-4.jpg") == 3723.004
    assert seconds("S01E02/0007.jpg") is None
    line = line_of(1, length=3)
    times = ["0-20-10-250", "0-20-4-328", "0-3-59-7"]
    line["images"] = [f"000001/000001_keyframe_{time}.jpg" for time in times]
    write_subset(RawWriter(tmp_path / "raw"), "George", {"train": [line]})
    stories, _, _ = built(tmp_path / "raw")
    assert stories["George/train/1"]["timestamps"] == [1210.25, 1204.328, 239.007]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["george_train10", "val"], {"george_train10": "train", "val": "validation"}),
        (["a/x", "test/x"], {"a/x": "train", "test/x": "test"}),
        (["valley", "contest"], {"valley": "train", "contest": "train"}),
        (["george_val10", "George_Test"], {"george_val10": "validation", "George_Test": "test"}),
    ],
)
def test_names_decide_the_split_and_folders_count_where_they_tell_files_apart(tmp_path, files, expected):
    lists = {file: [line_of(clip, length=2)] for clip, file in enumerate(files, 1)}
    write_subset(RawWriter(tmp_path / "test/raw"), "George", lists)
    stories, _, _ = built(tmp_path / "test/raw")
    assert {name: row["split"] for name, row in stories.items()} == {
        f"George/{file}/1": split for file, split in expected.items()
    }


def test_chunks_of_a_story_that_is_held_out_never_train(tmp_path):
    whole, chunks = line_of(1), [line_of(1) for _ in range(3)]
    for number, chunk in enumerate(chunks):
        for key in ("images", "captions"):
            chunk[key] = chunk[key][10 * number : 10 * number + 10]
    lists = {"train10": [*chunks, line_of(2)], "val": [whole]}
    write_subset(RawWriter(tmp_path / "raw"), "George", lists, packed=False)
    stories, rejects, _ = built(tmp_path / "raw")
    assert set(stories) == {"George/val/1", "George/train10/4"}
    assert set(rejects) == {f"George/train10/{number}" for number in (1, 2, 3)}


def test_runs_of_lines_are_units_and_empty_lines_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(story_stream, "RUN", 2)
    lines = [line_of(1, length=1), "\n", line_of(2, length=1), "  \n", line_of(3, length=1), line_of(4, length=1)]
    write_subset(RawWriter(tmp_path / "raw"), "George", {"train": lines}, packed=False)
    units = StoryStream.units(Raw(tmp_path / "raw"), "train")
    assert [(unit.unit_id, unit.records) for unit in units] == [("George/train/1", 2), ("George/train/5", 2)]
    sizes = [path.stat().st_size for path in sorted((tmp_path / "raw").rglob("*.jpg"))]
    assert [unit.size for unit in units] == [sum(sizes[:2]), sum(sizes[2:])]
    assert set(built(tmp_path / "raw")[0]) == {f"George/train/{number}" for number in (1, 3, 5, 6)}


def test_two_pictures_of_one_name_are_not_guessed_between(tmp_path):
    write_subset(RawWriter(tmp_path / "raw"), "George", {"train": [line_of(1), line_of(2)]}, packed=False)
    path = line_of(1)["images"][4]
    RawWriter(tmp_path / "raw/George").bytes(f"other/{path}", b"another")
    stories, rejects, _ = built(tmp_path / "raw")
    assert set(stories) == {"George/train/2"}
    assert path in rejects["George/train/1-04"]


def test_a_picture_the_tar_lacks_is_named_and_costs_its_story_only(tmp_path):
    lists, path = {"train": [line_of(1), line_of(2)]}, line_of(1)["images"][7]
    write_subset(RawWriter(tmp_path / "raw"), "George", lists, packed=False)
    (tmp_path / "raw/George/george" / path).unlink()
    shutil.make_archive(str(tmp_path / "raw/George/george"), "gztar", tmp_path / "raw/George", "george")
    shutil.rmtree(tmp_path / "raw/George/george")
    stories, rejects, counts = built(tmp_path / "raw")
    assert set(stories) == {"George/train/2"}
    assert list(rejects) == ["George/train/1-07"]
    assert path in rejects["George/train/1-07"]
    assert counts["train"]["frames"] == {"seen": 60, "written": 59, "rejected": 1}


def test_subsets_are_chosen_and_incomplete_ones_refused(tmp_path):
    StoryStream.fake(RawWriter(tmp_path / "raw"))
    stories, _, _ = built(tmp_path / "raw", subsets=["The_Land"])
    assert set(stories) == {"The_Land/the_land/1", "The_Land/the_land/2"}
    with pytest.raises(SourceError, match=r"no Georgia; the release has George, Rabbids, The_Land"):
        built(tmp_path / "raw", subsets=["Georgia"])
    (tmp_path / "raw/George/george.tar.gz").unlink()
    with pytest.raises(SourceError, match="George has 2 JSONL files, 0 pictures and 0 tars"):
        built(tmp_path / "raw")


def test_two_zips_with_stories_are_refused(tmp_path):
    write_subset(RawWriter(tmp_path / "raw"), "George", {"train": [line_of(1)]})
    shutil.copy(tmp_path / "raw/George/george_story.zip", tmp_path / "raw/George/george_story_old.zip")
    with pytest.raises(SourceError, match="keep the newest zip"):
        built(tmp_path / "raw")


def test_files_without_a_subset_are_refused_by_name(tmp_path):
    write_subset(RawWriter(tmp_path / "raw"), "George", {"train": [line_of(1)]})
    RawWriter(tmp_path / "raw").text("json/val.jsonl", "{}\n")
    with pytest.raises(SourceError, match=r"names no subset.*json/val\.jsonl"):
        built(tmp_path / "raw")


def test_a_tar_without_order_is_refused_before_memory_runs_out(tmp_path, monkeypatch):
    write_subset(RawWriter(tmp_path / "raw"), "George", {"train": [line_of(1), line_of(2)]})
    monkeypatch.setattr(packed, "HELD_BYTES", 10_000)
    stories, rejects = built_or_nothing(tmp_path)
    assert not stories
    assert "are held" in rejects[0].reason
    assert "Unpack" in rejects[0].hint
    assert rejects[0].stories == ("story_stream/George/train/1", "story_stream/George/train/2")


def test_a_cut_tar_names_the_stories_that_are_lost(tmp_path):
    write_subset(RawWriter(tmp_path / "raw"), "George", {"train": [line_of(1), line_of(2)]})
    tar = tmp_path / "raw/George/george.tar.gz"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size * 3 // 4])
    stories, rejects = built_or_nothing(tmp_path)
    assert len(stories) == 1
    assert [*stories, *rejects[0].stories] == ["George/train/1", "story_stream/George/train/2"]


def built_or_nothing(tmp_path):
    """The sequences and the final reject of the only unit, read directly."""
    raw = Raw(tmp_path / "raw")
    (unit,) = StoryStream.units(raw, "train")
    stories, rejects = [], []
    try:
        for sequence in StoryStream.sequences(raw, unit):
            stories.append(sequence.sequence_id)
    except Reject as reject:
        rejects.append(reject)
    return stories, rejects


# -- additions to the raw room ---------------------------------------------------------------------------------


def packed_zip(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


@pytest.fixture(params=["folder", "zip", "zip in zip"])
def outer(request, tmp_path):
    """A release that holds in/inner.zip, which holds a.txt and b/c.txt."""
    files = {"in/inner.zip": packed_zip({"a.txt": b"one\ntwo\n\nend", "b/c.txt": b"C"}), "in/bad.zip": b"PK nothing"}
    if request.param == "folder":
        for name, data in files.items():
            RawWriter(tmp_path / "outer").bytes(name, data)
        return Raw(tmp_path / "outer")
    data = packed_zip(files)
    (tmp_path / "outer.zip").write_bytes(data if request.param == "zip" else packed_zip({"outer.zip": data}))
    raw = Raw(tmp_path / "outer.zip")
    return raw if request.param == "zip" else raw.archive("outer.zip")


def test_a_zip_inside_a_release_is_a_release(outer):
    for inner in (outer.archive("in/inner.zip"), pickle.loads(pickle.dumps(outer.archive("in/inner.zip")))):
        assert inner.names() == ["a.txt", "b/c.txt"]
        assert (inner.read("b/c.txt"), inner.text("a.txt"), inner.size("a.txt")) == (b"C", "one\ntwo\n\nend", 12)
        assert inner.locate("c.txt").read("c.txt") == b"C"


@pytest.mark.parametrize("name", ["in/bad.zip", "in/none.zip", "../in/inner.zip"])
def test_what_is_no_zip_of_the_release_is_refused(outer, name):
    with pytest.raises(Reject) as caught:
        outer.archive(name)
    assert caught.value.file == name


def test_lines_come_with_their_first_byte_and_from_any_of_them(outer):
    inner = outer.archive("in/inner.zip")
    expected = [(0, b"one\n"), (4, b"two\n"), (8, b"\n"), (9, b"end")]
    assert list(inner.lines("a.txt")) == expected
    for at, (start, _) in enumerate(expected):
        assert list(inner.lines("a.txt", start)) == expected[at:]


def test_a_line_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(release_room, "MAX_LINE_BYTES", 10)
    RawWriter(tmp_path).bytes("x", b"0123456789\n")
    with pytest.raises(Reject, match="more than 10 bytes"):
        list(Raw(tmp_path).lines("x"))


def tar_of(tmp_path, files):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return Raw(tmp_path).tar("x.tar.gz")


def test_groups_come_when_they_are_complete_and_the_others_at_the_end(tmp_path):
    tar = tar_of(tmp_path, [("r/b", b"B"), ("r/x", b"X"), ("r/c", b"C"), ("r/a", b"A")])
    groups = {"lost": ["a", "none"], "ab": ["a", "b", "a"], "bc": ["b", "c"], "none": []}
    found = list(tar.gather(groups, lambda name: name[2:], 100))
    assert found == [
        ("bc", {"b": b"B", "c": b"C"}),
        ("ab", {"a": b"A", "b": b"B"}),
        ("lost", {"a": b"A"}),
        ("none", {}),
    ]


def test_a_second_member_of_a_key_is_refused(tmp_path):
    tar = tar_of(tmp_path, [("r/a", b"1"), ("s/x", b""), ("s/a", b"2")])
    with pytest.raises(Reject, match="two members are a: r/a and s/a"):
        list(tar.gather({"g": ["a", "b"]}, lambda name: name[2:], 100))


def test_a_limit_counts_what_is_held_only(tmp_path):
    tar = tar_of(tmp_path, [(f"r/{number}", b"1234") for number in range(100)])
    pairs = {str(number): [str(number), str(number + 1)] for number in range(0, 100, 2)}
    assert len(list(tar.gather(pairs, lambda name: name[2:], 4))) == 50
    with pytest.raises(Reject, match="8 bytes of incomplete groups") as caught:
        list(tar.gather({"far": ["0", "1", "99"]}, lambda name: name[2:], 7))
    assert "Unpack" in caught.value.hint


def test_a_tar_may_be_larger_than_any_other_file(tmp_path, monkeypatch):
    tar = tar_of(tmp_path, [("a", b"first")])
    monkeypatch.setattr(release_room, "MAX_MEMBER_BYTES", 10)
    assert list(tar.stream()) == [("a", b"first")]
    with pytest.raises(Reject, match="more than any file"):
        Raw(tmp_path).read("x.tar.gz")


def test_frames_that_are_held_out_are_in_no_story_of_train(tmp_path):
    story, chunk = line_of(1), line_of(1, length=10)
    write_subset(RawWriter(tmp_path / "raw"), "George", {"george_train": [story, line_of(2)], "george_val": [chunk]})
    stories, rejects, counts = built(tmp_path / "raw")
    assert sorted(stories) == ["George/george_train/2", "George/george_val/1"]
    assert "George/george_val/1 showed some of its pictures" in rejects["George/george_train/1"]
    assert counts["train"]["stories"] == {"seen": 2, "written": 1, "rejected": 1}


def test_any_number_of_repeats_in_a_row_is_no_sign_of_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_room, "MAX_CONSECUTIVE_REJECTS", 3)
    lines = [line_of(1, length=2) for _ in range(6)]
    write_subset(RawWriter(tmp_path / "raw"), "George", {"george": lines}, packed=False)
    stories, rejects, _ = built(tmp_path / "raw")
    assert (len(stories), len(rejects)) == (1, 5)

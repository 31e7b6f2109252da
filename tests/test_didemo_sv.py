"""DiDeMoSV: which entries are stories, where their frames lie, and what a frame with several descriptions shows."""

import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import Image, List, load_dataset
from openstory_hf.builders.didemo_sv import DiDeMoSV, moments, units, write_release

from openstory_hf.build import build
from openstory_hf.errors import SourceError
from openstory_hf.fakes import RawWriter
from openstory_hf.raw import Raw

SPLITS = {"train": "train", "val": "validation", "test": "test"}
DOG = moments("dog", "The dog runs. ", "a Dog  shakes", "It lies down\n", "It sleeps.")
KITE = moments("kite", "A kite.", "It flies.", "It falls.")
DOOR = moments("door", "A door.", "It closes.")
SNOW = moments("snow", "It snows.", "Someone waves – twice.", "A car.", "Another.", "It stops.")
SOUND = {"train": [DOG, DOOR, KITE], "val": [SNOW], "test": [moments("boat", "A boat.", "It turns.", "It is gone.")]}


def release(folder, entries=SOUND):
    write_release(RawWriter(folder), {"train": [], "val": [], "test": [], **entries})
    return folder


def built(tmp_path, **options):
    """(manifest, stories by split, frames by split, reject lines) of the release at tmp_path/raw."""
    manifest = build(DiDeMoSV, tmp_path / "raw", tmp_path / "out", on_error="quarantine", **options)
    tables = []
    for table in ("stories", "frames"):
        loaded = load_dataset(str(tmp_path / "out"), table, streaming=True)
        encoded = {split: rows.cast_column("images", List(Image(decode=False))) for split, rows in loaded.items()}
        tables.append({split: list(rows) for split, rows in encoded.items()})
    lines = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    return manifest, *tables, lines


def as_the_published_loader(parent):
    """Split -> [(position in the file, its three [description, path] pairs)], by the loader's rule, from the files."""
    found = {}
    for source, split in SPLITS.items():
        entries = [entry["desc_to_frame"] for entry in json.loads((parent / f"didemo/{source}.json").read_text())]
        found[split] = [
            (number, pairs[:3])
            for number, pairs in enumerate(entries)
            if all((parent / path).exists() for _, path in pairs) and len(pairs) > 2
        ]
    return found


@pytest.mark.parametrize("layout", ["nested", "top", "renamed", "beside"])
def test_stories_are_the_loaders_with_captions_and_pictures_as_found(tmp_path, layout):
    published = release(tmp_path / "published")
    raw = tmp_path / "raw"
    release(tmp_path / "copy")
    if layout == "nested":  # raw/data/didemo/train.json
        raw.mkdir()
        (tmp_path / "copy").rename(raw / "data")
    elif layout == "top":  # raw/train.json
        (tmp_path / "copy/didemo").rename(raw)
    elif layout == "renamed":  # raw/DiDeMoSV/train.json
        raw.mkdir()
        (tmp_path / "copy/didemo").rename(raw / "DiDeMoSV")
    else:  # raw/train.json and raw/didemo/frames
        (tmp_path / "copy").rename(raw)
        for file in (raw / "didemo").glob("*.json"):
            file.rename(raw / file.name)
    manifest, stories, _, lines = built(tmp_path)
    assert lines == []
    for (split, expected), source in zip(as_the_published_loader(published).items(), SPLITS, strict=True):
        rows = stories[split]
        assert manifest["splits"][split]["stories"]["written"] == len(expected) == len(rows)
        for row, (number, pairs) in zip(rows, expected, strict=True):
            assert row["story_id"] == f"didemo_sv/{source}/{number:05d}"
            assert row["captions"] == [text for text, _ in pairs]
            assert row["frame_ids"] == [path for _, path in pairs]
            assert [image["bytes"] for image in row["images"]] == [(published / p).read_bytes() for _, p in pairs]
            assert [image["path"] for image in row["images"]] == [Path(path).name for _, path in pairs]
            assert row["source"] == {"file": f"{source}.json", "index": 0}
            assert row["language"] == "en"


def test_frames_has_what_is_in_no_story(tmp_path):
    release(tmp_path / "raw")
    _, stories, frames, _ = built(tmp_path)
    assert [row["sequence_id"] for row in stories["train"]] == ["train/00000", "train/00002"]
    found = [(row["sequence_id"], row["position"], row["caption"], row["frame_id"]) for row in frames["train"]]
    entries = enumerate((DOG, DOOR, KITE))
    assert found == [(f"train/{n:05d}", at, *pair) for n, pairs in entries for at, pair in enumerate(pairs)]
    assert [row["caption"] for row in frames["validation"]] == [text for text, _ in SNOW]


def test_a_missing_frame_behind_the_third_loses_the_story_as_in_the_loader(tmp_path):
    raw = release(tmp_path / "raw")
    (raw / DOG[3][1]).unlink()
    manifest, stories, frames, lines = built(tmp_path)
    expected = as_the_published_loader(raw)["train"]
    assert [row["story_id"][-5:] for row in stories["train"]] == [f"{n:05d}" for n, _ in expected] == ["00002"]
    assert [(line["record"], line["file"], line["stories"]) for line in lines] == [
        ("train/00000", "train.json", ["didemo_sv/train/00000"])
    ]
    assert "1 of 4 frames" in lines[0]["reason"]
    assert DOG[3][1] in lines[0]["reason"]
    assert manifest["splits"]["train"]["stories"] == {"seen": 2, "written": 1, "rejected": 1}
    assert {row["sequence_id"] for row in frames["train"]} == {"train/00001", "train/00002"}


def test_every_description_of_a_frame_is_kept_beside_the_one_the_loader_shows(tmp_path):
    within = [DOG[0], ["Drops fly.", DOG[0][1]], DOG[2], ["Water everywhere.", DOG[0][1]]]
    release(tmp_path / "raw", {"train": [within, DOG], "val": [moments("dog", "Elsewhere.", "b", "c")]})
    _, stories, frames, _ = built(tmp_path)
    path = DOG[0][1]
    assert stories["train"][0]["frame_ids"] == [path, f"{path}#2", DOG[2][1]]
    assert [row["frame_id"] for row in frames["train"][:4]] == [path, f"{path}#2", DOG[2][1], f"{path}#3"]
    assert [row["caption"] for row in frames["train"]] == [text for pairs in (within, DOG) for text, _ in pairs]
    shown = {path: text for pairs in (within, DOG) for text, path in pairs}  # the loader's table of captions
    for row in frames["train"]:
        extras = json.loads(row["extras"] or "{}")
        expected = shown[row["frame_id"].partition("#")[0]]
        assert extras == ({} if expected == row["caption"] else {"loader_caption": expected})
    assert sum(bool(row["extras"]) for row in frames["train"]) == 2
    assert json.loads(stories["train"][0]["extras"])["frames"][1] == {"loader_caption": DOG[0][0]}


def test_ids_of_repeated_frames_never_clash_with_a_file_name(tmp_path):
    raw = release(tmp_path / "raw", {"train": [KITE]})
    path = KITE[0][1]
    (raw / f"{path}#2").write_bytes((raw / path).read_bytes())
    pairs = [["One.", path], ["Two.", f"{path}#2"], ["Three.", path], ["Four.", f"{path}#2"]]
    (raw / "didemo/train.json").write_text(json.dumps([{"desc_to_frame": pairs}]))
    _, _, frames, _ = built(tmp_path)
    assert [row["caption"] for row in frames["train"]] == ["One.", "Two.", "Three.", "Four."]
    assert len({row["frame_id"] for row in frames["train"]}) == 4


@pytest.mark.parametrize("splits", [(), ("test",)])
def test_a_story_of_two_splits_counts_in_the_first_only(tmp_path, splits):
    other_words = [["Somebody's dog.", DOG[0][1]], *DOG[1:]]
    longer = [*DOG, ["It wakes up.", DOG[0][1]]]
    release(tmp_path / "raw", {"train": [KITE, DOG, DOG], "test": [SNOW, longer, other_words, DOOR, KITE]})
    _, stories, _, lines = built(tmp_path, splits=splits)
    ids = [row["story_id"].partition("/")[2] for rows in stories.values() for row in rows]
    train = [] if splits else ["train/00000", "train/00001", "train/00002"]
    assert ids == [*train, "test/00000", "test/00002"]
    lost = [("test/00001", "train/00001"), ("test/00004", "train/00000")]
    assert [(line["record"], line["stories"]) for line in lines] == [
        (story, [f"didemo_sv/{story}"]) for story, _ in lost
    ]
    for line, (_, first) in zip(lines, lost, strict=True):
        assert f"are story {first}," in line["reason"]


FORM = "not a list of [description, frame path] pairs"


@pytest.mark.parametrize(
    ("entry", "reason", "stories"),
    [
        ("text", FORM, 1),
        (None, FORM, 1),
        ([DOG], FORM, 1),
        ({}, FORM, 1),
        ({"desc_to_frame": None}, FORM, 1),
        ({"desc_to_frame": [["One thing."], *KITE]}, FORM, 1),
        ({"desc_to_frame": [["A", KITE[0][1], "more"], *KITE]}, FORM, 1),
        ({"desc_to_frame": [["A number.", 7], *KITE]}, FORM, 1),
        ({"desc_to_frame": []}, FORM, 0),
        ({"desc_to_frame": [[None, KITE[0][1]], *KITE[1:]]}, "caption is NoneType", 1),
        ({"desc_to_frame": [["\ud83d", KITE[0][1]], *KITE[1:]]}, "lone surrogate", 1),
        ({"desc_to_frame": [*KITE[:2], ["A.", "didemo/../../secret.jpg"]]}, "would leave the release", 1),
        ({"desc_to_frame": [*KITE[:2], ["A.", "/secret.jpg"]]}, "would leave the release", 1),
        ({"desc_to_frame": [*KITE[:2], ["A.", "didemo\\frames\\kite\\0.jpg"]]}, "would leave the release", 1),
        ({"desc_to_frame": [*KITE[:2], ["A.", "didemo/frames"]]}, "1 of 3 frames are missing", 1),
        ({"desc_to_frame": [*KITE[:2], ["A.", "didemo/\ud83d.jpg"]]}, "1 of 3 frames are missing", 1),
        ({"desc_to_frame": [["A.", "didemo/no.jpg"]]}, "1 of 1 frames are missing", 0),
        ({"desc_to_frame": [*KITE[:2], ["A.", "didemo/train.json"]]}, "does not decode", 1),
    ],
)
def test_a_broken_entry_is_a_reject_and_its_neighbours_are_not(tmp_path, entry, reason, stories):
    raw = release(tmp_path / "raw")
    (tmp_path / "secret.jpg").write_bytes((raw / KITE[0][1]).read_bytes())
    file = raw / "didemo/train.json"
    file.write_text(json.dumps([{"desc_to_frame": DOG}, entry, {"desc_to_frame": SNOW[1:]}]))
    manifest, rows, _, lines = built(tmp_path, splits=["train"])
    assert [row["story_id"] for row in rows["train"]] == ["didemo_sv/train/00000", "didemo_sv/train/00002"]
    assert len(lines) == 1
    assert lines[0]["unit"] == "train/00001"
    assert reason in lines[0]["reason"]
    assert lines[0]["stories"] == ["didemo_sv/train/00001"] * stories
    assert manifest["splits"]["train"]["stories"] == {"seen": 2 + stories, "written": 2, "rejected": stories}


def test_what_else_an_entry_says_goes_to_extras(tmp_path):
    raw = release(tmp_path / "raw")
    entry = {"video": "1234@N00_5678.mp4", "desc_to_frame": SNOW, "times": [[0, 0], [1, 2]]}
    (raw / "didemo/val.json").write_text(json.dumps([entry]))
    _, stories, _, _ = built(tmp_path, splits=["validation"])
    assert json.loads(stories["validation"][0]["extras"]) == {
        "video": "1234@N00_5678.mp4",
        "times": [[0, 0], [1, 2]],
    }


@pytest.mark.parametrize(
    ("content", "message"), [("{}", "list of entries is expected, found dict"), ("[", "JSON"), (None, "missing")]
)
def test_an_index_that_cannot_be_used_stops_the_plan_and_is_named(tmp_path, content, message):
    raw = release(tmp_path / "raw")
    file = raw / "didemo/val.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(SourceError, match=rf"(?s){message}.*val\.json.*Files the release must have"):
        build(DiDeMoSV, raw, tmp_path / "out")


def test_a_folder_without_any_index_is_told_what_is_looked_for(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    with pytest.raises(SourceError, match=r"none of train\.json, val\.json, test\.json"):
        build(DiDeMoSV, raw, tmp_path / "out")


def test_units_are_entries_whose_sizes_add_up_to_the_pictures(tmp_path):
    raw = Raw(release(tmp_path / "raw"))
    found = {split: units(raw, split) for split in SPLITS.values()}
    assert {split: [unit.unit_id for unit in listed] for split, listed in found.items()} == {
        "train": ["train/00000", "train/00001", "train/00002"],
        "validation": ["val/00000"],
        "test": ["test/00000"],
    }
    pictures = sum(path.stat().st_size for path in Path(raw.path).rglob("*.jpg"))
    total = sum(unit.size for listed in found.values() for unit in listed)
    assert total == pytest.approx(pictures, rel=0.01)


def test_the_fake_release_breaks_an_entry_in_every_way(tmp_path):
    DiDeMoSV.fake(RawWriter(tmp_path / "raw"))
    manifest, _, _, lines = built(tmp_path)
    kinds = (
        "missing",
        "does not decode",
        "caption is int",
        "would leave",
        "[]",
        '"?"',
        "an earlier split",
        '[["A word."]]',
    )
    assert Counter(kind for line in lines for kind in kinds if kind in line["reason"]) == Counter(kinds)
    assert len(lines) == len(kinds)
    assert {split: counts["stories"]["written"] for split, counts in manifest["splits"].items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }

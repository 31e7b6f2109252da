"""VIST: order of the sentences, what is refused, layouts of the photos, leaking descriptions, large JSON."""

import json
from collections import defaultdict

import pytest
from datasets import Image, List, load_dataset
from openstory_hf.builders.vist import VIST

from openstory_hf.build import build
from openstory_hf.errors import SourceError
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.raw import Raw
from openstory_hf.records import Reject

SIS, DII = "{}.story-in-sequence.json", "{}.description-in-isolation.json"


def sentence(story, place, photo, words="We walked on.", **more):
    facts = {"story_id": story, "worker_arranged_photo_order": place, "photo_flickr_id": photo, "original_text": words}
    return [facts | more]


def story(name, photos="abcde"):
    return [sentence(name, place, photo, f"{name} at {photo}!") for place, photo in enumerate(photos)]


def write(raw, split, annotations, *, folder="", images=(), albums=()):
    release = {"images": list(images), "albums": list(albums), "annotations": annotations}
    raw.json(folder + SIS.format(split), release)


def photos(raw, names="abcde", form="{}.jpg"):
    for step, name in enumerate(names):
        raw.jpeg(form.format(name), scene(("ann",), size=32, step=step, place=f"{name}")[0])


def built(tmp_path, raw=None):
    manifest = build(VIST, raw or tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    rows = {}
    for split, stories in load_dataset(str(tmp_path / "out"), streaming=True).items():
        stories = stories.cast_column("images", List(Image(decode=False)))
        rows |= {row["story_id"].partition("/")[2]: {**row, "split": split} for row in stories}
    return manifest, rows, [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]


def test_the_whole_fake_release_is_what_an_independent_reading_says(tmp_path):
    VIST.fake(RawWriter(tmp_path / "raw"))
    _, rows, lines = built(tmp_path)
    files = [*(tmp_path / "raw/images").rglob("*.png"), *(tmp_path / "raw/images").rglob("*.jpg")]
    on_disk = {path.stem: path.read_bytes() for path in files}  # where both are there, the JPEG
    expected, seen = {}, set()
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        told = defaultdict(list)
        for [entry] in json.loads((tmp_path / f"raw/sis/{SIS}".format(split)).read_text())["annotations"]:
            told[entry.get("story_id")].append(entry)
        for key, entries in told.items():
            entries.sort(key=lambda entry: entry.get("worker_arranged_photo_order", 0))
            whole = [entry.get("worker_arranged_photo_order") for entry in entries] == [0, 1, 2, 3, 4]
            readable = all(len(on_disk.get(entry["photo_flickr_id"], b"")) > 500 for entry in entries)
            if whole and readable and key not in seen and all("original_text" in entry for entry in entries):
                expected[key] = (name, entries)
            seen.add(key)
    assert list(rows) == list(expected) == ["101", "102", "201", "301", "302"]
    for key, (split, entries) in expected.items():
        row = rows[key]
        assert row["split"] == split
        assert row["captions"] == [entry["original_text"] for entry in entries]
        assert [image["bytes"] for image in row["images"]] == [on_disk[e["photo_flickr_id"]] for e in entries]
        for extras, entry in zip(json.loads(row["extras"])["frames"], entries, strict=True):
            assert {**extras["sentence"], "original_text": entry["original_text"]} == entry
            assert extras["photo"]["id"] == entry["photo_flickr_id"]
            assert [told["original_text"] for told in extras["descriptions"]] == [
                "A hill.",
                "People on a hill in the sun.",
            ]
    lost = [name for line in lines for name in line["stories"]]
    assert sorted(lost) == [f"vist/{name}" for name in ("101", "103", "104", "105", "106", "107", "303")]


def test_sentences_stand_in_the_order_of_the_worker_and_stories_may_interleave(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    one, two = story("1"), story("2", "edcba")
    write(raw, "train", [two[3], one[4], one[0], two[0], two[4], one[2], two[1], one[3], two[2], one[1]])
    photos(raw)
    _, rows, _ = built(tmp_path)
    assert rows["1"]["captions"] == [f"1 at {photo}!" for photo in "abcde"]
    assert rows["2"]["captions"] == [f"2 at {photo}!" for photo in "edcba"]
    assert rows["2"]["frame_ids"] == ["2/0", "2/1", "2/2", "2/3", "2/4"]
    assert [image["path"] for image in rows["2"]["images"]] == [f"{photo}.jpg" for photo in "edcba"]


def test_captions_are_kept_byte_for_byte_and_the_tokenised_text_is_in_extras(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    texts = ["  Two  blanks. ", "Café—naïve\n", '"Quoted" \\ slash', "🎆 night", ""]
    write(raw, "train", [sentence("1", n, "abcde"[n], text, text=f"tokens {n} .") for n, text in enumerate(texts)])
    photos(raw)
    _, rows, _ = built(tmp_path)
    assert rows["1"]["captions"] == texts
    frames = json.loads(rows["1"]["extras"])["frames"]
    assert [frame["sentence"]["text"] for frame in frames] == [f"tokens {n} ." for n in range(5)]


def test_ids_and_places_may_be_numbers_or_text(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    numbers = [sentence(7, str(9 - n), 100 + n, f"{n}") for n in range(5)]
    write(raw, "train", numbers, images=[{"id": 104, "license": "4"}])
    photos(raw, range(100, 105))
    _, rows, _ = built(tmp_path)
    assert rows["7"]["captions"] == ["4", "3", "2", "1", "0"]
    assert json.loads(rows["7"]["extras"])["frames"][0]["photo"] == {"id": 104, "license": "4"}


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        (story("x")[:4], "4 sentences, where a story has 5"),
        ([*story("x"), sentence("x", 5, "a")], "6 sentences, where a story has 5"),
        ([*story("x")[:4], sentence("x", 3, "e")], "the places 0, 1, 2, 3, 3"),
        ([*story("x")[:4], sentence("x", None, "e")], "the places 0, 1, 2, 3, None"),
        (story("x", "abXYe"), "photos that are not in the release, 2 of 5: X, Y"),
        ([*story("x")[:4], sentence("x", 4, "../raw/a")], "1 of 5: ../raw/a"),
        ([*story("x")[:4], sentence("x", 4, "e", 12)], "original_text is int, expected text"),
    ],
)
def test_a_story_that_cannot_be_used_is_one_reject_that_says_why(tmp_path, annotations, reason):
    raw = RawWriter(tmp_path / "raw")
    write(raw, "train", [*story("good"), *annotations])
    photos(raw)
    manifest, rows, lines = built(tmp_path)
    assert list(rows) == ["good"]
    assert [line["stories"] for line in lines] == [["vist/x"]]
    assert reason in lines[0]["reason"]
    assert manifest["splits"]["train"]["stories"] == {"seen": 2, "written": 1, "rejected": 1}


def test_sentences_without_a_story_are_counted_not_dropped(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    nobodys = [[{"photo_flickr_id": "a", "original_text": "Whose?"}], [], "text", [{"story_id": "1"}, {}]]
    write(raw, "val", [*story("good"), *nobodys])
    photos(raw)
    _, rows, lines = built(tmp_path)
    assert list(rows) == ["good"]
    assert [(line["reason"], line["file"]) for line in lines] == [
        ("sentences without a story_id: 4", SIS.format("val"))
    ]


def test_a_broken_photo_takes_only_its_story_and_a_shared_photo_serves_both(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write(raw, "train", [*story("1"), *story("2", "abcdz"), *story("3", "edcba")])
    photos(raw, "abcdez")
    raw.bytes("z.jpg", b"")
    _, rows, lines = built(tmp_path)
    assert list(rows) == ["1", "3"]
    assert rows["1"]["images"][0] == rows["3"]["images"][4]
    assert (lines[0]["record"], lines[0]["file"], lines[0]["stories"]) == ("2/4", "z.jpg", ["vist/2"])


def test_a_story_of_two_splits_counts_in_the_first(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    for split in ("test", "train", "val"):
        write(raw, split, [*story("both"), *story(f"only {split}")])
    photos(raw)
    _, rows, lines = built(tmp_path)
    found = {name: row["split"] for name, row in rows.items()}
    assert found == {"both": "train", "only train": "train", "only val": "validation", "only test": "test"}
    assert [(line["split"], line["reason"]) for line in lines] == [
        ("validation", "the train split has a story of this id already"),
        ("test", "the train split has a story of this id already"),
    ]


def test_descriptions_come_from_the_split_of_the_story_only(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write(raw, "train", story("1"))
    write(raw, "test", story("2"), folder="sis/", albums=[{"id": "A"}])
    for split, words in (("train", ("short", "the longest of all")), ("test", ("of the test",))):
        told = [[{"photo_flickr_id": "a", "original_text": word}] for word in words]
        raw.json(f"dii/{DII}".format(split), {"annotations": told, "images": [{"id": "b", "tags": split}]})
    photos(raw)
    _, rows, _ = built(tmp_path)
    for name, words, split in (("1", ["short", "the longest of all"], "train"), ("2", ["of the test"], "test")):
        frames = json.loads(rows[name]["extras"])["frames"]
        assert [told["original_text"] for told in frames[0]["descriptions"]] == words
        assert "descriptions" not in frames[1]
        assert frames[1]["photo"] == {"id": "b", "tags": split}


def test_the_album_of_a_story_is_in_its_extras(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    albums = [{"id": "A", "title": "Parade"}, {"id": "B", "title": "Lake"}, {"title": "nobody's"}]
    write(raw, "train", [[entry | {"album_id": "B"}] for [entry] in story("1")] + story("2"), albums=albums)
    photos(raw)
    _, rows, _ = built(tmp_path)
    assert json.loads(rows["1"]["extras"])["album"] == {"id": "B", "title": "Lake"}
    assert "album" not in json.loads(rows["2"]["extras"])


@pytest.mark.parametrize("form", ["{}.jpg", "images/{}.jpg", "images/train/{}.jpg", "deep/er/{}.JPEG"])
@pytest.mark.parametrize("folder", ["", "sis/", "VIST/annotations/"])
def test_photos_and_stories_may_lie_in_any_folders(tmp_path, form, folder):
    raw = RawWriter(tmp_path / "raw")
    write(raw, "val", story("1"), folder=folder)
    photos(raw, form=form)
    _, rows, _ = built(tmp_path)
    found = [image["bytes"] for image in rows["1"]["images"]]
    assert found == [(tmp_path / "raw" / form.format(photo)).read_bytes() for photo in "abcde"]


def test_of_several_files_of_a_photo_the_largest_jpeg_is_taken(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write(raw, "train", story("1"))
    photos(raw, "abc", form="small/{}.jpg")
    big = scene(("ann", "ben"), size=200)[0]
    raw.jpeg("zoom/a.jpg", big)
    raw.png("png/b.png", big)
    raw.png("png/d.png", big)
    raw.png("e.jpg", big)  # a PNG under the name of a JPEG is a photo like any other
    _, rows, _ = built(tmp_path)
    files = ["zoom/a.jpg", "small/b.jpg", "small/c.jpg", "png/d.png", "e.jpg"]
    assert [image["bytes"] for image in rows["1"]["images"]] == [(tmp_path / "raw" / f).read_bytes() for f in files]


def test_a_release_that_lacks_stories_or_photos_or_has_them_twice_is_explained(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    photos(raw)
    with pytest.raises(SourceError, match=r"5 photos, where photos and a \*\.story-in-sequence\.json"):
        built(tmp_path)
    write(raw, "train", [])
    with pytest.raises(SourceError, match="the file has no annotations"):
        built(tmp_path)
    write(raw, "train", story("1"))
    write(raw, "train", story("1"), folder="sis/")
    with pytest.raises(SourceError, match="keep one"):
        built(tmp_path)


# -- raw.grouped, which was made for these files ---------------------------------------------------------------


def test_grouped_arrays_equal_those_of_a_whole_reading_however_the_chunks_cut_them(tmp_path, monkeypatch):
    value = {
        "info": {"n": [1, 2, {"annotations": [{"k": "no"}]}]},
        "annotations": [[{"k": 1, "t": "é\ud83c\udf86"}], {"k": "2"}, [{"k": "1"}], [], 5, [{"k": 2}, {"k": 3}]],
        "other": [[1.5e3], "]", {"}": "["}],
        "images": [{"id": "a,]"}, {"id": None}],
        "empty": [],
        "last": None,
    }
    whole = {"annotations": {"1": [], "2": [], "": []}, "images": {"a,]": [], "": []}, "empty": {}, "absent": {}}
    for array, key in (("annotations", "k"), ("images", "id")):
        for entry in value[array]:
            entry = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
            found = entry.get(key) if isinstance(entry, dict) else None
            whole[array]["" if found is None else str(found)].append(entry)
    for chunk in (1, 2, 3, 7, 1 << 20):
        monkeypatch.setattr("openstory_hf.raw.records._CHUNK", chunk)
        for form in ({"ensure_ascii": False}, {"indent": 1}):
            text = "\ufeff" + json.dumps(value, **form).replace("\ud83c\udf86", "🎆")
            RawWriter(tmp_path).text("x.json", text)
            keys = {"annotations": "k", "images": "id", "empty": "id", "absent": "id"}
            groups = Raw(tmp_path).grouped("x.json", **keys)
            expected = json.loads(json.dumps(whole))
            assert {array: dict(found) for array, found in groups.items()} == expected
            assert list(groups["annotations"]) == ["1", "2", ""]


@pytest.mark.parametrize(
    "text", ["[]", "", '{"a": {}}', '{"a": [1', '{"a": [1]} x', '{"a": [1 2]}', "{a: []}", "\xff{}"]
)
def test_grouped_refuses_what_is_not_an_object_of_arrays(tmp_path, text):
    RawWriter(tmp_path).bytes("x.json", text.encode("latin1"))
    with pytest.raises(Reject, match="not a readable JSON object of arrays"):
        Raw(tmp_path).grouped("x.json", a="id")

"""Forms of releases: what no test of a dataset that comes in them says already."""

import pytest

from openstory_hf.fakes import RawWriter, encoded, scene
from openstory_hf.forms.clips import open_package
from openstory_hf.forms.keyed import KeyedSamples, plain, write_saved
from openstory_hf.forms.keyframes import keyframe, seconds
from openstory_hf.forms.labels import instances
from openstory_hf.forms.packed import KeyedPictures, find_texts
from openstory_hf.forms.stacks import StoryDallE, StoryGPTV
from openstory_hf.forms.strips import Strips, as_text
from openstory_hf.raw import Raw
from openstory_hf.records import Reject


@pytest.mark.parametrize(
    ("name", "video", "expected"),
    [
        ("000001_keyframe_0-20-4-5", r"\d+", ("000001", 1204.005)),
        ("ab_cd-ef_01_keyframe_01-00-00-040", r"[\w-]{11}", ("ab_cd-ef_01", 3600.04)),
        ("a_keyframe_b_keyframe_0-0-0-1", ".*", ("a_keyframe_b", 0.001)),
        ("x_keyframe_0-20-4-5", r"\d+", None),
        ("000001_keyframe_0-20-4", r"\d+", None),
        ("000001_keyframe_0-20-4-5-6", r"\d+", None),
        ("000001_keyframe_0-20-4-1234567890", r"\d+", None),
    ],
)
def test_names_of_keyframes_tell_video_and_time(name, video, expected):
    found = keyframe(name, video)
    assert (found and (found.video, found.seconds)) == expected
    for path in (f"a.b/{name}.jpg", f"c/{name}", name):
        assert seconds(path, video) == (expected and expected[1])


def test_a_package_is_told_by_its_split_file_wherever_it_lies(tmp_path):
    raw = RawWriter(tmp_path)
    raw.json("some/where/train-val-test_split.json", {"train": ["a"]})
    raw.bytes("some/where/video_frames_sampled/a.npy", b"")
    package = open_package(Raw(tmp_path), StoryDallE, StoryGPTV)
    assert (type(package), package.raw.root, package.file("a")) == (
        StoryDallE,
        "some/where",
        "video_frames_sampled/a.npy",
    )
    with pytest.raises(Reject, match=r"neither train_seen_unseen_ids\.npy nor split\.json"):
        open_package(Raw(tmp_path), Strips, StoryGPTV)


def test_a_cache_may_name_fewer_followers_but_no_others(tmp_path):
    raw = RawWriter(tmp_path)
    raw.json("train-val-test_split.json", {})
    raw.bytes("video_frames_sampled/a.npy", b"")
    raw.pickle("following_cache3.pkl", {"a": ["b", "c"], "b": ["d"], "c": ["d", "e", "f", "g", "h"]})
    clips = StoryDallE(Raw(tmp_path))
    assert clips.contradiction("a", ["b", "c", "d"], "ids") == ""
    assert clips.contradiction("c", ["d", "e", "f", "g"], "ids") == ""
    assert clips.contradiction("unknown", ["b"], "ids") == ""
    assert "goes on with ['d'], the ids say ['c', 'd']" in clips.contradiction("b", ["c", "d"], "ids")


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ("it’s".encode(), "it’s"),
        ("it’s".encode().decode("latin1"), "it’s"),
        (b"caf\xe9", "café"),
        ("café", "café"),
        (3, 3),
    ],
)
def test_texts_of_python_2_become_what_they_were(stored, text):
    assert as_text(stored) == text


def test_samples_are_found_in_every_form_and_damage_is_a_group_without_keys(tmp_path):
    raw = RawWriter(tmp_path)
    raw.samples("a/x.tar", {"k1": {"json": b'{"n": 1}'}, "k2": {"txt": b"two"}})
    rows = [{"__key__": f"r{at}", "n": at, "m": None} for at in range(3)]
    raw.table("b.parquet", rows)
    write_saved(raw, "saved", rows[:1])
    raw.table("saved/cache-1.arrow", rows)
    raw.table("loose/c.arrow", rows[:2])
    raw.bytes("bad.tar", b"no tar at all")
    samples = KeyedSamples(Raw(tmp_path))
    saved = "saved/data-00000-of-00001.arrow"
    assert samples.files == ["a/x.tar", "b.parquet", "bad.tar", "loose/c.arrow", saved]
    found = {(group.file, group.number): group.keys for group in samples.groups()}
    assert found == {
        ("a/x.tar", 0): [("k1", "k1"), ("k2", "k2")],  # places are names of members inside the tar
        ("b.parquet", 0): [(0, "r0"), (1, "r1")],
        ("b.parquet", 1): [(2, "r2")],
        ("bad.tar", 0): None,
        ("loose/c.arrow", 0): [(0, "r0"), (1, "r1")],
        (saved, 0): [(0, "r0")],
    }
    assert samples.read("a/x.tar", "k1") == {"json": {"n": 1}}
    assert samples.read("a/x.tar", "k2") == {"txt": b"two", "json": {}}
    assert samples.read("b.parquet", 2, facts=("n", "m")) == {"json": {"n": 2}}
    with pytest.raises(Reject):
        samples.keys("bad.tar", 0)


def test_fields_that_json_cannot_hold_become_text():
    assert plain({"a": b"\xff!", "b": {1}, "c": [None, 1.5]}) == {"a": "\ufffd!", "b": "{1}", "c": [None, 1.5]}


def test_labels_that_are_neither_the_pictures_nor_a_square_are_refused():
    labels = scene(("cat",), size=16)[1].astype("uint8")
    listed = [{"value": 1, "label": "cat", "box": [1, 1, 9, 9]}]
    assert instances(labels, listed, (16, 16))[1] is None
    assert instances(labels, listed, (32, 40))[1] == (4, 0, 32)
    assert instances(labels[:8], listed, (8, 16))[1] is None
    with pytest.raises(Reject, match=r"\(8, 16\), neither of the picture's size \(16, 16\) nor a square"):
        instances(labels[:8], listed, (16, 16))


def test_unpacked_files_are_preferred_to_archives_and_hidden_ones_do_not_count(tmp_path):
    raw, jpeg = RawWriter(tmp_path), encoded(scene((), size=8)[0], "JPEG")
    for name in ("texts/a.jsonl", "texts/.hidden.jsonl", "texts/__MACOSX/b.jsonl"):
        raw.json_lines(name, [{"n": 1}, "two\n"])
    raw.bytes("pictures/1.jpg", jpeg)
    raw.pack("texts", "zip")
    raw.pack("pictures", "gztar")
    names = ["texts.zip", "pictures.tar.gz"]
    texts = find_texts(Raw(tmp_path), names, ".jsonl")
    assert (texts.prefix, texts.files) == ("texts.zip/", ["texts/a.jsonl"])
    assert texts.raw.text("texts/a.jsonl") == '{"n": 1}\ntwo\n'
    pictures = KeyedPictures(Raw(tmp_path), names, lambda name: name.rpartition("/")[2])
    assert (pictures.tar, pictures.size(["1.jpg"])) == ("pictures.tar.gz", 0)
    read = [
        pictures.read(group, key) for group in pictures.gather({"g": ["1.jpg", "2.jpg"]}) for key in ("1.jpg", "2.jpg")
    ]
    assert read == [(jpeg, "pictures.tar.gz"), (None, "pictures.tar.gz")]

    for name in ("b.jsonl", "x/1.jpg", "y/2.jpg", "z/2.jpg"):
        raw.bytes(name, jpeg)
    names += ["b.jsonl", "x/1.jpg", "y/2.jpg", "z/2.jpg"]
    assert find_texts(Raw(tmp_path), names, ".jsonl").files == ["b.jsonl"]
    pictures = KeyedPictures(Raw(tmp_path), names, lambda name: name.rpartition("/")[2])
    assert (pictures.tar, pictures.size(["1.jpg", "2.jpg"])) == ("", len(jpeg))
    assert pictures.read("g", "1.jpg") == (jpeg, "x/1.jpg")
    assert pictures.read("g", "2.jpg") == (None, "")

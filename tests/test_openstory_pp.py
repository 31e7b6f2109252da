"""Openstory++: its four forms, grouping by time, overrides, masks and boxes in the picture's own coordinates."""

import io
import json
import tarfile

import numpy as np
import pytest
from datasets import Image as ImageFeature
from datasets import List, load_dataset
from openstory_hf.builders.openstory_pp import OpenstoryPP, drawn
from PIL import Image

from openstory_hf import masks
from openstory_hf.build import build
from openstory_hf.check import _check_picture, check
from openstory_hf.cli import main
from openstory_hf.fakes import RawWriter
from openstory_hf.records import Frame, Instance, Picture, Reject
from openstory_hf.schema import store

VIDEO = "ab_cd-ef_01"


def built(tmp_path):
    manifest = build(OpenstoryPP, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    assert not check(tmp_path / "out")
    tables = []
    for table, key in (("stories", "story_id"), ("frames", "frame_id")):
        rows = load_dataset(str(tmp_path / "out"), table, split="train", streaming=True)
        tables.append({row[key]: row for row in rows.cast_column("images", List(ImageFeature(decode=False)))})
    lines = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    return manifest, *tables, lines


def key(seconds, video=VIDEO):
    return f"{video}_keyframe_0-0-{seconds}-0"


def encode(array, kind="PNG", palette=None):
    image, buffer = Image.fromarray(array), io.BytesIO()
    if palette:
        image.putpalette(palette)
    image.save(buffer, kind)
    return buffer.getvalue()


def sample(entries, labels, caption="a cat", size=None, palette=None):
    height, width = size or labels.shape
    facts = {"caption": caption, "mask": [{"value": 0, "label": "background"}, *entries]}
    return {
        "jpg": encode(np.full((height, width, 3), 90, np.uint8), "JPEG"),
        "png": encode(labels, palette=palette),
        "json": json.dumps(facts).encode(),
    }


def entry(value, label, box):
    return {"value": value, "label": label, "logit": 0.25, "box": box}


def test_keyframes_are_grouped_by_video_and_time_across_tars(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    seconds = [10, 2, 33, 4, 5, 1, 20]  # as text, 10 would come before 2
    for number in range(2):
        raw.samples(f"{number}.tar", {key(at): drawn(at, 32) for at in seconds[number::2]})
    raw.samples("2.tar", {key(7, "123456"): drawn(0, 32)})
    _, stories, frames, rejects = built(tmp_path)
    assert not rejects
    ordered = [key(at) for at in sorted(seconds)]
    assert [row["frame_ids"] for row in stories.values()] == [ordered[:5], ordered[5:]]
    assert [row["story_id"] for row in stories.values()] == [
        f"openstory_pp/{ordered[0]}",
        f"openstory_pp/{ordered[5]}",
    ]
    assert stories[f"openstory_pp/{ordered[5]}"]["timestamps"] == [20.0, 33.0]
    assert set(frames) == {*ordered, key(7, "123456")}  # the lone one is a frame, and no story


@pytest.mark.parametrize(("count", "groups"), [(1, []), (2, [2]), (5, [5]), (6, [5]), (7, [5, 2]), (11, [5, 5])])
def test_groups_of_at_most_five_and_none_of_one(tmp_path, count, groups):
    raw = RawWriter(tmp_path / "raw")
    raw.samples("x.tar", {key(at): drawn(0, 16) for at in range(count)} | {"single": drawn(0, 16)})
    _, stories, frames, _ = built(tmp_path)
    assert [len(row["frame_ids"]) for row in stories.values() if row["sequence_id"] == VIDEO] == groups
    assert len(frames) == count + 1


def test_pictures_and_captions_pass_through_byte_for_byte_and_masks_are_the_pngs_indices(tmp_path):
    OpenstoryPP.fake(RawWriter(tmp_path / "raw"))
    _, _, frames, _ = built(tmp_path)
    compared = set()
    for name in ("00000", "00001"):
        with tarfile.open(tmp_path / f"raw/tars/{name}.tar") as tar:
            found = {member.name: tar.extractfile(member).read() for member in tar}
        for member in [name for name in found if name.endswith(".json")]:
            stem = member.removesuffix(".json")
            if stem not in frames or not stem.startswith("a_b"):
                continue
            row, facts = frames[stem], json.loads(found[member])
            assert row["images"][0]["bytes"] == found[f"{stem}.jpg"]
            assert row["caption"] == facts["caption"]
            assert json.loads(row["extras"])["origin_caption"] == facts["origin_caption"]
            labels = np.asarray(Image.open(io.BytesIO(found[f"{stem}.png"])))
            for listed, item in zip(facts["mask"][1:], row["instances"][0], strict=True):
                np.testing.assert_array_equal(masks.decode(item["segmentation"]), labels == listed["value"])
                x1, y1, x2, y2 = listed["box"]
                assert (item["label"], item["bbox"]) == (listed["label"], [x1, y1, x2 - x1, y2 - y1])
                assert item["score"] == pytest.approx(listed["logit"])
            compared.add(stem)
    assert len(compared) == 12


def test_repeats_are_left_out_counted_and_named(tmp_path):
    chain = f"{key(1)}_override_{key(2)}"
    keys = [key(1), chain, f"{chain}_override_{key(3)}", key(4)]
    more = [f"{key(4)}_override_{key(at)}" for at in range(100, 300)]  # more than the build takes for damage
    raw = RawWriter(tmp_path / "raw")
    raw.samples("x.tar", {name: drawn(0, 16) for name in keys + more})
    _, stories, frames, rejects = built(tmp_path)
    assert list(frames) == [key(1), key(4)]
    assert [row["frame_ids"] for row in stories.values()] == [[key(1), key(4)]]
    assert len(rejects) == 1
    assert "(202)" in rejects[0]["reason"]
    assert all(name in rejects[0]["reason"] for name in keys[1:3] + more)


def test_a_video_of_repeats_alone_gives_its_reject_and_no_frame(tmp_path):
    RawWriter(tmp_path / "raw").samples("x.tar", {f"{key(1)}_override_{key(2)}": drawn(0, 16), "k": drawn(1, 16)})
    manifest, stories, _, rejects = built(tmp_path)
    assert list(stories) == ["openstory_pp/x.tar/k"]
    assert [(line["record"], line["file"]) for line in rejects] == [(f"{key(1)}_override_{key(2)}", "x.tar")]
    assert manifest["splits"]["train"]["frames"] == {"seen": 1, "written": 1, "rejected": 0}


def test_a_keyframe_that_is_there_twice_counts_once_whatever_the_padding(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    raw.samples("a.tar", {key(1): drawn(1, 16), key(2): drawn(2, 16)})
    again = f"{VIDEO}_keyframe_00-00-01-000"
    raw.samples("b.tar", {again: drawn(0, 16)})
    _, _, frames, rejects = built(tmp_path)
    assert list(frames) == [key(1), key(2)]
    assert frames[key(1)]["images"][0]["bytes"] == drawn(1, 16)["jpg"]
    assert [(line["record"], line["reason"].split(":")[1]) for line in rejects] == [(again, f" {again} in b.tar")]


@pytest.mark.parametrize("palette", [None, [(index * 53) % 256 for index in range(30)]])
def test_a_value_painted_over_keeps_its_box_and_one_not_listed_is_a_reject(tmp_path, palette):
    labels = np.zeros((32, 32), np.uint8)
    labels[4:20, 4:20] = 2
    listed = [entry(1, "cat", [6, 6, 12, 12.5]), entry(2, "sofa", [4, 4, 20, 20])]
    raw = RawWriter(tmp_path / "raw")
    raw.samples(
        "x.tar",
        {
            "good": sample(listed, labels, palette=palette),
            "odd": sample(listed, labels + 7, palette=palette),
        },
    )
    _, _, frames, rejects = built(tmp_path)
    cat, sofa = frames["x.tar/good"]["instances"][0]
    assert (cat["segmentation"], cat["bbox"]) == (None, [6, 6, 6, 6.5])
    np.testing.assert_array_equal(masks.decode(sofa["segmentation"]), labels == 2)
    assert [line["record"] for line in rejects] == ["x.tar/odd"]
    assert "[7, 9]" in rejects[0]["reason"]


@pytest.mark.parametrize(
    ("label", "caption", "expected"),
    [
        ("dog", "a Dog and two dogs see a dogma", [[2, 5], [14, 18]]),
        ("bus", "two buses", [[4, 9]]),
        ("t-shirt", "his t-shirt, t-shirts.", [[4, 11], [13, 21]]),
        ("c++ (book)", "the c++ (book)", [[4, 14]]),
        ("cat", "nobody", []),
        ("", "nobody", []),
    ],
)
def test_mentions_are_whole_words_of_the_caption(tmp_path, label, caption, expected):
    labels = np.ones((16, 16), np.uint8)
    RawWriter(tmp_path / "raw").samples("x.tar", {"k": sample([entry(1, label, [0, 0, 16, 16])], labels, caption)})
    _, _, frames, _ = built(tmp_path)
    assert json.loads(frames["x.tar/k"]["extras"])["entities"] == [{"value": 1, "mentions": expected}]


def test_annotations_of_the_centre_crop_are_put_on_a_picture_of_another_size(tmp_path):
    labels = np.zeros((16, 16), np.uint8)
    labels[2:6, 8:12] = 1
    listed = [entry(1, "cat", [8, 2, 12, 6])]
    raw = RawWriter(tmp_path / "raw")
    raw.samples(
        "x.tar",
        {"wide": sample(listed, labels, size=(32, 57)), "tall": sample(listed, labels, size=(41, 32))},
    )
    _, _, frames, _ = built(tmp_path)
    for name, size, left, top in (("wide", (32, 57), 12, 0), ("tall", (41, 32), 0, 4)):
        row = frames[f"x.tar/{name}"]
        (item,) = row["instances"][0]
        expected = np.zeros(size, bool)
        expected[top + 4 : top + 12, left + 16 : left + 24] = True
        np.testing.assert_array_equal(masks.decode(item["segmentation"]), expected)
        assert item["bbox"] == [left + 16, top + 4, 8, 8]
        assert json.loads(row["extras"])["crop"] == [left, top, 32]


def test_pictures_and_members_that_no_sample_has_are_counted_and_named(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    raw.samples("a.tar", {key(1): drawn(1, 16), key(2): drawn(2, 16)})
    with tarfile.open(tmp_path / "raw/a.tar", "a") as tar:
        member = tarfile.TarInfo(f"{key(1)}.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"new"))
    other = "zz_zz-zz_02"
    names = [f"frames/{other}/{key(at, other)}.jpg" for at in (1, 2)]
    for name in (*names, f"frames/{VIDEO}/{key(1)}.jpg", f"more/{VIDEO}_keyframe_00-00-01-000.jpg"):
        raw.bytes(name, drawn(1, 16)["jpg"])
    _, _, frames, rejects = built(tmp_path)
    assert list(frames) == [key(1), key(2)]
    assert [line["reason"] for line in rejects] == [
        f"pictures of videos that have no samples (2): {', '.join(names)}",
        f"second pictures of a keyframe (1): more/{VIDEO}_keyframe_00-00-01-000.jpg",
        f"members of a tar that has one of their name before (1): a.tar/{key(1)}.jpg",
    ]


def test_a_file_whose_name_ends_like_that_of_a_state_is_none(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    raw.samples("a.tar", {"k": drawn(1, 16)})
    raw.json("trainer_state.json", {"epoch": 3})
    assert list(built(tmp_path)[2]) == ["a.tar/k"]


def test_a_story_set_without_pictures_gives_null_images_and_joins_those_cut_from_the_videos(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    rows = []
    for number in range(3):
        made = drawn(number, 32)
        name = f"{VIDEO}_keyframe_00-00-0{number}-040"
        rows.append(
            {"__key__": name, "time_stamp": f"t{number}", "png": made["png"], "json": json.loads(made["json"])}
        )
    raw.table("story/a.parquet", rows)
    raw.bytes(f"deep/frames/{VIDEO}/{VIDEO}_keyframe_0-0-1-40.jpg", drawn(1, 32)["jpg"])
    raw.bytes(f"deep/frames/{VIDEO}/{VIDEO}_keyframe_0-9-1-40.jpg", drawn(1, 32)["jpg"])
    _, stories, frames, rejects = built(tmp_path)
    (story,) = stories.values()
    assert [image and image["bytes"] for image in story["images"]] == [None, drawn(1, 32)["jpg"], None]
    assert story["timestamps"] == [0.04, 1.04, 2.04]
    for row, listed in zip(rows, story["instances"], strict=True):
        labels = np.asarray(Image.open(io.BytesIO(row["png"])))
        assert [masks.area(item["segmentation"]) for item in listed] == [
            (labels == value).sum() for value in range(1, labels.max() + 1)
        ]
    extras = json.loads(story["extras"])["frames"]
    assert [frame.get("picture_not_shipped", "") for frame in extras] == [
        f"{rows[0]['__key__']}.jpg",
        "",
        f"{rows[2]['__key__']}.jpg",
    ]
    assert [frame["time_stamp"] for frame in extras] == ["t0", "t1", "t2"]
    assert [line["record"] for line in rejects] == [f"deep/frames/{VIDEO}/{VIDEO}_keyframe_0-9-1-40.jpg"]
    assert frames[rows[1]["__key__"]]["source"]["file"] == "story/a.parquet"


@pytest.mark.parametrize("form", ["struct", "text", "bytes", "columns"])
@pytest.mark.parametrize("pictures", ["bytes", "struct", "absent"])
def test_every_plausible_spelling_of_the_unique_columns(tmp_path, form, pictures):
    rows = []
    for number in range(3):
        made = drawn(number, 32)
        facts = json.loads(made["json"])
        row = {"url": f"https://example.org/{number}", "png": made["png"]}
        row |= {
            "struct": {"json": facts},
            "text": {"json": made["json"].decode()},
            "bytes": {"json": made["json"]},
            "columns": facts,
        }[form]
        if pictures != "absent":
            row["jpg"] = made["jpg"] if pictures == "bytes" else {"bytes": made["jpg"], "path": None}
        rows.append(row)
    RawWriter(tmp_path / "raw").table("unique/x.parquet", rows)
    _, stories, frames, rejects = built(tmp_path)
    assert not rejects
    assert list(stories) == [f"openstory_pp/unique/x.parquet/{number}" for number in range(3)]
    for number, row in enumerate(frames.values()):
        made = drawn(number, 32)
        facts = json.loads(made["json"])
        assert row["caption"] == facts["caption"]
        assert [item["label"] for item in row["instances"][0]] == [item["label"] for item in facts["mask"][1:]]
        assert (row["images"][0] and row["images"][0]["bytes"]) == (None if pictures == "absent" else made["jpg"])
        extras = json.loads(row["extras"])
        assert (extras["url"], extras["origin_caption"]) == (f"https://example.org/{number}", facts["origin_caption"])


def test_a_saved_folder_is_read_by_its_state_and_leaves_caches_alone(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    rows = [{"__key__": key(at), **drawn(at, 16)} for at in range(3)]
    raw.table("saved/data-00000-of-00001.arrow", rows)
    raw.table("saved/cache-0123.arrow", rows)
    raw.json("saved/state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    _, stories, _, rejects = built(tmp_path)
    assert [row["frame_ids"] for row in stories.values()] == [[key(0), key(1), key(2)]]
    assert not rejects


def test_what_cannot_be_read_is_named_and_the_rest_is_built(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    good = {key(at): drawn(at, 16) for at in range(2)}
    raw.samples("a.tar", good)
    raw.bytes("b.tar", (tmp_path / "raw/a.tar").read_bytes()[:900])
    raw.bytes("c.parquet", b"PAR1 and then nothing")
    raw.samples("d.tar", {"abc_keyframe_1": drawn(0, 16), "nojson": {"jpg": drawn(0, 16)["jpg"]}})
    manifest, stories, _, rejects = built(tmp_path)
    assert len(stories) == 1
    assert {line["file"] for line in rejects} == {"b.tar", "c.parquet", "d.tar"}
    assert {line["record"] for line in rejects} >= {"abc_keyframe_1", "d.tar/nojson"}
    assert manifest["splits"]["train"]["frames"] == {"seen": 3, "written": 2, "rejected": 1}


def unshipped(*instances):
    frame = Frame(frame_id="f", caption="c", pictures=(Picture(path="f.jpg", instances=instances),))
    return store(frame)


def test_masks_of_a_picture_that_is_not_shipped_keep_their_size_and_must_agree():
    small, large = np.ones((4, 6), bool), np.ones((6, 4), bool)
    stored = unshipped(Instance(label="a", mask=small, bbox=(0, 0, 6, 4)), Instance(label="b", mask=small))
    assert stored.images == (None,)
    assert [item["segmentation"]["size"] for item in stored.instances[0]] == [[4, 6], [4, 6]]
    assert unshipped(Instance(label="a", bbox=(1, 2, 9000, 1))).instances[0][0]["bbox"] == [1, 2, 9000, 1]
    with pytest.raises(Reject, match=r"\(6, 4\), its picture \(4, 6\)"):
        unshipped(Instance(label="a", mask=small), Instance(label="b", mask=large))
    with pytest.raises(Reject, match="leaves its"):
        unshipped(Instance(label="a", mask=small, bbox=(0, 0, 7, 4)))


def test_check_sees_a_wrong_mask_behind_a_null_image_and_accepts_a_right_one():
    def found(*sizes):
        coded = [masks.encode(np.ones(size, bool)) for size in sizes]
        listed = [{"label": "x", "segmentation": rle, "bbox": [0, 0, 3, 3]} for rle in coded]
        return list(_check_picture("here", None, listed))

    assert found((4, 6), (4, 6)) == []
    assert "[6, 4], the picture [4, 6]" in found((4, 6), (6, 4))[0]
    assert "leaves its" in found((2, 2))[0]


def test_empty_bytes_are_still_no_picture():
    with pytest.raises(Reject, match="does not decode"):
        store(Frame(frame_id="f", caption="c", pictures=(Picture(path="f.jpg", data=b""),)))


def test_statistics_pass_over_pictures_that_are_not_shipped(tmp_path, capsys):
    rows = [{"__key__": key(at), "json": json.loads(drawn(at, 16)["json"])} for at in range(2)]
    RawWriter(tmp_path / "raw").table("x.parquet", rows)
    built(tmp_path)
    assert main(["stats", str(tmp_path / "out")]) == 0
    assert "stories" in capsys.readouterr().out

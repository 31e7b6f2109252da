"""FlintstonesSV: windows, variants, boxes and masks against the raw files and against the real ids."""

import importlib.util
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release
from pycocotools import mask as coco

from openstory_hf.build import build
from openstory_hf.errors import BuildError, SourceError, UnsafePickleError
from openstory_hf.fakes import RawWriter

ROOT = Path(__file__).parents[1]
CAPTIONS = ROOT.parent / "shared/data/flintstones_sv_captions/Val_Data_FlintstonesSV.json"
EPISODES = {"train": {"s_01_e_01": 9, "s_01_e_02": 6}, "val": {"s_01_e_03": 7}, "test": {"s_02_e_01": 5}}


@pytest.fixture(scope="module", params=["B", "C"])
def release(request, tmp_path_factory):
    """(variant, raw folder, built folder) of a sound release."""
    folder = tmp_path_factory.mktemp(f"flintstones-{request.param}")
    write_release(RawWriter(folder / "raw"), EPISODES, variant=request.param)
    build(FlintstonesSV, folder / "raw", folder / "out")
    return request.param, folder / "raw", folder / "out"


@pytest.fixture
def raw_b(tmp_path):
    write_release(RawWriter(tmp_path / "raw"), {"train": {"s_01_e_01": 9}}, variant="B")
    return tmp_path / "raw"


def rows(out, table, split):
    return list(load_dataset(str(out), table, split=split, streaming=True))


def lost(out):
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def clip(number, episode="s_01_e_01"):
    return f"{episode}_shot_{number * 100:06d}_{number * 100 + 74:06d}"


def test_stories_are_the_windows_whose_start_is_in_the_split(release):
    _, _, out = release
    for split, source in (("train", "train"), ("validation", "val"), ("test", "test")):
        expected = [
            [clip(start + k, episode) for k in range(5)]
            for episode, count in EPISODES[source].items()
            for start in range(1, count - 3)
        ]
        assert [row["frame_ids"] for row in rows(out, "stories", split)] == expected


def test_pictures_are_the_arrays_pixel_for_pixel(release):
    variant, raw, out = release
    folder = "video_frames_sampled" if variant == "B" else "video_frames_sampled_4x"
    for row in rows(out, "frames", "train"):
        stack = np.load(raw / folder / f"{row['frame_id']}.npy")
        assert [np.asarray(image).tolist() for image in row["images"]] == stack.tolist()
        assert row["key_image"] == 2
    for row in rows(out, "stories", "train"):
        for frame_id, image in zip(row["frame_ids"], row["images"], strict=True):
            assert (np.asarray(image) == np.load(raw / folder / f"{frame_id}.npy")[2]).all()


def test_masks_and_boxes_equal_the_source(release):
    variant, raw, out = release
    if variant == "B":
        assert all(instances == [[]] * 5 for instances in (r["instances"] for r in rows(out, "frames", "train")))
        return
    cleaned = json.loads((raw / "cleaned_annotations.json").read_text())
    compared = 0
    for row in rows(out, "frames", "train"):
        segments = cleaned[row["frame_id"]]["segments"]
        for k, (image, instances) in enumerate(zip(row["images"], row["instances"], strict=True)):
            source = np.load(raw / f"seg_mask_4x_comb/{row['frame_id']}-frame{k}.npy")
            assert len(instances) == len(segments)
            for segment, item in zip(segments, instances, strict=True):
                x1, y1, x2, y2 = (value * image.width / 128 for value in segment["bbox"])
                assert item["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
                assert x1 >= 0 <= y1
                assert x2 <= image.width
                assert y2 <= image.height
                assert item["label"] == segment["word"]
                assert (coco.decode(item["segmentation"]) == (source == segment["id"])).all()
                compared += 1
    assert compared > 50


def test_variant_b_rectangles_go_to_extras_untouched(release):
    _, raw, out = release
    annotations = {a["globalID"]: a for a in json.loads((raw / "flintstones_annotations_v1-0.json").read_text())}
    for row in rows(out, "frames", "validation"):
        kept = json.loads(row["extras"])["annotation"]["characters"]
        assert kept == annotations[row["frame_id"]]["characters"]
    frames = json.loads(rows(out, "stories", "validation")[0]["extras"])["frames"]
    assert len(frames) == 5
    assert frames[0]["labels"] == [0, 1, 0, 1, 0, 0, 0]


def test_characters_are_stripped_and_captions_are_not(release):
    _, _, out = release
    story = rows(out, "stories", "train")[0]
    assert story["characters"][0] == ["fred", "barney"]
    assert story["captions"][2] == "Barney and Fred are walking outside. "
    assert story["referential_captions"][2] == "They are walking outside. "
    assert story["setting"][0] == "kitchen"


@pytest.mark.parametrize("variant", ["B", "C"])
@pytest.mark.parametrize("cache", [True, False])
def test_a_list_of_all_clips_and_a_list_of_starts_give_the_same_stories(tmp_path, variant, cache):
    starts, every = tmp_path / "starts", tmp_path / "every"
    write_release(RawWriter(starts), EPISODES, variant=variant)
    shutil.copytree(starts, every)
    name = "train-val-test_split.json" if variant == "B" else "split.json"
    listed = {
        split: [clip(k, e) for e, n in wanted.items() for k in range(1, n + 1)] for split, wanted in EPISODES.items()
    }
    (every / name).write_text(json.dumps(listed))
    for folder in (starts, every):
        if not cache:
            next(folder.glob("following_cache*.pkl")).unlink()
        build(FlintstonesSV, folder, tmp_path / "out" / folder.name)
    for split in ("train", "validation", "test"):
        one, other = (rows(tmp_path / "out" / name, "annotations", split) for name in ("starts", "every"))
        assert one == other
        assert one


def test_a_zip_with_nested_folders_gives_the_rows_of_the_folder(release, tmp_path):
    _, raw, out = release
    nested = tmp_path / "pack/home/author/data/flintstones"
    shutil.copytree(raw, nested)
    archive = shutil.make_archive(str(tmp_path / "flintstones"), "zip", tmp_path / "pack")
    manifest = build(FlintstonesSV, archive, tmp_path / "out")
    assert manifest["files"] == json.loads((out / "manifest.json").read_text())["files"]


def test_a_story_on_which_cache_and_ids_differ_is_a_reject(raw_b, tmp_path):
    following = {clip(k): [clip(k + j) for j in (1, 2, 3, 4)] for k in range(1, 6)}
    following[clip(3)][1] = clip(9)
    RawWriter(raw_b).pickle("following_cache4.pkl", following)
    manifest = build(FlintstonesSV, raw_b, tmp_path / "out", on_error="quarantine")
    assert manifest["splits"]["train"]["stories"] == {"seen": 5, "written": 4, "rejected": 1}
    (line,) = lost(tmp_path / "out")
    assert line["record"] == clip(3)
    assert clip(9) in line["reason"]
    assert line["file"] == "following_cache4.pkl"


class Attack:
    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize("name", ["following_cache4.pkl", "labels.pkl"])
def test_a_pickle_that_would_run_code_is_refused_by_name(raw_b, tmp_path, name, capsys):
    RawWriter(raw_b).pickle(name, {clip(1): Attack()})
    with pytest.raises(UnsafePickleError, match=rf"{name}.*__builtin__\.print|{name}.*builtins\.print"):
        build(FlintstonesSV, raw_b, tmp_path / "out", on_error="quarantine")
    assert "this must never" not in capsys.readouterr().out


def broken(kind, raw):
    """Damage one clip and return (its number, words the reason must have, stories that go with it)."""
    path = raw / f"video_frames_sampled/{clip(6)}.npy"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
        return "truncated"
    if kind == "missing":
        path.unlink()
        return "missing"
    if kind == "wrong shape":
        np.save(path, np.zeros((5, 128, 128), np.uint8))
        return "shape"
    annotations = json.loads((raw / "flintstones_annotations_v1-0.json").read_text())
    entry = next(a for a in annotations if a["globalID"] == clip(6))
    entry.update({"caption type": {"description": ["two", "texts"]}, "no characters": {"characters": 5}}[kind])
    RawWriter(raw).json("flintstones_annotations_v1-0.json", annotations)
    return {"caption type": "caption is list, expected text", "no characters": "published form"}[kind]


@pytest.mark.parametrize("kind", ["truncated", "missing", "wrong shape", "caption type", "no characters"])
def test_one_bad_clip_is_one_clear_error_or_one_line(raw_b, tmp_path, kind):
    words = broken(kind, raw_b)
    with pytest.raises(BuildError) as caught:
        build(FlintstonesSV, raw_b, tmp_path / "out")
    message = str(caught.value)
    assert words in message
    assert clip(6) in message
    assert "--on-error quarantine" in message
    build(FlintstonesSV, raw_b, tmp_path / "out", on_error="quarantine")
    (line,) = lost(tmp_path / "out")
    assert words in line["reason"]
    assert line["record"] == clip(6)
    assert line["stories"] == [f"flintstones_sv/{clip(k)}" for k in (2, 3, 4, 5)]
    assert [row["frame_ids"][0] for row in rows(tmp_path / "out", "annotations", "train")] == [clip(1)]


def test_a_clip_in_two_splits_is_refused(raw_b, tmp_path):
    RawWriter(raw_b).json("train-val-test_split.json", {"train": [clip(1)], "val": [clip(1)], "test": []})
    with pytest.raises(SourceError, match="two splits"):
        build(FlintstonesSV, raw_b, tmp_path / "out")


def test_float_frames_of_whole_numbers_are_read_as_bytes(raw_b, tmp_path):
    path = raw_b / f"video_frames_sampled/{clip(1)}.npy"
    stack = np.load(path)
    np.save(path, stack.astype(np.float64))
    build(FlintstonesSV, raw_b, tmp_path / "out")
    assert (np.asarray(rows(tmp_path / "out", "frames", "train")[0]["images"][4]) == stack[4]).all()


@pytest.mark.parametrize("list_all", [False, True])
def test_the_published_validation_split_has_2071_stories_with_the_right_ids(tmp_path, list_all):
    if not CAPTIONS.exists():
        pytest.skip("the public FlintstonesSV captions are not at ../shared/data/flintstones_sv_captions")
    spec = importlib.util.spec_from_file_location("script", ROOT / "scripts/flintstones_from_captions.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    laid = script.lay(CAPTIONS, RawWriter(tmp_path / "raw"), size=16, list_all=list_all, cache=not list_all)
    manifest = build(FlintstonesSV, tmp_path / "raw", tmp_path / "out")
    assert manifest["splits"]["validation"]["stories"]["written"] == 2071
    published = json.loads(CAPTIONS.read_text())
    by_episode = defaultdict(list)
    for entry in published:
        by_episode[entry["image"][:9]].append(entry["image"].removesuffix(".png"))
    stories = rows(tmp_path / "out", "annotations", "validation")
    assert [row["frame_ids"][0] for row in stories] == sorted(e["image"].removesuffix(".png") for e in published)
    captions = {entry["image"].removesuffix(".png"): entry["text"] for entry in published}
    for row in stories:
        ids = by_episode[row["frame_ids"][0][:9]]
        at = ids.index(row["frame_ids"][0])
        inside = ids[at : at + 5]
        assert row["frame_ids"][: len(inside)] == inside
        assert row["captions"][: len(inside)] == [captions[frame] for frame in inside]
        assert len(row["frame_ids"]) == 5
        assert row["frame_ids"] == laid[row["frame_ids"][0]]
        assert row["frame_ids"] == sorted(set(row["frame_ids"]))
        assert {frame[:9] for frame in row["frame_ids"]} == {row["sequence_id"]}


def test_a_start_whose_followers_are_not_annotated_is_a_reject(tmp_path):
    """Without a cache nothing but the list says that a story begins there."""
    write_release(RawWriter(tmp_path / "raw"), {"train": {"s_01_e_01": 6, "s_01_e_02": 6}}, variant="B")
    (tmp_path / "raw/following_cache4.pkl").unlink()
    file = tmp_path / "raw/flintstones_annotations_v1-0.json"
    kept = [entry for entry in json.loads(file.read_text()) if entry["globalID"] != clip(6, "s_01_e_01")]
    file.write_text(json.dumps(kept))
    manifest = build(FlintstonesSV, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    (line,) = [json.loads(text) for text in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert line["stories"] == [f"flintstones_sv/{clip(2, 's_01_e_01')}"]
    assert manifest["splits"]["train"]["stories"] == {"seen": 4, "written": 3, "rejected": 1}


def test_a_list_of_a_split_that_is_none_is_named(tmp_path):
    write_release(RawWriter(tmp_path / "raw"), {"train": {"s_01_e_01": 6}, "valid": {"s_01_e_02": 6}}, variant="B")
    with pytest.raises(SourceError, match=r"lists of valid; the splits are train, val, test .*split\.json"):
        build(FlintstonesSV, tmp_path / "raw", tmp_path / "out")


def test_a_package_without_its_folder_of_frames_is_refused_as_a_whole(tmp_path):
    write_release(RawWriter(tmp_path / "raw"), {"train": {"s_01_e_01": 6}}, variant="B")
    (tmp_path / "raw/video_frames_sampled").rename(tmp_path / "raw/video_frames")
    with pytest.raises(SourceError, match=r"there is nothing in video_frames_sampled/"):
        build(FlintstonesSV, tmp_path / "raw", tmp_path / "out", on_error="quarantine")

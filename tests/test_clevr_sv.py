"""CLEVR-SV: vectors and the words for them, splits by number, incomplete stories, and the real stories."""

import io
import json
import os
import pickle
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from datasets import Image, List, load_dataset
from openstory_hf.builders.clevr_sv import VECTORS, ClevrSV, write_story
from PIL import Image as PIL

from openstory_hf.build import build
from openstory_hf.check import check
from openstory_hf.errors import SourceError, UnsafePickleError
from openstory_hf.fakes import RawWriter

REAL = Path(__file__).parents[2] / "shared/data/clevr_sv"
SHAPES = ["cube", "sphere", "cylinder"]
COLORS = ["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"]


def built(raw, out, **options):
    """The manifest, the rows by split and id with encoded pictures, and the rejects by record."""
    manifest = build(ClevrSV, raw, out, on_error="quarantine", options=options)
    rows = load_dataset(str(out), streaming=True).cast_column("images", List(Image(decode=False)))
    stories = {split: {row["story_id"]: row for row in table} for split, table in rows.items()}
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    return manifest, stories, {line["record"]: line for line in lines}


def write(raw, *stories, **changes):
    """A release of good stories; `changes` replaces the vectors of pictures named like s000100_1 by other ones."""
    writer = RawWriter(raw)
    vectors = {name: vector for story in stories for name, vector in write_story(writer, story).items()}
    for frame, change in changes.items():
        vectors[f"CLEVR_new_{frame[1:]}.png"] = change(vectors[f"CLEVR_new_{frame[1:]}.png"])
    writer.objects(VECTORS, vectors)


def vector_of(*blocks):
    """75 numbers from (ones of the one-hot parts, position) per object."""
    vector = np.zeros(75)
    for at, (ones, position) in enumerate(blocks):
        vector[[18 * at + one for one in ones]] = 1
        vector[18 * at + 15 : 18 * at + 18] = position
    vector[72:] = 0.656, 0.754, -0.0
    return vector


def test_every_broken_story_of_the_fake_release_is_named_once(tmp_path):
    ClevrSV.fake(RawWriter(tmp_path / "raw"))
    manifest, stories, rejects = built(tmp_path / "raw", tmp_path / "out")
    assert list(stories["train"]) == ["clevr_sv/000100", "clevr_sv/000101", "clevr_sv/000172"]
    assert list(stories["test"]) == ["clevr_sv/000173", "clevr_sv/000174"]
    reasons = {record: (line["split"], line["stories"], line["reason"]) for record, line in rejects.items()}
    for record, story, words in (
        ("000172", "000172", "both splits"),
        ("000175", "000175", "3 pictures and 4 vectors"),
        ("000176_2", "000176", "does not decode"),
        ("000177_1", "000177", "shape (16,), expected 75"),
        ("000178_1", "000178", "names none of cube, sphere, cylinder"),
        ("000179_2", "000179", "more objects than the 2"),
        ("000195", "000195", "CLEVR_new_000195_4.png, CLEVR_new_000195_5.png"),
        ("000196", "000196", "4 pictures and 0 vectors"),
    ):
        split, lost, reason = reasons.pop(record)
        assert (split, lost) == ("test", [f"clevr_sv/{story}"])
        assert words in reason
    assert not reasons
    assert manifest["splits"]["test"]["stories"] == {"seen": 10, "written": 2, "rejected": 8}


def test_words_follow_the_published_order_of_the_classes(tmp_path):
    small_red_rubber_cube = ((0, 4, 11, 14), (2.5, -1.0, 0.35))
    large_yellow_metal_sphere = ((1, 10, 12, 13), (-3.0, 0.5, 0.7))
    write(
        tmp_path / "raw",
        100,
        s000100_1=lambda _: vector_of(small_red_rubber_cube),
        s000100_2=lambda _: vector_of(small_red_rubber_cube, large_yellow_metal_sphere),
    )
    _, stories, _ = built(tmp_path / "raw", tmp_path / "out")
    row = stories["train"]["clevr_sv/000100"]
    first, second = json.loads(row["extras"])["frames"][:2]
    assert first["description"] == "small red rubber cube"
    assert second["description"] == "small red rubber cube, large yellow metal sphere"
    assert second["objects"][1] == {
        "shape": "sphere",
        "color": "yellow",
        "material": "metal",
        "size": "large",
        "position": [-3.0, 0.5, 0.7],
    }
    assert second["right"] == [0.656, 0.754, 0.0]
    assert second["vector"] == vector_of(small_red_rubber_cube, large_yellow_metal_sphere).tolist()
    assert row["captions"] == row["referential_captions"] == [""] * 4
    assert row["frame_ids"] == ["000100_1", "000100_2", "000100_3", "000100_4"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v[:-1], "shape (74,)"),
        (lambda v: v.reshape(3, 25), "shape (3, 25)"),
        (lambda v: np.where(np.arange(75) == 16, np.nan, v), "75 finite numbers"),
        (lambda v: np.where(np.arange(75) < 3, 0.0, v), "the shape of object 1 is [0.0, 0.0, 0.0]"),
        (lambda v: np.where(np.isin(np.arange(75), range(21, 29)), 1.0, v), "the color of object 2"),
        (lambda v: np.where(np.arange(75) == 70, 0.1, v), "more objects than the 2"),
        (lambda v: vector_of(), "the shape of object 1"),
        (lambda v: "CLEVR", "does not have the published form"),
    ],
)
def test_a_vector_that_cannot_be_what_the_picture_shows_is_a_reject_of_that_picture(tmp_path, change, words):
    write(tmp_path / "raw", 100, 101, s000101_2=change)
    manifest, stories, rejects = built(tmp_path / "raw", tmp_path / "out")
    assert list(stories["train"]) == ["clevr_sv/000100"]
    assert list(rejects) == ["000101_2"]
    assert words in rejects["000101_2"]["reason"]
    assert manifest["splits"]["train"]["frames"] == {"seen": 8, "written": 7, "rejected": 1}


def test_vectors_of_another_number_type_say_the_same(tmp_path):
    write(tmp_path / "raw", 100, s000100_1=lambda v: v.astype(np.float32), s000100_2=lambda v: v.astype(">f8"))
    write(tmp_path / "same", 100)
    found, expected = (built(tmp_path / name, tmp_path / f"{name}-out")[1]["train"] for name in ("raw", "same"))
    one, other = (json.loads(rows["clevr_sv/000100"]["extras"])["frames"] for rows in (found, expected))
    assert [frame["description"] for frame in one] == [frame["description"] for frame in other]
    assert one[0]["vector"] == pytest.approx(other[0]["vector"], abs=1e-6)
    assert one[1:] == other[1:]


def test_no_story_is_in_two_splits_and_train_has_the_shared_one(tmp_path):
    write(tmp_path / "raw", 171, 172, 173)
    _, stories, rejects = built(tmp_path / "raw", tmp_path / "out")
    assert list(stories["train"]) == ["clevr_sv/000171", "clevr_sv/000172"]
    assert list(stories["test"]) == ["clevr_sv/000173"]
    assert rejects["000172"]["split"] == "test"


def test_numbers_the_released_code_does_not_split_must_be_given_ranges(tmp_path):
    write(tmp_path / "raw", 7, 3100, 3101, 4000)
    with pytest.raises(SourceError, match="4 stories, 000007 to 004000, are in no split") as caught:
        build(ClevrSV, tmp_path / "raw", tmp_path / "none")
    assert "--train-stories FIRST-LAST" in str(caught.value)
    with pytest.raises(SourceError, match="'3100' is not a range"):
        build(ClevrSV, tmp_path / "raw", tmp_path / "none", options={"train_stories": ["3100"]})
    _, stories, rejects = built(
        tmp_path / "raw", tmp_path / "out", train_stories=["0-10", "3100-3100"], test_stories=["3101-9999"]
    )
    assert list(stories["train"]) == ["clevr_sv/000007", "clevr_sv/003100"]
    assert list(stories["test"]) == ["clevr_sv/003101", "clevr_sv/004000"]
    assert not rejects


def test_the_generators_folder_is_found_where_it_lies_and_its_scenes_are_kept(tmp_path):
    write(tmp_path / "raw/somewhere/inc_output", 100, 101)
    scene = {"image_index": 100, "objects": [{"pixel_coords": [94, 138, 10.5]}]}
    RawWriter(tmp_path / "raw/somewhere/inc_output").json("scenes/CLEVR_new_000100.json", scene)
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "raw")
    for at, raw in enumerate((tmp_path / "raw", archive)):
        _, stories, _ = built(raw, tmp_path / f"out{at}")
        extras = {name: json.loads(row["extras"]) for name, row in stories["train"].items()}
        assert extras["clevr_sv/000100"]["scene"] == scene
        assert "scene" not in extras["clevr_sv/000101"]


def test_pictures_keep_their_bytes_and_their_alpha(tmp_path):
    write(tmp_path / "raw", 100)
    _, stories, _ = built(tmp_path / "raw", tmp_path / "out")
    files = sorted((tmp_path / "raw/images").iterdir())
    images = stories["train"]["clevr_sv/000100"]["images"]
    assert [image["bytes"] for image in images] == [file.read_bytes() for file in files]
    decoded = [PIL.open(io.BytesIO(image["bytes"])) for image in images]
    assert {(image.mode, image.size) for image in decoded} == {("RGBA", (320, 240))}
    seen = [np.asarray(image).astype(int) for image in decoded]
    changed = [(before != after).any(axis=-1) for before, after in pairwise(seen)]
    assert all(mask.any() for mask in changed)  # every picture of the fake has one more object ...
    assert max(sum(mask.astype(int) for mask in changed).ravel()) == 1  # ... and the others stay where they are


@pytest.mark.parametrize("broken", ["no vectors", "no pictures", "not a dict", "other names"])
def test_a_folder_that_is_not_the_release_says_which_files_it_must_have(tmp_path, broken):
    raw = RawWriter(tmp_path / "raw")
    vectors = write_story(raw, 100)
    if broken == "no pictures":
        shutil.rmtree(tmp_path / "raw/images")
    if broken == "other names":
        vectors["CLEVR_val_000000.png"] = np.zeros(75)
    if broken != "no vectors":
        raw.objects(VECTORS, list(vectors.values()) if broken == "not a dict" else vectors)
    with pytest.raises(SourceError, match="Files the release must have"):
        build(ClevrSV, tmp_path / "raw", tmp_path / "out", on_error="quarantine")


def test_the_vectors_are_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    write_story(raw := RawWriter(tmp_path / "raw"), 100)
    raw.objects(VECTORS, {"CLEVR_new_000100_1.png": Trap()})
    with pytest.raises(UnsafePickleError, match="mkdir"):
        build(ClevrSV, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    assert not (tmp_path / "trapped").exists()


def real_vectors():
    """The dictionary as the standard library reads it, with numpy's own classes and nothing else."""

    class ThreeNames(pickle.Unpickler):
        def find_class(self, module, name):
            assert module in ("numpy", "numpy.core.multiarray")
            return {"_reconstruct": np.zeros(1).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}[name]

    with (REAL / "CLEVR_dict.npy").open("rb") as stream:
        assert np.lib.format.read_magic(stream) == (1, 0)
        assert np.lib.format.read_array_header_1_0(stream)[0] == ()
        return ThreeNames(stream, encoding="latin1").load().item()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not REAL.exists():
        pytest.skip("the real stories are not at ../shared/data/clevr_sv")
    out = tmp_path_factory.mktemp("clevr") / "out"
    return out, *built(REAL, out)


def test_real_stories_are_all_accounted_for(real):
    out, manifest, stories, rejects = real
    assert check(out) == []
    pictures = Counter(path.name[10:16] for path in (REAL / "images").iterdir())
    assert set(pictures.values()) == {4}
    written = [story_id[-6:] for rows in stories.values() for story_id in rows]
    assert written == sorted(pictures)
    assert list(stories["test"]) == ["clevr_sv/000173"]
    described = {f"{number:06d}" for number in range(100, 196)}  # 384 vectors, though this copy has few pictures
    assert set(rejects) == described - set(pictures) | {"000172"}
    assert manifest["splits"]["train"]["stories"]["seen"] == manifest["splits"]["train"]["published_stories"] == 73
    assert rejects["000108"]["reason"].startswith("0 pictures and 4 vectors where 4 of each are expected")


def test_real_vectors_and_pictures_are_the_ones_of_the_release(real):
    _, _, stories, _ = real
    vectors = real_vectors()
    for story_id, row in (item for rows in stories.values() for item in rows.items()):
        frames = json.loads(row["extras"])["frames"]
        for k, (frame, image) in enumerate(zip(frames, row["images"], strict=True), 1):
            name = f"CLEVR_new_{story_id[-6:]}_{k}.png"
            assert image == {"path": name, "bytes": (REAL / "images" / name).read_bytes()}
            vector = vectors[name]
            assert frame["vector"] == vector.tolist()
            assert len(frame["objects"]) == k
            for item, block in zip(frame["objects"], vector[:72].reshape(4, 18), strict=False):
                assert item["shape"] == SHAPES[block[:3].argmax()]
                assert item["color"] == COLORS[block[3:11].argmax()]
                assert item["material"] == ("rubber", "metal")[block[11:13].argmax()]
                assert item["size"] == ("large" if block[17] > 0.5 else "small")
                assert item["position"] == block[15:].tolist()


def test_real_pictures_show_the_words(real):
    _, _, stories, _ = real
    story = json.loads(stories["train"]["clevr_sv/000100"]["extras"])["frames"][3]["description"]
    assert story == (  # seen in the picture
        "small red rubber cube, small blue metal cylinder, large yellow metal cylinder, large green metal sphere"
    )


def test_a_story_whose_scene_is_damaged_is_counted(tmp_path):
    write(tmp_path / "raw", 100, 101)
    RawWriter(tmp_path / "raw").text("scenes/CLEVR_new_000100.json", "{")
    manifest = build(ClevrSV, tmp_path / "raw", tmp_path / "out", on_error="quarantine", splits=["train"])
    (line,) = [json.loads(text) for text in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert (line["stories"], line["file"]) == (["clevr_sv/000100"], "scenes/CLEVR_new_000100.json")
    assert manifest["splits"]["train"]["stories"] == {"seen": 2, "written": 1, "rejected": 1}

"""PororoSV: stories, strips, caches and captions of both variants, against independent readings of the raw files."""

import io
import json
import pickle
import shutil
from itertools import cycle

import numpy as np
import pytest
from datasets import load_dataset
from openstory_hf.builders import pororo_sv
from openstory_hf.builders.pororo_sv import CAST, SCRIPT, PororoSV, draw
from PIL import Image
from pycocotools import mask as coco

from openstory_hf.build import build
from openstory_hf.conformance import conform
from openstory_hf.errors import SourceError, UnsafePickleError
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.forms import strips
from openstory_hf.forms.stacks import StoryGPTV, segments_of, write_stack
from openstory_hf.raw import Raw
from openstory_hf.records import Reject

LONG, SHORT = "V_1_ep1", "V_2_ep3"
EPISODES = {LONG: 14, SHORT: 6}
# train covers 1-6 and 8-14, with a hole of one segment; validation covers 4-8 and 9-13, which adjoin
SPLIT = {
    "train": [(LONG, 1), (LONG, 10), (LONG, 2), (LONG, 8)],
    "val": [(LONG, 4), (LONG, 9)],
    "test": [(SHORT, 2), (SHORT, 1)],
}
NAMES = {"train": "train", "validation": "val", "test": "test"}


def name_of(variant, episode, number):
    joint = "/" if variant == "B" else "_"
    return joint.join((episode.split("_ep")[0], episode, str(number)))


def write_release(raw, variant):
    """A sound release of EPISODES whose stories start where SPLIT says."""
    starts = {split: [name_of(variant, *start) for start in chosen] for split, chosen in SPLIT.items()}
    if variant == "B":
        strips.write_index(raw, starts, **draw(raw, EPISODES))
        return
    cleaned, labels, following = {}, {}, {}
    for episode, count in EPISODES.items():
        names = [name_of(variant, episode, number) for number in range(1, count + 1)]
        following |= {names[at]: names[at + 1 : at + 4] for at in range(count - 4)}
        for at, (name, (place, cast, captions)) in enumerate(zip(names, cycle(SCRIPT))):
            drawn = [scene(cast, size=192, step=at + k, place=place) for k in range(2 + at % 3)]
            write_stack(raw, StoryGPTV, name, drawn)
            cleaned[name] = {"captions": captions, "segments": segments_of(cast, drawn[0])}
            labels[name] = [float(who in cast) for who in CAST]
    raw.json("cleaned_annotations.json", cleaned)
    raw.json("split.json", starts)
    raw.pickle("following_cache3.pkl", following)
    raw.pickle("labels.pkl", labels)


def rows(out, table, split):
    return list(load_dataset(str(out), table, split=split, streaming=True))


def lost(out):
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def objects(path):
    return np.load(path, allow_pickle=True).item()  # written by this test run


def save_objects(path, value):
    np.save(path, np.array(value, dtype=object), allow_pickle=True)


@pytest.fixture(scope="module", params=["B", "C"])
def release(request, tmp_path_factory):
    """(variant, raw folder, built folder) of a sound release."""
    folder = tmp_path_factory.mktemp(f"pororo-{request.param}")
    write_release(RawWriter(folder / "raw"), request.param)
    build(PororoSV, folder / "raw", folder / "out")
    return request.param, folder / "raw", folder / "out"


@pytest.fixture
def raw_b(tmp_path):
    write_release(RawWriter(tmp_path / "raw"), "B")
    return tmp_path / "raw"


@pytest.fixture
def raw_c(tmp_path):
    write_release(RawWriter(tmp_path / "raw"), "C")
    return tmp_path / "raw"


def test_stories_are_the_five_segments_from_every_listed_start_on(release):
    variant, _, out = release
    for split, source in NAMES.items():
        starts = sorted(SPLIT[source], key=lambda start: start[1])
        expected = [[name_of(variant, e, n + k) for k in range(5)] for e, n in starts]
        stories = rows(out, "stories", split)
        assert [row["frame_ids"] for row in stories] == expected
        assert [row["story_id"] for row in stories] == [f"pororo_sv/{ids[0]}" for ids in expected]


def test_a_split_holds_the_frames_of_its_stories_in_runs_without_gaps(release):
    variant, _, out = release
    expected = {"train": [range(1, 7), range(8, 15)], "validation": [range(4, 14)], "test": [range(1, 7)]}
    for split, runs in expected.items():
        episode = SHORT if split == "test" else LONG
        found = {}
        for row in rows(out, "frames", split):
            found.setdefault(row["sequence_id"], []).append((row["position"], row["frame_id"]))
        wanted = [[(at, name_of(variant, episode, n)) for at, n in enumerate(run)] for run in runs]
        assert list(found.values()) == wanted


def test_pictures_are_the_squares_of_the_strips_or_the_arrays_pixel_for_pixel(release):
    variant, raw, out = release
    counts = set()
    for row in rows(out, "frames", "train"):
        if variant == "B":
            with Image.open(raw / f"{row['frame_id']}.png") as strip:
                side = strip.width
                shots = [np.asarray(strip.crop((0, top, side, top + side))) for top in range(0, strip.height, side)]
        else:
            shots = list(np.load(raw / "video_frames_sampled_4x" / f"{row['frame_id']}.npy"))
        counts.add(len(shots))
        assert [np.asarray(image).tolist() for image in row["images"]] == [shot.tolist() for shot in shots]
        assert row["key_image"] == {2: 1, 3: 1, 4: 2}[len(shots)]
    assert counts == {2, 3, 4}


def test_the_first_caption_is_stored_and_the_others_and_labels_are_in_extras(release):
    variant, raw, out = release
    if variant == "B":
        captions, labels = objects(raw / "descriptions.npy"), objects(raw / "labels.npy")
    else:
        captions = {k: v["captions"] for k, v in json.loads((raw / "cleaned_annotations.json").read_text()).items()}
        labels = pickle.loads((raw / "labels.pkl").read_bytes())
    cast = ["pororo", "loopy", "crong", "eddy", "poby", "petty", "tongtong", "rody", "harry"]
    for row in rows(out, "frames", "validation"):
        extras = json.loads(row["extras"])
        assert [row["caption"], *extras["other_captions"]] == captions[row["frame_id"]]
        assert extras["labels"] == list(labels[row["frame_id"]])
        assert row["characters"] == [cast[i] for i in range(9) if labels[row["frame_id"]][i]]
    story = rows(out, "stories", "train")[0]
    assert story["captions"][1] == "Pororo says that it’s snowing. "
    assert {c.name: c.pronouns for c in PororoSV.INFO.characters} == dict.fromkeys(cast, "he") | {
        "loopy": "she",
        "petty": "she",
    }


def test_masks_and_boxes_equal_the_source(release):
    variant, raw, out = release
    compared = 0
    cleaned = {} if variant == "B" else json.loads((raw / "cleaned_annotations.json").read_text())
    for row in rows(out, "frames", "train"):
        for k, (image, instances) in enumerate(zip(row["images"], row["instances"], strict=True)):
            segments = cleaned[row["frame_id"]]["segments"] if cleaned else []
            assert [item["label"] for item in instances] == [segment["word"] for segment in segments]
            for segment, item in zip(segments, instances, strict=True):
                source = np.load(raw / f"seg_mask_4x_comb/{row['frame_id']}-frame{k}.npy")
                x1, y1, x2, y2 = (value * image.width / 128 for value in segment["bbox"])
                assert item["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
                assert item["character"] == segment["word"]
                assert (coco.decode(item["segmentation"]) == (source == segment["id"])).all()
                compared += 1
    assert compared == 0 if variant == "B" else compared > 30


@pytest.mark.parametrize("form", ["unicode with a slash", "without followers", "three followers", "object array"])
def test_every_form_of_the_cache_gives_the_same_files(raw_b, tmp_path, form):
    expected = build(PororoSV, raw_b, tmp_path / "plain")["files"]
    cache, following = np.load(raw_b / "img_cache4.npy"), np.load(raw_b / "following_cache4.npy")
    assert [path.decode().rpartition("/")[2] for path in cache[:3]] == ["1.png", "10.png", "2.png"]
    if form == "unicode with a slash":
        np.save(raw_b / "img_cache4.npy", np.array([f"/{path.decode()}" for path in cache]))
        np.save(raw_b / "following_cache4.npy", np.array([[f"/{p.decode()}" for p in row] for row in following]))
    elif form == "object array":
        np.save(raw_b / "img_cache4.npy", cache.astype(object), allow_pickle=True)
    elif form == "three followers":
        np.save(raw_b / "following_cache4.npy", following[:, :3])
    else:
        (raw_b / "following_cache4.npy").unlink()
    assert build(PororoSV, raw_b, tmp_path / "out")["files"] == expected


def test_captions_from_the_csv_are_those_of_the_pickle(raw_b, tmp_path):
    build(PororoSV, raw_b, tmp_path / "pickle")
    captions = objects(raw_b / "descriptions.npy")
    captions[f"V_1/{LONG}/1"] = ['Pororo says "hi", loudly.', "A second line\nof text."]
    (raw_b / "descriptions.npy").unlink()
    lines = []
    for key, texts in captions.items():
        _, episode, number = key.split("/")
        lines += ['{},{},"{}"\n'.format(episode, number, text.replace('"', '""')) for text in texts]
    (raw_b / "descriptions.csv").write_text("".join(lines), encoding="utf-8")
    build(PororoSV, raw_b, tmp_path / "csv")
    one, other = (rows(tmp_path / source, "frames", "train") for source in ("pickle", "csv"))
    assert other[0]["caption"] == 'Pororo says "hi", loudly.'
    assert json.loads(other[0]["extras"])["other_captions"] == ["A second line\nof text."]
    assert [(r["caption"], r["extras"]) for r in one[1:]] == [(r["caption"], r["extras"]) for r in other[1:]]


def test_a_csv_row_that_is_not_three_columns_is_named(raw_b, tmp_path):
    (raw_b / "descriptions.npy").unlink()
    (raw_b / "descriptions.csv").write_text(f"{LONG},1,A caption.\n{LONG},2,Pororo, unquoted.\n")
    with pytest.raises(SourceError, match=r"row 2 has 4 columns.*descriptions\.csv"):
        build(PororoSV, raw_b, tmp_path / "out")


def test_a_csv_that_starts_with_a_mark_and_has_empty_lines_is_read(raw_b, tmp_path):
    build(PororoSV, raw_b, tmp_path / "pickle")
    captions = objects(raw_b / "descriptions.npy")
    (raw_b / "descriptions.npy").unlink()
    names = {name: name.split("/", 1)[1].replace("/", ",") for name in captions}
    lines = [f'{names[name]},"{text}"\n' for name, texts in captions.items() for text in texts]
    (raw_b / "descriptions.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    build(PororoSV, raw_b, tmp_path / "csv")
    assert lost(tmp_path / "csv") == lost(tmp_path / "pickle")
    one, other = (rows(tmp_path / source, "frames", "train") for source in ("pickle", "csv"))
    assert [row["caption"] for row in one] == [row["caption"] for row in other]


@pytest.mark.parametrize("length", [10, 200_000])
def test_a_quote_that_is_never_closed_does_not_swallow_the_rows_behind_it(raw_b, tmp_path, length):
    (raw_b / "descriptions.npy").unlink()
    (raw_b / "descriptions.csv").write_text(f'{LONG},1,"A caption.\n{LONG},2,{"long " * length}\n')
    with pytest.raises(SourceError, match=r"not a readable CSV.*descriptions\.csv"):
        build(PororoSV, raw_b, tmp_path / "out")


def python_2(text):
    """The byte string of Python 2 as its pickle has it: SHORT_BINSTRING, length, bytes."""
    return b"U" + bytes([len(text)]) + text


def test_captions_of_python_2_are_utf_8_where_they_are_and_latin_1_elsewhere(raw_b, tmp_path):
    texts = ["it’s Crong".encode(), b"caf\xe9", b"plain"]
    items = b"".join(
        python_2(f"V_1/{LONG}/{n}".encode()) + b"](" + python_2(texts[n % 3]) + b"e" for n in range(1, 15)
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(t"
        b"cnumpy\ndtype\n(U\x02O8I0\nI1\ntR(I3\nU\x01|NNNI-1\nI-1\nI63\ntbI00\n](}(" + items + b"uetb."
    )
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    (raw_b / "descriptions.npy").write_bytes(buffer.getvalue() + array)
    ids = np.empty(3, dtype=object)
    ids[:] = [[0], [], []]
    np.save(raw_b / "train_seen_unseen_ids.npy", ids, allow_pickle=True)
    build(PororoSV, raw_b, tmp_path / "out")
    (story,) = rows(tmp_path / "out", "stories", "train")
    assert story["captions"] == ["café", "plain", "it’s Crong", "café", "plain"]


def test_rows_below_the_last_square_are_counted_and_regions_are_kept(raw_b, tmp_path):
    path, name = raw_b / f"V_1/{LONG}/1.png", f"V_1/{LONG}/1"
    pixels = np.asarray(Image.open(path))
    Image.fromarray(pixels[:100]).save(path)  # 64 wide: one square and 36 rows
    regions = {f"{name}.png_0": [{"box": [1.5, 2, 3, 4], "score": 0.5, "cap": "a penguin", "cap_idx": 7}]}
    RawWriter(raw_b).json("densecap_annotations.json", regions)
    build(PororoSV, raw_b, tmp_path / "out")
    row = rows(tmp_path / "out", "frames", "train")[0]
    assert np.asarray(row["images"][0]).tolist() == pixels[:64].tolist()
    assert len(row["images"]) == 1
    extras = json.loads(row["extras"])
    assert extras["rows_left"] == 36
    assert extras["densecap"] == {"0": regions[f"{name}.png_0"]}


def test_strips_in_a_folder_below_the_index_files_are_found(raw_b, tmp_path):
    expected = build(PororoSV, raw_b, tmp_path / "plain")
    (raw_b / "png").mkdir()
    for volume in ("V_1", "V_2"):
        shutil.move(raw_b / volume, raw_b / "png" / volume)
    found = build(PororoSV, raw_b, tmp_path / "out")
    assert found["splits"] == expected["splits"]
    for split in NAMES:
        one, other = (rows(tmp_path / folder, "annotations", split) for folder in ("plain", "out"))
        assert one == other


def test_a_story_in_two_splits_stays_in_the_first(raw_b, tmp_path):
    ids = np.load(raw_b / "train_seen_unseen_ids.npy", allow_pickle=True)
    ids[2] = [*ids[2], ids[0][0]]
    np.save(raw_b / "train_seen_unseen_ids.npy", ids, allow_pickle=True)
    manifest = build(PororoSV, raw_b, tmp_path / "out", on_error="quarantine")
    assert manifest["splits"]["test"]["stories"] == {"seen": 3, "written": 2, "rejected": 1}
    (line,) = lost(tmp_path / "out")
    assert line["record"] == f"V_1/{LONG}/1"
    assert line["split"] == "test"
    assert "in train already" in line["reason"]


def test_positions_that_do_not_fit_the_cache_stop_the_build(raw_b, tmp_path):
    ids = np.load(raw_b / "train_seen_unseen_ids.npy", allow_pickle=True)
    ids[1] = [*ids[1], 12]
    np.save(raw_b / "train_seen_unseen_ids.npy", ids, allow_pickle=True)
    with pytest.raises(SourceError, match=r"position 12 is not among the 12 of img_cache4\.npy"):
        build(PororoSV, raw_b, tmp_path / "out", on_error="quarantine")


def test_a_cache_of_another_length_stops_the_build(raw_b, tmp_path):
    np.save(raw_b / "following_cache4.npy", np.load(raw_b / "following_cache4.npy")[:-1])
    with pytest.raises(SourceError, match=r"11 rows for the 12 starts"):
        build(PororoSV, raw_b, tmp_path / "out", on_error="quarantine")


class Attack:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_a_pickle_that_would_run_code_is_refused_by_name(raw_b, tmp_path, capsys):
    save_objects(raw_b / "labels.npy", {f"V_1/{LONG}/1": Attack()})
    with pytest.raises(UnsafePickleError, match=r"labels\.npy.*print"):
        build(PororoSV, raw_b, tmp_path / "out", on_error="quarantine")
    assert "this must never" not in capsys.readouterr().out


@pytest.mark.parametrize("cache", [True, False])
def test_c_lists_of_all_segments_and_of_starts_give_the_same_stories(raw_c, tmp_path, cache):
    chosen = {"train": [name_of("C", LONG, n) for n in range(1, 11)], "val": [], "test": []}
    if not cache:
        (raw_c / "following_cache3.pkl").unlink()
    built = []
    for extra in ([], [name_of("C", LONG, n) for n in range(11, 15)]):
        RawWriter(raw_c).json("split.json", chosen | {"train": chosen["train"] + extra})
        built.append(build(PororoSV, raw_c, tmp_path / f"out{len(extra)}")["splits"]["train"]["stories"]["written"])
    assert built == [10, 10]


def test_c_without_labels_takes_the_characters_of_the_segments(raw_c, tmp_path):
    (raw_c / "labels.pkl").unlink()
    shutil.rmtree(raw_c / "seg_mask_4x_comb")
    build(PororoSV, raw_c, tmp_path / "out")
    row = rows(tmp_path / "out", "frames", "train")[0]
    assert row["characters"] == ["pororo", "crong"]
    assert row["instances"][0][0]["segmentation"] is None


def test_c_keeps_the_promises_of_conformance(tmp_path, monkeypatch):
    def fake(raw):
        write_release(raw, "C")
        (raw.path / f"seg_mask_4x_comb/{name_of('C', LONG, 14)}-frame1.npy").unlink()
        (raw.path / f"video_frames_sampled_4x/{name_of('C', LONG, 7)}.npy").write_bytes(b"\x93NUMPY")

    monkeypatch.setattr(PororoSV, "fake", staticmethod(fake))
    manifest = conform(PororoSV, tmp_path)
    assert manifest["splits"]["train"]["stories"] == {"seen": 4, "written": 3, "rejected": 1}
    assert manifest["splits"]["validation"]["stories"] == {"seen": 2, "written": 1, "rejected": 1}


def test_fake_breaks_one_record_of_every_kind(tmp_path):
    PororoSV.fake(RawWriter(tmp_path / "raw"))
    build(PororoSV, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    kinds = [
        ("file is missing", ".png"),
        ("image file is truncated", ".png"),
        ("wider than tall", ".png"),
        ("no caption", "descriptions.npy"),
        ("no caption", "descriptions.npy"),
        ("caption is list", "descriptions.npy"),
        ("the cache says", strips.FOLLOWING),
        ("shape (7,)", "labels.npy"),
        ("cannot identify image file", ".png"),
        ("lone surrogate", "descriptions.npy"),
        ("listed again", strips.IDS),
    ]
    found = lost(tmp_path / "out")
    assert len(found) == len(kinds)
    for line, (words, file) in zip(found, kinds, strict=True):
        assert words in line["reason"]
        assert line["file"].endswith(file)
        assert len(line["stories"]) == 1
        assert "0x" not in line["reason"]


def test_numbers_padded_with_zeros_go_on_padded():
    assert list(pororo_sv.story("V_V_ep1_0097").values()) == [f"V_V_ep1_0{n:03d}" for n in range(97, 102)]
    assert list(pororo_sv.story("V/V_ep1/97").values()) == [f"V/V_ep1/{n}" for n in range(97, 102)]


def test_pixels_are_those_of_the_file_in_rgb_and_damage_is_named(tmp_path):
    palette = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 12) % 3, mode="P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    (tmp_path / "c.png").write_bytes(b"text")
    raw = Raw(tmp_path)
    assert raw.pixels("a.png").tolist() == (np.eye(3, dtype=int)[np.arange(48).reshape(4, 12) % 3] * 255).tolist()
    for name in ("b.png", "c.png"):
        with pytest.raises(Reject, match="not a whole picture") as caught:
            raw.pixels(name)
        assert caught.value.file == name

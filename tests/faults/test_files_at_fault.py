"""Files: arrays, pickles, JSON, texts, archives and tables that are cut, changed, hostile, or merely odd."""
# ruff: noqa: E501 - tables of faults, one a line

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judge import Fault, Kept, LeftOut, Stops, judge, parametrize, rows_of
from openstory_hf.builders import clevr_sv
from sound_releases import Damaged, builder_of

from openstory_hf.build import build
from openstory_hf.errors import BuildError
from openstory_hf.finish import REJECTS

# -- what is done to a file ---------------------------------------------------------------------------------


def cut(name, share=0.5):
    return lambda raw: raw.edit(name, lambda data: data[: int(len(data) * share)])


def holds(name, data):
    return lambda raw: raw.bytes(name, data)


def gone(name):
    return lambda raw: (raw.path / name).unlink()


def folder_instead(name):
    def damage(raw):
        (raw.path / name).unlink()
        (raw.path / name).mkdir()

    return damage


def flip(name, place):
    """Change one bit; `place` counts from the end where it is negative, and finds a text where it is one."""

    def change(data):
        at = data.index(place) if isinstance(place, bytes) else place % len(data)
        return data[:at] + bytes([data[at] ^ 0x04]) + data[at + 1 :]

    return lambda raw: raw.edit(name, change)


def replaced(name, old, new):
    def change(data):
        assert old in data
        return data.replace(old, new, 1)

    return lambda raw: raw.edit(name, change)


def json_of(name, change):
    return lambda raw: raw.edit_json(name, change)


def array(name, value):
    return lambda raw: raw.npy(name, value(np.load(raw.path / name)) if callable(value) else value)


# -- arrays -------------------------------------------------------------------------------------------------

STACK = "video_frames_sampled/s_01_e_01_shot_000600_000674.npy"  # of the last clip, so that one story is lost
SHOT = "s_01_e_01_shot_000600_000674"
MASK = f"seg_mask_4x_comb/{SHOT}-frame3.npy"
B, C = "flintstones_sv-B", "flintstones_sv-C"
one_story = partial(LeftOut, stories=1)


def announcing(shape, kind="|u1", version=1):
    """The header of a `.npy` and next to nothing behind it."""
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text + b"\0" * 64


class Touch:
    """Pickled, it asks to make a file."""

    def __reduce__(self):
        return os.mkdir, ("openstory-was-here",)


def objects(value):
    buffer = io.BytesIO()
    np.save(buffer, np.array(value, dtype=object), allow_pickle=True)
    return buffer.getvalue()


ARRAYS = [
    Fault("array-missing", B, gone(STACK), one_story("missing")),
    Fault("array-is-a-folder", B, folder_instead(STACK), one_story("missing")),
    Fault("array-empty", B, holds(STACK, b""), one_story("not a readable .npy")),
    Fault("array-truncated", B, cut(STACK), one_story("truncated .npy")),
    Fault("array-truncated-in-its-header", B, cut(STACK, 0.00005), one_story("not a readable .npy")),
    Fault("array-overlong", B, lambda raw: raw.edit(STACK, lambda data: data + b"x"), one_story("overlong .npy")),
    Fault("array-bit-flipped-magic", B, flip(STACK, 2), one_story("not a readable .npy")),
    Fault("array-bit-flipped-header", B, flip(STACK, b"'descr'"), one_story("not a readable .npy")),
    Fault("array-of-an-unknown-version", B, holds(STACK, announcing((1,), version=9)), one_story("version")),
    Fault("array-of-2-to-the-60", B, holds(STACK, announcing((1 << 30, 1 << 30, 1, 3))), one_story("truncated .npy")),
    Fault("array-of-a-negative-side", B, holds(STACK, announcing((-1, 8, 8, 3))), one_story("negative sides")),
    Fault("array-of-code", B, holds(STACK, announcing((1,), "|u1").replace(b"False", b"print")), one_story(".npy")),
    Fault("array-of-zip", B, holds(STACK, b"PK\3\4" + bytes(200)), one_story("not a readable .npy")),
    Fault("array-with-a-pickle", B, holds(STACK, objects([Touch()])), one_story("holds object")),
    Fault("array-structured", B, array(STACK, np.zeros(4, [("r", "u1"), ("g", "u1")])), one_story("holds")),
    Fault("array-text", B, array(STACK, np.full((5, 8, 8, 3), "x")), one_story("not whole numbers")),
    Fault("array-complex", B, array(STACK, np.zeros((5, 8, 8, 3), complex)), one_story("not whole numbers")),
    Fault("array-dates", B, array(STACK, np.zeros((5, 8, 8, 3), "M8[s]")), one_story("not whole numbers")),
    Fault("array-nan", B, array(STACK, np.full((5, 8, 8, 3), np.nan)), one_story("not whole numbers")),
    Fault("array-0-to-1", B, array(STACK, lambda old: old / 255), one_story("not whole numbers")),
    Fault("array-negative", B, array(STACK, np.full((5, 8, 8, 3), -1)), one_story("not whole numbers")),
    Fault("array-above-255", B, array(STACK, np.full((5, 8, 8, 3), 256)), one_story("not whole numbers")),
    Fault("array-one-picture", B, array(STACK, lambda old: old[0]), one_story("shape")),
    Fault("array-no-picture", B, array(STACK, lambda old: old[:0]), one_story("shape")),
    Fault("array-of-no-height", B, array(STACK, lambda old: old[:, :0]), one_story("shape")),
    Fault("array-grey", B, array(STACK, lambda old: old[..., :1]), one_story("shape")),
    Fault("array-transparent", B, array(STACK, lambda old: old[..., [0, 1, 2, 0]]), one_story("shape")),
    Fault("array-channels-first", B, array(STACK, lambda old: old.transpose(0, 3, 1, 2)), one_story("shape")),
    Fault("array-as-floats", B, array(STACK, lambda old: old.astype(np.float32)), Kept()),
    Fault("array-big-endian", B, array(STACK, lambda old: old.astype(">u2")), Kept()),
    Fault("array-in-fortran-order", B, array(STACK, np.asfortranarray), Kept()),
    Fault("array-of-one-picture", B, array(STACK, lambda old: old[:1]), Kept(SHOT)),
    Fault("mask-missing", C, gone(MASK), one_story("missing")),
    Fault("mask-truncated", C, cut(MASK), one_story("truncated .npy")),
    Fault("mask-of-another-size", C, array(MASK, lambda old: old[:100]), one_story("the mask of 'mr slate' is")),
    Fault("mask-with-channels", C, array(MASK, lambda old: old[..., None]), one_story("in two dimensions")),
    Fault("mask-flat", C, array(MASK, lambda old: old.ravel()), one_story("in two dimensions")),
    Fault("mask-a-number", C, array(MASK, np.int64(1)), one_story("in two dimensions")),
    Fault("mask-of-text", C, array(MASK, lambda old: old.astype(str)), one_story("where whole numbers are expected")),
    Fault("mask-of-nan", C, array(MASK, lambda old: old * np.nan), one_story("where whole numbers are expected")),
    Fault("mask-of-code", C, holds(MASK, objects([Touch()])), one_story("holds object")),
    Fault("mask-value-of-nothing-named", C, array(MASK, lambda old: np.where(old, old, 99)), Kept()),
    Fault("mask-without-a-named-value", C, array(MASK, lambda old: old * 0), Kept(SHOT)),
    Fault("mask-negative", C, array(MASK, lambda old: -old), Kept(SHOT)),
]

# -- pickles ------------------------------------------------------------------------------------------------


def opcodes(text):
    """A pickle in the old form, by hand."""
    return text.replace("|", "\n").encode()


PICKLES = {
    "pickle-reduce": pickle.dumps(Touch()),
    "pickle-global-system": opcodes("cos|system|(S'touch x'|tR."),
    "pickle-inst": opcodes("(S'touch x'|ios|system|."),
    "pickle-obj": opcodes("(cos|system|S'touch x'|o."),
    "pickle-stack-global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
    "pickle-newobj-ex": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85}\x92.",
    "pickle-getattr": opcodes("c__builtin__|getattr|(cos|path|S'join'|tR."),
    "pickle-of-pickles": opcodes("cpickle|loads|(S'x'|tR."),
    "pickle-numpy-load": opcodes("cnumpy|load|(S'x'|tR."),
    "pickle-numpy-runstring": opcodes("cnumpy.testing._private.utils|runstring|(S'x'|tR."),
}
BAD_PICKLES = {
    "pickle-extension": b"\x80\x02\x82\x01.",
    "pickle-persistent-id": b"\x80\x02K\x01Q.",
    "pickle-empty": b"",
    "pickle-truncated": pickle.dumps({"a": list(range(99))})[:40],
    "pickle-stack-underflow": b"\x80\x02u.",
    "pickle-memo-of-4-gb": b"\x80\x02Nr\xff\xff\xff\xff.",
    "pickle-announcing-an-exabyte": b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x.",
    "pickle-nested-100000": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "pickle-array-of-an-exabyte": pickle.dumps(np.zeros(3), protocol=2).replace(
        b"K\x03\x85", b"\x8a\x08" + b"\0" * 7 + b"\x10\x85"
    ),
    "pickle-a-number": pickle.dumps(7),
    "pickle-a-list": pickle.dumps([1, 2]),
}
UNSAFE = "not on the list of harmless types; nothing of it was run"
ALL_PICKLES = [
    *(Fault(name, B, holds("labels.pkl", data), Stops(UNSAFE)) for name, data in PICKLES.items()),
    *(
        Fault(name, B, holds("following_cache4.pkl", data), Stops("following_cache4.pkl|unexpected content"))
        for name, data in BAD_PICKLES.items()
    ),
    Fault("pickle-in-an-array", "clevr_sv", holds("CLEVR_dict.npy", objects(Touch())), Stops(UNSAFE)),
    Fault("pickle-in-descriptions", "pororo_sv", holds("descriptions.npy", objects({"a": Touch()})), Stops(UNSAFE)),
]


def labels(change):
    def damage(raw):
        found = pickle.loads((raw.path / "labels.pkl").read_bytes())
        raw.bytes("labels.pkl", pickle.dumps(found | {SHOT: change}, protocol=4))

    return damage


def short_label(raw):
    found = np.load(raw.path / "labels.npy", allow_pickle=True).item()
    raw.objects("labels.npy", found | {"Pororo_ENGLISH1_1/Pororo_ENGLISH1_1_ep1/1": [1]})


LABELS = [
    Fault("labels-of-another-kind", B, labels(np.array([1j, 2j])), one_story("not JSON|JSON serializable")),
    Fault("labels-of-bytes", B, labels([b"\xff", b"x"]), one_story("not JSON|JSON serializable")),
    Fault("labels-nan", B, labels([float("nan")]), one_story("JSON")),
    Fault("labels-of-many-shapes", B, labels([[1], [2, 3]]), one_story("published form")),
    Fault("labels-short", "pororo_sv", short_label, one_story("a label of shape")),
]

# -- JSON ---------------------------------------------------------------------------------------------------

SPLITS, NOTES = "train-val-test_split.json", "flintstones_annotations_v1-0.json"
CLEANED = "cleaned_annotations.json"
TRAIN, VAL = "didemo/train.json", "didemo/val.json"
SIS = "sis/train.story-in-sequence.json"
LINES = "George/george_story/george_train.jsonl"
DEEP = b"[" * 100_000 + b"]" * 100_000


def annotation(**fields):
    """Change the annotation of the last clip of the first episode."""

    def change(entries):
        next(entry for entry in entries if entry["globalID"] == SHOT).update(fields)

    return json_of(NOTES, change)


def line(number, change):
    """Change a line of a JSONL file."""

    def changed(data):
        lines = data.splitlines(keepends=True)
        lines[number] = change(lines[number])
        return b"".join(lines)

    return lambda raw: raw.edit(LINES, changed)


def story_line(**fields):
    return line(0, lambda text: json.dumps(json.loads(text) | fields).encode() + b"\n")


def sentence(**fields):
    """Change the third sentence of the first story of VIST."""

    def change(value):
        value["annotations"][2][0].update(fields)

    return json_of(SIS, change)


def whole_files(release, name):
    """What may happen to any JSON file that a whole release hangs on."""
    says = (
        name.rpartition("/")[2].replace(".", r"\.")
        + "|unexpected content|not annotated|desc_to_frame is not|the release has only"
    )
    wrong = {
        "empty": b"", "truncated": None, "bad-utf-8": b'{"\xff": 1}', "utf-16": '{"a": []}'.encode("utf-16"),
        "html": b"<html>", "a-number": b"7", "null": b"null", "a-text": b'"x"', "nested-100000": DEEP,
        "two-values": b"{} {}", "open-text-of-10-mb": b'{"' + b"x" * (10 << 20), "nul": bytes(4096), "a-list-of-numbers": b"[1, 2]",
    }  # fmt: skip
    for kind, data in wrong.items():
        damage = cut(name) if data is None else holds(name, data)
        yield Fault(f"{name.rpartition('/')[2]}-{kind}", release, damage, Stops(says))


JSON = [
    *whole_files(B, SPLITS),
    *whole_files(B, NOTES),
    *(fault for fault in whole_files("didemo_sv", TRAIN) if "a-list-of" not in fault.name),
    Fault("entries-of-numbers", "didemo_sv", holds(TRAIN, b"[1, 2]"), LeftOut("desc_to_frame is not", stories=2)),
    *whole_files("vist", SIS),
    Fault("split-listed-twice", B, replaced(SPLITS, b"{", b'{"train": ["s_01_e_01_shot_000100_000174"], '), Stops("'train' occurs twice")),
    Fault("split-of-numbers", B, json_of(SPLITS, lambda value: {"train": [1, 2]}), Stops("unexpected content")),
    Fault("split-of-nested-lists", B, json_of(SPLITS, lambda value: {"train": [["x"]]}), Stops("unexpected content")),
    Fault("split-names-a-path", B, json_of(SPLITS, lambda value: {"train": ["../../etc/passwd"]}), Stops("not a clip id")),
    Fault("split-names-a-clip-twice", B, json_of(SPLITS, lambda value: value | {"test": value["train"]}), Stops("listed twice")),
    Fault("description-a-number", B, annotation(description=7), one_story("caption is int")),
    Fault("description-null", B, annotation(description=None), one_story("caption is NoneType")),
    Fault("description-a-lone-surrogate", B, annotation(description="\ud83d"), one_story("lone surrogate")),
    Fault("setting-a-list", B, annotation(setting=["kitchen"]), one_story("setting is list")),
    Fault("setting-nan", B, annotation(setting=float("nan")), one_story("setting is float")),
    Fault("characters-a-number", B, annotation(characters=7), one_story("published form")),
    Fault("characters-without-labels", B, annotation(characters=[{}]), one_story("published form")),
    Fault("characters-null", B, annotation(characters=[{"entityLabel": None}]), one_story("published form")),
    Fault("rest-with-nan", B, annotation(objects=float("nan")), one_story("JSON")),
    Fault("rest-with-infinity", B, annotation(objects=[float("inf")]), one_story("JSON")),
    Fault("rest-with-a-lone-surrogate", B, annotation(objects="\ud83d"), Kept(SHOT)),
    Fault("rest-of-10-mb", B, annotation(objects="x" * (10 << 20)), Kept(SHOT)),
    Fault("rest-nested-900", B, annotation(objects=json.loads("[" * 900 + "]" * 900)), Kept(SHOT)),
    Fault("rest-a-long-number", B, annotation(objects=10**400), Kept(SHOT)),
    Fault("rest-a-number-of-9000-digits", B, replaced(NOTES, b'"setting": "office"', b'"n": ' + b"9" * 9000), Stops("not a readable JSON")),
    Fault("annotation-twice", B, json_of(NOTES, lambda entries: [*entries, entries[5]]), one_story("two entries have this id")),
    Fault("annotation-with-a-key-twice", B, replaced(NOTES, b'"setting": "office"', b'"setting": "a", "setting": "b"'), one_story("'setting' occurs twice")),
    Fault("annotation-missing", B, json_of(NOTES, lambda entries: [e for e in entries if e["globalID"] != SHOT]), one_story("the release has only", unseen=SHOT)),
    Fault("annotation-without-an-id", B, json_of(NOTES, lambda entries: [*entries, {"x": 1}, 7, None]), Kept()),
    Fault("json-with-a-byte-order-mark", B, lambda raw: raw.edit(NOTES, lambda data: b"\xef\xbb\xbf" + data), Kept()),
    Fault("entry-a-text", "didemo_sv", json_of(TRAIN, lambda value: ["?", value[1]]), one_story("desc_to_frame is not")),
    Fault("entry-null", "didemo_sv", json_of(TRAIN, lambda value: [None, value[1]]), one_story("desc_to_frame is not")),
    Fault("entry-of-no-pairs", "didemo_sv", json_of(TRAIN, lambda value: [{"desc_to_frame": [1, 2]}, value[1]]), one_story("desc_to_frame is not")),
    Fault("entry-nested-900", "didemo_sv", json_of(TRAIN, lambda value: [json.loads("[" * 900 + "]" * 900), value[1]]), one_story("desc_to_frame is not")),
    Fault("entry-with-nan-beside", "didemo_sv", json_of(TRAIN, lambda value: [value[0] | {"x": float("nan")}, value[1]]), one_story("JSON")),
    Fault("frame-path-absolute", "didemo_sv", json_of(VAL, lambda value: value[0]["desc_to_frame"][0].__setitem__(1, "/etc/passwd")), one_story("leave the release")),
    Fault("frame-path-upwards", "didemo_sv", json_of(VAL, lambda value: value[0]["desc_to_frame"][0].__setitem__(1, "didemo/../../x")), one_story("leave the release")),
    Fault("frame-path-with-a-nul", "didemo_sv", json_of(VAL, lambda value: value[0]["desc_to_frame"][0].__setitem__(1, "didemo/\0")), one_story("leave the release")),
    Fault("frame-path-of-5000", "didemo_sv", json_of(VAL, lambda value: value[0]["desc_to_frame"][0].__setitem__(1, "x" * 5000)), one_story("missing")),
    Fault("frame-path-a-lone-surrogate", "didemo_sv", json_of(VAL, lambda value: value[0]["desc_to_frame"][0].__setitem__(1, "\ud83d")), one_story("missing")),
    Fault("sentence-of-another-place", "vist", sentence(worker_arranged_photo_order=0), one_story("not 5 different numbers")),
    Fault("sentence-of-no-place", "vist", sentence(worker_arranged_photo_order=None), one_story("not 5 different numbers")),
    Fault("sentence-of-a-place-in-digits-of-9000", "vist", sentence(worker_arranged_photo_order="9" * 9000), one_story("published form")),
    Fault("sentence-a-number", "vist", sentence(original_text=7), one_story("original_text is int")),
    Fault("sentence-with-nan-beside", "vist", sentence(tier=float("nan")), one_story("JSON")),
    Fault("photo-upwards", "vist", sentence(photo_flickr_id="../x"), one_story("not in the release")),
    Fault("photo-null", "vist", sentence(photo_flickr_id=None), one_story("not in the release")),
    Fault("line-empty-object", "story_stream-files", line(0, lambda text: b"{}\n"), one_story("not a story")),
    Fault("line-truncated", "story_stream-files", line(0, lambda text: text[:50] + b"\n"), one_story("not a story")),
    Fault("line-of-bad-utf-8", "story_stream-files", line(0, lambda text: b"\xff\n"), one_story("not a story")),
    Fault("line-nested-100000", "story_stream-files", line(0, lambda text: DEEP + b"\n"), one_story("not a story")),
    Fault("line-of-python", "story_stream-files", line(0, lambda text: b"{'images': __import__('os')}\n"), one_story("never evaluated")),
    Fault("line-with-a-key-twice", "story_stream-files", line(0, lambda text: text.replace(b'"id"', b'"id": 0, "id"')), one_story("'id' occurs twice")),
    Fault("line-with-nan", "story_stream-files", story_line(id=float("nan")), one_story("JSON")),
    Fault("line-with-too-few-captions", "story_stream-files", story_line(captions=["x"]), one_story("6 images and 1 captions")),
    Fault("line-with-numbers-for-captions", "story_stream-files", story_line(captions=[7] * 6), one_story("caption is int")),
    Fault("line-with-numbers-for-pictures", "story_stream-files", story_line(images=[7] * 6), one_story("no picture")),
    Fault("line-with-paths-upwards", "story_stream-files", story_line(images=["../../../etc/passwd"] * 6), one_story("no picture")),
    Fault("scene-broken", "clevr_sv", holds("scenes/CLEVR_new_000100.json", b"{"), one_story("not valid JSON")),
    Fault("scene-with-nan", "clevr_sv", holds("scenes/CLEVR_new_000100.json", b'{"a": NaN}'), one_story("JSON")),
    Fault("state-of-a-saved-set-broken", "openstory_pp-arrow", holds("saved/state.json", b"{"), Stops("state.json")),
    Fault("state-of-a-saved-set-a-list", "openstory_pp-arrow", holds("saved/state.json", b"[]"), Stops("unexpected content")),
    Fault("state-of-a-saved-set-upwards", "openstory_pp-arrow", holds("saved/state.json", b'{"_data_files": [{"filename": "../../x.arrow"}]}'), Stops("leave the release")),
]  # fmt: skip


# -- boxes and objects --------------------------------------------------------------------------------------


def segment(**fields):
    """Change the first object of a clip of variant C."""

    def change(value):
        value[SHOT]["segments"][0].update(fields)

    return json_of(CLEANED, change)


BOXES = {
    "inverted": ([90, 90, 10, 10], "no area inside"),
    "outside": ([200, 200, 300, 300], "no area inside"),
    "before-the-picture": ([-20, -20, -10, -10], "no area inside"),
    "of-no-width": ([10, 10, 10, 90], "no area inside"),
    "nan": ([float("nan"), 0, 9, 9], "not finite"),
    "infinite": ([0, 0, float("inf"), 9], "not finite"),
    "of-3-numbers": ([1, 2, 3], "not four numbers"),
    "of-5-numbers": ([1, 2, 3, 4, 5], "not four numbers"),
    "of-text": (["a", "b", "c", "d"], "not four numbers"),
    "null": (None, "not four numbers"),
    "of-lists": ([[1], [2], [3], [4]], "not four numbers"),
    "of-400-digits": ([0, 0, 10**400, 9], "not four numbers|published form"),
}


def entry(**fields):
    """Change the first object of the last sample of a tar of Openstory++."""

    def damage(raw):
        with tarfile.open(raw.path / "tars/00001.tar") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        facts = json.loads(members["000000001.json"])
        facts["mask"][1].update(fields)
        raw.tar("tars/00001.tar", members | {"000000001.json": json.dumps(facts).encode()})

    return damage


OBJECTS = [
    *(Fault(f"box-{name}", C, segment(bbox=box), one_story(says)) for name, (box, says) in BOXES.items()),
    *(
        Fault(f"box-{name}", "openstory_pp-tar", entry(box=box), one_story(f"{says}|published form"))
        for name, (box, says) in BOXES.items()
    ),
    Fault("box-partly-outside", C, segment(bbox=[10, 10, 500, 500]), Kept(SHOT)),
    Fault("segment-of-no-word", C, segment(word=None), one_story("published form")),
    Fault("segment-with-a-lone-surrogate", C, segment(word="\ud83d"), one_story("lone surrogate")),
    Fault("segment-of-no-id", C, segment(id=None), one_story("published form")),
    Fault("segment-of-id-nan", C, segment(id=float("nan")), one_story("published form")),
    Fault("segment-of-id-infinity", C, segment(id=float("inf")), one_story("published form")),
    Fault("segment-of-id-400-digits", C, segment(id=10**400), Kept(SHOT)),
    Fault("legend-of-another-value", "openstory_pp-tar", entry(value=9), one_story("which the list does not name")),
    Fault("legend-without-a-value", "openstory_pp-tar", entry(value=None), one_story("which the list does not name")),
    Fault("legend-of-a-list", "openstory_pp-tar", entry(value=[1]), one_story("published form")),
    Fault("label-a-number", "openstory_pp-tar", entry(label=7), one_story("published form|label is int")),
    Fault("score-a-text", "openstory_pp-tar", entry(logit="high"), one_story("score")),
    Fault("score-a-list", "openstory_pp-tar", entry(logit=[0.5]), one_story("score")),
    Fault("score-nan", "openstory_pp-tar", entry(logit=float("nan")), one_story("score")),
    Fault("score-of-400-digits", "openstory_pp-tar", entry(logit=10**400), one_story("score")),
    Fault("score-of-1e300", "openstory_pp-tar", entry(logit=1e300), one_story("score")),
]

# -- texts and lists ----------------------------------------------------------------------------------------

BOOK = "asp-source/en/0002_the-market.md"
VECTOR = "CLEVR_new_000101_2.png"


def vector(change):
    def damage(raw):
        found = np.load(raw.path / clevr_sv.VECTORS, allow_pickle=True).item()
        found[VECTOR] = change(found[VECTOR])
        raw.objects(clevr_sv.VECTORS, found)

    return damage


TEXTS = [
    Fault("book-empty", "african_storybook", holds(BOOK, b""), one_story("not a book")),
    Fault("book-of-bad-utf-8", "african_storybook", replaced(BOOK, b"Two.", b"\xff"), one_story("not UTF-8")),
    Fault("book-without-a-licence", "african_storybook", replaced(BOOK, b"License", b"Licence"), one_story("not a book")),
    Fault("book-of-an-unknown-licence", "african_storybook", replaced(BOOK, b"[CC-BY]", b"GPL"), one_story("unknown licence")),
    Fault("book-without-a-picture", "african_storybook", gone("asp-imagebank/medium/0002/02.jpg"), one_story("cannot be aligned")),
    Fault("book-with-an-unnumbered-picture", "african_storybook", holds("asp-imagebank/medium/0002/cover.jpg", b""), one_story("no numbers of two digits")),
    Fault("book-there-twice", "african_storybook", holds("asp-source/en/0002_other.md", b"x"), Stops("are called 'en/0002'")),
    Fault("caption-of-bad-utf-8", "story_salon", holds("Text/Caption/Bloom/000001/12.txt", b"\xff"), one_story("not UTF-8")),
    Fault("caption-missing", "story_salon", gone("Text/Caption/Bloom/000001/12.txt"), one_story("no caption")),
    Fault("mask-missing", "story_salon", gone("Mask/Bloom/000001/12.jpg"), one_story("no mask")),
    Fault("mask-truncated", "story_salon", cut("Mask/Bloom/000001/12.jpg"), one_story("not a whole picture")),
    Fault("test-list-missing", "story_salon", gone("PDF_test_set.txt"), Stops("list of test folders is missing")),
    Fault("test-list-of-bad-utf-8", "story_salon", holds("PDF_test_set.txt", b"\xff"), Stops("not UTF-8")),
    Fault("vector-short", "clevr_sv", vector(lambda old: old[:16]), one_story("a vector of shape")),
    Fault("vector-nan", "clevr_sv", vector(lambda old: old * np.nan), one_story("a vector of shape")),
    Fault("vector-of-text", "clevr_sv", vector(lambda old: ["x"] * 75), one_story("published form")),
    Fault("vector-not-one-hot", "clevr_sv", vector(lambda old: old + 1), one_story("which names none of")),
    Fault("vectors-a-list", "clevr_sv", lambda raw: raw.objects(clevr_sv.VECTORS, [1, 2]), Stops("expected a dict")),
    Fault("vectors-of-another-name", "clevr_sv", lambda raw: raw.objects(clevr_sv.VECTORS, {"../x.png": [1]}), Stops("not a name of the form")),
    Fault("strip-missing", "pororo_sv", gone("Pororo_ENGLISH1_1/Pororo_ENGLISH1_1_ep1/1.png"), one_story("missing")),
    Fault("strip-positions-outside", "pororo_sv", lambda raw: raw.objects("train_seen_unseen_ids.npy", [[0], [1], [99]]), Stops("position 99")),
    Fault("strip-positions-of-text", "pororo_sv", lambda raw: raw.objects("train_seen_unseen_ids.npy", [["a"], [], []]), Stops("unexpected content")),
    Fault("strip-cache-of-numbers", "pororo_sv", lambda raw: raw.objects("img_cache4.npy", [1, 2, 3]), Stops("unexpected content")),
    Fault("strip-cache-empty", "pororo_sv", holds("img_cache4.npy", b""), Stops("not a readable .npy")),
]  # fmt: skip

# -- tar and zip --------------------------------------------------------------------------------------------

TAR, GZ, ZIP = "tars/00001.tar", "George/george.tar.gz", "George/george_story.zip"


def member_of_tar(name, content=b"", **fields):
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def tar_with(*members, file=TAR):
    """Damage: members put in front of those of a tar."""

    def change(data):
        plain = gzip.decompress(data) if file == GZ else data
        found = b"".join(members) + plain
        return gzip.compress(found, 1) if file == GZ else found

    return lambda raw: raw.edit(file, change)


def append_member(raw):
    with tarfile.open(raw.path / TAR, "a") as tar:
        tar.addfile(tarfile.TarInfo("000000001.jpg"))


def tar_size(number):
    """Damage: the header of the last member announces another size, its checksum right."""

    def change(data):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            *_, last = tar
        header = tarfile.TarInfo(last.name)
        header.size = number
        return data[: last.offset] + header.tobuf(tarfile.GNU_FORMAT) + data[last.offset_data :]

    return lambda raw: raw.edit(TAR, change)


ODD_MEMBERS = {
    "symlink": member_of_tar("000000001.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hardlink": member_of_tar("000000001.jpg", type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
    "device": member_of_tar("000000001.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "fifo": member_of_tar("000000001.jpg", type=tarfile.FIFOTYPE),
    "absolute": member_of_tar("/etc/cron.d/x.jpg", b"x"),
    "upwards": member_of_tar("../../x.jpg", b"x"),
    "hidden-upwards": member_of_tar("a/../../x.jpg", b"x"),
    "folder": member_of_tar("000000001.jpg", type=tarfile.DIRTYPE),
}
TINY = b"".join(member_of_tar(f"many/{at}_keyframe_{at}") for at in range(100_000))
opp, packed = "openstory_pp-tar", "story_stream-packed"

TARS = [
    *(Fault(f"tar-{name}", opp, tar_with(member), Kept()) for name, member in ODD_MEMBERS.items()),
    *(Fault(f"tar-{name}", packed, tar_with(member, file=GZ), Kept()) for name, member in ODD_MEMBERS.items()),
    Fault("tar-empty", opp, holds(TAR, b""), LeftOut("not a readable plain tar", stories=2)),
    Fault("tar-truncated", opp, cut(TAR), LeftOut("not a readable plain tar", stories=2)),
    Fault("tar-without-its-end", opp, lambda raw: raw.edit(TAR, lambda data: data.rstrip(b"\0")), LeftOut("not a readable", stories=2)),
    Fault("tar-bit-flipped-header", opp, flip(TAR, b"000000001.jpg"), LeftOut("not a readable plain tar", stories=2)),
    Fault("tar-of-text", opp, holds(TAR, b"<html>" * 200), LeftOut("not a readable plain tar", stories=2)),
    Fault("tar-size-larger", opp, tar_size(1 << 20), LeftOut("not a readable plain tar", stories=2)),
    Fault("tar-size-smaller", opp, tar_size(9), one_story("published form")),
    Fault("tar-size-of-8-gb", opp, tar_size(8 << 30), LeftOut("too many", stories=2)),
    Fault("tar-size-negative", opp, tar_size(-512), LeftOut("not a readable", stories=2)),
    Fault("tar-member-twice", opp, append_member, LeftOut("one of their name before", stories=0)),
    Fault("tar-of-100000-members", opp, tar_with(TINY), Stops("more than 100 bad records in a row|not of the form")),
    Fault("tar-of-10000-members", packed, tar_with(TINY[: len(TINY) // 10], file=GZ), Kept()),
    Fault("tar-member-twice", packed, tar_with(member_of_tar("000001/000001_keyframe_0-0-0-0.jpg", b"x"), file=GZ), LeftOut("two members are", stories=2)),
    Fault("tar-gz-truncated", packed, cut(GZ), Stops("not a readable tar")),
    Fault("tar-gz-empty", packed, holds(GZ, b""), Stops("not a readable tar")),
    Fault("tar-missing", packed, gone(GZ), Stops("it needs texts, and pictures or one tar")),
    Fault("zip-truncated", packed, cut(ZIP), Stops("not a readable zip")),
    Fault("zip-empty", packed, holds(ZIP, b""), Stops("not a readable zip")),
    Fault("zip-of-text", packed, holds(ZIP, b"<html>"), Stops("not a readable zip")),
    Fault("zip-missing", packed, gone(ZIP), Stops("it needs texts")),
    Fault("zip-twice", packed, lambda raw: raw.bytes("George/copy.zip", (raw.path / ZIP).read_bytes()), Stops("keep the newest zip")),
    Fault("zip-bit-flipped", packed, flip(ZIP, 90), Stops("George|cannot be read")),
]  # fmt: skip

# -- tables -------------------------------------------------------------------------------------------------

TABLE, ARROW = "set/0.parquet", "saved/data-00000-of-00001.arrow"


def table(change, name=TABLE):
    """Damage: rows of a table changed."""

    def damage(raw):
        if name == TABLE:
            rows = pq.read_table(raw.path / name).to_pylist()
        else:
            rows = pa.ipc.open_stream(raw.path / name).read_all().to_pylist()
        raw.table(name, change(rows) or rows)

    return damage


def without(column):
    return lambda rows: [{key: value for key, value in row.items() if key != column} for row in rows]


def wrong(column, value):
    return lambda rows: [row | {column: value} for row in rows]


pqt, arrow = "openstory_pp-parquet", "openstory_pp-arrow"
EVERY = Stops(r"0\.parquet|00001\.arrow|00000000\.jpg")
"""One table is all there is."""


def flipped_page(raw):
    """Change a bit of a page that has a checksum."""
    pq.write_table(pq.read_table(raw.path / TABLE), raw.path / TABLE, row_group_size=2, write_page_checksum=True)
    flip(TABLE, b"\xff\xd8\xff")(raw)


TABLES = [
    Fault("parquet-empty", pqt, holds(TABLE, b""), EVERY),
    Fault("parquet-truncated", pqt, cut(TABLE), EVERY),
    Fault("parquet-without-its-end", pqt, lambda raw: raw.edit(TABLE, lambda data: data[:-4]), EVERY),
    Fault("parquet-of-text", pqt, holds(TABLE, b"<html>"), EVERY),
    Fault("parquet-magic-alone", pqt, holds(TABLE, b"PAR1PAR1"), EVERY),
    Fault("parquet-footer-of-2-gb", pqt, lambda raw: raw.edit(TABLE, lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1"), EVERY),
    Fault("parquet-footer-overwritten", pqt, lambda raw: raw.edit(TABLE, lambda data: data[:-90] + b"\xff" * 82 + data[-8:]), EVERY),
    Fault("parquet-bit-flipped-page", pqt, flipped_page, LeftOut("not a readable", stories=2)),
    Fault("parquet-pages-overwritten", pqt, lambda raw: raw.edit(TABLE, lambda data: data[:100] + b"\xff" * 2000 + data[2100:]), LeftOut("not a readable", stories=2)),
    Fault("parquet-without-captions", pqt, table(without("json")), EVERY),
    Fault("parquet-without-pictures", pqt, table(without("jpg")), Kept("all")),
    Fault("parquet-without-masks", pqt, table(without("png")), Kept("all")),
    Fault("parquet-of-numbers-for-json", pqt, table(wrong("json", 7)), EVERY),
    Fault("parquet-of-numbers-for-pictures", pqt, table(wrong("jpg", 7)), EVERY),
    Fault("parquet-of-text-for-pictures", pqt, table(wrong("jpg", "x")), EVERY),
    Fault("parquet-of-lists-for-masks", pqt, table(wrong("png", [1])), EVERY),
    Fault("parquet-of-nested-json", pqt, table(wrong("json", DEEP.decode())), EVERY),
    Fault("parquet-of-no-rows", pqt, lambda raw: raw.bytes(TABLE, empty_table(raw)), Stops("nothing to build")),
    Fault("arrow-empty", arrow, holds(ARROW, b""), EVERY),
    Fault("arrow-truncated", arrow, cut(ARROW), EVERY),
    Fault("arrow-without-its-end", arrow, lambda raw: raw.edit(ARROW, lambda data: data[:-8]), EVERY),
    Fault("arrow-of-text", arrow, holds(ARROW, b"<html>"), EVERY),
    Fault("arrow-bit-flipped-header", arrow, flip(ARROW, 8), EVERY),
    Fault("arrow-offsets-out-of-the-file", arrow, lambda raw: raw.edit(ARROW, wild_offsets), LeftOut("not a readable", stories=2)),
]  # fmt: skip


def empty_table(raw):
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(raw.path / TABLE)[:0], buffer)
    return buffer.getvalue()


def wild_offsets(data):
    at = data.index((9).to_bytes(4, "little") + (18).to_bytes(4, "little"))  # of the keys, 9 characters each
    return data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :]


def test_a_gzip_whose_checksum_is_wrong_is_named(sound, tmp_path):
    """What came out before the end cannot be taken back, but the build does not call it good."""
    raw = Damaged(tmp_path / "raw")
    shutil.copytree(sound(packed)[0], raw.path)
    flip(GZ, -6)(raw)
    with pytest.raises(BuildError, match="CRC check failed"):
        build(builder_of(packed), raw.path, tmp_path / "strict")
    build(builder_of(packed), raw.path, tmp_path / "out", on_error="quarantine")
    assert "CRC check failed" in (tmp_path / "out" / REJECTS).read_text()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_twice_in_a_zip_is_refused_and_costs_its_record_alone(sound, tmp_path):
    source, expected = sound("didemo_sv")
    path = Path(shutil.make_archive(str(tmp_path / "raw"), "zip", source))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("didemo/frames/kite/1.jpg", b"another")
    build(builder_of("didemo_sv"), path, tmp_path / "out", on_error="quarantine")
    lines = [json.loads(line) for line in (tmp_path / "out" / REJECTS).read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["two members of the zip have this name"]
    found = rows_of(tmp_path / "out")
    assert expected.keys() - found.keys() == {
        ("stories", "didemo_sv/train/00001"),
        ("frames", ("train/00001", "didemo/frames/kite/1.jpg")),
    }
    assert all(row == expected[key] for key, row in found.items())


FAULTS = [*ARRAYS, *ALL_PICKLES, *LABELS, *JSON, *OBJECTS, *TEXTS, *TARS, *TABLES]


@parametrize(FAULTS)
def test_a_file_is_read_or_refused(fault, sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judge(fault, sound, tmp_path)
    assert not (tmp_path / "openstory-was-here").exists(), "something in the release was run"

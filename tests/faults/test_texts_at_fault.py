"""Captions and ids that are odd and yet data, kept byte for byte; surroundings that must not change a build."""

import json
import os
import shutil
import time

import pytest
from judge import Fault, Kept, LeftOut, judge, parametrize, rows_of
from sound_releases import Damaged, builder_of

from openstory_hf import preview
from openstory_hf.build import build
from openstory_hf.rows import read_stories

CAPTIONS = {
    "empty": "",
    "blank": " \t\n",
    "100-kb": "word " * 20_000,
    "10-mb": "x" * (10 << 20),
    "right-to-left": "שלום \u202eevil\u202c مرحبا",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "zero-width": "a\u200bb\u200dc\ufeffd\u2060",
    "control": "a\0b\x07c\x1b[31md\x7f\x85",
    "line-ends": "a\r\nb\rc\nd\u2028e\u2029",
    "combining": "e\u0301" + "\u0300" * 500,
    "script": "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" ' onload=alert(3)",
    "template": "{{7*7}} ${7*7} %s {0} <% x %>",
    "markdown": "[x](javascript:alert(1)) ![](http://x/y) | `---`",
    "noncharacters": "\uffff\ufffe\U0010ffff",
}
SHOWN = "didemo/frames/dog/1.jpg"


def caption(text):
    """Damage: another second caption for a story."""

    def change(entries):
        entries[0]["desc_to_frame"][1][0] = text

    return lambda raw: raw.edit_json("didemo/train.json", change)


@pytest.mark.parametrize("text", CAPTIONS.values(), ids=CAPTIONS)
def test_a_caption_is_kept_byte_for_byte_and_shown_as_text(text, sound, tmp_path):
    fault = Fault("caption", "didemo_sv", caption(text), Kept(SHOWN))
    judge(fault, sound, tmp_path)
    story = rows_of(tmp_path / "out")["stories", "didemo_sv/train/00000"]
    assert story["captions"][1] == text
    if len(text) < 1 << 20:
        preview.save(read_stories(str(tmp_path / "out")), tmp_path / "page.html", title=text)
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "<script>alert" not in page
        assert "<img src=x" not in page


def story_ids(old, new):
    """Damage: another id for all sentences of a story of VIST."""

    def change(value):
        for (sentence,) in value["annotations"]:
            if sentence["story_id"] == old:
                sentence["story_id"] = new

    return lambda raw: raw.edit_json("sis/train.story-in-sequence.json", change)


IDS = {
    "upwards": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "windows": "C:\\CON",
    "500-long": "x" * 500,
    "blank": " ",
    "with-a-nul": "a\0b",
    "with-a-line-end": "a\nb",
    "emoji": "👍",
    "markup": "<script>alert(1)</script>",
}


@pytest.mark.parametrize("name", IDS.values(), ids=IDS)
def test_an_id_is_a_name_and_never_a_path(name, sound, tmp_path):
    raw = Damaged(tmp_path / "in" / "raw")
    shutil.copytree(sound("vist")[0], raw.path)
    story_ids("102", name)(raw)
    build(builder_of("vist"), raw.path, tmp_path / "in" / "out")
    assert ("stories", f"vist/{name}") in rows_of(tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


FAULTS = [
    Fault("id-a-lone-surrogate", "vist", story_ids("102", "\ud83d"), LeftOut("lone surrogate", stories=1)),
    Fault("id-of-another-story", "vist", story_ids("102", "101"), LeftOut("10 sentences", stories=2)),
    Fault("id-null", "vist", story_ids("102", None), LeftOut("sentences without a story_id", stories=1)),
]


@parametrize(FAULTS)
def test_an_id_that_cannot_stand_is_refused(fault, sound, tmp_path):
    judge(fault, sound, tmp_path)


@pytest.mark.parametrize("surroundings", ["TZ", "clock", "old-files", "future-files", "read-only", "locale"])
def test_surroundings_do_not_change_a_byte(surroundings, sound, tmp_path, monkeypatch):
    source, expected = sound("african_storybook")
    raw = tmp_path / "raw"
    shutil.copytree(source, raw)
    if surroundings == "TZ":
        monkeypatch.setenv("TZ", "Pacific/Apia")
        time.tzset()
    elif surroundings == "clock":
        monkeypatch.setattr(time, "time", lambda: -1.0)
    elif surroundings == "locale":
        for name in ("LC_ALL", "LANG", "LANGUAGE"):
            monkeypatch.setenv(name, "tr_TR.ISO-8859-9")
    for path in raw.rglob("*"):
        if surroundings == "old-files":
            os.utime(path, (0, 0))
        elif surroundings == "future-files":
            os.utime(path, (4e9, 4e9))
        elif surroundings == "read-only" and path.is_file():
            path.chmod(0o444)
    builder = builder_of("african_storybook")
    manifest = build(builder, raw, tmp_path / "out")
    monkeypatch.undo()
    time.tzset()
    assert rows_of(tmp_path / "out") == expected
    assert json.dumps(manifest) == json.dumps(build(builder, source, tmp_path / "plain"))


def test_one_fault_in_a_hundred_records_costs_that_record_alone(tmp_path):
    """Every good record is written, and what was seen is what was written and rejected, to the record."""
    from openstory_hf.builders import didemo_sv

    raw, number = Damaged(tmp_path / "raw"), 300
    stories = [didemo_sv.moments(f"v{at}", "One.", "Two.", "Three.") for at in range(number)]
    bad = {49: 7, 149: None, 249: ["x"]}
    for at, caption in bad.items():
        stories[at][1][0] = caption
    raw.json("didemo/train.json", [{"desc_to_frame": story} for story in stories])
    for split in ("val", "test"):
        raw.json(f"didemo/{split}.json", [])
    raw.jpeg("x.jpg", didemo_sv.scene(("a",), size=32)[0])
    picture = (raw.path / "x.jpg").read_bytes()
    for path in (path for story in stories for _, path in story):
        raw.bytes(path, picture)
    manifest = build(builder_of("didemo_sv"), raw.path, tmp_path / "out", on_error="quarantine")
    counts = manifest["splits"]["train"]
    assert counts["stories"] == {"seen": number, "written": number - 3, "rejected": 3}
    assert counts["frames"] == {"seen": 3 * number, "written": 3 * number - 3, "rejected": 3}
    written = {row_id for table, row_id in rows_of(tmp_path / "out") if table == "stories"}
    assert written == {f"didemo_sv/train/{at:05d}" for at in range(number) if at not in bad}

"""One record in a hundred is broken, under quarantine: it is named, all others are written, and the sums are right."""

import functools
import json
import shutil

import pytest
from judge import accounts_add_up, neighbours_are_untouched, quiet, rows_of
from openstory_hf.builders import flintstones_sv, openstory_pp, pororo_sv, vist
from sound_releases import Damaged

from openstory_hf import catalogue
from openstory_hf.build import build
from openstory_hf.fakes import scene
from openstory_hf.finish import REJECTS
from openstory_hf.forms.strips import write_index

BROKEN = (50, 150, 250)


def flintstones(raw):
    flintstones_sv.write_release(raw, {"train": {"s_01_e_01": 220}, "val": {"s_01_e_02": 80}}, variant="B")
    clips = sorted(path.stem for path in (raw.path / "video_frames_sampled").iterdir())
    return {clip: f"video_frames_sampled/{clip}.npy" for clip in clips}


def pororo(raw):
    episodes = {f"Pororo_ENGLISH1_1_ep{number}": 100 for number in (1, 2, 3)}
    index = pororo_sv.draw(raw, episodes)
    names = {episode: [pororo_sv.segment_id(episode, number) for number in range(1, 97)] for episode in episodes}
    first, second, third = names.values()
    write_index(raw, {"train": [*first, *second], "val": third, "test": []}, **index)
    segments = [pororo_sv.segment_id(episode, number) for episode in episodes for number in range(1, 101)]
    return {segment: f"{segment}.png" for segment in segments}


def openstory(raw):
    keys = [f"{number:09d}" for number in range(300)]
    samples = {key: openstory_pp.drawn(number % 6) for number, key in enumerate(keys)}
    for number in BROKEN if raw.path.name == "damaged" else ():
        samples[keys[number]]["jpg"] = samples[keys[number]]["jpg"][:-200]
    raw.samples("tars/00000.tar", samples)
    return dict.fromkeys(keys, "")


def albums(raw):
    vist.write_split(raw, "train", {f"{number}": (0, 1, 2, 3, 4) for number in range(100, 140)})
    vist.write_split(raw, "val", {f"{number}": (4, 3, 2, 1, 0) for number in range(200, 220)})
    photos = sorted((raw.path / "images").rglob("*.jpg"))
    return {path.stem: path.relative_to(raw.path).as_posix() for path in photos}


@pytest.fixture
def _drawn_once(monkeypatch):
    """Drawing takes most of the time, and hundreds of records do not need hundreds of pictures."""

    @functools.cache
    def cached(cast, size, step, place):
        return scene(cast, size=size, step=step, place=place)

    def drawn(cast, *, size=64, step=0, place="river"):
        return cached(tuple(cast), size, step % 7, place)

    for module in (flintstones_sv, pororo_sv, vist):
        monkeypatch.setattr(module, "scene", drawn)


@pytest.mark.usefixtures("_drawn_once")
@pytest.mark.parametrize(
    ("name", "write"),
    [("flintstones_sv", flintstones), ("pororo_sv", pororo), ("openstory_pp", openstory), ("vist", albums)],
)
def test_every_good_record_is_written_and_every_bad_one_is_named(name, write, tmp_path):
    builder = catalogue.get(name)
    write(Damaged(tmp_path / "sound"))
    build(builder, tmp_path / "sound", tmp_path / "expected")
    raw = Damaged(tmp_path / "damaged")
    records = write(raw)
    assert len(records) == 300
    broken = [list(records)[number] for number in BROKEN]
    for record in broken:
        if records[record]:
            raw.edit(records[record], lambda data: data[: len(data) - 20])
    with quiet():
        manifest = build(builder, raw.path, tmp_path / "out", on_error="quarantine")
    expected, found = rows_of(tmp_path / "expected"), rows_of(tmp_path / "out")
    left_out = [json.loads(line) for line in (tmp_path / "out" / REJECTS).read_text(encoding="utf-8").splitlines()]
    accounts_add_up(manifest, found, left_out)
    neighbours_are_untouched(found, expected, left_out, "", "")
    assert len(left_out) == len(broken)
    assert all(record in line["record"] + line["file"] for record, line in zip(broken, left_out, strict=True))
    frames = [split["frames"] for split in manifest["splits"].values()]
    assert sum(count["seen"] for count in frames) == 300
    assert sum(count["written"] for count in frames) == 297
    lost = {story for line in left_out for story in line["stories"]}
    assert {row_id for table, row_id in expected.keys() - found.keys() if table == "stories"} == lost
    shutil.rmtree(tmp_path)

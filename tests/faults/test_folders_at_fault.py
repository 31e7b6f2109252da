"""Built folders: whatever was done to one, reading it gives one clear error and `check` names the file."""
# ruff: noqa: E501 - tables of faults, one a line

import contextlib
import json
import shutil

import pyarrow.parquet as pq
import pytest
from judge import quiet
from sound_releases import RELEASES, Damaged, builder_of

from openstory_hf import load_stories
from openstory_hf.build import build
from openstory_hf.check import check
from openstory_hf.errors import OpenStoryError

RELEASE = "didemo_sv"
SHARD, FRAMES, INDEX = (
    "stories/train-00000-of-00001.parquet",
    "frames/train-00000-of-00001.parquet",
    "index/stories-train-00000-of-00001.parquet",
)
FRAMES_INDEX, CONTENTS = "index/frames-train-00000-of-00001.parquet", "index/stories-train.contents.parquet"
MANIFEST = "manifest.json"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    RELEASES[RELEASE](Damaged(folder / "raw"))
    build(builder_of(RELEASE), folder / "raw", folder / "out")
    return folder / "out"


@pytest.fixture
def damaged(built, tmp_path):
    shutil.copytree(built, tmp_path / "out")
    return Damaged(tmp_path / "out")


def holds(file, data):
    return lambda out: out.bytes(file, data)


def gone(file):
    return lambda out: (out.path / file).unlink()


def cut(file, share=0.5):
    return lambda out: out.edit(file, lambda data: data[: int(len(data) * share)])


def flip(file, find):
    def change(data):
        at = data.index(find) if isinstance(find, bytes) else find % len(data)
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    return lambda out: out.edit(file, change)


def manifest(change):
    return lambda out: out.edit_json(MANIFEST, change)


def less(*path):
    """Damage: the manifest without an entry."""

    def change(value):
        for name in path[:-1]:
            value = value[name]
        del value[path[-1]]

    return manifest(change)


def more(*path, value):
    """Damage: another value for an entry of the manifest."""

    def change(found):
        for name in path[:-1]:
            found = found[name]
        found[path[-1]] = value

    return manifest(change)


def renamed(name):
    """Damage: a file of the manifest under another name."""
    return manifest(lambda value: value["files"].update({name: value["files"].pop(SHARD)}))


def index(change):
    """Damage: the index with other entries, as whole a Parquet file as before."""

    def damage(out):
        table = pq.read_table(out.path / INDEX)
        pq.write_table(table.from_pylist(change(table.to_pylist()), schema=table.schema), out.path / INDEX)

    return damage


def places(**fields):
    def change(rows):
        rows[0]["pictures"][0].update(fields)
        return rows

    return index(change)


MANIFESTS = {
    "missing": gone(MANIFEST), "empty": holds(MANIFEST, b""), "truncated": cut(MANIFEST), "bad-utf-8": holds(MANIFEST, b"\xff{}"),
    "html": holds(MANIFEST, b"<html>"), "null": holds(MANIFEST, b"null"), "a-list": holds(MANIFEST, b"[]"), "a-number": holds(MANIFEST, b"7"),
    "nested-100000": holds(MANIFEST, b"[" * 100_000), "empty-object": holds(MANIFEST, b"{}"), "of-version-1": more("schema_version", value="1"),
    "of-a-version-number": more("schema_version", value=2), "of-version-null": more("schema_version", value=None),
    "without-files": less("files"), "without-index": less("index"), "without-splits": less("splits"), "without-characters": less("characters"),
    "without-contents": less("contents"), "row-groups-of-other-rows": more("files", SHARD, "row_groups", value=[1]), "row-groups-a-number": more("files", SHARD, "row_groups", value=1),
    "without-hash": less("files", SHARD, "sha256"), "without-rows": less("files", SHARD, "rows"), "without-counts": less("splits", "train", "stories"),
    "files-a-list": more("files", value=[]), "splits-null": more("splits", value=None), "splits-empty": more("splits", value={}),
    "characters-of-numbers": more("characters", value=[7]), "bytes-negative": more("files", SHARD, "bytes", value=-1),
    "rows-a-text": more("files", SHARD, "rows", value="2"), "rows-nan": more("files", SHARD, "rows", value=float("nan")),
    "index-not-named": less("index", INDEX),
    "file-upwards": renamed("../../../etc/passwd"), "file-absolute": renamed("/etc/passwd"), "file-of-a-url": renamed("https://x/stories.parquet"),
    "file-with-backslashes": renamed("stories\\..\\..\\x"),
}  # fmt: skip
UNREADABLE = {
    "index-missing": gone(INDEX), "index-empty": holds(INDEX, b""), "index-truncated": cut(INDEX), "index-of-html": holds(INDEX, b"<html>" * 50),
    "index-footer-flipped": flip(INDEX, -5), "index-page-overwritten": lambda out: out.edit(INDEX, lambda data: data[:4] + b"\xff" * (len(data) // 2) + data[4 + len(data) // 2 :]),
    "index-of-another-table": lambda out: out.bytes(INDEX, (out.path / FRAMES_INDEX).read_bytes()),
    "index-of-another-shape": lambda out: out.table(INDEX, [{"x": 1}]),
    "shard-missing": gone(SHARD), "shard-empty": holds(SHARD, b""), "shard-truncated": cut(SHARD, 0.05), "shard-of-html": holds(SHARD, b"<html>" * 50),
    "shard-of-another-build": lambda out: out.bytes(SHARD, (out.path / FRAMES).read_bytes()[::-1]),
    "place-behind-the-file": places(offset=1 << 40), "place-negative": places(offset=-900), "place-moved": places(offset=99),
    "place-of-size-negative": places(size=-5), "place-of-size-2-gb": places(size=(1 << 31) - 1), "place-without-offset": places(offset=None),
    "places-null": index(lambda rows: [row | {"pictures": None} for row in rows]),
}  # fmt: skip
"""What reading cannot work with."""
FOUND = {
    "shard-bit-flipped-picture": flip(SHARD, b"\xff\xd8\xff"), "shard-bit-flipped-footer": flip(SHARD, -40), "shard-longer": lambda out: out.edit(SHARD, lambda data: data + b"x"),
    "frames-missing": gone(FRAMES), "frames-truncated": cut(FRAMES), "index-rows-exchanged": index(lambda rows: rows[::-1]), "index-row-twice": index(lambda rows: [*rows, rows[0]]),
    "index-row-missing": index(lambda rows: rows[:1]), "index-caption-changed": index(lambda rows: [row | {"captions": ["?"] * 3} for row in rows]),
    "places-short": index(lambda rows: [row | {"pictures": row["pictures"][:1]} for row in rows]),
    "contents-missing": gone(CONTENTS), "contents-flipped": flip(CONTENTS, -40), "contents-of-another-table": lambda out: out.bytes(CONTENTS, (out.path / FRAMES_INDEX).read_bytes()),
    "rejects-missing": gone("rejects.jsonl"), "rejects-of-html": holds("rejects.jsonl", b"<html>"), "rejects-of-another-shape": holds("rejects.jsonl", b"[1]\n"),
    "readme-missing": gone("README.md"), "readme-empty": holds("README.md", b""), "readme-of-bad-utf-8": holds("README.md", b"---\n\xff\n---\n"),
    "readme-with-python-in-yaml": holds("README.md", b"---\nx: !!python/object/apply:os.mkdir [openstory-was-here]\n---\n"),
    "croissant-missing": gone("croissant.json"), "croissant-truncated": cut("croissant.json"), "croissant-a-list": holds("croissant.json", b"[]"),
    "count-changed": more("splits", "train", "stories", "seen", value=9), "hash-changed": more("files", SHARD, "sha256", value="0" * 64),
    "stray-shard": lambda out: out.bytes("stories/train-00001-of-00002.parquet", (out.path / SHARD).read_bytes()),
    "stray-script": holds("didemo.py", b"import os"), "stray-pickle": holds("stories/x.PKL", b"x"),
}  # fmt: skip
"""What `check` finds; reading may not touch it."""


def read(path):
    """Every story with the bytes of its pictures."""
    return [[image["bytes"] for image in story["images"]] for story in load_stories(str(path))]


@pytest.mark.parametrize("damage", MANIFESTS.values(), ids=MANIFESTS)
def test_a_damaged_manifest_is_one_clear_error(damage, damaged):
    damage(damaged)
    for reader in (read, check):
        with quiet(), pytest.raises(OpenStoryError, match=MANIFEST.replace(".", r"\.") + "|schema version"):
            reader(damaged.path)


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_one_clear_error_and_check_names_it(damage, damaged):
    damage(damaged)
    with quiet(), pytest.raises(OpenStoryError, match="stories"):
        read(damaged.path)
    assert any("stories" in problem for problem in check(damaged.path))


@pytest.mark.parametrize("damage", FOUND.values(), ids=FOUND)
def test_check_finds_what_reading_does_not_touch(damage, damaged, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage(damaged)
    assert check(damaged.path)
    with contextlib.suppress(OpenStoryError):
        read(damaged.path)
    assert not (tmp_path / "openstory-was-here").exists()


def test_the_folder_they_are_made_of_is_sound(built):
    assert check(built) == []
    assert len(read(built)) == 2


def test_no_two_files_of_a_folder_differ_by_case_alone(built):
    names = [path.relative_to(built).as_posix() for path in built.rglob("*")]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(facts["bytes"] for facts in json.loads((built / MANIFEST).read_text())["files"].values())

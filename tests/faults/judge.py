"""The one expectation every fault of a release is held to, and what a case may say beyond it."""

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest
from sound_releases import Damaged, builder_of

from openstory_hf.build import build
from openstory_hf.errors import BuildError, OpenStoryError
from openstory_hf.finish import REJECTS


@dataclass(frozen=True)
class LeftOut:
    """Records are refused, all else is written as ever: what the first refusal says, and the stories that are lost."""

    says: str
    stories: int
    unseen: str = ""
    """A frame that is not known of any more."""


@dataclass(frozen=True)
class Stops:
    """The release as a whole is refused, with and without quarantine."""

    says: str


@dataclass(frozen=True)
class Kept:
    """It is data and no fault: everything is written, and only what shows the frame `of` differs."""

    of: str = ""


@dataclass(frozen=True)
class Fault:
    """A named fault of a release.

    Args:
        name: of the case.
        release: the sound release it is put into.
        damage: puts it there.
        outcome: what must come of it.
    """

    name: str
    release: str
    damage: Callable[[Damaged], Any]
    outcome: LeftOut | Stops | Kept


def parametrize(faults):
    """One test per fault, under its name."""
    names = [f"{fault.release}-{fault.name}" for fault in faults]
    assert len(set(names)) == len(names), "two faults have one name"
    return pytest.mark.parametrize("fault", faults, ids=names)


def rows_of(out):
    """(table, id) -> row of a built folder."""
    found = {}
    for path in sorted(out.glob("*/*.parquet")):
        if (table := path.parent.name) != "index":
            for row in pq.read_table(path).to_pylist():
                key = table, row["story_id"] if table == "stories" else (row["sequence_id"], row["frame_id"])
                assert key not in found, f"{key} is written twice"
                found[key] = row
    return found


def judge(fault, sound, folder):
    """Build a damaged copy of a sound release with and without quarantine, and hold both builds to the outcome.

    Args:
        fault: the case.
        sound: release -> (its folder, its rows when built undamaged).
        folder: to work in.
    """
    source, expected = sound(fault.release)
    raw, builder = folder / "raw", builder_of(fault.release)
    shutil.copytree(source, raw)
    fault.damage(Damaged(raw))
    if isinstance(fault.outcome, Stops):
        for number, on_error in enumerate(("raise", "quarantine")):
            with quiet(), pytest.raises(OpenStoryError, match=fault.outcome.says):
                build(builder, raw, folder / f"out{number}", on_error=on_error)
        return
    with quiet():
        manifest = build(builder, raw, folder / "out", on_error="quarantine")
    found = rows_of(folder / "out")
    left_out = [json.loads(line) for line in (folder / "out" / REJECTS).read_text(encoding="utf-8").splitlines()]
    accounts_add_up(manifest, found, left_out)
    neighbours_are_untouched(
        found, expected, left_out, getattr(fault.outcome, "of", ""), getattr(fault.outcome, "unseen", "")
    )
    if isinstance(fault.outcome, Kept):
        assert not left_out
        assert found.keys() == expected.keys()
        with quiet():
            assert build(builder, raw, folder / "strict") == manifest
        return
    assert re.search(fault.outcome.says, left_out[0]["reason"]), left_out[0]["reason"]
    lost = sum(key[0] == "stories" for key in expected) - sum(key[0] == "stories" for key in found)
    assert lost == fault.outcome.stories
    with quiet(), pytest.raises(BuildError) as caught:
        build(builder, raw, folder / "strict")
    message = str(caught.value)
    assert all(left_out[0][key] in message for key in ("reason", "file"))
    assert left_out[0]["file"] or left_out[0]["record"]
    assert left_out[0]["record"] in message or left_out[0]["record"] == left_out[0]["unit"]


@contextlib.contextmanager
def quiet():
    """No warning: whatever is wrong is said by the error or the list of rejects."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    assert not said, [str(warning.message) for warning in said]


def accounts_add_up(manifest, found, left_out):
    """What was seen is what was written and rejected, and that is what the files hold."""
    for level in ("stories", "frames"):
        counts = [split[level] for split in manifest["splits"].values()]
        assert all(count["seen"] == count["written"] + count["rejected"] for count in counts)
        there = sum(key[0] == level for key in found)
        if any(key[0] == level for key in found):
            assert there == sum(count["written"] for count in counts)
    rejected = sum(split["stories"]["rejected"] for split in manifest["splits"].values())
    assert rejected == sum(len(line["stories"]) for line in left_out)


def neighbours_are_untouched(found, expected, left_out, of, unseen):
    """Rows are as ever, but for those that show the frame `of`; those that are gone are in the list of rejects."""
    for key, row in found.items():
        assert key in expected, f"{key} came from nowhere"
        if of != "all" and of not in row.get("frame_ids", (row.get("frame_id"),)):
            assert row == expected[key], f"{key} is changed"
    named = {story for line in left_out for story in line["stories"]}
    records, units = ({line[key] for line in left_out} for key in ("record", "unit"))
    refused = {line["file"] for line in left_out if line["record"] == line["unit"]}  # before their stories were known
    for table, row_id in expected.keys() - found.keys():
        row = expected[table, row_id]
        ids = {row_id if table == "stories" else row["frame_id"], row["sequence_id"]}
        known = ids & (named | records | units | {unseen}) or row["source"]["file"] in refused
        assert known, f"{row_id} is lost without a word"

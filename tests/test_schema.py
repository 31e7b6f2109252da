"""Rows of records: nothing a release can hold crashes a build or is silently changed."""

import json

import numpy as np
import pytest

from openstory_hf import codecs, fakes, masks, schema
from openstory_hf.records import Frame, Instance, Picture, Reject, Sequence, Window
from openstory_hf.references import Rewritten

PNG = codecs.encode_png(fakes.scene(("fred",), size=16)[0])


def frame(**changes):
    return Frame(**{"frame_id": "f", "caption": "Fred.", "pictures": (Picture(path="f.png", data=PNG),), **changes})


def row(stored, **extras):
    sequence = Sequence(sequence_id="s", frame_ids=("f",), read=frame, windows=(), extras=extras)
    return schema.story_row("d", sequence, Window(story_id="f", start=0, stop=1), [stored], [Rewritten("Fred.", ())])


def test_a_lone_surrogate_in_extras_is_kept_as_json_spells_it():
    text = row(schema.store(frame(extras={"video": "\ud800"})), title="Où")["extras"]
    assert text.encode("utf-8")
    assert json.loads(text) == {"title": "Où", "frames": [{"video": "\ud800"}]}


@pytest.mark.parametrize("own", [{}, {"a": 1, "z": [2]}])
@pytest.mark.parametrize("said", [({"video": "v", "at": 1}, {}), ({}, {"video": "\ud800"}), ({}, {})])
def test_a_story_has_the_extras_of_its_sequence_and_of_all_its_frames(own, said):
    sequence = Sequence(sequence_id="s", frame_ids=("f", "g"), read=frame, windows=(), extras=own)
    frames = [schema.store(frame(extras=extras)).key_only() for extras in said]
    window, same = Window(story_id="s", start=0, stop=2), [Rewritten("", ()), Rewritten("", ())]
    text = schema.story_row("d", sequence, window, frames, same)["extras"]
    expected = {**own, "frames": list(said)} if any(said) else own
    assert (json.loads(text) if text else {}) == expected
    assert not expected or text == schema._extras(expected) or "\\ud800" in text


def test_extras_of_ordinary_text_stay_readable():
    assert "Où est-il" in row(schema.store(frame()), title="Où est-il ?")["extras"]


@pytest.mark.parametrize(
    "changes",
    [
        {"caption": "\udfff"},
        {"caption": None},
        {"setting": b"x"},
        {"characters": ("fred", "\ud800")},
        {"characters": (3,)},
    ],
)
def test_text_that_is_not_text_is_a_reject_that_names_the_frame(changes):
    with pytest.raises(Reject) as caught:
        schema.store(frame(**changes))
    assert caught.value.record == "f"


FIGURE = np.eye(16, dtype=bool)


@pytest.mark.parametrize("data", [PNG, None])
def test_a_mask_may_be_pixels_or_ready_run_lengths(data):
    instances = tuple(Instance(label="fred", mask=mask) for mask in (FIGURE, masks.encode(FIGURE), None))
    stored = schema.store(frame(pictures=(Picture(path="f.png", data=data, instances=instances),)))
    pixels, ready, none = (item["segmentation"] for item in stored.instances[0])
    assert pixels == ready == masks.encode(FIGURE)
    assert none is None


@pytest.mark.parametrize("form", [np.asarray, masks.encode])
def test_a_mask_of_another_size_than_its_picture_is_a_reject(form):
    instance = Instance(label="fred", mask=form(FIGURE[:, :9]))
    with pytest.raises(Reject, match=r"the mask of 'fred' is \(16, 9\), its picture \(16, 16\)") as caught:
        schema.store(frame(pictures=(Picture(path="f.png", data=PNG, instances=(instance,)),)))
    assert caught.value.record == "f"


def test_rows_have_exactly_the_columns_of_the_schema():
    stored = schema.store(frame())
    assert set(row(stored)) == set(schema.STORIES)
    sequence = Sequence(sequence_id="s", frame_ids=("f",), read=frame, windows=())
    assert set(schema.frame_row("d", sequence, 0, stored)) == set(schema.FRAMES)

"""Rows of records: nothing a release can hold crashes a build or is silently changed."""

import json

import pytest

from openstory_hf import fakes, pictures, schema
from openstory_hf.records import Frame, Picture, Reject, Sequence, Window
from openstory_hf.references import Rewritten

PNG = pictures.encode_png(fakes.scene(("fred",), size=16)[0])


def frame(**changes):
    return Frame(**{"frame_id": "f", "caption": "Fred.", "pictures": (Picture(path="f.png", data=PNG),), **changes})


def row(stored, **extras):
    sequence = Sequence(sequence_id="s", frame_ids=("f",), read=frame, windows=(), extras=extras)
    return schema.story_row("d", sequence, Window(story_id="f", start=0, stop=1), [stored], [Rewritten("Fred.", ())])


def test_a_lone_surrogate_in_extras_is_kept_as_json_spells_it():
    text = row(schema.store(frame(extras={"video": "\ud800"})), title="Où")["extras"]
    assert text.encode("utf-8")
    assert json.loads(text) == {"title": "Où", "frames": [{"video": "\ud800"}]}


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


def test_rows_have_exactly_the_columns_of_the_schema():
    stored = schema.store(frame())
    assert set(row(stored)) == set(schema.STORIES)
    sequence = Sequence(sequence_id="s", frame_ids=("f",), read=frame, windows=())
    assert set(schema.frame_row("d", sequence, 0, stored)) == set(schema.FRAMES)

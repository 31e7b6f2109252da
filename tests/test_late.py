"""Instances that are made when they are asked for: the same as Arrow's own."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openstory_hf.late import INSTANCES, instances

instance = st.fixed_dictionaries(
    {
        "label": st.text(max_size=3) | st.none(),
        "character": st.text(max_size=3) | st.none(),
        "bbox": st.lists(st.floats(width=32, allow_nan=False) | st.none(), max_size=4) | st.none(),
        "segmentation": st.none()
        | st.fixed_dictionaries(
            {"size": st.lists(st.integers(0, 9), max_size=2) | st.none(), "counts": st.text(max_size=3) | st.none()}
        ),
        "score": st.floats(width=32, allow_nan=False) | st.none(),
    }
)


def rows(nothing):
    """Rows of pictures of instances; `nothing` stands for what may be there instead of any."""
    return st.lists(nothing | st.lists(nothing | st.lists(nothing | instance, max_size=3), max_size=3), max_size=6)


@settings(deadline=None)
@given(rows(st.nothing()) | rows(st.none()), st.data())
def test_values_are_those_of_arrow_of_whole_columns_and_slices(made, data):
    column = pa.chunked_array([pa.array(made, INSTANCES)])
    start = data.draw(st.integers(0, len(made)))
    part = column.slice(start, data.draw(st.integers(0, len(made))))
    expected = part.to_pylist()
    found = instances(part)
    assert [None if value is None else list(value) for value in found] == expected
    for value, row in zip(found, expected, strict=True):
        if row is not None:
            assert len(value) == len(row)
            assert [value[number] for number in range(-len(row), len(row))] == row + row
            assert value[1:] == row[1:]
            with pytest.raises(IndexError):
                value[len(row)]


def test_columns_of_several_pieces_are_one():
    piece = pa.array([[[{"label": "a"}]], []], INSTANCES)
    column = pa.chunked_array([piece, piece[1:], piece])
    assert [list(value) for value in instances(column)] == column.to_pylist()
    assert instances(column.slice(0, 0)) == []


def test_a_value_that_was_changed_is_not_seen_by_the_next_reader():
    (value,) = instances(pa.chunked_array([pa.array([[[{"label": "a", "bbox": [1.0]}]]], INSTANCES)]))
    value[0][0]["label"] = "b"
    value[0][0]["bbox"].clear()
    assert value[0][0] == {"label": "a", "character": None, "bbox": [1.0], "segmentation": None, "score": None}

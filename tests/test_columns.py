"""Columns as Python values: the same as Arrow's own."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openstory_hf.columns import column
from openstory_hf.index import index_schema
from openstory_hf.schema import FRAMES, TABLES

INSTANCES = FRAMES.arrow_schema.field("instances").type
SIMPLE = {
    pa.string(): st.text(max_size=3),
    pa.int32(): st.integers(-9, 9),
    pa.int64(): st.integers(-(2**62), 2**62),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
}


def types():
    """Types of texts and numbers, and lists and structs of them."""
    return st.recursive(
        st.sampled_from(list(SIMPLE)),
        lambda inner: (
            inner.map(pa.list_)
            | st.lists(inner, min_size=1, max_size=3).map(
                lambda fields: pa.struct([(f"f{number}", of) for number, of in enumerate(fields)])
            )
        ),
        max_leaves=5,
    )


def values(kind, nothing):
    """Values of a type; `nothing` stands for what may be there instead of any."""
    if pa.types.is_list(kind):
        return nothing | st.lists(values(kind.value_type, nothing), max_size=3)
    if pa.types.is_struct(kind):
        return nothing | st.fixed_dictionaries({field.name: values(field.type, nothing) for field in kind})
    return nothing | SIMPLE[kind]


@settings(deadline=None)
@given(types(), st.sampled_from([st.nothing(), st.none()]), st.data())
def test_values_are_those_of_arrow_of_whole_arrays_and_slices(kind, nothing, data):
    made = pa.array(data.draw(st.lists(values(kind, nothing), max_size=6)), kind)
    first = data.draw(st.integers(0, len(made)))
    part = made.slice(first, data.draw(st.integers(0, len(made))))
    expected, found = part.to_pylist(), column(part)
    start = data.draw(st.integers(0, len(part)))
    stop = data.draw(st.integers(start, len(part)))
    assert repr(found.some(start, stop)) == repr(expected[start:stop])  # 1 is not 1.0 or True
    assert repr([found.one(at) for at in range(len(part))]) == repr(expected)
    if pa.types.is_list(kind):
        assert [found.length(at) for at in range(len(part))] == [len(value or ()) for value in expected]
        entries = [[found.entry(at, number) for number in range(found.length(at))] for at in range(len(part))]
        assert repr(entries) == repr([value or [] for value in expected])
        for at in range(len(part)):
            for outside in (-1, found.length(at)):
                with pytest.raises(IndexError):
                    found.entry(at, outside)


@pytest.mark.parametrize("table", list(TABLES))
def test_all_types_of_our_tables_are_read(table):
    for field in index_schema(TABLES[table]):
        assert column(pa.nulls(2, field.type)).some(0, 2) == [None, None], field.name


def test_a_value_that_was_changed_is_not_seen_by_the_next_reader():
    found = column(pa.array([[[{"label": "a", "bbox": [1.0]}]]], INSTANCES))
    found.one(0)[0][0]["label"] = "b"
    found.one(0)[0][0]["bbox"].clear()
    found.one(0).clear()
    assert found.entry(0, 0) == [{"label": "a", "character": None, "bbox": [1.0], "segmentation": None, "score": None}]

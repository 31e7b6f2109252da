"""Rows through the index, and where their pictures lie: against a look at each picture."""

from itertools import pairwise
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openstory_hf import rows, sources
from openstory_hf.folder import BuiltFolder, Index
from openstory_hf.rows import RowReader
from openstory_hf.sources import LENGTH, PLACES, Extents

PICTURE = pa.struct([("path", pa.string()), ("offset", pa.int64()), ("size", pa.int32())])


class Given(Index):
    """An index of given row groups, each (file, its rows of pictures)."""

    def __init__(self, groups):
        self.files = ["a.parquet", "b.parquet", "c.parquet"]
        self._tables = {}
        self._first_of_file = [0]
        self._first_of_group = {}
        for file in range(3):
            first = [self._first_of_file[-1]]
            for rows_of_group in (group for number, group in groups if number == file):
                table = pa.table({"pictures": pa.array(rows_of_group, pa.list_(PICTURE))})
                self._tables[file, len(first) - 1] = table
                first.append(first[-1] + len(table))
            self._first_of_group[file] = first
            self._first_of_file.append(first[-1])

    def rows_of(self, group, columns):
        return self._tables[group].select(list(columns))


@st.composite
def placed(draw):
    """Row groups whose pictures lie one behind the other in some files, some of them not there."""
    groups, file, at = [], 0, LENGTH
    for rows_of_group in draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)):
        if draw(st.integers(0, 2)) == 0 and file < 2:
            file, at = file + 1, LENGTH
        group = []
        for _ in range(rows_of_group):
            pictures = []
            for there in draw(st.lists(st.booleans(), max_size=3)):
                size = draw(st.integers(1, 50))
                pictures.append({"path": "p", "offset": at + LENGTH, "size": size} if there else None)
                at += size + LENGTH
            group.append(pictures)
        groups.append((file, group))
    return groups


@given(st.data())
def test_the_extents_of_rows_are_those_of_their_pictures(data):
    groups = data.draw(placed())
    flat = [(file, pictures) for file, group in groups for pictures in group]
    first = data.draw(st.integers(0, len(flat) - 1))
    stop = data.draw(st.integers(first + 1, len(flat)))
    expected = {}
    for file, pictures in flat[first:stop]:
        for place in filter(None, pictures):
            start, end = place["offset"] - LENGTH, place["offset"] + place["size"]
            low, high = expected.get(file, (start, end))
            expected[file] = min(low, start), max(high, end)
    assert Extents(Given(groups)).of(first, stop) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(placed(), st.integers(1, 7), st.integers(1, 30), st.booleans(), st.data())
def test_rows_are_the_same_however_many_are_taken_at_a_time(monkeypatch, groups, ahead, kept, ordered, data):
    monkeypatch.setattr(rows, "ROWS_AHEAD", ahead)
    monkeypatch.setattr(rows, "KEPT_ROWS", kept)
    flat = [(file, pictures) for file, group in groups for pictures in group]
    reader = RowReader(Given(groups), PLACES, ordered=ordered)
    ends = sorted({0, len(flat), data.draw(st.integers(0, len(flat)))})
    blocks = list(enumerate(pairwise(ends)))
    for _ in range(8):
        block, (begin, stop) = data.draw(st.sampled_from(blocks))
        first = data.draw(st.integers(begin, stop - 1))
        count = data.draw(st.integers(1, stop - first))
        found = reader.rows(first, count, block, (begin, stop))
        expected = flat[first : first + count]
        assert [(found.file(row), found.value("pictures", row)) for row in range(count)] == expected
        assert found.column("pictures") == [pictures for _, pictures in expected]
        assert reader.get(first) == {"pictures": flat[first][1], "file": flat[first][0]}
        if data.draw(st.booleans()):
            reader.leave(block)


@pytest.mark.parametrize(
    ("ordered", "bounds", "taken"),
    [
        (True, (0, 9), [(0, 4), (3, 7), (6, 9)]),  # from the first row on that is not there
        (True, (2, 6), [(2, 6)]),  # all of a small block
        (False, (0, 9), [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 8), (7, 9)]),  # what is asked for
        (False, (2, 8), [(2, 8)]),
    ],
)
def test_rows_of_a_block_are_taken_ahead_up_to_its_end(ordered, bounds, taken, monkeypatch):
    monkeypatch.setattr(rows, "ROWS_AHEAD", 4)
    monkeypatch.setattr(rows, "KEPT_ROWS", 6)
    pieces = []

    class Reader(RowReader):
        def _piece(self, first, stop):
            pieces.append((first, stop))
            return super()._piece(first, stop)

    flat = [[{"path": "p", "offset": 8 + 9 * row, "size": 5}] for row in range(9)]
    reader = Reader(Given([(0, flat)]), PLACES, ordered=ordered)
    for first in range(bounds[0], bounds[1] - 1):
        assert reader.rows(first, 2, 0, bounds).column("pictures") == flat[first : first + 2]
    assert pieces == taken


@pytest.mark.parametrize("scattered", [False, True])
def test_runs_that_are_read_in_their_order_are_asked_for_ahead(scattered, monkeypatch):
    groups = [(0, [[{"path": "p", "offset": 100 * row + 50, "size": 10}] for row in range(8)])]
    index, asked = Given(groups), []
    storage = SimpleNamespace(local=True, will_need=lambda *request: asked.append(request))
    index.folder = BuiltFolder.__new__(BuiltFolder)
    index.folder.storage, index.folder.__dict__["fingerprint"] = storage, "0"
    runs = [(run, (2 * run, 2 * run + 2)) for run in [3, 0, 2, 1]]
    source = sources.picture_source(index, runs, scattered=scattered)
    begun = []
    for run in [3, 0, 3, 2, 1]:
        source.enter(run)
        begun.append(len(asked))
    # each run once, from before its first picture to behind its last, and two of them ahead of the one in use
    expected = [("a.parquet", 200 * run + 46, 200 * run + 160) for run in (3, 0, 2, 1)]
    assert (asked, begun) == (([], [0] * 5) if scattered else (expected, [3, 4, 4, 4, 4]))

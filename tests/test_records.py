"""Records: boxes, texts and rejects; and the drawn scenes that the fakes are made of."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openstory_hf.errors import OpenStoryError
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.records import Reject, box_from_corners, check_text

FEW = settings(max_examples=100, deadline=None)
LOW, HIGH = st.floats(-1e9, 40), st.floats(-5, 1e9)


class TestBox:
    @FEW
    @given(
        st.lists(st.integers(-20, 30), min_size=4, max_size=4),
        st.integers(1, 16),
        st.integers(1, 16),
        st.integers(1, 3),
    )
    def test_it_covers_the_pixels_that_the_corners_enclose(self, corners, height, width, scale):
        x1, y1, x2, y2 = corners
        inside = [
            (row, column)
            for row in range(height)
            for column in range(width)
            if x1 * scale <= column < x2 * scale and y1 * scale <= row < y2 * scale
        ]
        if not inside:
            with pytest.raises(Reject, match="no area inside"):
                box_from_corners(corners, scale=(scale, scale), size=(height, width))
            return
        x, y, w, h = box_from_corners(iter(corners), scale=(scale, scale), size=(height, width))
        rows, columns = zip(*inside, strict=True)
        assert (x, y, w, h) == (min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1)

    @FEW
    @given(st.tuples(LOW, LOW, HIGH, HIGH), st.floats(0.01, 100), st.floats(0.01, 100))
    def test_it_is_cut_off_at_the_borders(self, corners, across, down):
        x1, y1, x2, y2 = np.clip(np.multiply(corners, [across, down, across, down]), 0, [40, 30, 40, 30])
        if x1 >= x2 or y1 >= y2:
            with pytest.raises(Reject):
                box_from_corners(corners, scale=(across, down), size=(30, 40))
        else:
            assert box_from_corners(corners, scale=(across, down), size=(30, 40)) == (x1, y1, x2 - x1, y2 - y1)

    def test_each_direction_has_its_scale_and_fractions_stay(self):
        assert box_from_corners([10, 20.5, 30, 40], scale=(4, 2), size=(512, 512)) == (40, 41, 80, 39)
        assert box_from_corners(["1", 2, np.float32(3), 4], scale=(1, 1), size=(9, 9)) == (1, 2, 2, 2)

    @pytest.mark.parametrize("corners", [[math.nan, 0, 5, 5], [0, 0, 5, math.nan], [0, -math.inf, 5, math.inf]])
    def test_corners_that_are_no_numbers_are_refused(self, corners):
        """NaN used to come out as a box of NaN."""
        with pytest.raises(Reject, match="not finite"):
            box_from_corners(corners, scale=(1, 1), size=(9, 9))

    @pytest.mark.parametrize(
        "corners",
        [[], [1, 2, 3], [1, 2, 3, 4, 5], ["a", 0, 1, 1], [None, 0, 1, 1], None, "1234567", 7, [[1], 2, 3, 4]],
    )
    def test_what_is_not_four_numbers_is_refused(self, corners):
        with pytest.raises(Reject, match="not four numbers"):
            box_from_corners(corners, scale=(1, 1), size=(9, 9))


class TestReject:
    def test_it_says_what_where_and_what_to_do(self):
        assert str(Reject("3 frames of 5")) == "3 frames of 5"
        assert str(Reject("bad", file="a/b.npy")) == "bad (a/b.npy)"
        assert str(Reject("bad", record="s_01")) == "bad (record s_01)"
        reject = Reject("bad", record="s_01", file="a/b.npy", hint="Download it again")
        assert str(reject) == "bad (a/b.npy, record s_01). Download it again"
        assert isinstance(reject, OpenStoryError)

    FIELDS = st.fixed_dictionaries(
        {
            "record": st.text(),
            "file": st.text(),
            "hint": st.text(),
            "stories": st.lists(st.text(), max_size=3).map(tuple),
        }
    )

    @FEW
    @given(st.text(st.characters(exclude_categories=["Cs"])), FIELDS, st.integers(2, pickle.HIGHEST_PROTOCOL))
    def test_it_comes_back_whole_from_another_process(self, reason, fields, protocol):
        reject = Reject(reason, **fields)
        for again in (pickle.loads(pickle.dumps(reject, protocol)), copy.copy(reject), copy.deepcopy(reject)):
            assert type(again) is Reject
            assert str(again) == str(reject)
            assert {**fields, "reason": reason} == {name: getattr(again, name) for name in (*fields, "reason")}


class TestCheckText:
    @FEW
    @given(st.text())
    def test_text_passes_unchanged(self, text):
        assert check_text(text, name="caption", record="r", file="f") == text

    @pytest.mark.parametrize("text", ["", " \n\0", "é🦕", "e\u0301", "\ufeff"])
    def test_odd_text_is_text(self, text):
        assert check_text(text, name="caption", record="r", file="f") is text

    @pytest.mark.parametrize(("text", "at"), [("\ud800", 0), ("ab\udfff", 2), ("🦕\ud83d", 1), ("\udc80 tail", 0)])
    def test_a_lone_surrogate_is_refused_with_its_place(self, text, at):
        with pytest.raises(Reject, match=f"caption holds a lone surrogate at character {at}") as caught:
            check_text(json.loads(json.dumps(text)), name="caption", record="s_01", file="a.json")
        assert (caught.value.record, caught.value.file) == ("s_01", "a.json")
        str(caught.value).encode()

    @pytest.mark.parametrize("value", [None, 5, b"text", ["text"], float("nan")])
    def test_other_types_are_named(self, value):
        with pytest.raises(Reject, match=f"the word is {type(value).__name__}, expected text"):
            check_text(value, name="the word", record="r", file="f")


class TestFakes:
    @pytest.mark.parametrize("size", [32, 48, 64, 100, 128])
    @pytest.mark.parametrize("cast", [(), ("fred",), ("fred", "wilma"), ("fred", "wilma", "dino")], ids=len)
    def test_boxes_are_those_of_the_drawn_figures(self, cast, size):
        for step in range(4):
            pixels, labels, boxes = scene(cast, size=size, step=step, place="cave")
            assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
            assert (labels.shape, labels.dtype) == ((size, size), np.int64)
            assert set(np.unique(labels)) == set(range(len(cast) + 1))
            for index, (left, top, right, bottom) in enumerate(boxes):
                rows, columns = np.nonzero(labels == index + 1)
                assert left <= columns.min()
                assert top <= rows.min()
                assert columns.max() < right
                assert rows.max() < bottom
            if cast:  # nothing hides the last figure
                assert boxes[-1] == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)

    def test_scenes_are_reproducible_and_differ(self):
        first = scene(("fred",), step=1, place="cave")
        np.testing.assert_array_equal(first[0], scene(("fred",), step=1, place="cave")[0])
        for other in (
            scene(("fred",), step=2, place="cave"),
            scene(("fred",), step=1, place="hill"),
            scene(("dino",)),
        ):
            assert (first[0] != other[0]).any()

    def test_the_writer_writes_below_its_folder(self, tmp_path):
        writer = RawWriter(tmp_path / "release")
        writer.json("a/b/c.json", {"é": 1})
        writer.npy("x.npy", np.arange(3))
        writer.jpeg("y.jpg", np.zeros((8, 8, 3), np.uint8))
        assert json.loads((tmp_path / "release/a/b/c.json").read_text("utf-8")) == {"é": 1}
        np.testing.assert_array_equal(np.load(tmp_path / "release/x.npy"), [0, 1, 2])
        with pytest.raises(ValueError, match="allow_pickle"):
            writer.npy("z.npy", np.array([{}], dtype=object))

"""Views: pure functions from rows to rows."""

import copy
import json
import pickle
import pkgutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import openstory_hf
from openstory_hf.errors import UsageError
from openstory_hf.testing import drawn_story
from openstory_hf.views import (
    RowError,
    batched,
    continuation,
    features,
    tidy,
    to_interleaved,
    to_messages,
    to_pairs,
    visualization,
    windows,
)

PACKAGE = Path(openstory_hf.__file__).parent


def story(frames=5, **columns):
    return {**drawn_story(frames=frames, height=16, width=16), **columns}


class TestWindows:
    def test_sub_stories_slice_every_per_frame_column_together(self):
        row = story(5)
        row["captions"] = ["a", "b", "c", "d", "e"]
        row["texts"] = ["A", "B", "C", "D", "E"]
        first, second, third = windows(row, 3)
        assert [w["captions"] for w in (first, second, third)] == [list("abc"), list("bcd"), list("cde")]
        assert second["texts"] == list("BCD")
        assert second["story_id"] == "drawn/1#1-4"
        assert second["frame_ids"] == ["1_1", "1_2", "1_3"]
        assert second["images"] == row["images"][1:4]
        assert second["instances"] == row["instances"][1:4]
        assert second["mentions"] == row["mentions"][1:4]
        assert second["timestamps"] == [1.0, 2.0, 3.0]
        assert second["source"]["index"] == 1
        assert second["sequence_id"] == row["sequence_id"]

    def test_every_list_column_of_the_schema_is_cut(self):
        schema = pytest.importorskip("openstory_hf.schema")
        (cut,) = windows(story(4), 2, stride=4)
        per_frame = [name for name, feature in schema.STORIES.items() if isinstance(feature, schema.List)]
        assert len(per_frame) == 9
        assert {name: len(cut[name]) for name in per_frame} == dict.fromkeys(per_frame, 2)

    @given(st.integers(1, 12), st.integers(1, 13), st.integers(1, 5))
    def test_starts_match_a_count_by_hand(self, frames, length, stride):
        row = {"story_id": "s/1", "captions": [str(number) for number in range(frames)]}
        expected, start = [], 0
        while start + length <= frames:
            expected.append([str(number) for number in range(start, start + length)])
            start += stride
        assert [cut["captions"] for cut in windows(row, length, stride)] == expected

    def test_a_story_too_short_gives_none(self):
        assert windows(story(4), 5) == []

    def test_per_frame_extras_are_cut_and_the_rest_kept(self):
        row = story(3, extras=json.dumps({"credits": "Zoë", "frames": [{"n": 0}, {"n": 1}, {"n": 2}]}))
        cut = windows(row, 2)[1]
        assert json.loads(cut["extras"]) == {"credits": "Zoë", "frames": [{"n": 1}, {"n": 2}]}
        assert "Zoë" in cut["extras"]
        assert windows(story(3, extras='{"credits": "x"}'), 2)[0]["extras"] == '{"credits": "x"}'

    def test_annotations_without_pictures_can_be_cut(self):
        row = story(3)
        del row["images"]
        assert windows(row, 2)[0]["captions"] == row["captions"][:2]

    def test_lists_that_are_not_parallel_are_refused_by_name(self):
        with pytest.raises(RowError, match=r"drawn/1.*'embedding': 7"):
            windows(story(3, embedding=[0.0] * 7), 2)

    @pytest.mark.parametrize(("length", "stride"), [(0, 1), (2, 0)])
    def test_impossible_requests_are_refused(self, length, stride):
        with pytest.raises(UsageError, match=f"length={length}, stride={stride}"):
            windows(story(3), length, stride)


class TestInterleaved:
    def test_texts_and_images_alternate_with_holes(self):
        row = story(2, captions=["one", "two"], images=["P", "Q"])
        assert to_interleaved(row) == {"texts": [None, "one", None, "two"], "images": ["P", None, "Q", None]}
        assert to_interleaved(row, order="caption_first") == {
            "texts": ["one", None, "two", None],
            "images": [None, "P", None, "Q"],
        }

    def test_the_text_column_can_be_chosen(self):
        row = story(1, captions=["Fred sits."], referential_captions=["He sits."], texts=["fred sits"])
        assert to_interleaved(row, text="referential_captions")["texts"] == [None, "He sits."]
        assert to_interleaved(row, text="texts")["texts"] == [None, "fred sits"]

    def test_an_unknown_order_is_refused(self):
        with pytest.raises(UsageError, match="'sideways'"):
            to_interleaved(story(1), order="sideways")


class TestMessages:
    def test_a_conversation_in_the_layout_trl_expects(self):
        row = story(2, captions=["one", "two"], images=["P", "Q"])
        assert to_messages(row, prompt="Tell the story.") == {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Tell the story."}, {"type": "image", "text": None}],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
                {"role": "user", "content": [{"type": "image", "text": None}]},
                {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
            ],
            "images": ["P", "Q"],
        }

    def test_after_arrow_the_blocks_still_have_two_keys_and_one_placeholder_per_picture(self):
        datasets = pytest.importorskip("datasets")
        rows = [to_messages(story(frames, images=["P"] * frames), prompt="Go.") for frames in (1, 3)]
        for row, frames in zip(datasets.Dataset.from_list(rows), (1, 3), strict=True):
            blocks = [block for message in row["messages"] for block in message["content"]]
            assert {frozenset(block) for block in blocks} == {frozenset({"type", "text"})}
            assert sum(block["type"] == "image" for block in blocks) == len(row["images"]) == frames


class TestPairs:
    def test_every_frame_is_a_pair_with_its_own_labels(self):
        row = story(
            2, captions=["one", "two"], images=["P", "Q"], characters=[["fred"], []], setting=["river", "cave"]
        )
        first, second = to_pairs(row)
        assert first == {
            "key": "drawn/1#0",
            "image": "P",
            "caption": "one",
            "frame_id": "1_0",
            "characters": ["fred"],
            "setting": "river",
            "instances": row["instances"][0],
        }
        assert [second[name] for name in ("key", "image", "caption", "setting")] == ["drawn/1#1", "Q", "two", "cave"]

    def test_columns_that_a_row_lacks_are_null_and_not_left_out(self):
        (pair,) = to_pairs({"story_id": "s/1", "captions": ["one"], "images": ["P"]})
        assert list(pair) == list(to_pairs(story(1))[0])
        assert [pair[name] for name in ("frame_id", "characters", "setting", "instances")] == [None] * 4

    def test_the_text_column_can_be_chosen(self):
        assert to_pairs(story(1, texts=["He sits."]), text="texts")[0]["caption"] == "He sits."


class TestTasks:
    def test_continuation_gives_the_first_frame_and_leaves_the_rest_to_draw(self):
        row = story(3, captions=["one", "two", "three"], images=["P", "Q", "R"], setting=["a", "b", "c"])
        assert continuation(row) == {
            "story_id": "drawn/1",
            "source_image": "P",
            "source_caption": "one",
            "captions": ["two", "three"],
            "images": ["Q", "R"],
            "frame_ids": ["1_1", "1_2"],
            "characters": row["characters"][1:],
            "setting": ["b", "c"],
        }

    def test_visualization_gives_nothing_and_has_the_same_columns(self):
        row = story(2, captions=["one", "two"], images=["P", "Q"])
        task = visualization(row)
        assert list(task) == list(continuation(row))
        assert (task["source_image"], task["source_caption"]) == (None, None)
        assert (task["captions"], task["images"], task["frame_ids"]) == (["one", "two"], ["P", "Q"], ["1_0", "1_1"])

    def test_a_story_of_one_frame_cannot_be_continued(self):
        assert visualization(story(1))["captions"]
        with pytest.raises(RowError, match=r"drawn/1.*1 frames, 1 of them given"):
            continuation(story(1))


@pytest.fixture(scope="module")
def stored():
    datasets = pytest.importorskip("datasets")
    schema = pytest.importorskip("openstory_hf.schema")
    rows = [story(frames, story_id=f"drawn/{frames}") for frames in (2, 3, 5)]
    table = datasets.Dataset.from_list(rows, features=schema.STORIES)
    return table.cast_column("images", datasets.List(datasets.Image(decode=False)))


class TestMapping:
    """Every view serves `map` of both kinds of dataset, and gives the columns that `features` says."""

    ONE_ROW = (
        to_messages,
        to_interleaved,
        partial(to_interleaved, order="caption_first"),
        visualization,
        continuation,
    )
    SEVERAL_ROWS = (to_pairs, partial(windows, length=3))

    @staticmethod
    def expected(stored, view):
        """Rows by hand: the view on each row, then what Arrow makes of it."""
        made = [view(row) for row in stored]
        made = [row for rows in made for row in rows] if isinstance(made[0], list) else made
        columns = features(getattr(view, "func", view))
        return [columns.encode_example(row) for row in made]

    @staticmethod
    def encoded(row):
        """Without the decoded pictures that a map-style dataset gives."""
        return {name: value for name, value in row.items() if name not in ("images", "image", "source_image")}

    @pytest.mark.parametrize("view", [*ONE_ROW, *SEVERAL_ROWS])
    @pytest.mark.parametrize("batch_size", [1, 1000])
    def test_map_and_streaming_map(self, stored, view, batch_size):
        import datasets

        columns = features(getattr(view, "func", view))
        options = {"remove_columns": stored.column_names, "features": columns}
        if view in self.SEVERAL_ROWS:
            options |= {"batched": True, "batch_size": batch_size}
        function = batched(view) if view in self.SEVERAL_ROWS else view
        mapped, streamed = stored.map(function, **options), stored.to_iterable_dataset().map(function, **options)
        expected = self.expected(stored, view)
        assert mapped.features == streamed.features == columns
        assert [list(row) for row in streamed] == [list(columns)] * len(expected)
        assert list(streamed) == expected
        assert [self.encoded(row) for row in mapped] == [self.encoded(row) for row in expected]
        name = next(name for name in ("images", "image") if name in columns)
        raw = datasets.Image(decode=False)
        undecoded = mapped.cast_column(name, raw if name == "image" else datasets.List(raw))
        assert undecoded[name] == [row[name] for row in expected]  # the very bytes of the source

    @pytest.mark.parametrize("view", [to_messages, visualization])
    def test_streamed_pictures_are_decoded_unless_asked_otherwise(self, stored, view):
        import datasets

        columns = features(view)
        stream = stored.cast_column("images", datasets.List(datasets.Image())).to_iterable_dataset()
        (row, *_) = stream.map(view, remove_columns=stored.column_names, features=columns)
        assert [image.size for image in row["images"]] == [(16, 16)] * 2

    def test_batches_without_a_result_do_no_harm(self, stored):
        options = {"batched": True, "batch_size": 1, "remove_columns": stored.column_names}
        short = stored.map(batched(partial(windows, length=5)), features=features(windows), **options)
        assert short["story_id"] == ["drawn/5#0-5"]
        none = stored.map(batched(partial(windows, length=9)), features=features(windows), **options)
        assert len(none) == 0
        empty = stored.map(lambda row: {**row, "captions": [], "images": []}).to_iterable_dataset()
        assert list(empty.map(batched(to_pairs), features=features(to_pairs), **options)) == []

    def test_batched_views_go_to_worker_processes(self):
        columns = {name: [value] for name, value in story(2).items()}
        again = pickle.loads(pickle.dumps(batched(partial(to_pairs, text="referential_captions"))))
        assert again(columns)["key"] == ["drawn/1#0", "drawn/1#1"]

    def test_what_is_not_a_view_is_refused(self):
        with pytest.raises(UsageError, match="not a view; these are: windows, to_pairs"):
            features(tidy)


class TestTrl:
    def test_trl_fills_every_placeholder_of_rows_that_went_through_arrow(self):
        data_utils = pytest.importorskip("trl.data_utils", reason="trl is not installed")
        datasets = pytest.importorskip("datasets")
        rows = [to_messages(story(frames), prompt="Go.") for frames in (1, 3)]
        for row in datasets.Dataset.from_list(rows, features=features(to_messages)):
            assert data_utils.is_conversational(row)
            filled = data_utils.prepare_multimodal_messages(row["messages"], images=row["images"])
            shown = [block["image"] for message in filled for block in message["content"] if block["type"] == "image"]
            assert [image.tobytes() for image in shown] == [image.tobytes() for image in row["images"]]


@pytest.mark.parametrize("view", [to_interleaved, to_messages, to_pairs, visualization, continuation])
class TestEveryView:
    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"images": None}, r"pictures are missing.*\"stories\" config"),
            ({"images": [None, "Q"]}, "pictures are missing"),
            ({"images": ["P"]}, "1 pictures for 2 texts"),
            ({"captions": None}, "no column 'captions'"),
            ({"captions": ["one", None]}, r"captions\[1\] is NoneType"),
        ],
    )
    def test_a_row_that_does_not_add_up_is_named(self, view, columns, message):
        with pytest.raises(RowError, match=f"'drawn/1'.*{message}"):
            view(story(2, **columns))


def test_views_leave_the_row_alone():
    row = story(3, extras='{"frames": [1, 2, 3]}', texts=["x", "y", "z"])
    before = copy.deepcopy(row)
    tasks = visualization(row), continuation(row)
    for result in (*windows(row, 2), *tasks, to_interleaved(row), to_messages(row, prompt="p")):
        for value in result.values():
            if isinstance(value, list):
                value.clear()
    assert row == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\nb", "a b"), ("  a \r\n\n\t b  c ", "a b c"), ("déjà\u00a0vu", "déjà vu"), ("", ""), (" \n", "")],
)
def test_tidy_makes_one_line(text, expected):
    assert tidy(text) == expected


def test_the_drawn_story_fits_the_schema():
    schema = pytest.importorskip("openstory_hf.schema")
    datasets = pytest.importorskip("datasets")
    row = drawn_story(frames=2, height=24, width=40)
    assert list(row) == list(schema.STORIES)
    table = datasets.Dataset.from_list([row], features=schema.STORIES)
    assert list(table.to_iterable_dataset().decode(False)) == [row]
    assert [image.size for image in table[0]["images"]] == [(40, 24), (40, 24)]
    for caption, mentions in zip(row["captions"], row["mentions"], strict=True):
        assert [caption[m["start"] : m["end"]].lower() for m in mentions] == ["fred", "wilma"]


class TestImports:
    """The core works without torch: only what makes batches imports it."""

    def test_importing_views_takes_the_standard_library_only(self):
        program = "import sys, openstory_hf.views; print(*{name.partition('.')[0] for name in sys.modules})"
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "openstory_hf" in result.stdout.split()
        assert not {"datasets", "numpy", "PIL", "pyarrow", "torch"} & set(result.stdout.split())

    def test_all_modules_import_where_torch_is_not_installed(self):
        names = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])} - {"collate", "device", "loader"}
        assert {"views", "masks", "schema"} <= names
        program = (
            "import importlib, sys\n"
            "sys.modules['torch'] = None\n"
            f"for name in {sorted(names)!r}: importlib.import_module('openstory_hf.' + name)\n"
            "try:\n    import openstory_hf.collate\n"
            "except ImportError as error:\n    print(error)\n"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "openstory_hf[torch]" in result.stdout


def test_windows_of_a_row_draw_numbers_of_their_own():
    row = {"story_id": "s", "draw": 5, "captions": ["a"] * 8}
    draws = [window["draw"] for window in windows(row, 5)]
    assert len(set(draws)) == 4
    assert draws == [window["draw"] for window in windows(row, 5)]
    assert all("draw" not in window for window in windows({"story_id": "s", "captions": ["a"] * 8}, 5))

"""Views: pure functions from rows to rows."""

import ast
import copy
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import openstory_hf
from openstory_hf import views
from openstory_hf.errors import UsageError
from openstory_hf.testing import drawn_story
from openstory_hf.views import RowError, tidy, to_interleaved, to_messages, windows

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


@pytest.mark.parametrize("view", [to_interleaved, to_messages])
class TestBothDocuments:
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
    for result in (*windows(row, 2), to_interleaved(row), to_messages(row, prompt="p")):
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
    """The core works without torch: only `collate` and `testing` may import it."""

    def test_no_module_outside_collate_imports_torch(self):
        offenders = []
        for path in PACKAGE.rglob("*.py"):
            name = path.relative_to(PACKAGE)
            if name.parts[0] in ("collate", "testing.py"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                offenders += [f"{name}:{node.lineno}" for module in modules if module.split(".")[0] == "torch"]
        assert offenders == []

    def test_views_need_the_standard_library_only(self):
        tree = ast.parse(Path(views.__file__).read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        foreign = {name for name in modules if name.split(".")[0] not in sys.stdlib_module_names}
        assert foreign == {"openstory_hf.errors"}

    def test_all_modules_import_where_torch_is_not_installed(self):
        names = [
            module.name for module in pkgutil.iter_modules([str(PACKAGE)]) if module.name not in ("collate", "testing")
        ]
        assert {"views", "masks", "schema"} <= set(names)
        program = (
            "import importlib, sys\n"
            "sys.modules['torch'] = None\n"
            f"for name in {names!r}: importlib.import_module('openstory_hf.' + name)\n"
            "try:\n    import openstory_hf.collate\n"
            "except ImportError as error:\n    print(error)\n"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "openstory_hf[torch]" in result.stdout

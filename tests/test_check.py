"""Verification: a good folder is ok, and each kind of damage is reported as what it is, never as a traceback."""

import hashlib
import json
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from openstory_hf.builders.african_storybook import AfricanStorybook, write_book
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from openstory_hf.build import build
from openstory_hf.check import check
from openstory_hf.errors import OutputError
from openstory_hf.fakes import RawWriter
from openstory_hf.schema import TABLES
from openstory_hf.testing import FileServer
from openstory_hf.write import file_facts

STORIES = "stories/train-00000-of-00001.parquet"
FRAMES = "frames/train-00000-of-00001.parquet"
STORY = "flintstones_sv/s_01_e_01_shot_000100_000174"
FRAME = "s_01_e_01/s_01_e_01_shot_000100_000174"


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A built folder with boxes, masks and one lost story; its first train story is `STORY`."""
    folder = tmp_path_factory.mktemp("check")
    write_release(RawWriter(folder / "raw"), {"train": {"s_01_e_01": 7}, "val": {"s_01_e_02": 5}}, variant="C")
    (folder / "raw/video_frames_sampled_4x/s_01_e_01_shot_000700_000774.npy").unlink()
    build(FlintstonesSV, folder / "raw", folder / "out", on_error="quarantine")
    return folder / "out"


@pytest.fixture
def out(good, tmp_path):
    """A copy to damage."""
    shutil.copytree(good, tmp_path / "out")
    return tmp_path / "out"


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text("utf-8"))


def trust(out, file):
    """Write what the file is now into the manifest, as whoever rewrote it on purpose would."""
    manifest = manifest_of(out)
    data = (out / file).read_bytes()
    manifest["files"][file] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (out / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def change_rows(out, file, change):
    """Rewrite a shard with its rows changed in place."""
    rows = pq.read_table(out / file).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLES[file.partition("/")[0]].arrow_schema), out / file)
    trust(out, file)


def test_a_good_folder_has_no_problems(good):
    assert check(good) == []


def test_a_rewritten_shard_needs_another_index_even_if_its_rows_are_the_same(out):
    change_rows(out, STORIES, lambda rows: None)
    [problem] = check(out)
    assert problem == f"index/stories-train-00000-of-00001.parquet: row {STORY} of {STORIES} is not as the index says"


def test_an_index_that_says_something_else_than_its_table_is_a_problem(out):
    path = out / "index/frames-train-00000-of-00001.parquet"
    table = pq.read_table(path)
    captions = table["caption"].to_pylist()
    captions[1] += "."
    at = table.schema.get_field_index("caption")
    pq.write_table(table.set_column(at, "caption", pa.array(captions)), path)
    [problem] = check(out)
    assert problem.startswith("index/frames-train-00000-of-00001.parquet: size or SHA-256 differ")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["index"]["index/frames-train-00000-of-00001.parquet"] |= file_facts(path)
    (out / "manifest.json").write_text(json.dumps(manifest))
    [problem] = check(out)
    assert "s_01_e_01_shot" in problem
    assert "is not as the index says" in problem


def test_rejected_files_with_odd_names_are_no_problem(tmp_path):
    writer = RawWriter(tmp_path / "raw")
    write_book(writer, "en/0001_kite", ["One."], pictures=2)
    write_book(writer, "en/0002_line\u2028separator\u0085", ["One.", "Two."], pictures=2)
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    assert check(tmp_path / "out") == []


# -- rows: (table, what is changed, what must be said) -----------------------------------------------------


def cut_picture(rows):
    rows[0]["images"][1]["bytes"] = rows[0]["images"][1]["bytes"][:-200]


def no_picture(rows):
    rows[0]["images"][1]["bytes"] = b""


def null_picture(rows):
    rows[0]["images"][1]["bytes"] = None


def null_caption(rows):
    rows[0]["captions"][1] = None


def null_list(rows):
    rows[0]["mentions"] = None


def resized_mask(rows):
    rows[0]["instances"][1][0]["segmentation"]["size"] = [128, 128]


def broken_mask(rows):
    rows[0]["instances"][1][0]["segmentation"]["counts"] = "zzzz"


def empty_mask(rows):
    rows[0]["instances"][1][0]["segmentation"]["counts"] = ""


def foreign_mask(rows):
    rows[0]["instances"][1][0]["segmentation"]["counts"] = "é"


def box_outside(rows):
    rows[0]["instances"][1][0]["bbox"][2] = 300.0


def box_of_three(rows):
    del rows[0]["instances"][1][0]["bbox"][3]


def shifted_mention(rows):
    rows[0]["mentions"][1][0]["start"] += 1


def shifted_reference(rows):
    rows[0]["mentions"][1][0]["ref_end"] += 1


def mention_outside(rows):
    rows[0]["mentions"][1][0]["end"] = 1000


def same_story_twice(rows):
    rows[1]["story_id"] = rows[0]["story_id"]


def same_frame_twice(rows):
    rows[1]["frame_id"] = rows[0]["frame_id"]


def short_list(rows):
    rows[0]["setting"].pop()


def no_frames(rows):
    for value in rows[0].values():
        if isinstance(value, list):
            value.clear()


def key_out_of_range(rows):
    rows[0]["key_image"] = 5


def picture_without_instances(rows):
    rows[0]["instances"].pop()


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        (STORIES, cut_picture, f"{STORY} picture 1: does not decode"),
        (FRAMES, cut_picture, f"{FRAME} picture 1: does not decode"),
        (FRAMES, no_picture, f"{FRAME} picture 1: does not decode"),
        (FRAMES, null_picture, f"{FRAME}: null in images"),
        (STORIES, null_caption, f"{STORY}: null in captions"),
        (STORIES, null_list, f"{STORY}: null in mentions"),
        (STORIES, resized_mask, f"{STORY} picture 1: the mask of 'fred' is [128, 128], the picture [256, 256]"),
        (FRAMES, resized_mask, f"{FRAME} picture 1: the mask of 'fred' is [128, 128], the picture [256, 256]"),
        (STORIES, broken_mask, f"{STORY} picture 1: the mask of 'fred' is not a valid run-length code"),
        (STORIES, empty_mask, f"{STORY} picture 1: the mask of 'fred' is not a valid run-length code"),
        (STORIES, foreign_mask, f"{STORY} picture 1: the mask of 'fred' is not a valid run-length code"),
        (STORIES, box_outside, "of 'fred' leaves its 256x256 picture"),
        (STORIES, box_of_three, "of 'fred' leaves its 256x256 picture"),
        (STORIES, shifted_mention, f"{STORY} frame 1: putting the names back does not give the caption"),
        (STORIES, shifted_reference, f"{STORY} frame 1: putting the names back does not give the caption"),
        (STORIES, mention_outside, f"{STORY} frame 1: the mention"),
        (STORIES, same_story_twice, f"{STORY}: the id occurs twice"),
        (FRAMES, same_frame_twice, f"{FRAME}: the id occurs twice"),
        (STORIES, short_list, f"{STORY}: the lists have [4, 5] entries"),
        (STORIES, no_frames, f"{STORY}: the lists have [0] entries"),
        (FRAMES, key_out_of_range, f"{FRAME}: 5 pictures, 5 instance lists, key picture number 5"),
        (FRAMES, picture_without_instances, f"{FRAME}: 5 pictures, 4 instance lists"),
    ],
)
def test_one_bad_value_is_one_problem_with_its_file_and_record(out, file, change, problem):
    change_rows(out, file, change)
    (found,) = check(out)
    assert found.startswith(f"{file}: ")
    assert problem in found
    assert "\n" not in found


def test_a_story_id_may_not_occur_in_two_splits(out):
    other = "stories/validation-00000-of-00001.parquet"

    def borrow(rows):
        rows[0]["story_id"] = STORY

    change_rows(out, other, borrow)
    assert check(out) == [f"{other}: {STORY}: the id occurs twice"]


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 5000, -30, -1])
def test_a_flipped_byte_is_a_hash_that_differs(out, at):
    data = bytearray((out / STORIES).read_bytes())
    data[at] ^= 1
    (out / STORIES).write_bytes(data)
    (problem,) = check(out)
    assert problem.startswith(f"{STORIES}: size or SHA-256 differ from the manifest")


def test_a_damaged_file_that_the_manifest_vouches_for_is_still_a_problem_and_no_traceback(out):
    whole, draw = (out / STORIES).read_bytes(), random.Random(0)
    for size in (0, 3, 1000, len(whole) - 1):
        (out / STORIES).write_bytes(whole[:size])
        trust(out, STORIES)
        (problem,) = check(out)
        assert problem.startswith(f"{STORIES}: the file cannot be read")
    for _ in range(8):
        data = bytearray(whole)
        data[draw.randrange(len(whole) - 3000, len(whole))] ^= 1 << draw.randrange(8)  # the footer and its indexes
        (out / STORIES).write_bytes(data)
        trust(out, STORIES)
        assert all(problem.startswith((STORIES, "README.md")) for problem in check(out))


def test_a_missing_shard_is_named(out):
    (out / FRAMES).unlink()
    assert check(out) == [f"{FRAMES}: the file is missing. Build again"]


def test_a_shard_the_manifest_does_not_know_is_named(out):
    shutil.copy(out / FRAMES, out / "frames/train-00001-of-00002.parquet")
    (problem,) = check(out)
    assert problem.startswith("frames/train-00001-of-00002.parquet: not in manifest.json")


def test_a_missing_column_and_foreign_features_are_named(out):
    table = pq.read_table(out / STORIES)
    pq.write_table(table.drop_columns(["setting"]), out / STORIES)
    trust(out, STORIES)
    assert check(out) == [f"{STORIES}: the columns are not those of the schema"]
    pq.write_table(table.replace_schema_metadata({}), out / STORIES)
    trust(out, STORIES)
    assert check(out) == [f"{STORIES}: the Hugging Face features in the file differ from the schema"]


def test_a_row_group_the_viewer_cannot_show_is_named(out, monkeypatch):
    size = pq.ParquetFile(out / FRAMES).metadata.row_group(0).total_byte_size
    monkeypatch.setattr("openstory_hf.check.ROW_GROUP_MAX", size - 1)
    (problem,) = check(out)
    assert problem.startswith(f"{FRAMES}: row group 0 has")


def test_a_script_has_no_place_in_a_dataset(out):
    (out / "stories/loader.py").write_text("print()")
    assert check(out) == ["stories/loader.py: executable files have no place in a dataset"]


# -- manifest, rejects and card ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"seen": 4}, ["manifest.json: train: {'seen': 4, 'written': 2, 'rejected': 1} stories: seen is not"]),
        (
            {"seen": 4, "written": 3},
            ["manifest.json: train: 3 stories written, the files hold 2", "README.md: the table of splits is not"],
        ),
        ({"seen": 4, "rejected": 2}, ["rejects.jsonl: train: names 1 lost stories, the manifest 2"]),
    ],
)
def test_counts_that_do_not_add_up_are_told_apart(out, changes, problems):
    manifest = manifest_of(out)
    manifest["splits"]["train"]["stories"] |= changes
    (out / "manifest.json").write_text(json.dumps(manifest))
    found = check(out)
    assert len(found) == len(problems)
    assert all(line.startswith(start) for line, start in zip(found, problems, strict=True))


def test_row_groups_that_differ_from_the_manifest_are_a_problem(out):
    manifest = manifest_of(out)
    manifest["files"][FRAMES]["row_groups"] = [2, 4]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert check(out) == [f"{FRAMES}: 6 rows in 1 row groups, not as the manifest says"]


@pytest.mark.parametrize("rejects", [None, "{", "[]\n", '{"split": "train"}\n', b"\xff"])
def test_rejects_that_cannot_be_read_are_a_problem(out, rejects):
    (out / "rejects.jsonl").unlink()
    if rejects is not None:
        (out / "rejects.jsonl").write_bytes(rejects if isinstance(rejects, bytes) else rejects.encode())
    (problem,) = check(out)
    assert problem.startswith("rejects.jsonl: cannot be read")


def test_a_reject_that_was_taken_out_is_missed(out):
    (out / "rejects.jsonl").write_text("")
    assert check(out) == ["rejects.jsonl: train: names 0 lost stories, the manifest 1"]


def edit_card(out, edit):
    _, head, body = (out / "README.md").read_text("utf-8").split("---\n", 2)
    front = yaml.safe_load(head)
    edit(front)
    (out / "README.md").write_text(f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{body}", "utf-8")


def drop_frames(front):
    front["configs"] = [config for config in front["configs"] if config["config_name"] != "frames"]


def drop_a_split(front):
    front["configs"][1]["data_files"].pop()


def name_no_file(front):
    front["configs"][1]["data_files"][0]["path"] = "frames/nothing-*.parquet"


def read_another_table(front):
    for part in front["configs"][1]["data_files"]:
        part["path"] = part["path"].replace("frames/v", "stories/v")


def keep_pictures(front):
    del front["configs"][2]["columns"]


def other_count(front):
    front["dataset_info"][1]["splits"][0]["num_examples"] += 1


def other_features(front):
    front["dataset_info"][1]["features"][0]["name"] = "frame"


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (drop_frames, "config frames does not load"),
        (drop_a_split, "config frames does not read the validation files of frames"),
        (name_no_file, "config frames does not read the train files of frames"),
        (read_another_table, "config frames does not read the validation files of frames"),
        (other_count, "the splits of config frames are not"),
        (keep_pictures, "the columns of config annotations are not"),
        (other_features, "the features of config frames are not"),
    ],
)
def test_a_changed_config_of_the_card_is_a_problem_of_that_config(out, edit, problem):
    edit_card(out, edit)
    (found,) = check(out)
    assert found.startswith("README.md: ")
    assert problem in found
    assert "\n" not in found


@pytest.mark.parametrize("text", [None, b"---\n{broken\n---\n", b"---\n[]\n---\n", b"\xff"])
def test_a_card_that_cannot_be_read_is_one_problem(out, text):
    (out / "README.md").unlink()
    if text is not None:
        (out / "README.md").write_bytes(text)
    (problem,) = check(out)
    assert problem.startswith("README.md: cannot be read: ")
    assert problem.endswith("Write it with `openstory card`")
    assert "\n" not in problem


def test_a_card_without_configs_is_a_problem_of_every_config(out):
    (out / "README.md").write_text("# By hand\n")
    problems = [problem for problem in check(out) if "does not load" in problem]
    for config, problem in zip(("stories", "frames", "annotations"), problems, strict=True):
        assert problem.startswith(f"README.md: config {config} does not load: ")
        assert "\n" not in problem


def test_front_matter_that_the_hub_refuses_is_a_problem(out):
    edit_card(out, lambda front: front.update(license="mine", language=["english"]))
    licence, language = check(out)
    assert licence == "README.md: license: 'mine' is not a licence the Hub knows; write `other` and a `license_name`"
    assert language == "README.md: language: 'english' is not an ISO 639 code"


def test_counts_of_the_card_that_are_not_those_of_the_files_are_a_problem(out):
    text = (out / "README.md").read_text("utf-8")
    assert "| train | 2 | 20,132 | 6 |" in text
    (out / "README.md").write_text(text.replace("| train | 2 | 20,132 | 6 |", "| train | 20,132 | 20,132 | 6 |"))
    (problem,) = check(out)
    assert problem.startswith("README.md: the table of splits is not that of manifest.json")


def test_croissant_json_must_be_there_and_name_the_columns(out):
    path = out / "croissant.json"
    described = json.loads(path.read_text("utf-8"))
    described["recordSet"][1]["field"].pop()
    for text in (None, "{", "[]", json.dumps(described)):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text, "utf-8")
        (problem,) = check(out)
        assert problem.startswith("croissant.json: ")
        assert "`openstory card`" in problem


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_folder_without_a_manifest_cannot_be_checked(out, text):
    (out / "manifest.json").unlink()
    if text is not None:
        (out / "manifest.json").write_text(text)
    with pytest.raises(OutputError, match=r"manifest\.json"):
        check(out)


def test_several_problems_are_all_reported(out):
    (out / FRAMES).unlink()
    (out / "load.py").touch()
    change_rows(out, STORIES, cut_picture)
    files = [problem.partition(":")[0] for problem in check(out)]
    assert files == ["load.py", STORIES, FRAMES]


# -- data that is somewhere else ---------------------------------------------------------------------------


def test_a_url_is_checked_by_reading_every_file_once_in_bounded_parts(good, monkeypatch):
    monkeypatch.setattr("openstory_hf.check.FETCH_BYTES", 5000)
    with FileServer(good) as server:
        assert check(server.url) == []
        requests = [request for request in server.requests if "stories/" in request.path or "frames/" in request.path]
    tables = [path for folder in ("stories", "frames") for path in (good / folder).iterdir()]
    assert sum(request.bytes for request in requests) == sum(path.stat().st_size for path in tables)
    assert max(request.bytes for request in requests) == 5000


def test_problems_behind_a_url_are_those_of_the_folder(out, monkeypatch):
    monkeypatch.setattr("openstory_hf.storage._PAUSES", ())
    change_rows(out, STORIES, shifted_mention)
    data = bytearray((out / FRAMES).read_bytes())
    data[5000] ^= 1
    (out / FRAMES).write_bytes(data)
    (out / "croissant.json").unlink()
    (out / "stories/validation-00000-of-00001.parquet").unlink()
    files = [problem.partition(": ")[0] for problem in check(out)]
    expected = [file for file in files if file != "README.md"]  # load_dataset knows no plain address
    assert len(expected) == 4
    with FileServer(out) as server:
        assert [problem.partition(": ")[0] for problem in check(server.url)] == expected


def test_what_is_hidden_is_never_pushed_and_no_problem_of_a_local_folder(tmp_path):
    AfricanStorybook.fake(RawWriter(tmp_path / "raw"))
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    (tmp_path / "out/.venv").mkdir()
    for name in (".venv/x.py", ".x.py"):
        (tmp_path / "out" / name).write_text("")
    assert check(tmp_path / "out") == []
    (tmp_path / "out/x.py").write_text("")
    assert check(tmp_path / "out") == ["x.py: executable files have no place in a dataset"]

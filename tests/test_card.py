"""The card: prose survives being written again, the Hub takes the front matter, facts are those of the build."""

import json
from pathlib import Path

import pytest
import yaml
from openstory_hf.builders.african_storybook import AfricanStorybook
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release
from PIL import Image

from openstory_hf import card, catalogue, cli, metadata
from openstory_hf.build import build
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.folder import BuiltFolder
from openstory_hf.hub import write_card
from openstory_hf.references import POLICIES
from openstory_hf.schema import TABLES

PROSE = 'Drawn by *us*, for $1 or \\1 and \\g<name>: "don\'t" ßø\n\n---\nkey: value\n---\n\n| a | b |\n\n\ttab  \n'


@pytest.fixture
def out(tmp_path):
    write_release(RawWriter(tmp_path / "raw"), {"train": {"s_01_e_01": 7}, "val": {"s_01_e_02": 5}}, variant="B")
    build(FlintstonesSV, tmp_path / "raw", tmp_path / "out", splits=["train", "validation"])
    return tmp_path / "out"


def front_and_body(out):
    _, head, body = (out / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def fill(out, place, prose):
    text = (out / "README.md").read_text("utf-8")
    mark = f"<!-- prose {place} -->\n"
    assert text.count(mark) == 1
    (out / "README.md").write_text(text.replace(mark, mark + prose), "utf-8")


def test_a_build_writes_the_card_that_writing_it_again_gives(out):
    before = {name: (out / name).read_bytes() for name in ("README.md", "croissant.json")}
    write_card(out)
    assert {name: (out / name).read_bytes() for name in before} == before


def test_prose_and_own_keys_stay_and_everything_else_is_written_again(out):
    fill(out, "about", PROSE)
    fill(out, "limits", "Few.\n")
    text = (out / "README.md").read_text("utf-8")
    text = text.replace("---\n", "---\nextra_gated_prompt: Say who you are\n", 1)
    text = text.replace("license: other", "license: mit").replace("| train | 3 |", "| train | 99 |")
    (out / "README.md").write_text(text.replace("## Citation", "## Cited"), "utf-8")
    write_card(out)
    front, body = front_and_body(out)
    assert f"<!-- prose about -->\n{PROSE}<!-- end prose about -->\n" in body
    assert "<!-- prose limits -->\nFew.\n<!-- end prose limits -->\n" in body
    assert "<!-- prose rights -->\n<!-- end prose rights -->\n" in body
    assert front["extra_gated_prompt"] == "Say who you are"
    assert front["license"] == "other"
    assert "| train | 3 |" in body
    assert "## Citation" in body
    once = (out / "README.md").read_bytes()
    write_card(out)
    assert (out / "README.md").read_bytes() == once


def test_line_ends_of_windows_keep_the_prose(out):
    fill(out, "about", "By hand.\n")
    path = out / "README.md"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    write_card(out)
    assert b"<!-- prose about -->\nBy hand.\n<!-- end prose about -->\n" in path.read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- end prose about -->", "", "not in pairs"),
        ("<!-- prose about -->", "", "not in pairs"),
        ("<!-- end prose about -->", "<!-- end prose abuot -->", "not in pairs"),
        ("## Splits", "<!-- prose about -->\n<!-- end prose about -->\n## Splits", "not in pairs"),
        ("## Splits", "<!-- prose mine -->\ntext\n<!-- end prose mine -->\n## Splits", "no place for prose mine"),
        ("license: other", "license: [", "README.md"),
    ],
)
def test_prose_that_would_be_lost_is_an_error_and_the_card_stays(out, old, new, message):
    path = out / "README.md"
    path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
    before = path.read_bytes()
    with pytest.raises(OutputError, match=message):
        write_card(out)
    assert path.read_bytes() == before


def test_the_repository_is_named_where_data_is_loaded(out):
    write_card(out, "me/stories")
    _, body = front_and_body(out)
    assert 'load_dataset("me/stories", split="train", streaming=True)' in body
    assert 'load_stories("me/stories", split="train"' in body
    assert card.PLACEHOLDER not in body
    described = json.loads((out / "croissant.json").read_text("utf-8"))
    assert described["url"].endswith("/datasets/me/stories")


def test_the_command_draws_the_first_story_and_shows_it(out, capsys):
    assert "example.png" not in (out / "README.md").read_text("utf-8")
    assert cli.main(["card", str(out), "--repo", "me/stories"]) == 0
    assert capsys.readouterr().out == f"{out / 'README.md'}\n"
    _, body = front_and_body(out)
    assert "](example.png)\n" in body
    with Image.open(out / "example.png") as image:
        assert image.info["Title"] == BuiltFolder(str(out)).column("stories", "train", ["story_id"])["story_id"][0]
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert cli.main(["check", str(out)]) == 0


def test_cards_are_of_local_builds(tmp_path):
    with pytest.raises(UsageError, match="is not a local folder"):
        write_card("me/stories")
    with pytest.raises(OutputError, match=r"manifest\.json"):
        write_card(tmp_path)


def test_every_column_of_every_table_is_explained(out):
    _, body = front_and_body(out)
    for table, features in TABLES.items():
        assert set(card.MEANINGS[table]) == set(features)
        for name in features:
            assert body.count(f"| `{name}` | ") == sum(name in columns for columns in TABLES.values())
    assert "| `images` | List(Image) |" in body
    assert "| `mentions` | List(List({character, start, end, ref_start, ref_end})) |" in body


@pytest.mark.parametrize("policy", POLICIES)
def test_the_card_says_what_its_policy_of_referential_text_is(out, policy):
    manifest = BuiltFolder(str(out)).manifest
    manifest["referential_text"]["policy"] = policy
    text = card.render(FlintstonesSV.INFO, manifest, [], path="out", languages=("en",))
    section = text.partition("## Referential text\n")[2].partition("\n## ")[0]
    assert f"policy `{policy}`, rules version 1. It " in section


def test_the_error_rate_is_that_of_the_sentences_that_were_read():
    lines = (Path(__file__).parent / "data/grammatical_200.jsonl").read_text("utf-8").splitlines()
    verdicts = [json.loads(line)["verdict"] for line in lines]
    said = card.POLICIES["grammatical"]
    assert f"{len(verdicts)} of the sentences" in said
    assert f"{verdicts.count('ok')} were good English with one meaning" in said
    assert f"{verdicts.count('ambiguous')} (1 %) were ambiguous" in said
    released = [json.loads(line)["verdict_released"] for line in lines]
    said = card.POLICIES["storygpt_v"]
    assert f"it left {released.count('unchanged')} as they were" in said
    wrong = len(released) - released.count("unchanged") - released.count("ok")
    assert f"{wrong} of the other {len(released) - released.count('unchanged')}" in said


def test_languages_are_those_of_the_rows(tmp_path):
    AfricanStorybook.fake(RawWriter(tmp_path / "raw"))
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "all", on_error="quarantine")
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "fr", on_error="quarantine", options={"languages": ["fr"]})
    assert front_and_body(tmp_path / "all")[0]["language"] == ["en", "fr"]  # of en, fr, sw in the catalogue
    assert front_and_body(tmp_path / "fr")[0]["language"] == ["fr"]


@pytest.mark.parametrize(
    ("stories", "category"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (20_132, "10K<n<100K"),
        (999_999, "100K<n<1M"),
        (50_000_000, "10M<n<100M"),
    ],
)
def test_the_size_category_is_one_of_the_hub(out, stories, category):
    manifest = BuiltFolder(str(out)).manifest
    for file, facts in manifest["files"].items():
        facts["rows"] = stories if file.startswith("stories/train") else 0
    front = card.front_matter(FlintstonesSV.INFO, manifest, ("en",))
    assert front["size_categories"] == [category]
    assert metadata.problems(front) == []


@pytest.mark.parametrize("name", catalogue.names())
def test_the_hub_takes_the_front_matter_of_every_dataset(out, name):
    info = catalogue.get(name).INFO
    assert metadata.problems(card.front_matter(info, BuiltFolder(str(out)).manifest, info.languages)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"license": "gnu"}, "license: 'gnu' is not a licence the Hub knows"),
        ({"license": None}, "license is missing"),
        ({"license_name": None}, "license_name is missing"),
        ({"license_name": "My licence"}, "license_name: 'My licence' is not lower-case letters"),
        ({"language": ["en", "eng"]}, "language: 'eng' is not an ISO 639 code"),
        ({"language": [False]}, "language: False is not an ISO 639 code"),  # YAML reads "no" so
        ({"task_categories": ["story-telling"]}, "task_categories: 'story-telling' is not a task of the Hub"),
        ({"size_categories": ["n>10M"]}, "size_categories: 'n>10M' is not a size category"),
        ({"tags": [2024]}, "tags: 2024 is not text"),
        ({"pretty_name": None}, "pretty_name is missing"),
    ],
)
def test_what_the_hub_refuses_is_named(out, change, problem):
    front = {**front_and_body(out)[0], **change}
    (found,) = metadata.problems({key: value for key, value in front.items() if value is not None})
    assert found.startswith(problem)


@pytest.mark.parametrize(
    "change", [lambda t: "\ufeff" + t, lambda t: t.replace("---\n", "--- \n"), lambda t: t.replace("\n", "\r\n")]
)
def test_front_matter_of_any_editor_is_kept(change):
    new = "---\nlicense: mit\n---\n\n5 stories\n"
    assert "doi: 10.1/2" in card.keep_prose(new, change("---\ndoi: 10.1/2\n---\n4 stories\n"))

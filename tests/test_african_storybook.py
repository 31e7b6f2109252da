"""African Storybook: alignment of pages and pictures, licences, and the real books."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from openstory_hf.builders.african_storybook import AfricanStorybook, write_book

from openstory_hf.build import build
from openstory_hf.errors import SourceError
from openstory_hf.fakes import RawWriter

REAL = Path(__file__).parents[2] / "shared/data/african_storybook"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the real books are not at ../shared/data/african_storybook")


def table(raw, rows):
    raw.text("asp-imagebank/README.md", "ID# | Title | Illustrator | License\n--- | --- | --- | ---\n" + rows)


def built(tmp_path, **options):
    manifest = build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine", options=options)
    stories = load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    lines = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    return manifest, {row["story_id"].partition("/")[2]: row for row in stories}, lines


def test_page_p_shows_picture_p_plus_1_and_keeps_its_line_breaks(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_kite", ["The wind\nblows.", "", "It flies."], pictures=5)
    _, stories, _ = built(tmp_path)
    row = stories["en/0001"]
    assert row["captions"] == ["The wind\nblows.", "", "It flies."]
    assert row["frame_ids"] == ["0001/02", "0001/03", "0001/04"]
    extras = json.loads(row["extras"])
    assert (extras["cover"][-6:], extras["back_cover"][-6:]) == ("01.jpg", "05.jpg")
    assert extras["title"] == "Kite"
    assert extras["credits"]["Illustration"] == "A. Painter"
    assert row["language"] == "en"


@pytest.mark.parametrize(("pages", "pictures"), [(3, 3), (3, 2), (3, 6), (3, 7)])
def test_books_that_do_not_line_up_are_rejects_with_both_counts(tmp_path, pages, pictures):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_good", ["One."], pictures=2)
    write_book(raw, "en/0002_bad", ["Page."] * pages, pictures=pictures)
    manifest, stories, lines = built(tmp_path)
    assert list(stories) == ["en/0001"]
    assert f"{pages} pages and {pictures} pictures" in lines[0]["reason"]
    assert manifest["splits"]["train"]["stories"] == {"seen": 2, "written": 1, "rejected": 1}


def test_a_gap_in_the_picture_numbers_is_named(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_good", ["One."], pictures=2)
    write_book(raw, "en/0200_gap", ["One.", "Two.", "Three."], pictures=5)
    (tmp_path / "raw/asp-imagebank/medium/0200/03.jpg").unlink()
    _, _, lines = built(tmp_path)
    assert "pictures [3] are missing" in lines[0]["reason"]


def test_a_translation_with_other_pages_than_the_english_edition_is_a_reject(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_kite", ["One.", "Two."], pictures=4)
    write_book(raw, "sw/0001_tiara", ["Moja.", "Mbili.", "Tatu."], pictures=4)
    _, stories, lines = built(tmp_path)
    assert list(stories) == ["en/0001"]
    assert "3 pages and 4 pictures, but the English edition has 2 pages" in lines[0]["reason"]


@pytest.mark.parametrize(
    ("text", "language_table", "picture_table", "expected"),
    [
        ("[CC-BY]", None, None, "CC BY"),
        ("[CC-BY]", None, "CC BY-NC", "CC BY-NC"),
        ("CC BY", "CC-BY-NC", "CC BY", "CC BY-NC"),
        ("CC BY-NC-SA", "CC-BY", "CC BY", "CC BY-NC-SA"),
        ("[CC-BY-SA]", "[CC-BY-NC]", "CC BY", "CC BY-NC-SA"),
    ],
)
def test_the_most_restrictive_of_three_statements_holds(tmp_path, text, language_table, picture_table, expected):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0044_book", ["One."], pictures=2, license=text)
    if picture_table:
        table(raw, f"0044 | _Book_ | **A** | {picture_table}\n")
    if language_table:
        line = f"0044 | [Book](https://example.org/0044) | [{language_table.strip('[]')}](https://example.org/by)\n"
        raw.text("asp-source/en/README.md", "Story ID | Title | License\n--- | --- | ---\n" + line)
    _, stories, _ = built(tmp_path)
    assert stories["en/0044"]["license"] == expected


def test_an_unknown_licence_is_a_reject_not_a_guess(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_good", ["One."], pictures=2)
    write_book(raw, "en/0002_odd", ["One."], pictures=2, license="All rights reserved")
    _, stories, lines = built(tmp_path)
    assert list(stories) == ["en/0001"]
    assert "All rights reserved" in lines[0]["reason"]


def test_a_picture_that_does_not_decode_names_page_and_file(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_good", ["One."], pictures=2)
    write_book(raw, "en/0002_torn", ["One.", "Two."], pictures=3)
    picture = tmp_path / "raw/asp-imagebank/medium/0002/03.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])
    _, _, lines = built(tmp_path)
    assert lines[0]["record"] == "0002/03"
    assert lines[0]["file"] == "asp-imagebank/medium/0002/03.jpg"
    assert lines[0]["stories"] == ["african_storybook/en/0002"]
    assert "does not decode" in lines[0]["reason"]


def test_languages_choose_the_books(tmp_path):
    AfricanStorybook.fake(RawWriter(tmp_path / "raw"))
    _, stories, _ = built(tmp_path, languages=["fr"])
    assert {row["language"] for row in stories.values()} == {"fr"}
    with pytest.raises(SourceError, match="no books in xx"):
        build(AfricanStorybook, tmp_path / "raw", tmp_path / "other", options={"languages": ["xx"]})


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    out = tmp_path_factory.mktemp("asp") / "out"
    command = [
        sys.executable,
        "-m",
        "openstory_hf.cli",
        "build",
        "african_storybook",
        "--raw",
        str(REAL),
        "--out",
        str(out),
    ]
    subprocess.run([*command, "--languages", "en", "--quiet"], check=True)
    return out


@needs_real
def test_real_books_stream_without_this_package_and_byte_for_byte(real):
    code = """
import hashlib, json, sys
sys.modules["openstory_hf"] = None
from datasets import Image, List, load_dataset
rows = load_dataset(sys.argv[1], streaming=True)["train"].cast_column("images", List(Image(decode=False)))
for row in rows:
    print(json.dumps([row["story_id"], row["frame_ids"], row["captions"],
                      [hashlib.sha256(image["bytes"]).hexdigest() for image in row["images"]]]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(real)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    texts = {path.name[:4]: path.read_text() for path in sorted((REAL / "asp-source/en").glob("0*.md"))}
    assert [story_id for story_id, *_ in found] == [f"african_storybook/en/{number}" for number in texts]
    for story_id, frame_ids, captions, hashes in found:
        number = story_id[-4:]
        pages = re.split(r"^##$", texts[number], flags=re.MULTILINE)[1:-1]
        assert captions == [page.strip("\n") for page in pages]
        assert frame_ids == [f"{number}/{page:02d}" for page in range(2, len(pages) + 2)]
        files = [REAL / f"asp-imagebank/medium/{frame_id}.jpg" for frame_id in frame_ids]
        assert hashes == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@needs_real
def test_real_books_are_all_accounted_for(real, tmp_path):
    for languages in (["en"], ["en", "fr", "sw"]):
        out = tmp_path / "-".join(languages)
        manifest = build(AfricanStorybook, REAL, out, options={"languages": languages}, on_error="quarantine")
        seen = sum(len(list((REAL / "asp-source" / language).glob("0*.md"))) for language in languages)
        counts = manifest["splits"]["train"]
        rejected = [json.loads(line)["record"] for line in (out / "rejects.jsonl").read_text().splitlines()]
        assert counts["stories"]["written"] + counts["stories"]["rejected"] == seen == counts["units"]
        assert rejected == ([] if languages == ["en"] else ["sw/0035"])  # cut into 12 pages, the English one into 11


@pytest.mark.parametrize("fault", ["encoding", "name"])
def test_a_book_that_cannot_be_read_is_counted(tmp_path, fault):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_good", ["One."], pictures=2)
    write_book(raw, "en/0002_bad", ["One."], pictures=2)
    if fault == "encoding":
        (tmp_path / "raw/asp-source/en/0002_bad.md").write_bytes("# Café\n##\nÜ\n##\n".encode("latin-1"))
    else:
        (tmp_path / "raw/asp-imagebank/medium/0002/01.jpg").rename(
            tmp_path / "raw/asp-imagebank/medium/0002/cover.jpg"
        )
    manifest, stories, lines = built(tmp_path)
    assert list(stories) == ["en/0001"]
    assert lines[0]["stories"] == ["african_storybook/en/0002"]
    assert ("cover.jpg" if fault == "name" else "0002_bad.md") in lines[0]["reason"] + lines[0]["file"]
    assert manifest["splits"]["train"]["stories"] == {"seen": 2, "written": 1, "rejected": 1}


@pytest.mark.parametrize(
    "row", ["0001 | _A_ | B | CC BY-NC", "| 0001 | _A_ | B | CC BY-NC |", "|0001|_A_|B|CC BY-NC|"]
)
def test_licences_are_read_from_tables_with_and_without_pipes_around(tmp_path, row):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_kite", ["One."], pictures=2)
    table(raw, row + "\n")
    assert built(tmp_path)[1]["en/0001"]["license"] == "CC BY-NC"


@pytest.mark.parametrize("row", ["0001 | [A](a.md) | [CC BY-NC](url)", "| 0001 | [A](a.md) | [CC BY-NC](url) |"])
def test_licences_of_texts_are_read_from_tables_with_and_without_pipes_around(tmp_path, row):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_kite", ["One."], pictures=2)
    raw.text("asp-source/en/README.md", f"Story ID | Title | License\n--- | --- | ---\n{row}\n")
    assert built(tmp_path)[1]["en/0001"]["license"] == "CC BY-NC"


def test_a_line_without_a_colon_among_the_credits_takes_no_other_with_it(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_kite", ["One."], pictures=2, license="[CC-BY]\n* More on the site\n* Translation: T. One")
    extras = json.loads(built(tmp_path)[1]["en/0001"]["extras"])
    assert extras["credits"]["Translation"] == "T. One"


def test_of_two_statements_of_the_licence_in_a_book_the_stricter_holds(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_kite", ["One."], pictures=2, license="[CC-BY-NC]\n* License: [CC-BY]")
    assert built(tmp_path)[1]["en/0001"]["license"] == "CC BY-NC"

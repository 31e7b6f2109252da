"""African Storybook (ASP): openly licensed picture books in many African and other languages.

Raw tree, the two public repositories side by side:

    asp-source/{language}/{NNNN}_{slug}.md      one book: sections separated by a line "##"
    asp-source/{language}/README.md             table Story ID | [Title](url) | [licence](url), optional
    asp-imagebank/medium/{NNNN}/{PP}.jpg        01 is the cover, page p is picture p + 1
    asp-imagebank/README.md                     table ID# | Title | Illustrator | License, optional

Defects of the source, and what is done about each:

* Pictures and pages do not always line up. A book is taken when it has one picture more than pages (a cover) or two
  more (a cover and a back cover), and a translation only when it has as many pages as the English edition, because
  one that was cut into other pages would silently shift every picture. Other books are rejects, with the counts.
* Slugs are translated titles in any script; the four-digit id is the key.
* The three statements of the licence disagree for some books; the most restrictive one holds.
* Captions keep the hard line breaks of the file; `views.tidy` joins them.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.info import Info, Option, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Picture, Reject, Sequence, Unit, Window, costing

INFO = Info(
    title="African Storybook",
    summary="Illustrated picture books of the African Storybook project, one picture and one text per page.",
    license="other",
    license_name="cc-by-or-cc-by-nc-per-book",
    rights="Every book is openly licensed; credit the author, the illustrator and the translator named in `extras`, "
    "and keep the books whose `license` has NC out of commercial use.",
    languages=("en", "fr", "sw"),
    homepage="https://github.com/global-asp/global-asp",
    citation="""@misc{african_storybook,
  title={African Storybook},
  author={{Saide}},
  howpublished={africanstorybook.org; texts and pictures as collected by the Global African Storybook Project}}""",
    splits={"train": Split()},
    sequence="a book's pages in one language",
    story="the whole book",
    obtain="Clone github.com/global-asp/asp-source and github.com/global-asp/asp-imagebank next to each other in one "
    "folder, and give that folder as --raw.",
    tree="asp-source/{language}/{NNNN}_{slug}.md\nasp-imagebank/medium/{NNNN}/{PP}.jpg\n"
    "optional: asp-source/{language}/README.md, asp-imagebank/README.md (licence tables)",
    not_needed=("asp-imagebank/large", "asp-imagebank/small"),
    options={"languages": Option(help="language codes to build, e.g. --languages en fr sw")},
    tags=("picture-books", "children", "african-languages"),
)

BOOK = re.compile(r"asp-source/(?P<language>[^/]+)/(?P<number>\d{4})_[^/]*\.md")
PAGE_BREAK = re.compile(r"^##?$", re.MULTILINE)  # one Sesotho book has a single # once
FIELD = re.compile(r"^\* (?P<key>[^:\n]+): *(?P<value>.*)$", re.MULTILINE)
LINK = re.compile(r"\[(?P<text>[^\]]*)\](?:\(.*\))?")
PICTURE = re.compile(r"asp-imagebank/medium/\d{4}/(?P<number>\d\d)\.jpg")
CONDITIONS = ("BY", "NC", "ND", "SA")  # in the order licences spell them


def units(raw: Raw, split: str, languages: tuple[str, ...] = ()) -> list[Unit]:
    """A book in one language is a unit."""
    pictures = raw.once(pictures_by_book)
    books = [match for name in raw.names("asp-source/") if (match := BOOK.fullmatch(name))]
    if not books or not pictures:
        raise Reject(
            "the folder must hold asp-source/ with books and asp-imagebank/ with pictures", file=str(raw.path)
        )
    there = sorted({book["language"] for book in books})
    if missing := sorted(set(languages) - set(there)):
        raise Reject(f"no books in {', '.join(missing)}; the release has {', '.join(there)}", file="asp-source")
    return [
        Unit(
            unit_id=f"{book['language']}/{book['number']}",
            split=split,
            size=sum(raw.size(name) for name in pictures[book["number"]]),
            data={"file": book.string},
        )
        for book in books
        if not languages or book["language"] in languages
    ]


def pictures_by_book(raw: Raw) -> dict[str, list[str]]:
    """Book number -> its picture files in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in raw.names("asp-imagebank/medium/", ".jpg"):
        found[name.split("/")[2]].append(name)
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence]:
    """The one book of a unit, or the reason why it cannot be used."""
    with costing(f"african_storybook/{unit.unit_id}"):
        yield book_of(raw, unit)


def book_of(raw: Raw, unit: Unit) -> Sequence:
    """The book of a unit."""
    language, number = unit.unit_id.split("/")
    file = unit.data["file"]
    refuse = partial(Reject, record=unit.unit_id, file=file)
    title, pages, fields = read_book(raw, file, refuse)
    pictures = raw.once(pictures_by_book)[number]
    matches = [PICTURE.fullmatch(name) for name in pictures]
    if odd := [name for name, match in zip(pictures, matches, strict=True) if not match]:
        raise refuse(f"the names of pictures are no numbers of two digits: {', '.join(odd)}")
    numbers = [int(match["number"]) for match in matches if match]
    counts = f"{len(pages)} pages and {len(pictures)} pictures"
    if numbers != list(range(1, len(numbers) + 1)):
        gaps = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
        raise refuse(f"pages and pictures cannot be aligned: {counts}, pictures {gaps} are missing")
    if len(pictures) - len(pages) not in (1, 2):
        raise refuse(f"pages and pictures do not line up: {counts}; a cover makes one more, a back cover two")
    english = next((name for name in raw.names(f"asp-source/en/{number}_", ".md")), file)
    there = len(read_book(raw, english, refuse)[1])
    if there != len(pages):
        raise refuse(f"pages and pictures do not line up: {counts}, but the English edition has {there} pages")
    statements = {"text": fields.get("License", ""), **raw.once(license_tables).get((language, number), {})}
    statements |= raw.once(license_tables).get(("", number), {})
    license = most_restrictive(statements, refuse)
    paths = {f"{number}/{page + 1:02d}": (page, pictures[page]) for page in range(1, len(pages) + 1)}

    def read(frame_id: str) -> Frame:
        page, path = paths[frame_id]
        picture = Picture(path=path.removeprefix("asp-imagebank/"), data=raw.read(path))
        return Frame(frame_id=frame_id, caption=pages[page - 1], pictures=(picture,), file=path)

    covers = {"cover": pictures[0]} | ({"back_cover": pictures[-1]} if len(pictures) == len(pages) + 2 else {})
    return Sequence(
        sequence_id=unit.unit_id,
        frame_ids=tuple(paths),
        read=read,
        windows=(Window(story_id=unit.unit_id, start=0, stop=len(pages)),),
        file=file,
        language=language,
        license=license,
        extras={"title": title, "credits": fields, "license_statements": statements, **covers},
    )


def read_book(raw: Raw, file: str, refuse: Callable[[str], Reject]) -> tuple[str, list[str], dict[str, str]]:
    """Title, page texts and metadata fields of a book."""
    sections = [section.strip("\n") for section in PAGE_BREAK.split(raw.text(file))]
    title = sections[0].strip()
    fields: dict[str, str] = {}
    for match in FIELD.finditer(sections[-1]):
        key, value = match["key"].strip(), match["value"].strip()
        fields[key] = f"{fields[key]}; {value}" if key in fields else value
    if not title.startswith("# ") or len(sections) < 3 or "License" not in fields:
        raise refuse(f"not a book: {len(sections)} sections, where a title, pages and credits are expected")
    return title[2:].strip(), sections[1:-1], fields


def license_tables(raw: Raw) -> dict[tuple[str, str], dict[str, str]]:
    """(language, book) -> what the language table says, ("", book) -> what the picture table says."""
    tables: dict[tuple[str, str], dict[str, str]] = {}
    if raw.exists("asp-imagebank/README.md"):
        for number, license in table_rows(raw.text("asp-imagebank/README.md")):
            tables["", number] = {"pictures": license}
    for name in raw.names("asp-source/", "/README.md"):
        for number, license in table_rows(raw.text(name)):
            tables[name.split("/")[1], number] = {"language_table": license}
    return tables


def table_rows(text: str) -> Iterator[tuple[str, str]]:
    """Book and licence, the first and the last cell, of each row of a table with or without pipes around it."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) > 1 and re.fullmatch(r"\d{4}", cells[0]):
            yield cells[0], LINK.sub(r"\g<text>", cells[-1])


def most_restrictive(statements: dict[str, str], refuse: Callable[[str], Reject]) -> str:
    """The licence that meets the conditions of every statement, e.g. "CC BY-NC"."""
    conditions = set()
    for source, statement in statements.items():
        words = set(re.findall(r"[A-Z]+", statement.upper()))
        if "CC" not in words or "BY" not in words or words - {"CC", *CONDITIONS}:
            raise refuse(f"unknown licence {statement!r} in the {source} statement")
        conditions |= words - {"CC"}
    return "CC " + "-".join(condition for condition in CONDITIONS if condition in conditions)


def fake(raw: RawWriter) -> None:
    """Three good books (one of them in two languages), and one of each kind of broken book."""
    write_book(raw, "en/0001_the-kite", ["The wind blows.", "The kite\nflies away.", ""], pictures=4)
    write_book(
        raw, "fr/0001_le-cerf-volant", ["Le vent souffle.", "Le cerf-volant s’envole.", "Où est-il ?"], pictures=4
    )
    write_book(raw, "en/0002_the-market", ["We go to the market.", "We buy mangoes."], pictures=4, license="CC BY-NC")
    write_book(raw, "en/0003_short", ["One page.", "Two pages."], pictures=2)
    write_book(raw, "fr/0002_le-marche", ["Nous allons au marché et achetons des mangues."], pictures=4)
    write_book(raw, "en/0004_torn", ["A page.", "Another."], pictures=3)
    path = raw.path / "asp-imagebank/medium/0004/02.jpg"
    path.write_bytes(path.read_bytes()[:400])
    rows = "".join(
        f"{n:04d} | _Book {n}_ | **A. Painter** | {'CC BY-NC' if n == 4 else 'CC BY'}\n" for n in range(1, 5)
    )
    raw.text(
        "asp-imagebank/README.md", "# Images\n\nID# | Title | Illustrator | License\n--- | --- | --- | ---\n" + rows
    )


def write_book(raw: RawWriter, name: str, pages: list[str], *, pictures: int, license: str = "[CC-BY]") -> None:
    """Write one book and its pictures."""
    language, _, slug = name.partition("/")
    credits = f"* License: {license}\n* Text: A. Writer\n* Illustration: A. Painter\n* Language: {language}\n"
    body = "".join(f"##\n{page}\n\n" for page in pages)
    raw.text(f"asp-source/{name}.md", f"# {slug[5:].replace('-', ' ').capitalize()}\n\n{body}##\n{credits}")
    for number in range(1, pictures + 1):
        pixels, _, _ = scene(("child", "kite")[: 1 + number % 2], size=160, step=number, place=slug[:4])
        raw.jpeg(f"asp-imagebank/medium/{slug[:4]}/{number:02d}.jpg", pixels)


class AfricanStorybook(StoryBuilder):
    """African Storybook as a Hugging Face builder: `AfricanStorybook(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

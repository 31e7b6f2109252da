"""The contact sheet and the page: right colours on right words and pixels, nothing unescaped, no network."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openstory_hf import codecs, fakes, masks, preview
from openstory_hf.errors import UsageError
from openstory_hf.preview import sheet

BOOKS = Path(__file__).parents[2] / "shared" / "data" / "african_storybook"


def make_row(captions, **columns):
    """A row of the `stories` table about nothing, but for the given columns."""
    count = len(captions)
    row = {
        "story_id": "fake/story",
        "dataset": "fake",
        "sequence_id": "s",
        "language": "en",
        "license": "CC-BY-4.0",
        "frame_ids": [f"frame_{index}" for index in range(count)],
        "captions": captions,
        "referential_captions": captions,
        "mentions": [[] for _ in captions],
        "characters": [[] for _ in captions],
        "setting": [""] * count,
        "instances": [[] for _ in captions],
        "timestamps": [None] * count,
        "source": {"file": "fake.json", "index": 0},
        "extras": "",
        "images": [None] * count,
    }
    assert set(columns) <= set(row)
    return row | columns


def instance(character="", label="person", bbox=None, mask=None, score=None):
    segmentation = None if mask is None else masks.encode(mask)
    return {"label": label, "character": character, "bbox": bbox, "segmentation": segmentation, "score": score}


def drawn(cast, **columns):
    """One drawn frame with exact masks and boxes, and the label image behind it."""
    pixels, labels, corners = fakes.scene(cast)
    boxes = [[float(x1), float(y1), float(x2 - x1), float(y2 - y1)] for x1, y1, x2, y2 in corners]
    instances = [
        instance(name, bbox=box, mask=labels == index)
        for index, (name, box) in enumerate(zip(cast, boxes, strict=True), start=1)
    ]
    image = {"bytes": codecs.encode_png(pixels), "path": "0.png"}
    row = make_row(["A picture."], instances=[instances], images=[image], characters=[list(cast)], **columns)
    return row, pixels, labels


class Page(HTMLParser):
    """What a browser would see: tags with attributes, captions as text, and the marked words in each of them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.captions, self.referential, self.marks, self.text = [], [], [], [], ""
        self.caption = self.mark = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        classes = (attrs.get("class") or "").split()
        if tag == "p" and "caption" in classes:
            self.caption = self.referential if "referential" in classes else self.captions
            self.caption.append("")
        if tag == "mark":
            self.mark = [attrs["title"], "", attrs["style"]]
            self.marks.append(self.mark)

    def handle_endtag(self, tag):
        if tag == "p":
            self.caption = None
        if tag == "mark":
            self.mark = None

    def handle_data(self, data):
        self.text += data
        if self.caption is not None:
            self.caption[-1] += data
        if self.mark is not None:
            self.mark[1] += data

    def find(self, tag, css_class=None):
        return [a for t, a in self.tags if t == tag and (css_class is None or css_class in (a.get("class") or ""))]


def page(*rows):
    return Page(preview.html_page(rows, title="Stories"))


def open_data_uri(uri):
    head, data = uri.split(",", 1)
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    return Image.open(io.BytesIO(base64.b64decode(data)))


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def css(colour):
    return "#" + "".join(f"{value:02x}" for value in colour)


# Colours


def test_colours_do_not_depend_on_order_and_are_the_same_on_every_machine():
    names = ["wilma", "fred", "barney", "pebbles", "dino"]
    assert preview.character_colours(names) == preview.character_colours(names[::-1] * 2)
    assert preview.character_colours(["fred"]) == {"fred": (46, 125, 50)}


def test_ninety_six_characters_have_different_colours_that_can_be_read_on_white():
    colours = preview.character_colours(f"character {index}" for index in range(96))
    assert len(set(colours.values())) == 96
    assert min(1.05 / (luminance(colour) + 0.05) for colour in colours.values()) >= 4.5


def test_the_first_twelve_characters_are_far_apart():
    colours = [np.array(c) for c in preview.character_colours(map(str, range(12))).values()]
    assert min(np.abs(a - b).sum() for i, a in enumerate(colours) for b in colours[:i]) >= 50


# Captions on the page

FRED_AND_WILMA = make_row(
    ["Fred and Wilma talk.", "Fred & Wilma\r\nlaugh at  <Barney>."],
    referential_captions=["Fred and Wilma talk.", "They\r\nlaugh at  <Barney>."],
    mentions=[
        [
            {"character": "fred", "start": 0, "end": 4, "ref_start": 0, "ref_end": 4},
            {"character": "wilma", "start": 9, "end": 14, "ref_start": 9, "ref_end": 14},
        ],
        [
            {"character": "fred", "start": 0, "end": 4, "ref_start": 0, "ref_end": 4},
            {"character": "wilma", "start": 7, "end": 12, "ref_start": 0, "ref_end": 4},
            {"character": "barney", "start": 25, "end": 31, "ref_start": 17, "ref_end": 23},
        ],
    ],
    characters=[["fred", "wilma"], ["fred", "wilma", "barney"]],
)


def test_captions_read_exactly_as_stored_and_the_referential_one_only_where_it_differs():
    seen = page(FRED_AND_WILMA)
    assert seen.captions == FRED_AND_WILMA["captions"]
    assert seen.referential == FRED_AND_WILMA["referential_captions"][1:]


def test_each_mention_is_marked_with_the_colour_of_its_character():
    seen = page(FRED_AND_WILMA)
    assert [(who, text) for who, text, _ in seen.marks] == [
        ("fred", "Fred"),
        ("wilma", "Wilma"),
        ("fred", "Fred"),
        ("wilma", "Wilma"),
        ("barney", "Barney"),
        ("fred, wilma", "They"),
        ("barney", "Barney"),
    ]
    colours = preview.character_colours(["fred", "wilma", "barney"])
    for who, _, style in seen.marks:
        assert set(re.findall(r"#\w{6}", style)) == {css(colours[name]) for name in who.split(", ")}


def test_offsets_count_characters_not_bytes_and_may_leave_the_text():
    mentions = [[{"character": "noé", "start": 6, "end": 99, "ref_start": 0, "ref_end": 0}]]
    seen = page(make_row(["👋🏽 ça, Noé"], mentions=mentions))
    assert seen.captions == ["👋🏽 ça, Noé"]
    assert [(who, text) for who, text, _ in seen.marks] == [("noé", " Noé")]


def test_nothing_a_dataset_says_becomes_markup():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    row = make_row(
        [evil],
        story_id=evil,
        dataset=evil,
        license=evil,
        language=evil,
        frame_ids=[evil],
        sequence_id=evil,
        referential_captions=[evil + "!"],
        mentions=[[{"character": evil, "start": 0, "end": 8, "ref_start": 0, "ref_end": 8}]],
        characters=[[evil]],
        setting=[evil],
        instances=[[instance(evil, label=evil, bbox=[1, 1, 5, 5])]],
        extras=json.dumps({evil: [evil, {"x": evil}]}),
    )
    html = preview.html_page([row], title=evil)
    assert "<script" not in html
    assert "<img" not in html
    seen = Page(html)
    assert seen.captions == [evil]
    assert not [name for _, attrs in seen.tags for name in attrs if name.startswith("on")]
    assert seen.text.count(evil) >= 12


def test_nothing_refers_to_the_network():
    row, _, _ = drawn(["fred", "wilma"], extras=json.dumps({"homepage": "https://example.org/book"}))
    html = preview.html_page([row], title="Stories")
    seen = Page(html)
    references = [
        value for _, attrs in seen.tags for name, value in attrs.items() if name in ("src", "href", "srcset")
    ]
    assert references
    assert all(value.startswith("data:image/") for value in references)
    assert not re.search(r"url\(|@import|<link|<script", html)
    assert "https://example.org/book" in seen.text  # credits are shown, as text


def test_credits_and_setting_can_be_read():
    credits = {"illustration": "Catherine Groenewald", "frames": [{"page": 1}, {"page": 2}]}
    row = make_row(["One.", "Two."], extras=json.dumps(credits), setting=["kitchen", ""], timestamps=[12.25, None])
    seen = page(row)
    for text in ("Catherine Groenewald", "CC-BY-4.0", "fake.json", "kitchen", "12.2 s", "2 frames"):
        assert text in seen.text
    assert len(seen.find("details")) == 1
    assert len(seen.find("li", "setting")) == 1
    assert "not JSON at all" in page(make_row(["One."], extras="not JSON at all")).text


# Pictures, masks and boxes on the page


def test_the_stored_picture_is_shown_untouched():
    row, _, _ = drawn(["fred"])
    (shown,) = (a for a in page(row).find("img") if a["alt"])
    assert base64.b64decode(shown["src"].split(",")[1]) == row["images"][0]["bytes"]


def test_decoded_pictures_are_shown_too_and_large_ones_are_shrunk():
    large = Image.new("RGB", (3000, 1500), (200, 30, 30))
    stored = io.BytesIO()
    large.save(stored, "PNG")
    seen = page(make_row(["", ""], images=[large, {"bytes": stored.getvalue(), "path": "a.png"}]))
    for shown in seen.find("img"):
        image = open_data_uri(shown["src"])
        assert image.size == (1280, 640)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - (200, 30, 30)).max() <= 4


def test_the_overlay_tints_exactly_the_pixels_of_the_masks_in_the_colours_of_the_characters():
    cast = ["fred", "wilma", "barney"]
    row, _, labels = drawn(cast)
    (layer,) = page(row).find("img", "masks")
    overlay = np.asarray(open_data_uri(layer["src"]).convert("RGBA"))
    assert overlay.shape[:2] == labels.shape
    assert ((overlay[..., 3] > 0) == (labels > 0)).all()
    assert overlay[..., 3].max() < 255
    colours = preview.character_colours(cast)
    for index, name in enumerate(cast, start=1):
        assert (overlay[labels == index][:, :3] == colours[name]).all()


def test_a_mask_has_an_outline_inside_and_a_small_mask_stays_visible_on_a_large_one():
    small, large = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    large[5:35, 10:50], small[15:25, 20:30] = True, True
    row = make_row([""], instances=[[instance("small", mask=small), instance("large", mask=large)]])
    (layer,) = page(row).find("img", "masks")
    overlay = np.asarray(open_data_uri(layer["src"]))
    colours = preview.character_colours(["small", "large"])
    assert ((overlay[..., 3] > 0) == large).all()
    assert tuple(overlay[20, 25, :3]) == colours["small"]
    assert tuple(overlay[10, 12, :3]) == colours["large"]
    assert overlay[5, 30, 3] > overlay[10, 15, 3] > 0


def test_boxes_are_drawn_in_pixels_of_the_picture_with_their_names():
    row, pixels, _ = drawn(["fred", "wilma"])
    row["instances"][0].append(instance(label="car", bbox=[70.5, 10, 40, 20], score=0.876))
    seen = page(row)
    (svg,) = seen.find("svg", "boxes")
    assert svg["viewbox"] == f"0 0 {pixels.shape[1]} {pixels.shape[0]}"
    drawn_boxes = [[float(rect[side]) for side in ("x", "y", "width", "height")] for rect in seen.find("rect")]
    assert drawn_boxes == [item["bbox"] for item in row["instances"][0]]
    assert len(seen.find("span", "tag")) == 3
    assert "car 0.88" in seen.text


def test_switches_are_offered_for_the_layers_there_are():
    plain, box = make_row([""]), make_row([""], instances=[[instance("fred", bbox=[0, 0, 5, 5])]])
    assert page(plain).find("input") == []
    assert [a["id"] for a in page(plain, box).find("input")] == ["boxes"]
    assert [a["id"] for a in page(drawn(["fred"])[0], plain).find("input")] == ["masks", "boxes"]
    assert [a["id"] for a in page(FRED_AND_WILMA).find("input")] == ["pronouns"]


# The sheet


def row_of(count, caption="A short caption."):
    images = [Image.new("RGB", (64, 48), (index * 8 % 256, 90, 160)) for index in range(count)]
    return make_row([caption] * count, images=images)


def test_the_sheet_grows_with_frames_and_stories():
    sizes = {count: preview.contact_sheet([row_of(count)], thumb=64).size for count in (1, 4, 5, 6, 30)}
    assert sizes[1][0] < sizes[4][0] < sizes[5][0] == sizes[6][0] == sizes[30][0]
    assert sizes[5][1] < sizes[6][1] < sizes[30][1]
    two = preview.contact_sheet([row_of(5), row_of(5)], thumb=64)
    assert two.size == (sizes[5][0], 2 * sizes[5][1])


def test_every_picture_is_on_the_sheet_once_and_in_reading_order():
    shades = [(40, 30 + 30 * index, 200 - 20 * index) for index in range(7)]
    row = make_row([""] * 7, images=[Image.new("RGB", (32, 32), shade) for shade in shades])
    sheet = np.asarray(preview.contact_sheet([row], thumb=80))
    places = []
    for shade in shades:
        ys, xs = np.nonzero((sheet == shade).all(axis=2))
        assert len(ys) == 80 * 80
        assert (ys.max() - ys.min(), xs.max() - xs.min()) == (79, 79)
        places.append((ys.min(), xs.min()))
    assert places == sorted(places)
    assert len({y for y, _ in places[:5]}) == 1


def test_masks_and_boxes_land_on_the_sheet_where_they_are_in_the_picture():
    mask = np.zeros((50, 50), bool)
    mask[10:30, 20:40] = True
    row = make_row([""], images=[Image.new("RGB", (50, 50), (255, 255, 255))])
    bare = np.asarray(preview.contact_sheet([row], thumb=100)).astype(int)
    tinted = make_row([""], images=row["images"], instances=[[instance(label="", mask=mask)]])
    changed = np.asarray(preview.contact_sheet([tinted], thumb=100)).astype(int) != bare
    ys, xs = np.nonzero(changed.any(axis=2))
    assert (ys.max() - ys.min() + 1, xs.max() - xs.min() + 1) == (40, 40)
    assert len(ys) == 40 * 40
    assert xs.min() == 12 + 2 * 20  # the margin, then twice the pixels

    boxed = make_row([""], images=row["images"], instances=[[instance(label="", bbox=[20, 10, 20, 20])]])
    changed = np.asarray(preview.contact_sheet([boxed], thumb=100)).astype(int) != bare
    outline_ys, outline_xs = np.nonzero(changed.any(axis=2))
    assert (outline_ys.min(), outline_xs.min()) == (ys.min(), xs.min())
    assert len(outline_ys) < len(ys) / 4


def test_mentions_are_written_in_colour_on_the_sheet():
    sheet = np.asarray(preview.contact_sheet([FRED_AND_WILMA]))
    for colour in preview.character_colours(["fred", "wilma", "barney"]).values():
        rows = (sheet == colour).all(axis=2).any(axis=1).sum()
        assert rows > 10  # letters, not only the lines below them


def test_long_captions_are_cut_on_the_sheet_and_whole_on_the_page():
    word = "supercalifragilistic " * 80
    long, longer = row_of(2, word), row_of(2, word * 20)
    assert preview.contact_sheet([long]).size == preview.contact_sheet([longer]).size
    assert page(longer).captions == longer["captions"]
    assert preview.contact_sheet([row_of(1, "x" * 5000)]).size == preview.contact_sheet([row_of(1, word)]).size


@pytest.mark.parametrize("width", range(100, 200, 5))
def test_lines_are_as_full_as_they_can_be(width):
    text = "One two three four\nfive\r\nsix été Ñandú seven eight, and a few words more, to fill it.\n" * 3
    face = sheet._typeface(text)
    expected = []
    for paragraph in text.splitlines():
        for index, word in enumerate(paragraph.split()):
            if index and face.length(f"{expected[-1]} {word}") <= width:
                expected[-1] += f" {word}"
            else:
                expected.append(word)
    text = text.translate(face.table)
    lines = [text[start:end] for start, end in sheet._wrap(text, face, width, 99)]
    assert lines == expected
    assert len(lines) > 9


def test_a_word_wider_than_a_line_is_broken_and_a_cut_line_leaves_room_for_the_ellipsis():
    text = "x" * 100
    face = sheet._typeface(text)
    lines = [text[start:end] for start, end in sheet._wrap(text, face, 120, 99)]
    assert "".join(lines) == text
    assert all(face.length(line) <= 120 < face.length(line + "x") for line in lines[:-1])
    ((_, end),) = sheet._wrap(text, face, 120, 1)
    assert face.length(text[:end] + "…") <= 120 < face.length(text[: end + 1] + "…")


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40), st.text(max_size=10), st.integers(0, 40), st.integers(0, 40))
def test_any_text_can_be_shown(caption, name, start, end):
    mention = {"character": name, "start": start, "end": end, "ref_start": end, "ref_end": start}
    image = Image.new("RGB", (8, 8))
    boxed = [instance(name, bbox=[0, 0, 4, 4])]
    row = make_row([caption], story_id=name, mentions=[[mention]], images=[image], instances=[boxed], setting=[name])
    assert page(row).captions == [caption]
    preview.contact_sheet([row], thumb=80)


def test_accents_are_drawn_and_without_a_font_for_them_become_plain_letters(monkeypatch):
    plain, accented = row_of(1, "L'ete a Noel"), row_of(1, "L'été à Noël")
    if len(sheet._fonts()) > 1:
        assert not set(sheet._typeface("été à Noël, Mfalme wa ng'ombe").table) & set(map(ord, "éàë'"))
        assert preview.contact_sheet([accented]).tobytes() != preview.contact_sheet([plain]).tobytes()
    monkeypatch.setattr(sheet, "_fonts", lambda: [sheet.ImageFont.load_default(size=16)])
    assert preview.contact_sheet([accented]).tobytes() == preview.contact_sheet([plain]).tobytes()


# Rows with little in them


@pytest.mark.parametrize("count", [0, 1, 30])
def test_stories_of_any_length(count):
    assert len(page(row_of(count)).find("figure")) == count
    assert preview.contact_sheet([row_of(count)], thumb=40).width > 40


def test_what_is_missing_is_shown_as_missing():
    row = make_row(
        [""] * 4,
        images=[None, {"bytes": None, "path": "a.jpg"}, {"bytes": b"no jpeg", "path": "b.jpg"}, None],
        instances=[
            None,
            [instance("fred"), instance("", label="")],
            [{**instance("fred"), "segmentation": {"size": None, "counts": None}}],
            [instance("fred", bbox=[3, 4, 50, 20]), instance("wilma", mask=np.eye(30, 40, dtype=bool))],
        ],
        mentions=None,
        license="",
        language="",
        extras=None,
        story_id="",
    )
    seen = page(row)
    assert seen.text.count("no picture") == 3
    assert seen.text.count("unreadable picture") == 1
    assert "licence not stated" in seen.text
    assert [a["style"] for a in seen.find("div", "picture")][3] == "aspect-ratio:40/30"
    assert preview.contact_sheet([row]).size[0] > 4 * 224
    annotations = {name: column for name, column in drawn(["fred"])[0].items() if name != "images"}
    assert len(page(annotations).find("img", "masks")) == 1
    preview.contact_sheet([annotations])


def test_no_rows_are_a_page_without_stories_and_no_sheet():
    assert "0 stories" in page().text
    with pytest.raises(UsageError, match="no stories"):
        preview.contact_sheet([])


# Files


def test_save_writes_what_the_suffix_says(tmp_path):
    row, _, _ = drawn(["fred"])
    preview.save([row], tmp_path / "sheet.PNG", title="Été")
    with Image.open(tmp_path / "sheet.PNG") as sheet:
        assert sheet.format == "PNG"
        assert sheet.text["Title"] == "Été"
        assert sheet.tobytes() == preview.contact_sheet([row]).tobytes()
    preview.save([FRED_AND_WILMA], str(tmp_path / "page.html"), title="Stories")
    written = (tmp_path / "page.html").read_bytes().decode("utf-8")
    assert written == preview.html_page([FRED_AND_WILMA], title="Stories")
    with pytest.raises(UsageError, match=r"\.png or \.html"):
        preview.save([row], tmp_path / "sheet.pdf", title="Stories")
    assert not (tmp_path / "sheet.pdf").exists()


@pytest.mark.parametrize("language", ["en", "fr", "sw"])
def test_a_real_book(language, tmp_path):
    source = next(iter(sorted((BOOKS / "asp-source" / language).glob("0001_*.md"))), None)
    if source is None:
        pytest.skip("the African Storybook sample is not beside the repository")
    captions = [part.strip() for part in source.read_text(encoding="utf-8").split("##\n")[1:-1]]
    scans = [BOOKS / "asp-imagebank" / "medium" / "0001" / f"{page + 2:02d}.jpg" for page in range(len(captions))]
    images = [{"bytes": scan.read_bytes(), "path": scan.name} for scan in scans]
    row = make_row(captions, images=images, language=language)
    seen = page(row)
    assert seen.captions == captions
    assert [base64.b64decode(a["src"].split(",")[1]) for a in seen.find("img")] == [i["bytes"] for i in images]
    assert preview.contact_sheet([row]).height > 2 * 224


def test_hard_line_breaks_of_a_book_flow_in_the_sheet():
    broken, flowing = row_of(1, "In a small garden in the city,\nthere was a big tree."), row_of(1)
    flowing["captions"] = ["In a small garden in the city, there was a big tree."]
    assert (np.asarray(preview.contact_sheet([broken])) == np.asarray(preview.contact_sheet([flowing]))).all()

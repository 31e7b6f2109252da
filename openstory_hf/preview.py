"""Stories to look at: a PNG contact sheet, and one self-contained HTML page.

Both read rows of the `stories` table (`schema.STORIES`), whose pictures may be encoded, decoded or left out. A
character has one colour per story, in its mentions, masks, boxes and chips.
"""

from __future__ import annotations

import base64
import io
import json
import math
import unicodedata
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont
from PIL.PngImagePlugin import PngInfo

from openstory_hf import masks, pictures
from openstory_hf.errors import UsageError

T = TypeVar("T")
Spans = Sequence[tuple[int, int, T]]  # start, end (exclusive) and what lies there
Row = Mapping[str, Any]
Colour = tuple[int, int, int]
Colours = Mapping[str, Colour]
Draw: TypeAlias = ImageDraw.ImageDraw

# Each has a contrast of at least 4.5 to 1 on white. Neighbours differ in hue, because a name whose colour is taken
# moves on to the next.
_HUES = "#c62828 #1565c0 #2e7d32 #8e24aa #b45309 #007982 #c21873 #5e6c00 #4527a0 #794b38 #455a64 #8e6200"
_PALETTE: tuple[Colour, ...] = tuple(ImageColor.getrgb(hue) for hue in _HUES.split())
_PAPER, _INK, _FAINT, _MATTE = (255, 255, 255), (28, 27, 25), (112, 108, 102), (236, 233, 227)
_COLUMNS = 5
# Pillow's own font has no accented letters, so fonts of the system come first; Pillow finds them by name.
_FONTS = "DejaVuSans.ttf NotoSans-Regular.ttf LiberationSans-Regular.ttf Arial.ttf NotoSansCJK-Regular.ttc msyh.ttc"
_LINE_ENDS = "\r\x1c\x1d\x1e\x85\u2029"  # besides \n; Pillow's layout engine fails on a line that holds one
_WEB_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_WEB_SIDE = 1280  # pixels; larger pictures are shrunk, so that a page of scans still opens


def character_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each name, found by a hash of the name; where that is taken, the next free one.

    Returns:
        name -> (red, green, blue), each 0 to 255, readable on white. The order of `names` does not matter; up to 96
        names have different colours.
    """
    colours: dict[str, Colour] = {}
    for name in sorted(set(names)):
        start = zlib.crc32(name.encode("utf-8")) % len(_PALETTE)
        hues = _PALETTE[start:] + _PALETTE[:start]
        shades = (_shade(hue, 0.72**level) for level in range(8) for hue in hues)
        colours[name] = next((shade for shade in shades if shade not in colours.values()), hues[0])
    return colours


def contact_sheet(rows: Sequence[Row], *, thumb: int = 224) -> Image.Image:
    """Draw stories one below the other, frames from left to right, five to a line, captions below.

    Args:
        rows: rows of the `stories` table.
        thumb: side in pixels of the square a picture is fitted into.

    Returns:
        An RGB picture. Captions of more than six lines end in an ellipsis.

    Raises:
        UsageError: if there are no rows.
    """
    if not rows:
        raise UsageError("there are no stories to draw")
    columns = min(_COLUMNS, max(1, *(len(row["captions"]) for row in rows)))
    strips = [np.asarray(strip) for row in rows for strip in _strips(row, columns, thumb)]
    return Image.fromarray(np.vstack(strips))


def html_page(rows: Sequence[Row], *, title: str) -> str:
    """Write stories as one HTML page that needs no other file, no network and no script.

    Args:
        rows: rows of the `stories` table.
        title: heading of the page.
    """
    stories = "\n".join(map(_story, rows))
    frames = sum(len(row["captions"]) for row in rows)
    toggles = "".join(
        f'<label><input type="checkbox" id="{layer}" checked> {layer}</label>'
        for layer in ("masks", "boxes")
        if f'class="{layer}"' in stories
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header class="page">
<h1>{escape(title)}</h1>
<p class="facts">{_count(len(rows), "story", "stories")} · {_count(frames, "frame", "frames")}</p>
<div class="toggles">{toggles}</div>
</header>
<main>
{stories}
</main>
</body>
</html>
"""


def save(rows: Sequence[Row], path: str | Path, *, title: str) -> None:
    """Write a contact sheet (`.png`) or a page (`.html`), as the suffix says.

    Args:
        rows: rows of the `stories` table.
        path: the file to write.
        title: heading of the page; kept as metadata in a PNG.

    Raises:
        UsageError: for any other suffix, or a sheet of no rows.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        info = PngInfo()
        info.add_text("Title", title)
        contact_sheet(rows).save(path, format="PNG", pnginfo=info)
    elif suffix == ".html":
        path.write_bytes(html_page(rows, title=title).encode("utf-8"))  # bytes: line ends in captions stay as they are
    else:
        raise UsageError(f"cannot write a preview to {path}: choose a name that ends in .png or .html")


# ---- what the sheet and the page share


class _Frame(NamedTuple):
    """One frame of a row, what is absent made empty. Without a `picture`, `gap` says why."""

    number: int
    picture: Image.Image | None
    gap: str
    frame_id: str
    caption: str
    referential: str
    mentions: list[dict[str, Any]]
    characters: list[str]
    setting: str
    instances: list[dict[str, Any]]
    timestamp: float | None
    stored: Any

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) that masks and boxes are measured in, with or without a picture."""
        if self.picture is not None:
            return self.picture.width, self.picture.height
        if found := _segmentations(self.instances):
            height, width = found[0][0]["size"]
            return width, height
        boxes = [item["bbox"] for item in self.instances if item.get("bbox")]
        side = math.ceil(max((max(x + w, y + h) for x, y, w, h in boxes), default=128))
        return side, side

    def spans(self, *, referential: bool = False) -> Spans[str]:
        """(start, end, character) of each mention in one of the two captions."""
        start, end = ("ref_start", "ref_end") if referential else ("start", "end")
        return [(mention[start], mention[end], mention["character"]) for mention in self.mentions]


_EMPTY: dict[str, Any] = {
    "frame_ids": "",
    "captions": "",
    "referential_captions": "",
    "mentions": [],
    "characters": [],
    "setting": "",
    "instances": [],
    "timestamps": None,
    "images": None,
}


def _frames(row: Row) -> Iterator[_Frame]:
    columns = [row.get(name) or [None] * len(row["captions"]) for name in _EMPTY]
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        filled = [empty if value is None else value for value, empty in zip(values, _EMPTY.values(), strict=True)]
        stored, picture, gap = filled[-1], None, ""
        if stored is None or (isinstance(stored, Mapping) and stored["bytes"] is None):
            gap = "no picture"
        else:
            try:
                picture = pictures.decode(stored)
            except pictures.UndecodableError:
                gap = "unreadable picture"
        yield _Frame(number, picture, gap, *filled)


def _names(frames: Sequence[_Frame]) -> list[str]:
    """Every name that has a colour in a story, in order of appearance: its characters, then its other objects."""
    cast = [name for frame in frames for name in frame.characters]
    cast += [mention["character"] for frame in frames for mention in frame.mentions]
    return list(dict.fromkeys(cast + [_name(item) for frame in frames for item in frame.instances]))


def _name(item: Mapping[str, Any]) -> str:
    return item.get("character") or item.get("label") or ""


def _tag(item: Mapping[str, Any]) -> str:
    score = item.get("score")
    return " ".join(_name(item).split()) + ("" if score is None else f" {score:.2f}")


def _segmentations(instances: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(segmentation, instance) of the instances that have a mask; a null struct may come as nulls inside."""
    found = [(item.get("segmentation"), item) for item in instances]
    return [(segmentation, item) for segmentation, item in found if segmentation and segmentation["counts"]]


def _corner(item: Mapping[str, Any]) -> Sequence[float] | None:
    """The COCO box that an instance's tag hangs on: its own, or that of its mask."""
    segmented = _segmentations([item])
    return item.get("bbox") or (masks.bbox(segmented[0][0]) if segmented else None)


def _overlay(instances: Sequence[Mapping[str, Any]], colours: Colours, size: tuple[int, int]) -> Image.Image | None:
    """The masks of a frame as a translucent RGBA picture with firmer outlines, or None if it has none.

    Only pixels of a mask are touched. Large masks are painted first, so that small ones stay visible.
    """
    found = _segmentations(instances)
    if not found:
        return None
    overlay = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    outline = ImageFilter.MinFilter(2 * max(1, round(max(size) / 200)) + 1)
    for segmentation, item in sorted(found, key=lambda pair: -masks.area(pair[0])):
        mask = Image.fromarray(masks.decode(segmentation) * 255).resize(size, Image.Resampling.BILINEAR)
        mask = mask.point(lambda value: 255 * (value >= 128))
        overlay[np.asarray(mask) > 0] = (*colours[_name(item)], 235)
        overlay[np.asarray(mask.filter(outline)) > 0] = (*colours[_name(item)], 85)
    return Image.fromarray(overlay, "RGBA")


def _segments(text: str, spans: Spans[T]) -> Iterator[tuple[str, list[T]]]:
    """Cut a text where spans begin and end; each piece comes with what covers it ("they" may stand for several)."""
    cuts = {0, len(text)} | {min(max(cut, 0), len(text)) for start, end, _ in spans for cut in (start, end)}
    for first, last in pairwise(sorted(cuts)):
        yield text[first:last], [value for start, end, value in spans if start <= first and last <= end]


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (round(value * factor) for value in colour)
    return red, green, blue


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _facts(row: Row) -> str:
    licence = f"licence {row['license']}" if row.get("license") else "licence not stated"
    parts = (row.get("dataset"), _count(len(row["captions"]), "frame", "frames"), row.get("language"), licence)
    return " · ".join(part for part in parts if part)


# ---- the sheet


class _Type(NamedTuple):
    """A font, replacements (one letter for one) of what it cannot draw, and the colour it writes in."""

    font: ImageFont.FreeTypeFont
    table: dict[int, str]
    ink: Colour = _INK

    def at(self, size: float) -> _Type:
        return self._replace(font=self.font.font_variant(size=max(8, round(size))))

    def length(self, text: str) -> float:
        return float(self.font.getlength(text.translate(self.table)))


@cache
def _fonts() -> list[ImageFont.FreeTypeFont]:
    found = []
    for name in _FONTS.split():
        try:
            found.append(ImageFont.truetype(name, 16))
        except OSError:  # not on this system
            continue
    return [*found, ImageFont.load_default(size=16)]


def _lacking(font: ImageFont.FreeTypeFont, letters: set[str]) -> set[str]:
    """The letters for which the font has nothing but its box for missing ones."""

    def shape(letter: str) -> tuple[Any, bytes]:
        glyph = font.getmask(letter)
        return glyph.size, bytes(glyph)

    box = shape("\U0010ffff")
    return {letter for letter in letters if not letter.isspace() and shape(letter) == box}


def _typeface(text: str) -> _Type:
    """The font that lacks the fewest letters of a text. What it still lacks loses its accents."""
    letters = set(text) | set("…·")
    font = min(_fonts(), key=lambda font: len(_lacking(font, letters)))
    plain = {ord(letter): unicodedata.normalize("NFD", letter)[0] for letter in _lacking(font, letters)}
    return _Type(font, plain | dict.fromkeys(map(ord, _LINE_ENDS), "\n"))


def _wrap(text: str, face: _Type, width: float, most: int) -> list[tuple[int, int]]:
    """(start, end) of each line of a text, at most `most`; the last leaves room for an ellipsis if text is left."""

    def fit(start: int, room: float) -> int:
        stop = text.find("\n", start) % (len(text) + 1)  # -1, not found, becomes the end of the text
        fits = bisect_right(range(stop + 1), room, lo=start, key=lambda end: face.length(text[start:end]))
        end = max(start + 1, fits - 1)
        space = text.rfind(" ", start, end + 1)
        return space if end < stop and space > start else end

    lines: list[tuple[int, int]] = []
    length, start = len(text.rstrip()), len(text) - len(text.lstrip())
    while start < length and len(lines) < most:
        end = fit(start, width)
        if len(lines) == most - 1 and end < length:
            end = fit(start, width - face.length("…"))
        lines.append((start, end))
        start = end + len(text[end:]) - len(text[end:].lstrip())
    return lines


def _write(
    draw: Draw, x: float, top: float, text: str, face: _Type, width: float, most: int, spans: Spans[Colour] = ()
) -> float:
    """Write a text in at most `most` lines, its spans coloured and underlined; return the y below it."""
    text = text.translate(face.table)
    left, size, lines = x, face.font.size, _wrap(text, face, width, most)
    for start, end in lines:
        x = left
        for piece, inks in _segments(text[start:end], [(a - start, b - start, colour) for a, b, colour in spans]):
            draw.text((x, top), piece, font=face.font, fill=inks[0] if inks else face.ink)
            share = face.length(piece) / max(1, len(inks))
            for part, colour in enumerate(inks):  # "they" is underlined once for each it stands for
                rule = top + round(size * 1.25)
                draw.rectangle((x + part * share, rule, x + (part + 1) * share - 1, rule + 1), fill=colour)
            x += face.length(piece)
        if (start, end) == lines[-1] and end < len(text.rstrip()):
            draw.text((x, top), "…".translate(face.table), font=face.font, fill=face.ink)
        top += round(size * 1.45)
    return top


def _thumbnail(frame: _Frame, colours: Colours, thumb: int, face: _Type) -> Image.Image:
    """A frame's picture, masks and boxes, fitted into a square of `thumb` pixels."""
    scale = thumb / max(frame.size)
    size = (max(1, round(frame.size[0] * scale)), max(1, round(frame.size[1] * scale)))
    image = Image.new("RGB", size, _MATTE) if frame.picture is None else frame.picture.resize(size)
    draw = ImageDraw.Draw(image)
    draw.text((6, 6), frame.gap, font=face.font, fill=face.ink)
    if overlay := _overlay(frame.instances, colours, size):
        image.paste(overlay, mask=overlay)
    for item in frame.instances:
        colour, text = colours[_name(item)], _tag(item)
        x, y, w, h = (value * scale for value in _corner(item) or (0, 0, 0, 0))
        if item.get("bbox"):
            draw.rectangle((x, y, x + max(0, w - 1), y + max(0, h - 1)), outline=colour, width=max(1, thumb // 112))
        if text and w:
            width, height = face.length(text) + 6, round(face.font.size * 1.35)
            x, y = max(0, min(x, size[0] - width)), y - height if y >= height else y
            draw.rectangle((x, y, x + width, y + height), fill=colour)
            draw.text((x + 3, y + height / 2), text.translate(face.table), font=face.font, fill=_PAPER, anchor="lm")
    return image


def _strips(row: Row, columns: int, thumb: int) -> Iterator[Image.Image]:
    """One story as pictures of equal width, to be set one below the other: its heading, then lines of frames."""
    frames = list(_frames(row))
    names = [name for name in _names(frames) if name]
    colours = character_colours(_names(frames))
    everything = [row["story_id"], *names, *(text for f in frames for text in (f.frame_id, f.caption, f.setting))]
    face = _typeface("".join(everything)).at(thumb / 16)
    small, head = face.at(face.font.size * 0.85)._replace(ink=_FAINT), face.at(face.font.size * 1.4)
    gap, margin = max(8, thumb // 14), max(12, thumb // 8)
    width = columns * (thumb + gap) - gap

    def canvas(height: float) -> tuple[Image.Image, Draw]:
        strip = Image.new("RGB", (width + 2 * margin, round(height)), _PAPER)
        return strip, ImageDraw.Draw(strip)

    strip, draw = canvas(2 * margin + 20 * head.font.size)  # more than the lines allowed below; cut to what was used
    y = _write(draw, margin, margin, row["story_id"], head, width, 3)
    y = _write(draw, margin, y, _facts(row), small, width, 2) + gap // 2
    legend, spans = "", []
    for name in names:
        spans.append((len(legend), len(legend) + len(name), colours[name]))
        legend += name + "    "
    y = _write(draw, margin, y, legend, face, width, 4, spans)
    yield strip.crop((0, 0, strip.width, round(y) + gap // 2))

    for first in range(0, len(frames), columns):
        line = frames[first : first + columns]
        thumbs = [_thumbnail(frame, colours, thumb, small) for frame in line]
        tall = max(image.height for image in thumbs)
        strip, draw = canvas(tall + 2 * margin + 14 * face.font.size)
        below = 0.0
        for column, (frame, image) in enumerate(zip(line, thumbs, strict=True)):
            left = margin + column * (thumb + gap)
            draw.rectangle((left, 0, left + thumb - 1, tall - 1), fill=_MATTE)
            strip.paste(image, (left + (thumb - image.width) // 2, (tall - image.height) // 2))
            label = f"{frame.number} · {frame.frame_id}\n{frame.setting}"
            y = _write(draw, left, tall + gap // 2, label, small, thumb, 3)
            spans = [(start, end, colours[name]) for start, end, name in frame.spans()]
            below = max(below, _write(draw, left, y + 2, frame.caption, face, thumb, 6, spans))
        yield strip.crop((0, 0, strip.width, round(below) + gap))
    yield Image.new("RGB", (width + 2 * margin, 2), _MATTE)


# ---- the page


def _story(row: Row) -> str:
    frames = list(_frames(row))
    colours = character_colours(_names(frames))
    items = "\n".join(_figure(frame, colours, row.get("language") or "") for frame in frames)
    return f"""<article>
<h2>{escape(row["story_id"])}</h2>
<p class="facts">{escape(_facts(row))}</p>
{_chips([name for name in _names(frames) if name], colours)}
<ol class="frames">
{items}
</ol>
{_details(row)}
</article>"""


def _figure(frame: _Frame, colours: Colours, language: str) -> str:
    width, height = frame.size
    layers = []
    if frame.picture is None:
        layers.append(f'<div class="gap">{frame.gap}</div>')
    else:
        layers.append(f'<img src="{_embed(frame)}" alt="Frame {frame.number}">')
    if overlay := _overlay(frame.instances, colours, frame.size):
        layers.append(f'<img class="masks" src="{_data_uri(overlay, "PNG", compress_level=9)}" alt="">')
    boxes = [item for item in frame.instances if item.get("bbox")]
    if boxes:
        shapes = "".join(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" stroke="{_css(colours[_name(item)])}"/>'
            for item in boxes
            for x, y, w, h in [item["bbox"]]
        )
        layers.append(f'<svg class="boxes" viewBox="0 0 {width} {height}" aria-hidden="true">{shapes}</svg>')
    for item in frame.instances:
        layers.append(_tag_html(item, colours, width, height))

    texts = [f'<p class="caption" dir="auto">{_marked(frame.caption, frame.spans(), colours)}</p>']
    if frame.referential and frame.referential != frame.caption:
        marked = _marked(frame.referential, frame.spans(referential=True), colours)
        texts.append(f'<p class="caption referential" dir="auto" title="after character replacement">{marked}</p>')
    time = "" if frame.timestamp is None else f" · {frame.timestamp:.1f} s"
    return f"""<li><figure>
<div class="picture" style="aspect-ratio:{width}/{height}">{"".join(layers)}</div>
<figcaption>
<p class="label"><b>{frame.number}</b> {escape(frame.frame_id).replace("_", "_<wbr>")}{time}</p>
<div lang="{escape(language)}">{"".join(texts)}</div>
{_chips(frame.characters, colours, frame.setting)}
</figcaption>
</figure></li>"""


def _tag_html(item: Mapping[str, Any], colours: Colours, width: int, height: int) -> str:
    text, (x, y, w, _) = _tag(item), _corner(item) or (0, 0, 0, 0)
    if not text or not w:
        return ""
    layer = "boxes" if item.get("bbox") else "masks"
    side = f"left:{100 * x / width:.2f}%" if x < width / 2 else f"right:{100 * (1 - (x + w) / width):.2f}%"
    above = " above" if y > height / 10 else ""
    style = f"{side};top:{100 * y / height:.2f}%;--c:{_css(colours[_name(item)])}"
    return f'<span class="tag {layer}{above}" style="{style}">{escape(text)}</span>'


def _marked(text: str, spans: Spans[str], colours: Colours) -> str:
    """A caption as HTML; its text content is the caption."""
    parts = []
    for piece, names in _segments(text, spans):
        part = escape(piece).replace("\r", "&#13;")  # a bare one would be read as a line feed
        if names:
            bands = [_css(colours[name]) for name in names]
            stops = ",".join(
                f"{colour} {100 * index / len(bands):.0f}% {100 * (index + 1) / len(bands):.0f}%"
                for index, colour in enumerate(bands)
            )
            style = f"--c:{bands[0]};--rule:linear-gradient(90deg,{stops})"
            part = f'<mark style="{style}" title="{escape(", ".join(names))}">{part}</mark>'
        parts.append(part)
    return "".join(parts)


def _chips(names: Sequence[str], colours: Colours, setting: str = "") -> str:
    chips = [f'<li class="chip" style="--c:{_css(colours[name])}">{escape(name)}</li>' for name in names]
    if setting:
        chips.append(f'<li class="chip setting" title="setting">{escape(setting)}</li>')
    return f'<ul class="chips">{"".join(chips)}</ul>' if chips else ""


def _details(row: Row) -> str:
    """Where a story is from, and whatever its `extras` say (credits, licence), folded away."""
    facts = {"sequence": row.get("sequence_id"), "licence": row.get("license"), "source": row.get("source")}
    extras: Any = row.get("extras") or "{}"
    with suppress(ValueError):  # what is not JSON is shown as it is
        extras = json.loads(extras)
    facts |= extras if isinstance(extras, dict) else {"extras": extras}
    facts = {key: value for key, value in facts.items() if value not in (None, "", [], {})}
    return f"<details><summary>Source and credits</summary>{_json_html(facts)}</details>"


def _json_html(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = "".join(f"<dt>{escape(str(key))}</dt><dd>{_json_html(item)}</dd>" for key, item in value.items())
        return f"<dl>{pairs}</dl>"
    if isinstance(value, list):
        return f"<ol>{''.join(f'<li>{_json_html(item)}</li>' for item in value)}</ol>"
    return escape(value if isinstance(value, str) else json.dumps(value))


def _embed(frame: _Frame) -> str:
    """The picture as a data URI: the stored bytes where browsers show them, else a JPEG of bounded size."""
    assert frame.picture is not None
    if isinstance(frame.stored, Mapping) and max(frame.size) <= _WEB_SIDE:
        kind = Image.open(io.BytesIO(frame.stored["bytes"])).format
        if kind in _WEB_FORMATS:
            return f"data:image/{kind.lower()};base64,{base64.b64encode(frame.stored['bytes']).decode('ascii')}"
    picture = frame.picture.copy()
    picture.thumbnail((_WEB_SIDE, _WEB_SIDE))
    return _data_uri(picture, "JPEG", quality=90, subsampling=0)


def _data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


_STYLE = """
:root { color-scheme: light dark; --ground: #f4f2ee; --card: #fff; --ink: #1c1b19; --faint: #6d6963; --line: #e2ded7;
  --matte: #ebe8e2; --lift: 0% }
@media (prefers-color-scheme: dark) {
  :root { --ground: #151412; --card: #211f1c; --ink: #ece9e3; --faint: #a29d95; --line: #37342f; --matte: #2d2a26;
    --lift: 55% } }
* { box-sizing: border-box; margin: 0 }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 100rem;
  margin: auto; padding: 0 clamp(.75rem, 2vw, 2rem) 2rem; overflow-wrap: anywhere }
.page { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 1rem;
  padding: .75rem 0; background: var(--ground) }
h1 { font-size: 1.3rem; line-height: 1.25 }
h2 { font-size: 1.1rem; line-height: 1.3 }
ol, ul { list-style: none; padding: 0 }
.facts, .label, .gap, details { color: var(--faint); font-size: .85rem }
.toggles { display: flex; gap: 1rem; margin-left: auto; font-size: .9rem }
.toggles label { cursor: pointer }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin-bottom: 1.25rem;
  padding: clamp(.75rem, 1.5vw, 1.25rem) }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); gap: 1.25rem 1rem;
  margin: 1rem 0 }
.picture { position: relative; overflow: hidden; border-radius: 8px; background: var(--matte) }
.picture > img, .boxes:is(svg), .gap { position: absolute; inset: 0; width: 100%; height: 100% }
.gap { padding: .3rem .6rem }
.boxes rect { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke }
.tag { position: absolute; max-width: 60%; padding: 0 .4em; border-radius: 3px; background: var(--c); color: #fff;
  font-size: 11px; line-height: 1.5; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.tag.above { transform: translateY(-100%) }
body:has(#masks:not(:checked)) .masks, body:has(#boxes:not(:checked)) .boxes { display: none }
figcaption { padding-top: .4rem }
.caption { white-space: pre-wrap; margin: .15rem 0 .35rem }
.referential { color: var(--faint); border-inline-start: 3px solid var(--line); padding-inline-start: .6em }
mark { background: var(--rule) 0 100% / 100% 2px no-repeat; color: color-mix(in srgb, white var(--lift), var(--c));
  font-weight: 600; padding-bottom: 1px }
.chips { display: flex; flex-wrap: wrap; gap: .3rem; margin-top: .35rem }
.chip { padding: .05em .6em; border-radius: 1em; font-size: .8rem;
  color: color-mix(in srgb, white var(--lift), var(--c)); background: color-mix(in srgb, var(--c) 14%, transparent) }
.setting { color: var(--faint); background: none; border: 1px solid var(--line) }
summary { cursor: pointer }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; padding-top: .3rem }
dd { min-width: 0 }
dd ol { list-style: decimal; padding-inline-start: 1.5em }
dl dl { padding: 0 }
"""

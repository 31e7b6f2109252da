"""The PNG contact sheet, drawn with Pillow."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openstory_hf.errors import UsageError
from openstory_hf.preview.shown import (
    FAINT,
    INK,
    MATTE,
    PAPER,
    Colour,
    Colours,
    Row,
    ShownFrame,
    Spans,
    character_colours,
    coloured_names,
    facts_of,
    mask_overlay,
    name_of,
    pieces,
    shown_frames,
    tag_corner,
    tag_of,
)

Draw: TypeAlias = ImageDraw.ImageDraw
_COLUMNS = 5
# Pillow's own font has no accented letters, so fonts of the system come first; Pillow finds them by name.
_FONTS = "DejaVuSans.ttf NotoSans-Regular.ttf LiberationSans-Regular.ttf Arial.ttf NotoSansCJK-Regular.ttc msyh.ttc"
_LINE_ENDS = "\r\x1c\x1d\x1e\x85\u2029"  # besides \n; Pillow's layout engine fails on a line that holds one


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


class _Type(NamedTuple):
    """A font, replacements (one letter for one) of what it cannot draw, and the colour it writes in."""

    font: ImageFont.FreeTypeFont
    table: dict[int, str]
    ink: Colour = INK

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
        for piece, inks in pieces(text[start:end], [(a - start, b - start, colour) for a, b, colour in spans]):
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


def _thumbnail(frame: ShownFrame, colours: Colours, thumb: int, face: _Type) -> Image.Image:
    """A frame's picture, masks and boxes, fitted into a square of `thumb` pixels."""
    scale = thumb / max(frame.size)
    size = (max(1, round(frame.size[0] * scale)), max(1, round(frame.size[1] * scale)))
    image = Image.new("RGB", size, MATTE) if frame.picture is None else frame.picture.resize(size)
    draw = ImageDraw.Draw(image)
    draw.text((6, 6), frame.gap, font=face.font, fill=face.ink)
    if overlay := mask_overlay(frame.instances, colours, size):
        image.paste(overlay, mask=overlay)
    for item in frame.instances:
        colour, text = colours[name_of(item)], tag_of(item)
        x, y, w, h = (value * scale for value in tag_corner(item) or (0, 0, 0, 0))
        if item.get("bbox"):
            draw.rectangle((x, y, x + max(0, w - 1), y + max(0, h - 1)), outline=colour, width=max(1, thumb // 112))
        if text and w:
            width, height = face.length(text) + 6, round(face.font.size * 1.35)
            x, y = max(0, min(x, size[0] - width)), y - height if y >= height else y
            draw.rectangle((x, y, x + width, y + height), fill=colour)
            draw.text((x + 3, y + height / 2), text.translate(face.table), font=face.font, fill=PAPER, anchor="lm")
    return image


def _strips(row: Row, columns: int, thumb: int) -> Iterator[Image.Image]:
    """One story as pictures of equal width, to be set one below the other: its heading, then lines of frames."""
    frames = list(shown_frames(row))
    names = [name for name in coloured_names(frames) if name]
    colours = character_colours(coloured_names(frames))
    everything = [row["story_id"], *names, *(text for f in frames for text in (f.frame_id, f.caption, f.setting))]
    face = _typeface("".join(everything)).at(thumb / 16)
    small, head = face.at(face.font.size * 0.85)._replace(ink=FAINT), face.at(face.font.size * 1.4)
    gap, margin = max(8, thumb // 14), max(12, thumb // 8)
    width = columns * (thumb + gap) - gap

    def canvas(height: float) -> tuple[Image.Image, Draw]:
        strip = Image.new("RGB", (width + 2 * margin, round(height)), PAPER)
        return strip, ImageDraw.Draw(strip)

    strip, draw = canvas(2 * margin + 20 * head.font.size)  # more than the lines allowed below; cut to what was used
    y = _write(draw, margin, margin, row["story_id"], head, width, 3)
    y = _write(draw, margin, y, facts_of(row), small, width, 2) + gap // 2
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
            draw.rectangle((left, 0, left + thumb - 1, tall - 1), fill=MATTE)
            strip.paste(image, (left + (thumb - image.width) // 2, (tall - image.height) // 2))
            label = f"{frame.number} · {frame.frame_id}\n{frame.setting}"
            y = _write(draw, left, tall + gap // 2, label, small, thumb, 3)
            spans = [(start, end, colours[name]) for start, end, name in frame.spans()]
            flowing = frame.caption.replace("\n", " ")  # hard line breaks of a book fit no other width
            below = max(below, _write(draw, left, y + 2, flowing, face, thumb, 6, spans))
        yield strip.crop((0, 0, strip.width, round(below) + gap))
    yield Image.new("RGB", (width + 2 * margin, 2), MATTE)

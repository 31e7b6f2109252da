"""The HTML of stories, and the page that needs no other file, no network and no script."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from openstory_hf import pictures
from openstory_hf.errors import reason_of
from openstory_hf.preview.shown import (
    Colour,
    Colours,
    Row,
    ShownFrame,
    Spans,
    character_colours,
    coloured_names,
    counted,
    facts_of,
    mask_overlay,
    name_of,
    pieces,
    shown_frames,
    tag_corner,
    tag_of,
)
from openstory_hf.preview.style import STYLE

_WEB_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
WEB_SIDE = 1280
"""Pixels; larger pictures are shrunk, so that a page of scans still opens."""


def html_page(rows: Sequence[Row], *, title: str) -> str:
    """Write stories as one HTML page that needs no other file, no network and no script.

    Args:
        rows: rows of the `stories` table.
        title: heading of the page.
    """
    links = Links(picture=_embed, masks=_embed_masks)
    stories = "\n".join(story_html(row, list(shown_frames(row)), links) for row in rows)
    frames = sum(len(row["captions"]) for row in rows)
    toggles = "".join(
        f'<label><input type="checkbox" id="{layer}" checked> {layer}</label>' for layer in layers_of(stories)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header class="page">
<h1>{escape(title)}</h1>
<p class="facts">{counted(len(rows), "story", "stories")} · {counted(frames, "frame", "frames")}</p>
<div class="toggles">{toggles}</div>
</header>
<main>
{stories}
</main>
</body>
</html>
"""


class Links(NamedTuple):
    """Where a page finds the picture of a frame, and the overlay of its masks; "" for none."""

    picture: Callable[[ShownFrame], str]
    masks: Callable[[ShownFrame, Colours], str]


_LAYERS = {"masks": 'class="masks"', "boxes": 'class="boxes"', "pronouns": 'class="caption referential"'}


def layers_of(html: str) -> list[str]:
    """Which of the layers that can be switched off ("masks", "boxes", "pronouns") some stories have."""
    return [layer for layer, mark in _LAYERS.items() if mark in html]


def story_html(row: Row, frames: Sequence[ShownFrame], links: Links, tools: str = "") -> str:
    """One story.

    Args:
        row: of the `stories` table.
        frames: of that row.
        links: where its pictures are.
        tools: HTML to stand beside its title.
    """
    colours = character_colours(coloured_names(frames))
    items = "\n".join(_figure(frame, colours, row.get("language") or "", links) for frame in frames)
    return f"""<article>
<div class="head"><h2>{breakable(row["story_id"])}</h2>{tools}</div>
<p class="facts">{escape(facts_of(row))}</p>
{_chips([name for name in coloured_names(frames) if name], colours)}
<ol class="frames">
{items}
</ol>
{_details(row)}
</article>"""


def _figure(frame: ShownFrame, colours: Colours, language: str, links: Links) -> str:
    width, height = frame.size
    layers = []
    if frame.picture is None:
        layers.append(f'<div class="gap">{frame.gap}</div>')
    else:
        layers.append(f'<img src="{escape(links.picture(frame))}" alt="Frame {frame.number}" loading="lazy">')
    if masks := links.masks(frame, colours):
        layers.append(f'<img class="masks" src="{escape(masks)}" alt="" loading="lazy">')
    boxes = [item for item in frame.instances if item.get("bbox")]
    if boxes:
        shapes = "".join(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" stroke="{_css(colours[name_of(item)])}"/>'
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
<p class="label"><b>{frame.number}</b> {breakable(frame.frame_id)}{time}</p>
<div lang="{escape(language)}">{"".join(texts)}</div>
{_chips(frame.characters, colours, frame.setting)}
</figcaption>
</figure></li>"""


def _tag_html(item: Mapping[str, Any], colours: Colours, width: int, height: int) -> str:
    text, (x, y, w, _) = tag_of(item), tag_corner(item) or (0, 0, 0, 0)
    if not text or not w:
        return ""
    layer = "boxes" if item.get("bbox") else "masks"
    side = f"left:{100 * x / width:.2f}%" if x < width / 2 else f"right:{100 * (1 - (x + w) / width):.2f}%"
    above = " above" if y > height / 10 else ""
    style = f"{side};top:{100 * y / height:.2f}%;--c:{_css(colours[name_of(item)])}"
    return f'<span class="tag {layer}{above}" style="{style}">{escape(text)}</span>'


def _marked(text: str, spans: Spans[str], colours: Colours) -> str:
    """A caption as HTML; its text content is the caption."""
    parts = []
    for piece, names in pieces(text, spans):
        part = escape(piece).replace("\r", "&#13;")  # a bare one would be read as a line feed
        if names:
            part = f'<mark style="{style_of(names, colours)}" title="{escape(", ".join(names))}">{part}</mark>'
        parts.append(part)
    return "".join(parts)


def breakable(name: str) -> str:
    """An id as HTML that may go on in the next line behind an underscore."""
    return escape(name).replace("_", "_<wbr>")


def style_of(names: Sequence[str], colours: Colours) -> str:
    """CSS variables for what speaks of some characters: the first one's colour, and a rule of all of theirs."""
    bands = [_css(colours[name]) for name in names]
    stops = ",".join(
        f"{colour} {100 * index / len(bands):.0f}% {100 * (index + 1) / len(bands):.0f}%"
        for index, colour in enumerate(bands)
    )
    return f"--c:{bands[0]};--rule:linear-gradient(90deg,{stops})"


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


def web_picture(stored: Any) -> tuple[str, bytes]:
    """A picture as browsers show it: the stored bytes where they can, else a JPEG of bounded size.

    Returns:
        the media type, and the bytes.

    Raises:
        UndecodableError: if it is not a picture.
    """
    if isinstance(stored, Mapping):
        try:
            image = Image.open(io.BytesIO(stored["bytes"]))
        except Exception as error:  # Pillow's decoders raise many kinds
            raise pictures.UndecodableError(reason_of(error)) from None
        if image.format in _WEB_FORMATS and max(image.size) <= WEB_SIDE:
            return f"image/{image.format.lower()}", stored["bytes"]
    picture = pictures.decode(stored).copy()
    picture.thumbnail((WEB_SIDE, WEB_SIDE))
    return "image/jpeg", encoded(picture, "JPEG", quality=90, subsampling=0)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture in a format of Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _embed(frame: ShownFrame) -> str:
    return _data_uri(*web_picture(frame.stored))


def _embed_masks(frame: ShownFrame, colours: Colours) -> str:
    overlay = mask_overlay(frame.instances, colours, frame.size)
    return _data_uri("image/png", encoded(overlay, "PNG", compress_level=9)) if overlay else ""


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)

"""The HTML page: one file that needs no other, no network and no script."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any

from PIL import Image

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

_WEB_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_WEB_SIDE = 1280  # pixels; larger pictures are shrunk, so that a page of scans still opens


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
<p class="facts">{counted(len(rows), "story", "stories")} · {counted(frames, "frame", "frames")}</p>
<div class="toggles">{toggles}</div>
</header>
<main>
{stories}
</main>
</body>
</html>
"""


def _story(row: Row) -> str:
    frames = list(shown_frames(row))
    colours = character_colours(coloured_names(frames))
    items = "\n".join(_figure(frame, colours, row.get("language") or "") for frame in frames)
    return f"""<article>
<h2>{escape(row["story_id"])}</h2>
<p class="facts">{escape(facts_of(row))}</p>
{_chips([name for name in coloured_names(frames) if name], colours)}
<ol class="frames">
{items}
</ol>
{_details(row)}
</article>"""


def _figure(frame: ShownFrame, colours: Colours, language: str) -> str:
    width, height = frame.size
    layers = []
    if frame.picture is None:
        layers.append(f'<div class="gap">{frame.gap}</div>')
    else:
        layers.append(f'<img src="{_embed(frame)}" alt="Frame {frame.number}">')
    if overlay := mask_overlay(frame.instances, colours, frame.size):
        layers.append(f'<img class="masks" src="{_data_uri(overlay, "PNG", compress_level=9)}" alt="">')
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
<p class="label"><b>{frame.number}</b> {escape(frame.frame_id).replace("_", "_<wbr>")}{time}</p>
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


def _embed(frame: ShownFrame) -> str:
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
.caption { margin: .15rem 0 .35rem }
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

"""The first page that is served: stories to browse, filters and switches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from openstory_hf.errors import UsageError
from openstory_hf.preview import site
from openstory_hf.preview.page import layers_of, story_html
from openstory_hf.preview.shelf import PAGE, Facts, Shelf, Wanted
from openstory_hf.preview.shown import Row, counted, opened, shown_frames
from openstory_hf.selection import Where

LAYERS = ("masks", "boxes", "pronouns")

_TICKED = 12
"""Characters to tick; the others are typed."""

_SUGGESTED = 500
"""Characters suggested to who types."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the query of the first page asks for.

    Args:
        wanted: which stories.
        page: of them, from 1; one beyond the last means the last.
        layers: those of `LAYERS` that are switched on.
    """

    wanted: Wanted
    page: int = 1
    layers: Sequence[str] = LAYERS

    @classmethod
    def parse(cls, query: str, splits: Sequence[str]) -> Request:
        """Read a query; what it does not name is left open.

        Raises:
            UsageError: for a split that is not there, or a number that is none.
        """
        values = site.parse(query)
        split = site.one(values, "split") or splits[0]
        if split not in splits:
            raise UsageError(f"there is no split {split!r}; there are {', '.join(splits)}")
        where = Where(
            characters=filter(None, values.get("character", ())),
            languages=filter(None, [site.one(values, "language")]),
            licenses=filter(None, [site.one(values, "license")]),
            frames=(site.number(values, "least") or 0, site.number(values, "most")),
        )
        return cls(
            wanted=Wanted(split=split, where=where, story=site.one(values, "story")),
            page=site.number(values, "page") or 1,
            layers=[layer for layer in LAYERS if layer in values.get("show", LAYERS)],
        )


def stories_page(shelf: Shelf, query: str) -> str:
    """The stories that a query asks for, a page of them.

    Raises:
        UsageError: for a query that means nothing.
        OutputError: if the stories cannot be read.
    """
    request = Request.parse(query, shelf.splits)
    wanted, split = request.wanted, request.wanted.split
    found, total = shelf.find(wanted), shelf.count(split)
    pages = max(1, -(-len(found) // PAGE))
    page = min(request.page, pages)
    numbers = found[(page - 1) * PAGE : page * PAGE].tolist()
    rows = shelf.stories(split, numbers)
    stories = "\n".join(_story(shelf, split, number, row) for number, row in zip(numbers, rows, strict=True))
    if numbers:
        first = (page - 1) * PAGE + 1
        which = f"{first:,}–{first + len(numbers) - 1:,} of {len(found):,}"
        which += " stories" if len(found) == total else f" found in {total:,} stories"
        main = f'<p class="facts found">{which} · {escape(split)}</p>\n{stories}\n{_pager(page, pages)}'
    else:
        main = f"""<article class="empty"><h2>No story found</h2>
<p>None of the {counted(total, "story", "stories")} in {escape(split)} meets all the conditions.</p>
<p><a class="button" href="{site.href("/", split=split)}">Show all of {escape(split)}</a></p></article>"""
    body = f"{_filters(shelf, wanted)}\n<main>\n{main}\n</main>"
    tools = _toggles(request.layers, layers_of(stories))
    return site.document(shelf.title, f'<div class="browse">{body}</div>', title=shelf.title, tools=tools)


def _story(shelf: Shelf, split: str, number: int, row: Row) -> str:
    tools = f'<a class="tool" href="/tokens/{quote(split, safe="")}/{number}">Tokens</a>'
    return story_html(row, list(shown_frames(row, opened)), site.picture_links(shelf, split, number), tools)


def _toggles(on: Sequence[str], there: Sequence[str]) -> str:
    """Boxes that switch layers at once, and are sent with the form; a layer the page has not keeps its state."""
    boxes = []
    for layer in LAYERS:
        state = " checked" if layer in on else ""
        if layer in there:
            boxes.append(f'<label><input type="checkbox" id="{layer}" name="show" value="{layer}"{state}> {layer}')
        else:
            boxes.append(f'<label title="none on this page"><input type="checkbox" disabled{state}> {layer}')
            boxes.append(f'<input type="hidden" name="show" value="{layer}">' if state else "")
        boxes.append("</label>")
    html = "".join(boxes).replace("<input ", '<input form="filters" ')
    return f'<div class="toggles">{html}</div>'


def _filters(shelf: Shelf, wanted: Wanted) -> str:
    facts, where = shelf.facts(wanted.split), wanted.where
    (least, most), (shortest, longest) = where.frames, facts.frames
    fields = [_choice("split", "Split", shelf.splits, wanted.split) if len(shelf.splits) > 1 else ""]
    if facts.names or where.characters:
        fields.append(_names(facts, where.characters))
    if shortest < longest or where.frames != (0, None):
        fields.append(f"""<fieldset><legend>Frames</legend><div class="pair">
<input type="number" name="least" min="0" value="{least or ""}" placeholder="{shortest}" aria-label="least frames"> to
<input type="number" name="most" min="0" value="{"" if most is None else most}" placeholder="{longest}"
 aria-label="most frames"></div></fieldset>""")
    for name, label, offered, chosen in (
        ("language", "Language", facts.languages, where.languages),
        ("license", "Licence", facts.licenses, where.licenses),
    ):
        if len(offered) > 1 or chosen:
            fields.append(_choice(name, label, ["", *dict.fromkeys([*offered, *chosen])], next(iter(chosen), "")))
    fields.append(
        f'<label>Story id holds <input type="text" name="story" value="{escape(wanted.story)}" autocomplete="off" '
        'spellcheck="false"></label>'
    )
    active = len(tuple(where.characters)) + sum(map(bool, (where.languages, where.licenses, wanted.story)))
    active += where.frames != (0, None)
    return f"""<details class="filters"><summary>Filters{f" ({active} set)" if active else ""}</summary>
<form id="filters" action="/" method="get">
<input type="hidden" name="show" value="">
{"".join(fields)}
<div class="acts"><button class="primary">Apply</button>
<a class="tool" href="{site.href("/", split=wanted.split)}">Clear</a></div>
</form></details>"""


def _choice(name: str, label: str, values: Iterable[str], chosen: str) -> str:
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(value) or "any"}</option>'
        for value in values
    )
    return f'<label>{label} <select name="{name}">{options}</select></label>'


def _names(facts: Facts, chosen: Iterable[str]) -> str:
    counts = dict(facts.names)
    offered = dict.fromkeys([*chosen, *list(counts)[:_TICKED]])
    boxes = "".join(
        f'<label><input type="checkbox" name="character" value="{escape(name)}"{" checked" if name in chosen else ""}>'
        f" <span>{escape(name)} <small>{counts.get(name, 0):,}</small></span></label>"
        for name in offered
    )
    html = f'<fieldset><legend>With all of these characters</legend><div class="names">{boxes}</div>'
    if others := [name for name in counts if name not in offered]:
        suggestions = "".join(f'<option value="{escape(name)}">' for name in others[:_SUGGESTED])
        html += f"""<label>and <input type="text" name="character" list="others" placeholder="{len(others):,} others"
 autocomplete="off"></label><datalist id="others">{suggestions}</datalist>"""
    return f"{html}</fieldset>"


def _pager(page: int, pages: int) -> str:
    """Buttons of the form, so that switches and filters go along."""
    if pages == 1:
        return ""

    def button(to: int, text: str) -> str:
        state = "" if 1 <= to <= pages else " disabled"
        return f'<button form="filters" name="page" value="{to}"{state}>{text}</button>'

    back, on = button(page - 1, "← Previous"), button(page + 1, "Next →")
    return f'<nav class="pager" aria-label="Pages">{back}<span>{page:,} of {pages:,}</span>{on}</nav>'

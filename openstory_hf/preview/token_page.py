"""The page of one story as a collator makes it: every token, what is trained, where pictures stand."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from urllib.parse import quote

from openstory_hf.errors import OpenStoryError, UsageError
from openstory_hf.preview import site
from openstory_hf.preview.page import Links, breakable, style_of
from openstory_hf.preview.shelf import Shelf
from openstory_hf.preview.shown import (
    ShownFrame,
    character_colours,
    coloured_names,
    counted,
    facts_of,
    name_of,
    opened,
    segmentations,
    shown_frames,
)
from openstory_hf.preview.tokens import DRAWN, PRESETS, Token, Tokens, tokens_of

_SHORT = 8
"""Positions of a picture that are shown without being asked for."""

_BLANKS = str.maketrans({" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"})


def tokens_page(shelf: Shelf, split: str, number: int, query: str, tokenizer: str) -> str:
    """What a preset of the interleaved collator makes of a story; the query names the `preset`, and may the `draw`.

    Raises:
        NotFoundError: if there is no such story.
        UsageError: for a query that means nothing.
        OutputError: if the story cannot be read.
    """
    values = site.parse(query)
    preset, draw = site.one(values, "preset") or next(iter(PRESETS)), site.number(values, "draw")
    if preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    row = site.story_at(shelf, split, number)
    here = f"/tokens/{quote(split, safe='')}/{number}"
    tabs = "".join(
        f'<a class="button" href="{site.href(here, preset=name)}"{current}>{name}</a>'
        for name in PRESETS
        for current in [' aria-current="page"' if name == preset else ""]
    )
    try:
        sample = tokens_of(row if draw is None else {**row, "draw": draw}, preset, tokenizer)
    except ImportError as error:
        shown = _note(f"This view needs PyTorch and transformers: pip install torch transformers ({error})")
    except OpenStoryError as error:
        shown = _note(str(error))
    else:
        again = ""
        if preset in DRAWN:
            link = site.href(here, preset=preset, draw=str((draw or 0) + 1))
            again = f'<a class="button" href="{link}">Draw again</a>'
        shown = _sample(sample, list(shown_frames(row, opened)), site.picture_links(shelf, split, number), again)
    main = f"""<main>
<p><a class="tool" href="{site.href("/", split=split)}">← Stories of {escape(split)}</a></p>
<article>
<h2>{breakable(row["story_id"])}</h2>
<p class="facts">{escape(facts_of(row))}</p>
<nav class="tabs" aria-label="Presets of InterleavedCollator">{tabs}</nav>
{shown}
</article>
</main>"""
    return site.document(f"Tokens of {row['story_id']}", main, title=shelf.title)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _sample(sample: Tokens, frames: Sequence[ShownFrame], links: Links, again: str) -> str:
    tokens = sample.tokens
    sums = {
        "positions": len(tokens),
        "trained": sum(token.trained for token in tokens),
        "read a picture": sum(token.kind == "read" for token in tokens),
        "generate a picture": sum(token.kind == "generated" for token in tokens),
        "frames dropped": sample.frames_dropped,
    }
    numbers = "".join(f"<div><dt>{name}</dt><dd>{number:,}</dd></div>" for name, number in sums.items())
    if sample.tokenizer:
        using = f"Tokenizer: {sample.tokenizer}"
        using += f", with {len(sample.added)} tokens of the recipe added" if sample.added else ""
    else:
        using = "Tokenizer: one token for each word, blank and sign of this story; --tokenizer NAME shows another"
    runs = []
    for (kind, frame), group in groupby(enumerate(tokens), key=lambda pair: _run(pair[1])):
        run = list(group)
        chips = "".join(_chip(position, token, frames) for position, token in run)
        trained = sum(token.trained for _, token in run)
        runs.append(chips if frame is None else _slot(kind, frames[frame], links, len(run), trained, chips))
    legend = [
        '<span class="token trained">word</span> trained',
        '<span class="token">word</span> given, not trained',
        '<span class="swatch read">picture</span> read',
        '<span class="swatch generated">picture</span> generated',
    ]
    if any(token.spoken for token in tokens):
        legend.append('<span class="token"><span class="spoken">word</span></span> speaks of a figure with a mask')
    return f"""<dl class="sums">{numbers}</dl>
<div class="acts">{again}<label class="tool"><input type="checkbox" id="ids"> ids</label></div>
<ul class="legend">{"".join(f"<li>{entry}</li>" for entry in legend)}</ul>
<div class="tokens" id="tokens">{"".join(runs)}</div>
<p class="facts">{escape(using)}. Labels are not shifted:
a model predicts each trained token from those before it.</p>
<details><summary>Decoded text</summary><p class="decoded" dir="auto">{escape(sample.text)}</p></details>"""


def _run(token: Token) -> tuple[str, int | None]:
    return token.kind, None if token.kind == "text" else token.frame


def _slot(kind: str, frame: ShownFrame, links: Links, positions: int, trained: int, chips: str) -> str:
    says = f"frame {frame.number} · {counted(positions, 'position', 'positions')}, {trained:,} trained"
    state = " open" if positions <= _SHORT else ""
    return f"""<details class="slot {kind}"{state}><summary><img src="{links.picture(frame)}" alt="">
<span><b>{kind}</b> {says}</span></summary><p>{chips}</p></details>"""


def _chip(position: int, token: Token, frames: Sequence[ShownFrame]) -> str:
    facts = [f"position {position}", f"id {token.id}", token.piece, "trained" if token.trained else "not trained"]
    text = escape(token.piece if "\ufffd" in token.text or not token.text else token.text.translate(_BLANKS))
    if token.spoken and token.frame is not None:
        masked = segmentations(frames[token.frame].instances)
        names = [name_of(masked[number][1]) for number in token.spoken]
        facts.append(f"speaks of {', '.join(names)}")
        text = (
            f'<span class="spoken" style="{style_of(names, character_colours(coloured_names(frames)))}">{text}</span>'
        )
    chip = f'<span class="token{" trained" if token.trained else ""}" title="{escape(" · ".join(facts))}">'
    return f"{chip}<bdi>{text}</bdi><small>{token.id}</small></span>" + ("<br>" if "\n" in token.text else "")

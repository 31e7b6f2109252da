"""Policy `storygpt_v`: what the evaluation classes of StoryGPT-V release, byte for byte, defects included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from openstory_hf.info import Character
from openstory_hf.references.released import (
    SPELLINGS,
    crash,
    is_pororo,
    listing,
    pororo_pronoun,
    repeat,
    replace,
    spellings_in,
    spoken_of,
    whole,
)
from openstory_hf.references.text import Decision


def storygpt_v(
    captions: Sequence[str], characters: Sequence[Sequence[str]], cast: Sequence[Character]
) -> Iterator[Decision]:
    """StoryGPT-V: rules by labels, or by text if the cast is Pororo's.

    `flag` is the released "was rewritten" flag, as it is before reference images clear it. A story crashes in the
    released code if an empty list of labels repeats.
    """
    decisions = _by_text(captions) if is_pororo(cast) else _by_labels(captions, characters, cast)
    return whole(decisions, len(captions))


def _by_labels(
    captions: Sequence[str], characters: Sequence[Sequence[str]], cast: Sequence[Character]
) -> Iterator[Decision]:
    pronouns = {c.name: c.pronouns.capitalize() for c in cast}
    carried: list[str] | None = None
    for caption, labels in zip(captions, characters, strict=True):
        if carried is None or sorted(labels) != sorted(carried):
            carried = list(labels)
            yield Decision(reasons=[f"carried from here: {', '.join(carried) or 'nobody'}"])
            continue
        if not carried:
            yield crash("IndexError")
            return
        pronoun = pronouns.get(carried[0]) if len(carried) == 1 else "They"
        names = ", ".join(carried)
        if len(carried) > 3 or pronoun is None:
            why = "they are too many" if pronoun else f"{names} is not of the cast"
            yield Decision(reasons=[f"same characters as carried: {names}", f"flagged, but {why}"], flag=True)
        else:
            searched = listing(carried, caption)  # in the order of the carried labels, not of this frame's
            yield repeat(names, replace(caption, searched, pronoun, " and ".join(carried)), searched)


def _by_text(captions: Sequence[str]) -> Iterator[Decision]:
    carried: str | None = None
    before = ""  # the caption of the latest He or She, else the first: not the one of the frame before
    for caption in captions:
        if carried is None:
            carried, before = spoken_of(caption), caption
            yield Decision(reasons=[f"carried from here: {carried or 'nobody'}"])
            continue
        opening = shared_opening(before, caption)
        they = replace(caption, opening, "They", " and ".join(spellings_in(opening)).lower())
        reasons = [f"{opening!r} opens the caption before as well"] * bool(they)
        text = caption.replace(opening, "They") if they else caption
        name = spoken_of(text)
        if name and name == carried:
            before = text
            decision = repeat(name, replace(caption, name, pororo_pronoun(name), name.lower(), beside=they), name)
            edits = sorted([*they, *decision.edits])
            yield decision._replace(edits=edits, reasons=[*reasons, *decision.reasons])
        else:
            carried = name
            yield Decision(they, [*reasons, f"carried from here: {name or 'nobody'}"])


def shared_opening(before: str, caption: str) -> str:
    """The two or more words that open both captions and list names; "" if there are fewer.

    A word is taken for part of a list if it is a name, or has a comma or the letters "and" in it. The last word of
    the common prefix never counts: it may be the start of a longer one.
    """
    pairs = zip(before, caption, strict=False)
    words = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)).split(" ")
    kept = 0
    while kept < len(words) - 1 and _lists(words[kept]):
        kept += 1
    return " ".join(words[:kept]) if kept > 1 else ""


def _lists(word: str) -> bool:
    return word.replace(",", "").replace("'", "").strip() in SPELLINGS or "," in word or "and" in word

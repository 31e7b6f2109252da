"""Policy `story_ldm`: what Make-A-Story releases, byte for byte, defects included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openstory_hf.info import Character
from openstory_hf.references.released import (
    crash,
    is_pororo,
    listing,
    pororo_pronoun,
    repeat,
    replace,
    spoken_of,
    whole,
)
from openstory_hf.references.text import Decision


def story_ldm(
    captions: Sequence[str], characters: Sequence[Sequence[str]], cast: Sequence[Character]
) -> Iterator[Decision]:
    """Make-A-Story: rules by labels, or by text if the cast is Pororo's; no caption is stripped.

    A story crashes in the released code if an empty list of labels repeats, or a list of four or more repeats before
    any shorter one did.
    """
    decisions = _by_text(captions) if is_pororo(cast) else _by_labels(captions, characters)
    return whole(decisions, len(captions))


def _by_labels(captions: Sequence[str], characters: Sequence[Sequence[str]]) -> Iterator[Decision]:
    carried: list[str] | None = None
    searched, named = "", ""  # what the latest repetition was looked up as, and the labels in it
    for caption, labels in zip(captions, characters, strict=True):
        if carried is None or list(labels) != carried:  # order counts
            carried = list(labels)
            yield Decision(reasons=[f"carried from here: {', '.join(carried) or 'nobody'}"])
            continue
        if not carried:
            yield crash("IndexError")
            return
        if len(carried) <= 3:
            searched, named = listing(carried, caption), " and ".join(carried)
        elif not named:
            yield crash("UnboundLocalError")
            return
        # Four and more look for the names of the latest shorter repetition. A single woman is "He" as well: the
        # released test for women compares a list with strings.
        edits = replace(caption, searched, "They" if len(carried) > 1 else "He", named)
        yield repeat(", ".join(carried), edits, searched)


def _by_text(captions: Sequence[str]) -> Iterator[Decision]:
    carried: str | None = None
    for caption in captions:
        # The first caption has its separator appended already, which then counts as the end of its last sentence.
        name = spoken_of(caption + ";" if carried is None else caption)
        if name and name == carried:
            yield repeat(name, replace(caption, name, pororo_pronoun(name), name.lower()), name)
        else:
            carried = name
            yield Decision(reasons=[f"carried from here: {name or 'nobody'}"])

"""Policy `algorithm1`: Algorithm 1 of the StoryGPT-V paper, to the letter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from openstory_hf.info import Character
from openstory_hf.references.text import (
    Decision,
    Edit,
    Token,
    canonical_labels,
    cased,
    is_conjunction,
    name_groups,
    tokenize,
)


def algorithm1(
    captions: Sequence[str], characters: Sequence[Sequence[str]], cast: Sequence[Character]
) -> Iterator[Decision]:
    """Algorithm 1 to the letter: always nominative, "'s" left in place, ambiguity not looked at."""
    pronouns = {c.name: c.pronouns for c in reversed(cast)}
    carried: set[str] = set()
    since = 0
    for number, (caption, labels) in enumerate(zip(captions, characters, strict=True), start=1):
        tokens = tokenize(caption, cast)
        labelled = {label for label in canonical_labels(labels, cast) if label in pronouns}
        present = labelled or {token.text for token in tokens if token.kind == "name"}
        people = f"{_listed(present)} ({'labels' if labelled else 'no label of the cast, so names in the caption'})"
        if present <= carried:
            about = f"characters: {people}; all among the carried ones, of frame {since}: {_listed(carried)}"
            yield _rewritten(caption, tokens, present, pronouns, about)
        else:
            about = f"nothing changes; characters: {people}; new here: {_listed(present - carried)}"
            carried, since = present, number
            yield Decision(reasons=[about])


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nobody"


def _rewritten(
    caption: str, tokens: Sequence[Token], present: set[str], pronouns: Mapping[str, str], about: str
) -> Decision:
    """The decision on a caption whose characters are all among the carried ones."""
    edits, reasons = [], [about]
    # One character: every occurrence of the name. More: every list that names them all.
    runs = name_groups(tokens) if len(present) > 1 else ((i, i) for i, t in enumerate(tokens) if t.kind == "name")
    for first, last in runs:
        names = sorted(token.text for token in tokens[first : last + 1] if token.kind == "name")
        start, end = tokens[first].start, tokens[last].end
        text = caption[start:end]
        if names != sorted(present):
            reasons.append(f"{text} stays: not the characters of this frame, {_listed(present)}")
        elif last > first and not is_conjunction(tokens, first, last):
            reasons.append(f'{text} stays: no plain list like "A, B and C"')
        else:
            pronoun = cased(caption, start, "they" if last > first else pronouns[names[0]])
            edits.append(Edit(start, end, pronoun))
            reasons.append(
                f"{text} -> {pronoun}: always nominative; {'all' if last > first else 'the only one'} of them"
            )
    return Decision(edits, reasons)

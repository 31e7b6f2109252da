"""Policy `algorithm1`: Algorithm 1 of the StoryGPT-V paper, to the letter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openstory_hf.info import Character
from openstory_hf.references.text import (
    Decision,
    Edit,
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
    for caption, labels in zip(captions, characters, strict=True):
        tokens = tokenize(caption, cast)
        present = {label for label in canonical_labels(labels, cast) if label in pronouns}
        present = present or {token.text for token in tokens if token.kind == "name"}
        edits = []
        if not present <= carried:
            carried = present
        elif len(present) == 1:
            spans = [(t.start, t.end, pronouns[t.text]) for t in tokens if t.kind == "name" and t.text in present]
            edits = [Edit(start, end, cased(caption, start, pronoun)) for start, end, pronoun in spans]
        elif present:
            for first, last in name_groups(tokens):
                names = [token.text for token in tokens[first : last + 1] if token.kind == "name"]
                if sorted(names) == sorted(present) and is_conjunction(tokens, first, last):
                    start = tokens[first].start
                    edits.append(Edit(start, tokens[last].end, cased(caption, start, "they")))
        yield Decision(edits)

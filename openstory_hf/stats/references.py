"""Average references per story: the released counters, and rules that count real pronouns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

MAKE_A_STORY_FRAMES = 4
"""Frames per story in Make-A-Story and StoryGPT-V, whose counters of references are reproduced here."""

PAPER = {
    "flintstones_sv": "Table 11 of the StoryGPT-V paper has 3.58 → 4.61; compare the second row.",
    "pororo_sv": "Table 11 of the StoryGPT-V paper has 1.01 → 1.16, by the released Pororo counter.",
}
"""Published averages beside which those of a dataset stand, over the authors' own rewriting."""


def released_flintstones(texts: Sequence[str]) -> int:
    """References of a story as the released FlintstonesSV loader counts them, at most one per frame.

    A frame counts if "she", "he" or "they" is a substring of the lower-cased text, so "the" and "other" count. The
    first frame is tested on its own text, every later one on the text *before* it; the last is never tested. This
    reproduces published numbers and says little about pronouns.

    >>> [released_flintstones(texts) for texts in (["the", "a", "a", "a"], ["a", "a", "the", "a"])]
    [4, 1]
    """
    found = ["he" in text.lower() for text in texts]  # "she" and "they" contain it
    return sum(any(found[: max(1, at)]) for at in range(len(texts)))


def released_pororo(texts: Sequence[str]) -> int:
    """References of a story as the released PororoSV loader counts them: 0, 1 or 2.

    It looks for "He", "She", "he" and "she" in the lower-cased text of the story, where two of them cannot be.

    >>> released_pororo(["The ball is red."]), released_pororo(["She sings."])
    (1, 2)
    """
    story = " ".join(texts).lower()
    return sum(word in story for word in ("He", "She", "he", "she"))


_PRONOUN = re.compile(r"\b(?:he|she|they|him|her|them|his|hers|their|theirs)\b", re.IGNORECASE)
_NEUTER = re.compile(r"\bits?\b", re.IGNORECASE)


def _matches(pattern: re.Pattern[str], texts: Sequence[str]) -> int:
    return sum(len(pattern.findall(text)) for text in texts)


def _rewritten(captions: Sequence[str], texts: Sequence[str]) -> int:
    return sum(caption != text for caption, text in zip(captions, texts, strict=True))


_FIRST = slice(MAKE_A_STORY_FRAMES)

# Rule -> (what it counts, its count for a story of these captions when it reads these texts).
RULES: dict[str, tuple[str, Callable[[Sequence[str], Sequence[str]], int]]] = {
    "released_flintstones_4": (
        f"released counter, first {MAKE_A_STORY_FRAMES} frames",
        lambda _, texts: released_flintstones(texts[_FIRST]),
    ),
    "released_flintstones_4_rewritten": (
        "  and 1 per rewritten frame",
        lambda captions, texts: released_flintstones(texts[_FIRST]) + _rewritten(captions[_FIRST], texts[_FIRST]),
    ),
    "released_flintstones": ("released counter, all frames", lambda _, texts: released_flintstones(texts)),
    "released_pororo": ("released Pororo counter", lambda _, texts: released_pororo(texts)),
    "pronouns": ("pronouns he, she, they", lambda _, texts: _matches(_PRONOUN, texts)),
    "frames_with_pronoun": (
        "frames with such a pronoun",
        lambda _, texts: sum(_PRONOUN.search(text) is not None for text in texts),
    ),
    "neuter_pronouns": ("pronouns it, its", lambda _, texts: _matches(_NEUTER, texts)),
}
NAMES = "names"
LABELS = {**{rule: label for rule, (label, _) in RULES.items()}, NAMES: "names of the cast"}

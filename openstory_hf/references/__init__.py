"""Referential text: names that repeat from frame to frame become pronouns, and can be put back.

A policy decides which stretches of a caption are replaced; everything else (spans, mentions, restoring the names)
is the same for all of them. `algorithm1` is Algorithm 1 of the StoryGPT-V paper, literally. `grammatical` takes the
same decision about antecedents and then writes English. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openstory_hf.errors import UsageError
from openstory_hf.info import Character
from openstory_hf.references.algorithm1 import algorithm1
from openstory_hf.references.grammatical import grammatical
from openstory_hf.references.text import Edit, Policy, find_mentions

__all__ = ["POLICIES", "RULES_VERSION", "Mention", "Rewritten", "find_mentions", "restore", "rewrite"]

RULES_VERSION: str = "1"


@dataclass(frozen=True, slots=True)
class Mention:
    """One occurrence of a cast name: half-open character offsets in the caption and in the referential text."""

    character: str
    start: int
    end: int
    ref_start: int
    ref_end: int

    def as_row(self) -> dict[str, str | int]:
        """The mention as a row of the `mentions` column."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A caption after replacement, with one mention per cast name of the original, in order."""

    text: str
    mentions: tuple[Mention, ...]


def rewrite(
    captions: Sequence[str],
    characters: Sequence[Sequence[str]],
    cast: Sequence[Character],
    policy: str = "grammatical",
) -> list[Rewritten]:
    """Replace repeated names in the captions of one story.

    Args:
        captions: one per frame, in order.
        characters: labels of each frame; cast names (or aliases) and any other labels.
        cast: who has a name and which pronouns.
        policy: one of `POLICIES`.

    Raises:
        UsageError: for an unknown policy, or captions and characters of different lengths.
    """
    if policy not in _POLICIES:
        raise UsageError(f"unknown reference policy {policy!r}; choose one of {', '.join(POLICIES)}")
    if len(captions) != len(characters):
        raise UsageError(f"{len(captions)} captions but {len(characters)} lists of characters; give one per frame")
    decisions = _POLICIES[policy](captions, characters, cast)
    return [
        _apply(caption, find_mentions(caption, cast), decision.edits)
        for caption, decision in zip(captions, decisions, strict=True)
    ]


def restore(text: str, mentions: Iterable[Mention | Mapping[str, Any]], caption: str) -> str:
    """Put the names back: substitute every mention's caption span for its referential span.

    Mentions that share a referential span ("They") are one substitution, of everything from the first name to the
    last. The result equals `caption` byte for byte when `text` and `mentions` come from `rewrite`.
    """
    hulls: dict[tuple[int, int], tuple[int, int]] = {}
    for mention in mentions:
        row: Mapping[str, Any] = mention.as_row() if isinstance(mention, Mention) else mention
        span, start, end = (row["ref_start"], row["ref_end"]), row["start"], row["end"]
        first, last = hulls.get(span, (start, end))
        hulls[span] = min(first, start), max(last, end)
    parts, done = [], 0
    for (ref_start, ref_end), (start, end) in sorted(hulls.items()):
        parts += [text[done:ref_start], caption[start:end]]
        done = ref_end
    return "".join(parts) + text[done:]


def _apply(caption: str, names: Sequence[tuple[str, int, int]], edits: Sequence[Edit]) -> Rewritten:
    parts, done = [], 0
    for edit in edits:
        parts += [caption[done : edit.start], edit.text]
        done = edit.end
    mentions = []
    for index, (name, start, end) in enumerate(names):
        shift = sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= start)
        covering = next((edit for edit in edits if edit.start <= start < edit.end), None)
        if covering is None:
            mentions.append(Mention(name, start, end, start + shift, end + shift))
        else:
            is_last = index + 1 == len(names) or names[index + 1][1] >= covering.end
            ref = covering.start + shift
            end = covering.end if is_last else end  # the last name takes the "'s" along
            mentions.append(Mention(name, start, end, ref, ref + len(covering.text)))
    return Rewritten("".join(parts) + caption[done:], tuple(mentions))


# A policy is one function from a story to the edits of each caption.
_POLICIES: dict[str, Policy] = {"algorithm1": algorithm1, "grammatical": grammatical}
POLICIES: tuple[str, ...] = tuple(_POLICIES)

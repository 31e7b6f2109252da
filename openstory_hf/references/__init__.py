"""Referential text: names that repeat from frame to frame become pronouns, and can be put back.

A policy decides which stretches of a caption are replaced; everything else (spans, mentions, restoring the names)
is the same for all of them. `algorithm1` is Algorithm 1 of the StoryGPT-V paper, literally. `grammatical` takes the
same decision about antecedents and then writes English. `story_ldm` and `storygpt_v` do what the code of Make-A-Story
and of StoryGPT-V (its evaluation) does, for numbers that compare with theirs. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openstory_hf.errors import UsageError
from openstory_hf.info import Character
from openstory_hf.references.algorithm1 import algorithm1
from openstory_hf.references.grammatical import grammatical
from openstory_hf.references.story_ldm import story_ldm
from openstory_hf.references.storygpt_v import storygpt_v
from openstory_hf.references.text import Decision, Edit, Policy, find_mentions

__all__ = ["POLICIES", "RULES_VERSION", "Mention", "Rewritten", "find_mentions", "restore", "rewrite"]

RULES_VERSION: str = "1"


@dataclass(frozen=True, slots=True)
class Mention:
    """One occurrence of a character: half-open character offsets in the caption and in the referential text.

    `character` is a name of the cast; or, where a released policy replaced something else ("Dinosaur" -> "Hesaur",
    "Policeman and Paperboy" -> "They"), the labels it meant, joined by " and "; "" if it meant nobody ("and, and").
    """

    character: str
    start: int
    end: int
    ref_start: int
    ref_end: int

    def as_row(self) -> dict[str, str | int]:
        """The mention as a row of the `mentions` column."""
        return {
            "character": self.character,
            "start": self.start,
            "end": self.end,
            "ref_start": self.ref_start,
            "ref_end": self.ref_end,
        }


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A caption after replacement.

    Args:
        text: the referential caption.
        mentions: one per cast name and per replaced stretch of the original, in order. Names replaced together share
            their referential span; caption spans never overlap.
        flag: the frame refers back, says the released code, whether or not anything was replaced; `storygpt_v`'s is
            the released `ref_flag`. False under the policies of this library.
        error: the exception the released code dies of on this story ("IndexError"). All its captions are unchanged.
    """

    text: str
    mentions: tuple[Mention, ...]
    flag: bool = False
    error: str = ""


def rewrite(
    captions: Sequence[str],
    characters: Sequence[Sequence[str]],
    cast: Sequence[Character],
    policy: str = "grammatical",
) -> list[Rewritten]:
    """Replace repeated names in the captions of one story.

    Nothing is stripped or tidied: outside the replacements, captions keep every byte, and `restore` undoes them.

    Args:
        captions: one per frame, in order.
        characters: labels of each frame; cast names (or aliases) and any other labels. The released policies take
            them as they are given, aliases, order and case included.
        cast: who has a name and which pronouns. If it holds all nine names of PororoSV, the released policies
            follow their PororoSV rules, which read the captions only; else their FlintstonesSV rules.
        policy: one of `POLICIES`.

    Returns:
        One entry per frame. Stories that crash the released code come back unchanged, with `error` set.

    Raises:
        UsageError: for an unknown policy, or captions and characters of different lengths.
    """
    if policy not in _POLICIES:
        raise UsageError(f"unknown reference policy {policy!r}; choose one of {', '.join(POLICIES)}")
    if len(captions) != len(characters):
        raise UsageError(f"{len(captions)} captions but {len(characters)} lists of characters; give one per frame")
    decisions = _POLICIES[policy](captions, characters, cast)
    return [
        _apply(caption, find_mentions(caption, cast), decision)
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


def _apply(caption: str, names: Sequence[tuple[str, int, int]], decision: Decision) -> Rewritten:
    """Carry out the edits, which are in order and do not overlap."""
    text, mentions, done = "", list[Mention](), 0
    for edit in decision.edits:
        text += caption[done : edit.start]
        ref_start, ref_end = len(text), len(text) + len(edit.text)
        mentions += [Mention(*span, ref_start, ref_end) for span in _replaced(edit, names)]
        text += edit.text
        done = edit.end
    for name, start, end in names:
        if all(end <= edit.start or edit.end <= start for edit in decision.edits):
            shift = sum(len(edit.text) - (edit.end - edit.start) for edit in decision.edits if edit.end <= start)
            mentions.append(Mention(name, start, end, start + shift, end + shift))
    mentions.sort(key=lambda mention: mention.start)
    return Rewritten(text + caption[done:], tuple(mentions), decision.flag, decision.error)


def _replaced(edit: Edit, names: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """What an edit replaces, as (character, start, end): the whole names in it, together as wide as it, or itself.

    A name that merely reaches into the edit is none any more.
    """
    inside = [span for span in names if edit.start <= span[1] and span[2] <= edit.end]
    if not inside:
        return [(edit.character, edit.start, edit.end)]
    inside[0] = (inside[0][0], edit.start, inside[0][2])
    inside[-1] = (*inside[-1][:2], edit.end)  # takes the "'s" along
    return inside


# A policy is one function from a story to what happens to each caption.
_POLICIES: dict[str, Policy] = {
    "algorithm1": algorithm1,
    "grammatical": grammatical,
    "story_ldm": story_ldm,
    "storygpt_v": storygpt_v,
}
POLICIES: tuple[str, ...] = tuple(_POLICIES)

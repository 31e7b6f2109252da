"""Why a name was replaced, or not: the decisions of a policy on one story, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from openstory_hf.errors import UsageError
from openstory_hf.info import Character, Pronouns
from openstory_hf.references import _POLICIES, find_mentions, rewrite


def explain(
    captions: Sequence[str],
    characters: Sequence[Sequence[str]] | None,
    cast: Sequence[Character],
    policy: str = "grammatical",
) -> str:
    """Every frame's caption, result, reasons and mentions, as text.

    Args:
        captions: one per frame, in order.
        characters: labels of each frame; None takes the cast names found in each caption, in order.
        cast: who has a name and which pronouns.
        policy: one of `POLICIES`.

    Raises:
        UsageError: as `rewrite` does.
    """
    if characters is None:
        characters = [list(dict.fromkeys(name for name, _, _ in find_mentions(text, cast))) for text in captions]
    results = rewrite(captions, characters, cast, policy)
    lines = []
    decisions = _POLICIES[policy](captions, characters, cast)
    for number, (caption, result, decision) in enumerate(zip(captions, results, decisions, strict=True), start=1):
        lines += [f"frame {number}", f"  caption   {caption}", f"  result    {result.text}"]
        if result.error:
            lines.append(f"  error     {result.error}: the released code fails on this story")
        if result.flag:
            lines.append("  flag      refers back")
        lines += [f"  reason    {reason}" for reason in decision.reasons]
        for m in result.mentions:
            before, after = f"{m.start}:{m.end} {caption[m.start : m.end]}", result.text[m.ref_start : m.ref_end]
            lines.append(f"  mention   {m.character or '?'}: {before} -> {m.ref_start}:{m.ref_end} {after}")
    return "\n".join(lines)


def parse_cast(text: str) -> tuple[Character, ...]:
    """The cast written as "fred=he, wilma=she, mr slate/slate=he"; further spellings follow a slash.

    Raises:
        UsageError: for an entry without a name or without one of the pronouns, and for a spelling given twice.
    """
    how = 'write each character as NAME=he, she, it or they, like "fred=he,wilma=she,mr slate/slate=he"'
    cast: list[Character] = []
    for entry in text.split(","):
        spelt, _, pronouns = entry.partition("=")
        names = [name.strip().lower() for name in spelt.split("/")]
        if not all(names) or pronouns.strip().lower() not in get_args(Pronouns):
            raise UsageError(f"cannot read {entry.strip()!r} in the cast; {how}")
        known = {name for character in cast for name in (character.name, *character.aliases)}
        if twice := [name for name in names if name in known or names.count(name) > 1]:
            raise UsageError(f"{twice[0]!r} stands twice in the cast; {how}")
        key: Pronouns = pronouns.strip().lower()  # type: ignore[assignment] # checked above
        cast.append(Character(name=names[0], pronouns=key, aliases=tuple(names[1:])))
    return tuple(cast)

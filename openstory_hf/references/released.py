"""What the released pronoun rewriters share: how they look for names, replace text and fail.

Both projects bring two sets of rules, one per dataset. Labels decide on FlintstonesSV, the caption's text alone on
PororoSV; a cast that holds all nine Pororo names gets the text rules, any other cast the label rules. Names are
searched as substrings with regard to case, so "Dinosaur" holds "Dino"; labels are used as they are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openstory_hf.info import Character
from openstory_hf.references.text import Decision, Edit

PORORO = ("Pororo", "Loopy", "Crong", "Eddy", "Poby", "Petty", "Tongtong", "Rody", "Harry")
"""The PororoSV cast in label order, which is also the order of search."""

SPELLINGS = (*PORORO, *(name.lower() for name in PORORO))
_FEMALE = ("Petty", "Loopy", "petty", "loopy")


def is_pororo(cast: Sequence[Character]) -> bool:
    """Whether the text rules apply: the cast holds all nine Pororo names."""
    return {name.lower() for name in PORORO} <= {c.name.lower() for c in cast}


def pororo_pronoun(name: str) -> str:
    """She for Petty and Loopy, He for everybody else."""
    return "She" if name in _FEMALE else "He"


def spellings_in(text: str) -> list[str]:
    """Pororo names in a text, in order of search."""
    return [name for name in SPELLINGS if name in text]


def spoken_of(text: str) -> str:
    """The one Pororo name a caption is taken to be about; "" if none.

    Among several names, those behind the last full stop count; the very last character is cut off before looking,
    whatever it is, as the full stop that ends the caption.
    """
    names = spellings_in(text)
    if len(names) > 1:
        last_sentence = text[:-1].rsplit(".", 1)[-1] if "." in text else text
        names = [name for name in names if name in last_sentence]
    return names[0] if names else ""


def listing(labels: Sequence[str], caption: str) -> str:
    """The one way of naming up to three labels that is looked for: "A", "A and B" (or "B and A"), "A, B and C"."""
    *others, last = [label.capitalize() for label in labels]
    if not others:
        return last
    text = f"{', '.join(others)} and {last}"
    return f"{last} and {others[0]}" if len(others) == 1 and text not in caption else text


def replace(caption: str, old: str, new: str, character: str, beside: Sequence[Edit] = ()) -> list[Edit]:
    """`caption.replace(old, new)` as edits, beside earlier edits, which are not searched.

    An empty `old`, which only an empty label gives, is nowhere.
    """
    borders = [0, *(border for edit in beside for border in (edit.start, edit.end)), len(caption)]
    edits = []
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        while old and (at := caption.find(old, start, end)) >= 0:
            start = at + len(old)
            edits.append(Edit(at, start, new, character))
    return edits


def repeat(names: str, edits: Sequence[Edit], searched: str) -> Decision:
    """The decision on a frame that is said to refer back to `names`; `searched` is the text looked for."""
    outcome = [f"{searched!r} becomes {edit.text!r}" for edit in edits]
    outcome = outcome or [f"flagged, but {searched!r} does not occur"]
    return Decision(edits, [f"same characters as carried: {names}", *outcome], flag=True)


def crash(error: str) -> Decision:
    """The decision that ends a story: the released code raises `error` here."""
    return Decision(reasons=[f"crashes in the released code: {error}"], error=error)


def whole(decisions: Iterator[Decision], frames: int) -> Iterator[Decision]:
    """The decisions of a story, or `frames` times the crash that ends it: then no caption of it changes."""
    made = list(decisions)
    if made and made[-1].error:
        made = made[-1:] * frames
    yield from made

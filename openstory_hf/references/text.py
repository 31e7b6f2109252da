"""Captions as tokens: names of the cast, other words, marks; and what every policy asks of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from openstory_hf.info import Character


class Edit(NamedTuple):
    """Characters [start, end) of a caption become `text`, which stands for `character`.

    `character` matters only where the stretch holds no whole cast name ("Dinosaur"); else those names count.
    """

    start: int
    end: int
    text: str
    character: str = ""


class Decision(NamedTuple):
    """What a policy does to one caption, and why: a reason for the frame, and one for every name it looked at.

    `flag`: the frame is said to refer back, edits or not. `error`: what the released code raises for this story.
    """

    edits: Sequence[Edit] = ()
    reasons: Sequence[str] = ()
    flag: bool = False
    error: str = ""


Policy = Callable[[Sequence[str], Sequence[Sequence[str]], Sequence[Character]], Iterator[Decision]]
"""(captions, labels of each frame, cast) -> one decision per frame."""


def words(text: str) -> frozenset[str]:
    """A word list."""
    return frozenset(text.split())


TITLES = words("mr mrs ms dr st")  # their dot ends no sentence
_IN_WORD = r"\w\u0300-\u036f"  # combining accents belong to the letter before them


# Given names that are also words of their own: only a capital makes them a name ("May may rest").
_ALSO_WORDS = words(
    """amber angel april art ash august autumn bill bob buck bud buddy carol chase chip chuck cliff coral crystal
    daisy dale dawn dean dot drew earl eve faith fern flora frank gene ginger glen grace grant guy hazel heather holly
    honey hope hunter iris ivy jack jade jay jean june joy king lance lily mark mason may melody miles misty olive pat
    patience pearl penny pepper poppy prince queen ray red rich rob robin rocky rose ruby rusty sandy sky star stormy
    summer sunny tanner victor violet wade ward will willow winter woody"""
)


def _spelling(name: str) -> str:
    """A pattern for one name: any run of blanks between its words, an optional dot after a title."""
    if name.lower() in _ALSO_WORDS:
        return f"(?-i:{name[0].upper()}){name[1:]}"
    words = [word.rstrip(".") if word.lower().rstrip(".") in TITLES else word for word in name.split()]
    return r"\s+".join(re.escape(word) + (r"\.?" if word.lower() in TITLES else "") for word in words)


@lru_cache(maxsize=64)
def _matcher(cast: tuple[Character, ...]) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """A pattern for all names of a cast, and whose name each of its groups is."""
    spellings = [(alias, c.name) for c in cast for alias in (c.name, *c.aliases) if alias.strip()]
    spellings.sort(key=lambda pair: -len(pair[0]))
    options = "|".join(f"({_spelling(alias)})" for alias, _ in spellings) or "(?!)"
    pattern = rf"(?<![{_IN_WORD}])(?<![{_IN_WORD}][-‑'’])(?:{options})(?![{_IN_WORD}])(?![-‑]\w)"
    return re.compile(pattern, re.IGNORECASE), tuple(name for _, name in spellings)


def find_mentions(caption: str, cast: Sequence[Character]) -> list[tuple[str, int, int]]:
    """Cast names in a caption, in order, as (canonical name, start, end); half-open character offsets.

    Names and aliases match as whole words without regard to case, the longest first; never inside a longer or a
    hyphenated word. Names that are also common words ("May", "Will", "Rose") must start with a capital.
    """
    return list(_mentions(caption, tuple(cast)))


@lru_cache(maxsize=4096)  # the windows over a sequence share their captions
def _mentions(caption: str, cast: tuple[Character, ...]) -> tuple[tuple[str, int, int], ...]:
    pattern, owners = _matcher(cast)
    return tuple((owners[(match.lastindex or 1) - 1], *match.span()) for match in pattern.finditer(caption))


class Token(NamedTuple):
    """A name of the cast (text = canonical name), another word (lower case), or a punctuation mark."""

    kind: Literal["name", "word", "mark"]
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The text, unless it is a name: word lists must not match a character called "And"."""
        return "" if self.kind == "name" else self.text


_END = Token("mark", ".", -1, -1)  # what lies before the first and after the last token
_TOKEN = re.compile(rf"['’](?:s|d|ll)(?![{_IN_WORD}])|\w[{_IN_WORD}]*(?:[-‑'’]\w[{_IN_WORD}]*)*|[^\w\s]")


def tokenize(caption: str, cast: Sequence[Character]) -> list[Token]:
    """Cut a caption into names of the cast, other words and marks, with their offsets."""
    tokens: list[Token] = []
    done = 0
    for name, start, end in [*find_mentions(caption, cast), ("", len(caption), len(caption))]:
        for match in _TOKEN.finditer(caption, done, start):
            text = match.group().lower().replace("’", "'")
            kind: Literal["word", "mark"] = "word" if text[-1].isalnum() else "mark"
            tokens.append(Token(kind, text, *match.span()))
        if name:
            tokens.append(Token("name", name, start, end))
        done = end
    return tokens


def token_at(tokens: Sequence[Token], index: int) -> Token:
    """The token at an index; a full stop before the first and after the last."""
    return tokens[index] if 0 <= index < len(tokens) else _END


def name_groups(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Longest runs of names joined by "," and "and", as token indices (first, last); most are single names."""
    index = 0
    while index < len(tokens):
        if tokens[index].kind != "name":
            index += 1
            continue
        first = last = index
        while True:
            following = last + 1
            while token_at(tokens, following).word in (",", "and", "&") and following - last <= 2:
                following += 1
            if following == last + 1 or token_at(tokens, following).kind != "name":
                break
            last = following
        yield first, last
        index = last + 1


def is_conjunction(tokens: Sequence[Token], first: int, last: int) -> bool:
    """Whether the run reads "A and B", "A, B and C", "A, B, and C" or "A and B and C"."""
    shape = " ".join("A" if token.kind == "name" else token.text for token in tokens[first : last + 1])
    return re.fullmatch(r"A( , A)*( and| &| , and(?<=A , A , and)) A|A( and A)+", shape) is not None


def starts_sentence(caption: str, position: int) -> bool:
    """Whether a sentence starts at a position, quotation marks and brackets aside."""
    before = caption[:position].rstrip().rstrip("\"'“”‘’([*_").rstrip()
    if not before.endswith("."):
        return not before or before[-1] in "!?…"
    return re.split(r"\W", before[:-1])[-1].lower() not in TITLES


def cased(caption: str, start: int, pronoun: str) -> str:
    """The pronoun, capitalised if a sentence starts at `start`."""
    return pronoun.capitalize() if starts_sentence(caption, start) else pronoun


def canonical_labels(labels: Sequence[str], cast: Sequence[Character]) -> list[str]:
    """Labels, stripped and lower-cased, with aliases of the cast turned into their names."""
    names = _names(tuple(cast))
    tidy = [label.strip().lower() for label in labels]
    return [names.get(label, label) for label in tidy if label]


@lru_cache(maxsize=64)
def _names(cast: tuple[Character, ...]) -> dict[str, str]:
    """Spelling in lower case -> the name of the character."""
    return {alias.lower(): c.name for c in reversed(cast) for alias in (*c.aliases, c.name)}

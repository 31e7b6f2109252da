"""What a collator preset makes of a story, token by token. Needs torch and transformers, imported when called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from openstory_hf.errors import UsageError, reason_of
from openstory_hf.preview.shown import Row

_IMAGES = tuple(f"[IMG{number}]" for number in range(8))

PRESETS: dict[str, tuple[str, ...]] = {
    "openstory_pp": ("<image>",),
    "seed_story": ("<img>", "</img>", *(f"<img_{number:05d}>" for number in range(64))),
    "gill": _IMAGES,
    "storygpt_v": _IMAGES,
}
"""The presets of `InterleavedCollator`, and the tokens each needs its tokenizer to have."""

DRAWN = ("seed_story", "gill", "storygpt_v")
"""Those that draw which frame of a story they tell."""


class Token(NamedTuple):
    """One position of a sample.

    Attributes:
        id: of the token that stands there.
        piece: that token as the vocabulary spells it.
        text: that token decoded by itself.
        trained: whether the position has a label.
        kind: "text"; "read", where an embedding of a picture stands; "generated", where a hidden state makes one.
        frame: of the story, from 0: whose picture is read or generated, or of whose picture's instances a text speaks.
        spoken: which instances those are, counted among the frame's instances with a mask.
    """

    id: int
    piece: str
    text: str
    trained: bool
    kind: Literal["text", "read", "generated"]
    frame: int | None = None
    spoken: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A sample to look at.

    Args:
        tokenizer: its name; "" for one made of the story's words.
        added: tokens of the recipe that the named tokenizer did not have.
        tokens: every position, in order.
        frames_dropped: whole frames lost to the recipe's `max_length`.
        text: all tokens, decoded at once.
    """

    tokenizer: str
    added: Sequence[str]
    tokens: Sequence[Token]
    frames_dropped: int
    text: str


def tokens_of(row: Row, preset: str, tokenizer: str = "") -> Tokens:
    """The sample that a preset of `InterleavedCollator` makes of a story.

    Args:
        row: of the `stories` table; `draw`, if it has one, decides what the recipe draws.
        preset: one of `PRESETS`.
        tokenizer: name or folder for `transformers.AutoTokenizer`; "" for one made of the story's words.

    Raises:
        ImportError: without torch or transformers.
        UsageError: if the tokenizer cannot be loaded, or is not one for the recipe.
        RowError: if the story is not one for the recipe.
    """
    from openstory_hf.collate.common import IGNORE
    from openstory_hf.collate.interleaved import InterleavedCollator

    def sampled(using: Any) -> Any:
        return InterleavedCollator.preset(preset, tokenizer=using).sample(row)  # type: ignore[arg-type]

    if tokenizer:
        using, added = _loaded(tokenizer, preset)
        sample = sampled(using)
    else:
        texts, added = ["\n", *row["captions"], *row["referential_captions"]], []
        # the recipe's own words are in its prompt alone; a word-level tokenizer counts alike without them
        using = _of_words([*texts, sampled(_of_words(texts, preset)).prompt], preset)
        sample = sampled(using)
    spoken = sample.spoken or [(-1, ())] * len(sample.ids)
    columns = zip(sample.ids, sample.labels, sample.visual, sample.generated, spoken, strict=True)
    tokens = []
    for token, label, (read, _), made, (of, instances) in columns:
        picture = max(read, made, of)
        tokens.append(
            Token(
                id=token,
                piece=str(using.convert_ids_to_tokens(token)),
                text=using.decode([token], clean_up_tokenization_spaces=False),
                trained=label != IGNORE,
                kind="read" if read >= 0 else "generated" if made >= 0 else "text",
                frame=sample.frames[picture] if picture >= 0 else None,
                spoken=instances,
            )
        )
    text = using.decode(sample.ids, clean_up_tokenization_spaces=False)
    return Tokens(tokenizer=tokenizer, added=added, tokens=tokens, frames_dropped=sample.frames_dropped, text=text)


def _of_words(texts: Iterable[str], preset: str) -> Any:
    from openstory_hf.testing import tiny_tokenizer

    tokenizer = tiny_tokenizer(texts)
    tokenizer.add_tokens(list(PRESETS[preset]), special_tokens=True)
    return tokenizer


@lru_cache(maxsize=2)
def _loaded(name: str, preset: str) -> tuple[Any, list[str]]:
    """A tokenizer of the user's, and the tokens that had to be added to it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever the libraries and the network raise
        raise UsageError(f"the tokenizer {name!r} cannot be loaded: {reason_of(error)}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    known = tokenizer.get_vocab()
    added = [token for token in PRESETS[preset] if token not in known]
    tokenizer.add_tokens(added, special_tokens=True)
    return tokenizer, added

"""Text to token ids, so that what a caption says is never read as a marker; and what a tokenizer must have for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

from openstory_hf.errors import UsageError
from openstory_hf.views import Span, token_spans


def check_pads(tokenizer: Any) -> None:
    """Make sure a tokenizer has a pad token.

    Raises:
        UsageError: if not.
    """
    if tokenizer.pad_token_id is None:
        raise UsageError("the tokenizer has no pad token; try tokenizer.pad_token = tokenizer.eos_token")


def check_fast(tokenizer: Any) -> None:
    """Make sure a tokenizer says which characters its tokens come from.

    Raises:
        UsageError: if not, naming its class.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} does not say where in the text its tokens come from; use a fast tokenizer, "
            "as transformers.AutoTokenizer.from_pretrained(...) gives where one exists"
        )


def check_room(tokenizer: Any, max_length: int) -> None:
    """Make sure that a text of `max_length` tokens has any beside its special ones.

    Raises:
        UsageError: if not.
    """
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise UsageError(f"max_length={max_length} leaves no room for text beside {special} special tokens")


def encode(tokenizer: Any, text: str, *, plain: bool = False) -> list[int]:
    """Token ids without bos and eos; with `plain`, special tokens in the text are mere characters."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=plain, verbose=False)
    return list(encoded["input_ids"])


def marker_id(tokenizer: Any, name: str, token: str) -> int:
    """The id of a token that marks where pictures stand.

    Args:
        tokenizer: a `transformers` tokenizer.
        name: of the option, for the message.
        token: its text.

    Raises:
        UsageError: if it is not one token of the vocabulary, saying how to add it.
    """
    number = tokenizer.convert_tokens_to_ids(token)
    # slow tokenizers answer None for an unknown token, others the id of their unknown token
    if number in (None, tokenizer.unk_token_id):
        raise UsageError(
            f"{name} {token!r} is not one token of the tokenizer; add it with tokenizer.add_tokens([{token!r}], "
            "special_tokens=True) and make room for it with model.resize_token_embeddings(len(tokenizer))"
        )
    return int(number)


def caption_pieces(tokenizer: Any, text: str, markers: Sequence[str]) -> list[str]:
    """The pieces of a caption to tokenise one by one with `plain`, so that none gives a marker; mostly one.

    `split_special_tokens` splits only tokens registered as special, so a marker that was added as an ordinary token
    is kept from matching by cutting the text behind its first character.
    """
    spelt = {tokenizer.convert_tokens_to_ids(marker) for marker in markers if marker in text}
    if not spelt or spelt.isdisjoint(encode(tokenizer, text, plain=True)):
        return [text]
    behind_first = "|".join(f"(?<={re.escape(marker[:1])})(?={re.escape(marker[1:])})" for marker in markers)
    return re.split(behind_first, text)


def encode_caption(tokenizer: Any, text: str, markers: Sequence[str]) -> list[int]:
    """Token ids of a caption: special tokens and markers spelt out in it are mere characters."""
    return encode_pieces(tokenizer, caption_pieces(tokenizer, text, markers))


def encode_pieces(tokenizer: Any, pieces: Iterable[str]) -> list[int]:
    """Token ids of plain pieces of text, each tokenised by itself."""
    return [token for piece in pieces for token in encode(tokenizer, piece, plain=True)]


def piece_offsets(tokenizer: Any, pieces: Iterable[str]) -> list[Span]:
    """Where in the joined text each token of `encode_pieces` stands: half-open character offsets (fast tokenizers)."""
    offsets, start = [], 0
    for piece in pieces:
        encoded = tokenizer(
            piece, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        offsets += [(start + left, start + right) for left, right in encoded["offset_mapping"]]
        start += len(piece)
    return offsets


def encode_spans(tokenizer: Any, text: str, spans: Sequence[Span], length: int) -> tuple[list[int], list[int]]:
    """Token ids of a text between its special tokens, and where some stretches of it end.

    Special tokens spelt out in the text are mere characters. What is too long loses its end, but no special token.

    Args:
        tokenizer: a `transformers` tokenizer, fast or slow.
        text: the text.
        spans: half-open character offsets.
        length: number of ids, padding included.

    Returns:
        the ids, and the last token of each span: a place in them, -1 if it was cut off or there is none.

    Raises:
        UsageError: if the tokenizer reads a text otherwise when it adds special tokens.
    """
    plain: dict[str, Any] = {"split_special_tokens": True, "verbose": False}
    whole = list(tokenizer(text, **plain)["input_ids"])
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, **plain)
    ids = list(encoded["input_ids"])
    special = len(whole) - len(ids)
    before = next((at for at in range(special + 1) if whole[at : at + len(ids)] == ids), None)
    if before is None:
        raise UsageError(f"{type(tokenizer).__name__} reads {text!r} otherwise with its special tokens")
    if tokenizer.is_fast:
        lasts = [stop - 1 for _, stop in token_spans(encoded["offset_mapping"], spans)]
    else:
        lasts = [_last_token(tokenizer, text[:end], ids) if end > start else -1 for start, end in spans]
    room = length - special
    kept = whole[:before] + ids[:room] + whole[before + len(ids) :]
    padding = [tokenizer.pad_token_id] * (length - len(kept))
    return kept + padding, [before + last if 0 <= last < room else -1 for last in lasts]


def _last_token(tokenizer: Any, beginning: str, ids: Sequence[int]) -> int:
    """The token of a text that holds the end of its `beginning`, for tokenizers that do not tell."""
    begun = encode(tokenizer, beginning, plain=True)
    # a beginning that ends inside a token differs from the text in that one, and has its last token there or later
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(begun, ids, strict=False)))
    return min(same, len(begun) - 1)

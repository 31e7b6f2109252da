"""Pure functions on rows of the `stories` table: shorter stories, interleaved documents, chat messages.

Each takes a row (any mapping with the columns of `schema.STORIES`) and returns new dictionaries; the row is
never changed. Pictures are passed through as they are, encoded or decoded. `token_spans` and `tidy` work on a text.
Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from openstory_hf.errors import OpenStoryError, UsageError

Row = dict[str, Any]
Order = Literal["image_first", "caption_first"]
Span = tuple[int, int]


class RowError(OpenStoryError):
    """A row that a view or a collator cannot use; the message names its story."""


def row_error(row: Mapping[str, Any], problem: str) -> RowError:
    """The error to raise for a row, naming its story."""
    return RowError(f"story {row.get('story_id', '(no story_id)')!r}: {problem}")


def frame_texts(row: Mapping[str, Any], text: str = "captions") -> list[str]:
    """The text of every frame.

    Args:
        row: a story.
        text: the column to read: "captions", "referential_captions", or "texts" (added by `load_stories`).

    Raises:
        RowError: if the row has no such column, or an entry of it is not text.
    """
    texts = row.get(text)
    if texts is None:
        raise row_error(row, f"no column {text!r}; the row has {', '.join(row)}")
    for number, value in enumerate(texts):
        if not isinstance(value, str):
            raise row_error(row, f"{text}[{number}] is {type(value).__name__}, expected text")
    return list(texts)


def frame_images(row: Mapping[str, Any], count: int) -> list[Any]:
    """The pictures of a story, one for each of its `count` frames.

    Raises:
        RowError: if pictures are missing, or there are more or fewer than `count`.
    """
    images = row.get("images")
    if images is None or any(image is None for image in images):
        raise row_error(row, 'pictures are missing; read the "stories" config ("annotations" leaves the pictures out)')
    if len(images) != count:
        raise row_error(row, f"{len(images)} pictures for {count} texts; there must be one picture per frame")
    return list(images)


def windows(row: Mapping[str, Any], length: int, stride: int = 1) -> list[Row]:
    """Cut a story into sub-stories of `length` frames, one every `stride` frames.

    Every list of the row is per frame and is cut, as are the per-frame entries of `extras`; `source` follows
    the start, and `story_id` gets the suffix "#start-stop" (frames of the row, end exclusive). A story shorter
    than `length` gives none.

    Referential captions are cut, not rewritten, so a pronoun may refer to a character named before the cut.
    `load_stories(length=...)` rewrites them for each window.

    Raises:
        UsageError: if `length` or `stride` is below 1.
        RowError: if the lists are not parallel.
    """
    if length < 1 or stride < 1:
        raise UsageError(f"length and stride must be at least 1, got length={length}, stride={stride}")
    lengths = {name: len(value) for name, value in row.items() if isinstance(value, list)}
    if len(set(lengths.values())) != 1:
        raise row_error(row, f"its lists must have one entry per frame each, but their lengths are {lengths}")
    frames = next(iter(lengths.values()))
    return [cut(row, start, start + length) for start in range(0, frames - length + 1, stride)]


def cut(row: Mapping[str, Any], start: int, stop: int) -> Row:
    """Frames [start, stop) of a story as a story of its own; see `windows`."""
    made = {name: value[start:stop] if isinstance(value, list) else value for name, value in row.items()}
    made["story_id"] = f"{row['story_id']}#{start}-{stop}"
    if row.get("source"):
        made["source"] = {**row["source"], "index": row["source"]["index"] + start}
    extras = json.loads(row.get("extras") or "{}")
    if "frames" in extras:
        extras["frames"] = extras["frames"][start:stop]
        made["extras"] = json.dumps(extras, ensure_ascii=False, sort_keys=True)
    return made


def to_interleaved(
    row: Mapping[str, Any], text: str = "captions", order: Order = "image_first"
) -> dict[str, list[Any]]:
    """One document of alternating pictures and texts, in the layout of OBELICS.

    Returns:
        `texts` and `images`: parallel lists, two entries per frame, with a text or a picture at each place and
        None in the other list.

    Raises:
        RowError: if texts or pictures are missing, or their numbers differ.
        UsageError: for an unknown order.
    """
    if order not in ("image_first", "caption_first"):
        raise UsageError(f'order must be "image_first" or "caption_first", got {order!r}')
    captions = frame_texts(row, text)
    texts: list[str | None] = []
    images: list[Any] = []
    for caption, image in zip(captions, frame_images(row, len(captions)), strict=True):
        texts += [None, caption] if order == "image_first" else [caption, None]
        images += [image, None] if order == "image_first" else [None, image]
    return {"texts": texts, "images": images}


def to_messages(row: Mapping[str, Any], text: str = "captions", prompt: str | None = None) -> dict[str, list[Any]]:
    """A conversation in TRL's vision format: the user shows picture after picture, the assistant tells each.

    Content blocks have exactly the keys `type` and `text`. A block must not have an `image` key: Arrow gives
    every block of a column the same keys, and TRL takes a block that has it, even null, as already filled.

    Args:
        row: a story.
        text: the column to read.
        prompt: what the user says before the first picture.

    Returns:
        `messages`: two per frame; `images`: one per `{"type": "image"}` block, in the same order.

    Raises:
        RowError: if texts or pictures are missing, or their numbers differ.
    """
    captions = frame_texts(row, text)
    images = frame_images(row, len(captions))
    messages: list[dict[str, Any]] = []
    for caption in captions:
        messages.append({"role": "user", "content": [{"type": "image", "text": None}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": caption}]})
    if prompt is not None and messages:
        messages[0]["content"].insert(0, {"type": "text", "text": prompt})
    return {"messages": messages, "images": images}


def token_spans(offsets: Sequence[Span], spans: Iterable[Span]) -> list[Span]:
    """Find the tokens of stretches of a text, such as mentions.

    A token belongs to a span if the two share a character, so a token that takes in a blank before a name, or several
    tokens for the bytes of one character, all count. Tokens without width (special tokens, padding) belong to none.

    Args:
        offsets: half-open character offsets of each token in the text: `offset_mapping` of a fast tokenizer.
        spans: half-open character offsets in the same text.

    Returns:
        for each span the tokens [first, last) that it takes from its first token to its last; (-1, -1) if it has none.

    >>> token_spans([(0, 0), (0, 4), (4, 8), (8, 14)], [(9, 14)])  # "Wilma" in "<s>", "Fred", " and", " Wilma"
    [(3, 4)]
    """
    found = []
    for start, end in spans:
        inside = [index for index, (left, right) in enumerate(offsets) if max(left, start) < min(right, end)]
        found.append((inside[0], inside[-1] + 1) if inside else (-1, -1))
    return found


def tidy(text: str) -> str:
    r"""Join hard line breaks and runs of blanks to one space, and strip.

    >>> tidy("  Once upon\na   time ")
    'Once upon a time'
    """
    return " ".join(text.split())

"""What rows built from a StoryGPT-V release keep of it in `extras`: captions of clips, words bound to objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from openstory_hf.views import Span


def annotation_of(extras: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The release's annotation in the `extras` of a frame, None if there is none.

    `segments` has one entry for each instance of the frame, {"word", "start", "end", "id", "bbox"}: the words
    [start, end) of the caption speak of it. `tokens` has the words where blanks do not tell them, `other_captions`
    what else is said of the clip.
    """
    kept: Mapping[str, Any] = extras.get("cleaned", extras)
    return kept if isinstance(kept.get("segments"), list) else None


def caption_index(kept: int, pictures: int, captions: int) -> int:
    """Which caption of a clip goes with one of its kept pictures in the release: never the first of several."""
    return min(ceil((kept + 1) / pictures * captions), captions - 1)


def segment_spans(text: str, annotation: Mapping[str, Any]) -> tuple[str, dict[int, Span]]:
    """Where a caption speaks of the instances of its frame, by the words of the release.

    Args:
        text: the caption.
        annotation: of its frame.

    Returns:
        the caption, or the words of the release joined by blanks if the two differ, since it trains on those; and by
        the number of an instance the characters [start, end) of its words, less the punctuation behind them. Segments
        that bind no words are left out.
    """
    words = [str(word) for word in annotation.get("tokens") or text.split()]
    spans = _word_spans(text, words)
    if spans is None:
        text = " ".join(words)
        spans = _word_spans(text, words) or []
    found = ((number, _span(segment, text, spans)) for number, segment in enumerate(annotation["segments"]))
    return text, {number: span for number, span in found if span}


def _word_spans(text: str, words: Sequence[str]) -> list[Span] | None:
    """Where each word stands in a text, or None if the text is not these words and blanks."""
    spans, at = [], 0
    for word in words:
        start = text.find(word, at)
        if start < 0 or text[at:start].strip():
            return None
        at = start + len(word)
        spans.append((start, at))
    return None if text[at:].strip() else spans


def _span(segment: Mapping[str, Any], text: str, words: Sequence[Span]) -> Span | None:
    try:
        first, stop = int(segment["start"]), int(segment["end"])
    except (KeyError, TypeError, ValueError):
        return None
    if not 0 <= first < stop <= len(words):
        return None
    start, end = words[first][0], words[stop - 1][1]
    bare = end
    while bare > start and not text[bare - 1].isalnum():
        bare -= 1
    return (start, bare) if bare > start else (start, end)

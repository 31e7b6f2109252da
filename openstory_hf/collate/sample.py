"""What a recipe makes of a story: tokens, labels, and where which picture stands."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from openstory_hf.collate.common import Row

TEXT = (-1, -1)
"""`Sample.visual` where no visual embedding stands."""


class Sample(NamedTuple):
    """One story as the model receives it, before padding; lists have one entry per position.

    Attributes:
        row: the story.
        ids: token ids; the placeholder's id (or the pad id) where a visual embedding stands.
        labels: unshifted ids, `common.IGNORE` where not trained. Only what a release got wrong may be longer or
            shorter than `ids`.
        visual: (k, j) where embedding j of the k-th used picture stands, `TEXT` elsewhere.
        frames: the frames of the row whose pictures are used, in order; `k` counts in this list.
        generated: k of the picture whose tokens these positions generate, -1 elsewhere.
        frames_dropped: whole frames lost to `max_length`.
        prompt: the text as the tokenizer was given it, if the recipe tells.
        spoken: (k, instances) where a token speaks of instances of the k-th used picture, counted among those with
            a segmentation; (-1, ()) elsewhere. None if the recipe does not look for them.
    """

    row: Row
    ids: list[int]
    labels: list[int]
    visual: list[tuple[int, int]]
    frames: list[int]
    generated: list[int]
    frames_dropped: int
    prompt: str = ""
    spoken: list[tuple[int, tuple[int, ...]]] | None = None


class Recipe(Protocol):
    """Anything that turns a story into a sample; its random draws are a pure function of the row and a seed."""

    @property
    def longest(self) -> int | None:
        """Most tokens of a sample."""

    def sample(self, row: Row, draws: Any = None) -> Sample | None:
        """The sample of a story; None where a released loader drops the story without a word."""

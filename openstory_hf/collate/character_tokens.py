"""Which tokens of a text speak of which character, for supervising cross-attention without special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from openstory_hf.collate.common import Row, check_choice, check_names, pad, story_texts, text_column
from openstory_hf.collate.encoding import check_fast, check_pads, check_room
from openstory_hf.collate.instances import MENTION_OFFSETS, Mention, mentions_of
from openstory_hf.errors import UsageError
from openstory_hf.views import Span, row_error, token_spans

Text = Literal["captions", "referential_captions", "texts"]
Padding = Literal["longest", "max_length"]


class _Frame(NamedTuple):
    """A text, and who is mentioned where in it."""

    text: str
    mentions: list[Mention]


@dataclass(frozen=True, kw_only=True)
class CharacterTokens:
    """Tokenise the text of every frame, and find the tokens of its mentions by their character offsets.

    The names stay plain text, so any fast tokenizer will do. A token belongs to a mention if the two share a
    character: a blank that the tokenizer puts in front of a name does no harm, a name and its "'s" in one token
    count whole, and so does a mark that some tokenizers put before the first word of a text. Special tokens spelt
    out in a text are tokenised as mere characters. A call changes neither the examples nor the collator, and the
    same examples give the same batch. Can be pickled.

    Args:
        tokenizer: a fast `transformers` tokenizer. Its special tokens are added; it pads and truncates on its sides.
        characters: canonical names as the `mentions` column has them (lower case). Their order is the order in the
            batch, so it must be the same in training and after it; `INFO.characters` of a builder has the cast.
        text: column of the texts; by default "texts" in rows that have it, else "captions". "texts" must equal
            `captions` or `referential_captions`, which is seen row by row.
        max_length: most tokens per frame, special tokens included, or None. What is beyond is cut off.
        padding: to the "longest" frame of the batch, or always to "max_length", as text encoders of diffusion models
            have it.

    Raises:
        UsageError: for an option that cannot work at all or with this tokenizer.

    Example:
        >>> from openstory_hf.testing import drawn_story, tiny_tokenizer
        >>> story = drawn_story(frames=2, cast=("fred", "wilma"))
        >>> story["captions"][0]
        'Fred and Wilma walked 1 steps along the river.'
        >>> tokens = CharacterTokens(tokenizer=tiny_tokenizer(story["captions"]), characters=("wilma", "fred"))
        >>> batch = tokens([story])
        >>> batch["mention_tokens"][0].tolist(), batch["mention_characters"][0].tolist()
        ([[0, 1], [4, 5]], [1, 0])
    """

    tokenizer: Any
    characters: Sequence[str]
    text: Text | None = None
    max_length: int | None = None
    padding: Padding = "longest"

    def __post_init__(self) -> None:
        if self.text is not None:
            check_choice("text", self.text, Text)
        check_choice("padding", self.padding, Padding)
        check_names("characters", self.characters)
        check_fast(self.tokenizer)
        check_pads(self.tokenizer)
        if self.padding == "max_length" and self.max_length is None:
            raise UsageError('padding="max_length" needs a max_length')
        if self.max_length is not None:
            check_room(self.tokenizer, self.max_length)

    def __call__(self, examples: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Tokenise the F frames of some stories, story by story: at most L tokens and M mentions in a frame.

        A mention that `max_length` cuts off, wholly or in part, has no tokens.

        Returns:
            - `input_ids`: int64 (F, L).
            - `attention_mask`: int64 (F, L), 1 on tokens, 0 on padding.
            - `mention_tokens`: int64 (F, M, 2), tokens [first, last) of each mention in the order of the row; (-1, -1)
              for mentions without tokens, and on padding.
            - `mention_characters`: int64 (F, M), index into `characters`; -1 for other names, and on padding.
            - `character_token_mask`: bool (F, C, L), whether a token speaks of a character; "They" does of several.

        Raises:
            RowError: naming the story, if it lacks texts or mentions, or they do not belong together.
            UsageError: if there are no examples.
        """
        if not examples:
            raise UsageError("a batch needs at least one example")
        frames = [frame for row in examples for frame in self._frames(row)]
        encodings = self.tokenizer(
            [frame.text for frame in frames],
            max_length=self.max_length,
            truncation=self.max_length is not None,
            padding=self.padding,
            split_special_tokens=True,
            verbose=False,
        ).encodings
        input_ids = pad([encoding.ids for encoding in encodings], self.tokenizer.pad_token_id)
        most = max(len(frame.mentions) for frame in frames)
        tokens = torch.full((len(frames), most, 2), -1)
        speakers = torch.full((len(frames), most), -1)
        mask = torch.zeros(len(frames), len(self.characters), input_ids.shape[1], dtype=torch.bool)
        numbers = {name: number for number, name in enumerate(self.characters)}
        for index, (frame, encoding) in enumerate(zip(frames, encodings, strict=True)):
            spans = _kept_spans(encoding, [span for _, span in frame.mentions])
            for place, ((name, _), (first, last)) in enumerate(zip(frame.mentions, spans, strict=True)):
                tokens[index, place] = torch.tensor([first, last])
                if name in numbers:
                    speakers[index, place] = numbers[name]
                    mask[index, numbers[name], first:last] = True  # nothing for (-1, -1)
        return {
            "input_ids": input_ids,
            "attention_mask": pad([encoding.attention_mask for encoding in encodings], 0),
            "mention_tokens": tokens,
            "mention_characters": speakers,
            "character_token_mask": mask,
        }

    def _frames(self, row: Row) -> list[_Frame]:
        texts, mentions, column = story_texts(row, self.text), row.get("mentions"), text_column(row, self.text)
        if mentions is None or len(mentions) != len(texts):
            found = "no column 'mentions'" if mentions is None else f"{len(mentions)} lists of mentions"
            raise row_error(row, f"{found} for {len(texts)} texts; there must be one list per frame")
        if column == "texts":
            same = [name for name in MENTION_OFFSETS if list(row.get(name) or ()) == texts]
            if not same:
                raise row_error(row, "'texts' is neither 'captions' nor 'referential_captions', so no mention fits it")
            column = same[0]
        return [_Frame(text, mentions_of(row, number, column)) for number, text in enumerate(texts)]


def _kept_spans(encoding: Any, spans: Sequence[Span]) -> list[Span]:
    """Tokens of each span, (-1, -1) for spans that lost a token to truncation."""
    lost = [offset for part in encoding.overflowing for offset in part.offsets]
    pairs = zip(token_spans(encoding.offsets, spans), token_spans(lost, spans), strict=True)
    return [kept if gone == (-1, -1) else (-1, -1) for kept, gone in pairs]

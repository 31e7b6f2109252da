"""The plain layout: every picture of a story is read, and captions are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from openstory_hf.collate.common import IGNORE, Row, check_choice, story_texts
from openstory_hf.collate.encoding import caption_pieces, check_fast, encode, encode_pieces, marker_id, piece_offsets
from openstory_hf.collate.instances import spoken_spans
from openstory_hf.collate.sample import TEXT, Sample
from openstory_hf.errors import UsageError
from openstory_hf.views import Order, frame_images, row_error, token_spans

Target = Literal["last", "all"]
Truncate = Literal["oldest", "newest", "error"]


class _Segment(NamedTuple):
    """A run of tokens that is tokenised by itself; `spoken` has the instances each of them speaks of."""

    ids: list[int]
    is_caption: bool = False
    spoken: list[tuple[int, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A story as ``[bos] frame separator frame separator ... frame [eos]``.

    A frame (image first) is ``image_start placeholders image_end caption``. Each of these pieces is tokenised by
    itself, never across a boundary, so the border between trained and untrained tokens is exact whatever the
    tokenizer merges; blanks wanted between the pieces belong into the markers and the separator. Captions are plain
    text: special tokens and the image token spelt out in a caption are tokenised as mere characters.

    Args:
        tokenizer: a `transformers` tokenizer, fast or slow.
        image_token: the placeholder; one token of the tokenizer's vocabulary.
        tokens_per_image: placeholders per picture, the number of visual embeddings the model puts in their place.
        image_start: text before the placeholders of each picture; may hold special tokens.
        image_end: text after them; may hold special tokens.
        order: which comes first in a frame, the picture or the caption.
        target: whose caption is trained: the last frame's alone, or every frame's.
        separator: text between frames; may hold special tokens.
        add_bos: start with the tokenizer's bos token if it has one; never trained.
        add_eos: end with the eos token, trained. A story that lost its newest frames does not end where it was
            cut, and gets none.
        instance_tokens: find the tokens of a caption that speak of an instance of its picture (`spoken_spans`);
            needs a fast tokenizer.
        text: column of the texts; by default "texts" in rows that have it, else "captions".
        max_length: most tokens per story, or None.
        truncate: what to do with a longer story: drop whole frames, the oldest or the newest first, or raise.

    Raises:
        UsageError: for an option that cannot work at all or with this tokenizer.
    """

    tokenizer: Any
    image_token: str = "<image>"
    tokens_per_image: int = 1
    image_start: str = ""
    image_end: str = ""
    order: Order = "image_first"
    target: Target = "last"
    separator: str = "\n"
    add_bos: bool = True
    add_eos: bool = True
    instance_tokens: bool = False
    text: str | None = None
    max_length: int | None = None
    truncate: Truncate = "error"

    def __post_init__(self) -> None:
        check_choice("order", self.order, Order)
        check_choice("target", self.target, Target)
        check_choice("truncate", self.truncate, Truncate)
        if self.tokens_per_image < 1:
            raise UsageError(f"tokens_per_image must be at least 1, got {self.tokens_per_image}")
        image_id = marker_id(self.tokenizer, "image_token", self.image_token)
        if self.add_eos and self.tokenizer.eos_token_id is None:
            raise UsageError("the tokenizer has no eos token; set one, or pass add_eos=False")
        if self.instance_tokens:
            check_fast(self.tokenizer)
        for name in ("image_start", "image_end", "separator"):
            if image_id in encode(self.tokenizer, getattr(self, name)):
                raise UsageError(f"{name} must not hold the image token {self.image_token!r} itself")

    def sample(self, row: Row, draws: None = None) -> Sample | None:
        """The sample of a story, never None; nothing is drawn.

        Raises:
            RowError: naming the story, if it lacks text or pictures, or does not fit into `max_length`.
        """
        frames = self._frames(row)
        bos = [self.tokenizer.bos_token_id] if self.add_bos and self.tokenizer.bos_token_id is not None else []
        eos = [self.tokenizer.eos_token_id] if self.add_eos else []
        separator = encode(self.tokenizer, self.separator)
        start, stop = self._fit(row, frames, bos=len(bos), eos=len(eos), separator=len(separator))

        ids, labels = list(bos), [IGNORE] * len(bos)
        spoken: list[tuple[int, tuple[int, ...]]] = [(-1, ())] * len(bos)
        for number in range(start, stop):
            trained = self.target == "all" or number == stop - 1
            for segment in [_Segment(separator), *frames[number]] if number > start else frames[number]:
                ids += segment.ids
                labels += segment.ids if trained and segment.is_caption else [IGNORE] * len(segment.ids)
                spoken += [(number - start if of else -1, of) for of in segment.spoken or [()] * len(segment.ids)]
        if stop == len(frames):
            ids, labels, spoken = ids + eos, labels + eos, spoken + [(-1, ())] * len(eos)
        return Sample(
            row=row,
            ids=ids,
            labels=labels,
            visual=self._visual(row, ids, stop - start),
            frames=list(range(start, stop)),
            generated=[-1] * len(ids),
            frames_dropped=len(frames) - (stop - start),
            spoken=spoken if self.instance_tokens else None,
        )

    @property
    def _image_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    def _frames(self, row: Row) -> list[list[_Segment]]:
        texts = story_texts(row, self.text)
        frame_images(row, len(texts))
        picture = [
            _Segment(encode(self.tokenizer, self.image_start)),
            _Segment([self._image_id] * self.tokens_per_image),
            _Segment(encode(self.tokenizer, self.image_end)),
        ]
        captions = [[self._caption(row, number, text)] for number, text in enumerate(texts)]
        return [picture + text if self.order == "image_first" else text + picture for text in captions]

    def _caption(self, row: Row, number: int, text: str) -> _Segment:
        pieces = caption_pieces(self.tokenizer, text, [self.image_token])
        ids = encode_pieces(self.tokenizer, pieces)
        if not self.instance_tokens:
            return _Segment(ids, is_caption=True)
        offsets = piece_offsets(self.tokenizer, pieces)
        spoken: list[tuple[int, ...]] = [()] * len(ids)
        for instance, spans in enumerate(spoken_spans(row, number, text)):
            tokens = {token for first, last in token_spans(offsets, spans) for token in range(first, last)}
            for token in tokens:  # (-1, -1), a span without tokens, gives none
                spoken[token] += (instance,)
        return _Segment(ids, is_caption=True, spoken=spoken)

    def _visual(self, row: Row, ids: list[int], pictures: int) -> list[tuple[int, int]]:
        """The placeholders line up with the pictures if every image token is one."""
        image_id = self._image_id
        if ids.count(image_id) != pictures * self.tokens_per_image:
            raise row_error(
                row,
                f"{ids.count(image_id)} placeholders for {pictures} pictures of {self.tokens_per_image} "
                f"tokens; the tokenizer reads {self.image_token!r} into a caption, choose a rarer image_token",
            )
        places = iter((k, j) for k in range(pictures) for j in range(self.tokens_per_image))
        return [next(places) if token == image_id else TEXT for token in ids]

    def _fit(self, row: Row, frames: list[list[_Segment]], *, bos: int, eos: int, separator: int) -> tuple[int, int]:
        """The frames [start, stop) that are kept so that the story fits into `max_length`."""
        sizes = [sum(len(segment.ids) for segment in frame) for frame in frames]
        start, stop = 0, len(frames)
        while self.max_length is not None:
            length = bos + sum(sizes[start:stop]) + separator * (stop - start - 1)
            length += eos if stop == len(frames) else 0
            if length <= self.max_length:
                break
            if self.truncate == "error" or stop - start == 1:
                raise row_error(
                    row,
                    f"{stop - start} of its {len(frames)} frames make {length} tokens (by frame: {sizes}), but "
                    f"max_length={self.max_length}; raise it, shorten the texts"
                    + (', or pass truncate="oldest" or "newest"' if self.truncate == "error" else ""),
                )
            start, stop = (start + 1, stop) if self.truncate == "oldest" else (start, stop - 1)
        return start, stop

"""SEED-Story: earlier frames as context, the next frame's caption and picture to generate."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, NamedTuple

from openstory_hf.collate.common import IGNORE, Row, check_share, generator, story_texts
from openstory_hf.collate.encoding import encode, encode_caption, marker_id
from openstory_hf.collate.pixels import decoded
from openstory_hf.collate.sample import TEXT, Sample
from openstory_hf.errors import UsageError
from openstory_hf.views import RowError, frame_images, row_error

_BEGIN, _END, _TURN = "<img>", "</img>", "[INST]"


class Draws(NamedTuple):
    """What is random in a sample: the frame to generate, 1 to n - 1 of a story of n frames."""

    target: int


class _Piece(NamedTuple):
    """A caption or prompt text, or the markers of a picture."""

    text: str
    is_caption: bool = False


class _Encoded(NamedTuple):
    """A prompt, and the tokens of its three parts without bos and eos."""

    prompt: str
    system: list[int]
    context: list[int]
    response: list[int]

    @property
    def length(self) -> int:
        """Tokens of the sample, bos and eos included."""
        return 2 + len(self.system) + len(self.context) + len(self.response)


@dataclass(frozen=True, kw_only=True)
class SeedStory:
    """The training sample of SEED-Story (arXiv:2407.08683; `src/data/story_telling.py` of TencentARC/SEED-Story).

    A frame t is drawn. Frames 0 to t - 1 are the context, captions and pictures; the caption of t, the beginning of
    its picture and eos are trained, and the hidden states of its picture's tokens become the picture. A picture is
    ``<img>``, as many ``<img_00000>``, ... as it has tokens, and ``</img>``. System message, context and response
    are tokenised by one call each.

    `release_compatible` gives the released samples with their defects. Without it

    * a story that is too long loses its oldest context frames; the release drops it, at `max_length` tokens already;
    * a caption that spells out a marker is text; the release takes it for a picture and shifts its masks;
    * `instruction_prompt` stands around the whole context; the release puts it around frame 0 alone;
    * `min_resolution` and `min_aspect_ratio` count for every used picture, and only for those; the release looks at
      the last picture of the story, used or not, and drops the story;
    * `time_ids` takes the size of the picture it describes, and the crop as (top, left); the release takes the last
      picture's size, and the crop the other way round;
    * only the used pictures must decode; the release drops the story if any does not;
    * a story of another number of captions than pictures is an error; the release cares for captions too few only.

    Args:
        tokenizer: a `transformers` tokenizer with the picture tokens added.
        num_img_in_tokens: tokens of a picture of the context.
        num_img_out_tokens: tokens of the picture to generate.
        max_length: most tokens of a sample, bos and eos included.
        system_message: text before everything, or "".
        instruction_prompt: what stands around the context, which takes the place of "{instruction}".
        min_resolution: least height and width of a picture in pixels.
        min_aspect_ratio: least ratio of its shorter to its longer side.
        text: column of the texts; by default "texts" in rows that have it, else "captions".
        seed: of the draws.
        release_compatible: with the released defects.

    Raises:
        UsageError: for an option that cannot work at all or with this tokenizer.
    """

    tokenizer: Any
    num_img_in_tokens: int = 64
    num_img_out_tokens: int = 64
    max_length: int = 1280
    system_message: str = ""
    instruction_prompt: str = "{instruction}"
    min_resolution: int = 0
    min_aspect_ratio: float = 0.0
    text: str | None = None
    seed: int = 0
    release_compatible: bool = False

    def __post_init__(self) -> None:
        if min(self.num_img_in_tokens, self.num_img_out_tokens) < 1:
            raise UsageError("num_img_in_tokens and num_img_out_tokens must be at least 1")
        check_share("min_aspect_ratio", self.min_aspect_ratio)
        if len(self._around) != 2:
            raise UsageError(f'instruction_prompt must hold "{{instruction}}" once, got {self.instruction_prompt!r}')
        if self.tokenizer.bos_token_id is None or self.tokenizer.eos_token_id is None:
            raise UsageError("SEED-Story needs a tokenizer with a bos and an eos token")
        for marker in self._markers:
            marker_id(self.tokenizer, "picture token", marker)

    def sample(self, row: Row, draws: Draws | None = None) -> Sample | None:
        """The sample of a story, with the given draws or its own; None if the release drops the story.

        Raises:
            RowError: naming the story, if it has fewer than two frames, lacks text or pictures, or does not fit.
        """
        texts = story_texts(row, self.text)
        # the release counts pictures, and looks into them and the captions later
        count = len((self.release_compatible and row.get("images")) or frame_images(row, len(texts)))
        if count < 2:
            raise row_error(row, "SEED-Story needs a frame for context and one to generate; leave shorter stories out")
        target = int(generator(row, self.seed).integers(1, count)) if draws is None else draws.target
        if not 1 <= target < count:
            raise row_error(row, f"cannot generate frame {target} of {count}; the first is always context")
        if self.release_compatible:
            if self._is_dropped(row):
                return None
            if len(texts) < count:
                raise row_error(row, f"{len(texts)} captions for {count} pictures; there must be one per picture")
            made = self._made(row, 0, target, self._encoded(row, texts, 0, target))
            return made if len(made.ids) < self.max_length else None
        start, parts = self._fit(row, texts, target)
        for number in range(start, target + 1):
            self._check_size(row, number)
        return self._made(row, start, target, parts)

    def time_ids(self, sample: Sample, size: int) -> tuple[int, ...]:
        """How SDXL is told of the picture to generate (arXiv:2307.01952, section 2.2).

        Args:
            sample: one of this recipe's.
            size: side in pixels that the picture is scaled (its shorter side) and cut (centred) to.

        Returns:
            (height, width, crop top, crop left, size, size): of the source in pixels, then of the scaled picture.
        """
        height, width = _size(sample.row, -1 if self.release_compatible else sample.frames[-1])
        shorter = min(height, width)
        crop = [max(0, round((int(side * (size / shorter)) - size) / 2)) for side in (height, width)]
        top, left = reversed(crop) if self.release_compatible else crop
        return height, width, top, left, size, size

    # -- text

    @property
    def longest(self) -> int:
        """Most tokens of a sample."""
        return self.max_length

    @property
    def _around(self) -> list[str]:
        """What stands before and behind the instruction."""
        return self.instruction_prompt.format_map({"instruction": "\0"}).split("\0")

    @property
    def _markers(self) -> list[str]:
        tokens = max(self.num_img_in_tokens, self.num_img_out_tokens)
        return [_BEGIN, _END, *(f"<img_{number:05d}>" for number in range(tokens))]

    @property
    def _blocks(self) -> tuple[_Piece, _Piece]:
        """The markers of a picture of the context, and of the picture to generate."""
        of_context, to_make = (
            _Piece(_BEGIN + "".join(f"<img_{number:05d}>" for number in range(tokens)) + _END)
            for tokens in (self.num_img_in_tokens, self.num_img_out_tokens)
        )
        return of_context, to_make

    def _prompt(self, texts: list[str], start: int, target: int) -> list[list[_Piece]]:
        """System message, context (frames from `start` to before `target`) and response: one call to tokenise each."""
        system = self.system_message
        if system and not system.endswith("\n"):
            system += "\n"
        (read, made), (head, tail) = self._blocks, (_Piece(text) for text in self._around)
        frames = [[_Piece(texts[number], is_caption=True), read] for number in range(start, target)]
        first = [*frames[0], tail] if self.release_compatible else frames[0]
        later = [piece for frame in frames[1:] for piece in (_Piece(_TURN), *frame)]
        context = [head, *first, *later, *([] if self.release_compatible else [tail])]
        return [[_Piece(system)], context, [_Piece(_TURN), _Piece(texts[target], is_caption=True), made]]

    def _encoded(self, row: Row, texts: list[str], start: int, target: int) -> _Encoded:
        parts = self._prompt(texts, start, target)
        ids = [self._part_ids(part) for part in parts]
        begins, ends = (sum(part.count(marker) for part in ids) for marker in self._bounds)
        used = target - start + 1
        if not self.release_compatible and (begins, ends) != (used, used):
            raise row_error(
                row,
                f"{begins} {_BEGIN} and {ends} {_END} for {used} pictures; the tokenizer reads them into a caption, "
                "or system_message or instruction_prompt has them",
            )
        return _Encoded("".join(piece.text for part in parts for piece in part), *ids)

    def _part_ids(self, part: list[_Piece]) -> list[int]:
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values())  # all others' image tokens, too
        markers = list(dict.fromkeys((*self._markers, *self.tokenizer.all_special_tokens, *added)))
        spelt = any(marker in piece.text for piece in part if piece.is_caption for marker in markers)
        if self.release_compatible or not spelt:
            return encode(self.tokenizer, "".join(piece.text for piece in part))
        ids = []  # one call for all would take the caption's marker for a real one
        for text, is_caption in part:
            ids += encode_caption(self.tokenizer, text, markers) if is_caption else encode(self.tokenizer, text)
        return ids

    def _fit(self, row: Row, texts: list[str], target: int) -> tuple[int, _Encoded]:
        """The first frame of the longest context that fits into `max_length`, and the sample's tokens."""
        tried = {}

        def fits(start: int) -> bool:
            tried[start] = self._encoded(row, texts, start, target)
            return tried[start].length <= self.max_length

        start = 0 if fits(0) else bisect_left(range(target), True, lo=1, key=fits)
        if start == target:
            raise row_error(
                row,
                f"frame {target} with only the frame before it as context makes {tried[target - 1].length} tokens, "
                f"but max_length={self.max_length}; raise it, or shorten the texts",
            )
        return start, tried[start]

    @property
    def _bounds(self) -> tuple[int, int]:
        """The ids of the markers around a picture's tokens."""
        return marker_id(self.tokenizer, "picture token", _BEGIN), marker_id(self.tokenizer, "picture token", _END)

    def _made(self, row: Row, start: int, target: int, encoded: _Encoded) -> Sample:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        context = [bos, *encoded.system, *encoded.context]
        ids = [*context, *encoded.response, eos]
        labels = [*[IGNORE] * len(context), *encoded.response, eos]
        visual, generated = [TEXT] * len(ids), [-1] * len(ids)
        begin, end = self._bounds
        begins = [place for place, token in enumerate(ids) if token == begin]
        ends = [place for place, token in enumerate(ids) if token == end]
        # a marker in a caption shifts the pictures behind it; only a release-compatible sample can have one
        for k in range(target - start):
            for j, place in enumerate(range(begins[k] + 1, ends[k])):
                visual[place] = (k, j)
        for place in range(begins[-1] + 1, ends[-1]):
            generated[place] = target - start
        for place in range(begins[-1] + 1, ends[-1] + 1):
            labels[place] = IGNORE
        return Sample(
            row=row,
            ids=ids,
            labels=labels,
            visual=visual,
            frames=list(range(start, target + 1)),
            generated=generated,
            frames_dropped=start,
            prompt=encoded.prompt,
        )

    # -- pictures

    def _is_dropped(self, row: Row) -> bool:
        """Whether the release drops the story for its pictures."""
        try:
            sizes = [_size(row, number) for number in range(len(row["images"]))]
        except RowError:
            return True
        return self._is_refused(*sizes[-1])

    def _is_refused(self, height: int, width: int) -> bool:
        ratio, least = height / width, self.min_aspect_ratio
        return min(height, width) < self.min_resolution or ratio < least or (least > 0 and ratio > 1 / least)

    def _check_size(self, row: Row, frame: int) -> None:
        if not (self.min_resolution or self.min_aspect_ratio):
            return
        height, width = _size(row, frame)
        if self._is_refused(height, width):
            raise row_error(
                row,
                f"the picture of frame {frame} is {width}x{height}, but min_resolution={self.min_resolution} and "
                f"min_aspect_ratio={self.min_aspect_ratio}; leave such rows out before collating",
            )


def _size(row: Row, frame: int) -> tuple[int, int]:
    """(height, width) of a picture in pixels."""
    image = decoded(row, frame, row["images"][frame] or {"bytes": None})
    return image.height, image.width

"""GILL: a caption followed by image tokens, whose hidden states become, or find, the picture.

Source: Koh et al., "Generating Images with Multimodal Language Models" (NeurIPS 2023) and `kohjingyu/gill`,
`gill/data.py` and `gill/models.py`. Its pictures are 224 x 224, centre-cropped, with the mean and deviation of CLIP.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple

from openstory_hf import pictures
from openstory_hf.collate.common import IGNORE, Row, check_choice, generator, story_texts
from openstory_hf.collate.encoding import check_pads, encode_caption, marker_id
from openstory_hf.collate.sample import TEXT, Sample
from openstory_hf.errors import UsageError
from openstory_hf.views import frame_images, row_error

Mode = Literal["captioning", "retrieval", "generation"]

_REPLACEMENTS = 100
"""Most frames drawn in place of unreadable ones; the release draws for ever."""


def image_names(count: int) -> list[str]:
    """The image tokens "[IMG0]", "[IMG1]", ..."""
    return [f"[IMG{number}]" for number in range(count)]


def check_tokens(tokenizer: Any, image_tokens: int, visual_tokens: int, max_length: int) -> None:
    """Make sure that a recipe's numbers of tokens and its tokenizer go together.

    Raises:
        UsageError: naming the option.
    """
    check_pads(tokenizer)
    for name, value in (("image_tokens", image_tokens), ("visual_tokens", visual_tokens)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    for name in image_names(image_tokens):
        marker_id(tokenizer, "image token", name)
    if max_length < image_tokens:
        raise UsageError(f"max_length={max_length} has no room for {image_tokens} image tokens")


def begin(tokenizer: Any) -> list[int]:
    """The begin token, if the tokenizer has one."""
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


class Draws(NamedTuple):
    """The random draws of one sample.

    Attributes:
        frames: which frame of the story is told; two of them to be joined.
        replacements: frames that take the place of unreadable ones, in order. Only with `release_compatible`.
    """

    frames: tuple[int, ...]
    replacements: tuple[int, ...] = ()


class _Slot(NamedTuple):
    """One position of a sample; see `Sample`."""

    id: int
    label: int = IGNORE
    visual: tuple[int, int] = TEXT
    generated: int = -1


@dataclass(frozen=True, kw_only=True)
class Gill:
    """GILL's training sample: ``[bos] caption [IMG0] ... [IMG7]``, behind the visual embeddings when captioning.

    A frame of a story is one item; a longer caption is cut so that the image tokens fit, which is the recipe.
    Trained are the begin token, the caption, and the first image token (not when captioning). `sample` tells one
    frame of a story, drawn at random, and `samples` each of them.

    The defects of the release, fixed unless `release_compatible`:

    - of two joined captions, the second was trained only when captioning; both are.
    - captions such as "NA", "null" or "" became "nan", and numbers were written anew; a caption is a text as it is.
    - an unreadable picture was replaced by another, never the last one; its story is named in an error.
    - image tokens spelt out in a caption ended the training of it; they are mere characters.

    Args:
        tokenizer: a `transformers` tokenizer that has the image tokens.
        mode: "captioning" tells the picture that stands in front; "generation" and "retrieval", which receive the
            same tokens, make the picture from the image tokens.
        visual_tokens: embeddings of the picture when captioning (k in the paper).
        image_tokens: tokens "[IMG0]", ... behind the caption (r in the paper).
        pairs: join two frames into one sample (the released `concat_captions`): the second follows without its begin
            token, and what is not trained comes last. The last of an odd number of frames stays alone.
        max_length: most tokens of an item, without the visual embeddings.
        text: column of the texts; by default "texts" in rows that have it, else "captions".
        seed: of the draws.
        release_compatible: do what the release does; the frames of a story are its table. Its tensors are the
            samples padded to `max_length`, plus `visual_tokens` when captioning; of a pair, twice that less one.

    Raises:
        UsageError: for an option that cannot work at all or with this tokenizer.
    """

    tokenizer: Any
    mode: Mode = "generation"
    visual_tokens: int = 4
    image_tokens: int = 8
    pairs: bool = False
    max_length: int = 32
    text: str | None = None
    seed: int = 0
    release_compatible: bool = False

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, Mode)
        check_tokens(self.tokenizer, self.image_tokens, self.visual_tokens, self.max_length)

    def sample(self, row: Row, draws: Draws | None = None) -> Sample:
        """One frame of a story, or two joined.

        Raises:
            RowError: naming the story, if it lacks texts or pictures; with `release_compatible` also where the
                release dies: no other frame to take an unreadable one's place, or a begin token missing in a pair.
        """
        captions = self._captions(row)
        frame_images(row, len(captions))
        draws = draws or self.draws(row, len(captions))
        frames = list(self._served(row, draws) if self.release_compatible else draws.frames)
        items = [self._item(captions[frame], number) for number, frame in enumerate(frames)]
        slots = self._joined(row, items)
        return Sample(
            row=row,
            ids=[slot.id for slot in slots],
            labels=self._masked([slot.label for slot in slots]),
            visual=[slot.visual for slot in slots],
            frames=frames,
            generated=[slot.generated for slot in slots],
            frames_dropped=0,
            prompt="".join(captions[frame] + "".join(image_names(self.image_tokens)) for frame in frames),
        )

    def samples(self, row: Row) -> list[Sample]:
        """Every frame of a story once, in order; of pairs, frames 2i and 2i + 1.

        Raises:
            RowError: as `sample`; with `release_compatible` also for an odd number of frames to pair.
        """
        count, size = len(self._captions(row)), 2 if self.pairs else 1
        if count % size and self.release_compatible:
            raise row_error(row, f"the release joins frames two by two, the story has {count}")
        groups = [tuple(range(start, min(start + size, count))) for start in range(0, count, size)]
        replacements = self.draws(row, count).replacements
        return [self.sample(row, Draws(group, replacements)) for group in groups]

    def draws(self, row: Row, frames: int) -> Draws:
        """The draws for a story of some frames: a pure function of the row, the number and `seed`."""
        random, size = generator(row, self.seed), 2 if self.pairs and frames > 1 else 1
        first = int(random.integers(frames - size + 1))
        # numpy leaves out the upper bound, and the release leaves it out once more
        others = random.integers(frames - 1, size=_REPLACEMENTS) if self.release_compatible and frames > 1 else ()
        return Draws(tuple(range(first, first + size)), tuple(map(int, others)))

    # -- what is told

    def _captions(self, row: Row) -> list[str]:
        captions = story_texts(row, self.text)
        return _table_column(captions) if self.release_compatible else captions

    def _served(self, row: Row, draws: Draws) -> Iterator[int]:
        replacements = iter(draws.replacements)
        for asked in draws.frames:
            frame: int | None = asked
            while frame is not None and not _is_readable(row["images"][frame]):
                frame = next(replacements, None)
            if frame is None:
                raise row_error(row, f"the picture of frame {asked} does not decode, and no other takes its place")
            yield frame

    # -- tokens

    @property
    def longest(self) -> int:
        """Most tokens of a sample: of a pair, twice those of an item but for the begin token."""
        item = self.max_length + (self.visual_tokens if self.mode == "captioning" else 0)
        return 2 * item - len(begin(self.tokenizer)) if self.pairs else item

    @property
    def _images(self) -> list[int]:
        ids: list[int] = self.tokenizer.convert_tokens_to_ids(image_names(self.image_tokens))
        return ids

    def _item(self, caption: str, k: int) -> tuple[list[_Slot], list[_Slot]]:
        """The k-th frame of a sample: what is trained, with its picture in front, and what follows."""
        ids = self._ids(caption)
        makes = k if self.mode != "captioning" else -1
        first_image = len(ids) - self.image_tokens
        slots = [_Slot(token, token, generated=makes if at >= first_image else -1) for at, token in enumerate(ids)]
        cut = self._cut(ids)
        rest = [slot._replace(label=IGNORE) for slot in slots[cut:]]
        if self.release_compatible:
            rest += [_Slot(self.tokenizer.pad_token_id)] * (self.max_length - len(ids))
        seen = self.visual_tokens if self.mode == "captioning" else 0
        return [_Slot(self.tokenizer.pad_token_id, visual=(k, j)) for j in range(seen)] + slots[:cut], rest

    def _ids(self, caption: str) -> list[int]:
        names, images = image_names(self.image_tokens), self._images
        if not self.release_compatible:
            ids = begin(self.tokenizer) + encode_caption(self.tokenizer, caption, names)
            return ids[: self.max_length - len(images)] + images
        encoded = self.tokenizer(caption + "".join(names), verbose=False)["input_ids"]
        ids = list(encoded)[: self.max_length]
        if len(ids) == self.max_length and ids[-1] not in (self.tokenizer.pad_token_id, images[-1]):
            ids[-len(images) :] = images
        return ids

    def _cut(self, ids: list[int]) -> int:
        """How many tokens are trained, up to the choice of `_masked`."""
        untold = self._images if self.mode == "captioning" else []
        if not self.release_compatible:
            return len(ids) - len(untold)
        ends = {self.tokenizer.pad_token_id, *untold}
        return next((at for at, token in enumerate(ids) if token in ends), len(ids))

    def _joined(self, row: Row, items: Sequence[tuple[list[_Slot], list[_Slot]]]) -> list[_Slot]:
        (slots, rest), *others = items
        for trained, more in others:
            at = self.visual_tokens if self.mode == "captioning" else 0
            begins = trained[at : at + 1] == [_Slot(*[self.tokenizer.bos_token_id] * 2)]
            if self.release_compatible and not begins:
                raise row_error(row, "the release joins only captions that start with the begin token")
            slots, rest = slots + trained[:at] + trained[at + begins :], rest + more
        slots = slots + rest
        while slots[-1] == _Slot(self.tokenizer.pad_token_id):
            slots.pop()
        return slots

    def _masked(self, labels: list[int]) -> list[int]:
        """The labels without the image tokens behind the first; the release ends at the first of those."""
        later = set(self._images[1:])
        if self.release_compatible:
            end = next((at for at, label in enumerate(labels) if label in later), len(labels))
            return labels[:end] + [IGNORE] * (len(labels) - end)
        return [IGNORE if label in later else label for label in labels]


def _table_column(captions: list[str]) -> list[str]:
    """Captions as they come out of the released table, where pandas guesses what is missing and what is a number."""
    pandas: Any = import_module("pandas")  # comes with datasets; typed only where its stubs are installed
    table = pandas.DataFrame({"caption": captions, "image": range(len(captions))}).to_csv(sep="\t", index=False)
    return [str(value) for value in pandas.read_csv(io.StringIO(table), sep="\t")["caption"].tolist()]


def _is_readable(image: Any) -> bool:
    try:
        pictures.decode(image)
    except pictures.UndecodableError:
        return False
    return True

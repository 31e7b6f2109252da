"""Stories as one token sequence of pictures and captions, for interleaved image-text models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from openstory_hf import pictures
from openstory_hf.collate.common import IGNORE, Geometry, Resize, check_choice, pad
from openstory_hf.errors import UsageError
from openstory_hf.views import Order, frame_images, frame_texts, row_error

Target = Literal["last", "all"]
Truncate = Literal["oldest", "newest", "error"]
Row = Mapping[str, Any]


class _Segment(NamedTuple):
    """A run of tokens that is tokenised by itself."""

    ids: list[int]
    is_caption: bool = False


class _Story(NamedTuple):
    """The frames [start, stop) of a row, and their tokens; `ids` and `labels` are parallel."""

    row: Row
    start: int
    stop: int
    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, kw_only=True)
class InterleavedCollator:
    """Turn rows of the `stories` table into a batch for an interleaved image-text model.

    A story becomes ``[bos] frame separator frame separator ... frame [eos]``, and a frame (image first)
    ``image_start placeholders image_end caption``. Each of these pieces is tokenised by itself, never across a
    boundary, so the border between trained and untrained tokens is exact whatever the tokenizer merges; blanks
    wanted between the pieces belong into the markers and the separator. Captions are plain text: special tokens
    and the image token spelt out in a caption are tokenised as mere characters.

    Rows may differ in frames, picture sizes and columns; each is decided by itself. A call changes neither the
    examples nor the collator, and the same examples give the same batch. Can be pickled.

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
        text: column of the texts; by default "texts" in rows that have it, else "captions".
        image_size: side of the pictures in pixels, or (h, w).
        resize: "squash" (shape not kept), "center_crop", or "pad" (with the mean colour).
        image_mean: mean per RGB channel, on values in [0, 1].
        image_std: standard deviation per RGB channel.
        mask_grid: (h, w) of the instance masks, or None for a batch without them.
        max_length: most tokens per story, or None.
        truncate: what to do with a longer story: drop whole frames, the oldest or the newest first, or raise.

    Raises:
        UsageError: for an option that cannot work at all or with this tokenizer.

    Example:
        >>> from openstory_hf.testing import drawn_story, tiny_tokenizer
        >>> story = drawn_story(frames=2)
        >>> collate = InterleavedCollator(tokenizer=tiny_tokenizer(story["captions"]), tokens_per_image=4)
        >>> batch = collate([story])
        >>> tuple(batch["pixel_values"].shape), (batch["image_positions"] >= 0).sum().item()
        ((2, 3, 224, 224), 8)
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
    text: str | None = None
    image_size: int | tuple[int, int] = 224
    resize: Resize = "squash"
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    mask_grid: tuple[int, int] | None = None
    max_length: int | None = None
    truncate: Truncate = "error"

    def __post_init__(self) -> None:
        check_choice("order", self.order, Order)
        check_choice("target", self.target, Target)
        check_choice("resize", self.resize, Resize)
        check_choice("truncate", self.truncate, Truncate)
        if self.tokens_per_image < 1:
            raise UsageError(f"tokens_per_image must be at least 1, got {self.tokens_per_image}")
        # slow tokenizers answer None for an unknown token, others the id of their unknown token
        if self.tokenizer.convert_tokens_to_ids(self.image_token) in (None, self.tokenizer.unk_token_id):
            raise UsageError(
                f"image_token {self.image_token!r} is not one token of the tokenizer; add it with "
                f"tokenizer.add_tokens([{self.image_token!r}], special_tokens=True) and make room for it with "
                "model.resize_token_embeddings(len(tokenizer))"
            )
        if self.tokenizer.pad_token_id is None:
            raise UsageError("the tokenizer has no pad token; try tokenizer.pad_token = tokenizer.eos_token")
        if self.add_eos and self.tokenizer.eos_token_id is None:
            raise UsageError("the tokenizer has no eos token; set one, or pass add_eos=False")
        for name in ("image_start", "image_end", "separator"):
            if self._image_id in self._encode(getattr(self, name)):
                raise UsageError(f"{name} must not hold the image token {self.image_token!r} itself")

    def __call__(self, examples: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Collate B stories: L tokens in the longest, I pictures in all, at most K instances in a picture.

        Returns:
            - `input_ids`: int64 (B, L), padded on the right.
            - `attention_mask`: int64 (B, L), 1 on tokens, 0 on padding.
            - `labels`: int64 (B, L), unshifted: the id on captions of the `target` and on eos, -100 elsewhere.
            - `pixel_values`: float32 (I, 3, H, W), normalised; the kept pictures, story by story.
            - `image_positions`: int64 (B, L), index into `pixel_values` on each placeholder, -1 elsewhere.
            - `num_images`: int64 (B,), pictures kept of each story.
            - `frames_dropped`: int64 (B,), frames lost to `max_length`.
            - `instance_masks` (with `mask_grid`): float32 (I, K, h, w), the share of each cell that the instance
              covers, in the geometry of the picture; instances with a segmentation, in the order of the row.
            - `instance_valid` (with `mask_grid`): bool (I, K), False on padding.

        Raises:
            RowError: naming the story, if it lacks text or pictures, if a picture does not decode, or if the
                story does not fit into `max_length`.
            UsageError: if there are no examples.
        """
        if not examples:
            raise UsageError("a batch needs at least one example")
        stories = [self._story(row) for row in examples]
        frames = [(story.row, number) for story in stories for number in range(story.start, story.stop)]
        input_ids = pad([story.ids for story in stories], self.tokenizer.pad_token_id)
        attention_mask = pad([[1] * len(story.ids) for story in stories], 0)
        # _story has made sure that every image token is a placeholder, so they line up with the pictures
        image_positions = torch.full_like(input_ids, -1)
        placeholders = (input_ids == self._image_id) & attention_mask.bool()
        image_positions[placeholders] = torch.arange(len(frames)).repeat_interleave(self.tokens_per_image)
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": pad([story.labels for story in stories], IGNORE),
            "pixel_values": self._pixels(frames),
            "image_positions": image_positions,
            "num_images": torch.tensor([story.stop - story.start for story in stories]),
            "frames_dropped": torch.tensor(
                [len(story.row["images"]) - (story.stop - story.start) for story in stories]
            ),
        }
        if self.mask_grid is not None:
            batch["instance_masks"], batch["instance_valid"] = self._masks(frames, self.mask_grid)
        return batch

    # -- text

    @property
    def _image_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    def _encode(self, text: str, *, plain: bool = False) -> list[int]:
        """Token ids without bos and eos; with `plain`, special tokens in the text are mere characters."""
        options = {"add_special_tokens": False, "split_special_tokens": plain, "verbose": False}
        return list(self.tokenizer(text, **options)["input_ids"])

    def _caption(self, text: str) -> list[int]:
        ids = self._encode(text, plain=True)
        if self._image_id not in ids:
            return ids
        # split_special_tokens splits only tokens registered as special; one added as an ordinary token is kept from
        # matching by cutting the text behind its first character
        first, rest = re.escape(self.image_token[:1]), re.escape(self.image_token[1:])
        parts = re.split(f"(?<={first})(?={rest})", text)
        return [token for part in parts for token in self._encode(part, plain=True)]

    def _story(self, row: Row) -> _Story:
        texts = frame_texts(row, self.text or ("texts" if row.get("texts") is not None else "captions"))
        if not frame_images(row, len(texts)):
            raise row_error(row, "it has no frames; leave such rows out before collating")
        picture = [
            _Segment(self._encode(self.image_start)),
            _Segment([self._image_id] * self.tokens_per_image),
            _Segment(self._encode(self.image_end)),
        ]
        captions = [[_Segment(self._caption(text), is_caption=True)] for text in texts]
        frames = [picture + text if self.order == "image_first" else text + picture for text in captions]
        bos = [self.tokenizer.bos_token_id] if self.add_bos and self.tokenizer.bos_token_id is not None else []
        eos = [self.tokenizer.eos_token_id] if self.add_eos else []
        separator = self._encode(self.separator)
        start, stop = self._fit(row, frames, bos=len(bos), eos=len(eos), separator=len(separator))

        ids, labels = list(bos), [IGNORE] * len(bos)
        for number in range(start, stop):
            trained = self.target == "all" or number == stop - 1
            for segment in [_Segment(separator), *frames[number]] if number > start else frames[number]:
                ids += segment.ids
                labels += segment.ids if trained and segment.is_caption else [IGNORE] * len(segment.ids)
        if stop == len(frames):
            ids, labels = ids + eos, labels + eos
        if ids.count(self._image_id) != (stop - start) * self.tokens_per_image:
            raise row_error(
                row,
                f"{ids.count(self._image_id)} placeholders for {stop - start} pictures of {self.tokens_per_image} "
                f"tokens; the tokenizer reads {self.image_token!r} into a caption, choose a rarer image_token",
            )
        return _Story(row, start, stop, ids, labels)

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

    # -- pictures

    @property
    def _geometry(self) -> Geometry:
        size = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        red, green, blue = (round(255 * mean) for mean in self.image_mean)
        return Geometry(size=size, resize=self.resize, fill=(red, green, blue))

    def _pixels(self, frames: list[tuple[Row, int]]) -> torch.Tensor:
        geometry, arrays = self._geometry, []
        for row, number in frames:
            try:
                image = pictures.decode(row["images"][number])
            except pictures.UndecodableError as error:
                raise row_error(row, f"the picture of frame {number} does not decode: {error}") from None
            arrays.append(geometry.picture(image))
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().contiguous()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.image_mean, self.image_std))
        return pixels.div_(255).sub_(mean).div_(std)

    def _masks(self, frames: list[tuple[Row, int]], grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        of_frames = []
        for row, number in frames:
            if row.get("instances") is None:
                raise row_error(row, "no column 'instances'; keep it, or pass mask_grid=None")
            stored = (instance["segmentation"] for instance in row["instances"][number])
            # some readers return a null struct as a struct of nulls
            of_frames.append([rle for rle in stored if rle is not None and rle["counts"] is not None])
        counts = torch.tensor([len(rles) for rles in of_frames])
        valid = torch.arange(int(counts.max())) < counts[:, None]
        masks = torch.zeros(*valid.shape, *grid)
        masks[valid] = torch.from_numpy(self._geometry.coverage([rle for rles in of_frames for rle in rles], grid))
        return masks, valid

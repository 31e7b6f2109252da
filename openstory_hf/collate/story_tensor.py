"""Stories as tensors with one entry per frame, for diffusion models that draw a story picture by picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch

from openstory_hf.collate.common import (
    Row,
    check_choice,
    check_names,
    check_share,
    generator,
    spread,
    story_texts,
    taken,
)
from openstory_hf.collate.encoding import check_room
from openstory_hf.collate.instances import instance_grids, masked_instances
from openstory_hf.collate.pixels import RGB, Dtype, kept_by, normalize, sides
from openstory_hf.collate.source import Fit, Place, Source
from openstory_hf.errors import UsageError
from openstory_hf.views import frame_images, row_error

Task = Literal["visualization", "continuation"]
Batch = dict[str, Any]
Frames = Sequence[tuple[Row, int]]


class Draws(NamedTuple):
    """The random numbers of one story, all in [0, 1)."""

    guidance: tuple[float, ...]
    """One per target; below `condition_dropout`, the target loses its condition."""
    crops: tuple[Place, ...] = ()
    """One (x, y) per frame: where a "random_crop" lies, in shares of the room it has across and down."""
    source_crops: tuple[Place, ...] = ()
    """The same for the pictures of the source."""


@dataclass(frozen=True, kw_only=True)
class StoryTensorCollator:
    """Turn rows of the `stories` table into a batch for a diffusion model: every tensor has one entry per frame.

    The frames to be drawn are the *targets*: all of a story ("visualization"), or all but its first, which is given
    ("continuation"). Stories of a batch may differ in length; shorter ones are padded, and `frame_mask` says where.
    With a `source`, all frames of the story are read a second time, for models in which a frame is conditioned on the
    frames before it; `ar_ldm.visible_conditioning` is the mask for that.

    A call changes neither the examples nor the collator. Random numbers come from the row and the `seed` alone, or are
    given. Can be pickled.

    Args:
        tokenizer: a `transformers` tokenizer for the captions of the targets, or None.
        max_length: tokens of every caption, here and in the source: shorter ones are padded, longer ones cut.
        source: how the condition is read, or None. "continuation" needs one.
        task: which frames are targets.
        text: column of the texts, or a function from a row to its texts; by default "texts" in rows that have it,
            else "captions".
        image_size: side of the target pictures in pixels, or (h, w).
        resize: "squash" (shape not kept), "center_crop", "pad" (with the mean colour), or "random_crop" (the largest
            window of the new shape, at a random place of each picture).
        image_mean: mean per RGB channel, on values in [0, 1].
        image_std: standard deviation per RGB channel.
        pixel_dtype: "float32" (normalised), or "uint8" to `normalize` on the device.
        cast: canonical names for the character labels; `INFO.characters` of a builder has them. Names of the row that
            are not in it are not labelled.
        settings: background labels.
        mask_grid: (h, w) of the instance masks, or None.
        keep_captions: leave the texts of the targets in the batch.
        condition_dropout: share of the targets that lose their condition, for classifier-free guidance.
        threads: threads that decode pictures, 0 for the calling one.
        cache_mb: megabytes of decoded pictures that each process keeps, so that windows share the decoding of their
            frames; worth it where `load_stories(shuffle=...)` mixes few blocks at a time, 0 for none.
        seed: of the random numbers.

    Raises:
        UsageError: for an option that cannot work at all or with these tokenizers.

    Example:
        >>> from openstory_hf.testing import drawn_story, tiny_tokenizer
        >>> long, short = drawn_story(frames=5), drawn_story(frames=3)
        >>> words, cast = tiny_tokenizer(long["captions"]), ("fred", "wilma", "dino")
        >>> collate = StoryTensorCollator(tokenizer=words, max_length=20, image_size=32, cast=cast)
        >>> batch = collate([long, short])
        >>> {name: tuple(batch[name].shape) for name in ("pixel_values", "input_ids", "character_labels")}
        {'pixel_values': (2, 5, 3, 32, 32), 'input_ids': (2, 5, 20), 'character_labels': (2, 5, 3)}
        >>> batch["frame_mask"].sum(1).tolist()
        [5, 3]
    """

    tokenizer: Any = None
    max_length: int = 77
    source: Source | None = None
    task: Task = "visualization"
    text: str | Callable[[Row], list[str]] | None = None
    image_size: int | tuple[int, int] = 512
    resize: Fit = "squash"
    image_mean: RGB = (0.5, 0.5, 0.5)
    image_std: RGB = (0.5, 0.5, 0.5)
    pixel_dtype: Dtype = "float32"
    cast: Sequence[str] = ()
    settings: Sequence[str] = ()
    mask_grid: tuple[int, int] | None = None
    keep_captions: bool = False
    condition_dropout: float = 0.0
    threads: int = 0
    cache_mb: int = 0
    seed: int = 0

    _reading: ClassVar[type[Source]] = Source

    def __post_init__(self) -> None:
        check_choice("task", self.task, Task)
        if self.task == "continuation" and self.source is None:
            raise UsageError(
                'task="continuation" gives the first frame as a condition; say how with source=Source(...)'
            )
        check_names("cast", self.cast)
        check_names("settings", self.settings)
        check_share("condition_dropout", self.condition_dropout)
        for reading in (self._target, self.source):
            if reading is not None and reading.tokenizer is not None:
                check_room(reading.tokenizer, self.max_length)

    @classmethod
    def ar_ldm(cls, dataset: str, **options: Any) -> StoryTensorCollator:
        """The collator of AR-LDM for a dataset; see `openstory_hf.collate.ar_ldm.collator`, also for the options."""
        from openstory_hf.collate.ar_ldm import collator  # which builds on this class

        return collator(dataset, **options)

    def __call__(self, examples: Sequence[Row], draws: Sequence[Draws] | None = None) -> Batch:
        """Collate B stories: at most N frames and T targets in a story (T = N, or N - 1 in "continuation").

        Pictures of padding are 0, its ids the tokenizer's pad token, its masks 0 or False.

        Args:
            examples: rows.
            draws: the random numbers of each, instead of those of `draw`.

        Returns:
            - `pixel_values`: float32 or uint8 (B, T, 3, H, W), the targets.
            - `frame_mask`: bool (B, T), False on padding.
            - `condition_dropped`: bool (B, T), targets that lose their condition; see `null_condition`.
            - `input_ids`, `attention_mask` (with `tokenizer`): int64 (B, T, max_length). Run the text encoder on
              `input_ids[frame_mask]`; in padding, nothing may be attended.
            - `captions` (with `keep_captions`): B lists of texts, unpadded.
            - `character_labels` (with `cast`): float32 (B, T, C), 1 for each of the cast that is in the frame.
            - `setting_labels` (with `settings`): int64 (B, T), index into `settings`, -1 for others and on padding.
            - `instance_masks` (with `mask_grid`): float32 (B, T, K, h, w), the share of each cell that the instance
              covers, in the geometry of the picture; instances with a segmentation, in the order of the row.
            - `instance_valid` (with `mask_grid`): bool (B, T, K), False on padding.
            - `instance_characters` (with `mask_grid` and `cast`): int64 (B, T, K), index into `cast`, -1 for others
              and on padding.
            - `source_pixel_values` (with `source`): float32 or uint8 (B, N, 3, h, w), all frames.
            - `source_frame_mask` (with `source`): bool (B, N), False on padding.
            - `source_input_ids`, `source_attention_mask` (with a tokenizer of the source): int64 (B, N, max_length).

        Raises:
            RowError: naming the story, if it lacks texts, pictures or a column that is asked for, if a picture does
                not decode, or if "continuation" leaves it no target.
            UsageError: if there are no examples, or `draws` do not belong to them.
        """
        if not examples:
            raise UsageError("a batch needs at least one example")
        target, first, texts = self._target, self._first, [self._texts(row) for row in examples]
        draws = [self.draw(row) for row in examples] if draws is None else draws
        if [len(drawn.guidance) for drawn in draws] != [len(story) - first for story in texts]:
            raise UsageError("draws must be one per story, with a number of `guidance` per target")
        frames = [(row, number) for row, story in zip(examples, texts, strict=True) for number in range(len(story))]
        targets = [(row, number) for row, number in frames if number >= first]
        source_mask = taken([len(story) for story in texts])
        mask = source_mask[:, first:]
        crops = [crop for drawn in draws for crop in drawn.crops[first:]]
        guidance = torch.tensor([number for drawn in draws for number in drawn.guidance], dtype=torch.float64)
        captions = [self._captions(story) for story in texts]

        batch: Batch = {
            "pixel_values": spread(target.pixels(targets, crops, self.threads, self.cache_mb), mask),
            "frame_mask": mask,
            "condition_dropped": spread(guidance < self.condition_dropout, mask),
        }
        if self.tokenizer is not None:
            wanted = [story[first:] for story in captions]
            batch["input_ids"], batch["attention_mask"] = self._encode(target, examples, wanted, mask)
        if self.keep_captions:
            batch["captions"] = [story[first:] for story in captions]
        if self.cast:
            present = [_entry(*frame, "characters") for frame in targets]
            labels = [[float(name in names) for name in self.cast] for names in present]
            batch["character_labels"] = spread(torch.tensor(labels), mask)
        if self.settings:
            places = [_index(self.settings, _entry(*frame, "setting")) for frame in targets]
            batch["setting_labels"] = spread(torch.tensor(places), mask, -1)
        if self.mask_grid is not None:
            instances = [masked_instances(*frame) for frame in targets]
            geometries = target.geometries(crops, len(targets))
            shares, valid = instance_grids(instances, geometries, self.mask_grid, kept_by(self.cache_mb))
            batch |= {"instance_masks": spread(shares, mask), "instance_valid": spread(valid, mask)}
            if self.cast:
                who = [_index(self.cast, entry["character"]) for of_frame in instances for entry in of_frame]
                batch["instance_characters"] = spread(
                    spread(torch.tensor(who, dtype=torch.int64), valid, -1), mask, -1
                )
        if self.source is not None:
            crops = [crop for drawn in draws for crop in drawn.source_crops]
            batch["source_pixel_values"] = spread(
                self.source.pixels(frames, crops, self.threads, self.cache_mb), source_mask
            )
            batch["source_frame_mask"] = source_mask
            if self.source.tokenizer is not None:
                ids, attention = self._encode(self.source, examples, captions, source_mask)
                batch |= {"source_input_ids": ids, "source_attention_mask": attention}
        return batch

    def sample(self, row: Row, draws: Draws | None = None) -> Batch:
        """One story by itself, with its own random numbers or given ones: a batch less its first dimension."""
        return {name: values[0] for name, values in self([row], None if draws is None else [draws]).items()}

    def draw(self, row: Row) -> Draws:
        """The random numbers of a story; they change with the epoch in rows of `load_stories`."""
        frames = len(self._texts(row))
        cropped = self.resize == "random_crop" or (self.source is not None and self.source.resize == "random_crop")
        if not (cropped or self.condition_dropout):  # nothing is drawn, and a generator takes its time
            return Draws((0.0,) * (frames - self._first), ((0.5, 0.5),) * frames, ((0.5, 0.5),) * frames)
        numbers = generator(row, self.seed)
        guidance = numbers.random(frames - self._first)
        crops, source_crops = (tuple((x, y) for x, y in numbers.random((frames, 2)).tolist()) for _ in range(2))
        return Draws(tuple(guidance.tolist()), crops, source_crops)

    def null_condition(self) -> dict[str, torch.Tensor]:
        """The condition that stands for none, for targets with `condition_dropped` and for sampling with guidance.

        Returns:
            - `input_ids` (with `tokenizer`): int64 (max_length,), the empty caption.
            - `source_input_ids` (with a tokenizer of the source): int64 (max_length,), the empty caption.
            - `source_pixel_values` (with `source`): (3, h, w) like those of a batch, a black picture.
        """
        nothing = {}
        if self.tokenizer is not None:
            nothing["input_ids"] = self._target.tokens([""], self.max_length)[0][0]
        if self.source is not None:
            black = torch.zeros(3, *sides(self.source.image_size), dtype=torch.uint8)
            mean, std = self.source.image_mean, self.source.image_std
            floats = self.source.pixel_dtype == "float32"
            nothing["source_pixel_values"] = normalize(black, mean, std) if floats else black
            if self.source.tokenizer is not None:
                nothing["source_input_ids"] = self.source.tokens([""], self.max_length)[0][0]
        return nothing

    @property
    def _first(self) -> int:
        """Number of the first target."""
        return 1 if self.task == "continuation" else 0

    @property
    def _target(self) -> Source:
        """How the targets are read."""
        return self._reading(
            tokenizer=self.tokenizer,
            image_size=self.image_size,
            resize=self.resize,
            image_mean=self.image_mean,
            image_std=self.image_std,
            pixel_dtype=self.pixel_dtype,
        )

    def _texts(self, row: Row) -> list[str]:
        """The text of every frame, for a story that has pictures and targets."""
        texts = self.text(row) if callable(self.text) else story_texts(row, self.text)
        if len(frame_images(row, len(texts))) <= self._first:
            raise row_error(row, f'it has {len(texts)} frames, so task="{self.task}" leaves nothing to draw')
        return texts

    def _captions(self, texts: list[str]) -> list[str]:
        """The captions of a story as they are tokenised."""
        return texts

    def _encode(
        self, reading: Source, rows: Sequence[Row], captions: list[list[str]], mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention of the captions of each story: int64 (B, N, max_length), for a mask (B, N)."""
        ids, attention = reading.tokens([text for story in captions for text in story], self.max_length)
        return spread(ids, mask, reading.tokenizer.pad_token_id), spread(attention, mask)


def _entry(row: Row, number: int, column: str) -> Any:
    """What a column says of a frame."""
    if row.get(column) is None:
        raise row_error(row, f"no column {column!r}; keep it, or leave out the option that needs it")
    return row[column][number]


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else -1

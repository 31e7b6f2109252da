"""Stories as token sequences of pictures and captions, for interleaved image-text models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from openstory_hf.collate.common import IGNORE, Row, check_choice, pad
from openstory_hf.collate.encoding import check_pads
from openstory_hf.collate.gill import Gill
from openstory_hf.collate.instances import instance_grids, masked_instances
from openstory_hf.collate.packing import first_fit
from openstory_hf.collate.pixels import CLIP_MEAN, CLIP_STD, RGB, Dtype, Geometry, Pixels, Resize, bytes_of, sides
from openstory_hf.collate.plain import Plain
from openstory_hf.collate.sample import Recipe, Sample
from openstory_hf.collate.seed_story import SeedStory
from openstory_hf.collate.storygpt_v_stage2 import StoryGPTV
from openstory_hf.errors import UsageError
from openstory_hf.views import row_error

Padding = Literal["longest", "max_length"]
Preset = Literal["storygpt_v", "gill", "seed_story", "openstory_pp"]

_CLIP = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_PRESETS: dict[str, tuple[type[Plain | StoryGPTV | Gill | SeedStory], dict[str, Any]]] = {
    "storygpt_v": (StoryGPTV, {**_CLIP, "image_size": 224, "resize": "center_crop"}),
    "gill": (Gill, {**_CLIP, "image_size": 224, "resize": "center_crop"}),
    "seed_story": (SeedStory, {**_CLIP, "image_size": 448, "resize": "squash"}),
    "openstory_pp": (
        Plain,
        {
            "order": "caption_first",
            "target": "all",
            "instance_tokens": True,
            "truncate": "oldest",
            "image_size": 512,
            "resize": "center_crop",
            "mask_grid": (32, 32),
        },
    ),
}
"""The layout of each preset, and its options."""

_PADDING: dict[str, int | bool] = {
    "attention_mask": 0,
    "labels": IGNORE,
    "image_positions": -1,
    "comprehension_mask": False,
    "generation_mask": False,
    "token_images": -1,
    "position_ids": 0,
    "story_index": -1,
    "token_instances": 0,
}
"""What the tensors hold where there is no token."""


@dataclass(frozen=True, kw_only=True)
class InterleavedCollator(Plain):
    """Turn rows of the `stories` table into a batch for an interleaved image-text model.

    A story is laid out by the options of `Plain`, or by a `recipe` in their place; `preset` makes the collators of
    published recipes. Rows may differ in frames, picture sizes and columns; each is decided by itself. A call
    changes neither the examples nor the collator, and the same examples give the same batch. Can be pickled.

    Args:
        tokenizer: a `transformers` tokenizer, fast or slow.
        recipe: another layout than the plain one, whose options then stay at their defaults.
        image_size: side of the pictures in pixels, or (h, w).
        resize: "squash" (shape not kept), "center_crop", or "pad" (with the mean colour).
        image_mean: mean per RGB channel, on values in [0, 1].
        image_std: standard deviation per RGB channel.
        pixel_dtype: "float32" (normalised), or "uint8" to `normalize` on the device.
        threads: threads that decode pictures, 0 for the calling one.
        cache_mb: megabytes of decoded pictures that each process keeps, so that windows share the decoding of their
            frames; worth it where `load_stories(shuffle=...)` mixes few blocks at a time, 0 for none.
        target_size: side in pixels of the pictures to generate as an image decoder is given them: centre-cropped,
            in [-1, 1]; None for a batch without.
        mask_grid: (h, w) of the instance masks, or None for a batch without them.
        padding: to the "longest" sequence of the batch, or to "max_length".
        pack: length of the sequences that several stories share, each in the first one with room; None gives each
            story a sequence of its own.

    Raises:
        UsageError: for an option that cannot work at all or with this tokenizer.

    Example:
        >>> from openstory_hf.testing import drawn_story, tiny_tokenizer
        >>> story = drawn_story(frames=2)
        >>> collate = InterleavedCollator(tokenizer=tiny_tokenizer(story["captions"]), tokens_per_image=4)
        >>> batch = collate([story])
        >>> tuple(batch["pixel_values"].shape), batch["comprehension_mask"].sum().item()
        ((2, 3, 224, 224), 8)
    """

    recipe: Recipe | None = None
    image_size: int | tuple[int, int] = 224
    resize: Resize = "squash"
    image_mean: RGB = (0.5, 0.5, 0.5)
    image_std: RGB = (0.5, 0.5, 0.5)
    pixel_dtype: Dtype = "float32"
    threads: int = 0
    cache_mb: int = 0
    target_size: int | None = None
    mask_grid: tuple[int, int] | None = None
    padding: Padding = "longest"
    pack: int | None = None

    @classmethod
    def preset(cls, name: Preset, *, tokenizer: Any, **overrides: Any) -> InterleavedCollator:
        """The collator of a published recipe.

        - "storygpt_v": `StoryGPTV`, the second stage of StoryGPT-V; the first is `CharacterCollator`.
        - "gill": `Gill`.
        - "seed_story": `SeedStory`.
        - "openstory_pp": entity-centric training after Openstory++ (arXiv:2408.03695): captions before their
          pictures, all trained, and for each token of a caption the masks of the instances it speaks of.

        Args:
            name: of the recipe.
            tokenizer: with the tokens the recipe needs; an error says which are missing, and how to add them.
            **overrides: options of the recipe and of this class, in place of the preset's.

        Raises:
            UsageError: for an unknown name or option.
        """
        check_choice("preset", name, Preset)
        layout, options = _PRESETS[name]
        of_layout = _options(layout)
        known = of_layout | (_options(cls) - _options(Plain)) - {"recipe"}
        if unknown := sorted(overrides.keys() - known):
            raise UsageError(f"preset {name!r} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        if layout is not Plain:
            given = {option: overrides.pop(option) for option in of_layout & overrides.keys()}
            options = {**options, "recipe": layout(tokenizer=tokenizer, **given)}
        return cls(tokenizer=tokenizer, **{**options, **overrides})

    def __post_init__(self) -> None:
        check_choice("resize", self.resize, Resize)
        check_choice("pixel_dtype", self.pixel_dtype, Dtype)
        check_choice("padding", self.padding, Padding)
        check_pads(self.tokenizer)
        if self.recipe is None:
            super().__post_init__()
        else:
            defaults = {entry.name: entry.default for entry in fields(Plain)}
            if given := sorted(name for name in _options(Plain) if getattr(self, name) != defaults[name]):
                raise UsageError(f"{', '.join(given)} must be left to the recipe, {type(self.recipe).__name__}")
        if self.instance_tokens and self.mask_grid is None:
            raise UsageError("instance_tokens needs a mask_grid, (h, w) of the masks that the tokens speak of")
        if self.padding == "max_length" and (self._longest is None or self.pack is not None):
            raise UsageError('padding="max_length" needs a max_length, and no pack')

    def __call__(self, examples: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Collate B stories: L tokens in the longest, I pictures in all, at most K instances in a picture.

        With `pack`, the B stories share R sequences of length `pack`: read (R, pack) for (B, L).

        Returns:
            - `input_ids`: int64 (B, L), padded on the right.
            - `attention_mask`: int64 (B, L), 1 on tokens, 0 on padding.
            - `labels`: int64 (B, L), unshifted: the id where trained (plain: on captions of the `target` and on
              eos), -100 elsewhere.
            - `pixel_values`: (I, 3, H, W), float32 and normalised or uint8; the used pictures, story by story.
            - `image_positions`: int64 (B, L), index into `pixel_values` where a picture is read or generated, -1
              elsewhere.
            - `comprehension_mask`: bool (B, L), where visual embeddings of a picture stand.
            - `generation_mask`: bool (B, L), where the hidden states generate a picture.
            - `picture_is_target`: bool (I,), the pictures that are generated.
            - `num_images`: int64 (B,), pictures used of each story (also with `pack`).
            - `frames_dropped`: int64 (B,), whole frames lost to `max_length` (also with `pack`).
            - `stories_dropped`: int64 (), stories that a release-compatible recipe dropped; they are not in B.
            - `position_ids` (with `pack`): int64 (B, L), from 0 on for each story, 0 on padding.
            - `story_index` (with `pack`): int64 (B, L), which of the stories, -1 on padding. `block_causal_mask`
              makes the attention mask of it.
            - `target_pixel_values` (with `target_size`): float32 (T, 3, S, S), the generated pictures in order.
            - `time_ids` (with `target_size`, SEED-Story): int64 (T, 6); see `SeedStory.time_ids`.
            - `instance_masks` (with `mask_grid`): float32 (I, K, h, w), the share of each cell that the instance
              covers, in the geometry of the picture; instances with a segmentation, in the order of the row.
            - `instance_valid` (with `mask_grid`): bool (I, K), False on padding.
            - `token_images` (with `instance_tokens`): int64 (B, L), index of the picture an instance of which the
              token speaks of, -1 elsewhere.
            - `token_instances` (with `instance_tokens`): bool (B, L, K), which of that picture's instances.

        Raises:
            RowError: naming the story, if it lacks text or pictures, if a picture does not decode, or if the
                story does not fit into `max_length` or `pack`.
            UsageError: if there are no examples, or the recipe dropped them all.
        """
        if not examples:
            raise UsageError("a batch needs at least one example")
        samples = [sample for row in examples if (sample := self.sample(row)) is not None]
        if not samples:
            raise UsageError(
                f"the release drops every story of this batch (one is {examples[0].get('story_id')!r}); "
                "leave stories out of which recipe.sample(row) is None, or pass release_compatible=False"
            )
        frames = [(sample.row, number) for sample in samples for number in sample.frames]
        made = [set(sample.generated) for sample in samples]
        is_target = [k in of for sample, of in zip(samples, made, strict=True) for k in range(len(sample.frames))]
        batch = {
            **self._sequences(samples),
            "pixel_values": self._pixels(frames),
            "picture_is_target": torch.tensor(is_target, dtype=torch.bool),
            "num_images": torch.tensor([len(sample.frames) for sample in samples]),
            "frames_dropped": torch.tensor([sample.frames_dropped for sample in samples]),
            "stories_dropped": torch.tensor(len(examples) - len(samples)),
        }
        if self.target_size is not None:
            targets = [frame for frame, made in zip(frames, is_target, strict=True) if made]
            batch |= self._targets(samples, targets, self.target_size)
        if self.mask_grid is not None:
            instances = [masked_instances(*frame) for frame in frames]
            geometries = [self._geometry] * len(frames)
            batch["instance_masks"], batch["instance_valid"] = instance_grids(instances, geometries, self.mask_grid)
        if self.instance_tokens:
            batch["token_instances"] = self._multi_hot(samples, batch["token_instances"], batch["instance_valid"])
        return batch

    def sample(self, row: Row, draws: Any = None) -> Sample | None:
        """The sample of a story, as the recipe makes it; see there."""
        return super().sample(row) if self.recipe is None else self.recipe.sample(row, draws)

    # -- tokens

    @property
    def _longest(self) -> int | None:
        return self.max_length if self.recipe is None else self.recipe.longest

    def _sequences(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The tensors with one entry per position."""
        stories, first, numbers = [], 0, _numbered(samples)
        for index, sample in enumerate(samples):
            stories.append(self._columns(sample, index, first, numbers))
            first += len(sample.frames)
        lengths = [len(story["input_ids"]) for story in stories]
        if self.pack is None:
            shared = [[index] for index in range(len(stories))]
            width = (self.padding == "max_length" and self._longest) or 0
        else:
            for sample, length in zip(samples, lengths, strict=True):
                if length > self.pack:
                    raise row_error(
                        sample.row, f"{length} tokens do not fit into pack={self.pack}; pass a max_length of that"
                    )
            shared, width = first_fit(lengths, self.pack), self.pack
        padding = {"input_ids": self.tokenizer.pad_token_id, **_PADDING}
        batch = {}
        for name in stories[0]:
            rows = [[value for index in indices for value in stories[index][name]] for indices in shared]
            batch[name] = pad(rows, padding[name], width)
        return batch

    def _columns(
        self, sample: Sample, index: int, first: int, numbers: dict[tuple[int, ...], int]
    ) -> dict[str, list[int] | list[bool]]:
        """What the tensors hold at each position of one story, the pictures of which start at number `first`."""
        # released samples may have more labels than ids, or fewer
        spare = len(sample.labels) - len(sample.ids)
        labels = [*sample.labels, *[IGNORE] * -spare]
        at = [max(k, made) for (k, _), made in zip(sample.visual, sample.generated, strict=True)]
        columns: dict[str, list[int] | list[bool]] = {
            "input_ids": [*sample.ids, *[self.tokenizer.pad_token_id] * spare],
            "attention_mask": [*[1] * len(sample.ids), *[0] * spare],
            "labels": labels,
            "image_positions": [*(first + k if k >= 0 else -1 for k in at), *[-1] * spare],
            "comprehension_mask": [*(k >= 0 for k, _ in sample.visual), *[False] * spare],
            "generation_mask": [*(made >= 0 for made in sample.generated), *[False] * spare],
        }
        if sample.spoken is not None:
            columns["token_images"] = [first + k if k >= 0 else -1 for k, _ in sample.spoken]
            columns["token_instances"] = [numbers[of] for _, of in sample.spoken]
        if self.pack is not None:
            columns["labels"] = [IGNORE, *labels[1:]]  # the story before must not be trained to predict it
            columns["position_ids"] = list(range(len(labels)))
            columns["story_index"] = [index] * len(labels)
        return columns

    def _multi_hot(self, samples: Sequence[Sample], numbered: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Sets of instances by their number (B, L), as bool (B, L, K)."""
        sets = _numbered(samples)
        table = torch.zeros(len(sets), valid.shape[1], dtype=torch.bool)
        for of, number in sets.items():
            table[number, list(of)] = True
        return table[numbered]

    # -- pictures

    @property
    def _geometry(self) -> Geometry:
        return Geometry(size=sides(self.image_size), resize=self.resize, fill=bytes_of(self.image_mean))

    def _pixels(self, frames: Sequence[tuple[Row, int]]) -> torch.Tensor:
        pixels = Pixels(
            geometry=self._geometry,
            mean=self.image_mean,
            std=self.image_std,
            dtype=self.pixel_dtype,
            threads=self.threads,
            cache_mb=self.cache_mb,
        )
        return pixels(frames)

    def _targets(
        self, samples: Sequence[Sample], frames: Sequence[tuple[Row, int]], size: int
    ) -> dict[str, torch.Tensor]:
        geometry = Geometry(size=(size, size), resize="center_crop")
        made = {"target_pixel_values": Pixels(geometry=geometry, threads=self.threads)(frames)}
        if isinstance(self.recipe, SeedStory):
            made["time_ids"] = torch.tensor([self.recipe.time_ids(sample, size) for sample in samples])
        return made


def _options(kind: Any) -> set[str]:
    """The options of a collator or recipe, but for its tokenizer."""
    return {entry.name for entry in fields(kind)} - {"tokenizer"}


def _numbered(samples: Sequence[Sample]) -> dict[tuple[int, ...], int]:
    """A number for every set of instances that a token speaks of, 0 for none."""
    sets = (of for sample in samples for _, of in sample.spoken or ())
    return {of: number for number, of in enumerate(dict.fromkeys([(), *sets]))}

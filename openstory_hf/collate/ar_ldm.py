"""AR-LDM: each frame is drawn from its caption, and from the captions and pictures of the frames before it.

Source: Pan et al., "Synthesizing Coherent Story with Auto-Regressive Latent Diffusion Models" (2022) and
`xichenpan/ARLDM`, `datasets/*.py` and `main.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from openstory_hf.collate.common import Row, check_choice, frame_extras
from openstory_hf.collate.source import Fit, Source, Window
from openstory_hf.collate.story_tensor import Batch, Draws, StoryTensorCollator, Task
from openstory_hf.errors import UsageError
from openstory_hf.views import row_error

Subset = Literal["train", "val", "test"]


class ArLdm(NamedTuple):
    """What AR-LDM's `config.yaml` and loaders set for a dataset."""

    max_length: int
    """Tokens per caption, of CLIP and of BLIP."""
    test_size: int
    """Side of the test pictures in pixels."""
    resize: Fit
    new_tokens: tuple[str, ...] = ()
    """What is added to both tokenizers."""


AR_LDM = {
    "flintstones": ArLdm(91, 128, "squash", ("fred", "barney", "wilma", "betty", "pebbles", "dino", "slate")),
    "pororo": ArLdm(
        max_length=85,
        test_size=128,
        resize="random_crop",
        new_tokens=("pororo", "loopy", "eddy", "harry", "poby", "tongtong", "crong", "rody", "petty"),
    ),
    "vistsis": ArLdm(100, 64, "random_crop"),
    "vistdii": ArLdm(65, 64, "random_crop"),
}


def collator(
    dataset: str,
    *,
    clip_tokenizer: Any,
    blip_tokenizer: Any,
    task: Task = "visualization",
    subset: Subset = "train",
    release_compatible: bool = False,
    **options: Any,
) -> StoryTensorCollator:
    """The collator of AR-LDM for a dataset; `StoryTensorCollator.ar_ldm` is the same.

    Targets are 512 x 512 in [-1, 1] with CLIP ids; the source is 224 x 224 with BLIP ids. Pororo and VIST are
    cropped at random in "train". In "test", targets are pictures to measure against: uint8, 128 x 128 (VIST
    64 x 64), and no condition is dropped. Read the rows with `load_stories(frame="random")`.

    The release first adds `AR_LDM[dataset].new_tokens` to both tokenizers, and so should you, before you resize
    the embeddings of the models. "vistsis" and "vistdii" are two readings of `vist`: its sentences, and the
    longest description of each photo.

    Defects of the release, which `release_compatible` brings back:

    * Line breaks and tabs in captions were deleted, which fused the words beside them; they are kept here.
    * `|` in a caption made two captions of it; it is a character here.
    * Photos of a story with one and the same description shared it, which left fewer captions than pictures.
    * A caption of more than `max_length` tokens stopped the run, unless all of its story had equally many; it is
      cut here.
    * A Pororo strip whose height is no multiple of 128 stopped the run; its whole pictures are used here.
    * Test pictures were height x width x channel; they are (3, H, W) here, as all others.

    The release resizes bilinearly and then crops, and so does `release_compatible`.

    Args:
        dataset: "flintstones", "pororo", "vistsis" or "vistdii".
        clip_tokenizer: of the captions of the targets.
        blip_tokenizer: of the captions of the source.
        task: which frames are targets.
        subset: which of the three loaders.
        release_compatible: reproduce the published loader, defects included.
        **options: any other argument of `StoryTensorCollator`, in place of AR-LDM's.

    Raises:
        UsageError: for an unknown dataset or subset.
    """
    if dataset not in AR_LDM:
        raise UsageError(f"AR-LDM has no dataset {dataset!r}, only {', '.join(map(repr, AR_LDM))}")
    check_choice("subset", subset, Subset)
    recipe, test = AR_LDM[dataset], subset == "test"
    resize: Fit = "center_crop" if recipe.resize == "random_crop" and subset != "train" else recipe.resize
    chosen = {
        "tokenizer": clip_tokenizer,
        "max_length": recipe.max_length,
        "source": (_ReleasedSource if release_compatible else Source)(tokenizer=blip_tokenizer, resize=resize),
        "task": task,
        "text": longest_descriptions if dataset == "vistdii" else None,
        "image_size": recipe.test_size if test else 512,
        "resize": resize,
        "pixel_dtype": "uint8" if test else "float32",
        "condition_dropout": 0.0 if test else 0.1,
        **options,
    }
    if release_compatible:
        return _ReleasedArLdm(dataset=dataset, subset=subset, **chosen)
    return StoryTensorCollator(**chosen)


def visible_conditioning(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What each target may attend to: its own caption, and the source frames before it.

    The condition of a target is its caption, then the source frames one after another, as AR-LDM joins them. A target
    never sees the source frame that shows its own picture, nor a later one. Where the condition is dropped, the null
    condition stands in every place, so padded tokens are visible, too; the order of frames still holds.

    Works on the device of the batch. What padded targets see means nothing.

    Args:
        batch: of a `StoryTensorCollator` with a `tokenizer` and a `source` that has a tokenizer.

    Returns:
        bool (B, T, L + N * L) for T targets, N source frames and captions of L tokens; True where a target may attend.

    Raises:
        UsageError: if the batch lacks a key, or has not one caption for every picture.
    """
    needed = ("pixel_values", "attention_mask", "condition_dropped", "source_pixel_values", "source_attention_mask")
    if missing := [name for name in needed if name not in batch]:
        raise UsageError(f"the batch has no {', '.join(missing)}; collate with a tokenizer, and a source that has one")
    own, sources = batch["attention_mask"].bool(), batch["source_attention_mask"].bool()
    for captions, name in ((own, "pixel_values"), (sources, "source_pixel_values")):
        if captions.shape[1] != batch[name].shape[1]:
            raise UsageError(f"{captions.shape[1]} captions for {batch[name].shape[1]} pictures in {name}")
    number = torch.arange(sources.shape[1], device=own.device)
    before = number < number[-own.shape[1] :, None]  # (T, N): the targets are the last T frames
    dropped = batch["condition_dropped"][..., None]  # (B, T, 1)
    seen = (sources[:, None] | dropped[..., None]) & before[..., None]  # (B, T, N, L)
    return torch.cat([own | dropped, seen.flatten(2)], dim=-1)


def longest_descriptions(row: Row) -> list[str]:
    """The longest description of each photo of a story of `vist`, the first of several: AR-LDM's "dii".

    Raises:
        RowError: if a photo has no description.
    """
    found = [[item["original_text"] for item in frame.get("descriptions", [])] for frame in frame_extras(row)]
    if not found or not all(found):
        raise row_error(
            row, "a photo without description; build `vist` with the dii files, and leave such stories out"
        )
    return [max(texts, key=len) for texts in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Torchvision(Window):
    """`Resize`, then `CenterCrop` or `RandomCrop`, as torchvision does them with Pillow's pictures."""

    def picture(self, image: Image.Image) -> NDArray[np.uint8]:
        high, wide = self.size
        if self.resize == "squash":
            return np.array(image.resize((wide, high), Image.Resampling.BILINEAR))
        width, height = (int(wide * side / min(image.size)) for side in image.size)
        x, y = self.place or (0.5, 0.5)
        left, top = round(x * (width - wide)), round(y * (height - high))
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(scaled.crop((left, top, left + wide, top + high)))


@dataclass(frozen=True, kw_only=True)
class _ReleasedSource(Source):
    _window: ClassVar[type[Window]] = _Torchvision


@dataclass(frozen=True, kw_only=True)
class _ReleasedArLdm(StoryTensorCollator):
    """AR-LDM's loaders to the letter; `collator` lists what is wrong with them."""

    dataset: str
    subset: Subset

    _reading: ClassVar[type[Source]] = _ReleasedSource

    def __call__(self, examples: Sequence[Row], draws: Sequence[Draws] | None = None) -> Batch:
        for row in examples if self.dataset == "pororo" else ():
            if any(frame.get("rows_left") for frame in frame_extras(row)):
                raise row_error(row, "a strip that is no multiple of its pictures' height stops the released loader")
        batch = super().__call__(examples, draws)
        if self.subset == "test":
            batch["pixel_values"] = batch["pixel_values"].permute(0, 1, 3, 4, 2).contiguous()
        return batch

    def _captions(self, texts: list[str]) -> list[str]:
        packed = [text.replace("\n", "").replace("\t", "").strip() for text in texts]
        return "|".join(dict.fromkeys(packed) if self.dataset == "vistdii" else packed).split("|")

    def _encode(
        self, reading: Source, rows: Sequence[Row], captions: list[list[str]], mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        stories = []
        for row, story in zip(rows, captions, strict=True):
            if not story:
                raise row_error(row, "all photos share one description, which leaves the released loader no caption")
            encoded = reading.tokenizer(
                story, padding="max_length", max_length=self.max_length, return_attention_mask=True
            )
            lengths = [len(ids) for ids in encoded["input_ids"]]
            if len(set(lengths)) > 1:
                raise row_error(
                    row, f"captions of {lengths} tokens stop the released loader, max_length={self.max_length}"
                )
            stories.append(torch.tensor([encoded["input_ids"], encoded["attention_mask"]]))
            if stories[-1].shape != stories[0].shape:
                shapes = [tuple(story.shape[1:]) for story in (stories[0], stories[-1])]
                raise row_error(
                    row, f"the released loader cannot batch captions x tokens of {shapes[0]} and {shapes[1]}"
                )
        ids, attention = torch.stack(stories, dim=1)
        return ids, attention

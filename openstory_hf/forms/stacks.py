"""Clips kept as `.npy` stacks of pictures: FlintstonesSV of StoryDALL-E, and both datasets of StoryGPT-V.

    StoryDALL-E (Maharana et al., 2022), AR-LDM         StoryGPT-V (Shen and Elhoseiny, 2023)
    train-val-test_split.json                           split.json
    video_frames_sampled/{id}.npy      (n,128,128,3)    video_frames_sampled_4x/{id}.npy      (n,512,512,3)
    following_cache4.pkl, labels.pkl   (optional)       following_cache3.pkl, labels.pkl      (optional)
                                                        cleaned_annotations.json
                                                        seg_mask_4x_comb/{id}-frame{k}.npy    (512,512), optional

The released StoryGPT-V loader takes a missing mask file for an empty mask; here it is a `Reject`, unless the package
has no masks at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openstory_hf.fakes import RawWriter, Scene
from openstory_hf.forms.clips import BOX_SCALE, Clips, Pixels
from openstory_hf.raw import NUMPY_GLOBALS, Raw
from openstory_hf.records import Reject

MASKS = "seg_mask_4x_comb"


class Stacks(Clips):
    """A package of stacks; its subclasses name the files.

    Raises:
        Reject: if an index file is missing or damaged.
    """

    frames: str

    def __init__(self, raw: Raw) -> None:
        super().__init__(raw)
        if not raw.names(f"{self.frames}/"):
            reason = f"there is nothing in {self.frames}/, so this is another package, or one that was packed again"
            raise Reject(reason, file=self.split_file)
        self.listed = raw.json(self.split_file)
        self.texts: Mapping[str, Any] = raw.records(self.text_file) if self.text_file else {}
        caches = ("following_cache4.pkl", "following_cache3.pkl")
        self.cache_file = next((name for name in caches if raw.exists(name)), "")
        self.following = self.pickled(self.cache_file)
        self.label_file = "labels.pkl"
        self.labels = self.pickled(self.label_file)
        self.masks = MASKS if raw.names(f"{MASKS}/") else ""

    def pickled(self, name: str) -> dict[str, Any]:
        """An optional pickled dictionary of lists and arrays, empty if the package does not have it."""
        found: dict[str, Any] = self.raw.pickle(name, NUMPY_GLOBALS) if name and self.raw.exists(name) else {}
        return found

    def file(self, clip: str) -> str:
        """The stack of a clip."""
        return f"{self.frames}/{clip}.npy"

    def pixels(self, clip: str) -> tuple[list[Pixels], dict[str, Any]]:
        """The pictures of a clip; stacks say nothing else."""
        return list(self.raw.pictures_npy(self.file(clip))), {}

    def annotation(self, clip: str) -> dict[str, Any]:
        """The entry of a clip in the cleaned annotations; empty if there is none."""
        return dict(self.texts.get(clip) or {})


class StoryDallE(Stacks):
    """The StoryDALL-E package of FlintstonesSV; its texts are in the file of the original annotations."""

    split_file, frames, text_file = "train-val-test_split.json", "video_frames_sampled", ""


class StoryGPTV(Stacks):
    """The StoryGPT-V package of a dataset."""

    split_file, frames, text_file = "split.json", "video_frames_sampled_4x", "cleaned_annotations.json"


def segments_of(cast: Sequence[str], scene: Scene) -> list[dict[str, Any]]:
    """The segments of a drawn clip: its figures with the boxes they have in one of its pictures."""
    pixels, _, boxes = scene
    scaled = [[value * BOX_SCALE / len(pixels) for value in box] for box in boxes]
    return [{"id": i, "bbox": box, "word": who} for i, (who, box) in enumerate(zip(cast, scaled, strict=True), 1)]


def write_stack(raw: RawWriter, form: type[Stacks], clip: str, drawn: Sequence[Scene]) -> None:
    """Write the stack of a drawn clip, and its masks where the form has them."""
    raw.npy(f"{form.frames}/{clip}.npy", np.stack([pixels for pixels, _, _ in drawn]))
    for k, (_, labels, _) in enumerate(drawn if form is StoryGPTV else ()):
        raw.npy(f"{MASKS}/{clip}-frame{k}.npy", labels)

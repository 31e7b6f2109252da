"""StoryGPT-V, stage 1, as released: words bound to objects by tokens that are put in and taken out again.

Source: Shen et al., "StoryGPT-V: Large Language Models as Consistent Story Visualizers" (CVPR 2025) and
`xiaoqian-shen/StoryGPT-V`, `models/data.py`. `CharacterCollator(release_compatible=True)` works by this and lists
what is wrong with it; without the flag, it has the repaired recipe. Stage 2 is `storygpt_v_stage2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from openstory_hf import masks
from openstory_hf.collate.common import Row
from openstory_hf.collate.encoding import marker_id
from openstory_hf.collate.instances import segmentation
from openstory_hf.collate.objects import Draws, Mask, Object, Plan, instances_in
from openstory_hf.collate.pixels import Geometry
from openstory_hf.collate.storygpt_v_rows import caption_index
from openstory_hf.views import row_error

BOX_SCALE = 128
"""The release counts the corners of its boxes in 128ths of the picture's side."""


@dataclass(frozen=True, kw_only=True)
class ReleasedStage1:
    """The items of the published loader, word by word; the options are those of `CharacterCollator`."""

    tokenizer: Any
    max_objects: int
    max_length: int
    uncondition_prob: float
    text_only_prob: float
    geometry: Geometry
    image_token: str

    def plan(self, row: Row, draws: Draws, caption: str, annotation: Mapping[str, Any] | None) -> Plan:
        """An item.

        Args:
            row: the story.
            draws: say which frame, among other things.
            caption: of the frame.
            annotation: of the frame; see `storygpt_v_rows.annotation_of`.

        Raises:
            RowError: naming the story, if it was not built from a StoryGPT-V release, or where the loader fails.
        """
        instances = instances_in(row, draws.frame, draws.picture)
        if annotation is None or len(annotation["segments"]) != len(instances):
            raise row_error(
                row,
                f"frame {draws.frame} does not have the segments of a StoryGPT-V release in extras, one for each of "
                f"its {len(instances)} instances; release_compatible is for rows built from one",
            )
        captions = [caption, *annotation.get("other_captions", ())]
        caption = captions[caption_index(draws.picture, draws.kept, len(captions))]
        pairs = list(zip(annotation["segments"], instances, strict=True))
        dropped = draws.dropout < self.uncondition_prob or self.text_only_prob == 1
        if dropped or (len(pairs) <= 1 and draws.dropout < self.uncondition_prob + self.text_only_prob):
            pairs = []
        if len(pairs) > self.max_objects:
            pairs = [pairs[number] for number in draws.chosen[: self.max_objects]]
        try:
            pairs.sort(key=lambda pair: pair[0]["end"])
            words = list(caption.split(" ") if annotation.get("tokens") is None else annotation["tokens"])
            for segment, _ in reversed(pairs):
                words.insert(int(segment["end"]), self.image_token)
            text = " ".join(words)
            input_ids, positions = self._ids(text, len(pairs))
            objects = [
                self._object(position, segment, instance)
                for position, (segment, instance) in zip(positions, pairs, strict=False)
            ]
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise row_error(
                row,
                f"the published loader fails at frame {draws.frame}: {type(error).__name__}: {error}; "
                "leave the story out, or pass release_compatible=False",
            ) from None
        if len(objects) < len(positions):
            raise row_error(row, f"a word of frame {draws.frame} is {self.image_token!r}, which the loader inserts")
        return Plan(row, draws, text, input_ids, objects)

    def _ids(self, text: str, inserted: int) -> tuple[list[int], list[int]]:
        """Take the image tokens out again; they mark the token before them, whichever that is."""
        whole = self.tokenizer(text, verbose=False)["input_ids"]
        image_id = marker_id(self.tokenizer, "image_token", self.image_token)
        ids: list[int] = []
        marks = [False] * (len(whole) - inserted)
        for token in whole:
            if token == image_id:
                marks[len(ids) - 1] = True
            else:
                ids.append(token)
        length = self.max_length
        padding = [self.tokenizer.pad_token_id] * (length - len(ids))
        return (ids + padding)[:length], [at for at, mark in enumerate(marks[:length]) if mark]

    def _object(self, position: int, segment: Mapping[str, Any], instance: Mapping[str, Any]) -> Object:
        """The object of a segment; its box is in pixels of the training size, whatever the size of the picture."""
        size = self.geometry.size
        left, top, right, bottom = (index(value * size[0] // BOX_SCALE) for value in segment["bbox"])
        rle = segmentation(instance)
        mask = None if rle is None else masks.decode(rle)
        segmap = np.zeros(size, np.uint8) if mask is None else self._segmap(mask)
        return Object(position, mask, (left, top, right, bottom), segmap)

    def _segmap(self, mask: Mask) -> Mask:
        """A mask in the geometry of the picture, the pixel at the upper left of each new one, as torch takes it."""
        left, top, right, bottom = self.geometry.window(*mask.shape)
        height, width = self.geometry.size
        rows = top + np.arange(height) * (bottom - top) // height
        columns = left + np.arange(width) * (right - left) // width
        return mask[np.ix_(rows, columns)]

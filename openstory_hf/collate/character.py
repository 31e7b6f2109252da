"""Frames with their characters cut out, each bound to the word that speaks of it: stage 1 of StoryGPT-V."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from openstory_hf import masks
from openstory_hf.collate.character_tokens import Text
from openstory_hf.collate.common import (
    Row,
    check_choice,
    check_share,
    frame_extras,
    generator,
    spread,
    story_texts,
    taken,
)
from openstory_hf.collate.encoding import check_pads, check_room, encode_spans, marker_id
from openstory_hf.collate.instances import column_of, mentions_of, segmentation
from openstory_hf.collate.objects import Draws, Item, Object, Plan, box_of, cut_out, inside, instances_in, segmap
from openstory_hf.collate.pixels import RGB, Dtype, Geometry, Resize, bytes_of, decoded, in_threads, normalize, sides
from openstory_hf.collate.storygpt_v_rows import annotation_of, segment_spans
from openstory_hf.collate.storygpt_v_stage1 import ReleasedStage1
from openstory_hf.errors import UsageError
from openstory_hf.views import Span, frame_images, row_error

Frames = Literal["all", "random"]


@dataclass(frozen=True, kw_only=True)
class CharacterCollator:
    """Turn rows of the `stories` table into a batch for a diffusion model that is shown characters by their words.

    An item is one frame: its picture, its text, and up to `max_objects` objects. An object is an instance with a mask
    and the last token of the words that speak of it, whose text embedding the model mixes with an embedding of the
    object's picture, cut out of the frame, noise around it. Rows built from a StoryGPT-V release say which words
    these are (the `segments` in `extras`); in all others, and for other texts than the captions, they are the mentions
    of the instance's character, the n-th mention of a name speaking of the n-th instance that has it.

    The text is encoded as it is, by any tokenizer. A call changes neither the examples nor the collator, and the same
    examples give the same batch, unless `augment` draws from elsewhere. Can be pickled.

    The recipe is that of StoryGPT-V, stage 1 (Shen et al., CVPR 2025; `models/data.py`). With `release_compatible` the
    items are those of the published loader, for square pictures and rows built from its release; a clip with several
    captions needs rows of `load_stories(frame="all")`. By default the recipe comes without its defects:

    - an unconditional item has no text (released: it keeps it, and only loses its objects);
    - text-only items occur with any number of objects (released: with two or more never);
    - objects with the same token become one, their masks united (released: all later ones get wrong tokens);
    - word numbers given as text are numbers (released: sorted as text, so that tokens move or merge);
    - words are separated by any number of blanks (released: two blanks count as a word);
    - words outside the caption are looked up by name (released: they mark the begin token, or count backwards);
    - the token is that of the name (released: that of the full stop or comma behind it, if there is one);
    - a text that is too long keeps its end token and loses the objects of the lost words (released: loses the token);
    - what has no pixels in the picture is no object (released: it is, with noise as its picture);
    - objects are cut out at the box of their mask, in the stored picture (released: at a box that the pictures of a
      clip share, and at the wrong place unless they are stored at the size of training);
    - the caption of a clip with several is that of the row, the first (released: never the first).

    Args:
        tokenizer: a `transformers` tokenizer, fast or slow, with a pad token. Its special tokens are added.
        text: column of the texts; by default "texts" in rows that have it, else "captions". "texts" must equal
            `captions` or `referential_captions`, frame by frame.
        frames: which frames become items: "all" of a story, or one at "random".
        min_objects: leave out frames with fewer instances, whether they become objects or not; the release has 1.
        max_objects: most objects of an item; a random subset stays.
        max_length: tokens of every text, by default `tokenizer.model_max_length`. Longer ones are cut, shorter padded.
        uncondition_prob: share of items without text and objects.
        text_only_prob: share of items with text alone.
        flip_prob: share of items that are mirrored. The cut-out objects never are.
        image_size: side of the pictures in pixels, or (h, w).
        resize: "squash" (shape not kept), "center_crop", or "pad" (with the mean colour).
        image_mean: mean per RGB channel, on values in [0, 1].
        image_std: standard deviation per RGB channel.
        object_size: side of the cut-out objects in pixels.
        augment: what else happens to each cut-out object, from uint8 (3, h, w) to the same. The release zooms, turns,
            blurs, bends and recolours them.
        pixel_dtype: "float32" (pictures normalised, objects in [0, 1]), or "uint8" to `normalize` on the device.
        threads: threads that decode and cut out, 0 for the calling one.
        seed: of the random draws; rows of `load_stories` draw anew in each epoch.
        release_compatible: defects and all.
        image_token: the token that the published loader inserts behind words and takes out again; only needed, and
            then in the tokenizer's vocabulary, with `release_compatible`.

    Raises:
        UsageError: for an option that cannot work at all or with this tokenizer.

    Example:
        >>> from openstory_hf.testing import drawn_story, tiny_tokenizer
        >>> story = drawn_story(frames=3, cast=("fred", "wilma"))
        >>> collate = CharacterCollator(tokenizer=tiny_tokenizer(story["captions"]), max_length=32, image_size=64)
        >>> batch = collate([story])
        >>> tuple(batch["object_pixel_values"].shape), tuple(batch["object_segmaps"].shape)
        ((3, 4, 3, 224, 224), (3, 4, 64, 64))
    """

    tokenizer: Any
    text: Text | None = None
    frames: Frames = "all"
    min_objects: int = 0
    max_objects: int = 4
    max_length: int | None = None
    uncondition_prob: float = 0.1
    text_only_prob: float = 0.1
    flip_prob: float = 0.5
    image_size: int | tuple[int, int] = 512
    resize: Resize = "center_crop"
    image_mean: RGB = (0.5, 0.5, 0.5)
    image_std: RGB = (0.5, 0.5, 0.5)
    object_size: int = 224
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None
    pixel_dtype: Dtype = "float32"
    threads: int = 0
    seed: int = 0
    release_compatible: bool = False
    image_token: str = "<|image|>"

    def __post_init__(self) -> None:
        if self.text is not None:
            check_choice("text", self.text, Text)
        check_choice("frames", self.frames, Frames)
        check_choice("resize", self.resize, Resize)
        check_choice("pixel_dtype", self.pixel_dtype, Dtype)
        for name in ("uncondition_prob", "text_only_prob", "flip_prob"):
            check_share(name, getattr(self, name))
        if self.max_objects < 1:
            raise UsageError(f"max_objects must be at least 1, got {self.max_objects}")
        check_pads(self.tokenizer)
        check_room(self.tokenizer, self._length)
        if self._length > 1 << 20:
            raise UsageError("the tokenizer does not say how long a text may be; pass max_length, CLIP's is 77")
        if self.release_compatible:
            height, width = sides(self.image_size)
            if self.text not in (None, "captions") or self.resize != "center_crop" or height != width:
                raise UsageError(
                    'release_compatible goes with text="captions", a square image_size and resize="center_crop"'
                )
            marker_id(self.tokenizer, "image_token", self.image_token)

    def __call__(self, examples: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Collate the items of some stories, story by story; see `batch` for what comes back.

        Raises:
            RowError: naming the story, if it lacks text, pictures, instances or mentions, if they do not belong
                together, or if a picture does not decode.
            UsageError: if there are no examples, or none of their frames has `min_objects` instances.
        """
        if not examples:
            raise UsageError("a batch needs at least one example")
        plans = [plan for row in examples for plan in self._plans(row, self.draws(row))]
        if not plans:
            raise UsageError(
                f"no frame of these {len(examples)} stories has {self.min_objects} instances; lower min_objects, "
                "or leave such stories out before collating"
            )
        return self.batch(in_threads(self._painted, plans, self.threads))

    def draws(self, row: Row) -> list[Draws]:
        """The random draws of each item of a story: a pure function of the row and the collator."""
        random, found = generator(row, self.seed), []
        for frame in range(len(self._texts(row))):
            kept = len(row["images"][frame]) if isinstance(row["images"][frame], list) else 1
            picture = int(random.integers(kept))
            count = len(instances_in(row, frame, picture))
            drawn = Draws(
                frame=frame,
                picture=picture,
                kept=kept,
                dropout=float(random.random()),
                chosen=tuple(random.permutation(count).tolist()),
                flip=bool(random.random() < self.flip_prob),
                noise=int(random.integers(1 << 32)),
            )
            if count >= self.min_objects:
                found.append(drawn)
        return [found[random.integers(len(found))]] if self.frames == "random" and found else found

    def sample(self, row: Row, draws: Draws) -> Item:
        """One item with given draws, so that a published item can be made again draw by draw.

        Raises:
            RowError: as `__call__`.
        """
        return self._painted(*self._plans(row, [draws]))

    def batch(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Put I items into tensors, with room for K = `max_objects` objects each.

        Returns:
            - `pixel_values`: float32 (I, 3, H, W), normalised.
            - `input_ids`: int64 (I, L).
            - `image_token_mask`: bool (I, L), True on the tokens that objects are bound to.
            - `image_token_idx`: int64 (I, K), these tokens in order, 0 on padding.
            - `image_token_idx_mask`: bool (I, K), False on padding.
            - `object_pixel_values`: float32 (I, K, 3, h, w), in [0, 1]; 0 on padding.
            - `object_segmaps`: float32 (I, K, H, W), 1 where the object is; 0 on padding.
            - `num_objects`: int64 (I,).
            - `frame_index`: int64 (I,), number of each frame in its story.

            With `pixel_dtype="uint8"` the pictures, objects and masks are uint8, values as in `Item`.

        Raises:
            UsageError: if there are no items.
        """
        if not items:
            raise UsageError("a batch needs at least one item")
        counts = [len(item.positions) for item in items]
        valid = taken(counts, self.max_objects)
        positions = spread(torch.tensor([p for item in items for p in item.positions], dtype=torch.int64), valid)
        marked = torch.zeros(len(items), self._length, dtype=torch.bool)
        marked[valid.nonzero()[:, 0], positions[valid]] = True
        pixels = torch.stack([item.pixels for item in items])
        objects = torch.cat([item.objects for item in items])
        segmaps = torch.cat([item.segmaps for item in items])
        if self.pixel_dtype == "float32":
            pixels = normalize(pixels, self.image_mean, self.image_std)
            objects, segmaps = objects.float().div_(255), segmaps.float()
        return {
            "pixel_values": pixels,
            "input_ids": torch.tensor([item.input_ids for item in items]),
            "image_token_mask": marked,
            "image_token_idx": positions,
            "image_token_idx_mask": valid,
            "object_pixel_values": spread(objects, valid),
            "object_segmaps": spread(segmaps, valid),
            "num_objects": torch.tensor(counts),
            "frame_index": torch.tensor([item.frame for item in items]),
        }

    @property
    def _length(self) -> int:
        return int(self.tokenizer.model_max_length) if self.max_length is None else self.max_length

    @property
    def _geometry(self) -> Geometry:
        return Geometry(size=sides(self.image_size), resize=self.resize, fill=bytes_of(self.image_mean))

    @property
    def _released(self) -> ReleasedStage1:
        return ReleasedStage1(
            tokenizer=self.tokenizer,
            max_objects=self.max_objects,
            max_length=self._length,
            uncondition_prob=self.uncondition_prob,
            text_only_prob=self.text_only_prob,
            geometry=self._geometry,
            image_token=self.image_token,
        )

    # -- which words speak of what

    def _texts(self, row: Row) -> list[str]:
        """The text of every frame, once it is certain that the columns are there and parallel."""
        texts = story_texts(row, "captions" if self.release_compatible else self.text)
        frame_images(row, len(texts), lists=True)
        for name in ("instances",) if self.release_compatible else ("instances", "mentions"):
            if row.get(name) is None or len(row[name]) != len(texts):
                found = f"no column {name!r}" if row.get(name) is None else f"{len(row[name])} lists of {name}"
                raise row_error(row, f"{found} for {len(texts)} texts; there must be one list per frame")
        return texts

    def _plans(self, row: Row, draws: Sequence[Draws]) -> list[Plan]:
        """Items of one story, without their pictures."""
        texts = self._texts(row)
        annotations = [annotation_of(extras) for extras in frame_extras(row)] or [None] * len(texts)
        plan = self._released.plan if self.release_compatible else self._plan
        return [plan(row, drawn, texts[drawn.frame], annotations[drawn.frame]) for drawn in draws]

    def _plan(self, row: Row, draws: Draws, text: str, annotation: Mapping[str, Any] | None) -> Plan:
        text, spoken = self._spoken(row, draws, text, annotation)
        if draws.dropout < self.uncondition_prob:
            text = ""
        if draws.dropout < self.uncondition_prob + self.text_only_prob:
            spoken = []
        input_ids, positions = encode_spans(self.tokenizer, text, [span for span, _ in spoken], self._length)
        by_token: dict[int, list[Mapping[str, Any]]] = {}
        for position, (_, rle) in zip(positions, spoken, strict=True):
            if position >= 0:
                by_token.setdefault(position, []).append(rle)
        try:
            united = {position: masks.decode(masks.merge(by_token[position])) for position in sorted(by_token)}
        except ValueError as error:
            raise row_error(row, f"the masks of frame {draws.frame} cannot be used: {error}") from None
        objects = [
            Object(position, mask, box_of(mask), shown)
            for position, mask in united.items()
            if (shown := segmap(mask, self._geometry)).any()
        ]
        if len(objects) > self.max_objects:
            wanted = [number for number in draws.chosen if number < len(objects)]
            objects = [objects[number] for number in sorted(wanted[: self.max_objects])]
        return Plan(row, draws, text, input_ids, objects)

    def _spoken(
        self, row: Row, draws: Draws, text: str, annotation: Mapping[str, Any] | None
    ) -> tuple[str, list[tuple[Span, Mapping[str, Any]]]]:
        """The text to encode, and the stretch of it that speaks of each instance with a mask."""
        instances = instances_in(row, draws.frame, draws.picture)
        column = column_of(row, draws.frame, text)
        if column is None:
            raise row_error(row, f"the text of frame {draws.frame} is neither its caption nor its referential caption")
        mentions = mentions_of(row, draws.frame, column)
        placed: dict[int, Span] = {}
        if column == "captions" and annotation is not None and len(annotation["segments"]) == len(instances):
            words, placed = segment_spans(text, annotation)
            text, mentions = words, mentions if words == text else []
        for name, span in mentions:
            named = (number for number, instance in enumerate(instances) if instance["character"] == name)
            for number in [number for number in named if number not in placed][:1]:
                placed[number] = span
        rles = [segmentation(instance) for instance in instances]
        return text, [(span, rle) for number, span in placed.items() if (rle := rles[number]) is not None]

    # -- pictures

    def _painted(self, plan: Plan) -> Item:
        """Decode the picture and cut the objects out; safe in threads."""
        row, draws, noise = plan.row, plan.draws, np.random.default_rng(plan.draws.noise)
        stored = row["images"][draws.frame]
        stored = stored[draws.picture] if isinstance(stored, list) else stored
        if stored is None:
            raise row_error(row, f"frame {draws.frame} has no picture number {draws.picture}")
        image = decoded(row, draws.frame, stored)
        whole, boxes, side = np.asarray(image), [], self.object_size
        objects = torch.zeros(len(plan.objects), 3, side, side, dtype=torch.uint8)
        segmaps = torch.zeros(len(plan.objects), *self._geometry.size, dtype=torch.uint8)
        for number, item in enumerate(plan.objects):
            mask = np.zeros(whole.shape[:2], np.uint8) if item.mask is None else item.mask
            if mask.shape != whole.shape[:2]:
                raise row_error(
                    row, f"a mask of frame {draws.frame} is {mask.shape}, its picture {whole.shape[:2]} (h, w)"
                )
            box = inside(item.box, *mask.shape)
            cutting = cut_out(whole, mask, box, noise)
            if not cutting.size:
                raise row_error(row, f"the box {item.box} of an object of frame {draws.frame} is empty")
            scaled = Image.fromarray(cutting).resize((side, side), Image.Resampling.BILINEAR)
            objects[number] = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)
            if self.augment is not None:
                objects[number] = self.augment(objects[number])
            segmaps[number] = torch.from_numpy(item.segmap)
            boxes.append(box)
        pixels = torch.from_numpy(self._geometry.picture(image)).permute(2, 0, 1)
        if draws.flip:
            pixels, segmaps = pixels.flip(-1), segmaps.flip(-1)
        positions = [item.position for item in plan.objects]
        return Item(draws.frame, plan.text, plan.input_ids, positions, boxes, pixels, objects, segmaps)

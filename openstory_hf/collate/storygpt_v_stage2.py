"""StoryGPT-V, stage 2: the frames told so far as pictures and captions, then the image tokens of the next frame.

Source: Shen et al., "StoryGPT-V: Large Language Models as Consistent Story Visualizers" (CVPR 2025) and
`xiaoqian-shen/StoryGPT-V`, `gill/data.py` and `gill/models.py`. Its pictures are those of GILL, on which it builds.
Stage 1 is `CharacterCollator`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from openstory_hf.collate.common import IGNORE, Row, frame_extras, generator, story_texts
from openstory_hf.collate.encoding import encode_caption
from openstory_hf.collate.gill import begin, check_tokens, image_names
from openstory_hf.collate.sample import TEXT, Sample
from openstory_hf.collate.storygpt_v_rows import caption_index
from openstory_hf.errors import UsageError
from openstory_hf.references.released import listing, pororo_pronoun, spoken_of
from openstory_hf.references.storygpt_v import shared_opening
from openstory_hf.views import frame_images, frame_texts, row_error

PLACEHOLDER = "<ImageHere>"
"""Where the released prompt is cut and the visual embeddings of a picture stand; no token."""

KEPT_FRAMES = 5
"""Pictures that the release keeps of a clip."""


class Draws(NamedTuple):
    """The random draws of one sample.

    Attributes:
        target: the frame to make, from 1 to the last.
        kept: for every frame, which of how many pictures of its clip it shows, which selects the caption of a Pororo
            clip; drawn if the file names do not tell. Only with `release_compatible`.
    """

    target: int
    kept: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class StoryGPTV:
    """The second stage of StoryGPT-V: context frames, the caption of a target frame, and its image tokens.

    ``[bos] Image: <img>...</img> Caption: ... Image: <img>...</img> Caption: ... Caption: ... Image: [IMG0]...[IMG7]``
    where the visual embeddings of a picture stand between ``<img>`` and ``</img>``, which are plain text. The target
    is drawn from all frames but the first. All text is trained, the context too, and the first image token; that is
    the recipe, and so is the text with pronouns. The release tells stories of four (`load_stories(length=4)`).

    The defects of the release, fixed unless `release_compatible`:

    - what was too long was cut at its end, so that the image tokens stood in the labels only, or not at all, and
      the picture came from text; the oldest context frames are dropped as a whole, and if the target's text alone
      is too long, it is cut and the image tokens stay, as in GILL.
    - without pictures in the context, the begin token was missing, and Pororo's context with it; both stay.
    - all frames were encoded, used or not; only pictures that stand in the sample are in `frames`.
    - pronouns: women became "He", names were replaced inside other words, and the same four names in two frames
      crashed or replaced a name of earlier; the row has referential captions of its own.
    - the first of several captions of a Pororo clip was never used; it is the caption of the row.
    - placeholders and image tokens spelt out in a caption were taken for real; they are mere characters.

    Args:
        tokenizer: a `transformers` tokenizer that has the image tokens.
        interleave: show the pictures of the context; else its captions only.
        visual_tokens: embeddings of a picture of the context.
        image_tokens: tokens "[IMG0]", ... from whose hidden states the target's picture is made.
        max_length: most tokens, visual embeddings included; the released default is 32, its scripts say 160.
        text: column of the texts; None for "texts" in rows that have it, else "captions".
        seed: of the draws.
        release_compatible: do what the release does, with its pronouns for training in the `captions` of the row
            (`training_captions`) whatever `text` says. Its tensors are the samples padded to `max_length`.

    Raises:
        UsageError: for an option that cannot work at all or with this tokenizer.
    """

    tokenizer: Any
    interleave: bool = True
    visual_tokens: int = 4
    image_tokens: int = 8
    max_length: int = 160
    text: str | None = "referential_captions"
    seed: int = 0
    release_compatible: bool = False

    def __post_init__(self) -> None:
        check_tokens(self.tokenizer, self.image_tokens, self.visual_tokens, self.max_length)

    def sample(self, row: Row, draws: Draws | None = None) -> Sample:
        """The sample of a story.

        Raises:
            RowError: naming the story, if it lacks texts or pictures, or has less than two frames; with
                `release_compatible` also where the release dies.
            UsageError: if the target that is given is not one of the frames 1 to the last.
        """
        texts = story_texts(row, "captions" if self.release_compatible else self.text)
        frame_images(row, len(texts))
        if len(texts) < 2:
            raise row_error(row, "it has one frame, but the recipe tells the next frame; leave such rows out")
        draws = draws or self.draws(row)
        if not 1 <= draws.target < len(texts):
            raise UsageError(f"the target must be from 1 to {len(texts) - 1}, got {draws.target}")
        if self.release_compatible:
            return self._released(row, training_captions(row, draws.kept), draws.target)
        return self._repaired(row, texts, draws.target)

    def draws(self, row: Row) -> Draws:
        """The draws of a story: a pure function of the row and `seed`."""
        random, images = generator(row, self.seed), row["images"]
        target = int(random.integers(1, len(images)))
        if not self.release_compatible:
            return Draws(target)
        drawn = random.integers(KEPT_FRAMES, size=len(images)).tolist()
        # builders name the pictures after their number in the clip
        names = (image.get("path") if isinstance(image, Mapping) else None for image in images)
        named = [re.search(r"-frame(\d+)\.png$", name or "") for name in names]
        shown = (int(match[1]) if match else number for match, number in zip(named, drawn, strict=True))
        return Draws(target, tuple((number, KEPT_FRAMES) for number in shown))

    def prompt(self, context: Sequence[str], caption: str) -> str:
        """The text of a sample, with "<ImageHere>" where visual embeddings stand.

        Args:
            context: captions of the frames before.
            caption: of the target.
        """
        return PLACEHOLDER.join(self._pieces(context, caption)) + "".join(image_names(self.image_tokens))

    def _pieces(self, context: Sequence[str], caption: str) -> list[str]:
        """The text between pictures, each piece tokenised by itself."""
        pieces = [""]
        for text in context:
            if self.interleave:
                pieces[-1] += " Image: <img>"
                pieces.append("</img>")
            pieces[-1] += f" Caption: {text}"
        pieces[-1] += f" Caption: {caption} Image: "
        return pieces

    @property
    def _images(self) -> list[int]:
        ids: list[int] = self.tokenizer.convert_tokens_to_ids(image_names(self.image_tokens))
        return ids

    def _woven(self, parts: Sequence[list[int]]) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of some text with a picture between each two parts, and `Sample.visual`."""
        ids: list[int] = []
        visual: list[tuple[int, int]] = []
        for number, part in enumerate(parts):
            seen = self.visual_tokens if number and self.interleave else 0
            ids += [self.tokenizer.pad_token_id] * seen + part
            visual += [(number - 1, j) for j in range(seen)] + [TEXT] * len(part)
        return ids, visual

    @property
    def longest(self) -> int:
        """Most tokens of a sample."""
        return self.max_length

    def _masked(self, ids: list[int]) -> list[int]:
        """The labels: neither pictures, which have the pad id, nor image tokens behind the first."""
        untrained = {self.tokenizer.pad_token_id, *self._images[1:]}
        return [IGNORE if token in untrained else token for token in ids]

    def _repaired(self, row: Row, texts: Sequence[str], target: int) -> Sample:
        names, room = image_names(self.image_tokens), self.max_length - self.image_tokens
        for start in range(target + 1):
            pieces = self._pieces(texts[start:target], texts[target])
            first, *others = [encode_caption(self.tokenizer, piece, names) for piece in pieces]
            ids, visual = self._woven([begin(self.tokenizer) + first, *others])
            if len(ids) <= room:
                break
        ids, visual = ids[:room], visual[:room]
        told = [token if at == TEXT else IGNORE for token, at in zip(ids, visual, strict=True)]
        context = list(range(start, target)) if self.interleave else []
        return Sample(
            row=row,
            ids=ids + self._images,
            labels=told + self._masked(self._images),
            visual=visual + [TEXT] * self.image_tokens,
            frames=[*context, target],
            generated=[-1] * len(ids) + [len(context)] * self.image_tokens,
            frames_dropped=start,
            prompt=self.prompt(texts[start:target], texts[target]),
        )

    def _released(self, row: Row, captions: Sequence[str], target: int) -> Sample:
        context = [] if _is_pororo(row) and not self.interleave else captions[:target]
        prompt = self.prompt(context, captions[target])
        pieces = prompt.split(PLACEHOLDER)
        if self.interleave and len(pieces) - 1 > len(captions):
            raise row_error(row, f"the release finds {len(pieces) - 1} placeholders for {len(captions)} pictures")
        parts: list[list[int]] = []
        for piece in pieces:
            begins = not parts and len(pieces) > 1
            parts.append(list(self.tokenizer(piece, add_special_tokens=begins, verbose=False)["input_ids"]))
        ids, visual = self._woven(parts)
        ids, visual = ids[: self.max_length], visual[: self.max_length]
        told = list(ids)
        if len(ids) == self.max_length and ids[-1] not in (self.tokenizer.pad_token_id, self._images[-1]):
            told[-self.image_tokens :] = self._images
        return Sample(
            row=row,
            ids=ids,
            labels=self._masked(told),
            visual=visual,
            frames=list(range(len(captions))),
            generated=[-1] * (len(ids) - self.image_tokens) + [target] * self.image_tokens,
            frames_dropped=0,
            prompt=prompt,
        )


def training_captions(row: Row, kept: Sequence[tuple[int, int]] = ()) -> list[str]:
    """The captions of a story after the released pronoun code for training, which differs from its evaluation's.

    Labels decide (the untouched ones, where `extras` has them); in rows of "pororo_sv" the text alone.

    Args:
        row: a story.
        kept: as in `Draws`; without it, a Pororo clip has the caption of its row.

    Raises:
        RowError: if the row has no labels; where the released code dies: if nobody is there in two frames, or the
            same four are, before fewer were.
    """
    captions = frame_texts(row, "captions")
    extras = frame_extras(row) or [{}] * len(captions)
    if kept:
        clips = [[first, *extra.get("other_captions", ())] for first, extra in zip(captions, extras, strict=True)]
        captions = [clip[caption_index(*shown, len(clip))] for clip, shown in zip(clips, kept, strict=True)]
    if _is_pororo(row):
        return _by_text(captions)
    if row.get("characters") is None:
        raise row_error(row, "no column 'characters', from which the release takes its pronouns")
    labels = list(row["characters"])
    for number, extra in enumerate(extras):
        if (people := extra.get("annotation", {}).get("characters")) is not None:
            labels[number] = [person["entityLabel"].strip() for person in people]
    return _by_labels(row, captions, labels)


def _is_pororo(row: Row) -> bool:
    return bool(row.get("dataset") == "pororo_sv")


def _by_labels(row: Row, captions: Sequence[str], labels: Sequence[Sequence[str]]) -> list[str]:
    told, carried, searched = [captions[0]], labels[0], None
    for caption, here in zip(captions[1:], labels[1:], strict=True):
        if sorted(here) != sorted(carried):
            carried = here
        else:
            # for four or more names the release searches what it searched last
            searched = listing(carried, caption) if 0 < len(carried) < 4 else searched
            if searched is None or not carried:
                raise row_error(row, f"its pronouns crash in the release: the same {len(carried)} names again")
            caption = caption.replace(searched, "They" if len(carried) > 1 else "He")
        told.append(caption)
    return told


def _by_text(captions: Sequence[str]) -> list[str]:
    told, carried, before = [captions[0]], spoken_of(captions[0]), captions[0]
    for caption in captions[1:]:
        opening = shared_opening(before, caption)
        caption = caption.replace(opening, "They", 1) if opening else caption
        name = spoken_of(caption)
        if name and name == carried:
            before = caption
            caption = caption.replace(name, pororo_pronoun(name))
        carried = name
        told.append(caption)
    return told

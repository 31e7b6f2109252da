"""Clips of several pictures each, in packages that grew out of one another: StoryGAN, StoryDALL-E, StoryGPT-V.

A package lists the clips that start a story, or all of them; those that follow a start are found by their names, and
a cache repeats which they are. `stacks` and `strips` read the forms of such packages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from openstory_hf.info import Split
from openstory_hf.raw import Raw
from openstory_hf.records import Instance, Picture, Reject, box_from_corners

BOX_SCALE = 128
"""Width and height of the picture that boxes are measured in, whatever the size of the stored ones."""

Pixels = NDArray[np.uint8]
_Form = TypeVar("_Form", bound="Clips")


class Clips:
    """A package, whichever form it comes in.

    Args:
        raw: the folder of the package.

    Attributes:
        split_file: the file that lists clips by split; it tells which form a package has.
        listed: the lists, by the source's name of the split.
        cache_file: the file of `following`, "" if there is none.
        following: start -> the clips after it, as many as the package cares for.
        label_file: the file of `labels`.
        labels: clip -> vector of 0 and 1 that says who is there; empty if the package has none.
        text_file: the file of what `annotation` says.
        masks: the folder of masks, "" if the package has none.
    """

    split_file: str
    raw: Raw
    listed: Mapping[str, Sequence[str]]
    cache_file: str
    following: Mapping[str, Sequence[str]]
    label_file: str
    labels: Mapping[str, Any]
    text_file: str
    masks: str = ""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    def listed_in(self, splits: Mapping[str, Split]) -> list[tuple[str, str]]:
        """The clips listed, each with the split that lists it, in the order of `splits`.

        Raises:
            Reject: if the split file has a list of another split.
        """
        names = [facts.source_name for facts in splits.values()]
        if unknown := sorted(set(self.listed) - set(names)):
            reason = f"lists of {', '.join(unknown)}; the splits are {', '.join(names)}"
            raise Reject(reason, file=self.split_file)
        found = {split: self.listed.get(facts.source_name, ()) for split, facts in splits.items()}
        return [(clip, split) for split, clips in found.items() for clip in clips]

    def file(self, clip: str) -> str:
        """The file that holds the pictures of a clip."""
        raise NotImplementedError

    def pixels(self, clip: str) -> tuple[Sequence[Pixels], dict[str, Any]]:
        """The pictures of a clip, each uint8 (h, w, 3), and what else their file or its companions say.

        Raises:
            Reject: if the file is missing, damaged, or of another form.
        """
        raise NotImplementedError

    def annotation(self, clip: str) -> dict[str, Any]:
        """What the package says about a clip, empty if nothing."""
        raise NotImplementedError

    def label(self, clip: str) -> list[Any] | None:
        """The vector of a clip as a list, None if it has none."""
        vector = self.labels.get(clip)
        return None if vector is None else np.asarray(vector).tolist()

    def contradiction(self, start: str, followers: Sequence[str], by: str) -> str:
        """Why the cache does not let the followers found `by` something else follow a start; "" if it does."""
        cached = list(self.following.get(start, followers))
        if cached[: len(followers)] == list(followers[: len(cached)]):
            return ""
        return f"the cache says the story goes on with {cached}, the {by} say {list(followers)}"

    def pictures(
        self, clip: str, pixels: Sequence[Pixels], segments: Sequence[Mapping[str, Any]], cast: Collection[str]
    ) -> tuple[Picture, ...]:
        """The pictures of a clip with their instances.

        Args:
            clip: its name.
            pixels: its pictures, as `pixels` gives them.
            segments: its objects: `word`, `bbox` (x1, y1, x2, y2 in a square of `BOX_SCALE`) and `id`, the value of
                the object in the masks. Boxes are shared by all pictures of a clip, masks are not.
            cast: lower-case names; a segment whose word is one of them is that character.

        Raises:
            Reject: if a mask is missing or damaged, or a box lies outside the picture.
        """
        return tuple(
            Picture(
                path=f"{clip.replace('/', '_')}-frame{k}.png",
                pixels=shot,
                instances=tuple(self._instances(f"{clip}-frame{k}.npy", shot.shape[:2], segments, cast)),
            )
            for k, shot in enumerate(pixels)
        )

    def _instances(
        self, mask: str, size: tuple[int, int], segments: Sequence[Mapping[str, Any]], cast: Collection[str]
    ) -> Iterator[Instance]:
        combined = self._mask(f"{self.masks}/{mask}") if self.masks and segments else None
        for segment in segments:
            word = segment["word"].strip()
            yield Instance(
                label=word,
                character=word.lower() if word.lower() in cast else "",
                bbox=box_from_corners(segment["bbox"], scale=(size[1] / BOX_SCALE, size[0] / BOX_SCALE), size=size),
                mask=None if combined is None else combined == int(segment["id"]),
            )

    def _mask(self, file: str) -> NDArray[Any]:
        values = self.raw.npy(file)
        whole = values.dtype.kind in "biu" or (values.dtype.kind == "f" and bool((values == np.rint(values)).all()))
        if values.ndim != 2 or not whole:
            what = f"{values.dtype} values in the shape {values.shape}"
            raise Reject(f"{what} where whole numbers are expected in two dimensions", file=file)
        return values


def open_package(raw: Raw, *forms: type[_Form]) -> _Form:
    """The package in a release, wherever it was nested, in the first of the forms that it has.

    Raises:
        Reject: if there is none, or its index files are missing or damaged.
    """
    markers = [form.split_file for form in forms]
    root = raw.locate(*markers)
    if root is None:
        raise Reject(f"neither {' nor '.join(markers)} is in the release")
    return next(form(root) for form in forms if root.exists(form.split_file))

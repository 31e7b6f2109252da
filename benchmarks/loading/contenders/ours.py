"""This package: the release built by its builder; windows cut while they are read, or published stories."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
from openstory_hf.builders.flintstones_sv import FlintstonesSV
from openstory_hf.builders.openstory_pp import OpenstoryPP

from benchmarks.loading.pixels import GRID, Batch
from benchmarks.loading.source import LENGTH, Source, Stories
from openstory_hf.assemble import FrameChoice
from openstory_hf.build import build
from openstory_hf.builder import StoryBuilder
from openstory_hf.codecs import encode_png
from openstory_hf.collate import StoryTensorCollator
from openstory_hf.load import load_stories
from openstory_hf.loader import StoryLoader


def write(source: Stories, folder: Path, *, builder: type[StoryBuilder]) -> None:
    build(builder, source.release, folder, splits=["train"])


@cache  # a picture is written for each of the windows that it is in
def picture_as_stored(source: Source, clip: str, number: int) -> bytes:
    """A picture as the builder stores it."""
    return encode_png(np.load(source.stack_file(clip))[number])


class Epochs:
    """The loader, with another order in every epoch."""

    def __init__(self, loader: StoryLoader) -> None:
        self.loader, self.epoch = loader, 0

    def __iter__(self) -> Iterator[Batch]:
        self.loader.set_epoch(self.epoch)
        self.epoch += 1
        return iter(self.loader)


def windows(
    source: Source, folder: Path, workers: int, *, frame: FrameChoice = "random", masks: bool = False
) -> Epochs:
    """All windows, with a random picture of each clip."""
    columns = ("images", "captions", *(("instances",) if masks else ()))
    stories = load_stories(str(folder), length=LENGTH, frame=frame, shuffle=True, columns=columns)
    grid = (GRID, GRID) if masks else None
    collate = StoryTensorCollator(image_size=128, keep_captions=True, cache_mb=48, mask_grid=grid)
    return Epochs(StoryLoader(stories, collate, 16, num_workers=workers))


def published(source: Stories, folder: Path, workers: int) -> Epochs:
    """The published stories, with the key picture of each frame; those of Openstory++ share no frames."""
    stories = load_stories(str(folder), shuffle=True, columns=("images", "captions"))
    collate = StoryTensorCollator(image_size=512, keep_captions=True)
    return Epochs(StoryLoader(stories, collate, 16, num_workers=workers))


WRITE = {"openstory": partial(write, builder=FlintstonesSV), "openstory-pp": partial(write, builder=OpenstoryPP)}
LOAD = {
    "ours": windows,
    "ours-per-epoch": partial(windows, frame="random-per-epoch"),
    "ours-masks": partial(windows, masks=True),
    "ours-published": published,
}

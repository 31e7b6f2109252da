"""This package: the release built by the FlintstonesSV builder, windows cut while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openstory_hf.builders.flintstones_sv import FlintstonesSV

from benchmarks.loading.pixels import Batch
from benchmarks.loading.source import LENGTH, Source
from openstory_hf.build import build
from openstory_hf.collate import StoryTensorCollator
from openstory_hf.load import load_stories
from openstory_hf.loader import StoryLoader


def write(source: Source, folder: Path) -> None:
    build(FlintstonesSV, source.release, folder, splits=["train"])


class Epochs:
    """The loader, with another order in every epoch."""

    def __init__(self, loader: StoryLoader) -> None:
        self.loader, self.epoch = loader, 0

    def __iter__(self) -> Iterator[Batch]:
        self.loader.set_epoch(self.epoch)
        self.epoch += 1
        return iter(self.loader)


def ours(source: Source, folder: Path, workers: int) -> Epochs:
    columns = ("images", "captions")
    stories = load_stories(str(folder), length=LENGTH, frame="random", shuffle=True, columns=columns)
    collate = StoryTensorCollator(image_size=128, keep_captions=True, cache_mb=64)
    return Epochs(StoryLoader(stories, collate, 16, num_workers=workers))


WRITE = {"openstory": write}
LOAD = {"ours": ours}

"""`datasets` without this package: streamed Parquet with a row per window, and map-style Arrow with a row per picture.

Streams have the default shuffle buffer. In both forms, pictures are decoded by `datasets` where they are read, or left
as bytes, of which those needed are decoded with the decoder given.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
from datasets import Features, Image, List, Value, load_dataset, load_from_disk
from torch.utils.data import DataLoader, Dataset

from benchmarks.loading.pixels import Batch, Decode, Story, collated, fast
from benchmarks.loading.source import KEPT, KEY, LENGTH, Source, Stories, Window

SHARDS = 8

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # it sleeps 5 s at the end of an epoch, much in so short a one


def rows(source: Stories, windows: list[Window], kept: range) -> Iterator[dict[str, Any]]:
    for window in windows:
        images = [[{"bytes": source.picture(clip, k), "path": None} for k in kept] for clip in window]
        yield {"captions": source.texts(window), "images": images, "masks": source.masks_json(window)}


def write(source: Stories, folder: Path, *, fixed: bool = False) -> None:
    features = {"captions": List(Value("string")), "images": List(List(Image())), "masks": Value("string")}
    kept = range(KEY, KEY + 1) if fixed else range(source.kept)
    given = {"source": source, "windows": source.shuffled(), "kept": kept}
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        make = partial(datasets.Dataset.from_generator, features=Features(features), cache_dir=cache)
        stories = make(rows, gen_kwargs=given)
        if not source.masks:
            stories = stories.remove_columns("masks")
        for number in range(SHARDS):
            shard = stories.shard(SHARDS, number)
            shard.to_parquet(folder / f"train-{number:05d}-of-{SHARDS:05d}.parquet")


def pictures(source: Source) -> Iterator[dict[str, Any]]:
    for clip in source.captions:
        for k in range(KEPT):
            yield {"image": {"bytes": source.picture(clip, k), "path": None}}


def write_pictures(source: Source, folder: Path) -> None:
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        features, given = Features({"image": Image()}), {"source": source}
        made = datasets.Dataset.from_generator(pictures, features=features, gen_kwargs=given, cache_dir=cache)
        made.save_to_disk(folder / "pictures")


class Epochs:
    """A loader over a stream that is shuffled anew in every epoch."""

    def __init__(self, stream: datasets.IterableDataset, **options: Any) -> None:
        self.stream, self.epoch = stream, 0
        self.loader: DataLoader[Any] = DataLoader(stream, **options)

    def __iter__(self) -> Iterator[Batch]:
        self.stream.set_epoch(self.epoch)
        self.epoch += 1
        return iter(self.loader)


def collate(decode: Decode | None, samples: list[dict[str, Any]]) -> Batch:
    stories = []
    for sample in samples:
        drawn = random.choices(range(len(sample["images"][0])), k=LENGTH)
        pictures = [decoded(decode, kept[k]) for kept, k in zip(sample["images"], drawn, strict=True)]
        masks = json.loads(sample["masks"]) if "masks" in sample else []
        chosen = [of_clip[k] for of_clip, k in zip(masks, drawn, strict=False)]
        stories.append(Story(pictures, sample["captions"], chosen))
    return collated(stories)


def decoded(decode: Decode | None, image: Any) -> Any:
    """The pixels of what `datasets` gives: a decoded picture, or its bytes."""
    return image if decode is None else decode(image["bytes"])


def open_stream(files: list[str], decode: Decode | None) -> datasets.IterableDataset:
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    return stream.cast_column("images", List(List(Image(decode=False)))) if decode else stream


def load_stream(source: Stories, folder: Path, workers: int, *, decode: Decode | None = None) -> Epochs:
    stream = open_stream(sorted(map(str, folder.glob("*.parquet"))), decode)
    options = {"num_workers": workers, "persistent_workers": workers > 0, "collate_fn": partial(collate, decode)}
    return Epochs(stream.shuffle(seed=0), batch_size=16, **options)


class Windows(Dataset[Any]):
    """Windows of the pictures of a map-style dataset; those of a batch are read with one call."""

    def __init__(self, source: Source, stored: datasets.Dataset, decode: Decode | None) -> None:
        self.stored, self.decode = stored, decode
        place = {clip: KEPT * at for at, clip in enumerate(source.captions)}
        self.windows = [([place[clip] for clip in window], source.texts(window)) for window in source.windows]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, numbers: Sequence[int]) -> list[Story]:
        windows = [self.windows[number] for number in numbers]
        wanted = [first + random.randrange(KEPT) for firsts, _ in windows for first in firsts]
        images = iter([decoded(self.decode, image) for image in self.stored[wanted]["image"]])
        return [Story([next(images) for _ in firsts], captions) for firsts, captions in windows]


def load_map(source: Source, folder: Path, workers: int, *, decode: Decode | None = None) -> DataLoader[Any]:
    stored = load_from_disk(folder / "pictures")
    if decode:
        stored = stored.cast_column("image", Image(decode=False))
    loader = partial(DataLoader, batch_size=16, shuffle=True, collate_fn=collated)
    return loader(Windows(source, stored, decode), num_workers=workers, persistent_workers=workers > 0)


WRITE = {"hf": write, "hf-fixed": partial(write, fixed=True), "hf-map": write_pictures}
LOAD = {
    "hf": load_stream,
    "hf-fixed": load_stream,
    "hf-fast": partial(load_stream, decode=fast),
    "hf-map": load_map,
    "hf-map-fast": partial(load_map, decode=fast),
}

"""LitData: windows in chunks of 64 MB by `optimize`, shuffled before they are written, as chunks are read whole."""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # asks a server

from litdata import StreamingDataLoader, StreamingDataset, optimize

from benchmarks.loading.pixels import Batch, Decode, collated, kornia, pillow
from benchmarks.loading.source import KEPT, LENGTH, Source, Window


def sample(source: Source, window: Window) -> dict[str, Any]:
    pictures = {f"{at}-{k}": source.png(clip, k) for at, clip in enumerate(window) for k in range(KEPT)}
    return {"captions": source.texts(window), **pictures}


def write(source: Source, folder: Path) -> None:
    optimize(
        fn=partial(sample, source),
        inputs=source.shuffled(),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )


def collate(decode: Decode, samples: list[dict[str, Any]]) -> Batch:
    stories = []
    for story in samples:
        drawn = [story[f"{at}-{random.randrange(KEPT)}"] for at in range(LENGTH)]
        stories.append(([decode(bytes(picture)) for picture in drawn], story["captions"]))
    return collated(stories)


def load(source: Source, folder: Path, workers: int, *, decode: Decode) -> StreamingDataLoader:
    stories = StreamingDataset(str(folder), shuffle=True, drop_last=False)
    loader = partial(StreamingDataLoader, batch_size=16, collate_fn=partial(collate, decode))
    return loader(stories, num_workers=workers, persistent_workers=workers > 0)


WRITE = {"litdata": write}
LOAD = {"litdata": partial(load, decode=pillow), "litdata-kornia": partial(load, decode=kornia)}

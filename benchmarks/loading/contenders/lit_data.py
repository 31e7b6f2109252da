"""LitData: windows in chunks of 64 MB by `optimize`, shuffled before they are written, as chunks are read whole."""

from __future__ import annotations

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # asks a server

from litdata import StreamingDataLoader, StreamingDataset, optimize

from benchmarks.loading.pixels import Batch, Decode, Story, collated, fast, pillow
from benchmarks.loading.source import KEPT, LENGTH, Stories, Window


def sample(source: Stories, window: Window) -> dict[str, Any]:
    pictures = {f"{at}-{k}": source.picture(clip, k) for at, clip in enumerate(window) for k in range(KEPT)}
    masks = source.masks_json(window)
    return {"captions": source.texts(window), **pictures, **({"masks": masks} if masks else {})}


def write(source: Stories, folder: Path) -> None:
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
        drawn = random.choices(range(KEPT), k=LENGTH)
        pictures = [decode(bytes(story[f"{at}-{k}"])) for at, k in enumerate(drawn)]
        masks = json.loads(story["masks"]) if "masks" in story else []
        chosen = [of_clip[k] for of_clip, k in zip(masks, drawn, strict=False)]
        stories.append(Story(pictures, story["captions"], chosen))
    return collated(stories)


def load(source: Stories, folder: Path, workers: int, *, decode: Decode) -> StreamingDataLoader:
    stories = StreamingDataset(str(folder), shuffle=True, drop_last=False)
    loader = partial(StreamingDataLoader, batch_size=16, collate_fn=partial(collate, decode))
    return loader(stories, num_workers=workers, persistent_workers=workers > 0)


WRITE = {"litdata": write}
LOAD = {"litdata": partial(load, decode=pillow), "litdata-fast": partial(load, decode=fast)}

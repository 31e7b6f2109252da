"""MosaicML Streaming: windows in MDS shards of the default size, a column per picture.

The columns are `bytes`, of which the drawn ones are decoded: `png` columns would all be. Shuffled by `py1e`, the
default and the one its documentation recommends. One form has the pictures as this package stores them.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

# `streaming` imports its vision datasets, and with them a torchvision that fits the build of torch; none is used here
sys.modules.setdefault("streaming.vision", ModuleType("streaming.vision"))

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402

from benchmarks.loading.pixels import Batch, Decode, Story, collated, fast, pillow  # noqa: E402
from benchmarks.loading.source import KEPT, LENGTH, Stories  # noqa: E402

PICTURES = {(at, k): f"{at}-{k}" for at in range(LENGTH) for k in range(KEPT)}


def write(source: Stories, folder: Path, *, ours: bool = False) -> None:
    picture = source.picture
    if ours:
        from benchmarks.loading.contenders.ours import picture_as_stored

        picture = partial(picture_as_stored, source)
    columns = {"captions": "json", **dict.fromkeys(PICTURES.values(), "bytes")}
    if source.masks:
        columns["masks"] = "json"
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for window in source.shuffled():
            pictures = {name: picture(window[at], k) for (at, k), name in PICTURES.items()}
            masks = {"masks": [source.masks[clip] for clip in window]} if source.masks else {}
            writer.write({"captions": source.texts(window), **pictures, **masks})


def collate(decode: Decode, samples: list[dict[str, Any]]) -> Batch:
    stories = []
    for sample in samples:
        drawn = random.choices(range(KEPT), k=LENGTH)
        pictures = [decode(sample[PICTURES[place]]) for place in enumerate(drawn)]
        chosen = [of_clip[k] for of_clip, k in zip(sample.get("masks", ()), drawn, strict=False)]
        stories.append(Story(pictures, sample["captions"], chosen))
    return collated(stories)


def load(source: Stories, folder: Path, workers: int, *, decode: Decode) -> StreamingDataLoader:
    clean_stale_shared_memory()
    stories = StreamingDataset(local=str(folder), shuffle=True, shuffle_algo="py1e", batch_size=16)
    loader = partial(StreamingDataLoader, batch_size=16, collate_fn=partial(collate, decode))
    return loader(stories, num_workers=workers, persistent_workers=workers > 0)


WRITE = {"mds": write, "mds-ours": partial(write, ours=True)}
LOAD = {"mds": partial(load, decode=pillow), "mds-fast": partial(load, decode=fast)}
LOAD["mds-ours"] = LOAD["mds-fast"]

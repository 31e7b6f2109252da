"""MosaicML Streaming: windows in MDS shards of the default size, a column per picture.

The columns are `bytes`, of which the drawn ones are decoded: `png` columns would all be. Shuffled by `py1e`, the
default and the one its documentation recommends.
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

from benchmarks.loading.pixels import Batch, Decode, collated, kornia, pillow  # noqa: E402
from benchmarks.loading.source import KEPT, LENGTH, Source  # noqa: E402

PICTURES = {(at, k): f"{at}-{k}" for at in range(LENGTH) for k in range(KEPT)}


def write(source: Source, folder: Path) -> None:
    columns = {"captions": "json", **dict.fromkeys(PICTURES.values(), "bytes")}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for window in source.shuffled():
            pictures = {name: source.png(window[at], k) for (at, k), name in PICTURES.items()}
            writer.write({"captions": source.texts(window), **pictures})


def collate(decode: Decode, samples: list[dict[str, Any]]) -> Batch:
    drawn = ([sample[PICTURES[at, random.randrange(KEPT)]] for at in range(LENGTH)] for sample in samples)
    texts = (sample["captions"] for sample in samples)
    return collated([(list(map(decode, pictures)), captions) for pictures, captions in zip(drawn, texts, strict=True)])


def load(source: Source, folder: Path, workers: int, *, decode: Decode) -> StreamingDataLoader:
    clean_stale_shared_memory()
    stories = StreamingDataset(local=str(folder), shuffle=True, shuffle_algo="py1e", batch_size=16)
    loader = partial(StreamingDataLoader, batch_size=16, collate_fn=partial(collate, decode))
    return loader(stories, num_workers=workers, persistent_workers=workers > 0)


WRITE = {"mds": write}
LOAD = {"mds": partial(load, decode=pillow), "mds-kornia": partial(load, decode=kornia)}

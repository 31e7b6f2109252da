"""WebDataset: windows in tars, a member per picture.

As its documentation says: windows are shuffled before they are written, shards and then samples (1,000 of them) when
they are read, and batches are made in the pipeline. Pictures are drawn before the samples are shuffled, so that the
buffer holds a fifth of the bytes, and decoded after.
"""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import webdataset as wds

from benchmarks.loading.pixels import Decode, collated, kornia, pillow
from benchmarks.loading.source import KEPT, KEY, LENGTH, Source

SHARD_BYTES = 100 << 20


def write(source: Source, folder: Path, *, kept: tuple[int, ...]) -> None:
    with wds.ShardWriter(str(folder / "stories-%05d.tar"), maxsize=SHARD_BYTES, verbose=0) as writer:
        for number, window in enumerate(source.shuffled()):
            pictures = {f"{at}-{k}.png": source.png(clip, k) for at, clip in enumerate(window) for k in kept}
            captions = json.dumps(source.texts(window)).encode()
            writer.write({"__key__": f"{number:08d}", **pictures, "captions.json": captions})


def draw(kept: tuple[int, ...], sample: dict[str, bytes]) -> tuple[list[bytes], bytes]:
    pictures = [sample[f"{at}-{random.choice(kept)}.png"] for at in range(LENGTH)]
    return pictures, sample["captions.json"]


def decoded(decode: Decode, story: tuple[list[bytes], bytes]) -> tuple[list[Any], list[str]]:
    pictures, captions = story
    return [decode(picture) for picture in pictures], json.loads(captions)


def load(
    source: Source, folder: Path, workers: int, *, decode: Decode = pillow, kept: tuple[int, ...] = tuple(range(KEPT))
) -> Any:
    shards = sorted(map(str, folder.glob("*.tar")))
    stories = wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
    stories = stories.map(partial(draw, kept)).shuffle(1000).map(partial(decoded, decode))
    batches = stories.batched(16, collation_fn=collated)
    return wds.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


WRITE = {"wds": partial(write, kept=tuple(range(KEPT))), "wds-fixed": partial(write, kept=(KEY,))}
LOAD = {"wds": load, "wds-kornia": partial(load, decode=kornia), "wds-fixed": partial(load, kept=(KEY,))}

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

from benchmarks.loading.pixels import Decode, Story, collated, fast, pillow
from benchmarks.loading.source import KEY, LENGTH, Stories, Window

SHARD_BYTES = 100 << 20

Sample = dict[str, Any]


def members(source: Stories, window: Window, kept: range) -> Sample:
    """A window as its members: "0-2.img" is the third picture of its first clip."""
    sample = {f"{at}-{k}.img": source.picture(clip, k) for at, clip in enumerate(window) for k in kept}
    sample["captions.json"] = json.dumps(source.texts(window)).encode()
    if masks := source.masks_json(window):
        sample["masks.json"] = masks.encode()
    return sample


def write(source: Stories, folder: Path, *, fixed: bool = False) -> None:
    with wds.ShardWriter(str(folder / "stories-%05d.tar"), maxsize=SHARD_BYTES, verbose=0) as writer:
        for number, window in enumerate(source.shuffled()):
            writer.write({"__key__": f"{number:08d}", **members(source, window, pictures_of(source, fixed))})


def pictures_of(source: Stories, fixed: bool) -> range:
    """The numbers of the pictures that are stored of each clip."""
    return range(KEY, KEY + 1) if fixed else range(source.kept)


def draw(kept: range, sample: Sample) -> tuple[list[int], list[bytes], Sample]:
    """The numbers of the pictures drawn, their bytes, and what else there is."""
    drawn = random.choices(kept, k=LENGTH)
    rest = {name: sample[name] for name in ("captions.json", "masks.json") if name in sample}
    return drawn, [sample[f"{at}-{k}.img"] for at, k in enumerate(drawn)], rest


def decoded(decode: Decode, story: tuple[list[int], list[bytes], Sample]) -> Story:
    drawn, pictures, rest = story
    masks = json.loads(rest["masks.json"]) if "masks.json" in rest else []
    chosen = [of_clip[k] for of_clip, k in zip(masks, drawn, strict=False)]
    return Story(list(map(decode, pictures)), json.loads(rest["captions.json"]), chosen)


def load(source: Stories, folder: Path, workers: int, *, decode: Decode = pillow, fixed: bool = False) -> Any:
    shards = sorted(map(str, folder.glob("*.tar")))
    stories = wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
    stories = stories.map(partial(draw, pictures_of(source, fixed))).shuffle(1000).map(partial(decoded, decode))
    batches = stories.batched(16, collation_fn=collated)
    return wds.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


WRITE = {"wds": write, "wds-fixed": partial(write, fixed=True)}
LOAD = {"wds": load, "wds-fast": partial(load, decode=fast), "wds-fixed": partial(load, fixed=True)}

"""What no loader beats unless it does less: the bare work, on data that is in memory already.

Decoding has the pictures as this package stores them, and its decoder. Batches reuse the memory of those before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loading.pixels import Batch, Pixels, fast, grids, normalised
from benchmarks.loading.source import LENGTH, Source, Stories

Normalise = Callable[[list[Pixels]], torch.Tensor]


class Loop:
    """Windows in random order, a random picture of each clip, in batches of 16.

    Args:
        source: the stories.
        read: gives the pictures of a clip; called for all of them at the start.
        batch: makes the pictures of a batch into a tensor.
        masks: whether masks are wanted.
    """

    def __init__(
        self,
        source: Stories,
        read: Callable[[str], list[Any]],
        batch: Callable[[list[Any]], torch.Tensor],
        *,
        masks: bool = False,
    ) -> None:
        self.source, self.batch, self.masks = source, batch, source.masks if masks else {}
        self.kept = {clip: read(clip) for clip in source.captions}

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.permutation(len(self.source.windows)).tolist()
        for first in range(0, len(order), 16):
            windows = [self.source.windows[number] for number in order[first : first + 16]]
            clips = [clip for window in windows for clip in window]
            drawn = list(zip(clips, np.random.randint(self.source.kept, size=len(clips)).tolist(), strict=True))
            batch: Batch = {"pixel_values": self.batch([self.kept[clip][k] for clip, k in drawn])}
            if self.masks:
                batch["instance_masks"] = grids([self.masks[clip][k] for clip, k in drawn])
            yield batch | {"captions": [self.source.texts(window) for window in windows]}


def reusing(side: int) -> Normalise:
    """`normalised` into the memory of the batch before the last."""
    batches = cycle([torch.empty(16, LENGTH, 3, side, side) for _ in range(2)])
    return lambda pictures: normalised(pictures, next(batches))


def write_png(source: Source, folder: Path) -> None:
    from benchmarks.loading.contenders.ours import picture_as_stored

    for clip in source.captions:
        for k in range(source.kept):
            (folder / f"{clip}-{k}.png").write_bytes(picture_as_stored(source, clip, k))


def decode(source: Source, folder: Path, workers: int) -> Loop:
    def read(clip: str) -> list[bytes]:
        return [(folder / f"{clip}-{k}.png").read_bytes() for k in range(source.kept)]

    batch = reusing(128)
    return Loop(source, read, lambda pictures: batch(list(map(fast, pictures))), masks=source.masked)


def decode_jpeg(source: Stories, folder: Path, workers: int) -> Loop:
    batch = reusing(512)
    return Loop(source, lambda clip: [source.picture(clip, 0)], lambda pictures: batch(list(map(fast, pictures))))


def gather(source: Source, folder: Path, workers: int) -> Loop:
    return Loop(source, lambda clip: list(source.pixels(clip)), reusing(128))


def copy(source: Source, folder: Path, workers: int) -> Loop:
    def batch(pictures: list[Pixels]) -> torch.Tensor:
        stack = torch.from_numpy(np.stack(pictures))
        return stack.view(-1, LENGTH, *stack.shape[1:])

    return Loop(source, lambda clip: list(source.pixels(clip)), batch)


WRITE = {"png": write_png}
LOAD = {"limit-decode": decode, "limit-jpeg": decode_jpeg, "limit-pixels": gather, "limit-copy": copy}

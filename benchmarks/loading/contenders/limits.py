"""What no loader beats unless it does less: the bare work, on data that is in memory already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loading.pixels import Batch, Pixels, kornia, normalised
from benchmarks.loading.source import KEPT, Source


class Loop:
    """Windows in random order, a random picture of each clip, in batches of 16.

    Args:
        source: the stories.
        read: gives one picture of a clip; called for all of them at the start.
        batch: makes the pictures of a batch into a tensor.
    """

    def __init__(
        self, source: Source, read: Callable[[str, int], Any], batch: Callable[[list[Any]], torch.Tensor]
    ) -> None:
        self.source, self.batch = source, batch
        self.kept = {clip: [read(clip, k) for k in range(KEPT)] for clip in source.captions}

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.permutation(len(self.source.windows)).tolist()
        for first in range(0, len(order), 16):
            windows = [self.source.windows[number] for number in order[first : first + 16]]
            drawn = iter(np.random.randint(KEPT, size=16 * len(windows[0])).tolist())
            pictures = [self.kept[clip][next(drawn)] for window in windows for clip in window]
            yield {"pixel_values": self.batch(pictures), "captions": [self.source.texts(window) for window in windows]}


def decode(source: Source, folder: Path, workers: int) -> Loop:
    return Loop(source, source.png, lambda pictures: normalised(list(map(kornia, pictures))))


def gather(source: Source, folder: Path, workers: int, batch: Callable[[list[Pixels]], torch.Tensor]) -> Loop:
    return Loop(source, lambda clip, k: kornia(source.png(clip, k)), batch)


def copied(pictures: list[Pixels]) -> torch.Tensor:
    """Uint8 (B, 5, 128, 128, 3)."""
    stack = torch.from_numpy(np.stack(pictures))
    return stack.view(-1, 5, *stack.shape[1:])


WRITE: dict[str, Any] = {}
LOAD = {
    "limit-decode": decode,
    "limit-pixels": partial(gather, batch=normalised),
    "limit-copy": partial(gather, batch=copied),
}

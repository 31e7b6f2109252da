"""StoryGPT-V (`xiaoqian-shen/StoryGPT-V`, `models/data.py`): the `.npy` stack of each clip, as it was released.

The release makes each picture a normalised tensor, and stacks them; that, and what is fastest: normalising by the
batch, with maps of all files kept open. Masks are run lengths in memory, read from a JSON file at the start.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from benchmarks.loading.pixels import Batch, Pixels, Story, collated, stacked
from benchmarks.loading.source import KEPT, LENGTH, Source

Collate = Callable[[Sequence[Story]], Batch]


class Windows(Dataset[Story]):
    """One window; `stack` gives the stack in a file."""

    def __init__(self, source: Source, stack: Callable[[str], Pixels]) -> None:
        self.windows = [([str(source.stack_file(c)) for c in clips], source.texts(clips)) for clips in source.windows]
        self.masks = [[source.masks[c] for c in clips] for clips in source.windows] if source.masks else None
        self.stack = stack

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> Story:
        files, captions = self.windows[number]
        drawn = random.choices(range(KEPT), k=LENGTH)
        masks = self.masks[number] if self.masks else []
        pictures = [self.stack(file)[k] for file, k in zip(files, drawn, strict=True)]
        return Story(pictures, captions, [of_clip[k] for of_clip, k in zip(masks, drawn, strict=False)])


@cache
def kept_open(file: str) -> Pixels:
    """A map that stays; as a plain array, for a memmap is slow to index. A process may have 65,530 maps."""
    return np.asarray(np.load(file, mmap_mode="r"))


def load(
    source: Source,
    folder: Path,
    workers: int,
    *,
    stack: Callable[[str], Pixels] = np.load,
    collate: Collate = collated,
) -> DataLoader[Any]:
    loader = partial(DataLoader, batch_size=16, shuffle=True, collate_fn=collate)
    return loader(Windows(source, stack), num_workers=workers, persistent_workers=workers > 0)


WRITE: dict[str, Any] = {}
LOAD = {
    "npy": partial(load, collate=stacked),
    "npy-mapped": partial(load, stack=partial(np.load, mmap_mode="r"), collate=stacked),
    "npy-batch": load,
    "npy-kept": partial(load, stack=kept_open),
}

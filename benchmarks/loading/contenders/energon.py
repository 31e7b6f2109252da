"""Megatron Energon: the tars of WebDataset as a crude dataset, cooked, encoded and batched by a task encoder.

As its documentation says: the tars are indexed by what `energon prepare` calls, a worker reads 100 samples in a row
from a place in the shards, and samples go through a shuffle buffer of 1,000. A cooker draws the pictures, so that the
buffer holds a fifth of the bytes; they are decoded after. Training streams never end: here, an epoch is one pass.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from megatron.energon import (
    Cooker,
    Sample,
    TaskEncoder,
    WorkerConfig,
    basic_sample_keys,
    get_loader,
    get_train_dataset,
    stateless,
)
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

from benchmarks.loading.contenders import tars
from benchmarks.loading.pixels import Batch, Decode, Story, collated, fast, pillow
from benchmarks.loading.source import KEPT, Stories

DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"

warnings.filterwarnings("ignore", module="megatron.energon")


def write(source: Stories, folder: Path) -> None:
    tars.write(source, folder)
    shards = sorted(file.name for file in folder.glob("*.tar"))
    WebdatasetPreparator.prepare_dataset(folder, shards, split_parts_ratio=[("train", 1.0)], workers=1)
    (folder / ".nv-meta" / "dataset.yaml").write_text(DATASET, encoding="utf-8")


@dataclass
class Drawn(Sample):
    """A window with the pictures that were drawn of its clips."""

    story: tuple[list[int], list[bytes], dict[str, bytes]]


@stateless
def cook(sample: dict[str, Any]) -> Drawn:
    return Drawn(**basic_sample_keys(sample), story=tars.draw(range(KEPT), sample))


class Windows(TaskEncoder[Any, Any, Any, Any]):
    """Decodes the drawn pictures of a window, and batches windows."""

    decoder = None
    cookers = (Cooker(cook),)

    def __init__(self, decode: Decode) -> None:
        super().__init__()
        self.decode = decode

    @stateless
    def encode_sample(self, sample: Drawn) -> Story:
        """Decode the pictures."""
        return tars.decoded(self.decode, sample.story)

    @stateless
    def batch(self, samples: list[Story]) -> Batch:
        """Make a batch."""
        return collated(samples)


def load(source: Stories, folder: Path, workers: int, *, decode: Decode) -> Any:
    config = WorkerConfig(rank=0, world_size=1, num_workers=workers)
    stories = get_train_dataset(
        folder,
        worker_config=config,
        batch_size=16,
        shuffle_buffer_size=1000,
        max_samples_per_sequence=100,
        task_encoder=Windows(decode),
        repeat=False,
    )
    return get_loader(stories)


WRITE = {"energon": write}
LOAD = {"energon": partial(load, decode=pillow), "energon-fast": partial(load, decode=fast)}

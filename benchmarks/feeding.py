"""Whether a training step on an accelerator waits for its stories, and how many batches the processor can make.

    python -m benchmarks.feeding [--workers 2 4 14] [--step-ms 20] [--steps N] [--work FOLDER] [--markdown FILE]

The work is that of `python -m benchmarks.loading` on twice the stories: a quarter of those FlintstonesSV trains on.
The step trains a transformer on the patches of the 80 pictures of a batch, as deep as it takes to be so long. Waiting
is the time that steps fed by the loader take beyond the same steps on one batch that stays on the device. So many
steps as an epoch has, unless told otherwise, go on from one epoch to the next. Needs a CUDA device.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from benchmarks.loading import command, table
from benchmarks.loading.roster import TABLES
from benchmarks.loading.source import EPISODES, LENGTH
from openstory_hf.collate import StoryTensorCollator, normalize
from openstory_hf.device import DeviceLoader
from openstory_hf.load import load_stories
from openstory_hf.loader import StoryLoader

BATCH = 16
WIDTH, PATCH = 768, 8  # large enough that the device, not the launching of kernels, sets the pace

Batch = dict[str, Any]
Step = Callable[[Batch], None]


class Painter(nn.Module):
    """Patches of pictures to patches of pictures, through blocks of a transformer."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        blocks = [nn.TransformerEncoderLayer(WIDTH, 12, 4 * WIDTH, 0.0, batch_first=True) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(WIDTH, 3 * PATCH * PATCH)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (I, 3, H, W) to (I, patches, values of a patch)."""
        return self.out(self.blocks(self.into(pictures).flatten(2).transpose(1, 2)))


def step_of(depth: int, device: torch.device) -> Step:
    model = Painter(depth).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(batch: Batch) -> None:
        pictures = batch["pixel_values"].flatten(0, 1)
        with torch.autocast("cuda", torch.bfloat16):
            loss = (model(pictures + torch.randn_like(pictures)) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(batches: Iterator[Batch], step: Step, count: int, before: int = 20) -> float:
    """The time that a step takes, on average over so many, after some more that are not counted."""
    for batch in islice(batches, before):
        step(batch)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for batch in islice(batches, count):
        step(batch)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def endless(loader: DeviceLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def main() -> None:
    parser = command.options(__doc__, rounds=3, disk="2 GB")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 14])
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--steps", type=int)
    chosen = parser.parse_args()
    device = torch.device("cuda")
    work = command.written("clips", ["ours"], chosen.work, EPISODES // 12 if chosen.quick else 2 * EPISODES)
    still = iter(partial(dict, pixel_values=torch.randn(BATCH, LENGTH, 3, 128, 128, device=device)), None)
    shallow = seconds(still, step_of(2, device), 30)
    each = (seconds(still, step_of(6, device), 30) - shallow) / 4
    step = step_of(max(1, round(2 + (chosen.step_ms / 1000 - shallow) / each)), device)
    epoch = len(TABLES["clips"].source(work).windows) // BATCH
    steps = chosen.steps or epoch
    rows = []
    for workers in chosen.workers:
        for dtype in ("float32", "uint8"):
            collate = StoryTensorCollator(image_size=128, keep_captions=True, cache_mb=64, pixel_dtype=dtype)
            stories = load_stories(
                f"{work}/openstory", length=LENGTH, frame="random", shuffle=True, columns=("images", "captions")
            )
            loader = DeviceLoader(
                StoryLoader(stories, collate, BATCH, num_workers=workers, drop_last=True, ahead=4), device
            )
            # workers start and touch their memory for the first time in the first epoch
            alone = seconds(endless(loader), lambda batch: None, 2 * epoch, before=epoch)
            fed, bare = [], []
            for _ in range(chosen.rounds):
                bare.append(seconds(still, step, steps))
                fed.append(seconds(map(normalized, endless(loader)), step, steps))
            loader.close()
            without, with_data = (sorted(values)[len(values) // 2] for values in (bare, fed))
            waiting = f"{with_data / without - 1:.1%}"
            figures = [f"{without * 1e3:.2f}", f"{with_data * 1e3:.2f}", waiting, f"{1 / alone:,.0f}"]
            print(f"{workers} workers, {dtype}: {figures}", file=sys.stderr)
            rows.append([f"{workers} workers, {dtype}", *figures, f"{BATCH / alone:,.0f}"])
    columns = ["fed by", "step ms", "fed step ms", "waiting", "batches/s to the device without a step", "stories/s"]
    text = (
        f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores; {steps} steps, epochs of {epoch}, medians of "
        f"{chosen.rounds} rounds. {table.machine([table.load_average()])}\n\n{table.markdown(columns, rows)}\n"
    )
    command.report(text, chosen.markdown)


def normalized(batch: Batch) -> Batch:
    """Pixels that came as bytes, normalised on the device."""
    pixels = batch["pixel_values"]
    return {**batch, "pixel_values": normalize(pixels) if pixels.dtype == torch.uint8 else pixels}


if __name__ == "__main__":
    main()

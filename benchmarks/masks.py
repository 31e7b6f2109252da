"""Run lengths to a 16x16 coverage grid: straight from the runs, against decoding with pycocotools and averaging.

    python benchmarks/masks.py [--rounds 15] [--masks coco_results.json]

Contenders take turns in every round; the medians and their ratios are printed as a Markdown table. The masks are
outlines of overlapping ellipses, or those of a COCO results file, resized to the side stated.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from openstory_hf import masks

GRID = 16
COUNT = 160  # four instances in each of five frames of eight stories


def drawn(count: int) -> list[np.ndarray]:
    """Binary masks of objects with a body and limbs, at 640x480."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        image = Image.new("1", (640, 480))
        pen = ImageDraw.Draw(image)
        x, y = draw.integers(100, 540), draw.integers(100, 380)
        for _ in range(draw.integers(2, 7)):
            dx, dy, rx, ry = (int(value) for value in draw.integers([-60, -60, 15, 15], [61, 61, 90, 90]))
            pen.ellipse((x + dx - rx, y + dy - ry, x + dx + rx, y + dy + ry), fill=1)
        found.append(np.asarray(image))
    return found


def from_file(path: Path, count: int) -> list[np.ndarray]:
    return [coco.decode(entry["segmentation"]) for entry in json.loads(path.read_text())[:count]]


def resized(sources: list[np.ndarray], side: int) -> list[masks.RLE]:
    pictures = (Image.fromarray(source.astype(np.uint8) * 255).resize((side, side)) for source in sources)
    return [masks.encode(np.asarray(picture) > 127) for picture in pictures]


def decode_and_average(rles: list[masks.RLE]) -> np.ndarray:
    out = np.empty((len(rles), GRID, GRID), dtype=np.float32)
    for index, rle in enumerate(rles):
        height, width = rle["size"]
        cells = coco.decode(rle).reshape(GRID, height // GRID, GRID, width // GRID)
        out[index] = cells.mean(axis=(1, 3))
    return out


def decode_only(rles: list[masks.RLE]) -> None:
    for rle in rles:
        coco.decode(rle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--masks", type=Path, help="a COCO results file to take the masks from")
    chosen = parser.parse_args()
    sources = from_file(chosen.masks, COUNT) if chosen.masks else drawn(COUNT)
    contenders: dict[str, Callable[[list[masks.RLE]], Any]] = {
        "pycocotools decode + numpy mean": decode_and_average,
        "pycocotools decode alone (limit of every way that decodes)": decode_only,
        "masks.grid, one mask a call": lambda rles: [masks.grid([rle], (GRID, GRID)) for rle in rles],
        f"masks.grid, {COUNT} masks a call": lambda rles: masks.grid(rles, (GRID, GRID)),
    }
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
    )
    print(f"{chosen.rounds} interleaved rounds, {COUNT} masks, medians\n")
    print("| work | side | µs per mask | times faster than decode + mean |\n|---|---|---|---|")
    for side in (128, 512):
        rles = resized(sources, side)
        assert np.abs(masks.grid(rles, (GRID, GRID)) - decode_and_average(rles)).max() < 1e-6
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(chosen.rounds):
            for name, work in contenders.items():
                began = time.perf_counter()
                work(rles)
                times[name].append(time.perf_counter() - began)
        base = statistics.median(times["pycocotools decode + numpy mean"])
        for name, taken in times.items():
            median = statistics.median(taken)
            print(f"| {name} | {side} | {median / COUNT * 1e6:.1f} | {base / median:.1f} |")


if __name__ == "__main__":
    main()

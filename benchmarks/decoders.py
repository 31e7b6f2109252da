"""Decoders of stored pictures against Pillow: microseconds a picture, ratio, and whether the pixels are the same.

    python benchmarks/decoders.py [FOLDER] [--pictures 200] [--rounds 7]

FOLDER is a built dataset whose pictures are used; without one, noisy pictures are made. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openstory_hf import decoders, pictures
from openstory_hf.load import load_stories

Decoder = Callable[[bytes], NDArray[np.uint8]]


def pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(pictures.decode({"bytes": data, "path": ""}))


def ours(data: bytes) -> NDArray[np.uint8]:
    return decoders.rgb({"bytes": data, "path": ""})


def opencv(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


def made(kind: str, side: int, number: int) -> list[bytes]:
    draw, found = np.random.default_rng(0), []
    for _ in range(number):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 12, 3), np.uint8)).resize((side, side), 3)
        pixels = np.asarray(coarse, np.int16) + draw.integers(-6, 7, (side, side, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, kind, quality=92)
        found.append(buffer.getvalue())
    return found


def stored(folder: str, number: int) -> list[bytes]:
    found: list[bytes] = []
    for row in load_stories(folder, columns=["images"], shuffle=True):
        found += [image["bytes"] for image in row["images"] if image]
        if len(found) >= number:
            break
    return found[:number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.folder:
        sets = {"stored": stored(options.folder, options.pictures)}
    else:
        sets = {
            "PNG 128x128": made("PNG", 128, options.pictures),
            "JPEG 128x128": made("JPEG", 128, options.pictures),
            "JPEG 512x512": made("JPEG", 512, options.pictures),
        }
    contenders: dict[str, Decoder] = {"Pillow": pillow, "OpenCV": opencv, "openstory_hf.decoders": ours}
    print("| pictures | decoder | us a picture | against Pillow | same pixels |")
    print("|---|---|---|---|---|")
    for name, data in sets.items():
        times: dict[str, list[float]] = {decoder: [] for decoder in contenders}
        for _ in range(options.rounds):
            for decoder, decode in contenders.items():
                start = time.perf_counter()
                for one in data:
                    decode(one)
                times[decoder].append((time.perf_counter() - start) / len(data) * 1e6)
        for decoder, decode in contenders.items():
            same = all(np.array_equal(decode(one), pillow(one)) for one in data)
            ratio = statistics.median(p / t for p, t in zip(times["Pillow"], times[decoder], strict=True))
            print(f"| {name} | {decoder} | {statistics.median(times[decoder]):.0f} | {ratio:.2f}x | {same} |")


if __name__ == "__main__":
    main()

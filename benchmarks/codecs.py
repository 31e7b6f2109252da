"""Codecs of raw pixels: bytes of a picture, and the time it takes to encode it and to decode it again.

    python -m benchmarks.codecs [--compressors] [--pictures 300] [--rounds 5] [--work FOLDER]

The pictures are those of `benchmarks.loading`, drawn from all its episodes. Contenders take turns in every round;
medians are printed as a Markdown table. The last column decodes with what reads stored pictures in this package, which
is kornia-rs or simplejpeg where they are installed and know the format, and Pillow where not.

`--compressors` compares what could deflate the rows of our PNG instead; zlib-ng and isal must be installed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.loading import table
from benchmarks.loading.source import EPISODES, open_source
from openstory_hf import codecs, decoders

Pixels = NDArray[np.uint8]


def pillow_png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def opencv_png(pixels: Pixels) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def png_by(compress: Callable[[memoryview], bytes]) -> Callable[[Pixels], bytes]:
    """Our PNG with its rows deflated by something else."""

    def encode(pixels: Pixels) -> bytes:
        return codecs.as_png(*pixels.shape[:2], compress(codecs.filtered(pixels).data))

    return encode


def compressors() -> dict[str, Callable[[Pixels], bytes]]:
    from isal import igzip_lib
    from zlib_ng import zlib_ng

    def streamed(module: Any, strategy: int) -> Callable[[Pixels], bytes]:
        def compress(rows: memoryview) -> bytes:
            stream = module.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
            return bytes(stream.compress(rows) + stream.flush())

        return png_by(compress)

    def igzip(level: int, window: int) -> Callable[[Pixels], bytes]:
        settings = igzip_lib.COMP_ZLIB, igzip_lib.MEM_LEVEL_EXTRA_LARGE, window
        return png_by(lambda rows: igzip_lib.compress(rows, level, *settings))

    return {
        "zlib, runs": streamed(zlib, zlib.Z_RLE),
        "zlib-ng, runs": streamed(zlib_ng, zlib.Z_RLE),
        "zlib-ng, literals alone": streamed(zlib_ng, zlib.Z_HUFFMAN_ONLY),
        "ISA-L, level 1, window of 4 bytes": igzip(1, 2),
        "ISA-L, level 1": igzip(1, 15),
        "ISA-L, level 3": igzip(3, 15),
    }


def by_pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def by_package(data: bytes) -> Pixels:
    return decoders.rgb({"bytes": data, "path": ""})


CONTENDERS: dict[str, Callable[[Pixels], bytes]] = {
    **{f"`{name}`: {codec.title}": codec.encode for name, codec in codecs.CODECS.items()},
    "PNG by Pillow's defaults": pillow_png,
    "PNG by OpenCV's defaults": opencv_png,
}


def microseconds(work: Callable[[Any], object], values: Iterable[Any]) -> float:
    """The mean time that the work takes on a value."""
    values = list(values)
    start = time.process_time()  # other work on the machine matters less than to the time on the clock
    for value in values:
        work(value)
    return (time.process_time() - start) / len(values) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compressors", action="store_true", help="what could deflate the rows of our PNG")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where data is kept")
    chosen = parser.parse_args()
    source = open_source((chosen.work / f"{EPISODES}-episodes").resolve() / "source", EPISODES)
    clips = sorted(source.captions)
    drawn = [clips[at * len(clips) // chosen.pictures] for at in range(chosen.pictures)]
    pictures = [np.load(source.stack_file(clip))[at % 5] for at, clip in enumerate(drawn)]

    contenders = compressors() if chosen.compressors else CONTENDERS
    encoded = {name: [encode(pixels) for pixels in pictures] for name, encode in contenders.items()}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    busy = [table.load_average()]
    for _ in range(chosen.rounds):
        for name, encode in contenders.items():
            times[name, "encode"].append(microseconds(encode, pictures))
            times[name, "pillow"].append(microseconds(by_pillow, encoded[name]))
            times[name, "package"].append(microseconds(by_package, encoded[name]))
    busy.append(table.load_average())

    print(f"{len(pictures)} pictures of 128x128, {chosen.rounds} rounds, medians. {table.machine(busy)}\n")
    print("| codec | bytes | encode µs | decode µs, Pillow | decode µs, `openstory_hf` | pixels |")
    print("|---|--:|--:|--:|--:|---|")
    for name, data in encoded.items():
        numbers = [statistics.mean(map(len, data))]
        numbers += [statistics.median(times[name, what]) for what in ("encode", "pillow", "package")]
        same = all(np.array_equal(by_package(one), pixels) for one, pixels in zip(data, pictures, strict=True))
        print(
            f"| {name} | " + " | ".join(f"{number:,.0f}" for number in numbers) + f" | {'same' if same else 'near'} |"
        )


if __name__ == "__main__":
    main()

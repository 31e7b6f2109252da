"""Building an Openstory++ tar, against copying its members with Python's tarfile.

    python benchmarks/build.py [--samples 5000] [--rounds 3]

Contenders take turns in every round; medians, and speeds relative to the copy, are printed as a Markdown table. The
tar has `--samples` drawn samples of 512x512 (a JPEG with grain, a mask PNG, a JSON text), and is in the page cache.
The copy verifies nothing. "copy and inflate" also unpacks the zlib streams of the masks, the least that reading masks
takes. "copy and verify" does what the build must do to promise whole pictures and exact masks. At the end the JPEGs of
the built files and of the tar are compared by hash.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import platform
import shutil
import statistics
import struct
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from openstory_hf.builders.openstory_pp import OpenstoryPP, drawn
from PIL import Image

from openstory_hf import masks, pictures
from openstory_hf.build import build

DISTINCT = 60  # drawn samples, repeated; the figures move with the sample


def grained(sample: dict[str, bytes], seed: int) -> dict[str, bytes]:
    """The sample with the grain of a photograph, which makes its JPEG as large as one: about 50 KB."""
    pixels = np.asarray(Image.open(io.BytesIO(sample["jpg"]))).astype(np.float32)
    noisy = pixels + np.random.default_rng(seed).normal(0, 7, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return {**sample, "jpg": buffer.getvalue()}


def write_release(path: Path, count: int) -> None:
    made = [grained(drawn(number, size=512), number) for number in range(DISTINCT)]
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            for ending, data in made[number % DISTINCT].items():
                header = tarfile.TarInfo(f"video_{number // 50:05d}_keyframe_0-0-{number % 50}-0.{ending}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


def copied(source: Path, target: Path) -> Iterator[tuple[str, bytes]]:
    """Copy all members; yields them on the way."""
    with tarfile.open(source) as tar, tarfile.open(target, "w") as out:
        for member in tar:
            data = tar.extractfile(member).read()
            out.addfile(member, io.BytesIO(data))
            yield member.name, data


def copy(source: Path, out: Path) -> None:
    for _ in copied(source, out):
        pass


def copy_and_inflate(source: Path, out: Path) -> None:
    for name, data in copied(source, out):
        if name.endswith(".png"):
            zlib.decompress(zlib_stream(data))


def zlib_stream(png: bytes) -> bytes:
    parts, at = [], 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"IDAT":
            parts.append(png[at + 8 : at + 8 + length])
        at += 12 + length
    return b"".join(parts)


def copy_and_verify(source: Path, out: Path) -> None:
    for name, data in copied(source, out):
        if name.endswith(".jpg"):
            pictures.check(data)
        elif name.endswith(".png"):
            masks.from_labels(masks.read_labels(data))
        else:
            json.loads(data)


def build_with(processes: int) -> Callable[[Path, Path], None]:
    def run(source: Path, out: Path) -> None:
        build(OpenstoryPP, source.parent, out, num_proc=processes, shard_bytes=32 << 20)

    return run


def hashes_in_tar(path: Path) -> Counter[str]:
    with tarfile.open(path) as tar:
        pictures_only = (tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg"))
        return Counter(hashlib.sha256(data).hexdigest() for data in pictures_only)


def hashes_in_build(out: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for file in sorted(out.glob("frames/*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(64, columns=["images"]):
            found.update(hashlib.sha256(i["bytes"]).hexdigest() for row in batch["images"].to_pylist() for i in row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work, on a disk with room for six times the tar")
    choice = parser.parse_args()
    contenders: dict[str, Callable[[Path, Path], None]] = {
        "copy with tarfile": copy,
        "copy and inflate": copy_and_inflate,
        "copy and verify": copy_and_verify,
        "build, 1 process": build_with(1),
        "build, 2 processes": build_with(2),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory(dir=choice.folder) as folder:
        tar, out = Path(folder, "raw", "00000.tar"), Path(folder, "out")
        write_release(tar, choice.samples)
        size = tar.stat().st_size
        for _ in range(choice.rounds):
            for name, run in contenders.items():
                shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
                start = time.perf_counter()
                run(tar, out)
                times[name].append(time.perf_counter() - start)
        assert hashes_in_build(out) == hashes_in_tar(tar), "pictures were changed on the way"
    print(f"{choice.samples} samples, {size / 1e6:.0f} MB, {choice.rounds} rounds, Python {platform.python_version()}")
    print(
        "\n| contender | seconds | MB/s | samples/s | speed against copy | against copy and verify |"
        "\n|---|--:|--:|--:|--:|--:|"
    )
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in middle.items():
        ratios = " | ".join(f"{middle[base] / seconds:.2f}" for base in ("copy with tarfile", "copy and verify"))
        print(f"| {name} | {seconds:.2f} | {size / seconds / 1e6:.0f} | {choice.samples / seconds:.0f} | {ratios} |")


if __name__ == "__main__":
    main()

"""One run in a process of its own: write the data of a contender, check what it loads, or measure it.

python -m benchmarks.loading.run measure mds WORK --workers 2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process is a core; set before the libraries read it

import numpy as np
import torch

from benchmarks.loading.roster import NAMES, Contender
from benchmarks.loading.source import KEPT, KEY, Source, episode_of, open_source

BATCH = 16


def folder_of(work: Path, contender: Contender) -> Path:
    """Where the data of a contender lies."""
    return work / "source" / "release" if contender.form == "release" else work / contender.form


def convert(contender: Contender, source: Source, work: Path) -> float:
    """Write the form that a contender loads, unless it is there; the seconds it took."""
    folder = folder_of(work, contender)
    if not contender.form or folder.exists():
        return 0.0
    unfinished = folder.with_name(f"unfinished-{contender.form}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    began = time.perf_counter()
    contender.imported().WRITE[contender.form](source, unfinished)
    taken = time.perf_counter() - began
    unfinished.rename(folder)
    return taken


def load(contender: Contender, source: Source, work: Path, workers: int) -> Any:
    return contender.imported().LOAD[contender.name](source, folder_of(work, contender), workers)


def measure(contender: Contender, source: Source, work: Path, workers: int, seconds: float) -> dict[str, float]:
    """Whole epochs until some seconds have passed.

    Returns:
        `rate` in stories a second, from the start of the first epoch to the end of the last; `first`, the seconds from
        opening the data to the first batch; `spread`, the mean number of episodes among the stories of a batch.
    """
    contender.imported()
    opened = time.perf_counter()
    loader = load(contender, source, work, workers)
    first, stories, openings = 0.0, 0, []
    began = time.perf_counter()
    while not stories or time.perf_counter() - began < seconds:
        for batch in loader:
            first = first or time.perf_counter() - opened
            stories += len(batch["pixel_values"])
            openings.append([captions[0] for captions in batch["captions"]])
    rate = stories / (time.perf_counter() - began)
    full = [{episode_of(source.clip_of[caption]) for caption in batch} for batch in openings if len(batch) == BATCH]
    return {"rate": rate, "first": first, "spread": sum(map(len, full)) / len(full)}


def check(contender: Contender, source: Source, work: Path, workers: int) -> None:
    """All windows once in an epoch, with the very pixels of their clips; in one process, a second in another order.

    Raises:
        AssertionError: with what is wrong.
    """
    clips_of = pictures_of(source)
    loader = load(contender, source, work, workers)
    expected = Counter(source.windows)
    orders, drawn = [], Counter[int]()
    for _ in range(1 if workers else 2):
        order = []
        for batch in loader:
            for pixels, captions in zip(stored_pixels(batch["pixel_values"]), batch["captions"], strict=True):
                window = tuple(source.clip_of[caption] for caption in captions)
                order.append(window)
                for clip, picture in zip(window, pixels, strict=True):
                    shown = clips_of[digest(picture)].get(clip)
                    assert shown, f"a picture is not one of {clip}, whose caption it comes with"
                    drawn.update(shown if len(shown) == 1 else ())
        missing, more = expected - Counter(order), Counter(order) - expected
        assert not missing, f"{missing.total()} windows are missing"
        assert not more, f"{more.total()} windows come again"
        orders.append(order)
    assert source.windows != orders[0] != orders[-1] or workers, "the windows are not shuffled anew in each epoch"
    if contender.random:
        even = drawn.total() / KEPT
        assert all(abs(drawn[k] - even) < 5 * even**0.5 for k in range(KEPT)), f"pictures are drawn unevenly: {drawn}"
    else:
        assert set(drawn) == {KEY}, f"pictures other than the middle one: {drawn}"


def pictures_of(source: Source) -> dict[bytes, dict[str, list[int]]]:
    """Digest of a picture -> the clips that have it -> as which of their pictures; blank ones look all the same."""
    found: dict[bytes, dict[str, list[int]]] = defaultdict(dict)
    for clip in source.captions:
        for k, pixels in enumerate(np.load(source.stack_file(clip))):
            found[digest(pixels)].setdefault(clip, []).append(k)
    return found


def stored_pixels(batch: torch.Tensor) -> np.ndarray:
    """The pictures of a batch as they are stored: uint8 (B, 5, 128, 128, 3)."""
    if batch.dtype == torch.uint8:
        return batch.numpy()
    assert batch.dtype == torch.float32, batch.dtype
    assert batch.is_contiguous()
    values = (batch + 1) * 127.5
    whole = values.round()
    assert float((values - whole).abs().max()) < 1e-3, "the values are not those of pixels"
    return whole.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().numpy()


def digest(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["convert", "check", "measure"])
    parser.add_argument("contender", choices=NAMES)
    parser.add_argument("work", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    contender, source = NAMES[chosen.contender], open_source(chosen.work / "source")
    result: dict[str, float] = {}
    if chosen.what == "convert":
        result = {"seconds": convert(contender, source, chosen.work)}
    elif chosen.what == "check":
        check(contender, source, chosen.work, chosen.workers)
    else:
        result = measure(contender, source, chosen.work, chosen.workers, chosen.seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""The time to the first batch of a fresh process, from a local disk and over HTTP, with the requests and bytes.

    python -m benchmarks.loading.first_batch [--quick] [--rounds 5] [--work FOLDER] [--markdown FILE]

A batch is 16 stories of five pictures, decoded and normalised. Every request over HTTP waits 50 ms before it is
answered. The clock starts when the dataset is opened; imports are told apart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.loading import command, measure, table
from benchmarks.loading.source import EPISODES, LENGTH
from openstory_hf.testing import FileServer

BATCH = 16
LATENCY = 0.05
FORMS = {"ours": "openstory", "windows": "openstory", "hf": "hf-fixed"}
ROWS = {
    ("ours", True): "openstory_hf, published stories, shuffled",
    ("ours", False): "… in order",
    ("windows", True): "openstory_hf, windows with random pictures, shuffled",
    ("windows", False): "… in order",
    ("hf", True): "HF streaming, 5 fixed pictures, bytes, our decoder, shuffled (buffer of 1,000)",
    ("hf", False): "… in order",
}


def first(way: str, folder: str, files: list[str], shuffled: bool, began: float) -> dict[str, float]:
    """The `seconds` to the first batch, and those of `imports` before, from the start of the process.

    Args:
        way: of `FORMS`.
        folder: path or address of the data.
        files: names of its Parquet files, which a server does not list.
        shuffled: whether the stories are.
        began: when the process was started, in seconds since the epoch.
    """
    os.environ |= {"HF_HUB_OFFLINE": "0", "no_proxy": "127.0.0.1"}  # the server is no Hub, but not local either
    opened = opening(way, folder, files, shuffled)
    imported, start = time.time(), time.perf_counter()
    batch = opened()
    taken = time.perf_counter() - start
    assert batch["pixel_values"].shape == (BATCH, LENGTH, 3, 128, 128)
    return {"seconds": taken, "imports": imported - began}


def opening(way: str, folder: str, files: list[str], shuffled: bool) -> Callable[[], dict[str, Any]]:
    """A function that gives the first batch; the imports are behind it."""
    if way == "hf":
        from benchmarks.loading.contenders import hugging_face
        from benchmarks.loading.pixels import fast

        def streamed() -> dict[str, Any]:
            stream = hugging_face.open_stream([f"{folder}/{file}" for file in files], fast)
            rows = stream.shuffle(seed=0) if shuffled else stream
            return hugging_face.collate(fast, list(islice(rows, BATCH)))

        return streamed
    from openstory_hf.collate import StoryTensorCollator
    from openstory_hf.load import load_stories
    from openstory_hf.loader import StoryLoader

    options: dict[str, Any] = {"length": LENGTH, "frame": "random"} if way == "windows" else {}

    def loaded() -> dict[str, Any]:
        stories = load_stories(folder, shuffle=shuffled, columns=("images", "captions"), **options)
        collate = StoryTensorCollator(image_size=128, keep_captions=True)
        return next(iter(StoryLoader(stories, collate, BATCH)))

    return loaded


def main() -> None:
    chosen = command.options(__doc__, disk="4 GB").parse_args()
    size = EPISODES
    if chosen.quick:
        chosen.rounds, size = 1, EPISODES // 12
    work = command.written("clips", ["ours", "hf-fixed"], chosen.work, size)
    keys = [(way, shuffled, remote) for way, shuffled in ROWS for remote in (False, True)]
    busy = [table.load_average()]
    found = measure.rounds(keys, chosen.rounds, partial(once, work))
    busy.append(table.load_average())
    rows = []
    for (way, shuffled), title in ROWS.items():
        local, remote = found[way, shuffled, False], found[way, shuffled, True]
        figures = [
            f"{local.median('imports'):.1f}",
            f"{local.median('seconds'):.2f}",
            f"{remote.median('seconds'):.2f}",
            f"{remote.median('requests'):.0f}",
            f"{remote.median('bytes') / 1e6:,.1f}",
        ]
        rows.append([title, *figures])
    columns = ["first batch", "imports s", "local s", f"HTTP, {LATENCY * 1000:.0f} ms: s", "requests", "MB"]
    text = f"{chosen.rounds} rounds, medians. {table.machine(busy)}\n\n{table.markdown(columns, rows)}\n"
    command.report(text, chosen.markdown)


def once(work: Path, key: tuple[str, bool, bool]) -> dict[str, Any]:
    """A run in a fresh process; over HTTP also the number of `requests`, and the `bytes` sent."""
    way, shuffled, remote = key
    folder = work / FORMS[way]
    given = {"way": way, "files": sorted(file.name for file in folder.glob("*.parquet")), "shuffled": shuffled}
    run = partial(measure.call, "benchmarks.loading.first_batch", "first", **given)
    if not remote:
        return run(folder=folder, began=time.time())
    with FileServer(folder, latency=LATENCY) as server:
        result = run(folder=server.url, began=time.time())
        requests = server.requests
    return {**result, "requests": len(requests), "bytes": sum(request.bytes for request in requests)}


if __name__ == "__main__":
    main()

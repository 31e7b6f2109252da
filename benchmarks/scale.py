"""What grows with the size of a dataset, and what does not.

    python -m benchmarks.scale opening [--shards 10000] [--groups 100] [--work FOLDER] [--markdown FILE]
    python -m benchmarks.scale going-on [--shards 10000] [--groups 100] [--work FOLDER] [--markdown FILE]
    python -m benchmarks.scale costs [--quick] [--rounds 3] [--work FOLDER] [--markdown FILE]

`opening` opens a dataset of 10^4 shards and 10^6 row groups, 2*10^7 stories of five frames, from a disk and over HTTP,
and takes a first batch of 16: requests, anonymous memory, processor time. What is synthetic about it: see `huge`.

`going-on` reads shuffled stories of it from a disk: memory of the process as it reads more.

`costs` builds and reads a release at 1, 4 and 16 times a size: time of a frame, calls of functions for a frame (which
no other process disturbs), and peak anonymous memory.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import resource
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from benchmarks import huge
from benchmarks.loading import command, measure, table

BATCH = 16
ROWS, PICTURE = 20, 240_000
"""Stories of a row group, and bytes of a picture: 24 MB to the row group, 10^8 frames in 10^6 row groups."""

REQUESTS: dict[str, dict[str, Any]] = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "windows of 3, shuffled": {"shuffle": True, "length": 3},
}
OPENED = "opened"
"""A file that is not there, asked for to mark the moment."""

SIZES = (1, 4, 16)
SEQUENCES = 800
"""Sequences of ten frames in a release of size 1; a picture of 20 kB each."""


# -- opening: each in a process of its own


def opening(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """Open a dataset, from a folder or a server, and take a batch.

    Returns:
        `imported`, `opened`, `batch`: anonymous bytes after importing, before the first row's data, and with the first
        batch; `cpu`: processor seconds to open it and begin its order. A server is asked for `OPENED` when it is.
    """
    from openstory_hf import load_stories

    gc.collect()
    found: dict[str, Any] = {"imported": measure.anonymous(os.getpid())}
    began = time.process_time()
    stories = load_stories(path, **options)
    stories.order(0).at(0, BATCH)  # what the first stories are
    found |= {"cpu": time.process_time() - began, "opened": measure.anonymous(os.getpid())}
    if path.startswith("http"):
        with suppress(HTTPError):
            urlopen(f"{path}/{OPENED}")
    rows = list(islice(iter(stories), BATCH))
    assert len(rows) == BATCH
    assert all(len(image["bytes"]) == PICTURE for row in rows for image in row["images"])
    return found | {"batch": measure.anonymous(os.getpid())}


def _kind(path: str) -> str:
    if path.endswith("manifest.json"):
        return "manifest"
    return "contents" if "contents" in path else "index" if path.startswith("/index/") else "pictures"


def report_opening(chosen: argparse.Namespace) -> str:
    from openstory_hf.testing import FileServer

    folder = chosen.work / f"huge-{chosen.shards}-{chosen.groups}"
    huge.write(folder, shards=chosen.shards, groups=chosen.groups, rows=ROWS, picture_bytes=PICTURE)
    busy = [table.load_average()]
    rows = []
    for remote in (True, False):
        for name, options in REQUESTS.items():
            with FileServer(folder) as server:
                path = server.url if remote else folder
                found = measure.call("benchmarks.scale", "opening", path=path, options=options)
                paths = [request.path for request in server.requests]
            kinds = Counter(_kind(path) for path in paths if OPENED not in path)
            by_kind = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
            rows.append(
                [
                    f"{name}, {'over HTTP' if remote else 'from a disk'}",
                    f"{paths.index(f'/{OPENED}')}" if remote else "–",
                    by_kind if remote else "–",
                    *(f"{found[at] / 1e6:,.0f}" for at in ("imported", "opened", "batch")),
                    f"{found['cpu']:.2f}",
                ]
            )
            print(rows[-1], file=sys.stderr)
    busy.append(table.load_average())
    manifest, contents = folder / "manifest.json", next(folder.glob("index/*.contents.parquet"))
    part = next(folder.glob("index/*-of-*.parquet"))
    head = (
        f"{chosen.shards:,} shards of {chosen.groups} row groups, {chosen.shards * chosen.groups * ROWS:,} stories. "
        f"Manifest {manifest.stat().st_size / 1e6:,.1f} MB, contents {contents.stat().st_size / 1e6:,.2f} MB, "
        f"index of a shard {part.stat().st_size / 1e6:,.2f} MB. {table.machine(busy)}"
    )
    columns = ["reading", "requests to open", "with the first batch", "MB imported", "MB opened", "MB with a batch"]
    return f"{head}\n\n{table.markdown([*columns, 'CPU s to open'], rows)}\n"


# -- going on: memory of a process that reads more and more of a huge dataset


def going_on(folder: str, marks: list[int]) -> dict[str, Any]:
    """Read shuffled stories; at each of some numbers, most anonymous bytes so far and seconds of processor since."""
    from openstory_hf import load_stories

    found, most, used = [], 0, time.process_time()
    for number, _ in enumerate(load_stories(folder, shuffle=True), 1):
        if number % 50 == 0:
            most = max(most, measure.anonymous(os.getpid()))
        if number in marks:
            found.append((number, most, time.process_time() - used))
            used = time.process_time()
        if number == marks[-1]:
            break
    return {"marks": found}


def report_going_on(chosen: argparse.Namespace) -> str:
    folder = chosen.work / f"huge-{chosen.shards}-{chosen.groups}"
    huge.write(folder, shards=chosen.shards, groups=chosen.groups, rows=ROWS, picture_bytes=PICTURE)
    busy = [table.load_average()]
    marks = [500, 1000] if chosen.quick else [1000, 4000, 16_000, 64_000]
    found = measure.call("benchmarks.scale", "going_on", folder=folder, marks=marks)["marks"]
    busy.append(table.load_average())
    rows, before = [], 0
    for number, most, cpu in found:
        size, frames = number * huge.FRAMES * PICTURE / 1e9, (number - before) * huge.FRAMES
        rows.append([f"{number:,}", f"{size:,.1f}", f"{most / 1e6:,.0f}", f"{1e6 * cpu / frames:.0f}"])
        before = number
    columns = ["stories read", "GB", "peak MB", "CPU µs a frame since"]
    return f"{table.machine(busy)}\n\n{table.markdown(columns, rows)}\n"


# -- costs


def build(folder: str, size: int, out: str, counted: bool) -> dict[str, float]:
    """Build a release of so many times the size; see `_measured`."""
    from benchmarks.releases import Plain
    from openstory_hf.build import build as build_release

    return _measured(lambda: build_release(Plain, folder, out), size, counted)


def read(out: str, size: int, counted: bool) -> dict[str, float]:
    """Read an epoch, shuffled, pictures encoded; see `_measured`."""
    from openstory_hf import load_stories

    def epoch() -> None:
        frames = sum(len(row["images"]) for row in load_stories(out, shuffle=True))
        assert frames == size * SEQUENCES * 10, frames

    return _measured(epoch, size, counted)


def _measured(work: Callable[[], Any], size: int, counted: bool) -> dict[str, float]:
    """Of a frame: seconds of a clock, of a processor in our code and in the system's, or calls of functions."""
    frames = size * SEQUENCES * 10
    if counted:
        profile = cProfile.Profile()
        profile.runcall(work)
        return {"calls": sum(entry.callcount for entry in profile.getstats()) / frames}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    found = {"wall": wall, "user": after.ru_utime - before.ru_utime, "system": after.ru_stime - before.ru_stime}
    return {name: seconds / frames for name, seconds in found.items()}


def report_costs(chosen: argparse.Namespace) -> str:
    from benchmarks.releases import write_plain

    sizes = (1, 2, 4) if chosen.quick else SIZES
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    counts: dict[tuple[str, int], float] = {}
    busy = [table.load_average()]
    for size in sizes:
        write_plain(chosen.work / f"release-{size}", size * SEQUENCES)
    for at in range(chosen.rounds + 1):  # in the last one calls are counted
        for size in sizes:
            out, raw, counted = chosen.work / f"built-{size}", chosen.work / f"release-{size}", at == chosen.rounds
            shutil.rmtree(out, ignore_errors=True)
            for verb, given in (("build", {"folder": raw}), ("read", {})):
                run = measure.call("benchmarks.scale", verb, **given, out=out, size=size, counted=counted)
                if counted:
                    counts[verb, size] = run["calls"]
                else:
                    found.setdefault((verb, size), []).append(run)
        print(f"round {at + 1} of {chosen.rounds + 1}", file=sys.stderr)
    busy.append(table.load_average())
    rows = []
    for verb, title in (("build", "building, one process"), ("read", "reading an epoch, shuffled")):
        for size in sizes:
            runs, least = found[verb, size], counts[verb, sizes[0]]
            clocks = (min(run[name] for run in runs) for name in ("user", "system", "wall"))
            memory = statistics.median(run["memory"] for run in runs)
            calls = counts[verb, size]
            times = (*(f"{1e6 * clock:.1f}" for clock in clocks), f"{calls:.1f}", f"{calls / least - 1:+.1%}")
            rows.append([title, f"{size * SEQUENCES * 10:,}", *times, f"{memory / 1e6:.0f}"])
    columns = [
        "work",
        "frames",
        "our CPU µs a frame",
        "kernel µs",
        "wall µs",
        "calls a frame",
        "against 1×",
        "peak MB",
    ]
    text = (
        f"{chosen.rounds} rounds: the shortest times, medians of memory. {table.machine(busy)}\n\n"
        f"{table.markdown(columns, rows)}\n"
    )
    for size in sizes:
        shutil.rmtree(chosen.work / f"built-{size}", ignore_errors=True)
        shutil.rmtree(chosen.work / f"release-{size}", ignore_errors=True)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("opening", "going-on", "costs"))
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="smaller")
    parser.add_argument("--work", type=Path, default=Path("build/scale"), help="folder for the data")
    parser.add_argument("--markdown", type=Path, help="write the table to a file, too")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.shards, chosen.rounds = min(chosen.shards, 200), 1
    chosen.work.mkdir(parents=True, exist_ok=True)
    reports = {"opening": report_opening, "going-on": report_going_on, "costs": report_costs}
    command.report(reports[chosen.what](chosen), chosen.markdown)


if __name__ == "__main__":
    main()

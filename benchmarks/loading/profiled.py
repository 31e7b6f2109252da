"""Where this package spends the time of an epoch: microseconds a story, function by function.

    python -m benchmarks.loading.profiled [--quick] [--work FOLDER] [--rows 20]

The profiler takes time itself, most where functions are small: compare the total with the one measured without it.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # set before the libraries read it

import torch

from benchmarks.loading import command
from benchmarks.loading.contenders import ours
from benchmarks.loading.source import EPISODES, open_source

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twelfth of the data")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where data is kept")
    parser.add_argument("--rows", type=int, default=20, help="functions to show")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    episodes = EPISODES // 12 if chosen.quick else EPISODES
    work = command.written("clips", ["ours"], chosen.work, episodes)
    source = open_source(work / "source")
    loader = ours.windows(source, work / "openstory", 0)
    stories = len(source.windows)

    epoch(loader)  # reads the files into the page cache
    bare = epoch(loader) / stories
    profiler = cProfile.Profile()
    profiled = profiler.runcall(epoch, loader) / stories
    print(f"{bare * 1e6:.0f} µs a story; {profiled * 1e6:.0f} with the profiler\n")
    print("| µs itself | µs with callees | calls a story | function |\n|--:|--:|--:|---|")
    found: Any = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    by_time = sorted(found.items(), key=lambda entry: -entry[1][2])
    for (file, line, name), (_, calls, itself, total, _) in by_time[: chosen.rows]:
        place = "" if file == "~" else f" ({short(file)}:{line})"
        figures = f"{itself / stories * 1e6:.1f} | {total / stories * 1e6:.1f} | {calls / stories:.2f}"
        print(f"| {figures} | `{name}`{place} |")


def epoch(loader: ours.Epochs) -> float:
    """The seconds that an epoch takes."""
    began = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - began


def short(file: str) -> str:
    path = Path(file)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else "/".join(path.parts[-2:])


if __name__ == "__main__":
    main()

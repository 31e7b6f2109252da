"""The figures as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.loading.measure import Figures, Key
from benchmarks.loading.roster import Contender

PACKAGES = (
    "torch numpy pyarrow pillow kornia_rs datasets webdataset mosaicml-streaming litdata h5py opencv-python-headless"
)
COLUMNS = (
    "contender",
    "stories/s, one process",
    "ours is faster by",
    "stories/s, {} workers",
    "ours is faster by",
    "first batch s",
    "spread",
    "peak MB",
    "on disk MB",
)


def machine(load: Sequence[str]) -> str:
    """Processor, memory, versions, and how busy the machine was at the start and the end."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    known = "".join(f", {name} {found}" for name in PACKAGES.split() if (found := _version(name)))
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GB; load average {' → '.join(load)}. "
        f"Python {platform.python_version()}{known}."
    )


def load_average() -> str:
    """Of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def markdown(
    contenders: Iterable[Contender], figures: Mapping[Key, Figures], sizes: Mapping[str, int], workers: int
) -> str:
    """A row for each contender; "ours" is the first, whichever that is.

    Args:
        contenders: the rows.
        figures: of each contender, with 0 and with `workers` workers.
        sizes: form -> bytes on disk.
        workers: how many.
    """
    lines = [f"| {' | '.join(COLUMNS)} |".format(workers), "|---|" + "--:|" * (len(COLUMNS) - 1)]
    first = next(iter(figures))[0]
    best = {count: figures[first, count].median("rate") for count in (0, workers) if (first, count) in figures}
    for contender in contenders:
        cells = [contender.title]
        for count in (0, workers):
            if (contender.name, count) in figures:
                rate = figures[contender.name, count].median("rate")
                cells += [f"{rate:,.0f}", f"{best[count] / rate:.2f}×"]
            else:
                cells += ["–", "–"]
        alone, stored = figures[contender.name, 0], bool(contender.form)
        cells.append(f"{alone.median('first'):.2f}" if stored else "–")
        cells.append(f"{alone.median('spread'):.1f}")
        cells.append(f"{alone.median('memory') / 1e6:,.0f}" if stored else "–")
        cells.append(f"{sizes[contender.form] / 1e6:,.0f}" if stored else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

"""The figures as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.loading.measure import Runs
from benchmarks.loading.roster import Contender

PACKAGES = (
    "torch numpy pyarrow pillow kornia_rs datasets webdataset megatron-energon mosaicml-streaming litdata h5py "
    "opencv-python-headless pycocotools"
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


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def of_contenders(
    contenders: Sequence[Contender],
    figures: Mapping[tuple[Contender, int], Runs],
    sizes: Mapping[str, int],
    workers: Sequence[int],
    own: Mapping[str, str],
) -> str:
    """A row for each contender.

    Args:
        contenders: the rows.
        figures: of each contender, with each number of workers.
        sizes: form -> bytes on disk.
        workers: 0 for one process, and others; memory and the first batch are those of the first.
        own: names of contenders that the others are compared with -> what they are called; those that are no rows
            are left out.
    """
    ours = {of: title for of in contenders if (title := own.get(of.name))}
    rows = []
    for contender in contenders:
        cells = [contender.title]
        for count in workers:
            rate = figures[contender, count].median("rate")
            cells += [f"{rate:,.0f}", *(f"{figures[of, count].median('rate') / rate:.2f}×" for of in ours)]
        alone = figures[contender, workers[0]]
        cells += [
            "–" if contender.limit else f"{alone.median('first'):.2f}",
            f"{alone.median('spread'):.1f}",
            "–" if contender.limit else f"{alone.median('memory') / 1e6:,.0f}",
            "–" if contender.limit else f"{sizes[contender.form] / 1e6:,.0f}",
        ]
        rows.append(cells)
    processes = [f"{count} workers" if count else "one process" for count in workers]
    faster = [f"{title} is faster by" for title in ours.values()]
    rates = [name for count in processes for name in (f"stories/s, {count}", *faster)]
    return markdown(["contender", *rates, "first batch s", "spread", "peak MB", "on disk MB"], rows)

"""Peak memory of one process, and the time of a story, as the data grows: an epoch at 1/4, 1 and 4 times the size.

    python -m benchmarks.loading.memory [--quick] [--rounds 3] [--work FOLDER] [--markdown FILE]

The work is that of `python -m benchmarks.loading`. Memory is what no file could give back: the anonymous pages. The
largest data is written anew each time and deleted at the end; there, the form of 5×5 pictures would take 20 GB.
"""

from __future__ import annotations

import shutil

from benchmarks.loading import command, measure, table
from benchmarks.loading.roster import TABLES
from benchmarks.loading.source import EPISODES

NAMES = ("ours", "hf-fixed", "hf-fast")
SIZES = (EPISODES // 4, EPISODES, 4 * EPISODES)
SMALL_ONLY = "hf-fast"


def main() -> None:
    chosen = command.options(__doc__, disk="10 GB more while it runs").parse_args()
    sizes = SIZES
    if chosen.quick:
        chosen.rounds, sizes = 1, (2, 4, 8)
    keys = [(name, size) for size in sizes for name in NAMES if name != SMALL_ONLY or size != sizes[-1]]
    work = {}
    for size in sizes:
        work[size] = command.written("clips", [name for name, of in keys if of == size], chosen.work, size)
    busy = [table.load_average()]

    def epoch(key: tuple[str, int]) -> dict[str, float]:
        name, size = key
        given = {"table": "clips", "name": name, "work": work[size], "workers": 0, "seconds": 0}
        return measure.call("benchmarks.loading.run", "measure", **given)

    found = measure.rounds(keys, chosen.rounds, epoch)
    busy.append(table.load_average())
    windows = [len(TABLES["clips"].source(work[size]).windows) for size in sizes]
    rows = []
    for name in NAMES:
        cells = [TABLES["clips"].contender(name).title]
        for size in sizes:
            runs = found.get((name, size))
            memory = f"{runs.median('memory') / 1e6:,.0f}" if runs else "–"
            cells += [memory, f"{1e6 / runs.median('rate'):,.0f}" if runs else "–"]
        rows.append(cells)
    columns = [name for count in windows for name in (f"MB at {count:,} windows", "µs a story")]
    text = (
        f"An epoch in one process, {chosen.rounds} rounds, medians. {table.machine(busy)}\n\n"
        f"{table.markdown(['contender', *columns], rows)}\n"
    )
    command.report(text, chosen.markdown)
    shutil.rmtree(work[sizes[-1]])


if __name__ == "__main__":
    main()

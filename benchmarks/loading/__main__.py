"""The tables of all contenders.

    python -m benchmarks.loading [TABLE] [--quick] [--only NAME ...] [--work FOLDER] [--markdown FILE]

TABLE is one of: clips, windows of clips with a random picture of each; masks, the same with instance masks on a 16×16
grid; keyframes, stories of large JPEGs. The data is written once and kept in the work folder. Before the rounds, every
contender is checked: all windows once in an epoch, in another order in each, with the very pixels and masks of their
clips. In a round, each contender takes its turn in a fresh process: whole epochs until some seconds have passed.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from benchmarks.loading import command, measure, table
from benchmarks.loading.roster import TABLES, Contender
from benchmarks.loading.run import folder_of

Key = tuple[Contender, int]


def main() -> None:
    parser = command.options(__doc__, rounds=None, disk="15 GB for all tables")
    parser.add_argument("table", nargs="?", default="clips", choices=TABLES)
    parser.add_argument("--seconds", type=float, default=5.0, help="least time of a run, after which its epoch ends")
    parser.add_argument("--workers", type=int, nargs="+", help="only these columns; 0 is one process")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only some of the contenders")
    chosen = parser.parse_args()
    shown = TABLES[chosen.table]
    size, chosen.rounds = shown.size, chosen.rounds or shown.rounds
    if chosen.quick:
        chosen.rounds, chosen.seconds, size = 1, 1.0, size // 12
    contenders = [contender for contender in shown.contenders if not chosen.only or contender.name in chosen.only]
    work = command.written(chosen.table, [contender.name for contender in contenders], chosen.work, size)
    source = shown.source(work)

    def run(function: str, key: Key, **arguments: Any) -> dict[str, Any]:
        contender, workers = key
        given = {"table": chosen.table, "name": contender.name, "work": work, **arguments}
        once = partial(measure.call, "benchmarks.loading.run", function, **given)
        if contender.limit and workers:  # it has no workers, but so many processes
            return measure.at_once(workers, partial(once, workers=0))
        return once(workers=workers)

    columns = tuple(chosen.workers or shown.workers)
    keys = [(contender, workers) for contender in contenders for workers in columns]
    for contender, workers in keys:
        if not (contender.limit and workers):
            run("check", (contender, workers))
            print(f"checked: {contender.name}, {workers} workers", file=sys.stderr)
    busy = [table.load_average()]
    figures = measure.rounds(keys, chosen.rounds, partial(run, "measure", seconds=chosen.seconds))
    busy.append(table.load_average())

    sizes = {c.form: command.size_of(folder_of(work, c)) for c in contenders if c.form}
    text = (
        f"{len(source.windows):,} windows of {len(source.captions):,} clips, {chosen.rounds} rounds, medians. "
        f"{table.machine(busy)}\n\n{table.of_contenders(contenders, figures, sizes, columns, shown.own)}\n"
    )
    if "openstory" in sizes:
        read = sum(command.size_of(work / "openstory" / part) for part in ("frames", "index"))
        text += (
            f"\nOf the {sizes['openstory'] / 1e6:,.0f} MB of openstory_hf, frames and index, read here, are "
            f"{read / 1e6:,.0f} MB; the rest are the published stories for a plain `load_dataset`.\n"
        )
    if chosen.table == "masks" and {"ours-masks", "ours"} <= {contender.name for contender in contenders}:
        with_masks, without = (figures[shown.contender(name), 0].median("rate") for name in ("ours-masks", "ours"))
        text += f"\nMasks cost openstory_hf {without / with_masks - 1:.1%}.\n"
    command.report(text, chosen.markdown)


if __name__ == "__main__":
    main()

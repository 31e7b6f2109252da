"""The table of all contenders.

    python -m benchmarks.loading [--quick] [--only NAME ...] [--work FOLDER] [--markdown FILE]

The data is written once and kept in the work folder. Before the rounds, every contender is checked: all windows once
in an epoch, in another order in each, with the very pixels of their clips. In a round, each contender takes its turn
in a fresh process: whole epochs until some seconds have passed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.loading import measure, table
from benchmarks.loading.roster import NAMES, ROSTER
from benchmarks.loading.run import folder_of
from benchmarks.loading.source import EPISODES, open_source

WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twelfth of the data, one short round: a trial")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="least time of a run, after which its epoch ends")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="size of the data")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=NAMES, help=f"some of: {', '.join(NAMES)}")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where data is kept (10 GB)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.episodes = 1, 1.0, EPISODES // 12
    work = (chosen.work / f"{chosen.episodes}-episodes").resolve()
    source = open_source(work / "source", chosen.episodes)
    contenders = [contender for contender in ROSTER if not chosen.only or contender.name in chosen.only]
    keys = [(c.name, count) for c in contenders for count in ((0, WORKERS) if c.workers else (0,))]

    def run(what: str, key: measure.Key) -> dict[str, Any]:
        name, count = key
        options = ["--workers", str(count), "--seconds", str(chosen.seconds)]
        return measure.run("benchmarks.loading.run", [what, name, str(work), *options])

    for contender in contenders:
        made = run("convert", (contender.name, 0))
        if made["seconds"]:
            print(f"written for {contender.name}: {made['seconds']:.1f} s", file=sys.stderr)
    for name, count in keys:
        run("check", (name, count))
        print(f"checked: {name}, {count} workers", file=sys.stderr)
    busy = [table.load_average()]
    figures = measure.rounds(keys, chosen.rounds, lambda key: run("measure", key))
    busy.append(table.load_average())

    sizes = {c.form: size_of(folder_of(work, c)) for c in contenders if c.form}
    text = (
        f"{len(source.windows):,} windows of {len(source.captions):,} clips, {chosen.rounds} rounds, medians. "
        f"{table.machine(busy)}\n\n{table.markdown(contenders, figures, sizes, WORKERS)}\n"
    )
    if "openstory" in sizes:
        read = sum(size_of(work / "openstory" / part) for part in ("frames", "index"))
        text += (
            f"\nOf the {sizes['openstory'] / 1e6:,.0f} MB of openstory_hf, frames and index, read here, are "
            f"{read / 1e6:,.0f} MB; the rest are the published stories for a plain `load_dataset`.\n"
        )
    print(text)
    if chosen.markdown:
        chosen.markdown.write_text(text, encoding="utf-8")


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()

"""What the commands that make tables share: their options, and where the table goes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.loading import measure
from benchmarks.loading.roster import TABLES


def options(description: str | None, *, rounds: int = 5, disk: str) -> argparse.ArgumentParser:
    """A parser with the options that all commands have.

    Args:
        description: the text of the command's module.
        rounds: by default.
        disk: how much the data takes.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twelfth of the data, one short round: a trial")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help=f"where data is kept ({disk})")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    return parser


def written(table: str, names: Sequence[str], work: Path, size: int) -> Path:
    """The folder of a table's data, once the source and the forms of some contenders are in it."""
    chosen = TABLES[table]
    folder = chosen.folder_in(work, size)
    chosen.open(folder / "source", size)
    for name in names:
        made = measure.call("benchmarks.loading.run", "convert", table=table, name=name, work=folder)
        if made["seconds"]:
            print(f"written for {name}: {made['seconds']:.1f} s", file=sys.stderr)
    return folder


def report(text: str, file: Path | None) -> None:
    """Print a text, and write it to a file."""
    print(text)
    if file:
        file.write_text(f"{text}\n", encoding="utf-8")


def size_of(folder: Path) -> int:
    """Bytes on disk."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

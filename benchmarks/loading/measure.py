"""Processes of the benchmark: started afresh for each run, with their anonymous memory watched from outside."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EVERY = 0.05
"""Seconds between two looks at the memory."""

Key = tuple[str, int]
"""Contender and number of workers."""


class RunFailed(Exception):
    """A run ended with an error; says which, and the end of what it printed."""


@dataclass
class Figures:
    """The rounds of a contender with so many workers."""

    rate: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        """The median over the rounds: stories/s, s, episodes, bytes."""
        values: list[float] = getattr(self, name)
        return statistics.median(values)


def run(module: str, arguments: Iterable[str]) -> dict[str, Any]:
    """Run a module in a process of its own.

    Returns:
        The JSON of its last line, and the most anonymous memory in bytes: `memory` of it and its children together,
        `largest` of any one of them.

    Raises:
        RunFailed: if it ends with an error.
    """
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    together, largest, ended = 0, 0, threading.Event()

    def watch() -> None:
        nonlocal together, largest
        while not ended.wait(EVERY):
            used = [anonymous(pid) for pid in family(process.pid)]
            together, largest = max(together, sum(used)), max(largest, *used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        raise RunFailed(f"{' '.join(command[2:])}:\n{output[-2000:]}")
    return {**json.loads(output.splitlines()[-1]), "memory": together, "largest": largest}


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except OSError:  # it has ended
        pass
    return [pid, *(one for child in children for one in family(child))]


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory of a process, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)


def rounds(keys: Sequence[Key], number: int, once: Callable[[Key], dict[str, Any]]) -> dict[Key, Figures]:
    """Let all contenders take turns in every round."""
    figures: dict[Key, Figures] = defaultdict(Figures)
    for at in range(number):
        began = time.monotonic()
        for key in keys:
            result = once(key)
            for name, values in vars(figures[key]).items():
                values.append(result[name])
        print(f"round {at + 1} of {number}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return figures

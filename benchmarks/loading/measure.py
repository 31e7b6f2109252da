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
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
EVERY = 0.05
"""Seconds between two looks at the memory."""

Key = TypeVar("Key", bound=Hashable)
"""What tells the rows of a table apart: a name, mostly, or a name and a number of workers."""


class RunFailed(Exception):
    """A run ended with an error; says which, and the end of what it printed."""


class Runs(list[dict[str, Any]]):
    """What a row gave in all rounds."""

    def median(self, name: str) -> float:
        """The median of one of the figures."""
        return statistics.median(run[name] for run in self)


def call(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """Call a function in a process of its own; as `run`.

    Args:
        module: where it is.
        function: its name; it returns a dictionary of figures.
        arguments: of the function, as JSON knows them; paths become text.
    """
    return run("benchmarks.loading.once", [module, function, json.dumps(arguments, default=str)])


def at_once(number: int, once: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """So many runs side by side: their rates added, the other figures of the first."""
    with ThreadPoolExecutor(number) as pool:
        found = [ran.result() for ran in [pool.submit(once) for _ in range(number)]]
    return {**found[0], "rate": sum(one["rate"] for one in found)}


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


def rounds(keys: Sequence[Key], number: int, once: Callable[[Key], dict[str, Any]]) -> dict[Key, Runs]:
    """Let all rows take turns in every round."""
    found: dict[Key, Runs] = defaultdict(Runs)
    for at in range(number):
        began = time.monotonic()
        for key in keys:
            found[key].append(once(key))
        print(f"round {at + 1} of {number}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return found

"""Load stories for some minutes from a Hub that fails, with workers that are killed, and keep books.

    python scripts/soak.py [--minutes 10] [--workers 24] [--seed 0] [--interval 60]

A Hub on this machine serves a synthetic dataset and disturbs requests at random: refusals, cut answers, many in a row.
A second process reads epoch after epoch through a `StoryLoader`; now and then one of its workers gets SIGKILL. Of
whatever error comes, it goes on from the last state, as the error says. Every epoch must give each story exactly once,
and in the end no process, file descriptor or shared memory may be left over, and no memory that grew all the time.
Prints a line of figures per interval; the exit status is 1 if anything was lost, repeated or leaked.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

SHARED = Path("/dev/shm")
GROWTH_MB = 48
"""The most the reading process may have grown since the first third; allocators keep some of what is freed."""


def ids(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch with a tensor that is large enough for shared memory."""
    import torch

    sizes = torch.zeros(len(rows), 4096)
    sizes[:, 0] = torch.tensor([sum(len(image["bytes"]) for image in row["images"]) for row in rows])
    return {"ids": [row["story_id"] for row in rows], "sizes": sizes}


class Books:
    """What was read, what went wrong, and what this process and its children hold."""

    def __init__(self) -> None:
        self.workers: set[int] = set()
        self.epochs = self.stories = self.lost = self.repeated = self.errors = 0
        self.before = self.held()
        self.megabytes: list[float] = []

    def held(self) -> tuple[int, int, int]:
        """Child processes, file descriptors, files in shared memory that workers have made."""
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return (
            len(children),
            len(os.listdir("/proc/self/fd")),
            sum(int(path.name.split("-")[1]) in self.workers for path in SHARED.glob("openstory-*-*")),
        )

    def epoch(self, found: Counter[str], expected: set[str]) -> None:
        """Enter the stories of an epoch."""
        self.epochs += 1
        self.stories += found.total()
        self.lost += len(expected - found.keys())
        self.repeated += found.total() - len(found)

    def line(self, minutes: float) -> str:
        """The figures so far."""
        status = Path("/proc/self/status").read_text()
        resident = int(status.partition("RssAnon:")[2].split()[0]) / 1024
        self.megabytes.append(resident)
        children, descriptors, shared = self.held()
        return (
            f"{minutes:.1f} min: {self.epochs} epochs, {self.stories} stories, {self.lost} lost, {self.repeated} "
            f"repeated, {self.errors} errors resumed from; {resident:.0f} MB, {children} processes, {descriptors} "
            f"file descriptors, {shared} shared files"
        )


def read(arguments: argparse.Namespace) -> int:
    """The reading process."""
    from openstory_hf import load_stories
    from openstory_hf.errors import OpenStoryError
    from openstory_hf.loader import StoryLoader

    def load() -> StoryLoader:
        stream = load_stories("me/soak", "train", shuffle=True, seed=arguments.seed, frame="random")
        return StoryLoader(stream, ids, 2, num_workers=arguments.workers)

    draw = random.Random(arguments.seed)
    expected = {row["story_id"] for row in load_stories("me/soak", "train", columns=["story_id"])}
    loader = load()
    next(iter(loader))  # imports, connections and caches are there before the books begin
    loader.close()
    del loader
    gc.collect()
    books = Books()
    print(books.line(0), flush=True)
    began = said = time.monotonic()
    end = began + 60 * arguments.minutes
    loader, state, found = load(), None, Counter[str]()
    while time.monotonic() < end or state is not None:
        try:
            if loader is None:
                loader = load()
            if state is not None:
                loader.load_state_dict(state)
            else:
                loader.set_epoch(books.epochs)
            for batch in loader:
                books.workers.update(worker.process.pid for worker in loader._workers)
                found.update(batch["ids"])
                state = loader.state_dict()
                if draw.random() < arguments.kills:
                    os.kill(draw.choice(loader._workers).process.pid, signal.SIGKILL)
                if time.monotonic() - said >= arguments.interval:
                    said = time.monotonic()
                    print(books.line((said - began) / 60), flush=True)
            books.epoch(found, expected)
            state, found = None, Counter()
        except OpenStoryError:
            books.errors += 1
            if loader is not None:
                loader.close()
            loader = None
    if loader is not None:
        loader.close()
    batch = loader = None
    gc.collect()
    print(books.line((time.monotonic() - began) / 60))
    left = [after - before for before, after in zip(books.before, books.held(), strict=True)]
    growth = books.megabytes[-1] - books.megabytes[len(books.megabytes) // 3]
    print(
        f"left over: {left[0]} processes, {left[1]} file descriptors, {left[2]} shared files; grown by {growth:.0f} "
        "MB since the first third"
    )
    return 1 if books.lost or books.repeated or not books.epochs or max(left) > 0 or growth > GROWTH_MB else 0


def disturb(hub: Any, draw: random.Random, stop: threading.Event) -> None:
    """Some fault every now and then: most are overcome by trying again, some last longer than that."""
    while not stop.wait(draw.uniform(0.5, 4.0)):
        if any(fault.left for fault in hub._faults):
            continue  # a process that is alone meets them slowly, and would never be done with a queue that grows
        fault = draw.choice([{"status": 500}, {"status": 503}, {"status": 429, "retry_after": 0}, {"cut": 100}])
        hub.faults("GET .*/resolve/", times=draw.choice([*[1] * 9, 2, 3, 25]), **fault)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--workers", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interval", type=float, default=60, help="seconds between two lines")
    parser.add_argument("--kills", type=float, default=0.002, help="chance of a killed worker after each batch")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)  # the process that reads
    arguments = parser.parse_args()
    if arguments.read:
        return read(arguments)

    from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

    from openstory_hf.build import build
    from openstory_hf.fakes import RawWriter
    from openstory_hf.testing.hub import LocalHub

    with tempfile.TemporaryDirectory(prefix="soak-") as folder, LocalHub() as hub:
        release = {"train": {f"s_01_e_{number:02d}": 24 for number in range(1, 9)}}
        write_release(RawWriter(Path(folder, "raw")), release, variant="B")
        out = Path(folder, "out")
        build(FlintstonesSV, Path(folder, "raw"), out, splits=["train"], shard_bytes=1)
        hub.publish(out, "me/soak")
        stop = threading.Event()
        faults = threading.Thread(target=disturb, args=(hub, random.Random(arguments.seed), stop))
        command = [sys.executable, __file__, "--read", *sys.argv[1:]]
        try:
            with subprocess.Popen(command, env=hub.environment(), stdout=subprocess.PIPE, text=True) as reader:
                assert reader.stdout
                for number, line in enumerate(reader.stdout):
                    print(line, end="", flush=True)
                    if number == 0:  # the books are open
                        faults.start()
            return reader.returncode
        finally:
            stop.set()
            if faults.is_alive():
                faults.join()


if __name__ == "__main__":
    sys.exit(main())

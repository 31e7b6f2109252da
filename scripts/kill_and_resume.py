"""Kill builds at random moments and show that the same command, run again, ends with the same bytes.

    python scripts/kill_and_resume.py --work FOLDER [--kills 100] [--num-proc 1 2] [--seed 0] [DATASET[=RAW] ...]

Datasets and numbers of processes take turns. Without RAW a dataset is built from its synthetic release. An undisturbed
build of each gives the hashes to compare with and its duration; then builds are started, and some random time after
the first sign of one its whole process group gets SIGKILL. Each is run again to the end and compared file by file.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from os import killpg
from pathlib import Path

from openstory_hf import catalogue
from openstory_hf.fakes import RawWriter


@dataclass
class Case:
    """A release, how it is built, what the undisturbed build gave and how long it wrote."""

    dataset: str
    raw: Path
    num_proc: int
    expected: dict[str, str]
    seconds: float


def start(dataset: str, raw: Path, out: Path, num_proc: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "openstory_hf.cli", "build", dataset, "--raw", str(raw), "--out", str(out)]
    command += ["--on-error", "quarantine", "--quiet", "--num-proc", str(num_proc)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def has_begun(process: subprocess.Popen[bytes], out: Path) -> bool:
    """Wait for the first sign of a build; False if there was none."""
    while process.poll() is None:
        if (out / ".build").exists():
            return True
        time.sleep(0.002)
    return False


def hashes(out: Path) -> dict[str, str]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def undisturbed(dataset: str, raw: Path, num_proc: int, out: Path) -> Case:
    process = start(dataset, raw, out, num_proc)
    has_begun(process, out)
    began = time.monotonic()
    if process.wait():
        raise SystemExit(f"{dataset} cannot be built from {raw}")
    return Case(dataset, raw, num_proc, hashes(out), time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", metavar="DATASET[=RAW]", help="all by default")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--num-proc", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    work: Path = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    cases = []
    for wanted in arguments.datasets or catalogue.names():
        dataset, _, given = wanted.partition("=")
        raw = Path(given or work / f"{dataset}-raw")
        if not given:
            catalogue.get(dataset).fake(RawWriter(raw))
        for number in arguments.num_proc:
            cases.append(undisturbed(dataset, raw, number, work / f"{dataset}-{number}"))
    draw = random.Random(arguments.seed)
    killed = wrong = kept = 0
    for case in itertools.cycle(cases):
        if killed == arguments.kills:
            break
        out = work / "killed"
        shutil.rmtree(out, ignore_errors=True)
        process = start(case.dataset, case.raw, out, case.num_proc)
        if has_begun(process, out):
            time.sleep(draw.random() * case.seconds)
        if process.poll() is not None:
            continue  # it was done before the shot
        killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        done = len(list(out.glob(".build/*.json")))
        kept += done
        same = start(case.dataset, case.raw, out, case.num_proc).wait() == 0 and hashes(out) == case.expected
        wrong += not same
        print(
            f"{killed}: {case.dataset}, --num-proc {case.num_proc}: {done} shards were whole; run again: "
            f"{'same bytes' if same else 'DIFFERENT'}",
            flush=True,
        )
    print(f"{killed} builds killed, {kept} whole shards kept, {wrong} ended with other bytes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

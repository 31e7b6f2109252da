"""Kill builds at random moments and show that the same command, run again, ends with the same bytes.

    python scripts/kill_and_resume.py DATASET --raw RAW --work FOLDER [--kills 20] [--seed 0] [-- BUILD OPTIONS]

An undisturbed build gives the reference hashes and its duration; then builds are started and their whole process
group gets SIGKILL after a random share of that time. Each is run again to the end and compared file by file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def build(arguments: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "openstory_hf.cli", "build", arguments.dataset, "--raw", str(arguments.raw)]
    command += ["--out", str(out), "--quiet", *arguments.options]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def hashes(out: Path) -> dict[str, str]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    arguments = parser.parse_args(given.split())
    arguments.options = options.split()
    shutil.rmtree(arguments.work, ignore_errors=True)
    began = time.monotonic()
    if build(arguments, arguments.work / "whole").wait():
        return 1
    duration = time.monotonic() - began
    expected = hashes(arguments.work / "whole")
    draw = random.Random(arguments.seed)
    killed = wrong = kept = 0
    while killed < arguments.kills:
        out = arguments.work / "killed"
        shutil.rmtree(out, ignore_errors=True)
        process = build(arguments, out)
        time.sleep(draw.uniform(0.05, 1.0) * duration)
        if process.poll() is not None:
            continue  # it was done before the shot
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        done = len(list(out.glob(".build/*.json"))) if out.exists() else 0
        kept += done
        same = build(arguments, out).wait() == 0 and hashes(out) == expected
        wrong += not same
        print(f"{killed}: {done} shards were whole; run again: {'same bytes' if same else 'DIFFERENT'}", flush=True)
    print(f"{killed} builds killed, {kept} whole shards kept, {wrong} ended with other bytes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

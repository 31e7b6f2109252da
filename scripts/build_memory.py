"""Peak memory of building 2,000 and 8,000 FlintstonesSV clips (drawn pictures, variant B, 128 pixels).

    python scripts/build_memory.py FOLDER [--clips 2000 8000]

Each build is a fresh process; its peak resident memory is what the kernel reports when it ends.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from openstory_hf.builders.flintstones_sv import write_release

from openstory_hf.fakes import RawWriter


def peak(clips: int, folder: Path) -> float:
    """Lay a release of so many clips, build it, and return the peak memory in MB."""
    raw, out = folder / f"raw-{clips}", folder / f"out-{clips}"
    shutil.rmtree(out, ignore_errors=True)
    if not raw.exists():
        per_episode = 100
        names = [f"s_{1 + at // 90:02d}_e_{1 + at % 90:02d}" for at in range(clips // per_episode)]
        write_release(RawWriter(raw), {"train": dict.fromkeys(names, per_episode)}, variant="B")
    command = [
        sys.executable,
        "-m",
        "openstory_hf.cli",
        "build",
        "flintstones_sv",
        "--raw",
        str(raw),
        "--out",
        str(out),
    ]
    process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the build of {clips} clips failed")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, nargs=2, default=[2000, 8000])
    arguments = parser.parse_args()
    small, large = (peak(clips, arguments.folder) for clips in arguments.clips)
    few, many = arguments.clips
    print(f"{few:,} clips: {small:.0f} MB; {many:,} clips: {large:.0f} MB; ratio {large / small:.3f}")


if __name__ == "__main__":
    main()

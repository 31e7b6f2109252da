"""What was submitted to a queue for a folder, and whether it still is in there."""

from __future__ import annotations

import subprocess

from openstory_hf.target import Target, parsed
from openstory_hf.write import WORK

SUBMITTED = f"{WORK}/submitted"
"""What was submitted last: `engine`, `job` and `finish`, numbers of jobs, `logs`, and `at`."""


def in_queue(place: Target) -> bool:
    """Whether Slurm still has the jobs that were submitted last for a folder."""
    note = parsed(place.read(SUBMITTED)) or {}
    jobs = [str(note.get(name, "")) for name in ("job", "finish")]
    if not all(job.isdecimal() for job in jobs):
        return False
    command = ["squeue", "--noheader", "--jobs", ",".join(jobs)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and bool(found.stdout.strip())

"""What a build will take, said before anything is written: tasks, bytes, memory of a task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from openstory_hf.builder import dataset_name, tables
from openstory_hf.plan import Plan

BASE_MEMORY = 200 << 20
"""Resident memory of a process that builds rows of no size: Python, Arrow, the libraries of pictures."""

HELD_ROW_GROUPS = 2
"""How often the bytes of a row group are held for each table, as Python objects and as Arrow arrays. Both constants
are fits to builds with row groups of 8 to 96 MB, whose peaks were 228 to 577 MB; see docs/engines.md."""

MARGIN = 1.25
"""For what was not measured, such as the index files of a release, which a process keeps."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a plan will take.

    Args:
        dataset: its id.
        fingerprint: of the plan.
        splits: split -> number of shards, units and source records, and estimated bytes of pictures.
        tasks: number of shards.
        source_bytes: of all files of the release.
        output_bytes: estimate of what is written.
        largest_task: estimated bytes of the largest shard.
        task_memory: estimated bytes a task holds at most.
    """

    dataset: str
    fingerprint: str
    splits: dict[str, dict[str, int]]
    tasks: int
    source_bytes: int
    output_bytes: int
    largest_task: int
    task_memory: int

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def task_memory(plan: Plan) -> int:
    """Estimated bytes that a task holds at most."""
    held = HELD_ROW_GROUPS * len(tables(plan.builder.INFO)) * plan.row_group_bytes
    return int(MARGIN * (BASE_MEMORY + held))


def estimate(plan: Plan) -> Estimate:
    """What a plan will take."""
    splits: dict[str, dict[str, int]] = {}
    for shard in plan.shards:
        counts = splits.setdefault(shard.split, {"shards": 0, "units": 0, "records": 0, "bytes": 0})
        counts["shards"] += 1
        counts["units"] += len(shard.units)
        counts["records"] += shard.records
        counts["bytes"] += shard.size
    return Estimate(
        dataset=dataset_name(plan.builder),
        fingerprint=plan.fingerprint,
        splits=splits,
        tasks=len(plan.shards),
        source_bytes=plan.raw.total_size(),
        output_bytes=sum(counts["bytes"] for counts in splits.values()),
        largest_task=max(shard.size for shard in plan.shards),
        task_memory=task_memory(plan),
    )


def size_text(number: float) -> str:
    """Bytes for people.

    >>> size_text(1234), size_text(40_000_000_000)
    ('1 KB', '40.0 GB')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e3:.0f} KB"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def render(found: Estimate) -> str:
    """An estimate for people."""
    lines = [f"{found.dataset}: {_count(found.tasks, 'task')}, one for each shard (plan {found.fingerprint[:16]})"]
    for split, counts in found.splits.items():
        lines.append(
            f"{split}: {_count(counts['shards'], 'shard')} of {_count(counts['units'], 'unit')} with "
            f"{_count(counts['records'], 'source record')}, about {size_text(counts['bytes'])}"
        )
    lines += [
        f"source: {size_text(found.source_bytes)} in all files; output: about {size_text(found.output_bytes)}, the "
        f"largest task about {size_text(found.largest_task)}",
        f"memory: about {size_text(found.task_memory)} per task",
    ]
    if found.tasks == 1:
        lines.append("engines: pool; a single task gains nothing from others, but --num-proc gives it threads")
    else:
        every = size_text(found.tasks * found.task_memory)
        lines.append(
            f"engines: pool or datatrove-local with --num-proc up to {found.tasks:,} ({every} of memory then); slurm "
            f"or ray with up to {found.tasks:,} tasks at a time; or the same command with --tasks on several machines"
        )
    return "\n".join(lines) + "\n"

"""Plan a million synthetic units, and say how long that took and how much memory.

    python scripts/plan_scale.py [--units 1000000]

The units are like those of a real dataset: a name, a size, and where in which file they are. Planning is all that
`openstory build` does before the first shard: listing, checking that names are distinct, cutting into shards, the
fingerprint. Its peak resident memory, that of the imports included, is what the kernel reports of the process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from openstory_hf.builders.african_storybook import AfricanStorybook

from openstory_hf.builder import StoryBuilder
from openstory_hf.plan import plan_build
from openstory_hf.raw import Raw
from openstory_hf.records import Unit


def synthetic(number: int) -> type[StoryBuilder]:
    """A dataset of so many units."""

    def units(raw: Raw, split: str, **options: tuple[str, ...]) -> list[Unit]:
        return [
            Unit(
                unit_id=f"video-{at:07d}",
                split=split,
                records=12,
                size=100_000 + at % 1000,
                data={"file": f"part-{at // 1000:05d}/video-{at:07d}.json", "row": at % 1000},
            )
            for at in range(number)
        ]

    return type("Synthetic", (StoryBuilder,), {"INFO": AfricanStorybook.INFO, "units": staticmethod(units)})


def peak() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=1_000_000)
    arguments = parser.parse_args()
    builder, before = synthetic(arguments.units), peak()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "index.json").write_text("[]", encoding="utf-8")
        began = time.perf_counter()
        plan = plan_build(builder, Raw(folder))
        took = time.perf_counter() - began
    print(
        f"{arguments.units:,} units in {len(plan.shards):,} shards planned in {took:.1f} s; peak memory "
        f"{peak():.0f} MB, of which {before:.0f} MB were there after the imports; fingerprint {plan.fingerprint[:16]}"
    )


if __name__ == "__main__":
    main()

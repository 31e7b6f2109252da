"""Engines against the process pool: the same build of 64 shards on one machine, in seconds and in pace.

    python -m benchmarks.engines [--rounds 5] [--clips 12] [--num-proc 2] [--engines NAME ...] [--work FOLDER]
                                 [--markdown FILE]

Every shard is an episode of noisy clips, encoded as WebP, which takes about a second. Engines take turns in every
round, each in a fresh process. *Whole* is the build from its call to the manifest, with the start of workers or of
Ray. *Once started* is the pace while all workers have work: from the moment the last of them got its first shard to
the moment the first of them had finished its last, how many shards were built per second, those begun before or ended
later in part. The overhead is how much longer a shard takes than with the pool, in the same round. *Between two
shards* is how long a worker waits for the next one; other work of the machine disturbs that less.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

SHARDS = 64
ENGINES = ("pool", "datatrove-local", "ray")


def release(folder: Path, clips: int) -> None:
    """Write the release, with noise for pictures."""
    import numpy as np
    from openstory_hf.builders.flintstones_sv import write_release

    from openstory_hf.fakes import RawWriter

    episodes = {f"s_{1 + at // 32:02d}_e_{1 + at % 32:02d}": clips for at in range(SHARDS)}
    write_release(RawWriter(folder), {"train": episodes}, variant="B")
    noise = np.random.default_rng(0)
    for path in sorted((folder / "video_frames_sampled").glob("*.npy")):
        shape = np.load(path).shape
        np.save(path, noise.integers(0, 256, shape, dtype=np.uint8))


def by_worker(took: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """When each worker began and finished its shards."""
    spans = defaultdict(list)
    for facts in sorted(took, key=lambda facts: facts["finished"]):
        spans[facts["by"]].append((facts["finished"] - facts["seconds"], facts["finished"]))
    return spans


def pause(took: list[dict[str, Any]]) -> float:
    """Seconds between two shards of a worker, in the median."""
    return statistics.median(
        two[0] - one[1] for mine in by_worker(took).values() for one, two in itertools.pairwise(mine)
    )


def pace(took: list[dict[str, Any]]) -> float:
    """Shards per second while all workers have work."""
    spans = by_worker(took)
    begin = max(min(start for start, _ in mine) for mine in spans.values())
    end = min(max(stop for _, stop in mine) for mine in spans.values())
    shares = [
        max(0.0, min(stop, end) - max(start, begin)) / (stop - start)
        for mine in spans.values()
        for start, stop in mine
    ]
    return sum(shares) / (end - begin)


def once(engine: str, raw: Path, out: Path, num_proc: int) -> dict[str, Any]:
    """Build once, in this process; what came of it."""
    from openstory_hf.builders.flintstones_sv import FlintstonesSV

    from openstory_hf import build as room
    from openstory_hf import target

    results: list[dict[str, Any]] = []
    finish = room.finish

    def finishing(plan: Any, place: target.Target) -> dict[str, Any]:
        for path in out.glob(".build/*-of-*.json"):
            results.append(json.loads(path.read_text("utf-8"))["took"])
        return finish(plan, place)

    room.finish = finishing
    began = time.perf_counter()
    room.build(FlintstonesSV, raw, out, engine=engine, num_proc=num_proc, shard_bytes=1, image_codec="webp")
    whole = time.perf_counter() - began
    digest = hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    return {"whole": whole, "pace": pace(results), "pause": pause(results), "shards": len(results), "manifest": digest}


def run(engine: str, work: Path, num_proc: int) -> dict[str, Any]:
    """Build once, in a fresh process."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.engines", "--once", engine, "--work", str(work)]
    done = subprocess.run(
        [*command, "--num-proc", str(num_proc)], stdout=subprocess.PIPE, text=True, check=True, timeout=1800
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=12, help="of a shard")
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    parser.add_argument("--work", type=Path, default=Path("build/bench/engines"))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--once", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    raw = arguments.work / f"raw-{arguments.clips}"
    if arguments.once:
        raw = next(arguments.work.glob("raw-*"))
        print(json.dumps(once(arguments.once, raw, arguments.work / "out", arguments.num_proc)))
        return
    shutil.rmtree(arguments.work, ignore_errors=True)
    release(raw, arguments.clips)
    found = defaultdict(list)
    for number in range(arguments.rounds):
        first = number % len(arguments.engines)
        for engine in arguments.engines[first:] + arguments.engines[:first]:
            found[engine].append(run(engine, arguments.work, arguments.num_proc))
            print(f"round {number + 1}, {engine}: {found[engine][-1]}", file=sys.stderr, flush=True)
    manifests = {result["manifest"] for results in found.values() for result in results}
    assert len(manifests) == 1, "the engines wrote different bytes"
    lines = [
        "| engine | whole, s | once started, shards/s | overhead of a shard | between two shards, ms |",
        "|---|--:|--:|--:|--:|",
    ]
    for engine in arguments.engines:
        whole = statistics.median(result["whole"] for result in found[engine])
        each = statistics.median(result["pace"] for result in found[engine])
        over = [pool["pace"] / mine["pace"] - 1 for pool, mine in zip(found["pool"], found[engine], strict=True)]
        shown = "–" if engine == "pool" else f"{statistics.median(over):+.1%} ({min(over):+.1%} to {max(over):+.1%})"
        between = statistics.median(result["pause"] for result in found[engine])
        lines.append(f"| `{engine}` | {whole:.1f} | {each:.3f} | {shown} | {between * 1e3:.0f} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.markdown:
        arguments.markdown.write_text(text, encoding="utf-8")
    shutil.rmtree(arguments.work)


if __name__ == "__main__":
    main()

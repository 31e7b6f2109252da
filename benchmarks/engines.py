"""Engines against the process pool: the same build of 64 shards on one machine, in seconds and in pace.

    python -m benchmarks.engines [--rounds 5] [--clips 12] [--num-proc 2] [--engines NAME ...] [--work FOLDER]
                                 [--side-by-side] [--markdown FILE]

Every shard is an episode of noisy clips, encoded as WebP, which takes about a second. Engines take turns in every
round, each in a fresh process. *Whole* is the build from its call to the manifest, with the start of workers or of
Ray. *Once started* is the pace while all workers have work: from the moment the last of them got its first shard to
the moment the first of them had finished its last, how many shards were built per second, those begun before or ended
later in part. The overhead is how much longer a shard takes than with the pool, in the same round. *Between two
shards* is how long a worker waits for the next one.

On a machine that is busy with other work, turns meet different machines. With `--side-by-side` the pool and another
engine build at the same time, with a worker each, and their paces are compared for as long as both have work.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
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


def window(took: list[dict[str, Any]]) -> tuple[float, float]:
    """From the moment all workers have work to the moment one of them has none any more."""
    workers = by_worker(took).values()
    return max(mine[0][0] for mine in workers), min(mine[-1][1] for mine in workers)


def pace(took: list[dict[str, Any]], begin: float, end: float) -> float:
    """Shards per second in a time, those begun before or ended later in part."""
    built = 0.0
    for start, stop in (span for mine in by_worker(took).values() for span in mine):
        built += max(0.0, min(stop, end) - max(start, begin)) / (stop - start)
    return built / (end - begin)


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
    return {"whole": whole, "took": results, "manifest": digest}


def start(engine: str, raw: Path, out: Path, num_proc: int) -> subprocess.Popen[str]:
    """Begin a build in a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.engines", "--once", engine, str(raw), str(out)]
    # by default Ray's workers give way to all other work of the machine
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    return subprocess.Popen(
        [*command, "--num-proc", str(num_proc)], env=environment, stdout=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What came of a build."""
    said, _ = process.communicate(timeout=3600)
    if process.returncode:
        raise SystemExit("a build failed")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def in_turns(engines: list[str], rounds: int, raw: Path, work: Path, num_proc: int) -> list[str]:
    """Engines one after another, in every round; the lines of a table."""
    found = defaultdict(list)
    for number in range(rounds):
        first = number % len(engines)
        for engine in engines[first:] + engines[:first]:
            result = ended(start(engine, raw, work / "out", num_proc))
            result["pace"] = pace(result["took"], *window(result["took"]))
            found[engine].append(result)
            print(f"round {number + 1}, {engine}: {result['whole']:.1f} s", file=sys.stderr, flush=True)
    assert len({result["manifest"] for results in found.values() for result in results}) == 1, "different bytes"
    lines = [
        "| engine | whole, s | once started, shards/s | overhead of a shard | between two shards, ms |",
        "|---|--:|--:|--:|--:|",
    ]
    for engine in engines:
        whole, each = (statistics.median(result[name] for result in found[engine]) for name in ("whole", "pace"))
        between = statistics.median(pause(result["took"]) for result in found[engine])
        over = [pool["pace"] / mine["pace"] - 1 for pool, mine in zip(found["pool"], found[engine], strict=True)]
        shown = "–" if engine == "pool" else f"{statistics.median(over):+.1%} ({min(over):+.1%} to {max(over):+.1%})"
        lines.append(f"| `{engine}` | {whole:.1f} | {each:.3f} | {shown} | {between * 1e3:.0f} |")
    return lines


def side_by_side(engines: list[str], rounds: int, raw: Path, work: Path) -> list[str]:
    """The pool and another engine at the same time, a worker each; the lines of a table."""
    lines = ["| engine | pool, shards/s | engine, shards/s | overhead of a shard |", "|---|--:|--:|--:|"]
    for engine in engines:
        if engine == "pool":
            continue
        paces = []
        for number in range(rounds):
            both = [start(name, raw, work / f"out-{name}", 1) for name in ("pool", engine)]
            pool, other = map(ended, both)
            assert pool["manifest"] == other["manifest"], "different bytes"
            begins, ends = zip(window(pool["took"]), window(other["took"]), strict=True)
            begin, end = max(begins), min(ends)
            paces.append((pace(pool["took"], begin, end), pace(other["took"], begin, end)))
            print(f"round {number + 1}, pool and {engine}: {paces[-1]}", file=sys.stderr, flush=True)
        over = [one / two - 1 for one, two in paces]
        each = [statistics.median(column) for column in zip(*paces, strict=True)]
        spread = f"{statistics.median(over):+.1%} ({min(over):+.1%} to {max(over):+.1%})"
        lines.append(f"| `{engine}` | {each[0]:.3f} | {each[1]:.3f} | {spread} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=12, help="of a shard")
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    parser.add_argument("--side-by-side", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("build/bench/engines"))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        engine, raw, out = arguments.once
        print(json.dumps(once(engine, Path(raw), Path(out), arguments.num_proc)))
        return
    shutil.rmtree(arguments.work, ignore_errors=True)
    raw = arguments.work / "raw"
    release(raw, arguments.clips)
    if arguments.side_by_side:
        lines = side_by_side(arguments.engines, arguments.rounds, raw, arguments.work)
    else:
        lines = in_turns(arguments.engines, arguments.rounds, raw, arguments.work, arguments.num_proc)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.markdown:
        arguments.markdown.write_text(text, encoding="utf-8")
    shutil.rmtree(arguments.work)


if __name__ == "__main__":
    main()

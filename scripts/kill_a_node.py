"""Kill a node of a Ray cluster at a random moment of a build, again and again, and compare the bytes.

    python scripts/kill_a_node.py --work FOLDER [--runs 10] [--nodes 1 2 3] [--seed 0]

The nodes are separate Ray nodes of one machine, with a core each. An undisturbed build by one process gives the hashes
to compare with; one by each cluster gives the time it takes. Then, in every run, a cluster is started, the build
begins, and some random time after its first task has begun a node gets SIGKILL: the only one, which takes the whole
cluster and the build along, or one of the others than that of the build. A build that ended with it is run again on a
new cluster.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openstory_hf.builders.flintstones_sv import write_release

from openstory_hf.fakes import RawWriter

EPISODES = {"train": {f"s_01_e_{number:02d}": 9 for number in range(1, 13)}, "val": {"s_02_e_01": 7}}
BUILD = """
import sys
from openstory_hf.build import build
from openstory_hf.builders.flintstones_sv import FlintstonesSV
from openstory_hf.errors import OpenStoryError
try:
    build(FlintstonesSV, sys.argv[1], sys.argv[2], engine=sys.argv[3], shard_bytes=1, image_codec="webp")
except OpenStoryError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
LIMIT = 300
"""Seconds after which a build passes for one that hangs."""


def release(folder: Path) -> None:
    """Write the release, with noise for pictures, which takes long to encode."""
    import numpy as np

    write_release(RawWriter(folder), EPISODES, variant="B")
    noise = np.random.default_rng(0)
    for path in sorted((folder / "video_frames_sampled").glob("*.npy")):
        np.save(path, noise.integers(0, 256, np.load(path).shape, dtype=np.uint8))


def start(raw: Path, out: Path, engine: str, address: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(raw), str(out), engine]
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def hashes(out: Path) -> dict[str, str]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def cluster(nodes: int) -> Any:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    return made


def has_begun(process: subprocess.Popen[str], out: Path) -> bool:
    """Wait for the first task; False if there was none."""
    while process.poll() is None:
        if any(out.glob(".build/*.begun.*")):
            return True
        time.sleep(0.01)
    return False


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How a build ended, and what it said last."""
    try:
        _, said = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise SystemExit(f"a build hangs for {LIMIT} s") from None
    return process.returncode, (said.strip().splitlines() or [""])[-1][:100]


def shoot(made: Any, draw: random.Random) -> None:
    """Kill a node: any but that of the build, unless there is no other."""
    others = sorted(made.worker_nodes, key=lambda node: str(node.unique_id))
    made.remove_node(draw.choice(others or [made.head_node]), allow_graceful=False)


def undisturbed(nodes: int, raw: Path, out: Path, expected: dict[str, str]) -> float:
    """Build once on so many nodes; the seconds it took after its first task had begun."""
    made = cluster(nodes)
    process = start(raw, out, "ray", made.address)
    has_begun(process, out)
    began = time.monotonic()
    code, said = ended(process)
    seconds = time.monotonic() - began
    made.shutdown()
    if code or hashes(out) != expected:
        raise SystemExit(f"{nodes} nodes, undisturbed: other bytes, or an error: {said}")
    print(f"{nodes} nodes, undisturbed: same bytes, {seconds:.1f} s", flush=True)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, emptied")
    parser.add_argument("--runs", type=int, default=10, help="for each number of nodes")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # by default it takes a minute until Ray ends a build that has lost its cluster
    os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # noqa: SIM112
    work, draw = arguments.work, random.Random(arguments.seed)
    shutil.rmtree(work, ignore_errors=True)
    raw, out = work / "raw", work / "out"
    release(raw)
    if ended(start(raw, work / "expected", "pool"))[0]:
        raise SystemExit("the release cannot be built")
    expected = hashes(work / "expected")
    tasks = len(list((work / "expected/stories").iterdir()))
    wrong = 0
    for nodes in arguments.nodes:
        shutil.rmtree(out, ignore_errors=True)
        seconds = undisturbed(nodes, raw, out, expected)
        killed = again = kept = 0
        while killed < arguments.runs:
            shutil.rmtree(out, ignore_errors=True)
            made = cluster(nodes)
            process = start(raw, out, "ray", made.address)
            if has_begun(process, out):
                time.sleep(draw.random() * seconds)
            if process.poll() is not None:
                process.communicate()
                made.shutdown()
                continue  # it was done before the shot
            done = len(list(out.glob(".build/*-of-*.json")))
            shoot(made, draw)
            killed, kept = killed + 1, kept + done
            code, said = ended(process)
            if code:
                again += 1
                made.shutdown()
                made = cluster(nodes)
                code, said = ended(start(raw, out, "ray", made.address))
            made.shutdown()
            same = code == 0 and hashes(out) == expected
            wrong += not same
            how = "same bytes" if same else f"DIFFERENT {said}"
            print(f"{nodes} nodes, run {killed}: killed at {done} of {tasks} shards: {how}", flush=True)
        print(
            f"{nodes} nodes: {killed} nodes killed, {kept} whole shards were there by then, {again} builds ended with "
            "their node and were run again",
            flush=True,
        )
    print(f"{wrong} builds ended with other bytes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Building FlintstonesSV from its release, against the conversion script of AR-LDM: seconds, memory, bytes.

    python -m benchmarks.flintstones_build [--quick] [--rounds 5] [--episodes 24] [--work FOLDER] [--markdown FILE]

The release is that of `benchmarks.loading`: variant B, a `.npy` of five pictures per clip. Both write PNG. The script
(`xichenpan/ARLDM`, `data_script/flintstones_hdf5.py`) stores every window, ours every clip, and the windows as well.
The release is a tenth of FlintstonesSV, and one shard of the usual size: `--num-proc 2` is one process then, with two
threads that encode. So two processes also make shards of a tenth of that size, as many as the whole of FlintstonesSV
has. Contenders take turns in every round, each in a fresh process; at the end, the pictures of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.loading import measure, table
from benchmarks.loading.source import EPISODES, Source, open_source

CONTENDERS = {
    "hdf5": "AR-LDM's script",
    "ours-1": "openstory_hf, `--num-proc 1`",
    "ours-2": "openstory_hf, `--num-proc 2`",
    "ours-2-shards": "openstory_hf, `--num-proc 2`, shards of a tenth of the size",
}


def convert(name: str, release: Path, out: Path) -> dict[str, float]:
    """Build once; the seconds it took, and those of all processors, which other work changes less; without imports."""
    if name == "hdf5":
        from benchmarks.loading.contenders import hdf5

        out.mkdir()
        began, busy = time.perf_counter(), processors()
        hdf5.convert(release, out / hdf5.FILE)
    else:
        from openstory_hf.builders.flintstones_sv import FlintstonesSV

        from openstory_hf.build import build
        from openstory_hf.plan import SHARD_BYTES

        _, processes, *shards = name.split("-")
        shard_bytes = SHARD_BYTES // 10 if shards else SHARD_BYTES
        began, busy = time.perf_counter(), processors()
        build(FlintstonesSV, release, out, splits=["train"], num_proc=int(processes), shard_bytes=shard_bytes)
    return {"seconds": time.perf_counter() - began, "processors": processors() - busy}


def processors() -> float:
    """Seconds that this process and its children have had of all processors."""
    return sum(os.times()[:4])


def compare(source: Source, hdf5_folder: Path, built: Path) -> None:
    """Make sure that both hold every picture of every window, pixel by pixel.

    Raises:
        AssertionError: if they do not.
    """
    import cv2
    import h5py
    import numpy as np

    from benchmarks.loading.contenders import hdf5
    from openstory_hf import decoders
    from openstory_hf.load import load_stories

    rows = load_stories(str(built), length=5, frame="all", columns=("images", "captions"))
    with h5py.File(hdf5_folder / hdf5.FILE) as file:
        group, count = file["train"], 0
        number = {text: at for at, text in enumerate(group["text"].asstr())}
        for row in rows:
            at = number["|".join(row["captions"])]
            for place, pictures in enumerate(row["images"]):
                strip = cv2.imdecode(group[f"image{place}"][at], cv2.IMREAD_COLOR)
                assert np.array_equal(strip, np.concatenate([decoders.rgb(picture) for picture in pictures]))
            count += 1
    assert count == len(number) == len(source.windows), "they do not have the same windows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twelfth of the data, one round: a trial")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of the release")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where data is kept (4 GB)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    parser.add_argument("--once", nargs=3, metavar=("NAME", "RELEASE", "OUT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.once:
        name, release, out = chosen.once
        print(json.dumps(convert(name, Path(release), Path(out))))
        return
    episodes = chosen.episodes
    if chosen.quick:
        chosen.rounds, episodes = 1, EPISODES // 12
    work = (chosen.work / f"{episodes}-episodes").resolve()
    source = open_source(work / "source", episodes)
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    busy = [table.load_average()]
    for number in range(chosen.rounds):
        for name in CONTENDERS:
            shutil.rmtree(work / f"built-{name}", ignore_errors=True)
            given = ["--once", name, str(source.release), str(work / f"built-{name}")]
            results[name].append(measure.run("benchmarks.flintstones_build", given))
        print(f"round {number + 1} of {chosen.rounds}", file=sys.stderr)
    busy.append(table.load_average())
    for name in ("ours-2", "ours-2-shards"):
        compare(source, work / "built-hdf5", work / f"built-{name}")

    middle = {
        name: {what: statistics.median(one[what] for one in ones) for what in ones[0]}
        for name, ones in results.items()
    }
    rows = []
    for name, title in CONTENDERS.items():
        found = middle[name]
        size = sum(file.stat().st_size for file in (work / f"built-{name}").rglob("*") if file.is_file())
        faster = middle["hdf5"]["seconds"] / found["seconds"]
        rows.append(
            f"| {title} | {found['seconds']:.1f} | {faster:.2f}× | {found['processors']:.1f} "
            f"| {found['largest'] / 1e6:.0f} "
            f"| {found['memory'] / 1e6:.0f} | {size / 1e6:,.0f} |"
        )
        shutil.rmtree(work / f"built-{name}")
    names = "seconds | faster by | seconds of all processors | largest process MB | all processes MB | on disk MB"
    head = f"| build | {names} |\n|---|" + "--:|" * 6
    text = (
        f"{len(source.captions):,} clips, {len(source.windows):,} windows, {chosen.rounds} rounds, medians. "
        f"{table.machine(busy)}\n\n{head}\n" + "\n".join(rows) + "\n"
    )
    print(text)
    if chosen.markdown:
        chosen.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

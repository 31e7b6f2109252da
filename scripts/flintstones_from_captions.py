"""Lay a synthetic FlintstonesSV release, variant B, under real clip ids and captions.

The public captions list the clips that start a story; every episode has four more clips that only follow. They are
added here with invented ids and captions, and every clip gets five drawn pictures.

    python scripts/flintstones_from_captions.py CAPTIONS.json RAW [--size 128] [--list-all] [--no-cache]

CAPTIONS.json is a list of {"image": "<clip id>.png", "text": caption}.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from openstory_hf import catalogue
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.references import find_mentions

TAIL = 4


def lay(
    captions: Path, raw: RawWriter, *, size: int = 128, list_all: bool = False, cache: bool = True
) -> dict[str, list[str]]:
    """Write the release; returns story start -> the five ids its story must have."""
    cast = catalogue.get("flintstones_sv").INFO.characters
    texts = {entry["image"].removesuffix(".png"): entry["text"] for entry in json.loads(captions.read_text("utf-8"))}
    annotations, listed, stories = [], [], {}
    for episode, group in itertools.groupby(sorted(texts), key=lambda clip: clip.rpartition("_shot_")[0]):
        starts = list(group)
        last = int(starts[-1].rpartition("_")[2])
        tail = [f"{episode}_shot_{last + 1 + 75 * k:06d}_{last + 75 + 75 * k:06d}" for k in range(TAIL)]
        clips = starts + tail
        listed += clips if list_all else starts
        stories |= {clip: clips[at : at + 1 + TAIL] for at, clip in enumerate(starts)}
        for clip in clips:
            caption = texts.get(clip, "Fred waves.")
            names = list(dict.fromkeys(name for name, _, _ in find_mentions(caption, cast)))
            pictures = [scene(names, size=size, step=k, place=episode)[0] for k in range(5)]
            raw.npy(f"video_frames_sampled/{clip}.npy", np.stack(pictures))
            people = [{"entityLabel": name, "rectangles": [[0, 0, 9, 9]] * 3} for name in names]
            annotations.append({"globalID": clip, "description": caption, "setting": episode, "characters": people})
    raw.json("flintstones_annotations_v1-0.json", annotations)
    raw.json("train-val-test_split.json", {"train": [], "val": listed, "test": []})
    if cache:
        raw.pickle("following_cache4.pkl", {start: ids[1:] for start, ids in stories.items()})
    return stories


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument(
        "--list-all", action="store_true", help="list every clip in the split file, not only the starts"
    )
    parser.add_argument("--no-cache", action="store_true", help="leave out following_cache4.pkl")
    chosen = parser.parse_args()
    stories = lay(
        chosen.captions, RawWriter(chosen.raw), size=chosen.size, list_all=chosen.list_all, cache=not chosen.no_cache
    )
    print(f"{len(stories)} story starts in {chosen.raw}")


if __name__ == "__main__":
    main()

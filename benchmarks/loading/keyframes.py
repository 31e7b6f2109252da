"""Stories like those of Openstory++: runs of five keyframes of a video, JPEGs of 512×512, in a release of it.

    release/keyframes.tar    {key}.jpg and {key}.json of every keyframe
    jpg/{key}.jpg            the same pictures

No two stories share a keyframe, and a keyframe has one picture.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.loading.source import LENGTH, Pixels, Stories

VIDEOS = 80
STORIES = 5
"""Of each video."""
SIDE = 512
QUALITY = 90


class Keyframes(Stories):
    """The stories in a folder."""

    kept = 1

    def __init__(self, folder: Path) -> None:
        self.folder, self.release = folder, folder / "release"
        self.captions = json.loads((folder / "captions.json").read_text("utf-8"))
        keys = list(self.captions)
        self.windows = [tuple(keys[at : at + LENGTH]) for at in range(0, len(keys), LENGTH)]
        self.masks = {}

    def pixels(self, clip: str) -> Iterator[Pixels]:
        """The one picture, as Pillow decodes it."""
        with Image.open(self.folder / "jpg" / f"{clip}.jpg") as image:
            yield np.asarray(image)

    def picture(self, clip: str, number: int) -> bytes:
        """The one picture as a JPEG."""
        return (self.folder / "jpg" / f"{clip}.jpg").read_bytes()

    def sequence_of(self, clip: str) -> str:
        """The video."""
        return clip.partition("_keyframe_")[0]


def open_keyframes(folder: Path, videos: int = VIDEOS) -> Keyframes:
    """The stories in a folder, written first if they are not there."""
    if not (folder / "release").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _write(folder, videos)
    return Keyframes(folder)


def _write(folder: Path, videos: int) -> None:
    from benchmarks.loading.drawn import DOINGS, PLACES, illustrations  # only here: contenders do not need it
    from openstory_hf.fakes import RawWriter, scene

    (folder / "jpg").mkdir(parents=True)
    captions, samples = {}, {}
    files = illustrations(SIDE)
    for video in range(videos):
        for number in range(STORIES * LENGTH):
            key = f"{video:06d}_keyframe_0-0-{number}-0"
            place, doing = PLACES[video % 6], DOINGS[number % 6]
            captions[key] = f"A girl is {doing} a boy in the {place}, picture {number} of video {video}."
            shown = scene((doing, place), size=SIDE, step=number, place=f"{place}{video}")[0]
            if files:
                with Image.open(files[(video * 7 + number) % len(files)]) as image:
                    draw = np.random.default_rng([video, number])
                    left, top = (int(draw.integers(side - SIDE + 1)) for side in image.size)
                    shown = np.asarray(image.convert("RGB").crop((left, top, left + SIDE, top + SIDE)))
            file = folder / "jpg" / f"{key}.jpg"
            Image.fromarray(shown).save(file, quality=QUALITY)
            facts = {"caption": captions[key], "mask": []}
            samples[key] = {"jpg": file.read_bytes(), "json": json.dumps(facts).encode()}
    (folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    unfinished = RawWriter(folder / "unfinished")
    unfinished.samples("keyframes.tar", samples)
    unfinished.path.rename(folder / "release")

"""The stories that all contenders load, in a release of FlintstonesSV: variant B, or with masks, variant C.

    release/train-val-test_split.json (C: split.json), flintstones_annotations_v1-0.json, following_cache4.pkl
    release/video_frames_sampled/{clip}.npy (C: video_frames_sampled_4x)    uint8 (5, 128, 128, 3)
    png/{clip}-{k}.png       the same pictures, losslessly coded
    masks.json               clip -> of each picture the COCO run lengths of up to four instances; variant C

Twenty-four episodes of different lengths make 2,498 windows over 2,594 clips.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPISODES = 24
LENGTH = 5
"""Clips of a window."""
KEPT = 5
"""Pictures kept of a clip."""
KEY = 2
"""The one that stands for the clip where only one does."""
SIDE = 128

Window = tuple[str, ...]
Pixels = NDArray[np.uint8]
Masks = list[list[dict[str, Any]]]
"""Of each picture, the COCO run lengths of its instances."""


class Stories:
    """What contenders know of the stories; subclasses say where they lie.

    Attributes:
        release: the folder of the release.
        captions: clip -> its caption; no two are the same.
        windows: the clips of every window.
        kept: how many pictures a clip has.
        masks: clip -> its masks; empty if there are none.
    """

    release: Path
    captions: dict[str, str]
    windows: list[Window]
    kept: int
    masks: dict[str, Masks]

    def picture(self, clip: str, number: int) -> bytes:
        """One of the kept pictures of a clip, encoded."""
        raise NotImplementedError

    def pixels(self, clip: str) -> Iterator[Pixels]:
        """The kept pictures of a clip: uint8 (h, w, 3) each."""
        raise NotImplementedError

    def sequence_of(self, clip: str) -> str:
        """The episode or video that a clip belongs to."""
        raise NotImplementedError

    @cached_property
    def clip_of(self) -> dict[str, str]:
        """Caption -> clip."""
        return {caption: clip for clip, caption in self.captions.items()}

    def texts(self, window: Window) -> list[str]:
        """The captions of a window."""
        return [self.captions[clip] for clip in window]

    def masks_json(self, window: Window) -> str:
        """The masks of all pictures of a window as JSON text, which is fastest to read; "" if there are none."""
        return json.dumps([self.masks[clip] for clip in window]) if self.masks else ""

    def shuffled(self) -> list[Window]:
        """The windows in the random order in which the documentation of all shard formats says to write them."""
        return [self.windows[number] for number in np.random.default_rng(0).permutation(len(self.windows))]


class Source(Stories):
    """The stories in a folder."""

    kept = KEPT

    def __init__(self, folder: Path) -> None:
        self.folder, self.release = folder, folder / "release"
        detailed = (self.release / "split.json").exists()
        self.split_file = "split.json" if detailed else "train-val-test_split.json"
        self.stacks = self.release / ("video_frames_sampled_4x" if detailed else "video_frames_sampled")
        annotations = json.loads((self.release / "flintstones_annotations_v1-0.json").read_text("utf-8"))
        self.captions = {entry["globalID"]: entry["description"] for entry in annotations}
        clips = sorted(self.captions)
        starts = json.loads((self.release / self.split_file).read_text("utf-8"))["train"]
        place = {clip: at for at, clip in enumerate(clips)}
        self.windows = [tuple(clips[place[start] : place[start] + LENGTH]) for start in starts]

    @cached_property
    def masks(self) -> dict[str, Masks]:
        """Read when they are asked for: most contenders have them in their own form."""
        file = self.folder / "masks.json"
        return json.loads(file.read_text("utf-8")) if file.exists() else {}

    @property
    def masked(self) -> bool:
        """Whether there are masks."""
        return (self.folder / "masks.json").exists()

    def stack_file(self, clip: str) -> Path:
        """The `.npy` of a clip."""
        return self.stacks / f"{clip}.npy"

    def pixels(self, clip: str) -> Iterator[Pixels]:
        """The kept pictures of a clip: uint8 (128, 128, 3) each."""
        return iter(np.load(self.stack_file(clip)))

    def picture(self, clip: str, number: int) -> bytes:
        """One of the kept pictures of a clip as a PNG."""
        return (self.folder / "png" / f"{clip}-{number}.png").read_bytes()

    def sequence_of(self, clip: str) -> str:
        """The episode."""
        return clip.rpartition("_shot_")[0]


def open_source(folder: Path, episodes: int = EPISODES, *, masks: bool = False) -> Source:
    """The source in a folder, written first if it is not there."""
    if not (folder / "release").exists():
        from benchmarks.loading import drawn  # only here: contenders do not need what it imports
        from openstory_hf.fakes import RawWriter

        shutil.rmtree(folder, ignore_errors=True)
        drawn.write(RawWriter(folder / "unfinished"), folder, episodes, masks=masks)
        (folder / "unfinished").rename(folder / "release")
    return Source(folder)

"""The stories that all contenders load: moving sections of real illustrations, in the release of FlintstonesSV (B).

    release/train-val-test_split.json, flintstones_annotations_v1-0.json, following_cache4.pkl
    release/video_frames_sampled/{clip}.npy       uint8 (5, 128, 128, 3)
    png/{clip}-{k}.png                            the same pictures, losslessly coded

Twenty-four episodes of different lengths make 2,498 windows over 2,594 clips.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openstory_hf.fakes import RawWriter, scene
from openstory_hf.pictures import encode_png

EPISODES = 24
LENGTH = 5
"""Clips of a window."""
KEPT = 5
"""Pictures kept of a clip."""
KEY = 2
"""The one that stands for the clip where only one does."""
SIDE = 128

ILLUSTRATIONS = Path(__file__).parents[3] / "shared" / "data" / "african_storybook"
CAST = ("fred", "wilma", "barney", "betty", "dino", "pebbles")
DOINGS = ("talking to", "walking towards", "standing beside", "looking angrily at", "listening to", "laughing with")
PLACES = ("living room", "kitchen", "yard", "office", "car", "quarry")

Window = tuple[str, ...]


class Source:
    """The stories in a folder.

    Attributes:
        release: the folder of the release.
        captions: clip -> its caption; no two are the same.
        windows: the clips of every window.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.release = folder, folder / "release"
        annotations = json.loads((self.release / "flintstones_annotations_v1-0.json").read_text("utf-8"))
        self.captions: dict[str, str] = {entry["globalID"]: entry["description"] for entry in annotations}
        clips = sorted(self.captions)
        starts = json.loads((self.release / "train-val-test_split.json").read_text("utf-8"))["train"]
        place = {clip: at for at, clip in enumerate(clips)}
        self.windows: list[Window] = [tuple(clips[place[start] : place[start] + LENGTH]) for start in starts]

    @cached_property
    def clip_of(self) -> dict[str, str]:
        """Caption -> clip."""
        return {caption: clip for clip, caption in self.captions.items()}

    def stack_file(self, clip: str) -> Path:
        """The `.npy` of a clip."""
        return self.release / "video_frames_sampled" / f"{clip}.npy"

    def png(self, clip: str, picture: int) -> bytes:
        """One of the kept pictures of a clip."""
        return (self.folder / "png" / f"{clip}-{picture}.png").read_bytes()

    def texts(self, window: Window) -> list[str]:
        """The captions of a window."""
        return [self.captions[clip] for clip in window]

    def shuffled(self) -> list[Window]:
        """The windows in the random order in which the documentation of all shard formats says to write them."""
        return [self.windows[number] for number in np.random.default_rng(0).permutation(len(self.windows))]


def episode_of(clip: str) -> str:
    """The episode that a clip belongs to."""
    return clip.rpartition("_shot_")[0]


def open_source(folder: Path, episodes: int = EPISODES) -> Source:
    """The source in a folder, written first if it is not there."""
    if not (folder / "release").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _write(RawWriter(folder / "unfinished"), folder / "png", episodes)
        (folder / "unfinished").rename(folder / "release")
    return Source(folder)


def _write(release: RawWriter, png: Path, episodes: int) -> None:
    png.mkdir(parents=True)
    annotations, starts = [], []
    following: dict[str, list[str]] = {}
    for episode, windows in enumerate(_windows_of_episodes(episodes)):
        name = f"s_{1 + episode // 12:02d}_e_{1 + episode % 12:02d}"
        numbers = range(1, windows + LENGTH)
        clips = [f"{name}_shot_{number * 100:06d}_{number * 100 + 74:06d}" for number in numbers]
        starts += clips[:windows]
        following |= {clip: clips[at + 1 : at + LENGTH] for at, clip in enumerate(clips[:windows])}
        for number, clip in enumerate(clips):
            who, whom = CAST[number % 6], CAST[(number + 1 + number // 6 % 5) % 6]
            place, doing = PLACES[number // 20 % 6], DOINGS[number // 3 % 6]
            text = f"{who.title()} is {doing} {whom.title()} in the {place}, shot {number} of episode {episode}."
            people = [{"entityLabel": label, "rectangles": []} for label in (who, whom)]
            annotations.append({"globalID": clip, "description": text, "setting": place, "characters": people})
            stack = np.stack(list(_pictures(episode, number, (who, whom), place)))
            release.npy(f"video_frames_sampled/{clip}.npy", stack)
            for k, pixels in enumerate(stack):
                (png / f"{clip}-{k}.png").write_bytes(encode_png(pixels))
    release.json("flintstones_annotations_v1-0.json", annotations)
    release.json("train-val-test_split.json", {"train": starts, "val": [], "test": []})
    release.pickle("following_cache4.pkl", following)


def _windows_of_episodes(episodes: int) -> list[int]:
    """Windows of each episode: from half the mean to one and a half times it, 2,498 for 24 episodes."""
    total = round(2498 * episodes / EPISODES)
    edges = np.cumsum([0, *np.linspace(0.5, 1.5, episodes)]) / episodes * total
    counts: list[int] = np.diff(edges.round().astype(int)).tolist()
    return counts


def _pictures(episode: int, clip: int, cast: tuple[str, ...], place: str) -> Iterator[NDArray[np.uint8]]:
    """The kept pictures of a clip: a section of an illustration that moves by some pixels, as a camera does."""
    files = _illustrations()
    if not files:
        for k in range(KEPT):
            yield scene(cast, size=SIDE, step=k + clip, place=f"{place}{episode}")[0]
        return
    image = _halved(files[(episode * 7 + clip // 20) % len(files)])
    height, width, _ = image.shape
    draw = np.random.default_rng([episode, clip])
    room = SIDE + KEPT
    top, left = int(draw.integers(height - room + 1)), int(draw.integers(width - room + 1))
    for k in range(KEPT):
        yield image[top + k : top + k + SIDE, left + k : left + k + SIDE]


@lru_cache(maxsize=1)
def _illustrations() -> list[Path]:
    """Those large enough to be halved, which takes the traces of their own coding away."""
    found = []
    for file in sorted(ILLUSTRATIONS.rglob("*.jpg")):
        with Image.open(file) as image:
            if min(image.size) >= 2 * (SIDE + KEPT):
                found.append(file)
    return found


@lru_cache(maxsize=4)
def _halved(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize((image.width // 2, image.height // 2)))

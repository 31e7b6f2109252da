"""Writes the stories that all contenders load: moving sections of real illustrations."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.loading.source import EPISODES, KEPT, KEY, LENGTH, SIDE
from openstory_hf.fakes import RawWriter, Scene, scene
from openstory_hf.forms.stacks import StoryDallE, StoryGPTV, segments_of, write_stack
from openstory_hf.masks import encode

ILLUSTRATIONS = Path(__file__).parents[3] / "shared" / "data" / "african_storybook"
CAST = ("fred", "wilma", "barney", "betty", "dino", "pebbles")
DOINGS = ("talking to", "walking towards", "standing beside", "looking angrily at", "listening to", "laughing with")
PLACES = ("living room", "kitchen", "yard", "office", "car", "quarry")

Pixels = NDArray[np.uint8]


def write(release: RawWriter, folder: Path, episodes: int, *, masks: bool) -> None:
    """Write a release, and beside it the pictures as PNG and the masks as COCO run lengths."""
    (folder / "png").mkdir(parents=True)
    form = StoryGPTV if masks else StoryDallE
    annotations: list[dict[str, Any]] = []
    starts: list[str] = []
    following: dict[str, list[str]] = {}
    cleaned, run_lengths = {}, {}
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
            figures = CAST[: 1 + number % 4]
            pictures = list(_pictures(episode, number, (who, whom), place))
            shown = [_figures(pixels, figures, (episode, number, k), k + number) for k, pixels in enumerate(pictures)]
            write_stack(release, form, clip, shown)
            for k, pixels in enumerate(pictures):
                (folder / "png" / f"{clip}-{k}.png").write_bytes(_png(pixels))
            if masks:
                cleaned[clip] = {"caption": text, "segments": segments_of(figures, shown[KEY])}
                values = range(1, 1 + len(figures))
                run_lengths[clip] = [[encode(labels == value) for value in values] for _, labels, _ in shown]
    release.json("flintstones_annotations_v1-0.json", annotations)
    release.json(form.split_file, {"train": starts, "val": [], "test": []})
    release.pickle("following_cache4.pkl", following)
    if masks:
        release.json(form.text_file, cleaned)
        (folder / "masks.json").write_text(json.dumps(run_lengths), encoding="utf-8")


def _png(pixels: Pixels) -> bytes:
    """As most PNGs are written: with Pillow's defaults."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _windows_of_episodes(episodes: int) -> list[int]:
    """Windows of each episode: from half the mean to one and a half times it, 2,498 for 24 episodes."""
    total = round(2498 * episodes / EPISODES)
    edges = np.cumsum([0, *np.linspace(0.5, 1.5, episodes)]) / episodes * total
    counts: list[int] = np.diff(edges.round().astype(int)).tolist()
    return counts


def _figures(pixels: Pixels, cast: tuple[str, ...], seed: tuple[int, ...], step: int) -> Scene:
    """A picture with the masks and boxes of drawn figures, which move with it; no two pictures have the same masks."""
    _, labels, boxes = scene(cast, size=SIDE, step=step)
    # every column of pixels moves by what the one before does, or one pixel more or less: outlines as people have
    moved = np.clip(np.cumsum(np.random.default_rng(seed).integers(-1, 2, SIDE)), -6, 6)
    rows = (np.arange(SIDE)[:, None] + moved) % SIDE
    return pixels, np.take_along_axis(labels, rows, axis=0), boxes


def _pictures(episode: int, clip: int, cast: tuple[str, ...], place: str) -> Iterator[Pixels]:
    """The kept pictures of a clip: a section of an illustration that moves by some pixels, as a camera does."""
    files = illustrations(2 * (SIDE + KEPT))
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
def illustrations(least: int) -> list[Path]:
    """Those whose sides have so many pixels at least."""
    found = []
    for file in sorted(ILLUSTRATIONS.rglob("*.jpg")):
        with Image.open(file) as image:
            if min(image.size) >= least:
                found.append(file)
    return found


@lru_cache(maxsize=4)
def _halved(file: Path) -> Pixels:
    """An illustration at half its size, which takes the traces of its own coding away."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize((image.width // 2, image.height // 2)))

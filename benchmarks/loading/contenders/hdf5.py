"""AR-LDM (`xichenpan/ARLDM`): the HDF5 of `data_script/flintstones_hdf5.py`, read as `datasets/flintstones.py` does.

Every window stores its five clips as PNG strips of the five kept pictures. A strip is decoded as a whole, for OpenCV
cannot decode a part of one.
"""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from torch.utils.data import DataLoader, Dataset

from benchmarks.loading.pixels import Pixels, stacked
from benchmarks.loading.source import KEPT, LENGTH, SIDE, Source
from openstory_hf.raw import Raw

FILE = "flintstones.h5"


def convert(release: Path, file: Path) -> None:
    """Write the windows of all splits; loads, joins and encodes the five stacks of each window."""
    splits = json.loads((release / "train-val-test_split.json").read_text("utf-8"))
    following = Raw(release).pickle("following_cache4.pkl")
    annotations = json.loads((release / "flintstones_annotations_v1-0.json").read_text("utf-8"))
    captions = {entry["globalID"]: entry["description"] for entry in annotations}
    with h5py.File(file, "w") as out:
        for split, listed in splits.items():
            starts = [clip for clip in listed if len(following.get(clip, ())) == LENGTH - 1]
            group = out.create_group(split)
            vectors = h5py.vlen_dtype(np.dtype("uint8"))
            images = [group.create_dataset(f"image{at}", (len(starts),), dtype=vectors) for at in range(LENGTH)]
            texts = group.create_dataset("text", (len(starts),), dtype=h5py.string_dtype("utf-8"))
            for number, start in enumerate(starts):
                clips = [start, *following[start]]
                for dataset, clip in zip(images, clips, strict=True):
                    strip = np.concatenate(np.load(release / "video_frames_sampled" / f"{clip}.npy"), axis=0)
                    dataset[number] = np.frombuffer(cv2.imencode(".png", strip)[1].tobytes(), np.uint8)
                plain = (captions[clip].replace("\n", "").replace("\t", "").strip() for clip in clips)
                texts[number] = "|".join(plain)


def write(source: Source, folder: Path) -> None:
    convert(source.release, folder / FILE)


class Stories(Dataset[tuple[list[Pixels], list[str]]]):
    """One window; the file is opened by the process that reads it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.group: Any = None
        with h5py.File(file, "r") as opened:
            self.length = len(opened["train/text"])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[list[Pixels], list[str]]:
        if self.group is None:
            self.group = h5py.File(self.file, "r")["train"]
        pictures = []
        for at in range(LENGTH):
            strip = cv2.imdecode(self.group[f"image{at}"][number], cv2.IMREAD_COLOR)
            drawn = random.randrange(KEPT)
            pictures.append(strip[drawn * SIDE : (drawn + 1) * SIDE])
        return pictures, self.group["text"][number].decode("utf-8").split("|")


def load(source: Source, folder: Path, workers: int) -> DataLoader[Any]:
    cv2.setNumThreads(1)
    loader = partial(DataLoader, batch_size=16, shuffle=True, collate_fn=stacked)
    return loader(Stories(folder / FILE), num_workers=workers, persistent_workers=workers > 0)


WRITE = {"hdf5": write}
LOAD = {"hdf5": load}

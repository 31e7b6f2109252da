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

from benchmarks.loading.pixels import Story, stacked
from benchmarks.loading.source import KEPT, LENGTH, SIDE, Source
from openstory_hf.raw import Raw

FILE = "flintstones.h5"


def convert(
    release: Path, file: Path, splits: str = "train-val-test_split.json", stacks: str = "video_frames_sampled"
) -> None:
    """Write the windows of all splits; loads, joins and encodes the five stacks of each window.

    Args:
        release: the folder of the release.
        file: the file to write.
        splits: name of the file of the splits.
        stacks: name of the folder of the stacks.
    """
    listed_in = json.loads((release / splits).read_text("utf-8"))
    following = Raw(release).pickle("following_cache4.pkl")
    annotations = json.loads((release / "flintstones_annotations_v1-0.json").read_text("utf-8"))
    captions = {entry["globalID"]: entry["description"] for entry in annotations}
    with h5py.File(file, "w") as out:
        for split, listed in listed_in.items():
            starts = [clip for clip in listed if len(following.get(clip, ())) == LENGTH - 1]
            group = out.create_group(split)
            vectors = h5py.vlen_dtype(np.dtype("uint8"))
            images = [group.create_dataset(f"image{at}", (len(starts),), dtype=vectors) for at in range(LENGTH)]
            texts = group.create_dataset("text", (len(starts),), dtype=h5py.string_dtype("utf-8"))
            for number, start in enumerate(starts):
                clips = [start, *following[start]]
                for dataset, clip in zip(images, clips, strict=True):
                    strip = np.concatenate(np.load(release / stacks / f"{clip}.npy"), axis=0)
                    dataset[number] = np.frombuffer(cv2.imencode(".png", strip)[1].tobytes(), np.uint8)
                plain = (captions[clip].replace("\n", "").replace("\t", "").strip() for clip in clips)
                texts[number] = "|".join(plain)


def write(source: Source, folder: Path) -> None:
    convert(source.release, folder / FILE, source.split_file, source.stacks.name)
    if source.masks:
        with h5py.File(folder / FILE, "r+") as file:
            texts = [source.masks_json(window) for window in source.windows]
            file["train"].create_dataset("masks", data=texts, dtype=h5py.string_dtype("utf-8"))


class Windows(Dataset[Story]):
    """One window; the file is opened by the process that reads it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.group: Any = None
        with h5py.File(file, "r") as opened:
            self.length = len(opened["train/text"])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Story:
        if self.group is None:
            self.group = h5py.File(self.file, "r")["train"]
        pictures, drawn = [], random.choices(range(KEPT), k=LENGTH)
        for at, k in enumerate(drawn):
            strip = cv2.imdecode(self.group[f"image{at}"][number], cv2.IMREAD_COLOR)
            pictures.append(strip[k * SIDE : (k + 1) * SIDE])
        masks = json.loads(self.group["masks"][number]) if "masks" in self.group else []
        chosen = [of_clip[k] for of_clip, k in zip(masks, drawn, strict=False)]
        return Story(pictures, self.group["text"][number].decode("utf-8").split("|"), chosen)


def load(source: Source, folder: Path, workers: int) -> DataLoader[Any]:
    cv2.setNumThreads(1)
    loader = partial(DataLoader, batch_size=16, shuffle=True, collate_fn=stacked)
    return loader(Windows(folder / FILE), num_workers=workers, persistent_workers=workers > 0)


WRITE = {"hdf5": write}
LOAD = {"hdf5": load}

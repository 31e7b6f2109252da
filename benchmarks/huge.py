"""A dataset of any number of shards that lies on a disk in a few megabytes: real manifest, indexes and contents.

What is synthetic: all shards are the same, under as many names (hard links), so ids repeat. A shard is not a Parquet
file but a hole with the lengths of its pictures at their places, so pictures are zeros, and only what reads pictures
through the index can read them. Everything that is opened before the first picture is as a build writes it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from openstory_hf.contents import Entry, contents_file, write_contents
from openstory_hf.finish import MANIFEST, manifest_text
from openstory_hf.index import GROUP_ROWS, index_file, index_schema
from openstory_hf.parquet import ParquetWriter
from openstory_hf.schema import SCHEMA_VERSION, TABLES
from openstory_hf.sources import LENGTH
from openstory_hf.write import file_facts

FRAMES = 5
"""Of a story."""
CAPTION = "What is seen in this keyframe, in about as many characters as a caption of OpenStory has: a hundred or so."
MASK = "abcdefghijklmnopqrstuvwxyz0123456789" * 4
"""About as long as the run lengths of a mask of 512x512."""


def write(folder: Path, *, shards: int, groups: int, rows: int, picture_bytes: int) -> Path:
    """Write the folder, or leave it as it is if it is there.

    Args:
        folder: to write.
        shards: files of the table `stories`.
        groups: row groups of each.
        rows: rows of each row group.
        picture_bytes: of each picture; a row has five.
    """
    if (folder / MANIFEST).exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("stories", "index"):
        (folder / name).mkdir(parents=True)
    step = LENGTH + picture_bytes
    names = [f"stories/train-{number:05d}-of-{shards:05d}.parquet" for number in range(shards)]
    shard, part = folder / names[0], folder / index_file(names[0])
    total = groups * rows * FRAMES * step
    with shard.open("wb") as stream:
        stream.truncate(4 + total)
        for place in range(groups * rows * FRAMES):
            stream.seek(4 + place * step)
            stream.write(picture_bytes.to_bytes(LENGTH, "little"))
    _write_index(part, groups, rows, picture_bytes)
    for name in names[1:]:
        (folder / name).hardlink_to(shard)
        (folder / index_file(name)).hardlink_to(part)
    contents = contents_file("stories", "train")
    entry = Entry(runs=np.full(groups * rows, FRAMES, np.int64))
    write_contents(folder / contents, (entry for _ in names))
    table = {"rows": groups * rows, "row_groups": [rows] * groups, "bytes": 4 + total, "sha256": "0" * 64}
    index = {"rows": groups * rows, **file_facts(part)}
    count = {"seen": shards * groups * rows, "written": shards * groups * rows, "rejected": 0}
    frames = {name: FRAMES * number for name, number in count.items()}
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "openstory_hf": "0",
        "dataset": "synthetic",
        "title": "Synthetic",
        "referential_text": {"policy": "grammatical", "rules_version": "1"},
        "characters": [],
        "languages": ["en"],
        "splits": {"train": {"published_stories": None, "stories": count, "frames": frames}},
        "files": {name: {**table, "sha256": f"{number:064x}"} for number, name in enumerate(names)},
        "index": {index_file(name): {**index, "sha256": f"{number:064x}"} for number, name in enumerate(names)},
        "contents": {contents: {"rows": shards, **file_facts(folder / contents)}},
    }
    (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    return folder


def _write_index(path: Path, groups: int, rows: int, picture_bytes: int) -> None:
    """The index of a shard, in row groups as `PartWriter` makes them."""
    schema, step = index_schema(TABLES["stories"]), LENGTH + picture_bytes
    with ParquetWriter(path, schema, compression="zstd") as writer:
        at_once = -(-GROUP_ROWS // rows) * rows
        for first in range(0, groups * rows, at_once):
            numbers = range(first, min(first + at_once, groups * rows))
            table = pa.Table.from_pylist([_row(number, step, picture_bytes) for number in numbers], schema=schema)
            writer.write_table(table, row_group_size=len(table))


def _row(number: int, step: int, picture_bytes: int) -> dict[str, Any]:
    text = f"{number}. {CAPTION}"
    mask = {"size": [512, 512], "counts": f"{number % 997}{MASK}"}
    box = [float(number % 100), 2.0, 300.0, 400.0]
    instance = {"label": "man", "character": "", "bbox": box, "segmentation": mask, "score": 0.5}
    start = 4 + number * FRAMES * step + LENGTH
    return {
        "story_id": f"synthetic/{number:07d}",
        "dataset": "synthetic",
        "sequence_id": f"video-{number:07d}",
        "language": "en",
        "license": "",
        "frame_ids": [f"video-{number:07d}/{frame}" for frame in range(FRAMES)],
        "captions": [text] * FRAMES,
        "referential_captions": [text] * FRAMES,
        "mentions": [[]] * FRAMES,
        "characters": [["man"]] * FRAMES,
        "setting": [""] * FRAMES,
        "instances": [[instance, instance]] * FRAMES,
        "timestamps": [float(frame) for frame in range(FRAMES)],
        "source": {"file": "part-00000.tar", "index": 0},
        "extras": json.dumps({"score": number % 7}),
        "pictures": [
            {"path": f"{number}-{frame}.jpg", "offset": start + frame * step, "size": picture_bytes}
            for frame in range(FRAMES)
        ],
        "picture_bytes": FRAMES * picture_bytes,
    }

"""One pass over the light columns of a built folder, and over the picture headers of a sample."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image

from openstory_hf.errors import OutputError
from openstory_hf.folder import BuiltFolder
from openstory_hf.rows import RowReader
from openstory_hf.sources import PLACES, picture_source

if TYPE_CHECKING:
    pass

from openstory_hf.stats.summary import Counters, Statistics

SAMPLED_ROWS = 16
"""The resolution is that of the pictures in about so many rows of every file, the first ones of spread row groups."""


# The parts of `instances` that say how many there are; the run lengths themselves stay on disk.
_INSTANCES = [f"instances.list.element.list.element.{leaf}" for leaf in ("bbox", "segmentation.size")]
_STORY = ["sequence_id", "language", "license", "captions", "referential_captions", "mentions"]
_IN_STORY = ["characters", "setting", *_INSTANCES]
_FRAME = ["sequence_id", "caption", "characters", "setting", "key_image", *_INSTANCES]


def collect(path: str | Path) -> Statistics:
    """Count a built dataset folder.

    Args:
        path: folder written by `openstory build`, or an fsspec URL of one.

    Raises:
        OutputError: if the folder is not a finished build, or a file of it is damaged.
    """
    folder = BuiltFolder(str(path))
    manifest = folder.manifest
    tallies = {split: _count(folder, split) for split in manifest["splits"]}
    for reject in folder.rejects():
        tallies[reject["split"]].rejects[reject["reason"]] += 1
    total = Counters()
    for tally in tallies.values():
        total.add(tally)
    published = {split: counts["published_stories"] for split, counts in manifest["splits"].items()}
    return Statistics(
        dataset=manifest["dataset"],
        title=manifest["title"],
        policy=manifest["referential_text"]["policy"],
        splits={split: tally.summary(published[split]) for split, tally in tallies.items()},
        total=total.summary(None if None in published.values() else sum(published.values())),
    )


def _count(folder: BuiltFolder, split: str) -> Counters:
    tally = Counters()
    has_frames = bool(folder.files("frames", split))  # otherwise no two stories share a frame
    sequence = None
    for row in _rows(folder, "stories", split, _STORY if has_frames else _STORY + _IN_STORY):
        tally.story(row)
        if not has_frames:
            tally.numbers["sequences"] += row["sequence_id"] != sequence  # a sequence is one run of rows
            sequence = row["sequence_id"]
            for caption, characters, setting, instances in zip(
                row["captions"], row["characters"], row["setting"], row["instances"], strict=True
            ):
                tally.frame(caption, characters, setting, 1, instances)
    for row in _rows(folder, "frames", split, _FRAME):
        tally.numbers["sequences"] += row["sequence_id"] != sequence
        sequence = row["sequence_id"]
        instances = row["instances"]
        tally.frame(row["caption"], row["characters"], row["setting"], len(instances), instances[row["key_image"]])
    if folder.files("stories", split):
        tally.sizes.update(_sampled_sizes(folder, split))
    return tally


def _rows(folder: BuiltFolder, table: str, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    if folder.files(table, split):
        yield from folder.index(table, split).rows(columns)


def _sampled_sizes(folder: BuiltFolder, split: str) -> Iterator[tuple[int, int]]:
    """(width, height) of the pictures of some stories, spread over the split."""
    index = folder.index("stories", split)
    chosen = range(0, len(index), -(-len(index) // SAMPLED_ROWS) or 1)
    light = RowReader(index, PLACES)
    source = picture_source(index, ((row, (row, row + 1)) for row in chosen))
    for row in chosen:
        source.enter(row)
        values = light.get(row)
        for place in filter(None, values["pictures"]):
            try:
                yield _size(source.get(row, values["file"], place)["bytes"])
            except Exception as error:  # the many of Pillow
                file = f"{folder.path}/{index.files[values['file']]}"
                raise OutputError(f"{file} cannot be read: {error}. Build the folder again") from None
        source.leave(row)
    source.close()


def _size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header, as a reader that heeds the EXIF orientation will see it."""
    with Image.open(io.BytesIO(data)) as image:
        exif = Image.Image.getexif(image)  # the PNG plugin's own would decode the picture to look behind it
        sideways = exif.get(ExifTags.Base.Orientation, 1) >= 5
        return (image.height, image.width) if sideways else (image.width, image.height)

"""A plain release of any size: sequences of ten frames, each a JPEG of about 20 kB, two published stories of five."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from openstory_hf.builders import _template
from PIL import Image

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Picture, Sequence, Unit, Window

FRAMES, STORY, KINDS, SIDE = 10, 5, 64, 120


def write_plain(folder: Path, sequences: int) -> None:
    """Write a release, or leave it as it is."""
    if folder.exists():
        return
    RawWriter(folder).json("sequences.json", sequences)


def _picture(number: int) -> bytes:
    """A JPEG that no other is like."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=96)
    return buffer.getvalue()


class Plain(StoryBuilder):
    """Frame k of sequence s shows picture (31 s + k) of 64."""

    INFO = replace(_template.INFO, tree="sequences.json: their number")
    PICTURES = tuple(_picture(number) for number in range(KINDS))

    @staticmethod
    def units(raw: Raw, split: str) -> list[Unit]:
        """A unit for each twenty sequences."""
        if split != "train":
            return []
        size = 20 * FRAMES * len(Plain.PICTURES[0])
        starts = range(0, raw.json("sequences.json"), 20)
        return [
            Unit(unit_id=f"{at:07d}", split=split, size=size, records=20 * FRAMES, data={"at": at}) for at in starts
        ]

    @staticmethod
    def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence]:
        """Twenty of them."""
        for number in range(unit.data["at"], unit.data["at"] + 20):
            name = f"sequence-{number:07d}"

            def read(frame_id: str, number: int = number) -> Frame:
                kind = (31 * number + int(frame_id)) % KINDS
                picture = Picture(path=f"{number}-{frame_id}.jpg", data=Plain.PICTURES[kind])
                return Frame(frame_id=frame_id, caption=f"Fred sees picture {kind} of {number}.", pictures=(picture,))

            windows = tuple(
                Window(story_id=f"{name}-{start}", start=start, stop=start + STORY)
                for start in range(0, FRAMES, STORY)
            )
            frames = tuple(str(frame) for frame in range(FRAMES))
            yield Sequence(sequence_id=name, frame_ids=frames, read=read, windows=windows)

    @staticmethod
    def fake(raw: RawWriter) -> None:
        """A small one."""
        raw.json("sequences.json", 20)

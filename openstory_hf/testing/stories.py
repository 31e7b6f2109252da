"""Drawn stories with known masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openstory_hf import codecs, fakes, masks


def drawn_story(
    *,
    frames: int = 5,
    cast: Sequence[str] = ("fred", "wilma"),
    place: str = "river",
    height: int = 64,
    width: int = 64,
    story_id: str = "drawn/1",
) -> dict[str, Any]:
    """A row of the `stories` table: drawn PNG pictures with one masked instance per figure and plain captions.

    Args:
        frames: number of frames.
        cast: the figures, in every frame.
        place: the background.
        height: of the pictures in pixels.
        width: of the pictures in pixels; the figures stand to the left.
        story_id: "<dataset>/<source id>".
    """
    dataset, _, sequence = story_id.partition("/")
    images, instances, captions, mentions = [], [], [], []
    for step in range(frames):
        pixels, labels, _ = fakes.scene(cast, size=max(height, width), step=step, place=place)
        images.append({"bytes": codecs.encode_png(pixels[-height:, :width]), "path": f"{sequence}_{step}.png"})
        figures = [masks.encode(labels[-height:, :width] == number + 1) for number in range(len(cast))]
        instances.append(
            [
                {
                    "label": name,
                    "character": name,
                    "bbox": list(masks.bbox(rle)),
                    "segmentation": rle,
                    "score": None,
                }
                for name, rle in zip(cast, figures, strict=True)
            ]
        )
        who = " and ".join(name.title() for name in cast) or "Nobody"
        caption = f"{who} walked {step + 1} steps along the {place}."
        captions.append(caption)
        mentions.append([_mention(name, caption.index(name.title())) for name in cast])
    return {
        "story_id": story_id,
        "dataset": dataset,
        "sequence_id": sequence,
        "language": "en",
        "license": "",
        "frame_ids": [f"{sequence}_{step}" for step in range(frames)],
        "captions": captions,
        "referential_captions": list(captions),
        "mentions": mentions,
        "characters": [list(cast) for _ in range(frames)],
        "setting": [place] * frames,
        "instances": instances,
        "timestamps": [float(step) for step in range(frames)],
        "source": {"file": "", "index": 0},
        "extras": "",
        "images": images,
    }


def _mention(name: str, start: int) -> dict[str, Any]:
    stop = start + len(name)
    return {"character": name, "start": start, "end": stop, "ref_start": start, "ref_end": stop}

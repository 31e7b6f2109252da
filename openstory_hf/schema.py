"""The columns: one schema for every dataset, and the only place that makes rows of records.

`stories` has one self-contained row per published story; its lists are parallel, one entry per frame. `frames` has
one row per frame with all its pictures. The image of a picture that the source describes but does not ship is null,
and its instances keep the size they were drawn for. A column that contains a picture stores all its leaves
uncompressed, so `images` stands alone. Whatever no column holds goes to `extras`, a JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from datasets import Features, Image, List, Value
from numpy.typing import NDArray

from openstory_hf import codecs, masks, pictures
from openstory_hf.codecs import Codec
from openstory_hf.errors import reason_of
from openstory_hf.records import Frame, Instance, Picture, Reject, Window, check_text
from openstory_hf.records import Sequence as StorySequence
from openstory_hf.references import Rewritten

_LARGEST = float(np.finfo(np.float32).max)

SCHEMA_VERSION = "3"
"""Changes whenever the columns, their meaning or the files beside them change."""

_INSTANCE = {
    "label": Value("string"),
    "character": Value("string"),
    "bbox": List(Value("float32")),
    "segmentation": {"size": List(Value("int32")), "counts": Value("string")},
    "score": Value("float32"),
}
_MENTION = {
    "character": Value("string"),
    "start": Value("int32"),
    "end": Value("int32"),
    "ref_start": Value("int32"),
    "ref_end": Value("int32"),
}
_SOURCE = {"file": Value("string"), "index": Value("int32")}

STORIES = Features(
    {
        "story_id": Value("string"),
        "dataset": Value("string"),
        "sequence_id": Value("string"),
        "language": Value("string"),
        "license": Value("string"),
        "frame_ids": List(Value("string")),
        "captions": List(Value("string")),
        "referential_captions": List(Value("string")),
        "mentions": List(List(_MENTION)),
        "characters": List(List(Value("string"))),
        "setting": List(Value("string")),
        "instances": List(List(_INSTANCE)),
        "timestamps": List(Value("float64")),
        "source": _SOURCE,
        "extras": Value("string"),
        "images": List(Image()),
    }
)
"""`instances[i]` belongs to `images[i]`, the key picture of frame i."""

FRAMES = Features(
    {
        "frame_id": Value("string"),
        "dataset": Value("string"),
        "sequence_id": Value("string"),
        "position": Value("int32"),
        "language": Value("string"),
        "license": Value("string"),
        "caption": Value("string"),
        "characters": List(Value("string")),
        "setting": Value("string"),
        "instances": List(List(_INSTANCE)),
        "key_image": Value("int32"),
        "timestamp": Value("float64"),
        "source": _SOURCE,
        "extras": Value("string"),
        "images": List(Image()),
    }
)
"""`instances[k]` belongs to `images[k]`; `images[key_image]` is the one in `stories`. Referential captions depend on
where a window starts, so they are not stored here but made for each window when it is read."""

TABLES: dict[str, Features] = {"stories": STORIES, "frames": FRAMES}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFrame:
    """A frame whose pictures are encoded and whose masks are run lengths: ready for rows.

    `images` and `instances` are parallel, one entry per kept picture, in column form; the image is None for a picture
    the source does not ship. `extras` are those of the frame as JSON.
    """

    frame: Frame
    extras: str
    images: tuple[dict[str, Any] | None, ...]
    instances: tuple[list[dict[str, Any]], ...]

    def key_only(self) -> StoredFrame:
        """The same frame with its key picture alone: all that `stories` needs, in a fraction of the memory."""
        key, frame = self.frame.key, replace(self.frame, pictures=(), key=0)
        images, instances = (self.images[key],), (self.instances[key],)
        return StoredFrame(frame=frame, extras=self.extras, images=images, instances=instances)


def store(frame: Frame, codec: Codec = codecs.CODECS[codecs.DEFAULT_CODEC]) -> StoredFrame:
    """Check a frame and bring it into column form.

    Args:
        frame: as read.
        codec: of the pictures that are raw pixels.

    Raises:
        Reject: for a caption that is not text, a picture that does not decode or that the codec cannot hold, a mask
            or box that does not fit, a score that is no number, a name that is not text, extras that are not JSON.
    """
    for name in (frame.frame_id, frame.file, *(picture.path for picture in frame.pictures)):
        check_text(name, name="name", record=frame.frame_id, file=frame.file)
    extras = _check_extras(frame.extras, record=frame.frame_id, file=frame.file)
    check_text(frame.caption, name="caption", record=frame.frame_id, file=frame.file)
    check_text(frame.setting, name="setting", record=frame.frame_id, file=frame.file)
    for label in frame.characters:
        check_text(label, name="character", record=frame.frame_id, file=frame.file)
    if not frame.pictures or not 0 <= frame.key < len(frame.pictures):
        raise _refuse(frame, f"{len(frame.pictures)} pictures, key picture number {frame.key}")
    images, instances = [], []
    for picture in frame.pictures:
        image, size = _encoded(picture, frame, codec)
        images.append(image)
        instances.append([_instance(item, size, frame) for item in picture.instances])
    return StoredFrame(frame=frame, extras=extras, images=tuple(images), instances=tuple(instances))


def check_sequence(sequence: StorySequence) -> None:
    """Make sure that what rows say of the sequence as a whole can be stored.

    Raises:
        Reject: for a name that is not text, and extras that are not JSON.
    """
    ids = (window.story_id for window in sequence.windows)
    for name in (sequence.sequence_id, sequence.file, sequence.language, sequence.license, *ids):
        check_text(name, name="name", record=sequence.sequence_id, file=sequence.file)
    _check_extras(sequence.extras, record=sequence.sequence_id, file=sequence.file)


def _check_extras(value: Mapping[str, Any], *, record: str, file: str) -> str:
    """The extras as JSON."""
    try:
        return _extras(value)
    except (TypeError, ValueError, RecursionError) as error:  # bytes, NaN, a thousand lists in each other
        raise Reject(f"what else is said about it is not JSON: {reason_of(error)}", record=record, file=file) from None


def _encoded(picture: Picture, frame: Frame, codec: Codec) -> tuple[dict[str, Any] | None, tuple[int, int] | None]:
    """The picture to store and (height, width); without one the size of its masks, None if it has none."""
    if picture.pixels is not None:
        try:
            data = codec.encode(picture.pixels)
        except Exception as error:  # Pillow's encoders raise OSError, ValueError, SystemError, ...
            reason = f"the picture {picture.path} cannot be encoded as {codec.title}: {reason_of(error)}"
            raise _refuse(frame, reason, "Choose another --image-codec") from None
        path = picture.path
        if not path.endswith(codec.suffix):
            path = str(PurePosixPath(path).with_suffix(codec.suffix))
        return {"bytes": data, "path": path}, picture.pixels.shape[:2]
    if picture.data is None:
        sizes = (_mask_size(item.mask) for item in picture.instances if item.mask is not None)
        return None, next(sizes, None)
    try:
        return {"bytes": picture.data, "path": picture.path}, pictures.check(picture.data)
    except pictures.UndecodableError as error:
        raise _refuse(frame, f"the picture {picture.path} does not decode: {error}", "Download it again") from None


def _instance(item: Instance, size: tuple[int, int] | None, frame: Frame) -> dict[str, Any]:
    segmentation = None
    if item.mask is not None:
        if (own_size := _mask_size(item.mask)) != size:
            raise _refuse(frame, f"the mask of {item.label!r} is {own_size}, its picture {size}")
        segmentation = masks.encode(item.mask) if isinstance(item.mask, np.ndarray) else item.mask
    bbox = None
    if item.bbox is not None:
        x, y, w, h = item.bbox
        height, width = size or (inf, inf)
        if not (w > 0 and h > 0 and x >= 0 and y >= 0 and x + w <= width and y + h <= height):
            raise _refuse(frame, f"the box {item.bbox} of {item.label!r} leaves its {width}x{height} picture")
        bbox = [_single(value) for value in item.bbox]
    return {
        "label": check_text(item.label, name="label", record=frame.frame_id, file=frame.file),
        "character": item.character,
        "bbox": bbox,
        "segmentation": segmentation,
        "score": None if item.score is None else _score(item, frame),
    }


def _score(item: Instance, frame: Frame) -> float:
    score = item.score
    if not isinstance(score, int | float) or not abs(score) <= _LARGEST:
        raise _refuse(frame, f"the score {str(score)[:40]} of {item.label!r} is not a number that can be stored")
    return _single(score)


def _mask_size(mask: NDArray[np.bool_] | masks.RLE) -> tuple[int, int]:
    return mask.shape if isinstance(mask, np.ndarray) else (mask["size"][0], mask["size"][1])


def _single(value: float) -> float:
    """The value as the float32 columns hold it, so that streamed rows are those of the built files."""
    return float(np.float32(value))


def _refuse(frame: Frame, reason: str, hint: str = "") -> Reject:
    return Reject(reason, record=frame.frame_id, file=frame.file, hint=hint)


def _extras(value: Mapping[str, Any]) -> str:
    if not value:
        return ""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    if not _is_text(text):  # a lone surrogate, which JSON can spell and UTF-8 cannot
        text = json.dumps(value, sort_keys=True, allow_nan=False)
    return text


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def story_row(
    dataset: str,
    sequence: StorySequence,
    window: Window,
    frames: Sequence[StoredFrame],
    rewritten: Sequence[Rewritten],
) -> dict[str, Any]:
    """The row of one published story.

    Args:
        dataset: name of the dataset.
        sequence: the sequence the story is a window of.
        window: which frames.
        frames: the frames of the window, key pictures only.
        rewritten: their referential captions, in step with `frames`.
    """
    return {
        "story_id": f"{dataset}/{window.story_id}",
        "dataset": dataset,
        "sequence_id": sequence.sequence_id,
        "language": sequence.language,
        "license": sequence.license,
        "frame_ids": [stored.frame.frame_id for stored in frames],
        "captions": [stored.frame.caption for stored in frames],
        "referential_captions": [entry.text for entry in rewritten],
        "mentions": [[mention.as_row() for mention in entry.mentions] for entry in rewritten],
        "characters": [list(stored.frame.characters) for stored in frames],
        "setting": [stored.frame.setting for stored in frames],
        "instances": [stored.instances[0] for stored in frames],
        "timestamps": [stored.frame.timestamp for stored in frames],
        "source": {"file": sequence.file, "index": window.start},
        "extras": _story_extras(sequence.extras, frames),
        "images": [stored.images[0] for stored in frames],
    }


def _story_extras(own: Mapping[str, Any], frames: Sequence[StoredFrame]) -> str:
    """The extras of a sequence and of the frames of a story as JSON."""
    if not any(stored.extras for stored in frames):
        return _extras(own)
    if own:
        return _extras({**own, "frames": [dict(stored.frame.extras) for stored in frames]})
    return f'{{"frames": [{", ".join(stored.extras or "{}" for stored in frames)}]}}'


def frame_row(dataset: str, sequence: StorySequence, position: int, stored: StoredFrame) -> dict[str, Any]:
    """The row of one frame with all its pictures."""
    frame = stored.frame
    return {
        "frame_id": frame.frame_id,
        "dataset": dataset,
        "sequence_id": sequence.sequence_id,
        "position": position,
        "language": sequence.language,
        "license": sequence.license,
        "caption": frame.caption,
        "characters": list(frame.characters),
        "setting": frame.setting,
        "instances": list(stored.instances),
        "key_image": frame.key,
        "timestamp": frame.timestamp,
        "source": {"file": frame.file, "index": position},
        "extras": stored.extras,
        "images": list(stored.images),
    }


def picture_bytes(row: Mapping[str, Any]) -> int:
    """Bytes of the encoded pictures of a row, the measure row groups are cut by."""
    return sum(len(image["bytes"]) for image in row["images"] if image)

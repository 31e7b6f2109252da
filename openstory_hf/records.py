"""What a parser yields: pictures, frames, sequences, windows, and the records it had to refuse.

A frame is stored once; a sequence is an ordered run of frames; a story is a window over a sequence.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from openstory_hf.errors import OpenStoryError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openstory_hf.masks import RLE

Box = tuple[float, float, float, float]


class Reject(OpenStoryError):
    """One source record that cannot be used: raised to stop at it, or yielded to name it and go on.

    Args:
        reason: what is wrong, in one sentence, with the counts or values that show it.
        record: source id of the record (a clip, a book, a story start).
        file: path inside the raw release where the record lives.
        hint: what the user can do about it.
        stories: ids of published stories that are lost with this record; filled in by the build for frames.
        known: sound releases have such records, so that no number of them in a row speaks of damage.
    """

    def __init__(
        self,
        reason: str,
        *,
        record: str = "",
        file: str = "",
        hint: str = "",
        stories: tuple[str, ...] = (),
        known: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.record = record
        self.file = file
        self.hint = hint
        self.stories = stories
        self.known = known

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.record and f"record {self.record}") if part)
        return f"{self.reason}" + (f" ({where})" if where else "") + (f". {self.hint}" if self.hint else "")

    def __reduce__(self) -> tuple[Callable[[str, dict[str, Any]], Reject], tuple[str, dict[str, Any]]]:
        fields = {name: getattr(self, name) for name in ("record", "file", "hint", "stories", "known")}
        return _rebuild_reject, (self.reason, fields)


@contextmanager
def costing(*stories: str) -> Iterator[None]:
    """Let a reject that is raised here, and does not say so itself, cost these stories."""
    try:
        yield
    except Reject as reject:
        reject.stories = reject.stories or stories
        raise


def _rebuild_reject(reason: str, fields: dict[str, Any]) -> Reject:
    return Reject(reason, **fields)


def box_from_corners(corners: Iterable[float], *, scale: tuple[float, float], size: tuple[int, int]) -> Box:
    """Turn corners into a COCO box (x, y, width, height), cut off at the borders of the picture.

    Args:
        corners: x1, y1, x2, y2 in the source's units.
        scale: pixels per source unit, horizontally and vertically.
        size: (height, width) of the picture.

    Raises:
        Reject: if the corners are not four finite numbers, or nothing of the box lies inside the picture.
    """
    try:
        x1, y1, x2, y2 = (float(value) for value in corners)
    except (TypeError, ValueError, OverflowError):
        raise Reject(f"the box {corners!r} is not four numbers x1, y1, x2, y2") from None
    if not all(map(isfinite, (x1, y1, x2, y2))):
        raise Reject(f"the box {[x1, y1, x2, y2]} (x1, y1, x2, y2) is not finite")
    height, width = size
    left, right = (min(max(x * scale[0], 0.0), float(width)) for x in (x1, x2))
    top, bottom = (min(max(y * scale[1], 0.0), float(height)) for y in (y1, y2))
    if right <= left or bottom <= top:
        raise Reject(f"the box {[x1, y1, x2, y2]} (x1, y1, x2, y2) has no area inside the {width}x{height} picture")
    return left, top, right - left, bottom - top


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instance:
    """One object in one picture.

    Args:
        label: the source's word for it.
        character: canonical name when it is one of the cast, else "".
        bbox: COCO box (x, y, width, height) in pixels of the picture, or None.
        mask: boolean array (h, w) of the picture's size, or ready run lengths, which nobody checks again: from
            `masks.from_labels` and its like (`masks.as_rle` for a source's own); None when the source has no mask.
        score: detector confidence, or None.
    """

    label: str
    character: str = ""
    bbox: Box | None = None
    mask: NDArray[np.bool_] | RLE | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One picture: the encoded bytes as found in the source, or raw pixels where the source has only those.

    With neither, it is one the source describes but does not ship; it is stored as null with its instances.

    Args:
        path: file name, kept beside the bytes; the build gives it the ending of what it encodes.
        data: encoded bytes (JPEG, PNG, ...), stored untouched.
        pixels: uint8 array (h, w, 3), RGB; encoded by the build, losslessly unless told otherwise.
            At most one of the two is given.
        instances: the objects in this picture.
    """

    path: str
    data: bytes | None = None
    pixels: NDArray[np.uint8] | None = None
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One step of a story: a caption and every picture the source keeps for it.

    Args:
        frame_id: source id.
        caption: as published, byte for byte.
        pictures: all kept pictures, in order.
        key: index of the picture that stands for the frame in a story.
        characters: labels of the characters present, stripped and lower-cased, in source order.
        setting: background label, "" when unknown.
        timestamp: seconds into the source video, or None.
        file: path inside the release the frame was read from.
        extras: whatever else the source says about the frame; must be JSON-serialisable.
    """

    frame_id: str
    caption: str
    pictures: tuple[Picture, ...]
    key: int = 0
    characters: tuple[str, ...] = ()
    setting: str = ""
    timestamp: float | None = None
    file: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One published story: frames [start, stop) of a sequence, under the source's story id."""

    story_id: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sequence:
    """An ordered run of frames, read one at a time.

    Args:
        sequence_id: source id.
        frame_ids: the frames in order.
        read: returns the frame of an id, or raises `Reject` for it.
        windows: the published stories.
        rejects: stories or records of this sequence already known to be bad.
        file: path inside the release that defines the sequence.
        language: ISO 639 code of the captions.
        license: licence of this sequence when the source states one per sequence, else "".
        extras: whatever else the source says about the sequence; must be JSON-serialisable.
    """

    sequence_id: str
    frame_ids: tuple[str, ...]
    read: Callable[[str], Frame]
    windows: tuple[Window, ...]
    rejects: tuple[Reject, ...] = ()
    file: str = ""
    language: str = ""
    license: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """An independent piece of work (an episode, a book, a tar).

    Args:
        unit_id: name, unique within the dataset and split.
        split: the split it belongs to.
        records: number of source records in it (clips of an episode, 1 for a book); what progress counts.
        size: estimated bytes of the pictures it will write; plans the shards.
        data: whatever `sequences` needs to find it again; plain JSON values.
    """

    unit_id: str
    split: str
    records: int = 1
    size: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


def check_text(value: object, *, name: str, record: str, file: str) -> str:
    """Return `value` if it is text that UTF-8 can hold.

    Raises:
        Reject: naming the type found, or the position of a character that cannot be stored.
    """
    if not isinstance(value, str):
        raise Reject(
            f"{name} is {type(value).__name__}, expected text",
            record=record,
            file=file,
            hint=f"Correct the {name} in the file, or build with --on-error quarantine to leave the record out",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Reject(
            f"{name} holds a lone surrogate at character {error.start}, which is not text",
            record=record,
            file=file,
            hint=f"Correct the {name} in the file, or build with --on-error quarantine to leave the record out",
        ) from None
    return value

"""Keyframes of videos, named after the video and the time: {video}_keyframe_{H}-{M}-{S}-{ms}, parts often unpadded."""

from __future__ import annotations

import re
from typing import NamedTuple

_TIME = r"(\d{1,9})[-_.:](\d{1,9})[-_.:](\d{1,9})[-_.:](\d{1,9})"


class Keyframe(NamedTuple):
    """What the name of a keyframe says; keyframes sort by video and time.

    Attributes:
        video: the video, or the clip of one.
        time: hours, minutes, seconds and milliseconds into it.
    """

    video: str
    time: tuple[int, int, int, int]

    @property
    def seconds(self) -> float:
        """The time in seconds, the nearest float to its milliseconds."""
        hours, minutes, seconds, milliseconds = self.time
        return ((hours * 60 + minutes) * 60_000 + seconds * 1000 + milliseconds) / 1000


def keyframe(name: str, video: str = r"\d+") -> Keyframe | None:
    """What a name says: `000001_keyframe_0-20-4-5` -> 000001 and (0, 20, 4, 5).

    Args:
        name: the name, without folders and file endings.
        video: regular expression, with no groups, of the names of videos.

    Returns:
        the keyframe, None for a name of another form.
    """
    found = re.fullmatch(rf"({video})_keyframe_{_TIME}", name, re.ASCII)
    if found is None:
        return None
    hours, minutes, seconds, milliseconds = map(int, found.groups()[1:])
    return Keyframe(found[1], (hours, minutes, seconds, milliseconds))


def seconds(path: str, video: str = r"\d+") -> float | None:
    """The time in the name of a file, whatever its folder and ending; None if it is no keyframe of such a `video`."""
    found = keyframe(re.sub(r"\.[A-Za-z]\w*$", "", path.rpartition("/")[2]), video)
    return found.seconds if found else None

"""The stories of a built dataset, a page at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openstory_hf.errors import OutputError, UsageError
from openstory_hf.folder import BuiltFolder
from openstory_hf.order import Ints
from openstory_hf.preview.shown import Row
from openstory_hf.rows import RowReader
from openstory_hf.schema import TABLES
from openstory_hf.selection import Where, select
from openstory_hf.sources import PLACES, picture_source

PAGE = 6
"""Stories on a page, and stories kept in memory."""

_LIGHT = tuple(name for name in TABLES["stories"] if name != "images")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which stories to show.

    Args:
        split: one of `Shelf.splits`.
        where: conditions on the story.
        story: a part of its id, upper and lower case alike; "" for any.
    """

    split: str
    where: Where = field(default_factory=Where)
    story: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the stories of a split have to choose from.

    Args:
        names: characters and the number of frames they are in, the most frequent first.
        languages: of the stories, sorted.
        licenses: likewise.
        frames: (least, most) frames of a story.
    """

    names: Sequence[tuple[str, int]]
    languages: Sequence[str]
    licenses: Sequence[str]
    frames: tuple[int, int]


class Shelf:
    """The `stories` table of a built dataset. Safe to use from several threads.

    Args:
        path: a local folder, `user/repo` of the Hub, or a URL.
        revision: of a repository on the Hub.

    Raises:
        OutputError: if it is not a finished build, or has no stories.
    """

    def __init__(self, path: str, revision: str | None = None) -> None:
        self.folder = BuiltFolder(path, revision)
        self.title: str = self.folder.manifest["title"]
        self.splits = tuple(split for split in self.folder.manifest["splits"] if self.folder.files("stories", split))
        if not self.splits:
            raise OutputError(f"{self.folder.path} has no stories to show")
        self.find = lru_cache(maxsize=4)(self._find)
        self.facts = lru_cache(maxsize=4)(self._facts)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Row] = OrderedDict()

    def count(self, split: str) -> int:
        """Stories of a split."""
        return len(self.folder.index("stories", split))

    def stories(self, split: str, numbers: Sequence[int]) -> list[Row]:
        """Some stories by their number in file order, pictures encoded; the last `PAGE` of them are kept.

        Raises:
            OutputError: if they cannot be read.
        """
        with self._lock:
            missing = [number for number in numbers if (split, number) not in self._kept]
            index = self.folder.index("stories", split)
            light = RowReader(index, [*_LIGHT, *PLACES])
            source = picture_source(index, ((number, (number, number + 1)) for number in missing))
            try:
                for number in missing:
                    values = light.get(number)
                    source.enter(number)
                    images = [place and source.get(number, values["file"], place) for place in values["pictures"]]
                    source.leave(number)
                    self._kept[split, number] = {**{name: values[name] for name in _LIGHT}, "images": images}
            finally:
                source.close()
            found = [self._kept[split, number] for number in numbers]
            for number in numbers:
                self._kept.move_to_end((split, number))
            while len(self._kept) > PAGE:
                self._kept.popitem(last=False)
            return found

    def _find(self, wanted: Wanted) -> Ints:
        """The numbers of the wanted stories in file order, int64 (S,); they may be none."""
        try:
            chosen = select(self.folder, wanted.split, length=None, stride=1, key_only=True, where=wanted.where)
        except UsageError:  # how `select` says that none is left
            return np.empty(0, np.int64)
        found = chosen.places(np.arange(len(chosen))).row
        if wanted.story:
            ids = self.folder.index("stories", wanted.split).read(["story_id"]).column("story_id")
            matches = pc.match_substring(ids, wanted.story, ignore_case=True)
            found = found[matches.combine_chunks().to_numpy(zero_copy_only=False)[found]]
        return found

    def _facts(self, split: str) -> Facts:
        table = self.folder.index("stories", split).read(["frame_ids", "characters", "language", "license"])
        names = pc.value_counts(pc.list_flatten(pc.list_flatten(table.column("characters"))))
        counted = [(entry["values"], entry["counts"]) for entry in names.to_pylist()]
        lengths = pc.min_max(pc.list_value_length(table.column("frame_ids"))).as_py()
        return Facts(
            names=sorted(counted, key=lambda pair: (-pair[1], pair[0])),
            languages=_values(table.column("language")),
            licenses=_values(table.column("license")),
            frames=(lengths["min"] or 0, lengths["max"] or 0),
        )


def _values(column: pa.ChunkedArray) -> list[str]:
    return sorted(value for value in pc.unique(column).to_pylist() if value)

"""Clips kept as strips of pictures: the PororoSV package of StoryGAN (Li et al., 2019), StoryDALL-E and AR-LDM.

    train_seen_unseen_ids.npy     three lists of positions in img_cache4.npy: train, val, test
    img_cache4.npy                clips that start a story, in path order (1, 10, 11, 2)
    following_cache4.npy          the clips after each of them, optional
    descriptions.npy              {clip: captions}, or descriptions.csv with rows of episode, number, caption
    labels.npy                    {clip: vector}, optional
    densecap_annotations.json     {"{clip}.png_{k}": regions of picture k}, optional
    {clip}.png                    square pictures, one above another, here or in one folder below

A clip is called volume/episode/number. Paths are bytes, or text with a leading slash, and keys may end in ".png".
Python 2 wrote the captions as bytes; they are UTF-8 where they are valid UTF-8, else Latin-1.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openstory_hf.fakes import RawWriter
from openstory_hf.forms.clips import Clips, Pixels
from openstory_hf.raw import Raw
from openstory_hf.raw.refusing import refusing
from openstory_hf.records import Reject

IDS, CACHE, FOLLOWING = "train_seen_unseen_ids.npy", "img_cache4.npy", "following_cache4.npy"
TEXTS, LABELS, REGIONS = "descriptions.npy", "labels.npy", "densecap_annotations.json"
SPLITS = ("train", "val", "test")


class Strips(Clips):
    """A package of strips.

    Raises:
        Reject: if an index file is missing or damaged, or two of them are not of one release.
    """

    split_file, cache_file, label_file = IDS, FOLLOWING, LABELS

    def __init__(self, raw: Raw) -> None:
        super().__init__(raw)
        starts = [clip_of(path) for path in raw.object_npy(CACHE)]
        self.following = self._read_following(starts)
        self.text_file = TEXTS if raw.exists(TEXTS) else "descriptions.csv"
        self.texts = self._table(TEXTS) if raw.exists(TEXTS) else self._read_csv()
        self.labels = self._table(LABELS) if raw.exists(LABELS) else {}
        self.regions: Mapping[str, Any] = raw.records(REGIONS) if raw.exists(REGIONS) else {}
        self.listed = self._read_splits(starts)
        known = {f"{start}.png" for start in starts}
        tails = ((name, "/".join(name.split("/")[-3:])) for name in raw.names(suffix=".png"))
        self.folder = next((name.removesuffix(tail) for name, tail in tails if tail in known), "")

    def file(self, clip: str) -> str:
        """The strip of a clip."""
        return f"{self.folder}{clip}.png"

    def pixels(self, clip: str) -> tuple[list[Pixels], dict[str, Any]]:
        """The square pictures of a strip; what is said about regions of them, and the rows left below the last."""
        file = self.file(clip)
        strip = self.raw.pixels(file)
        height, width, _ = strip.shape
        if height < width:
            raise Reject(f"a strip of {width}x{height} pixels, wider than tall: it holds no whole picture", file=file)
        count, left = divmod(height, width)
        regions = {k: self.regions[name] for k in range(count) if (name := f"{clip}.png_{k}") in self.regions}
        said = {key: value for key, value in (("densecap", regions), ("rows_left", left)) if value}
        return [strip[k * width : (k + 1) * width] for k in range(count)], said

    def annotation(self, clip: str) -> dict[str, Any]:
        """The captions of a clip, empty if it has none."""
        captions = self.texts.get(clip, self.texts.get(clip.partition("/")[2]))  # the CSV leaves the volume out
        if captions is None:
            return {}
        return {
            "captions": [as_text(text) for text in ([captions] if isinstance(captions, str | bytes) else captions)]
        }

    def _read_following(self, starts: Sequence[str]) -> dict[str, list[str]]:
        if not self.raw.exists(FOLLOWING):
            return {}
        rows = self.raw.object_npy(FOLLOWING)
        if len(rows) != len(starts):
            raise Reject(f"{len(rows)} rows for the {len(starts)} starts of {CACHE}", file=FOLLOWING)
        return {start: [clip_of(path) for path in row] for start, row in zip(starts, rows, strict=True)}

    def _read_splits(self, starts: Sequence[str]) -> dict[str, list[str]]:
        lists = self.raw.object_npy(IDS)
        if len(lists) != len(SPLITS):
            raise Reject(f"{len(lists)} lists where train, val and test are expected", file=IDS)
        if alien := [at for positions in lists for at in positions if not 0 <= at < len(starts)]:
            hint = "Get both files from one release"
            raise Reject(f"position {alien[0]} is not among the {len(starts)} of {CACHE}", file=IDS, hint=hint)
        return {split: [starts[at] for at in positions] for split, positions in zip(SPLITS, lists, strict=True)}

    def _read_csv(self) -> dict[str, list[str]]:
        """Captions by episode/number, which is unique because an episode's name starts with its volume's."""
        found: dict[str, list[str]] = defaultdict(list)
        text = as_text(self.raw.read(self.text_file)).removeprefix("\ufeff")
        with refusing("not a readable CSV", self.text_file):
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        for number, row in enumerate(rows, 1):
            if not row:
                continue  # an empty line
            if len(row) != 3:
                raise Reject(f"row {number} has {len(row)} columns where 3 are expected", file=self.text_file)
            found[f"{row[0]}/{row[1]}"].append(row[2])
        return found

    def _table(self, name: str) -> dict[str, Any]:
        return {clip_of(key): value for key, value in self.raw.object_npy(name).items()}


def clip_of(path: bytes | str) -> str:
    """`b"V_1/V_1_ep1/12.png"`, `"/V_1/V_1_ep1/12.png"` -> `V_1/V_1_ep1/12`."""
    name: str = as_text(path)
    return name.removeprefix("/").removesuffix(".png")


def as_text(value: Any) -> Any:
    """Bytes, or bytes of Python 2 that arrive as Latin-1 text, as the UTF-8 they are; other things as they are."""
    try:
        data = value.encode("latin1") if isinstance(value, str) else value
        return data.decode("utf-8") if isinstance(data, bytes) else value
    except UnicodeError:
        return value.decode("latin1") if isinstance(value, bytes) else value


def write_index(
    raw: RawWriter,
    starts: Mapping[str, Sequence[str]],
    following: Mapping[str, Sequence[str]],
    texts: Mapping[str, Any],
    labels: Mapping[str, Any],
) -> None:
    """Write the index files of a synthetic package; `starts` maps `SPLITS` to clips, the rest maps clips."""
    order = sorted(following, key=lambda start: f"{start}.png")
    raw.npy(CACHE, np.array([f"{start}.png".encode() for start in order]))
    raw.npy(FOLLOWING, np.array([[f"{clip}.png".encode() for clip in following[start]] for start in order]))
    lists = np.empty(len(SPLITS), dtype=object)
    lists[:] = [[order.index(start) for start in starts[split]] for split in SPLITS]
    for name, value in ((IDS, lists), (TEXTS, texts), (LABELS, labels)):
        raw.objects(name, value)

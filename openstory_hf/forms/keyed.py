"""Keyed samples in any number of files: WebDataset tars, Parquet files, and folders of `Dataset.save_to_disk`.

*.tar                   samples are members of one name: {key}.jpg, {key}.json, ...
*.parquet               samples are rows; their columns are called as the endings in a tar, the key is `__key__`
*.arrow, state.json     the same columns; the state lists the files, so that caches beside them are left alone
*.arrow                 files without a state, as they are
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from openstory_hf.fakes import RawWriter
from openstory_hf.raw import Raw, parse_json
from openstory_hf.records import Reject

PICTURES = ("jpg", "jpeg", "image", "webp")


class Group(NamedTuple):
    """Samples that lie together and are read at once: a tar, a row group, a record batch.

    Attributes:
        file: the file.
        number: the number of the group in it.
        size: mean bytes of a sample of the file.
        keys: (place, key) of every sample; None if the group is damaged: `KeyedSamples.keys` says how.
    """

    file: str
    number: int
    size: int
    keys: list[tuple[str | int, str]] | None


class KeyedSamples:
    """The samples of a release, whatever files they are in.

    Attributes:
        files: the files, sorted.
        again: members of tars that have one of the same name before, as far as groups were listed.

    Raises:
        Reject: if the state of a saved folder is damaged.
    """

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        states = [name for name in raw.names("", "state.json") if name.rpartition("/")[2] == "state.json"]
        saved = {name.removesuffix("state.json"): raw.json(name) for name in states}
        listed = {folder + file["filename"] for folder, state in saved.items() for file in state["_data_files"]}
        loose = {name for name in raw.names("", ".arrow") if name[: name.rfind("/") + 1] not in saved}
        self.files = sorted({*raw.names("", ".tar"), *raw.names("", ".parquet"), *listed, *loose})
        self.again: list[str] = []
        self._open = lru_cache(maxsize=4)(raw.samples)

    def groups(self) -> Iterator[Group]:
        """All groups of all files in order; a damaged file is one group without keys."""
        for file in self.files:
            counts = self._counts(file)
            self.again += self._again(file)
            size = self._raw.size(file) // max(1, sum(counts))
            for number in range(len(counts)):
                try:
                    keys = self.keys(file, number)
                except Reject:
                    keys = None
                yield Group(file, number, size, keys)

    def keys(self, file: str, group: int) -> list[tuple[str | int, str]]:
        """(place, key) of every sample in a group of a file; see `Samples.keys`.

        Raises:
            Reject: if the file or the group is missing or damaged.
        """
        return self._open(file).keys(group)

    def read(self, file: str, place: str | int, facts: Collection[str] = ()) -> dict[str, Any]:
        """The fields of a sample by ending or column, without its key.

        Args:
            file: the file.
            place: where it is in it, as `keys` says.
            facts: columns that make up `json` where a table has them instead; it is parsed where it is text.

        Raises:
            Reject: if the sample cannot be read.
            ValueError: if its `json` is not JSON.
        """
        sample = self._open(file).read(place)
        if "json" not in sample:
            sample["json"] = {name: sample.pop(name) for name in facts if name in sample}
        elif isinstance(sample["json"], str | bytes):
            sample["json"] = parse_json(sample["json"])
        return sample

    def _again(self, file: str) -> list[str]:
        try:
            return [f"{file}/{member}" for member in self._open(file).again]
        except Reject:
            return []

    def _counts(self, file: str) -> tuple[int, ...]:
        try:
            return self._open(file).groups
        except Reject:
            return (0,)


def picture_bytes(value: Any) -> bytes | None:
    """The bytes of a picture, which are a field as they are or in the struct of a `datasets.Image`; None for none."""
    data: bytes | None = value["bytes"] if isinstance(value, dict) else value
    return data


def take_picture(sample: dict[str, Any]) -> bytes | None:
    """Take the picture out of a sample, whichever of `PICTURES` holds it; None if there is none."""
    return next((picture_bytes(sample.pop(name)) for name in PICTURES if name in sample), None)


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as JSON can hold them: of bytes the text, of anything else that it cannot hold the name."""

    def as_text(value: object) -> str:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    held: dict[str, Any] = json.loads(json.dumps(fields, default=as_text))
    return held


def write_saved(raw: RawWriter, folder: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as `Dataset.save_to_disk` does, as far as it matters here."""
    name = "data-00000-of-00001.arrow"
    raw.table(f"{folder}/{name}", rows)
    raw.json(f"{folder}/state.json", {"_data_files": [{"filename": name}]})

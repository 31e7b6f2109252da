"""The records of JSON files too large to be held in memory."""

from __future__ import annotations

import codecs
import contextlib
import json
import mmap
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from openstory_hf.raw.refusing import refusing
from openstory_hf.raw.strict import parse_json
from openstory_hf.records import Reject

if TYPE_CHECKING:
    from openstory_hf.raw.release import Raw

_CHUNK = 1 << 20
_LONGEST_TOKEN = 16  # characters of JSON, strings apart, that the end of a chunk can cut: -Infinity, \ud83d\ude00
_DECODER = json.JSONDecoder()
_BLANKS = (" ", "\t", "\n", "\r")


class JsonRecords(Mapping[str, Any]):
    """The records of a large JSON file by id, kept as byte offsets, so memory does not grow with the records.

    Reading a record whose id occurs twice raises `Reject`; array entries without an id are nobody's and are passed
    over. Threads and forked processes may share an instance.

    Args:
        raw: the release.
        name: a JSON array of objects, or an object of id -> value.
        key: for an array, the key that holds the id.

    Raises:
        Reject: if the file is missing or is not such JSON.
    """

    def __init__(self, raw: Raw, name: str, key: str = "") -> None:
        self.name = name
        self._spans: dict[str, tuple[int, int]] = {}
        self._repeated: set[str] = set()
        with refusing("not a readable JSON array or object", name), seekable(raw, name) as stream:
            for record_id, span in _Scanner(stream).entries(key):
                if record_id in self._spans:
                    self._repeated.add(record_id)
                self._spans[record_id] = span
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # outlives the stream

    def __getitem__(self, record_id: str) -> Any:
        start, stop = self._spans[record_id]
        if record_id in self._repeated:
            raise Reject("two entries have this id", record=record_id, file=self.name)
        with refusing("not valid JSON", self.name):
            return parse_json(self._bytes[start:stop].decode("utf-8"))

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._spans  # without parsing it, as `Mapping` would

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)


class JsonGroups(Mapping[str, list[Any]]):
    """The entries of one array in a large JSON object, grouped by the value of a key, kept as byte offsets.

    Groups come in the order of their first entries, the entries of a group in the order of the file. An entry in a
    list of its own (`[{...}]`) is taken for what it holds. Entries without the key are the group "".
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._spans: dict[str, array[int]] = {}
        self._bytes: mmap.mmap | bytes = b""

    def __getitem__(self, group: str) -> list[Any]:
        spans = self._spans[group]
        with refusing("not valid JSON", self.name):
            return [
                _unwrapped(parse_json(self._bytes[start:stop].decode("utf-8")))
                for start, stop in zip(spans[::2], spans[1::2], strict=True)
            ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    @classmethod
    def read(cls, raw: Raw, name: str, keys: Mapping[str, str]) -> dict[str, JsonGroups]:
        """Index several arrays of a file, name -> key of its groups, in one pass; see `Raw.grouped`."""
        groups = {array_name: cls(name) for array_name in keys}
        with refusing("not a readable JSON object of arrays", name), seekable(raw, name) as stream:
            for array_name, group, span in _Scanner(stream).grouped_entries(keys):
                groups[array_name]._spans.setdefault(group, array("q")).extend(span)
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # outlives the stream
        for found in groups.values():
            found._bytes = content
        return groups


def _unwrapped(entry: Any) -> Any:
    return entry[0] if isinstance(entry, list) and len(entry) == 1 else entry


@contextlib.contextmanager
def seekable(raw: Raw, name: str) -> Iterator[IO[bytes]]:
    """The open file, or an unpacked copy of a zip's member, which can be read only forwards."""
    with raw.open(name) as stream:
        if not raw.is_zip:
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, _CHUNK)
            copy.seek(0)
            yield copy


class _Scanner:
    """Walks a JSON array or object entry by entry, holding about one chunk of text or one entry."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.utf8 = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.at = 0  # where in the text the next token starts
        self.ended = False
        self.counted, self.offset = 0, 0  # text[:counted] ends at byte `offset` of the file

    def entries(self, key: str) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield (id, (start byte, stop byte)) of every entry that has an id.

        Raises:
            ValueError, RecursionError: if the file is not strict JSON, or neither an array nor an object.
        """
        self.skip_mark()
        for name in self.walk():
            start = self.position()
            value = self.value()
            record_id = name
            if name is None and isinstance(value, dict):
                record_id = value.get(key)
            if record_id not in (None, "") or name is not None:
                yield str(record_id), (start, self.position())
        self.end()

    def grouped_entries(self, keys: Mapping[str, str]) -> Iterator[tuple[str, str, tuple[int, int]]]:
        """Yield (array, group, (start byte, stop byte)) of every entry of the arrays named in `keys`.

        Raises:
            ValueError, RecursionError: if the file is not strict JSON, no object, or has no array of that name.
        """
        self.skip_mark()
        if self.next() != "{":
            raise ValueError("an object of arrays expected")
        for name in self.walk():
            array_name = str(name)  # an object names its values
            if self.next() != "[":
                if array_name in keys:
                    raise ValueError(f"{array_name} is not an array")
                self.value()
                continue
            for _ in self.walk():
                start = self.position()
                value = _unwrapped(self.value())
                if array_name in keys:
                    group = value.get(keys[array_name]) if isinstance(value, dict) else None
                    yield array_name, "" if group is None else str(group), (start, self.position())
        self.end()

    def walk(self) -> Iterator[str | None]:
        """Stop in front of every value of an array or object, yielding its name (None in an array).

        Whoever asks must move past the value before asking for the next one.
        """
        opening = self.take("[", "{")
        closing = "]" if opening == "[" else "}"
        separator = self.take(closing) if self.next() == closing else ","
        while separator != closing:
            name = None
            if opening == "{":
                if self.next() != '"':
                    raise ValueError(f"an id in quotation marks expected at byte {self.position():,}")
                name = self.value()
                self.take(":")
            self.next()
            yield name
            separator = self.take(",", closing)

    def skip_mark(self) -> None:
        """Move past a byte-order mark."""
        if self.next() == "\ufeff":
            self.at += 1

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self.next():
            raise ValueError(f"more text after the end, at byte {self.position():,}")

    def position(self) -> int:
        """The byte offset of text[at] in the file."""
        self.offset += len(self.text[self.counted : self.at].encode("utf-8"))
        self.counted = self.at
        return self.offset

    def more(self) -> None:
        """Forget what is behind and read on; twice as much each time when a single value is that long."""
        self.position()
        rest = self.text[self.at :]
        chunk = self.stream.read(max(_CHUNK, len(rest)))
        self.ended = not chunk
        self.text, self.at, self.counted = rest + self.utf8.decode(chunk, final=self.ended), 0, 0

    def next(self) -> str:
        """Move past blanks; return the character there, "" at the end of the file."""
        while True:
            while self.text[self.at : self.at + 1] in _BLANKS:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def take(self, *wanted: str) -> str:
        """Move past blanks and one of the wanted characters, and return it."""
        found = self.next()
        if found not in wanted:
            found = found or "the end of the file"
            raise ValueError(f"{' or '.join(wanted)} expected at byte {self.position():,}, found {found}")
        self.at += 1
        return found

    def value(self) -> Any:
        """Move past one JSON value, and return it."""
        self.next()
        while True:
            try:
                value, stop = _DECODER.raw_decode(self.text, self.at)
                if stop + 2 < len(self.text) or self.ended:  # else a number might go on: 1 may become 1e+5
                    self.at = stop
                    return value
            except json.JSONDecodeError as error:
                cut = error.pos + _LONGEST_TOKEN >= len(self.text) or error.msg.startswith("Unterminated string")
                if self.ended or not cut:
                    raise ValueError(f"{error.msg}, in the entry at byte {self.position():,}") from None
            self.more()

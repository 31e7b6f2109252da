"""Files that come in archives, or unpacked beside them: texts in a zip, pictures in one tar of any size.

What is unpacked is preferred to what is in archives. A tar is read once, from front to back: what belongs together
comes when its last picture has. Hidden files, and what macOS puts into archives, do not
count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from openstory_hf.raw import Raw
from openstory_hf.records import Reject

HELD_BYTES = 2 << 30
"""The most that is held of groups of pictures that a tar has not completed yet."""

_HIDDEN = re.compile(r"(?:^|/)(?:\.|__MACOSX/)")
_PICTURES = (".jpg", ".jpeg", ".png")
_TARS = (".tar.gz", ".tgz", ".tar")


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder it is in, is hidden."""
    return _HIDDEN.search(name) is not None


class Texts(NamedTuple):
    """Text files, and where they are.

    Attributes:
        raw: what they are read from.
        prefix: what to put before their names in an error: the zip that holds them.
        files: their names in `raw`.
    """

    raw: Raw
    prefix: str
    files: list[str]


def find_texts(raw: Raw, names: Collection[str], suffix: str) -> Texts:
    """The files of a suffix among the names given, or else in the only zip among them that has some.

    Raises:
        Reject: if two zips have such files, or one is damaged.
    """
    found = Texts(raw, "", [name for name in names if name.endswith(suffix)])
    for name in () if found.files else [name for name in names if name.lower().endswith(".zip")]:
        inner = raw.archive(name)
        if files := [member for member in inner.names("", suffix) if not is_hidden(member)]:
            if found.files:
                raise Reject(f"{found.prefix[:-1]} has {suffix} files as well: keep the newest zip", file=name)
            found = Texts(inner, f"{name}/", files)
    return found


class KeyedPictures:
    """The pictures among the files of a release.

    Args:
        raw: the release.
        names: the files that count; tars among them do so only if no picture is unpacked.
        key: the key of a path.

    Attributes:
        files: key -> file of the unpacked pictures; a key that two of them have is not there.
        tars: the tars; one at the most can be read.
        tar: the one tar, "" if the pictures are unpacked.
    """

    def __init__(self, raw: Raw, names: Collection[str], key: Callable[[str], str]) -> None:
        self._raw, self._key = raw, key
        unpacked = [name for name in names if name.lower().endswith(_PICTURES)]
        times = Counter(map(key, unpacked))
        self.files = {one: name for name in unpacked if times[one := key(name)] == 1}
        self.tars = [name for name in names if name.lower().endswith(_TARS) and not unpacked]
        self.tar = "".join(self.tars[:1])
        self._held: dict[str, dict[str, bytes]] = {}

    def size(self, keys: Iterable[str]) -> int:
        """Bytes of unpacked pictures, 0 for those in a tar."""
        return sum(self._raw.size(self.files[key]) for key in keys if key in self.files)

    def gather(self, groups: Mapping[str, Collection[str]]) -> Iterator[str]:
        """The groups of a tar, each when all its pictures have come by; they can be read until the next one comes.

        Args:
            groups: name -> keys.

        Raises:
            Reject: as `Tar.gather`, with the limit `HELD_BYTES`.
        """
        for group, found in self._raw.tar(self.tar).gather(groups, self._key, HELD_BYTES) if groups else ():
            self._held[group] = found
            yield group
            del self._held[group]

    def read(self, group: str, key: str) -> tuple[bytes | None, str]:
        """A picture, and the file it is in; None if it is missing, or two have its key.

        Raises:
            Reject: if an unpacked picture cannot be read.
        """
        if self.tar:
            return self._held[group].get(key), self.tar
        file = self.files.get(key, "")
        return self._raw.read(file) if file else None, file

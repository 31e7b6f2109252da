"""Tar files inside a release, read in place: plain ones at any place, compressed ones once from front to back."""

from __future__ import annotations

import gzip
import os
import tarfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, TYPE_CHECKING, cast

from openstory_hf.raw.refusing import refusing
from openstory_hf.records import Reject

if TYPE_CHECKING:
    from openstory_hf.raw.release import Raw

_CHUNK = 1 << 20

MAX_TAR_MEMBER_BYTES = 256 << 20
"""The most a member may hold; pictures and texts are far smaller."""

MAX_TAR_BYTES = 1 << 40
"""The most a tar may hold; a tar is read member by member, never as a whole."""


MAX_TAR_HEADER_BYTES = 16 << 10
"""The most a long name, or the other facts about one member, may take: `tarfile` holds and searches them whole."""

_FACTS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Header(tarfile.TarInfo):
    """A header whose absence or damage is an error: behind the first member `tarfile` takes both for the end.

    A negative size would lead it in a circle. Long facts, and the maps of sparse files, can be a few bytes in a
    compressed tar and still take all memory, or hours.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0:
            raise ValueError(f"{header.name} has a negative size")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError(f"{header.name} is stored as a sparse file")
        if header.type in _FACTS and header.size > MAX_TAR_HEADER_BYTES:
            raise ValueError(f"{header.size:,} bytes of facts about one member, too many")
        return header

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise ValueError(f"{self.name} is stored as a sparse file")

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        try:
            header = super().fromtarfile(archive)
        except (tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise EOFError("the archive ends without its end mark") from None
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise ValueError(f"a damaged header at byte {archive.offset:,}: {error}") from None
        if header.size < 0:
            raise ValueError(f"{header.name} has a negative size")
        return header


class Tar:
    """A tar of a release.

    Only regular files are members; links, devices and names that leave the archive are passed over, since nothing is
    ever unpacked. Of members of one name the first counts.

    Args:
        raw: the release.
        name: the tar, compressed or not.
    """

    def __init__(self, raw: Raw, name: str) -> None:
        self.raw = raw
        self.name = name
        self.again: list[str] = []  # members that `names` passes over: of one name the first counts
        self._places: dict[str, tuple[int, int]] | None = None
        self._file: IO[bytes] | None = None

    def stream(self) -> Iterator[tuple[str, bytes]]:
        """Every member with its content, in the order of the archive, in one pass.

        Raises:
            Reject: if the tar is missing, damaged, or a member is too large.
        """
        with (
            refusing("not a readable tar", self.name),
            self.raw.open(self.name, limit=MAX_TAR_BYTES) as packed,
            _checked(packed) as stream,
            tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as tar,
        ):
            for member in self._regular(tar):
                content = tar.extractfile(member)
                if content is not None:
                    yield _tidy(member.name), _whole(content.read(member.size), member.size, member.name)
            while stream.read(_CHUNK):
                pass  # the checksum of a gzip is behind its last byte

    def gather(
        self, groups: Mapping[str, Collection[str]], key: Callable[[str], str], limit: int
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Members that belong together, in one pass: each group when its last member comes by.

        Groups that miss members come at the end, in the order given, with what was found of them.

        Args:
            groups: name -> keys of its members; groups may share members.
            key: the key of a member's name.
            limit: the most bytes held for groups that are not complete, a shared member counting for each of them.

        Yields:
            name of the group, key -> content.

        Raises:
            Reject: as `stream`, for a second member of a key, and if more than `limit` bytes would be held.
        """
        waiting: dict[str, list[str]] = {}
        for group, wanted in groups.items():
            for one in dict.fromkeys(wanted):
                waiting.setdefault(one, []).append(group)
        left = {group: len(set(wanted)) for group, wanted in groups.items()}
        found: dict[str, dict[str, bytes]] = {group: {} for group in groups}
        taken: dict[str, str] = {}
        held = 0
        for member, content in self.stream():
            one = key(member)
            if one in taken:
                raise Reject(f"two members are {one}: {taken[one]} and {member}", file=self.name)
            if one not in waiting:
                continue
            taken[one] = member
            for group in waiting.pop(one):
                found[group][one] = content
                held += len(content)
                if len(found[group]) == left[group]:
                    held -= sum(map(len, found[group].values()))
                    yield group, found.pop(group)
            if held > limit:
                raise Reject(
                    f"its members are in no order: {held:,} bytes of incomplete groups are held",
                    file=self.name,
                    hint="Unpack the archive in its folder",
                )
        yield from found.items()

    def names(self) -> list[str]:
        """The members in the order of the archive; reads the headers only.

        Raises:
            Reject: as `stream`, and for a compressed tar, or one inside a zip, which cannot be read at any place.
        """
        return list(self._index())

    def read(self, member: str) -> bytes:
        """The content of one member.

        Raises:
            Reject: as `names`, or if there is no such member.
        """
        places = self._index()
        if member not in places:
            raise Reject(f"the archive has no member {member}", file=self.name, hint="Complete the raw release")
        offset, size = places[member]
        with refusing("not a readable tar", self.name):
            return _whole(self._at(offset, size), size, member)

    def _at(self, offset: int, size: int) -> bytes:
        if self.raw.is_zip or not hasattr(os, "pread"):  # Windows has none
            with self.raw.open(self.name, limit=MAX_TAR_BYTES) as stream:
                stream.seek(offset)
                return stream.read(size)
        if self._file is None:
            self._file = self.raw.open(self.name, limit=MAX_TAR_BYTES)
            weakref.finalize(self, self._file.close)
        return os.pread(self._file.fileno(), size, offset)  # has no position that threads or forks could disturb

    def _index(self) -> dict[str, tuple[int, int]]:
        if self._places is None:
            places: dict[str, tuple[int, int]] = {}
            with (
                refusing("not a readable plain tar", self.name),
                self.raw.open(self.name, limit=MAX_TAR_BYTES) as stream,
                tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar,
            ):
                for member in self._regular(tar):
                    place = member.offset_data, member.size
                    if places.setdefault(_tidy(member.name), place) != place:
                        self.again.append(_tidy(member.name))
            self._places = places
        return self._places

    def _regular(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined] # tarfile keeps every header it has seen
            name = _tidy(member.name)
            if not member.isreg() or member.issparse() or name.startswith("/") or ".." in name.split("/"):
                continue
            if member.size > MAX_TAR_MEMBER_BYTES:
                raise Reject(f"the member {member.name} holds {member.size:,} bytes, too many", file=self.name)
            yield member


def _checked(stream: IO[bytes]) -> IO[bytes]:
    """The stream, unpacked if it is a gzip: `tarfile` unpacks one without looking at its checksum."""
    start = stream.read(2)
    stream.seek(0)
    return cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if start == b"\x1f\x8b" else stream


def _tidy(name: str) -> str:
    return name.removeprefix("./")


def _whole(content: bytes, size: int, member: str) -> bytes:
    if len(content) != size:
        raise EOFError(f"{member} ends after {len(content)} of {size} bytes")
    return content

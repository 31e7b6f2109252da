"""Zips: what is listed can be read and has the size that is listed, or is refused; nothing leaves the archive."""

import io
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

from openstory_hf.errors import OpenStoryError
from openstory_hf.raw import Raw, release

release.MAX_MEMBER_BYTES = 16 << 20  # a fuzzer soon finds that 4 GiB are allowed


def _zip(method: int, files: dict[str, bytes], comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.comment = comment
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


_FILES = {"top/labels.json": b'{"a": [1]}', "top/a.txt": b"x" * 50, "é.txt": "ü".encode(), "folder/": b""}
_INNER = _zip(zipfile.ZIP_DEFLATED, {"in.txt": b"inner"})
SEEDS = [
    *(
        _zip(method, _FILES)
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    ),
    _zip(zipfile.ZIP_STORED, {"inner.zip": _INNER, "inner.jsonl": b"{}\n{}"}, b"comment"),
]
TOKENS = [
    *(b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08", b"../", b"/", b"\\"),
    *(b"\x00\x00", b"\x08\x00", b"\x0c\x00", b"\x0e\x00", b"\xff\xff\xff\xff", b"\xff\xff", b"\x01\x00\x10\x00"),
]

_folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_path = Path(_folder.name, "x.zip")


def one_input(data: bytes) -> None:
    _path.write_bytes(data)
    try:
        raw = Raw(_path)
        names = raw.names()
    except OpenStoryError:
        return
    for name in names:
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        for read in (_member, Raw.json, _lines, _inner):
            with suppress(OpenStoryError):
                read(raw, name)
    with suppress(OpenStoryError):
        raw.fingerprint()


def _member(raw: Raw, name: str) -> None:
    assert len(raw.read(name)) == raw.size(name)


def _lines(raw: Raw, name: str) -> None:
    assert b"".join(line for _, line in raw.lines(name)) == raw.read(name)


def _inner(raw: Raw, name: str) -> None:
    inner = raw.archive(name)
    for member in inner.names():
        _member(inner, member)

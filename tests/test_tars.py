"""Tars in a release: the bytes of `tarfile`, in place, and nothing that could leave the archive."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from openstory_hf.raw import Raw
from openstory_hf.raw import tars as tars_room
from openstory_hf.records import Reject

FILES = {"a.jpg": b"first", "sub/b.json": b"{}" * 4000, "empty": b"", "é.txt": "ü".encode()}


def write(path, files=FILES, mode="w", extra=()):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return Raw(path.parent)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_members_stream_in_order_whatever_the_compression(tmp_path, mode):
    raw = write(tmp_path / "x.tar", mode=mode)
    assert list(raw.tar("x.tar").stream()) == list(FILES.items())


def test_a_plain_tar_is_read_at_any_place(tmp_path):
    tar = write(tmp_path / "x.tar").tar("x.tar")
    assert tar.names() == list(FILES)
    for name in reversed(FILES):
        assert tar.read(name) == FILES[name]
    with pytest.raises(Reject, match="no member nothing"):
        tar.read("nothing")


def test_threads_read_from_one_tar(tmp_path):
    files = {f"{number}": bytes([number]) * (1000 + number) for number in range(50)}
    tar = write(tmp_path / "x.tar", files).tar("x.tar")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tar.read, list(files) * 5)) == list(files.values()) * 5


def test_a_tar_that_shrank_after_it_was_listed_is_a_reject(tmp_path):
    tar = write(tmp_path / "x.tar").tar("x.tar")
    assert tar.read("a.jpg") == b"first"
    with (tmp_path / "x.tar").open("r+b") as stream:
        stream.truncate(3000)
    with pytest.raises(Reject, match=r"sub/b\.json ends after .* of 8000 bytes"):
        tar.read("sub/b.json")


def test_a_compressed_tar_cannot_be_read_at_any_place(tmp_path):
    with pytest.raises(Reject, match="plain tar"):
        write(tmp_path / "x.tar.gz", mode="w:gz").tar("x.tar.gz").names()


def test_links_and_names_that_leave_the_archive_are_passed_over(tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("device")
    device.type = tarfile.CHRTYPE
    raw = write(
        tmp_path / "x.tar", {"/etc/x": b"1", "../y": b"2", "a/../../z": b"3", "./ok": b"4"}, extra=(link, device)
    )
    assert list(raw.tar("x.tar").stream()) == [("ok", b"4")]
    assert raw.tar("x.tar").names() == ["ok"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_tar_is_a_reject_that_names_it(tmp_path, mode):
    raw = write(tmp_path / "x.tar", mode=mode)
    data = (tmp_path / "x.tar").read_bytes()
    end = data.rstrip(b"\0") if mode == "w" else data
    for stop in range(0, len(end) - (0 if mode == "w" else 8), 97):  # the last 8 bytes of a gzip are its checksum
        (tmp_path / "x.tar").write_bytes(data[:stop])
        with pytest.raises(Reject, match=r"x\.tar"):
            list(Raw(raw.path).tar("x.tar").stream())


def test_a_member_that_is_too_large_is_a_reject(tmp_path, monkeypatch):
    monkeypatch.setattr(tars_room, "MAX_TAR_MEMBER_BYTES", 1000)
    with pytest.raises(Reject, match="8,000 bytes"):
        list(write(tmp_path / "x.tar").tar("x.tar").stream())


def test_memory_does_not_grow_with_the_members(tmp_path):
    raw = write(tmp_path / "x.tar", {f"{number:05d}": b"x" for number in range(2000)})
    seen = []
    for name, _ in raw.tar("x.tar").stream():
        seen.append(name)
    assert len(seen) == 2000


def test_a_missing_tar_is_a_reject(tmp_path):
    with pytest.raises(Reject, match="missing"):
        list(Raw(tmp_path).tar("none.tar").stream())

"""Tars in a release: the bytes of `tarfile`, in place, and nothing that could leave the archive."""

import gzip
import io
import tarfile
import tracemalloc
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


def header(name, kind, size):
    """A header block that announces what the caller has to put behind it."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_facts_about_a_member_cannot_take_all_memory(tmp_path, kind):
    """A header of hundreds of megabytes is some kilobytes in a compressed tar, and was held whole."""
    with gzip.open(tmp_path / "x.tar.gz", "wb", 1) as stream:
        stream.write(header("x", kind, 200 << 20))
        for _ in range(200):
            stream.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Reject, match="209,715,200 bytes of facts"):
            list(Raw(tmp_path).tar("x.tar.gz").stream())
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_names_and_comments_of_usual_length_pass(tmp_path):
    files = {"folder/" * 100 + f"{number}.jpg": b"x" for number in range(3)}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c" * 9000}) as tar:
        for name in files:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert list(Raw(tmp_path).tar("x.tar").stream()) == list(files.items())
    assert Raw(tmp_path).tar("x.tar").names() == list(files)


def test_sparse_files_are_refused(tmp_path):
    """Their maps are read whole, and what they hold is not what the archive holds."""
    (tmp_path / "gnu.tar").write_bytes(header("x", tarfile.GNUTYPE_SPARSE, 512) + bytes(3 * 512))
    with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.size = 512
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}
        tar.addfile(info, io.BytesIO(b"1\n0\n512\n".ljust(512, b"\0")))
    for name in ("gnu.tar", "pax.tar"):
        with pytest.raises(Reject, match="sparse file"):
            Raw(tmp_path).tar(name).names()
        with pytest.raises(Reject, match="sparse file"):
            list(Raw(tmp_path).tar(name).stream())


def test_a_negative_size_is_refused_in_every_kind_of_header(tmp_path):
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        (tmp_path / "x.tar").write_bytes(header("x", kind, -1) + bytes(4 * 512))
        with pytest.raises(Reject, match="negative size"):
            Raw(tmp_path).tar("x.tar").names()

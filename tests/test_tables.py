"""Tables in a release: the rows Arrow itself reads, at any place, and damage refused by name."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from openstory_hf.fakes import RawWriter
from openstory_hf.raw import Raw
from openstory_hf.raw import tables as tables_room
from openstory_hf.records import Reject

ROWS = [
    {"key": f"k{n}", "png": bytes([n]) * n, "json": {"caption": "ü" * n, "mask": [{"value": n, "box": None}]}}
    for n in range(10)
]


def write(path, kind, rows=ROWS, group=4):
    table = pa.Table.from_pylist(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=group)
        return
    with {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[kind](str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=group)


@pytest.fixture(params=["parquet", "stream", "file"])
def kind(request):
    return request.param


@pytest.mark.parametrize("zipped", [False, True])
def test_rows_in_order_and_at_any_place(tmp_path, kind, zipped):
    write(tmp_path / "raw/sub/x.bin", kind)
    raw = Raw(shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path / "raw") if zipped else tmp_path / "raw")
    table = raw.table("sub/x.bin")
    assert table.columns == ("key", "png", "json")
    assert table.groups == (4, 4, 2)
    assert list(table.rows()) == ROWS
    assert list(table.rows(["key"], group=1)) == [{"key": row["key"]} for row in ROWS[4:8]]
    for at in (9, 0, 3, 4, 8, 1):
        assert table.row(at) == ROWS[at]


@pytest.mark.parametrize("at", [-1, 10])
def test_a_row_that_is_not_there_is_a_reject(tmp_path, kind, at):
    write(tmp_path / "x", kind)
    with pytest.raises(Reject, match="10 rows"):
        Raw(tmp_path).table("x").row(at)


def test_a_cut_file_is_a_reject_that_names_it(tmp_path, kind):
    write(tmp_path / "x", kind)
    data = (tmp_path / "x").read_bytes()
    for stop in range(0, len(data), 61):
        (tmp_path / "x").write_bytes(data[:stop])
        with pytest.raises(Reject) as caught:
            list(Raw(tmp_path).table("x").rows())
        assert caught.value.file == "x"


def test_flipped_bytes_give_rows_or_a_reject_never_a_crash(tmp_path, kind):
    write(tmp_path / "x", kind)
    data = (tmp_path / "x").read_bytes()
    refused = 0
    for at in range(0, len(data), 37):
        (tmp_path / "x").write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            list(Raw(tmp_path).table("x").rows())
        except Reject:
            refused += 1
    assert refused


def test_a_group_that_would_fill_the_memory_is_a_reject(tmp_path, monkeypatch):
    write(tmp_path / "x", "parquet")
    monkeypatch.setattr(tables_room, "MAX_GROUP_BYTES", 100)
    with pytest.raises(Reject, match="too many"):
        Raw(tmp_path).table("x").row(0)


def test_one_group_is_read_for_one_row(tmp_path, monkeypatch):
    write(tmp_path / "x", "parquet")
    table = Raw(tmp_path).table("x")
    asked, read = [], tables_room._Parquet.read
    monkeypatch.setattr(
        tables_room._Parquet, "read", lambda self, group, columns: asked.append(group) or read(self, group, columns)
    )
    for at in (0, 1, 3, 4, 7, 0):
        table.row(at)
    assert asked == [0, 1, 0]


def test_a_missing_table_is_a_reject(tmp_path):
    with pytest.raises(Reject, match="missing"):
        Raw(tmp_path).table("x.parquet")


def test_labels_are_palette_indices_and_never_colours(tmp_path):
    values = np.array([[0, 1, 1], [2, 2, 7]], np.uint8)
    image = Image.fromarray(values)
    image.putpalette([colour for index in range(8) for colour in (200 - index, index, 90)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert Image.open(buffer).mode == "P"
    np.testing.assert_array_equal(Raw(tmp_path).labels(buffer.getvalue(), "mask.png"), values)
    assert Raw(tmp_path).picture_size(buffer.getvalue(), "mask.png") == (2, 3)
    for read in (Raw(tmp_path).labels, Raw(tmp_path).picture_size):
        with pytest.raises(Reject, match=r"mask\.png"):
            read(buffer.getvalue()[:20], "mask.png")


def test_samples_of_a_tar_and_of_a_table_are_read_alike(tmp_path):
    fake = RawWriter(tmp_path)
    fake.tar("x.tar", {"a/k.1.JPG": b"1", "a/k.json": b"{}", "b/k.json": b"[]"})
    fake.table(
        "x.parquet", [{"__key__": "k", "json": "{}", "jpg": None}, {"__key__": None, "json": "[]", "jpg": b"2"}]
    )
    fake.table("keyless.arrow", [{"json": str(number)} for number in range(3)])
    tar, table, keyless = (Raw(tmp_path).samples(name) for name in ("x.tar", "x.parquet", "keyless.arrow"))
    assert (tar.groups, table.groups, keyless.groups) == ((2,), (2,), (2, 1))
    assert tar.keys(0) == [("a/k", "k"), ("b/k", "k")]
    assert [tar.read(place) for place, _ in tar.keys(0)] == [{"1.jpg": b"1", "json": b"{}"}, {"json": b"[]"}]
    assert table.keys(0) == [(0, "k"), (1, "")]
    assert [table.read(place) for place, _ in table.keys(0)] == [{"json": "{}"}, {"json": "[]", "jpg": b"2"}]
    assert keyless.keys(1) == [(2, "")]
    assert keyless.read(2) == {"json": "2"}

"""Codecs of raw pixels: what comes out of a decoder is what went in, and a lossy codec is named so everywhere."""

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release
from PIL import Image

from openstory_hf import cli, codecs, decoders, pictures
from openstory_hf.build import build
from openstory_hf.check import check
from openstory_hf.errors import UsageError
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.records import Frame, Picture, Reject
from openstory_hf.schema import store

LOSSLESS = ["png", "webp"]
PILLOW = {"png": "PNG", "webp": "WEBP", "jpeg": "JPEG"}
DRAWN = scene(("fred", "wilma"), size=96)[0]
sides = st.one_of(st.just(1), st.integers(1, 40))


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", LOSSLESS)
@settings(max_examples=60, deadline=None)
@given(pixels=arrays(np.uint8, st.tuples(sides, sides, st.just(3))))
def test_pixels_come_back_and_bytes_are_always_the_same(name, pixels):
    encode = codecs.get(name).encode
    data = encode(pixels)
    np.testing.assert_array_equal(by_pillow(data), pixels)
    assert pictures.check(data) == pixels.shape[:2]
    frozen = np.asfortranarray(pixels)
    frozen.flags.writeable = False
    padded = np.zeros((pixels.shape[0], pixels.shape[1] * 2, 3), np.uint8)
    padded[:, ::2] = pixels
    assert encode(pixels.copy()) == encode(frozen) == encode(padded[:, ::2]) == data


@settings(max_examples=60, deadline=None)
@given(pixels=arrays(np.uint8, st.tuples(sides, sides, st.just(3)), elements=st.sampled_from([0, 1, 2, 255])))
def test_zlib_and_zlib_ng_give_the_same_bytes(pixels):
    both_compressors_agree(pixels)


@pytest.mark.parametrize("side", [96, 300, 700])
def test_zlib_and_zlib_ng_give_the_same_bytes_of_large_pictures(side):
    noise = np.random.default_rng(0).integers(-3, 4, (side, side, 3))
    drawn = scene(("fred", "wilma"), size=side)[0]
    for pixels in (drawn, (drawn + noise).clip(0, 255).astype(np.uint8), noise.astype(np.uint8)):
        both_compressors_agree(pixels)


def both_compressors_agree(pixels):
    zlib_ng = pytest.importorskip("zlib_ng.zlib_ng", reason="needs openstory_hf[fast]")
    found = []
    for compressor in (zlib, zlib_ng):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codecs, "_deflate", lambda compressor=compressor: compressor)
            found.append(codecs.encode_png(pixels))
    assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (128, 128), (300, 200)])
def test_every_decoder_reads_the_png(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    data = codecs.encode_png(pixels)
    np.testing.assert_array_equal(by_pillow(data), pixels)
    np.testing.assert_array_equal(decoders.rgb({"bytes": data, "path": ""}), pixels)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), pixels)


def test_the_png_is_of_the_plainest_kind():
    data, kinds, at = codecs.encode_png(DRAWN), [], 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        assert int.from_bytes(data[at + 8 + size : at + 12 + size], "big") == zlib.crc32(kind + body)
        kinds.append(kind)
        at += size + 12
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack_from(">IIBBBBB", data, 16) == (96, 96, 8, 2, 0, 0, 0)


def test_each_row_of_a_png_has_the_filter_that_leaves_less():
    ramp = np.arange(60, dtype=np.uint8)
    across = np.repeat(ramp[None, :, None] * np.uint8(4), 3, 2)  # 1 row, changing from left to right
    pixels = np.concatenate([across, across, 255 - across])
    data = codecs.encode_png(pixels)
    rows = np.frombuffer(zlib.decompress(data[41:-16]), np.uint8).reshape(3, -1)
    assert rows[:, 0].tolist() == [1, 2, 1]  # Sub; Up, for a row like the one above; Sub


@pytest.mark.parametrize("name", codecs.CODECS)
def test_a_picture_that_a_codec_cannot_hold_is_a_reject_that_names_it(name):
    empty = Frame(frame_id="f", caption="", pictures=(Picture(path="a/f.png", pixels=np.zeros((0, 4, 3), np.uint8)),))
    with pytest.raises(Reject, match=r"a/f\.png cannot be encoded as .*another --image-codec"):
        store(empty, codecs.get(name))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs") / "raw"
    write_release(RawWriter(folder), {"train": {"s_01_e_01": 6}, "val": {"s_01_e_02": 5}}, variant="B")
    return folder


@pytest.mark.parametrize("name", codecs.CODECS)
def test_a_build_stores_what_the_codec_makes_and_says_so(raw, tmp_path, name, capsys):
    out = tmp_path / "out"
    assert cli.main(["build", "flintstones_sv", "--raw", str(raw), "--out", str(out), "--image-codec", name]) == 0
    assert check(out) == []
    lossy = name == "jpeg"
    number = 0
    for row in pq.read_table(out / "frames/train-00000-of-00001.parquet").to_pylist():
        stack = np.load(raw / f"video_frames_sampled/{row['frame_id']}.npy")
        for k, (image, pixels) in enumerate(zip(row["images"], stack, strict=True)):
            number += 1
            picture = Image.open(io.BytesIO(image["bytes"]))
            assert picture.format == PILLOW[name]
            assert image["path"] == f"{row['frame_id']}-frame{k}{'.jpg' if lossy else '.' + name}"
            off = np.abs(np.asarray(picture).astype(int) - pixels)
            assert 0 < off.mean() < 3 if lossy else not off.any()
    shown = {row["path"] for story in pq.read_table(out / "stories")["images"].to_pylist() for row in story}
    assert shown
    assert all(path.endswith(codecs.get(name).suffix) for path in shown)
    manifest, readme = json.loads((out / "manifest.json").read_text()), (out / "README.md").read_text("utf-8")
    assert manifest["encoded"] == {"codec": name, "lossy": lossy, "pictures": number + 25}
    assert f"{number + 25} pictures that the source has as raw pixels were encoded" in readme
    assert ("LOSSY" in readme, "losslessly" in readme) == (lossy, not lossy)


def test_the_datasets_builder_takes_the_codec(raw):
    stream = FlintstonesSV(data_dir=str(raw), image_codec="webp").as_streaming_dataset(split="train")
    image = next(iter(stream.decode(False)))["images"][0]
    assert (image["bytes"][8:12], image["path"][-5:]) == (b"WEBP", ".webp")


def test_jpeg_is_called_lossy_before_anybody_chooses_it(capsys):
    with pytest.raises(SystemExit):
        cli.main(["build", "--help"])
    assert "jpeg (LOSSY" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_codec_is_refused_before_the_folder_is_claimed(raw, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"'gif'.*png, webp, jpeg"):
        build(FlintstonesSV, raw, tmp_path / "out", image_codec="gif")
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["build", "flintstones_sv", "--raw", str(raw), "--out", str(tmp_path / "out"), "--image-codec", "gif"]
        )
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in codecs.CODECS)
    assert not (tmp_path / "out").exists()


def test_encoded_pictures_keep_their_bytes_and_names_whatever_the_codec():
    data = codecs.encode_png(DRAWN)
    stored = store(Frame(frame_id="f", caption="", pictures=(Picture(path="f.png", data=data),)), codecs.get("jpeg"))
    assert stored.images == ({"bytes": data, "path": "f.png"},)

"""Pictures: what is a whole picture and what is not, decoding as `datasets` does it."""

import io
import struct
import zlib

import numpy as np
import pytest
from datasets import Image as HubImage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openstory_hf.pictures import UndecodableError, check, decode

FEW = settings(max_examples=60, deadline=None)
HEIGHT, WIDTH = 72, 96
PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))


def encoded(kind, mode="RGB", **options):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


WHOLE = {
    "jpeg": encoded("JPEG"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "grey jpeg": encoded("JPEG", "L"),
    "cmyk jpeg": encoded("JPEG", "CMYK"),
    "png": encoded("PNG"),
    "grey png": encoded("PNG", "L"),
    "palette png": encoded("PNG", "P"),
    "rgba png": encoded("PNG", "RGBA"),
    "bilevel png": encoded("PNG", "1"),
    "16-bit png": encoded("PNG", "I;16"),
    "webp": encoded("WEBP"),
    "lossless webp": encoded("WEBP", "RGBA", lossless=True),
    "gif": encoded("GIF", "P"),
    "bmp": encoded("BMP"),
}


class TestCheck:
    @pytest.mark.parametrize("name", WHOLE)
    def test_whole_pictures_pass(self, name):
        assert check(WHOLE[name]) == (HEIGHT, WIDTH)
        shown = decode({"bytes": WHOLE[name], "path": name})
        assert (shown.mode, shown.height, shown.width) == ("RGB", HEIGHT, WIDTH)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
    @pytest.mark.parametrize("name", WHOLE)
    def test_cut_pictures_are_refused(self, name):
        """Detected: every cut of a JPEG, WebP or BMP, even of the last byte.

        A PNG may lack the checksum of its end marker (4 bytes) and a GIF its end marker (2 bytes): no pixel is lost.
        """
        data = WHOLE[name]
        spare = {"png": 4, "gif": 2}.get(name.split()[-1], 0)
        stops = {*range(0, len(data) - spare, 1 + len(data) // 150), *range(len(data) - spare - 30, len(data) - spare)}
        for stop in stops:
            with pytest.raises(UndecodableError):
                check(data[:stop])

    @pytest.mark.parametrize("name", ["png", "grey png"])
    def test_a_flipped_bit_of_a_png_is_found(self, name):
        data = WHOLE[name]
        for position in range(len(data) - 12):
            damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
            with pytest.raises(UndecodableError):
                check(damaged)

    @pytest.mark.parametrize(
        "data", [b"", b"\xff", b"<html>quota exceeded</html>", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]
    )
    def test_what_is_no_picture_is_refused_with_the_reason(self, data):
        with pytest.raises(UndecodableError, match="Error: "):
            check(data)

    @pytest.mark.filterwarnings("ignore")
    @FEW
    @given(
        st.sampled_from(sorted(WHOLE)),
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5),
        st.binary(max_size=50),
    )
    def test_random_damage_gives_a_size_or_a_refusal(self, name, changes, other):
        damaged = bytearray(WHOLE[name])
        for position, value in changes:
            damaged[position % len(damaged)] = value
        for data in (bytes(damaged), other, WHOLE[name][:20] + other):
            try:
                height, width = check(data)
            except UndecodableError:
                continue
            assert height > 0
            assert width > 0

    @pytest.mark.parametrize("number", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_the_size_is_the_one_readers_see_after_exif_orientation(self, kind, number):
        data = encoded(kind, exif=orientation(number))
        expected = (WIDTH, HEIGHT) if number >= 5 else (HEIGHT, WIDTH)
        assert check(data) == expected
        stored = {"bytes": data, "path": None}
        shown, hub = decode(stored), HubImage().decode_example(stored)
        assert (shown.height, shown.width) == expected
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(hub.convert("RGB")))

    def test_a_decompression_bomb_is_refused_by_its_header(self):
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
        rows = zlib.compress(bytes(1000))
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        with pytest.raises(UndecodableError, match="DecompressionBomb"):
            check(bomb)
        near = bomb.replace(
            chunk(b"IHDR", size), chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 9_000, 8, 2, 0, 0, 0))
        )
        with pytest.raises(UndecodableError, match="DecompressionBombWarning"):  # Pillow itself would only warn
            check(near)


def decoded_size(data):
    """What Pillow says when it decodes all pixels: (height, width), or None."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception:
        return None
    return image.height, image.width


def checked_size(data):
    try:
        return check(data)
    except UndecodableError:
        return None


PLAIN = {
    "4:2:0": encoded("JPEG"),
    "4:2:2": encoded("JPEG", subsampling=1),
    "4:4:4": encoded("JPEG", subsampling=0),
    "grey": encoded("JPEG", "L"),
    "own tables": encoded("JPEG", optimize=True),
    "restart markers": encoded("JPEG", restart_marker_blocks=3),
    "comment": encoded("JPEG", comment=b"Lavc"),
    "text after the end": encoded("JPEG") + b"\xff\xda and more",
}


class TestPlainJpeg:
    """Those are not decoded, so their structure must say whatever a decoder would."""

    @pytest.mark.parametrize("name", PLAIN)
    def test_they_are_not_decoded(self, name, monkeypatch):
        monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded"))
        assert check(PLAIN[name]) == (HEIGHT, WIDTH)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("name", ["4:2:0", "grey", "own tables"])
    def test_any_byte_of_a_header_may_be_wrong(self, name):
        """Among them a table number that is defined, but for another kind of table."""
        data = PLAIN[name]
        refused = 0
        for position in range(2, data.index(b"\xff\xda") + 14):
            for value in {0, 1, 0x11, 0x21, 0xC4, 0xFF, data[position] ^ 1} - {data[position]}:
                damaged = data[:position] + bytes([value]) + data[position + 1 :]
                expected = decoded_size(damaged)
                assert checked_size(damaged) == expected, (position, value)
                refused += expected is None
        assert refused > 100

    @pytest.mark.parametrize(
        ("marker", "at", "new"),
        [
            (b"\xff\xc4", 5, bytes([5, 1, 0, 1, 1, 1, 1, 1, 1])),  # five codes of one bit
            (b"\xff\xc0", 11, b"\x44"),  # 18 blocks that belong together; 10 are allowed
            (b"\xff\xc0", 11, b"\x52"),  # five samples side by side; 4 are allowed
        ],
    )
    def test_tables_and_frames_that_no_decoder_takes(self, marker, at, new):
        data = PLAIN["4:2:0"]
        start = data.index(marker) + at
        damaged = data[:start] + new + data[start + len(new) :]
        assert decoded_size(damaged) is None
        assert checked_size(damaged) is None

    def test_a_segment_too_many_or_too_short(self):
        data = PLAIN["4:2:0"]
        at = data.index(b"\xff\xc0")
        sixth_table = b"\xff\xc4\0\x14\x05" + bytes([0, 1, *[0] * 14, 0])  # there are four
        for damaged in (
            data[:at] + data[at : at + 19] + data[at:],
            data[:at] + sixth_table + data[at:],
            data[:2] + b"\xff\xe0\0\x07JFIF\0" + data[20:],
        ):
            assert decoded_size(damaged) is None
            assert checked_size(damaged) is None

    @pytest.mark.filterwarnings("ignore")
    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(sorted(PLAIN)), st.data())
    def test_parts_may_be_missing_twice_or_moved(self, name, drawn):
        damaged = PLAIN[name]
        for _ in range(drawn.draw(st.integers(1, 3))):
            start, stop, to = sorted(drawn.draw(st.tuples(*[st.integers(0, len(damaged))] * 3)))
            part = drawn.draw(st.sampled_from([b"", damaged[start:stop], damaged[stop:to], bytes(stop - start)]))
            damaged = damaged[:start] + part + damaged[stop:]
        damaged += drawn.draw(st.sampled_from([b"", b"\xff\xd9"]))
        assert checked_size(damaged) == decoded_size(damaged)

    def test_a_file_that_was_filled_up_with_zeros_is_refused(self):
        data = PLAIN["4:2:0"]
        with pytest.raises(UndecodableError):
            check(data[: len(data) // 2] + bytes(100))


class TestDecode:
    def test_a_decoded_picture_passes_through(self):
        picture = Image.fromarray(PIXELS)
        assert decode(picture) is picture
        grey = decode(picture, "L")
        assert grey.mode == "L"
        np.testing.assert_array_equal(np.asarray(grey), np.asarray(picture.convert("L")))

    def test_the_mode_is_the_one_asked_for(self):
        stored = {"bytes": WHOLE["rgba png"], "path": "a.png"}
        assert [decode(stored, mode).mode for mode in ("RGB", "L", "RGBA")] == ["RGB", "L", "RGBA"]
        np.testing.assert_array_equal(np.asarray(decode(stored)), PIXELS)

    @pytest.mark.parametrize("data", [None, b"", b"no picture", WHOLE["jpeg"][:-3], WHOLE["png"][:200]])
    def test_the_refusal_names_the_picture(self, data):
        with pytest.raises(UndecodableError, match=r"lost/frame 3\.png"):
            decode({"bytes": data, "path": "lost/frame 3.png"})


def test_the_reason_is_the_same_in_every_process():
    """Pillow names the address of the stream it could not read, which made rejects differ from build to build."""
    with pytest.raises(UndecodableError) as caught:
        check(b"no picture at all")
    assert "0x" not in str(caught.value)
    assert "UnidentifiedImageError" in str(caught.value)

"""Fast decoders give what Pillow gives, for every kind of picture, and leave it what they do not know."""

import io
import pickle
import random

import numpy as np
import pytest
from datasets import Dataset, Features, List
from datasets import Image as HubImage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from openstory_hf import codecs, decoders, pictures

PIXELS = np.random.default_rng(1).integers(0, 256, (37, 53, 4), np.uint8)


def encoded(kind, mode, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(PIXELS).convert("RGB") if mode != "RGBA" else Image.fromarray(PIXELS)
    image.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


KINDS = {
    "png": encoded("PNG", "RGB"),
    "png grey": encoded("PNG", "L"),
    "png alpha": encoded("PNG", "RGBA"),
    "png palette": encoded("PNG", "P"),
    "png one bit": encoded("PNG", "1"),
    "png 16 bit": encoded("PNG", "I;16"),
    "png transparent colour": encoded("PNG", "RGB", transparency=(1, 2, 3)),
    "png turned": encoded("PNG", "RGB", exif=turned()),
    "jpeg": encoded("JPEG", "RGB"),
    "jpeg 4:4:4": encoded("JPEG", "RGB", subsampling=0),
    "jpeg 4:2:2": encoded("JPEG", "RGB", subsampling=1),
    "jpeg progressive": encoded("JPEG", "RGB", progressive=True),
    "jpeg grey": encoded("JPEG", "L"),
    "jpeg cmyk": encoded("JPEG", "CMYK"),
    "jpeg turned": encoded("JPEG", "RGB", exif=turned()),
    "webp": encoded("WEBP", "RGB"),
    "gif": encoded("GIF", "P"),
}
FAST = {"png", "jpeg", "jpeg 4:4:4", "jpeg 4:2:2", "jpeg grey"}


@pytest.fixture
def watched(monkeypatch):
    """The pictures that were left to Pillow."""
    left = []
    decode = pictures.decode
    monkeypatch.setattr(pictures, "decode", lambda value: left.append(value) or decode(value))
    return left


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_are_those_of_pillow(kind, watched):
    pytest.importorskip("kornia_rs", reason="needs openstory_hf[fast]")
    pytest.importorskip("simplejpeg", reason="needs openstory_hf[fast]")
    value = {"bytes": KINDS[kind], "path": kind}
    expected = np.asarray(pictures.decode(value))
    watched.clear()
    found = decoders.rgb(value)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape == (*((53, 37) if "turned" in kind else (37, 53)), 3)
    assert (found == expected).all()
    assert (watched == []) == (kind in FAST)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_extra_everything_is_left_to_pillow(kind, watched, monkeypatch):
    monkeypatch.setattr(decoders, "_png", lambda: None)
    monkeypatch.setattr(decoders, "_jpeg", lambda: None)
    value = {"bytes": KINDS[kind], "path": kind}
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(KINDS[kind]))).convert("RGB")
    assert (decoders.rgb(value) == np.asarray(expected)).all()
    assert watched == [value]


def test_a_decoded_picture_is_taken_as_it_is():
    image = Image.fromarray(PIXELS[:, :, :3])
    assert (decoders.rgb(image) == PIXELS[:, :, :3]).all()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FAST)), st.integers(0, 2**32))
def test_damaged_pictures_are_refused_or_read_as_pillow_reads_them(kind, seed):
    draw = random.Random(seed)
    data = bytearray(KINDS[kind])
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.3:
        del data[draw.randrange(len(data)) :]
    value = {"bytes": bytes(data), "path": "x"}
    try:
        expected = np.asarray(pictures.decode(value))
    except pictures.UndecodableError:
        expected = None
    try:
        found = decoders.rgb(value)
    except pictures.UndecodableError:
        found = None
    if expected is not None:
        assert found is not None
        if kind == "png":
            assert (found == expected).all()  # checksums: a damaged PNG is not decoded by either
        else:
            assert found.shape == expected.shape


def test_missing_bytes_are_named():
    with pytest.raises(pictures.UndecodableError, match=r"no picture bytes stored for 'a\.png'"):
        decoders.rgb({"bytes": None, "path": "a.png"})


# -- sharing ----------------------------------------------------------------------------------------------------


def stored(number, place):
    pixels = np.full((8, 8, 3), number, np.uint8)
    return decoders.Stored(codecs.encode_png(pixels), f"{number}.png", place)


def test_a_cache_has_what_was_kept_and_forgets_what_was_longest_ago():
    cache, made = decoders.Cache(3 * 8 * 8 * 3), []
    for number in (1, 2, 3, 1, 4, 1, 2):
        found = cache.find([number, "never kept"])
        if not found:
            made.append(number)
            cache.keep({number: np.full((8, 8, 3), number, np.uint8)})
            found = cache.find([number])
        assert list(found) == [number]
        assert (found[number] == number).all()
    assert made == [1, 2, 3, 4, 2]  # 4 pushed 2 out, for 1 had been asked for again
    cache.keep({5: np.zeros(3 * 8 * 8 * 3 + 1, np.uint8)})
    assert not cache.find([5])  # larger than all there is room for


def test_only_stored_pictures_say_which_they_are():
    assert decoders.place_of(stored(5, ("file", 1))) == ("file", 1)
    assert decoders.place_of({"bytes": b"", "path": "5.png"}) is None
    assert decoders.place_of(Image.new("RGB", (1, 1))) is None


def test_a_stored_picture_is_a_plain_dictionary_to_everybody_else():
    value = stored(7, ("file", 1))
    assert value == {"bytes": value["bytes"], "path": "7.png"}
    twin = pickle.loads(pickle.dumps(value))
    assert (twin, twin.place) == (value, value.place)
    features = Features({"images": List(HubImage())})
    rows = Dataset.from_list([{"images": [value]}], features=features)
    assert (np.asarray(rows[0]["images"][0]) == 7).all()

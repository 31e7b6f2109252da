"""Encoded pictures: a decode check that changes nothing, and decoding."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from PIL import ExifTags, Image, ImageOps

from openstory_hf.errors import reason_of


class UndecodableError(ValueError):
    """The bytes are not a whole picture."""


def check(data: bytes) -> tuple[int, int]:
    """Make sure the bytes are a whole picture, and return (height, width) as a reader will see them.

    What a decoder refuses is refused, every cut included. A plain JPEG, as video tools write it, need not be decoded
    for that: its structure tells what a decoder would say, in a twentieth of the time. Other JPEGs are decoded at an
    eighth of their size, which still reads every coded byte. PNGs must also be whole behind the last row, where
    Pillow's decoder no longer looks but others do.

    Not found, by decoding neither: bytes changed within the coded pixels of a JPEG. They only change the colours.

    Raises:
        UndecodableError: with the decoder's reason.
    """
    return _plain_jpeg_size(data) or _decoded_size(data)


def _decoded_size(data: bytes) -> tuple[int, int]:
    try:
        image = open_bounded(data)
        width, height = image.size
        if image.getexif():
            width, height = ImageOps.exif_transpose(image).size  # which decodes the picture
        else:
            image.draft(None, (max(1, width // 8), max(1, height // 8)))
            image.load()
        open_bounded(data).verify()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise UndecodableError(reason_of(error)) from None
    return height, width


def open_bounded(data: bytes) -> Image.Image:
    """A picture of which no more than the header is decoded; too many pixels are an error, and never a warning.

    Raises:
        Exception: of any kind, as Pillow's readers do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # beyond Image.MAX_IMAGE_PIXELS
        return Image.open(io.BytesIO(data))


def seen_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a picture as a reader will see it, turned as its EXIF says; from its header alone.

    Raises:
        Exception: as `open_bounded`.
    """
    image = open_bounded(data)
    lies = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.width, image.height) if lies else (image.height, image.width)


def is_plain_jpeg(data: bytes) -> bool:
    """Whether the bytes are a whole JPEG of the common kind: sequential, 8 bits, grey or colour, without EXIF."""
    return _plain_jpeg_size(data) is not None


_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""What ends coded pixels: a marker, other than a stuffed zero or a restart marker."""

_MAX_PLAIN_SIDE = 8192
"""Whether a larger picture is a decompression bomb is for Pillow to say."""

_Table = tuple[str, int]
"""Kind (quantisation, DC, AC) and number of a decoding table."""


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) if the structure alone shows a whole JPEG that every decoder takes; None says nothing.

    Plain is: sequential Huffman coding with 8 bits; one component, or three of which only the first has several
    samples; all in one scan, behind well-formed tables, up to the end marker (ITU-T T.81, annexes B and C); no Exif
    or other application's data but JFIF. libjpeg has only warnings left for that, whatever the coded pixels hold.
    """
    if data[:2] != b"\xff\xd8":
        return None
    size = (0, 0)
    tables: set[_Table] = set()
    components: dict[int, int] = {}
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, body = data[at + 1], at + 4
        at += 2 + int.from_bytes(data[at + 2 : body], "big")
        if not body <= at <= len(data):
            return None
        segment = data[body:at]
        if marker == 0xDA:
            end = _MARKER.search(data, at)
            whole = end is not None and end[0] == b"\xff\xd9" and _has_its_tables(segment, components, tables)
            return size if whole else None
        if marker in (0xC0, 0xC1) and not components:
            components = _plain_components(segment)
            known = bool(components)
            size = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
        elif marker == 0xDB:
            tables |= (found := _quantisation_tables(segment))
            known = bool(found)
        elif marker == 0xC4:
            tables |= (found := _huffman_tables(segment))
            known = bool(found)
        elif marker == 0xE0:
            known = segment[:5] == b"JFIF\0" and len(segment) >= 14
        else:  # the restart interval, or a comment
            known = (marker == 0xDD and len(segment) == 2) or marker == 0xFE
        if not known:
            return None
    return None


def _plain_components(segment: bytes) -> dict[int, int]:
    """Component -> its quantisation table, from a plain frame header; empty for any other."""
    count = segment[5] if len(segment) > 5 else 0
    height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
    samples = [(byte >> 4, byte & 15) for byte in segment[7::3]]
    if (
        count not in (1, 3)
        or len(segment) != 6 + 3 * count
        or segment[0] != 8
        or not (0 < height <= _MAX_PLAIN_SIDE and 0 < width <= _MAX_PLAIN_SIDE)
        or not all(1 <= side <= 4 for side in samples[0])
        or samples[0][0] * samples[0][1] > 8  # libjpeg takes up to 10 blocks together
        or samples[1:] != [(1, 1)] * (count - 1)
    ):
        return {}
    return dict(zip(segment[6::3], segment[8::3], strict=True))


@lru_cache(maxsize=64)  # pictures of one origin share theirs
def _quantisation_tables(segment: bytes) -> frozenset[_Table]:
    """The tables defined; empty unless well-formed."""
    found, at = set(), 0
    while at < len(segment):
        wide, number = segment[at] >> 4, segment[at] & 15
        at += 65 + 64 * wide
        if wide > 1 or number > 3 or at > len(segment):
            return frozenset()
        found.add(("quantisation", number))
    return frozenset(found)


@lru_cache(maxsize=64)
def _huffman_tables(segment: bytes) -> frozenset[_Table]:
    """The tables defined; empty unless well-formed."""
    found, at = set(), 0
    while at < len(segment):
        kind, number, lengths = segment[at] >> 4, segment[at] & 15, segment[at + 1 : at + 17]
        symbols = segment[at + 17 : at + 17 + sum(lengths)]
        at += 17 + sum(lengths)
        code = 0
        for bits, count in enumerate(lengths, 1):
            code = 2 * code + count
            if code >= 1 << bits:  # more codes than there are, or one of ones alone
                return frozenset()
        if kind > 1 or number > 3 or at > len(segment) or (kind == 0 and max(symbols, default=0) > 15):
            return frozenset()
        found.add(("AC" if kind else "DC", number))
    return frozenset(found)


def _has_its_tables(scan: bytes, components: Mapping[int, int], tables: set[_Table]) -> bool:
    """Whether a scan header names all components in order, and every table they need is there."""
    count = len(components)
    if len(scan) != 4 + 2 * count or scan[:1] != bytes([count]) or scan[1:-3:2] != bytes(components):
        return False
    needed = {("quantisation", number) for number in components.values()}
    for byte in scan[2:-3:2]:
        needed |= {("DC", byte >> 4), ("AC", byte & 15)}
    return needed <= tables


def decode(value: Mapping[str, Any] | Image.Image, mode: str = "RGB") -> Image.Image:
    """Decode a stored picture ({"bytes", "path"}), or pass a decoded one through, in the given mode.

    Applies the EXIF orientation, as `datasets.Image` does.

    Raises:
        UndecodableError: if the bytes are missing or not a picture.
    """
    if isinstance(value, Image.Image):
        return value if value.mode == mode else value.convert(mode)
    data = value["bytes"]
    if data is None:
        raise UndecodableError(f"no picture bytes stored for {value.get('path')!r}")
    try:
        image = Image.open(io.BytesIO(data))
        if image.getexif():
            image = ImageOps.exif_transpose(image)
        return image.convert(mode)
    except Exception as error:
        raise UndecodableError(f"{value.get('path')!r}: {reason_of(error)}") from None

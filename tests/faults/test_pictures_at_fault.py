"""Pictures: every way in which one may be broken, or odd and yet whole, in every place a release keeps pictures."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pyarrow.parquet as pq
from judge import Fault, Kept, LeftOut, judge, parametrize
from PIL import Image
from sound_releases import SLOTS

from openstory_hf.fakes import encoded

PIXELS = np.add.outer(np.arange(96), np.arange(96))[..., None].repeat(3, 2).astype(np.uint8)
JPEG, PNG = encoded(PIXELS, "JPEG"), encoded(PIXELS, "PNG")


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, *chunks, depth=1):
    """A PNG that says it has so many grey pixels, whatever its chunks hold."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*one) for one in chunks) + chunk(b"IEND", b"")


def jpeg_of(width, height):
    """A JPEG whose header announces another size than it has pixels for."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(PIXELS[:64]), "JPEG", exif=exif)


FRAMES = [Image.fromarray(np.roll(PIXELS, 9 * at, axis=1)) for at in range(3)]
ZEROS = zlib.compress(bytes(20_000 * 2_501), 9)  # 20,000 rows of 20,000 bits

BROKEN = {
    "empty": b"",
    "one-byte": b"\xff",
    "truncated-jpeg": JPEG[: len(JPEG) // 2],
    "jpeg-without-its-end": JPEG[:-2],
    "truncated-png": PNG[: len(PNG) // 2],
    "png-without-its-end": PNG[:-12],
    "bit-flipped-jpeg-header": flipped(JPEG, 1),
    "bit-flipped-png-pixels": flipped(PNG, len(PNG) // 2),
    "truncated-webp": saved(FRAMES[0], "WEBP")[:-40],
    "truncated-gif": saved(FRAMES[0], "GIF")[:400],
    "html-instead": b"<!DOCTYPE html><title>404</title>",
    "svg-named-otherwise": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "pdf-instead": b"%PDF-1.7\n1 0 obj\n",
    "postscript-instead": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "bomb-20000x20000": png_of(20_000, 20_000, (b"IDAT", ZEROS)),
    "bomb-10000x10000": png_of(10_000, 10_000, (b"IDAT", zlib.compress(bytes(10_000 * 1_251), 9))),
    "bomb-in-a-text": png_of(1, 1, (b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20), 9)), (b"IDAT", ZEROS[:9])),
    "jpeg-of-65500x65500": jpeg_of(65_500, 65_500),
    "jpeg-of-no-height": jpeg_of(96, 0),
    "png-of-no-width": png_of(0, 8, (b"IDAT", zlib.compress(b"\0" * 8))),
    "png-of-no-pixels": png_of(8, 8),
    "png-of-an-unknown-depth": png_of(8, 8, (b"IDAT", zlib.compress(b"\0" * 16)), depth=3),
}
ODD = {
    "cmyk-jpeg": saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "grey-16-bit-png": saved(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
    "grey-jpeg": encoded(PIXELS[..., 0], "JPEG"),
    "progressive-jpeg": saved(FRAMES[0], "JPEG", progressive=True),
    "palette-png": saved(FRAMES[0].convert("P"), "PNG"),
    "transparent-png": encoded(np.insert(PIXELS, 3, 9, axis=2), "PNG"),
    "animated-gif": saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "animated-png": saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "animated-webp": saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "exif-rotated": rotated(),
    "1x1": encoded(PIXELS[:1, :1], "PNG"),
    "1x2000": encoded(np.zeros((2000, 1, 3), np.uint8), "PNG"),
    "other-format-than-its-name": saved(FRAMES[0], "BMP"),
    "bytes-behind-the-end": JPEG + b"<script>alert(1)</script>",
}


def put(slot, data):
    """Damage: other bytes for the picture of a slot."""

    def damage(raw):
        if slot.member:
            path = raw.path / slot.file
            with tarfile.open(path) as tar:
                members = {member.name: tar.extractfile(member).read() for member in tar}
            raw.tar(slot.file, members | {slot.member: data})
        elif slot.row >= 0:
            rows = pq.read_table(raw.path / slot.file).to_pylist()
            rows[slot.row]["jpg"] = data
            raw.table(slot.file, rows)
        else:
            raw.bytes(slot.file, data)

    return damage


WAYS = ("vist", "openstory_pp-tar", "pororo_sv", "story_salon")
"""A picture is stored as it is, measured for its masks, cut into pixels, opened for its mask: each sees all faults."""

ELSEWHERE = ("truncated-jpeg", "html-instead", "bomb-20000x20000", "cmyk-jpeg", "exif-rotated")
REFUSED = "does not decode|not a picture|not a whole picture|not a readable picture"

FAULTS = [
    Fault(name, slot.release, put(slot, data), LeftOut(REFUSED, stories=1) if name in BROKEN else Kept(slot.frame))
    for slot in SLOTS
    for name, data in {**BROKEN, **ODD}.items()
    if slot.release in WAYS or name in ELSEWHERE
]


@parametrize(FAULTS)
def test_a_picture_is_kept_as_it_is_or_refused(fault, sound, tmp_path):
    judge(fault, sound, tmp_path)

"""What a dataset's `fake()` is made of: a writer of raw releases and drawn scenes with exactly known masks."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Content = bytes  # inside RawWriter, `bytes` is a method


class RawWriter:
    """Writes the files of a synthetic release below one folder; names are relative POSIX paths."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def bytes(self, name: str, data: bytes) -> None:
        """Write bytes, creating folders as needed."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def text(self, name: str, text: str) -> None:
        """Write UTF-8 text."""
        self.bytes(name, text.encode("utf-8"))

    def json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        self.text(name, json.dumps(value, ensure_ascii=False))

    def json_lines(self, name: str, lines: Sequence[Any]) -> None:
        """Write a JSON value a line; a text stands as it is."""
        self.text(name, "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))

    def pickle(self, name: str, value: Any) -> None:
        """Write a pickled file, as the releases do."""
        self.bytes(name, pickle.dumps(value, protocol=2))

    def npy(self, name: str, array: NDArray[Any]) -> None:
        """Write a plain `.npy` array."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        self.bytes(name, buffer.getvalue())

    def objects(self, name: str, value: Any) -> None:
        """Write Python objects as a `.npy` with a pickle inside: a dictionary, or an array of dtype object."""
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(value, dtype=object))
        self.bytes(name, buffer.getvalue())

    def jpeg(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Write RGB pixels as a JPEG."""
        self.bytes(name, encoded(pixels, "JPEG"))

    def png(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Write pixels, grey, RGB or RGBA, as a PNG."""
        self.bytes(name, encoded(pixels, "PNG"))

    def cut(self, name: str, size: int) -> None:
        """Keep the first bytes of a file, as an interrupted download does; a negative size leaves so many out."""
        path = self.path / name
        path.write_bytes(path.read_bytes()[:size])

    def tar(self, name: str, members: Mapping[str, Content]) -> None:
        """Write a plain tar of member name -> content."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for member, content in members.items():
                header = tarfile.TarInfo(member)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
        self.bytes(name, buffer.getvalue())

    def pack(self, folder: str, form: str) -> None:
        """Put a folder into an archive beside it, "zip" or "gztar", and remove it."""
        path = self.path / folder
        shutil.make_archive(str(path), form, path.parent, path.name)
        shutil.rmtree(path)

    def samples(self, name: str, samples: Mapping[str, Mapping[str, Content]]) -> None:
        """Write a WebDataset tar of key -> ending -> content."""
        self.tar(name, {f"{key}.{ending}": data for key, sample in samples.items() for ending, data in sample.items()})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], group: int = 2) -> None:
        """Write rows in groups as a Parquet file, or as an Arrow stream if the name ends in `.arrow`."""
        table, buffer = pa.Table.from_pylist(list(rows)), io.BytesIO()
        if name.endswith(".arrow"):
            with pa.ipc.new_stream(buffer, table.schema) as stream:
                stream.write_table(table, max_chunksize=group)
        else:
            pq.write_table(table, buffer, row_group_size=group)
        self.bytes(name, buffer.getvalue())


def encoded(pixels: NDArray[np.uint8], kind: str, palette: Sequence[int] = ()) -> bytes:
    """Encode a picture.

    Args:
        pixels: uint8 (h, w) or (h, w, channels).
        kind: "JPEG" or "PNG".
        palette: red, green, blue, red, ... of the values 0, 1, ...; makes pixels (h, w) a picture of mode P.
    """
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if palette:
        image.putpalette(list(palette))
    image.save(buffer, format=kind, quality=90)  # a PNG has no quality
    return buffer.getvalue()


Scene = tuple[NDArray[np.uint8], NDArray[np.int64], list[tuple[int, int, int, int]]]


def scene(cast: Sequence[str], *, size: int = 128, step: int = 0, place: str = "") -> Scene:
    """Draw figures in front of a background.

    Args:
        cast: one figure per name; a name always has the same colours.
        size: side in pixels.
        step: moves the figures a little, as successive pictures of a clip do.
        place: names the background.

    Returns:
        pixels uint8 (size, size, 3); label image int64 (size, size) with 1 + index of the figure owning each
        pixel, 0 elsewhere; boxes (x1, y1, x2, y2), end exclusive, of each figure's own shape before overlaps.
    """
    sky, ground = _colour(place + "sky", 150, 105), _colour(place + "ground", 70, 90)
    picture = Image.new("RGB", (size, size), sky)
    labels = Image.new("L", (size, size), 0)
    paint, mark = ImageDraw.Draw(picture), ImageDraw.Draw(labels)
    paint.rectangle((0, int(size * 0.7), size, size), fill=ground)
    paint.ellipse((int(size * 0.72), int(size * 0.06), int(size * 0.9), int(size * 0.24)), fill=(255, 236, 140))
    boxes = []
    width = size / max(2, len(cast) + 1)
    for index, name in enumerate(cast):
        shift = (step * (3 + index)) % max(1, int(size * 0.08))
        left = int(width * (index + 0.35)) + shift
        height = int(size * (0.42 + 0.04 * (zlib.crc32(name.encode()) % 4)))
        wide = int(width * 0.95)
        top, bottom = int(size * 0.92) - height, int(size * 0.92)
        head = max(4, wide // 2)
        shapes = (
            ("rectangle", (left, top + head, left + wide - 1, bottom - 1), _colour(name + "coat", 60, 180)),
            (
                "ellipse",
                (left + wide // 4, top, left + wide // 4 + head, top + head),
                _colour(name + "face", 170, 80),
            ),
        )
        for shape, box, colour in shapes:
            getattr(paint, shape)(box, fill=colour)
            getattr(mark, shape)(box, fill=index + 1)
        boxes.append((left, top, min(size, left + wide), bottom))
    return np.asarray(picture).copy(), np.asarray(labels).astype(np.int64), boxes


def _colour(name: str, low: int, span: int) -> tuple[int, int, int]:
    seed = zlib.crc32(name.encode("utf-8"))
    red, green, blue = (low + (seed >> shift) % span for shift in (0, 8, 16))
    return red, green, blue

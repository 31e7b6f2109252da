"""The instances of a frame: their masks, and where its text speaks of them."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from openstory_hf import decoders
from openstory_hf.collate.common import Row, taken
from openstory_hf.collate.pixels import Geometry, numbers_of
from openstory_hf.views import Span, row_error

MENTION_OFFSETS = {"captions": ("start", "end"), "referential_captions": ("ref_start", "ref_end")}
"""Which offsets of a mention count characters of which column; mentions fit no other text."""

Instance = Mapping[str, Any]


class Mention(NamedTuple):
    """Where a text speaks of a character, by name or by pronoun: half-open character offsets."""

    character: str
    span: Span


def mentions_of(row: Row, frame: int, column: str) -> list[Mention]:
    """The mentions in a frame's text.

    Args:
        row: a story that has mentions.
        frame: its number.
        column: of the text, one of `MENTION_OFFSETS`.

    Raises:
        RowError: if a mention leaves the text.
    """
    start, end = MENTION_OFFSETS[column]
    found = [Mention(entry["character"], (entry[start], entry[end])) for entry in row["mentions"][frame]]
    length = len(row[column][frame])
    if outside := [span for _, span in found if not 0 <= span[0] <= span[1] <= length]:
        raise row_error(row, f"a mention at {outside[0]} leaves {column}[{frame}], {length} characters")
    return found


def column_of(row: Row, frame: int, text: str) -> str | None:
    """The column of `MENTION_OFFSETS` that has this text at a frame, None if it is neither."""
    columns = (name for name in MENTION_OFFSETS if row.get(name) is not None)
    return next((name for name in columns if row[name][frame] == text), None)


def segmentation(instance: Instance) -> Mapping[str, Any] | None:
    """The run lengths of an instance's mask, None if it has none."""
    rle: Mapping[str, Any] | None = instance["segmentation"]
    # some readers return a null struct as a struct of nulls
    return None if rle is None or rle["counts"] is None else rle


def masked_instances(row: Row, frame: int) -> list[Instance]:
    """The instances of a frame that have a segmentation, in the order of the row.

    Raises:
        RowError: if the row has no column of instances.
    """
    if row.get("instances") is None:
        raise row_error(row, "no column 'instances'; keep it, or leave out the option that needs it")
    return [entry for entry in row["instances"][frame] if segmentation(entry) is not None]


def instance_grids(
    instances: Sequence[Sequence[Instance]],
    geometries: Sequence[Geometry],
    grid: tuple[int, int],
    kept: decoders.Cache | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks of the instances of I pictures, at most K of each.

    Args:
        instances: of each picture, all with a segmentation.
        geometries: of each picture.
        grid: (h, w).
        kept: keeps what was made, for windows that share their pictures.

    Returns:
        the share of each cell that an instance covers, float32 (I, K, h, w), and which of the K are one, bool (I, K).
    """
    grid = grid[0], grid[1]  # a list could not be part of a key
    rles = [[entry["segmentation"] for entry in of_picture] for of_picture in instances]
    keys: list[Hashable] = [None] * len(rles)
    if kept:
        keys = [
            None if number is None else (number, grid, *((*rle["size"], rle["counts"]) for rle in of_picture))
            for number, of_picture in zip(numbers_of(geometries), rles, strict=True)
        ]
    known, made = kept.find(keys) if kept else {}, dict[Hashable, NDArray[np.float32]]()
    shares: list[Any] = [known.get(key) for key in keys]
    missing = [number for number, share in enumerate(shares) if share is None]
    for geometry, group in groupby(missing, key=lambda number: geometries[number]):
        numbers = list(group)
        covered, start = geometry.coverage([rle for number in numbers for rle in rles[number]], grid), 0
        for number in numbers:
            stop = start + len(rles[number])
            shares[number], start = covered[start:stop], stop
            if keys[number] is not None:
                made[keys[number]] = shares[number].copy()
    if kept:
        kept.keep(made)
    valid = taken([len(of_picture) for of_picture in instances])
    placed = np.zeros((*valid.shape, *grid), np.float32)
    for into, share in zip(placed, shares, strict=True):  # faster than torch's, of all at once
        into[: len(share)] = share
    return torch.from_numpy(placed), valid


def spoken_spans(row: Row, frame: int, text: str) -> list[list[Span]]:
    """Where a caption speaks of each of the `masked_instances` of its frame: half-open character offsets.

    A caption speaks of an instance where it mentions its character, by name or by pronoun, and where it has its
    label, or the simple plural, as whole words in any case. Instances of one label share their words.

    Args:
        row: a story.
        frame: whose caption it is.
        text: the caption; without mentions if it is of another column than theirs.

    Raises:
        RowError: if the row has no column of instances, or a mention leaves the text.
    """
    column = column_of(row, frame, text) if row.get("mentions") is not None else None
    mentions = mentions_of(row, frame, column) if column else []
    return [
        [*(span for who, span in mentions if who == entry.get("character")), *_words(entry["label"], text)]
        for entry in masked_instances(row, frame)
    ]


def _words(label: str, text: str) -> list[Span]:
    pattern = rf"(?<!\w){re.escape(label)}(?:e?s)?(?!\w)"
    return [found.span() for found in re.finditer(pattern, text, re.IGNORECASE)] if label else []

"""Objects named by the values of a label picture, of the picture they are in or of its centre crop.

A sample has the label picture (palette indices or grey values) and a list of {"value", "label", "box", "logit"}, the
box as x1, y1, x2, y2 in pixels of the label picture. Small objects are painted over large ones, so that a value may be
absent; one that is there and not in the list is a defect: colours that were saved for values, or damage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openstory_hf.fakes import encoded, scene
from openstory_hf.masks import from_labels
from openstory_hf.raw import Raw
from openstory_hf.records import Instance, Reject, box_from_corners

CROP = (512, 512)
Labels = NDArray[np.uint8]


def read_instances(
    raw: Raw, objects: Sequence[Mapping[str, Any]], labels: tuple[bytes | None, str], picture: tuple[bytes | None, str]
) -> tuple[tuple[Instance, ...], tuple[int, int, int] | None]:
    """The objects of a sample as instances of its picture.

    Args:
        raw: the release.
        objects: the list, without the background.
        labels: the label picture, and what to call it in an error. Without one no object has a mask, and the boxes
            are those of a crop of `CROP`.
        picture: the picture, and what to call it. Without one the instances are those of the label picture itself.

    Returns:
        as `instances`.

    Raises:
        Reject: as `instances`, and if a picture is damaged.
    """
    png, name = labels
    shown = raw.labels(png, name) if png else np.zeros(CROP, np.uint8)
    data, path = picture
    height, width = shown.shape
    return instances(shown, objects, (height, width) if data is None else raw.picture_size(data, path))


def instances(
    labels: Labels, objects: Sequence[Mapping[str, Any]], size: tuple[int, int]
) -> tuple[tuple[Instance, ...], tuple[int, int, int] | None]:
    """The objects of a label picture as instances of a picture.

    Args:
        labels: uint8 (h, w) of the picture, or (s, s) of the square that was cut from its middle and scaled.
        objects: the list; a value that no pixel has gives an instance with a box and no mask.
        size: (height, width) of the picture.

    Returns:
        the instances; left, top and side in pixels of the square the labels were put on, None if they fit.

    Raises:
        Reject: if the labels have a value that the list does not name, or neither the size of the picture nor a
            square's, or a box lies outside the picture.
    """
    masks = from_labels(labels)
    if odd := sorted(set(masks) - {item["value"] for item in objects}):
        raise Reject(f"the mask holds the values {odd}, which the list does not name")
    crop, (left, top, scale) = None, (0, 0, 1.0)
    if size != labels.shape:
        if labels.shape[0] != labels.shape[1]:
            raise Reject(f"the mask is {labels.shape}, neither of the picture's size {size} nor a square crop of it")
        side = min(size)
        left, top, scale = (size[1] - side) // 2, (size[0] - side) // 2, side / len(labels)
        crop, masks = (left, top, side), from_labels(_on_square(labels, size, top, left))
    found = []
    for item in objects:
        corners = [value * scale + shift for value, shift in zip(item["box"], (left, top) * 2, strict=True)]
        found.append(
            Instance(
                label=item["label"],
                bbox=box_from_corners(corners, scale=(1, 1), size=size),
                mask=masks.get(item["value"]),
                score=item.get("logit"),
            )
        )
    return tuple(found), crop


def _on_square(labels: Labels, size: tuple[int, int], top: int, left: int) -> Labels:
    side = min(size)
    pick = np.arange(side) * len(labels) // side
    values = np.zeros(size, np.uint8)
    values[top : top + side, left : left + side] = labels[np.ix_(pick, pick)]
    return values


def draw(cast: Sequence[str], caption: str, *, size: int, step: int, place: str, mode: str = "P") -> dict[str, bytes]:
    """A drawn sample as a WebDataset tar holds it: jpg, png and json.

    Args:
        cast: the objects.
        caption: the caption.
        size: side in pixels.
        step: moves the objects a little.
        place: names the background.
        mode: of the label picture: "P", palette indices, or "L", grey values.
    """
    pixels, labels, boxes = scene(cast, size=size, step=step, place=place)
    objects: list[dict[str, Any]] = [{"value": 0, "label": "background"}]
    for value, (label, box) in enumerate(zip(cast, boxes, strict=True), 1):
        objects.append({"value": value, "label": label, "logit": 0.5 + value / 100, "box": [*map(float, box)]})
    facts = {"caption": caption, "origin_caption": f"{caption}.", "mask": objects}
    palette = [(colour * 37 + 80) % 256 for colour in range(27)] if mode == "P" else ()
    png = encoded(labels.astype(np.uint8), "PNG", palette)
    return {"jpg": encoded(pixels, "JPEG"), "png": png, "json": json.dumps(facts).encode()}

"""Run-length masks: all readers accept the same texts, and agree on the pixels."""

import numpy as np

from openstory_hf import masks


def _input(height: int, width: int, counts: str) -> bytes:
    return height.to_bytes(2, "little") + width.to_bytes(2, "little") + counts.encode()


_DISC = np.hypot(*np.mgrid[-9:9, -12:12]) < 7
SEEDS = [
    _input(*mask.shape, masks.encode(mask)["counts"])
    for mask in (
        _DISC,
        ~_DISC,
        np.zeros((3, 4)),
        np.ones((5, 1)),
        np.indices((30, 40)).sum(0) % 2,
        np.ones((512, 512)),
    )
]
TOKENS = [b"0", b"1", b"PPPPP1", b"oooooo", b"ooooooN", b"`", b"O", b"P", b"\x00\x00", b"\xff\xff", b"\x80"]


def one_input(data: bytes) -> None:
    height, width = (int.from_bytes(data[at : at + 2], "little") for at in (0, 2))
    rle = {"size": [height, width], "counts": data[4:]}
    readers = [
        masks.area,
        masks.bbox,
        masks.as_rle,
        lambda one: masks.grid([one], (2, 3)),
        lambda one: masks.merge([one]),
    ]
    if height * width <= 1 << 20:
        readers.append(masks.decode)
    answers = []
    for reader in readers:
        try:
            answers.append(reader(rle))
        except ValueError:
            answers.append(None)
    if answers[0] is None:
        assert all(answer is None for answer in answers), answers
        return
    area, (x, y, w, h), again, grid, merged, *decoded = answers
    assert masks.run_lengths(rle).sum() == height * width
    assert masks.run_lengths(rle)[1::2].sum() == area == masks.area(again) == masks.area(merged)
    assert x + w <= width
    assert y + h <= height
    assert not area or abs(float(grid.mean()) - area / (height * width)) < 1e-4
    for mask in decoded:
        assert mask.shape == (height, width)
        assert mask.sum() == area
        np.testing.assert_array_equal(masks.decode(masks.encode(mask)), mask)

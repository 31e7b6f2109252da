"""Masks: the COCO codec against the format's own rules and its reference implementation, and shrinking to a grid."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from openstory_hf import masks

SHARED = Path(__file__).parents[2] / "shared"
SIDES = st.integers(1, 12)
FEW = settings(max_examples=80, deadline=None)


@st.composite
def binary(draw):
    height, width = draw(SIDES), draw(SIDES)
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits, dtype=np.uint8).reshape(height, width)


EDGES = {
    "empty": np.zeros((5, 7)),
    "full": np.ones((5, 7)),
    "one pixel": np.ones((1, 1)),
    "one empty pixel": np.zeros((1, 1)),
    "one row": np.array([[0, 1, 1, 0, 1]]),
    "one column": np.array([[1], [0], [1]]),
    "first pixel": np.eye(4) * np.arange(4)[::-1, None] // 3,
    "long runs": np.arange(400 * 300).reshape(400, 300) > 50_000,
}


def spell(runs):
    """Compress run lengths by the rules of the format: differences from the run before last, 5 bits a character."""
    text = ""
    for at, run in enumerate(runs):
        value = run - runs[at - 2] if at > 2 else run
        while True:
            low, value = value & 31, value >> 5
            done = value == (-1 if low & 16 else 0)
            text += chr(48 + low + (0 if done else 32))
            if done:
                break
    return text


def runs_of(mask):
    """Column-major run lengths, starting with the background."""
    runs, current = [0], 0
    for pixel in np.asarray(mask).astype(bool).T.ravel():
        if pixel != current:
            runs.append(0)
            current = pixel
        runs[-1] += 1
    return runs


def check_codec(mask):
    mask = np.asarray(mask) != 0
    rle = masks.encode(mask)
    reference = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle == {"size": list(mask.shape), "counts": spell(runs_of(mask))}
    assert rle["counts"].encode() == reference["counts"]
    json.dumps(rle)
    for stored in (rle, {**rle, "counts": rle["counts"].encode()}, reference):
        decoded = masks.decode(stored)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, mask)
        assert masks.area(stored) == mask.sum() == coco.area(reference)
        assert masks.bbox(stored) == tuple(coco.toBbox(reference))
    return rle


class TestCodec:
    @pytest.mark.parametrize("mask", EDGES.values(), ids=EDGES.keys())
    def test_edges(self, mask):
        check_codec(mask)

    @FEW
    @given(binary())
    def test_any_mask(self, mask):
        rle = check_codec(mask)
        rows, columns = np.nonzero(mask)
        if len(rows):
            left, top = columns.min(), rows.min()
            assert masks.bbox(rle) == (left, top, columns.max() - left + 1, rows.max() - top + 1)
        else:
            assert masks.bbox(rle) == (0, 0, 0, 0)

    @pytest.mark.parametrize("dtype", [bool, np.int64, np.float32, np.uint8])
    def test_nonzero_is_the_object_in_any_type_and_order(self, dtype):
        mask = np.array([[0, 2, 0], [1, 0, 0]]).astype(dtype)
        expected = masks.encode([[0, 1, 0], [1, 0, 0]])
        for array in (mask, np.asfortranarray(mask), np.repeat(mask, 2, axis=1)[:, ::2], mask.tolist()):
            assert masks.encode(array) == expected
        assert masks.encode(np.array([[256, 0.25, np.nan]])) == masks.encode([[1, 1, 1]])

    @pytest.mark.parametrize("shape", [(), (4,), (2, 2, 1)])
    def test_a_mask_has_two_dimensions(self, shape):
        with pytest.raises(ValueError, match="two dimensions"):
            masks.encode(np.zeros(shape))

    @pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
    def test_a_mask_without_pixels(self, shape):
        """The box of one used to end the process: pycocotools divides by the height."""
        rle = masks.encode(np.zeros(shape))
        assert masks.decode(rle).shape == shape
        assert masks.area(rle) == 0
        assert masks.bbox(rle) == (0, 0, 0, 0)
        np.testing.assert_array_equal(masks.grid([rle], (2, 3)), np.zeros((1, 2, 3)))

    def test_the_masks_of_the_coco_release(self):
        path = SHARED / "golden" / "coco_instances_val2014_fakesegm100_results.json"
        if not path.exists():
            pytest.skip("the COCO masks are not here")
        stored = [result["segmentation"] for result in json.loads(path.read_text())]
        assert len(stored) == 734
        for rle in stored:
            decoded = masks.decode(rle)
            assert list(decoded.shape) == rle["size"]
            np.testing.assert_array_equal(decoded, coco.decode(rle))
            assert masks.encode(decoded) == rle
            assert masks.area(rle) == decoded.sum() == coco.area(rle)
            rows, columns = (np.flatnonzero(decoded.any(axis=axis)) for axis in (1, 0))
            x, y, width, height = masks.bbox(rle)
            assert (x, y, x + width - 1, y + height - 1) == (columns[0], rows[0], columns[-1], rows[-1])


class TestDamage:
    FUNCTIONS = (masks.decode, masks.area, masks.bbox, lambda rle: masks.grid([rle], (2, 2)))

    @pytest.mark.parametrize(
        "rle",
        [
            {"size": [30, 30], "counts": spell([0, 25])},
            {"size": [3, 3], "counts": spell([0, 2500])},
            {"size": [3, 3], "counts": ""},
            {"size": [3, 3], "counts": spell([3, -2, 8])},
            {"size": [0, 3], "counts": spell([3])},
            {"size": [-3, -3], "counts": spell([9])},
            {"size": [3, 3], "counts": "9\xff"},
            {"size": [3, 3], "counts": "9 "},
            {"size": [3, 3], "counts": spell([9])[:-1] + "P"},
            {"size": [3, 3], "counts": "oooooooo0"},
            {"size": [3, 3], "counts": spell([9]) + "\0"},
            {"size": [10**7, 10**7], "counts": spell([0])},
            {"size": [10**7, 10**7], "counts": spell([10**14])},
            {"size": [1 << 20, 1 << 20], "counts": spell([1 << 32] * 256)},
        ],
        ids=range(14),
    )
    def test_runs_that_do_not_fill_the_mask_are_refused(self, rle):
        """Too few runs used to give uninitialised memory instead of a mask."""
        for function in self.FUNCTIONS:
            with pytest.raises(ValueError, match=r"COCO|ascii"):
                function(rle)

    @FEW
    @given(
        st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=8), st.integers(0, 4), st.integers(0, 4)
    )
    def test_random_counts_are_refused_or_fill_the_mask(self, counts, height, width):
        rle = {"size": [height, width], "counts": counts}
        try:
            decoded = masks.decode(rle)
        except ValueError:
            for function in self.FUNCTIONS:
                with pytest.raises(ValueError, match="COCO"):
                    function(rle)
        else:
            assert decoded.shape == (height, width)
            assert masks.area(rle) == decoded.sum()
            assert masks.encode(decoded)["size"] == [height, width]

    def test_a_cut_or_changed_text_never_passes_for_another_size(self):
        rle = masks.encode(np.tri(20, 30))
        for stop in range(len(rle["counts"])):
            with pytest.raises(ValueError, match="COCO"):
                masks.decode({**rle, "counts": rle["counts"][:stop]})
        with pytest.raises(ValueError, match="fill a mask of 20x31"):
            masks.decode({**rle, "size": [20, 31]})


def averaged(mask, shape):
    """The share of each cell, by cutting every pixel into as many parts as makes the grid fit."""
    fine = np.kron(mask, np.ones(shape))  # each pixel becomes shape[0] x shape[1] parts
    cells = fine.reshape(shape[0], mask.shape[0], shape[1], mask.shape[1])
    return cells.mean(axis=(1, 3))


class TestEmptyRuns:
    """Nothing forbids runs of no pixels; pycocotools takes each for a pixel of the box, even outside the picture."""

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 4))
    def test_boxes_are_those_of_the_pixels(self, runs, height):
        runs += [-sum(runs) % height]
        width = sum(runs) // height
        rle = masks.as_rle({"size": [height, width], "counts": runs})
        rows, columns = np.nonzero(masks.decode(rle))
        if not len(rows):
            assert masks.bbox(rle) == (0, 0, 0, 0)
        else:
            x, y = columns.min(), rows.min()
            assert masks.bbox(rle) == (x, y, columns.max() - x + 1, rows.max() - y + 1)

    def test_a_mask_of_background_in_three_runs_has_no_box(self):
        assert masks.bbox({"size": [5, 1], "counts": "005"}) == (0, 0, 0, 0)


class TestGrid:
    @FEW
    @given(binary(), st.tuples(st.integers(1, 9), st.integers(1, 9)))
    def test_it_is_the_covered_share_of_every_cell(self, mask, shape):
        found = masks.grid([masks.encode(mask)], shape)
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1
        np.testing.assert_allclose(found[0], averaged(mask, shape), atol=1e-6)
        np.testing.assert_allclose(found.mean(), mask.mean(), atol=1e-6)

    def test_by_hand(self):
        mask = [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
        found = masks.grid([masks.encode(mask)], (2, 2))[0]
        # a cell is 1.5 x 1.5 pixels: (1 + 0.5 * 1 + 0.5 * 0.5) / 2.25, (0.5 * 0.5) / 2.25, 0.5 * (1 + 0) ...
        np.testing.assert_allclose(found, np.array([[1.75, 0.25], [0.75, 0.25]]) / 2.25, rtol=1e-6)

    def test_masks_of_several_sizes_keep_their_order(self):
        found = masks.grid(
            [masks.encode(np.ones((4, 6))), masks.encode(np.zeros((9, 2))), masks.encode([[1]])], (3, 5)
        )
        assert found.shape == (3, 3, 5)
        np.testing.assert_array_equal(found, np.array([1, 0, 1]).reshape(3, 1, 1) * np.ones((3, 3, 5)))

    def test_no_masks(self):
        assert masks.grid([], (3, 5)).shape == (0, 3, 5)


def shares(side, cells):
    """(cells, side): how much of each cell a pixel is, along one axis."""
    borders = np.linspace(0, side, cells + 1)
    reach = np.minimum(borders[:, None], np.arange(side + 1)) * cells / side
    return np.diff(np.diff(reach, axis=0), axis=1)


class TestBatches:
    @FEW
    @given(st.lists(binary(), max_size=6), st.tuples(st.integers(1, 9), st.integers(1, 9)))
    def test_many_masks_of_mixed_sizes_are_each_as_if_alone(self, several, shape):
        rles = [masks.encode(mask) for mask in several]
        found = masks.grid(rles, shape)
        assert found.shape == (len(several), *shape)
        for rle, one in zip(rles, found, strict=True):
            np.testing.assert_array_equal(masks.grid([rle], shape)[0], one)

    def test_one_damaged_mask_does_not_pass_among_sound_ones(self):
        sound = masks.encode(np.tri(8))
        for counts in ("", "1", sound["counts"][:-1]):
            with pytest.raises(ValueError, match="COCO"):
                masks.grid([sound, {"size": [8, 8], "counts": counts}, sound], (2, 2))

    def test_a_large_picture(self):
        mask = np.zeros((4000, 4000), np.uint8)
        mask[1000:3000, 500:2500] = 1
        rle = masks.encode(mask)
        np.testing.assert_allclose(
            masks.grid([rle], (4, 4))[0], mask.reshape(4, 1000, 4, 1000).mean((1, 3)), atol=1e-6
        )
        np.testing.assert_array_equal(masks.decode(rle), mask)

    def test_grids_of_real_masks_are_the_area_average_of_the_decoded_mask(self):
        path = Path(__file__).parents[2] / "shared/golden/coco_instances_val2014_fakesegm100_results.json"
        if not path.exists():
            pytest.skip("the COCO masks are not here")
        stored = [result["segmentation"] for result in json.loads(path.read_text())]
        for shape in ((16, 16), (7, 9)):
            for rle, found in zip(stored, masks.grid(stored, shape), strict=True):
                decoded = coco.decode(rle)
                rows, columns = (shares(side, cells) for side, cells in zip(decoded.shape, shape, strict=True))
                np.testing.assert_allclose(found, rows @ decoded @ columns.T, atol=1e-6)


class TestSpellings:
    @FEW
    @given(binary())
    def test_text_bytes_and_lists_are_one_mask(self, mask):
        rle = masks.encode(mask)
        runs = masks.run_lengths(rle)
        assert np.repeat(np.arange(len(runs)) % 2, runs).tolist() == mask.T.ravel().astype(bool).astype(int).tolist()
        assert masks.as_rle({"size": rle["size"], "counts": rle["counts"].encode()}) == rle
        assert masks.as_rle({"size": rle["size"], "counts": runs.tolist()}) == rle
        with pytest.raises(ValueError, match="fill"):
            masks.as_rle({"size": rle["size"], "counts": [*runs.tolist(), 1]})

    @FEW
    @given(binary())
    def test_outlines_give_the_mask_back(self, mask):
        rle = masks.encode(mask)
        assert masks.from_polygons(masks.to_polygons(rle), mask.shape) == rle

    def test_an_outline_turns_only_at_corners_and_a_ring_needs_three_points(self):
        mask = np.zeros((6, 8), np.uint8)
        mask[1:4, 2:7] = 1
        (ring,) = masks.to_polygons(masks.encode(mask))
        assert sorted(zip(ring[::2], ring[1::2], strict=True)) == [(2, 1), (2, 4), (7, 1), (7, 4)]
        with pytest.raises(ValueError, match="three points"):
            masks.from_polygons([[1, 2, 3, 4]], (6, 8))

    def test_polygons_are_rasterised_as_pycocotools_does(self):
        polygons = [[1.5, 1.2, 9.7, 2.0, 5.1, 8.8], [2, 6, 4, 6, 4, 9, 2, 9]]
        expected = coco.decode(coco.merge(coco.frPyObjects(polygons, 10, 12)))
        np.testing.assert_array_equal(masks.decode(masks.from_polygons(polygons, (10, 12))), expected)

    def test_a_box_is_its_pixels(self):
        mask = np.zeros((6, 8), np.uint8)
        mask[1:4, 2:7] = 1
        assert masks.from_box((2, 1, 5, 3), (6, 8)) == masks.encode(mask)

    @FEW
    @given(st.lists(st.integers(0, 2**16), min_size=1, max_size=4), st.booleans())
    def test_merging_and_iou_are_those_of_the_pixels(self, seeds, intersect):
        several = [np.random.default_rng(seed).random((5, 7)) < 0.5 for seed in seeds]
        rles = [masks.encode(mask) for mask in several]
        joined = np.logical_and.reduce(several) if intersect else np.logical_or.reduce(several)
        np.testing.assert_array_equal(masks.decode(masks.merge(rles, intersect=intersect)), joined)
        expected = [[(a & b).sum() / max(1, (a | b).sum()) for b in several] for a in several]
        np.testing.assert_allclose(masks.iou(rles, rles), expected)
        crowd = [[(a & b).sum() / max(1, a.sum()) for b in several] for a in several]
        np.testing.assert_allclose(masks.iou(rles, rles, crowd=[True] * len(rles)), crowd)

    def test_masks_of_two_sizes_do_not_merge(self):
        with pytest.raises(ValueError, match="one size"):
            masks.merge([masks.encode(np.ones((2, 3))), masks.encode(np.ones((3, 2)))])


@st.composite
def label_images(draw):
    height, width = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    pixels = draw(st.lists(st.integers(0, 4), min_size=height * width, max_size=height * width))
    labels = np.array(pixels, dtype=draw(st.sampled_from([np.uint8, np.int64]))).reshape(height, width)
    arranged = draw(st.sampled_from([np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, 1)[:, ::2]]))
    return arranged(labels)


def one_by_one(labels, values):
    masks_of = {value: coco.encode(np.asfortranarray(labels == value, dtype=np.uint8)) for value in values}
    return {value: {"size": list(labels.shape), "counts": rle["counts"].decode()} for value, rle in masks_of.items()}


class TestLabelImages:
    @settings(max_examples=200, deadline=None)
    @given(label_images(), st.lists(st.integers(0, 6), unique=True))
    def test_all_masks_at_once_are_those_of_pycocotools_one_by_one(self, labels, values):
        found = masks.from_labels(labels)
        assert found == one_by_one(labels, sorted(set(labels.ravel().tolist()) - {0}))
        assert list(found) == sorted(found)
        asked = masks.from_labels(labels, values)
        assert asked == one_by_one(labels, values)
        assert list(asked) == values

    def test_a_large_label_image_with_many_values_and_runs(self):
        labels = np.random.default_rng(0).integers(0, 200, (65, 300), np.uint8)
        labels[20:60, 30:200] = 7
        assert masks.from_labels(labels) == one_by_one(labels, range(1, 200))

    @pytest.mark.parametrize("shape", [(), (4,), (2, 2, 1)])
    def test_a_label_image_has_two_dimensions(self, shape):
        with pytest.raises(ValueError, match="two dimensions"):
            masks.from_labels(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("mode", ["P", "L"])
    def test_indices_are_values_whatever_their_colours(self, mode):
        values = np.array([[0, 1, 1], [2, 2, 7]], np.uint8)
        image = Image.fromarray(values)
        if mode == "P":
            image.putpalette([channel for index in range(256) for channel in (index * 37 % 256, 5, 9)])
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        labels = masks.read_labels(buffer.getvalue())
        np.testing.assert_array_equal(labels, values)
        assert {value: masks.decode(rle).tolist() for value, rle in masks.from_labels(labels).items()} == {
            value: (values == value).astype(int).tolist() for value in (1, 2, 7)
        }
        assert masks.area(masks.from_labels(labels, [3])[3]) == 0

    def test_colours_and_rubbish_are_refused(self):
        buffer = io.BytesIO()
        Image.new("RGB", (3, 2)).save(buffer, format="PNG")
        with pytest.raises(ValueError, match="mode P or L"):
            masks.read_labels(buffer.getvalue())
        with pytest.raises(ValueError, match="not a picture"):
            masks.read_labels(b"no PNG")


def test_threads_do_not_share_the_memory_of_a_grid():
    several = [masks.encode(np.random.default_rng(seed).random((64, 64)) < 0.5) for seed in range(40)]
    expected = [masks.grid([rle], (16, 16)) for rle in several]
    with ThreadPoolExecutor(8) as pool:
        for found, one in zip(
            pool.map(lambda rle: masks.grid([rle], (16, 16)), several * 5), expected * 5, strict=True
        ):
            np.testing.assert_array_equal(found, one)


@pytest.mark.parametrize(
    "counts", [[4, 0], [1, 1, 0, 1, 1], [0, 4], [0, 2, 0, 2], [2, 0, 2], [0, 0, 4], [1, 2, 0, 0, 1]]
)
def test_runs_of_no_pixels_are_not_stored(counts):
    """The build takes what `check` accepts: the shortest code of a mask."""
    flat = np.concatenate([np.full(run, at % 2, np.uint8) for at, run in enumerate(counts)])
    expected = masks.encode(flat.reshape(2, 2, order="F"))
    assert masks.as_rle({"size": [2, 2], "counts": counts}) == expected
    text = coco.frPyObjects({"size": [2, 2], "counts": counts}, 2, 2)["counts"]
    assert masks.as_rle({"size": [2, 2], "counts": text}) == expected

"""InterleavedCollator: ids and labels by hand, pictures and masks against plain rewrites."""

import copy
import io
import pickle
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from openstory_hf import codecs, decoders, masks  # noqa: E402
from openstory_hf import collate as room  # noqa: E402
from openstory_hf.collate import InterleavedCollator, StoryTensorCollator  # noqa: E402
from openstory_hf.collate import pixels as pixels_room  # noqa: E402
from openstory_hf.collate.pixels import Geometry, Pixels, normalize  # noqa: E402
from openstory_hf.collate.sample import Sample  # noqa: E402
from openstory_hf.errors import UsageError  # noqa: E402
from openstory_hf.testing import drawn_story, tiny_tokenizer  # noqa: E402
from openstory_hf.views import RowError  # noqa: E402

PAD, BOS, EOS, UNK, IMG = range(5)
# words of the hand-written story, in order of appearance in TEXTS
HI, NL, SO, LONG, L, R = range(5, 11)
TEXTS = ["Hi", "\n", "So", "Long", "[", "]"]
NO = -100


def tokenizer(extra=()):
    return tiny_tokenizer([*TEXTS, *extra])


def collator(**options):
    return InterleavedCollator(**{"tokenizer": tokenizer(), "image_size": 8, **options})


def story(captions=("Hi", "SoLong"), story_id="drawn/1", *, height=12, width=12, **columns):
    row = drawn_story(frames=len(captions), height=height, width=width, story_id=story_id)
    return {**row, "captions": list(captions), **columns}


# "SoLong" is one unknown word; "So" and "Long" meet without a blank only through marker texts
TWO = ("Hi", "So")


class TestTokens:
    def test_picture_first_and_last_caption_trained(self):
        batch = collator(image_start="[", image_end="]", tokens_per_image=2)([story(TWO)])
        assert batch["input_ids"].tolist() == [[BOS, L, IMG, IMG, R, HI, NL, L, IMG, IMG, R, SO, EOS]]
        assert batch["labels"].tolist() == [[NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, SO, EOS]]
        assert batch["image_positions"].tolist() == [[-1, -1, 0, 0, -1, -1, -1, -1, 1, 1, -1, -1, -1]]
        assert batch["attention_mask"].tolist() == [[1] * 13]
        assert batch["num_images"].tolist() == [2]
        assert batch["frames_dropped"].tolist() == [0]
        for name in ("input_ids", "labels", "attention_mask", "image_positions", "num_images", "frames_dropped"):
            assert batch[name].dtype == torch.int64

    def test_picture_first_and_all_captions_trained(self):
        batch = collator(image_start="[", image_end="]", target="all")([story(TWO)])
        assert batch["input_ids"].tolist() == [[BOS, L, IMG, R, HI, NL, L, IMG, R, SO, EOS]]
        assert batch["labels"].tolist() == [[NO, NO, NO, NO, HI, NO, NO, NO, NO, SO, EOS]]

    def test_caption_first_and_last_caption_trained(self):
        batch = collator(image_start="[", image_end="]", order="caption_first")([story(TWO)])
        assert batch["input_ids"].tolist() == [[BOS, HI, L, IMG, R, NL, SO, L, IMG, R, EOS]]
        assert batch["labels"].tolist() == [[NO, NO, NO, NO, NO, NO, SO, NO, NO, NO, EOS]]

    def test_caption_first_and_all_captions_trained(self):
        batch = collator(order="caption_first", target="all")([story(TWO)])
        assert batch["input_ids"].tolist() == [[BOS, HI, IMG, NL, SO, IMG, EOS]]
        assert batch["labels"].tolist() == [[NO, HI, NO, NO, SO, NO, EOS]]
        assert batch["image_positions"].tolist() == [[-1, -1, 0, -1, -1, 1, -1]]

    def test_bos_eos_and_separator_can_be_left_out(self):
        batch = collator(add_bos=False, add_eos=False, separator="")([story(TWO)])
        assert batch["input_ids"].tolist() == [[IMG, HI, IMG, SO]]
        assert batch["labels"].tolist() == [[NO, NO, NO, SO]]

    def test_pieces_are_tokenised_apart(self):
        # together, "So" and the marker "Long" would be the one unknown word "SoLong"
        batch = collator(order="caption_first", image_start="Long", target="all")([story(("So",))])
        assert batch["input_ids"].tolist() == [[BOS, SO, LONG, IMG, EOS]]
        assert batch["labels"].tolist() == [[NO, SO, NO, NO, EOS]]

    def test_markers_may_be_special_tokens(self):
        words = tokenizer()
        words.add_tokens(["<img>"], special_tokens=True)
        batch = collator(tokenizer=words, image_start="<img>")([story(("Hi",))])
        assert batch["input_ids"].tolist() == [[BOS, words.convert_tokens_to_ids("<img>"), IMG, HI, EOS]]

    @pytest.mark.parametrize("target", ["last", "all"])
    @pytest.mark.parametrize("order", ["image_first", "caption_first"])
    def test_labels_decode_to_exactly_the_trained_captions(self, order, target):
        rows = [drawn_story(frames=frames, height=16, width=16, story_id=f"d/{frames}") for frames in (1, 4)]
        words = tiny_tokenizer([text for row in rows for text in row["captions"]])
        batch = collator(tokenizer=words, order=order, target=target, image_start="in the ")(rows)
        for row, labels in zip(rows, batch["labels"], strict=True):
            told = row["captions"] if target == "all" else row["captions"][-1:]
            assert words.decode(labels[labels != NO]) == "".join(told) + "</s>"

    def test_the_text_column_is_chosen_for_each_row(self):
        rows = [
            story(("Hi",), referential_captions=["So"]),
            story(("Hi",), referential_captions=["So"], texts=["Long"]),
        ]
        assert collator()(rows)["input_ids"].tolist() == [[BOS, IMG, HI, EOS], [BOS, IMG, LONG, EOS]]
        chosen = collator(text="referential_captions")(rows)["input_ids"]
        assert chosen.tolist() == [[BOS, IMG, SO, EOS], [BOS, IMG, SO, EOS]]

    @pytest.mark.parametrize("caption", ["<pic>", "a <pic> b<pic><pic>", "<<pic>pic>", "</s> <s><pad>"])
    @pytest.mark.parametrize("special", [True, False])
    def test_tokens_spelt_out_in_a_caption_are_text(self, caption, special):
        words = tiny_tokenizer([caption])
        plain = len(words)  # the ids below are words of the caption
        words.add_tokens(["<pic>"], special_tokens=special)
        batch = collator(tokenizer=words, image_token="<pic>")([story(("", caption))])
        assert (batch["input_ids"] == plain).sum() == 2
        labels = batch["labels"][0]
        told = labels[labels != NO].tolist()
        assert told.pop() == EOS
        assert all(UNK < token < plain for token in told)
        assert words.decode(told) == caption

    def test_the_registered_image_token_spelt_out_is_text(self):
        words = tiny_tokenizer(["see <image> here"])
        batch = collator(tokenizer=words)([story(("see <image> here",))])
        assert (batch["input_ids"] == IMG).sum() == 1
        labels = batch["labels"][0]
        assert words.decode(labels[labels != NO]) == "see <image> here</s>"

    def test_a_slow_tokenizer_without_bos_works(self):
        slow = transformers.ByT5Tokenizer()
        slow.add_tokens(["<image>"], special_tokens=True)
        batch = collator(tokenizer=slow, tokens_per_image=2)([story(("Hé <image>", "Né</s>"))])
        image, one, two = slow.convert_tokens_to_ids("<image>"), "Hé <image>", "Né</s>"
        offset = 3  # ByT5: byte + 3
        assert batch["input_ids"].tolist() == [
            [
                *[image, image, *[byte + offset for byte in one.encode()], 10 + offset],
                *[image, image, *[byte + offset for byte in two.encode()], slow.eos_token_id],
            ]
        ]

    def test_a_caption_that_still_reads_as_placeholder_is_refused_by_name(self):
        words = tokenizer()
        words.add_tokens(["§"])  # a single character cannot be cut
        with pytest.raises(RowError, match=r"'drawn/1'.*2 placeholders for 1 pictures"):
            collator(tokenizer=words, image_token="§")([story(("Hi § So",))])


class TestBatches:
    def test_rows_of_different_lengths_and_sizes(self):
        rows = [story(("Hi",), "d/1", height=10, width=20), story(("So", "Hi", "Hi"), "d/2", height=30, width=9)]
        batch = collator()(rows)
        assert batch["input_ids"].tolist() == [
            [BOS, IMG, HI, EOS, PAD, PAD, PAD, PAD, PAD, PAD],
            [BOS, IMG, SO, NL, IMG, HI, NL, IMG, HI, EOS],
        ]
        assert batch["labels"][0].tolist() == [NO, NO, HI, EOS, NO, NO, NO, NO, NO, NO]
        assert batch["attention_mask"].tolist() == [[1] * 4 + [0] * 6, [1] * 10]
        assert batch["image_positions"].tolist() == [
            [-1, 0, -1, -1, -1, -1, -1, -1, -1, -1],
            [-1, 1, -1, -1, 2, -1, -1, 3, -1, -1],
        ]
        assert batch["num_images"].tolist() == [1, 3]
        assert batch["pixel_values"].shape == (4, 3, 8, 8)
        alone = [collator()([row])["pixel_values"] for row in rows]
        assert torch.equal(batch["pixel_values"], torch.cat(alone))

    def test_padding_with_the_eos_token_is_not_trained(self):
        words = tokenizer()
        words.pad_token = words.eos_token
        batch = collator(tokenizer=words)([story(("Hi",)), story(("Hi", "So"))])
        assert batch["input_ids"][0].tolist() == [BOS, IMG, HI, EOS, EOS, EOS, EOS]
        assert batch["labels"][0].tolist() == [NO, NO, HI, EOS, NO, NO, NO]

    def test_padding_with_the_image_token_is_no_placeholder(self):
        words = tokenizer()
        words.pad_token = "<image>"
        batch = collator(tokenizer=words)([story(("Hi",)), story(("Hi", "So"))])
        assert batch["image_positions"].tolist() == [[-1, 0, -1, -1, -1, -1, -1], [-1, 1, -1, -1, 2, -1, -1]]

    def test_a_call_changes_nothing_and_repeats_itself(self):
        rows = [story(TWO), story(("Hi",), texts=["So"])]
        before = copy.deepcopy(rows)
        collate = collator(mask_grid=(4, 4), max_length=4, truncate="oldest")
        first, second = collate(rows), collate(rows)
        assert rows == before
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_a_pickled_collator_does_the_same(self):
        collate = collator(mask_grid=(4, 4))
        batch, again = collate([story(TWO)]), pickle.loads(pickle.dumps(collate))([story(TWO)])
        assert all(torch.equal(batch[name], again[name]) for name in batch)

    def test_workers_of_a_data_loader_collate(self):
        rows = [story(TWO, f"d/{number}") for number in range(4)]
        loader = torch.utils.data.DataLoader(rows, batch_size=2, num_workers=2, collate_fn=collator())
        assert [batch["input_ids"].shape for batch in loader] == [(2, 7), (2, 7)]

    def test_an_error_in_a_worker_keeps_its_type_and_message(self):
        rows = [story(TWO, images=None)]
        loader = torch.utils.data.DataLoader(rows, batch_size=1, num_workers=1, collate_fn=collator())
        with pytest.raises(RowError, match="drawn/1"):
            next(iter(loader))

    def test_rows_as_load_dataset_gives_them(self):
        datasets = pytest.importorskip("datasets")
        schema = pytest.importorskip("openstory_hf.schema")
        row = story(TWO, height=9, width=14)
        row["instances"][0][0]["segmentation"] = None
        table = datasets.Dataset.from_list([row], features=schema.STORIES)
        collate = collator(mask_grid=(3, 5))
        (encoded,) = table.to_iterable_dataset().decode(False)
        expected = collate([row])
        for batch in (collate([table[0]]), collate([encoded])):
            assert all(torch.equal(batch[name], expected[name]) for name in expected)


class TestTruncation:
    # one frame is <image> + word; three frames take 1 + 3 * 2 + 2 + 1 = 10 tokens
    ROW = ("Hi", "So", "Long")

    def test_the_oldest_frames_go_first(self):
        row = story(self.ROW)
        batch = collator(max_length=9, truncate="oldest")([row])
        assert batch["input_ids"].tolist() == [[BOS, IMG, SO, NL, IMG, LONG, EOS]]
        assert batch["labels"].tolist() == [[NO, NO, NO, NO, NO, LONG, EOS]]
        assert batch["frames_dropped"].tolist() == [1]
        assert batch["num_images"].tolist() == [2]
        assert torch.equal(batch["pixel_values"], collator()([row])["pixel_values"][1:])

    def test_the_newest_frames_go_first_and_the_story_then_has_no_end(self):
        row = story(self.ROW)
        batch = collator(max_length=9, truncate="newest")([row])
        assert batch["input_ids"].tolist() == [[BOS, IMG, HI, NL, IMG, SO]]
        assert batch["labels"].tolist() == [[NO, NO, NO, NO, NO, SO]]
        assert batch["frames_dropped"].tolist() == [1]
        assert torch.equal(batch["pixel_values"], collator()([row])["pixel_values"][:2])

    @pytest.mark.parametrize("truncate", ["oldest", "newest", "error"])
    def test_a_story_that_just_fits_is_whole(self, truncate):
        batch = collator(max_length=10, truncate=truncate)([story(self.ROW)])
        assert batch["input_ids"].shape == (1, 10)
        assert batch["frames_dropped"].tolist() == [0]

    @pytest.mark.parametrize("truncate", ["oldest", "newest"])
    @pytest.mark.parametrize("max_length", range(7, 40))
    def test_kept_frames_are_whole_fit_and_could_not_be_more(self, truncate, max_length):
        sizes = [5, 4, 7, 5, 6]  # <image> <image> [ ] are 4, and as many words as needed
        row = story(["[" * (size - 4) for size in sizes])
        options = {"tokens_per_image": 2, "image_start": "[", "image_end": "]", "add_bos": False}
        batch = collator(**options, max_length=max_length, truncate=truncate)([row])

        def length(kept):
            ended = truncate == "oldest" or len(kept) == 5
            return sum(kept) + len(kept) - 1 + ended

        runs = [sizes[5 - n :] if truncate == "oldest" else sizes[:n] for n in range(1, 6)]
        best = max((run for run in runs if length(run) <= max_length), key=len)
        assert batch["input_ids"].shape[1] == length(best)
        assert batch["frames_dropped"].tolist() == [5 - len(best)]
        assert (batch["image_positions"] >= 0).sum() == 2 * len(best) == 2 * len(batch["pixel_values"])

    def test_frames_are_dropped_row_by_row(self):
        batch = collator(max_length=7, truncate="oldest")([story(TWO), story(self.ROW)])
        assert batch["frames_dropped"].tolist() == [0, 1]
        assert batch["image_positions"].max() == 3

    def test_masks_belong_to_the_frames_that_stay(self):
        row = story(self.ROW)
        row["instances"][0] = []
        full = collator(mask_grid=(4, 4))([row])
        cut = collator(mask_grid=(4, 4), max_length=7, truncate="oldest")([row])
        assert full["instance_valid"].tolist() == [[False, False], [True, True], [True, True]]
        assert torch.equal(cut["instance_masks"], full["instance_masks"][1:])

    def test_pictures_of_dropped_frames_are_not_decoded(self):
        row = story(self.ROW)
        row["images"][0] = {"bytes": b"not a picture", "path": "x.png"}
        assert collator(max_length=7, truncate="oldest")([row])["num_images"].tolist() == [2]

    def test_too_long_is_an_error_by_default(self):
        with pytest.raises(RowError, match=r"'drawn/1'.*10 tokens.*\[2, 2, 2\].*max_length=9.*truncate=\"oldest\""):
            collator(max_length=9)([story(self.ROW)])

    @pytest.mark.parametrize("truncate", ["oldest", "newest"])
    def test_one_frame_too_long_is_an_error_with_its_length(self, truncate):
        with pytest.raises(RowError, match=r"'drawn/1'.*1 of its 2 frames.*\[6, 6\].*max_length=5"):
            collator(max_length=5, truncate=truncate, tokens_per_image=5)([story(TWO)])


def reference_geometry(array, resize, height, width, fill):
    """Crop or pad an array (h, w, ...) to the shape of the target, written with plain slices and copies."""
    h, w = array.shape[:2]
    if resize == "center_crop":
        if w * height > h * width:  # too wide
            wide = round(h * width / height)
            left = (w - wide) // 2
            return array[:, left : left + wide]
        high = round(w * height / width)
        top = (h - high) // 2
        return array[top : top + high]
    if resize == "pad":
        high, wide = (h, round(h * width / height)) if w * height < h * width else (round(w * height / width), w)
        out = np.empty((high, wide, *array.shape[2:]), array.dtype)
        out[:] = fill
        # half the rest on either side; an odd rest puts the spare line before the picture
        top, left = -((h - high) // 2), -((w - wide) // 2)
        out[top : top + h, left : left + w] = array
        return out
    return array


def reference_grid(mask, height, width):
    """Area average by counting: blow every pixel up so that cells have whole numbers of pixels."""
    h, w = mask.shape
    big = np.repeat(np.repeat(mask.astype(np.float64), height, 0), width, 1)
    return big.reshape(height, h, width, w).mean((1, 3))


SHAPES = [(12, 12), (10, 21), (25, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(6, 6), (8, 12), (14, 5)])
@pytest.mark.parametrize("resize", ["squash", "center_crop", "pad"])
class TestGeometry:
    MEAN, STD = (0.4, 0.2, 0.6), (0.5, 0.25, 0.2)

    def test_pictures_are_cropped_or_padded_then_scaled_then_normalised(self, resize, size, shape):
        row = story(("Hi",), height=shape[0], width=shape[1])
        collate = collator(image_size=size, resize=resize, image_mean=self.MEAN, image_std=self.STD)
        values = collate([row])["pixel_values"]
        pixels = np.asarray(Image.open(io.BytesIO(row["images"][0]["bytes"])).convert("RGB"))
        framed = reference_geometry(pixels, resize, *size, fill=[102, 51, 153])  # the mean colour
        scaled = np.asarray(Image.fromarray(framed).resize((size[1], size[0]), Image.Resampling.BICUBIC))
        expected = (scaled / 255 - np.array(self.MEAN)) / np.array(self.STD)
        assert values.dtype == torch.float32
        assert values.shape == (1, 3, *size)
        np.testing.assert_allclose(values[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)

    def test_masks_follow_the_picture(self, resize, size, shape):
        row = story(("Hi",), height=shape[0], width=shape[1])
        batch = collator(image_size=size, resize=resize, mask_grid=(3, 4))([row])
        expected = [
            reference_grid(reference_geometry(masks.decode(entry["segmentation"]), resize, *size, fill=0), 3, 4)
            for entry in row["instances"][0]
        ]
        assert batch["instance_masks"].dtype == torch.float32
        np.testing.assert_allclose(batch["instance_masks"][0].numpy(), np.stack(expected), atol=1e-6)
        assert np.stack(expected).max() > 0


class TestPictures:
    def test_default_normalisation_spans_minus_one_to_one(self):
        half = np.zeros((8, 8, 3), np.uint8)
        half[:4] = 255
        row = story(("Hi",), images=[{"bytes": codecs.encode_png(half), "path": "half.png"}])
        values = collator()([row])["pixel_values"][0]
        assert (values[:, :4] == 1).all()
        assert (values[:, 4:] == -1).all()

    def test_grey_and_transparent_pictures_become_rgb(self):
        images = [Image.new("L", (5, 5), 255), Image.new("RGBA", (7, 3), (255, 255, 255, 255))]
        values = collator()([story(TWO, images=images)])["pixel_values"]
        assert torch.equal(values, torch.ones(2, 3, 8, 8))

    @pytest.mark.parametrize(
        "images", [None, [None, None], [{"bytes": None, "path": "a.png"}] * 2, [{"bytes": b"x", "path": "a.png"}] * 2]
    )
    def test_missing_and_broken_pictures_name_the_story(self, images):
        with pytest.raises(RowError, match="'drawn/1'"):
            collator()([story(TWO, images=images)])

    def test_annotations_only_rows_are_told_what_to_do(self):
        row = story(TWO)
        del row["images"]
        with pytest.raises(RowError, match='read the "stories" config'):
            collator()([row])

    def test_a_picture_too_few_is_refused(self):
        row = story(TWO)
        with pytest.raises(RowError, match=r"'drawn/1'.*1 pictures for 2 texts"):
            collator()([{**row, "images": row["images"][:1]}])


class TestInstances:
    def test_pictures_with_different_numbers_of_instances(self):
        row = story(("Hi", "So", "Hi"))
        row["instances"][0] = row["instances"][0][:1]
        row["instances"][1] = []
        batch = collator(mask_grid=(2, 2))([row])
        assert batch["instance_valid"].tolist() == [[True, False], [False, False], [True, True]]
        assert batch["instance_masks"].shape == (3, 2, 2, 2)
        assert batch["instance_masks"][~batch["instance_valid"]].sum() == 0

    def test_instances_without_segmentation_are_left_out_in_order(self):
        row = story(("Hi",))
        whole, corner = np.ones((12, 12)), np.zeros((12, 12))
        corner[:6, :6] = 1
        segmentations = [None, masks.encode(whole), {"size": None, "counts": None}, masks.encode(corner)]
        row["instances"] = [[{"label": "x", "segmentation": entry} for entry in segmentations]]
        batch = collator(mask_grid=(2, 2))([row])
        assert batch["instance_masks"].tolist() == [[[[1, 1], [1, 1]], [[1, 0], [0, 0]]]]

    def test_a_batch_without_any_instance(self):
        batch = collator(mask_grid=(2, 3))([story(TWO, instances=[[], []])])
        assert batch["instance_masks"].shape == (2, 0, 2, 3)
        assert batch["instance_valid"].shape == (2, 0)

    def test_masks_are_made_only_when_asked_for(self):
        row = story(TWO, instances=None)
        assert "instance_masks" not in collator()([row])
        with pytest.raises(RowError, match=r"'drawn/1'.*no column 'instances'"):
            collator(mask_grid=(2, 2))([row])


class TestPixels:
    def test_bytes_normalised_later_are_the_same_pictures(self):
        mean, std = (0.4, 0.2, 0.6), (0.5, 0.25, 0.2)
        options = {"image_mean": mean, "image_std": std}
        floats, whole = (
            collator(**options, pixel_dtype=dtype)([story(TWO)])["pixel_values"] for dtype in ("float32", "uint8")
        )
        assert whole.dtype == torch.uint8
        torch.testing.assert_close(normalize(whole, mean, std), floats)

    @pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.4, 0.2, 0.6)])
    def test_without_opencv_pictures_are_the_same(self, mean, monkeypatch):
        rows = [story(TWO, f"d/{number}", width=10 + number) for number in range(3)]
        found = {}
        for split in (None, pytest.importorskip("cv2").split):
            monkeypatch.setattr(pixels_room, "_split", lambda split=split: split)
            for cache_mb in (0, 1):
                decoders.shared_cache.cache_clear()
                collate = StoryTensorCollator(image_size=16, image_mean=mean, cache_mb=cache_mb)
                found[split, cache_mb] = collate(rows)["pixel_values"]
        first, *others = found.values()
        assert all(torch.equal(first, other) for other in others)

    @settings(deadline=None)
    @given(st.data())
    def test_masks_that_are_kept_are_those_of_the_row(self, data):
        """Whatever a view does to the instances of a picture."""
        decoders.shared_cache.cache_clear()
        shapes = {"a": np.tri(8, dtype=np.uint8), "b": (np.arange(64).reshape(8, 8) % 3 == 1).astype(np.uint8)}
        known = [
            {"label": name, "character": "", "segmentation": masks.encode(shape)} for name, shape in shapes.items()
        ]
        row = story(TWO)
        plain, keeping = (StoryTensorCollator(image_size=16, mask_grid=(4, 4), cache_mb=size) for size in (0, 1))
        for _ in range(4):
            row["instances"] = [data.draw(st.lists(st.sampled_from(known), max_size=3)) for _ in TWO]
            expected, found = plain([row]), keeping([row])
            assert torch.equal(found["instance_masks"], expected["instance_masks"])
            assert torch.equal(found["instance_valid"], expected["instance_valid"])

    def test_threads_change_nothing(self):
        rows = [story(TWO, f"d/{number}", width=10 + number) for number in range(5)]
        one, more = collator()(rows), collator(threads=3)(rows)
        assert all(torch.equal(one[name], more[name]) for name in one)


class TestPositions:
    def test_in_the_plain_layout_every_picture_is_read_and_none_generated(self):
        batch = collator(tokens_per_image=2)([story(TWO), story(("Hi",))])
        assert torch.equal(batch["comprehension_mask"], batch["image_positions"] >= 0)
        assert batch["comprehension_mask"].dtype == batch["generation_mask"].dtype == torch.bool
        assert not batch["generation_mask"].any()
        assert batch["picture_is_target"].tolist() == [False] * 3
        assert batch["stories_dropped"].tolist() == 0

    def test_padding_to_max_length(self):
        batch = collator(padding="max_length", max_length=9)([story(("Hi",))])
        assert batch["input_ids"].tolist() == [[BOS, IMG, HI, EOS, PAD, PAD, PAD, PAD, PAD]]
        assert batch["labels"].tolist() == [[NO, NO, HI, EOS, NO, NO, NO, NO, NO]]
        assert batch["attention_mask"].tolist() == [[1] * 4 + [0] * 5]
        assert batch["image_positions"].tolist() == [[-1, 0] + [-1] * 7]
        with pytest.raises(UsageError, match="needs a max_length"):
            collator(padding="max_length")

    @dataclass(frozen=True)
    class Released:
        """Labels of another length than ids, as a release may have them; generates the last picture."""

        labels: tuple
        max_length: int = 6

        def sample(self, row, draws=None):
            return Sample(
                row=row,
                ids=[7, IMG, 8],
                labels=list(self.labels),
                visual=[(-1, -1), (0, 0), (-1, -1)],
                frames=[0, 1],
                generated=[-1, -1, 1],
                frames_dropped=0,
            )

    @pytest.mark.parametrize("pack", [None, 6])
    def test_a_recipe_may_have_more_labels_than_ids_or_fewer(self, pack):
        more, fewer = (collator(recipe=self.Released(labels), pack=pack)([story(TWO)]) for labels in ((5,) * 5, (5,)))
        width = 6 if pack else 5
        assert more["input_ids"].tolist() == [[7, IMG, 8] + [PAD] * (width - 3)]
        assert more["attention_mask"].tolist() == [[1, 1, 1] + [0] * (width - 3)]
        assert more["labels"].tolist() == [[NO, 5, 5, 5, 5, NO] if pack else [5] * 5]
        assert fewer["labels"].tolist() == [[NO] * 6 if pack else [5, NO, NO]]
        assert more["image_positions"].tolist() == [[-1, 0, 1] + [-1] * (width - 3)]
        assert more["generation_mask"].tolist() == [[False, False, True] + [False] * (width - 3)]
        assert more["picture_is_target"].tolist() == [False, True]

    def test_the_layout_is_left_to_the_recipe(self):
        with pytest.raises(UsageError, match="order, separator must be left to the recipe, Released"):
            collator(recipe=self.Released((5,)), separator=" ", order="caption_first")


SPOKEN = {
    (0, 0): ["Fred", "They"],
    (0, 1): ["Wilma", "They"],
    (1, 0): ["He"],
    (1, 1): ["dog", "dogs"],  # the bone has no segmentation, and is not counted
}


class TestInstanceTokens:
    # Fred and Wilma are instances 0 and 1 of each frame
    CAPTIONS = ("Fred sees Wilma. They wave.", "He and the dog see dogs, not a dogma.")

    def row(self, **columns):
        row = drawn_story(frames=2, height=16, width=16)
        speak = [("fred", 0, 4), ("wilma", 10, 15), ("fred", 17, 21), ("wilma", 17, 21)], [("fred", 0, 2)]
        row["mentions"] = [
            [{"character": name, "start": a, "end": b, "ref_start": a, "ref_end": b} for name, a, b in of]
            for of in speak
        ]
        dog = {**row["instances"][1][1], "label": "dog", "character": None}
        bone = {"label": "bone", "character": None, "segmentation": None}
        row["instances"][1] = [row["instances"][1][0], bone, dog]
        return {**row, "captions": list(self.CAPTIONS), "referential_captions": list(self.CAPTIONS), **columns}

    def collator(self, row, **options):
        words = tiny_tokenizer([*row["captions"], "\n"])
        return collator(tokenizer=words, instance_tokens=True, mask_grid=(2, 2), **options)

    def test_a_mention_that_leaves_its_caption_is_named(self):
        row = self.row()
        row["mentions"][1][0]["end"] = 99
        with pytest.raises(RowError, match=r"'drawn/1'.*a mention at \(0, 99\) leaves captions\[1\]"):
            self.collator(row)([row])

    def spoken(self, collate, row):
        """What each instance of each picture is called, from the batch."""
        batch = collate([row])
        found = {}
        for place, picture in enumerate(batch["token_images"][0].tolist()):
            for instance in batch["token_instances"][0, place].nonzero().flatten().tolist():
                assert batch["instance_valid"][picture, instance]
                token = collate.tokenizer.convert_ids_to_tokens(int(batch["input_ids"][0, place]))
                found.setdefault((picture, instance), []).append(token)
            assert (picture == -1) == (not batch["token_instances"][0, place].any())
        return found

    @pytest.mark.parametrize("order", ["image_first", "caption_first"])
    @pytest.mark.parametrize("text", [None, "captions", "referential_captions"])
    def test_words_find_their_masks(self, text, order):
        row = self.row()
        assert self.spoken(self.collator(row, text=text, order=order), row) == SPOKEN

    def test_without_mentions_labels_are_found(self):
        row = self.row(mentions=None)
        expected = {(0, 0): ["Fred"], (0, 1): ["Wilma"], (1, 1): ["dog", "dogs"]}
        assert self.spoken(self.collator(row), row) == expected

    def test_offsets_hold_behind_an_image_token_that_is_spelt_out(self):
        row = self.row(captions=["<pic> <pic> Fred", "a dog"], mentions=None)
        words = tiny_tokenizer([*row["captions"], "\n"])
        words.add_tokens(["<pic>"])
        collate = collator(tokenizer=words, image_token="<pic>", instance_tokens=True, mask_grid=(2, 2))
        assert self.spoken(collate, row) == {(0, 0): ["Fred"], (1, 1): ["dog"]}

    def test_dropped_frames_take_their_words_along(self):
        row = self.row()
        collate = self.collator(row, max_length=24, truncate="oldest")
        assert collate([row])["frames_dropped"].tolist() == [1]
        assert self.spoken(collate, row) == {(0, 0): ["He"], (0, 1): ["dog", "dogs"]}

    def test_pictures_count_through_the_batch(self):
        row = self.row()
        batch = self.collator(row)([row, row])
        first, second = batch["token_images"]
        assert torch.equal(torch.where(second >= 0, second - 2, second), first)
        assert torch.equal(*batch["token_instances"])

    def test_what_it_needs_is_said(self):
        with pytest.raises(UsageError, match="mask_grid"):
            collator(instance_tokens=True)
        slow = transformers.ByT5Tokenizer()
        slow.add_tokens(["<image>"], special_tokens=True)
        with pytest.raises(UsageError, match="fast tokenizer"):
            collator(tokenizer=slow, instance_tokens=True, mask_grid=(2, 2))


RECIPE_TOKENS = ["<img>", "</img>", *(f"<img_{n:05d}>" for n in range(64)), *(f"[IMG{n}]" for n in range(8))]


DRAWN = [drawn_story(frames=frames, height=16, width=16, story_id=f"d/{frames}") for frames in (4, 2)]


class TestPresets:
    def preset(self, name, **overrides):
        words = tiny_tokenizer([text for row in DRAWN for text in row["captions"]])
        words.add_tokens(RECIPE_TOKENS, special_tokens=True)
        return InterleavedCollator.preset(name, tokenizer=words, **{"image_size": 8, **overrides})

    @pytest.mark.parametrize("name", ["storygpt_v", "gill", "seed_story", "openstory_pp"])
    def test_all_speak_one_vocabulary(self, name):
        collate = self.preset(name)
        batch = collate(DRAWN)
        width = batch["input_ids"].shape[1]
        sequences = ("input_ids", "attention_mask", "labels", "image_positions", "comprehension_mask")
        for tensor in (*sequences, "generation_mask"):
            assert batch[tensor].shape == (2, width), tensor
        count = len(batch["pixel_values"])
        assert batch["num_images"].sum() == count == len(batch["picture_is_target"])
        there = batch["comprehension_mask"] | batch["generation_mask"]
        assert torch.equal(batch["image_positions"] >= 0, there)
        assert not (batch["comprehension_mask"] & batch["generation_mask"]).any()
        assert batch["image_positions"].max() < count
        made = set(batch["image_positions"][batch["generation_mask"]].tolist())
        assert [k in made for k in range(count)] == batch["picture_is_target"].tolist()
        # the pictures are those of the samples, in order
        frames = [(row, number) for row in DRAWN for number in collate.sample(row).frames]
        geometry = Geometry(size=(8, 8), resize=collate.resize)
        shown = Pixels(geometry=geometry, mean=collate.image_mean, std=collate.image_std)(frames)
        assert torch.equal(batch["pixel_values"], shown)
        again = pickle.loads(pickle.dumps(collate))(DRAWN)
        assert all(torch.equal(batch[tensor], again[tensor]) for tensor in batch)

    def test_openstory_pp_knows_the_masks_of_its_words(self):
        batch = self.preset("openstory_pp")(DRAWN)
        assert batch["instance_masks"].shape == (6, 2, 32, 32)
        # each caption names both figures once
        assert batch["token_instances"].sum((1, 2)).tolist() == [8, 4]

    def test_options_go_where_they_belong(self):
        collate = self.preset("seed_story", num_img_in_tokens=5, pixel_dtype="uint8", max_length=300)
        assert collate.recipe.num_img_in_tokens == 5
        assert collate.recipe.max_length == 300
        assert collate(DRAWN)["pixel_values"].dtype == torch.uint8

    def test_unknown_names_and_options_are_refused(self):
        with pytest.raises(UsageError, match="preset must be one of 'storygpt_v', 'gill'"):
            self.preset("seed")
        with pytest.raises(UsageError, match=r"'seed_story' has no option order, sede; it has .*release_compatible"):
            self.preset("seed_story", sede=3, order="caption_first")


class TestOptions:
    def test_an_unknown_image_token_says_how_to_add_it(self):
        with pytest.raises(UsageError, match=r"'<picture>'.*add_tokens.*resize_token_embeddings"):
            collator(image_token="<picture>")
        with pytest.raises(UsageError, match="add_tokens"):
            collator(tokenizer=transformers.ByT5Tokenizer())

    def test_a_tokenizer_without_pad_or_eos(self):
        words = tokenizer()
        words.pad_token = None
        with pytest.raises(UsageError, match="no pad token"):
            collator(tokenizer=words)
        words = tokenizer()
        words.eos_token = None
        with pytest.raises(UsageError, match="add_eos=False"):
            collator(tokenizer=words)
        assert collator(tokenizer=words, add_eos=False)([story(("Hi",))])["input_ids"].tolist() == [[BOS, IMG, HI]]

    @pytest.mark.parametrize("name", ["image_start", "image_end", "separator"])
    def test_a_marker_must_not_hold_the_image_token(self, name):
        with pytest.raises(UsageError, match=name):
            collator(**{name: "see <image>"})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("order", "image"),
            ("target", "first"),
            ("resize", "crop"),
            ("truncate", "left"),
            ("padding", "left"),
            ("pixel_dtype", "float64"),
            ("tokens_per_image", 0),
        ],
    )
    def test_a_wrong_choice_is_named(self, name, value):
        with pytest.raises(UsageError, match=f"{name} must.*{value!r}"):
            collator(**{name: value})

    @pytest.mark.parametrize(
        ("option", "default"),
        [
            ("image_mean", (0.5, 0.5, 0.5)),
            ("image_std", (0.5, 0.5, 0.5)),
            ("pixel_dtype", "float32"),
            ("mask_grid", None),
            ("threads", 0),
            ("seed", 0),
            ("release_compatible", False),
        ],
    )
    def test_an_option_is_the_same_in_all_collators(self, option, default):
        collators = [kind for name in room.__all__ if is_dataclass(kind := getattr(room, name))]
        found = [entry.default for kind in collators for entry in fields(kind) if entry.name == option]
        assert len(found) > 1
        assert set(found) == {default}

    def test_an_empty_batch_and_an_empty_story(self):
        with pytest.raises(UsageError, match="at least one example"):
            collator()([])
        with pytest.raises(RowError, match=r"'drawn/1'.*no frames"):
            collator()([story(())])

    def test_a_missing_text_column_lists_what_there_is(self):
        with pytest.raises(RowError, match=r"'drawn/1'.*no column 'prose'.*captions"):
            collator(text="prose")([story(TWO)])

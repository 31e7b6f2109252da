"""StoryTensorCollator: AR-LDM against its released loader, everything else against plain rewrites."""

import copy
import json
import pickle

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from openstory_hf.builders.flintstones_sv import FlintstonesSV  # noqa: E402
from openstory_hf.builders.vist import VIST  # noqa: E402
from toy_pictures import flat  # noqa: E402
from toy_tokenizers import read_golden  # noqa: E402

from openstory_hf import codecs, masks  # noqa: E402
from openstory_hf.collate.ar_ldm import AR_LDM, longest_descriptions, visible_conditioning  # noqa: E402
from openstory_hf.collate.source import Source  # noqa: E402
from openstory_hf.collate.story_tensor import Draws, StoryTensorCollator  # noqa: E402
from openstory_hf.errors import UsageError  # noqa: E402
from openstory_hf.fakes import RawWriter  # noqa: E402
from openstory_hf.testing import drawn_story, tiny_tokenizer  # noqa: E402
from openstory_hf.views import RowError  # noqa: E402

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NAMES = {
    "images": "pixel_values",
    "captions": "input_ids",
    "attention_mask": "attention_mask",
    "source_images": "source_pixel_values",
    "source_caption": "source_input_ids",
    "source_attention_mask": "source_attention_mask",
}


# -- AR-LDM as released


def colour_of(clip, kept):
    """A colour that says which picture it is."""
    return 40 * clip + 20, 12 * kept + 30, 200


def which(pixels, mean, std):
    """The (clip, kept picture) of pictures (..., 3, H, W) of `colour_of`, after making sure that each is flat."""
    if pixels.dtype != torch.uint8:
        view = (3, 1, 1)
        pixels = (pixels * torch.tensor(std).view(view) + torch.tensor(mean).view(view)) * 255
    means = pixels.float().mean((-1, -2))
    assert (pixels.float() - means[..., None, None]).abs().max() < 0.01
    red, green, blue = means.round().long().unbind(-1)
    assert (blue == 200).all()
    return torch.stack([(red - 20) // 40, (green - 30) // 12], dim=-1).tolist()


def golden_row(case, index):
    """The row that `load_stories` would give for one story of a golden case."""
    inputs, drawn = case["inputs"], case["random"]["kept_frame_of_each_clip"]
    captions, extras = list(inputs["captions"][index]), [{} for _ in range(5)]
    sizes = inputs["image_sizes_wh"] or [[128, 128]] * 5
    if inputs["dataset"].startswith("vist"):
        captions += captions[-1:] * (5 - len(captions))  # photos that share one description
        extras = [{"descriptions": [{"original_text": caption}]} for caption in captions]
    else:  # strips, which the builder cuts into squares
        extras = [{"rows_left": height % width} if height % width else {} for width, height in sizes]
        sizes = [[width, width] for width, _ in sizes]
    kept = [*(drawn[index] if drawn else []), *[0] * 5]
    images = [flat(colour_of(clip, kept[clip]), tuple(sizes[clip])) for clip in range(5)]
    row = {"story_id": f"{case['id']}/{index}", "captions": captions, "images": images}
    return {**row, "extras": json.dumps({"frames": extras})}


def golden(case, tokenizers, **options):
    """The collator, rows and draws of a golden case."""
    inputs = case["inputs"]
    collate = StoryTensorCollator.ar_ldm(
        inputs["dataset"],
        clip_tokenizer=tokenizers["clip"],
        blip_tokenizer=tokenizers["blip"],
        task=inputs["task"],
        subset=inputs["subset"],
        **{"max_length": inputs["max_length"], "release_compatible": True, "keep_captions": True, **options},
    )
    stories, targets = len(inputs["captions"]), 4 if inputs["task"] == "continuation" else 5
    guidance = case["random"].get("guidance_draws") or [0.5] * stories * targets
    draws = [
        Draws(tuple(guidance[number * targets : (number + 1) * targets]), ((0.3, 0.9),) * 5, ((0.8, 0.1),) * 5)
        for number in range(stories)
    ]
    return collate, [golden_row(case, number) for number in range(stories)], draws


def test_every_released_sample():
    tokenizers, cases = read_golden("arldm")
    assert len(cases) >= 10
    for case in cases:
        expected = case["outputs"]
        collate, rows, draws = golden(case, tokenizers)
        if case["error"]:
            with pytest.raises((RowError, UsageError)):
                collate(rows, draws)
            continue
        batch = collate(rows, draws)
        first = 1 if case["inputs"]["task"] == "continuation" else 0
        assert batch["captions"] == [text.split("|")[first:] for text in expected["stored_text"]], case["id"]
        for theirs, ours in NAMES.items():
            assert list(batch[ours].shape) == expected["shapes"][theirs], (case["id"], ours)
            assert batch[ours].dtype == getattr(torch, expected["dtypes"][theirs]), (case["id"], ours)
            if theirs in expected:
                assert batch[ours].tolist() == expected[theirs], (case["id"], ours)
        test = case["inputs"]["subset"] == "test"
        images = batch["pixel_values"].permute(0, 1, 4, 2, 3) if test else batch["pixel_values"]
        assert which(images, [0.5] * 3, [0.5] * 3) == expected["images_frames"], case["id"]
        assert which(batch["source_pixel_values"], CLIP_MEAN, CLIP_STD) == expected["source_frames"], case["id"]
        if expected.get("model_error"):
            # captions without pictures, or longer than the null caption that takes the place of dropped ones
            if batch["input_ids"].shape[-1] == len(collate.null_condition()["input_ids"]):
                with pytest.raises(UsageError, match="captions for"):
                    visible_conditioning(batch)
        elif expected.get("visible_conditioning"):
            leading = torch.tensor(expected["visible_conditioning"])
            visible = torch.arange(expected["shapes"]["captions"][-1]) < leading[..., None]
            assert torch.equal(visible_conditioning(batch), visible.flatten(2)), case["id"]


def torchvision_like(image, size, crop):
    """`Resize(size)` and a crop at a share of the room; without crop, `Resize([size, size])`."""
    if crop is None:
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    width, height = image.size
    new = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    pixels = np.asarray(image.resize(new, Image.Resampling.BILINEAR))
    left, top = round(crop[0] * (new[0] - size)), round(crop[1] * (new[1] - size))
    return pixels[top : top + size, left : left + size]


@pytest.mark.parametrize(
    ("dataset", "subset", "crop"),
    [
        ("flintstones", "train", None),
        ("vistsis", "train", (0.25, 0.75)),
        ("vistsis", "val", (0.5, 0.5)),
        ("vistsis", "test", (0.5, 0.5)),
    ],
)
def test_release_compatible_pictures_are_those_of_its_transforms(dataset, subset, crop):
    noise = np.random.default_rng(0)
    images = [
        Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 64), (70, 41), (31, 32))
    ]
    words = tiny_tokenizer(["a"])
    collate = StoryTensorCollator.ar_ldm(
        dataset, clip_tokenizer=words, blip_tokenizer=words, subset=subset, release_compatible=True
    )
    row = {"story_id": "x/1", "captions": ["a"] * 3, "images": images}
    crops = ((0.25, 0.75),) * 3
    batch = collate([row], [Draws((0.5,) * 3, crops, crops)])
    size = 512 if subset != "test" else 64
    expected = np.stack([torchvision_like(image, size, crop) for image in images])
    if subset == "test":
        assert np.array_equal(batch["pixel_values"][0].numpy(), expected)
    else:
        found = batch["pixel_values"][0].permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(found, expected / 255 / 0.5 - 1, atol=1e-5)
    expected = np.stack([torchvision_like(image, 224, crop) for image in images]) / 255
    found = batch["source_pixel_values"][0].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, (expected - CLIP_MEAN) / CLIP_STD, atol=1e-5)


# -- AR-LDM with its defects fixed


def ar_ldm(texts=(), dataset="flintstones", **options):
    words = tiny_tokenizer([*texts, "Fred", " ", "runs", "\n", "|"])
    return StoryTensorCollator.ar_ldm(dataset, clip_tokenizer=words, blip_tokenizer=words, **options)


def story(captions, **columns):
    return {**drawn_story(frames=len(captions), height=32, width=32), "captions": list(captions), **columns}


def test_captions_reach_the_tokenizer_as_they_are():
    captions = ["Fred\nruns", "Fred | runs"]
    fixed = ar_ldm(captions)
    batch = fixed([story(captions)])
    for number, caption in enumerate(captions):
        ids = fixed.tokenizer(caption)["input_ids"]
        assert batch["input_ids"][0, number, : len(ids)].tolist() == ids
        assert batch["attention_mask"][0, number].sum() == len(ids)
    released = ar_ldm(captions, release_compatible=True, keep_captions=True)([story(captions)])
    assert released["captions"] == [["Fredruns", "Fred ", " runs"]]


def test_long_captions_are_cut_and_stop_only_the_released_loader():
    captions = ["Fred runs", "Fred runs " * 40]
    batch = ar_ldm(max_length=30)([story(captions)])
    assert batch["attention_mask"][0].sum(-1).tolist() == [3, 30]
    with pytest.raises(RowError, match=r"drawn/1.*max_length=30"):
        ar_ldm(max_length=30, release_compatible=True)([story(captions)])
    equal = [captions[1]] * 2  # packing strips the last blank
    assert ar_ldm(max_length=30, release_compatible=True)([story(equal)])["input_ids"].shape == (1, 2, 159)


def test_test_pictures_are_channels_first_bytes_without_dropout():
    row = story(["Fred"] * 3)
    batch = ar_ldm(subset="test")([row])
    assert batch["pixel_values"].shape == (1, 3, 3, 128, 128)
    assert batch["pixel_values"].dtype == torch.uint8
    assert not batch["condition_dropped"].any()
    released = ar_ldm(subset="test", release_compatible=True)([row])
    assert released["pixel_values"].shape == (1, 3, 128, 128, 3)


def test_vist_photos_with_one_description_keep_it_each():
    texts = ["Fred", "Fred", "runs"]
    extras = [{"descriptions": [{"original_text": "x"}, {"original_text": text}]} for text in texts]
    row = story(["-"] * 3, extras=json.dumps({"frames": extras}))
    assert longest_descriptions(row) == texts
    batch = ar_ldm(dataset="vistdii", keep_captions=True)([row])
    assert batch["captions"] == [texts]
    released = ar_ldm(dataset="vistdii", keep_captions=True, release_compatible=True)([row])
    assert released["captions"] == [["Fred", "runs"]]
    with pytest.raises(RowError, match="without description"):
        ar_ldm(dataset="vistdii")([story(["-"] * 3)])


def test_an_uneven_strip_stops_only_the_released_loader():
    row = story(["Fred"] * 2, extras=json.dumps({"frames": [{}, {"rows_left": 3}]}))
    assert ar_ldm(dataset="pororo")([row])["pixel_values"].shape == (1, 2, 3, 512, 512)
    with pytest.raises(RowError, match="multiple"):
        ar_ldm(dataset="pororo", release_compatible=True)([row])


def test_presets_are_those_of_the_paper():
    assert {name: recipe.max_length for name, recipe in AR_LDM.items()} == {
        "flintstones": 91,
        "pororo": 85,
        "vistsis": 100,
        "vistdii": 65,
    }
    for options in ({"dataset": "clevr"}, {"subset": "validation"}, {"task": "inpainting"}):
        with pytest.raises(UsageError, match=next(iter(options.values()))):
            ar_ldm(**options)


# -- batches


TEXTS = ["Fred", " ", "and", "Wilma", "walked", "steps", "along", "the", "river", ".", *"12345"]
WORDS = tiny_tokenizer(TEXTS)


def collator(**options):
    reading = Source(tokenizer=WORDS, image_size=8)
    return StoryTensorCollator(
        **{"tokenizer": WORDS, "max_length": 20, "image_size": 16, "source": reading, "mask_grid": (4, 4), **options}
    )


FULL = {"cast": ("wilma", "fred"), "settings": ("cave", "river"), "keep_captions": True, "condition_dropout": 0.4}


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    task=st.sampled_from(["visualization", "continuation"]),
)
def test_a_batch_is_its_stories_padded(lengths, task):
    collate = collator(task=task, **FULL)
    casts = [("fred", "wilma")[: 1 + number % 2] for number in range(len(lengths))]
    rows = [
        drawn_story(frames=frames, cast=cast, height=32, width=32, story_id=f"drawn/{number}")
        for number, (frames, cast) in enumerate(zip(lengths, casts, strict=True))
    ]
    batch = collate(rows)
    targets = [frames - (task == "continuation") for frames in lengths]
    assert batch["frame_mask"].sum(1).tolist() == targets
    assert batch["source_frame_mask"].sum(1).tolist() == lengths
    fills = {"input_ids": WORDS.pad_token_id, "source_input_ids": WORDS.pad_token_id}
    fills |= {"setting_labels": -1, "instance_characters": -1}
    for number, row in enumerate(rows):
        alone = collate.sample(row)
        assert alone.keys() == batch.keys()
        assert alone.pop("captions") == batch["captions"][number]
        for name, values in alone.items():
            together = batch[name][number]
            inside = tuple(slice(0, side) for side in values.shape)
            assert torch.equal(together[inside], values), name
            rest = torch.ones_like(together, dtype=torch.bool)
            rest[inside] = False
            assert (together[rest] == fills.get(name, 0)).all(), name


def test_labels_follow_the_cast_and_the_settings():
    row = drawn_story(frames=3, height=32, width=32)
    row["characters"] = [["fred"], ["barney", "wilma"], []]
    row["setting"] = ["river", "moon", ""]
    batch = collator(**FULL)([row])
    assert batch["character_labels"].tolist() == [[[0, 1], [1, 0], [0, 0]]]
    assert batch["setting_labels"].tolist() == [[1, -1, -1]]
    batch = collator(task="continuation", **FULL)([row])
    assert batch["character_labels"].tolist() == [[[1, 0], [0, 0]]]
    assert batch["setting_labels"].tolist() == [[-1, -1]]


def test_captions_are_texts_where_the_row_has_them():
    row = {**drawn_story(frames=2), "texts": ["He walked", "She walked"]}
    assert collator(keep_captions=True)([row])["captions"] == [row["texts"]]
    assert collator(keep_captions=True, text="captions")([row])["captions"] == [row["captions"]]
    assert collator(keep_captions=True, text=lambda row: ["a", "b"])([row])["captions"] == [["a", "b"]]


def test_special_tokens_spelt_out_in_a_caption_are_characters():
    batch = collator()([story(["Fred </s> walked", "Fred"])])
    assert WORDS.eos_token_id not in batch["input_ids"][0, 0]


# -- pictures and masks


@pytest.mark.parametrize("resize", ["squash", "center_crop", "pad", "random_crop"])
@pytest.mark.parametrize("shape", [(24, 48), (48, 24), (32, 32)])
def test_masks_lie_on_their_pictures(resize, shape):
    rows = []
    for corner in (3, 11):
        pixels = np.full((*shape, 3), 255, np.uint8)
        mask = np.zeros(shape, bool)
        mask[corner : corner + 12, corner : corner + 10] = True
        pixels[mask] = (255, 0, 0)
        image = {"bytes": codecs.encode_png(pixels), "path": "square.png"}
        item = {"label": "fred", "character": "fred", "bbox": None, "segmentation": masks.encode(mask), "score": None}
        other = {**item, "character": "nobody", "segmentation": None}
        row = story(["Fred"], images=[image], instances=[[other, item]], draw=corner)
        rows.append(row)
    collate = collator(resize=resize, image_size=32, mask_grid=(32, 32), pixel_dtype="uint8", **FULL)
    batch = collate(rows)
    assert batch["instance_valid"].shape == (2, 1, 1)
    assert batch["instance_valid"].all()
    assert batch["instance_characters"].tolist() == [[[1]], [[1]]]
    covered = batch["instance_masks"][:, :, 0]
    green = batch["pixel_values"][:, :, 1].float() / 255
    assert covered.amax() == 1
    assert (green[covered == 1] < 0.3).float().mean() > 0.95
    background = (covered == 0) & (batch["pixel_values"][:, :, 0] > 200)  # less what "pad" adds
    assert (green[background] > 0.7).float().mean() > 0.97


def test_random_crops_reach_both_ends_and_nothing_else():
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[..., 0] = 10 * np.arange(24)
    row = story(["Fred"], images=[Image.fromarray(pixels)], instances=[[]])
    collate = StoryTensorCollator(resize="random_crop", image_size=8, pixel_dtype="uint8")
    for share, left in ((0.0, 0), (0.25, 4), (0.999, 16)):
        red = collate.sample(row, Draws((0.5,), ((share, 0.5),)))["pixel_values"][0, 0]
        assert red.tolist() == pixels[:, left : left + 8, 0].tolist()


def test_each_frame_has_its_own_crop_in_both_readings():
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[..., 0] = 10 * np.arange(24)
    row = story(["Fred"] * 3, images=[Image.fromarray(pixels)] * 3)
    crop = {"image_size": 8, "resize": "random_crop", "pixel_dtype": "uint8"}
    collate = StoryTensorCollator(task="continuation", source=Source(**crop), **crop)
    crops, source_crops = [((left / 16, 0.5), (0.5, 0.5), (0.0, 0.5)) for left in (4, 12)]
    batch = collate.sample(row, Draws((0.5, 0.5), crops, source_crops))
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [80, 0]
    assert batch["source_pixel_values"][:, 0, 0, 0].tolist() == [120, 80, 0]


def test_no_instances_at_all():
    batch = collator()([drawn_story(frames=2, cast=())])
    assert batch["instance_masks"].shape == (1, 2, 0, 4, 4)
    assert batch["instance_valid"].shape == (1, 2, 0)


# -- conditioning


@pytest.mark.parametrize("task", ["visualization", "continuation"])
def test_no_target_sees_its_own_picture_or_a_later_one(task):
    rows = [drawn_story(frames=4, story_id="a/1"), drawn_story(frames=2, story_id="a/2")]
    first = 1 if task == "continuation" else 0
    dropped = {(0, 1), (1, 0)}
    draws = [
        Draws(tuple(0.1 if (number, target) in dropped else 0.9 for target in range(frames - first)))
        for number, frames in enumerate((4, 2))
    ]
    batch = collator(task=task, condition_dropout=0.5)(rows, draws)
    visible = visible_conditioning(batch).view(2, 4 - first, 5, 20)
    for number, frames in enumerate((4, 2)):
        for target in range(frames - first):
            lost = (number, target) in dropped
            assert batch["condition_dropped"][number, target] == lost
            own = torch.ones(20) if lost else batch["attention_mask"][number, target]
            assert torch.equal(visible[number, target, 0], own.bool())
            for frame in range(4):
                seen = torch.zeros(20)
                if frame < target + first:
                    seen = torch.ones(20) if lost else batch["source_attention_mask"][number, frame]
                assert torch.equal(visible[number, target, 1 + frame], seen.bool()), (number, target, frame)


def test_visible_conditioning_needs_captions_of_both_readings():
    batch = StoryTensorCollator(image_size=8, source=Source())([drawn_story(frames=2)])
    with pytest.raises(UsageError, match="attention_mask, source_attention_mask"):
        visible_conditioning(batch)


def test_null_condition_is_the_empty_caption_and_a_black_picture():
    collate = collator()
    nothing, batch = collate.null_condition(), collate([story(["", "Fred"])])
    assert torch.equal(nothing["input_ids"], batch["input_ids"][0, 0])
    assert torch.equal(nothing["source_input_ids"], batch["source_input_ids"][0, 0])
    black = story(["Fred"], images=[Image.new("RGB", (5, 5))])
    assert torch.equal(nothing["source_pixel_values"], collate.sample(black)["source_pixel_values"][0])


# -- random numbers, purity, errors


def test_random_numbers_come_from_the_row_and_the_seed():
    row = {**drawn_story(frames=5), "draw": 1}
    collate = collator(resize="random_crop", condition_dropout=0.5)
    assert collate.draw(row) == collate.draw(copy.deepcopy(row))
    assert collate.draw(row) != collate.draw({**row, "draw": 2})
    assert collate.draw(row) != collator(resize="random_crop", seed=1).draw(row)
    given, own = collate.sample(row, collate.draw(row)), collate.sample(row)
    assert all(torch.equal(given[name], own[name]) for name in own)


def test_a_condition_is_dropped_below_the_share():
    collate = collator(condition_dropout=0.1)
    batch = collate([drawn_story(frames=3)], [Draws((0.0999, 0.1, 0.0))])
    assert batch["condition_dropped"].tolist() == [[True, False, True]]
    assert not collator(condition_dropout=0.0)([drawn_story(frames=1)], [Draws((0.0,))])["condition_dropped"].any()


def test_a_tenth_of_the_conditions_is_dropped():
    row = story(["Fred"] * 2, images=[Image.new("RGB", (1, 1))] * 2)
    collate = StoryTensorCollator(image_size=1, condition_dropout=0.1)
    drawn = torch.cat([collate([{**row, "draw": number}])["condition_dropped"] for number in range(1000)])
    assert 0.07 < drawn.float().mean() < 0.13


def test_a_call_changes_nothing_and_survives_pickling():
    rows = [drawn_story(frames=3, height=32, width=32)]
    before = copy.deepcopy(rows)
    collate = collator(resize="random_crop", **FULL)
    batch, again = collate(rows), pickle.loads(pickle.dumps(collate))(rows)
    assert rows == before
    assert batch.pop("captions") == again.pop("captions")
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    for resize in ("squash", "random_crop"):
        plain, threaded = (collator(resize=resize, threads=threads)(rows) for threads in (0, 2))
        assert all(torch.equal(plain[name], threaded[name]) for name in plain)
    released = pickle.loads(pickle.dumps(ar_ldm(release_compatible=True)))
    assert released.subset == "train"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "continuation", "source": None}, "source="),
        ({"resize": "stretch"}, "resize"),
        ({"pixel_dtype": "float16"}, "pixel_dtype"),
        ({"cast": "fred"}, "cast"),
        ({"settings": ("river", "river")}, "settings"),
        ({"condition_dropout": 10}, "condition_dropout"),
        ({"max_length": 0}, "max_length"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(UsageError, match=message):
        collator(**options)


def test_a_tokenizer_without_pad_token():
    words = tiny_tokenizer(TEXTS)
    words.pad_token = None
    with pytest.raises(UsageError, match="pad_token"):
        StoryTensorCollator(tokenizer=words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [None, None]}, "pictures are missing"),
        ({"images": [{"bytes": b"x", "path": "x.png"}] * 2}, "picture of frame 0 does not decode"),
        ({"captions": ["Fred"]}, "2 pictures for 1 texts"),
        ({"characters": None}, "no column 'characters'"),
        ({"setting": None}, "no column 'setting'"),
        ({"instances": None}, "no column 'instances'"),
    ],
)
def test_rows_that_cannot_be_used_are_named(change, message):
    with pytest.raises(RowError, match=f"'drawn/1'.*{message}"):
        collator(**FULL)([{**drawn_story(frames=2), **change}])


def test_a_continuation_needs_a_second_frame():
    with pytest.raises(RowError, match="leaves nothing to draw"):
        collator(task="continuation")([drawn_story(frames=1)])


def test_draws_that_do_not_belong_to_the_stories():
    row = drawn_story(frames=2)
    for draws in ([], [Draws((0.5,))], [Draws((0.5, 0.5))] * 2):
        with pytest.raises(UsageError, match="draws"):
            collator()([row], draws)
    with pytest.raises(UsageError, match="0 crops for 2 pictures"):
        collator(resize="random_crop")([row], [Draws((0.5, 0.5))])
    with pytest.raises(UsageError, match="at least one"):
        collator()([])


# -- rows of real builders


@pytest.mark.parametrize(("builder", "dataset"), [(FlintstonesSV, "flintstones"), (VIST, "vistdii")])
def test_rows_as_they_are_built(tmp_path, builder, dataset):
    builder.fake(RawWriter(tmp_path / "raw"))
    stream = builder(data_dir=str(tmp_path / "raw"), on_error="quarantine").as_streaming_dataset("train").decode(False)
    rows = list(stream.take(2))
    batch = ar_ldm(dataset=dataset, max_length=16, image_size=16)(rows)
    assert batch["pixel_values"].shape == (len(rows), 5, 3, 16, 16)
    assert batch["frame_mask"].all()
    assert batch["pixel_values"].std((-1, -2)).min() > 0
    assert visible_conditioning(batch).shape == (len(rows), 5, 16 * 6)


def test_rows_with_all_pictures_of_a_frame_are_refused_by_name():
    row = drawn_story(frames=2)
    row["images"] = [[image] for image in row["images"]]
    with pytest.raises(RowError, match=r"lists of pictures"):
        StoryTensorCollator(image_size=32)([row])


def test_options_may_be_lists_as_files_have_them():
    row = drawn_story(frames=2)
    options = {
        "image_size": (16, 24),
        "image_mean": (0.4, 0.5, 0.6),
        "image_std": (0.2, 0.3, 0.4),
        "mask_grid": (4, 4),
    }
    batches = [
        StoryTensorCollator(**{name: kind(value) for name, value in options.items()}, cache_mb=1)([row])
        for kind in (tuple, list)
    ]
    assert all(batches[0][name].equal(batches[1][name]) for name in ("pixel_values", "instance_masks"))


def test_a_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seed=-1"):
        StoryTensorCollator(image_size=16, condition_dropout=0.5, seed=-1)([drawn_story(frames=2)])

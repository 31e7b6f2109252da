"""GILL: recorded samples of the release in every mode, and the default mode's promises."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")

from toy_pictures import flat
from toy_tokenizers import BOS, PAD, read_golden, word_tokenizer

from openstory_hf.collate import InterleavedCollator
from openstory_hf.collate.common import IGNORE
from openstory_hf.collate.gill import Draws, Gill
from openstory_hf.errors import UsageError
from openstory_hf.testing import drawn_story, tiny_tokenizer
from openstory_hf.views import RowError

TEXT = (-1, -1)
MODES = ("captioning", "retrieval", "generation")
NO = IGNORE


def table(captions, unreadable=()):
    images = [{**flat(), **({"bytes": b"no picture"} if row in unreadable else {})} for row in range(len(captions))]
    return {"story_id": "golden/1", "captions": list(captions), "images": images}


# --- what the released code really yields --------------------------------------------------------------------


def served(inputs, replacements):
    """The rows asked for, each with the draws that its replacement takes; in the order of the released loader."""
    count, left = len(inputs["captions"]), list(replacements)
    for row in range(count) if inputs["item_index"] is None else [inputs["item_index"]]:
        taken = []
        while (taken or [row])[-1] in inputs["unreadable_rows"] and left:
            taken.append(left.pop(0))
        yield row, tuple(taken)


def golden_samples(recipe, inputs, random):
    row = table(inputs["captions"], inputs["unreadable_rows"])
    asked = list(served(inputs, random["replacement_draws"]))
    if inputs["concat_captions"]:
        pairs = zip(asked[::2], asked[1::2], strict=True)
        draws = [Draws((one, two), first + second) for (one, first), (two, second) in pairs]
    else:
        draws = [Draws((number,), replacements) for number, replacements in asked]
    return [recipe.sample(row, draw) for draw in draws]


def check_mode(recipe, samples, expected):
    """The released tensors are the samples, padded."""
    for sample, slots, labels in zip(samples, expected["input_slots"], expected["labels"], strict=True):
        padding = len(slots) - len(sample.ids)
        assert padding >= 0
        made = [-1 - j if k >= 0 else token for token, (k, j) in zip(sample.ids, sample.visual, strict=True)]
        assert made + [recipe.tokenizer.pad_token_id] * padding == slots
        assert sample.labels + [IGNORE] * padding == labels
    mapped = [
        [token for token, k in zip(sample.ids, sample.generated, strict=True) if k == picture]
        for sample in samples
        for picture in range(len(sample.frames))
    ]
    assert mapped == expected.get("mapper_slots", [[] for _ in mapped])


@pytest.mark.parametrize("mode", MODES)
def test_golden(mode):
    tokenizers, cases = read_golden("gill")
    for case in cases:
        inputs, expected = case["inputs"], case["outputs"]
        recipe = Gill(
            tokenizer=tokenizers["main"],
            mode=mode,
            visual_tokens=inputs["visual_tokens_captioning"],
            image_tokens=inputs["num_image_tokens"],
            pairs=inputs["concat_captions"],
            max_length=inputs["max_length"],
            release_compatible=True,
        )
        if case["error"]:
            with pytest.raises(RowError, match="golden/1"):
                golden_samples(recipe, inputs, case["random"])
            continue
        samples = golden_samples(recipe, inputs, case["random"])
        assert [frame for sample in samples for frame in sample.frames] == [item["row"] for item in expected["items"]]
        assert "".join(sample.prompt for sample in samples) == "".join(item["text"] for item in expected["items"])
        modes = expected["modes"]
        check_mode(recipe, samples, modes["generation"] if modes[mode] == "same as generation" else modes[mode])


# --- the default mode ----------------------------------------------------------------------------------------

WORDS = ["sun", "moon", "star", "NA", "null", "1984", "007"]
TOY = word_tokenizer(*WORDS, images=3)
SUN, MOON, STAR = TOY.convert_tokens_to_ids(WORDS[:3])
IMAGES = TOY.convert_tokens_to_ids(["[IMG0]", "[IMG1]", "[IMG2]"])
captions = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


def gill(**options):
    return Gill(**{"tokenizer": TOY, "image_tokens": 3, "visual_tokens": 2, **options})


def test_one_frame_by_hand():
    sample = gill().sample(table(["sun", "moon star"]), Draws((1,)))
    assert sample.ids == [BOS, MOON, STAR, *IMAGES]
    assert sample.labels == [BOS, MOON, STAR, IMAGES[0], NO, NO]
    assert sample.generated == [-1, -1, -1, 0, 0, 0]
    assert sample.visual == [TEXT] * 6
    assert (sample.frames, sample.frames_dropped) == ([1], 0)


def test_captioning_by_hand():
    sample = gill(mode="captioning").sample(table(["sun", "moon star"]), Draws((1,)))
    assert sample.ids == [PAD, PAD, BOS, MOON, STAR, *IMAGES]
    assert sample.labels == [NO, NO, BOS, MOON, STAR, NO, NO, NO]
    assert sample.visual == [(0, 0), (0, 1)] + [TEXT] * 6
    assert sample.generated == [-1] * 8


def test_both_of_a_pair_are_trained():
    sample = gill(pairs=True).sample(table(["sun", "moon star"]), Draws((0, 1)))
    assert sample.ids == [BOS, SUN, *IMAGES, MOON, STAR, *IMAGES]
    assert sample.labels == [BOS, SUN, IMAGES[0], NO, NO, MOON, STAR, IMAGES[0], NO, NO]
    assert sample.generated == [-1, -1, 0, 0, 0, -1, -1, 1, 1, 1]
    released = gill(pairs=True, release_compatible=True).sample(table(["sun", "moon star"]), Draws((0, 1)))
    assert released.ids == sample.ids
    assert released.labels == [BOS, SUN, IMAGES[0]] + [NO] * 7


def test_a_captioned_pair_by_hand():
    sample = gill(pairs=True, mode="captioning").sample(table(["sun", "moon star"]), Draws((1, 0)))
    assert sample.ids == [PAD, PAD, BOS, MOON, STAR, PAD, PAD, SUN, *IMAGES, *IMAGES]
    assert sample.labels == [NO, NO, BOS, MOON, STAR, NO, NO, SUN] + [NO] * 6
    assert sample.visual == [(0, 0), (0, 1), *[TEXT] * 3, (1, 0), (1, 1), *[TEXT] * 7]
    assert sample.frames == [1, 0]


@given(st.lists(captions, min_size=1, max_size=5), st.sampled_from(MODES), st.booleans(), st.integers(3, 12))
@settings(max_examples=150)
def test_every_frame_once_and_all_of_its_caption_that_fits(texts, mode, pairs, max_length):
    recipe = gill(mode=mode, pairs=pairs, max_length=max_length)
    samples = recipe.samples(table(texts))
    assert [frame for sample in samples for frame in sample.frames] == list(range(len(texts)))
    for sample in samples:
        words = [BOS]  # of all captions, one begin token in front, each cut so that the image tokens fit
        for k, frame in enumerate(sample.frames):
            own = [BOS, *TOY.convert_tokens_to_ids(texts[frame].split())][: max_length - 3]
            words = own if k == 0 else words + own[1:]
            reads = [j for picture, j in sample.visual if picture == k]
            makes = [token for token, made in zip(sample.ids, sample.generated, strict=True) if made == k]
            assert reads == ([0, 1] if mode == "captioning" else [])
            assert makes == ([] if mode == "captioning" else IMAGES)
        text = [token for token, place in zip(sample.ids, sample.visual, strict=True) if place == TEXT]
        assert [token for token in text if token not in IMAGES] == words
        trained = [label for label in sample.labels if label != NO]
        if mode == "captioning":
            assert trained == words
        else:
            assert [label for label in trained if label != IMAGES[0]] == words
            assert trained.count(IMAGES[0]) == len(sample.frames)
            assert all(label == token for label, token in zip(sample.labels, sample.ids, strict=True) if label != NO)


@given(captions, st.sampled_from(MODES), st.integers(3, 12))
def test_a_sound_caption_gives_what_the_release_gives(text, mode, max_length):
    row = table([f"sun {text}", "moon"])  # in a table of texts, and not "NA" or a number as a whole
    ours, released = (
        gill(mode=mode, max_length=max_length, release_compatible=flag).sample(row, Draws((0,)))
        for flag in (False, True)
    )
    assert ours._replace(row=None) == released._replace(row=None)


@pytest.mark.parametrize(
    ("told", "released"),
    [
        (["NA", "sun"], ["nan", "sun"]),
        (["", "sun"], ["nan", "sun"]),
        (["null", "007"], ["nan", "7.0"]),
        (["007", "1984"], ["7", "1984"]),
        (["007", "sun"], ["007", "sun"]),
    ],
)
def test_captions_are_texts_as_they_are(told, released):
    for flag, expected in ((False, told), (True, released)):
        samples = gill(release_compatible=flag).samples(table(told))
        assert [sample.prompt for sample in samples] == [f"{text}[IMG0][IMG1][IMG2]" for text in expected]
    assert gill().samples(table(["NA", "sun"]))[0].ids == [BOS, *TOY.convert_tokens_to_ids(["NA"]), *IMAGES]


def test_image_tokens_spelt_out_in_a_caption_are_characters():
    sample = gill(max_length=40).sample(table(["sun [IMG1] moon <pad>"]))
    assert sample.ids[-3:] == IMAGES
    assert not {*IMAGES, PAD} & set(sample.ids[:-3])
    assert sample.labels[:-2] == sample.ids[:-2]
    assert [token for token in sample.ids if token in (SUN, MOON)] == [SUN, MOON]


class TestUnreadablePictures:
    def test_the_release_serves_another_frame(self):
        row = table(["sun", "moon", "star"], unreadable=(0, 1))
        recipe = gill(release_compatible=True)
        assert recipe.sample(row, Draws((0,), (1, 0, 2))).frames == [2]
        assert recipe.sample(row, Draws((2,), (1, 0))).frames == [2]

    def test_but_by_itself_never_the_last(self):
        row = table(["sun", "moon", "star"], unreadable=(1,))
        recipe = gill(release_compatible=True)
        for draw in range(20):
            replacements = recipe.draws({**row, "draw": draw}, 3).replacements
            assert set(replacements) == {0, 1}
            assert recipe.sample({**row, "draw": draw}, Draws((1,), replacements)).frames == [0]

    def test_and_dies_without_another(self):
        with pytest.raises(RowError, match=r"golden/1.*frame 0 does not decode"):
            gill(release_compatible=True).sample(table(["sun"], unreadable=(0,)))

    def test_the_default_leaves_the_error_to_the_collator(self):
        assert gill().sample(table(["sun"], unreadable=(0,))).frames == [0]


class TestDraws:
    def test_are_a_function_of_row_and_seed(self):
        row = {**table(["sun", "moon", "star", "sun"]), "draw": 7}
        assert gill().draws(row, 4) == gill().draws(row, 4)
        assert gill().sample(row) == gill().sample(row)
        assert {gill(seed=seed).draws(row, 4).frames for seed in range(40)} == {(0,), (1,), (2,), (3,)}

    def test_pairs_are_neighbours(self):
        row = table(["sun", "moon", "star"])
        drawn = {gill(pairs=True).draws({**row, "draw": draw}, 3).frames for draw in range(40)}
        assert drawn == {(0, 1), (1, 2)}
        assert gill(pairs=True).draws(table(["sun"]), 1).frames == (0,)

    def test_odd_numbers_of_frames(self):
        row = table(["sun", "moon", "star"])
        assert [sample.frames for sample in gill(pairs=True).samples(row)] == [[0, 1], [2]]
        with pytest.raises(RowError, match="two by two"):
            gill(pairs=True, release_compatible=True).samples(row)


def test_without_a_begin_token_pairs_lose_none_of_the_second_caption():
    changes = {"bos": None, "bos_id": None, "adds_bos": False}
    toy = word_tokenizer(*WORDS, images=3, **changes)
    row = table(["sun", "moon star"])
    assert gill(tokenizer=toy, pairs=True).sample(row, Draws((0, 1))).ids == [SUN, *IMAGES, MOON, STAR, *IMAGES]
    with pytest.raises(RowError, match="begin token"):
        gill(tokenizer=toy, pairs=True, release_compatible=True).sample(row, Draws((0, 1)))


@pytest.mark.parametrize("special", [True, False])
def test_a_fast_tokenizer(special):
    tokenizer = tiny_tokenizer(["sun moon [IMG0]"])
    tokenizer.add_tokens(["[IMG0]", "[IMG1]"], special_tokens=special)
    images = tokenizer.convert_tokens_to_ids(["[IMG0]", "[IMG1]"])
    sample = gill(tokenizer=tokenizer, image_tokens=2).sample(table(["sun [IMG0]moon"]))
    assert sample.ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(sample.ids[1:-2]) == "sun [IMG0]moon"
    assert sample.ids[-2:] == images
    assert not set(images) & set(sample.ids[:-2])


@pytest.mark.parametrize("mode", MODES)
def test_a_batch(mode):
    """One frame of each story, in the collator's words."""
    stories = [drawn_story(frames=3, story_id=f"drawn/{number}") for number in range(4)]
    tokenizer = word_tokenizer(*(text for story in stories for text in story["captions"]))
    batch = InterleavedCollator.preset("gill", tokenizer=tokenizer, mode=mode, image_size=8)(stories)
    reads = mode == "captioning"
    assert batch["pixel_values"].shape == (4, 3, 8, 8)
    assert batch["picture_is_target"].tolist() == [not reads] * 4
    assert batch["comprehension_mask"].sum(1).tolist() == [4 * reads] * 4
    assert batch["generation_mask"].sum(1).tolist() == [8 * (not reads)] * 4
    assert (batch["labels"] != NO).sum(1).tolist() == [1 + 10 + (not reads)] * 4  # begin, caption, [IMG0]


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match=r"\[IMG3\].*add_tokens"):
        gill(image_tokens=4)
    with pytest.raises(UsageError, match="max_length=2 has no room for 3"):
        gill(max_length=2)
    with pytest.raises(UsageError, match="visual_tokens must be at least 1"):
        gill(visual_tokens=0)
    with pytest.raises(UsageError, match="mode must be one of"):
        gill(mode="drawing")
    with pytest.raises(UsageError, match="no pad token"):
        gill(tokenizer=word_tokenizer(*WORDS, images=3, pad=None))
    with pytest.raises(RowError, match=r"drawn/1.*no column 'stories'"):
        gill(text="stories").sample(drawn_story())


def test_pickles():
    recipe, row = gill(pairs=True), table(["sun", "moon star"])
    assert pickle.loads(pickle.dumps(recipe)).sample(row) == recipe.sample(row)


@pytest.mark.parametrize(
    ("mode", "pairs", "width"), [("captioning", False, 18), ("generation", False, 16), ("captioning", True, 35)]
)
def test_max_length_pads_to_the_longest_sample_there_can_be(mode, pairs, width):
    options = {"mode": mode, "pairs": pairs, "max_length": 16, "tokenizer": TOY, "image_tokens": 3, "visual_tokens": 2}
    collate = InterleavedCollator.preset("gill", padding="max_length", **options)
    for text in ("sun", "sun moon star " * 10):
        assert collate([table([text, text])])["input_ids"].shape == (1, width)

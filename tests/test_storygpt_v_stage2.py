"""The second stage of StoryGPT-V: recorded samples of the release, and what the default mode makes of its defects."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")

from datasets import load_dataset
from toy_pictures import flat
from toy_tokenizers import BOS, PAD, read_golden, word_tokenizer

from openstory_hf import catalogue
from openstory_hf.build import build
from openstory_hf.collate import InterleavedCollator
from openstory_hf.collate.common import IGNORE
from openstory_hf.collate.storygpt_v_rows import caption_index
from openstory_hf.collate.storygpt_v_stage2 import Draws, StoryGPTV, training_captions
from openstory_hf.errors import UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.testing import drawn_story
from openstory_hf.views import RowError, windows

TEXT = (-1, -1)
NO = IGNORE


# --- what the released code really yields --------------------------------------------------------------------


def golden_row(inputs, kept):
    """The row that the builders make of such clips; pictures are named after their number in the clip."""
    frames = inputs["frames"]
    return {
        "story_id": "golden/1",
        "dataset": f"{inputs['dataset']}_sv",
        "captions": [frame["caption"] if "caption" in frame else frame["captions"][0] for frame in frames],
        "characters": [frame.get("characters", []) for frame in frames],
        "extras": json.dumps({"frames": [{"other_captions": frame.get("captions", [""])[1:]} for frame in frames]}),
        "images": [flat(path=f"{clip}-frame{number}.png") for clip, number in enumerate(kept)],
    }


def check_golden(recipe, inputs, target, kept, row, expected):
    shown = tuple((number, frame["kept_frames"]) for number, frame in zip(kept, inputs["frames"], strict=True))
    sample = recipe.sample(row, Draws(target, shown))
    assert training_captions(row, shown) == expected["captions_used"]
    assert sample.prompt == expected["prompt"]
    assert sample.frames == [clip for clip, _ in expected["image_frames"]]
    check_slots(recipe, sample, expected)
    made = [at for at, k in enumerate(sample.generated) if k >= 0]
    assert made == expected["mapper_positions"]
    assert {sample.frames[sample.generated[at]] for at in made} == {expected["clip_emb_frame"]}


def slots(recipe, sample):
    """The golden's `input_slots`: text as ids, embedding j of frame f as -1 - (f * V + j)."""
    visual = (-1 - (sample.frames[k] * recipe.visual_tokens + j) if k >= 0 else None for k, j in sample.visual)
    return [token if slot is None else slot for token, slot in zip(sample.ids, visual, strict=True)]


def check_slots(recipe, sample, expected):
    padding = recipe.max_length - len(sample.ids)
    assert slots(recipe, sample) + [recipe.tokenizer.pad_token_id] * padding == expected["input_slots"]
    assert sample.labels + [IGNORE] * padding == expected["labels"]


def test_golden():
    tokenizers, cases = read_golden("storygpt_v_stage2")
    for case in cases:
        inputs, random, expected = case["inputs"], case["random"], case["outputs"]
        recipe = StoryGPTV(
            tokenizer=tokenizers["main"],
            interleave=inputs["interleave"],
            visual_tokens=inputs["visual_tokens_per_image"],
            image_tokens=inputs["num_image_tokens"],
            max_length=inputs["max_length"],
            release_compatible=True,
        )
        if case["tag"] == "batch":
            items = zip(inputs["samples"], random["target"], random["kept_frame_of_each_clip"], strict=True)
            for number, (story, target, kept) in enumerate(items):
                shown = tuple((k, frame["kept_frames"]) for k, frame in zip(kept, story["frames"], strict=True))
                row = golden_row(story, kept)
                sample = recipe.sample(row, Draws(target, shown))
                assert training_captions(row, shown) == expected["captions_used"][number], case["id"]
                assert sample.prompt == expected["prompt"][number], case["id"]
                check_slots(recipe, sample, expected["rows"][number])
            continue
        row = golden_row(inputs, random["kept_frame_of_each_clip"])
        arguments = (recipe, inputs, random["target"], random["kept_frame_of_each_clip"], row)
        if case["error"]:
            with pytest.raises(RowError):
                check_golden(*arguments, None)
        else:
            check_golden(*arguments, expected)


WOMEN = [["wilma"], ["wilma"], ["wilma", "betty"], ["betty", "wilma"]]


def labelled(labels, captions, **columns):
    images = [flat() for _ in captions]
    return {
        "story_id": "toy/1",
        "dataset": "x",
        "captions": captions,
        "characters": labels,
        "images": images,
        **columns,
    }


class TestTrainingPronouns:
    """The worked tables of the released rules; the golden file has many more."""

    @pytest.mark.parametrize(
        ("labels", "captions", "expected"),
        [
            (WOMEN[:2], ["Wilma sings.", "Wilma holds Wilma's hat."], ["Wilma sings.", "He holds He's hat."]),
            (WOMEN[2:], ["Nobody.", "Wilma and Betty eat."], ["Nobody.", "They eat."]),
            ([["fred"]] * 2, ["Fred.", "Frederick waves, fred too."], ["Fred.", "Heerick waves, fred too."]),
            ([["a", "b", "c"]] * 2, ["A.", "A, B, and C sit. A, B and C go."], ["A.", "A, B, and C sit. They go."]),
            (
                [["fred"], ["fred", "dino"], ["fred"]],
                ["Fred a.", "Fred b.", "Fred c."],
                ["Fred a.", "Fred b.", "Fred c."],
            ),
            ([[], ["fred"]], ["Fred a.", "Fred b."], ["Fred a.", "Fred b."]),
        ],
    )
    def test_by_labels(self, labels, captions, expected):
        assert training_captions(labelled(labels, captions)) == expected

    def test_four_names_take_what_was_searched_before_or_crash(self):
        four = [["a", "b", "c", "d"], ["d", "c", "b", "a"]]
        row = labelled([["fred"], ["fred"], *four], ["Fred a.", "Fred b.", "Fred c.", "Fred and Fred."])
        assert training_captions(row) == ["Fred a.", "He b.", "Fred c.", "They and They."]
        with pytest.raises(RowError, match=r"toy/1.*same 4 names"):
            training_captions(labelled(four, ["Fred a.", "Fred b."]))

    def test_nobody_twice_crashes(self):
        with pytest.raises(RowError, match=r"toy/1.*same 0 names"):
            recipe("Fred", release_compatible=True).sample(labelled([[], []], ["Fred a.", "Fred b."]), Draws(1))

    @pytest.mark.parametrize(
        ("captions", "expected"),
        [
            (["Pororo sits.", "Pororo jumps. Pororo laughs."], "He jumps. He laughs."),
            (["Loopy sits.", "Loopy jumps."], "She jumps."),
            (["Crong hits Pororo.", "Crong runs from Pororo."], "Crong runs from He."),
            (["Pororo, Crong and Eddy sit.", "Pororo, Crong and Eddy are out."], "They are out."),
            # the first of two: the evaluation of the release replaces both
            (["Petty, Eddy sit.", "Petty, Eddy run. Petty, Eddy go. Rody."], "They run. Petty, Eddy go. Rody."),
            (["Pororo sits.", "pororo runs."], "pororo runs."),
        ],
    )
    def test_by_text(self, captions, expected):
        row = labelled([[], []], captions, dataset="pororo_sv")
        assert training_captions(row) == [captions[0], expected]

    def test_they_look_back_to_the_latest_he_or_she(self):
        captions = ["Eddy sits.", "Eddy and Rody run. Eddy.", "Eddy and Rody sit."]
        row = labelled([[], [], []], captions, dataset="pororo_sv")
        assert training_captions(row) == ["Eddy sits.", "He and Rody run. He.", "They sit."]

    def test_untouched_labels_count_where_the_row_has_them(self):
        twice = {"annotation": {"characters": [{"entityLabel": " man "}, {"entityLabel": "man"}]}}
        captions = ["A man.", "Man and Man sit. Man eats."]
        row = labelled([["man"], ["man"]], captions)
        assert training_captions(row)[1] == "He and He sit. He eats."
        told = training_captions({**row, "extras": json.dumps({"frames": [twice, twice]})})
        assert told[1] == "They sit. Man eats."


@pytest.mark.parametrize("captions", range(1, 6))
def test_the_first_of_several_captions_is_never_chosen(captions):
    """As counted by hand for five kept pictures."""
    chosen = [caption_index(kept, 5, captions) for kept in range(5)]
    assert chosen == [[0] * 5, [1] * 5, [1, 2, 2, 2, 2], [1, 2, 3, 3, 3], [1, 2, 3, 4, 4]][captions - 1]


# --- the default mode ----------------------------------------------------------------------------------------

MARKS = " Image: <img></img> Caption: ImageHere"
WORDS = [f"f{frame}w{word}" for frame in range(6) for word in range(30)]
TOY = word_tokenizer(MARKS, *WORDS, images=3)
IMAGES = TOY.convert_tokens_to_ids(["[IMG0]", "[IMG1]", "[IMG2]"])


def recipe(*texts, **options):
    tokenizer = word_tokenizer(MARKS, *texts, images=3) if texts else TOY
    return StoryGPTV(**{"tokenizer": tokenizer, "image_tokens": 3, "visual_tokens": 2, **options})


def story(*captions, **columns):
    images = [flat() for _ in captions]
    return {"story_id": "toy/1", "captions": [], "referential_captions": list(captions), "images": images, **columns}


def ids(text):
    return TOY(text, add_special_tokens=False)["input_ids"]


def test_by_hand():
    sample = recipe().sample(story("f0w0", "f1w0 f1w1", "f2w0"), Draws(1))
    head, middle = ids(" Image: <img>"), ids("</img> Caption: f0w0 Caption: f1w0 f1w1 Image: ")
    assert sample.ids == [BOS, *head, PAD, PAD, *middle, *IMAGES]
    assert sample.labels == [BOS, *head, NO, NO, *middle, IMAGES[0], NO, NO]
    assert sample.visual == [TEXT] * (1 + len(head)) + [(0, 0), (0, 1)] + [TEXT] * (len(middle) + 3)
    assert sample.generated == [-1] * (len(sample.ids) - 3) + [1, 1, 1]
    assert (sample.frames, sample.frames_dropped) == ([0, 1], 0)
    prompt = " Image: <img><ImageHere></img> Caption: f0w0 Caption: f1w0 f1w1 Image: [IMG0][IMG1][IMG2]"
    assert sample.prompt == prompt


@pytest.mark.parametrize("dataset", ["flintstones_sv", "pororo_sv"])
def test_context_without_pictures_by_hand(dataset):
    """The begin token stays, and so does Pororo's context; only the target's picture is used."""
    sample = recipe(interleave=False).sample(story("f0w0", "f1w0", "f2w0", dataset=dataset), Draws(2))
    text = ids(" Caption: f0w0 Caption: f1w0 Caption: f2w0 Image: ")
    assert sample.ids == [BOS, *text, *IMAGES]
    assert sample.visual == [TEXT] * len(sample.ids)
    assert sample.frames == [2]
    assert {k for k in sample.generated if k >= 0} == {0}


@st.composite
def told(draw):
    """The number of words of each frame; words of frame f are f{f}w0, f{f}w1, ... so that ids tell their frame."""
    lengths = draw(st.lists(st.integers(0, 30), min_size=2, max_size=6))
    return lengths, draw(st.integers(1, len(lengths) - 1))


@given(told(), st.booleans(), st.integers(3, 150))
@settings(max_examples=200)
def test_the_oldest_frames_go_and_the_image_tokens_stay(story_and_target, interleave, max_length):
    lengths, target = story_and_target
    captions = [" ".join(f"f{frame}w{word}" for word in range(count)) for frame, count in enumerate(lengths)]
    sample = recipe(interleave=interleave, max_length=max_length).sample(story(*captions), Draws(target))

    # by counting: " Image: <img>" has 5 tokens, "</img>" 4, "Caption:" 2, the last "Image:" 2
    frame = [2 + count + (5 + 2 + 4 if interleave else 0) for count in lengths]
    fits = [n for n in range(target + 1) if 1 + sum(frame[n:target]) + 2 + lengths[target] + 2 + 3 <= max_length]
    dropped = fits[0] if fits else target
    assert sample.frames_dropped == dropped
    assert sample.frames == ([*range(dropped, target), target] if interleave else [target])

    assert len(sample.ids) == len(sample.labels) == len(sample.visual) == len(sample.generated) <= max_length
    assert sample.ids[-3:] == IMAGES
    assert [k for k in sample.generated if k >= 0] == [len(sample.frames) - 1] * 3
    assert sample.generated[-3:] == [len(sample.frames) - 1] * 3
    assert [place for place in sample.visual if place != TEXT] == [
        (k, j) for k in range(len(sample.frames) - 1) for j in range(2)
    ]
    words = [token for token in TOY.convert_ids_to_tokens(sample.ids) if token in WORDS]
    expected = [word for caption in captions[dropped : target + 1] for word in caption.split()]
    assert words == (expected if fits else expected[: len(words)])
    for token, label, place in zip(sample.ids, sample.labels, sample.visual, strict=True):
        assert label == (NO if place != TEXT or token in IMAGES[1:] else token)


@given(told())
def test_a_sound_story_gives_the_tokens_of_the_release(story_and_target):
    lengths, target = story_and_target
    captions = [" ".join(f"f{frame}w{word}" for word in range(count)) for frame, count in enumerate(lengths)]
    row = story(*captions) | labelled([[str(frame)] for frame in range(len(captions))], captions)
    ours, released = (
        recipe(max_length=400, release_compatible=flag).sample(row, Draws(target)) for flag in (False, True)
    )
    for name in ("ids", "labels", "visual", "prompt"):
        assert getattr(ours, name) == getattr(released, name)
    assert (ours.frames, released.frames) == (list(range(target + 1)), list(range(len(captions))))


def test_the_released_cut_makes_the_picture_from_text():
    row = labelled([["a"], ["b"]], [" ".join(WORDS[:9]), " ".join(WORDS[30:40])])
    sample = recipe(max_length=24, release_compatible=True).sample(row, Draws(1))
    assert not set(IMAGES) & set(sample.ids)
    assert sample.labels[-3:] == [IMAGES[0], NO, NO]
    assert sample.generated[-3:] == [1, 1, 1]
    ours = recipe(max_length=24).sample({**row, "referential_captions": row["captions"]}, Draws(1))
    assert (ours.frames_dropped, ours.ids[-3:]) == (1, IMAGES)


def test_markers_spelt_out_in_a_caption_are_characters():
    row = story("f0w0 <ImageHere> [IMG2] <pad>", "f1w0 [IMG0]")
    sample = recipe().sample(row, Draws(1))
    assert [place for place in sample.visual if place != TEXT] == [(0, 0), (0, 1)]
    text = [token for token, place in zip(sample.ids[:-3], sample.visual, strict=False) if place == TEXT]
    assert not {PAD, *IMAGES} & set(text)
    released = recipe(release_compatible=True)
    made = released.sample(row | labelled([["a"], ["b"]], row["referential_captions"]), Draws(1))
    assert sorted({k for k, _ in made.visual}) == [-1, 0, 1]
    with pytest.raises(RowError, match="3 placeholders for 2 pictures"):
        released.sample(labelled([["a"], ["b"]], ["<ImageHere>" * 2, "f1w0"]), Draws(1))


def test_texts():
    row = {**drawn_story(frames=2), "referential_captions": ["f0w0", "She"], "texts": ["f0w1", "f1w1"]}
    assert " She Image" in recipe().sample(row).prompt
    assert " f1w1 Image" in recipe(text=None).sample(row).prompt
    assert " f1w1 Image" not in recipe(text="captions").sample(row).prompt
    with pytest.raises(RowError, match=r"drawn/1.*no column 'stories'"):
        recipe(text="stories").sample(row)


class TestDraws:
    ROW = story("f0w0", "f1w0", "f2w0", "f3w0")

    def test_every_frame_but_the_first(self):
        targets = [recipe().draws({**self.ROW, "draw": draw}).target for draw in range(300)]
        assert {target: 60 < targets.count(target) < 140 for target in set(targets)} == {1: True, 2: True, 3: True}

    def test_are_a_function_of_row_and_seed(self):
        row = {**self.ROW, "draw": 3}
        assert recipe().sample(row) == recipe().sample(row) == recipe().sample(row, recipe().draws(row))
        assert len({recipe(seed=seed).draws(row).target for seed in range(40)}) == 3

    def test_the_release_takes_the_caption_of_the_picture_shown(self):
        images = [flat(path="a-frame4.png"), flat(path="b-frame1.png"), flat(path="")]
        drawn = recipe(release_compatible=True).draws({**story("a", "b", "c"), "images": images})
        assert drawn.kept[:2] == ((4, 5), (1, 5))
        assert drawn.kept[2][0] in range(5)

    def test_a_target_that_is_none(self):
        for target in (0, 4, -1):
            with pytest.raises(UsageError, match="from 1 to 3"):
                recipe().sample(self.ROW, Draws(target))

    def test_one_frame_has_no_target(self):
        with pytest.raises(RowError, match=r"toy/1.*one frame"):
            recipe().sample(story("f0w0"))


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match=r"\[IMG3\].*add_tokens"):
        recipe(image_tokens=4)
    with pytest.raises(UsageError, match="max_length=2 has no room for 3"):
        recipe(max_length=2)
    with pytest.raises(RowError, match="no column 'characters'"):
        recipe(release_compatible=True).sample({**labelled([], ["a", "b"]), "characters": None})


def test_pickles():
    row = story("f0w0", "f1w0")
    assert pickle.loads(pickle.dumps(recipe())).sample(row) == recipe().sample(row)


# --- rows of the builders, and batches ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flintstones_sv", "pororo_sv"])
def test_rows_of_the_builders(name, tmp_path):
    builder = catalogue.get(name)
    builder.fake(RawWriter(tmp_path / "raw"))
    build(builder, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    rows = load_dataset(str(tmp_path / "out"), "stories", split="train", streaming=True).decode(False)
    stories = [window for row in rows for window in windows(row, 4)]
    assert stories
    tokenizer = word_tokenizer(
        MARKS, *(text for row in stories for text in row["captions"] + row["referential_captions"])
    )
    released = StoryGPTV(tokenizer=tokenizer, release_compatible=True)
    for row in stories:
        sample = StoryGPTV(tokenizer=tokenizer).sample(row)
        target = sample.frames[-1]
        assert f" Caption: {row['referential_captions'][target]} Image: [IMG0][IMG1]" in sample.prompt
        draws = released.draws(row)
        assert [f"frame{kept}.png" for kept, _ in draws.kept] == [i["path"].split("-")[-1] for i in row["images"]]
        assert released.sample(row).frames == [0, 1, 2, 3]
    batch = InterleavedCollator.preset("storygpt_v", tokenizer=tokenizer, image_size=8)(stories[:2])
    assert batch["generation_mask"].sum(1).tolist() == [8, 8]
    assert batch["pixel_values"].shape[0] == batch["num_images"].sum() == len(batch["picture_is_target"])
    assert batch["picture_is_target"].sum() == 2


def test_words_that_share_the_id_of_padding_are_trained():
    made = recipe("Fred walked.")
    made.tokenizer.pad_token = made.tokenizer.unk_token
    sample = made.sample(story("Fred walked.", "Zebra walked."), Draws(1))
    unknown = [
        at
        for at, (token, slot) in enumerate(zip(sample.ids, sample.visual, strict=True))
        if token == made.tokenizer.unk_token_id and slot == TEXT
    ]
    assert unknown
    assert all(sample.labels[at] == made.tokenizer.unk_token_id for at in unknown)

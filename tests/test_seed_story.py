"""SeedStory: every released sample of the golden file, and what the default mode makes better."""

import pickle
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from toy_pictures import flat  # noqa: E402
from toy_tokenizers import GOLDEN, read_golden  # noqa: E402

from openstory_hf import codecs  # noqa: E402
from openstory_hf.collate import InterleavedCollator  # noqa: E402
from openstory_hf.collate.seed_story import Draws, SeedStory  # noqa: E402
from openstory_hf.errors import UsageError  # noqa: E402
from openstory_hf.testing import drawn_story, tiny_tokenizer  # noqa: E402
from openstory_hf.views import RowError  # noqa: E402

NO = -100
TOKENIZERS, CASES = read_golden("seed_story") if (GOLDEN / "collate_seed_story.jsonl").is_file() else ({}, [])


def colour(frame):
    return (20 * frame + 5, 255 - 20 * frame, 40)


def row_of(captions, sizes=None, unreadable=(), story_id="s/0"):
    sizes = [(20, 16)] * len(captions) if sizes is None else sizes
    images = [flat(colour(frame), size, f"{frame}.png") for frame, size in enumerate(sizes)]
    for frame in unreadable:
        images[frame] = {"bytes": images[frame]["bytes"][:60], "path": f"{frame}.png"}
    return {"story_id": story_id, "captions": list(captions), "images": images}


def frames_shown(pixel_values):
    """Which frame's colour each picture has, from uint8 pixels."""
    known = {colour(frame): frame for frame in range(12)}
    assert all((picture == picture[:, :1, :1]).all() for picture in pixel_values)
    return [known[tuple(picture[:, 0, 0].tolist())] for picture in pixel_values]


@dataclass(frozen=True, kw_only=True)
class Given(SeedStory):
    """The recipe with given targets, by story."""

    targets: dict

    def sample(self, row, draws=None):
        return super().sample(row, Draws(self.targets[row["story_id"]]))


def options_of(inputs):
    names = ("num_img_in_tokens", "num_img_out_tokens", "max_length", "min_resolution", "min_aspect_ratio")
    return {name: inputs[name] for name in (*names, "system_message", "instruction_prompt")}


def tokenizer_of(case):
    # the file's record says which prefix a call gets, the case whether it gets one
    tokenizer = TOKENIZERS["main"]
    return type(tokenizer)({**tokenizer.record, "call_prefix": case["inputs"]["call_prefix"] and "▁"})


def rows_of(case):
    stories = case["inputs"].get("samples", [case["inputs"]])
    return [
        row_of(story["captions"], story["image_sizes_wh"], story.get("unreadable_images", ()), f"golden/{number}")
        for number, story in enumerate(stories)
    ]


def golden_collator(case, release_compatible=True, **options):
    targets = case["random"]["target"]
    targets = targets if isinstance(targets, list) else [targets]
    tokenizer = tokenizer_of(case)
    recipe = Given(
        tokenizer=tokenizer,
        targets={f"golden/{number}": target for number, target in enumerate(targets)},
        release_compatible=release_compatible,
        **options_of(case["inputs"]),
    )
    size = 1024 if case["inputs"]["sd_images"] else None
    return InterleavedCollator(
        tokenizer=tokenizer,
        recipe=recipe,
        image_size=448,
        pixel_dtype="uint8",
        padding="max_length",
        target_size=size,
        **options,
    )


def as_lists(value):
    """One sample of the golden file as a batch of one."""
    return value if isinstance(value[0], list) else [value]


@pytest.mark.skipif(not CASES, reason="needs collate_seed_story.jsonl in ../shared/golden")
class TestGolden:
    @pytest.mark.parametrize("case", [case for case in CASES if case["outputs"]], ids=lambda case: case["id"])
    def test_released_samples(self, case):
        collate, rows, expected = golden_collator(case), rows_of(case), case["outputs"]
        batch = collate(rows)
        masks = {"ids_cmp_mask": "comprehension_mask", "ids_gen_mask": "generation_mask"}
        for name in ("input_ids", "attention_mask", "labels", *masks):
            assert batch[masks.get(name, name)].int().tolist() == as_lists(expected[name]), name
        assert batch["picture_is_target"].int().tolist() == expected["embeds_gen_mask"]
        assert (~batch["picture_is_target"]).int().tolist() == expected["embeds_cmp_mask"]
        assert list(batch["pixel_values"].shape) == expected["images_shape"]
        assert frames_shown(batch["pixel_values"]) == expected["image_frames"]
        if "text" in expected:
            told = expected["text"] if isinstance(expected["text"], list) else [expected["text"]]
            assert [collate.sample(row).prompt for row in rows] == told
        if "length" in expected:
            assert batch["attention_mask"].sum() == expected["length"]
        if "dtypes" in expected:
            for name in ("input_ids", "attention_mask", "labels", *masks):
                assert str(batch[masks.get(name, name)].dtype) == f"torch.{expected['dtypes'][name]}"
        if "time_ids" in expected:
            assert batch["time_ids"].tolist() == [expected["time_ids"]]
            assert list(batch["target_pixel_values"].shape) == [1, *expected["sd_images_shape"]]
            made = (batch["target_pixel_values"] * 127.5 + 127.5).round().byte()
            assert frames_shown(made) == [expected["sd_frame"]]

    @pytest.mark.parametrize("case", [case for case in CASES if case["dropped"]], ids=lambda case: case["id"])
    def test_stories_the_release_drops_are_counted(self, case):
        collate, rows = golden_collator(case), rows_of(case)
        assert collate.sample(rows[0]) is None
        with pytest.raises(UsageError, match="drops every story"):
            collate(rows)

    @pytest.mark.parametrize("case", [case for case in CASES if case["error"]], ids=lambda case: case["id"])
    def test_where_the_release_dies_the_story_is_named(self, case):
        with pytest.raises(RowError, match="golden/0"):
            golden_collator(case).sample(rows_of(case)[0])

    @pytest.mark.parametrize(
        "case",
        [case for case in CASES if case["outputs"] and case["tag"] not in ("instruction_prompt", "batch")],
        ids=lambda case: case["id"],
    )
    def test_without_a_defect_the_default_gives_the_same(self, case):
        (row,) = rows_of(case)
        released, default = (golden_collator(case, flag).sample(row) for flag in (True, False))
        assert default == released


WORDS = [
    "a",
    "cat",
    "sat",
    "[",
    "INST",
    "]",
    " ",
    "<",
    ">",
    "img",
    "\n",
    "Tell",
    ":",
    ".",
    "/",
    "s",
    "img_00000",
    "img_00001",
]


def words(tokens=4, special=True):
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer.add_tokens(["<img>", "</img>", *(f"<img_{n:05d}>" for n in range(tokens))], special_tokens=special)
    return tokenizer


def seed_story(**options):
    options = {"tokenizer": words(), "num_img_in_tokens": 2, "num_img_out_tokens": 3, **options}
    return SeedStory(**options)


def block(tokens):
    return "<img>" + "".join(f"<img_{n:05d}>" for n in range(tokens)) + "</img>"


class TestLayout:
    def test_a_sample_by_hand(self):
        recipe = seed_story()
        ids = recipe.tokenizer.convert_tokens_to_ids
        sample = recipe.sample(row_of(["a", "cat", "sat", "."]), Draws(2))
        begin, end, one, two, three = ids(["<img>", "</img>", "<img_00000>", "<img_00001>", "<img_00002>"])
        turn = ids(["[", "INST", "]"])
        context = [ids("<s>"), ids("a"), begin, one, two, end, *turn, ids("cat"), begin, one, two, end]
        assert sample.ids == [*context, *turn, ids("sat"), begin, one, two, three, end, ids("</s>")]
        assert sample.labels == [NO] * 14 + [*turn, ids("sat"), begin, NO, NO, NO, NO, ids("</s>")]
        shown = {place: visual for place, visual in enumerate(sample.visual) if visual != (-1, -1)}
        assert shown == {3: (0, 0), 4: (0, 1), 11: (1, 0), 12: (1, 1)}
        assert {place: k for place, k in enumerate(sample.generated) if k >= 0} == {19: 2, 20: 2, 21: 2}
        assert sample.frames == [0, 1, 2]
        assert sample.frames_dropped == 0

    def test_prompts_stand_around_the_whole_context(self):
        recipe = seed_story(system_message="Tell:", instruction_prompt="[ {instruction} ]\n")
        sample = recipe.sample(row_of(["a", "cat", "sat"]), Draws(2))
        context = f"a{block(2)}[INST]cat{block(2)}"
        assert sample.prompt == f"Tell:\n[ {context} ]\n[INST]sat{block(3)}"

    def test_braces_in_captions_and_prompts_are_text(self):
        recipe = seed_story(instruction_prompt="{{x}} {instruction}")
        assert recipe.sample(row_of(["{a}", "cat"]), Draws(1)).prompt.startswith("{x} {a}<img>")


class TestDraws:
    def test_every_frame_but_the_first_is_generated_equally_often(self):
        recipe = seed_story()
        row = row_of(["a"] * 5)
        targets = Counter(recipe.sample({**row, "draw": draw}).frames[-1] for draw in range(400))
        assert set(targets) == {1, 2, 3, 4}
        assert min(targets.values()) > 60

    def test_draws_depend_on_the_row_and_the_seed_alone(self):
        rows = [{**row_of(["a"] * 6), "draw": draw} for draw in range(20)]
        drawn = {seed: [seed_story(seed=seed).sample(row).frames for row in rows] for seed in (0, 1)}
        assert drawn[0] == [seed_story().sample(row).frames for row in rows]
        assert drawn[0] != drawn[1]

    @pytest.mark.parametrize("target", [0, 3, -1])
    def test_a_target_outside_is_refused(self, target):
        with pytest.raises(RowError, match="cannot generate"):
            seed_story().sample(row_of(["a"] * 3), Draws(target))


class TestDefaults:
    @given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6), data=st.data())
    @settings(max_examples=40, deadline=None)
    def test_too_long_loses_the_oldest_frames_and_no_more_than_needed(self, sizes, data):
        target = data.draw(st.integers(1, len(sizes) - 1))
        max_length = data.draw(st.integers(10, 80))

        def length(start):
            turns = 3 * (target - start)
            return 2 + turns + sum(sizes[start : target + 1]) + 4 * (target - start) + 5

        row = row_of(["[" * size for size in sizes])
        fitting = [start for start in range(target) if length(start) <= max_length]
        recipe = seed_story(max_length=max_length)
        if not fitting:
            with pytest.raises(RowError, match=rf"'s/0'.*frame {target}.*{length(target - 1)} tokens"):
                recipe.sample(row, Draws(target))
            return
        sample = recipe.sample(row, Draws(target))
        assert len(sample.ids) == length(fitting[0])
        assert sample.frames == list(range(fitting[0], target + 1))
        assert sample.frames_dropped == fitting[0]

    @pytest.mark.parametrize("special", [True, False])
    @pytest.mark.parametrize("spelt", ["<img>", "a </img> cat", "<img_00001>", "<img><img_00000></img>", "</s> <s>"])
    def test_markers_spelt_out_in_a_caption_are_text(self, spelt, special):
        recipe = seed_story(tokenizer=words(special=special))
        sample = recipe.sample(row_of([spelt, f"cat {spelt}", spelt]), Draws(2))
        markers = Counter(recipe.tokenizer.convert_ids_to_tokens(sample.ids))
        assert {name: markers[name] for name in ("<img>", "</img>", "<img_00000>", "<s>", "</s>")} == {
            "<img>": 3,
            "</img>": 3,
            "<img_00000>": 3,
            "<s>": 1,
            "</s>": 1,
        }
        assert Counter(k for k, _ in sample.visual if k >= 0) == {0: 2, 1: 2}
        assert Counter(k for k in sample.generated if k >= 0) == {2: 3}
        assert recipe.tokenizer.decode(sample.ids) == f"<s>{sample.prompt}</s>"

    def test_the_future_does_not_matter(self):
        collate = InterleavedCollator.preset("seed_story", tokenizer=words(64), image_size=8)
        futures = 0
        for draw in range(6):
            row = {**row_of(["a", "cat", "sat", "."]), "draw": draw}
            other = {**row, "captions": list(row["captions"]), "images": list(row["images"])}
            for later in range(collate.sample(row).frames[-1] + 1, 4):
                other["captions"][later], other["images"][later] = "sat sat", {"bytes": b"no picture", "path": "x"}
                futures += 1
            batch, same = collate([row]), collate([other])
            assert all(torch.equal(batch[name], same[name]) for name in batch)
        assert futures

    def test_sizes_of_all_used_pictures_count_and_of_no_others(self):
        sizes = [(20, 16), (20, 9), (20, 16), (20, 5)]
        recipe = seed_story(min_resolution=10)
        with pytest.raises(RowError, match=r"'s/0'.*frame 1 is 20x9.*min_resolution=10"):
            recipe.sample(row_of(["a"] * 4, sizes), Draws(2))
        sizes[1] = (20, 12)
        assert recipe.sample(row_of(["a"] * 4, sizes), Draws(2)).frames == [0, 1, 2]
        with pytest.raises(RowError, match=r"min_aspect_ratio=0\.8"):
            seed_story(min_aspect_ratio=0.8).sample(row_of(["a"] * 4, sizes), Draws(2))

    def test_time_ids_are_those_of_the_picture_to_generate(self):
        sizes = [(20, 16), (30, 20), (20, 50)]  # width, height
        row = row_of(["a"] * 3, sizes)
        # scaled to a shorter side of 10, the target is 15 wide and 10 high: 2.5 are cut on the left
        recipe = seed_story()
        assert recipe.time_ids(recipe.sample(row, Draws(1)), 10) == (20, 30, 0, 2, 10, 10)
        # the last picture is 10 wide and 25 high, and the release writes its cut of 7.5 as if on the left
        released = seed_story(release_compatible=True)
        assert released.time_ids(released.sample(row, Draws(1)), 10) == (50, 20, 0, 8, 10, 10)

    def test_target_pictures_are_cut_from_the_centre(self):
        pixels = np.zeros((8, 16, 3), np.uint8)
        pixels[:, 4:12] = 255
        row = row_of(["a", "cat"])
        row["images"][1] = {"bytes": codecs.encode_png(pixels), "path": "wide.png"}
        batch = InterleavedCollator.preset("seed_story", tokenizer=words(64), image_size=8, target_size=8)([row])
        assert torch.equal(batch["target_pixel_values"], torch.ones(1, 3, 8, 8))
        assert batch["time_ids"].tolist() == [[8, 16, 0, 4, 8, 8]]

    def test_short_and_uneven_stories_are_named(self):
        with pytest.raises(RowError, match=r"'s/0'.*context"):
            seed_story().sample(row_of(["a"]))
        with pytest.raises(RowError, match=r"'s/0'.*3 pictures for 2 texts"):
            seed_story().sample({**row_of(["a"] * 3), "captions": ["a", "cat"]})


class TestReleased:
    def test_a_marker_in_a_caption_shifts_the_masks(self):
        sample = seed_story(release_compatible=True).sample(row_of(["a<img>", "cat", "sat"]), Draws(2))
        # <s> a <img> <img> . . </img> [ INST ] cat <img> . . </img> [ INST ] sat <img> . . . </img> </s>
        # 0   1 2     3     4 5 6      7 8    9 10  11   12 13 14    15 16   17 18 19   20 21 22 23     24
        # begins 2, 3, 11, 19 are paired with the ends 6, 14, 23 for the context, and last with last
        assert [place for place, (k, _) in enumerate(sample.visual) if k >= 0] == list(range(3, 14))
        assert [place for place, k in enumerate(sample.generated) if k == 2] == [20, 21, 22]

    def test_dropped_stories_are_counted_beside_those_that_stay(self):
        options = {"release_compatible": True, "image_size": 8, "num_img_in_tokens": 2, "num_img_out_tokens": 3}
        collate = InterleavedCollator.preset("seed_story", tokenizer=words(), max_length=24, **options)
        rows = [row_of(["a", "cat"], story_id="s/1"), row_of(["[" * 9] * 2, story_id="s/2")]
        batch = collate(rows)
        assert batch["stories_dropped"].tolist() == 1
        assert batch["input_ids"].shape[0] == batch["num_images"].shape[0] == 1
        assert collate(rows[:1])["stories_dropped"].tolist() == 0

    @pytest.mark.parametrize(
        ("last", "kept"), [((40, 20), True), ((20, 40), True), ((41, 20), False), ((20, 41), False), ((9, 12), False)]
    )
    def test_the_last_picture_decides_though_unused(self, last, kept):
        row = row_of(["a"] * 3, [(90, 10), (5, 5), last])
        recipe = seed_story(release_compatible=True, min_resolution=10, min_aspect_ratio=0.5)
        assert (recipe.sample(row, Draws(1)) is not None) == kept

    def test_one_picture_or_too_few_captions_raise_and_more_captions_pass(self):
        recipe = seed_story(release_compatible=True)
        with pytest.raises(RowError, match="s/0"):
            recipe.sample(row_of(["a"]))
        with pytest.raises(RowError, match="2 captions for 3 pictures"):
            recipe.sample({**row_of(["a"] * 3), "captions": ["a", "a"]}, Draws(1))
        assert recipe.sample({**row_of(["a"] * 2), "captions": ["a"] * 3}, Draws(1)).frames == [0, 1]


class TestOptions:
    def test_missing_tokens_are_named(self):
        with pytest.raises(UsageError, match=r"'<img_00004>'.*add_tokens"):
            seed_story(num_img_out_tokens=5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_img_in_tokens": 0}, "at least 1"),
            ({"instruction_prompt": "Tell"}, "instruction_prompt"),
            ({"instruction_prompt": "{instruction}{instruction}"}, "once"),
            ({"min_aspect_ratio": 1.5}, "between 0 and 1"),
        ],
    )
    def test_wrong_options_are_named(self, options, message):
        with pytest.raises(UsageError, match=message):
            seed_story(**options)

    def test_pickles(self):
        recipe, row = seed_story(), row_of(["a", "cat", "sat"])
        assert pickle.loads(pickle.dumps(recipe)).sample(row) == recipe.sample(row)

    def test_rows_of_the_builders(self):
        row = drawn_story(frames=4, height=16, width=16)
        tokenizer = tiny_tokenizer(row["captions"])
        tokenizer.add_tokens(["<img>", "</img>", *(f"<img_{n:05d}>" for n in range(64))], special_tokens=True)
        batch = InterleavedCollator.preset("seed_story", tokenizer=tokenizer)([row, {**row, "draw": 3}])
        assert batch["pixel_values"].shape[1:] == (3, 448, 448)
        read, made = batch["comprehension_mask"].sum(1), batch["generation_mask"].sum(1)
        assert read.tolist() == [64 * (pictures - 1) for pictures in batch["num_images"].tolist()]
        assert made.tolist() == [64, 64]
        is_target = batch["picture_is_target"][batch["image_positions"][batch["generation_mask"]]]
        assert is_target.all()
        assert not batch["picture_is_target"][batch["image_positions"][batch["comprehension_mask"]]].any()


def test_no_added_token_is_read_into_a_caption():
    """Of other recipes, or more image tokens than this one uses: `all_special_tokens` does not list them."""
    tokenizer = words()
    tokenizer.add_tokens(["[IMG0]", *(f"<img_{number:05d}>" for number in range(64))], special_tokens=True)
    collate = seed_story(tokenizer=tokenizer)
    for text in ("Fred [IMG0] walked", "Fred <img_00010> walked"):
        sample = collate.sample(row_of(["Fred walked", text]), Draws(1))
        spelt = tokenizer.convert_tokens_to_ids(text.split()[1])
        assert spelt != tokenizer.unk_token_id
        assert spelt not in sample.ids

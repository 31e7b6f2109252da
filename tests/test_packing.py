"""Packing: stories in shared sequences come out as they went in, and none sees another."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from openstory_hf.collate import InterleavedCollator  # noqa: E402
from openstory_hf.collate.packing import block_causal_mask, first_fit  # noqa: E402
from openstory_hf.errors import UsageError  # noqa: E402
from openstory_hf.testing import drawn_story, tiny_tokenizer  # noqa: E402
from openstory_hf.views import RowError  # noqa: E402

NO = -100
DRAWN = drawn_story(frames=1, height=16, width=16)
TOKENIZER = tiny_tokenizer(["a b c d e\n"])
SEQUENCES = ("input_ids", "attention_mask", "labels", "image_positions", "comprehension_mask", "generation_mask")


def story(*captions, number=0):
    frames = len(captions)
    columns = {name: DRAWN[name] * frames for name in ("images", "instances", "mentions")}
    return {"story_id": f"s/{number}", "captions": list(captions), **columns}


def collator(**options):
    return InterleavedCollator(**{"tokenizer": TOKENIZER, "image_size": 2, "target": "all", **options})


stories = st.lists(
    st.lists(st.text(alphabet="abcde", max_size=6).map(" ".join), min_size=1, max_size=4), min_size=1, max_size=6
)


class TestFirstFit:
    @given(lengths=st.lists(st.integers(0, 10), max_size=12))
    def test_each_goes_into_the_first_bin_with_room(self, lengths):
        bins = first_fit(lengths, 10)
        assert sorted(place for of in bins for place in of) == list(range(len(lengths)))
        where = {place: number for number, of in enumerate(bins) for place in of}
        for place, length in enumerate(lengths):
            used = [sum(lengths[other] for other in of if other < place) for of in bins]
            assert where[place] == next(number for number, full in enumerate(used) if full + length <= 10)

    def test_what_fits_nowhere_is_an_error(self):
        with pytest.raises(ValueError, match="number 1 is 11 long"):
            first_fit([3, 11], 10)


class TestMask:
    @given(story_index=st.lists(st.lists(st.integers(-1, 2), min_size=5, max_size=5), min_size=1, max_size=3))
    def test_before_and_within_the_story_only(self, story_index):
        mask = block_causal_mask(torch.tensor(story_index))
        assert mask.dtype == torch.bool
        assert mask.shape == (len(story_index), 1, 5, 5)
        for number, of in enumerate(story_index):
            for query in range(5):
                for key in range(5):
                    assert mask[number, 0, query, key] == (key <= query and of[key] == of[query])

    def test_attention_gives_what_it_gives_for_each_story_alone(self):
        rows = [story("a b c", "d"), story("e"), story("b c d e", "a")]
        packed, alone = collator(pack=24)(rows), [collator()([row]) for row in rows]
        generator = torch.Generator().manual_seed(0)
        words, places = (torch.randn(40, 8, generator=generator) for _ in range(2))

        def attend(ids, positions, mask):
            hidden = (words[ids] + places[positions])[:, None]
            return torch.nn.functional.scaled_dot_product_attention(hidden, hidden, hidden, attn_mask=mask)[:, 0]

        mask = block_causal_mask(packed["story_index"])
        together = attend(packed["input_ids"], packed["position_ids"], mask)
        assert together.isfinite().all()
        assert len(together) < len(rows)
        for index, batch in enumerate(alone):
            length = batch["input_ids"].shape[1]
            causal = torch.ones(length, length, dtype=torch.bool).tril()
            expected = attend(batch["input_ids"], torch.arange(length)[None], causal)
            torch.testing.assert_close(together[packed["story_index"] == index], expected[0])


class TestPack:
    @given(captions=stories, spare=st.integers(0, 30))
    @settings(max_examples=40, deadline=None)
    def test_stories_come_out_as_they_went_in(self, captions, spare):
        rows = [story(*of, number=number) for number, of in enumerate(captions)]
        alone = collator(mask_grid=(2, 2))(rows)
        lengths = alone["attention_mask"].sum(1).tolist()
        packed = collator(mask_grid=(2, 2), pack=max(lengths) + spare)(rows)
        assert packed["input_ids"].shape == (len(first_fit(lengths, max(lengths) + spare)), max(lengths) + spare)
        for index, length in enumerate(lengths):
            here = packed["story_index"] == index
            (sequence,) = here.any(1).nonzero()[0].tolist()
            (places,) = here[sequence].nonzero(as_tuple=True)
            assert places.tolist() == list(range(places[0], places[0] + length))
            assert packed["position_ids"][here].tolist() == list(range(length))
            for name in SEQUENCES:
                assert torch.equal(packed[name][here], alone[name][index, :length]), name
        for name in alone.keys() - set(SEQUENCES):
            assert torch.equal(packed[name], alone[name]), name
        padding = packed["story_index"] == -1
        assert torch.equal(padding, packed["attention_mask"] == 0)
        assert (packed["labels"][padding] == NO).all()
        assert (packed["image_positions"][padding] == -1).all()
        assert not packed["comprehension_mask"][padding].any()
        assert (packed["input_ids"][padding] == TOKENIZER.pad_token_id).all()

    def test_no_story_is_trained_from_the_one_before(self):
        # without bos and picture in front, a story begins with a trained token
        options = {"add_bos": False, "order": "caption_first"}
        rows = [story("a b"), story("c d")]
        alone, packed = collator(**options)(rows), collator(**options, pack=20)(rows)
        assert (alone["labels"][:, 0] != NO).all()
        starts = packed["position_ids"] == 0
        assert starts[packed["story_index"] >= 0].sum() == 2
        assert (packed["labels"][starts] == NO).all()
        kept = (packed["labels"] != NO).sum()
        assert kept == (alone["labels"] != NO).sum() - 2

    def test_instances_of_tokens_are_packed_too(self):
        options = {"tokenizer": tiny_tokenizer(DRAWN["captions"]), "mask_grid": (2, 2), "instance_tokens": True}
        rows = [{**DRAWN, "story_id": f"s/{number}"} for number in range(2)]
        alone, packed = collator(**options)(rows), collator(**options, pack=60)(rows)
        assert packed["token_instances"].shape[:2] == (1, 60)
        for index in range(2):
            here = packed["story_index"] == index
            for name in ("token_images", "token_instances"):
                assert torch.equal(packed[name][here], alone[name][index])
        assert alone["token_instances"].any()
        assert not packed["token_instances"][packed["story_index"] == -1].any()

    def test_a_story_that_fits_nowhere_is_named(self):
        with pytest.raises(RowError, match=r"'s/1'.*tokens do not fit into pack=9.*max_length"):
            collator(pack=9)([story("a"), story("a b c d e", number=1)])

    def test_packing_leaves_no_choice_of_padding(self):
        with pytest.raises(UsageError, match="no pack"):
            collator(pack=20, padding="max_length", max_length=20)

    def test_pickles(self):
        rows, collate = [story("a b"), story("c")], collator(pack=20)
        batch, again = collate(rows), pickle.loads(pickle.dumps(collate))(rows)
        assert all(torch.equal(batch[name], again[name]) for name in batch)

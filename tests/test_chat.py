"""Chats: labels on what the assistant says, whatever the processor and the template; whole frames or none."""

import copy
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from openstory_hf.collate.chat import ChatCollator, _places  # noqa: E402
from openstory_hf.errors import UsageError  # noqa: E402
from openstory_hf.pictures import decode  # noqa: E402
from openstory_hf.testing import drawn_story, tiny_tokenizer  # noqa: E402
from openstory_hf.views import RowError, to_messages  # noqa: E402

BLOCKS = (
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>' }}{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}" + BLOCKS + "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = CHATML.replace(
    BLOCKS + "{{ '<|im_end|>\n' }}",
    "{% if m['role'] == 'assistant' %}{% generation %}" + BLOCKS + "{{ '<|im_end|>\n' }}{% endgeneration %}{% else %}"
    "" + BLOCKS + "{{ '<|im_end|>\n' }}{% endif %}",
)
"""CHATML with the marks that transformers understands."""
PLAIN = (  # as LLaVA 1.5 writes: turns end in a blank, and the next one begins without a special token
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "{{ '<image>\n' }}{% else %}{{ c['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
FORGETFUL = CHATML.replace("{{ c['text'] }}", "{{ c['text'] if loop.last and m == messages[-1] else '...' }}")
SPECIAL = [
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<global-img>",
]
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]


def byte_pairs():
    """A fast tokenizer of merged byte pairs: names carry the blank before them, as in GPT-2 and Llama 3."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    words = " Fred and Wilma walked 1 2 3 steps along the river. USER: ASSISTANT: user assistant "
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=SPECIAL + TILES)
    backend.train_from_iterator([words] * 5, trainer)
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def pil_processor(name):
    return pytest.importorskip(f"transformers.models.{name}.image_processing_pil_{name}")


def llava(template=CHATML, tokenizer=None):
    """Four placeholders a picture: 28 pixels in patches of 14."""
    size = {"height": 28, "width": 28}
    pixels = pil_processor("clip").CLIPImageProcessorPil(size=size, crop_size=size)
    return transformers.LlavaProcessor(
        image_processor=pixels,
        tokenizer=tokenizer or byte_pairs(),
        patch_size=14,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


def idefics(template=CHATML):
    """Pictures cut into tiles, each named in the text, with line breaks between the rows."""
    pixels = pil_processor("idefics3").Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    return transformers.Idefics3Processor(pixels, byte_pairs(), image_seq_len=4, chat_template=template)


def story(frames=3, number=1, **columns):
    return {**drawn_story(frames=frames, height=32, width=48, story_id=f"drawn/{number}"), **columns}


def said(batch, processor):
    """The text of the trained tokens of each story."""
    tokenizer = processor.tokenizer
    return [
        tokenizer.decode(ids[labels != -100]) for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]


PROCESSORS = pytest.mark.parametrize("make", [llava, idefics])


class TestLabels:
    @PROCESSORS
    def test_captions_and_ends_of_turns_are_trained_and_nothing_else(self, make):
        processor, rows = make(), [story(3), story(1, number=2, captions=["Wilma naps."])]
        batch = ChatCollator(processor=processor, prompt="Fred?")(rows)
        expected = ["".join(f"{caption}<|im_end|>\n" for caption in row["captions"]) for row in rows]
        assert said(batch, processor) == expected
        trained = batch["labels"] != -100
        assert torch.equal(batch["labels"][trained], batch["input_ids"][trained])
        assert not (trained & (batch["attention_mask"] == 0)).any()

    @PROCESSORS
    def test_the_labels_are_those_of_templates_that_mark_generation(self, make):
        processor, rows = make(MARKED), [story(3), story(2, number=2)]
        conversations = []
        for row in rows:
            chat = to_messages(row, prompt="Go.")
            pictures = map(decode, chat["images"])
            for block in (block for message in chat["messages"] for block in message["content"]):
                if block["type"] == "image":
                    block["image"] = next(pictures)
                    del block["text"]
            conversations.append(chat["messages"])
        try:
            reference = processor.apply_chat_template(
                conversations,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                return_assistant_tokens_mask=True,
                processor_kwargs={"padding": True, "padding_side": "right"},
            )
        except (TypeError, ValueError) as error:
            pytest.skip(f"this transformers cannot mask chats with pictures: {error}")
        batch = ChatCollator(processor=processor, prompt="Go.")(rows)
        assert torch.equal(batch["input_ids"], reference["input_ids"])
        assert torch.equal((batch["labels"] != -100).long(), reference["assistant_masks"])

    def test_a_token_that_two_turns_share_is_of_the_turn_of_its_last_character(self):
        processor = llava(PLAIN)
        batch = ChatCollator(processor=processor)([story(2, captions=["Fred walked.", "Wilma walked."])])
        tokens = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
        trained = [(token, bool(label != -100)) for token, label in zip(tokens, batch["labels"][0], strict=True)]
        assert ("ĠFred", True) in trained  # its blank stands in "ASSISTANT: ", but behind "ASSISTANT:"
        assert ("ĠUSER", False) in trained  # its blank ends the assistant's turn
        assert said(batch, processor) == [" Fred walked. Wilma walked. "]

    def test_placeholders_are_not_trained_even_where_the_assistant_shows_pictures(self):
        row = {
            "story_id": "made/1",
            "images": story(2)["images"],
            "messages": [
                {"role": "system", "content": "Draw."},
                {"role": "user", "content": [{"type": "text", "text": "Fred?"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "image"}, {"type": "text", "text": "Fred."}, {"type": "image"}],
                },
            ],
        }
        for processor in (llava(), idefics()):
            template = processor.chat_template.replace(
                "{% for c in m['content'] %}",
                "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}",
            ).replace("{% endfor %}{{ '<|im_end|>", "{% endfor %}{% endif %}{{ '<|im_end|>")
            batch = ChatCollator(processor=processor, chat_template=template)([row])
            assert said(batch, processor) == ["Fred.<|im_end|>\n"]

    def test_tokens_that_the_tokenizer_adds_are_kept_and_not_trained(self):
        from tokenizers.processors import TemplateProcessing

        tokenizer = byte_pairs()
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        batch = ChatCollator(processor=llava(tokenizer=tokenizer))([story(1)])
        assert batch["input_ids"][0, [0, -1]].tolist() == [1, 2]
        assert batch["labels"][0, [0, -1]].tolist() == [-100, -100]
        bos = ChatCollator(processor=llava("{{ '<s>' }}" + CHATML, tokenizer=tokenizer))([story(1)])
        assert (bos["input_ids"] == 1).sum() == 1  # not a second one beside the template's

    def test_what_a_processor_puts_in_front_is_not_trained_and_what_it_changes_is_refused(self):
        class Polite(transformers.LlavaProcessor):
            def __call__(self, text, **options):
                return super().__call__(text=[f"Wilma walked. {part}" for part in text], **options)

        class Loud(transformers.LlavaProcessor):
            def __call__(self, text, **options):
                return super().__call__(text=[part.replace("Fred", "FRED") for part in text], **options)

        class Forgetting(transformers.LlavaProcessor):
            def __call__(self, **options):
                batch = super().__call__(**options)
                return {**batch, "input_ids": batch["input_ids"][:, 1:]}

        def made(kind):
            plain = llava()
            parts = {name: getattr(plain, name) for name in ("image_processor", "tokenizer", "patch_size")}
            return kind(**parts, vision_feature_select_strategy="full", chat_template=CHATML)

        row = story(2)
        batch = ChatCollator(processor=made(Polite))([row])
        assert made(Polite).tokenizer.decode(batch["input_ids"][0]).startswith("Wilma walked. <|im_start|>user")
        assert said(batch, made(Polite)) == ["".join(f"{caption}<|im_end|>\n" for caption in row["captions"])]
        with pytest.raises(RowError, match=r"drawn/1.*cannot be told from what Loud puts"):
            ChatCollator(processor=made(Loud))([row])
        with pytest.raises(UsageError, match="Forgetting changes the tokens"):
            ChatCollator(processor=made(Forgetting))([row])

    def test_the_batch_goes_into_a_model(self):
        processor = llava()
        vision = transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
        text = transformers.LlamaConfig(
            vocab_size=len(processor.tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
        config = transformers.LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=processor.image_token_id,
            vision_feature_select_strategy="default",
        )
        batch = ChatCollator(processor=processor)([story(3), story(2, number=2)])
        assert batch["pixel_values"].shape == (5, 3, 28, 28)
        assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [12, 8]
        loss = transformers.LlavaForConditionalGeneration(config)(**batch).loss
        assert torch.isfinite(loss)


class TestRows:
    def test_rows_of_messages_give_the_same_as_rows_of_stories(self):
        datasets = pytest.importorskip("datasets")
        from openstory_hf.views import features

        collate = ChatCollator(processor=llava())
        rows = [story(3), story(2, number=2)]
        chats = [to_messages(row, prompt="Go.") for row in rows]
        stored = datasets.Dataset.from_list(chats, features=features(to_messages))
        expected = ChatCollator(processor=llava(), prompt="Go.")(rows)
        for examples in (chats, list(stored)):
            batch = collate(examples)
            assert all(torch.equal(batch[name], expected[name]) for name in expected)

    def test_texts_are_taken_where_there_are_any_and_a_column_can_be_named(self):
        processor, row = llava(), story(1, captions=["Fred."], texts=["He."], referential_captions=["Wilma."])
        assert said(ChatCollator(processor=processor)([row]), processor) == ["He.<|im_end|>\n"]
        named = ChatCollator(processor=processor, text="referential_captions")([row])
        assert said(named, processor) == ["Wilma.<|im_end|>\n"]

    def test_a_call_changes_nothing_and_can_be_repeated_by_a_pickled_copy(self):
        rows = [story(2), to_messages(story(3), prompt="x")]
        before, collate = copy.deepcopy(rows), ChatCollator(processor=llava(), prompt="Go.")
        first = collate(rows)
        assert rows == before
        assert isinstance(collate.processor.tokenizer, transformers.PreTrainedTokenizerFast)
        again = pickle.loads(pickle.dumps(collate))(rows)
        assert all(torch.equal(first[name], again[name]) for name in first)


class TestLength:
    @pytest.mark.parametrize("truncate", ["oldest", "newest"])
    @PROCESSORS
    def test_a_long_story_loses_the_fewest_whole_frames(self, truncate, make):
        row = story(5, captions=[f"Fred walked {'Wilma ' * number}along." for number in (3, 1, 4, 1, 5)])
        processor = make()
        length_of = {}
        for kept in range(1, 6):
            span = slice(5 - kept, 5) if truncate == "oldest" else slice(kept)
            part = {**row, "captions": row["captions"][span], "images": row["images"][span]}
            length_of[kept] = (ChatCollator(processor=processor, prompt="Go.")([part]), part)
        lengths = [length_of[kept][0]["input_ids"].shape[1] for kept in range(1, 6)]
        for limit in range(lengths[0], lengths[-1] + 2, 7):
            kept = max(kept for kept in range(1, 6) if lengths[kept - 1] <= limit)
            batch = ChatCollator(processor=processor, prompt="Go.", max_length=limit, truncate=truncate)([row])
            expected, part = length_of[kept]
            assert all(torch.equal(batch[name], expected[name]) for name in expected)
            assert said(batch, processor) == ["".join(f"{caption}<|im_end|>\n" for caption in part["captions"])]

    def test_what_the_template_writes_before_the_first_turn_counts(self):
        processor = llava("{{ '<|im_start|>system\nASSISTANT ASSISTANT ASSISTANT<|im_end|>\n' }}" + CHATML)
        whole = [ChatCollator(processor=processor)([story(frames)])["input_ids"].shape[1] for frames in (1, 2, 3)]
        short = ChatCollator(processor=processor, max_length=whole[2] - 1, truncate="oldest")([story(3)])
        assert short["input_ids"].shape[1] <= whole[1]
        assert len(said(short, processor)[0].splitlines()) == 2

    def test_only_the_long_stories_of_a_batch_lose_frames(self):
        processor = llava()
        limit = ChatCollator(processor=processor)([story(2)])["input_ids"].shape[1]
        collate = ChatCollator(processor=processor, max_length=limit, truncate="newest")
        batch = collate([story(4), story(2, number=2)])
        assert [text.count("<|im_end|>") for text in said(batch, processor)] == [2, 2]
        assert len(batch["pixel_values"]) == 4

    @pytest.mark.parametrize(
        ("truncate", "message"), [("error", 'or pass truncate="oldest"'), ("oldest", "1 turns make")]
    )
    def test_a_story_that_cannot_fit_is_named(self, truncate, message):
        collate = ChatCollator(processor=llava(), max_length=8, truncate=truncate)
        with pytest.raises(RowError, match=rf"drawn/1.*{message}"):
            collate([story(2)])


class TestRefusals:
    @pytest.mark.parametrize(
        ("template", "captions", "message"),
        [
            (FORGETFUL, None, "chat template of LlavaProcessor renders the first 2 messages otherwise"),
            (CHATML.replace("'<image>'", "''"), None, "2 pictures, but 0 placeholders '<image>'"),
            (CHATML, ["a <image> b", "c"], "2 pictures, but 3 placeholders"),
            ("{{ raise_exception('only whales') }}", None, "chat template of LlavaProcessor fails: .*only whales"),
        ],
    )
    def test_a_template_that_does_not_suit_is_named_with_the_story(self, template, captions, message):
        row = story(2) if captions is None else story(2, captions=captions)
        with pytest.raises(RowError, match=rf"drawn/1.*{message}"):
            ChatCollator(processor=llava(template))([row])

    @pytest.mark.parametrize(
        ("roles", "images", "message"),
        [
            (["assistant", "user"], 0, "the user first; the roles are: assistant, user"),
            (["system"], 0, "the roles are: system"),
            (["user", "assistant", "user"], 0, "take turns"),
            (["user", "assistant"], 1, "1 pictures for 0 blocks"),
        ],
    )
    def test_conversations_out_of_order_are_named(self, roles, images, message):
        messages = [{"role": role, "content": [{"type": "text", "text": "x"}]} for role in roles]
        row = {"story_id": "made/1", "messages": messages, "images": story(2)["images"][:images]}
        with pytest.raises(RowError, match=f"made/1.*{message}"):
            ChatCollator(processor=llava())([row])

    @pytest.mark.parametrize(
        ("image", "message"), [(None, "pictures are missing"), ({"bytes": b"x", "path": "a.png"}, "decode.*a.png")]
    )
    def test_pictures_that_are_not_there_are_named(self, image, message):
        row = {**to_messages(story(1)), "images": [image], "story_id": "made/1"}
        with pytest.raises(RowError, match=f"made/1.*{message}"):
            ChatCollator(processor=llava())([row])

    def test_processors_and_options_that_cannot_work(self):
        with pytest.raises(UsageError, match="has no chat template"):
            ChatCollator(processor=llava(template=None))
        with pytest.raises(UsageError, match="no fast tokenizer"):
            ChatCollator(processor=pil_processor("clip").CLIPImageProcessorPil())
        unpadded = tiny_tokenizer(["x"])
        unpadded.pad_token = None
        with pytest.raises(UsageError, match="no pad token"):
            ChatCollator(processor=llava(tokenizer=unpadded))
        with pytest.raises(UsageError, match="truncate must be one of"):
            ChatCollator(processor=llava(), truncate="middle")
        with pytest.raises(UsageError, match="at least one example"):
            ChatCollator(processor=llava())([])


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=4), st.lists(st.text("abx", max_size=3), max_size=3))
def test_pieces_are_placed_where_there_is_one_way_and_only_there(pieces, between):
    between = (between + ["x"] * 3)[: len(pieces) - 1]
    expanded = "".join(piece + filling for piece, filling in itertools.zip_longest(pieces, between, fillvalue=""))
    starts = [[at for at in range(len(expanded) + 1) if expanded.startswith(piece, at)] for piece in pieces]
    ways = {
        tuple(at for at, piece in zip(way, pieces, strict=True) if piece)
        for way in itertools.product(*starts)
        if all(a + len(piece) <= b for a, b, piece in zip(way, way[1:], pieces, strict=False))
    }
    places = _places(pieces, expanded)
    if len(ways) == 1:
        assert tuple(at for at, piece in zip(places, pieces, strict=True) if piece) in ways
    else:
        assert places is None


@PROCESSORS
def test_contents_that_are_plain_strings_are_blocks_of_text(make):
    processor, pictures = make(), story(1)["images"]
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is there?"}]}
    rows = [
        {"story_id": "s", "images": pictures, "messages": [user, {"role": "assistant", "content": content}]}
        for content in ([{"type": "text", "text": "Fred walks."}], "Fred walks.")
    ]
    one, other = (ChatCollator(processor=processor)([row]) for row in rows)
    assert all(one[name].equal(other[name]) for name in ("input_ids", "labels"))
    with pytest.raises(RowError, match="no content"):
        ChatCollator(processor=processor)([{**rows[0], "messages": [user, {"role": "assistant", "content": None}]}])

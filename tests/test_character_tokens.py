"""CharacterTokens: hand-written token indices, four families of tokenizers, and brute force per character."""

import copy
import functools
import pickle
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

from openstory_hf.collate import CharacterTokens  # noqa: E402
from openstory_hf.errors import UsageError  # noqa: E402
from openstory_hf.info import Character  # noqa: E402
from openstory_hf.references import find_mentions, rewrite  # noqa: E402
from openstory_hf.testing import drawn_story, tiny_tokenizer  # noqa: E402
from openstory_hf.views import RowError, token_spans  # noqa: E402

CAST = (
    Character(name="fred", pronouns="he"),
    Character(name="wilma", pronouns="she"),
    Character(name="mr slate", pronouns="he"),
    Character(name="zoë", pronouns="she"),
    Character(name="🦖🦕", pronouns="it"),  # outside the BMP, several byte tokens each
)
NAMES = [character.name for character in CAST]
CORPUS = [
    "Fred and Wilma walk to the river.",
    "Fred's dog naps.",
    "Mr  Slate talks to Wilma, and Zoë laughs.",
    "They walk.",
]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]


# --- families of tokenizers, trained in a moment -------------------------------------------------------------------


def wrapped(backend, *, template=True):
    if template:
        ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
        template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
        own = [backend.post_processor] if backend.post_processor else []
        backend.post_processor = processors.Sequence([*own, template])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def word_level(template):
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    backend.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return wrapped(backend, template=template)


def byte_bpe(template, *, trim_offsets, add_prefix_space):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets, add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 330, "special_tokens": SPECIAL, "initial_alphabet": letters, "show_progress": False}
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(**options))
    return wrapped(backend, template=template)


def unigram(template):
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    options = {"vocab_size": 60, "special_tokens": SPECIAL, "unk_token": "<unk>", "show_progress": False}
    backend.train_from_iterator(CORPUS, trainers.UnigramTrainer(**options))
    return wrapped(backend, template=template)


def word_piece(template):
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    options = {"vocab_size": 70, "special_tokens": SPECIAL, "show_progress": False}
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(**options))
    return wrapped(backend, template=template)


FAMILIES = {
    "word level": word_level,
    "byte bpe": functools.partial(byte_bpe, trim_offsets=True, add_prefix_space=False),
    "byte bpe, blanks kept in the offsets": functools.partial(byte_bpe, trim_offsets=False, add_prefix_space=False),
    "byte bpe, a blank in front": functools.partial(byte_bpe, trim_offsets=True, add_prefix_space=True),
    "unigram, metaspace": unigram,
    "word piece, bert normaliser": word_piece,
}


@functools.cache
def family(name, template=True):
    return FAMILIES[name](template)


def words(*texts, **options):
    """One token per word, blank and sign; only what stands in the texts is known."""
    return CharacterTokens(**{"tokenizer": tiny_tokenizer(texts), "characters": NAMES, **options})


def mention(character, start, end, ref_start=-1, ref_end=-1):
    return {"character": character, "start": start, "end": end, "ref_start": ref_start, "ref_end": ref_end}


def row(captions, mentions=None, **columns):
    """A story with the mentions given, else those of the cast's names."""
    if mentions is None:
        mentions = [[mention(*found, *found[1:]) for found in find_mentions(caption, CAST)] for caption in captions]
    return {"story_id": "drawn/1", "captions": list(captions), "mentions": mentions, **columns}


def told(captions):
    """The same with referential captions, as a build makes them."""
    characters = [sorted({name for name, _, _ in find_mentions(caption, CAST)}) for caption in captions]
    made = rewrite(captions, characters, CAST, "algorithm1")
    mentions = [[entry.as_row() for entry in frame.mentions] for frame in made]
    return row(captions, mentions, referential_captions=[frame.text for frame in made])


# --- token_spans ---------------------------------------------------------------------------------------------------

SPANS = st.tuples(st.integers(0, 12), st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(offsets=st.lists(SPANS, max_size=8), spans=st.lists(SPANS, max_size=4))
def test_token_spans_equal_sets_of_characters(offsets, spans):
    expected = []
    for span in spans:
        inside = [n for n, token in enumerate(offsets) if set(range(*token)) & set(range(*span))]
        expected.append((min(inside), max(inside) + 1) if inside else (-1, -1))
    assert token_spans(offsets, spans) == expected


def test_token_spans_by_hand():
    # <s> "Fr" "ed" "'s" " dog" "🦖" as three bytes </s> <pad>
    offsets = [(0, 0), (0, 2), (2, 4), (4, 6), (6, 10), (10, 11), (10, 11), (10, 11), (0, 0), (0, 0)]
    spans = [(0, 4), (0, 6), (7, 10), (10, 11), (6, 7), (0, 0), (11, 12)]
    assert token_spans(offsets, spans) == [(1, 3), (1, 4), (4, 5), (5, 8), (4, 5), (-1, -1), (-1, -1)]
    assert token_spans([(0, 6), (6, 10)], [(0, 4)]) == [(0, 1)]  # "Fred's" is one token
    assert token_spans([], [(0, 4)]) == [(-1, -1)]
    assert token_spans(offsets, []) == []


# --- batches by hand -----------------------------------------------------------------------------------------------


def test_a_batch_by_hand():
    texts = ["Fred naps.", "", "Wilma and Fred nap."]
    stories = [row(texts[:2]), row(texts[2:])]
    before = copy.deepcopy(stories)
    collate = words(*texts, characters=("wilma", "fred"))
    batch = collate(stories)
    # after the five special ones: Fred 5, blank 6, naps 7, full stop 8, Wilma 9, and 10, nap 11
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 0, 0, 0, 0], [0] * 8, [9, 6, 10, 6, 5, 6, 11, 8]]
    assert batch["attention_mask"].tolist() == [[1] * 4 + [0] * 4, [0] * 8, [1] * 8]
    assert batch["mention_tokens"].tolist() == [[[0, 1], [-1, -1]], [[-1, -1], [-1, -1]], [[0, 1], [4, 5]]]
    assert batch["mention_characters"].tolist() == [[1, -1], [-1, -1], [0, 1]]
    expected = torch.zeros(3, 2, 8, dtype=torch.bool)
    expected[0, 1, 0] = expected[2, 0, 0] = expected[2, 1, 4] = True
    assert torch.equal(batch["character_token_mask"], expected)
    for name, value in batch.items():
        assert value.dtype == (torch.bool if name == "character_token_mask" else torch.int64), name
    assert stories == before
    again = pickle.loads(pickle.dumps(collate))(stories)
    assert all(torch.equal(again[name], batch[name]) for name in batch)


def test_names_outside_the_cast_keep_their_tokens_but_no_number():
    batch = words("Fred naps.", characters=("wilma",))([row(["Fred naps."])])
    assert batch["mention_tokens"].tolist() == [[[0, 1]]]
    assert batch["mention_characters"].tolist() == [[-1]]
    assert batch["character_token_mask"].tolist() == [[[False] * 4]]


def test_frames_without_text_mentions_or_cast_keep_their_axes():
    batch = words("Hi", characters=())([row(["", ""])])
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    assert shapes == {
        "input_ids": (2, 0),
        "attention_mask": (2, 0),
        "mention_tokens": (2, 0, 2),
        "mention_characters": (2, 0),
        "character_token_mask": (2, 0, 0),
    }
    assert all(value.dtype in (torch.int64, torch.bool) for value in batch.values())


def test_special_tokens_spelt_out_are_characters():
    text = "</s> Fred <s> naps"
    ids = CharacterTokens(tokenizer=family("byte bpe"), characters=NAMES)([row([text])])["input_ids"][0].tolist()
    tokenizer = family("byte bpe")
    assert ids.count(tokenizer.bos_token_id) == ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[1:-1]) == text


def test_a_drawn_story_of_the_package():
    story = drawn_story(frames=3, cast=("fred", "wilma"))
    batch = words(*story["captions"])([story])
    assert batch["mention_tokens"].tolist() == [[[0, 1], [4, 5]]] * 3  # Fred, blank, and, blank, Wilma


# --- which text ----------------------------------------------------------------------------------------------------

STORY = ["Fred and Wilma walk.", "Fred and Wilma nap.", "Wilma's dog sees Mr Slate.", "Wilma naps."]


def test_they_speaks_of_both():
    story = told(STORY)
    assert story["referential_captions"] == [STORY[0], "They nap.", STORY[2], "She naps."]
    collate = words(*STORY, *story["referential_captions"], text="referential_captions")
    batch = collate([story])
    fred, wilma, slate = (
        batch["character_token_mask"][:, NAMES.index(name)] for name in ("fred", "wilma", "mr slate")
    )
    # one token per word, blank and sign
    assert [line.nonzero().flatten().tolist() for line in fred] == [[0], [0], [], []]
    assert [line.nonzero().flatten().tolist() for line in wilma] == [[4], [0], [0], [0]]
    assert [line.nonzero().flatten().tolist() for line in slate] == [[], [], [8, 9, 10], []]
    assert batch["mention_tokens"][1].tolist() == [[0, 1], [0, 1]]


def test_each_row_says_itself_what_its_texts_are():
    plain, changed = told(STORY), told(STORY)
    plain["texts"], changed["texts"] = plain["captions"], changed["referential_captions"]
    both = words(*STORY, *changed["texts"])([plain, changed])
    for text, frames in (("captions", slice(0, 4)), ("referential_captions", slice(4, 8))):
        alone = words(*STORY, *changed["texts"], text=text)([plain])
        length, mentions = alone["input_ids"].shape[1], alone["mention_tokens"].shape[1]
        assert both["input_ids"][frames, :length].tolist() == alone["input_ids"].tolist()
        assert both["mention_tokens"][frames, :mentions].tolist() == alone["mention_tokens"].tolist()
        assert both["character_token_mask"][frames, :, :length].tolist() == alone["character_token_mask"].tolist()


def test_texts_come_first_and_can_be_overruled():
    story = told(STORY)
    story["texts"] = story["referential_captions"]
    assert words(*STORY, "They")([story])["mention_tokens"][1].tolist() == [[0, 1], [0, 1]]
    assert words(*STORY, text="captions")([story])["mention_tokens"][1].tolist() == [[0, 1], [4, 5]]


# --- truncation and padding ----------------------------------------------------------------------------------------

LONG = "Fred walks. Mr Slate naps."  # Fred _ walks . _ Mr _ Slate _ naps .


@pytest.mark.parametrize(
    ("side", "length", "fred", "slate"),
    [
        ("right", 11, [0, 1], [5, 8]),
        ("right", 8, [0, 1], [5, 8]),
        ("right", 7, [0, 1], [-1, -1]),  # "Mr" alone is left
        ("right", 3, [0, 1], [-1, -1]),
        ("left", 10, [-1, -1], [4, 7]),
        ("left", 6, [-1, -1], [0, 3]),
        ("left", 5, [-1, -1], [-1, -1]),  # "Slate" alone is left
    ],
)
def test_a_mention_cut_off_has_no_tokens(side, length, fred, slate):
    tokenizer = tiny_tokenizer([LONG])
    tokenizer.truncation_side = side
    batch = CharacterTokens(tokenizer=tokenizer, characters=NAMES, max_length=length)([row([LONG])])
    assert batch["input_ids"].shape == (1, length)
    assert batch["mention_tokens"].tolist() == [[fred, slate]]
    assert batch["mention_characters"].tolist() == [[0, 2]]
    expected = torch.zeros(len(NAMES), length, dtype=torch.bool)
    for number, (first, last) in ((0, fred), (2, slate)):
        if first >= 0:
            expected[number, first:last] = True
    assert torch.equal(batch["character_token_mask"][0], expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_the_tokenizers_side(side):
    tokenizer = tiny_tokenizer([LONG])
    tokenizer.padding_side = side
    batch = CharacterTokens(tokenizer=tokenizer, characters=NAMES, max_length=14, padding="max_length")([row([LONG])])
    shift = 3 if side == "left" else 0
    assert batch["mention_tokens"].tolist() == [[[shift, shift + 1], [shift + 5, shift + 8]]]
    assert batch["attention_mask"].tolist() == [[0] * shift + [1] * 11 + [0] * (3 - shift)]
    assert (batch["input_ids"] == tokenizer.pad_token_id).tolist() == (batch["attention_mask"] == 0).tolist()


def test_special_tokens_count_towards_the_length():
    collate = CharacterTokens(tokenizer=family("word level"), characters=NAMES, max_length=4)
    batch = collate([row(["Fred and Wilma walk"])])  # <s> Fred and </s>
    assert batch["input_ids"].shape == (1, 4)
    assert batch["mention_tokens"].tolist() == [[[1, 2], [-1, -1]]]


# --- every family --------------------------------------------------------------------------------------------------

SENTENCES = [
    "Fred and Wilma walk.",
    "FRED's dog; fred, (wilma)!",
    "  Fred\n\tsees   Mr  Slate . ",
    "Zoë and Zoe\u0308 and zoe",  # one letter, a letter with a combining accent, no accent
    "🦖🦕 sees 🦖🦕's egg 🥚.",
    "𝔉red is not Fred; ﬁne Wilma ｗｉｌｍａ",
    "Nobody is here.",
    "",
]


@pytest.mark.parametrize("template", [True, False], ids=["special tokens", "bare"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokens_of_a_mention_cover_it_and_blanks_alone(name, template):
    tokenizer = family(name, template)
    story = row(SENTENCES)
    story["mentions"][3].append(mention("zoë", 8, 12))  # the name with a combining accent
    batch = CharacterTokens(tokenizer=tokenizer, characters=NAMES)([story])
    assert sum(map(len, story["mentions"])) == 13
    expected = torch.zeros_like(batch["character_token_mask"])
    for frame, (text, mentions) in enumerate(zip(SENTENCES, story["mentions"], strict=True)):
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        # BERT's normaliser drops combining accents, so no token covers them
        visible = {at for at, sign in enumerate(text) if not sign.isspace() and not unicodedata.combining(sign)}
        for place, entry in enumerate(mentions):
            first, last = batch["mention_tokens"][frame, place].tolist()
            covered = {at for left, right in offsets[first:last] for at in range(left, right)}
            assert covered & visible == set(range(entry["start"], entry["end"])) & visible != set()
            expected[frame, NAMES.index(entry["character"]), first:last] = True
    assert torch.equal(batch["character_token_mask"], expected)


PIECES = st.sampled_from(
    [*NAMES, "Fred's", "Mr", "walk", "They", " ", "  ", "\n", ".", "-", "ß", "İ", "e\u0301", "👩‍🚀", "<s>", "한"]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(FAMILIES)), texts=st.lists(TEXTS, min_size=1, max_size=3), data=st.data())
def test_any_span_of_any_text(name, texts, data):
    tokenizer = family(name)
    mentions = []
    for text in texts:
        cuts = st.tuples(*[st.integers(0, len(text))] * 2).map(sorted)
        spans = data.draw(st.lists(cuts, max_size=3))
        mentions.append([mention(data.draw(st.sampled_from(NAMES)), start, end) for start, end in spans])
    batch = CharacterTokens(tokenizer=tokenizer, characters=NAMES)([row(texts, mentions)])
    expected = torch.zeros_like(batch["character_token_mask"])
    for frame, (text, entries) in enumerate(zip(texts, mentions, strict=True)):
        alone = tokenizer(text, split_special_tokens=True, return_offsets_mapping=True)
        assert batch["input_ids"][frame][batch["attention_mask"][frame] == 1].tolist() == alone["input_ids"]
        # character by character
        owners = [
            {n for n, (left, right) in enumerate(alone["offset_mapping"]) if left <= at < right}
            for at in range(len(text))
        ]
        for place, entry in enumerate(entries):
            tokens = set().union(*owners[entry["start"] : entry["end"]])
            span = [min(tokens), max(tokens) + 1] if tokens else [-1, -1]
            assert batch["mention_tokens"][frame, place].tolist() == span
            for token in range(*span):
                expected[frame, NAMES.index(entry["character"]), token] = True
    assert torch.equal(batch["character_token_mask"], expected)


# --- errors --------------------------------------------------------------------------------------------------------


class Slow:
    is_fast = False
    pad_token_id = 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokenizer": Slow()}, "Slow does not say .* use a fast tokenizer"),
        ({"text": "caption"}, "text must be one of 'captions', 'referential_captions', 'texts'"),
        ({"padding": True}, "padding must be one of 'longest', 'max_length'"),
        ({"padding": "max_length"}, "needs a max_length"),
        ({"characters": "fred"}, "sequence of different names"),
        ({"characters": ("fred", "fred")}, "sequence of different names"),
        ({"max_length": 0}, "no room for text beside 0 special tokens"),
        ({"max_length": 2, "tokenizer": family("word level")}, "no room for text beside 2 special tokens"),
    ],
)
def test_options_that_cannot_work(options, said):
    with pytest.raises(UsageError, match=said):
        words("Hi", **options)


def test_a_tokenizer_must_be_able_to_pad():
    tokenizer = tiny_tokenizer(["Hi"])
    tokenizer.pad_token = None
    with pytest.raises(UsageError, match="no pad token"):
        words(tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("story", "said"),
    [
        (row([]), "no frames"),
        ({"story_id": "drawn/1", "mentions": []}, "no column 'captions'"),
        ({"story_id": "drawn/1", "captions": ["Hi"]}, "no column 'mentions' for 1 texts"),
        (row(["Hi", "Hi"], [[]]), "1 lists of mentions for 2 texts"),
        (row(["Fred"], texts=["Fred "]), "'texts' is neither"),
        (row(["Fred"], [[mention("fred", 1, 5)]]), r"a mention at \(1, 5\) leaves captions\[0\], 4 characters"),
        (row(["Fred"], [[mention("fred", 3, 2)]]), "leaves"),
        (row(["Fred"], [[mention("fred", -1, 2)]]), "leaves"),
    ],
)
def test_rows_that_do_not_fit_are_named(story, said):
    with pytest.raises(RowError, match=said) as error:
        words("Hi")([story])
    assert "drawn/1" in str(error.value)


def test_an_empty_batch_is_refused():
    with pytest.raises(UsageError, match="at least one example"):
        words("Hi")([])

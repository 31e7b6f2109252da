"""Referential text: names that repeat from frame to frame become pronouns, and can be put back.

A policy decides which stretches of a caption are replaced; everything else (spans, mentions, restoring the names)
is the same for all of them. `algorithm1` is Algorithm 1 of the StoryGPT-V paper, literally. `grammatical` takes the
same decision about antecedents and then writes English: the right case, agreement left intact, and the name kept
wherever a reader could take the pronoun for somebody else. It knows word lists, not grammar, so a position that no
rule recognises keeps its name. The rules are for English captions. Standard library only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from openstory_hf.errors import UsageError
from openstory_hf.info import Character

RULES_VERSION: str = "1"


@dataclass(frozen=True, slots=True)
class Mention:
    """One occurrence of a cast name: half-open character offsets in the caption and in the referential text."""

    character: str
    start: int
    end: int
    ref_start: int
    ref_end: int

    def as_row(self) -> dict[str, str | int]:
        """The mention as a row of the `mentions` column."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A caption after replacement, with one mention per cast name of the original, in order."""

    text: str
    mentions: tuple[Mention, ...]


class Edit(NamedTuple):
    """Characters [start, end) of a caption become `text`; starts and ends at, or just after, whole names."""

    start: int
    end: int
    text: str


Policy = Callable[[Sequence[str], Sequence[Sequence[str]], Sequence[Character]], Iterator[list[Edit]]]


def rewrite(
    captions: Sequence[str],
    characters: Sequence[Sequence[str]],
    cast: Sequence[Character],
    policy: str = "grammatical",
) -> list[Rewritten]:
    """Replace repeated names in the captions of one story.

    Args:
        captions: one per frame, in order.
        characters: labels of each frame; cast names (or aliases) and any other labels.
        cast: who has a name and which pronouns.
        policy: one of `POLICIES`.

    Raises:
        UsageError: for an unknown policy, or captions and characters of different lengths.
    """
    if policy not in _POLICIES:
        raise UsageError(f"unknown reference policy {policy!r}; choose one of {', '.join(POLICIES)}")
    if len(captions) != len(characters):
        raise UsageError(f"{len(captions)} captions but {len(characters)} lists of characters; give one per frame")
    edits = _POLICIES[policy](captions, characters, cast)
    return [
        _apply(caption, find_mentions(caption, cast), frame) for caption, frame in zip(captions, edits, strict=True)
    ]


def restore(text: str, mentions: Iterable[Mention | Mapping[str, Any]], caption: str) -> str:
    """Put the names back: substitute every mention's caption span for its referential span.

    Mentions that share a referential span ("They") are one substitution, of everything from the first name to the
    last. The result equals `caption` byte for byte when `text` and `mentions` come from `rewrite`.
    """
    hulls: dict[tuple[int, int], tuple[int, int]] = {}
    for mention in mentions:
        row: Mapping[str, Any] = mention.as_row() if isinstance(mention, Mention) else mention
        span, start, end = (row["ref_start"], row["ref_end"]), row["start"], row["end"]
        first, last = hulls.get(span, (start, end))
        hulls[span] = min(first, start), max(last, end)
    parts, done = [], 0
    for (ref_start, ref_end), (start, end) in sorted(hulls.items()):
        parts += [text[done:ref_start], caption[start:end]]
        done = ref_end
    return "".join(parts) + text[done:]


def _apply(caption: str, names: Sequence[tuple[str, int, int]], edits: Sequence[Edit]) -> Rewritten:
    parts, done = [], 0
    for edit in edits:
        parts += [caption[done : edit.start], edit.text]
        done = edit.end
    mentions = []
    for index, (name, start, end) in enumerate(names):
        shift = sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= start)
        covering = next((edit for edit in edits if edit.start <= start < edit.end), None)
        if covering is None:
            mentions.append(Mention(name, start, end, start + shift, end + shift))
        else:
            is_last = index + 1 == len(names) or names[index + 1][1] >= covering.end
            ref = covering.start + shift
            end = covering.end if is_last else end  # the last name takes the "'s" along
            mentions.append(Mention(name, start, end, ref, ref + len(covering.text)))
    return Rewritten("".join(parts) + caption[done:], tuple(mentions))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- names ---------------------------------------------------------------------------------------------------

_TITLES = _words("mr mrs ms dr st")  # their dot ends no sentence
_IN_WORD = r"\w\u0300-\u036f"  # combining accents belong to the letter before them


def _spelling(name: str) -> str:
    """A pattern for one name: any run of blanks between its words, an optional dot after a title."""
    words = [word.rstrip(".") if word.lower().rstrip(".") in _TITLES else word for word in name.split()]
    return r"\s+".join(re.escape(word) + (r"\.?" if word.lower() in _TITLES else "") for word in words)


def find_mentions(caption: str, cast: Sequence[Character]) -> list[tuple[str, int, int]]:
    """Cast names in a caption, in order, as (canonical name, start, end); half-open character offsets.

    Names and aliases match as whole words without regard to case, the longest first; never inside a longer or a
    hyphenated word.
    """
    spellings = [(alias, c.name) for c in cast for alias in (c.name, *c.aliases) if alias.strip()]
    if not spellings:
        return []
    spellings.sort(key=lambda pair: -len(pair[0]))
    options = "|".join(f"({_spelling(alias)})" for alias, _ in spellings)
    pattern = rf"(?<![{_IN_WORD}])(?<![{_IN_WORD}][-‑'’])(?:{options})(?![{_IN_WORD}])(?![-‑]\w)"
    found = re.finditer(pattern, caption, re.IGNORECASE)
    return [(spellings[(match.lastindex or 1) - 1][1], *match.span()) for match in found]


class Token(NamedTuple):
    """A name of the cast (text = canonical name), another word (lower case), or a punctuation mark."""

    kind: Literal["name", "word", "mark"]
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The text, unless it is a name: word lists must not match a character called "And"."""
        return "" if self.kind == "name" else self.text


_END = Token("mark", ".", -1, -1)  # what lies before the first and after the last token
_TOKEN = re.compile(rf"['’](?:s|d|ll)(?![{_IN_WORD}])|\w[{_IN_WORD}]*(?:[-‑'’]\w[{_IN_WORD}]*)*|[^\w\s]")


def _tokens(caption: str, cast: Sequence[Character]) -> list[Token]:
    tokens: list[Token] = []
    done = 0
    for name, start, end in [*find_mentions(caption, cast), ("", len(caption), len(caption))]:
        for match in _TOKEN.finditer(caption, done, start):
            text = match.group().lower().replace("’", "'")
            kind: Literal["word", "mark"] = "word" if text[-1].isalnum() else "mark"
            tokens.append(Token(kind, text, *match.span()))
        if name:
            tokens.append(Token("name", name, start, end))
        done = end
    return tokens


def _at(tokens: Sequence[Token], index: int) -> Token:
    return tokens[index] if 0 <= index < len(tokens) else _END


def _groups(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Longest runs of names joined by "," and "and", as token indices (first, last); most are single names."""
    index = 0
    while index < len(tokens):
        if tokens[index].kind != "name":
            index += 1
            continue
        first = last = index
        while True:
            following = last + 1
            while _at(tokens, following).word in (",", "and", "&") and following - last <= 2:
                following += 1
            if following == last + 1 or _at(tokens, following).kind != "name":
                break
            last = following
        yield first, last
        index = last + 1


def _is_conjunction(tokens: Sequence[Token], first: int, last: int) -> bool:
    """Whether the run reads "A and B", "A, B and C" or "A, B, and C"."""
    shape = " ".join("A" if token.kind == "name" else token.text for token in tokens[first : last + 1])
    return re.fullmatch(r"A( , A)*( and| &| , and(?<=A , A , and)) A", shape) is not None


def _starts_sentence(caption: str, position: int) -> bool:
    before = caption[:position].rstrip().rstrip("\"'“”‘’([*_").rstrip()
    if not before.endswith("."):
        return not before or before[-1] in "!?…"
    return re.split(r"\W", before[:-1])[-1].lower() not in _TITLES


def _pronoun(caption: str, start: int, pronoun: str) -> str:
    return pronoun.capitalize() if _starts_sentence(caption, start) else pronoun


def _canonical(labels: Sequence[str], cast: Sequence[Character]) -> list[str]:
    """Labels, stripped and lower-cased, with aliases of the cast turned into their names."""
    names = {alias.lower(): c.name for c in reversed(cast) for alias in (*c.aliases, c.name)}
    tidy = [label.strip().lower() for label in labels]
    return [names.get(label, label) for label in tidy if label]


# --- policy: algorithm1 --------------------------------------------------------------------------------------


def _algorithm1(
    captions: Sequence[str], characters: Sequence[Sequence[str]], cast: Sequence[Character]
) -> Iterator[list[Edit]]:
    """Algorithm 1 to the letter: always nominative, "'s" left in place, ambiguity not looked at."""
    pronouns = {c.name: c.pronouns for c in reversed(cast)}
    carried: set[str] = set()
    for caption, labels in zip(captions, characters, strict=True):
        tokens = _tokens(caption, cast)
        present = {label for label in _canonical(labels, cast) if label in pronouns}
        present = present or {token.text for token in tokens if token.kind == "name"}
        edits = []
        if not present <= carried:
            carried = present
        elif len(present) == 1:
            spans = [(t.start, t.end, pronouns[t.text]) for t in tokens if t.kind == "name" and t.text in present]
            edits = [Edit(start, end, _pronoun(caption, start, pronoun)) for start, end, pronoun in spans]
        elif present:
            for first, last in _groups(tokens):
                names = [token.text for token in tokens[first : last + 1] if token.kind == "name"]
                if sorted(names) == sorted(present) and _is_conjunction(tokens, first, last):
                    start = tokens[first].start
                    edits.append(Edit(start, tokens[last].end, _pronoun(caption, start, "they")))
        yield edits


# --- policy: grammatical -------------------------------------------------------------------------------------

_FORMS = {  # nominative, objective, possessive
    "he": ("he", "him", "his"),
    "she": ("she", "her", "her"),
    "it": ("it", "it", "its"),
    "they": ("they", "them", "their"),
}
_SUBJECT, _OBJECT, _POSSESSIVE = range(3)
_PRONOUN_WORDS = {form: key for key, forms in _FORMS.items() for form in (*forms, forms[1] + "self")}

# People and animals without a name, by the pronoun that would point at them; "any": it could be he, she or it.
_PERSON_NOUNS = {
    "he": """boy brother butler cowboy bellboy dad daddy father gentleman grandfather grandpa groom guy husband king
        male man nephew prince son uncle waiter wizard""",
    "she": """actress aunt bride daughter female girl grandma grandmother granny hostess lady maid mama mom mommy
        mother mum niece princess queen sister stewardess waitress wife witch woman""",
    "any": """accountant actor admiral alien alligator animal announcer anybody anyone ape artist assistant attendant
        baby baker barber bartender batter bear beautician bird boss boxer buffalo bull butcher captain cashier cat
        character chef chicken child clerk conductor cop cow creature criminal crocodile crook customer dancer dentist
        detective dinosaur director doctor dog donkey dragon driver elephant everybody everyone farmer fox friend frog
        gangster general ghost giant giraffe goat goose gorilla guard guest hare hen hippo horse host hunter hyena
        infant janitor journalist judge kangaroo kid kitten lamb lawyer leopard lifeguard lion lizard lobster mammoth
        manager martian member monkey monster mouse musician neighbor neighbour newsreader nurse octopus officer
        operator opponent owl owner painter parrot passenger patient performer person pet photographer pianist pig
        pilot pirate pitcher player police professor puppy rabbit rat reader receptionist referee reporter rhino
        robber robot scientist secretary shark sheep sheriff shopkeeper singer snake soldier somebody someone speaker
        spider squirrel stranger student tailor teacher thief tiger toddler tortoise turtle whale winner wolf worker
        wrestler writer zebra""",
    "they": "audience band children crowd family folks gang geese group men mice others people team women",
}
_PEOPLE = {noun: key for key, nouns in _PERSON_NOUNS.items() for noun in nouns.split()}
# Partners off screen ("talks to someone") are nobody's antecedent unless they act.
_BACKGROUND = _words("anybody anyone everybody everyone person somebody someone")

# Verbs that take a person as object; any form counts. A bare form may follow the object ("sees Fred walk").
_TRANSITIVE = _words(
    """answer approach ask bite bring call carry catch chase comfort feed find follow give grab greet hand hear help
    hit hold hug interrupt join kick kiss knock leave let lift like love make meet pass pat poke pull punch push rock
    see serve shake show shove slap startle stop surprise teach tell thank throw tickle touch visit wake watch
    bit brought called caught fed found gave held heard loved made met saw showed shook taught told threw woke"""
)
_VERBS = _TRANSITIVE | _words(
    """act agree appear argue arrive bathe begin blink bounce bow breathe burst buy celebrate chat check clap clean
    climb close come continue converse cook cough cry cut dance dive do drink drive drop eat enjoy enter exit
    explain face fall fight finish fish float fly frown gesture get glance go grin hang have hide hop hurry jump keep
    kneel laugh lay lean learn lie listen live look lose move need nod open pace paddle pick plan play point prepare
    press pretend put raise reach react read relax remain reply respond rest ride ring rise roll rub run rush say
    scream seem sell set share shout shrug sing sit sleep smile smoke sneak speak spin stand stare start stay step
    swim swing take talk tap think travel try turn type use wait walk want wash wave wear whisper wink wipe work write
    yawn yell"""
)
_PAST = _words(  # irregular; like "talked" and the modals they agree with every pronoun
    """ate began brought came caught did drank drove fed fell felt flew found gave got grew had heard held hid knew
    left lost made met put ran rang rode said sang sat saw slept spoke stood swam taught thought threw told took went
    woke wore wrote can can't cannot could couldn't didn't may might must shall should will won't would wouldn't"""
)
_SINGULAR = _words("doesn't does has hasn't is isn't was wasn't")
_PLURAL = _words("are aren't do don't have haven't were weren't")
_CLAUSE_VERBS = _words("believe feel felt hear heard hope knew know notice said saw say see think thought")
_GIVING = _words("ask bring brought gave give hand show showed taught teach tell threw throw told")
_NOT_VERBS = _words(  # in spite of their "s"
    """across afterwards always as backwards besides downstairs downwards forwards hers his indoors inwards its less
    onwards ours outdoors outwards perhaps plus sideways sometimes theirs this thus towards unless upstairs upwards
    versus whereas yes"""
)
_NOT_PARTICIPLES = _words(  # in spite of their "ing"
    """building bowling ceiling clothing dining drawing earring evening fishing king living meeting morning painting
    ring sibling string thing wedding wing writing"""
)
_ADVERBS = _words("again also always finally first just never now soon sometimes still suddenly then")
_NOT_ADVERBS = _words("belly bully curly early elderly family fly friendly jelly lily lonely lovely only")
_PLACES = _words("away back down here indoors inside off out outdoors outside there together too up")
_DETERMINERS = _words("a an another her his its some something the their")
_SUBORDINATORS = _words(
    """after although as because before but how if once since so that though until what when where whether which while
    who whom why"""
)
_PREPOSITIONS = _words(
    """about above across after against alongside around at before behind below beneath beside besides between by
    facing for from in inside into like near on onto past through to toward towards under underneath with without"""
)
_OF = _words("afraid ahead because front instead left out picture pictures right side top")  # not "the face of him"
_ENDERS = frozenset(".!?…;")
# What follows "Fred's" when that is short for "Fred is" or "Fred has".
_AFTER_IS = _words(
    "a also always an at been being from going gone got her here his in just not now on so still the there very with"
)
_FUNCTION_WORDS = (  # may stand capitalised without being anybody's name
    frozenset(_PRONOUN_WORDS).union(_ADVERBS, _PLACES, _DETERMINERS, _SUBORDINATORS, _PREPOSITIONS, _SINGULAR, _PLURAL)
    | _words("all and both each every everything i it's my no not nothing of one or our that's these those tv we you")
)


def _bases(word: str, endings: str = "s es ies:y ed ed:e ied:y ing ing:e") -> set[str]:
    """What the word may be a form of: "hugging" -> {"hugging", "hugg", "hugge", "hug"}."""
    found = {word}
    for ending, _, stem in (entry.partition(":") for entry in endings.split()):
        if word.endswith(ending):
            found.add(base := word.removesuffix(ending) + stem)
            if base[-1:] == base[-2:-1]:
                found.add(base[:-1])
    return found


def _is_form_of(word: str, verbs: frozenset[str]) -> bool:
    return not verbs.isdisjoint(_bases(word))


def _is_adverb(word: str) -> bool:
    return word in _ADVERBS or (word.endswith("ly") and word not in _NOT_ADVERBS)


def _is_participle(word: str) -> bool:
    return len(word) > 4 and word.endswith("ing") and word not in _NOT_PARTICIPLES


def _is_finite(word: str, plural: bool) -> bool:
    """Whether the word is a verb that agrees with "they" (plural) or with "he"."""
    if word in _PAST or (word.endswith("ed") and _is_form_of(word, _VERBS)):
        return True
    if plural:
        return word in _PLURAL or word in _VERBS
    return word in _SINGULAR or (re.search(r"\w[^\Wsu]s$", word) is not None and word not in _NOT_VERBS)


def _person_noun(word: str) -> str | None:
    """The pronoun key of a person noun, or None."""
    if word in _PEOPLE:
        return _PEOPLE[word]
    if word.endswith("man"):
        return "she" if word.endswith("woman") else "he"
    plural = word.endswith("men") or not _PEOPLE.keys().isdisjoint(_bases(word, "s es ves:f"))
    return "they" if plural else None


def _label_key(label: str) -> str:
    """The pronoun key of a label outside the cast: "man in blue hat" -> "he"; "any" when unknown or mixed."""
    keys = {key for word in re.findall(r"\w+", label) if (key := _person_noun(word))}
    return keys.pop() if len(keys) == 1 else "any"


def _strangers(caption: str, tokens: Sequence[Token]) -> dict[str, str]:
    """Pronoun keys of those a caption speaks of without a cast name: person nouns and unknown capitalised names."""
    found = {}
    for index, token in enumerate(tokens):
        word = token.word.split("'")[0]  # "man's" speaks of a man
        if (key := _person_noun(word)) is not None:
            if word not in _BACKGROUND or _at(tokens, index - 1).word not in _PREPOSITIONS:
                found[word] = key
        elif caption[token.start].isupper() and word and token.word not in _FUNCTION_WORDS and not _is_adverb(word):
            following = _at(tokens, index + 1).word
            acts = following == "and" or _is_finite(following, False) or _is_finite(following, True)
            if acts or not _starts_sentence(caption, token.start):
                found[word] = "any"
    return found


def _opens_subject(tokens: Sequence[Token], first: int) -> bool:
    """Whether a subject can start at token `first`, judged by what stands before it."""
    index = first - 1
    while _is_adverb(_at(tokens, index).word):
        index -= 1
    word = _at(tokens, index).word
    if word in ("and", "or", ","):
        before = _at(tokens, index - 1)
        if word != "," and before.word == ",":
            before = _at(tokens, index - 2)
        if before.kind == "name" or _person_noun(before.word):
            return False  # "a man and Fred", "Wilma, Fred": one list of people
        following = next((token.word for token in tokens[first + 1 :] if not _is_adverb(token.word)), "")
        return word == "," or not _is_finite(following, True)  # "the cart and Fred fell" is a list too
    if any(token.word == "then" for token in tokens[index + 1 : first]):
        return _at(tokens, index).kind != "name"
    if word == ".":
        return _at(tokens, index - 1).word not in _TITLES
    return word in _SUBORDINATORS or word in _ENDERS or _is_form_of(word, _CLAUSE_VERBS)


def _may_end_object(tokens: Sequence[Token], after: int, verb: str) -> bool:
    """Whether an object can end just before token `after`; `verb` governs it ("" after a preposition)."""
    word, following, third = (_at(tokens, after + offset).word for offset in range(3))
    if word == "," and following == "and":
        following, word = third, "and"
    if word in (",", "and"):  # the sentence goes on, and not with another person
        goes_on = word == "," and following in ("as", "but", "so", "when", "while")
        verbal = _is_participle(following) or _is_finite(following, False)
        return goes_on or (verbal and _is_form_of(following, _VERBS | _SINGULAR)) or _is_adverb(following)
    if word in _SUBORDINATORS:
        return word not in ("how", "that", "what", "which", "who", "whom")
    if word in _DETERMINERS:
        return _is_form_of(verb, _GIVING)
    if word in _VERBS:
        return verb != ""
    closes = word in _ENDERS or word in _PREPOSITIONS or word in _PLACES
    return closes or _is_adverb(word) or _is_participle(word)


def _suffixed_role(tokens: Sequence[Token], first: int, after: int) -> int | None:
    """The case for a name with "'s" (or "'", "'d", "'ll") at token `after`: possessive, or subject of "is"."""
    before, suffix, following, third = (_at(tokens, index) for index in (first - 1, after, after + 1, after + 2))
    word = following.word
    if following.kind != "word" or (suffix.word == "'" and suffix.start != tokens[after - 1].end):
        return None
    governors = _PREPOSITIONS | _PLACES | _VERBS | _SINGULAR | _PLURAL | {"of", "over"}
    if _is_form_of(before.word, governors):
        owned = word not in _FUNCTION_WORDS or word in ("back", "inside", "outside")
        return _POSSESSIVE if owned and suffix.word in ("'s", "'") else None
    if not _opens_subject(tokens, first):
        return None
    closed = third.kind == "mark" or third.word in _FUNCTION_WORDS  # "Fred's walking in", not "Fred's walking stick"
    short_for_is = word in _AFTER_IS or (_is_participle(word) and closed)
    if suffix.word in ("'d", "'ll") or (suffix.word == "'s" and short_for_is):
        return _SUBJECT
    unclear = word in _FUNCTION_WORDS or word in _PAST or _is_adverb(word) or word.endswith(("ed", "ing"))
    sloppy = word.endswith("s") and word not in ("hands", "faces") and _is_form_of(word, _VERBS)  # "Fred's talks to"
    listed = before.word in ("and", "or", ",")
    return None if unclear or sloppy or listed else _POSSESSIVE


def _role(tokens: Sequence[Token], first: int, last: int, key: str) -> int | None:
    """The case a pronoun for the names in tokens first..last would take, or None where no rule is sure of it.

    With `key` "they" a verb must be plural; a single name in front of it must agree too.
    """
    several = last > first
    before, after = _at(tokens, first - 1).word, last + 1
    if _at(tokens, after).word in ("'s", "'", "'d", "'ll"):
        role = _suffixed_role(tokens, first, after)
        return None if role == _SUBJECT and key == "they" else role
    both = several and _at(tokens, after).word == "both"  # "Fred and Barney both look" -> "They both look"
    verb = after + both
    while _is_adverb(_at(tokens, verb).word):
        verb += 1
    agrees = all(_is_finite(_at(tokens, verb).word, plural) for plural in {several, key == "they"})
    if agrees and _opens_subject(tokens, first):
        return _SUBJECT
    if _is_finite(_at(tokens, after).word, several):
        return None
    governed = before in _PREPOSITIONS or (before == "of" and _at(tokens, first - 2).word in _OF)
    if governed and _may_end_object(tokens, after + both, ""):
        return _OBJECT
    return _OBJECT if _is_form_of(before, _TRANSITIVE) and _may_end_object(tokens, after + both, before) else None


def _quoted(caption: str, position: int) -> bool:
    """Whether a position is inside quotation marks, or after a single one that may open a quotation."""
    before = caption[:position]
    opened = before.count('"') % 2 or before.count("“") > before.count("”") or before.count("«") > before.count("»")
    return bool(opened) or re.search(r"(^|[\s(])['‘](\w|$)", before) is not None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A run of names: the characters, their pronoun set, and the case a pronoun would take (None: unsure)."""

    names: tuple[str, ...]
    start: int
    end: int
    clause: int
    key: str
    role: int | None


def _candidates(tokens: Sequence[Token], keys: Mapping[str, str]) -> Iterator[_Candidate]:
    # A clause ends at a full stop and before "while", "as", ...
    clauses = list(accumulate(token.word in _ENDERS or token.word in _SUBORDINATORS for token in tokens))
    for first, last in _groups(tokens):
        names = tuple(token.text for token in tokens[first : last + 1] if token.kind == "name")
        key = "they" if last > first else keys[names[0]]
        role = _role(tokens, first, last, key)
        if last > first and not _is_conjunction(tokens, first, last):
            role = None
        end = tokens[last + (role == _POSSESSIVE)].end  # the "'s" goes with the name
        yield _Candidate(names, tokens[first].start, end, clauses[first], key, role)


def _grammatical_edits(caption: str, tokens: Sequence[Token], keys: Mapping[str, str]) -> list[Edit]:
    """Replacements in one caption; `keys` has everybody in the antecedent set, with pronoun keys."""
    candidates = list(_candidates(tokens, keys))
    rivals = Counter(keys.values())
    # "He talks to Fred": the pronouns already there, by where the first of each set stands.
    heads = [(token.word.split("'")[0], token.start) for token in reversed(tokens)]  # "he's" is a "he"
    taken = {_PRONOUN_WORDS[word]: start for word, start in heads if word in _PRONOUN_WORDS}
    # "Fred looks at Fred": named twice in one clause, and not always as its subject.
    named = Counter((c.clause, name) for c in candidates if c.role != _POSSESSIVE for name in c.names)
    unsure = {(c.clause, name) for c in candidates if c.role in (_OBJECT, None) for name in c.names}
    first_start = {token.text: token.start for token in reversed(tokens) if token.kind == "name"}
    edits = []
    for c in candidates:
        if c.role is None or _quoted(caption, c.start):
            continue
        if c.key == "they":
            unambiguous = sorted(c.names) == sorted(keys)
        elif c.key == "it" and not (c.role == _SUBJECT and _starts_sentence(caption, c.start)):
            unambiguous = False  # anything named before could be "it"
        else:
            unambiguous = rivals[c.key] == 1 and not rivals["any"]
        twice = any(named[c.clause, name] > 1 and (c.clause, name) in unsure for name in c.names)
        taken_before = taken.get(c.key, c.start) < min(first_start[name] for name in c.names)
        if unambiguous and not twice and not taken_before:
            edits.append(Edit(c.start, c.end, _pronoun(caption, c.start, _FORMS[c.key][c.role])))
    return edits


def _grammatical(
    captions: Sequence[str], characters: Sequence[Sequence[str]], cast: Sequence[Character]
) -> Iterator[list[Edit]]:
    """Algorithm 1's antecedents, with everybody a caption speaks of, and only replacements that read as English."""
    pronouns: dict[str, str] = {c.name: c.pronouns for c in reversed(cast)}
    carried: dict[str, str] = {}
    for caption, labels in zip(captions, characters, strict=True):
        tokens = _tokens(caption, cast)
        present = _strangers(caption, tokens)
        present |= {label: pronouns.get(label) or _label_key(label) for label in _canonical(labels, cast)}
        present |= {token.text: pronouns[token.text] for token in tokens if token.kind == "name"}
        if present.keys() <= carried.keys():
            yield _grammatical_edits(caption, tokens, carried)
        else:
            carried = present
            yield []


# A policy is one function from a story to the edits of each caption.
_POLICIES: dict[str, Policy] = {"algorithm1": _algorithm1, "grammatical": _grammatical}
POLICIES: tuple[str, ...] = tuple(_POLICIES)

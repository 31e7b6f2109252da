"""Referential text: names that repeat from frame to frame become pronouns, and can be put back.

A policy decides which stretches of a caption are replaced; everything else (spans, mentions, restoring the names)
is the same for all of them. `algorithm1` is Algorithm 1 of the StoryGPT-V paper, literally. `grammatical` takes the
same decision about antecedents and then writes English: the right case, agreement left intact, and the name kept
wherever a reader could take the pronoun for somebody else. It knows word lists, not grammar, so a position that no
rule recognises keeps its name. English only. Standard library only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
        row = mention.as_row() if isinstance(mention, Mention) else mention
        span, start, end = (row["ref_start"], row["ref_end"]), row["start"], row["end"]
        first, last = hulls.get(span, (start, end))
        hulls[span] = min(first, start), max(last, end)
    parts, done = [], 0
    for (ref_start, ref_end), (start, end) in sorted(hulls.items()):
        parts += [text[done:ref_start], caption[start:end]]
        done = ref_end
    return "".join(parts) + text[done:]


def _apply(caption: str, names: Sequence[tuple[str, int, int]], edits: Sequence[Edit]) -> Rewritten:
    parts, done, length = [], 0, 0
    mentions = []
    rest = list(names)
    for edit in [*edits, Edit(len(caption), len(caption), "")]:
        shift = length - done
        while rest and rest[0][1] < edit.start:
            name, start, end = rest.pop(0)
            mentions.append(Mention(name, start, end, start + shift, end + shift))
        ref = edit.start + shift
        inside = [entry for entry in rest if entry[1] < edit.end]
        rest = rest[len(inside) :]
        for position, (name, start, end) in enumerate(inside, start=1):
            end = edit.end if position == len(inside) else end  # the last one takes the "'s" along
            mentions.append(Mention(name, start, end, ref, ref + len(edit.text)))
        parts += [caption[done : edit.start], edit.text]
        length, done = ref + len(edit.text), edit.end
    return Rewritten("".join(parts), tuple(mentions))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- names ---------------------------------------------------------------------------------------------------

_TITLES = _words("mr mrs ms dr st")  # their dot ends no sentence
_IN_WORD = r"\w\u0300-\u036f"  # combining accents belong to the letter before them


def _spelling(name: str) -> str:
    """A pattern for one name: any run of blanks between its words, an optional dot after a title."""
    words = name.split()
    titled = [
        re.escape(word.rstrip(".")) + r"\.?" if word.lower().rstrip(".") in _TITLES else re.escape(word)
        for word in words
    ]
    return r"\s+".join(titled)


def find_mentions(caption: str, cast: Sequence[Character]) -> list[tuple[str, int, int]]:
    """Cast names in a caption, in order, as (canonical name, start, end); half-open character offsets.

    Names and aliases match as whole words without regard to case, the longest first; never inside a longer or a
    hyphenated word.
    """
    spellings = {alias: c.name for c in reversed(cast) for alias in (*c.aliases, c.name) if alias.strip()}
    ordered = sorted(spellings, key=len, reverse=True)
    if not ordered:
        return []
    options = "|".join(f"({_spelling(name)})" for name in ordered)
    pattern = rf"(?<![{_IN_WORD}])(?<![{_IN_WORD}][-'’‑])(?:{options})(?![{_IN_WORD}])(?![-‑]\w)"
    found = re.finditer(pattern, caption, re.IGNORECASE)
    return [(spellings[ordered[(m.lastindex or 1) - 1]], m.start(), m.end()) for m in found]


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
            after_name = tokens and tokens[-1].kind == "name" and tokens[-1].end == match.start()
            if text == "'" and after_name and tokens[-1].text.endswith("s"):
                text = "'s"  # "Pebbles' hat"
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
_PRONOUN_WORDS = {form: key for key, forms in _FORMS.items() for form in (*forms, forms[1] + "self", forms[2] + "s")}

# People and animals without a name, by the pronoun that would point at them; "any": it could be he, she or it.
_PERSON_NOUNS = {
    "he": """man boy guy gentleman king prince father dad daddy grandfather grandpa uncle brother son husband waiter
        cowboy bellboy groom nephew wizard butler""",
    "she": """woman girl lady queen princess mother mom mum mommy mama grandmother grandma granny aunt sister daughter
        wife waitress actress bride niece witch maid hostess""",
    "any": """person someone somebody anyone anybody everyone everybody officer police cop worker driver doctor nurse
        manager boss clerk receptionist announcer performer reader speaker wrestler player passenger teacher student
        friend neighbor neighbour child kid baby toddler infant character figure guard soldier pilot captain chef cook
        judge reporter actor singer dancer host guest owner customer stranger thief robber criminal detective sheriff
        lawyer artist painter musician pianist scientist professor farmer hunter barber butcher baker tailor dentist
        patient coach referee boxer opponent winner member martian alien monster creature animal robot ghost giant dog
        cat kitten puppy bird chicken hen duck goose parrot owl eagle dinosaur elephant cow bull buffalo horse donkey
        goat sheep lamb pig rabbit hare mouse rat fox wolf bear lion tiger leopard monkey ape gorilla snake crocodile
        alligator lizard turtle tortoise frog fish whale shark kangaroo giraffe zebra hippo rhino hyena squirrel
        mammoth octopus lobster crab bee ant spider pet couple pair
        cashier secretary operator janitor model lifeguard attendant assistant bartender gangster crook pirate""",
    "they": "people men women children crowd audience group gang family band team others mice geese kids",
}
_PEOPLE = {noun: key for key, nouns in _PERSON_NOUNS.items() for noun in nouns.split()}
# Off-screen partners ("talks to someone") are nobody's antecedent unless they act.
_BACKGROUND = _words("person someone somebody anyone anybody everyone everybody")

# Verbs whose object may follow at once; any form counts. With them a bare form after the name stays ("sees Fred walk").
_TRANSITIVE = _words(
    """answer approach ask bite bring call carry catch chase comfort feed find follow give grab greet hand hear help hit
    hold hug interrupt join kick kiss knock leave let lift like love make meet pass pat poke pull punch push see serve
    shake show shove slap startle stop surprise teach tell thank throw tickle touch visit wake watch
    bit brought called caught fed found gave held heard left loved made met saw showed shook taught told threw woke"""
)
_INTRANSITIVE = _words(
    """act agree appear argue arrive bathe begin blink bounce bow breathe burst buy celebrate chat check clap clean climb
    close come continue converse cook cough cry cut dance dive do dress drink drive drop eat enjoy enter exit explain
    face fall fight finish fish float fly frown gesture get glance go grin have hang hide hop hurry jump keep kneel
    laugh lay lean learn lie listen live look lose move need nod open pace paddle pick plan play point prepare press
    pretend put raise reach react read relax remain reply respond rest ride ring rise roll rub run rush say scream seem
    sell set share shout shrug sing sit sleep smile smoke sneak speak spin stand stare start stay step swim swing take
    talk tap think travel try turn type use wait walk want wash wave wear whisper wink wipe work write yawn yell"""
)
_VERBS = _TRANSITIVE | _INTRANSITIVE
_PAST = _words(  # irregular; like "talked" and the modals they agree with every pronoun
    """ate began brought came caught did drank drove fed fell felt flew found gave got grew had heard held hid knew left
    lost made met put ran rang rode said sang sat saw slept spoke stood swam taught thought threw told took went woke
    wore wrote can could cannot can't couldn't didn't may might must shall should will won't would wouldn't"""
)
_SINGULAR = _words("is was has does isn't wasn't hasn't doesn't")
_PLURAL = _words("are were have do aren't weren't haven't don't")
# End in "s" without being verbs.
_NOT_VERBS = _words(
    """across afterwards always as backwards besides downstairs downwards forwards his indoors inwards its less
    onwards ours outdoors outwards perhaps plus sideways sometimes themselves this thus towards unless upstairs upwards us
    versus whereas yes hers theirs"""
)
_ADVERBS = _words("then also just now still again always never soon finally first sometimes suddenly")
_NOT_ADVERBS = _words("family belly fly jelly lily bully curly lovely friendly lonely elderly only early")
_SUBORDINATORS = _words(
    """after although as because before but how if once since so that though until what when where whether which while
    who whom why"""
)
_CLAUSE_VERBS = _words("say think know see believe notice hear feel hope said thought knew saw heard felt")
_PREPOSITIONS = _words(
    """about above across after against alongside around at before behind below beneath beside besides between by facing
    for from in inside into like near on onto past through to toward towards under underneath with without"""
)
# "in front of him", but "the face of Fred".
_BEFORE_OF = _words("afraid ahead because front instead left out picture pictures right side top")
_PLACES = frozenset(
    "again angrily away back down here indoors inside off out outdoors outside there together too up".split()
)
_DETERMINERS = _words("a an the his her its their some something another")
_GIVING = _words("ask bring give hand show teach tell throw gave brought showed taught threw told")
# What follows "Fred's" when it is short for "Fred is" or "Fred has".
_AFTER_CONTRACTION = _DETERMINERS | _ADVERBS | _PREPOSITIONS | _words("not been being got gone very so here there")
# End in "ing" but name things: after "Fred's" they are owned.
_THINGS = _words(
    """building bowling ceiling clothing dining drawing earring evening fishing king living meeting morning painting
    ring sibling string thing wedding wing writing"""
)
# Function words that may stand capitalised without being anybody's name.
_FUNCTION_WORDS = (
    _ADVERBS | _SUBORDINATORS | _PREPOSITIONS | _PLACES | _DETERMINERS | frozenset(_PRONOUN_WORDS) | _SINGULAR | _PLURAL
    | _words("""i you we my your our and or not no yes of it's there's both all each every one two three someone
        everything nothing these those this tv""")
)  # fmt: skip


def _bases(word: str) -> set[str]:
    """Forms a verb may have in the lists above: "hugging" -> {"hugging", "hugg", "hugge", "hug"}."""
    found = {word}
    for ending, stem in (
        ("s", ""),
        ("es", ""),
        ("ies", "y"),
        ("ed", ""),
        ("ed", "e"),
        ("ied", "y"),
        ("ing", ""),
        ("ing", "e"),
    ):
        if word.endswith(ending):
            found.add(base := word[: -len(ending)] + stem)
            if base[-1:] == base[-2:-1]:
                found.add(base[:-1])
    return found


def _is_adverb(word: str) -> bool:
    return word in _ADVERBS or (word.endswith("ly") and word not in _NOT_ADVERBS)


def _is_finite(word: str, plural: bool) -> bool:
    """Whether the word is a verb that agrees with "they" (plural) or with "he"."""
    if word in _PAST or (word.endswith("ed") and not _VERBS.isdisjoint(_bases(word))):
        return True
    if plural:
        return word in _PLURAL or word in _VERBS
    return word in _SINGULAR or (
        len(word) > 2 and word[-1] == "s" and word[-2] not in "su'" and word not in _NOT_VERBS
    )


def _is_ing(word: str) -> bool:
    return len(word) > 4 and word.endswith("ing") and word not in _THINGS


def _noun(word: str) -> str | None:
    """The pronoun key of a person noun, or None."""
    word = word.split("'")[0]
    if word in _PEOPLE:
        return _PEOPLE[word]
    if word.endswith("man"):
        return "she" if word.endswith("woman") else "he"
    if word.endswith("men") or not _PEOPLE.keys().isdisjoint(_bases(word)):
        return "they"
    return None


def _label_key(label: str) -> str:
    """The pronoun key of a label outside the cast: "man in blue hat" -> "he"; "any" when unknown or mixed."""
    keys = {key for word in re.findall(r"[\w']+", label) if (key := _noun(word))}
    return keys.pop() if len(keys) == 1 else "any"


def _strangers(caption: str, tokens: Sequence[Token]) -> dict[str, str]:
    """People a caption speaks of without a cast name: person nouns and unknown capitalised names, with pronoun keys."""
    found = {}
    for index, token in enumerate(tokens):
        if token.kind != "word":
            continue
        if (key := _noun(token.text)) is not None:
            if token.text not in _BACKGROUND or _at(tokens, index - 1).word not in _PREPOSITIONS:
                found[token.text] = key
        elif caption[token.start].isupper() and token.text not in _FUNCTION_WORDS and not _is_adverb(token.text):
            following = _at(tokens, index + 1).word
            acts = following == "and" or _is_finite(following, False) or _is_finite(following, True)
            if acts or not _starts_sentence(caption, token.start):
                found[token.text] = "any"
    return found


def _opens_subject(tokens: Sequence[Token], first: int) -> bool:
    """Whether a subject can start at token `first`, judged by what stands before it."""
    index = first - 1
    while _is_adverb(_at(tokens, index).word):
        index -= 1
    token = _at(tokens, index)
    if token.word in ("and", "or", ","):
        index -= 2 if token.word != "," and _at(tokens, index - 1).word == "," else 1
        before = _at(tokens, index)  # "a man and Fred", "Wilma, Fred": one list of people
        if before.kind == "name" or _noun(before.word) is not None:
            return False
        following = next((t.word for t in tokens[first + 1 :] if not _is_adverb(t.word)), "")
        return token.word == "," or not _is_finite(following, True)  # "the cart and Fred fell"
    if any(t.word == "then" for t in tokens[index + 1 : first]):
        return token.kind != "name"
    return (
        token.word in _SUBORDINATORS or token.word in (*".!?…;",) or not _CLAUSE_VERBS.isdisjoint(_bases(token.word))
    )


def _may_end_object(tokens: Sequence[Token], after: int, verb: str) -> bool:
    """Whether an object can end just before token `after`; `verb` governs it ("" after a preposition)."""
    token, following = _at(tokens, after), _at(tokens, after + 1)
    word = token.word
    continues = _is_ing(following.word) or _is_finite(following.word, False) or _is_adverb(following.word)
    if word == ",":
        after_and = following.word == "and" and _is_finite(_at(tokens, after + 2).word, False)
        return continues or after_and or following.word in ("while", "as", "but", "so", "when")
    if word == "and":
        return continues
    if word in _SUBORDINATORS:
        return word not in ("who", "whom", "which", "that", "what", "how")
    return (
        token.kind == "mark" and word in (*".!?…;",)
        or word in _PREPOSITIONS
        or word in _PLACES
        or _is_adverb(word)
        or _is_ing(word)
        or (verb != "" and word in _VERBS)
        or (not _GIVING.isdisjoint(_bases(verb)) and word in _DETERMINERS)
    )  # fmt: skip


def _role(tokens: Sequence[Token], first: int, last: int, key: str, plural: bool) -> int | None:
    """The case a pronoun for tokens first..last would take, or None where no rule is sure of it.

    Args:
        tokens: of the caption.
        first: index of the first name.
        last: index of the last name.
        key: pronoun set.
        plural: whether several people are named (a singular "they" must not take "walks").
    """
    before, after = _at(tokens, first - 1), last + 1
    suffix = _at(tokens, after).word
    if suffix in ("'s", "'d", "'ll"):
        following = _at(tokens, after + 1)
        if following.kind != "word":
            return None
        opens = _opens_subject(tokens, first)
        if suffix != "'s" or following.text in _AFTER_CONTRACTION or _is_ing(following.text):
            return _SUBJECT if opens and not plural and key != "they" else None
        governs = before.word in _PREPOSITIONS or not (_VERBS | {"over", "of"}).isdisjoint(_bases(before.word))
        opens = opens and before.word not in ("and", "or", ",")
        doubtful = following.text in _FUNCTION_WORDS or _is_adverb(following.text) or following.text.endswith("ed")
        verbal = not _VERBS.isdisjoint(_bases(following.text))
        return _POSSESSIVE if (opens or governs) and not doubtful and not verbal else None
    subject_verb = after
    while _is_adverb(_at(tokens, subject_verb).word) or (plural and _at(tokens, subject_verb).word == "both"):
        subject_verb += 1
    verb = _at(tokens, subject_verb).word
    if (
        _opens_subject(tokens, first)
        and _is_finite(verb, key == "they")
        and (key != "they" or plural or _is_finite(verb, False))
    ):
        return _SUBJECT
    if _is_finite(suffix, plural) and (plural or suffix not in _VERBS):
        return None
    if plural and suffix == "both":
        after += 1
    if before.word == "of":
        governed = _at(tokens, first - 2).word in _BEFORE_OF
    else:
        governed = before.word in _PREPOSITIONS
    if governed and _may_end_object(tokens, after, ""):
        return _OBJECT
    if not _TRANSITIVE.isdisjoint(_bases(before.word)) and _may_end_object(tokens, after, before.word):
        return _OBJECT
    return None


def _clauses(tokens: Sequence[Token]) -> list[int]:
    """The number of the clause each token is in; a clause ends at a full stop and before "while", "as", ..."""
    number, numbers = 0, []
    for token in tokens:
        number += token.word in (*".!?…;",) or token.word in _SUBORDINATORS
        numbers.append(number)
    return numbers


def _quoted(caption: str, position: int) -> bool:
    """Whether a position is inside quotation marks, or after a single one that may open a quotation."""
    before = caption[:position]
    return (
        before.count('"') % 2 == 1
        or before.count("“") > before.count("”")
        or bool(re.search(r"(^|\s)['‘]\w?", before))
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A run of names: the characters, their pronoun set, and the case a pronoun would take (None: unsure)."""

    names: tuple[str, ...]
    start: int
    end: int
    clause: int
    key: str
    role: int | None
    wellformed: bool


def _candidates(tokens: Sequence[Token], keys: Mapping[str, str]) -> Iterator[_Candidate]:
    clauses = _clauses(tokens)
    for first, last in _groups(tokens):
        names = tuple(token.text for token in tokens[first : last + 1] if token.kind == "name")
        plural = len(names) > 1
        key = "they" if plural else keys[names[0]]
        role = _role(tokens, first, last, key, plural)
        suffixed = role == _POSSESSIVE  # the "'s" goes with the name
        wellformed = not plural or _is_conjunction(tokens, first, last)
        end = tokens[last + suffixed].end
        yield _Candidate(names, tokens[first].start, end, clauses[first], key, role, wellformed)


def _grammatical_edits(caption: str, tokens: Sequence[Token], keys: Mapping[str, str]) -> list[Edit]:
    """Replacements in one caption; `keys` has everybody in the antecedent set, with pronoun keys."""
    candidates = list(_candidates(tokens, keys))
    rivals = Counter(keys.values())
    # "He talks to Fred": the pronouns already there, by where the first of each set stands.
    taken = {_PRONOUN_WORDS[t.word]: t.start for t in reversed(tokens) if t.word in _PRONOUN_WORDS}
    # "Fred looks at Fred": named twice in one clause, and not always as its subject.
    named = Counter((c.clause, name) for c in candidates if c.role != _POSSESSIVE for name in c.names)
    unsure = {(c.clause, name) for c in candidates if c.role in (_OBJECT, None) for name in c.names}
    first_start: dict[tuple[str, ...], int] = {}
    edits = []
    for c in candidates:
        first_start.setdefault(c.names, c.start)
        if c.role is None or not c.wellformed or _quoted(caption, c.start):
            continue
        if c.key == "they":
            unambiguous = sorted(c.names) == sorted(keys)
        else:
            unambiguous = rivals[c.key] == 1 and not rivals["any"]
        if c.key == "it" and not (c.role == _SUBJECT and _starts_sentence(caption, c.start)):
            unambiguous = False  # anything named before it could be "it"
        twice = any(named[c.clause, name] > 1 and (c.clause, name) in unsure for name in c.names)
        if unambiguous and not twice and taken.get(c.key, c.start) >= first_start[c.names]:
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

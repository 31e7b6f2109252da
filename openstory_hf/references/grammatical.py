"""Policy `grammatical`: Algorithm 1's decision about antecedents, written as English.

The right case, agreement left intact, and the name kept wherever a reader could take the pronoun for somebody else. It
knows word lists, not grammar, so a position that no rule recognises keeps its name: precision before recall. Verbs are
never touched, hence a singular "they" only stands where the verb agrees with both ("walked"). The rules are for
English.

A frame is rewritten when everybody it speaks of, cast or not, was already there in the frame that holds the
antecedents; otherwise it becomes that frame itself. Somebody whom a new frame only calls "he" stays an antecedent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from openstory_hf.info import Character
from openstory_hf.references.text import (
    TITLES,
    Decision,
    Edit,
    Token,
    canonical_labels,
    cased,
    is_conjunction,
    name_groups,
    starts_sentence,
    token_at,
    tokenize,
    words,
)

_FORMS = {  # nominative, objective, possessive
    "he": ("he", "him", "his"),
    "she": ("she", "her", "her"),
    "it": ("it", "it", "its"),
    "they": ("they", "them", "their", "of them"),  # "both Fred and Wilma" -> "both of them"
}
_SUBJECT, _OBJECT, _POSSESSIVE, _AFTER_BOTH = range(4)
_ROLES = ("subject", "object", "possessive", 'list after "both"')
_PRONOUN_WORDS = {form: key for key, forms in _FORMS.items() for form in (*forms, forms[1] + "self")}
_PRONOUN_WORDS |= {"themselves": "they", "hers": "she", "theirs": "they"}

# People and animals without a name, by the pronoun that would point at them; "any": it could be he, she or it.
_PERSON_NOUNS = {
    "he": """brother butler dad daddy father gentleman grandfather grandpa groom guy husband king
        male nephew prince son uncle waiter wizard""",
    "she": """actress aunt bride daughter female grandma grandmother granny hostess lady maid mama mom mommy
        mother mum niece princess queen sister stewardess waitress wife witch""",
    "any": """accountant actor admiral alien alligator animal announcer anybody anyone ape artist assistant attendant
        baby baker barber bartender batter bear beautician bird boss boxer buffalo bull butcher captain cashier cat
        character chef chicken child clerk conductor cop cow creature criminal crocodile crook customer dancer dentist
        detective dinosaur director doctor dog donkey dragon driver elephant everybody everyone farmer fox friend frog
        gangster general ghost giant giraffe goat goose gorilla guard guest hare hen hippo horse host human hunter
        hyena infant janitor journalist judge kangaroo kid kitten lamb lawyer leopard lifeguard lion lizard lobster
        mammoth manager martian member monkey monster mouse musician neighbor neighbour newsreader nurse octopus
        officer operator opponent owl owner painter parrot passenger patient performer person pet photographer pianist
        pig pilot pirate pitcher player police professor puppy rabbit rat reader receptionist referee reporter rhino
        robber robot scientist secretary shark sheep sheriff shopkeeper singer snake soldier somebody someone speaker
        spider squirrel stranger student tailor teacher thief tiger toddler tortoise turtle whale winner wolf worker
        wrestler writer zebra""",
    "they": "audience band children crowd family folks gang geese group men mice others people team women",
}
_PEOPLE = {noun: key for key, nouns in _PERSON_NOUNS.items() for noun in nouns.split()}
# Partners off screen ("talks to someone") are nobody's antecedent unless they act.
_BACKGROUND = words("anybody anyone everybody everyone person somebody someone")

# Verbs that take a person as object; any form counts. A bare form may follow the object ("sees Fred walk").
_TRANSITIVE = words(
    """answer approach ask bite bring call carry catch chase comfort feed find follow give grab greet hand hear help
    hit hold hug interrupt join kick kiss knock leave let lift like love make meet pass pat poke pull punch push rock
    see serve shake show shove slap startle stop surprise teach tell thank throw tickle touch visit wake watch
    bit brought called caught fed found gave held heard loved made met saw showed shook taught told threw woke"""
)
_VERBS = _TRANSITIVE | words(
    """act agree appear argue arrive bathe begin blink bounce bow breathe burst buy celebrate chat check clap clean
    climb close come continue converse cook cough cry cut dance dive do drink drive drop eat enjoy enter exit
    explain face fall fight finish fish float fly frown gesture get glance go grin hang have hide hop hurry jump keep
    kneel laugh lay lean learn lie listen live look lose move need nod open pace paddle pick plan play point prepare
    press pretend put raise reach react read relax remain reply respond rest ride ring rise roll rub run rush say
    scream seem sell set share shout shrug sing sit sleep smile smoke sneak speak spin stand stare start stay step
    swim swing take talk tap think travel try turn type use wait walk want wash wave wear whisper wink wipe work write
    yawn yell"""
)
_PAST = words(  # irregular; like "talked" and the modals they agree with every pronoun
    """ate began brought came caught did drank drove fed fell felt flew found gave got grew had heard held hid knew
    left lost made met put ran rang rode said sang sat saw slept spoke stood swam taught thought threw told took went
    woke wore wrote can can't cannot could couldn't didn't may might must shall should will won't would wouldn't"""
)
_SINGULAR = words("doesn't does has hasn't is isn't was wasn't")
_PLURAL = words("are aren't do don't have haven't were weren't")
_CLAUSE_VERBS = words("believe feel felt hear heard hope knew know notice said saw say see think thought")
_GIVING = words("ask bring brought gave give hand show showed taught teach tell threw throw told")
_NOT_VERBS = words(  # in spite of their "s"
    """across afterwards always arms as backwards besides boots clothes downstairs downwards eyes feet fingers
    forwards friends glasses gloves hats hers his indoors inwards its legs less lips onwards ours outdoors outwards
    pajamas pants parents perhaps plus shoes shorts sideways sometimes teeth theirs this thus towards trousers unless
    upstairs upwards versus whereas words yes"""
)
_NOT_PARTICIPLES = words(  # in spite of their "ing"
    """building bowling ceiling clothing dining drawing earring evening fishing king living meeting morning painting
    ring sibling string thing wedding wing writing"""
)
_ADVERBS = words("again also always finally first just never now soon sometimes still suddenly then")
_NOT_ADVERBS = words("belly bully curly early elderly family fly friendly jelly lily lonely lovely only")
_PLACES = words("away back down here indoors inside off out outdoors outside there together too up")
_DETERMINERS = words("a an another her his its some something the their")
_SUBORDINATORS = words(
    """after although as because before but how if once since so that though until what when where whether which while
    who whom why"""
)
_PREPOSITIONS = words(
    """about above across after against alongside around at before behind below beneath beside besides between by
    facing for from in inside into like near on onto past through to toward towards under underneath with without"""
)
_PLACE_NOUNS = words(  # they can end an opening without a comma: "In the room Fred talks"
    """background backyard bathroom bed bedroom building car cave chair city classroom corner couch desert desk
    doorway field foreground forest front garage garden hall hallway hospital house jungle kitchen lawn living lobby
    office park pool porch restaurant road room school scene shop sofa stage store street table tent town tree yard
    zoo"""
)
_OF = words("afraid ahead because front instead left out picture pictures right side top")  # not "the face of him"
_ENDERS = frozenset(".!?…;")
# What follows "Fred's" when that is short for "Fred is" or "Fred has".
_AFTER_IS = words(
    "a also always an at been being from going gone got her here his in just not now on so still the there very with"
)
_FUNCTION_WORDS = (  # may stand capitalised without being anybody's name
    frozenset(_PRONOUN_WORDS).union(_ADVERBS, _PLACES, _DETERMINERS, _SUBORDINATORS, _PREPOSITIONS, _SINGULAR, _PLURAL)
    | words("all and both each every everything i it's my no not nothing of one or our that's these those tv we you")
    | words("dust fire fog food hail light lightning lava mud music rain smoke snow steam thunder water wind")
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


def _is_noun(tokens: Sequence[Token], index: int) -> bool:
    """Whether a word in "s" is no verb because the verb follows: "Fred glasses are red", "Fred hands look red"."""
    word, following = tokens[index].word, token_at(tokens, index + 1).word
    if word in _SINGULAR or not word.endswith("s"):
        return False
    is_known = word not in ("faces", "hands") and _is_form_of(word, _VERBS)
    return following in _SINGULAR or following in _PLURAL or (not is_known and _is_finite(following, True))


@lru_cache(maxsize=8192)
def _person_noun(word: str) -> str | None:
    """The pronoun key of a person noun, or None."""
    if word in _PEOPLE:
        return _PEOPLE[word]
    if word.endswith(("man", "boy", "woman", "girl")):
        return "she" if word.endswith(("woman", "girl")) else "he"
    plural = word.endswith(("men", "boys", "girls")) or not _PEOPLE.keys().isdisjoint(_bases(word, "s es ves:f"))
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
            if word not in _BACKGROUND or token_at(tokens, index - 1).word not in _PREPOSITIONS:
                found[word] = key
        elif caption[token.start].isupper() and word and token.word not in _FUNCTION_WORDS and not _is_adverb(word):
            following = token_at(tokens, index + 1).word
            acts = following == "and" or _is_finite(following, False) or _is_finite(following, True)
            if acts or not starts_sentence(caption, token.start):
                found[word] = "any"
    return found


@lru_cache(maxsize=4096)
def _parsed(caption: str, cast: tuple[Character, ...]) -> tuple[list[Token], dict[str, str]]:
    """The tokens of a caption and its strangers; kept, as the windows over a sequence share their captions."""
    tokens = tokenize(caption, cast)
    return tokens, _strangers(caption, tokens)


def _opens_subject(tokens: Sequence[Token], first: int) -> bool:
    """Whether a subject can start at token `first`, judged by what stands before it."""
    index = first - 1
    while _is_adverb(token_at(tokens, index).word):
        index -= 1
    word = token_at(tokens, index).word
    if word in ("and", "or", ","):
        before = token_at(tokens, index - 1)
        if word != "," and before.word == ",":
            before = token_at(tokens, index - 2)
        if before.kind == "name" or _person_noun(before.word):
            return False  # "a man and Fred", "Wilma, Fred": one list of people
        following = next((token.word for token in tokens[first + 1 :] if not _is_adverb(token.word)), "")
        return word == "," or not _is_finite(following, True)  # "the cart and Fred fell" is a list too
    if any(token.word == "then" for token in tokens[index + 1 : first]):
        return token_at(tokens, index).kind != "name"
    if word == ".":
        return token_at(tokens, index - 1).word not in TITLES
    if word in _PLACE_NOUNS and _ends_opening(tokens, index):
        return True
    return word in _SUBORDINATORS or word in _ENDERS or _is_form_of(word, _CLAUSE_VERBS)


def _ends_opening(tokens: Sequence[Token], last: int) -> bool:
    """Whether the words up to token `last` are a place that opens a sentence, of at most five words: "In the room"."""
    first = last
    while token_at(tokens, first - 1).kind == "word":
        first -= 1
    opens = token_at(tokens, first - 1).word in _ENDERS and tokens[first].word in _PREPOSITIONS
    return opens and 2 <= last - first < 5 and tokens[first + 1].word in _DETERMINERS


def _may_end_object(tokens: Sequence[Token], after: int, verb: str) -> bool:
    """Whether an object can end just before token `after`; `verb` governs it ("" after a preposition)."""
    word, following, third = (token_at(tokens, after + offset).word for offset in range(3))
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
    before, suffix, following, third = (token_at(tokens, index) for index in (first - 1, after, after + 1, after + 2))
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
    return None if unclear or sloppy or listed or not _has_verb(tokens, after + 2) else _POSSESSIVE


def _has_verb(tokens: Sequence[Token], first: int) -> bool:
    """Whether a verb follows what began before token `first`, as in "Fred's old car stops", not in "Fred's sick"."""
    while token_at(tokens, first).kind == "word":
        word = tokens[first].word
        if _is_finite(word, True) or _is_finite(word, False):
            return True
        if word in _FUNCTION_WORDS:
            return False
        first += 1
    return False


def _role(tokens: Sequence[Token], first: int, last: int, key: str) -> int | None:
    """The case a pronoun for the names in tokens first..last would take, or None where no rule is sure of it.

    With `key` "they" a verb must be plural; a single name in front of it must agree too.
    """
    several = last > first
    before, after = token_at(tokens, first - 1).word, last + 1
    if several and not is_conjunction(tokens, first, last):
        return None
    if token_at(tokens, after).word in ("'s", "'", "'d", "'ll"):
        role = _suffixed_role(tokens, first, after)
        return None if role == _SUBJECT and key == "they" else role
    both = several and token_at(tokens, after).word == "both"  # "Fred and Barney both look" -> "They both look"
    verb = after + both
    while _is_adverb(token_at(tokens, verb).word):
        verb += 1
    agrees = all(_is_finite(token_at(tokens, verb).word, plural) for plural in {several, key == "they"})
    if several and before == "both":
        goes_on = last == first + 2 and (agrees or _may_end_object(tokens, after, ""))
        return _AFTER_BOTH if goes_on else None
    if agrees and not _is_noun(tokens, verb) and _opens_subject(tokens, first):
        return _SUBJECT
    if _is_finite(token_at(tokens, after).word, several):
        return None
    governed = before in _PREPOSITIONS or (before == "of" and token_at(tokens, first - 2).word in _OF)
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
    """Tokens first..last, a run of names: the characters, their pronoun set, and its case (None: unsure)."""

    names: tuple[str, ...]
    first: int
    last: int
    start: int
    end: int
    sentence: int
    clause: int
    key: str
    role: int | None


def _candidates(tokens: Sequence[Token], keys: Mapping[str, str]) -> Iterator[_Candidate]:
    # A clause ends at a full stop and before "while", "as", ...
    sentences = list(accumulate(token.word in _ENDERS for token in tokens))
    clauses = list(accumulate(token.word in _ENDERS or token.word in _SUBORDINATORS for token in tokens))
    for first, last in name_groups(tokens):
        names = tuple(token.text for token in tokens[first : last + 1] if token.kind == "name")
        key = "they" if last > first else keys[names[0]]
        role = _role(tokens, first, last, key)
        end = tokens[last + (role == _POSSESSIVE)].end  # the "'s" goes with the name
        start = tokens[first].start
        yield _Candidate(names, first, last, start, end, sentences[first], clauses[first], key, role)


def _rewritten(
    caption: str, tokens: Sequence[Token], keys: Mapping[str, str], recent: Collection[str], about: str
) -> Decision:
    """The decision on a caption.

    `keys` has everybody in the antecedent set, with pronoun keys; `recent` those the frame before speaks of.
    """
    candidates = list(_candidates(tokens, keys))
    # "He talks to Fred": the pronouns already there, by where the first of each set stands.
    heads = [(token.word.split("'")[0], token.start) for token in reversed(tokens)]  # "he's" is a "he"
    taken = {_PRONOUN_WORDS[word]: start for word, start in heads if word in _PRONOUN_WORDS}
    # "Fred looks at Fred": named twice in one clause, and not always as its subject.
    named = Counter((c.clause, name) for c in candidates if c.role != _POSSESSIVE for name in c.names)
    unsure = {(c.clause, name) for c in candidates if c.role in (_OBJECT, None) for name in c.names}
    first_start = {token.text: token.start for token in reversed(tokens) if token.kind == "name"}
    first_thing = next((token.start for token in tokens if token.word in _DETERMINERS), len(caption))

    kept: set[tuple[int, str]] = set()  # names that stay, with their sentence

    def objection(c: _Candidate) -> str:
        """Why the names stay; empty if nothing is against a pronoun."""
        if _quoted(caption, c.start):
            return "it may be quoted speech"
        if c.role is None:
            before, after = (token_at(tokens, index).text for index in (c.first - 1, c.last + 1))
            agrees = c.key != "they" or len(c.names) > 1 or not _is_finite(after, False)
            return f"no rule for this place, {before} _ {after}" if agrees else f'"they" does not agree with "{after}"'
        if c.key == "they":
            if sorted(c.names) != sorted(keys):
                return f'"they" would be everybody: {_people(keys)}'
            if absent := [name for name in c.names if name not in recent]:
                return f'the frame before does not speak of {" and ".join(absent)}, so "they" may be unclear'
        elif c.key == "it" and first_thing < c.start:
            return '"it" could be a thing named before'
        elif rivals := [name for name, key in keys.items() if key in (c.key, "any") and name not in c.names]:
            return f'"{c.key}" could also be {" or ".join(rivals)}'
        if any(named[c.clause, name] > 1 and (c.clause, name) in unsure for name in c.names):
            return "named twice in one clause"
        if taken.get(c.key, c.start) < min(first_start[name] for name in c.names):
            return f'a "{c.key}" of the caption itself comes first'
        if len(c.names) == 1 and (c.sentence, c.names[0]) in kept:  # "He smiles and Fred and Wilma leave"
            return "the name stays later in the sentence, so a pronoun here would be somebody else"
        return ""

    edits, reasons = [], []
    for c in reversed(candidates):
        stays = objection(c)
        text = caption[c.start : c.end]
        if stays or c.role is None:
            kept.update((c.sentence, who) for who in c.names)
            reasons.append(f"{text} stays: {stays}")
        else:
            edits.append(Edit(c.start, c.end, cased(caption, c.start, _FORMS[c.key][c.role])))
            why = "all the antecedents" if c.key == "they" else f'the only "{c.key}" among the antecedents'
            reasons.append(f"{text} -> {edits[-1].text}: {_ROLES[c.role]}; {why}")
    return Decision(edits[::-1], [about, *reversed(reasons)])


def _people(keys: Mapping[str, str]) -> str:
    shown = {"any": "he, she or it"}
    return ", ".join(f"{name} ({shown.get(key, key)})" for name, key in keys.items()) or "nobody"


def _referred_back(tokens: Sequence[Token], keys: Mapping[str, str], carried: Mapping[str, str]) -> dict[str, str]:
    """Those of the antecedents that a caption's own "he", "she" or "they" points at, for want of somebody in it."""
    found: dict[str, str] = {}
    before: list[str] = []  # keys of the people spoken of so far
    for token in tokens:
        word = token.word.split("'")[0]
        key = _PRONOUN_WORDS.get(word, "it")
        if token.kind == "name":
            before.append(keys[token.text])
        elif word in keys:
            before.append(keys[word])
        elif key == "they" and len(before) < 2 and not {"they", "any"} & set(before):
            found |= carried
        elif key in ("he", "she") and not {key, "any"} & set(before):
            found |= {name: pronouns for name, pronouns in carried.items() if pronouns in (key, "any")}
    return found


def grammatical(
    captions: Sequence[str], characters: Sequence[Sequence[str]], cast: Sequence[Character]
) -> Iterator[Decision]:
    """Algorithm 1's antecedents, with everybody a caption speaks of, and only replacements that read as English."""
    cast = tuple(cast)
    pronouns: dict[str, str] = {c.name: c.pronouns for c in reversed(cast)}
    carried: dict[str, str] = {}
    recent: set[str] = set()
    since = 0
    for number, (caption, labels) in enumerate(zip(captions, characters, strict=True), start=1):
        tokens, strangers = _parsed(caption, cast)
        present = {**strangers}
        present |= {label: pronouns.get(label) or _label_key(label) for label in canonical_labels(labels, cast)}
        present |= {token.text: pronouns[token.text] for token in tokens if token.kind == "name"}
        back = _referred_back(tokens, present, carried)
        if present.keys() <= carried.keys():
            about = f"speaks of {_people(present)}; antecedents, of frame {since}: {_people(carried)}"
            yield _rewritten(caption, tokens, carried, recent, about)
        else:
            new = ", ".join(name for name in present if name not in carried)
            carried, since = back | present, number
            about = f"nothing changes; new here: {new}; antecedents from now on: {_people(carried)}"
            yield Decision(reasons=[about])
        recent = {*present, *back}

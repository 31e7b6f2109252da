"""The policies: no caption, label or cast makes one raise, and the original caption always comes back."""

from itertools import pairwise

from openstory_hf.errors import UsageError
from openstory_hf.references import POLICIES, restore, rewrite
from openstory_hf.references.explain import explain, parse_cast

_FLINTSTONES = "fred=he,wilma=she,pebbles=she,mr slate/slate=he,dino=it,may=she"
_PORORO = "pororo=he,loopy=she,crong=he,eddy=he,poby=he,petty=she,tongtong=he,rody=it,harry=he"
_STORY = [
    "fred,wilma|Fred and Wilma are in the kitchen. Fred's hat is red.",
    "fred,wilma|Fred and Wilma's friend talks to Mr. Slate, Pebbles and Dino.",
    'fred|Fred, who may see Fred, says to Fred "Fred!" while Wilma’s hat falls.',
    "fred|May sits. Fred is there and he waves to fred.",
]
_FLOCK = ["|Pororo and Loopy play.", "|Pororo and Loopy play again. Loopy laughs.", "|Loopy laughs.", "|Loopy runs."]
SEEDS = ["\n".join((cast, *story)).encode() for cast in (_FLINTSTONES, _PORORO) for story in (_STORY, _FLOCK)]
_WORDS = """
    fred Fred wilma Wilma Slate Mr. Mr slate Dino Dinosaur May may Pororo Loopy Crong Petty|Policeman and And , &
    . 's ’s ' s' ! ? … " “ ” ( [ * _ - ‑ he she they it his her is are was were has have who while with to of at both
    each other =he =she =it =they / \u0301 \ufeff 🦕 İ ß"""
TOKENS = [*_WORDS.encode().split(), *("\u00a0".encode(), "\u2028".encode(), b"\n", b"|", b"\t", b"  ")]


def one_input(data: bytes) -> None:
    head, *lines = data.decode("utf-8", "replace").split("\n")
    try:
        cast = parse_cast(head)
    except UsageError:
        return
    labels, captions = [], []
    for line in lines:
        before, _, caption = line.partition("|")
        labels.append(before.split(",") if before else [])
        captions.append(caption)
    for policy in POLICIES:
        for caption, entry in zip(captions, rewrite(captions, labels, cast, policy), strict=True):
            assert restore(entry.text, entry.mentions, caption) == caption
            ends = [(mention.start, mention.end) for mention in entry.mentions]
            assert all(0 <= start < end <= len(caption) for start, end in ends)
            assert all(stop <= start for (_, stop), (start, _) in pairwise(ends))
            assert not entry.error or entry.text == caption
        assert explain(captions, labels, cast, policy) or not captions

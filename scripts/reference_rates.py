"""How often policy `grammatical` writes good English, beside the released code, on real FlintstonesSV captions.

    python scripts/reference_rates.py CAPTIONS.json [--sample tests/data/grammatical_200.jsonl] [--read]

CAPTIONS.json is the published list of {"image": "<clip id>.png", "text": caption} of the validation split. Stories are
five consecutive ids of one episode; labels are the cast names found in a caption. The sample is 200 of all sentences
in which `grammatical` replaced something, drawn with `random.Random(0)`; each was read within its story, by one reader
who knew the rules. It says nothing about what only the released code replaces. Its lines hold offsets, hashes,
pronouns and verdicts, not the captions, which are not ours to pass on. A verdict is about the replacement: flaws of
the published sentence are noted, not counted.

`--read` prints the sample with the text: the story so far, the sentence, and what both policies make of it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openstory_hf import catalogue
from openstory_hf.references import Rewritten, find_mentions, restore, rewrite

SAMPLE = Path(__file__).parents[1] / "tests/data/grammatical_200.jsonl"
LENGTH = 5
SENTENCE = re.compile(r"\S.*?(?:(?<!\bmr)[.!?]+(?=\s|$)|$)", re.DOTALL | re.IGNORECASE)


def windows(captions: Path) -> dict[str, list[str]]:
    """Id of the first clip -> the captions of a story."""
    texts = {row["image"].removesuffix(".png"): row["text"] for row in json.loads(captions.read_text("utf-8"))}
    stories = {}
    for _, group in itertools.groupby(sorted(texts), key=lambda clip: clip.rpartition("_shot_")[0]):
        clips = list(group)
        for at in range(len(clips) - LENGTH + 1):
            stories[clips[at]] = [texts[clip] for clip in clips[at : at + LENGTH]]
    return stories


def apply(story: Sequence[str], policy: str) -> list[Rewritten]:
    """Rewrite a story; the labels of a frame are the names in its caption, in order of first mention."""
    cast = catalogue.get("flintstones_sv").INFO.characters
    labels = [list(dict.fromkeys(name for name, _, _ in find_mentions(caption, cast))) for caption in story]
    return rewrite(story, labels, cast, policy)


def edits(caption: str, result: Rewritten, start: int, end: int) -> list[list[Any]]:
    """[start, end, pronoun] of the replacements in caption[start:end], with offsets from `start`."""
    spans: dict[tuple[int, int], list[int]] = {}
    for m in result.mentions:
        spans.setdefault((m.ref_start, m.ref_end), []).extend((m.start, m.end))
    found = ((min(at), max(at), result.text[slice(*ref)]) for ref, at in spans.items())
    return [[a - start, b - start, new] for a, b, new in found if start <= a < end and caption[a:b] != new]


def replaced(stories: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """Every sentence in which `grammatical` replaced something, as a line of the sample without a verdict."""
    for window, story in stories.items():
        for frame, (caption, result) in enumerate(zip(story, apply(story, "grammatical"), strict=True)):
            for match in SENTENCE.finditer(caption):
                if changes := edits(caption, result, *match.span()):
                    digest = hashlib.sha256(match.group().encode()).hexdigest()
                    yield {
                        "window": window,
                        "frame": frame,
                        "span": list(match.span()),
                        "sha256": digest,
                        "edits": changes,
                    }


def show(line: dict[str, Any], stories: dict[str, list[str]]) -> str:
    """A line of the sample for a reader."""
    story, frame, (start, end) = stories[line["window"]], line["frame"], line["span"]
    ours, released = apply(story, "grammatical"), apply(story, "storygpt_v")
    sentence = story[frame][start:end]
    for first, last, pronoun in reversed(line["edits"]):
        sentence = f"{sentence[:first]}[{pronoun}]{sentence[last:]}"
    there = sum(len(new) - (last - first) for first, last, new in edits(story[frame], released[frame], 0, start))
    size = sum(len(new) - (last - first) for first, last, new in edits(story[frame], released[frame], start, end))
    rows = [f"== {line['window']} frame {frame}: {line.get('verdict')} / {line.get('verdict_released')}"]
    rows += [f"   {result.text.strip()}" for result in ours[:frame]]
    rows += [f"   original: {story[frame].strip()}", f"   ours:     {sentence}"]
    rows += [f"   released: {released[frame].text[start + there : end + there + size]}"]
    return "\n".join(rows + ([f"   note: {line['note']}"] if line.get("note") else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--sample", type=Path, default=SAMPLE)
    parser.add_argument("--read", action="store_true", help="print the sample with its text")
    arguments = parser.parse_args()
    stories = windows(arguments.captions)
    exact = sum(
        restore(result.text, result.mentions, caption) == caption
        for story in stories.values()
        for caption, result in zip(story, apply(story, "grammatical"), strict=True)
    )
    lines = [json.loads(line) for line in arguments.sample.read_text("utf-8").splitlines()]
    population = list(replaced(stories))
    drawn = random.Random(0).sample(population, len(lines))
    if arguments.read:
        print(*(show(line, stories) for line in lines), sep="\n")
    print(f"stories {len(stories):,}; captions restored exactly {exact:,} of {LENGTH * len(stories):,}")
    print(f"sentences replaced {len(population):,}; read {len(lines)}")
    same = all(line.items() >= fresh.items() for line, fresh in zip(lines, drawn, strict=True))
    print(f"the sample is {'' if same else 'NOT '}what the rules and the seed give now")
    ours = Counter(line["verdict"] for line in lines)
    released = Counter(line["verdict_released"] for line in lines)
    changed = len(lines) - released["unchanged"]
    print(f"grammatical: {ours['ok']} of {len(lines)} good, {ours['ok'] / len(lines):.1%} {dict(ours)}")
    good = released["ok"] + released["unchanged"]
    print(f"storygpt_v:  {good} of {len(lines)} good, {good / len(lines):.1%} {dict(released)}")
    print(f"             {changed} changed at all; of these {released['ok'] / changed:.1%} good")


if __name__ == "__main__":
    main()

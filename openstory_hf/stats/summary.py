"""What is counted: the summary of a split, and the tally that fills it row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

from openstory_hf.stats.references import NAMES, RULES


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Whole numbers from 0: `histogram[k]` is how often k occurs. All zero if nothing was counted."""

    mean: float
    median: float
    max: int
    histogram: list[int]

    @classmethod
    def of(cls, counts: Counter[int]) -> Distribution:
        """Summarise value -> how often it occurs."""
        total, top = counts.total(), max(counts, default=-1)
        histogram = [counts[value] for value in range(top + 1)]
        below, middle = 0, []
        for value, count in enumerate(histogram):  # the two middle values, the same one if the total is odd
            middle += [value for rank in {(total - 1) // 2, total // 2} if below <= rank < below + count]
            below += count
        return cls(
            mean=sum(value * count for value, count in counts.items()) / max(1, total),
            median=sum(middle) / max(1, len(middle)),
            max=max(0, top),
            histogram=histogram,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """Sizes [width, height] in pixels of `sampled` pictures; smallest and largest by area. Empty without a sample."""

    sampled: int
    most_common: list[int]
    smallest: list[int]
    largest: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Average per story, in the captions (before) and in the referential captions (after)."""

    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterCount:
    """Frames that show a character, mentions of the name in the stories' captions, and those that were replaced.

    A frame counts once, a caption once for every story it stands in: what is replaced depends on the story.
    """

    frames: int
    mentions: int
    replaced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The statistics of one split, or of all.

    Args:
        stories: published stories written.
        published_stories: as the papers report, None if they do not.
        difference: written less published.
        sequences: source sequences with at least one frame.
        frames: each counted once, however many stories show it.
        pictures: of all frames; a frame may have several.
        story_lengths: frames per story.
        caption_words: blank-separated words per frame's caption.
        empty_captions: captions without a word.
        masks_per_frame: instances with a segmentation in the key picture of a frame.
        boxes_per_frame: instances with a box, likewise.
        frames_with_mask: share of frames with at least one.
        resolution: of a sample of the key pictures.
        english_stories: stories that `references` is about; those without a language count as English.
        references: rule -> average per story.
        characters: name -> counts, most frames first.
        settings: the 20 most frequent, with the number of frames.
        distinct_settings: number of different ones.
        languages: language -> stories.
        licenses: licence -> stories.
        rejects: reason -> source records left out.
    """

    stories: int
    published_stories: int | None
    difference: int | None
    sequences: int
    frames: int
    pictures: int
    story_lengths: Distribution
    caption_words: Distribution
    empty_captions: int
    masks_per_frame: Distribution
    boxes_per_frame: Distribution
    frames_with_mask: float
    resolution: Resolution
    english_stories: int
    references: dict[str, References]
    characters: dict[str, CharacterCount]
    settings: dict[str, int]
    distinct_settings: int
    languages: dict[str, int]
    licenses: dict[str, int]
    rejects: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The statistics of a built dataset; `policy` is the one its referential captions were made by."""

    dataset: str
    title: str
    policy: str
    splits: dict[str, Summary]
    total: Summary

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as JSON gives them back."""
        return asdict(self)


@dataclass(slots=True)
class Counters:
    """The counters behind a `Summary`; those of several splits add up."""

    numbers: Counter[str] = field(default_factory=Counter)
    story_lengths: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    masks: Counter[int] = field(default_factory=Counter)
    boxes: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    mentions: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    settings: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counters) -> None:
        """Add the counts of another split."""
        for counter in fields(self):
            getattr(self, counter.name).update(getattr(other, counter.name))

    def story(self, row: Mapping[str, Any]) -> None:
        """Count a row of `stories`."""
        captions, texts = row["captions"], row["referential_captions"]
        self.numbers["stories"] += 1
        self.story_lengths[len(captions)] += 1
        self.languages[row["language"]] += 1
        self.licenses[row["license"]] += 1
        if row["language"].partition("-")[0] in ("en", ""):
            self.numbers["english_stories"] += 1
            for rule, (_, count) in RULES.items():
                self.before[rule] += count(captions, captions)
                self.after[rule] += count(captions, texts)
        for caption, text, mentions in zip(captions, texts, row["mentions"], strict=True):
            for mention in mentions:
                name = caption[mention["start"] : mention["end"]]
                self.mentions[mention["character"]] += 1
                self.replaced[mention["character"]] += name != text[mention["ref_start"] : mention["ref_end"]]

    def frame(
        self,
        caption: str,
        characters: Iterable[str],
        setting: str,
        pictures: int,
        instances: Sequence[Mapping[str, Any]],
    ) -> None:
        """Count a frame, with the instances of its key picture."""
        self.numbers["frames"] += 1
        self.numbers["pictures"] += pictures
        self.words[len(caption.split())] += 1
        self.characters.update(set(characters))
        if setting:
            self.settings[setting] += 1
        self.masks[sum(instance["segmentation"] is not None for instance in instances)] += 1
        self.boxes[sum(instance["bbox"] is not None for instance in instances)] += 1

    def summary(self, published: int | None) -> Summary:
        """What the counts say; `published` is the number of stories the papers report."""
        numbers, english = self.numbers, max(1, self.numbers["english_stories"])
        mentions, replaced = self.mentions.total(), self.replaced.total()
        masks = Distribution.of(self.masks)
        sizes = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        references = {
            rule: References(before=self.before[rule] / english, after=self.after[rule] / english) for rule in RULES
        }
        if mentions:
            stories = numbers["stories"]
            references[NAMES] = References(before=mentions / stories, after=(mentions - replaced) / stories)
        return Summary(
            stories=numbers["stories"],
            published_stories=published,
            difference=None if published is None else numbers["stories"] - published,
            sequences=numbers["sequences"],
            frames=numbers["frames"],
            pictures=numbers["pictures"],
            story_lengths=Distribution.of(self.story_lengths),
            caption_words=Distribution.of(self.words),
            empty_captions=self.words[0],
            masks_per_frame=masks,
            boxes_per_frame=Distribution.of(self.boxes),
            frames_with_mask=sum(masks.histogram[1:]) / max(1, numbers["frames"]),
            resolution=Resolution(
                sampled=self.sizes.total(),
                most_common=[side for size, _ in self.sizes.most_common(1) for side in size],
                smallest=list(sizes[0]) if sizes else [],
                largest=list(sizes[-1]) if sizes else [],
            ),
            english_stories=numbers["english_stories"],
            references=references if numbers["english_stories"] else {},
            characters={
                name: CharacterCount(
                    frames=self.characters[name], mentions=self.mentions[name], replaced=self.replaced[name]
                )
                for name in sorted({*self.characters, *self.mentions}, key=lambda name: (-self.characters[name], name))
            },
            settings=dict(self.settings.most_common(20)),
            distinct_settings=len(self.settings),
            languages=dict(self.languages.most_common()),
            licenses=dict(self.licenses.most_common()),
            rejects=dict(self.rejects.most_common()),
        )


def binned(distribution: Distribution, most: int) -> tuple[int, list[int]]:
    """Bins of equal, round width from 0 up, at most `most` of them: (width, counts)."""
    widths = (digit * 10**power for power in range(10) for digit in (1, 2, 5))
    width = next(width for width in widths if distribution.max < width * most)
    histogram = distribution.histogram
    return width, [sum(histogram[low : low + width]) for low in range(0, len(histogram), width)]

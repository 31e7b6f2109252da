"""What is known about a dataset before a byte of it is read: card facts, counts, cast, how to obtain it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Pronouns = Literal["he", "she", "it", "they"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """A member of the recurring cast.

    Args:
        name: canonical name, lower case, as it stands in the `characters` column.
        pronouns: the pronoun set used for the character in the captions.
        aliases: other spellings found in captions; matched without regard to case, as whole words.
    """

    name: str
    pronouns: Pronouns
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split: the number of stories the papers report for it, and what the source calls it."""

    stories: int | None = None
    source_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A choice a dataset offers at build time, passed to `units` by name.

    Args:
        help: one line for the command line.
        default: the values used when nothing is said; an empty tuple means everything the release has.
    """

    help: str
    default: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """The facts of one dataset.

    Args:
        title: name for people.
        summary: one sentence.
        license: SPDX-like identifier the Hub accepts, or "other".
        license_name: short name when `license` is "other".
        rights: what may be done with the pictures and who owns them.
        third_party: whether the pictures belong to somebody who did not license them.
        languages: ISO 639 codes.
        citation: BibTeX.
        homepage: where the dataset is described.
        splits: Hub split name -> counts; in the order of the card.
        sequence: what a sequence is.
        story: what a published story is.
        frames_table: whether a `frames` table is written (windows overlap, or a frame has several pictures).
        key_rule: which of a frame's pictures stands for it in `stories`.
        characters: the recurring cast.
        obtain: how to get the raw release.
        tree: the files it must have, as a listing.
        not_needed: files users find in the release that are not read.
        options: choices offered at build time.
        tags: card tags.
        task_categories: Hub task categories.
    """

    title: str
    summary: str
    license: str
    rights: str
    languages: tuple[str, ...]
    citation: str
    splits: Mapping[str, Split]
    sequence: str
    story: str
    obtain: str
    tree: str
    license_name: str = ""
    third_party: bool = False
    homepage: str = ""
    frames_table: bool = False
    key_rule: str = "the only picture of the frame"
    characters: tuple[Character, ...] = ()
    not_needed: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    task_categories: tuple[str, ...] = ("text-to-image", "image-text-to-text")

    def describe(self, name: str) -> str:
        """The text of `openstory info NAME`."""
        rows: list[tuple[str, Any]] = [
            ("dataset", f"{name} – {self.title}"),
            ("", self.summary),
            ("homepage", self.homepage),
            ("licence", self.license_name or self.license),
            ("rights", self.rights),
            ("languages", ", ".join(self.languages)),
            ("sequence", self.sequence),
            ("story", self.story),
            ("pictures", f"key picture of a frame: {self.key_rule}"),
            ("tables", "stories, frames" if self.frames_table else "stories"),
            ("cast", ", ".join(f"{c.name} ({c.pronouns})" for c in self.characters)),
        ]
        lines = [f"{key:<10} {value}".rstrip() for key, value in rows if value]
        lines += ["", f"{'split':<12}{'source name':<14}{'published stories':>18}"]
        for split, facts in self.splits.items():
            count = "not stated" if facts.stories is None else f"{facts.stories:,}"
            lines.append(f"{split:<12}{facts.source_name or split:<14}{count:>18}")
        lines += ["", "How to obtain the raw release", "-" * 29, self.obtain.strip()]
        lines += ["", "Files it must have", "-" * 18, self.tree.strip("\n")]
        if self.not_needed:
            lines += ["", "Not needed: " + ", ".join(self.not_needed)]
        for option, facts_ in self.options.items():
            default = ", ".join(facts_.default) or "everything in the release"
            lines += ["", f"--{option.replace('_', '-')}: {facts_.help} (default: {default})"]
        return "\n".join(lines)

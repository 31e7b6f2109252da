"""Statistics as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

from openstory_hf.stats.references import LABELS, PAPER
from openstory_hf.stats.summary import Distribution, Statistics, Summary, binned


def render_text(statistics: Statistics) -> str:
    """Aligned tables for a terminal, one column per split."""
    columns = dict(statistics.splits)
    if len(columns) > 1:
        columns["all"] = statistics.total
    total = statistics.total

    def table(title: str, rows: Iterable[tuple[str, Callable[[Summary], str]]]) -> str:
        cells = [[label, *(show(summary) for summary in columns.values())] for label, show in rows]
        return _table([title, *columns], cells)

    parts = [
        f"{statistics.title} ({statistics.dataset}); referential captions by policy {statistics.policy}"
        + ("\nTables without a column per split are over all splits." if len(columns) > 1 else ""),
        table(
            "Stories and frames",
            [
                ("stories", lambda s: f"{s.stories:,}"),
                ("published stories", lambda s: _or_dash(s.published_stories, ",")),
                ("difference", lambda s: _or_dash(s.difference, "+,")),
                ("sequences", lambda s: f"{s.sequences:,}"),
                ("frames", lambda s: f"{s.frames:,}"),
                ("pictures", lambda s: f"{s.pictures:,}"),
                ("records left out", lambda s: f"{sum(s.rejects.values()):,}"),
            ],
        ),
        table(
            "Table 1 of OpenStory",
            [
                ("frames", lambda s: f"{s.frames:,}"),
                ("average story length", lambda s: f"{s.story_lengths.mean:.2f}"),
                ("resolution, most common", lambda s: _sides(s.resolution.most_common)),
                ("resolution, smallest", lambda s: _sides(s.resolution.smallest)),
                ("resolution, largest", lambda s: _sides(s.resolution.largest)),
                ("masks per frame", lambda s: f"{s.masks_per_frame.mean:.2f}"),
                ("boxes per frame", lambda s: f"{s.boxes_per_frame.mean:.2f}"),
                ("frames with a mask", lambda s: f"{s.frames_with_mask:.1%}"),
            ],
        )
        + f"\nResolution (width x height) of a sample of {total.resolution.sampled:,} key pictures; masks and boxes "
        "of the key picture of every frame.",
    ]
    if total.references:
        rows = [(LABELS[rule], _reference_cell(rule)) for rule in total.references]
        parts.append(
            table("References per story, before → after", rows)
            + f"\nOver {total.english_stories:,} English stories. The released counters look for substrings: "
            '"the" counts as "he".' + ("\n" + PAPER[statistics.dataset] if statistics.dataset in PAPER else "")
        )
    parts.append(
        table(
            "Words per caption",
            [
                ("mean", lambda s: f"{s.caption_words.mean:.1f}"),
                ("median", lambda s: f"{s.caption_words.median:g}"),
                ("most", lambda s: f"{s.caption_words.max:,}"),
                ("empty captions", lambda s: f"{s.empty_captions:,}"),
            ],
        )
        + "\n\n"
        + _bars(total.caption_words)
    )
    if total.characters:
        shown = [
            [name, f"{count.frames:,}", f"{count.mentions:,}", f"{count.replaced:,}"]
            for name, count in list(total.characters.items())[:20]
        ]
        more = len(total.characters) - len(shown)
        parts.append(
            _table(["Characters", "frames", "mentions", "replaced"], shown)
            + (f"\nand {more:,} more characters." if more else "")
            + "\nA frame counts once; a mention counts in every story whose captions it stands in."
        )
    settings = f"Settings ({total.distinct_settings:,} different)"
    for title, unit, counts in (
        (settings, "frames", total.settings),
        ("Languages", "stories", total.languages),
        ("Licences", "stories", total.licenses),
    ):
        if counts:
            parts.append(_table([title, unit], [[name or "(none)", f"{n:,}"] for name, n in counts.items()]))
    if total.rejects:
        lines = [f"{count:>8,}  {reason}" for reason, count in list(total.rejects.items())[:20]]
        more = len(total.rejects) - len(lines)
        parts.append("\n".join(["Records left out", *lines] + ([f"and {more:,} more reasons."] if more else [])))
    return "\n\n".join(parts) + "\n"


def _reference_cell(rule: str) -> Callable[[Summary], str]:
    def show(summary: Summary) -> str:
        if rule not in summary.references:
            return "–"
        found = summary.references[rule]
        return f"{found.before:.2f} → {found.after:.2f}"

    return show


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def _or_dash(value: int | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _sides(size: Sequence[int]) -> str:
    return "x".join(map(str, size)) or "–"


def _bars(distribution: Distribution) -> str:
    width, counts = binned(distribution, 16)
    peak = max(counts, default=0) or 1
    lines = []
    for number, count in enumerate(counts):
        low, high = number * width, (number + 1) * width - 1
        label = f"{low}–{high}" if width > 1 else str(low)
        lines.append(f"{label:>9}  {count:>9,}  {'█' * round(40 * count / peak)}".rstrip())
    return "\n".join(lines)

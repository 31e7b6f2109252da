"""Statistics as a picture, drawn with matplotlib (extra `plots`)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from openstory_hf.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from openstory_hf.stats.references import NAMES
from openstory_hf.stats.summary import Distribution, References, Statistics, binned

_BLUE, _ORANGE = "#0072B2", "#E69F00"  # of the Okabe-Ito palette, told apart by colour-blind readers too
_PLOTTED_RULES = {
    "released_flintstones_4": "released counter\n(first 4 frames)",
    "released_flintstones_4_rewritten": "… + rewritten\nframes",
    "released_pororo": "released Pororo\ncounter",
    "pronouns": "pronouns\nhe, she, they",
    NAMES: "names of\nthe cast",
}


def plot(statistics: Statistics, path: str | Path) -> None:
    """Draw the statistics of all splits together: captions, stories, characters, masks, references, settings.

    Panels that would be empty, or hold a single bar, are left out.

    Args:
        statistics: what `collect` returned.
        path: file to write; its suffix chooses the format (.png, .pdf, .svg).

    Raises:
        UsageError: if matplotlib is not installed, or cannot write that format.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no display, no global state
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise UsageError("plots need matplotlib. Run: pip install 'openstory_hf[plots]'") from None

    total = statistics.total
    lengths, masks = total.story_lengths, total.masks_per_frame
    panels: list[Callable[[Axes], None]] = [lambda axes: _plot_lengths(axes, total.caption_words)]
    if sum(map(bool, lengths.histogram)) > 1:
        panels.append(lambda axes: _plot_bars(axes, "Story length", "frames per story", "stories", lengths))
    if masks.max:
        panels.append(lambda axes: _plot_bars(axes, "Instance masks", "masks per frame", "frames", masks))
    if any(found.before != found.after for found in total.references.values()):
        panels.append(lambda axes: _plot_references(axes, total.references))
    rankings: dict[str, dict[str, int]] = {
        "Frames per character": {name: count.frames for name, count in total.characters.items()},
        "Frames per setting": total.settings,
        "Stories per language": total.languages,
        "Stories per licence": total.licenses,
    }
    for title, counts in rankings.items():
        if len(counts) > 1:
            panels.append(partial(_plot_ranking, title=title, counts=counts))
    columns = min(len(panels), 3 if len(panels) > 4 else 2)
    rows = -(-len(panels) // columns)
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08)  # inches
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows + 0.4), dpi=200, layout=layout)
    average = "" if lengths.mean == lengths.max else " on average"
    figure.suptitle(
        f"{statistics.title}: {total.stories:,} stories, {lengths.mean:.3g} frames each{average}; "
        f"{total.frames:,} different frames"
    )
    for number, draw in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        draw(axes)
    try:
        figure.savefig(path)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def _plot_lengths(axes: Axes, words: Distribution) -> None:
    width, counts = binned(words, 30)
    lows = [number * width for number in range(len(counts))]
    axes.bar(lows, counts, width=width * 0.9, align="edge", color=_BLUE)
    axes.axvline(words.median, color="black", linewidth=1, linestyle="--")
    note = f"median {words.median:g}\nlongest {words.max}"
    axes.text(0.98, 0.95, note, transform=axes.transAxes, ha="right", va="top", fontsize=9)
    axes.locator_params(integer=True)
    axes.set(title="Caption length", xlabel="words per caption", ylabel="captions")


def _plot_bars(axes: Axes, title: str, xlabel: str, ylabel: str, counted: Distribution) -> None:
    width, counts = binned(counted, 30)
    there = [(number * width, count) for number, count in enumerate(counts) if count]
    lows = [low for low, _ in there]
    align: Literal["edge", "center"] = "edge" if width > 1 else "center"
    bars = axes.bar(lows, [count for _, count in there], width=width * 0.9, align=align, color=_BLUE)
    if len(there) <= 8 and width == 1:
        axes.bar_label(bars, [f"{count:,}" for _, count in there], padding=2, fontsize=8)
        axes.set_xticks(lows)
    axes.locator_params(axis="y", integer=True)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)


def _plot_references(axes: Axes, references: Mapping[str, References]) -> None:
    shown = [(label, references[rule]) for rule, label in _PLOTTED_RULES.items() if rule in references]
    for offset, color, name, values in (
        (-0.2, _BLUE, "in the captions", [found.before for _, found in shown]),
        (0.2, _ORANGE, "in the referential captions", [found.after for _, found in shown]),
    ):
        bars = axes.barh([row + offset for row in range(len(shown))], values, height=0.38, color=color, label=name)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=8)
    _as_list(axes, [label for label, _ in shown], slots=len(shown))
    axes.set_title("Average references per story")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.4, 0), ncols=2)


def _plot_ranking(axes: Axes, title: str, counts: Mapping[str, int]) -> None:
    top = list(counts.items())[:10]
    bars = axes.barh(range(len(top)), [count for _, count in top], color=_BLUE)
    axes.bar_label(bars, [f"{count:,}" for _, count in top], padding=2, fontsize=8)
    _as_list(axes, [textwrap.shorten(name or "(none)", 24, placeholder="…") for name, _ in top], slots=6)
    axes.set_title(title if len(counts) <= len(top) else f"{title}, the {len(top)} most frequent")


def _as_list(axes: Axes, labels: Sequence[str], slots: int) -> None:
    """Horizontal bars from the top down, with room for at least so many; their labels say what an axis would."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(max(len(labels), slots) - 0.5, -0.5)
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(left=False)
    axes.margins(x=0.12)

"""What collators share: checks of options, texts, random draws, padding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch

from openstory_hf.errors import UsageError
from openstory_hf.views import frame_texts, row_error

IGNORE = -100
"""Label of a position that is not trained, as `transformers` and `torch.nn.CrossEntropyLoss` have it."""

Row = Mapping[str, Any]


def check_choice(name: str, value: object, choices: Any) -> None:
    """Make sure an option is one of the values of a `Literal`.

    Raises:
        UsageError: naming the option and its possible values.
    """
    if value not in get_args(choices):
        raise UsageError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Make sure an option is a share or a probability.

    Raises:
        UsageError: naming the option.
    """
    if not 0 <= value <= 1:
        raise UsageError(f"{name} must be between 0 and 1, got {value}")


def check_names(name: str, values: Sequence[str]) -> None:
    """Make sure an option is a sequence of names that differ, since their places number them.

    Raises:
        UsageError: naming the option.
    """
    if isinstance(values, str) or len(set(values)) != len(values):
        raise UsageError(f"{name} must be a sequence of different names, got {values!r}")


def text_column(row: Row, column: str | None) -> str:
    """The column of the texts: the named one; without a name, "texts" in rows that have it, else "captions"."""
    return column or ("texts" if row.get("texts") is not None else "captions")


def story_texts(row: Row, column: str | None) -> list[str]:
    """The text of every frame, of the `text_column`.

    Raises:
        RowError: if the row has no such column, no frames, or an entry that is not text.
    """
    texts = frame_texts(row, text_column(row, column))
    if not texts:
        raise row_error(row, "it has no frames; leave such rows out before collating")
    return texts


def frame_extras(row: Row) -> list[dict[str, Any]]:
    """What `extras` keeps of every frame; [] if nothing of any."""
    return json.loads(row.get("extras") or "{}").get("frames") or []


def generator(row: Row, seed: int) -> np.random.Generator:
    """The random numbers of one story: a pure function of the row and the seed.

    Rows of `load_stories` carry `draw`, a number of their own that changes with the epoch. Rows of a plain
    `load_dataset` have only their `story_id`, and draw the same in every epoch.

    Raises:
        UsageError: for a negative seed.
    """
    if seed < 0:
        raise UsageError(f"seed={seed} is not a number from 0")
    draw = row.get("draw")
    if draw is None:
        digest = hashlib.blake2b(str(row.get("story_id", "")).encode("utf-8", "surrogatepass"), digest_size=8)
        draw = int.from_bytes(digest.digest(), "big")
    return np.random.default_rng([seed, draw])


def pad(rows: Sequence[Sequence[int]], value: int, width: int = 0) -> torch.Tensor:
    """Pad rows on the right to the longest, and to `width` at least: (B, L), int64, or bool if the value is."""
    longest = max(width, *map(len, rows), 0)
    kind = torch.bool if isinstance(value, bool) else torch.int64
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=kind)


def taken(counts: Sequence[int], width: int | None = None) -> torch.Tensor:
    """Which places of B rows are taken, `counts` of them from the left: bool (B, width), by default the largest."""
    return torch.arange(max(counts, default=0) if width is None else width) < torch.tensor(counts).view(-1, 1)


def spread(values: torch.Tensor, mask: torch.Tensor, fill: float = 0) -> torch.Tensor:
    """Put I values (I, ...), one after another, where a mask (B, N) is true: (B, N, ...), `fill` elsewhere."""
    if mask.all():
        return values.view(*mask.shape, *values.shape[1:])
    # numpy leaves the memory of zeros untouched, so padding costs nothing until it is read
    placed = torch.from_numpy(np.zeros((*mask.shape, *values.shape[1:]), values.numpy().dtype))
    if fill:
        placed.fill_(fill)
    placed[mask] = values
    return placed

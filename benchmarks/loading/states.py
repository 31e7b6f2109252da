"""Passes with and without states, and first batches after one; each runs in a process of its own, for `resume`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.loading.source import LENGTH, open_source

BATCH = 16
DONE = 0.9
"""How much of an epoch is through at the state."""

Batch = dict[str, Any]


class Ours:
    """Stories of this package in batches."""

    def __init__(self, work: str, workers: int, *, shuffle: bool) -> None:
        from openstory_hf.collate import StoryTensorCollator
        from openstory_hf.load import load_stories
        from openstory_hf.loader import StoryLoader

        columns = ("images", "captions")
        self.rows = load_stories(f"{work}/openstory", length=LENGTH, frame="random", shuffle=shuffle, columns=columns)
        self.collate = StoryTensorCollator(image_size=128, keep_captions=True, cache_mb=64)
        self.batches = StoryLoader(self.rows, self.collate, BATCH, num_workers=workers)
        self.state_dict, self.load_state_dict = self.batches.state_dict, self.batches.load_state_dict

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class HuggingFace:
    """Rows of `datasets` in batches."""

    def __init__(self, work: str) -> None:
        from benchmarks.loading.contenders.hugging_face import collate, open_stream
        from benchmarks.loading.pixels import fast

        self.rows = open_stream(sorted(map(str, Path(work, "hf-fixed").glob("*.parquet"))), fast)
        self.collate = partial(collate, fast)
        self.state_dict, self.load_state_dict = self.rows.state_dict, self.rows.load_state_dict

    def __iter__(self) -> Iterator[Batch]:
        return plain(self.rows, self.collate)


def plain(rows: Iterable[Any], collate: Callable[[list[Any]], Batch]) -> Iterator[Batch]:
    """A loop over rows, with nothing else."""
    some = []
    for row in rows:
        some.append(row)
        if len(some) == BATCH:
            yield collate(some)
            some = []
    if some:
        yield collate(some)


def loader(of: str, work: str, workers: int, *, shuffle: bool) -> Ours | HuggingFace:
    return HuggingFace(work) if of == "hf" else Ours(work, workers, shuffle=shuffle)


def measure_pass(name: str, work: str, seconds: float) -> dict[str, float]:
    """`rate` of whole epochs, until some seconds have passed."""
    made = loader(name.partition("-")[0], work, 0, shuffle=name.startswith("shuffled"))
    stories, began = 0, time.perf_counter()
    while not stories or time.perf_counter() - began < seconds:
        for batch in plain(made.rows, made.collate) if name == "plain" else made:
            stories += len(batch["pixel_values"])
            if name.endswith("-states"):
                made.state_dict()
    return {"rate": stories / (time.perf_counter() - began)}


def state_at(of: str, work: str, before: int, after: int) -> dict[str, Any]:
    """The `state` at nine tenths of an epoch; makes sure that what comes after it is what was left.

    Raises:
        AssertionError: if not.
    """
    source = open_source(Path(work) / "source")
    windows = Counter(tuple(source.texts(window)) for window in source.windows)
    made = loader(of, work, before, shuffle=True)
    batches = islice(iter(made), int(DONE * windows.total() / BATCH))
    seen = Counter(tuple(captions) for batch in batches for captions in batch["captions"])
    state = made.state_dict()
    resumed = loader(of, work, after, shuffle=True)
    resumed.load_state_dict(state)
    seen += Counter(tuple(captions) for batch in resumed for captions in batch["captions"])
    assert seen == windows, f"{(windows - seen).total()} windows are missing, {(seen - windows).total()} come again"
    return {"state": state}


def first(of: str, work: str, workers: int, state: dict[str, Any] | None) -> dict[str, float]:
    """The `seconds` from opening the data to the first batch, at the start of an epoch or at a state."""
    import openstory_hf.collate
    import openstory_hf.loader  # noqa: F401, so that only opening and reading are timed
    from benchmarks.loading.contenders import hugging_face  # noqa: F401

    began = time.perf_counter()
    made = loader(of, work, workers, shuffle=True)
    if state:
        made.load_state_dict(state)
    next(iter(made))
    return {"seconds": time.perf_counter() - began}

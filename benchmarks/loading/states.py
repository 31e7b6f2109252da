"""Passes with and without states, and first batches after one; each runs in a process of its own, for `resume`."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.loading.source import LENGTH, open_source

BATCH = 16
TURN = 8
"""Batches of a turn."""
TURNS_BEFORE = 4
"""Turns before the first that counts."""
DONE = 0.9
"""How much of an epoch is through at the state."""

Batch = dict[str, Any]


class Ours:
    """Stories of this package in batches."""

    def __init__(self, work: str, workers: int, *, shuffle: bool, cache_mb: int = 64) -> None:
        from openstory_hf.collate import StoryTensorCollator
        from openstory_hf.load import load_stories
        from openstory_hf.loader import StoryLoader

        columns = ("images", "captions")
        self.rows = load_stories(f"{work}/openstory", length=LENGTH, frame="random", shuffle=shuffle, columns=columns)
        self.collate = StoryTensorCollator(image_size=128, keep_captions=True, cache_mb=cache_mb)
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


def loader(of: str, work: str, workers: int, *, shuffle: bool, cache_mb: int = 64) -> Ours | HuggingFace:
    return HuggingFace(work) if of == "hf" else Ours(work, workers, shuffle=shuffle, cache_mb=cache_mb)


def measure_passes(names: Sequence[str], work: str, seconds: float) -> dict[str, float]:
    """The rate of each pass in one process: all take turns of some batches until each had some seconds.

    A machine that is slower for a while is so for all of them.
    """
    turns = {name: endless(name, work, 64 + number) for number, name in enumerate(names)}
    stories, spent = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    for _ in range(TURNS_BEFORE):
        for name in names:
            next(turns[name])
    shuffle = random.Random(0).shuffle
    order = list(names)
    while min(spent.values()) < seconds:
        shuffle(order)
        for name in order:
            began = time.perf_counter()
            stories[name] += next(turns[name])
            spent[name] += time.perf_counter() - began
    return {name: stories[name] / spent[name] for name in names}


def endless(name: str, work: str, cache_mb: int) -> Iterator[int]:
    """A pass, epoch after epoch, that gives the number of its stories after some batches.

    Args:
        name: of the pass.
        work: where the data is.
        cache_mb: as of the collator; passes with other sizes share no decoded pictures.
    """
    made = loader(name.partition("-")[0], work, 0, shuffle=name.startswith("shuffled"), cache_mb=cache_mb)
    stories = batches = 0
    while True:
        for batch in plain(made.rows, made.collate) if name == "plain" else made:
            stories, batches = stories + len(batch["pixel_values"]), batches + 1
            if name.endswith("-states"):
                made.state_dict()
            if batches == TURN:
                yield stories
                stories = batches = 0


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

"""One run in a process of its own: write the data of a contender, check what it loads, or measure it."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loading.pixels import grids
from benchmarks.loading.roster import TABLES, Contender
from benchmarks.loading.source import KEY, Stories

BATCH = 16


def folder_of(work: Path, contender: Contender) -> Path:
    """Where the data of a contender lies."""
    return work / "source" / "release" if contender.form == "release" else work / contender.form


def convert(table: str, name: str, work: str) -> dict[str, float]:
    """Write the form that a contender loads, unless it is there; `seconds` it took."""
    contender = TABLES[table].contender(name)
    folder = folder_of(Path(work), contender)
    if not contender.form or folder.exists():
        return {"seconds": 0.0}
    source = TABLES[table].source(Path(work))
    unfinished = folder.with_name(f"unfinished-{contender.form}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    began = time.perf_counter()
    contender.imported().WRITE[contender.form](source, unfinished)
    taken = time.perf_counter() - began
    unfinished.rename(folder)
    return {"seconds": taken}


def load(contender: Contender, source: Stories, work: Path, workers: int) -> Any:
    return contender.imported().LOAD[contender.name](source, folder_of(work, contender), workers)


def measure(table: str, name: str, work: str, workers: int, seconds: float) -> dict[str, float]:
    """Whole epochs until some seconds have passed.

    Returns:
        `rate` in stories a second, from the start of the first epoch to the end of the last; `first`, the seconds from
        opening the data to the first batch; `spread`, the mean number of episodes among the stories of a batch.
    """
    contender, source = TABLES[table].contender(name), TABLES[table].source(Path(work))
    contender.imported()
    opened = time.perf_counter()
    loader = load(contender, source, Path(work), workers)
    first, stories, openings = 0.0, 0, []
    began = time.perf_counter()
    while not stories or time.perf_counter() - began < seconds:
        for batch in loader:
            first = first or time.perf_counter() - opened
            stories += len(batch["pixel_values"])
            openings.append([captions[0] for captions in batch["captions"]])
    rate = stories / (time.perf_counter() - began)
    full = [{source.sequence_of(source.clip_of[text]) for text in batch} for batch in openings if len(batch) == BATCH]
    return {"rate": rate, "first": first, "spread": sum(map(len, full)) / len(full)}


def check(table: str, name: str, work: str, workers: int) -> dict[str, float]:
    """All windows once in an epoch, with the very pixels and masks of their clips; the next begins with others.

    With workers, there is no second epoch.

    Raises:
        AssertionError: with what is wrong.
    """
    contender, source = TABLES[table].contender(name), TABLES[table].source(Path(work))
    clips_of = pictures_of(source)
    loader = load(contender, source, Path(work), workers)
    expected = Counter(source.windows)
    order, drawn = [], Counter[int]()
    for batch in loader:
        for at, captions in enumerate(batch["captions"]):
            window = tuple(source.clip_of[caption] for caption in captions)
            order.append(window)
            for place, clip in enumerate(window):
                shown = clips_of[digest(stored_pixels(batch["pixel_values"][at, place]))].get(clip)
                assert shown, f"a picture is not one of {clip}, whose caption it comes with"
                drawn.update(shown if len(shown) == 1 else ())
                if "instance_masks" in batch:
                    found = batch["instance_masks"][at, place]
                    assert any(same_masks(found, source.masks[clip][k]) for k in shown), f"other masks of {clip}"
    missing, more = expected - Counter(order), Counter(order) - expected
    assert not missing, f"{missing.total()} windows are missing"
    assert not more, f"{more.total()} windows come again"
    assert order != source.windows, "the windows are not shuffled"
    if not workers:
        second = [tuple(map(source.clip_of.get, captions)) for captions in next(iter(loader))["captions"]]
        assert second != order[:BATCH], "the windows are not shuffled anew in each epoch"
    if contender.random:
        even = drawn.total() / source.kept
        even_enough = all(abs(drawn[k] - even) < 5 * even**0.5 for k in range(source.kept))
        assert even_enough, f"pictures are drawn unevenly: {drawn}"
    else:
        assert set(drawn) == {KEY}, f"pictures other than the middle one: {drawn}"
    return {}


def pictures_of(source: Stories) -> dict[bytes, dict[str, list[int]]]:
    """Digest of a picture -> the clips that have it -> as which of their pictures; blank ones look all the same."""
    found: dict[bytes, dict[str, list[int]]] = defaultdict(dict)
    for clip in source.captions:
        for k, pixels in enumerate(source.pixels(clip)):
            found[digest(pixels)].setdefault(clip, []).append(k)
    return found


def stored_pixels(picture: torch.Tensor) -> np.ndarray:
    """A picture of a batch as it is stored: uint8 (h, w, 3)."""
    if picture.dtype == torch.uint8:
        return picture.numpy()
    assert picture.dtype == torch.float32, picture.dtype
    assert picture.is_contiguous()
    values = (picture + 1) * 127.5
    whole = values.round()
    assert float((values - whole).abs().max()) < 1e-3, "the values are not those of pixels"
    return whole.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def same_masks(found: torch.Tensor, rles: list[dict[str, Any]]) -> bool:
    """Whether these are the masks, and then nothing."""
    wanted = torch.zeros_like(found)
    wanted[: len(rles)] = grids([rles] * 5)[0, 0]
    return torch.allclose(found, wanted, atol=1e-5)


def digest(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()

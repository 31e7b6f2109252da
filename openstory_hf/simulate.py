"""Training on many nodes, simulated without data: bytes, requests, imbalance, memory and the cost of resuming.

All of it comes from the manifest (and for windows from the contents beside it), by the order, the shares and the
requests that `load_stories` would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openstory_hf.errors import UsageError
from openstory_hf.folder import KEPT_BYTES, KEPT_FILE_BYTES, KEPT_FILES, BuiltFolder
from openstory_hf.forecast import Forecast, after, fetched, forecast, shares
from openstory_hf.index import index_file
from openstory_hf.order import AT_A_TIME_BYTES, BLOCK_BYTES, PIECE_BYTES
from openstory_hf.schedule import Schedule, Shuffle
from openstory_hf.selection import Where, select
from openstory_hf.stream import size_of

WINDOW = 300
"""Seconds over which the Hub counts requests."""

HUB_LIMITS = {
    "nobody (per address)": 3_000,
    "a free user": 5_000,
    "a PRO user": 12_000,
    "a Team organization": 20_000,
    "an Enterprise organization": 50_000,
    "an Enterprise Plus organization": 100_000,
}
"""Requests for files that the Hub answers in five minutes, by whose token they carry.

Source: https://huggingface.co/docs/hub/rate-limits, "Resolvers", as of 2026. For an organization, of each member.
"""

SAMPLED = 8
"""Ranks for which stopping and resuming is gone through."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """An epoch of a training job.

    Args:
        stories: in the epoch.
        ranks: number of ranks.
        workers: of each rank.
        consumers: what each rank's workers read, those of rank 0 first.
        opening: requests of a process that opens the dataset.
        index_bytes: of the index of a file, on average.
        rate: stories a second of each rank.
        ranks_per_node: ranks that share the memory of a machine.
        resume_requests: requests that a rank makes again when all stop in the middle of their shares and go on.
        resume_bytes: likewise.
        shuffle: see `load_stories`.
        on_hub: a repository of the Hub, or a manifest of which it is not known where its files are.
    """

    stories: int
    ranks: int
    workers: int
    consumers: Forecast
    opening: int
    index_bytes: float
    rate: float
    ranks_per_node: int
    resume_requests: float
    resume_bytes: float
    shuffle: Shuffle
    on_hub: bool

    def of_ranks(self, values: Counts) -> Counts:
        """The sums over the workers of each rank, (ranks,)."""
        return np.asarray(values.reshape(self.ranks, self.workers).sum(axis=1))

    @property
    def index_requests(self) -> Counts:
        """Of each consumer at most: one for a file, or for each time it comes to one that it has forgotten."""
        fits = min(KEPT_FILES, KEPT_FILE_BYTES / max(1.0, self.index_bytes))
        files, visits = self.consumers.index_files, self.consumers.index_visits
        return np.asarray(np.where(files <= fits, files, visits))

    @property
    def requests(self) -> Counts:
        """Of each consumer: for pictures and indexes, (C,)."""
        return self.consumers.requests + self.index_requests

    @property
    def bytes(self) -> Counts:
        """Of each consumer: of pictures and indexes, (C,)."""
        return self.consumers.bytes + (self.index_requests * self.index_bytes).astype(np.int64)

    @property
    def seconds(self) -> float:
        """How long the epoch takes."""
        return float(self.of_ranks(self.consumers.stories).max() / self.rate)

    @property
    def requests_per_window(self) -> float:
        """Requests of all ranks in five minutes."""
        return float(self.requests.sum() / max(self.seconds, 1e-9) * min(WINDOW, self.seconds))

    @property
    def opening_requests(self) -> int:
        """Requests to open the dataset in all processes, where workers do not inherit it by a fork."""
        return self.opening * self.ranks * (1 + self.workers)

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker for what it reads: pictures, and the index."""
        return int(self.consumers.held.max(initial=0)) + KEPT_BYTES + KEPT_FILE_BYTES

    def warnings(self) -> Iterator[str]:
        """What will not go well, and what to do about it."""
        stories = self.consumers.stories
        if idle := int((stories == 0).sum()):
            yield (
                f"{idle:,} of {len(stories):,} workers get no story. Take fewer ranks or workers, or shorter windows"
            )
        ranks = self.of_ranks(self.bytes)
        if ranks.min() and ranks.max() > 1.1 * ranks.mean():
            yield (
                f"one rank reads {ranks.max() / ranks.mean():.2f} times the mean: shares are of equal stories, and "
                "some files have larger ones. Shuffle, which mixes them"
            )
        if not self.on_hub:
            return
        for requests, what, advice in (
            (self.requests_per_window, "reading", self._advice),
            (float(self.opening_requests), "opening", "start ranks some at a time, or let workers fork"),
        ):
            allowed = [name for name, limit in HUB_LIMITS.items() if limit >= requests]
            if len(allowed) < len(HUB_LIMITS):
                says = f"it takes {allowed[0]} ({HUB_LIMITS[allowed[0]]:,})" if allowed else "no plan allows it"
                yield (
                    f"{what} makes {requests:,.0f} requests in five minutes, of which a free user has "
                    f"{HUB_LIMITS['a free user']:,}: {says}, see huggingface.co/docs/hub/rate-limits. Next: {advice}"
                )

    @property
    def _advice(self) -> str:
        copy = "copy the repository to a disk or bucket near the nodes (`hf download`) and read it there"
        wide = AT_A_TIME_BYTES // BLOCK_BYTES[1]
        if self.shuffle is True or (type(self.shuffle) is int and self.shuffle > wide):
            larger = BLOCK_BYTES[1] // PIECE_BYTES
            return f"{copy}; or shuffle={wide}, which mixes less and asks for {larger} times as much at a time"
        return copy

    def as_dict(self) -> dict[str, Any]:
        """Everything, with the figures of each rank, as JSON."""
        ranks = {
            name: self.of_ranks(values).tolist()
            for name, values in (
                ("stories", self.consumers.stories),
                ("bytes", self.bytes),
                ("requests", self.requests),
            )
        }
        return {
            "stories": self.stories,
            "ranks": self.ranks,
            "workers": self.workers,
            "seconds": self.seconds,
            "per_rank": ranks,
            "imbalance": {name: _imbalance(np.asarray(values)) for name, values in ranks.items()},
            "requests_per_second": float(self.requests.sum() / max(self.seconds, 1e-9)),
            "requests_per_five_minutes": self.requests_per_window,
            "opening_requests": self.opening_requests,
            "memory": {"worker": self.worker_bytes, "node": self._node_bytes},
            "resume": {"requests_per_rank": self.resume_requests, "bytes_per_rank": self.resume_bytes},
            "idle_workers": int((self.consumers.stories == 0).sum()),
            "hub_limits": HUB_LIMITS,
            "warnings": list(self.warnings()),
        }

    @property
    def _node_bytes(self) -> int:
        return self.worker_bytes * self.workers * min(self.ranks_per_node, self.ranks)

    def as_text(self) -> str:
        """A table for people."""
        requests, size = self.of_ranks(self.requests), self.of_ranks(self.bytes)
        lines = [
            f"{self.stories:,} stories, {self.ranks:,} ranks of {self.workers} workers, {self.rate:g} stories/s a "
            f"rank: an epoch of {_time(self.seconds)}",
            "",
            f"{'per rank':<22}{'least':>12}{'mean':>12}{'most':>12}{'most/mean':>12}",
            _line("stories", self.of_ranks(self.consumers.stories)),
            _line("GB", size / 1e9, 3),
            _line("requests", requests),
            _line("requests/s", requests / self.seconds, 3),
            "",
            f"{'all ranks':<22}{size.sum() / 1e9:,.1f} GB, {requests.sum():,} requests an epoch, "
            f"{requests.sum() / self.seconds:,.1f} a second, {self.requests_per_window:,.0f} in five minutes",
            f"{'opening':<22}{self.opening} requests a process, at most {self.opening_requests:,} in all",
            f"{'memory':<22}{self.worker_bytes / 1e6:,.0f} MB a worker for pictures and index, "
            f"{self._node_bytes / 1e9:,.1f} GB a node of {min(self.ranks_per_node, self.ranks)} ranks",
            f"{'resuming':<22}{self.resume_requests:,.0f} requests and {self.resume_bytes / 1e6:,.1f} MB again a "
            "rank, from the middle of an epoch",
            *(f"warning: {warning}" for warning in self.warnings()),
        ]
        return "\n".join(lines) + "\n"


def simulate(
    path: str | Path,
    *,
    ranks: int,
    workers: int,
    split: str = "train",
    length: int | None = None,
    stride: int = 1,
    shuffle: Shuffle = True,
    seed: int = 0,
    epoch: int = 0,
    rate: float = 10.0,
    ranks_per_node: int = 8,
    revision: str | None = None,
) -> Simulation:
    """Simulate an epoch.

    Args:
        path: a manifest, or a folder, repository or URL that has one. Windows need the contents beside it.
        ranks: number of ranks.
        workers: of the DataLoader of each, at least 1.
        split: see `load_stories`, as the next four.
        length: likewise.
        stride: likewise.
        shuffle: likewise.
        seed: likewise.
        epoch: its number.
        rate: stories a second that each rank trains on.
        ranks_per_node: ranks that share the memory of a machine.
        revision: of a repository of the Hub.

    Raises:
        OutputError: if there is no manifest, or not what windows need.
        UsageError: for numbers that make no job, an unknown split, or if there are no such stories.
    """
    if min(ranks, workers, ranks_per_node) < 1 or not rate > 0:
        raise UsageError(
            f"ranks={ranks}, workers={workers}, ranks_per_node={ranks_per_node} and rate={rate} must be more than 0"
        )
    folder, on_hub = _folder(str(path), revision)
    split = folder.split(split)
    selection = select(folder, split, length=length, stride=stride, key_only=True, where=Where())
    layout = folder.layout(selection.table, split)
    schedule = Schedule(layout, selection, shuffle, seed)
    if not len(schedule):
        raise UsageError(f"{folder.path}: split {split} has no stories to read. Choose another --split")
    parts = shares(schedule, ranks, workers)
    found = forecast(schedule, layout, parts, epoch)
    chosen = np.unique(np.linspace(0, ranks - 1, min(SAMPLED, ranks)).astype(int)).tolist()
    some = [parts[rank * workers + worker] for rank in chosen for worker in range(workers)]
    halves = [size_of(part) // 2 for part in some]
    whole = forecast(schedule, layout, some, epoch)
    before = fetched(schedule, layout, some, halves, epoch)
    rest = [after(part, taken) for part, taken in zip(some, halves, strict=True)]
    again = forecast(schedule, layout, rest, epoch)
    files = folder.files(selection.table, split)
    sizes = [folder.manifest["index"][index_file(file)]["bytes"] for file in files]
    return Simulation(
        stories=len(schedule),
        ranks=ranks,
        workers=workers,
        consumers=found,
        opening=1 + on_hub + (length is not None),
        index_bytes=float(np.mean(sizes)) if sizes else 0.0,
        rate=rate,
        ranks_per_node=ranks_per_node,
        resume_requests=float((before[:, 0] + again.requests - whole.requests).sum() / len(chosen)),
        resume_bytes=float((before[:, 1] + again.bytes - whole.bytes).sum() / len(chosen)),
        shuffle=shuffle,
        on_hub=on_hub,
    )


def _folder(path: str, revision: str | None) -> tuple[BuiltFolder, bool]:
    """The folder that a manifest describes, and whether its data may be on the Hub."""
    if Path(path).is_file():
        return BuiltFolder(str(Path(path).parent), manifest_file=Path(path).name), True
    folder = BuiltFolder(path, revision)
    return folder, folder.path.startswith("hf://")


def _imbalance(values: NDArray[Any]) -> float:
    mean = float(values.mean())
    return float(values.max() / mean) if mean else 0.0


def _line(name: str, values: NDArray[Any], digits: int = 0) -> str:
    cells = "".join(f"{value:>12,.{digits}f}" for value in (values.min(), values.mean(), values.max()))
    return f"{name:<22}{cells}{_imbalance(values):>12.3f}"


def _time(seconds: float) -> str:
    for name, unit in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:,.1f} seconds"

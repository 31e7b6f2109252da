"""Several datasets as one stream, each story drawn from one of them with a given weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from openstory_hf.errors import UsageError
from openstory_hf.load import StoryStream
from openstory_hf.order import Ints
from openstory_hf.stream import ElasticStream, Intervals, as_torch

Stop = Literal["first", "all"]

_MIXTURE = 3


def mix_stories(
    streams: Mapping[str, StoryStream],
    weights: Mapping[str, float] | None = None,
    *,
    stop: Stop = "first",
    seed: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
) -> MixedStream:
    """Mix streams of stories, with the guarantees of `load_stories`: pure order, equal shares, exact states.

    Each stream keeps its own order; which one gives the next story is drawn by weight.

    Args:
        streams: by a name of your choice.
        weights: how often each is drawn, relative to each other; by default as large as the streams, which gives each
            story once.
        stop: an epoch ends before the "first" stream would begin again, or when "all" have been gone through, those
            that are done beginning again in another order.
        seed: of the draws.
        rank: of this process; taken from torch.distributed when it is initialised.
        world_size: number of processes, likewise.

    Raises:
        UsageError: for no streams, or weights that do not fit them.
    """
    return_value: MixedStream = as_torch(MixedStream(dict(streams), weights, stop, seed, rank, world_size))
    return return_value


class MixedStream(ElasticStream):
    """The iterable that `mix_stories` returns."""

    def __init__(
        self,
        streams: Mapping[str, StoryStream],
        weights: Mapping[str, float] | None,
        stop: Stop,
        seed: int,
        rank: int | None,
        world_size: int | None,
    ) -> None:
        super().__init__(seed, rank, world_size)
        sizes = {name: stream.num_stories for name, stream in streams.items()}
        given = sizes if weights is None else weights
        if not streams or set(given) != set(streams) or not all(0 < weight < np.inf for weight in given.values()):
            raise UsageError(f"weights={given} must give a positive number for each of {', '.join(streams) or 'none'}")
        if stop not in ("first", "all"):
            raise UsageError(f'stop={stop!r} is not "first" or "all"')
        if empty := [name for name, size in sizes.items() if not size]:
            raise UsageError(f"there are no stories in {', '.join(empty)}")
        self._arguments = (streams, weights, stop, seed)
        self._streams = dict(streams)
        self._stop = stop
        total = sum(given.values())
        self._weights = {name: given[name] / total for name in streams}
        self._counts = list(sizes.values()) if weights is None else _counts(sizes, self._weights, stop)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, ((*self._arguments, *self._ranks()), self._shared, self._loaded, self._loaded_by)

    @property
    def num_stories(self) -> int:
        """Stories of an epoch, over all ranks and workers."""
        return sum(self._counts)

    @property
    def identity(self) -> dict[str, Any]:
        """Whatever decides the order and the content of the stories, as JSON."""
        parts = {name: stream.identity for name, stream in self._streams.items()}
        return {"mixture": parts, "weights": self._weights, "stop": self._stop, "seed": self.seed}

    def sources(self, epoch: int) -> Ints:
        """The number of the stream that gives each story of an epoch: int64 (num_stories,)."""
        sources = np.repeat(np.arange(len(self._counts)), self._counts)
        return np.random.default_rng([_MIXTURE, self.seed, epoch]).permutation(sources)

    def _read(self, intervals: Intervals, epoch: int) -> Iterator[dict[str, Any]]:
        sources = self.sources(epoch)
        here = np.zeros(len(sources), bool)
        for start, stop in intervals:
            here[start:stop] = True
        readers = {}
        for number, stream in enumerate(self._streams.values()):
            # the how-manieth stories of this stream stand at the positions to read
            wanted = np.flatnonzero(here[sources == number])
            readers[number] = _laps(stream, wanted, epoch)
        for number in sources[here].tolist():
            yield next(readers[number])


def _counts(sizes: Mapping[str, int], weights: Mapping[str, float], stop: Stop) -> list[int]:
    """Stories of an epoch from each stream: its weight of the whole, rounded.

    The whole ends where the first stream has been gone through, or the last one; rounding gives no stream more stories
    than it has in the first case, nor less in the second.
    """
    ends = [sizes[name] / weights[name] for name in sizes]
    whole = int(min(ends)) if stop == "first" else int(np.ceil(max(ends)))
    edges = np.floor(np.cumsum([0.0, *(weights[name] for name in sizes)]) * whole + 0.5).astype(int)
    limit = min if stop == "first" else max
    return [limit(int(count), size) for count, size in zip(np.diff(edges), sizes.values(), strict=True)]


def _laps(stream: StoryStream, wanted: Ints, epoch: int) -> Iterator[dict[str, Any]]:
    """Stories of a stream by their place in its order, which goes on in another order behind its end."""
    for lap in np.unique(wanted // stream.num_stories).tolist():
        places = wanted[wanted // stream.num_stories == lap] % stream.num_stories
        first = int(places[0])
        yield from stream.stories(stream.order(epoch, lap).at(first, int(places[-1]) + 1)[places - first], epoch, lap)


def _restored(arguments: Any, shared: Any, loaded: dict[str, Any] | None, loaded_by: int) -> MixedStream:
    stream: MixedStream = as_torch(MixedStream(*arguments))
    stream._shared, stream._loaded, stream._loaded_by = shared, loaded, loaded_by
    return stream

"""Batches from worker processes, made in memory that they share with the training process.

A `torch.utils.data.DataLoader` does as well, but copies each batch into new shared memory; pages that are touched for
the first time cost as much as decoding. Here workers fill memory that no batch needs any more.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import os
import tempfile
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openstory_hf.collate.buffers import Reused, allocating, lend
from openstory_hf.errors import OpenStoryError, UsageError
from openstory_hf.stream import ElasticStream, merge_states

Batch = dict[str, Any]
Collate = Callable[[Sequence[dict[str, Any]]], Batch]

_SMALL = 1 << 12
"""Tensors up to this many bytes are sent along; larger ones are put into shared memory."""

_ALIGN = 64
_SHM = Path("/dev/shm")  # files that never reach a disk, where the system has them
_FOLDER = _SHM if _SHM.is_dir() else Path(tempfile.gettempdir())


class WorkerError(OpenStoryError):
    """A worker process ended without a word: killed, most often for want of memory."""


class StoryLoader:
    """Batches of a stream, with exact states, made by this process or by workers.

    The order of the stories is that of a DataLoader with as many workers. A batch stays what it is for as long as
    something refers to it; then its memory is used again.

    Args:
        stream: of `load_stories` or `mix_stories`.
        collate: makes a batch, a dictionary, of a list of rows.
        batch_size: rows of a batch.
        num_workers: processes; 0 makes batches in this one. They live until `close`, or as long as the loader.
        drop_last: leave out the last batch of each worker if it is smaller.
        ahead: batches each worker makes ahead of need.
        start_method: of the processes, "fork", "spawn" or "forkserver"; the system's default if None.

    Raises:
        UsageError: for an option that cannot work.

    >>> from openstory_hf import load_stories
    >>> loader = StoryLoader(load_stories("out"), collator, batch_size=16, num_workers=2)  # doctest: +SKIP
    >>> batch = next(iter(loader))  # doctest: +SKIP
    >>> state = loader.state_dict()  # doctest: +SKIP
    """

    def __init__(
        self,
        stream: ElasticStream,
        collate: Collate,
        batch_size: int,
        *,
        num_workers: int = 0,
        drop_last: bool = False,
        ahead: int = 2,
        start_method: str | None = None,
    ) -> None:
        if batch_size < 1 or num_workers < 0 or ahead < 1:
            raise UsageError(
                f"batch_size={batch_size}, num_workers={num_workers}, ahead={ahead}: they must be at least 1, 0 and 1"
            )
        self.stream = stream
        self._recipe = _Recipe(collate, batch_size, drop_last)
        self._num_workers, self._ahead = num_workers, ahead
        self._context: Any = multiprocessing.get_context(start_method)
        self._workers: list[_Worker] = []
        self._reused = Reused()
        self._states: list[dict[str, Any]] = []
        self._passes = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.stream.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, after the batches that were taken: a state of the stream, see there."""
        return merge_states(*self._states) if self._states else self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on at a state, with whatever number of workers it was taken.

        Raises:
            UsageError: as `ElasticStream.load_state_dict`.
        """
        self.stream.load_state_dict(state)
        self._states = []

    def __iter__(self) -> Iterator[Batch]:
        return self._shared() if self._num_workers else self._alone()

    def _alone(self) -> Iterator[Batch]:
        batches = self._recipe.batches(self.stream)
        while True:
            with allocating(self._reused):  # and not while the consumer has its turn
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _shared(self) -> Iterator[Batch]:
        state, epoch = self.stream.loaded, self.stream.epoch
        if state is not None and state["epoch"] != epoch:
            state = None  # `set_epoch` was called behind it
        if not self._workers:
            self._start()
        self._passes = this = self._passes + 1
        for worker in self._workers:
            worker.begin(epoch, state, self._ahead)
        self._states = [worker.receive() for worker in self._workers]
        self.stream.rewind()  # not before: where this fails, the state is still the one to go on at
        turn = deque(enumerate(self._workers))
        while turn:
            number, worker = turn.popleft()
            batch, self._states[number] = worker.receive()
            if batch is not None:
                turn.append((number, worker))
                worker.ask()
                yield batch
                if self._passes != this:
                    raise UsageError(
                        "another iteration over this StoryLoader has begun: its workers make one at a time"
                    )

    def _start(self) -> None:
        for number in range(self._num_workers):
            here, there = self._context.Pipe()
            arguments = (there, self.stream, self._recipe, number, self._num_workers)
            process = self._context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            there.close()
            self._workers.append(_Worker(process, here))
        self._ending = weakref.finalize(self, _end, list(self._workers))

    def close(self) -> None:
        """End the workers. Batches that were taken stay; another iteration starts new workers."""
        if self._workers:
            self._ending()
            self._workers = []


@dataclass(frozen=True)
class _Recipe:
    collate: Collate
    batch_size: int
    drop_last: bool

    def batches(self, stream: ElasticStream) -> Iterator[Batch]:
        rows: list[dict[str, Any]] = []
        for row in stream:
            rows.append(row)
            if len(rows) == self.batch_size:
                yield self.collate(rows)
                rows = []
        if rows and not self.drop_last:
            yield self.collate(rows)


# -- in the training process


class _Worker:
    """A worker as the training process sees it."""

    def __init__(self, process: Any, connection: Any) -> None:
        self.process, self.connection = process, connection
        self._slots: dict[int, mmap.mmap] = {}
        self._returned: deque[int] = deque()
        self._asked = 0

    def begin(self, epoch: int, state: Mapping[str, Any] | None, ahead: int) -> None:
        """Begin an epoch, or go on at a state; batches of another that are under way are passed over."""
        while self._asked:
            try:
                self.receive()
            except WorkerError:
                raise
            except Exception:  # of a batch, or a state, that nobody wants any more
                continue
        self._say("begin", epoch, state)
        for _ in range(ahead):
            self.ask()

    def ask(self) -> None:
        """Ask for one batch more, and give back the slots that no batch needs any more."""
        self._asked += 1
        self._say("next", [self._returned.popleft() for _ in range(len(self._returned))])

    def receive(self) -> Any:
        """The next answer: a state to `begin`; to `ask` a batch, None behind the last, and the state after it."""
        try:
            kind, *content = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._dead() from None
        if kind == "state":
            return content[0]
        if kind == "refused":
            raise content[0]
        self._asked -= 1
        if kind == "error":
            raise content[0]
        if kind == "end":
            return None, content[0]
        number, path, dropped, entries, state = content
        for gone in dropped:
            del self._slots[gone]
        if path is not None:
            with open(path, "r+b") as file:
                self._slots[number] = mmap.mmap(file.fileno(), 0)
            os.unlink(path)  # the memory stays for as long as it is mapped
        slot = self._slots[number]
        memory = lend(slot, len(slot), lambda: self._returned.append(number))
        return {name: _opened(memory, entry) for name, entry in entries.items()}, state

    def _say(self, *message: Any) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionError):
            raise self._dead() from None

    def _dead(self) -> WorkerError:
        self.process.join(timeout=5)
        return WorkerError(
            f"a worker process ended without a word (exit code {self.process.exitcode}), most often for want of "
            "memory. Resume from the last state, with fewer workers or smaller batches"
        )


def _opened(memory: memoryview, entry: Any) -> Any:
    if isinstance(entry, _Place):
        array = np.frombuffer(memory, entry.dtype, int(np.prod(entry.shape)), entry.offset)
        return torch.from_numpy(array.reshape(entry.shape))
    return torch.from_numpy(entry) if isinstance(entry, np.ndarray) else entry


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            worker.connection.send(("stop",))
    for worker in workers:
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.terminate()
        worker.connection.close()
        _clear(worker.process.pid)


def _clear(worker: int | None) -> None:
    """Remove the shared memory that a worker has made and nobody has opened."""
    for path in _FOLDER.glob(f"openstory-{worker}-*"):
        path.unlink(missing_ok=True)


# -- in a worker


@dataclass(frozen=True)
class _Place:
    """Where a tensor is in a slot."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class _Slots:
    """Shared memory of a worker: each batch is made in a slot that the training process has given back."""

    def __init__(self) -> None:
        self.dropped: list[int] = []
        self._maps: dict[int, mmap.mmap] = {}
        self._free: list[int] = []
        self._made = 0
        self._largest = 0
        self._current: int | None = None
        self._used = 0

    def give_back(self, numbers: Sequence[int]) -> None:
        """These slots may be filled again."""
        for number in numbers:
            if len(self._maps[number]) < self._largest:
                self._drop(number)
            else:
                self._free.append(number)

    def allocate(self, size: int) -> Any:
        """Memory for a tensor of the batch that is being made: in the slot, if there is room."""
        if self._current is None and self._free:
            self._current, self._used = self._free.pop(), 0
        if self._current is None or self._used + size > len(self._maps[self._current]):
            return bytearray(size)
        start = self._used
        self._used += -(-size // _ALIGN) * _ALIGN
        return memoryview(self._maps[self._current])[start : start + size]

    def put(self, batch: Batch) -> tuple[int, str | None, dict[str, Any]]:
        """Number of the slot that holds a batch, the path of its file if it is new, and the entries."""
        arrays = {
            name: np.ascontiguousarray(value.numpy()).reshape(value.shape)  # which makes an array of a number
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }
        large = {name: array for name, array in arrays.items() if array.nbytes > _SMALL}
        path = None
        offsets = {name: self._inside(array) for name, array in large.items()}
        missing = sum(-(-large[name].nbytes // _ALIGN) * _ALIGN for name, at in offsets.items() if at is None)
        if self._current is None and self._free:
            self._current, self._used = self._free.pop(), 0
        if self._current is None or self._used + missing > len(self._maps[self._current]):
            path = self._grow(max(_ALIGN, sum(-(-array.nbytes // _ALIGN) * _ALIGN for array in large.values())))
            offsets = dict.fromkeys(large)
        assert self._current is not None
        number, slot = self._current, self._maps[self._current]
        entries: dict[str, Any] = {}
        for name, value in batch.items():
            if name not in large:
                entries[name] = arrays.get(name, value)
                continue
            array, offset = large[name], offsets[name]
            if offset is None:
                offset = self._used
                self._used += -(-array.nbytes // _ALIGN) * _ALIGN
                np.frombuffer(slot, array.dtype, array.size, offset).reshape(array.shape)[...] = array
            entries[name] = _Place(array.dtype.str, array.shape, offset)
        self._current = None
        return number, path, entries

    def _drop(self, number: int) -> None:
        """Forget a slot that is too small for what batches have become."""
        del self._maps[number]
        self.dropped.append(number)

    def _inside(self, array: np.ndarray[Any, Any]) -> int | None:
        """The offset of an array in the current slot, None if it is elsewhere."""
        if self._current is None:
            return None
        slot = np.frombuffer(self._maps[self._current], np.uint8)
        offset = array.ctypes.data - slot.ctypes.data
        return offset if 0 <= offset < len(slot) else None

    def _grow(self, size: int) -> str:
        """A new slot; the one in use, which was too small, is left behind."""
        self._largest = max(self._largest, size)
        handle, path = tempfile.mkstemp(prefix=f"openstory-{os.getpid()}-", dir=_FOLDER)
        try:
            os.truncate(handle, self._largest)
            if self._current is not None:
                self._drop(self._current)
            self._current, self._used = self._made, 0
            self._made += 1
            self._maps[self._current] = mmap.mmap(handle, self._largest)
        finally:
            os.close(handle)
        return path


def _work(connection: Any, stream: ElasticStream, recipe: _Recipe, worker: int, workers: int) -> None:
    """Answer `begin` and `next` until told to stop, or until the training process is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # as in a DataLoader: the processes are the parallelism
    gc.freeze()  # what was imported is no garbage, and need not be searched again and again
    stream.take_part(worker, workers)
    slots = _Slots()
    batches: Iterator[Batch] = iter(())
    while True:
        kind, *content = connection.recv()
        if kind == "stop":
            return
        if kind == "begin":
            epoch, state = content
            stream.rewind()
            try:
                if state is None:
                    stream.set_epoch(epoch)
                else:
                    stream.load_state_dict(state)
                connection.send(("state", stream.state_dict()))
                batches = recipe.batches(stream)
            except Exception as error:
                batches = iter(())
                connection.send(("refused", _portable(error)))
            continue
        slots.give_back(content[0])
        try:
            with allocating(slots.allocate):
                batch = next(batches, None)
            if batch is None:
                connection.send(("end", stream.state_dict()))
                continue
            number, path, entries = slots.put(batch)
            connection.send(("batch", number, path, slots.dropped, entries, stream.state_dict()))
            slots.dropped = []
        except Exception as error:
            batches = iter(())
            connection.send(("error", _portable(error)))


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        _clear(os.getpid())
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """An error that can be sent: our own as they are, others as text with where they arose."""
    if isinstance(error, OpenStoryError):
        try:
            return type(error)(str(error))
        except TypeError:  # it is made of more than its message
            return OpenStoryError(str(error))
    return RuntimeError("a worker of the StoryLoader failed:\n" + "".join(traceback.format_exception(error)))

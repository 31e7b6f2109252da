"""Batches on an accelerator before they are needed: copied by a thread of their own while those before them train."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openstory_hf.errors import UsageError
from openstory_hf.loader import Batch, StoryLoader


class DeviceLoader:
    """The batches of a `StoryLoader` with their tensors on a device, and the states that belong to them.

    A thread takes the batches from the loader and copies them, so neither holds up the thread that trains. On a CUDA
    device, copies have a stream of their own and go through page-locked memory, which is used again when its copy is
    through.

    Args:
        loader: makes the batches.
        device: where their tensors are wanted; entries that are no tensors stay as they are.
        ahead: batches that are copied before they are asked for.

    Raises:
        UsageError: if `ahead` is not at least 1.

    >>> from openstory_hf.loader import StoryLoader
    >>> loader = DeviceLoader(StoryLoader(stories, collator, batch_size=16, num_workers=4), "cuda")  # doctest: +SKIP
    >>> batch = next(iter(loader))  # doctest: +SKIP
    >>> state = loader.state_dict()  # after this batch, whatever is under way  # doctest: +SKIP
    """

    def __init__(self, loader: StoryLoader, device: torch.device | str, *, ahead: int = 2) -> None:
        if ahead < 1:
            raise UsageError(f"ahead={ahead}: it must be at least 1")
        self._loader, self._device, self._ahead = loader, torch.device(device), ahead
        self._state: dict[str, Any] | None = None

    def set_epoch(self, epoch: int) -> None:
        """As `StoryLoader.set_epoch`."""
        self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As `StoryLoader.state_dict`, after the batches that were taken from here."""
        return self._loader.state_dict() if self._state is None else self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `StoryLoader.load_state_dict`."""
        self._loader.load_state_dict(state)
        self._state = None

    def __iter__(self) -> Iterator[Batch]:
        self._state = None
        copies = _CudaCopies(self._device) if self._device.type == "cuda" else _Copies(self._device)
        batches = iter(self._loader)

        def begun() -> tuple[Batch, dict[str, Any]] | None:
            batch = next(batches, None)
            return None if batch is None else (copies.begun(batch), self._loader.state_dict())

        with ThreadPoolExecutor(1, thread_name_prefix="openstory-copy") as thread:
            coming: deque[Future[tuple[Batch, dict[str, Any]] | None]] = deque()
            try:
                while True:
                    while len(coming) <= self._ahead:
                        coming.append(thread.submit(begun))
                    found = coming.popleft().result()
                    if found is None:
                        return
                    batch, self._state = found
                    yield copies.finished(batch)
            finally:
                thread.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End the workers of the loader."""
        self._loader.close()


class _Copies:
    """Copies of batches, in the order in which they were begun."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def begun(self, batch: Batch) -> Batch:
        """A batch whose tensors are, or will be, on the device."""
        return {name: self.tensor(name, value) for name, value in batch.items()}

    def tensor(self, name: str, value: Any) -> Any:
        # a copy even to the processor itself: the loader may use its memory again
        return value.to(self.device, copy=True) if isinstance(value, torch.Tensor) else value

    def finished(self, batch: Batch) -> Batch:
        """The batch that was begun longest ago, to be used on the current stream."""
        return batch


def _bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """The memory of a tensor, of any dtype."""
    return np.asarray(tensor.detach().view(-1).view(torch.uint8).numpy())


class _CudaCopies(_Copies):
    """Copies on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._locked: dict[str, torch.Tensor] = {}
        self._used: deque[tuple[dict[str, torch.Tensor], torch.cuda.Event]] = deque()
        self._under_way: deque[torch.cuda.Event] = deque()

    def begun(self, batch: Batch) -> Batch:
        if self._used and self._used[0][1].query():  # type: ignore[no-untyped-call]
            self._locked, _ = self._used.popleft()
        with torch.cuda.stream(self._stream):
            copied = super().begun(batch)
            done = self._stream.record_event()
        self._used.append((self._locked, done))
        self._locked = {}
        self._under_way.append(done)
        return copied

    def tensor(self, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
            return super().tensor(name, value)
        held = self._locked.get(name)
        if held is None or held.dtype != value.dtype or held.numel() < value.numel():
            held = self._locked[name] = torch.empty(value.numel(), dtype=value.dtype, pin_memory=True)
        place = held[: value.numel()].view(value.shape)
        # by NumPy: torch would share it among as many threads as there are cores, which are the workers'
        np.copyto(_bytes(place), _bytes(value.contiguous()))
        return place.to(self.device, non_blocking=True)

    def finished(self, batch: Batch) -> Batch:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self._under_way.popleft())
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                value.record_stream(current)  # its memory is not given away while kernels of this stream read it
        return batch

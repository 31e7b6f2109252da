"""Where the large tensors of a batch are made: in fresh memory, or in memory that earlier batches no longer need.

Fresh memory is dear: the system clears it page by page as it is first touched, which takes as long as filling it.
Memory is used again when nothing refers to it any more, so a batch that is kept stays what it was.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

Allocate = Callable[[int], Any]
"""Gives memory of at least so many bytes, as an object with the buffer protocol."""

_allocate: ContextVar[Allocate | None] = ContextVar("allocate", default=None)

_NUMPY = {torch.uint8: np.uint8, torch.float32: np.float32}


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor to be filled, contiguous; in memory that is used again if the caller runs within `allocating`."""
    allocate = _allocate.get()
    if allocate is None:
        return torch.empty(*shape, dtype=dtype)
    kind = np.dtype(_NUMPY[dtype])
    count = math.prod(shape)
    memory = allocate(count * kind.itemsize)
    return torch.from_numpy(np.frombuffer(memory, kind, count).reshape(shape))


@contextlib.contextmanager
def allocating(allocate: Allocate) -> Iterator[None]:
    """Let `empty` take its memory from an allocator."""
    token = _allocate.set(allocate)
    try:
        yield
    finally:
        _allocate.reset(token)


def lend(memory: Any, size: int, returned: Callable[[], None]) -> memoryview:
    """Lend the first bytes of some memory, and be told when no array or tensor made of them is left.

    Args:
        memory: an object with the buffer protocol, writable.
        size: bytes to lend.
        returned: called once, from whatever thread drops the last reference.
    """
    lent = np.frombuffer(memory, np.uint8, size)
    view = memoryview(lent.data)  # holds the array, and is held by all that is made of it
    weakref.finalize(lent, returned)
    return view


class Reused:
    """An allocator that lends memory of earlier tensors as soon as they are gone."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def __call__(self, size: int) -> memoryview:
        """Memory of so many bytes."""
        fits = [memory for memory in self._free if len(memory) >= size]
        memory = min(fits, key=len) if fits else bytearray(size)
        if fits:
            self._free.remove(memory)
        return lend(memory, size, lambda: self._free.append(memory))

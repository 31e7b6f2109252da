"""Packing: several stories in one sequence of fixed length, each blind to the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put things into bins in the order given, each into the first bin that has room.

    Args:
        lengths: of the things, each at most `capacity`.
        capacity: of each bin.

    Returns:
        the things of each bin, as places in `lengths`.

    >>> first_fit([5, 6, 4, 3], capacity=10)
    [[0, 2], [1, 3]]
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for place, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"number {place} is {length} long, more than a bin holds ({capacity})")
        number = next((number for number, left in enumerate(room) if length <= left), len(bins))
        if number == len(bins):
            bins.append([])
            room.append(capacity)
        bins[number].append(place)
        room[number] -= length
    return bins


def block_causal_mask(story_index: torch.Tensor) -> torch.Tensor:
    """Which position may attend to which: those before it and itself, of its own story.

    Padding attends to padding alone, so that no row is empty and softmax stays finite.

    Args:
        story_index: int64 (B, L), the story of each position, -1 on padding.

    Returns:
        bool (B, 1, L, L), True where the query (third axis) may attend to the key (last axis), as
        `torch.nn.functional.scaled_dot_product_attention` and models of `transformers` take it.

    >>> block_causal_mask(torch.tensor([[0, 0, 1]]))[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    same = story_index[:, :, None] == story_index[:, None, :]
    return same.tril()[:, None]

"""Story-visualization datasets as streaming Hugging Face datasets, and collators that turn them into batches.

The names below are the public interface; they are imported when first used, so that `import openstory_hf` is light
and works without torch. Everything else is reached by its module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from openstory_hf.version import __version__

if TYPE_CHECKING:
    from openstory_hf.builder import StoryBuilder
    from openstory_hf.collate import (
        CharacterCollator,
        CharacterTokens,
        ChatCollator,
        InterleavedCollator,
        StoryTensorCollator,
    )
    from openstory_hf.info import Info
    from openstory_hf.load import load_stories
    from openstory_hf.mix import mix_stories
    from openstory_hf.selection import Where
    from openstory_hf.stream import merge_states

_ROOMS = {
    "CharacterCollator": "collate",
    "CharacterTokens": "collate",
    "ChatCollator": "collate",
    "Info": "info",
    "InterleavedCollator": "collate",
    "StoryBuilder": "builder",
    "StoryTensorCollator": "collate",
    "Where": "selection",
    "load_stories": "load",
    "merge_states": "stream",
    "mix_stories": "mix",
}

__all__ = [
    "CharacterCollator",
    "CharacterTokens",
    "ChatCollator",
    "Info",
    "InterleavedCollator",
    "StoryBuilder",
    "StoryTensorCollator",
    "Where",
    "__version__",
    "load_stories",
    "merge_states",
    "mix_stories",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"openstory_hf.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

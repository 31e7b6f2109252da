"""Helpers for tests and offline demos: drawn stories, a tokenizer without a download, a Hub and a file server."""

from openstory_hf.testing.hub import LocalHub
from openstory_hf.testing.server import FileServer
from openstory_hf.testing.stories import drawn_story
from openstory_hf.testing.tokenizers import tiny_tokenizer

__all__ = ["FileServer", "LocalHub", "drawn_story", "tiny_tokenizer"]

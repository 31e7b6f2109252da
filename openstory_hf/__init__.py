"""Story-visualization datasets as streaming Hugging Face datasets, and collators that turn them into batches."""

from openstory_hf.version import __version__

__all__ = ["__version__"]

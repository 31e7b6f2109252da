"""Collators: small frozen dataclasses that turn rows of the `stories` table into batches of tensors.

The only part of the package that imports torch.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("the collators need PyTorch: pip install 'openstory_hf[torch]'") from error

from openstory_hf.collate.character_tokens import CharacterTokens
from openstory_hf.collate.interleaved import InterleavedCollator

__all__ = ["CharacterTokens", "InterleavedCollator"]

"""Collators: small frozen dataclasses that turn rows of the `stories` table into batches of tensors.

| recipe | collator |
|---|---|
| diffusion, a picture per frame: Story-LDM, AR-LDM | `StoryTensorCollator`; AR-LDM: `StoryTensorCollator.ar_ldm` |
| diffusion with characters bound to words: StoryGPT-V, stage 1 | `CharacterCollator` |
| which tokens speak of which character, for losses on cross-attention | `CharacterTokens` |
| interleaved language models of your own, from any tokenizer | `InterleavedCollator` |
| interleaved: StoryGPT-V, stage 2; GILL; SEED-Story; Openstory++ | `InterleavedCollator.preset` |
| chat models, from any processor with a chat template; TRL | `ChatCollator` |

`StoryGPTV`, `Gill` and `SeedStory` are the layouts behind these presets and give the samples of single stories;
`normalize` scales uint8 pictures on the device; `block_causal_mask` keeps packed stories from each other.

The only part of the package that imports torch.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("the collators need PyTorch: pip install 'openstory_hf[torch]'") from error

from openstory_hf.collate.character import CharacterCollator
from openstory_hf.collate.character_tokens import CharacterTokens
from openstory_hf.collate.chat import ChatCollator
from openstory_hf.collate.gill import Gill
from openstory_hf.collate.interleaved import InterleavedCollator
from openstory_hf.collate.packing import block_causal_mask
from openstory_hf.collate.pixels import normalize
from openstory_hf.collate.seed_story import SeedStory
from openstory_hf.collate.story_tensor import StoryTensorCollator
from openstory_hf.collate.storygpt_v_stage2 import StoryGPTV

__all__ = [
    "CharacterCollator",
    "CharacterTokens",
    "ChatCollator",
    "Gill",
    "InterleavedCollator",
    "SeedStory",
    "StoryGPTV",
    "StoryTensorCollator",
    "block_causal_mask",
    "normalize",
]

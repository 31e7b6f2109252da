"""Train a small interleaved language model from streamed stories: pictures and captions in one sequence.

    python scripts/train_interleaved_lm.py FOLDER [--length 4] [--steps 40] [--captions referential]

FOLDER is written by `openstory build`; any dataset will do. Without a download of pictures, for example:
`openstory fake flintstones_sv RAW; openstory build flintstones_sv --raw RAW --out FOLDER --on-error quarantine`.

A picture is cut into patches, each a linear function of its pixels (as in Fuyu), that stand among the words; a
causal transformer predicts every caption from what stands before it. Replace `InterleavedLM` by a pretrained model and
the word tokenizer by its own; the stream, the collator and the loss stay.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from openstory_hf import InterleavedCollator, load_stories
from openstory_hf.testing import tiny_tokenizer


class InterleavedLM(nn.Module):
    """A causal transformer over words and patches of pictures."""

    def __init__(self, vocabulary: int, longest: int, patch: int, width: int = 96, layers: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.vocabulary = nn.Linear(width, vocabulary)

    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, image_positions: torch.Tensor
    ) -> torch.Tensor:
        """Logits (B, L, vocabulary) of the token after each.

        Args:
            input_ids: (B, L), padded on the right, so that the causal mask hides the padding.
            pixel_values: (I, 3, H, W).
            image_positions: (B, L), which picture stands at a placeholder, -1 at words.
        """
        longest = input_ids.shape[1]
        visual = self.patches(pixel_values).flatten(2).transpose(1, 2)  # (I, patches, width)
        sequence = self.words(input_ids)
        # placeholders and patches both go story by story, picture by picture, row by row
        sequence = sequence.masked_scatter((image_positions >= 0)[:, :, None], visual.to(sequence.dtype))
        sequence = sequence + self.places.weight[:longest]
        causal = nn.Transformer.generate_square_subsequent_mask(longest, device=input_ids.device)
        logits: torch.Tensor = self.vocabulary(self.layers(sequence, mask=causal, is_causal=True))
        return logits


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, and return the loss of every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--split", default="train")
    parser.add_argument("--captions", default="original", help='"original", "referential", or a policy')
    parser.add_argument("--length", type=int, default=4, help="frames per story")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens per story; the last frames go first")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4, help="stories")
    parser.add_argument("--image-size", type=int, default=64, help="a multiple of 4: a picture is 4 x 4 patches")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)

    options = {"length": given.length, "captions": given.captions, "shuffle": True, "seed": given.seed}
    stories = load_stories(given.folder, given.split, **options)
    tokenizer = tiny_tokenizer(text for row in itertools.islice(stories, 1000) for text in row["texts"])
    collate = InterleavedCollator(
        tokenizer=tokenizer,
        tokens_per_image=16,
        target="all",
        image_size=given.image_size,
        max_length=given.max_length,
        truncate="newest",
    )
    loader = DataLoader(stories, given.batch_size, collate_fn=collate, num_workers=given.workers)

    model = InterleavedLM(len(tokenizer), given.max_length, patch=given.image_size // 4).to(given.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses: list[float] = []
    for epoch in itertools.count():
        stories.set_epoch(epoch)
        for batch in itertools.islice(loader, given.steps - len(losses)):
            batch = {name: value.to(given.device) for name, value in batch.items()}
            logits = model(batch["input_ids"], batch["pixel_values"], batch["image_positions"])
            # labels are not shifted: what stands at a place is predicted from the place before it
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % 10 == 0:
                print(f"step {len(losses)}, epoch {epoch}: {losses[-1]:.3f} per token", flush=True)
        if len(losses) >= given.steps:
            break
    print(f"loss: {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")
    return losses


if __name__ == "__main__":
    main()

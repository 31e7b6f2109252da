"""Train a small text-to-picture diffusion model whose attention learns which words draw which character.

    python scripts/train_diffusion_masks.py FOLDER [--steps 80] [--attention-weight 0.1]

FOLDER is written by `openstory build`, of a dataset with character masks. To try it without a download:
`openstory fake flintstones_sv RAW; openstory build flintstones_sv --raw RAW --out FOLDER --on-error quarantine`.

The recipe is that of StoryGPT-V's first stage (Shen and Elhoseiny, 2023), after FastComposer: noise is predicted with
cross-attention to the caption; for some batches the error counts inside the characters' masks alone; and for each
character the attention to its words is pulled into its mask. Pixels and a word embedding stand in for the latents and
the text encoder of a pretrained model: replace `Denoiser`, keep `collate`, `attention_loss` and the loop.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from openstory_hf import load_stories
from openstory_hf.collate.character_tokens import CharacterTokens
from openstory_hf.collate.story_tensor import StoryTensorCollator
from openstory_hf.testing import tiny_tokenizer

STEPS = 1000  # of diffusion


def collate(rows: Sequence[Any], pictures: StoryTensorCollator, captions: CharacterTokens) -> dict[str, Tensor]:
    """The frames of some stories: pictures, captions, and of every character its words and its mask."""
    stories, words = pictures(rows), captions(rows)
    frames = stories["frame_mask"]  # both go story by story, frame by frame
    masks, who = stories["instance_masks"][frames], stories["instance_characters"][frames]
    of_character = (who[:, :, None] == torch.arange(len(captions.characters))).float()  # (F, K, C)
    return {
        "pixels": stories["pixel_values"][frames],
        **{name: words[name] for name in ("input_ids", "attention_mask")},
        "words": words["character_token_mask"].float(),  # (F, C, L)
        "masks": torch.einsum("fkhw,fkc->fchw", masks, of_character).clamp(max=1),  # (F, C, h, w)
    }


class Denoiser(nn.Module):
    """Predict the noise in a picture from its caption; a quarter of the side is where it attends to the words."""

    def __init__(self, vocabulary: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.enter, self.down = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 4, stride=4)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.middle = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.up, self.leave = nn.ConvTranspose2d(width, width, 4, stride=4), nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, noisy: Tensor, step: Tensor, input_ids: Tensor, is_text: Tensor) -> tuple[Tensor, Tensor]:
        """The noise (F, 3, H, W) and the attention (F, h, w, L) of places in the picture to words."""
        width = self.words.embedding_dim
        angles = step[:, None] * torch.logspace(0, -4, width // 2, device=noisy.device)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None]
        text = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        fine = functional.silu(self.enter(noisy) + time)
        coarse = self.down(fine)
        scores = torch.einsum("fhwd,fld->fhwl", self.query(coarse.movedim(1, -1)), self.key(text)) / width**0.5
        attention = scores.masked_fill(~is_text[:, None, None], -torch.inf).softmax(-1)
        coarse = coarse + torch.einsum("fhwl,fld->fdhw", attention, self.value(text))
        coarse = coarse + self.middle(coarse)
        return self.leave(torch.cat([fine, functional.silu(self.up(coarse))], 1)), attention


def attention_loss(attention: Tensor, words: Tensor, masks: Tensor) -> Tensor:
    """Mean attention to a character's words outside its mask minus inside: -1 at best, 0 where masks are ignored.

    Args:
        attention: (F, h, w, L), the shares of the words at every place.
        words: (F, C, L), 1 on the tokens that speak of a character.
        masks: (F, C, h, w), the share of every place that the character covers.
    """
    maps = torch.einsum("fhwl,fcl->fchw", attention, words)
    inside = (maps * masks).sum((2, 3)) / masks.sum((2, 3)).clamp(min=1e-6)
    outside = (maps * (1 - masks)).sum((2, 3)) / (1 - masks).sum((2, 3)).clamp(min=1e-6)
    both = (words.sum(2) > 0) & (masks.sum((2, 3)) > 0)  # spoken of and seen
    return torch.where(both, outside - inside, 0).sum() / both.sum().clamp(min=1)


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, and return the loss of every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--split", default="train")
    parser.add_argument("--captions", default="original", help='"original", "referential", or a policy')
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=4, help="stories")
    parser.add_argument("--image-size", type=int, default=32, help="a multiple of 4")
    parser.add_argument("--attention-weight", type=float, default=0.1)
    parser.add_argument("--masked-share", type=float, default=0.3, help="share of the steps with a masked error")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    stories = load_stories(given.folder, given.split, captions=given.captions, shuffle=True, seed=given.seed)
    some = [(row["texts"], row["characters"]) for row in itertools.islice(stories, 1000)]
    tokenizer = tiny_tokenizer(text for texts, _ in some for text in texts)
    cast = sorted({name for _, frames in some for names in frames for name in names})
    if not cast:
        parser.error("these stories name no characters; choose a dataset with masks of characters")
    pictures = StoryTensorCollator(image_size=given.image_size, cast=cast, mask_grid=(given.image_size // 4,) * 2)
    captions = CharacterTokens(tokenizer=tokenizer, characters=cast, max_length=96)
    loader = DataLoader(stories, given.batch_size, collate_fn=partial(collate, pictures=pictures, captions=captions))

    model = Denoiser(len(tokenizer), length=96).to(given.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    kept = torch.cos(torch.linspace(0, 1, STEPS) * math.pi / 2).square().clamp(1e-4, 0.9999).to(given.device)
    losses: list[float] = []
    while len(losses) < given.steps:
        stories.set_epoch(len(losses))  # any number that has not been
        for batch in itertools.islice(loader, given.steps - len(losses)):
            batch = {name: value.to(given.device) for name, value in batch.items()}
            noise = torch.randn_like(batch["pixels"])
            step = torch.randint(STEPS, (len(noise),), device=given.device)
            share = kept[step].view(-1, 1, 1, 1)
            noisy = share.sqrt() * batch["pixels"] + (1 - share).sqrt() * noise
            guess, attention = model(noisy, step, batch["input_ids"], batch["attention_mask"].bool())
            where = torch.ones_like(noise[:, :1])
            if torch.rand(()) < given.masked_share:
                where = functional.interpolate(batch["masks"].amax(1, keepdim=True), scale_factor=4.0)
            denoising = ((guess - noise).square() * where).sum() / (3 * where.sum()).clamp(min=1)
            pull = attention_loss(attention, batch["words"], batch["masks"])
            loss = denoising + given.attention_weight * pull
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % 20 == 0:
                print(f"step {len(losses)}: noise {denoising.item():.3f}, attention {pull.item():.3f}", flush=True)
    tenth = len(losses) // 10 or 1
    before, after = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    print(f"loss: {before:.3f} over the first {tenth} steps, {after:.3f} over the last")
    return losses


if __name__ == "__main__":
    main()

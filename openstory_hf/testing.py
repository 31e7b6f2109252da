"""Helpers for tests and offline demos: a tokenizer without a download, drawn stories with known masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from openstory_hf import fakes, masks, pictures

_WORD = r"\w+|\W"


def tiny_tokenizer(texts: Iterable[str]) -> Any:
    r"""Make a word-level tokenizer that knows the words, blanks and signs of some texts.

    Ids 0 to 4 are "<pad>", "<s>", "</s>", "<unk>" and "<image>"; then come the words, blanks and signs in order
    of appearance. Decoding gives the text back, blanks included. Needs `transformers`.

    Returns:
        a `transformers.PreTrainedTokenizerFast`.

    >>> tokenizer = tiny_tokenizer(["Dino runs. Dino naps."])
    >>> tokenizer("Dino naps.")["input_ids"]
    [5, 6, 9, 8]
    >>> tokenizer.decode([5, 6, 9, 8])
    'Dino naps.'
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = [*special.values(), "<image>", *(word for text in texts for word in re.findall(_WORD, text))]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=["<image>"], **special)


def drawn_story(
    *,
    frames: int = 5,
    cast: Sequence[str] = ("fred", "wilma"),
    place: str = "river",
    height: int = 64,
    width: int = 64,
    story_id: str = "drawn/1",
) -> dict[str, Any]:
    """A row of the `stories` table: drawn PNG pictures with one masked instance per figure and plain captions.

    Args:
        frames: number of frames.
        cast: the figures, in every frame.
        place: the background.
        height: of the pictures in pixels.
        width: of the pictures in pixels; the figures stand to the left.
        story_id: "<dataset>/<source id>".
    """
    dataset, _, sequence = story_id.partition("/")
    images, instances, captions, mentions = [], [], [], []
    for step in range(frames):
        pixels, labels, _ = fakes.scene(cast, size=max(height, width), step=step, place=place)
        images.append({"bytes": pictures.encode_png(pixels[-height:, :width]), "path": f"{sequence}_{step}.png"})
        figures = [masks.encode(labels[-height:, :width] == number + 1) for number in range(len(cast))]
        instances.append(
            [
                {
                    "label": name,
                    "character": name,
                    "bbox": list(masks.bbox(rle)),
                    "segmentation": rle,
                    "score": None,
                }
                for name, rle in zip(cast, figures, strict=True)
            ]
        )
        who = " and ".join(name.title() for name in cast) or "Nobody"
        caption = f"{who} walked {step + 1} steps along the {place}."
        captions.append(caption)
        mentions.append([_mention(name, caption.index(name.title())) for name in cast])
    return {
        "story_id": story_id,
        "dataset": dataset,
        "sequence_id": sequence,
        "language": "en",
        "license": "",
        "frame_ids": [f"{sequence}_{step}" for step in range(frames)],
        "captions": captions,
        "referential_captions": list(captions),
        "mentions": mentions,
        "characters": [list(cast) for _ in range(frames)],
        "setting": [place] * frames,
        "instances": instances,
        "timestamps": [float(step) for step in range(frames)],
        "source": {"file": "", "index": 0},
        "extras": "",
        "images": images,
    }


def _mention(name: str, start: int) -> dict[str, Any]:
    stop = start + len(name)
    return {"character": name, "start": start, "end": stop, "ref_start": start, "ref_end": stop}

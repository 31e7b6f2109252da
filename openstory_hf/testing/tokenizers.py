"""A tokenizer without a download."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

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

"""The toy tokenizers that the golden files of training samples were made with, and one that knows given words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizer

PAD, BOS, UNK = 1, 2, 3
"""Ids of `word_tokenizer`."""

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"


class ToyTokenizer(PreTrainedTokenizer):
    """A slow `transformers` tokenizer made of one "tokenizer" record, whose fields are all of its rules.

    Texts are split by `pattern` (lower-cased before if `lowercase`), `splits` cut some tokens into sub-tokens, and
    `vocab` numbers them. bos and eos go where `adds_bos` and `adds_eos` say. With a `call_prefix`, each call whose
    first token is not one of `special` starts with that token, as SentencePiece's blank does.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self._names = {number: token for token, number in record["vocab"].items()}
        named = {f"{role}_token": record[role] for role in ("bos", "eos", "pad", "unk")}
        limit = record["model_max_length"]
        super().__init__(
            **named,
            extra_special_tokens=[token for token in record["special"] if token not in named.values()],
            do_lower_case=record["lowercase"],
            **({} if limit is None else {"model_max_length": limit}),
        )

    def __reduce__(self) -> tuple[type[ToyTokenizer], tuple[dict[str, Any]]]:
        return ToyTokenizer, (self.record,)

    @property
    def vocab_size(self) -> int:
        return max(self._names) + 1

    def get_vocab(self) -> dict[str, int]:
        return {**self.record["vocab"], **self.added_tokens_encoder}

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        tokens: list[str] = super().tokenize(text, **kwargs)
        prefix = self.record["call_prefix"]
        return [prefix, *tokens] if prefix and tokens and tokens[0] not in self.record["special"] else tokens

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        found = re.findall(self.record["pattern"], text.lower() if self.record["lowercase"] else text)
        return [part for token in found for part in self.record["splits"].get(token, [token])]

    def _convert_token_to_id(self, token: str) -> int:
        number: int = self.record["vocab"].get(token, self.record["unk_id"])
        return number

    def _convert_id_to_token(self, index: int) -> str:
        return self._names.get(index, self.record["unk"])

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        assert token_ids_1 is None, "no recipe encodes pairs"
        bos = [self.record["bos_id"]] if self.record["adds_bos"] else []
        eos = [self.record["eos_id"]] if self.record["adds_eos"] else []
        return [*bos, *token_ids_0, *eos]


def read_golden(name: str) -> tuple[dict[str, ToyTokenizer], list[dict[str, Any]]]:
    """The tokenizers, by name, and the cases of `collate_<name>.jsonl`; skips the test if the file is not there."""
    path = GOLDEN / f"collate_{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in ../shared/golden")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    tokenizers = {record["name"]: ToyTokenizer(record) for record in records if record["record"] == "tokenizer"}
    return tokenizers, [record for record in records if record["record"] == "case"]


def word_tokenizer(*texts: str, images: int = 8, **changes: Any) -> ToyTokenizer:
    """A tokenizer like that of GILL and StoryGPT-V: a begin token, and image tokens "[IMG0]", ....

    Args:
        *texts: their words and signs are the vocabulary, in order of appearance.
        images: how many image tokens.
        **changes: fields of the record.
    """
    names = [f"[IMG{number}]" for number in range(images)]
    words = [word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)]
    vocabulary = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *words, *"[]<>", *names])
    record = {
        "pattern": r"\[IMG\d\]|\w+|[^\w\s]",
        "lowercase": False,
        "splits": {},
        "special": names,
        "bos": "</s>",
        "eos": "</s>",
        "pad": "<pad>",
        "unk": "<unk>",
        "bos_id": BOS,
        "eos_id": BOS,
        "pad_id": PAD,
        "unk_id": UNK,
        "adds_bos": True,
        "adds_eos": False,
        "model_max_length": None,
        "call_prefix": None,
        "vocab": {word: number for number, word in enumerate(vocabulary)},
    }
    return ToyTokenizer({**record, **changes})

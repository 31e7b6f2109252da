"""Stories as chats: what a `transformers` processor makes of them, with labels on what the assistant says."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch

from openstory_hf import pictures
from openstory_hf.collate.common import IGNORE, check_choice
from openstory_hf.errors import UsageError, reason_of
from openstory_hf.views import row_error, to_messages

Truncate = Literal["oldest", "newest", "error"]
Row = Mapping[str, Any]
Message = dict[str, Any]


class _Turn(NamedTuple):
    """A user message with what follows up to the next; of a row of `stories`, one frame."""

    messages: list[Message]
    images: list[Any]


class _Chat(NamedTuple):
    row: Row
    system: list[Message]
    turns: list[_Turn]


class _Script(NamedTuple):
    """The text that the template makes of a chat, and places in it."""

    text: str
    said: list[int]  # where what the assistant says starts and stops, in turn
    ends: list[int]  # where each turn ends


class _Tokens(NamedTuple):
    """The tokens of a chat, with padding; `ids` and `trained` are parallel."""

    ids: list[int]
    trained: list[bool]
    length: int  # without padding
    of_turns: list[int]  # tokens of each turn


@dataclass(frozen=True, kw_only=True)
class ChatCollator:
    """Turn stories into a batch for a vision-language model that chats, with any processor and its chat template.

    Rows of `stories` become conversations by `views.to_messages`: the user shows picture after picture, the assistant
    tells each. Rows that have a column `messages` are taken as they are, so the collator also serves as
    `data_collator` of TRL's `SFTTrainer`.

    Only what the assistant says is trained. Where that begins and ends is found by rendering every beginning of the
    conversation, so templates need no `{% generation %}` marks; a template for which the beginning of a conversation
    is not the beginning of the rendered text (some rewrite earlier turns) is refused. What the template writes after
    its generation prompt is the assistant's, the mark that ends the turn included; of two turns that share a token,
    the one with its last character has it. The processor sees each text whole and each picture once, and sets
    placeholders as it does for the finished model; they are not trained in any turn. Special tokens spelt out in a
    text are read as such, as the processor does.

    A call changes neither the examples nor the collator, and the same examples give the same batch. Can be pickled.

    Args:
        processor: a `transformers` processor with a chat template and a fast tokenizer that has a pad token.
        text: column of the texts of `stories`; by default "texts" in rows that have it, else "captions".
        prompt: what the user says before the first picture.
        chat_template: used instead of the processor's own.
        image_token: what the template writes for a picture; by default the processor's `image_token`.
        max_length: most tokens per story, placeholders included, or None.
        truncate: what to do with a longer story: drop whole turns (frames), the oldest or the newest first, or raise.
            System messages and the `prompt` stay. The pictures of a batch with such a story are processed again.

    Raises:
        UsageError: for an option that cannot work at all or with this processor.

    Example::

        processor = transformers.AutoProcessor.from_pretrained("Qwen/Qwen2.5-VL-3B-Instruct")
        collate = ChatCollator(processor=processor, prompt="Tell me this story.", max_length=4096, truncate="oldest")
        loader = torch.utils.data.DataLoader(load_stories(OUT, "train"), batch_size=4, collate_fn=collate)
        loss = model(**next(iter(loader))).loss
    """

    processor: Any
    text: str | None = None
    prompt: str | None = None
    chat_template: str | None = None
    image_token: str | None = None
    max_length: int | None = None
    truncate: Truncate = "error"

    def __post_init__(self) -> None:
        check_choice("truncate", self.truncate, Truncate)
        tokenizer: Any = getattr(self.processor, "tokenizer", None)
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"{self._name} has no fast tokenizer, which alone says where in the text its tokens come from; load "
                "one with transformers.AutoProcessor.from_pretrained(...)"
            )
        if tokenizer.pad_token_id is None:
            raise UsageError("the tokenizer has no pad token; try processor.tokenizer.pad_token = ...eos_token")
        if self.chat_template is None and getattr(self.processor, "chat_template", None) is None:
            raise UsageError(f"{self._name} has no chat template; pass chat_template=")
        if not self._image_token:
            raise UsageError(f"{self._name} does not say what stands for a picture; pass image_token=")

    def __call__(self, examples: Sequence[Row]) -> dict[str, Any]:
        """Collate B stories to L tokens in the longest.

        Args:
            examples: rows of `stories`, or of `messages` (a list of {role, content}, content a list of blocks) and
                `images`, one for each block of type "image".

        Returns:
            what the processor gives, for most: `input_ids` and `attention_mask`, int64 (B, L), padded on the right,
            and `pixel_values`, one entry per picture; and

            - `labels`: int64 (B, L), unshifted: the id on what the assistant says, -100 elsewhere.

        Raises:
            RowError: naming the story, if its texts, pictures and turns do not belong together, if a picture does not
                decode, if the template does not suit it, or if it does not fit into `max_length`.
            UsageError: if there are no examples, or the processor changes tokens after its tokenizer.
        """
        if not examples:
            raise UsageError("a batch needs at least one example")
        chats = [self._chat(row) for row in examples]
        while True:
            batch, stories = self._process(chats)
            fitting = [self._shortened(chat, tokens) for chat, tokens in zip(chats, stories, strict=True)]
            if all(short is chat for short, chat in zip(fitting, chats, strict=True)):
                break
            chats = fitting
        trained = torch.tensor([tokens.trained for tokens in stories])
        batch["labels"] = batch["input_ids"].masked_fill(~trained, IGNORE)
        return batch

    # -- conversations

    def _chat(self, row: Row) -> _Chat:
        if row.get("messages") is None:
            chat = to_messages(row, self.text or ("texts" if row.get("texts") is not None else "captions"))
        else:
            chat = {name: list(row.get(name) or []) for name in ("messages", "images")}
        # Arrow gives every block all keys of the column; templates ask which are there
        if any(message.get("content") is None for message in chat["messages"]):
            raise row_error(row, "a message has no content")
        messages = [{**one, "content": _without_nulls(_blocks(one["content"]))} for one in chat["messages"]]
        starts = [number for number, message in enumerate(messages) if message["role"] == "user"]
        of_turns = [messages[start:stop] for start, stop in pairwise([*starts, len(messages)])]
        system = messages[: starts[0]] if starts else messages
        if not starts or any(turn[-1]["role"] != "assistant" for turn in of_turns) or _pictures_in(system):
            roles = ", ".join(message["role"] for message in messages)
            raise row_error(row, f"user and assistant must take turns, the user first; the roles are: {roles}")
        images, counts = iter(chat["images"]), [_pictures_in(turn) for turn in of_turns]
        if sum(counts) != len(chat["images"]):
            raise row_error(row, f"{len(chat['images'])} pictures for {sum(counts)} blocks of type 'image'")
        decoded = [self._decoded(row, images, count) for count in counts]
        return _Chat(row, system, [_Turn(*turn) for turn in zip(of_turns, decoded, strict=True)])

    @staticmethod
    def _decoded(row: Row, images: Iterator[Any], count: int) -> list[Any]:
        found = [next(images) for _ in range(count)]
        if any(image is None for image in found):
            raise row_error(row, "pictures are missing")
        try:
            return [pictures.decode(image) for image in found]
        except pictures.UndecodableError as error:
            raise row_error(row, f"a picture does not decode: {error}") from None

    def _shortened(self, chat: _Chat, tokens: _Tokens) -> _Chat:
        """The chat without the turns that must go for `max_length`, as far as the tokens of its turns tell."""
        start, stop, length = 0, len(chat.turns), tokens.length
        while self.max_length is not None and length > self.max_length:
            if self.truncate == "error" or stop - start == 1:
                raise row_error(
                    chat.row,
                    f"{stop - start} turns make {length} tokens (by turn: {tokens.of_turns[start:stop]}), but "
                    f"max_length={self.max_length}; raise it, shorten the texts"
                    + (', or pass truncate="oldest" or "newest"' if self.truncate == "error" else ""),
                )
            length -= tokens.of_turns[start if self.truncate == "oldest" else stop - 1]
            start, stop = (start + 1, stop) if self.truncate == "oldest" else (start, stop - 1)
        return chat._replace(turns=chat.turns[start:stop]) if stop - start < len(chat.turns) else chat

    # -- text

    @property
    def _name(self) -> str:
        of = getattr(getattr(self.processor, "tokenizer", None), "name_or_path", "")
        return f"{type(self.processor).__name__}{f' of {of!r}' if of else ''}"

    @property
    def _image_token(self) -> str:
        return self.image_token or str(getattr(self.processor, "image_token", None) or "")

    def _script(self, chat: _Chat) -> _Script:
        messages = chat.system + [message for turn in chat.turns for message in turn.messages]
        if self.prompt is not None:
            first = messages[len(chat.system)]
            asked = {**first, "content": [{"type": "text", "text": self.prompt}, *first["content"]]}
            messages[len(chat.system)] = asked
        text = self._rendered(chat.row, messages)
        there = sum(len(turn.images) for turn in chat.turns)
        if (found := text.count(self._image_token)) != there:
            raise row_error(
                chat.row,
                f"{there} pictures, but {found} placeholders {self._image_token!r} in the text; the chat template of "
                f"{self._name} must write one per picture, and no text may spell it out",
            )
        said, ends = [], []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._rendered(chat.row, messages[:number], add_generation_prompt=True)
            after = self._rendered(chat.row, messages[: number + 1])
            if not (text.startswith(before) and text.startswith(after) and len(before) <= len(after)):
                raise row_error(
                    chat.row,
                    f"the chat template of {self._name} renders the first {number + 1} messages otherwise than as the "
                    "beginning of the whole, so nobody can say which text is the assistant's; pass a chat_template "
                    "that leaves earlier turns as they are",
                )
            said += [len(before), len(after)]
            if number + 1 == len(messages) or messages[number + 1]["role"] == "user":
                ends.append(len(after))
        return _Script(text, said, ends)

    def _rendered(self, row: Row, messages: list[Message], **options: Any) -> str:
        try:
            return str(
                self.processor.apply_chat_template(
                    messages, tokenize=False, chat_template=self.chat_template, **options
                )
            )
        except Exception as error:  # templates raise what they like
            raise row_error(row, f"the chat template of {self._name} fails: {reason_of(error)}") from error

    # -- the processor

    def _process(self, chats: Sequence[_Chat]) -> tuple[dict[str, Any], list[_Tokens]]:
        scripts = [self._script(chat) for chat in chats]
        images = [[image for turn in chat.turns for image in turn.images] for chat in chats]
        # processors expand placeholders each in their own way and then call their tokenizer, which tells the rest
        tokenizer = _Listening(self.processor.tokenizer)
        processor = copy.copy(self.processor)
        processor.tokenizer = tokenizer
        bos = tokenizer.bos_token
        batch = processor(
            text=[script.text for script in scripts],
            images=images if any(images) else None,
            padding=True,
            padding_side="right",
            # the rule of ProcessorMixin.apply_chat_template: a template that writes bos writes all special tokens
            add_special_tokens=not (bos and all(script.text.startswith(bos) for script in scripts)),
            return_tensors="pt",
        )
        if [encoding.ids for _, encoding in tokenizer.heard] != batch["input_ids"].tolist():
            raise UsageError(f"{self._name} changes the tokens its tokenizer gives, so they cannot be labelled")
        heard = zip(chats, scripts, tokenizer.heard, strict=True)
        return dict(batch), [self._tokens(chat, script, *expanded) for chat, script, expanded in heard]

    def _tokens(self, chat: _Chat, script: _Script, expanded: str, encoding: Any) -> _Tokens:
        """Sort the tokens of an expanded text by the places in the script."""
        pieces = script.text.split(self._image_token)
        starts = [0]  # of the pieces in the script
        for piece in pieces[:-1]:
            starts.append(starts[-1] + len(piece) + len(self._image_token))
        places = _places(pieces, expanded)
        if places is None:
            raise row_error(
                chat.row, f"the text cannot be told from what {self._name} puts in the places of the pictures"
            )
        trained, of_turns = [], [0] * (len(script.ends) + 1)
        for start, end in encoding.offsets:
            if start == end:  # padding, and special tokens that the tokenizer adds
                trained.append(False)
                continue
            # the last character decides: it is what the token was written for
            number = max(bisect_right(places, end - 1) - 1, 0)  # a processor may put something in front
            within = end - 1 - places[number]
            is_text = 0 <= within < len(pieces[number])
            position = starts[number] + min(within, len(pieces[number]))
            trained.append(is_text and bisect_right(script.said, position) % 2 == 1)
            of_turns[bisect_right(script.ends, position)] += 1
        return _Tokens(list(encoding.ids), trained, sum(encoding.attention_mask), of_turns)


class _Listening:
    """A tokenizer that remembers what it was last asked, and what it answered."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.heard: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str | Sequence[str], **options: Any) -> Any:
        made = self._tokenizer(text, **options)
        self.heard = list(zip([text] if isinstance(text, str) else text, made.encodings, strict=True))
        return made


def _places(pieces: Sequence[str], expanded: str) -> list[int] | None:
    """Where each piece of a text stands in it when something has been put between them; None if that is not sure.

    No way to place the pieces is further to the front than that found from the front, none further to the back than
    that found from the back. Where the two agree, there is no other.
    """
    front: list[int] = []
    back: list[int] = []
    start, stop = 0, len(expanded)
    for piece in pieces:
        front.append(expanded.find(piece, start))
        start = front[-1] + len(piece)
    for piece in reversed(pieces):
        back.insert(0, expanded.rfind(piece, 0, max(stop, 0)))
        stop = back[0]
    agree = all(a == b >= 0 for piece, a, b in zip(pieces, front, back, strict=True) if piece)
    return front if agree else None


def _blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _without_nulls(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in block.items() if value is not None} for block in content]


def _pictures_in(messages: Sequence[Message]) -> int:
    return sum(block["type"] == "image" for message in messages for block in message["content"])

"""Pure functions on rows of the `stories` table: the forms that trainers ask for.

Each takes a row (any mapping with the columns of `schema.STORIES`) and returns new dictionaries; the row is
never changed. Pictures are passed through as they are, encoded or decoded. `token_spans` and `tidy` work on a text.

| view | gives | for |
|---|---|---|
| `windows` | rows of shorter stories | any length of story |
| `to_pairs` | a row per frame: `image`, `caption`, its labels and masks | text-to-image trainers, CLIP |
| `visualization`, `continuation` | a row: what is given, what is to be drawn | story generation and its evaluation |
| `to_interleaved` | a row: `texts`, `images` with holes | OBELICS-like pretraining |
| `to_messages` | a row: `messages`, `images` | TRL and other chat trainers |

All serve `map` of a `datasets.Dataset` and of a streaming `IterableDataset`. `features` has the columns of each, and
`batched` wraps the views that give several rows:

    stories = load_dataset(OUT, split="train", streaming=True)
    stories.map(to_messages, remove_columns=stories.column_names, features=features(to_messages))
    stories.map(batched(to_pairs), batched=True, remove_columns=stories.column_names, features=features(to_pairs))

Streamed pictures are decoded; after `.decode(False)` they are not. A map-style dataset stores what a view gives, so
let its pictures pass encoded, `stories.cast_column("images", List(Image(decode=False)))`: decoded ones would be
encoded anew, which takes time and, for JPEG, quality. Importing this module takes the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from openstory_hf.errors import OpenStoryError, UsageError

if TYPE_CHECKING:
    from datasets import Features

Row = dict[str, Any]
Order = Literal["image_first", "caption_first"]
Span = tuple[int, int]


class RowError(OpenStoryError):
    """A row that a view or a collator cannot use; the message names its story."""


def row_error(row: Mapping[str, Any], problem: str) -> RowError:
    """The error to raise for a row, naming its story."""
    return RowError(f"story {row.get('story_id', '(no story_id)')!r}: {problem}")


def frame_texts(row: Mapping[str, Any], text: str = "captions") -> list[str]:
    """The text of every frame.

    Args:
        row: a story.
        text: the column to read: "captions", "referential_captions", or "texts" (added by `load_stories`).

    Raises:
        RowError: if the row has no such column, or an entry of it is not text.
    """
    texts = row.get(text)
    if texts is None:
        raise row_error(row, f"no column {text!r}; the row has {', '.join(row)}")
    for number, value in enumerate(texts):
        if not isinstance(value, str):
            raise row_error(row, f"{text}[{number}] is {type(value).__name__}, expected text")
    return list(texts)


def frame_images(row: Mapping[str, Any], count: int, *, lists: bool = False) -> list[Any]:
    """The pictures of a story, one for each of its `count` frames.

    Args:
        row: a story.
        count: its frames.
        lists: a frame may have a list of pictures, as `load_stories(frame="all")` gives them.

    Raises:
        RowError: if pictures are missing, or there are more or fewer than `count`, or several of a frame.
    """
    images = row.get("images")
    if images is None or any(image is None for image in images):
        raise row_error(row, 'pictures are missing; read the "stories" config ("annotations" leaves the pictures out)')
    if not lists and any(isinstance(image, list) for image in images):
        raise row_error(row, 'its frames have lists of pictures, of frame="all"; choose one with another `frame`')
    if len(images) != count:
        raise row_error(row, f"{len(images)} pictures for {count} texts; there must be one picture per frame")
    return list(images)


def windows(row: Mapping[str, Any], length: int, stride: int = 1) -> list[Row]:
    """Cut a story into sub-stories of `length` frames, one every `stride` frames.

    Every list of the row is per frame and is cut, as are the per-frame entries of `extras`; `source` follows
    the start, and `story_id` gets the suffix "#start-stop" (frames of the row, end exclusive). A story shorter
    than `length` gives none.

    Referential captions are cut, not rewritten, so a pronoun may refer to a character named before the cut.
    `load_stories(length=...)` rewrites them for each window.

    Raises:
        UsageError: if `length` or `stride` is below 1.
        RowError: if the lists are not parallel.
    """
    if length < 1 or stride < 1:
        raise UsageError(f"length and stride must be at least 1, got length={length}, stride={stride}")
    lengths = {name: len(value) for name, value in row.items() if isinstance(value, list)}
    if len(set(lengths.values())) != 1:
        raise row_error(row, f"its lists must have one entry per frame each, but their lengths are {lengths}")
    frames = next(iter(lengths.values()))
    return [cut(row, start, start + length) for start in range(0, frames - length + 1, stride)]


def cut(row: Mapping[str, Any], start: int, stop: int) -> Row:
    """Frames [start, stop) of a story as a story of its own; see `windows`."""
    made = {name: value[start:stop] if isinstance(value, list) else value for name, value in row.items()}
    made["story_id"] = f"{row['story_id']}#{start}-{stop}"
    if row.get("draw") is not None:  # a number of its own, or all windows of a story would draw the same
        digest = hashlib.blake2b(f"{row['draw']}#{start}-{stop}".encode(), digest_size=7)
        made["draw"] = int.from_bytes(digest.digest(), "big")
    if row.get("source"):
        made["source"] = {**row["source"], "index": row["source"]["index"] + start}
    extras = json.loads(row.get("extras") or "{}")
    if "frames" in extras:
        extras["frames"] = extras["frames"][start:stop]
        made["extras"] = json.dumps(extras, ensure_ascii=False, sort_keys=True)
    return made


def to_pairs(row: Mapping[str, Any], text: str = "captions") -> list[Row]:
    """The frames of a story as single pictures with captions; to `map` them, wrap it in `batched`.

    Args:
        row: a story.
        text: the column to read.

    Returns:
        one row per frame. `key`, "<story_id>#<number of the frame>", is unique over a dataset; `key` and `caption` are
        the names of img2dataset, `image` that of diffusers' text-to-image scripts, which take the text with
        `--caption_column caption`. `frame_id`, `characters`, `setting` and `instances` are the frame's, None where
        the story has no such column. Stories that overlap share frames: `frame_id` tells which.

    Raises:
        RowError: if texts or pictures are missing, or their numbers differ.
    """
    captions = frame_texts(row, text)
    images = frame_images(row, len(captions))
    of_frames = {"frame_id": "frame_ids", "characters": "characters", "setting": "setting", "instances": "instances"}
    return [
        {
            "key": f"{row.get('story_id')}#{number}",
            "image": images[number],
            "caption": captions[number],
            **{name: row[column][number] if row.get(column) else None for name, column in of_frames.items()},
        }
        for number in range(len(captions))
    ]


def visualization(row: Mapping[str, Any], text: str = "captions") -> Row:
    """The task of story visualization: draw every frame, given the captions alone.

    Args:
        row: a story.
        text: the column to read.

    Returns:
        the columns of `continuation`, with `source_image` and `source_caption` None.

    Raises:
        RowError: if texts or pictures are missing, or their numbers differ.
    """
    return _task(row, text, given=0)


def continuation(row: Mapping[str, Any], text: str = "captions") -> Row:
    """The task of story continuation: draw the frames after the first, given the first (StoryDALL-E, AR-LDM).

    Args:
        row: a story.
        text: the column to read.

    Returns:
        - `story_id`.
        - `source_image`, `source_caption`: the frame that is given.
        - `captions`, `images`: of the frames to draw, in order; the pictures are what a result is compared with.
        - `frame_ids`, `characters`, `setting`: of the frames to draw; None where the story has no such column.

    Raises:
        RowError: if texts or pictures are missing, their numbers differ, or no frame is left to draw.
    """
    return _task(row, text, given=1)


def _task(row: Mapping[str, Any], text: str, given: int) -> Row:
    captions = frame_texts(row, text)
    images = frame_images(row, len(captions))
    if len(captions) <= given:
        raise row_error(row, f"{len(captions)} frames, {given} of them given, leave none to draw")
    others = ("frame_ids", "characters", "setting")
    return {
        "story_id": row.get("story_id"),
        "source_image": images[0] if given else None,
        "source_caption": captions[0] if given else None,
        "captions": captions[given:],
        "images": images[given:],
        **{name: list(row[name][given:]) if row.get(name) else None for name in others},
    }


def to_interleaved(
    row: Mapping[str, Any], text: str = "captions", order: Order = "image_first"
) -> dict[str, list[Any]]:
    """One document of alternating pictures and texts, in the layout of OBELICS.

    Returns:
        `texts` and `images`: parallel lists, two entries per frame, with a text or a picture at each place and
        None in the other list.

    Raises:
        RowError: if texts or pictures are missing, or their numbers differ.
        UsageError: for an unknown order.
    """
    if order not in ("image_first", "caption_first"):
        raise UsageError(f'order must be "image_first" or "caption_first", got {order!r}')
    captions = frame_texts(row, text)
    texts: list[str | None] = []
    images: list[Any] = []
    for caption, image in zip(captions, frame_images(row, len(captions)), strict=True):
        texts += [None, caption] if order == "image_first" else [caption, None]
        images += [image, None] if order == "image_first" else [None, image]
    return {"texts": texts, "images": images}


def to_messages(row: Mapping[str, Any], text: str = "captions", prompt: str | None = None) -> dict[str, list[Any]]:
    """A conversation in TRL's vision format: the user shows picture after picture, the assistant tells each.

    Content blocks have exactly the keys `type` and `text`. A block must not have an `image` key: Arrow gives
    every block of a column the same keys, and TRL takes a block that has it, even null, as already filled.

    Args:
        row: a story.
        text: the column to read.
        prompt: what the user says before the first picture.

    Returns:
        `messages`: two per frame; `images`: one per `{"type": "image"}` block, in the same order.

    Raises:
        RowError: if texts or pictures are missing, or their numbers differ.
    """
    captions = frame_texts(row, text)
    images = frame_images(row, len(captions))
    messages: list[dict[str, Any]] = []
    for caption in captions:
        messages.append({"role": "user", "content": [{"type": "image", "text": None}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": caption}]})
    if prompt is not None and messages:
        messages[0]["content"].insert(0, {"type": "text", "text": prompt})
    return {"messages": messages, "images": images}


def batched(view: Callable[[Row], list[Row]]) -> Callable[[Mapping[str, list[Any]]], dict[str, list[Any]]]:
    """A view that gives several rows, as the function that `map(..., batched=True)` calls with columns.

    The result can be pickled if the view can. Options of a view are set with `functools.partial`.

    >>> batched(partial(windows, length=2))({"story_id": ["s/1", "s/2"], "captions": [["a", "b", "c"], ["d"]]})
    {'story_id': ['s/1#0-2', 's/1#1-3'], 'captions': [['a', 'b'], ['b', 'c']]}
    """
    return partial(_on_columns, view)


def _on_columns(view: Callable[[Row], list[Row]], columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    names = list(columns)
    rows = (dict(zip(names, values, strict=True)) for values in zip(*(columns[name] for name in names), strict=True))
    made = [result for row in rows for result in view(row)]
    return {name: [row[name] for row in made] for name in (made[0] if made else names)}


def features(view: Callable[..., Any]) -> Features:
    """The columns a view gives, whatever the rows: for `map(view, features=...)`.

    `datasets` would otherwise guess them from the first rows, where a hole looks like a column without a type and an
    encoded picture like two columns; a streaming dataset would have none. Imports `datasets`.

    Raises:
        UsageError: for a function that is not a view; of a `functools.partial` or `batched` view, give the view.
    """
    from datasets import Features, Image, List, Value

    from openstory_hf.schema import STORIES

    text, image = Value("string"), Image()
    per_frame = {name: STORIES[name] for name in ("frame_ids", "characters", "setting")}
    task = {"story_id": text, "source_image": image, "source_caption": text, "captions": List(text)}
    block = {"type": text, "text": text}
    columns: dict[Callable[..., Any], dict[str, Any]] = {
        windows: STORIES,
        to_pairs: {
            "key": text,
            "image": image,
            "caption": text,
            "frame_id": text,
            "characters": STORIES["characters"].feature,
            "setting": text,
            "instances": STORIES["instances"].feature,
        },
        visualization: {**task, "images": List(image), **per_frame},
        continuation: {**task, "images": List(image), **per_frame},
        to_interleaved: {"texts": List(text), "images": List(image)},
        to_messages: {"messages": List({"role": text, "content": List(block)}), "images": List(image)},
    }
    if view not in columns:
        raise UsageError(f"{view!r} is not a view; these are: {', '.join(known.__name__ for known in columns)}")
    return Features(columns[view])


def token_spans(offsets: Sequence[Span], spans: Iterable[Span]) -> list[Span]:
    """Find the tokens of stretches of a text, such as mentions.

    A token belongs to a span if the two share a character, so a token that takes in a blank before a name, or several
    tokens for the bytes of one character, all count. Tokens without width (special tokens, padding) belong to none.

    Args:
        offsets: half-open character offsets of each token in the text: `offset_mapping` of a fast tokenizer.
        spans: half-open character offsets in the same text.

    Returns:
        for each span the tokens [first, last) that it takes from its first token to its last; (-1, -1) if it has none.

    >>> token_spans([(0, 0), (0, 4), (4, 8), (8, 14)], [(9, 14)])  # "Wilma" in "<s>", "Fred", " and", " Wilma"
    [(3, 4)]
    """
    found = []
    for start, end in spans:
        inside = [index for index, (left, right) in enumerate(offsets) if max(left, start) < min(right, end)]
        found.append((inside[0], inside[-1] + 1) if inside else (-1, -1))
    return found


def tidy(text: str) -> str:
    r"""Join hard line breaks and runs of blanks to one space, and strip.

    >>> tidy("  Once upon\na   time ")
    'Once upon a time'
    """
    return " ".join(text.split())

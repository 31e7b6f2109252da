"""From records to rows, and the Hugging Face builder every dataset inherits.

A dataset is a module with `INFO`, `units`, `sequences` and `fake`, tied together by a `StoryBuilder` subclass. The
rows made here are the same whether they are streamed straight from the raw release or written to Parquet.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Literal

import datasets

from openstory_hf import codecs
from openstory_hf.codecs import DEFAULT_CODEC, Codec
from openstory_hf.errors import BuildError, OpenStoryError, SourceError, UsageError, reason_of
from openstory_hf.fakes import RawWriter
from openstory_hf.info import Info
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Reject, Sequence, Unit, Window
from openstory_hf.references import POLICIES, rewrite
from openstory_hf.schema import SCHEMA_VERSION, TABLES, StoredFrame, check_sequence, frame_row, store, story_row

OnError = Literal["raise", "quarantine"]
OnReject = Callable[[Reject], None]

DEFAULT_POLICY = "grammatical"
_MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def stop_at(reject: Reject) -> None:
    """The `raise` error policy: turn a bad record into an error with the way out."""
    raise BuildError(
        f"{reject}\nBuild with --on-error quarantine to leave the record out, or correct the release and build it "
        "into an empty folder"
    ) from reject


@dataclass
class Tally:
    """What one pass over some units saw and made; `seen = written + rejected` must hold for both levels.

    `pictures_encoded` counts the pictures of the frames written that were raw pixels.
    """

    frames_seen: int = 0
    frames_written: int = 0
    frames_rejected: int = 0
    stories_seen: int = 0
    stories_written: int = 0
    stories_rejected: int = 0
    pictures_encoded: int = 0

    def add(self, other: Tally) -> None:
        """Add the counts of another pass."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def balanced(self) -> bool:
        """Whether every record seen is accounted for."""
        return (
            self.frames_seen == self.frames_written + self.frames_rejected
            and self.stories_seen == self.stories_written + self.stories_rejected
        )


class StoryConfig(datasets.BuilderConfig):
    """What may be chosen when a builder is used directly.

    Args:
        policy: referential-text policy.
        on_error: "raise" stops at the first bad record, "quarantine" leaves bad records out and logs them.
        options: the dataset's own options (`INFO.options`), name -> values.
        image_codec: of pictures that are raw pixels: "png", "webp", or "jpeg", which is lossy.
        **kwargs: name, data_dir and the other fields of `datasets.BuilderConfig`.
    """

    def __init__(
        self,
        *,
        policy: str = DEFAULT_POLICY,
        on_error: OnError = "raise",
        options: Mapping[str, Iterable[str]] | None = None,
        image_codec: str = DEFAULT_CODEC,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.policy = policy
        self.on_error = on_error
        self.options = options
        self.image_codec = image_codec


class StoryBuilder(datasets.GeneratorBasedBuilder):
    """Base of every dataset: give it `INFO`, `units`, `sequences` and `fake`, and it streams and packages itself.

    `Dataset(data_dir=RAW).as_streaming_dataset(split="train")` gives the rows of the built `stories` table;
    `Dataset(config_name="frames", data_dir=RAW)` those of `frames` where the dataset has one.
    """

    INFO: ClassVar[Info]
    units: ClassVar[Callable[..., list[Unit]]]
    sequences: ClassVar[Callable[[Raw, Unit], Iterable[Sequence | Reject]]]
    fake: ClassVar[Callable[[RawWriter], None]]

    BUILDER_CONFIG_CLASS = StoryConfig
    DEFAULT_CONFIG_NAME = "stories"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        version = datasets.Version(f"{SCHEMA_VERSION}.0.0")  # a class VERSION is ignored once configs are named
        cls.BUILDER_CONFIGS = [StoryConfig(name=table, version=version) for table in tables(cls.INFO)]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.INFO.summary,
            features=TABLES[self.config.name],
            citation=self.INFO.citation,
            homepage=self.INFO.homepage,
            license=self.INFO.license_name or self.INFO.license,
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        raw = open_raw(type(self), self.config.data_dir)
        options = chosen_options(self.INFO, self.config.options or {})
        units = {split: list_units(type(self), raw, split, options) for split in self.INFO.splits}
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"units": found}) for split, found in units.items() if found
        ]

    def _generate_examples(self, units: list[Unit]) -> Iterator[tuple[Any, dict[str, Any]]]:
        log = datasets.utils.logging.get_logger(__name__)
        on_reject: OnReject = stop_at
        if self.config.on_error == "quarantine":
            on_reject = lambda reject: log.warning("left out: %s", reject)  # noqa: E731
        raw = Raw(self.config.data_dir)
        for unit_number, unit in enumerate(units):
            made = rows(
                type(self),
                raw,
                unit,
                policy=self.config.policy,
                image_codec=self.config.image_codec,
                on_reject=on_reject,
                tally=Tally(),
            )
            for number, (table, row) in enumerate(made):
                if table == self.config.name:
                    yield datasets.builder.Key(unit_number, number), row


def tables(info: Info) -> tuple[str, ...]:
    """The tables a dataset is packaged into."""
    return ("stories", "frames") if info.frames_table else ("stories",)


def open_raw(builder: type[StoryBuilder], path: Any) -> Raw:
    """Open a raw release, or say how to obtain it.

    Raises:
        SourceError: if the path is not given or not there.
    """
    obtain = f"\n\nHow to obtain {builder.INFO.title}:\n{builder.INFO.obtain.strip()}"
    if not path:
        raise SourceError(f"no raw release was given (data_dir, or --raw on the command line).{obtain}")
    try:
        return Raw(path)
    except SourceError as error:
        raise SourceError(f"{error}{obtain}") from None


def chosen_options(info: Info, given: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Every option of a dataset with the values chosen, or its default.

    Raises:
        UsageError: for an option the dataset does not have.
    """
    if unknown := sorted(set(given) - set(info.options)):
        known = ", ".join(info.options) or "none"
        raise UsageError(f"{info.title} has no option {', '.join(unknown)}. Its options: {known}")
    return {name: tuple(given.get(name) or option.default) for name, option in info.options.items()}


def list_units(
    builder: type[StoryBuilder], raw: Raw, split: str, options: Mapping[str, tuple[str, ...]]
) -> list[Unit]:
    """The units of a split, checked to have distinct names.

    Raises:
        SourceError: if the release cannot be planned; with how to obtain it when files are missing.
    """
    try:
        units = builder.units(raw, split, **options)
    except Reject as reject:
        raise SourceError(f"{reject}\n\nFiles the release must have:\n{builder.INFO.tree}") from None
    except _MALFORMED as error:
        raise SourceError(f"{raw.path}: an index file has unexpected content: {reason_of(error)}") from error
    if len({unit.unit_id for unit in units}) != len(units):
        twice = Counter(unit.unit_id for unit in units).most_common(1)[0][0]
        raise SourceError(f"{raw.path}: two units of split {split} are called {twice!r}")
    return units


def rows(
    builder: type[StoryBuilder],
    raw: Raw,
    unit: Unit,
    *,
    policy: str,
    image_codec: str,
    on_reject: OnReject,
    tally: Tally,
    threads: int = 1,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (table, row) of a unit in a fixed order, each source frame read once, few frames held at a time.

    Args:
        builder: the dataset.
        raw: its release.
        unit: the piece of work.
        policy: referential-text policy.
        image_codec: of pictures that are raw pixels, a name in `codecs.CODECS`.
        on_reject: called with every record that cannot be used; may raise to stop.
        tally: counts are added to it.
        threads: that check and encode frames; with one, it is done by the caller's.

    Raises:
        UsageError: for an unknown policy or codec.
    """
    codec = codecs.get(image_codec)
    if policy not in POLICIES:
        raise UsageError(f"unknown referential-text policy {policy!r}; choose from {', '.join(POLICIES)}")
    with ThreadPoolExecutor(threads) if threads > 1 else contextlib.nullcontext() as pool:
        for sequence in _sequences(builder, raw, unit, on_reject, tally):
            frames = _stored_ahead(sequence, codec, pool, threads + 1) if pool else _stored(sequence, codec)
            yield from _sequence_rows(builder, sequence, frames, policy, on_reject, tally)


def _sequences(
    builder: type[StoryBuilder], raw: Raw, unit: Unit, on_reject: OnReject, tally: Tally
) -> Iterator[Sequence]:
    def refuse(reject: Reject, file: str = "") -> None:
        reject.record = reject.record or unit.unit_id
        reject.file = reject.file or file or str(unit.data.get("file", ""))
        tally.stories_seen += len(reject.stories)
        tally.stories_rejected += len(reject.stories)
        on_reject(reject)

    found = iter(builder.sequences(raw, unit))
    while True:
        try:
            item = next(found, None)
        except Reject as reject:
            return refuse(reject)
        except _MALFORMED as error:
            return refuse(_unexpected(error, unit.unit_id))
        if item is None:
            return
        if isinstance(item, Reject):
            refuse(item)
            continue
        for known in item.rejects:
            refuse(known, item.file)
        try:
            check_sequence(item)
        except Reject as reject:
            reject.stories = tuple(f"{dataset_name(builder)}/{window.story_id}" for window in item.windows)
            refuse(reject, item.file)
            continue
        yield item


def _sequence_rows(
    builder: type[StoryBuilder],
    sequence: Sequence,
    frames: Iterable[_Pending],
    policy: str,
    on_reject: OnReject,
    tally: Tally,
) -> Iterator[tuple[str, dict[str, Any]]]:
    dataset = dataset_name(builder)
    windows = sorted(sequence.windows, key=lambda window: (window.stop, window.start))
    tally.frames_seen += len(sequence.frame_ids)
    tally.stories_seen += len(windows)
    keep_from = list(accumulate((window.start for window in reversed(windows)), min))[::-1]
    held: dict[int, StoredFrame] = {}  # the frames that open windows still need, key pictures only
    lost: set[Window] = set()
    done = 0
    for position, (frame_id, pending) in enumerate(zip(sequence.frame_ids, frames, strict=True)):
        try:
            stored = pending()
        except Reject as reject:
            tally.frames_rejected += 1
            hit = [w for w in windows if w.start <= position < w.stop and w not in lost]
            lost.update(hit)
            tally.stories_rejected += len(hit)
            reject.record = reject.record or frame_id
            reject.file = reject.file or sequence.file
            reject.stories = tuple(f"{dataset}/{window.story_id}" for window in hit)
            on_reject(reject)
        else:
            tally.frames_written += 1
            tally.pictures_encoded += sum(picture.pixels is not None for picture in stored.frame.pictures)
            if builder.INFO.frames_table:
                yield "frames", frame_row(dataset, sequence, position, stored)
            held[position] = stored.key_only()
        while done < len(windows) and windows[done].stop == position + 1:
            if windows[done] not in lost:
                tally.stories_written += 1
                yield "stories", _story(builder, sequence, windows[done], held, policy)
            done += 1
        for stale in [at for at in held if done == len(windows) or at < keep_from[done]]:
            del held[stale]


def _story(
    builder: type[StoryBuilder],
    sequence: Sequence,
    window: Window,
    held: Mapping[int, StoredFrame],
    policy: str,
) -> dict[str, Any]:
    frames = [held[position] for position in range(window.start, window.stop)]
    rewritten = rewrite(
        [stored.frame.caption for stored in frames],
        [stored.frame.characters for stored in frames],
        builder.INFO.characters,
        policy,
    )
    return story_row(dataset_name(builder), sequence, window, frames, rewritten)


_Pending = Callable[[], StoredFrame]
"""Gives a frame in column form, or raises the `Reject` of it."""


def _stored(sequence: Sequence, codec: Codec) -> Iterator[_Pending]:
    """The frames of a sequence, each read when it is asked for."""
    for frame_id in sequence.frame_ids:
        yield partial(_read_and_store, sequence, frame_id, codec)


def _stored_ahead(sequence: Sequence, codec: Codec, pool: ThreadPoolExecutor, ahead: int) -> Iterator[_Pending]:
    """The same frames, some of them brought into column form ahead; read in turn, for sources are no threads' play."""
    coming: deque[Future[StoredFrame]] = deque()
    for frame_id in sequence.frame_ids:
        try:
            coming.append(pool.submit(_store, _read(sequence, frame_id), frame_id, codec))
        except OpenStoryError as error:
            coming.append(Future())
            coming[-1].set_exception(error)
        if len(coming) > ahead:
            yield coming.popleft().result
    while coming:
        yield coming.popleft().result


def _read_and_store(sequence: Sequence, frame_id: str, codec: Codec) -> StoredFrame:
    return _store(_read(sequence, frame_id), frame_id, codec)


def _read(sequence: Sequence, frame_id: str) -> Frame:
    with _named(frame_id):
        return sequence.read(frame_id)


def _store(frame: Frame, frame_id: str, codec: Codec) -> StoredFrame:
    with _named(frame_id):
        return store(frame, codec)


@contextlib.contextmanager
def _named(record: str) -> Iterator[None]:
    """Make what a malformed record raises a `Reject` that names it."""
    try:
        yield
    except OpenStoryError:
        raise
    except _MALFORMED as error:
        raise _unexpected(error, record) from error


def _unexpected(error: Exception, record: str, file: str = "") -> Reject:
    return Reject(
        f"the record does not have the published form: {reason_of(error)}",
        record=record,
        file=file,
        hint="If the release is as published, please report this as a bug of its builder",
    )


def dataset_name(builder: type[StoryBuilder]) -> str:
    """The id of a dataset: the name of its module, without a leading underscore."""
    return builder.__module__.rpartition(".")[2].lstrip("_")

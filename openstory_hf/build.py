"""The build: units are planned into shards, shards become Parquet files, and a manifest says what is in them.

The plan depends on the release and the options alone, a shard on its units alone; so neither the engine, the number
of processes and machines, nor a killed and repeated build changes a byte. A file has its final name only when it is
whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from openstory_hf import engines
from openstory_hf.builder import DEFAULT_POLICY, OnError, StoryBuilder, open_raw
from openstory_hf.claim import claimed, missing
from openstory_hf.codecs import DEFAULT_CODEC
from openstory_hf.errors import BuildError, UsageError
from openstory_hf.finish import finish, finished
from openstory_hf.plan import SHARD_BYTES, Plan, plan_build
from openstory_hf.shard import Progress
from openstory_hf.target import target
from openstory_hf.write import ROW_GROUP_TARGET


def build(
    builder: type[StoryBuilder],
    raw_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    splits: Sequence[str] = (),
    options: Mapping[str, Iterable[str]] | None = None,
    policy: str = DEFAULT_POLICY,
    on_error: OnError = "raise",
    image_codec: str = DEFAULT_CODEC,
    num_proc: int = 1,
    progress: Callable[[Plan], contextlib.AbstractContextManager[Progress]] | None = None,
    shard_bytes: int = SHARD_BYTES,
    row_group_bytes: int = ROW_GROUP_TARGET,
    engine: str = engines.DEFAULT,
    engine_options: Mapping[str, str] | None = None,
    tasks: range | None = None,
    rehash: bool = True,
) -> dict[str, Any]:
    """Build a dataset folder: Parquet shards, `manifest.json`, `rejects.jsonl`.

    A build that was killed continues with the shards that are missing; a finished one is recognised and left alone.
    Several builds of the same inputs may write to one folder at the same time, from as many machines as see it: each
    takes shards that nobody else is at.

    Args:
        builder: the dataset.
        raw_path: folder or zip of the raw release.
        out: folder to write, created if needed; or a URL of a place that fsspec can write to.
        splits: the splits to build, all by default.
        options: the dataset's own options.
        policy: referential-text policy of the stored column.
        on_error: "raise" stops at the first bad record, "quarantine" leaves bad records out and lists them.
        image_codec: of pictures that are raw pixels in the source: "png", "webp", or "jpeg", which is lossy.
        num_proc: cores to use: a process for each shard, and threads where there are fewer shards. Changes the speed,
            never a byte.
        progress: makes a progress display for a plan.
        shard_bytes: size of a shard the plan aims at.
        row_group_bytes: size of a row group.
        engine: what builds the shards, a name in `engines.TABLE`. Changes no byte either.
        engine_options: of that engine, name -> value.
        tasks: numbers of the shards to build, as `openstory plan` counts them; all by default. Whoever builds the
            last one that is missing completes the folder.
        rehash: believe in shards that are there already only after a look at their bytes, in a local folder; without
            it, and elsewhere, after a look at their sizes.

    Returns:
        The manifest. It is empty while shards are missing, which happens only with `tasks`, or with an engine that
        builds them later.

    Raises:
        UsageError, SourceError, BuildError: with what to do next.
    """
    module = engines.get(engine).load()
    options_of_engine = engines.chosen(engine, module.Options, engine_options or {})
    if engine != engines.DEFAULT:  # its tasks run in other folders
        raw_path = os.path.abspath(raw_path)
        out = out if "://" in os.fspath(out) else os.path.abspath(out)
    how: dict[str, Any] = {
        "splits": splits,
        "options": options,
        "policy": policy,
        "on_error": on_error,
        "shard_bytes": shard_bytes,
        "row_group_bytes": row_group_bytes,
        "image_codec": image_codec,
    }
    _check_apart(raw_path, out)
    place = target(out)
    plan = plan_build(builder, open_raw(builder, raw_path), **how)
    mine = range(len(plan.shards)) if tasks is None else tasks
    if not mine or mine.start < 0 or mine.stop > len(plan.shards):
        raise UsageError(
            f"there are no tasks {mine.start}-{mine.stop - 1} in this plan: it has {len(plan.shards)}, from 0 to "
            f"{len(plan.shards) - 1}"
        )
    if (manifest := finished(plan, place)) is not None:
        return manifest
    try:
        with claimed(place, plan):
            if (manifest := finished(plan, place)) is not None:  # since just now
                return manifest
            wanted = missing(place, plan, plan.shards[mine.start : mine.stop], rehash=rehash)
            with progress(plan) if progress else contextlib.nullcontext(None) as report:
                job = engines.Job(
                    plan=plan,
                    place=place,
                    tasks=mine,
                    num_proc=num_proc,
                    options=options_of_engine,
                    report=report,
                    again=partial(build, builder, raw_path, out, **how, tasks=tasks, rehash=False),
                )
                names = {shard.name for shard in wanted}
                for shard in plan.shards[mine.start : mine.stop]:
                    if shard.name not in names:
                        job.finished(shard)
                for _ in module.run(job, wanted) if wanted else ():
                    pass
            there = place.names()
            if all(f"{shard.name}.json" in there for shard in plan.shards):
                return finish(plan, place)
    except (BuildError, OSError):
        if (manifest := finished(plan, place)) is not None:  # another builder was faster, and has cleared up
            return manifest
        raise
    return finished(plan, place) or {}


def _check_apart(raw_path: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Refuse an output in the folder of the release: it would become part of it, and the release another.

    Raises:
        UsageError: if it is there.
    """
    raw, folder = os.path.realpath(raw_path), os.path.realpath(out)
    if "://" not in os.fspath(out) and os.path.isdir(raw) and Path(folder).is_relative_to(raw):
        raise UsageError(f"{out} lies in the raw release {raw_path}; choose a folder outside of it")

"""One shard: the files of its tables, and a result that says what is in them. The unit of work of every engine."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from openstory_hf.builder import Tally, rows, stop_at, tables
from openstory_hf.errors import BuildError, OpenStoryError, reason_of
from openstory_hf.identity import identity
from openstory_hf.index import index_file
from openstory_hf.parquet import row_groups
from openstory_hf.plan import Plan, Shard
from openstory_hf.records import Reject, Unit
from openstory_hf.schema import TABLES
from openstory_hf.target import Target, parsed, target
from openstory_hf.write import WORK, TableWriter, file_facts

MAX_CONSECUTIVE_REJECTS = 100

Progress = Callable[[str, int], None]
"""Called with (split, number of source records just finished)."""


@dataclass(kw_only=True)
class ShardResult:
    """What a finished shard holds: facts of its files and their indexes, counts, and the records left out."""

    name: str
    split: str
    files: dict[str, dict[str, Any]]
    index: dict[str, dict[str, Any]]
    tally: Tally
    languages: list[str] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)


def build_shard(
    plan: Plan, shard: Shard, out: str | os.PathLike[str] | Target, progress: Progress | None = None, threads: int = 1
) -> ShardResult:
    """Write the files of one shard and then its result; a pure function of the plan and the shard.

    Args:
        plan: of the build, or the head of it.
        shard: of the plan.
        out: folder of the build.
        progress: told of finished records.
        threads: that check and encode frames; they change the speed, never a byte.

    Raises:
        BuildError: at the first bad record, or after too many in a row under quarantine.
    """
    place, began = target(out), time.time()
    result = ShardResult(name=shard.name, split=shard.split, files={}, index={}, tally=Tally())
    quarantine = _Quarantine(result.rejects, result.tally)
    with place.scratch() as scratch:
        writers = {}
        for table in tables(plan.builder.INFO):
            temporary = scratch / f"tmp-{identity()}-{table}-{shard.name}"
            index = temporary.with_name(f"{temporary.name}-index")
            writers[table] = TableWriter(temporary, index, TABLES[table], plan.row_group_bytes)
        for unit in shard.units:
            _build_unit(plan, unit, writers, result, quarantine, progress, threads)
        if not result.tally.balanced():
            raise BuildError(
                f"shard {shard.name}: seen records are not all accounted for: {result.tally}. This is a bug"
            )
        whole: dict[str, Path | str] = {}
        for table, writer in writers.items():
            writer.close()
            file = shard.file(table)
            groups = row_groups(writer.path)
            result.files[file] = {"rows": writer.rows, "row_groups": groups, **file_facts(writer.path)}
            whole[file] = writer.path
            result.index[index_file(file)] = {"rows": writer.rows, **file_facts(writer.index.path)}
            whole[index_file(file)] = writer.index.path
        took = {"finished": time.time(), "seconds": time.time() - began, "by": identity()}
        whole[result_file(shard.name)] = json.dumps({"plan": plan.fingerprint, **asdict(result), "took": took})
        place.publish(whole)
    return result


def build_task(
    plan: Plan, shard: Shard, out: str | os.PathLike[str] | Target, progress: Progress | None = None, threads: int = 1
) -> None:
    """Build a shard that is not there, leaving word of who is at it and of what went wrong.

    Args:
        plan: of the build, or the head of it.
        shard: of the plan.
        out: folder of the build.
        progress: told of finished records.
        threads: that check and encode frames.

    Raises:
        BuildError: as `build_shard`, or when the folder is no longer being built, as others have completed it.
    """
    place = target(out)
    if place.size(plan_file(plan.fingerprint)) is None:
        raise BuildError(f"{place} is no longer being built by this plan. Run the same command again")
    if read_results(plan, [shard.name], place)[0]:
        return
    hint, failure = f"{WORK}/{shard.name}.begun.{identity()}", f"{WORK}/{shard.name}.error"
    place.note(hint, json.dumps({"since": time.time()}))
    try:
        build_shard(plan, shard, place, progress, threads)
    except Exception as error:
        said = str(error) if isinstance(error, OpenStoryError) else reason_of(error)
        place.note(failure, json.dumps({"by": identity(), "at": time.time(), "error": said}))
        raise
    finally:
        if place.hints:
            with contextlib.suppress(OSError, OpenStoryError):
                place.remove([hint])
    if place.hints:
        with contextlib.suppress(OSError, OpenStoryError):
            place.remove([failure])


def plan_file(fingerprint: str) -> str:
    """Where it stands which shards a plan has, for as long as they are being built."""
    return f"{WORK}/plan-{fingerprint}"


def result_file(name: str) -> str:
    """The result of the shard of that name."""
    return f"{WORK}/{name}.json"


def read_results(plan: Plan, names: Sequence[str], place: Target) -> list[ShardResult | None]:
    """The results of finished shards of this plan; None for one that is not there, or cannot be used.

    Args:
        plan: of the build, or the head of it.
        names: of the shards.
        place: the folder.
    """
    return [_result(plan, text) for text in place.read_all([result_file(name) for name in names])]


def _result(plan: Plan, text: bytes | None) -> ShardResult | None:
    facts = parsed(text)
    if facts is None or facts.pop("plan", None) != plan.fingerprint:
        return None
    facts.pop("took", None)
    try:
        result = ShardResult(**{**facts, "tally": Tally(**facts["tally"])})
    except (KeyError, TypeError):
        return None  # not as this version writes it
    if result.rejects and plan.on_error == "raise":
        return None  # build it again, to stop where the user asked to stop
    return result


@dataclass
class _Quarantine:
    """The records a shard leaves out, until too many fail one after another."""

    lines: list[dict[str, Any]]
    tally: Tally
    in_a_row: int = 0
    good: int = 0

    def add(self, unit: Unit, reject: Reject) -> None:
        if self.tally.frames_written > self.good:
            self.good, self.in_a_row = self.tally.frames_written, 0
        self.in_a_row += not reject.known
        self.lines.append(
            {
                "split": unit.split,
                "unit": unit.unit_id,
                "record": reject.record or unit.unit_id,
                "reason": reject.reason,
                "file": reject.file,
                "stories": list(reject.stories),
            }
        )
        if self.in_a_row > MAX_CONSECUTIVE_REJECTS:
            raise BuildError(
                f"more than {MAX_CONSECUTIVE_REJECTS} bad records in a row, the last: {reject}\n"
                "So many failures mean a damaged or different release rather than bad records"
            )


def _build_unit(
    plan: Plan,
    unit: Unit,
    writers: Mapping[str, TableWriter],
    result: ShardResult,
    quarantine: _Quarantine,
    progress: Progress | None,
    threads: int,
) -> None:
    on_reject = partial(quarantine.add, unit) if plan.on_error == "quarantine" else stop_at
    tally, languages = result.tally, set(result.languages)
    before = tally.frames_written + tally.frames_rejected
    reported = 0
    made = rows(
        plan.builder,
        plan.raw,
        unit,
        policy=plan.policy,
        image_codec=plan.image_codec,
        on_reject=on_reject,
        tally=tally,
        threads=threads,
    )
    for table, row in made:
        writers[table].add(row)
        if table == "stories":
            languages.add(row["language"])
        finished = min(unit.records, tally.frames_written + tally.frames_rejected - before)
        if progress and unit.records > 1 and finished > reported:
            progress(unit.split, finished - reported)
            reported = finished
    if progress:
        progress(unit.split, unit.records - reported)
    result.languages = sorted(languages)

"""How far a build is, read from what it leaves in its folder: results, hints, errors. Disturbs nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from openstory_hf.claim import read_summary
from openstory_hf.engines.failures import errors
from openstory_hf.engines.submitted import SUBMITTED, in_queue
from openstory_hf.errors import OutputError
from openstory_hf.estimate import size_text
from openstory_hf.finish import MANIFEST
from openstory_hf.identity import is_gone
from openstory_hf.shard import result_file
from openstory_hf.target import Target, builders, parsed, target
from openstory_hf.write import WORK


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a build is.

    Args:
        out: its folder.
        title: of the dataset.
        finished: whether the dataset is complete.
        total: number of shards.
        done: number of those that are there.
        rows: table -> rows in them.
        bytes: of their files.
        running: shard -> who is at it, and for how many seconds.
        failed: shard -> the last error of it, and its log where there is one.
        ended: shards whose builder is gone without a word.
        builders: processes that build there.
        eta: seconds to go at the pace so far; None if nobody knows.
        queued: what was submitted to a queue and still is in there, else nothing.
        advice: what to do next.
    """

    out: str
    title: str
    finished: bool
    total: int
    done: int
    rows: Mapping[str, int]
    bytes: int
    running: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ended: tuple[str, ...] = ()
    builders: tuple[str, ...] = ()
    eta: float | None = None
    queued: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def status(out: str | Target) -> Status:
    """How far the build in a folder is.

    Args:
        out: the folder, or the URL of it.

    Raises:
        OutputError: if nothing was ever built there.
    """
    place = target(out)
    manifest = parsed(place.read(MANIFEST))
    if manifest is not None and "files" in manifest:
        shards = {file.rpartition("/")[2] for file in manifest["files"]}
        rows, size = _sums([manifest])
        return Status(
            out=str(place),
            title=manifest["title"],
            finished=True,
            total=len(shards),
            done=len(shards),
            rows=rows,
            bytes=size,
            advice=f"`openstory check {place}` verifies it",
        )
    summary = read_summary(place)
    if summary is None:
        raise OutputError(f"{place} holds no build, finished or not. Give the --out folder of an `openstory build`")
    return _unfinished(place, summary)


def _unfinished(place: Target, summary: Mapping[str, Any]) -> Status:
    there = place.names()
    names = [name for name, *_ in summary["shards"]]
    done = [name for name in names if f"{name}.json" in there]
    texts = place.read_all([result_file(name) for name in done])
    results = [facts for text in texts if (facts := parsed(text)) and facts.get("plan") == summary["plan"]]
    rows, size = _sums(results)
    running, ended = _begun(place, there, set(names) - set(done))
    found = errors(place, [name for name in names if name not in done and name not in running])
    failed = {name: (str(facts["error"]), _log(place, names.index(name))) for name, facts in found.items()}
    note = parsed(place.read(SUBMITTED)) or {}
    queued = note if note and in_queue(place) else {}
    took = [facts["took"]["seconds"] for facts in results if "took" in facts]
    left = len(names) - len(done)
    eta = left * sum(took) / len(took) / len(running) if took and running else None
    working = tuple(builders(there))
    return Status(
        out=str(place),
        title=summary["title"],
        finished=False,
        total=len(names),
        done=len(done),
        rows=rows,
        bytes=size,
        running=running,
        failed=failed,
        ended=tuple(sorted(set(ended) - set(failed) - set(running))),
        builders=working,
        eta=eta,
        queued=queued,
        advice=_advice(place, left, bool(running or working), failed, queued),
    )


def _sums(results: list[dict[str, Any]]) -> tuple[dict[str, int], int]:
    rows: dict[str, int] = {}
    size = 0
    for result in results:
        for file, facts in result["files"].items():
            table = file.partition("/")[0]
            rows[table] = rows.get(table, 0) + facts["rows"]
            size += facts["bytes"]
    return rows, size


def _begun(
    place: Target, there: Mapping[str, int], missing: set[str]
) -> tuple[dict[str, tuple[str, float]], list[str]]:
    running, ended = {}, []
    for name in there:
        shard, is_hint, builder = name.partition(".begun.")
        if is_hint and shard in missing:
            if is_gone(builder):
                ended.append(shard)
            else:
                since = (parsed(place.read(f"{WORK}/{name}")) or {}).get("since", time.time())
                running[shard] = (builder, max(0.0, time.time() - since))
    return dict(sorted(running.items())), ended


def _log(place: Target, number: int) -> str:
    """The log of a task, where an engine writes some."""
    note = parsed(place.read(SUBMITTED)) or {}
    log = f"logs/task_{number:05d}.log"
    if note:
        return f"{note['logs']}/{log}"
    return f"{place}/{WORK}/datatrove/{log}" if place.size(f"{WORK}/datatrove/{log}") is not None else ""


def _advice(
    place: Target, left: int, works: bool, failed: Mapping[str, tuple[str, str]], queued: Mapping[str, Any]
) -> str:
    if queued:
        return (
            f"Slurm has the jobs: {queued['job']} builds, {queued['finish']} completes the folder "
            f"(`squeue --jobs {queued['job']},{queued['finish']}`)"
        )
    if works:
        return "it is being built; more machines may join in with the same `openstory build`"
    if not left:
        return "all shards are there: run the same `openstory build` again to complete the folder"
    if failed:
        return "see to what failed, and run the same `openstory build` again; what is done stays"
    return f"nobody builds it as far as {place} shows: run the same `openstory build` again to continue"


def render(found: Status) -> str:
    """A status for people."""
    rows = ", ".join(f"{number:,} {table}" for table, number in found.rows.items())
    lines = [f"{found.title} in {found.out}: " + ("finished" if found.finished else "not finished")]
    lines.append(f"{found.done:,} of {found.total:,} shards, {size_text(found.bytes)}" + (f": {rows}" if rows else ""))
    for shard, (builder, seconds) in found.running.items():
        lines.append(f"{shard}: being built by {builder} for {_duration(seconds)}")
    for shard, (error, log) in found.failed.items():
        lines.append(f"{shard}: failed: {error}" + (f" (log: {log})" if log else ""))
    lines += [f"{shard}: its builder was ended" for shard in found.ended]
    if found.eta is not None:
        lines.append(f"about {_duration(found.eta)} to go with the {len(found.running)} that are being built now")
    lines.append(f"next: {found.advice}")
    return "\n".join(lines) + "\n"


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(12.3), _duration(700), _duration(9000)
    ('12 s', '12 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

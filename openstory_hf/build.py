"""The build: units are planned into shards, shards become Parquet files, and a manifest says what is in them.

The plan depends on the release and the options alone, a shard on its units alone; so neither the number of processes
nor a killed and repeated build changes a byte. A file has its final name only when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from openstory_hf import card
from openstory_hf.builder import (
    DEFAULT_POLICY,
    OnError,
    StoryBuilder,
    Tally,
    dataset_name,
    open_raw,
    rows,
    stop_at,
    tables,
)
from openstory_hf.codecs import CODECS, DEFAULT_CODEC
from openstory_hf.contents import contents_file, entry_of, write_contents
from openstory_hf.errors import BuildError
from openstory_hf.index import index_file
from openstory_hf.plan import SHARD_BYTES, Plan, Shard, plan_build
from openstory_hf.records import Reject, Unit
from openstory_hf.references import RULES_VERSION
from openstory_hf.schema import SCHEMA_VERSION, TABLES
from openstory_hf.version import __version__
from openstory_hf.write import ROW_GROUP_TARGET, TableWriter, file_facts, make_folder, publish, write_whole, writing

MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"

MAX_CONSECUTIVE_REJECTS = 100

Progress = Callable[[str, int], None]
"""Called with (split, number of source records just finished)."""


@dataclass(kw_only=True)
class ShardResult:
    """What a finished shard holds: facts of its files and of their indexes, the counts, and the records left out."""

    name: str
    split: str
    files: dict[str, dict[str, Any]]
    index: dict[str, dict[str, Any]]
    tally: Tally
    rejects: list[dict[str, Any]] = field(default_factory=list)


def build_shard(
    plan: Plan, shard: Shard, out: Path, progress: Progress | None = None, threads: int = 1
) -> ShardResult:
    """Write the files of one shard and their result; a pure function of the plan and the shard.

    Args:
        plan: of the build.
        shard: of the plan.
        out: folder of the build.
        progress: told of finished records.
        threads: that check and encode frames; they change the speed, never a byte.

    Raises:
        BuildError: at the first bad record, or after too many in a row under quarantine.
    """
    work = _work_folder(out)
    writers = {}
    for table in tables(plan.builder.INFO):
        temporary = work / f"tmp-{os.getpid()}-{table}-{shard.name}"
        index = temporary.with_name(f"{temporary.name}-index")
        writers[table] = TableWriter(temporary, index, TABLES[table], plan.row_group_bytes)
    result = ShardResult(name=shard.name, split=shard.split, files={}, index={}, tally=Tally())
    quarantine = _Quarantine(result.rejects)
    for unit in shard.units:
        _build_unit(plan, unit, writers, result.tally, quarantine, progress, threads)
    if not result.tally.balanced():
        raise BuildError(f"shard {shard.name}: seen records are not all accounted for: {result.tally}. This is a bug")
    for table, writer in writers.items():
        writer.close()
        file = _file(table, shard)
        result.files[file] = {"rows": writer.rows, "row_groups": row_groups(writer.path), **file_facts(writer.path)}
        publish(writer.path, out / file)
        result.index[index_file(file)] = {"rows": writer.rows, **file_facts(writer.index.path)}
        publish(writer.index.path, out / index_file(file))
    write_whole(work / f"{shard.name}.json", json.dumps({"plan": plan.fingerprint, **asdict(result)}))
    return result


def _file(table: str, shard: Shard) -> str:
    """The file of a table that a shard becomes, relative to the folder of the build."""
    return f"{table}/{shard.name}.parquet"


@dataclass
class _Quarantine:
    """The records a shard leaves out, until too many fail one after another."""

    lines: list[dict[str, Any]]
    in_a_row: int = 0

    def add(self, unit: Unit, reject: Reject) -> None:
        self.in_a_row += 1
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
    tally: Tally,
    quarantine: _Quarantine,
    progress: Progress | None,
    threads: int,
) -> None:
    on_reject = partial(quarantine.add, unit) if plan.on_error == "quarantine" else stop_at
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
        quarantine.in_a_row = 0
        writers[table].add(row)
        finished = min(unit.records, tally.frames_written + tally.frames_rejected - before)
        if progress and unit.records > 1 and finished > reported:
            progress(unit.split, finished - reported)
            reported = finished
    if progress:
        progress(unit.split, unit.records - reported)


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
) -> dict[str, Any]:
    """Build a dataset folder: Parquet shards, `manifest.json`, `rejects.jsonl`. Returns the manifest.

    A build that was killed continues with the shards that are missing; a finished one is recognised and left alone.

    Args:
        builder: the dataset.
        raw_path: folder or zip of the raw release.
        out: folder to write; created if needed.
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

    Raises:
        UsageError, SourceError, BuildError: with what to do next.
    """
    out = Path(out)
    plan = plan_build(
        builder,
        open_raw(builder, raw_path),
        splits=splits,
        options=options,
        policy=policy,
        on_error=on_error,
        shard_bytes=shard_bytes,
        row_group_bytes=row_group_bytes,
        image_codec=image_codec,
    )
    finished = _finished(out, plan)
    if finished is not None:
        return finished
    with _claimed(out, plan) as work:
        results = {shard.name: result for shard in plan.shards if (result := _resumed(plan, shard, out))}
        waiting = [shard for shard in plan.shards if shard.name not in results]
        with progress(plan) if progress else contextlib.nullcontext(None) as report:
            if report:
                for shard in plan.shards:
                    if shard.name in results:
                        report(shard.split, sum(unit.records for unit in shard.units))
            for result in _run(plan, waiting, out, num_proc, report):
                results[result.name] = result
        ordered = [results[shard.name] for shard in plan.shards]
        manifest = make_manifest(plan, ordered, _write_contents(plan, out))
        if not any(counts["stories"]["written"] for counts in manifest["splits"].values()):
            first = next((line for result in ordered for line in result.rejects), None)
            why = f"; the first bad record: {first['reason']} ({first['file']})" if first else ""
            raise BuildError(f"not one story could be written{why}")
        left_out = [line for result in ordered for line in result.rejects]
        write_whole(out / REJECTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in left_out))
        card.write(out, builder.INFO, manifest, left_out)
        write_whole(out / MANIFEST, manifest_text(manifest))
        with writing(work):
            shutil.rmtree(work)
    return manifest


def _write_contents(plan: Plan, out: Path) -> dict[str, dict[str, Any]]:
    """Write the contents of every table and split, from the files and their indexes; returns the facts of each."""
    made = {}
    built = tables(plan.builder.INFO)
    for table in built:
        for split in dict.fromkeys(shard.split for shard in plan.shards):
            shards = [shard for shard in plan.shards if shard.split == split]
            entries = (
                entry_of(
                    out / index_file(_file(table, shard)),
                    out / index_file(_file("frames", shard)) if table == "stories" and "frames" in built else None,
                )
                for shard in shards
            )
            name = contents_file(table, split)
            temporary = _work_folder(out) / f"tmp-{os.getpid()}-{table}-{split}-contents"
            with writing(temporary):
                rows = write_contents(temporary, entries)
            made[name] = {"rows": rows, **file_facts(temporary)}
            publish(temporary, out / name)
    return made


def make_manifest(
    plan: Plan, results: Sequence[ShardResult], contents: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The manifest: what was built from what, with counts beside the published ones and a hash for every file."""
    info = plan.builder.INFO
    splits: dict[str, Any] = {}
    for split in dict.fromkeys(shard.split for shard in plan.shards):
        tally = Tally()
        for result in results:
            if result.split == split:
                tally.add(result.tally)
        splits[split] = {
            "published_stories": info.splits[split].stories,
            "units": sum(len(shard.units) for shard in plan.shards if shard.split == split),
            "source_records": sum(u.records for shard in plan.shards if shard.split == split for u in shard.units),
            "stories": {
                "seen": tally.stories_seen,
                "written": tally.stories_written,
                "rejected": tally.stories_rejected,
            },
            "frames": {
                "seen": tally.frames_seen,
                "written": tally.frames_written,
                "rejected": tally.frames_rejected,
            },
        }
    encoded = sum(result.tally.pictures_encoded for result in results)
    codec = {"codec": plan.image_codec, "lossy": CODECS[plan.image_codec].lossy, "pictures": encoded}
    return {
        "schema_version": SCHEMA_VERSION,
        "openstory_hf": __version__,
        "plan": plan.fingerprint,
        "dataset": dataset_name(plan.builder),
        "title": info.title,
        "raw_fingerprint": plan.raw_fingerprint,
        "options": {name: list(values) for name, values in plan.options.items()},
        "referential_text": {"policy": plan.policy, "rules_version": RULES_VERSION},
        "characters": [asdict(character) for character in info.characters],
        "key_picture": info.key_rule,
        "row_group_bytes": plan.row_group_bytes,
        **({"encoded": codec} if encoded else {}),
        "splits": splits,
        "files": {file: facts for result in results for file, facts in result.files.items()},
        "index": {file: facts for result in results for file, facts in result.index.items()},
        "contents": dict(contents),
    }


def row_groups(path: Path) -> list[int]:
    """Rows of each row group of a Parquet file."""
    metadata = pq.read_metadata(path)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as JSON, one fact a line, but for lists of numbers: a line each."""
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    return re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda found: f"[{''.join(found[1].split())}]", text) + "\n"


def _run(
    plan: Plan, shards: Sequence[Shard], out: Path, num_proc: int, report: Progress | None
) -> Iterator[ShardResult]:
    workers = max(1, min(num_proc, len(shards)))
    threads = num_proc // workers
    if workers == 1:
        for shard in shards:
            yield build_shard(plan, shard, out, report, threads)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that runs Arrow threads can deadlock
    # No queue: a worker that ends while it holds the lock of one would leave it locked for all. Writes to a pipe as
    # short as these are whole or not at all, whoever else writes.
    ticks, ticking = context.Pipe(duplex=False)
    alive, stop = context.Pipe(duplex=False)  # whoever holds the other end lives until this one is closed
    others = set(multiprocessing.active_children())

    def relay() -> None:
        with contextlib.suppress(EOFError):  # once nobody holds the other end
            while True:
                tick = ticks.recv()
                if report:
                    report(*tick)

    relaying = threading.Thread(target=relay, daemon=True)
    relaying.start()
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (plan, out, ticking, threads, alive)) as pool:
            futures = {pool.submit(_build_in_worker, shard) for shard in shards}
            started = set(multiprocessing.active_children()) - others
            try:
                while futures:
                    done, futures = wait_for(futures, timeout=1, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                    if futures and any(worker.exitcode for worker in started):
                        raise BrokenProcessPool  # the pool itself notices some only when another shard is done
            except BaseException:
                stop.close()  # the shards that are begun could take minutes more, in a folder that is not claimed then
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in started:
                    worker.join(timeout=10)
                raise
    except BrokenProcessPool:
        raise BuildError(
            f"{_ended(started, _work_folder(out))}, most often for want of memory. "
            "Run the same command again to continue, with fewer --num-proc"
        ) from None
    finally:
        stop.close()
        ticking.close()
        relaying.join(timeout=10)  # a worker that even the end of the others does not end is left behind


def _ended(workers: Iterable[BaseProcess], work: Path) -> str:
    """Which worker was ended from outside, how, and at what; the others were ended here, with 1 or SIGTERM."""
    for worker in workers:
        if worker.exitcode not in (None, 0, 1, -signal.SIGTERM):
            shards = {name.name.split("-", 3)[3].removesuffix("-index") for name in work.glob(f"tmp-{worker.pid}-*")}
            how = signal.Signals(-worker.exitcode).name if worker.exitcode < 0 else f"exit status {worker.exitcode}"
            return f"worker process {worker.pid}, at {', '.join(sorted(shards)) or 'its start'}, was ended by {how}"
    return "a worker process was ended from outside"


_task: tuple[Plan, Path, Connection, int]  # of a worker process: sent once, so that the release's index is read once


def _start_worker(plan: Plan, out: Path, ticking: Connection, threads: int, alive: Connection) -> None:
    """Remember the task, and end with the parent or when it says so: a worker must not outlive a killed build."""
    global _task
    _task = plan, out, ticking, threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; it is the parent who decides

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            wait([parent.sentinel, alive])
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _build_in_worker(shard: Shard) -> ShardResult:
    plan, out, ticking, threads = _task
    return build_shard(plan, shard, out, lambda split, number: ticking.send((split, number)), threads)


def _work_folder(out: Path) -> Path:
    return out / ".build"


@contextlib.contextmanager
def _claimed(out: Path, plan: Plan) -> Iterator[Path]:
    """Hold the output folder for this build alone; leftovers of a killed one are cleared.

    Raises:
        BuildError: if another build is running there, or the folder holds something else.
    """
    make_folder(out)
    work = _work_folder(out)
    strangers = sorted(entry.name for entry in out.iterdir() if entry.name != work.name)
    if strangers and not work.is_dir():
        raise BuildError(
            f"{out} is not empty ({', '.join(strangers[:3])}) and does not hold an unfinished build. "
            "Choose another --out"
        )
    make_folder(work)
    lock, owner = FileLock(work / "lock"), work / "owner"  # the system unlocks when the process dies, however it dies
    with writing(work):
        try:
            claim = lock.acquire(timeout=0)
        except Timeout:
            raise BuildError(
                f"another build is writing to {out}: {_read(owner) or 'a process that has just begun'}. Wait for it, "
                f"end it, or choose another --out. If that process is gone (some network file systems keep its lock), "
                f"remove {lock.lock_file} and run the same command again"
            ) from None
    with claim:
        with writing(owner):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        begun = work / "plan"
        if begun.exists() and begun.read_text() != plan.fingerprint:
            raise BuildError(
                f"{out} holds an unfinished build of other inputs (release, options, image codec or tool version "
                "changed). Remove the folder, or choose another --out"
            )
        for leftover in [*work.glob("*tmp-*"), *out.glob("*.tmp-*")]:
            with writing(leftover):
                leftover.unlink()
        write_whole(begun, plan.fingerprint)
        yield work


def _read(path: Path) -> str:
    """The text of a file that may go away meanwhile."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _finished(out: Path, plan: Plan) -> dict[str, Any] | None:
    """The manifest if `out` already holds exactly this build.

    Raises:
        BuildError: if it holds another one, left out records at which this one must stop, or misses files.
    """
    if _work_folder(out).is_dir() or not (out / MANIFEST).is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        return None  # nothing of ours
    if not isinstance(manifest, dict) or manifest.get("plan") != plan.fingerprint:
        raise BuildError(f"{out} holds a build of other inputs. Remove the folder, or choose another --out")
    written = {**manifest["files"], **manifest["index"], **manifest["contents"]}
    for file, facts in {**written, REJECTS: {}, card.README: {}}.items():
        path = out / file
        if not path.is_file() or path.stat().st_size != facts.get("bytes", path.stat().st_size):
            raise BuildError(f"{path} is missing or damaged. Remove the folder and build again")
    if plan.on_error == "raise" and (out / REJECTS).stat().st_size:
        raise BuildError(
            f"{out} holds a finished build that left bad records out, see {out / REJECTS}. Keep it with --on-error "
            "quarantine, or remove the folder to build again and stop at the first of them"
        )
    return manifest


def _resumed(plan: Plan, shard: Shard, out: Path) -> ShardResult | None:
    """The result of a shard a killed build had finished, if its files are still what they were."""
    path = _work_folder(out) / f"{shard.name}.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts.pop("plan") != plan.fingerprint:
        return None
    for file, expected in {**facts["files"], **facts["index"]}.items():
        found = out / file
        if not found.is_file() or file_facts(found) != {key: expected[key] for key in ("bytes", "sha256")}:
            return None
    if facts["rejects"] and plan.on_error == "raise":
        return None  # build it again, to stop where the user asked to stop
    return ShardResult(**{**facts, "tally": Tally(**facts["tally"])})

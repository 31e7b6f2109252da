"""What every dataset must pass, on the release its own `fake()` writes: run it over a builder of yours as well.

from openstory_hf.conformance import conform
conform(MyStories, tmp_path)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from datasets import Image, List, load_dataset

from openstory_hf.build import build
from openstory_hf.builder import StoryBuilder, tables
from openstory_hf.check import check
from openstory_hf.errors import BuildError
from openstory_hf.fakes import RawWriter
from openstory_hf.finish import REJECTS
from openstory_hf.plan import dump_shard, load_shard, plan_build
from openstory_hf.raw import Raw
from openstory_hf.shard import build_shard
from openstory_hf.write import file_facts

_SMALL = 1  # bytes per shard: as many shards as the plan allows


def conform(builder: type[StoryBuilder], folder: Path) -> dict[str, Any]:
    """Write the dataset's fake release below `folder`, build it in several ways, and compare.

    Returns the manifest of the build.

    Raises:
        AssertionError: saying which promise the dataset breaks.
    """
    raw, out = folder / "raw", folder / "out"
    builder.fake(RawWriter(raw))
    manifest = build(builder, raw, out, on_error="quarantine", shard_bytes=_SMALL)
    problems = check(out)
    assert not problems, "\n".join(problems)
    _accounts_for_everything(manifest, out)
    _stops_at_the_first_bad_record(builder, raw, folder / "strict")
    _streams_what_it_builds(builder, raw, out)
    _builds_the_same_bytes(builder, raw, out, folder)
    archive = shutil.make_archive(str(folder / "zipped"), "zip", raw)
    zipped = build(builder, archive, folder / "from-zip", on_error="quarantine", shard_bytes=_SMALL)
    assert zipped["files"] == manifest["files"], "a zip of the release gives other bytes than the folder"
    return manifest


def _accounts_for_everything(manifest: dict[str, Any], out: Path) -> None:
    splits = manifest["splits"]
    assert sum(counts["units"] for counts in splits.values()) >= 3, "fake() must write at least 3 sequences"
    assert (out / REJECTS).read_text(), "fake() must write at least one broken record"
    for split, counts in splits.items():
        for level in ("stories", "frames"):
            count = counts[level]
            assert count["seen"] == count["written"] + count["rejected"], f"{split}: {level}: {count}"


def _stops_at_the_first_bad_record(builder: type[StoryBuilder], raw: Path, out: Path) -> None:
    message = ""
    try:
        build(builder, raw, out)
    except BuildError as error:
        message = str(error)
    assert message, "a build of the fake release must stop at its broken record"
    assert "--on-error quarantine" in message, f"the error does not say what to do: {message}"


def _streams_what_it_builds(builder: type[StoryBuilder], raw: Path, out: Path) -> None:
    encoded = List(Image(decode=False))
    for table in tables(builder.INFO):
        made = builder(
            config_name=table, data_dir=str(raw), on_error="quarantine", cache_dir=str(out.parent / "cache")
        )
        built = load_dataset(str(out), table, streaming=True)
        for split, rows in built.items():
            streamed = list(made.as_streaming_dataset(split=split).cast_column("images", encoded))
            assert streamed == list(rows.cast_column("images", encoded)), f"{table}/{split}: streamed rows differ"


def _builds_the_same_bytes(builder: type[StoryBuilder], raw: Path, out: Path, folder: Path) -> None:
    expected = _hashes(out)
    parallel = folder / "parallel"
    build(builder, raw, parallel, on_error="quarantine", shard_bytes=_SMALL, num_proc=2)
    assert _hashes(parallel) == expected, "two processes give other bytes than one"
    resumed = folder / "resumed"
    plan = plan_build(builder, Raw(raw), on_error="quarantine", shard_bytes=_SMALL)
    (resumed / ".build").mkdir(parents=True)
    last = load_shard(dump_shard(plan.shards[-1]))  # as a task of a cluster finds it
    build_shard(plan, last, resumed)  # as if killed after its last shard, before the others
    build(builder, raw, resumed, on_error="quarantine", shard_bytes=_SMALL)
    assert _hashes(resumed) == expected, "a resumed build gives other bytes than an undisturbed one"


def _hashes(out: Path) -> dict[str, Any]:
    return {str(path.relative_to(out)): file_facts(path) for path in sorted(out.rglob("*")) if path.is_file()}

"""The end of a build: when all shards are there, the contents of the tables, the card and the manifest are written.

All that is read is the results of the shards and the indexes of their files; the shards themselves stay where they
are. The bytes written depend on the plan and the shards alone, so it does no harm if several builders get there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from openstory_hf import card
from openstory_hf.builder import Tally, dataset_name, tables
from openstory_hf.codecs import CODECS
from openstory_hf.contents import Entry, contents_file, entry_of, write_contents
from openstory_hf.croissant import CROISSANT
from openstory_hf.errors import BuildError
from openstory_hf.identity import identity
from openstory_hf.index import FOLDER, index_file
from openstory_hf.plan import Plan, Shard
from openstory_hf.references import RULES_VERSION
from openstory_hf.schema import SCHEMA_VERSION, TABLES
from openstory_hf.shard import ShardResult, read_results
from openstory_hf.target import Target, parsed
from openstory_hf.version import __version__
from openstory_hf.write import file_facts, publish, write_whole, writing

MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"

AT_A_TIME = 256
"""Shards whose indexes are fetched at a time."""


def finish(plan: Plan, place: Target) -> dict[str, Any]:
    """Complete a folder that has all shards. Returns the manifest.

    Raises:
        BuildError: if a shard is missing, or there is not one story.
    """
    found = read_results(plan, [shard.name for shard in plan.shards], place)
    if lacking := next((s.name for s, result in zip(plan.shards, found, strict=True) if result is None), ""):
        raise BuildError(f"{place}: shard {lacking} is missing. Run the same command again")
    results = [result for result in found if result]
    with place.scratch() as scratch:
        root = place.root or scratch / "finished"
        contents = _write_contents(plan, place, scratch, root)
        manifest = make_manifest(plan, results, contents)
        left_out = [line for result in results for line in result.rejects]
        if not any(counts["stories"]["written"] for counts in manifest["splits"].values()):
            first = next(iter(left_out), None)
            why = f"; the first bad record: {first['reason']} ({first['file']})" if first else ""
            raise BuildError(f"not one story could be written{why}")
        write_whole(root / REJECTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in left_out))
        card.write(root, plan.builder.INFO, manifest, left_out)
        write_whole(root / MANIFEST, manifest_text(manifest))
        if place.root is None:
            place.publish({name: root / name for name in (*contents, REJECTS, card.README, CROISSANT, MANIFEST)})
    place.clear()
    return manifest


def _write_contents(plan: Plan, place: Target, scratch: Path, root: Path) -> dict[str, dict[str, Any]]:
    """Write the contents of every table and split, from the indexes of the shards; returns the facts of each file."""
    made = {}
    built = tables(plan.builder.INFO)
    for table in built:
        for split in dict.fromkeys(shard.split for shard in plan.shards):
            entries = _entries([shard for shard in plan.shards if shard.split == split], table, built, place, scratch)
            name = contents_file(table, split)
            temporary = scratch / f"tmp-{identity()}-{table}-{split}-contents"
            with writing(temporary):
                made[name] = {"rows": write_contents(temporary, entries), **file_facts(temporary)}
            publish(temporary, root / name)
    return made


def _entries(
    shards: Sequence[Shard], table: str, built: Sequence[str], place: Target, scratch: Path
) -> Iterator[Entry]:
    """The contents of each file of a table; where its indexes are far away, some of them are fetched at a time."""
    wanted = [table, "frames"] if table == "stories" and "frames" in built else [table]
    for start in range(0, len(shards), AT_A_TIME):
        some = shards[start : start + AT_A_TIME]
        parts = [place.fetch_all([index_file(shard.file(name)) for shard in some], scratch) for name in wanted]
        for of_shard in zip(*parts, strict=True):
            yield entry_of(*of_shard)
        if place.root is None:
            for part in chain.from_iterable(parts):
                part.unlink()


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
        "languages": sorted({code for result in results for code in result.languages}),
        "files": {file: facts for result in results for file, facts in result.files.items()},
        "index": {file: facts for result in results for file, facts in result.index.items()},
        "contents": dict(contents),
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as JSON, one fact a line, but for lists of numbers: a line each."""
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    return re.sub(r"\[\n\s*([\d,\s]+?)\s+\]", lambda found: f"[{''.join(found[1].split())}]", text) + "\n"


def finished(plan: Plan, place: Target) -> dict[str, Any] | None:
    """The manifest if the folder already holds exactly this build.

    Raises:
        BuildError: if it holds another one, left out records at which this one must stop, or misses files.
    """
    manifest = parsed(place.read(MANIFEST))
    if manifest is None or "plan" not in manifest:
        return None  # nothing of ours
    if manifest["plan"] != plan.fingerprint:
        raise BuildError(f"{place} holds a build of other inputs. Remove the folder, or choose another --out")
    sizes = {f"{folder}/{name}": size for folder in (*TABLES, FOLDER) for name, size in place.names(folder).items()}
    sizes.update(place.names(""))
    written = {**manifest["files"], **manifest["index"], **manifest["contents"]}
    for file, facts in {**written, REJECTS: {}, card.README: {}}.items():
        if sizes.get(file) != facts.get("bytes", sizes.get(file, -1)):
            raise BuildError(f"{place}/{file} is missing or damaged. Remove the folder and build again")
    if plan.on_error == "raise" and sizes[REJECTS]:
        raise BuildError(
            f"{place} holds a finished build that left bad records out, see {place}/{REJECTS}. Keep it with "
            "--on-error quarantine, or remove the folder to build again and stop at the first of them"
        )
    if place.names():  # a builder came late, or was ended just before it cleared up
        place.clear()
    return manifest

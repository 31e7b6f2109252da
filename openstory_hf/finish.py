"""The end of a build: when all shards are there, their indexes are joined and the card and the manifest written.

All that is read is the results of the shards and the indexes of their files; the shards themselves stay where they
are. The bytes written depend on the plan and the shards alone, so it does no harm if several builders get there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openstory_hf import card
from openstory_hf.builder import Tally, dataset_name, tables
from openstory_hf.codecs import CODECS
from openstory_hf.croissant import CROISSANT
from openstory_hf.errors import BuildError
from openstory_hf.identity import identity
from openstory_hf.index import FOLDER, index_file, join_parts
from openstory_hf.plan import Plan
from openstory_hf.references import RULES_VERSION
from openstory_hf.schema import SCHEMA_VERSION, TABLES
from openstory_hf.shard import ShardResult, part_file, read_results
from openstory_hf.target import Target, parsed
from openstory_hf.version import __version__
from openstory_hf.write import WORK, file_facts, publish, write_whole, writing

MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"


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
        index = _join_indexes(plan, place, scratch, root)
        manifest = make_manifest(plan, results, index)
        left_out = [line for result in results for line in result.rejects]
        if not any(counts["stories"]["written"] for counts in manifest["splits"].values()):
            first = next(iter(left_out), None)
            why = f"; the first bad record: {first['reason']} ({first['file']})" if first else ""
            raise BuildError(f"not one story could be written{why}")
        write_whole(root / REJECTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in left_out))
        card.write(root, plan.builder.INFO, manifest, left_out)
        write_whole(root / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
        if place.root is None:
            place.publish({name: root / name for name in (*index, REJECTS, card.README, CROISSANT, MANIFEST)})
    place.clear()
    return manifest


def _join_indexes(plan: Plan, place: Target, scratch: Path, root: Path) -> dict[str, dict[str, Any]]:
    """Write one index per table and split from those of the shards; returns the facts of each file."""
    made = {}
    for table in tables(plan.builder.INFO):
        for split in dict.fromkeys(shard.split for shard in plan.shards):
            names = [f"{WORK}/{part_file(table, shard)}" for shard in plan.shards if shard.split == split]
            parts = place.fetch_all(names, scratch)
            temporary = scratch / f"tmp-{identity()}-{table}-{split}-index"
            with writing(temporary):
                rows = join_parts(parts, temporary, TABLES[table])
            made[index_file(table, split)] = {"rows": rows, **file_facts(temporary)}
            publish(temporary, root / index_file(table, split))
    return made


def make_manifest(
    plan: Plan, results: Sequence[ShardResult], index: Mapping[str, Mapping[str, Any]]
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
        "index": dict(index),
    }


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
    for file, facts in {**manifest["files"], **manifest["index"], REJECTS: {}, card.README: {}}.items():
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

"""What a folder is being built for: the plan is written down there once, and another one is refused."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from openstory_hf.builder import dataset_name, tables
from openstory_hf.errors import BuildError, OpenStoryError
from openstory_hf.identity import identity, is_gone, owner
from openstory_hf.index import FOLDER
from openstory_hf.plan import Plan, Shard
from openstory_hf.shard import ShardResult, plan_file, read_results, result_file
from openstory_hf.target import Target, parsed
from openstory_hf.write import WORK


@contextlib.contextmanager
def claimed(place: Target, plan: Plan) -> Iterator[None]:
    """Make the folder one of this plan, clear what processes left there that are gone, and say who builds meanwhile.

    Others are looked for before the plan is written down and again afterwards, so that of two builders with different
    plans at least one sees the other, whichever was first.

    Raises:
        BuildError: if it is one of another plan, or holds something else.
    """
    place.prepare()
    mine = plan_file(plan.fingerprint)
    if _others(place, mine):
        raise _refusal(place)
    if place.size(mine) is None:
        place.publish({mine: json.dumps(_summary(plan))})
        if _others(place, mine):
            place.remove([mine])
            raise _refusal(place)
    left = [name for name in place.names() if is_gone(owner(name))]
    place.remove([f"{WORK}/{name}" for name in left])
    mark = f"{WORK}/builder-{identity()}"
    place.note(mark, json.dumps({"since": time.time()}))
    try:
        yield
    finally:
        if place.hints:
            with contextlib.suppress(OSError, OpenStoryError):
                place.remove([mark])


def _others(place: Target, mine: str) -> list[str]:
    return [name for name in place.names() if is_plan(name) and f"{WORK}/{name}" != mine]


def is_plan(name: str) -> bool:
    """Whether a file of the hidden folder is a plan, and not one that is just being written."""
    return bool(re.fullmatch("plan-[0-9a-f]{64}", name))


def _refusal(place: Target) -> BuildError:
    return BuildError(
        f"{place} holds an unfinished build of other inputs (release, options, image codec or tool version changed), "
        "or one is running there. Remove the folder, or choose another --out"
    )


def _summary(plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.fingerprint,
        "dataset": dataset_name(plan.builder),
        "title": plan.builder.INFO.title,
        "begun": time.time(),
        "shards": [[shard.name, len(shard.units), shard.records, shard.size] for shard in plan.shards],
    }


def read_summary(place: Target) -> dict[str, Any] | None:
    """What is being built in a folder; None if nothing is.

    It has `plan`, `dataset`, `title`, `begun`, and `shards` with their names, numbers of units and of records, and
    estimated bytes.
    """
    for name in sorted(place.names()):
        if is_plan(name) and (summary := parsed(place.read(f"{WORK}/{name}"))):
            return summary
    return None


def missing(place: Target, plan: Plan, shards: Sequence[Shard], *, rehash: bool = True) -> list[Shard]:
    """Those of the shards that have to be built; what is left of damaged ones no longer passes for finished.

    Args:
        place: the folder.
        plan: of the build.
        shards: of the plan.
        rehash: look at the bytes of finished ones, where that is cheap, and not at their sizes only.

    Raises:
        BuildError: if the system refuses, or the plan is to stop at bad records and finished shards left some out.
    """
    there = place.names()
    names = [shard.name for shard in shards if f"{shard.name}.json" in there]
    sizes: dict[str, int] = {}
    if names:
        for folder in (*tables(plan.builder.INFO), FOLDER):
            sizes.update({f"{folder}/{name}": size for name, size in place.names(folder).items()})

    def whole(result: ShardResult) -> bool:
        files = {**result.files, **result.index}
        return all(
            sizes.get(file) == facts["bytes"] and (not rehash or place.same(file, facts))
            for file, facts in files.items()
        )

    found = dict(zip(names, read_results(replace(plan, on_error="quarantine"), names, place), strict=True))
    wanted = {name: result for name, result in found.items() if result and whole(result)}
    rejects = [line for result in wanted.values() for line in result.rejects]
    if rejects and plan.on_error == "raise":
        first = rejects[0]
        raise BuildError(
            f"{place} has shards that left {len(rejects)} bad records out, the first: {first['reason']} "
            f"({first['file']}, record {first['record']})\n"
            "Go on with --on-error quarantine, or correct the release and build it into an empty folder"
        )
    place.remove([result_file(name) for name in names if name not in wanted])
    return [shard for shard in shards if shard.name not in wanted]

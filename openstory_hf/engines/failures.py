"""Why tasks failed: each leaves word of its last error in the folder, whichever engine ran it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openstory_hf.plan import Shard
from openstory_hf.target import Target, parsed
from openstory_hf.write import WORK


def errors(place: Target, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The last errors of those shards that have one: name -> `error`, `by` and `at`."""
    there = place.names()
    found = {}
    for name in names:
        if f"{name}.error" in there and (facts := parsed(place.read(f"{WORK}/{name}.error"))):
            found[name] = facts
    return found


def first_error(place: Target, shards: Sequence[Shard]) -> str:
    """What went wrong with the first of these shards that has an error; "" if none has."""
    return next((str(facts["error"]) for facts in errors(place, [shard.name for shard in shards]).values()), "")

"""Which units go into which shard: decided by the release and the options alone, before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openstory_hf import codecs
from openstory_hf.builder import DEFAULT_POLICY, OnError, StoryBuilder, chosen_options, dataset_name, list_units
from openstory_hf.codecs import DEFAULT_CODEC
from openstory_hf.errors import BuildError, UsageError
from openstory_hf.raw import Raw
from openstory_hf.records import Unit
from openstory_hf.references import POLICIES, RULES_VERSION
from openstory_hf.schema import SCHEMA_VERSION
from openstory_hf.version import __version__
from openstory_hf.write import ROW_GROUP_MOST, ROW_GROUP_TARGET

SHARD_BYTES = 384 << 20
SHARD_COUNTS = (
    1,
    2,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
)
"""Highly composite, so that shards divide evenly over ranks and workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A run of units that becomes one file per table."""

    split: str
    index: int
    count: int
    units: tuple[Unit, ...]

    @property
    def name(self) -> str:
        """File name without folder and suffix."""
        return f"{self.split}-{self.index:05d}-of-{self.count:05d}"

    def file(self, table: str) -> str:
        """The file of a table that it becomes, relative to the folder of the build."""
        return f"{table}/{self.name}.parquet"

    @property
    def records(self) -> int:
        """Source records in it."""
        return sum(unit.records for unit in self.units)

    @property
    def size(self) -> int:
        """Estimated bytes of the pictures it will write."""
        return sum(unit.size for unit in self.units)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the bytes of a build.

    `fingerprint` is the SHA-256 of it; shards of a killed build are reused, and those of other builders relied on,
    only under the same one. The error policy is left out of it: a build that stopped at a bad record may go on under
    quarantine.
    """

    builder: type[StoryBuilder]
    raw: Raw
    raw_fingerprint: str
    options: Mapping[str, tuple[str, ...]]
    policy: str
    on_error: OnError
    shards: tuple[Shard, ...]
    row_group_bytes: int = ROW_GROUP_TARGET
    image_codec: str = DEFAULT_CODEC
    fingerprint: str = ""

    def head(self) -> Plan:
        """The plan without its shards: what a task is told that brings its own shard, however many units there are."""
        return replace(self, shards=())

    def fingerprinted(self) -> Plan:
        """The plan with its fingerprint; the units are hashed one after another, so that a million need no memory."""
        facts = {
            "schema": SCHEMA_VERSION,
            "tool": __version__,
            "dataset": dataset_name(self.builder),
            "raw": self.raw_fingerprint,
            "options": self.options,
            "policy": [self.policy, RULES_VERSION],
            "row_group_bytes": self.row_group_bytes,
            "image_codec": self.image_codec,
        }
        encode = json.JSONEncoder(sort_keys=True).encode
        digest = hashlib.sha256(encode(facts).encode())
        for shard in self.shards:
            digest.update(f"\n{shard.name}".encode())
            for unit in shard.units:
                digest.update(b"\n")
                digest.update(encode(unit_facts(unit)).encode())
        return replace(self, fingerprint=digest.hexdigest())


def unit_facts(unit: Unit) -> list[Any]:
    """A unit as plain JSON values; the split is that of its shard."""
    return [unit.unit_id, unit.records, unit.size, unit.data]


def dump_shard(shard: Shard) -> str:
    """A shard as JSON, for a task that finds it in the folder of the build."""
    units = [unit_facts(unit) for unit in shard.units]
    return json.dumps({"split": shard.split, "index": shard.index, "count": shard.count, "units": units})


def load_shard(text: str | bytes) -> Shard:
    """The shard that `dump_shard` wrote."""
    facts = json.loads(text)
    units = tuple(
        Unit(unit_id=unit_id, split=facts["split"], records=records, size=size, data=data)
        for unit_id, records, size, data in facts["units"]
    )
    return Shard(split=facts["split"], index=facts["index"], count=facts["count"], units=units)


def plan_build(
    builder: type[StoryBuilder],
    raw: Raw,
    *,
    splits: Sequence[str] = (),
    options: Mapping[str, Iterable[str]] | None = None,
    policy: str = DEFAULT_POLICY,
    on_error: OnError = "raise",
    shard_bytes: int = SHARD_BYTES,
    row_group_bytes: int = ROW_GROUP_TARGET,
    image_codec: str = DEFAULT_CODEC,
) -> Plan:
    """Decide which units go into which shard.

    Raises:
        UsageError: for an unknown split, option, policy or codec, or row groups of more than `ROW_GROUP_MOST`.
        SourceError: if the release cannot be planned.
    """
    if unknown := sorted(set(splits) - set(builder.INFO.splits)):
        known = ", ".join(builder.INFO.splits)
        raise UsageError(f"{builder.INFO.title} has no split {', '.join(unknown)}. Its splits: {known}")
    if policy not in POLICIES:
        raise UsageError(f"unknown referential-text policy {policy!r}; choose from {', '.join(POLICIES)}")
    codecs.get(image_codec)
    if not 0 < row_group_bytes <= ROW_GROUP_MOST:
        raise UsageError(f"row groups of {row_group_bytes:,} bytes: choose between 1 and {ROW_GROUP_MOST:,}")
    chosen = chosen_options(builder.INFO, options or {})
    shards: list[Shard] = []
    for split in builder.INFO.splits:
        if not splits or split in splits:
            shards += _split_shards(split, list_units(builder, raw, split, chosen), shard_bytes)
    if not shards:
        wanted = ", ".join(splits or builder.INFO.splits)
        raise BuildError(
            f"{raw.path} holds nothing to build for {wanted}.\n\nFiles it must have:\n{builder.INFO.tree}"
        )
    return Plan(
        builder=builder,
        raw=raw,
        raw_fingerprint=raw.fingerprint(),
        options=chosen,
        policy=policy,
        on_error=on_error,
        shards=tuple(shards),
        row_group_bytes=row_group_bytes,
        image_codec=image_codec,
    ).fingerprinted()


def _split_shards(split: str, units: Sequence[Unit], shard_bytes: int) -> list[Shard]:
    """Cut the units, in order, into a highly composite number of runs of about the same size."""
    if not units:
        return []
    weights = [max(unit.size, 1) for unit in units]
    total = sum(weights)
    wanted = -(-total // shard_bytes)
    enough = next((number for number in SHARD_COUNTS if number >= wanted), SHARD_COUNTS[-1])
    count = max(number for number in SHARD_COUNTS if number <= min(enough, len(units)))
    runs: list[list[Unit]] = [[]]
    filled = 0
    for at, (unit, weight) in enumerate(zip(units, weights, strict=True)):
        full = filled + weight / 2 > total * len(runs) / count
        one_each = len(units) - at <= count - len(runs)  # large units came first: leave none of the runs empty
        if runs[-1] and (full or one_each):
            runs.append([])
        runs[-1].append(unit)
        filled += weight
    return [Shard(split=split, index=index, count=count, units=tuple(run)) for index, run in enumerate(runs)]

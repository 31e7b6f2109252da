"""Engines: what runs the tasks of a build. A task is a shard; when it is done, its files and result are in the folder.

An engine changes where and how fast shards are built, never a byte: all of them call `shard.build_task`, and what is
there with its result is finished, whoever built it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from openstory_hf.errors import UsageError
from openstory_hf.plan import Plan, Shard
from openstory_hf.shard import Progress
from openstory_hf.target import Target

T = TypeVar("T")

EXTRA = "pip install 'openstory_hf[cluster]'"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an engine is to do.

    Args:
        plan: of the build.
        place: the folder.
        tasks: numbers of the shards, in the order of the plan, that this builder is to see to.
        num_proc: cores to use on this machine.
        options: of the engine.
        report: told of finished records.
        again: the same build on one machine; what a job runs that completes the folder.
    """

    plan: Plan
    place: Target
    tasks: range
    num_proc: int = 1
    options: Any = None
    report: Progress | None = None
    again: Callable[[], Any] | None = None

    def finished(self, shard: Shard) -> Shard:
        """Report all of a shard, and hand it on."""
        if self.report:
            self.report(shard.split, shard.records)
        return shard


Run = Callable[[Job, Sequence[Shard]], Iterator[Shard]]
"""Builds the shards, and yields each that is there. It may end earlier, when others go on with them."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For engines that have none."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine of the table.

    Args:
        name: on the command line.
        summary: what it is for.
        module: of `openstory_hf.engines`, with a function `run` and a class `Options`.
        needs: packages of the extra `cluster`.
    """

    name: str
    summary: str
    module: str
    needs: tuple[str, ...] = ()

    def load(self) -> Any:
        """Its module.

        Raises:
            UsageError: if a package it needs is not installed.
        """
        for package in self.needs:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise UsageError(f"--engine {self.name} needs {package} ({error}): {EXTRA}") from None
        return importlib.import_module(f"openstory_hf.engines.{self.module}")


TABLE = {
    engine.name: engine
    for engine in (
        Engine(name="pool", summary="the processes of one machine", module="pool"),
        Engine(
            name="datatrove-local",
            summary="the same under datatrove, with its logs and completions",
            module="datatrove_local",
            needs=("datatrove",),
        ),
        Engine(
            name="slurm",
            summary="an array job of a Slurm cluster, and one that completes the folder",
            module="slurm",
            needs=("datatrove",),
        ),
        Engine(name="ray", summary="the nodes of a Ray cluster", module="ray_tasks", needs=("ray",)),
    )
}

DEFAULT = "pool"


def get(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UsageError: for an unknown name, with the known ones.
    """
    if name not in TABLE:
        raise UsageError(f"there is no engine {name!r}. Known: {', '.join(TABLE)}")
    return TABLE[name]


LEAST = {"cpus": 1, "array": 1}
"""The least values of options, by name; of all other numbers it is 0."""


def chosen(name: str, kind: type[T], given: Mapping[str, str]) -> T:
    """The options of an engine, from texts.

    Args:
        name: of the engine.
        kind: the dataclass of its options; a field `others` takes what comes with a prefix, `sbatch.` for Slurm.
        given: name -> value.

    Raises:
        UsageError: for an option it does not have, or a value that is none.
    """
    kinds: dict[str, Any] = {entry.name: type(entry.default) for entry in fields(kind)}  # type: ignore[arg-type]
    prefix = getattr(kind, "PREFIX", "")
    values: dict[str, Any] = {}
    for option, text in given.items():
        if prefix and option.startswith(prefix):
            values.setdefault("others", {})[option.removeprefix(prefix)] = text
            continue
        if option not in kinds or option == "others":
            names = [*(key for key in kinds if key != "others"), *([f"{prefix}NAME"] if prefix else [])]
            raise UsageError(f"--engine {name} has no option {option!r}. Its options: {', '.join(names) or 'none'}")
        try:
            values[option] = kinds[option](text)
        except ValueError:
            raise UsageError(f"--engine-option {option}={text}: expected {kinds[option].__name__}") from None
        if kinds[option] in (int, float):
            least = LEAST.get(option, 0)
            if not values[option] >= least:
                raise UsageError(f"--engine-option {option}={text}: it must be at least {least}")
    return kind(**values)


__all__ = ["DEFAULT", "TABLE", "Engine", "Job", "NoOptions", "Run", "chosen", "get"]

"""A Slurm cluster, through datatrove's SlurmPipelineExecutor: an array job builds, one behind it completes the folder.

The command only submits. What failed or was preempted is requeued by Slurm; what is missing in the end is submitted
again by the same command.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datatrove.executor.slurm import SlurmPipelineExecutor

from openstory_hf.engines import Job
from openstory_hf.engines.steps import BuildShard, Call, prepare
from openstory_hf.engines.submitted import SUBMITTED, in_queue
from openstory_hf.errors import BuildError, UsageError
from openstory_hf.estimate import task_memory
from openstory_hf.plan import Shard
from openstory_hf.shard import plan_file


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen.

    Args:
        partition: of the cluster; its default by default.
        time: the most a task may take.
        cpus: cores of a task.
        memory: GB of a task; by default what `openstory plan` estimates.
        parallel: tasks at a time; 0 is no limit.
        qos: quality of service.
        array: the most tasks the cluster admits in an array job.
        env: a shell command that sets the environment up.
        logs: folder of scripts, logs and completions, seen by all nodes; `OUT.slurm` by default.
        others: any other argument of `sbatch`, by name.
    """

    PREFIX: ClassVar[str] = "sbatch."

    partition: str = ""
    time: str = "24:00:00"
    cpus: int = 1
    memory: int = 0
    parallel: int = 0
    qos: str = ""
    array: int = 1001
    env: str = ""
    logs: str = ""
    others: dict[str, str] = field(default_factory=dict)


class _Executor(SlurmPipelineExecutor):  # type: ignore[misc]
    """Submits some of the tasks only, and leaves out what is not chosen."""

    only: range | None = None

    def get_incomplete_ranks(self, ranks: Any = None, skip_completed: Any = None) -> list[int]:
        """The tasks to submit."""
        found: list[int] = super().get_incomplete_ranks(self.only if ranks is None else ranks, skip_completed)
        return found

    def launch_merge_stats(self) -> None:
        """The statistics of tasks are summed up where there are several."""
        if self.only is not None:
            super().launch_merge_stats()

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """What `sbatch` is told."""
        return {name: value for name, value in super().get_sbatch_args(max_array).items() if value is not None}


def run(job: Job, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Submit the shards, and a job that completes the folder; yields those that are there already when that is done.

    Raises:
        UsageError: where there is no Slurm, or for a path it cannot pass on.
        BuildError: if `sbatch` refuses.
    """
    options: Options = job.options
    logs = options.logs or f"{str(job.place).rstrip('/')}.slurm"
    if any(character.isspace() for character in logs):
        raise UsageError(f"{logs}: datatrove's scripts cannot pass a path with spaces on. Choose another --out")
    if in_queue(job.place):
        return
    prepare(job, shards, logs)
    common: dict[str, Any] = {
        "time": options.time,
        "partition": options.partition or None,
        "qos": options.qos,
        "cpus_per_task": options.cpus,
        "mem_per_cpu_gb": math.ceil((options.memory or task_memory(job.plan) / 1e9) / options.cpus),
        "max_array_size": options.array,
        "env_command": "\n".join(filter(None, (options.env, _path()))),
        "slurm_logs_folder": str(Path(logs, "slurm")) if "://" not in logs else None,
    }
    name = f"openstory-{job.plan.builder.__module__.rpartition('.')[2]}"
    build = _Executor(
        pipeline=[BuildShard(job.plan.head(), str(job.place), options.cpus)],
        tasks=len(job.plan.shards),
        workers=options.parallel or -1,
        job_name=name,
        logging_dir=logs,
        sbatch_args=dict(options.others),
        **common,
    )
    build.only = job.tasks
    try:
        with contextlib.redirect_stdout(sys.stderr):
            build.launch_job()
            finish = _Executor(
                pipeline=[Call(job.again)] if job.again else [],
                tasks=1,
                job_name=f"{name}-finish",
                logging_dir=f"{logs}/finish",
                depends_job_id=build.job_id,
                sbatch_args={"kill-on-invalid-dep": "yes", **options.others},
                skip_completed=False,
                **{**common, "slurm_logs_folder": common["slurm_logs_folder"] and f"{logs}/finish/slurm"},
            )
            finish.launch_job()
    except FileNotFoundError as error:
        raise UsageError(
            f"--engine slurm needs `sbatch`, which is not here ({error}). Run it on a login node"
        ) from None
    except subprocess.CalledProcessError as error:
        raise BuildError(
            f"`sbatch` ended with exit status {error.returncode}; its script: {logs}/launch_script.slurm. Look at "
            "what it says above, and set --engine-option partition=, qos=, time= or sbatch.NAME= as the cluster asks"
        ) from None
    note = {"engine": "slurm", "job": build.job_id, "finish": finish.job_id, "logs": logs, "at": time.time()}
    if job.place.size(plan_file(job.plan.fingerprint)) is not None:  # not finished already
        job.place.publish({SUBMITTED: json.dumps(note)})
    there = job.place.names()
    yield from (job.finished(shard) for shard in shards if f"{shard.name}.json" in there)


def _path() -> str:
    """The programs of the environment this runs in, for the jobs."""
    return f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"

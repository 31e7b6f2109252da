"""Engines and places: wherever and by whomever shards are built, the folder ends with the same bytes."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
from held_stories import HOLD, HeldStories
from interrupted import interrupt
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from openstory_hf import catalogue, cli, engines, status
from openstory_hf import shard as shard_room
from openstory_hf.build import build
from openstory_hf.errors import BuildError, OutputError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.identity import identity
from openstory_hf.plan import dump_shard, load_shard, plan_build
from openstory_hf.raw import Raw
from openstory_hf.target import target

TESTS = Path(__file__).parent
EPISODES = {"train": {f"s_01_e_0{number}": 6 for number in (1, 2, 3, 4)}, "val": {"s_02_e_01": 6}}
SHARDS = [*(f"train-{number:05d}-of-00004" for number in range(4)), "validation-00000-of-00001"]
SMALL = {"shard_bytes": 1}  # a shard per episode


def tree(out):
    """SHA-256 of every file below a folder."""
    files = (path for path in Path(out).rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def remote_tree(url):
    """The same of a place that fsspec knows."""
    fs, root = fsspec.url_to_fs(url)
    found = fs.find(root)
    return {path.removeprefix(root).strip("/"): hashlib.sha256(fs.cat_file(path)).hexdigest() for path in found}


def until(true, seconds=120):
    """Wait for something to become true."""
    given_up = threading.Event()
    timer = threading.Timer(seconds, given_up.set)
    timer.start()
    while not true():
        assert not given_up.wait(0.01), f"waited for {seconds} s"
    timer.cancel()


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines") / "raw"
    write_release(RawWriter(folder), EPISODES, variant="C")
    return folder


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory):
    """The hashes of the build in one process."""
    out = tmp_path_factory.mktemp("engines") / "out"
    build(FlintstonesSV, raw, out, **SMALL)
    return tree(out)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A release of two shards, the second with a truncated clip."""
    folder = tmp_path_factory.mktemp("broken") / "raw"
    write_release(RawWriter(folder), {"train": {"s_01_e_01": 6, "s_01_e_02": 6}}, variant="B")
    clip = folder / "video_frames_sampled/s_01_e_02_shot_000300_000374.npy"
    clip.write_bytes(clip.read_bytes()[:-10])
    return folder


CLI = """
import sys
from openstory_hf.cli import main
if __name__ == "__main__":  # worker processes import this file as well
    sys.exit(main(sys.argv[1:]))
"""


def recorded(monkeypatch):
    """The names of the shards built from now on."""
    names, build_shard = [], shard_room.build_shard

    def recording(plan, shard, *rest):
        names.append(shard.name)
        return build_shard(plan, shard, *rest)

    monkeypatch.setattr(shard_room, "build_shard", recording)
    return names


def run(script, tmp_path, *arguments, **environment):
    """Start a script as a process of its own."""
    path = tmp_path / "script.py"
    path.write_text(script)
    return subprocess.Popen(
        [sys.executable, path, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends_well(process):
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return out


# -- requests ----------------------------------------------------------------------------------------------


def test_the_command_line_offers_the_engines_there_are(capsys):
    with pytest.raises(SystemExit):
        cli.main(["build", "--help"])
    assert "{" + ",".join(engines.TABLE) + "}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("engine", "package"), [("datatrove-local", "datatrove"), ("slurm", "datatrove"), ("ray", "ray")]
)
def test_a_missing_package_is_named_with_the_extra_before_anything_is_done(
    raw, tmp_path, monkeypatch, engine, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"--engine {engine} needs {package}.*pip install 'openstory_hf\[cluster\]'"):
        build(FlintstonesSV, raw, tmp_path / "out", engine=engine)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "spark"}, "no engine 'spark'. Known: pool, datatrove-local, slurm, ray"),
        ({"engine_options": {"cpus": "2"}}, "--engine pool has no option 'cpus'. Its options: none"),
        ({"tasks": range(3, 9)}, "no tasks 3-8 in this plan: it has 5, from 0 to 4"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(raw, tmp_path, options, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        build(FlintstonesSV, raw, tmp_path / "out", **options, **SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--engine-option cpus", "--engine-option cpus: write NAME=VALUE"),
        ("--tasks 5-3", "must be like 0-31"),
        ("--tasks all", "must be like 0-31"),
    ],
)
def test_words_that_are_no_request_are_wrong_usage(raw, tmp_path, capsys, words, says):
    command = ["build", "flintstones_sv", "--raw", str(raw), "--out", str(tmp_path / "out"), *words.split()]
    try:
        code = cli.main(command)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert re.search(says, capsys.readouterr().err)


@pytest.mark.parametrize("out", ["nothing://x/y", "hf://datasets/me", "hf://models/me/x"])
def test_a_url_nobody_can_write_to_is_refused(raw, out):
    with pytest.raises(UsageError, match=r"choose another --out|hf://datasets/user/name"):
        build(FlintstonesSV, raw, out)


def test_options_of_an_engine_have_kinds_and_those_of_sbatch_pass():
    pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'openstory_hf[cluster]'")
    kind = engines.get("slurm").load().Options
    chosen = engines.chosen("slurm", kind, {"cpus": "2", "partition": "cpu", "sbatch.account": "me"})
    assert (chosen.cpus, chosen.partition, chosen.others) == (2, "cpu", {"account": "me"})
    with pytest.raises(UsageError, match="cpus=two: expected int"):
        engines.chosen("slurm", kind, {"cpus": "two"})
    with pytest.raises(UsageError, match=r"no option 'cpu'.*partition, time, cpus.*sbatch\.NAME"):
        engines.chosen("slurm", kind, {"cpu": "2"})


# -- what a task is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue.names())
def test_a_shard_survives_the_way_to_a_task(name, tmp_path):
    builder = catalogue.get(name)
    builder.fake(RawWriter(tmp_path / "raw"))
    for shard in plan_build(builder, Raw(tmp_path / "raw"), shard_bytes=1).shards:
        again = load_shard(dump_shard(shard))
        assert (again.name, dump_shard(again)) == (shard.name, dump_shard(shard))  # a tuple becomes a list


def test_a_task_of_datatrove_does_not_grow_with_the_number_of_units(raw):
    pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'openstory_hf[cluster]'")
    from openstory_hf.engines.steps import BuildShard

    plan = plan_build(FlintstonesSV, Raw(raw), shard_bytes=1)
    whole, step = len(pickle.dumps(plan)), len(pickle.dumps(BuildShard(plan.head(), "out", 1)))
    twice = plan_build(FlintstonesSV, Raw(raw), splits=["train"], shard_bytes=1)
    assert step < whole
    assert step == len(pickle.dumps(BuildShard(twice.head(), "out", 1)))


# -- several builders, one folder --------------------------------------------------------------------------


def test_machines_that_take_ranges_of_tasks_complete_the_folder_together(raw, expected, tmp_path):
    out = tmp_path / "out"
    assert build(FlintstonesSV, raw, out, tasks=range(3, 5), **SMALL) == {}
    assert sorted(path.stem for path in (out / ".build").glob("*.json")) == SHARDS[3:]
    assert build(FlintstonesSV, raw, out, tasks=range(0, 2), **SMALL) == {}
    found = status.status(str(out))
    assert (found.done, found.total, found.finished) == (4, 5, False)
    assert "run the same `openstory build` again" in found.advice
    assert build(FlintstonesSV, raw, out, tasks=range(2, 3), **SMALL)["splits"]
    assert tree(out) == expected


TOGETHER = """
import sys
from pathlib import Path
from fsspec import register_implementation
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from openstory_hf import shard
from openstory_hf.build import build
from openstory_hf.builders.flintstones_sv import FlintstonesSV

class Store(DirFileSystem):
    "A place that is not local as far as anybody can see."
    protocol = "store"
    def __init__(self, **options):
        super().__init__(path="/", fs=LocalFileSystem(auto_mkdir=True))
    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("store://")

register_implementation("store", Store)

build_shard, built = shard.build_shard, []
shard.build_shard = lambda plan, one, *rest: built.append(one.name) or build_shard(plan, one, *rest)
if __name__ == "__main__":
    raw, out, go = sys.argv[1:]
    Path(f"{go}-{__import__('os').getpid()}").touch()
    while not Path(go).exists():
        pass
    assert build(FlintstonesSV, raw, out, shard_bytes=1)["splits"]
    print(*built)
"""


@pytest.mark.parametrize("kind", ["", "store://"], ids=["local", "remote"])
def test_two_machines_that_run_the_same_command_at_the_same_time(raw, expected, tmp_path, kind):
    """At the same moment: both wait for a file before they begin."""
    both = [run(TOGETHER, tmp_path, raw, f"{kind}{tmp_path}/out", tmp_path / "go") for _ in range(2)]
    until(lambda: len(list(tmp_path.glob("go-*"))) == 2 or any(one.poll() for one in both))
    (tmp_path / "go").touch()
    built = [ends_well(one).split() for one in both]
    assert set(built[0]) | set(built[1]) == set(SHARDS)
    assert tree(tmp_path / "out") == expected


def test_a_builder_leaves_a_shard_that_another_is_at_for_the_end(raw, expected, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt(monkeypatch, SHARDS[0], FlintstonesSV, raw, out, **SMALL)
    (out / f".build/{SHARDS[1]}.begun.node7.0123abcd.9").write_text("{}")
    names = recorded(monkeypatch)
    build(FlintstonesSV, raw, out, **SMALL)
    assert names == [SHARDS[0], *SHARDS[2:], SHARDS[1]]
    assert tree(out) == expected


def test_of_two_plans_that_were_written_down_at_the_same_time_none_goes_on(raw, tmp_path):
    out = tmp_path / "out"
    build(FlintstonesSV, raw, out, tasks=range(1), **SMALL)
    (out / f".build/plan-{'0' * 64}").write_text("{}")
    with pytest.raises(BuildError, match="of other inputs"):
        build(FlintstonesSV, raw, out, **SMALL)


def test_a_builder_that_finds_the_folder_completed_meanwhile_stops_there(raw, expected, tmp_path, monkeypatch):
    """Else it would begin anew, since what was there is cleared up."""
    out, names, build_shard = tmp_path / "out", [], shard_room.build_shard

    def building(plan, shard, *rest):
        names.append(shard.name)
        if len(names) == 1:
            build(FlintstonesSV, raw, out, **SMALL)  # another builder, and fast
        return build_shard(plan, shard, *rest)

    monkeypatch.setattr(shard_room, "build_shard", building)
    assert build(FlintstonesSV, raw, out, **SMALL)["splits"]
    assert sorted(names) == sorted([*SHARDS, SHARDS[0]])
    assert tree(out) == expected


# -- places fsspec knows -----------------------------------------------------------------------------------


@pytest.fixture
def memory():
    """The URL of an empty folder in memory."""
    fs = fsspec.filesystem("memory")
    yield "memory://bucket/out"
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def test_a_build_into_an_object_store_has_the_bytes_of_a_local_one(raw, expected, memory):
    manifest = build(FlintstonesSV, raw, memory, **SMALL)
    assert remote_tree(memory) == expected
    assert manifest["files"].keys() <= expected.keys()
    assert build(FlintstonesSV, raw, memory, **SMALL)["files"] == manifest["files"]
    assert status.status(memory).finished


def test_a_remote_build_continues_from_its_markers_and_refuses_another_plan(raw, expected, memory, monkeypatch):
    interrupt(monkeypatch, SHARDS[3], FlintstonesSV, raw, memory, **SMALL)
    found = status.status(memory)
    assert (found.done, found.total, dict(found.running)) == (3, 5, {})
    with pytest.raises(BuildError, match=r"memory://.* of other inputs.*choose another --out"):
        build(FlintstonesSV, raw, memory, policy="algorithm1", **SMALL)
    names = recorded(monkeypatch)
    build(FlintstonesSV, raw, memory, **SMALL)
    assert names == SHARDS[3:]
    assert remote_tree(memory) == expected


def test_a_remote_folder_that_holds_something_else_is_refused_and_untouched(raw, memory):
    fsspec.filesystem("memory").pipe_file("/bucket/out/notes.txt", b"mine")
    with pytest.raises(BuildError, match=r"not empty \(notes.txt\)"):
        build(FlintstonesSV, raw, memory)
    assert list(remote_tree(memory)) == ["notes.txt"]


def test_a_store_that_fails_is_tried_again_and_then_named(raw, expected, memory, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    put, failures = MemoryFileSystem.put_file, [OSError("connection reset")] * 3
    monkeypatch.setattr("openstory_hf.target._PAUSES", (0, 0))

    def failing(self, *args, **options):
        if failures and failures[0]:
            raise failures.pop()
        return put(self, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    with pytest.raises(
        BuildError, match=r"memory://.*writing stories/.* failed: OSError: connection reset.*run again"
    ):
        build(FlintstonesSV, raw, memory, **SMALL)
    build(FlintstonesSV, raw, memory, **SMALL)
    assert remote_tree(memory) == expected


HUB = """
import sys
from openstory_hf.build import build
from openstory_hf.builders.flintstones_sv import FlintstonesSV
assert build(FlintstonesSV, sys.argv[1], sys.argv[2], shard_bytes=1)["splits"]
assert build(FlintstonesSV, sys.argv[1], sys.argv[2], shard_bytes=1)["splits"]  # finished
"""


def test_a_build_into_a_repository_of_the_hub_makes_one_commit_per_shard(raw, expected, tmp_path):
    from openstory_hf.testing import LocalHub

    with LocalHub() as hub:
        ends_well(run(HUB, tmp_path, raw, "hf://datasets/me/stories", **hub.environment(), HF_HUB_OFFLINE="0"))
        files = hub.files("me/stories")
        found = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != ".gitattributes"}
        assert found == expected
        commits = [request for request in hub.requests if "/commit/" in request.path]
    assert len(commits) == len(SHARDS) + 3  # the plan, a shard each, the dataset's own files, clearing up


# -- datatrove ---------------------------------------------------------------------------------------------


@pytest.fixture
def datatrove():
    return pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'openstory_hf[cluster]'")


def test_datatrove_on_one_machine_writes_the_bytes_of_the_pool(datatrove, raw, expected, tmp_path):
    out = tmp_path / "out"
    options = {"engine": "datatrove-local", "num_proc": 2, **SMALL}
    assert build(FlintstonesSV, raw, out, tasks=range(1, 3), **options) == {}
    logs = out / ".build/datatrove"
    assert sorted(path.name for path in (logs / "completions").iterdir()) == ["00001", "00002"]
    damaged = out / f"stories/{SHARDS[1]}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")  # its completion does not count any more
    assert build(FlintstonesSV, raw, out, **options)["splits"]
    assert tree(out) == expected


def test_a_failed_task_of_datatrove_says_what_the_pool_says(datatrove, broken, tmp_path, capfd):
    messages = []
    for engine in ("pool", "datatrove-local"):
        with pytest.raises(BuildError) as caught:
            build(FlintstonesSV, broken, tmp_path / engine, engine=engine, num_proc=1, **SMALL)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "Traceback" not in capfd.readouterr().err
    found = status.status(str(tmp_path / "datatrove-local"))
    (shard,) = found.failed
    error, log = found.failed[shard]
    assert (found.done, shard, error) == (1, "train-00001-of-00002", messages[0])
    assert "truncated" in Path(log).read_text("utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals of this kind")
def test_a_killed_worker_of_datatrove_ends_the_build_with_one_message(datatrove, raw, tmp_path):
    """datatrove itself waits for it for ever."""
    out = tmp_path / "out"
    command = ["build", "flintstones_sv", "--raw", raw, "--out", out, "--engine", "datatrove-local", "--num-proc", "2"]
    process = run(CLI, tmp_path, *command, "--image-codec", "webp", "--quiet")  # which takes long
    hints = []
    until(lambda: hints.extend(out.glob(".build/*.begun.*")) or hints or process.poll() is not None)
    pid = hints[0].name.rpartition(".")[2]
    os.kill(int(pid), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert re.fullmatch(rf"openstory: worker process {pid}, at .*, was ended by SIGKILL, .* --num-proc\n", said), said


# -- Slurm -------------------------------------------------------------------------------------------------

SBATCH = """#!PYTHON
# Runs the tasks of an array job while it is submitted, unless a job that it comes after has failed.
import os, re, shutil, subprocess, sys
home = os.environ["FAKE_SLURM"]
text = open(sys.argv[-1]).read()
wants = dict(re.findall(r"^#SBATCH --([\\w-]+)=?(.*)$", text, re.M))
wants.update(re.findall(r"--([\\w-]+)=(\\S+)", " ".join(sys.argv[1:-1])))
number = len(os.listdir(home)) // 2 + 1
script = f"{home}/{number}.sh"
shutil.copy(sys.argv[-1], script)
first, last = map(int, wants["array"].partition("%")[0].split("-"))
export = dict(entry.split("=") for entry in wants.get("export", "ALL").split(",") if "=" in entry)
failed = 0
kind, _, before = wants.get("dependency", "").partition(":")
if kind == "afterok" and open(f"{home}/{before}.rc").read() != "0":
    failed = 1
else:
    tasks = []
    for task in range(first, last + 1):
        log = open(wants["output"].replace("%A", str(number)).replace("%a", str(task)), "w")
        env = {**os.environ, **export, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(number)}
        env["SLURM_NODELIST"] = "n1"
        tasks.append(subprocess.Popen(["bash", script], env=env, stdout=log, stderr=log))
    failed = sum(task.wait(timeout=100) != 0 for task in tasks)
open(f"{home}/{number}.rc", "w").write(str(failed))
print(f"Submitted batch job {number}")
"""
PROGRAMS = {
    "sbatch": SBATCH,
    "srun": '#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done\nexec "$@"\n',
    "scontrol": '#!/bin/bash\necho "n1"\n',
    "squeue": '#!/bin/bash\ncat "$FAKE_QUEUE"\n',
}


@pytest.fixture
def slurm(datatrove, tmp_path, monkeypatch):
    """Programs with the names of Slurm's on the path; returns the folder of what was submitted."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "jobs").mkdir()
    (tmp_path / "queue").write_text("")
    for name, text in PROGRAMS.items():
        path = tmp_path / "bin" / name
        path.write_text(text.replace("PYTHON", sys.executable))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "jobs"))
    monkeypatch.setenv("FAKE_QUEUE", str(tmp_path / "queue"))
    return tmp_path / "jobs"


def test_slurm_builds_what_is_missing_and_completes_the_folder_when_nothing_failed(slurm, broken, tmp_path, capfd):
    build(FlintstonesSV, broken, tmp_path / "expected", on_error="quarantine", **SMALL)
    out = tmp_path / "out"
    options = {"engine": "slurm", "engine_options": {"partition": "cpu", "cpus": "2", "sbatch.account": "me"}, **SMALL}
    assert build(FlintstonesSV, broken, out, **options) == {}
    script = (slurm / "1.sh").read_text()
    for wanted in ("partition=cpu", "cpus-per-task=2", "mem-per-cpu=1G", "account=me", "array=0-1", "requeue"):
        assert f"#SBATCH --{wanted}\n" in script
    assert "qos" not in script
    found = status.status(str(out))
    (error, log) = found.failed["train-00001-of-00002"]
    assert (found.done, "truncated" in error, Path(log).is_file()) == (1, True, True)
    (tmp_path / "queue").write_text("1 cpu openstory\n")
    assert build(FlintstonesSV, broken, out, **options) == {}  # still in the queue: nothing is submitted twice
    assert status.status(str(out)).queued["job"] == "1"
    assert len(list(slurm.glob("*.sh"))) == 3  # the shards, datatrove's sum of statistics, the completion
    (tmp_path / "queue").write_text("")
    build(FlintstonesSV, broken, out, on_error="quarantine", **options)
    assert "#SBATCH --array=0-0\n" in (slurm / "4.sh").read_text()
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in (slurm / "6.sh").read_text()
    assert tree(out) == tree(tmp_path / "expected")


def test_without_slurm_the_command_says_where_to_run_it(datatrove, raw, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"needs `sbatch`, which is not here.*login node"):
        build(FlintstonesSV, raw, tmp_path / "out", engine="slurm", **SMALL)


# -- Ray ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of one node, to which tests add others."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'openstory_hf[cluster]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)  # for held_stories
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield made
        made.shutdown()


def test_ray_with_one_node_writes_the_bytes_of_the_pool_and_says_what_it_says(
    cluster, raw, broken, expected, tmp_path
):
    options = {"engine": "ray", "engine_options": {"address": cluster.address}, **SMALL}
    build(FlintstonesSV, raw, tmp_path / "out", **options)
    assert tree(tmp_path / "out") == expected
    messages = []
    for chosen in (options, SMALL):
        with pytest.raises(BuildError) as caught:
            build(FlintstonesSV, broken, tmp_path / f"broken-{len(messages)}", **chosen)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


RAY = """
import sys
from held_stories import HeldStories
from openstory_hf.build import build
assert build(HeldStories, sys.argv[1], sys.argv[2], shard_bytes=1, engine="ray")["splits"]
"""


def test_a_node_that_is_killed_in_the_middle_of_a_build_changes_no_byte(cluster, raw, tmp_path):
    """Both nodes are in the middle of a shard then."""
    build(HeldStories, raw, tmp_path / "expected", **SMALL)
    hold, out = raw.parent / HOLD, tmp_path / "out"
    hold.touch()
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        process = run(RAY, tmp_path, raw, out, RAY_ADDRESS=cluster.address)
        until(lambda: len(list(out.glob(".build/*.begun.*"))) == 2 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        cluster.remove_node(node, allow_graceful=False)
    finally:
        hold.unlink()
    ends_well(process)
    assert tree(out) == tree(tmp_path / "expected")


# -- plan and status ---------------------------------------------------------------------------------------


def openstory(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.main([str(word) for word in words])
    return code, out.getvalue()


def test_plan_says_what_a_build_will_take_and_writes_nothing(raw, tmp_path):
    before = tree(raw)
    code, text = openstory("plan", "flintstones_sv", "--raw", raw, "--split", "train", "--shard-mb", "1")
    assert code == 0
    assert "4 tasks, one for each shard" in text
    assert "train: 4 shards of 4 units with 24 source records" in text
    _, found = openstory("plan", "flintstones_sv", "--raw", raw, "--split", "train", "--shard-mb", "1", "--json")
    facts = json.loads(found)
    assert facts["tasks"] == facts["splits"]["train"]["shards"] == 4
    assert facts["source_bytes"] == sum(path.stat().st_size for path in raw.rglob("*") if path.is_file())
    assert facts["task_memory"] == int(1.25 * ((200 << 20) + 2 * 2 * (24 << 20)))
    assert tree(raw) == before


def test_plan_counts_the_shards_that_a_build_makes(raw, tmp_path):
    _, found = openstory("plan", "flintstones_sv", "--raw", raw, "--shard-mb", "8", "--json")
    manifest = build(FlintstonesSV, raw, tmp_path / "out", shard_bytes=8 << 20)
    stories = [file for file in manifest["files"] if file.startswith("stories/")]
    assert json.loads(found)["tasks"] == len(stories)
    assert json.loads(found)["fingerprint"] == manifest["plan"]


def test_status_of_a_build_that_runs_was_ended_and_is_finished(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="holds no build"):
        status.status(str(out))
    build(FlintstonesSV, raw, out, tasks=range(1), **SMALL)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=60)
    for name, builder in ((SHARDS[1], identity()), (SHARDS[2], "node7.0123abcd.9"), (SHARDS[3], identity(ended.pid))):
        (out / f".build/{name}.begun.{builder}").write_text(json.dumps({"since": time.time() - 300}))
    (out / f".build/builder-{identity()}").write_text("{}")
    code, text = openstory("status", out)
    assert code == 0
    assert f"FlintstonesSV in {out}: not finished\n1 of 5 shards, " in text
    assert f"{SHARDS[2]}: being built by node7.0123abcd.9 for 5 min" in text
    assert f"{SHARDS[3]}: its builder was ended" in text
    assert "to go with the 2 that are being built now" in text
    assert "more machines may join in" in text
    facts = json.loads(openstory("status", out, "--json")[1])
    assert (facts["done"], facts["total"], sorted(facts["running"])) == (1, 5, SHARDS[1:3])
    build(FlintstonesSV, raw, out, **SMALL)
    text = openstory("status", out)[1]
    assert f"{out}: finished\n5 of 5 shards" in text
    assert f"openstory check {out}" in text


def test_the_place_of_a_file_url_is_the_folder(tmp_path):
    assert target(f"file://{tmp_path}").root == tmp_path


@pytest.mark.parametrize("name", ["out[1]", "out*", "out?"])
def test_a_folder_behind_a_url_is_cleared_whatever_its_name(raw, name):
    """fsspec takes such names for patterns when it removes folders."""
    fs = fsspec.filesystem("memory")
    build(FlintstonesSV, raw, f"memory://magic/{name}")
    assert fs.exists(f"memory://magic/{name}/manifest.json")
    assert not fs.exists(f"memory://magic/{name}/.build")
    fs.rm("memory://magic", recursive=True)


def test_a_name_that_fsspec_takes_for_a_chain_is_refused(raw, tmp_path):
    with pytest.raises(UsageError, match="two colons"):
        build(FlintstonesSV, raw, tmp_path / "a::b")

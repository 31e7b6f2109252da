"""What a build leaves when power, disk, processes or patience fail, and that the same command then completes it."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from openstory_hf import write
from openstory_hf.build import build
from openstory_hf.errors import BuildError
from openstory_hf.fakes import RawWriter

ROOT = Path(__file__).parents[1]
FOLDERS = ("stories", "frames", "index")


def tree(out):
    """SHA-256 of every file below a folder, but for those of an unfinished build."""
    files = (path for path in out.rglob("*") if path.is_file() and ".build" not in path.parts)
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def published(out):
    """Those files of a folder that are under their final name."""
    return {name: found for name, found in tree(out).items() if ".tmp-" not in name}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash") / "raw"
    write_release(RawWriter(folder), {"train": {"s_01_e_01": 7}, "val": {"s_01_e_02": 6}}, variant="C")
    return folder


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory):
    """The hashes of the undisturbed build."""
    out = tmp_path_factory.mktemp("crash") / "out"
    build(FlintstonesSV, raw, out)
    return tree(out)


# -- power cuts --------------------------------------------------------------------------------------------


class Disk:
    """What a power cut would leave: contents of files, and names in folders, as they were last synced.

    A file whose name survives without its content is empty afterwards.
    """

    def __init__(self, root):
        self.root = root
        self.contents, self.names, self.held = {}, {}, []
        self.sync(root)

    def sync(self, path):
        handle = os.open(path, os.O_RDONLY)
        self.held.append(handle)  # so that its number is not given to another file
        number = os.fstat(handle).st_ino
        if path.is_dir():
            self.names[number] = {entry.name: entry.inode() for entry in os.scandir(path)}
            self.held += [os.open(entry.path, os.O_RDONLY) for entry in os.scandir(path)]
        else:
            self.contents[number] = path.read_bytes()

    def survivors(self, to):
        """Write down what is left of the root."""

        def restore(number, to):
            to.mkdir()
            for name, inner in self.names.get(number, {}).items():
                if inner in self.folders:
                    restore(inner, to / name)
                else:
                    (to / name).write_bytes(self.contents.get(inner, b""))

        self.folders = {os.fstat(handle).st_ino for handle in self.held if os.path.isdir(f"/proc/self/fd/{handle}")}
        restore(os.stat(self.root).st_ino, to)

    def close(self):
        for handle in self.held:
            os.close(handle)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_power_cut_at_any_time_leaves_whole_files_and_a_build_that_can_be_continued(
    raw, expected, tmp_path, monkeypatch
):
    """Only what was synced survives: a file before it gets its name, a folder after it got a name."""
    (tmp_path / "disk").mkdir()
    disk, cuts, sync, replace = Disk(tmp_path / "disk"), [], write._sync, os.replace

    def cut():
        cuts.append(tmp_path / f"cut-{len(cuts)}")
        disk.survivors(cuts[-1])

    def syncing(path):
        sync(path)
        disk.sync(path)
        cut()

    def replacing(source, target):
        replace(source, target)
        cut()

    with monkeypatch.context() as patch:
        patch.setattr(write, "_sync", syncing)
        patch.setattr(write.os, "replace", replacing)
        build(FlintstonesSV, raw, tmp_path / "disk/deep/out")
    disk.survivors(tmp_path / "end")
    disk.close()
    assert tree(tmp_path / "end/deep/out") == expected
    assert len(cuts) > 50
    for number, left in enumerate(cuts):
        found = published(left / "deep/out")
        assert found.items() <= expected.items()
        assert "manifest.json" not in found or found == expected
        if number % 16 == 0:
            build(FlintstonesSV, raw, left / "deep/out")
            assert tree(left / "deep/out") == expected


# -- disks that are full or fail ---------------------------------------------------------------------------


AGAIN = "; the same command, run again, continues where this one stopped"


@pytest.mark.parametrize(
    ("call", "code", "says", "numbers"),
    [
        ("replace", errno.ENOSPC, "No space left on device. Make room there" + AGAIN, (0, 4, 16)),
        ("fsync", errno.EIO, "Input/output error. Check the disk" + AGAIN, (1, 9, 20)),
        (
            "mkdir",
            errno.EROFS,
            "Read-only file system. Change the permissions, or choose another --out" + AGAIN,
            (0, 3),
        ),
    ],
    ids=["full", "failing", "read-only"],
)
def test_a_call_the_system_refuses_is_one_message_and_leaves_nothing_half_written(
    raw, expected, tmp_path, monkeypatch, call, code, says, numbers
):
    original = getattr(os, call)
    for number in numbers:
        calls, out = 0, tmp_path / f"{number}"

        def refusing(*args, number=number, **options):
            nonlocal calls
            calls += 1
            if calls > number:
                raise OSError(code, os.strerror(code))
            return original(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refusing)
            try:
                build(FlintstonesSV, raw, out)
            except BuildError as error:
                message = str(error)
            else:
                pytest.fail(f"the build went on through {calls} calls of os.{call}, refused from {number + 1} on")
        assert f" cannot be written: {says}" in message
        assert str(out) in message
        assert published(out).items() <= expected.items()
        assert not (out / "manifest.json").exists()
        build(FlintstonesSV, raw, out)
        assert tree(out) == expected


def command_line(raw, out, *options):
    command = [sys.executable, "-m", "openstory_hf.cli", "build", "flintstones_sv", "--raw", raw, "--out", out]
    return [*map(str, command), "--quiet", *options]


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of so many bytes; only root may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def needed(raw, tmp_path_factory):
    """Bytes the build takes."""
    out = tmp_path_factory.mktemp("needed") / "out"
    build(FlintstonesSV, raw, out)
    return sum(path.stat().st_size for path in out.rglob("*"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_full_disk_is_one_message_and_with_room_the_build_completes(raw, expected, needed, tmp_path, share):
    with small_disk(tmp_path / "disk", int(needed * share)):
        out = tmp_path / "disk/out"
        with pytest.raises(BuildError, match=r"No space left on device\. Make room there"):
            build(FlintstonesSV, raw, out)
        assert published(out).items() <= expected.items()
        subprocess.run(["mount", "-o", f"remount,size={10 * needed}", str(tmp_path / "disk")], check=True)
        build(FlintstonesSV, raw, out)
        assert tree(out) == expected


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_full_disk_on_the_command_line_is_one_line_without_a_traceback(raw, needed, tmp_path, processes):
    with small_disk(tmp_path / "disk", needed // 2):
        command = command_line(raw, tmp_path / "disk/out", "--num-proc", processes)
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 1
        assert re.fullmatch(r"openstory: .* cannot be written: No space left on device\. .*\n", run.stderr), run.stderr


LIMITED = """
import resource, sys
from openstory_hf.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of this kind")
def test_a_limit_on_the_size_of_files_is_one_line_as_well(raw, tmp_path):
    """It fails in the C++ of Arrow, as a full disk does, and anybody may set it."""
    command = [sys.executable, "-c", LIMITED, *command_line(raw, tmp_path / "out")[3:]]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert re.fullmatch(r"openstory: .* cannot be written: File too large\. .*\n", run.stderr), run.stderr


# -- processes that are ended, and two at once -------------------------------------------------------------

WAITING = """
import os, signal, sys, time
from openstory_hf import write
from openstory_hf.cli import main

add, after = write.TableWriter.add, int(os.environ["ROWS"])

def add_or_wait(writer, row):
    global after
    after -= 1
    if after == 0:
        with open(os.path.join(os.environ["STARTED"], str(os.getpid())), "w"):
            pass
        while not os.path.exists(os.environ["GO"]):
            time.sleep(0.01)
    add(writer, row)

write.TableWriter.add = add_or_wait
if __name__ == "__main__":  # worker processes import this file as well
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    sys.exit(main(sys.argv[1:]))
"""


class Held:
    """A build that waits in the middle of every shard."""

    def __init__(self, tmp_path, raw, *options):
        self.out, self.started, self.go = tmp_path / "out", tmp_path / "started", tmp_path / "go"
        self.started.mkdir()
        (tmp_path / "waiting.py").write_text(WAITING)
        command = [sys.executable, tmp_path / "waiting.py", *command_line(raw, self.out, *options)[3:]]
        environment = {**os.environ, "ROWS": "3", "STARTED": str(self.started), "GO": str(self.go)}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def pids(self, number):
        """The processes that wait, once there are so many."""
        until(lambda: len(list(self.started.iterdir())) >= number or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.stderr.read()
        return [int(path.name) for path in self.started.iterdir()]


def until(true):
    """Wait for something to become true, for a minute at most."""
    given_up = threading.Event()
    timer = threading.Timer(60, given_up.set)
    timer.start()
    while not true():
        assert not given_up.wait(0.01), "waited for a minute"
    timer.cancel()


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("stop", "processes"), [(signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_a_terminated_build_says_so_leaves_no_worker_and_can_be_continued(raw, expected, tmp_path, stop, processes):
    held = Held(tmp_path, raw, "--num-proc", str(processes))
    workers = held.pids(processes)
    held.process.send_signal(stop)
    _, said = held.process.communicate(timeout=120)
    assert held.process.returncode == 128 + stop
    assert said == "openstory: interrupted; the same command continues a build\n"
    until(lambda: not any(map(runs, workers)))
    assert published(held.out).items() <= expected.items()
    build(FlintstonesSV, raw, held.out)
    assert tree(held.out) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_build(raw, expected, tmp_path):
    held = Held(tmp_path, raw, "--num-proc", "2")
    workers = held.pids(2)
    held.process.kill()
    held.process.wait()
    until(lambda: not any(map(runs, workers)))
    build(FlintstonesSV, raw, held.out)
    assert tree(held.out) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals of this kind")
def test_a_killed_worker_is_named_with_what_it_was_at(raw, expected, tmp_path):
    held = Held(tmp_path, raw, "--num-proc", "2")
    victim = held.pids(2)[0]
    os.kill(victim, signal.SIGKILL)
    _, said = held.process.communicate(timeout=120)
    assert held.process.returncode == 1
    assert re.fullmatch(
        rf"openstory: worker process {victim}, at (train|validation)-00000-of-00001, was ended by SIGKILL, most often "
        r"for want of memory\. Run the same command again to continue, with fewer --num-proc\n",
        said,
    ), said
    build(FlintstonesSV, raw, held.out)
    assert tree(held.out) == expected


ENDED_WHILE_TELLING = """
import os, signal, sys
from multiprocessing.connection import Connection
from openstory_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
# a worker process, and the first it sends is how far it has come
Connection._send = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals of this kind")
def test_a_worker_that_ends_while_it_tells_how_far_it_has_come_does_not_hold_up_the_build(raw, expected, tmp_path):
    """It held the lock of a queue, and the build then waited for that lock for ever."""
    (tmp_path / "ended.py").write_text(ENDED_WHILE_TELLING)
    command = [sys.executable, tmp_path / "ended.py", *command_line(raw, tmp_path / "out", "--num-proc", "2")[3:]]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert re.search(r"^openstory: worker process \d+, at .* was ended by SIGKILL", run.stderr), run.stderr
    build(FlintstonesSV, raw, tmp_path / "out")
    assert tree(tmp_path / "out") == expected


def test_a_second_build_of_other_inputs_is_refused_while_the_first_runs(raw, expected, tmp_path):
    held = Held(tmp_path, raw)
    held.pids(1)
    with pytest.raises(BuildError, match=r"of other inputs.*or one is running there.*choose another --out"):
        build(FlintstonesSV, raw, held.out, policy="algorithm1")
    held.go.touch()
    _, said = held.process.communicate(timeout=120)
    assert held.process.returncode == 0, said
    assert tree(held.out) == expected


def test_a_second_build_of_the_same_joins_in_and_does_not_disturb_the_first(raw, expected, tmp_path):
    """The first stands still in the middle of a shard, with files open that the second must leave alone."""
    held = Held(tmp_path, raw)
    held.pids(1)
    build(FlintstonesSV, raw, held.out)
    assert tree(held.out) == expected
    held.go.touch()
    _, said = held.process.communicate(timeout=120)
    assert held.process.returncode == 0, said
    assert tree(held.out) == expected
    assert not (held.out / ".build").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals of this kind")
def test_a_builder_that_stands_still_holds_nobody_up(raw, expected, tmp_path):
    held = Held(tmp_path, raw)
    held.pids(1)
    os.kill(held.process.pid, signal.SIGSTOP)
    try:
        build(FlintstonesSV, raw, held.out)
        assert tree(held.out) == expected
    finally:
        held.process.kill()
        held.process.communicate(timeout=120)


def test_builds_killed_at_random_end_with_the_same_bytes(tmp_path):
    script = ROOT / "scripts/kill_and_resume.py"
    command = [sys.executable, script, "vist", "--kills", "2", "--num-proc", "1", "--work", tmp_path / "work"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 builds killed" in run.stdout
    assert "0 ended with other bytes" in run.stdout
    shutil.rmtree(tmp_path / "work")

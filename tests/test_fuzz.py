"""Harnesses of `python -m tests.fuzz`: their seeds, a few seconds of each, and that they see what must not happen."""

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import HARNESSES
from fuzz.watch import Watched, watched

ROOT = Path(__file__).parents[1]


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("name", HARNESSES)
def test_some_seconds_of_fuzzing_find_nothing(name, tmp_path):
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only: pip install atheris")
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", "2", "--work", tmp_path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "no crash" in run.stdout
    assert f"{name}: 0 executions" not in run.stdout
    assert len(list((tmp_path / name / "corpus").iterdir())) > len(importlib.import_module(f"fuzz.{name}").SEEDS)


@pytest.mark.parametrize("name", HARNESSES)
def test_seeds_are_sound_and_cut_ones_are_handled(name):
    harness = importlib.import_module(f"fuzz.{name}")
    for seed in harness.SEEDS:
        for stop in range(0, len(seed), 1 + len(seed) // 20):
            harness.one_input(seed[:stop])
        harness.one_input(seed)


@pytest.mark.parametrize(
    "run",
    [
        lambda: os.system("true"),
        lambda: exec("1"),
        lambda: subprocess.run(["true"], check=False),
        lambda: pickle.loads(b"cos\nsystem\n."),
        lambda: Path("nothing/here").write_text("x"),
    ],
    ids=["system", "exec", "subprocess", "pickle", "write"],
)
def test_the_watch_sees_what_is_run_and_written(run):
    with pytest.raises(Watched), watched():
        run()


def test_the_watch_is_not_fooled_by_an_exception_handler():
    with pytest.raises(Watched), watched(), contextlib.suppress(BaseException):
        os.system("true")


def test_an_unpickler_without_the_list_is_found(monkeypatch):
    harness = importlib.import_module("fuzz.pickles")
    monkeypatch.setattr(harness, "unpickle", lambda data, allow, name: pickle.loads(data))
    with pytest.raises(Watched, match="find_class"):
        harness.one_input(pickle.dumps(Calls(os.system, "true")))

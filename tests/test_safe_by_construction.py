"""What the package never does, whatever it is given: run code, unpack files, talk to a network, tell a token."""

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from faults.sound_releases import RELEASES, Damaged, builder_of

from openstory_hf.build import build
from openstory_hf.testing import LocalHub

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "openstory_hf").rglob("*.py"), *(ROOT / "builders").glob("*.py")])

MODULES = "subprocess pty ctypes marshal shelve dill cloudpickle joblib runpy code codeop webbrowser"
CALLS = """eval exec compile __import__ breakpoint os.system os.popen os.startfile os.execv os.execve os.execvp
    os.spawnv os.posix_spawn pickle.load pickle.loads pickle.Unpickler _pickle.loads yaml.load yaml.unsafe_load
    yaml.full_load torch.load shutil.unpack_archive tempfile.mktemp"""
METHODS = "extractall extract unpack_archive"  # of tars and zips
ALLOWED = {
    ("openstory_hf/__init__.py", "importlib.import_module"),  # names of its own
    ("openstory_hf/catalogue.py", "importlib.import_module"),  # files in its own folder
    ("openstory_hf/engines/__init__.py", "importlib.import_module"),  # names in its own table
    ("openstory_hf/engines/slurm.py", "subprocess"),  # the exception of datatrove's `sbatch`
    ("openstory_hf/engines/submitted.py", "subprocess"),  # `squeue`, with two numbers
}


def called(node):
    """The dotted name of what is called, "" for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def dangers(source):
    """(line, what) of everything in a source text that could run what it is given."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            names += [f"{node.module}.{name.name}" for name in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if {name, name.partition(".")[0]} & set(MODULES.split()) or name in CALLS.split():
                    yield node.lineno, name
        elif isinstance(node, ast.Call):
            name = called(node.func)
            if name in (*CALLS.split(), "importlib.import_module"):
                yield node.lineno, name
            if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS.split():
                yield node.lineno, node.func.attr
            for word in node.keywords:
                off = isinstance(word.value, ast.Constant) and word.value.value is False
                if word.arg in ("allow_pickle", "shell", "trust_remote_code") and not off:
                    yield node.lineno, word.arg


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_or_unpacks_what_it_is_given(path):
    name = path.relative_to(ROOT).as_posix()
    found = [(line, what) for line, what in dangers(path.read_text(encoding="utf-8")) if (name, what) not in ALLOWED]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import subprocess",
        "import subprocess as s",
        "from os import system",
        "from pickle import loads",
        "import pickle\npickle.loads(x)",
        "class A(B):\n    def f(self):\n        return [os.system(x) for x in self]",
        "np.load(x, allow_pickle=True)",
        "np.load(x, allow_pickle=flag)",
        "tar.extractall(path)",
        "archive.extract(name)",
        "run(x, shell=True)",
        "yaml.load(x)",
        "torch.load(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "import importlib\nimportlib.import_module(x)",
    ],
)
def test_the_search_finds_them(source):
    assert list(dangers(source))


def test_the_search_lets_the_harmless_pass():
    assert not list(dangers("import json, yaml\nyaml.safe_load(x)\nnp.load(x, allow_pickle=False)\nre.compile(x)"))


# -- network and tokens ------------------------------------------------------------------------------------

TOKEN = "hf_aVerySecretTokenOfSomebody"


@pytest.mark.parametrize("release", RELEASES)
def test_builds_connect_to_nothing_and_write_no_token(release, tmp_path, monkeypatch):
    tried = []

    def refuse(*args, **options):
        tried.append(args)
        raise AssertionError("a build reached for the network")

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    RELEASES[release](Damaged(tmp_path / "raw"))
    build(builder_of(release), tmp_path / "raw", tmp_path / "out")
    assert not tried
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


LOAD = """
import json, logging, pickle, sys, time
logging.basicConfig(level=logging.INFO)
logging.getLogger("openstory_hf").setLevel(logging.DEBUG)
from huggingface_hub import get_token
assert get_token() == sys.argv[1]
from openstory_hf import load_stories
stream = load_stories("me/stories", "train", shuffle=True)
rows = iter(stream)
print(next(rows)["story_id"], repr(stream), json.dumps(stream.state_dict()), pickle.dumps(stream))
time.sleep = lambda seconds: None
print("begin", flush=True)
sys.stdin.readline()
for name in ("me/stories", "me/none"):
    try:
        list(load_stories(name, "train"))
    except Exception as error:
        print(repr(error), error, error.__cause__, error.__context__)
"""


def test_loading_with_a_token_tells_it_to_the_hub_only(tmp_path):
    RELEASES["african_storybook"](Damaged(tmp_path / "raw"))
    build(builder_of("african_storybook"), tmp_path / "raw", tmp_path / "out")
    with LocalHub() as hub:
        hub.publish(tmp_path / "out", "me/stories")
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD, TOKEN],
            env={**hub.environment(), "HF_TOKEN": TOKEN, "USE_TORCH": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = []
        for line in process.stdout:
            said.append(line)
            if line == "begin\n":
                break
        hub.faults("GET .*/resolve/", times=1000, status=503)
        rest, _ = process.communicate("\n")
    printed = "".join(said) + rest
    assert process.returncode == 0, printed
    assert "african_storybook/" in printed
    assert printed.count("OutputError") == 2
    assert TOKEN not in printed
    assert os.environ.get("HF_TOKEN") != TOKEN

"""The rooms import one way, parsers know only what they need, and the core works without torch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "openstory_hf"

# From the bottom up: a room may import rooms that stand before it, never one after it.
ORDER = [
    "version",
    "errors",
    "records",
    "info",
    "masks",
    "pictures",
    "codecs",
    "decoders",
    "references",
    "raw",
    "fakes",
    "forms",
    "schema",
    "builder",
    "parquet",
    "index",
    "layout",
    "contents",
    "identity",
    "write",
    "plan",
    "estimate",
    "target",
    "shard",
    "claim",
    "metadata",
    "croissant",
    "card",
    "finish",
    "engines",
    "status",
    "build",
    "catalogue",
    "storage",
    "folder",
    "sources",
    "columns",
    "rows",
    "views",
    "selection",
    "order",
    "assemble",
    "stream",
    "schedule",
    "forecast",
    "load",
    "simulate",
    "mix",
    "check",
    "hub",
    "stats",
    "collate",
    "loader",
    "device",
    "testing",
    "preview",
    "conformance",
    "quickstart",
    "cli",
]


def imports(path: Path) -> set[str]:
    """Top-level and nested imports of a file, but for those that only serve types."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("openstory_hf.")}


def files_of(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.exists() else sorted((PACKAGE / room).glob("*.py"))


def test_every_room_is_in_the_order():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_rooms_import_only_lower_rooms(room):
    below = set(ORDER[: ORDER.index(room) + 1])
    for path in files_of(room):
        assert rooms(path) & set(ORDER) <= below, path


@pytest.mark.parametrize("path", [*sorted((ROOT / "builders").glob("[!_]*.py")), ROOT / "builders/_template.py"])
def test_parsers_touch_only_records_info_raw_and_forms(path):
    # builder gives the base class and fakes writes the synthetic release; parsing itself needs neither
    assert rooms(path) <= {"records", "info", "raw", "forms", "builder", "fakes"}


def test_a_dataset_can_be_read_in_a_sitting():
    lengths = {
        path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "builders").glob("*.py")
    }
    assert len(lengths) > 8
    assert {name: length for name, length in lengths.items() if length > 260} == {}


def test_only_what_makes_batches_imports_torch():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "collate" and path.stem not in ("device", "loader"):
            assert not any(name.split(".")[0] == "torch" for name in imports(path)), path


def test_core_works_without_torch(tmp_path):
    code = """
import sys
sys.modules["torch"] = None  # any import of torch now fails
from openstory_hf import catalogue
from openstory_hf.build import build
from openstory_hf.fakes import RawWriter
from openstory_hf import load_stories
builder = catalogue.get("african_storybook")
builder.fake(RawWriter("raw"))
build(builder, "raw", "out", on_error="quarantine")
print(len(list(load_stories("out"))))
"""
    env = {**os.environ, "USE_TORCH": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 3


def test_nothing_executes_downloads():
    banned = ("pickle.load(", "pickle.loads(", "allow_pickle=True", "eval(", "exec(", "shell=True")
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "builders").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in banned if word in text], path

"""The datasets: found by looking into the folder `builders/`, imported only when they are asked for."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from openstory_hf.errors import UsageError

if TYPE_CHECKING:
    from openstory_hf.builder import StoryBuilder


def _folder() -> Path:
    from openstory_hf import builders

    return Path(builders.__path__[0])


def names() -> list[str]:
    """Names of all datasets, sorted: the files in `builders/` without a leading underscore."""
    return sorted(path.stem for path in _folder().glob("*.py") if not path.stem.startswith("_"))


def summary(name: str) -> str:
    """The first line of a dataset's docstring, read without importing it."""
    source = (_folder() / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def get(name: str) -> type[StoryBuilder]:
    """The builder class of a dataset.

    Raises:
        UsageError: for an unknown name, with the known ones.
    """
    if name not in names() and not (name.startswith("_") and (_folder() / f"{name}.py").is_file()):
        raise UsageError(f"there is no dataset {name!r}. Known: {', '.join(names())}")
    module = importlib.import_module(f"openstory_hf.builders.{name}")
    from openstory_hf.builder import StoryBuilder

    found: list[type[StoryBuilder]] = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, StoryBuilder) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UsageError(f"builders/{name}.py must define exactly one StoryBuilder subclass, it defines {len(found)}")
    return found[0]

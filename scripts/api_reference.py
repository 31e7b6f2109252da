"""Write docs/api.md, the reference of the public names, from their docstrings: python scripts/api_reference.py."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "docs" / "api.md"

ROOMS = {
    "openstory_hf": "load_stories mix_stories Where merge_states StoryBuilder",
    "openstory_hf.load": "StoryStream",
    "openstory_hf.mix": "MixedStream",
    "openstory_hf.loader": "StoryLoader",
    "openstory_hf.device": "DeviceLoader",
    "openstory_hf.collate": "",
    "openstory_hf.collate.plain": "Plain",
    "openstory_hf.collate.source": "Source",
    "openstory_hf.collate.ar_ldm": "visible_conditioning",
    "openstory_hf.views": "windows to_pairs visualization continuation to_interleaved to_messages batched features "
    "token_spans tidy",
    "openstory_hf.masks": "",
    "openstory_hf.references": "",
    "openstory_hf.build": "build",
    "openstory_hf.check": "check",
    "openstory_hf.hub": "push write_card",
    "openstory_hf.stats": "",
    "openstory_hf.simulate": "simulate Simulation",
    "openstory_hf.forecast": "Forecast",
    "openstory_hf.preview": "",
    "openstory_hf.info": "Info Character Split Option",
    "openstory_hf.records": "Unit Sequence Window Frame Picture Instance Reject box_from_corners",
    "openstory_hf.raw": "",
    "openstory_hf.fakes": "RawWriter scene",
    "openstory_hf.conformance": "conform",
    "openstory_hf.testing": "",
    "openstory_hf.errors": "OpenStoryError UsageError SourceError BuildError OutputError",
}
"""The rooms in reading order, with the names to list; "" is for the functions and classes of `__all__`."""

_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example)(::?)")
_TITLES = {"Args": "Arguments"}


def reference() -> str:
    """The whole page."""
    rooms = {room: _listed(room) for room in ROOMS}
    lines = [
        "# Reference",
        "",
        "Made from the docstrings by `scripts/api_reference.py`. The [index](index.md) has the pages that show how to "
        "use these names.",
        "",
    ]
    for room, listed in rooms.items():
        names = ", ".join(f"[`{name}`](#{name.lower()})" for name in listed)
        lines.append(f"- [`{room}`](#{room.replace('.', '')}): {names}")
    for room, listed in rooms.items():
        lines += ["", f"## `{room}`", "", _body(inspect.getdoc(importlib.import_module(room)) or "")]
        for name, value in listed.items():
            lines += ["", f"### `{name}`", "", *_entry(name, value)]
            for of, member in _members(value) if inspect.isclass(value) else ():
                lines += ["", f"#### `{name}.{of}`", "", *_entry(of, member)]
    return "\n".join(lines) + "\n"


def _listed(room: str) -> dict[str, Any]:
    module = importlib.import_module(room)
    found = {name: getattr(module, name) for name in ROOMS[room].split() or module.__all__}
    return {name: value for name, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)}


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """The documented public methods and properties of a class, those of its bases in this package included."""
    seen = set()
    for base in kind.__mro__:
        for name, value in vars(base).items() if base.__module__.startswith("openstory_hf") else ():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if not name.startswith("_") or name == "__call__":
                if inspect.isfunction(function) and function.__doc__ and name not in seen:
                    yield name, value
                seen.add(name)


def _entry(name: str, value: Any) -> list[str]:
    """How something is called, and its docstring."""
    doc = inspect.getdoc(value) or ""
    if isinstance(value, property):
        kind = inspect.signature(value.fget).return_annotation  # type: ignore[arg-type]
        return [f"Property: `{_annotation(kind)}`.", "", _body(doc)]
    if inspect.isclass(value) and not re.search(r"^(Args|Attributes):", doc, re.MULTILINE):
        bases = [base.__name__ for base in value.__bases__ if base is not object]
        return [f"Class, a kind of `{bases[0]}`." if bases else "Class.", "", _body(doc)]
    function = getattr(value, "__func__", value)
    return ["```python", _signature(name, function), "```", "", _body(doc)]


def _signature(name: str, function: Any) -> str:
    """A call with all arguments, one a line where one line is too long."""
    signature = inspect.signature(function)
    made: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "cls"):
            if parameter.kind is parameter.KEYWORD_ONLY and not any(entry.startswith("*") for entry in made):
                made.append("*")
            stars = str(parameter).partition(parameter.name)[0]
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            made.append(f"{stars}{parameter.name}: {_annotation(parameter.annotation)}{default}")
    back = "" if inspect.isclass(function) else f" -> {_annotation(signature.return_annotation)}"
    line = f"{name}({', '.join(made)}){back}"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {entry},\n" for entry in made) + f"){back}"


def _annotation(value: Any) -> str:
    return value if isinstance(value, str) else inspect.formatannotation(value)


def _body(doc: str) -> str:
    """A Google docstring as Markdown."""
    made: list[str] = []
    for block in re.split(r"\n(?=\w+::?\n)", doc):
        head, _, rest = block.partition("\n")
        section = _SECTION.fullmatch(head)
        if section is None:
            made.append(_text(block))
            continue
        text = textwrap.dedent(rest)
        if section[1] in ("Args", "Attributes", "Raises"):
            text = re.sub(r"^(\S[^:\n]*):", r"- `\1`:", text, flags=re.MULTILINE).replace("\n    ", "\n  ")
        text = f"```python\n{text}\n```" if section[2] == "::" else _text(text)
        made.append(f"**{_TITLES.get(section[1], section[1])}**\n\n{text}")
    return "\n\n".join(part.strip("\n") for part in made)


def _text(text: str) -> str:
    """Text with sessions of the interpreter as code, and without accidental HTML."""
    parts = re.split(r"(^>>> .*(?:\n.+)*)", text, flags=re.MULTILINE)
    parts[1::2] = [f"```pycon\n{session}\n```" for session in parts[1::2]]
    parts[::2] = [re.sub(r"(``?.*?``?)|<", lambda found: found[1] or "&lt;", part) for part in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")

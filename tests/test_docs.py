"""The pages in docs/ say what is so: their code runs, prints what they show, and their links lead somewhere.

A page runs from top to bottom in a process and an empty folder of its own, beside links to the repository's `scripts`
and `builders`. The Hub is a `LocalHub`. A ```text block right behind a code block is what that prints; "..." in it
stands for anything.
"""

import contextlib
import doctest
import io
import os
import re
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from openstory_hf.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
NOT_EXECUTED = ("api.md", "performance.md")  # doctests of the package; benchmarks that take long
EXECUTED = [page for page in PAGES if page not in NOT_EXECUTED]

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(page):
    """A page without its code."""
    return re.sub(r"^```.*?^```$", "", (DOCS / page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(page):
    """The links of a page that stay in the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if "://" not in link]


def anchors(path):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S), re.M)
    slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {
        slug if not slugs[:at].count(slug) else f"{slug}-{slugs[:at].count(slug)}" for at, slug in enumerate(slugs)
    }


class Block(NamedTuple):
    """A block of code, where it stands, and what the page says it prints (None: nothing is said)."""

    language: str
    code: str
    line: int
    shown: str | None


def blocks(text):
    """The blocks of a page that are to be run."""
    fenced = list(_FENCED.finditer(text))
    behind = {one.end(): two for one, two in pairwise(fenced) if two[1] == "text"}
    for found in fenced:
        if found[1] in ("python", "bash"):
            output = behind.get(found.end())
            if output is not None and text[found.end() : output.start()].strip():
                output = None  # prose lies between
            line = text.count("\n", 0, found.start()) + 2
            yield Block(found[1], found[2], line, None if output is None else output[2])


def run_page(path):
    """Run the blocks of a page in this process and folder."""
    names = {"__name__": "__main__"}
    for block in blocks(path.read_text(encoding="utf-8")):
        where = f"{path.name}, line {block.line}"
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("\n" * (block.line - 1) + block.code, path, "exec"), names)
            output = printed.getvalue()
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.code],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            output = done.stdout
            assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{output}"
        if block.shown is not None:
            same = doctest.OutputChecker().check_output(block.shown, output, doctest.ELLIPSIS)
            assert same, f"{where}: the page shows\n{block.shown}\nbut this was printed:\n{output}"


@pytest.mark.parametrize("page", EXECUTED)
def test_code_runs_and_prints_what_the_page_shows(page, tmp_path):
    for needed in ("datasets", "datatrove", "torch", "torchdata", "transformers", "trl"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install 'openstory_hf[test]'")
    from openstory_hf.testing import LocalHub

    for folder in ("scripts", "builders"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    with LocalHub() as hub:
        environment = {
            **hub.environment(),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "2",
        }
        done = subprocess.run(
            [sys.executable, __file__, DOCS / page],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (DOCS / file) if file else DOCS / page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), f"{link}: {target.name} has no such heading"


def test_every_page_can_be_reached_from_the_index():
    assert set(PAGES) - {"index.md"} <= set(links("index.md"))


def test_every_command_is_shown_and_run(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    verbs = re.findall(r"^    ([a-z]+)  ", capsys.readouterr().out, re.MULTILINE)
    code = [block.code for page in EXECUTED for block in blocks((DOCS / page).read_text("utf-8"))]
    assert len(verbs) > 5
    assert [verb for verb in verbs if not any(f"openstory {verb}" in block for block in code)] == []


def test_every_collator_is_shown_and_run():
    pytest.importorskip("torch", reason="torch is not installed: pip install 'openstory_hf[test]'")
    from openstory_hf import collate

    code = "".join(block.code for block in blocks((DOCS / "train.md").read_text("utf-8")))
    recipes = {"Gill": "gill", "SeedStory": "seed_story", "StoryGPTV": "storygpt_v"}
    assert [name for name in collate.__all__ if not re.search(rf'\b{name}\(|"{recipes.get(name)}"', code)] == []


def test_the_reference_is_that_of_the_docstrings():
    pytest.importorskip("torch", reason="torch is not installed: pip install 'openstory_hf[test]'")
    script = runpy.run_path(str(ROOT / "scripts" / "api_reference.py"))
    made = script["reference"]()
    assert (DOCS / "api.md").read_text("utf-8") == made, "run `python scripts/api_reference.py` and look at the change"
    import openstory_hf

    names = {name for name in openstory_hf.__all__ if not name.startswith("_")}
    assert names <= set(re.findall(r"^### `(\w+)`$", made, re.MULTILINE))


class TestReference:
    """What becomes of a docstring."""

    def described(self, doc):
        script = runpy.run_path(str(ROOT / "scripts" / "api_reference.py"))
        return script["_body"](doc)

    def test_sections_become_lists(self):
        doc = "Draw.\n\nArgs:\n    size: of it,\n        in pixels.\n    fill: RGB.\n\nReturns:\n    a picture."
        expected = (
            "Draw.\n\n**Arguments**\n\n- `size`: of it,\n  in pixels.\n- `fill`: RGB.\n\n**Returns**\n\na picture."
        )
        assert self.described(doc) == expected

    def test_sessions_become_code_and_tags_do_not_become_html(self):
        doc = 'Marks "<s>" and `<pad>`.\n\n>>> add(1,\n...     2)\n3\n>>> "<s>"\n\'<s>\''
        expected = 'Marks "&lt;s>" and `<pad>`.\n\n```pycon\n>>> add(1,\n...     2)\n3\n>>> "<s>"\n\'<s>\'\n```'
        assert self.described(doc) == expected


class TestBlocks:
    """What of a page is run."""

    PAGE = "```python\nprint(1)\n```\n```text\n1\n```\n\n```bash\ntrue\n```\n\nA tree:\n\n```text\na/b\n```\n"

    def test_output_stands_right_behind_its_code(self):
        assert list(blocks(self.PAGE)) == [Block("python", "print(1)\n", 2, "1\n"), Block("bash", "true\n", 9, None)]

    def test_other_output_and_failing_commands_are_found(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        page = tmp_path / "page.md"
        for code, found in (
            ("```bash\necho 2\n```\n```text\n1\n```\n", "page shows"),
            ("```bash\nfalse | true\n```\n", "exit code 1"),
        ):
            page.write_text(code)
            with pytest.raises(AssertionError, match=found):
                run_page(page)
        page.write_text("```bash\necho one two >&2\n```\n```text\none ...\n```\n")
        run_page(page)


if __name__ == "__main__":
    sys.path.insert(0, "")
    run_page(Path(sys.argv[1]))

"""The commands and the code of the README run, in the order in which they stand there."""

import re
import subprocess
from pathlib import Path

from openstory_hf.cli import main

ROOT = Path(__file__).parents[1]


def test_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    commands = 0
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "README.md", "exec"), names)
            continue
        for line in block.splitlines():
            words = line.partition("#")[0].split()
            if words[0] == "openstory":
                assert main(words[1:]) == 0, line
                commands += 1
            else:
                target = words[1]
                listed = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
                assert listed.returncode == 0, listed.stderr
    assert commands >= 3
    assert (tmp_path / "stories.html").stat().st_size > 10_000
    assert "pixel_values" in capsys.readouterr().out
    assert names["sample"]["messages"]

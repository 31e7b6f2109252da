"""The command line: exit codes, what goes to stdout and what to stderr, and one clear message for every error."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from openstory_hf.builders import _template
from PIL import Image

from openstory_hf import builders, catalogue, cli
from openstory_hf.errors import UsageError
from openstory_hf.version import __version__


@pytest.fixture
def openstory(capsys):
    """Runs a command; returns (exit code, stdout, stderr)."""

    def run(*words):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as exit:  # argparse ends so, with 2 for wrong usage
            code = exit.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "raw"
    assert cli.main(["fake", "african_storybook", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def out(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "out"
    command = ["build", "african_storybook", "--raw", str(raw), "--out", str(folder), "--on-error", "quarantine"]
    assert cli.main(command) == 0
    return folder


# -- what works --------------------------------------------------------------------------------------------


def test_list_names_every_dataset_with_one_line(openstory):
    code, stdout, stderr = openstory("list")
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    files = Path(_template.__file__).parent.glob("[!_]*.py")
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in files)
    assert all(len(line.split()) > 3 for line in lines)


def test_info_says_what_a_dataset_is(openstory):
    code, stdout, stderr = openstory("info", "flintstones_sv")
    assert (code, stderr) == (0, "")
    assert "20,132" in stdout
    assert "video_frames_sampled" in stdout


def test_version(openstory):
    assert openstory("--version") == (0, f"openstory_hf {__version__}\n", "")


def test_help_of_every_verb_has_an_example(openstory):
    _, stdout, _ = openstory("--help")
    verbs = re.findall(r"^    (\w+)(?: |$)", stdout, re.MULTILINE)
    assert {"list", "info", "fake", "build", "check", "preview", "card", "push", "quickstart"} <= set(verbs)
    for verb in verbs:
        code, stdout, stderr = openstory(verb, "--help")
        assert (code, stderr) == (0, "")
        assert f"example: openstory {verb}" in " ".join(stdout.split())


def test_fake_build_check_preview(openstory, tmp_path):
    raw, out, page = tmp_path / "raw", tmp_path / "out", tmp_path / "page.html"
    code, stdout, stderr = openstory("fake", "flintstones_sv", raw)
    assert (code, stderr) == (0, "")
    assert str(raw) in stdout
    code, stdout, stderr = openstory("build", "flintstones_sv", "--raw", raw, "--out", out, "--on-error", "quarantine")
    assert (code, stderr) == (0, "")
    splits = json.loads((out / "manifest.json").read_text())["splits"]
    for split, counts in splits.items():
        seen, written, rejected = (counts["stories"][name] for name in ("seen", "written", "rejected"))
        assert f"{split}: {seen} stories seen = {written} written + {rejected} rejected; " in stdout
    assert f"what was left out, and why: {out / 'rejects.jsonl'}" in stdout
    assert openstory("check", out) == (0, f"{out}: ok\n", "")
    assert openstory("preview", out, "-o", page, "-n", 2) == (0, f"{page}\n", "")
    assert page.read_text("utf-8").startswith("<!")


def test_build_takes_the_options_of_its_dataset_wherever_they_stand(openstory, raw, tmp_path):
    common = ("--raw", raw, "--on-error", "quarantine")
    code, stdout, _ = openstory("build", "african_storybook", "--languages", "fr", *common, "--out", tmp_path / "fr")
    assert code == 0
    assert "train: 2 stories seen = 1 written + 1 rejected" in stdout
    code, _, _ = openstory("build", "african_storybook", *common, "--out", tmp_path / "all", "--languages", "fr", "en")
    assert code == 0
    manifest = json.loads((tmp_path / "all/manifest.json").read_text())
    assert manifest["options"] == {"languages": ["fr", "en"]}


def test_preview_of_named_stories(openstory, out, tmp_path):
    sheet = tmp_path / "sheet.png"
    code, _, _ = openstory("preview", out, "-o", sheet, "--story", "african_storybook/en/0002")
    assert code == 0
    with Image.open(sheet) as image:
        assert image.info["Title"] == "african_storybook – 1 stories"


def test_quickstart_writes_a_sheet_and_a_page_and_may_be_repeated(openstory, tmp_path):
    for _ in range(2):
        code, stdout, stderr = openstory("quickstart", "--dir", tmp_path / "quick")
        assert (code, stderr) == (0, "")
        steps = [line[0] for line in stdout.splitlines()]
        assert sorted(set(steps)) == ["1", "2", "3", "4", "5", "6"] == sorted(set(steps), key=steps.index)
        assert "pixel_values" in stdout
    with Image.open(tmp_path / "quick/stories.png") as image:
        assert min(image.size) > 100
        assert len(image.getcolors(1 << 24)) > 20  # there is something to see
    page = (tmp_path / "quick/stories.html").read_text("utf-8")
    assert page.count("<img") >= 15  # three stories of five frames
    assert openstory("check", tmp_path / "quick/out")[0] == 0


def test_quickstart_without_torch_skips_the_batch_and_says_what_is_missing(tmp_path):
    code = """
import sys

class NoTorch:
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
from openstory_hf import cli
sys.exit(cli.main(["quickstart"]))
"""
    env = {**os.environ, "USE_TORCH": "0"}  # for datasets, which looks at what is installed
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "5. skipped: the collators need PyTorch: pip install" in done.stdout
    assert (tmp_path / "quickstart/stories.png").exists()


def test_quickstart_fails_with_the_problems_that_check_finds(openstory, tmp_path, monkeypatch):
    monkeypatch.setattr("openstory_hf.quickstart.check", lambda out: ["a.parquet: is damaged"])
    code, _, stderr = openstory("quickstart", "--dir", tmp_path / "quick")
    assert (code, stderr) == (1, "openstory: a.parquet: is damaged\n")


def test_light_verbs_need_none_of_the_heavy_packages():
    code = """
import sys
for name in ("datasets", "torch", "pyarrow", "numpy", "PIL", "transformers", "fsspec"):
    sys.modules[name] = None  # any import of it now fails
from openstory_hf import cli
for words in (["list"], ["--help"], ["build", "--help"], ["--version"]):
    try:
        assert cli.main(words) == 0
    except SystemExit as exit:
        assert exit.code == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "flintstones_sv" in done.stdout


# -- progress ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("verb", ["build", "check"])
def test_progress_is_for_people_only(raw, out, tmp_path, monkeypatch, capsys, verb, terminal, quiet):
    build = ["build", "african_storybook", "--raw", raw, "--out", tmp_path / "out", "--on-error", "quarantine"]
    words = [*(build if verb == "build" else ["check", out]), *(["--quiet"] if quiet else [])]
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert cli.main([str(word) for word in words]) == 0
    if terminal and not quiet:
        total = 6 if verb == "build" else 3  # books of the release, stories of the folder
        assert f"{total}/{total}" in stderr.getvalue()
    else:
        assert stderr.getvalue() == ""
    assert "%|" not in capsys.readouterr().out


# -- what does not -----------------------------------------------------------------------------------------


def assert_is_one_message(stdout, stderr):
    assert stdout == ""
    assert stderr.startswith("openstory: ")
    assert stderr.count("openstory: ") == 1
    assert "Traceback" not in stderr
    assert "Error(" not in stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("info nothing", 2, "there is no dataset 'nothing'. Known: african_storybook,"),
        ("info __init__", 2, "must define exactly one StoryBuilder subclass"),
        ("info ../builders/flintstones_sv", 2, "there is no dataset"),
        ("fake african_storybook RAW", 2, "is not empty; choose another folder"),
        ("build nothing --raw RAW --out NEW", 2, "there is no dataset 'nothing'"),
        ("build african_storybook --raw RAW --out NEW --split dev", 2, "has no split dev. Its splits: train"),
        ("build african_storybook --raw RAW --out NEW --policy none", 2, "'none'; choose from algorithm1"),
        ("build african_storybook --raw NOTHING --out NEW", 1, "NOTHING does not exist"),
        ("build african_storybook --raw NOTHING --out NEW", 1, "How to obtain African Storybook:\nClone github.com"),
        ("build african_storybook --raw FILE --out NEW", 1, "is not a folder or a zip"),
        ("build flintstones_sv --raw RAW --out NEW", 1, "Files the release must have:\nB: train-val-test_split.json"),
        ("build african_storybook --raw RAW --out NEW --languages xx", 1, "no books in xx; the release has en, fr"),
        ("build african_storybook --raw RAW --out NEW", 1, "Build with --on-error quarantine to leave the record out"),
        ("build african_storybook --raw RAW --out RAW", 2, "lies in the raw release"),
        ("build african_storybook --raw RAW --out FILE", 1, "FILE"),
        ("build african_storybook --raw RAW --out OUT --languages en", 1, "holds a build of other inputs"),
        ("check RAW", 1, "holds no manifest.json"),
        ("check NOTHING", 1, "holds no manifest.json"),
        ("preview RAW", 1, "holds no manifest.json"),
        ("preview OUT -o NEW.gif", 2, "choose a name that ends in .png or .html"),
        ("preview OUT -o NEW.png --split dev", 2, "has no split 'dev'; it has train"),
        ("preview OUT -o NEW.png --story x", 2, "has no story 'x'; the first is 'african_storybook/en/0001'"),
        ("preview OUT -o NOTHING/a.png", 1, "No such file or directory"),
        ("check OUT --revision main", 2, "is not a repository of the Hub"),
        ("card RAW", 1, "holds no manifest.json"),
        ("card NOTHING", 2, "is not a local folder"),
        ("push RAW me/stories", 1, "holds no manifest.json"),
        ("push NOTHING me/stories", 2, "is not a local folder"),
        ("push OUT stories", 2, "is not the name of a repository; write it as user/name"),
        ("quickstart --dir RAW", 2, "is not empty; choose another --dir"),
    ],
)
def test_an_error_is_one_message_with_its_exit_code(openstory, raw, out, tmp_path, words, code, message):
    file = tmp_path / "FILE"
    file.write_text("text")
    places = {"RAW": raw, "OUT": out, "NEW": tmp_path / "new", "NOTHING": tmp_path / "NOTHING", "FILE": file}
    given = [re.sub("|".join(places), lambda name: str(places[name[0]]), word) for word in words.split()]
    found, stdout, stderr = openstory(*given)
    assert_is_one_message(stdout, stderr)
    assert found == code
    assert message in stderr


@pytest.mark.parametrize(
    "words",
    [
        "",
        "push",
        "push OUT",
        "push OUT me/stories --private --public",
        "card",
        "list extra",
        "check",
        "check OUT --fast",
        "build african_storybook --raw RAW",
        "build african_storybook --raw RAW --out NEW --langauges en",
        "build african_storybook --raw RAW --out NEW extra",
        "build flintstones_sv --raw RAW --out NEW --languages en",
        "build african_storybook --raw RAW --out NEW --num-proc 0",
        "build african_storybook --raw RAW --out NEW --num-proc two",
        "build african_storybook --raw RAW --out NEW --on-error ignore",
        "preview OUT -n 0",
    ],
)
def test_wrong_usage_is_told_by_the_parser_and_does_nothing(openstory, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = openstory(*words.split())
    assert code == 2
    assert stdout == ""
    assert stderr.startswith("usage: openstory")
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_check_lists_the_problems_on_stdout_and_exits_with_1(openstory, out, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out/rejects.jsonl").unlink()
    (tmp_path / "out/load.py").touch()
    code, stdout, stderr = openstory("check", tmp_path / "out")
    assert (code, stderr) == (1, "")
    first, second, last = stdout.splitlines()
    assert first.startswith("load.py: ")
    assert second.startswith("rejects.jsonl: ")
    assert last == f"{tmp_path / 'out'}: 2 problems"


def test_a_damaged_folder_is_one_message_of_preview(openstory, out, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    (shard,) = (tmp_path / "out/stories").iterdir()
    shard.write_bytes(shard.read_bytes()[:2000])
    code, stdout, stderr = openstory("preview", tmp_path / "out", "-o", tmp_path / "a.html")
    assert_is_one_message(stdout, stderr)
    assert code == 1
    assert f"{shard.name} cannot be read" in stderr


def test_ctrl_c_is_one_line_that_says_how_to_go_on(openstory, raw, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("openstory_hf.build.build", interrupted)
    code, stdout, stderr = openstory("build", "african_storybook", "--raw", raw, "--out", tmp_path / "out")
    assert_is_one_message(stdout, stderr)
    assert code == 130
    assert "the same command continues" in stderr


# -- the catalogue -----------------------------------------------------------------------------------------


def test_a_dataset_is_found_by_its_file_alone_and_imported_only_when_asked_for(tmp_path, monkeypatch, openstory):
    template = Path(_template.__file__).read_text("utf-8")
    (tmp_path / "found_by_its_file.py").write_text(template, "utf-8")
    (tmp_path / "breaks_when_imported.py").write_text('"""Broken: but listed."""\n1 / 0\n', "utf-8")
    (tmp_path / "two_builders.py").write_text(template + "\n\nclass Other(MyStories):\n    pass\n", "utf-8")
    (tmp_path / "_hidden.py").write_text(template, "utf-8")
    monkeypatch.setattr(builders, "__path__", [str(tmp_path)])
    code, stdout, _ = openstory("list")
    assert code == 0
    assert [line.split(maxsplit=1) for line in stdout.splitlines()] == [
        ["breaks_when_imported", "Broken: but listed."],
        ["found_by_its_file", template.splitlines()[0].strip('"')],
        ["two_builders", template.splitlines()[0].strip('"')],
    ]
    assert catalogue.get("found_by_its_file").INFO.title == "My Stories"
    assert catalogue.get("_hidden").INFO.title == "My Stories"
    with pytest.raises(UsageError, match="exactly one StoryBuilder subclass, it defines 2"):
        catalogue.get("two_builders")


def test_explain_says_why_for_a_dataset_or_any_cast(openstory):
    code, stdout, _ = openstory("explain", "Fred and Wilma sit.", "Fred eats.", "--cast", "flintstones_sv")
    assert code == 0
    assert "He eats." in stdout
    code, stdout, _ = openstory(
        "explain", "Ada codes.", "Ada sleeps.", "--cast", "ada=she", "--characters", "ada", "ada"
    )
    assert code == 0
    assert "She sleeps." in stdout


@pytest.mark.parametrize(
    "words",
    [
        ("A.", "--cast", "african_storybook"),
        ("A.", "--cast", "ada=xe"),
        ("A.", "--cast", "nobody"),
        ("A.", "B.", "--cast", "ada=she", "--characters", "ada"),
        ("A.", "--cast", "ada=she", "--policy", "best"),
    ],
)
def test_explain_refuses_what_it_cannot_use(openstory, words):
    code, stdout, stderr = openstory("explain", *words)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("openstory: ")


def test_stats_as_tables_and_as_json(out, openstory):
    code, stdout, _ = openstory("stats", out)
    assert code == 0
    assert "references" in stdout.lower()
    code, stdout, _ = openstory("stats", out, "--json")
    assert code == 0
    assert json.loads(stdout)["splits"]["train"]["stories"] == 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_nobody_reading_on_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m openstory_hf.cli list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout.strip() in ("0", "141"), done.stderr) == (True, "")


def test_what_a_terminal_cannot_show_is_escaped():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "openstory_hf.cli", "info", "clevr_sv"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2013" in done.stdout

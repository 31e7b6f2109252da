"""Fuzz one harness for some time, or all of them one after the other, and say what came of it.

    python -m tests.fuzz NAME ... [--seconds 600] [--work build/fuzz]

The corpus that grows is kept in the work folder and read again the next time, and so is an input that crashes, hangs
(5 s) or takes 1 GB. Exit status 1 if there is one.
"""

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

from . import HARNESSES

HANG_SECONDS = 5
MEMORY_MB = 1024
TURN_SECONDS = 20
"""Of one process: atheris never lets go of the results of instrumented comparisons of arrays."""


def fuzz(name: str, seconds: int, work: Path) -> bool:
    """Fuzz one harness and print one line of figures, and the error if there is one; returns whether all was well."""
    corpus, found = work / name / "corpus", work / name / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    harness = importlib.import_module(f"tests.fuzz.{name}")
    for number, seed in enumerate(harness.SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    dictionary = work / name / "tokens"
    dictionary.write_text("".join(f'"{_escaped(token)}"\n' for token in harness.TOKENS), encoding="ascii")
    flags = [f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MB}", "-max_len=4096", "-print_final_stats=1"]
    flags += [f"-dict={dictionary}", f"-artifact_prefix={found}/", str(corpus)]
    executions = memory = 0
    coverage: list[tuple[str, str, str]] = []
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) >= 1:
        turn = f"-max_total_time={min(left, TURN_SECONDS):.0f}"
        command = [sys.executable, "-m", "tests.fuzz.engine", name, turn, *flags]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        said = run.stderr + run.stdout
        executions += _stat(said, "number_of_executed_units")
        memory = max(memory, _stat(said, "peak_rss_mb"))
        coverage += re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
        if run.returncode:
            break
    (first, *_), (edges, features, inputs) = (*coverage[:1], ("0", "0", "0"))[0], (("0", "0", "0"), *coverage)[-1]
    print(
        f"{name}: {executions:,} executions in {time.monotonic() - began:.0f} s, coverage {first} -> {edges} edges "
        f"({features} features, {inputs} inputs), peak {memory} MB, {'A CRASH' if run.returncode else 'no crash'}",
        flush=True,
    )
    if run.returncode:
        print(f"  inputs found: {', '.join(map(str, sorted(found.iterdir())))}")
        print("  " + "\n  ".join(said.splitlines()[-40:]))
    return run.returncode == 0


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def _stat(said: str, name: str) -> int:
    match = re.search(rf"stat::{name}:\s*(\d+)", said)
    return int(match[1]) if match else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(HARNESSES)}; all by default")
    parser.add_argument("--seconds", type=int, default=600, help="for each harness")
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(HARNESSES):
        parser.error(f"no harness {', '.join(sorted(unknown))}; there are {', '.join(HARNESSES)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install 'openstory_hf[fuzz]'")
    names = arguments.names or HARNESSES
    sound = [name for name in names if fuzz(name, arguments.seconds, arguments.work)]
    return 0 if len(sound) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())

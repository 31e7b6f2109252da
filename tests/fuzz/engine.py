"""Runs one harness under atheris in this process, which ends with it: `python -m tests.fuzz.engine NAME FLAGS`.

Only modules imported while atheris looks on are instrumented, so nothing of the package may be imported before.
"""

import importlib
import sys

import atheris

STANDARD_LIBRARY = ("pickle", "tarfile", "zipfile", "gzip")  # imported again, since something has imported them before
WATCHED = ["openstory_hf.masks", "openstory_hf.raw", "openstory_hf.references", *STANDARD_LIBRARY]


def main() -> None:
    name, *flags = sys.argv[1:]
    for module in STANDARD_LIBRARY:
        sys.modules.pop(module, None)
    with atheris.instrument_imports(include=WATCHED):
        harness = importlib.import_module(f"tests.fuzz.{name}")
    for seed in harness.SEEDS:
        harness.one_input(seed)
    atheris.Setup([sys.argv[0], *flags], harness.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""The whole road on a synthetic release, offline: what `openstory quickstart` and `make quickstart` run."""

from __future__ import annotations

import shutil
from pathlib import Path

from openstory_hf import catalogue, preview
from openstory_hf.build import build
from openstory_hf.check import check
from openstory_hf.errors import BuildError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.load import load_stories
from openstory_hf.rows import read_stories

DATASET = "flintstones_sv"
MARKER = ".openstory-quickstart"


def quickstart(folder: Path) -> None:
    """Fake, build, check, load, collate and preview FlintstonesSV in `folder`, saying what each step gave.

    Raises:
        UsageError: if the folder holds something else.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise UsageError(f"{folder} is not empty; choose another --dir")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    raw, out = folder / "raw", folder / "out"
    builder = catalogue.get(DATASET)
    builder.fake(RawWriter(raw))
    print(f"1. a synthetic release of {builder.INFO.title} in its true layout: {raw}")
    manifest = build(builder, raw, out, on_error="quarantine")
    for split, counts in manifest["splits"].items():
        seen, written, rejected = (counts["stories"][name] for name in ("seen", "written", "rejected"))
        print(f"2. {split}: {seen} stories seen = {written} written + {rejected} rejected")
    problems = check(out)
    if problems:
        raise BuildError("\n".join(problems))
    print("3. hashes, columns, ids, pictures, masks and mentions verified")
    stream = load_stories(str(out), "train", captions="referential")
    rows = list(stream)
    print(f"4. {len(rows)} training stories; the first: {rows[0]['texts']}")
    _collate(rows[:2])
    sheet, page = folder / "stories.png", folder / "stories.html"
    shown = read_stories(str(out), "train", 3)
    for target in (sheet, page):
        preview.save(shown, target, title=f"{builder.INFO.title} (synthetic)")
    print(f"6. look at them: {sheet} and {page}")


def _collate(rows: list[dict[str, object]]) -> None:
    try:
        from openstory_hf.collate import InterleavedCollator
        from openstory_hf.testing import tiny_tokenizer
    except ImportError as error:
        print(f"5. skipped: {error}")
        return
    tokenizer = tiny_tokenizer([text for row in rows for text in row["texts"]])  # type: ignore[attr-defined]
    batch = InterleavedCollator(tokenizer=tokenizer, image_size=64, mask_grid=(8, 8))(rows)
    print("5. an interleaved batch: " + ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items()))

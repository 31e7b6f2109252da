"""Verification of a built folder: everything a user or the Hub could trip over, found before they do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import load_dataset_builder
from tqdm import tqdm

from openstory_hf import card, masks, pictures
from openstory_hf.build import REJECTS
from openstory_hf.load import BuiltFolder
from openstory_hf.references import restore
from openstory_hf.schema import TABLES
from openstory_hf.write import file_facts

ROW_GROUP_MAX = 256 << 20
"""The Hub viewer gives up at 286 MiB."""

_ROUNDING = 1e-3  # boxes are stored as float32


def check(path: str | Path, *, quiet: bool = True) -> list[str]:
    """Verify a built folder and return the problems found, each with file and record; an empty list means none.

    Checks: hashes and sizes against the manifest; columns and feature metadata; row groups below the viewer's limit;
    unique ids over all splits; parallel lists; mentions inside their texts and exact when names are put back; every
    picture decodes; every mask has its picture's size and every box lies inside it; the counts add up and agree with
    the manifest; the README's configs are those of the files; nothing executable is in the folder.

    Raises:
        OutputError: if the folder has no readable manifest of this schema version.
    """
    folder = BuiltFolder(str(path))
    root = Path(path)
    problems = [f"{file.name}: executable files have no place in a dataset" for file in root.rglob("*.py")]
    problems += _check_counts(folder.manifest, root)
    problems += _check_card(folder.manifest, root)
    seen: dict[str, set[str]] = {table: set() for table in TABLES}
    files = folder.manifest["files"]
    with tqdm(
        total=sum(facts["rows"] for facts in files.values()), unit="row", disable=None if not quiet else True
    ) as bar:
        for file, facts in files.items():
            problems += _check_file(root / file, file, facts)
            table = file.partition("/")[0]
            if not (root / file).is_file():
                continue
            for row in _rows(root / file):
                problems += [f"{file}: {problem}" for problem in _check_row(table, row, seen[table])]
                bar.update()
    return problems


def _check_file(path: Path, file: str, facts: Mapping[str, Any]) -> Iterator[str]:
    if not path.is_file():
        yield f"{file}: the file is missing. Build again"
        return
    found = file_facts(path)
    if found != {key: facts[key] for key in found}:
        yield f"{file}: size or SHA-256 differ from the manifest. The file was changed or damaged; build again"
    with pq.ParquetFile(path) as parquet:
        expected = TABLES[file.partition("/")[0]].arrow_schema
        if not parquet.schema_arrow.equals(expected, check_metadata=False):
            yield f"{file}: the columns are not those of the schema"
        if (parquet.schema_arrow.metadata or {}).get(b"huggingface") != expected.metadata[b"huggingface"]:
            yield f"{file}: the Hugging Face features in the file differ from the schema"
        if (parquet.metadata.num_rows, parquet.num_row_groups) != (facts["rows"], facts["row_groups"]):
            yield f"{file}: {parquet.metadata.num_rows} rows in {parquet.num_row_groups} row groups, not as the manifest says"
        for number in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(number).total_byte_size
            if size > ROW_GROUP_MAX:
                yield f"{file}: row group {number} has {size >> 20} MB; the Hub viewer cannot show more than 286"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=32):
            yield from batch.to_pylist()


def _check_row(table: str, row: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    row_id = row["story_id"] if table == "stories" else f"{row['sequence_id']}/{row['frame_id']}"
    if row_id in seen:
        yield f"{row_id}: the id occurs twice"
    seen.add(row_id)
    if table == "stories":
        lengths = {len(value) for value in row.values() if isinstance(value, list)}
        if len(lengths) != 1 or 0 in lengths:
            yield f"{row_id}: the lists have {sorted(lengths)} entries; they must be parallel, one entry per frame"
            return
        for at, mentions in enumerate(row["mentions"]):
            yield from _check_mentions(
                f"{row_id} frame {at}", row["captions"][at], row["referential_captions"][at], mentions
            )
    elif len(row["instances"]) != len(row["images"]) or not 0 <= row["key_image"] < len(row["images"]):
        yield f"{row_id}: {len(row['images'])} pictures, {len(row['instances'])} instance lists, key {row['key_image']}"
        return
    for at, (image, instances) in enumerate(zip(row["images"], row["instances"], strict=True)):
        yield from _check_picture(f"{row_id} picture {at}", image, instances)


def _check_mentions(where: str, caption: str, text: str, mentions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for mention in mentions:
        inside = 0 <= mention["start"] < mention["end"] <= len(caption)
        if not inside or not 0 <= mention["ref_start"] < mention["ref_end"] <= len(text):
            yield f"{where}: the mention {dict(mention)} lies outside its text"
            return
    if restore(text, mentions, caption) != caption:
        yield f"{where}: putting the names back does not give the caption"


def _check_picture(where: str, image: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    try:
        height, width = pictures.check(image["bytes"] or b"")
    except pictures.UndecodableError as error:
        yield f"{where}: does not decode: {error}"
        return
    for item in instances:
        rle, box = item["segmentation"], item["bbox"]
        if rle is not None and list(rle["size"]) != [height, width]:
            yield f"{where}: the mask of {item['label']!r} is {rle['size']}, the picture {[height, width]}"
        elif rle is not None and masks.area(rle) != int(masks.decode(rle).sum()):
            yield f"{where}: the mask of {item['label']!r} is not a valid run-length code"
        if box is not None:
            x, y, w, h = box
            if (
                not (w > 0 and h > 0 and min(x, y) >= -_ROUNDING)
                or x + w > width + _ROUNDING
                or y + h > height + _ROUNDING
            ):
                yield f"{where}: the box {box} of {item['label']!r} leaves its {width}x{height} picture"


def _check_counts(manifest: Mapping[str, Any], root: Path) -> Iterator[str]:
    lines = [json.loads(line) for line in (root / REJECTS).read_text(encoding="utf-8").splitlines()]
    written = {table: {split: 0 for split in manifest["splits"]} for table in TABLES}
    for file, facts in manifest["files"].items():
        table, _, name = file.partition("/")
        written[table][name.rpartition("-of-")[0].rpartition("-")[0]] += facts["rows"]
    for split, counts in manifest["splits"].items():
        for level in ("stories", "frames"):
            count = counts[level]
            if count["seen"] != count["written"] + count["rejected"]:
                yield f"manifest.json: {split}: {count} {level}: seen is not written + rejected"
            if (
                any(file.startswith(f"{level}/") for file in manifest["files"])
                and written[level][split] != count["written"]
            ):
                yield f"manifest.json: {split}: {count['written']} {level} written, the files hold {written[level][split]}"
        lost = sum(len(line["stories"]) for line in lines if line["split"] == split)
        if lost != counts["stories"]["rejected"]:
            yield f"{REJECTS}: {split}: names {lost} lost stories, the manifest {counts['stories']['rejected']}"


def _check_card(manifest: Mapping[str, Any], root: Path) -> Iterator[str]:
    for name, config in card.configs(manifest).items():
        try:
            builder = load_dataset_builder(str(root), name)
        except Exception as error:  # whatever datasets raises, the user's load_dataset would raise as well
            yield f"{card.README}: config {name} does not load: {error}"
            continue
        if builder.info.features != config["features"]:
            yield f"{card.README}: the features of config {name} are not those of the files"
        if set(builder.info.splits or ()) != set(config["splits"]):
            yield f"{card.README}: the splits of config {name} are not those of the files"

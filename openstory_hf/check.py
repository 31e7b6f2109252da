"""Verification of a built folder: everything a user or the Hub could trip over, found before they do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset_builder
from tqdm import tqdm

from openstory_hf import card, masks, pictures
from openstory_hf.build import MANIFEST, REJECTS
from openstory_hf.errors import OutputError
from openstory_hf.folder import BuiltFolder
from openstory_hf.references import restore
from openstory_hf.rows import PLACES, MappedPictures, stored_image
from openstory_hf.schema import TABLES
from openstory_hf.write import file_facts

ROW_GROUP_MAX = 256 << 20
"""The Hub viewer gives up at 286 MiB."""

_ROUNDING = 1e-3  # boxes are stored as float32

_NULLABLE = {"images[]", "timestamps[]", "timestamp", "bbox", "segmentation", "score"}


def check(path: str | Path, *, quiet: bool = True) -> list[str]:
    """Verify a built folder and return the problems found, each with file and record; an empty list means none.

    Checks: hashes and sizes against the manifest; columns and feature metadata; row groups below the viewer's limit;
    unique ids over all splits; parallel lists; mentions inside their texts and exact when names are put back; every
    picture decodes; every mask has its picture's size and every box lies inside it; the counts add up and agree with
    the manifest; the README's configs are those of the files; nothing executable and no stray shard is in the folder;
    the indexes say what the tables say, and point at their pictures. The rows of a file whose hash differs are not
    looked at: whatever they hold, it is not what was built. Nor are the indexes while a table has a problem.

    Raises:
        OutputError: if the folder has no readable manifest of this schema version.
    """
    folder = BuiltFolder(str(path))
    root = Path(path)
    executable = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    problems = [f"{file}: executable files have no place in a dataset" for file in executable]
    problems += _check_counts(folder.manifest, root)
    problems += _check_card(folder.manifest, root)
    seen: dict[str, set[str]] = {table: set() for table in TABLES}
    files = folder.manifest["files"]
    known = {*files, *folder.manifest["index"]}
    strays = {path.relative_to(root).as_posix() for path in root.rglob("*.parquet")} - known
    problems += [f"{file}: not in {MANIFEST}, yet it would be read. Remove it" for file in sorted(strays)]
    total = sum(facts["rows"] for facts in files.values())
    with tqdm(total=total, unit="row", disable=None if not quiet else True) as bar:
        for file, facts in files.items():
            try:
                for problem in _check_file(root / file, facts, seen, bar):
                    problems.append(f"{file}: {problem}")
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                problems.append(f"{file}: the file cannot be read: {error}. Build again")
    if not problems:
        for file, facts in folder.manifest["index"].items():
            try:
                problems += [f"{file}: {problem}" for problem in _check_index(folder, file, facts)]
            except (pa.ArrowException, OSError, OutputError) as error:
                problems.append(f"{file}: the index cannot be read: {error}. Build again")
    return problems


def _check_index(folder: BuiltFolder, file: str, facts: Mapping[str, Any]) -> Iterator[str]:
    path = Path(folder.path) / file
    if not path.is_file() or file_facts(path) != {key: facts[key] for key in ("bytes", "sha256")}:
        yield "missing, or size or SHA-256 differ from the manifest. Build again"
        return
    table, _, split = path.stem.partition("-")
    index = folder.index(table, split)
    names = [name for name in TABLES[table] if name != "images"]
    rows, places = index.rows(names), index.rows(PLACES)
    pictures = MappedPictures(index)
    for shard in index.files:
        with pq.ParquetFile(Path(folder.path) / shard) as parquet:
            for batch in parquet.iter_batches(batch_size=32):
                for row in batch.to_pylist():
                    images = row.pop("images")
                    entry, place = next(rows, None), next(places, {})
                    found = [stored_image(pictures, 0, place["file"], each) for each in place.get("pictures", ())]
                    if entry != row or found != images:
                        yield f"row {row.get('story_id') or row['frame_id']} of {shard} is not as the index says"
                        return
    if next(rows, None) is not None:
        yield "it has more rows than the table"


def _check_file(path: Path, facts: Mapping[str, Any], seen: Mapping[str, set[str]], bar: tqdm[Any]) -> Iterator[str]:
    if not path.is_file():
        yield "the file is missing. Build again"
        return
    found = file_facts(path)
    if found != {key: facts[key] for key in found}:
        yield "size or SHA-256 differ from the manifest. The file was changed or damaged; build again"
        return
    table = path.parent.name
    with pq.ParquetFile(path) as parquet:
        expected = TABLES[table].arrow_schema
        if not parquet.schema_arrow.equals(expected, check_metadata=False):
            yield "the columns are not those of the schema"
            return
        if (parquet.schema_arrow.metadata or {}).get(b"huggingface") != expected.metadata[b"huggingface"]:
            yield "the Hugging Face features in the file differ from the schema"
        if (parquet.metadata.num_rows, parquet.num_row_groups) != (facts["rows"], facts["row_groups"]):
            yield f"{parquet.metadata.num_rows} rows in {parquet.num_row_groups} row groups, not as the manifest says"
        for number in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(number).total_byte_size
            if size > ROW_GROUP_MAX:
                yield f"row group {number} has {size >> 20} MB; the Hub viewer cannot show more than 286"
        for batch in parquet.iter_batches(batch_size=32):
            for row in batch.to_pylist():
                yield from _check_row(table, row, seen[table])
                bar.update()


def _check_row(table: str, row: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    row_id = row["story_id"] if table == "stories" else f"{row['sequence_id']}/{row['frame_id']}"
    if row_id in seen:
        yield f"{row_id}: the id occurs twice"
    seen.add(row_id)
    if nulls := [name for name, value in row.items() if _has_null(name, value)]:
        yield f"{row_id}: null in {', '.join(nulls)}"
        return
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
        counts = f"{len(row['images'])} pictures, {len(row['instances'])} instance lists"
        yield f"{row_id}: {counts}, key picture number {row['key_image']}"
        return
    for at, (image, instances) in enumerate(zip(row["images"], row["instances"], strict=True)):
        yield from _check_picture(f"{row_id} picture {at}", image, instances)


def _has_null(name: str, value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_null(key, part) for key, part in value.items())
    if isinstance(value, list):
        return any(_has_null(f"{name}[]", part) for part in value)
    return value is None and name not in _NULLABLE


def _check_mentions(where: str, caption: str, text: str, mentions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for mention in mentions:
        inside = 0 <= mention["start"] < mention["end"] <= len(caption)
        if not inside or not 0 <= mention["ref_start"] < mention["ref_end"] <= len(text):
            yield f"{where}: the mention {dict(mention)} lies outside its text"
            return
    if restore(text, mentions, caption) != caption:
        yield f"{where}: putting the names back does not give the caption"


def _check_picture(
    where: str, image: Mapping[str, Any] | None, instances: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    sizes = (rle["size"] for item in instances if (rle := item["segmentation"]) is not None)
    if image is None:  # not shipped by the source: its masks must agree among themselves
        height, width = next(sizes, (inf, inf))
    else:
        try:
            height, width = pictures.check(image["bytes"])
        except pictures.UndecodableError as error:
            yield f"{where}: does not decode: {error}"
            return
    for item in instances:
        rle, box = item["segmentation"], item["bbox"]
        if rle is not None and list(rle["size"]) != [height, width]:
            yield f"{where}: the mask of {item['label']!r} is {rle['size']}, the picture {[height, width]}"
        elif rle is not None and not _is_code(rle):
            yield f"{where}: the mask of {item['label']!r} is not a valid run-length code"
        if box is not None and not _lies_inside(box, height, width):
            yield f"{where}: the box {box} of {item['label']!r} leaves its {width}x{height} picture"


def _lies_inside(box: Sequence[float], height: float, width: float) -> bool:
    if len(box) != 4:
        return False
    x, y, w, h = box
    low, right, bottom = -_ROUNDING, width + _ROUNDING, height + _ROUNDING
    return w > 0 and h > 0 and x >= low and y >= low and x + w <= right and y + h <= bottom


def _is_code(rle: Mapping[str, Any]) -> bool:
    try:
        return masks.encode(masks.decode(rle)) == rle
    except ValueError:
        return False


def _check_counts(manifest: Mapping[str, Any], root: Path) -> Iterator[str]:
    written = {table: dict.fromkeys(manifest["splits"], 0) for table in TABLES}
    for file, facts in manifest["files"].items():
        table, _, name = file.partition("/")
        written[table][name.rpartition("-of-")[0].rpartition("-")[0]] += facts["rows"]
    for split, counts in manifest["splits"].items():
        for level in ("stories", "frames"):
            count = counts[level]
            if count["seen"] != count["written"] + count["rejected"]:
                yield f"{MANIFEST}: {split}: {count} {level}: seen is not written + rejected"
            has_table = any(file.startswith(f"{level}/") for file in manifest["files"])
            found = written[level][split]
            if has_table and found != count["written"]:
                yield f"{MANIFEST}: {split}: {count['written']} {level} written, the files hold {found}"
    try:
        with (root / REJECTS).open(encoding="utf-8") as lines:
            rejects = [json.loads(line) for line in lines]
        lost = Counter(line["split"] for line in rejects for _ in line["stories"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{REJECTS}: cannot be read: {error!r}. Build again"
        return
    for split, counts in manifest["splits"].items():
        if lost[split] != counts["stories"]["rejected"]:
            yield f"{REJECTS}: {split}: names {lost[split]} lost stories, the manifest {counts['stories']['rejected']}"


def _check_card(manifest: Mapping[str, Any], root: Path) -> Iterator[str]:
    there = {file for file in manifest["files"] if (root / file).is_file()}
    for name, config in card.configs(manifest).items():
        try:
            builder = load_dataset_builder(str(root), name)
        except Exception as error:  # whatever datasets raises, the user's load_dataset would raise as well
            yield f"{card.README}: config {name} does not load: {' '.join(str(error).split())}"
            continue
        table, features = config["table"], config["features"]
        if builder.info.features != features:
            yield f"{card.README}: the features of config {name} are not those of the files"
        if (getattr(builder.config, "columns", None) or list(TABLES[table])) != list(features):
            yield f"{card.README}: the columns of config {name} are not those it should read"
        rows = {split: facts.num_examples for split, facts in (builder.info.splits or {}).items()}
        if rows != {split: number for split, (number, _) in config["splits"].items()}:
            yield f"{card.README}: the splits of config {name} are not those of the manifest"
        read = builder.config.data_files or {}
        for split in config["splits"]:
            files = {"/".join(Path(path).parts[-2:]) for path in read.get(split, ())}
            if files & there != {file for file in there if file.startswith(f"{table}/{split}-")}:
                yield f"{card.README}: config {name} does not read the {split} files of {table}"

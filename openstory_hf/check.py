"""Verification of a built dataset: everything a user or the Hub could trip over, found before they do."""

from __future__ import annotations

import contextlib
import json
import mmap
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import load_dataset_builder
from tqdm import tqdm

from openstory_hf import card, croissant, masks, metadata, pictures
from openstory_hf.contents import Entry, contents_file, entry_of
from openstory_hf.errors import OutputError
from openstory_hf.finish import MANIFEST, REJECTS
from openstory_hf.folder import BuiltFolder
from openstory_hf.index import index_file
from openstory_hf.parquet import row_groups
from openstory_hf.references import restore
from openstory_hf.schema import TABLES
from openstory_hf.sources import LENGTH, PLACES
from openstory_hf.storage import Storage
from openstory_hf.write import file_facts

ROW_GROUP_MAX = 256 << 20
"""The Hub viewer gives up at 286 MiB."""

EXECUTABLE = (".py", ".pyc", ".pkl", ".pickle")
"""Endings of files that may run when they are loaded."""

FETCH_BYTES = 16 << 20
"""Bytes of a remote file that are fetched in one request."""

BATCH_ROWS = 16
"""Rows that are held in memory as Python values."""

_ROUNDING = 1e-3  # boxes are stored as float32

_NULLABLE = {"images[]", "timestamps[]", "timestamp", "bbox", "segmentation", "score"}


def check(path: str | Path, *, revision: str | None = None, quiet: bool = True) -> list[str]:
    """Verify a built dataset and return the problems found, each with file and record; an empty list means none.

    Checks: hashes and sizes against the manifest; columns and feature metadata; row groups below the viewer's limit;
    unique ids over all splits; parallel lists; mentions inside their texts and exact when names are put back; every
    picture decodes; every mask has its picture's size and every box lies inside it; the counts add up and agree with
    the manifest; the README's front matter, configs and counts are what the Hub accepts and the files hold;
    `croissant.json` names their columns; nothing executable and no stray shard is there; the indexes say what the
    tables say, and point at their pictures; the contents are those of the tables. The rows of a file whose hash
    differs are not looked at: whatever they hold, it is not what was built. Nor is the index of such a file.

    Args:
        path: a local folder, `user/repo` of a dataset on the Hub, or a URL. Files that are not local are read once,
            one at a time, through a temporary copy.
        revision: branch, tag or commit of a repository.
        quiet: no progress bar.

    Raises:
        OutputError: if there is no readable manifest of this schema version.
    """
    folder = BuiltFolder(str(path), revision)
    manifest, there = folder.manifest, _listing(folder)
    problems = [
        f"{file}: executable files have no place in a dataset"
        for file in there or ()
        if is_executable(file) and not (folder.storage.local and is_hidden(file))
    ]
    problems += _check_counts(folder)
    problems += _check_card(folder, there)
    problems += _check_croissant(folder)
    known = {*manifest["files"], *manifest["index"], *manifest["contents"]}
    strays = {file for file in there or () if file.endswith(".parquet")} - known
    problems += [f"{file}: not in {MANIFEST}, yet it would be read. Remove it" for file in sorted(strays)]
    total = sum(facts["rows"] for facts in manifest["files"].values())
    with tqdm(total=total, unit="row", disable=None if not quiet else True) as bar:
        for table in TABLES:
            seen: set[str] = set()
            for split in manifest["splits"]:
                problems += _check_table(folder, table, split, there, seen, bar)
    return problems


def is_hidden(file: str) -> bool:
    """Whether a file, or a folder it lies in, is hidden: those of a local folder are never pushed."""
    return any(part.startswith(".") for part in file.split("/"))


def is_executable(file: str) -> bool:
    """Whether a file may run when it is loaded."""
    return file.lower().endswith(EXECUTABLE)


def _listing(folder: BuiltFolder) -> dict[str, int] | None:
    """Size of every file there is, by path; None behind a plain web address, which cannot be listed."""
    if folder.path.startswith(("http:", "https:")):
        return None
    fs, root = fsspec.url_to_fs(folder.path)
    root = root.rstrip("/")
    return {path[len(root) + 1 :]: entry["size"] for path, entry in sorted(fs.find(root, detail=True).items())}


@contextlib.contextmanager
def _local_copy(storage: Storage, file: str, size: int) -> Iterator[Path]:
    """A file of the dataset on this machine; it is gone afterwards unless it was here before."""
    if storage.local:
        yield Path(fsspec.url_to_fs(storage.path)[1]) / file
        return
    with tempfile.TemporaryDirectory(prefix="openstory-check-") as scratch:
        copy = Path(scratch) / "file"
        with copy.open("wb") as stream:
            for start in range(0, size, FETCH_BYTES):
                stream.write(storage.range(file, start, min(start + FETCH_BYTES, size)))
        yield copy


def _check_table(
    folder: BuiltFolder, table: str, split: str, there: Mapping[str, int] | None, seen: set[str], bar: tqdm[Any]
) -> Iterator[str]:
    """Check the files of a table and split, each with its index while both are at hand, and then the contents."""
    entries: list[Entry] = []
    files = folder.files(table, split)
    for file in files:
        facts, name = folder.manifest["files"][file], index_file(file)
        bar.set_description(file, refresh=False)
        index_problem = _recorded_problem(folder, "index", name, there)
        if index_problem:
            yield f"{name}: {index_problem}"
        try:
            if problem := _size_problem(file, facts, there):
                yield f"{file}: {problem}"
                continue
            with _local_copy(folder.storage, file, facts["bytes"]) as copy:
                problems = [f"{file}: {problem}" for problem in _check_file(copy, facts, table, seen, bar)]
                yield from problems
                if problems or index_problem:
                    continue
                with _local_copies(folder, [name, *_beside(folder, table, file)]) as (part, *beside):
                    if problem := _disagreement(copy, part, file, [*_light(table), *PLACES]):
                        yield f"{name}: {problem}"
                    else:
                        entries.append(entry_of(part, *beside))
        except (pa.ArrowException, OSError, UnicodeDecodeError, OutputError, ValueError, KeyError) as error:
            yield f"{file}: the file cannot be read: {error}. Build again"
    if files and len(entries) == len(files):
        yield from _check_contents(folder, table, split, entries, there)


def _beside(folder: BuiltFolder, table: str, file: str) -> list[str]:
    """The index of the frames that a file of stories is made of, if there is one."""
    name = index_file(f"frames/{file.partition('/')[2]}")
    return [name] if table == "stories" and name in folder.manifest["index"] else []


@contextlib.contextmanager
def _local_copies(folder: BuiltFolder, names: Sequence[str]) -> Iterator[list[Path]]:
    with contextlib.ExitStack() as stack:
        sizes = [(name, folder.manifest["index"][name]["bytes"]) for name in names]
        yield [stack.enter_context(_local_copy(folder.storage, name, size)) for name, size in sizes]


def _check_contents(
    folder: BuiltFolder, table: str, split: str, entries: Sequence[Entry], there: Mapping[str, int] | None
) -> Iterator[str]:
    name = contents_file(table, split)
    if problem := _recorded_problem(folder, "contents", name, there):
        yield f"{name}: {problem}"
        return
    try:
        with folder.contents(table, split) as contents:
            pairs: list[tuple[Any, list[Any]]] = [(contents.all_runs(), [entry.runs for entry in entries])]
        if table == "stories" and folder.files("frames", split):
            first = folder.first_rows("frames", split)
            starts, _ = folder.published(split)
            pairs.append((starts, [entry.starts + row for entry, row in zip(entries, first, strict=False)]))
        if not all(np.array_equal(here, np.concatenate(expected)) for here, expected in pairs):
            yield f"{name}: it does not describe the files of {table}. Build again"
    except (OutputError, ValueError) as error:
        yield f"{name}: {error}"


def _light(table: str) -> list[str]:
    return [name for name in TABLES[table] if name != "images"]


def _size_problem(file: str, facts: Mapping[str, Any], there: Mapping[str, int] | None) -> str:
    """What the listing alone shows."""
    if there is not None and file not in there:
        return "the file is missing. Build again"
    return "" if there is None or there[file] == facts["bytes"] else _DIFFERS


_DIFFERS = "size or SHA-256 differ from the manifest. The file was changed or damaged; build again"


def _recorded_problem(folder: BuiltFolder, kind: str, name: str, there: Mapping[str, int] | None) -> str:
    """What is wrong with a file that says what is in others."""
    facts = folder.manifest[kind].get(name)
    if facts is None:
        return f"{MANIFEST} does not name it. Build again"
    if problem := _size_problem(name, facts, there):
        return problem
    try:
        with _local_copy(folder.storage, name, facts["bytes"]) as copy:
            if file_facts(copy) != {key: facts[key] for key in ("bytes", "sha256")}:
                return _DIFFERS
            with pq.ParquetFile(copy):
                return ""
    except (pa.ArrowException, OSError, OutputError) as error:
        return f"the index cannot be read: {error}. Build again"


def _disagreement(copy: Path, part: Path, file: str, columns: Sequence[str]) -> str:
    """The first row of a file that its index does not describe."""
    with (
        pq.ParquetFile(copy) as parquet,
        pq.ParquetFile(part) as index,
        copy.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        batches = index.iter_batches(batch_size=BATCH_ROWS, columns=list(columns))
        entries = (entry for batch in batches for entry in batch.to_pylist())
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                if not _describes(next(entries, None), row, data):
                    return f"row {row.get('story_id') or row['frame_id']} of {file} is not as the index says"
        return "it has more rows than the table" if next(entries, None) is not None else ""


def _describes(entry: dict[str, Any] | None, row: dict[str, Any], data: mmap.mmap) -> bool:
    if entry is None:
        return False
    images, places = row.pop("images"), entry.pop("pictures")
    return bool(
        (entry, len(places)) == (row, len(images))
        and all((place is None) == (image is None) for place, image in zip(places, images, strict=True))
        and all(_stands(data, place, image) for place, image in zip(places, images, strict=True) if place)
    )


def _stands(data: mmap.mmap, place: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    start, size = place["offset"], place["size"]
    value = size.to_bytes(LENGTH, "little") + image["bytes"]
    return bool(place["path"] == image["path"] and data[start - LENGTH : start + size] == value)


def _check_file(path: Path, facts: Mapping[str, Any], table: str, seen: set[str], bar: tqdm[Any]) -> Iterator[str]:
    found = file_facts(path)
    if found != {key: facts[key] for key in found}:
        yield _DIFFERS
        return
    with pq.ParquetFile(path) as parquet:
        expected = TABLES[table].arrow_schema
        if not parquet.schema_arrow.equals(expected, check_metadata=False):
            yield "the columns are not those of the schema"
            return
        if (parquet.schema_arrow.metadata or {}).get(b"huggingface") != expected.metadata[b"huggingface"]:
            yield "the Hugging Face features in the file differ from the schema"
        if row_groups(path) != facts["row_groups"]:
            yield f"{parquet.metadata.num_rows} rows in {parquet.num_row_groups} row groups, not as the manifest says"
        for number in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(number).total_byte_size
            if size > ROW_GROUP_MAX:
                yield f"row group {number} has {size >> 20} MB; the Hub viewer cannot show more than 286"
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                yield from _check_row(table, row, seen)
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


def _check_counts(folder: BuiltFolder) -> Iterator[str]:
    manifest = folder.manifest
    for split, counts in manifest["splits"].items():
        for level in TABLES:
            count, files = counts[level], folder.files(level, split)
            if count["seen"] != count["written"] + count["rejected"]:
                yield f"{MANIFEST}: {split}: {count} {level}: seen is not written + rejected"
            found = sum(manifest["files"][file]["rows"] for file in files)
            if files and found != count["written"]:
                yield f"{MANIFEST}: {split}: {count['written']} {level} written, the files hold {found}"
    try:
        rejects = folder.rejects()
    except OutputError as error:
        yield f"{REJECTS}: cannot be read: {error.__cause__ or error!r}. Build again"
        return
    lost = Counter(line["split"] for line in rejects for _ in line["stories"])
    for split, counts in manifest["splits"].items():
        if lost[split] != counts["stories"]["rejected"]:
            yield f"{REJECTS}: {split}: names {lost[split]} lost stories, the manifest {counts['stories']['rejected']}"


def _check_card(folder: BuiltFolder, there: Mapping[str, int] | None) -> Iterator[str]:
    try:
        front, body = card.split_card(folder.storage.whole(card.README).decode("utf-8"))
    except (OSError, OutputError, ValueError, yaml.YAMLError) as error:
        yield f"{card.README}: cannot be read: {' '.join(str(error).split())}. Write it with `openstory card`"
        return
    yield from (f"{card.README}: {problem}" for problem in metadata.problems(front))
    if card.splits_table(folder.manifest) not in body:
        yield f"{card.README}: the table of splits is not that of {MANIFEST}. Write it again with `openstory card`"
    place = _as_dataset(folder)
    known = set(there or ()) & {*folder.manifest["files"], *folder.manifest["index"]}
    for name, config in card.configs(folder.manifest).items() if place else ():
        try:
            builder = load_dataset_builder(name=name, **place)
        except Exception as error:  # whatever datasets raises, the user's load_dataset would raise as well
            yield f"{card.README}: config {name} does not load: {' '.join(str(error).split())}"
            continue
        features = config["features"]
        if builder.info.features != features:
            yield f"{card.README}: the features of config {name} are not those of the files"
        table = "stories" if name == "annotations" else name
        if (getattr(builder.config, "columns", None) or list(TABLES[table])) != list(features):
            yield f"{card.README}: the columns of config {name} are not those it should read"
        rows = {split: facts.num_examples for split, facts in (builder.info.splits or {}).items()}
        if rows != {split: number for split, (number, _) in config["splits"].items()}:
            yield f"{card.README}: the splits of config {name} are not those of the manifest"
        read = builder.config.data_files or {}
        for split in config["splits"]:
            files = {"/".join(Path(path).parts[-2:]) for path in read.get(split, ())}
            if files & known != set(config["files"][split]) & known:
                yield f"{card.README}: config {name} does not read the {split} files of {table}"


def _as_dataset(folder: BuiltFolder) -> dict[str, str]:
    """What `load_dataset` must be told to read a folder; nothing for places it does not know."""
    if folder.storage.local:
        return {"path": fsspec.url_to_fs(folder.path)[1]}
    match = re.fullmatch(r"hf://datasets/([^@]+)@([0-9a-f]{40})", folder.path)
    return {"path": match[1], "revision": match[2]} if match else {}


def _check_croissant(folder: BuiltFolder) -> Iterator[str]:
    file = croissant.CROISSANT
    try:
        described = json.loads(folder.storage.whole(file))
        found = {each["@id"]: [field["@id"] for field in each["field"]] for each in described["recordSet"]}
    except (OSError, OutputError, ValueError, KeyError, TypeError) as error:
        yield f"{file}: cannot be read: {error!r}. Write it with `openstory card`"
        return
    made = croissant.record_sets(folder.manifest, card.MEANINGS)
    expected = {each["@id"]: [field["@id"] for field in each["field"]] for each in made}
    if found != expected:
        yield f"{file}: its record sets are not the tables of {MANIFEST}. Write it again with `openstory card`"

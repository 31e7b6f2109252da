"""The dataset card: `dataset_card.md` filled with the facts of a dataset and of one build.

The YAML front matter is what makes `load_dataset` work on the folder: its configs name the files of each table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml
from datasets import DatasetInfo, Features, SplitDict, SplitInfo

from openstory_hf.info import Info
from openstory_hf.schema import TABLES

README = "README.md"

_MEANINGS = {
    "story_id": "`<dataset>/<source id>`, unique over all splits",
    "dataset": "name of the dataset",
    "sequence_id": "the sequence the story is a window of",
    "language": "ISO 639 code of the captions",
    "license": "licence of this story, where the source states one",
    "frame_ids": "source ids of the frames",
    "captions": "one per frame, as published, byte for byte",
    "referential_captions": "one per frame, repeated names replaced by pronouns",
    "mentions": "per frame, half-open offsets of every name in `captions` (start, end) and in `referential_captions`",
    "characters": "per frame, labels of the characters present, lower case",
    "setting": "per frame, background label, empty when unknown",
    "instances": "per frame, objects in its picture: label, cast name, COCO box (x, y, width, height in pixels), "
    "COCO RLE mask, score",
    "timestamps": "per frame, seconds into the source video, null when unknown",
    "source": "file and index in the raw release",
    "extras": "JSON text: whatever else the release says",
    "images": "one per frame, encoded bytes as in the source (raw pixels are stored as PNG, losslessly)",
}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def configs(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Config name -> {"table", "features", "splits": {split: (rows, bytes)}} of the configs a build offers.

    `annotations` are the same files as `stories`, read without pictures. Splits without a row are left out.
    """
    tables: dict[str, dict[str, tuple[int, int]]] = {}
    for file, facts in manifest["files"].items():
        table, _, name = file.partition("/")
        split = name.rpartition("-of-")[0].rpartition("-")[0]
        rows, size = tables.setdefault(table, {}).get(split, (0, 0))
        tables[table][split] = (rows + facts["rows"], size + facts["bytes"])
    found = {
        table: {"table": table, "features": TABLES[table], "splits": {s: n for s, n in splits.items() if n[0]}}
        for table, splits in tables.items()
    }
    without = Features({name: kind for name, kind in TABLES["stories"].items() if name != "images"})
    return {**found, "annotations": {**found["stories"], "features": without}}


def front_matter(info: Info, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The card's YAML as a dictionary."""
    offered = configs(manifest)
    stories = sum(rows for rows, _ in offered["stories"]["splits"].values())
    described = []
    for name, config in offered.items():
        splits = SplitDict()
        for split, (rows, size) in config["splits"].items():
            splits.add(SplitInfo(name=split, num_bytes=size, num_examples=rows))
        size = sum(size for _, size in config["splits"].values())
        facts = DatasetInfo(features=config["features"], splits=splits, download_size=size, dataset_size=size)
        described.append({"config_name": name, **facts._to_yaml_dict()})
    return {
        "pretty_name": info.title,
        "license": info.license,
        **({"license_name": info.license_name} if info.license_name else {}),
        "language": list(info.languages),
        "task_categories": list(info.task_categories),
        "size_categories": [next((name for limit, name in _SIZES if stories < limit), "n>10M")],
        "tags": ["story-visualization", "interleaved", "datasets", *info.tags],
        "configs": [
            {
                "config_name": name,
                **({"default": True} if name == "stories" else {}),
                "data_files": [{"split": s, "path": f"{config['table']}/{s}-*.parquet"} for s in config["splits"]],
                **({"columns": list(config["features"])} if name == "annotations" else {}),
            }
            for name, config in offered.items()
        ],
        "dataset_info": described,
    }


def render(info: Info, manifest: Mapping[str, Any], rejects: Iterable[Mapping[str, Any]], *, path: str) -> str:
    """The whole README of a built dataset.

    Args:
        info: facts of the dataset.
        manifest: of the build.
        rejects: the lines of `rejects.jsonl`.
        path: what users pass to `load_dataset`.
    """
    template = Template((Path(__file__).parent / "dataset_card.md").read_text(encoding="utf-8"))
    splits = manifest["splits"]
    reasons = Counter(line["reason"] for line in rejects)
    body = template.substitute(
        title=info.title,
        summary=info.summary,
        story=info.story,
        sequence=info.sequence,
        path=path,
        first_split=next(iter(configs(manifest)["stories"]["splits"])),
        splits=_table(
            ("split", "stories", "published", "frames"),
            (
                (
                    split,
                    f"{counts['stories']['written']:,}",
                    "not stated" if counts["published_stories"] is None else f"{counts['published_stories']:,}",
                    f"{counts['frames']['written']:,}",
                )
                for split, counts in splits.items()
            ),
        ),
        columns=_table(
            ("column", "type", "meaning"),
            ((f"`{name}`", _type(TABLES["stories"][name]), _MEANINGS[name]) for name in TABLES["stories"]),
        ),
        frames_note=(
            "The `frames` config has one row per frame in sequence order, with all pictures the source keeps of it "
            f"and `key_image`, the one that stands in `stories`: {info.key_rule}.\n"
            if info.frames_table
            else ""
        ),
        masks_note="Masks are COCO compressed run lengths (`size` is [height, width], `counts` ASCII text, "
        "column-major): `pycocotools.mask.decode(segmentation)` gives the pixels. Boxes and masks are in pixels of "
        "the stored picture.",
        policy=manifest["referential_text"]["policy"],
        rules=manifest["referential_text"]["rules_version"],
        tool=manifest["openstory_hf"],
        schema=manifest["schema_version"],
        raw_fingerprint=manifest["raw_fingerprint"],
        accounting="; ".join(
            f"{split}: {c['stories']['seen']:,} stories seen = {c['stories']['written']:,} written "
            f"+ {c['stories']['rejected']:,} rejected"
            for split, c in splits.items()
        )
        + ".",
        rejects=(
            "Records left out, by reason (all in `rejects.jsonl`):\n\n"
            + _table(("records", "reason"), ((str(count), reason) for reason, count in reasons.most_common(20)))
            if reasons
            else "No record was left out."
        ),
        rights=info.rights,
        obtain=info.obtain,
        citation=info.citation.strip(),
    )
    head = yaml.safe_dump(front_matter(info, manifest), sort_keys=False, allow_unicode=True, width=119)
    return f"---\n{head}---\n\n{body}"


def _table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    )


def _type(feature: Any) -> str:
    if isinstance(feature, dict):
        return "{" + ", ".join(feature) + "}"
    if hasattr(feature, "feature"):
        return f"List({_type(feature.feature)})"
    return str(getattr(feature, "dtype", "Image")) if type(feature).__name__ != "Image" else "Image"

"""The dataset card: `dataset_card.md` filled with the facts of a dataset and of one build, and `croissant.json`.

The YAML front matter is what makes `load_dataset` work on the folder: its configs name the files of each table. What
people write between the prose marks of a card, and keys they add to its front matter, stay when it is written again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import yaml
from datasets import DatasetInfo, Features, SplitDict, SplitInfo

from openstory_hf import croissant
from openstory_hf.codecs import CODECS
from openstory_hf.errors import OutputError
from openstory_hf.index import index_file, index_files
from openstory_hf.info import Info
from openstory_hf.metadata import is_language
from openstory_hf.schema import TABLES
from openstory_hf.write import write_whole

README = "README.md"
EXAMPLE = "example.png"
"""The picture of a story that the card shows if the folder has it."""

_EXAMPLE_TEXT = "The first story of {split}, at most five frames of it: pictures, masks, boxes and captions"

PLACEHOLDER = "PATH_OR_REPO"
"""What examples load while nobody has said where the folder will be."""

_SHARED = {
    "dataset": "name of the dataset",
    "language": "ISO 639 code of the captions",
    "license": "licence of this story, where the source states one",
    "source": "file and index in the raw release",
    "extras": "JSON text: whatever else the release says",
}
_INSTANCES = (
    "label, cast name, COCO box (x, y, width, height in pixels), COCO RLE mask, score; the last three may be null"
)
MEANINGS = {
    "stories": {
        **_SHARED,
        "story_id": "`<dataset>/<source id>`, unique over all splits",
        "sequence_id": "the sequence the story is a window of",
        "frame_ids": "source ids of the frames",
        "captions": "one per frame, as published, byte for byte",
        "referential_captions": "one per frame, repeated names replaced by pronouns",
        "mentions": "per frame, half-open offsets of every name in `captions` (start, end) and in "
        "`referential_captions`",
        "characters": "per frame, labels of the characters present, lower case",
        "setting": "per frame, background label, empty when unknown",
        "instances": f"per frame, objects in its picture: {_INSTANCES}",
        "timestamps": "per frame, seconds into the source video, null when unknown",
        "images": "one per frame, encoded bytes as in the source, raw pixels encoded by the build, null "
        "when the source does not ship it",
    },
    "frames": {
        **_SHARED,
        "frame_id": "source id, unique within its sequence",
        "sequence_id": "the sequence the frame belongs to",
        "position": "number of the frame in its sequence, from 0",
        "caption": "as published, byte for byte",
        "characters": "labels of the characters present, lower case",
        "setting": "background label, empty when unknown",
        "instances": f"per picture, objects in it: {_INSTANCES}",
        "key_image": "number of the picture that stands in `stories`",
        "timestamp": "seconds into the source video, null when unknown",
        "images": "all pictures the source keeps of the frame, as in `stories`",
    },
}
"""What each column of each table means."""

POLICIES = {
    "algorithm1": "It is Algorithm 1 of the StoryGPT-V paper, to the letter.",
    "grammatical": "It takes the decision of Algorithm 1 of the StoryGPT-V paper and writes it as English; a name "
    "stays where a pronoun would be ambiguous. Error rate: 200 of the sentences it rewrote in FlintstonesSV's "
    "validation captions were drawn at random and read by hand; 198 were good English with one meaning, 2 (1 %) were "
    "ambiguous. That sample says nothing about captions of other kinds.",
    "story_ldm": "It does what the released code of Make-A-Story does, its mistakes included.",
    "storygpt_v": "It does what the released evaluation code of StoryGPT-V does, its mistakes included. Of the 200 "
    "sentences that were read to judge the policy `grammatical`, it left 66 as they were; 6 of the other 134 were "
    "ungrammatical or ambiguous.",
}
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
_GENERATED = (
    *("pretty_name", "license", "license_name", "language", "task_categories", "size_categories", "tags"),
    *("configs", "dataset_info"),
)
_FRONT = re.compile(r"\ufeff?\s*---[ \t]*\n(?P<yaml>.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_MARK = re.compile(r"<!-- (?:end )?prose \S+ -->")
_PROSE = re.compile(r"(?<=<!-- prose )(?P<name>\S+) -->\n(?P<text>.*?)(?=<!-- end prose (?P=name) -->)", re.DOTALL)


def configs(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Config name -> {"files": {split: paths}, "features", "splits": {split: (rows, bytes)}} a build offers.

    `annotations` are the rows of `stories` without pictures, out of its index: projecting the columns of the story
    files costs a reader that fetches blocks of megabytes most of the pictures too. Splits without a row are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for file, facts in manifest["files"].items():
        table, _, name = file.partition("/")
        config = found.setdefault(table, {"features": TABLES[table], "files": {}, "splits": {}})
        split = name.rpartition("-of-")[0].rpartition("-")[0]
        rows, size = config["splits"].get(split, (0, 0))
        config["files"].setdefault(split, []).append(file)
        config["splits"][split] = (rows + facts["rows"], size + facts["bytes"])
    stories = found["stories"]
    indexes = {split: [index_file(file) for file in files] for split, files in stories["files"].items()}
    found["annotations"] = {
        "features": Features({name: kind for name, kind in TABLES["stories"].items() if name != "images"}),
        "files": indexes,
        "splits": {
            split: (stories["splits"][split][0], sum(manifest["index"][file]["bytes"] for file in files))
            for split, files in indexes.items()
        },
    }
    for config in found.values():
        config["splits"] = {split: facts for split, facts in config["splits"].items() if facts[0]}
    return found


def front_matter(info: Info, manifest: Mapping[str, Any], languages: Sequence[str]) -> dict[str, Any]:
    """The card's YAML as a dictionary."""
    offered = configs(manifest)
    stories = sum(rows for rows, _ in offered["stories"]["splits"].values())
    described, listed = [], []
    for name, config in offered.items():
        splits = SplitDict()
        for split, (rows, size) in config["splits"].items():
            splits.add(SplitInfo(name=split, num_bytes=size, num_examples=rows))
        size = sum(size for _, size in config["splits"].values())
        facts = DatasetInfo(features=config["features"], splits=splits, download_size=size, dataset_size=size)
        described.append({"config_name": name, **facts._to_yaml_dict()})
        indexed = name == "annotations"
        paths = {split: index_files("stories", split) if indexed else f"{name}/{split}-*.parquet" for split in splits}
        listed.append(
            {
                "config_name": name,
                **({"default": True} if name == "stories" else {}),
                "data_files": [{"split": split, "path": path} for split, path in paths.items()],
                **({"columns": list(config["features"])} if indexed else {}),
            }
        )
    return {
        "pretty_name": info.title,
        "license": info.license,
        **({"license_name": info.license_name} if info.license_name else {}),
        "language": list(languages),
        "task_categories": list(info.task_categories),
        "size_categories": [_SIZES[max(0, len(str(stories)) - 3)]],
        "tags": ["story-visualization", "interleaved", "datasets", *info.tags],
        "configs": listed,
        "dataset_info": described,
    }


def write(
    root: Path,
    info: Info,
    manifest: Mapping[str, Any],
    rejects: Iterable[Mapping[str, Any]],
    *,
    repository: str = "",
    endpoint: str = "https://huggingface.co",
) -> None:
    """Write `README.md` and `croissant.json` of a built folder, keeping what people wrote into the card.

    Args:
        root: the folder.
        info: facts of the dataset.
        manifest: of the build.
        rejects: the lines of `rejects.jsonl`.
        repository: `user/name` on the Hub, for the examples and the address in both files.
        endpoint: of the Hub.

    Raises:
        OutputError: if a card is there whose prose cannot be kept.
    """
    languages = _languages(info, manifest)
    text = render(
        info, manifest, rejects, path=repository or PLACEHOLDER, languages=languages, example=(root / EXAMPLE).exists()
    )
    path = root / README
    if path.exists():
        try:
            text = keep_prose(text, path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise OutputError(f"{path}: {error}. Mend it, or move it away to have a new one written") from None
    write_whole(path, text)
    address = f"{endpoint}/datasets/{repository}" if repository else ""
    described = croissant.describe(info, manifest, MEANINGS, languages=languages, repository=address)
    write_whole(root / croissant.CROISSANT, json.dumps(described, ensure_ascii=False, indent=1) + "\n")


def _languages(info: Info, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The languages of the stories, as far as the Hub knows their codes; those of the dataset if rows say none."""
    return tuple(filter(is_language, manifest["languages"])) or info.languages


def render(
    info: Info,
    manifest: Mapping[str, Any],
    rejects: Iterable[Mapping[str, Any]],
    *,
    path: str,
    languages: Sequence[str],
    example: bool = False,
) -> str:
    """The whole README of a built dataset.

    Args:
        info: facts of the dataset.
        manifest: of the build.
        rejects: the lines of `rejects.jsonl`.
        path: what users pass to `load_dataset`.
        languages: ISO 639 codes of the captions.
        example: whether the folder has the picture of a story.
    """
    template = Template((Path(__file__).parent / "dataset_card.md").read_text(encoding="utf-8"))
    offered, splits = configs(manifest), manifest["splits"]
    first_split = next(iter(offered["stories"]["splits"]))
    reasons = Counter(line["reason"] for line in rejects)
    policy = manifest["referential_text"]["policy"]
    body = template.substitute(
        title=info.title,
        summary=info.summary,
        story=info.story,
        sequence=info.sequence,
        example=f"![{_EXAMPLE_TEXT.format(split=first_split)}]({EXAMPLE})\n\n" if example else "",
        path=path,
        first_split=first_split,
        splits=splits_table(manifest),
        columns="\n\n".join(_columns(table, info) for table in TABLES if table in offered),
        references=f"`referential_captions` replace repeated names by pronouns, policy `{policy}`, rules version "
        f"{manifest['referential_text']['rules_version']}. {POLICIES[policy]} Every occurrence of a character's name "
        "is a mention with its offsets in both texts; putting the names back gives the original caption exactly.",
        tool=manifest["openstory_hf"],
        schema=manifest["schema_version"],
        raw_fingerprint=manifest["raw_fingerprint"],
        accounting="; ".join(
            f"{split}: {c['stories']['seen']:,} stories seen = {c['stories']['written']:,} written "
            f"+ {c['stories']['rejected']:,} rejected"
            for split, c in splits.items()
        )
        + ".",
        pictures=_encoding(manifest["encoded"]) if "encoded" in manifest else "",
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
    return _joined(front_matter(info, manifest, languages), body)


def _encoding(encoded: Mapping[str, Any]) -> str:
    """A paragraph on the pictures that were raw pixels."""
    codec = CODECS[encoded["codec"]]
    effect = "which is LOSSY: their pixels are only close to those of the source" if codec.lossy else "losslessly"
    number = f"{encoded['pictures']:,}"
    return f"{number} pictures that the source has as raw pixels were encoded as {codec.title}, {effect}.\n\n"


def _joined(front: Mapping[str, Any], body: str) -> str:
    head = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=119)
    return f"---\n{head}---\n\n{body}"


def _columns(table: str, info: Info) -> str:
    rows = ((f"`{name}`", _type(kind), MEANINGS[table][name]) for name, kind in TABLES[table].items())
    listed = _table(("column", "type", "meaning"), rows)
    if table == "stories":
        return listed
    return (
        "The `frames` config has one row per frame in sequence order, with all pictures the source keeps of it and "
        f"`key_image`, the one that stands in `stories`: {info.key_rule}.\n\n{listed}"
    )


def splits_table(manifest: Mapping[str, Any]) -> str:
    """Stories and frames of each split beside the published number of stories."""
    rows = []
    for split, counts in manifest["splits"].items():
        published = counts["published_stories"]
        numbers = (counts["stories"]["written"], published, counts["frames"]["written"])
        rows.append((split, *("not stated" if number is None else f"{number:,}" for number in numbers)))
    return _table(("split", "stories", "published", "frames"), rows)


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


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """The front matter and the body of a card.

    Raises:
        ValueError, yaml.YAMLError: if the front matter is not a YAML mapping.
    """
    text = text.replace("\r\n", "\n")
    match = _FRONT.match(text)
    data = yaml.safe_load(match["yaml"]) if match else {}
    if not isinstance(data, dict):
        raise ValueError("the front matter is not a mapping")
    return data, text[match.end() :] if match else text


def keep_prose(text: str, old: str) -> str:
    r"""A new card with what people wrote into the old one: text between prose marks, keys of the front matter.

    >>> new = "---\nlicense: mit\n---\n\n<!-- prose about -->\n<!-- end prose about -->\n5 stories\n"
    >>> old = "---\ndoi: 10.1/2\n---\n<!-- prose about -->\nBy hand.\n<!-- end prose about -->\n4 stories\n"
    >>> print(keep_prose(new, old), end="")
    ---
    license: mit
    doi: 10.1/2
    ---
    <BLANKLINE>
    <!-- prose about -->
    By hand.
    <!-- end prose about -->
    5 stories

    Raises:
        ValueError, yaml.YAMLError: if prose would be lost: marks that are not in pairs, or not in the new card.
    """
    (front, body), (old_front, old_body) = split_card(text), split_card(old)
    places = [match["name"] for match in _PROSE.finditer(body)]
    prose = {match["name"]: match["text"] for match in _PROSE.finditer(old_body)}
    if len(_MARK.findall(old_body)) != 2 * len(prose):
        raise ValueError("its prose marks are not in pairs, `<!-- prose NAME -->` and `<!-- end prose NAME -->`")
    if lost := [name for name in prose if name not in places and prose[name].strip()]:
        raise ValueError(f"the card has no place for prose {lost[0]}; its places are {', '.join(places)}")
    kept = {key: value for key, value in old_front.items() if key not in _GENERATED}
    filled = _PROSE.sub(lambda match: f"{match['name']} -->\n{prose.get(match['name'], match['text'])}", body)
    return _joined({**front, **kept}, filled.lstrip("\n"))

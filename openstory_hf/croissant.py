"""The description of a built dataset in Croissant, the vocabulary dataset search engines and loaders read.

Source: Croissant Format Specification 1.1, MLCommons; terms are those of its JSON-LD context.

Columns that are lists of lists of objects (`mentions`, `instances`) are named in the description of their record set
and not among its fields: a Croissant field takes one JSON path per list, so no reader could give back their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Features, Image, List, Value

from openstory_hf.info import Info
from openstory_hf.schema import TABLES

CROISSANT = "croissant.json"

_TERMS = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject"),
    *("fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator"),
    *("source", "subField", "transform"),
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}
_TYPES = {
    "string": "sc:Text",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
    "float32": "sc:Float",
    "float64": "sc:Float",
}
_NO_HASH = "https://github.com/mlcommons/croissant/issues/80"
"""What stands for the hash of a repository, which has none, in the Croissant files of the Hub."""


def describe(
    info: Info,
    manifest: Mapping[str, Any],
    meanings: Mapping[str, Mapping[str, str]],
    *,
    languages: Sequence[str],
    repository: str = "",
) -> dict[str, Any]:
    """The JSON-LD of a build.

    Args:
        info: facts of the dataset.
        manifest: of the build.
        meanings: what each column of each table means.
        languages: ISO 639 codes of the captions.
        repository: address of the repository on the Hub; without one the files lie beside the description.
    """
    whole = {
        "@type": "cr:FileObject",
        "@id": "repo",
        "name": "repo",
        "description": "The repository on the Hugging Face Hub.",
        "contentUrl": repository,
        "encodingFormat": "git+https",
        "sha256": _NO_HASH,
    }
    distribution = [_files(table, repository) for table in _tables(manifest)]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": manifest["dataset"],
        "alternateName": info.title,
        "description": info.summary,
        "url": repository or info.homepage,
        "license": info.license_name or info.license,
        "usageInfo": info.rights,
        "citeAs": info.citation.strip(),
        "version": f"{manifest['schema_version']}.0.0",
        "inLanguage": list(languages),
        "keywords": list(info.tags),
        "distribution": [whole, *distribution] if repository else distribution,
        "recordSet": record_sets(manifest, meanings),
    }


def record_sets(manifest: Mapping[str, Any], meanings: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """One record set with the names of the splits, and one per table."""
    return [_splits(manifest), *(_records(table, meanings[table]) for table in _tables(manifest))]


def _tables(manifest: Mapping[str, Any]) -> list[str]:
    return [table for table in TABLES if any(file.startswith(f"{table}/") for file in manifest["files"])]


def _files(table: str, repository: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{table}-files",
        "name": f"{table}-files",
        "description": f"The Parquet files of {table}.",
        **({"containedIn": {"@id": "repo"}} if repository else {}),
        "encodingFormat": "application/x-parquet",
        "includes": f"{table}/*.parquet",
    }


def _splits(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "Names of the splits.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [{"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"}],
        "data": [{"splits/name": split} for split in manifest["splits"]],
    }


def _records(table: str, meanings: Mapping[str, str]) -> dict[str, Any]:
    features = TABLES[table]
    nested = [name for name in features if not extractable(features[name])]
    split = {
        "@type": "cr:Field",
        "@id": f"{table}/split",
        "name": "split",
        "description": "Split, from the name of the file.",
        "dataType": "sc:Text",
        "source": {
            "fileSet": {"@id": f"{table}-files"},
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": rf"^.*{table}/(.+)-\d+-of-\d+\.parquet$"},
        },
    }
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "description": f"The rows of {table}. The files also hold {' and '.join(nested)}, lists of lists of objects.",
        "field": [split, *_fields(table, features, meanings)],
    }


def extractable(feature: Any) -> bool:
    """Whether a Croissant field can give back a column."""
    if isinstance(feature, List):
        return isinstance(feature.feature, (Value, Image, List)) and extractable(feature.feature)
    return not isinstance(feature, dict) or all(isinstance(part, Value) for part in feature.values())


def _fields(table: str, features: Features, meanings: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, feature in features.items():
        if not extractable(feature):
            continue
        field = {"@type": "cr:Field", "@id": f"{table}/{name}", "name": name, "description": meanings[name]}
        if isinstance(feature, dict):
            parts = [
                {
                    "@type": "cr:Field",
                    "@id": f"{table}/{name}/{part}",
                    "name": part,
                    **_values(kind),
                    "source": _source(table, name, {"jsonPath": part}),
                }
                for part, kind in feature.items()
            ]
            yield {**field, "subField": parts}
        else:
            picture = {"jsonPath": "bytes"} if isinstance(getattr(feature, "feature", None), Image) else None
            yield {**field, **_values(feature), "source": _source(table, name, picture)}


def _source(table: str, column: str, transform: dict[str, str] | None) -> dict[str, Any]:
    source = {"fileSet": {"@id": f"{table}-files"}, "extract": {"column": column}}
    return {**source, "transform": transform} if transform else source


def _values(feature: Any) -> dict[str, Any]:
    depth = 0
    while isinstance(feature, List):
        feature, depth = feature.feature, depth + 1
    kind = {"dataType": "sc:ImageObject" if isinstance(feature, Image) else _TYPES[feature.dtype]}
    if not depth:
        return kind
    repeated = {"repeated": True} if isinstance(feature, Image) else {}  # readers decode a picture at a time
    return {**kind, **repeated, "isArray": True, "arrayShape": ",".join(["-1"] * depth)}

"""Croissant: the reference reader validates the description of every dataset and reads the rows datasets reads."""

import fnmatch
import json

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from openstory_hf import catalogue
from openstory_hf.build import build
from openstory_hf.croissant import extractable
from openstory_hf.fakes import RawWriter
from openstory_hf.hub import write_card
from openstory_hf.schema import TABLES


@pytest.fixture(scope="module", params=catalogue.names())
def out(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    builder = catalogue.get(request.param)
    builder.fake(RawWriter(folder / "raw"))
    build(builder, folder / "raw", folder / "out", on_error="quarantine")
    return folder / "out"


def plain(value):
    """A value of either reader; texts come as bytes from one, and missing numbers as NaN."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Image.Image):
        return (value.mode, np.asarray(value).tobytes())
    if isinstance(value, dict):
        return {key.rpartition("/")[2]: plain(part) for key, part in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [plain(part) for part in value]
    return None if value is None or value != value else value


@pytest.mark.parametrize("repository", ["", "me/stories"])
def test_the_reference_reader_gives_the_rows_of_load_dataset(out, repository):
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    write_card(out, repository)
    mapping = {"repo": str(out)} if repository else None
    read = mlcroissant.Dataset(jsonld=str(out / "croissant.json"), mapping=mapping)
    assert not read.metadata.ctx.issues.errors
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert [plain(row)["name"] for row in read.records("splits")] == list(manifest["splits"])
    tables = {file.partition("/")[0] for file in manifest["files"]}
    for table in tables:
        columns = [name for name, feature in TABLES[table].items() if extractable(feature)]
        expected = [
            {"split": split, **{name: plain(row[name]) for name in columns}}
            for split, rows in load_dataset(str(out), table, streaming=True).items()
            for row in rows
        ]
        found = [plain(dict(row)) for row in read.records(table)]
        assert expected
        for name in ["split", *columns]:  # a difference of everything would be unreadable
            by_split = {split: [row[name] for row in found if row["split"] == split] for split in manifest["splits"]}
            assert [value for split in manifest["splits"] for value in by_split[split]] == [
                row[name] for row in expected
            ]


def test_files_and_columns_are_all_described(out):
    described = json.loads((out / "croissant.json").read_text("utf-8"))
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    patterns = [files["includes"] for files in described["distribution"] if files["@id"] != "repo"]
    everything = [*manifest["files"], *manifest["index"], "example.png", "README.md"]
    assert {f for f in everything if any(fnmatch.fnmatch(f, p) for p in patterns)} == set(manifest["files"])
    for records in described["recordSet"][1:]:
        fields = {field["name"] for field in records["field"]}
        for name in TABLES[records["name"]]:
            assert (name in fields) != (f" {name}" in records["description"])


def test_lists_of_lists_of_objects_are_what_is_left_out():
    left_out = {name for features in TABLES.values() for name in features if not extractable(features[name])}
    assert left_out == {"mentions", "instances"}

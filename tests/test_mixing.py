"""All datasets have one schema: they interleave as streams, and one batch holds stories of every source."""

import pytest
from datasets import Image, List, interleave_datasets, load_dataset

from openstory_hf import InterleavedCollator, catalogue
from openstory_hf.build import build
from openstory_hf.fakes import RawWriter
from openstory_hf.testing import tiny_tokenizer


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    found = {}
    for name in catalogue.names():
        folder = tmp_path_factory.mktemp(name)
        builder = catalogue.get(name)
        builder.fake(RawWriter(folder / "raw"))
        build(builder, folder / "raw", folder / "out", on_error="quarantine")
        splits = load_dataset(str(folder / "out"), streaming=True)
        found[name] = next(iter(splits.values())).cast_column("images", List(Image(decode=False)))
    return found


def test_all_datasets_have_the_same_features(streams):
    first, *others = streams.values()
    assert all(stream.features == first.features for stream in others)


def test_all_datasets_interleave(streams):
    mixed = interleave_datasets(list(streams.values()), stopping_strategy="all_exhausted")
    assert {row["dataset"] for row in mixed} == set(streams)


def test_one_batch_holds_stories_of_every_source(streams):
    rows = [row for stream in streams.values() for row in stream.take(4) if all(row["images"])]
    tokenizer = tiny_tokenizer(text for row in rows for text in row["captions"])
    collator = InterleavedCollator(tokenizer=tokenizer, image_size=32, mask_grid=(4, 4), target="all")
    firsts = list({row["dataset"]: row for row in rows}.values())
    batch = collator(firsts)
    assert batch["num_images"].tolist() == [len(row["images"]) for row in firsts]
    assert batch["pixel_values"].shape[1:] == (3, 32, 32)
    assert len(firsts) >= 2

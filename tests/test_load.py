"""Reading: windows, pictures, orders and shares against a plain pyarrow read of the same files."""

import copy
import io
import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import groupby

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from openstory_hf.builders import _template
from openstory_hf.builders.african_storybook import AfricanStorybook
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release
from openstory_hf.builders.openstory_pp import OpenstoryPP
from PIL import Image

from openstory_hf import decoders
from openstory_hf.build import build
from openstory_hf.builder import StoryBuilder
from openstory_hf.collate import StoryTensorCollator
from openstory_hf.errors import OpenStoryError, OutputError, UsageError
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.load import load_stories
from openstory_hf.records import Frame, Picture, Sequence, Window
from openstory_hf.references import rewrite
from openstory_hf.rows import read_stories
from openstory_hf.schema import STORIES

EPISODES = {"train": {"s_01_e_01": 11, "s_01_e_02": 7, "s_01_e_03": 8, "s_01_e_04": 6}, "val": {"s_02_e_01": 9}}
LOST = "s_01_e_01_shot_000900_000974"  # the ninth clip of the first episode


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    """Four training shards of several row groups each; one clip is left out."""
    folder = tmp_path_factory.mktemp("load")
    write_release(RawWriter(folder / "raw"), EPISODES, variant="B")
    (folder / f"raw/video_frames_sampled/{LOST}.npy").unlink()
    options = {"on_error": "quarantine", "shard_bytes": 1, "row_group_bytes": 12_000}
    build(FlintstonesSV, folder / "raw", folder / "out", **options)
    return folder / "out"


@pytest.fixture(scope="session")
def books(tmp_path_factory):
    """A dataset without a `frames` table: en/0001 has three pages, en/0002 two, fr/0001 three."""
    folder = tmp_path_factory.mktemp("books")
    AfricanStorybook.fake(RawWriter(folder / "raw"))
    build(AfricanStorybook, folder / "raw", folder / "out", on_error="quarantine")
    return folder / "out"


def stored(out, table, split="train"):
    return [row for file in sorted((out / table).glob(f"{split}-*")) for row in pq.read_table(file).to_pylist()]


def runs(frames):
    """Unbroken runs of frames: consecutive positions within a sequence."""
    numbered = enumerate(frames)
    for _, run in groupby(numbered, key=lambda pair: (pair[1]["sequence_id"], pair[1]["position"] - pair[0])):
        yield [frame for _, frame in run]


def windows(out, length, stride=1, split="train"):
    """All windows by brute force, as lists of rows of the frames table."""
    cut = []
    for run in runs(stored(out, "frames", split)):
        start = 0
        while start + length <= len(run):
            cut.append(run[start : start + length])
            start += stride
    return cut


def ids(rows):
    return [row["story_id"] for row in rows]


# -- which stories -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, 5, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_windows_equal_a_brute_force_cut_of_the_frames_table(out, length, stride, split):
    expected = windows(out, length, stride, split)
    stream = load_stories(out, split, length=length, stride=stride)
    found = list(stream)
    assert len(found) == stream.num_stories == len(expected) > 0
    assert len(set(ids(found))) == len(found)
    for row, frames in zip(found, expected, strict=True):
        assert set(row) == {*STORIES, "texts", "draw"}
        for column, source in (
            ("frame_ids", "frame_id"),
            ("captions", "caption"),
            ("characters", "characters"),
            ("setting", "setting"),
            ("timestamps", "timestamp"),
        ):
            assert row[column] == [frame[source] for frame in frames]
        assert row["texts"] == row["captions"]
        assert row["sequence_id"] == frames[0]["sequence_id"]
        assert row["images"] == [frame["images"][2] for frame in frames]  # 2 is the middle of 5
        assert row["instances"] == [frame["instances"][2] for frame in frames]
        assert json.loads(row["extras"])["frames"] == [json.loads(frame["extras"]) for frame in frames]


def test_windows_never_bridge_a_frame_that_was_left_out(out):
    first = [row["frame_ids"] for row in load_stories(out, length=2) if row["sequence_id"] == "s_01_e_01"]
    numbers = [[int(frame[15:19]) for frame in frames] for frames in first]
    assert numbers == [[1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 7], [7, 8], [10, 11]]


def test_published_stories_are_the_rows_of_the_stories_table(out):
    for split in ("train", "validation"):
        expected = [{**row, "texts": row["captions"]} for row in stored(out, "stories", split)]
        found = list(load_stories(out, split))
        assert len({row.pop("draw") for row in found}) == len(found)
        assert found == expected
        assert [row["frame_ids"] for row in load_stories(out, split, length=5)] == [r["frame_ids"] for r in expected]


def test_the_length_of_a_stories_only_dataset_is_cut_inside_the_stories(books):
    found = [(row["story_id"], row["frame_ids"], row["captions"]) for row in load_stories(books, length=2)]
    kite = ["The wind blows.", "The kite\nflies away.", ""]
    cerf = ["Le vent souffle.", "Le cerf-volant s’envole.", "Où est-il ?"]
    assert found == [
        ("african_storybook/en/0001#0-2", ["0001/02", "0001/03"], kite[:2]),
        ("african_storybook/en/0001#1-3", ["0001/03", "0001/04"], kite[1:]),
        ("african_storybook/en/0002", ["0002/02", "0002/03"], ["We go to the market.", "We buy mangoes."]),
        ("african_storybook/fr/0001#0-2", ["0001/02", "0001/03"], cerf[:2]),
        ("african_storybook/fr/0001#1-3", ["0001/03", "0001/04"], cerf[1:]),
    ]
    whole = {row["sequence_id"]: row for row in stored(books, "stories")}
    for row in load_stories(books, length=2):
        at = row["source"]["index"]
        assert row["images"] == whole[row["sequence_id"]]["images"][at : at + 2]
    assert ids(load_stories(books, length=2, stride=2)) == [found[0][0], found[2][0], found[3][0]]


class Repeated(StoryBuilder):
    """Every sequence calls its frames "1" and "2"."""

    INFO = replace(_template.INFO, frames_table=True)
    units, fake = staticmethod(_template.units), staticmethod(_template.fake)

    @staticmethod
    def sequences(raw, unit):
        def read(frame_id):
            pixels, _, _ = scene((unit.unit_id,), size=32, step=int(frame_id))
            pictures = tuple(Picture(path=f"{k}.png", pixels=pixels // (k + 1)) for k in range(2))
            return Frame(frame_id=frame_id, caption=f"{unit.unit_id} {frame_id}", pictures=pictures)

        window = Window(story_id=unit.unit_id, start=0, stop=2)
        yield Sequence(sequence_id=unit.unit_id, frame_ids=("1", "2"), read=read, windows=(window,))


def test_published_stories_are_found_when_sequences_use_the_same_frame_ids(tmp_path):
    Repeated.fake(RawWriter(tmp_path / "raw"))
    build(Repeated, tmp_path / "raw", tmp_path / "out")
    published = [(row["story_id"], row["captions"]) for row in stored(tmp_path / "out", "stories")]
    assert len(published) == 5
    other = load_stories(tmp_path / "out", frame=1)
    assert [(row["story_id"], row["captions"]) for row in other] == published


# -- which pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_numbered_picture_of_every_frame(out, number):
    for row, frames in zip(load_stories(out, length=3, frame=number), windows(out, 3), strict=True):
        assert row["images"] == [frame["images"][number] for frame in frames]


def test_all_pictures_are_one_list_per_frame(out):
    for row, frames in zip(load_stories(out, length=3, frame="all"), windows(out, 3), strict=True):
        assert row["images"] == [frame["images"] for frame in frames]
        assert row["instances"] == [frame["instances"] for frame in frames]


def test_all_pictures_are_one_list_per_frame_where_a_frame_has_only_one(books):
    for row, story in zip(load_stories(books, frame="all"), stored(books, "stories"), strict=True):
        assert row["images"] == [[image] for image in story["images"]]
        assert row["instances"] == [[instances] for instances in story["instances"]]


@pytest.mark.parametrize("frame", ["random", 3])
def test_published_stories_with_other_pictures_keep_their_ids_texts_and_frames(out, frame):
    held = {row["frame_id"]: row["images"] for row in stored(out, "frames")}
    same = ("story_id", "frame_ids", "captions", "referential_captions", "mentions", "characters", "setting")
    fits = {"random": lambda found, images: found in images, 3: lambda found, images: found == images[3]}
    for row, story in zip(load_stories(out, frame=frame), stored(out, "stories"), strict=True):
        assert {name: row[name] for name in same} == {name: story[name] for name in same}
        for frame_id, found in zip(row["frame_ids"], row["images"], strict=True):
            assert fits[frame](found, held[frame_id])


def pictures_of(stream):
    return [[image["path"] for image in row["images"]] for row in stream]


def test_random_pictures_are_a_function_of_seed_and_epoch(out):
    stream = load_stories(out, length=3, frame="random", seed=1)
    first = pictures_of(stream)
    assert pictures_of(stream) == first
    assert pictures_of(load_stories(out, length=3, frame="random", seed=1)) == first
    assert pictures_of(load_stories(out, length=3, frame="random", seed=2)) != first
    stream.set_epoch(1)
    assert pictures_of(stream) != first
    stream.set_epoch(0)
    assert pictures_of(stream) == first
    drawn = {path[-5] for story in first for path in story}
    assert drawn == set("01234")  # ...-frame0.png to ...-frame4.png
    two = [load_stories(out, length=3, frame="random", seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    assert [paths for stream in two for paths in pictures_of(stream)] == first


def test_windows_of_an_epoch_show_the_same_random_picture_of_a_frame(out):
    def shown(stream):
        pairs = [(row["frame_ids"], [image["path"] for image in row["images"]]) for row in stream]
        return {(frame, path) for frames, paths in pairs for frame, path in zip(frames, paths, strict=True)}

    stream = load_stories(out, length=3, frame="random-per-epoch", shuffle=True)
    first = shown(stream)
    assert len(first) == len({frame for frame, _ in first})  # of a frame one picture, in all its windows
    assert len({path[-5] for _, path in first}) > 1  # frames draw by themselves
    in_pairs = shown(load_stories(out, length=2, frame="random-per-epoch"))
    assert in_pairs >= first  # whatever the windows and their order
    assert shown(load_stories(out, length=3, frame="random-per-epoch", seed=1)) != first
    drawn = set(first)
    for epoch in range(1, 40):
        stream.set_epoch(epoch)
        drawn |= shown(stream)
    every = {
        (frame, image["path"])
        for row in load_stories(out, length=3, frame="all")
        for frame, images in zip(row["frame_ids"], row["images"], strict=True)
        for image in images
    }
    assert drawn == every
    two = [load_stories(out, length=3, frame="random-per-epoch", shuffle=True, rank=r, world_size=2) for r in (0, 1)]
    assert shown(two[0]) | shown(two[1]) == first


def test_decode_gives_the_pictures_themselves(out):
    def pixels(data):
        return np.asarray(Image.open(io.BytesIO(data["bytes"])))

    encoded, decoded = (next(iter(load_stories(out, length=2, decode=decode)))["images"] for decode in (False, True))
    for data, image in zip(encoded, decoded, strict=True):
        assert (np.asarray(image) == pixels(data)).all()
    every = next(iter(load_stories(out, length=2, frame="all", decode=True)))["images"]
    assert [len(images) for images in every] == [5, 5]
    assert (np.asarray(every[1][2]) == pixels(encoded[1])).all()


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_only_the_drawn_pictures_are_decoded(out, monkeypatch, cache_mb):
    rows = list(load_stories(out, length=4, frame="random", shuffle=True))
    expected = StoryTensorCollator(image_size=32)(rows)["pixel_values"]
    decoded = []
    rgb = decoders.rgb
    monkeypatch.setattr(decoders, "rgb", lambda value: decoded.append(value["path"]) or rgb(value))
    decoders.shared_cache.cache_clear()
    collate = StoryTensorCollator(image_size=32, cache_mb=cache_mb)
    batches = [collate([row])["pixel_values"] for row in rows]
    assert torch.equal(torch.cat(batches), expected)
    drawn = [image["path"] for row in rows for image in row["images"]]
    assert len(set(drawn)) < len(drawn)  # windows overlap
    assert sorted(decoded) == sorted(set(drawn) if cache_mb else drawn)


def test_a_cache_of_one_geometry_serves_no_other(out, monkeypatch):
    """Pixels are kept as a collator wants them; collators of a process share the cache."""
    rows = list(load_stories(out, length=4, shuffle=True))
    decoded = []
    rgb = decoders.rgb
    monkeypatch.setattr(decoders, "rgb", lambda value: decoded.append(value["path"]) or rgb(value))
    decoders.shared_cache.cache_clear()
    frames = len({image["path"] for row in rows for image in row["images"]})
    for options in ({"image_size": 32}, {"image_size": 24}, {"image_size": 24, "resize": "random_crop"}):
        decoded.clear()
        found = StoryTensorCollator(cache_mb=64, **options)(rows)["pixel_values"]
        assert len(decoded) == frames
        assert torch.equal(found, StoryTensorCollator(**options)(rows)["pixel_values"])


# -- texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("captions", "policy"), [("referential", "grammatical"), ("algorithm1", "algorithm1")])
@pytest.mark.parametrize("length", [None, 3])
def test_referential_texts_are_those_of_the_window(out, captions, policy, length):
    changed = 0
    for row in load_stories(out, length=length, captions=captions):
        expected = rewrite(row["captions"], row["characters"], FlintstonesSV.INFO.characters, policy)
        assert row["texts"] == row["referential_captions"] == [entry.text for entry in expected]
        assert row["mentions"] == [[mention.as_row() for mention in entry.mentions] for entry in expected]
        assert row["texts"][0] == row["captions"][0]  # the first frame of every window keeps its names
        changed += row["texts"] != row["captions"]
    assert changed


def test_texts_of_windows_cut_inside_stories_are_rewritten_too(tmp_path):
    Cast.fake(RawWriter(tmp_path / "raw"))
    build(Cast, tmp_path / "raw", tmp_path / "out")
    texts = [row["texts"] for row in load_stories(tmp_path / "out", length=2, captions="referential")]
    assert texts == [["Fred sits.", "He runs."], ["Fred runs.", "He sleeps."]]


class Cast(StoryBuilder):
    """One story of three frames, without a `frames` table."""

    INFO = replace(_template.INFO, characters=FlintstonesSV.INFO.characters)
    fake = staticmethod(_template.fake)

    @staticmethod
    def units(raw, split):
        return [unit for unit in _template.units(raw, split) if unit.unit_id == "boat"]

    @staticmethod
    def sequences(raw, unit):
        (sequence,) = _template.sequences(raw, unit)
        says = dict(zip(sequence.frame_ids, ("Fred sits.", "Fred runs.", "Fred sleeps."), strict=True))

        def read(frame_id):
            return replace(sequence.read(frame_id), caption=says[frame_id], characters=("fred",))

        yield replace(sequence, read=read)


# -- orders ------------------------------------------------------------------------------------------------


def in_epoch(epoch, out, **options):
    stream = load_stories(out, length=2, **options)
    stream.set_epoch(epoch)
    return ids(stream)


def test_a_shuffle_is_a_permutation_that_the_seed_repeats_and_the_epoch_changes(out):
    plain = ids(load_stories(out, length=2))
    shuffled = [in_epoch(epoch, out, shuffle=True, seed=seed) for seed in (0, 7) for epoch in (0, 1, 2)]
    for order in shuffled:
        assert sorted(order) == sorted(plain)
    assert len({tuple(order) for order in [plain, *shuffled]}) == 7
    assert in_epoch(1, out, shuffle=True, seed=7) == shuffled[4]


def test_without_shuffle_the_order_is_the_same_in_every_epoch(out):
    assert in_epoch(0, out) == in_epoch(5, out) == in_epoch(5, out, seed=3)
    stories = ids(stored(out, "stories"))
    for epoch in (0, 5):
        stream = load_stories(out)
        stream.set_epoch(epoch)
        assert ids(stream) == stories


def test_the_order_does_not_depend_on_what_is_read_of_it(out):
    whole = in_epoch(2, out, shuffle=True)
    for frame in ("random", "all", 1):
        assert in_epoch(2, out, shuffle=True, frame=frame) == whole


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores are meant
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 1), (2, 3), (4, 2)])
def test_shares_of_ranks_and_workers_are_disjoint_and_together_complete(out, ranks, workers, shuffle):
    expected = in_epoch(3, out, shuffle=shuffle, seed=4)
    shares = []
    for rank in range(ranks):
        stream = load_stories(out, length=2, shuffle=shuffle, seed=4, rank=rank, world_size=ranks)
        stream.set_epoch(3)
        loader = torch.utils.data.DataLoader(stream, batch_size=3, num_workers=workers, collate_fn=list)
        shares.append([story_id for batch in loader for story_id in ids(batch)])
    assert sorted(story_id for share in shares for story_id in share) == sorted(expected)
    assert max(map(len, shares)) - min(map(len, shares)) <= max(1, workers)
    if workers < 2:  # several workers take turns, so that only their own order can be told from outside
        assert [story_id for share in shares for story_id in share] == expected


def test_more_ranks_than_stories_leave_some_without_any(out):
    expected = ids(load_stories(out, "validation"))
    shares = [ids(load_stories(out, "validation", rank=rank, world_size=50)) for rank in range(50)]
    assert [story_id for share in shares for story_id in share] == expected


def test_ranks_are_those_of_torch_distributed(out, monkeypatch):
    for name, value in (("is_available", True), ("is_initialized", True), ("get_rank", 1), ("get_world_size", 3)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert ids(load_stories(out)) == ids(load_stories(out, rank=1, world_size=3))
    assert ids(load_stories(out, rank=2, world_size=3)) != ids(load_stories(out))


def test_a_stream_is_a_torch_dataset_and_survives_pickling_with_its_epoch(out):
    stream = load_stories(out, length=3, frame="random", shuffle=True, seed=5)
    stream.set_epoch(2)
    expected = list(stream)
    for twin in (pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)):
        assert isinstance(twin, torch.utils.data.IterableDataset)
        assert twin.epoch == 2
        assert list(twin) == expected


def test_a_spawned_worker_gives_the_same_rows(out):
    stream = load_stories(out, length=3, frame="random", shuffle=True)
    stream.set_epoch(1)
    spawned = torch.utils.data.DataLoader(
        stream, batch_size=None, num_workers=1, collate_fn=dict, multiprocessing_context="spawn"
    )
    assert list(spawned) == list(stream)


def test_rows_do_not_share_what_a_consumer_may_change(out):
    expected = list(load_stories(out, length=2))
    found = []
    for row in load_stories(out, length=2):
        found.append(copy.deepcopy(row))
        for value in row.values():
            if isinstance(value, list):
                value.clear()
    assert found == expected


# -- places and errors -------------------------------------------------------------------------------------


def test_a_url_gives_the_rows_of_the_folder(out):
    memory = fsspec.filesystem("memory")
    for path in out.rglob("*"):
        if path.is_file():
            memory.pipe(f"/built/{path.relative_to(out).as_posix()}", path.read_bytes())
    try:
        for options in ({}, {"length": 3, "shuffle": True, "frame": "random", "captions": "referential"}):
            assert list(load_stories("memory://built", **options)) == list(load_stories(out, **options))
        assert read_stories("memory://built") == read_stories(out)
    finally:
        memory.rm("/built", recursive=True)


def test_torch_is_neither_needed_nor_imported(out):
    code = """
import pickle, sys
from openstory_hf import load_stories
stream = load_stories(sys.argv[1], length=3, frame="random", shuffle=True)
rows = list(stream)
assert list(pickle.loads(pickle.dumps(stream))) == rows
print(len(rows), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(windows(out, 3))), "False"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "dev"}, "no split 'dev'; it has train, validation"),
        ({"length": 12}, "no sequence of split train has 12 frames; the longest has 8"),
        ({"length": 0}, "must be at least 1"),
        ({"length": 5, "stride": 0}, "must be at least 1"),
        ({"frame": "first"}, "frame='first' is not"),
        ({"frame": -1}, "frame=-1 is not"),
        ({"frame": True}, "frame=True is not"),
        ({"shuffle": "yes"}, "shuffle='yes' is not False, True"),
        ({"shuffle": 0}, "shuffle=0 is not False, True"),
        ({"seed": -1}, "seed=-1 is not a number"),
        ({"captions": "x"}, "captions='x' is not one of original, referential, random, algorithm1"),
        ({"rank": 1}, "rank=1 and world_size=None"),
        ({"world_size": 2}, "rank=None and world_size=2"),
        ({"rank": 2, "world_size": 2}, "0 <= rank < world_size"),
    ],
)
def test_a_wrong_request_is_refused_at_once(out, options, words):
    with pytest.raises(UsageError) as caught:
        load_stories(out, **options)
    assert words in str(caught.value)


def test_a_picture_number_that_no_frame_has_is_refused(out, books):
    with pytest.raises(UsageError, match=r"frame=7, but s_01_e_01_shot_\d+_\d+ has 5 pictures, numbered from 0"):
        next(iter(load_stories(out, frame=7)))
    with pytest.raises(UsageError, match=r"frame=1, but frames of .* have one picture"):
        load_stories(books, frame=1)


def test_a_length_that_no_book_has_names_the_longest(books):
    with pytest.raises(UsageError, match="has 4 frames; the longest has 3"):
        load_stories(books, length=4)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "holds no manifest.json"),
        ("{", "is not JSON"),
        ("[]", "is not the manifest of"),
        ("{}", "is not the manifest of"),
        ('{"schema_version": "0", "openstory_hf": "0.0.1"}', "schema version 0, this package reads 3. Install"),
    ],
)
def test_a_folder_that_is_no_finished_build_is_refused_with_the_reason(tmp_path, manifest, words):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(OutputError) as caught:
        load_stories(tmp_path)
    assert words in str(caught.value)


def test_a_file_is_no_build_either(out):
    with pytest.raises(OutputError, match=r"README\.md holds no manifest\.json"):
        load_stories(out / "README.md")


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_shard_is_one_error_that_names_it(out, tmp_path, damage):
    shutil.copytree(out, tmp_path / "out")
    shard = sorted((tmp_path / "out/stories").glob("train-*"))[2]
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:1000] if damage == "cut" else b"")
    with pytest.raises(OpenStoryError, match=rf"{shard.name} cannot be read.*openstory check"):
        list(load_stories(tmp_path / "out"))


# -- a few rows to look at ---------------------------------------------------------------------------------


def test_read_stories_spreads_over_the_split_or_takes_the_named_ones(out):
    rows = stored(out, "stories")
    assert read_stories(out, number=3) == [rows[0], rows[round((len(rows) - 1) / 2)], rows[-1]]
    assert read_stories(out, number=1) == rows[:1]
    assert read_stories(out, number=1000) == rows
    assert read_stories(out, "validation", 1000) == stored(out, "stories", "validation")
    assert read_stories(out, story_ids=[rows[4]["story_id"], rows[1]["story_id"]]) == [rows[4], rows[1]]
    with pytest.raises(UsageError, match=f"has no story 'x'; the first is '{rows[0]['story_id']}'"):
        read_stories(out, story_ids=["x"])


@pytest.mark.parametrize("frame", ["middle", "all"])
def test_a_picture_that_was_not_shipped_stays_none_when_pictures_are_decoded(tmp_path, frame):
    raw = RawWriter(tmp_path / "raw")
    names = [f"ab_cd-ef_01_keyframe_0-0-{at}-0" for at in range(2)]
    raw.table("a.parquet", [{"__key__": name, "json": json.dumps({"caption": "a cat", "mask": []})} for name in names])
    build(OpenstoryPP, tmp_path / "raw", tmp_path / "out")
    (row,) = load_stories(str(tmp_path / "out"), frame=frame, decode=True)
    assert row["images"] == ([None, None] if frame == "middle" else [[None], [None]])

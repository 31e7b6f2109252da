"""Statistics recounted by brute force from the raw files, and the published counters on known texts."""

import io
import json
import re
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openstory_hf.builders.african_storybook import AfricanStorybook, write_book
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release
from PIL import Image, ImageFile

from openstory_hf import pictures, stats
from openstory_hf.build import build
from openstory_hf.check import check
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.hub import write_card
from openstory_hf.sources import MappedPictures
from openstory_hf.stats import Distribution, collect, plot, released_flintstones, released_pororo, render_text

CAPTIONS = Path(__file__).parents[2] / "shared/data/flintstones_sv_captions/Val_Data_FlintstonesSV.json"
EPISODES = {"train": {"s_01_e_01": 9, "s_01_e_03": 6}, "val": {"s_01_e_02": 7}, "test": {"s_02_e_01": 8}}
SPLITS = {"train": "train", "val": "validation", "test": "test"}


@pytest.fixture(scope="module")
def flintstones(tmp_path_factory):
    """A whole release of variant C, built: (raw folder, built folder)."""
    root = tmp_path_factory.mktemp("flintstones")
    write_release(RawWriter(root / "raw"), EPISODES, variant="C")
    build(FlintstonesSV, root / "raw", root / "out")
    return root / "raw", root / "out"


@pytest.fixture(scope="module")
def storybook(tmp_path_factory):
    """The fake of African Storybook, broken books included: (raw folder, built folder)."""
    root = tmp_path_factory.mktemp("storybook")
    AfricanStorybook.fake(RawWriter(root / "raw"))
    build(AfricanStorybook, root / "raw", root / "out", on_error="quarantine")
    return root / "raw", root / "out"


def stories(out, split="*"):
    return [row for file in sorted(out.glob(f"stories/{split}-*")) for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("source", SPLITS)
def test_flintstones_counts_are_those_of_the_raw_files(flintstones, source):
    raw, out = flintstones
    found = collect(out).splits[SPLITS[source]]
    cleaned = json.loads((raw / "cleaned_annotations.json").read_text())
    places = {a["globalID"]: a["setting"] for a in json.loads((raw / "flintstones_annotations_v1-0.json").read_text())}
    starts = json.loads((raw / "split.json").read_text())[source]
    clips = [clip for clip in cleaned if clip[:9] in EPISODES[source]]
    assert (found.stories, found.frames, found.sequences) == (len(starts), len(clips), len(EPISODES[source]))
    assert found.pictures == sum(len(np.load(raw / f"video_frames_sampled_4x/{clip}.npy")) for clip in clips)
    assert found.published_stories == {"train": 20132, "val": 2071, "test": 2309}[source]
    assert found.difference == len(starts) - found.published_stories
    assert found.story_lengths.histogram == [0, 0, 0, 0, 0, len(starts)]
    words = [len(cleaned[clip]["caption"].split()) for clip in clips]
    assert (found.caption_words.mean, found.caption_words.median, found.caption_words.max) == pytest.approx(
        (statistics.mean(words), statistics.median(words), max(words))
    )
    assert dict(enumerate(found.caption_words.histogram)) == {n: words.count(n) for n in range(max(words) + 1)}
    masks = [len(np.unique(np.load(raw / f"seg_mask_4x_comb/{clip}-frame2.npy"))) - 1 for clip in clips]
    assert found.masks_per_frame.mean == pytest.approx(statistics.mean(masks))
    assert found.boxes_per_frame.mean == pytest.approx(statistics.mean(len(cleaned[c]["segments"]) for c in clips))
    assert found.frames_with_mask == pytest.approx(sum(n > 0 for n in masks) / len(clips))
    shown = Counter(segment["word"] for clip in clips for segment in cleaned[clip]["segments"])
    assert {name: count.frames for name, count in found.characters.items()} == shown
    assert found.settings == Counter(places[clip] for clip in clips)
    assert (found.resolution.most_common, found.resolution.smallest) == ([256, 256], [256, 256])
    assert (found.languages, found.rejects) == ({"en": len(starts)}, {})


def test_the_total_is_the_sum_of_the_splits(flintstones):
    found = collect(flintstones[1])
    for name in ("stories", "published_stories", "frames", "pictures", "sequences", "english_stories"):
        assert getattr(found.total, name) == sum(getattr(part, name) for part in found.splits.values())
    for rule, average in found.total.references.items():
        expected = sum(part.references[rule].after * part.stories for part in found.splits.values())
        assert average.after * found.total.stories == pytest.approx(expected)


def test_boxes_without_masks_are_told_apart(flintstones, tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_release(raw, {"train": {"s_01_e_01": 6}}, variant="C")
    for mask in raw.path.glob("seg_mask_4x_comb/*"):
        mask.unlink()
    build(FlintstonesSV, raw.path, tmp_path / "out")
    found = collect(tmp_path / "out").total
    assert (found.masks_per_frame.mean, found.frames_with_mask) == (0, 0)
    assert found.boxes_per_frame.mean == pytest.approx(10 / 6)  # the six captions of the fake name ten figures


def test_books_without_a_frames_table_are_counted_from_their_files(storybook):
    raw, out = storybook
    found = collect(out).total
    books = {}
    for name in ("en/0001_the-kite", "en/0002_the-market", "fr/0001_le-cerf-volant"):  # the others are broken
        books[name] = [page.strip() for page in (raw / f"asp-source/{name}.md").read_text().split("##\n")[1:-1]]
    words = [len(page.split()) for pages in books.values() for page in pages]
    assert (found.stories, found.sequences, found.frames, found.pictures) == (3, 3, len(words), len(words))
    assert Counter(dict(enumerate(found.story_lengths.histogram))) == Counter(map(len, books.values()))
    assert Counter(dict(enumerate(found.caption_words.histogram))) == Counter(words)
    assert found.empty_captions == words.count(0) == 1
    assert (found.languages, found.licenses) == ({"en": 2, "fr": 1}, {"CC BY": 2, "CC BY-NC": 1})
    assert (found.published_stories, found.difference) == (None, None)
    assert found.resolution.sampled == len(words)
    reasons = [json.loads(line)["reason"] for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert found.rejects == Counter(reasons)
    assert len(reasons) == 3
    assert found.english_stories == 2


def test_the_resolution_heeds_the_orientation_in_the_header(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    write_book(raw, "en/0001_kite", ["One.", "Two.", "Three."], pictures=4)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (300, 200)).save(buffer, "JPEG", exif=exif)
    raw.bytes("asp-imagebank/medium/0001/03.jpg", buffer.getvalue())
    build(AfricanStorybook, raw.path, tmp_path / "out")
    found = collect(tmp_path / "out").total.resolution
    assert (found.most_common, found.smallest, found.largest) == ([160, 160], [160, 160], [200, 300])


def test_no_picture_is_decoded_and_few_are_read(flintstones, storybook, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a picture was decoded")

    asked = []
    get = MappedPictures.get

    def spy(self, run, file, place):
        asked.append(run)
        return get(self, run, file, place)

    monkeypatch.setattr(pictures, "decode", refuse)
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    monkeypatch.setattr(MappedPictures, "get", spy)
    for _, out in (flintstones, storybook):
        asked.clear()
        assert collect(out).total.resolution.sampled
        splits = json.loads((out / "manifest.json").read_text())["splits"]
        assert 0 < len(set(asked)) <= stats.SAMPLED_ROWS * len(splits)


@pytest.mark.parametrize(
    ("with_the", "expected"), [((1,), 4), ((2,), 2), ((3,), 1), ((4,), 0), ((), 0), ((3, 4), 1), ((1, 2, 3, 4), 4)]
)
def test_the_released_counter_never_tests_the_last_caption(with_the, expected):
    captions = [f"Fred finds {'the' if number in with_the else 'a'} car." for number in (1, 2, 3, 4)]
    assert released_flintstones(captions) == expected


@given(st.lists(st.sampled_from(["Fred", "The end", "She", "THEY", "other", "her", "Dino a"]), max_size=6))
def test_the_released_counter_is_the_loop_of_the_released_loader(texts):
    expected, seen = 0, ""
    for number, text in enumerate(texts):
        tested = (text if number == 0 else seen).lower()
        expected += "she" in tested or "he" in tested or "they" in tested
        seen += text + ";"
    assert released_flintstones(texts) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["A cat.", "A dog."], 0), (["A cat.", "The dog."], 1), (["He waves."], 1), (["A shed."], 2), (["She", "he"], 2)],
)
def test_the_released_pororo_counter_tests_the_whole_story_for_two_strings(texts, expected):
    assert released_pororo(texts) == expected


@pytest.mark.skipif(not CAPTIONS.exists(), reason="the public captions are not at ../shared/data")
def test_the_released_counter_gives_the_known_average_on_the_public_captions():
    episodes = defaultdict(list)
    for entry in sorted(json.loads(CAPTIONS.read_text("utf-8")), key=lambda entry: entry["image"]):
        episodes[entry["image"][:9]].append(entry["text"])
    windows = [texts[at : at + 4] for texts in episodes.values() for at in range(len(texts) - 3)]
    assert statistics.mean(map(released_flintstones, windows)) == pytest.approx(3.66, abs=0.005)


def test_references_before_and_after_are_recounted_from_the_stored_texts(flintstones):
    _, out = flintstones
    found = collect(out).total.references
    rows = stories(out)
    pronouns = {"he", "she", "they", "him", "her", "them", "his", "hers", "their", "theirs"}

    def per_story(count):
        return statistics.mean(count(row["captions"], row["referential_captions"]) for row in rows)

    def spoken(text):
        return [word for word in re.split(r"[^a-z]+", text.lower()) if word in pronouns]

    def names(texts):
        return len(re.findall(r"Fred|Barney|Wilma|Mr\. Slate", " ".join(texts)))

    assert found["pronouns"].before == 0  # the fake's captions have none
    assert found["pronouns"].after == pytest.approx(per_story(lambda _, new: len(spoken(" ".join(new)))))
    assert found["pronouns"].after > 0
    assert found["frames_with_pronoun"].after == pytest.approx(
        per_story(lambda _, new: sum(map(bool, map(spoken, new))))
    )
    assert found["names"].before == pytest.approx(per_story(lambda old, _: names(old)))
    assert found["names"].after == pytest.approx(per_story(lambda _, new: names(new)))
    changed = per_story(lambda old, new: sum(a != b for a, b in zip(old[:4], new[:4], strict=True)))
    plain, counted = found["released_flintstones_4"], found["released_flintstones_4_rewritten"]
    assert counted.before == plain.before
    assert counted.after == pytest.approx(plain.after + changed)
    assert plain.before == pytest.approx(per_story(lambda old, _: released_flintstones(old[:4])))


def test_mentions_and_replacements_are_counted_per_character(flintstones):
    _, out = flintstones
    found = collect(out).total.characters
    rows = stories(out)
    for name in ("Fred", "Barney", "Wilma"):
        before = sum(" ".join(row["captions"]).count(name) for row in rows)
        after = sum(" ".join(row["referential_captions"]).count(name) for row in rows)
        assert (found[name.lower()].mentions, found[name.lower()].replaced) == (before, before - after)
    assert sum(count.replaced for count in found.values()) > 0


@given(st.lists(st.integers(0, 30), min_size=1))
def test_distributions_agree_with_the_statistics_module(values):
    found = Distribution.of(Counter(values))
    assert (found.mean, found.median, found.max) == pytest.approx(
        (statistics.mean(values), statistics.median(values), max(values))
    )
    assert found.histogram == [values.count(value) for value in range(max(values) + 1)]


def test_an_empty_distribution_is_all_zero():
    assert Distribution.of(Counter()) == Distribution(mean=0, median=0, max=0, histogram=[])


def test_json_gives_back_what_was_collected(flintstones, storybook):
    for _, out in (flintstones, storybook):
        found = collect(out).as_dict()
        assert json.loads(json.dumps(found)) == found


def test_the_text_shows_the_counts_in_aligned_columns(flintstones):
    text = render_text(collect(flintstones[1]))
    table = text[text.index("Stories and frames") :].split("\n\n")[0].splitlines()
    assert table[0].split()[3:] == ["train", "validation", "test", "all"]
    assert table[2].split() == ["stories", "7", "3", "4", "14"]
    assert table[4].split() == ["difference", "-20,125", "-2,068", "-2,305", "-24,498"]
    assert len({len(line) for line in table}) == 1
    assert "3.58 → 4.61" in text
    assert re.search(r"^fred +\d+ +\d+ +\d+$", text, re.MULTILINE)


def test_the_text_of_a_dataset_without_cast_or_published_counts(storybook):
    text = render_text(collect(storybook[1]))
    assert re.search(r"^published stories +–$", text, re.MULTILINE)
    assert "Characters" not in text
    assert "3.58" not in text
    assert "does not decode" in text


def test_a_damaged_file_is_named(flintstones, tmp_path):
    write_release(RawWriter(tmp_path / "raw"), {"train": {"s_01_e_01": 5}}, variant="B")
    build(FlintstonesSV, tmp_path / "raw", tmp_path / "out")
    file = tmp_path / "out/index/frames-train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OutputError, match=file.name):
        collect(tmp_path / "out")
    with pytest.raises(OutputError, match="manifest"):
        collect(tmp_path / "raw")


def test_the_plot_is_a_picture_with_something_on_it(flintstones, storybook, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra openstory_hf[plots]")
    sizes = []
    for number, (_, out) in enumerate((flintstones, storybook)):
        plot(collect(out), tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            sizes.append(image.size)
            drawn = np.asarray(image.convert("L")) < 250
        assert 0.05 < drawn.mean() < 0.6
        assert drawn.any(axis=0).mean() > 0.5
        assert drawn.any(axis=1).mean() > 0.5
    assert sizes[0][0] > sizes[1][0]  # the books have no characters, masks or references to show
    with pytest.raises(UsageError, match="supported"):
        plot(collect(storybook[1]), tmp_path / "plot.xyz")


def test_without_matplotlib_the_error_says_what_to_install(storybook, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'openstory_hf\[plots\]'"):
        plot(collect(storybook[1]), tmp_path / "plot.png")


@pytest.mark.parametrize("line", ["{", '{"split": "bogus", "reason": "r", "stories": []}'])
def test_a_damaged_list_of_rejects_is_one_error_wherever_it_is_read(tmp_path, line):
    AfricanStorybook.fake(RawWriter(tmp_path / "raw"))
    build(AfricanStorybook, tmp_path / "raw", tmp_path / "out", on_error="quarantine")
    (tmp_path / "out/rejects.jsonl").write_text(line + "\n")
    for read in (collect, write_card):
        with pytest.raises(OutputError, match=r"rejects\.jsonl cannot be read"):
            read(tmp_path / "out")
    assert any(problem.startswith("rejects.jsonl: cannot be read") for problem in check(tmp_path / "out"))

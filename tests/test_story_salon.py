"""StorySalon: pages paired by name, natural order, ignore masks, test lists, videos."""

import io
import json
import re

import numpy as np
import pytest
from datasets import Image as ImageFeature
from datasets import List, load_dataset
from openstory_hf.builders.story_salon import StorySalon, write_book
from PIL import Image

from openstory_hf import masks
from openstory_hf.build import build
from openstory_hf.errors import SourceError
from openstory_hf.fakes import RawWriter


@pytest.fixture
def raw(tmp_path):
    raw = RawWriter(tmp_path / "raw")
    raw.text("PDF_test_set.txt", "")
    raw.text("video_test_set.txt", "")
    return raw


def built(raw, **options):
    """(manifest, story id -> row, frame id -> row, rejects) of both splits."""
    out = raw.path.parent / "out"
    manifest = build(StorySalon, raw.path, out, on_error="quarantine", options=options)
    tables = []
    for table, key in (("stories", "story_id"), ("frames", "frame_id")):
        splits = load_dataset(str(out), table, streaming=True)
        tables.append(
            {
                row[key].removeprefix("story_salon/"): {**row, "split": split}
                for split, rows in splits.items()
                for row in rows.cast_column("images", List(ImageFeature(decode=False)))
            }
        )
    return manifest, *tables, [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def ignored(row):
    """The ignore mask of a row of `frames`, None without one."""
    (instances,) = row["instances"]
    assert [item["label"] for item in instances] in ([], ["ignore"])
    return masks.decode(instances[0]["segmentation"]).astype(bool) if instances else None


def test_windows_of_four_follow_the_numbers_in_the_names(raw):
    write_book(raw, "Bloom/000105", ["10", "9", "11", "2", "1"])
    _, stories, frames, rejects = built(raw)
    assert {story: row["frame_ids"] for story, row in stories.items()} == {
        "Bloom/000105/1": [f"Bloom/000105/{page}" for page in (1, 2, 9, 10)],
        "Bloom/000105/2": [f"Bloom/000105/{page}" for page in (2, 9, 10, 11)],
    }
    assert [row["position"] for row in frames.values()] == [0, 1, 2, 3, 4]
    assert rejects == []


def test_a_folder_of_three_pages_has_frames_but_no_story(raw):
    write_book(raw, "Bloom/000105", ["1", "2", "3"])
    write_book(raw, "Bloom/000106", ["1", "2", "3", "4"])
    manifest, stories, frames, _ = built(raw)
    assert list(stories) == ["Bloom/000106/1"]
    assert len(frames) == 7
    assert manifest["splits"]["train"]["stories"] == {"seen": 1, "written": 1, "rejected": 0}


def test_a_missing_file_shifts_nothing(raw):
    """Every page keeps its own picture, caption and mask when one file of each kind is gone elsewhere."""
    write_book(raw, "Book/000001", [f"{page}" for page in range(1, 13)])
    for name in ("Image_inpainted/Book/000001/2.jpg", "Text/Caption/Book/000001/7.txt", "Mask/Book/000001/12.jpg"):
        (raw.path / name).unlink()
    manifest, stories, frames, rejects = built(raw)
    whole = [1, 3, 4, 5, 6, 8, 9, 10, 11]
    assert list(frames) == [f"Book/000001/{page}" for page in whole]
    for page, row in zip(whole, frames.values(), strict=True):
        assert row["images"][0]["bytes"] == (raw.path / f"Image_inpainted/Book/000001/{page}.jpg").read_bytes()
        assert row["caption"].encode() == (raw.path / f"Text/Caption/Book/000001/{page}.txt").read_bytes()
        grey = np.asarray(Image.open(raw.path / f"Mask/Book/000001/{page}.jpg").convert("L"))
        found = ignored(row)
        assert (found is None) == (grey.max() < 128)
        assert found is None or np.array_equal(found, grey >= 128)
    assert list(stories) == ["Book/000001/3", "Book/000001/8"]
    assert {line["record"]: re.match(r"the page has no (\w+),", line["reason"])[1] for line in rejects} == {
        "Book/000001/2": "picture",
        "Book/000001/7": "caption",
        "Book/000001/12": "mask",
    }
    assert manifest["splits"]["train"]["stories"] == {"seen": 9, "written": 2, "rejected": 7}


def test_captions_and_narratives_are_kept_as_they_are(raw):
    write_book(raw, "African/000001", ["1", "2", "3", "4"])
    raw.bytes("Text/Caption/African/000001/2.txt", " Une\r\nimage… \n".encode())
    raw.bytes("Text/Caption/African/000001/3.txt", b"")
    (raw.path / "Text/Narrative_Filtered/African/000001/4.txt").unlink()
    _, stories, frames, rejects = built(raw)
    assert stories["African/000001/1"]["captions"][1:3] == [" Une\r\nimage… \n", ""]
    assert json.loads(frames["African/000001/2"]["extras"]) == {
        "narrative_filtered": "On day 1 they climbed the hill."
    }
    assert frames["African/000001/4"]["extras"] == ""
    assert rejects == []


def test_any_suffix_of_picture_and_mask_is_paired_by_stem(raw):
    write_book(raw, "Digital/000001", ["1", "2", "3", "4"])
    (raw.path / "Image_inpainted/Digital/000001/1.jpg").unlink()
    (raw.path / "Mask/Digital/000001/1.jpg").unlink()
    pixels, white = np.full((20, 30, 3), 90), np.zeros((20, 30))
    white[3:7, 11:30] = 255
    raw.bytes("Image_inpainted/Digital/000001/1.PNG", png(pixels))
    raw.bytes("Mask/Digital/000001/1.png", png(white))
    raw.bytes("Image_inpainted/Digital/000001/.DS_Store", b"\0")
    raw.bytes("__MACOSX/Image_inpainted/Digital/000001/._1.jpg", b"\0")
    _, stories, frames, rejects = built(raw)
    assert list(stories) == ["Digital/000001/1"]
    assert frames["Digital/000001/1"]["images"][0] == {"bytes": png(pixels), "path": "1.PNG"}
    assert np.array_equal(ignored(frames["Digital/000001/1"]), white == 255)
    assert rejects == []


@pytest.mark.parametrize(("grey", "is_ignored"), [(0, False), (127, False), (128, True), (255, True)])
def test_white_begins_in_the_middle(raw, grey, is_ignored):
    write_book(raw, "Digital/000001", ["1", "2", "3", "4"])
    raw.bytes("Mask/Digital/000001/1.png", png(np.full((96, 160), grey)))
    (raw.path / "Mask/Digital/000001/1.jpg").unlink()
    found = ignored(built(raw)[2]["Digital/000001/1"])
    assert found.all() if is_ignored else found is None


def test_a_mask_of_another_size_is_stretched_to_its_picture(raw):
    write_book(raw, "Digital/000001", ["1", "2", "3", "4"])
    small = np.zeros((2, 4))
    small[0, 1] = small[1, 3] = 255
    raw.bytes("Mask/Digital/000001/1.png", png(small))
    (raw.path / "Mask/Digital/000001/1.jpg").unlink()
    expected = np.kron(small > 0, np.ones((48, 40), bool))  # pictures have 96 x 160 pixels
    assert np.array_equal(ignored(built(raw)[2]["Digital/000001/1"]), expected)


def test_a_source_without_masks_has_no_instances(raw):
    write_book(raw, "Bloom/000001", ["1", "2", "3", "4"])
    write_book(raw, "Book/000001", ["1", "2", "3", "4"])
    for file in (raw.path / "Mask/Bloom/000001").iterdir():
        file.unlink()
    _, stories, frames, rejects = built(raw)
    assert list(stories) == ["Bloom/000001/1", "Book/000001/1"]
    assert [ignored(frames[f"{source}/000001/2"]) is None for source in ("Bloom", "Book")] == [True, False]
    assert rejects == []


@pytest.mark.parametrize("data", [b"no picture", png(np.zeros((96, 160)))[:60], b""])
@pytest.mark.parametrize("folder", ["Image_inpainted", "Mask"])
def test_a_damaged_picture_or_mask_is_named(raw, folder, data):
    write_book(raw, "Book/000001", ["1", "2", "3", "4", "5"])
    raw.bytes(f"{folder}/Book/000001/1.jpg", data)
    _, stories, _, (reject,) = built(raw)
    assert list(stories) == ["Book/000001/2"]
    assert (reject["file"], reject["record"]) == (f"{folder}/Book/000001/1.jpg", "Book/000001/1")
    assert reject["stories"] == ["story_salon/Book/000001/1"]
    assert "0x" not in reject["reason"]  # a memory address would differ from build to build


def test_files_of_no_page_and_second_files_are_named(raw):
    write_book(raw, "Book/000001", ["1", "2", "3", "4"])
    other = (raw.path / "Image_inpainted/Book/000001/1.jpg").read_bytes()
    raw.bytes("Image_inpainted/Book/000001/2.png", other)
    raw.bytes("testset/Image_inpainted/Book/000001/3.jpg", other)
    raw.bytes("Mask/Book/000001/77.jpg", other)
    raw.text("Text/Narrative/Book/000001/78.txt", "Nobody saw this.")
    _, stories, frames, rejects = built(raw)
    assert list(stories) == ["Book/000001/1"]
    for page in (2, 3):
        assert (
            frames[f"Book/000001/{page}"]["images"][0]["bytes"]
            == (raw.path / f"Image_inpainted/Book/000001/{page}.jpg").read_bytes()
        )
    assert [(line["file"], line["reason"].partition(" of ")[0]) for line in rejects] == [
        ("Image_inpainted/Book/000001/2.png", "a second picture"),
        ("testset/Image_inpainted/Book/000001/3.jpg", "a second picture"),
        ("Mask/Book/000001/77.jpg", "mask"),
        ("Text/Narrative/Book/000001/78.txt", "narrative"),
    ]


def test_test_lists_split_whole_folders(raw):
    """A listed book is a test book in every source; the list of videos does not speak of books, nor the other way."""
    for book in ("African/000026", "Bloom/000026", "Bloom/000027", "Bloom/000028"):
        write_book(raw, book, ["1", "2", "3", "4"])
    for video in ("000026", "000027"):
        write_book(raw, f"Video/{video}", [f"{video}_keyframe_0-0-{at}-0" for at in range(4)])
    raw.text("PDF_test_set.txt", "000026\r\n000028")  # no newline at the end: the loader would look for 00002
    raw.text("video_test_set.txt", "000027\n")
    _, stories, frames, rejects = built(raw)
    splits = {row["sequence_id"]: row["split"] for row in stories.values()}
    assert {book for book, split in splits.items() if split == "test"} == {
        "African/000026",
        "Bloom/000026",
        "Bloom/000028",
        "Video/000027",
    }
    assert {book for book, split in splits.items() if split == "train"} == {"Bloom/000027", "Video/000026"}
    assert all(row["split"] == splits[row["sequence_id"]] for row in frames.values())
    assert rejects == []


def test_a_listed_folder_that_is_nowhere_is_named(raw):
    write_book(raw, "Bloom/000026", ["1", "2", "3", "4"])
    raw.text("PDF_test_set.txt", "000026\n000027\n000029\n")
    raw.text("video_test_set.txt", "000030\n")  # of no concern: the release has no video
    _, stories, _, rejects = built(raw)
    assert list(stories) == ["Bloom/000026/1"]
    assert [(line["file"], line["record"]) for line in rejects] == [
        ("PDF_test_set.txt", "000027"),
        ("PDF_test_set.txt", "000029"),
    ]


def test_the_list_of_books_is_of_no_concern_to_who_builds_videos(raw):
    write_book(raw, "Bloom/000026", ["1", "2", "3", "4"])
    write_book(raw, "Video/000030", [f"000030_keyframe_0-0-{at}-0" for at in range(4)])
    raw.text("PDF_test_set.txt", "000027\n")
    raw.text("video_test_set.txt", "000030\n")
    _, stories, _, rejects = built(raw, sources=["Video"])
    assert list(stories) == ["Video/000030/000030_keyframe_0-0-0-0"]
    assert rejects == []


def test_without_the_test_list_nothing_is_built(raw):
    write_book(raw, "Bloom/000026", ["1", "2", "3", "4"])
    (raw.path / "video_test_set.txt").unlink()  # not needed without videos
    build(StorySalon, raw.path, raw.path.parent / "books")
    (raw.path / "PDF_test_set.txt").unlink()
    with pytest.raises(SourceError, match=r"test folders is missing \(PDF_test_set\.txt"):
        build(StorySalon, raw.path, raw.path.parent / "out")


def test_captions_of_videos_without_frames_are_left_out(raw):
    """The release has captions of all videos and no frame of them."""
    write_book(raw, "Bloom/000026", ["1", "2", "3", "4"])
    raw.text("Text/Caption/Video/000000/000000_keyframe_0-0-1-0.txt", "A kite.")
    manifest, _, frames, rejects = built(raw)
    assert {row["sequence_id"] for row in frames.values()} == {"Bloom/000026"}
    assert rejects == []
    assert manifest["splits"]["train"]["units"] == 1
    with pytest.raises(SourceError, match="nothing of Video; the release has Bloom"):
        build(StorySalon, raw.path, raw.path.parent / "videos", options={"sources": ["Video"]})


def test_keyframes_are_ordered_and_timed_by_their_names(raw):
    times = {"0-0-9-40": 9.04, "0-0-10-5": 10.005, "0-1-2-700": 62.7, "1-0-0-999": 3600.999}
    write_book(raw, "Video/000007", [f"000007_keyframe_{time}" for time in sorted(times)])
    _, stories, frames, _ = built(raw)
    ((story, row),) = stories.items()
    assert story == "Video/000007/000007_keyframe_0-0-9-40"
    assert [name.rpartition("_")[2] for name in row["frame_ids"]] == list(times)
    assert row["timestamps"] == list(times.values())
    assert row["license"] == ""
    last = ignored(frames["Video/000007/000007_keyframe_1-0-0-999"])  # drawn last but one: sorted as text
    assert last is not None
    expected = np.zeros((96, 160), bool)
    expected[8:24, 16:96] = True
    assert np.array_equal(last, expected)


def test_the_keyframes_of_the_metadata_are_the_pages(raw):
    names = [f"000007_keyframe_0-0-{at}-0" for at in range(1, 11)]
    write_book(raw, "Video/000007", names)
    write_book(raw, "Video/000008", [name.replace("7_", "8_") for name in names[:4]])
    kept = [*names[:2], *names[3:], "000007_keyframe_0-1-0-0"]  # the third was filtered out, the last never made
    entry = {
        "video_id": [["000007"]],
        "video_name": [["Kites"]],
        "video_url": [["https://example.org/7"]],
        "video_duration": [[61.5]],
        "frame_list": [[f"{name}.jpg" for name in kept]],
    }
    raw.json("data/metadata.json", {"000007": entry})
    _, stories, frames, rejects = built(raw)
    of_7 = [row for row in stories.values() if row["sequence_id"] == "Video/000007"]
    expected = [[f"Video/000007/{name}" for name in kept[at : at + 4]] for at in range(6)]  # the seventh is lost
    assert [row["frame_ids"] for row in of_7] == expected
    extras = json.loads(of_7[0]["extras"])
    del extras["frames"]  # the narratives of the pages
    assert extras == {
        "video_id": "000007",
        "video_name": "Kites",
        "video_url": "https://example.org/7",
        "video_duration": 61.5,
    }
    assert [row["frame_ids"][0] for row in stories.values() if row not in of_7] == [
        "Video/000008/000008_keyframe_0-0-1-0"
    ]
    assert f"Video/000007/{names[2]}" not in frames
    assert [(line["record"].rpartition("/")[2], len(line["stories"])) for line in rejects] == [
        (names[2], 0),
        ("000007_keyframe_0-1-0-0", 1),
    ]


def test_sources_choose_what_is_built(raw):
    for book in ("African/000001", "Bloom/000001", "Book/000001"):
        write_book(raw, book, ["1", "2", "3", "4"])
    _, stories, _, _ = built(raw, sources=["Book", "African"])
    assert {row["sequence_id"] for row in stories.values()} == {"African/000001", "Book/000001"}
    assert {row["license"] for row in stories.values()} == {"CC BY 4.0"}


def test_folders_above_and_their_case_do_not_matter(raw, tmp_path):
    write_book(raw, "Bloom/000001", ["1", "2", "3", "4"])
    _, stories, _, _ = built(raw)
    nested = RawWriter(tmp_path / "nested")
    for file in raw.path.rglob("*.*"):
        top, _, rest = file.relative_to(raw.path).as_posix().partition("/")
        name = f"{top.lower()}/{rest.replace('Caption', 'caption')}" if rest else top
        nested.bytes(f"download/{'a' if rest.endswith('txt') else 'b'}/{name}", file.read_bytes())
    build(StorySalon, nested.path, tmp_path / "nested-out")
    rows = load_dataset(str(tmp_path / "nested-out"), streaming=True)["train"]
    found = {row["story_id"]: row for row in rows.cast_column("images", List(ImageFeature(decode=False)))}
    for row in stories.values():
        other = found.pop(row["story_id"])
        assert {**other, "source": None, "split": None} == {**row, "source": None, "split": None}
    assert not found

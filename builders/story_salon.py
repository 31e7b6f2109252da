"""StorySalon (StoryGen): children's books and videos, with a generated description and an ignore mask per page.

Raw tree, at any depth; parts of it may lie side by side:

    PDF_test_set.txt, video_test_set.txt                one folder id per line
    Image_inpainted/{source}/{folder}/{page}.jpg        source: African, Bloom, Book, Digital, Literacy, StoryWeaver
    Mask/{source}/{folder}/{page}.jpg                   white: people and text that were painted over
    Text/Caption/{source}/{folder}/{page}.txt           source: the same six, and Video
    Text/{other}/{source}/{folder}/{page}.txt           e.g. Narrative_Filtered, kept in `extras`
    StorySalon/image_inpainted_finally_checked/{video}/{video}_keyframe_{H-M-S-ms}.jpg   not published
    StorySalon/mask/{video}/{video}_mask_{H-M-S-ms}.jpg
    metadata.json                                       video -> its name, URL, duration and keyframes

Defects of the source, and what is done about each:

* The loader pairs pictures, masks and captions by position, so a missing file shifts all that follow. Here they are
  paired by name. A page is what has a picture or a caption; if either is missing, or its mask (though its source has
  masks), it is a reject, with the stories through it. So are files of no page and second files of the same page.
* The loader orders the pages of books as text (10 before 9); here digits count as numbers, as it does for videos.
* The loader cuts the last character off each line of a test list, and so the last id if no newline follows it.
* A listed test folder that is nowhere is a reject; one that is in several sources is a test book in all of them.
* Videos have captions, but no published frames: without a frame of any of them they are left out. Where metadata.json
  (each value in two lists) knows a video, the keyframes it keeps are the pages, and other pictures are rejects.
* Masks are JPEGs of the video's size, inpainted frames always 854x480: stretched to their picture, as the loader does,
  they become an instance "ignore" where they are 128 or more. All black makes none.
* Folders of three pages or fewer make no story; their pages are in `frames` only.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.forms.keyframes import seconds
from openstory_hf.info import Info, Option, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Instance, Picture, Reject, Sequence, Unit, Window

INFO = Info(
    title="StorySalon",
    summary="Pages of children's books and keyframes of story videos, with a generated description of each.",
    license="other",
    license_name="cc-by-4.0-books-third-party-videos",
    rights="The books are released under CC BY 4.0; some of their libraries also hold items under narrower licences. "
    "Frames of the videos belong to those who made them: build them for your own research, do not publish them.",
    third_party=True,
    languages=("en",),
    homepage="https://github.com/haoningwu3639/StoryGen",
    citation="""@inproceedings{liu2024intelligent,
  title={Intelligent Grimm -- Open-ended Visual Storytelling via Latent Diffusion Models},
  author={Liu, Chang and Wu, Haoning and Zhong, Yujie and Zhang, Xiaoyun and Wang, Yanfeng and Xie, Weidi},
  booktitle={CVPR}, year={2024}}""",
    splits={"train": Split(), "test": Split()},
    sequence="the pages of a book, or the kept keyframes of a video, in order",
    story="4 consecutive pages, one story for every page with three successors",
    frames_table=True,
    obtain="Unpack StorySalon.zip (and testset.zip, if its folders are not in there) from "
    "huggingface.co/datasets/haoningwu/StorySalon into one folder, add PDF_test_set.txt, video_test_set.txt and "
    "metadata.json from data/ of github.com/haoningwu3639/StoryGen, and give the folder as --raw. Frames of videos "
    "are not published: make them with data_process/ of that repository, or build the books alone.",
    tree="PDF_test_set.txt (451 ids), Image_inpainted/{source}/{folder}/{page}.jpg,\n"
    "Text/Caption/{source}/{folder}/{page}.txt\n"
    "optional: Mask/{source}/{folder}/{page}.jpg, Text/{other}/{source}/{folder}/{page}.txt\n"
    "videos:   StorySalon/image_inpainted_finally_checked/{video}/{page}.jpg, StorySalon/mask/{video}/{page}.jpg,\n"
    "          video_test_set.txt (64 ids), metadata.json (optional)\n"
    "No listing is published. Read are any picture suffix, any case of the folders' names, any folders above them.",
    not_needed=("Image", "StorySalon/image", "subtitles ({video}.txt)"),
    options={"sources": Option(help="what to build, e.g. --sources African Bloom; Video for the videos")},
    tags=("picture-books", "children"),
)

LENGTH = 4
VIDEO = "Video"
LISTS = {False: "PDF_test_set.txt", True: "video_test_set.txt"}  # by whether the source is the videos
PLACE = r"(?:(?P<source>[^/]+)/)?(?P<folder>[^/]+)/[^/.][^/]*"  # only videos lie in no folder of a source
SUFFIX = r"\.(?:bmp|gif|jpe?g|png|tiff?|webp)"
PIXELS = re.compile(rf"(?:.*/)?(?P<kind>image_inpainted|mask)(?:_finally_checked)?/{PLACE}{SUFFIX}", re.IGNORECASE)
TEXT = re.compile(rf"(?:.*/)?text/(?P<kind>[^/]+)/{PLACE}\.txt", re.IGNORECASE)


class Release:
    """The files of every (source, folder) by kind, the test lists, and what is known of the videos."""

    def __init__(self, raw: Raw) -> None:
        books: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name in raw.names():
            if match := PIXELS.fullmatch(name) or TEXT.fullmatch(name):
                kind = match["kind"].lower().replace("image_inpainted", "picture")
                books[match["source"] or VIDEO, match["folder"]][kind].append(name)
        pictured = {source for (source, _), kinds in books.items() if "picture" in kinds}
        if not pictured:
            raise Reject("there are no pictures in Image_inpainted/{source}/{folder}/", file=str(raw.path))
        self.masked = {source for (source, _), kinds in books.items() if "mask" in kinds}
        self.books = {key: kinds for key, kinds in sorted(books.items()) if key[0] in pictured or key[0] != VIDEO}
        self.sources = sorted({source for source, _ in self.books})
        self.tests: dict[bool, set[str]] = {}
        for videos in {source == VIDEO for source in self.sources}:
            if not (holder := raw.locate(LISTS[videos])):
                raise Reject("the list of test folders is missing", file=LISTS[videos])
            self.tests[videos] = set(holder.text(LISTS[videos]).split())
        metadata = raw.locate("metadata.json")
        self.videos = metadata.json("metadata.json") if metadata else {}


def units(raw: Raw, split: str, sources: tuple[str, ...] = ()) -> list[Unit]:
    """A book or a video is a unit; so is a test list that names folders which are nowhere."""
    release = raw.once(Release)
    if unknown := sorted(set(sources) - set(release.sources)):
        raise Reject(f"nothing of {', '.join(unknown)}; the release has {', '.join(release.sources)}")
    chosen = set(sources or release.sources)
    found = []
    for (source, folder), kinds in release.books.items():
        if source in chosen and (folder in release.tests[source == VIDEO]) == (split == "test"):
            sizes = [raw.size(name) for name in kinds.get("picture", ())]
            found.append(Unit(unit_id=f"{source}/{folder}", split=split, records=len(sizes), size=sum(sizes)))
    for videos in sorted({source == VIDEO for source in chosen}) if split == "test" else ():
        there = {folder for source, folder in release.books if (source == VIDEO) == videos}
        if absent := sorted(release.tests[videos] - there):
            found.append(Unit(unit_id=LISTS[videos], split=split, records=len(absent), data={"absent": absent}))
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence | Reject]:
    """The one sequence of a book or video, with a window for every page that has three successors."""
    if absent := unit.data.get("absent"):
        for folder in absent:  # a release may have some of the sources only
            yield Reject("no source has this test folder", record=folder, file=unit.unit_id, known=True)
        return
    release, (source, folder) = raw.once(Release), unit.unit_id.split("/")
    files: dict[str, dict[str, str]] = defaultdict(dict)  # page -> kind -> file
    rejects = []
    for kind, names in release.books[source, folder].items():
        for name in names:
            page = PurePosixPath(name).stem.replace("_mask_", "_keyframe_")
            if (first := files[page].setdefault(kind, name)) != name:
                reason = f"a second {kind} of the page; {first} is used"
                rejects.append(Reject(reason, record=f"{unit.unit_id}/{page}", file=name))
    facts = release.videos.get(folder, {}) if source == VIDEO else {}
    kept = {PurePosixPath(name).stem for name in facts.get("frame_list", [[]])[0]}
    pages = kept or {page for page, kinds in files.items() if kinds.keys() & {"picture", "caption"}}
    for page in sorted(files.keys() - pages, key=natural):
        reason = f"{' and '.join(sorted(files[page]))} of no page" + " that metadata.json keeps" * bool(kept)
        rejects.append(Reject(reason, record=f"{unit.unit_id}/{page}", file=min(files[page].values())))
    frame_ids = tuple(f"{unit.unit_id}/{page}" for page in sorted(pages, key=natural))
    starts = range(len(frame_ids) - LENGTH + 1)
    yield Sequence(
        sequence_id=unit.unit_id,
        frame_ids=frame_ids,
        read=partial(read_page, raw, files, ["picture", "caption"] + ["mask"] * (source in release.masked)),
        windows=tuple(Window(story_id=frame_ids[start], start=start, stop=start + LENGTH) for start in starts),
        rejects=tuple(rejects),
        file=min(min(kinds.values()) for kinds in files.values()).rpartition("/")[0],
        language="en",
        license="" if source == VIDEO else "CC BY 4.0",
        extras={key: value[0][0] for key, value in facts.items() if key != "frame_list"},
    )


def natural(page: str) -> tuple[list[int | str], str]:
    """A sorting key that takes digits for numbers; text and numbers alternate in it, so any two names compare."""
    return [int(part) if at % 2 else part for at, part in enumerate(re.split("([0-9]+)", page))], page


def read_page(raw: Raw, files: dict[str, dict[str, str]], needed: list[str], frame_id: str) -> Frame:
    """One page: picture, caption, the region to ignore, and its other texts as extras."""
    there = dict(files.get(frame_id.rpartition("/")[2], {}))
    if missing := [kind for kind in needed if kind not in there]:
        rest = " and ".join(there.values()) or "nothing else either"
        raise Reject(f"the page has no {' and no '.join(missing)}, but {rest}", hint="Complete the raw release")
    file, mask, caption = there.pop("picture"), there.pop("mask", ""), raw.text(there.pop("caption"))
    data = raw.read(file)
    height, width = raw.picture_size(data, file)
    ignored = read_mask(raw, mask, size=(width, height)) if mask else ()
    return Frame(
        frame_id=frame_id,
        caption=caption,
        pictures=(Picture(path=PurePosixPath(file).name, data=data, instances=ignored),),
        timestamp=seconds(frame_id, video=".*"),
        file=file,
        extras={kind: raw.text(name) for kind, name in there.items()},
    )


def read_mask(raw: Raw, name: str, *, size: tuple[int, int]) -> tuple[Instance, ...]:
    """The white of a mask stretched to (width, height), as an instance of its picture; none if all is black."""
    mask = Image.fromarray(raw.pixels(name)).convert("L")
    ignored = np.asarray(mask.resize(size, Image.Resampling.NEAREST)) >= 128
    return (Instance(label="ignore", mask=ignored),) if ignored.any() else ()


def fake(raw: RawWriter) -> None:
    """A book per source and two videos; each kind of defect in one of them, a short book, a listed one that is not."""
    for number, source in enumerate(("African", "Bloom", "Book", "Digital", "Literacy", "StoryWeaver")):
        write_book(raw, f"{source}/{number:06d}", [f"{page}" for page in range(8, 13)])
    write_book(raw, "Bloom/000105", ["1", "2", "3"])
    for video in ("000000", "000002"):
        write_book(raw, f"Video/{video}", [f"{video}_keyframe_0-0-{at}-{40 * at}" for at in range(8, 14)])
    facts = {"video_id": "000000", "video_name": "Kites", "video_url": "https://example.org/0", "video_duration": 61.5}
    frames = [f"000000_keyframe_0-0-{at}-{40 * at}.jpg" for at in range(7, 13)]  # 7 is not there, 13 is not kept
    raw.json("metadata.json", {"000000": {key: [[value]] for key, value in facts.items()} | {"frame_list": [frames]}})
    raw.text("PDF_test_set.txt", "000000\n009999\n")
    raw.text("video_test_set.txt", "000002")
    picture, mask = ((raw.path / folder / "Bloom/000001/8.jpg").read_bytes() for folder in ("Image_inpainted", "Mask"))
    raw.bytes("Image_inpainted/Bloom/000105/2.png", picture)
    raw.bytes("Mask/Bloom/000001/99.jpg", mask)
    raw.bytes("Image_inpainted/Book/000002/8.jpg", picture[:400])
    raw.bytes("Image_inpainted/Book/000002/12.jpg", picture[:-200])
    raw.bytes("Mask/Digital/000003/8.jpg", mask[:-100])
    raw.bytes("Text/Caption/Literacy/000004/12.txt", b"Un \xe9l\xe9phant.")
    for name in ("Image_inpainted/Digital/000003/12", "Mask/Literacy/000004/8", "Text/Caption/StoryWeaver/000005/12"):
        next((raw.path / name).parent.glob(f"{name.rpartition('/')[2]}.*")).unlink()


def write_book(raw: RawWriter, book: str, pages: list[str]) -> None:
    """Write the pages of a book or video; every second one has a white rectangle in its mask."""
    source, folder = book.split("/")
    pictures, masks, scale = f"Image_inpainted/{book}", f"Mask/{book}", 1
    if source == VIDEO:
        pictures, masks, scale = f"StorySalon/image_inpainted_finally_checked/{folder}", f"StorySalon/mask/{folder}", 2
    for step, page in enumerate(pages):
        raw.jpeg(f"{pictures}/{page}.jpg", scene(("child", "kite"), size=160, step=step, place=book)[0][56:152])
        mask = np.zeros((96 * scale, 160 * scale, 3), np.uint8)
        mask[8 * scale : 24 * scale, 16 * scale : 96 * scale] = step % 2 * 255
        raw.jpeg(f"{masks}/{page.replace('_keyframe_', '_mask_')}.jpg", mask)
        raw.text(f"Text/Caption/{book}/{page}.txt", f"A child and a kite, {step} steps up the hill.\n")
        raw.text(f"Text/Narrative_Filtered/{book}/{page}.txt", f"On day {step} they climbed the hill.")


class StorySalon(StoryBuilder):
    """StorySalon as a Hugging Face builder: `StorySalon(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

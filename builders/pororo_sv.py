"""PororoSV: stories of five consecutive segments of Pororo the Little Penguin, with captions and characters.

Two releases are read, told apart by what is in the folder (or in the zip, whatever folders it nests them in):

    B, the StoryGAN / StoryDALL-E / AR-LDM package          C, the StoryGPT-V package
    train_seen_unseen_ids.npy   positions in img_cache4     split.json
    img_cache4.npy              starts of stories           cleaned_annotations.json
    following_cache4.npy        their followers, optional   video_frames_sampled_4x/{id}.npy     (n,512,512,3)
    descriptions.npy            or descriptions.csv         seg_mask_4x_comb/{id}-frame{k}.npy   optional as a whole
    labels.npy, densecap_annotations.json   (optional)      following_cache3.pkl, labels.pkl     (optional)
    {volume}/{episode}/{N}.png  strips of square pictures, one above another

Defects of the source, and what is done about each:

* Paths in the caches are bytes, or text with a leading slash; keys may end in ".png": all become volume/episode/N.
* Caches are in path order (1, 10, 11, 2): sequences are in numeric order, positions count in the cache as it is.
* Followers are the next four numbers; a story on which the cache says otherwise is a reject.
* The validation split is "seen": it shares episodes and frames with train, though no story. Each split holds the
  frames of its own stories, so an episode may fall into several runs. A story listed again is a reject there.
* A strip is cut as all loaders do; rows left below the last square picture are counted in `extras`.
* Python 2 wrote the captions as bytes; they are UTF-8 where they are valid UTF-8, else Latin-1.
* A segment has several captions: the first is stored, the others are in `extras`.
* C may list all segments of an episode or only starts: those without four successors only follow. Its boxes are
  x1, y1, x2, y2 at 128-pixel scale whatever the frame size; a missing mask file is a reject, not an empty mask.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from PIL import Image

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.info import Character, Info, Split
from openstory_hf.raw import NUMPY_GLOBALS, Raw
from openstory_hf.records import Frame, Instance, Picture, Reject, Sequence, Unit, Window, box_from_corners, check_text

INFO = Info(
    title="PororoSV",
    summary="Stories of five consecutive segments of Pororo the Little Penguin with captions for every segment.",
    license="other",
    license_name="research-annotations-third-party-frames",
    rights="The frames are copyrighted material of the owners of Pororo the Little Penguin. Build them for your own "
    "research; do not publish them without the owners' permission.",
    third_party=True,
    languages=("en",),
    homepage="https://github.com/adymaharana/storydalle",
    citation="""@inproceedings{li2019storygan,
  title={StoryGAN: A Sequential Conditional GAN for Story Visualization},
  author={Li, Yitong and Gan, Zhe and Shen, Yelong and Liu, Jingjing and Cheng, Yu and Wu, Yuexin and Carin, Lawrence
  and Carlson, David and Gao, Jianfeng}, booktitle={CVPR}, year={2019}}
@inproceedings{kim2017deepstory,
  title={DeepStory: Video Story QA by Deep Embedded Memory Networks},
  author={Kim, Kyung-Min and Heo, Min-Oh and Choi, Seong-Ho and Zhang, Byoung-Tak}, booktitle={IJCAI}, year={2017}}""",
    splits={
        "train": Split(stories=10191, source_name="train"),
        "validation": Split(stories=2334, source_name="val"),
        "test": Split(stories=2208, source_name="test"),
    },
    sequence="a run of an episode's segments without a gap, in numeric order",
    story="5 consecutive segments of an episode, one story for every start the split lists",
    frames_table=True,
    key_rule="the middle one of the pictures kept for a segment: index n // 2",
    characters=tuple(  # in the order of the label vectors
        Character(name=name, pronouns="she" if name in ("loopy", "petty") else "he")
        for name in ("pororo", "loopy", "crong", "eddy", "poby", "petty", "tongtong", "rody", "harry")
    ),
    obtain="Ask for the 'pororo' folder linked from the README of github.com/adymaharana/storydalle (variant B, "
    "strips of 128-pixel pictures) or of github.com/xiaoqian-shen/StoryGPT-V (variant C, 512-pixel frames with boxes "
    "and masks). Unpack it or leave it zipped, and give its path as --raw. Keep the img_cache4.npy that comes with "
    "variant B: the split counts in it, so another one gives other stories.",
    tree="B: train_seen_unseen_ids.npy, img_cache4.npy, descriptions.npy or descriptions.csv,\n"
    "   {volume}/{episode}/{N}.png, in the same folder or below it\n"
    "   optional: following_cache4.npy, labels.npy (without it no characters), densecap_annotations.json\n"
    "C: split.json, cleaned_annotations.json, video_frames_sampled_4x/{id}.npy\n"
    "   optional: seg_mask_4x_comb/{id}-frame{k}.npy, following_cache3.pkl, labels.pkl\n"
    "   assumed: an id ends in _ or / and the segment's number, and split.json lists starts or all segments",
    not_needed=(
        *("train_val_test_ids.npy", "train_test_ids.npy", "frames_counter.npy", "descriptions_vec*", "parses.json"),
        *("descriptions_attr.npy", "subtitles_vec.npy", "mart_vocab.pkl", "dalle_vocab.pkl", "path2idx.pkl"),
    ),
    tags=("pororo", "cartoon"),
)

LENGTH = 5
BOX_SCALE = 128
IDS, CACHE, FOLLOWING = "train_seen_unseen_ids.npy", "img_cache4.npy", "following_cache4.npy"
DENSE = "densecap_annotations.json"
SEGMENT = re.compile(r"(?P<stem>.*[^/_][/_])(?P<number>\d+)")
CAST = [character.name for character in INFO.characters]


class Release:
    """The index files of one release, whichever variant it is."""

    def __init__(self, raw: Raw) -> None:
        root = raw.locate(IDS, "split.json")
        if root is None:
            raise Reject(f"neither {IDS} (variant B) nor split.json (variant C) is in the release")
        self.raw = root
        self.detailed = not root.exists(IDS)  # variant C
        self.following: dict[str, list[str]] = {}
        listed = self.open_c() if self.detailed else self.open_b()
        self.units: dict[str, dict[str, dict]] = {split: {} for split in INFO.splits}
        split_of: dict[str, str] = {}
        pairs = [(split, start) for split, starts in zip(INFO.splits, listed, strict=True) for start in starts]
        for split, start in pairs:
            stem, _ = parts(start, self.split_file)
            unit = self.units[split].setdefault(stem[:-1], {"starts": [], "repeated": []})
            if start in split_of:
                unit["repeated"].append([start, split_of[start]])
            else:
                unit["starts"].append(start)
                split_of[start] = split

    def open_b(self) -> list[list[str]]:
        """Read the index files of variant B; return the starts of train, val and test."""
        raw = self.raw
        self.split_file, self.cache_file, self.suffix = IDS, FOLLOWING, ".png"
        starts = [segment(path) for path in raw.object_npy(CACHE)]
        if raw.exists(FOLLOWING):
            rows = raw.object_npy(FOLLOWING)
            if len(rows) != len(starts):
                raise Reject(f"{len(rows)} rows for the {len(starts)} starts of {CACHE}", file=FOLLOWING)
            self.following = {start: [segment(path) for path in row] for start, row in zip(starts, rows, strict=True)}
        self.text_file = "descriptions.npy" if raw.exists("descriptions.npy") else "descriptions.csv"
        self.texts = self.table(self.text_file) if self.text_file.endswith(".npy") else self.read_csv()
        self.label_file = "labels.npy"
        self.labels = self.table(self.label_file) if raw.exists(self.label_file) else {}
        self.dense = raw.records(DENSE) if raw.exists(DENSE) else {}
        known = {f"{start}.png" for start in starts}
        tails = ((name, "/".join(name.split("/")[-3:])) for name in raw.names(suffix=".png"))
        self.frames = next((name.removesuffix(tail) for name, tail in tails if tail in known), "")
        splits = raw.object_npy(IDS)
        if len(splits) != len(INFO.splits):
            raise Reject(f"{len(splits)} lists where train, val and test are expected", file=IDS)
        if alien := [at for positions in splits for at in positions if not 0 <= at < len(starts)]:
            hint = "Get both files from one release"
            raise Reject(f"position {alien[0]} is not among the {len(starts)} of {CACHE}", file=IDS, hint=hint)
        return [[starts[at] for at in positions] for positions in splits]

    def open_c(self) -> list[list[str]]:
        """Read the index files of variant C; return the starts of train, val and test."""
        raw = self.raw
        self.split_file, self.cache_file, self.suffix = "split.json", "following_cache3.pkl", ".npy"
        self.text_file, self.frames = "cleaned_annotations.json", "video_frames_sampled_4x/"
        self.texts = raw.records(self.text_file)
        self.masks = "seg_mask_4x_comb" if raw.names("seg_mask_4x_comb/") else ""
        if raw.exists(self.cache_file):
            self.following = raw.pickle(self.cache_file, NUMPY_GLOBALS)
        self.label_file = "labels.pkl"
        self.labels = raw.pickle(self.label_file, NUMPY_GLOBALS) if raw.exists(self.label_file) else {}
        splits = raw.json(self.split_file)
        listed = [splits.get(facts.source_name, []) for facts in INFO.splits.values()]
        last: dict[str, int] = defaultdict(int)
        for name in {*self.texts, *self.following}.union(*self.following.values(), *listed):
            if match := SEGMENT.fullmatch(name):
                last[match["stem"]] = max(last[match["stem"]], int(match["number"]))
        placed = [[(name, *parts(name, self.split_file)) for name in names] for names in listed]
        return [[name for name, stem, at in names if int(at) + LENGTH - 1 <= last[stem]] for names in placed]

    def table(self, name: str) -> dict[str, Any]:
        """The dictionary in an object array, by segment."""
        return {segment(key): value for key, value in self.raw.object_npy(name).items()}

    def read_csv(self) -> dict[str, list[str]]:
        """Captions by episode/number, which is unique because an episode's name starts with its volume's."""
        found: dict[str, list[str]] = defaultdict(list)
        text = as_text(self.raw.read(self.text_file))
        for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), 1):
            if len(row) != 3:
                raise Reject(f"row {number} has {len(row)} columns where 3 are expected", file=self.text_file)
            found[f"{row[0]}/{row[1]}"].append(row[2])
        return found


def segment(path: bytes | str) -> str:
    """`b"V_1/V_1_ep1/12.png"`, `"/V_1/V_1_ep1/12.png"` -> `V_1/V_1_ep1/12`."""
    return as_text(path).removeprefix("/").removesuffix(".png")


def as_text(value: Any) -> Any:
    """Bytes, or bytes of Python 2 that arrive as Latin-1 text, as the UTF-8 they are; other things as they are."""
    try:
        data = value.encode("latin1") if isinstance(value, str) else value
        return data.decode("utf-8") if isinstance(data, bytes) else value
    except UnicodeError:
        return value.decode("latin1") if isinstance(value, bytes) else value


def parts(name: str, file: str = "") -> tuple[str, str]:
    """`V_1/V_1_ep1/12` -> (`V_1/V_1_ep1/`, `12`)."""
    match = SEGMENT.fullmatch(name)
    if match is None:
        raise Reject("not a segment's id, which ends in / or _ and a number", record=name, file=file)
    return match["stem"], match["number"]


def story(start: str) -> dict[int, str]:
    """Number -> id of the five segments from a start on."""
    stem, digits = parts(start)
    return {number: f"{stem}{number:0{len(digits)}d}" for number in range(int(digits), int(digits) + LENGTH)}


def units(raw: Raw, split: str) -> list[Unit]:
    """The stories of an episode in a split are a unit."""
    release = raw.once(Release)
    found = []
    for episode, data in sorted(release.units[split].items()):
        names = {name for start in data["starts"] for name in story(start).values()}
        size = sum(release.raw.size(f"{release.frames}{name}{release.suffix}") for name in names)
        found.append(Unit(unit_id=episode, split=split, records=len(names), size=size, data=data))
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence | Reject]:
    """The runs of an episode's segments that the stories of a split cover."""
    release = raw.once(Release)
    for start, split in unit.data["repeated"]:
        reason = f"the story is listed again; it is in {split} already"
        yield Reject(reason, record=start, file=release.split_file, stories=(f"pororo_sv/{start}",))
    runs: list[tuple[dict[int, str], list[str]]] = []  # of segments by number, and of starts
    for start in sorted(unit.data["starts"], key=lambda name: int(parts(name)[1])):
        frames = story(start)
        followers = [*frames.values()][1:]
        cached = list(release.following.get(start, followers))
        if cached[: LENGTH - 1] != followers[: len(cached)]:
            reason = f"the cache says the story goes on with {cached}, the numbers say {followers}"
            yield Reject(reason, record=start, file=release.cache_file, stories=(f"pororo_sv/{start}",))
            continue
        if not runs or min(frames) > max(runs[-1][0]) + 1:
            runs.append(({}, []))
        runs[-1][0].update(frames)
        runs[-1][1].append(start)
    for run, starts in runs:
        first = min(run)
        offsets = [int(parts(start)[1]) - first for start in starts]
        yield Sequence(
            sequence_id=f"{unit.unit_id}/{first}-{max(run)}",
            frame_ids=tuple(run.values()),
            read=partial(read_segment, release),
            windows=tuple(
                Window(story_id=start, start=at, stop=at + LENGTH) for start, at in zip(starts, offsets, strict=True)
            ),
            file=release.split_file,
            language="en",
        )


def read_segment(release: Release, name: str) -> Frame:
    """One segment: captions, cast, every kept picture with its instances."""
    file = f"{release.frames}{name}{release.suffix}"
    entry = release.texts.get(name, release.texts.get(name.partition("/")[2]))  # the CSV leaves the volume out
    extras = dict(entry or {}) if release.detailed else {}
    captions = extras.pop("captions", None) if release.detailed else entry
    if captions is None or len(captions) == 0:
        raise Reject("the segment has no caption", record=name, file=release.text_file)
    captions = [captions] if isinstance(captions, str | bytes) else captions
    captions = captions if release.detailed else map(as_text, captions)
    captions = [check_text(text, name="caption", record=name, file=release.text_file) for text in captions]
    label = release.labels.get(name)
    if label is not None and np.shape(label) != (len(CAST),):
        raise Reject(
            f"a label of shape {np.shape(label)} where {len(CAST)} values are expected", file=release.label_file
        )
    segments = extras.get("segments", [])
    pixels, more = (release.raw.pictures_npy(file), {}) if release.detailed else cut(release, name, file)
    words = [item["word"].strip().lower() for item in segments]
    present = words if label is None else [who for who, there in zip(CAST, label, strict=True) if there > 0]
    extras["other_captions"] = captions[1:]
    extras["labels"] = None if label is None else np.asarray(label).tolist()
    return Frame(
        frame_id=name,
        caption=captions[0],
        pictures=tuple(
            Picture(
                path=f"{name.replace('/', '_')}-frame{k}.png",
                pixels=picture,
                instances=tuple(read_instances(release, name, segments, k, picture.shape[:2])),
            )
            for k, picture in enumerate(pixels)
        ),
        key=len(pixels) // 2,
        characters=tuple(dict.fromkeys(present)),
        file=file,
        extras=extras | more,
    )


def cut(release: Release, name: str, file: str) -> tuple[list, dict[str, Any]]:
    """The square pictures of a strip, and what goes to `extras`."""
    strip = release.raw.pixels(file)
    height, width, _ = strip.shape
    if height < width:
        raise Reject(f"a strip of {width}x{height} pixels, wider than tall: it holds no whole picture", file=file)
    count, left = divmod(height, width)
    dense = {k: release.dense[f"{name}.png_{k}"] for k in range(count) if f"{name}.png_{k}" in release.dense}
    extra = {key: value for key, value in (("densecap", dense), ("rows_left", left)) if value}
    return [strip[k * width : (k + 1) * width] for k in range(count)], extra


def read_instances(release: Release, name: str, segments: list, k: int, size: tuple[int, int]) -> Iterator[Instance]:
    """The instances of picture k: the boxes are shared by all pictures of the segment, the masks are not."""
    combined = release.raw.npy(f"{release.masks}/{name}-frame{k}.npy") if segments and release.masks else None
    for item in segments:
        word = item["word"].strip()
        yield Instance(
            label=word,
            character=word.lower() if word.lower() in CAST else "",
            bbox=box_from_corners(item["bbox"], scale=(size[1] / BOX_SCALE, size[0] / BOX_SCALE), size=size),
            mask=None if combined is None else combined == int(item["id"]),
        )


def fake(raw: RawWriter) -> None:
    """Variant B in small: two sound episodes, a story listed twice, and ten episodes broken in one way each."""
    sound, split = {"Pororo_ENGLISH1_1_ep1": 14, "Pororo_ENGLISH1_2_ep2": 6}, {}
    split["train"] = [("Pororo_ENGLISH1_1_ep1", number) for number in (1, 2, 4, 6, 9, 10)]
    split["val"] = [("Pororo_ENGLISH1_1_ep1", number) for number in (3, 7, 1)]  # 1 is in train already
    split["test"] = [("Pororo_ENGLISH1_2_ep2", number) for number in (1, 2)]
    broken = [f"Pororo_ENGLISH2_1_ep{number}" for number in range(10, 20)]
    split["train"] += [(episode, 1) for episode in broken]
    tables = write_release(raw, sound | dict.fromkeys(broken, LENGTH), split, variant="B")
    missing, torn, wide, silent, empty, mixed, foreign, short, flat, lone = (f"{volume_of(e)}/{e}/3" for e in broken)
    (raw.path / f"{missing}.png").unlink()
    torn_file = raw.path / f"{torn}.png"
    torn_file.write_bytes(torn_file.read_bytes()[:300])
    write_strip(raw, f"{wide}.png", np.zeros((32, 64, 3), np.uint8))
    raw.text(f"{flat}.png", "not a picture")
    texts, labels, following = tables["descriptions.npy"], tables["labels.npy"], tables[FOLLOWING]
    del texts[silent]
    texts[empty] = []
    texts[mixed] = [["a list"]]
    texts[lone] = ["\ud800"]
    labels[short] = labels[short][:7]
    following[foreign[:-1] + "1"][2] = foreign[:-1] + "9"
    write_tables(raw, tables)


SCRIPT = (
    ("forest", ("pororo", "crong"), ["Pororo and Crong are in the forest.", "Pororo talks to Crong."]),
    ("forest", ("pororo",), ["Pororo says that it’s snowing. "]),
    ("house", ("loopy", "petty"), ["Loopy gives Petty a cake.", "Loopy and Petty are in the house.", "A cake."]),
    ("house", ("loopy",), ["Loopy is in Loopy's house."]),
    ("lake", ("eddy", "poby", "harry"), ["Eddy, Poby and Harry are fishing."]),
)


def volume_of(episode: str) -> str:
    """`Pororo_ENGLISH1_1_ep12` -> `Pororo_ENGLISH1_1`."""
    return episode.rpartition("_ep")[0]


def write_release(
    raw: RawWriter, episodes: dict[str, int], split: dict[str, list[tuple[str, int]]], *, variant: str
) -> dict[str, Any]:
    """Write a synthetic release of episodes with so many segments; `split` lists the starts. Returns B's tables."""
    joint, size = ("/", 64) if variant == "B" else ("_", 192)
    texts, labels, cleaned, following = {}, {}, {}, {}
    for episode, count in episodes.items():
        names = [joint.join((volume_of(episode), episode, str(number))) for number in range(1, count + 1)]
        following |= {names[at]: names[at + 1 : at + LENGTH] for at in range(count - LENGTH + 1)}
        for at, (name, (place, cast, captions)) in enumerate(zip(names, cycle(SCRIPT))):
            drawn = [scene(cast, size=size, step=at + k, place=place) for k in range(2 + at % 3)]
            texts[name], labels[name] = list(captions), np.array([float(who in cast) for who in CAST])
            if variant == "B":
                write_strip(raw, f"{name}.png", np.concatenate([pixels for pixels, _, _ in drawn]))
                continue
            raw.npy(f"video_frames_sampled_4x/{name}.npy", np.stack([pixels for pixels, _, _ in drawn]))
            for k, (_, mask, _) in enumerate(drawn):
                raw.npy(f"seg_mask_4x_comb/{name}-frame{k}.npy", mask)
            boxes = [[value * BOX_SCALE / size for value in box] for box in drawn[0][2]]
            items = [
                {"id": i, "bbox": box, "word": who} for i, (who, box) in enumerate(zip(cast, boxes, strict=True), 1)
            ]
            cleaned[name] = {"captions": list(captions), "segments": items}
    starts = {key: [joint.join((volume_of(e), e, str(n))) for e, n in chosen] for key, chosen in split.items()}
    if variant == "C":
        raw.json("cleaned_annotations.json", cleaned)
        raw.json("split.json", starts)
        raw.pickle("following_cache3.pkl", {start: followers[:3] for start, followers in following.items()})
        raw.pickle("labels.pkl", {name: vector.tolist() for name, vector in labels.items()})
        return {}
    tables = {"descriptions.npy": texts, "labels.npy": labels, FOLLOWING: following, IDS: starts}
    write_tables(raw, tables)
    return tables


def write_tables(raw: RawWriter, tables: dict[str, Any]) -> None:
    """Write the index files of variant B; the caches are in path order, as the releases have them."""
    following, splits = tables[FOLLOWING], tables[IDS]
    order = sorted(following, key=lambda start: f"{start}.png")
    raw.npy(CACHE, np.array([f"{start}.png".encode() for start in order]))
    raw.npy(FOLLOWING, np.array([[f"{name}.png".encode() for name in following[start]] for start in order]))
    ids = np.empty(3, dtype=object)
    ids[:] = [[order.index(start) for start in splits[facts.source_name]] for facts in INFO.splits.values()]
    for name, array in (
        (IDS, ids),
        *((n, np.array(tables[n], dtype=object)) for n in ("descriptions.npy", "labels.npy")),
    ):
        buffer = io.BytesIO()
        np.save(buffer, array)
        raw.bytes(name, buffer.getvalue())


def write_strip(raw: RawWriter, name: str, pixels: np.ndarray) -> None:
    """Write pixels as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    raw.bytes(name, buffer.getvalue())


class PororoSV(StoryBuilder):
    """PororoSV as a Hugging Face builder: `PororoSV(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

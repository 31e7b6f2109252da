"""PororoSV: stories of five consecutive segments of Pororo the Little Penguin, with captions and characters.

Two releases are read, told apart by what is in the folder (or in the zip, whatever folders it nests them in):

    B   strips of pictures, from StoryGAN, StoryDALL-E or AR-LDM; files and quirks: `openstory_hf.forms.strips`
    C   stacks of pictures with boxes and masks, from StoryGPT-V; files and quirks: `openstory_hf.forms.stacks`

Defects of the source, and what is done about each (those of the forms are told there):

* Caches are in path order (1, 10, 11, 2): sequences are in numeric order, positions count in the cache as it is.
* Followers are the next four numbers; a story on which the cache says otherwise is a reject.
* The validation split is "seen": it shares episodes and frames with train, though no story. Each split holds the
  frames of its own stories, so an episode may fall into several runs. A story listed again is a reject there.
* Rows left below the last square picture of a strip are counted in `extras`.
* A segment has several captions: the first is stored, the others are in `extras`.
* C may list all segments of an episode or only starts: those without four successors only follow.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.forms.clips import Clips, open_package
from openstory_hf.forms.stacks import StoryGPTV
from openstory_hf.forms.strips import Strips, write_index
from openstory_hf.info import Character, Info, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Reject, Sequence, Unit, Window, check_text

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
SEGMENT = re.compile(r"(?P<stem>.*[^/_][/_])(?P<number>\d+)")
CAST = [character.name for character in INFO.characters]


class Release:
    """The package, whichever form it comes in, and the stories that every split has of an episode."""

    def __init__(self, raw: Raw) -> None:
        self.clips = open_package(raw, Strips, StoryGPTV)
        self.episodes: dict[str, dict[str, list]] = {split: defaultdict(list) for split in INFO.splits}
        split_of: dict[str, str] = {}
        for start, split in starts(self.clips):
            stem, _ = parts(start, self.clips.split_file)
            self.episodes[split][stem[:-1]].append([start, split_of.get(start)])
            split_of.setdefault(start, split)


def starts(clips: Clips) -> list[tuple[str, str]]:
    """The starts, each with the split that lists it; of C's segments those that have four successors."""
    listed = clips.listed_in(INFO.splits)
    if isinstance(clips, Strips):
        return listed
    last: dict[str, int] = defaultdict(int)
    for name in {*clips.texts, *clips.following}.union(*clips.following.values(), dict(listed)):
        if match := SEGMENT.fullmatch(name):
            last[match["stem"]] = max(last[match["stem"]], int(match["number"]))
    placed = [(name, split, *parts(name, clips.split_file)) for name, split in listed]
    return [(name, split) for name, split, stem, number in placed if int(number) + LENGTH - 1 <= last[stem]]


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
    release, found = raw.once(Release), []
    for episode, listed in sorted(release.episodes[split].items()):
        names = {name for start, other in listed if not other for name in story(start).values()}
        size = sum(release.clips.raw.size(release.clips.file(name)) for name in names)
        found.append(Unit(unit_id=episode, split=split, records=len(names), size=size, data={"starts": listed}))
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence | Reject]:
    """The runs of an episode's segments that the stories of a split cover."""
    clips, listed = raw.once(Release).clips, unit.data["starts"]
    for start, split in listed:
        if split:
            reason = f"the story is listed again; it is in {split} already"
            yield Reject(reason, record=start, file=clips.split_file, stories=(f"pororo_sv/{start}",))
    runs: list[tuple[dict[int, str], list[Window]]] = []  # number -> segment, and the stories
    for start in sorted((start for start, split in listed if not split), key=lambda name: int(parts(name)[1])):
        segments = story(start)
        number, *followers = segments
        if reason := clips.contradiction(start, [segments[at] for at in followers], "numbers"):
            yield Reject(reason, record=start, file=clips.cache_file, stories=(f"pororo_sv/{start}",))
            continue
        if not runs or number > max(runs[-1][0]) + 1:
            runs.append(({}, []))
        run, windows = runs[-1]
        run.update(segments)
        at = number - min(run)
        windows.append(Window(story_id=start, start=at, stop=at + LENGTH))
    for run, windows in runs:
        yield Sequence(
            sequence_id=f"{unit.unit_id}/{min(run)}-{max(run)}",
            frame_ids=tuple(run.values()),
            read=partial(read_segment, clips),
            windows=tuple(windows),
            file=clips.split_file,
            language="en",
        )


def read_segment(clips: Clips, name: str) -> Frame:
    """One segment: captions, cast, every kept picture with its instances."""
    extras = clips.annotation(name)
    captions = extras.pop("captions", None)
    if not captions:
        raise Reject("the segment has no caption", record=name, file=clips.text_file)
    captions = [captions] if isinstance(captions, str) else captions
    captions = [check_text(text, name="caption", record=name, file=clips.text_file) for text in captions]
    label = clips.label(name)
    if label is not None and np.shape(label) != (len(CAST),):
        reason = f"a label of shape {np.shape(label)} where {len(CAST)} values are expected"
        raise Reject(reason, file=clips.label_file)
    segments = extras.get("segments", [])
    pixels, more = clips.pixels(name)
    words = [item["word"].strip().lower() for item in segments]
    present = words if label is None else [who for who, there in zip(CAST, label, strict=True) if there > 0]
    return Frame(
        frame_id=name,
        caption=captions[0],
        pictures=clips.pictures(name, pixels, segments, CAST),
        key=len(pixels) // 2,
        characters=tuple(dict.fromkeys(present)),
        file=clips.file(name),
        extras={**extras, "other_captions": captions[1:], "labels": label, **more},
    )


def fake(raw: RawWriter) -> None:
    """Variant B in small: two sound episodes, a story listed twice, and ten episodes broken in one way each."""
    long, short = "Pororo_ENGLISH1_1_ep1", "Pororo_ENGLISH1_2_ep2"
    broken = [f"Pororo_ENGLISH2_1_ep{number}" for number in range(10, 20)]
    index = draw(raw, {long: 14, short: 6} | dict.fromkeys(broken, LENGTH))
    listed = {"train": [segment_id(long, number) for number in (1, 2, 4, 6, 9, 10)]}
    listed["train"] += [segment_id(episode, 1) for episode in broken]
    listed["val"] = [segment_id(long, number) for number in (3, 7, 1)]  # 1 is in train already
    listed["test"] = [segment_id(short, number) for number in (1, 2)]
    missing, torn, wide, silent, empty, mixed, foreign, cut, flat, lone = (segment_id(e, 3) for e in broken)
    (raw.path / f"{missing}.png").unlink()
    raw.cut(f"{torn}.png", 300)
    raw.png(f"{wide}.png", np.zeros((32, 64, 3), np.uint8))
    raw.text(f"{flat}.png", "not a picture")
    del index["texts"][silent]
    index["texts"] |= {empty: [], mixed: [["a list"]], lone: ["\ud800"]}
    index["labels"][cut] = index["labels"][cut][:7]
    index["following"][foreign[:-1] + "1"][2] = foreign[:-1] + "9"
    write_index(raw, listed, **index)


SCRIPT = (
    ("forest", ("pororo", "crong"), ["Pororo and Crong are in the forest.", "Pororo talks to Crong."]),
    ("forest", ("pororo",), ["Pororo says that it’s snowing. "]),
    ("house", ("loopy", "petty"), ["Loopy gives Petty a cake.", "Loopy and Petty are in the house.", "A cake."]),
    ("house", ("loopy",), ["Loopy is in Loopy's house."]),
    ("lake", ("eddy", "poby", "harry"), ["Eddy, Poby and Harry are fishing."]),
)


def segment_id(episode: str, number: int) -> str:
    """(`Pororo_ENGLISH1_1_ep1`, 12) -> `Pororo_ENGLISH1_1/Pororo_ENGLISH1_1_ep1/12`."""
    return f"{episode.rpartition('_ep')[0]}/{episode}/{number}"


def draw(raw: RawWriter, episodes: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Draw episodes of so many segments as strips; returns what else `write_index` needs, but for the starts."""
    index: dict[str, dict[str, Any]] = {"texts": {}, "labels": {}, "following": {}}
    for episode, count in episodes.items():
        names = [segment_id(episode, number) for number in range(1, count + 1)]
        index["following"] |= {names[at]: names[at + 1 : at + LENGTH] for at in range(count - LENGTH + 1)}
        for at, (name, (place, cast, captions)) in enumerate(zip(names, cycle(SCRIPT))):
            drawn = [scene(cast, size=64, step=at + k, place=place)[0] for k in range(2 + at % 3)]
            raw.png(f"{name}.png", np.concatenate(drawn))
            index["texts"][name] = list(captions)
            index["labels"][name] = np.array([float(who in cast) for who in CAST])
    return index


class PororoSV(StoryBuilder):
    """PororoSV as a Hugging Face builder: `PororoSV(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

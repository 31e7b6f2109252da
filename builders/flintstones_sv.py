"""FlintstonesSV: five-clip stories from The Flintstones, with characters, settings, boxes and instance masks.

Two releases are read, told apart by what is in the folder (or in the zip, whatever folders it nests them in):

    B, the StoryDALL-E / AR-LDM package            C, the StoryGPT-V package
    train-val-test_split.json                      split.json
    flintstones_annotations_v1-0.json              flintstones_annotations_v1-0.json (optional)
    video_frames_sampled/{id}.npy  (5,128,128,3)   cleaned_annotations.json
    following_cache4.pkl (optional)                video_frames_sampled_4x/{id}.npy  (5,512,512,3)
    labels.pkl (optional)                          seg_mask_4x_comb/{id}-frame{k}.npy  (512,512), optional as a whole
                                                   following_cache3.pkl, labels.pkl, labels_bg.pkl (optional)

Defects of the source, and what is done about each:

* A split file may list every clip or only the clips that start a story. The clips that only follow are recovered from
  the cache and the annotations, so both lists give the same stories.
* The cached windows are recomputed from the ids and compared; a story on which the two differ is a reject.
* Entity labels have stray blanks and mixed case: stripped and lower-cased.
* B has no boxes per frame: the rectangles of its three key frames (640 pixels wide, height unknown) stay in `extras`.
* C's boxes are x1, y1, x2, y2 at 128-pixel scale whatever the frame size; they become COCO boxes of the stored frame.
* The released C loader takes a missing mask file for an empty mask; here it is a reject.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import cycle

import numpy as np

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.forms.clips import open_package
from openstory_hf.forms.stacks import StoryDallE, StoryGPTV, segments_of, write_stack
from openstory_hf.info import Character, Info, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Reject, Sequence, Unit, Window

INFO = Info(
    title="FlintstonesSV",
    summary="Stories of five consecutive clips from The Flintstones with one caption per clip.",
    license="other",
    license_name="ai2-annotations-third-party-frames",
    rights="The frames are copyrighted material of the owners of The Flintstones. Build them for your own research; "
    "do not publish them without the owners' permission.",
    third_party=True,
    languages=("en",),
    homepage="https://github.com/adymaharana/storydalle",
    citation="""@inproceedings{gupta2018imagine,
  title={Imagine This! Scripts to Compositions to Videos},
  author={Gupta, Tanmay and Schwenk, Dustin and Farhadi, Ali and Hoiem, Derek and Kembhavi, Aniruddha},
  booktitle={ECCV}, year={2018}}
@inproceedings{maharana2021integrating,
  title={Integrating Visuospatial, Linguistic and Commonsense Structure into Story Visualization},
  author={Maharana, Adyasha and Bansal, Mohit}, booktitle={EMNLP}, year={2021}}""",
    splits={
        "train": Split(stories=20132, source_name="train"),
        "validation": Split(stories=2071, source_name="val"),
        "test": Split(stories=2309, source_name="test"),
    },
    sequence="an episode's annotated clips in id order",
    story="5 consecutive clips of an episode, one story for every clip with four successors",
    frames_table=True,
    key_rule="the middle one of the pictures kept for a clip: index n // 2",
    characters=(
        Character(name="wilma", pronouns="she"),
        Character(name="fred", pronouns="he"),
        Character(name="betty", pronouns="she"),
        Character(name="barney", pronouns="he"),
        Character(name="dino", pronouns="he"),
        Character(name="pebbles", pronouns="she"),
        Character(name="mr slate", pronouns="he", aliases=("mr. slate",)),
    ),
    obtain="Ask for the 'flintstones' folder linked from the README of github.com/adymaharana/storydalle (variant B, "
    "128-pixel frames, about 6 GB) or of github.com/xiaoqian-shen/StoryGPT-V (variant C, 512-pixel frames with boxes "
    "and masks, about 100 GB). Unpack it or leave it zipped, and give its path as --raw.",
    tree="B: train-val-test_split.json, flintstones_annotations_v1-0.json, video_frames_sampled/{id}.npy\n"
    "   optional: following_cache4.pkl, labels.pkl\n"
    "C: split.json, cleaned_annotations.json, video_frames_sampled_4x/{id}.npy\n"
    "   optional: seg_mask_4x_comb/{id}-frame{k}.npy, flintstones_annotations_v1-0.json, following_cache3.pkl,\n"
    "   labels.pkl, labels_bg.pkl",
    not_needed=("flintstones_use_embed*", "mart_vocab.pkl", "clip_emb_*.pkl"),
    tags=("flintstones", "cartoon"),
)

LENGTH = 5
ANNOTATIONS = "flintstones_annotations_v1-0.json"
CLIP = re.compile(r"s_\d\d_e_\d\d_shot_\d{6}_\d{6}")
CAST = {character.name for character in INFO.characters}


class Release:
    """The package, whichever variant it is, and the clips of its episodes."""

    def __init__(self, raw: Raw) -> None:
        self.clips = clips = open_package(raw, StoryDallE, StoryGPTV)
        self.detailed = isinstance(clips, StoryGPTV)  # variant C
        annotated = clips.raw.exists(ANNOTATIONS) or not self.detailed
        self.annotations = clips.raw.records(ANNOTATIONS, "globalID") if annotated else {}
        self.described = clips.texts if self.detailed else self.annotations
        self.backgrounds = clips.pickled("labels_bg.pkl").get("label", {})
        listed = clips.listed_in(INFO.splits)
        self.split_of = dict(listed)
        if len(self.split_of) != len(listed):
            raise Reject("a clip is listed twice, so a story would be in two splits", file=clips.split_file)
        self.episodes = self.list_episodes()

    def list_episodes(self) -> dict[str, list[str]]:
        """All clips of every episode that has a listed clip, in order.

        A list of starts lacks the last clips of every episode: they are the next annotated ones. Whether a list is
        one of starts shows in most episodes having annotated clips after the last listed one.
        """
        described, listed = defaultdict(set), defaultdict(set)
        for clip in {*self.annotations, *self.clips.texts}:
            described[episode_of(clip)].add(clip)
        for clip in self.split_of:
            if not CLIP.fullmatch(clip):
                reason = "not a clip id of the form s_SS_e_EE_shot_FFFFFF_LLLLLL"
                raise Reject(reason, record=clip, file=self.clips.split_file)
            listed[episode_of(clip)].add(clip)
        cached = set(self.clips.following).union(*self.clips.following.values())
        tails = {e: sorted(c for c in described[e] if c > max(clips))[: LENGTH - 1] for e, clips in listed.items()}
        self.starts_only = sum(map(bool, tails.values())) * 2 > len(tails)
        return {
            episode: sorted(clips | (described[episode] & cached) | set(tails[episode] if self.starts_only else ()))
            for episode, clips in sorted(listed.items())
        }


def episode_of(clip: str) -> str:
    """`s_02_e_07_shot_001234_001308` -> `s_02_e_07`."""
    return clip.rpartition("_shot_")[0]


def units(raw: Raw, split: str) -> list[Unit]:
    """An episode is a unit."""
    release = raw.once(Release)
    found = []
    for episode, clips in release.episodes.items():
        starts = [clip for clip in clips if release.split_of.get(clip) == split]
        size = len(clips) * release.clips.raw.size(release.clips.file(clips[0])) // 2  # PNG halves drawn frames
        data = {"clips": clips, "starts": starts}
        if starts:
            found.append(Unit(unit_id=episode, split=split, records=len(clips), size=size, data=data))
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence]:
    """The one sequence of an episode, with a window for every start that has four successors."""
    release = raw.once(Release)
    clips, starts = unit.data["clips"], set(unit.data["starts"])
    windows, rejects = [], []
    for at, clip in enumerate(clips):
        followers, cached = clips[at + 1 : at + LENGTH], release.clips.following.get(clip, ())
        if clip not in starts:
            continue
        if len(followers) == LENGTH - 1:
            reason = release.clips.contradiction(clip, followers, "ids")
        elif len(cached) > len(followers):
            reason = f"the cache says the story goes on with {list(cached)}, the release has only {followers}"
        elif cached or not release.starts_only:
            continue  # the last clips of an episode start no story
        else:
            reason = f"a start of a story, which goes on with {len(followers)} annotated clips instead of {LENGTH - 1}"
        if reason:
            file = release.clips.cache_file if cached else release.clips.split_file
            rejects.append(Reject(reason, record=clip, file=file, stories=(f"flintstones_sv/{clip}",)))
        else:
            windows.append(Window(story_id=clip, start=at, stop=at + LENGTH))
    yield Sequence(
        sequence_id=unit.unit_id,
        frame_ids=tuple(clips),
        read=partial(read_clip, release),
        windows=tuple(windows),
        rejects=tuple(rejects),
        file=release.clips.split_file,
        language="en",
    )


def read_clip(release: Release, clip: str) -> Frame:
    """One clip: caption, cast, setting, every kept picture with its instances."""
    clips, file = release.clips, release.clips.file(clip)
    pixels, _ = clips.pixels(clip)
    if clip not in release.described:
        raise Reject("the clip is not annotated", record=clip, file=file)
    annotation, cleaned = dict(release.annotations.get(clip, {})), clips.annotation(clip)
    description, setting = annotation.pop("description", None), annotation.pop("setting", "")
    caption = cleaned.pop("caption") if release.detailed else description
    segments = cleaned.get("segments", [])
    people = [c["entityLabel"] for c in annotation.get("characters", ())] or [s["word"] for s in segments]
    extras = {"annotation": annotation, "cleaned": cleaned, "labels": clips.label(clip)}
    if description != caption:
        extras["annotation_description"] = description
    if clip in release.backgrounds:
        extras["background_labels"] = np.asarray(release.backgrounds[clip]).tolist()
    return Frame(
        frame_id=clip,
        caption=caption,
        pictures=clips.pictures(clip, pixels, segments, CAST),
        key=len(pixels) // 2,
        characters=tuple(dict.fromkeys(label.strip().lower() for label in people)),
        setting=setting,
        file=file,
        extras={name: value for name, value in extras.items() if value},
    )


def fake(raw: RawWriter) -> None:
    """Variant C in small: three episodes, a clip without pixels in one, a truncated mask in another."""
    write_release(raw, {"train": {"s_01_e_01": 9}, "val": {"s_01_e_02": 7}, "test": {"s_02_e_01": 8}}, variant="C")
    (raw.path / "video_frames_sampled_4x/s_02_e_01_shot_000600_000674.npy").unlink()
    raw.cut("seg_mask_4x_comb/s_01_e_02_shot_000600_000674-frame3.npy", 5000)


SCRIPT = (
    ("kitchen", ("fred", "barney"), "Fred and Barney are in the kitchen."),
    ("kitchen", ("fred",), "Fred talks to Barney about the car."),
    ("yard", ("fred", "barney"), "Barney and Fred are walking outside. "),
    ("living room", ("wilma", "fred"), "Wilma is holding Wilma's hat while Fred talks."),
    ("living room", ("wilma",), "Wilma sits on the sofa."),
    ("office", ("mr slate", "fred"), "Mr. Slate is shouting at Fred in the office."),
)


def write_release(raw: RawWriter, episodes: dict[str, dict[str, int]], *, variant: str) -> None:
    """Write a synthetic release; `episodes` maps source split -> episode -> number of clips. Lists starts only."""
    form, size, cache = (StoryDallE, 128, 4) if variant == "B" else (StoryGPTV, 256, 3)
    split, following, labels, annotations, cleaned = {}, {}, {}, [], {}
    for name, (episode, count) in [(name, item) for name, wanted in episodes.items() for item in wanted.items()]:
        clips = [f"{episode}_shot_{at * 100:06d}_{at * 100 + 74:06d}" for at in range(1, count + 1)]
        split[name] = split.get(name, []) + clips[: 1 - LENGTH]
        following |= {clip: clips[at + 1 : at + 1 + cache] for at, clip in enumerate(clips[: 1 - LENGTH])}
        for clip, (place, cast, caption) in zip(clips, cycle(SCRIPT)):
            drawn = [scene(cast, size=size, step=k, place=place) for k in range(5)]
            write_stack(raw, form, clip, drawn)
            segments = [{**item, "start": item["id"], "end": "9"} for item in segments_of(cast, drawn[2])]
            cleaned[clip] = {"caption": caption, "tokens": caption.split(), "segments": segments}
            marked = [(item["word"], [[5 * value for value in item["bbox"]]] * 3) for item in segments]
            people = [{"entityLabel": f" {who}", "rectangles": boxes} for who, boxes in marked]
            annotations.append({"globalID": clip, "description": caption, "setting": place, "characters": people})
            labels[clip] = [int(character.name in cast) for character in INFO.characters]
    raw.json(ANNOTATIONS, annotations)
    raw.json(form.split_file, split)
    raw.pickle(f"following_cache{cache}.pkl", following)
    raw.pickle("labels.pkl", labels)
    if form.text_file:
        raw.json(form.text_file, cleaned)


class FlintstonesSV(StoryBuilder):
    """FlintstonesSV as a Hugging Face builder: `FlintstonesSV(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

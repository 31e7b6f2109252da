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

from collections import defaultdict
from functools import partial

import numpy as np

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.info import Character, Info, Split
from openstory_hf.raw import NUMPY_GLOBALS, Raw
from openstory_hf.records import Frame, Instance, Picture, Reject, Sequence, Unit, Window, check_text

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
  author={Maharana, Adyasha and Bansal, Mohit},
  booktitle={EMNLP}, year={2021}}""",
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
    not_needed=(
        "flintstones_use_embeddings.npy",
        "flintstones_use_embed_idxs.pkl",
        "mart_vocab.pkl",
        "clip_emb_*.pkl",
    ),
    tags=("flintstones", "cartoon"),
)

LENGTH = 5
SOURCE_SPLITS = {split: facts.source_name for split, facts in INFO.splits.items()}
ANNOTATIONS = "flintstones_annotations_v1-0.json"
BOX_SCALE = 128
CAST = {character.name for character in INFO.characters}


class Release:
    """The index files of one release, whichever variant it is."""

    def __init__(self, raw: Raw) -> None:
        root = raw.locate("train-val-test_split.json", "split.json")
        if root is None:
            raise Reject("neither train-val-test_split.json (variant B) nor split.json (variant C) is in the release")
        self.raw = root
        self.detailed = not root.exists("train-val-test_split.json")  # variant C
        self.split_file = "split.json" if self.detailed else "train-val-test_split.json"
        self.frames = "video_frames_sampled_4x" if self.detailed else "video_frames_sampled"
        self.masks = "seg_mask_4x_comb" if root.names("seg_mask_4x_comb/") else ""
        listed = root.json(self.split_file)
        self.split_of = {clip: split for split, name in SOURCE_SPLITS.items() for clip in listed.get(name, [])}
        if sum(len(listed.get(name, [])) for name in SOURCE_SPLITS.values()) != len(self.split_of):
            raise Reject("a clip is listed twice, so a story would be in two splits", file=self.split_file)
        has_annotations = not self.detailed or root.exists(ANNOTATIONS)
        self.annotations = root.records(ANNOTATIONS, "globalID") if has_annotations else {}
        self.segments = root.records("cleaned_annotations.json") if self.detailed else {}
        self.labels = self._pickle("labels.pkl") or {}
        self.backgrounds = (self._pickle("labels_bg.pkl") or {}).get("label", {})
        self.cache_file = next((n for n in ("following_cache4.pkl", "following_cache3.pkl") if root.exists(n)), "")
        self.following = self._pickle(self.cache_file) if self.cache_file else {}
        self.episodes = self._episodes()

    def _pickle(self, name: str) -> dict:
        return self.raw.pickle(name, NUMPY_GLOBALS) if self.raw.exists(name) else {}

    def _episodes(self) -> dict[str, list[str]]:
        """All clips of every episode that has a listed clip, in order.

        A list of starts lacks the last clips of every episode; they are what the annotations and the cache have
        after the last listed one. A list of all clips has nothing after it (but for odd clips the release left out).
        """
        known = defaultdict(set)
        for clip in (
            *self.annotations,
            *self.segments,
            *self.following,
            *(c for v in self.following.values() for c in v),
        ):
            known[episode_of(clip)].add(clip)
        cached = set(self.following).union(*self.following.values()) if self.following else set()
        listed = defaultdict(set)
        for clip in self.split_of:
            listed[episode_of(clip)].add(clip)
        tails = {e: sorted(c for c in known[e] if c > max(clips))[: LENGTH - 1] for e, clips in listed.items()}
        starts_only = sum(map(bool, tails.values())) * 2 > len(tails)
        return {
            episode: sorted(clips | (known[episode] & cached) | set(tails[episode] if starts_only else ()))
            for episode, clips in sorted(listed.items())
        }


def episode_of(clip: str) -> str:
    """`s_02_e_07_shot_001234_001308` -> `s_02_e_07`."""
    check_text(clip, name="clip id", record=str(clip), file="")
    parts = clip.split("_")
    if len(parts) != 7 or parts[0] != "s" or parts[2] != "e" or not all(parts[i].isdigit() for i in (1, 3, 5, 6)):
        raise Reject("the clip id is not of the form s_SS_e_EE_shot_FFFFFF_LLLLLL", record=clip)
    return clip.rpartition("_shot_")[0]


def units(raw: Raw, split: str) -> list[Unit]:
    """An episode is a unit."""
    release = raw.once(Release)
    found = []
    for episode, clips in release.episodes.items():
        starts = [clip for clip in clips if release.split_of.get(clip) == split]
        if starts:
            size = len(clips) * release.raw.size(f"{release.frames}/{starts[0]}.npy")
            data = {"clips": clips, "starts": starts}
            found.append(Unit(unit_id=episode, split=split, records=len(clips), size=size, data=data))
    return found


def sequences(raw: Raw, unit: Unit):
    """The one sequence of an episode, with a window for every start that has four successors."""
    release = raw.once(Release)
    clips, starts = unit.data["clips"], set(unit.data["starts"])
    windows, rejects = [], []
    for start in range(len(clips) - LENGTH + 1):
        if clips[start] not in starts:
            continue
        followers = clips[start + 1 : start + LENGTH]
        cached = list(release.following.get(clips[start], followers))
        if cached[: LENGTH - 1] != followers[: len(cached)]:
            reason = f"the cache says the story goes on with {cached}, the ids say {followers}"
            story = f"flintstones_sv/{clips[start]}"
            rejects.append(Reject(reason, record=clips[start], file=release.cache_file, stories=(story,)))
        else:
            windows.append(Window(story_id=clips[start], start=start, stop=start + LENGTH))
    yield Sequence(
        sequence_id=unit.unit_id,
        frame_ids=tuple(clips),
        read=partial(read_clip, release),
        windows=tuple(windows),
        rejects=tuple(rejects),
        file=release.split_file,
        language="en",
    )


def read_clip(release: Release, clip: str) -> Frame:
    """One clip: caption, cast, setting, every kept picture with its instances."""
    file = f"{release.frames}/{clip}.npy"
    pixels = read_pixels(release.raw, file)
    annotation = release.annotations.get(clip)
    if annotation is None and not release.detailed:
        raise Reject("the clip has no annotation", record=clip, file=ANNOTATIONS)
    annotation = dict(annotation or {})
    labels = [
        check_text(c["entityLabel"], name="entityLabel", record=clip, file=ANNOTATIONS)
        for c in annotation.get("characters", ())
    ]
    extras = {"annotation": annotation} if annotation else {}
    instances = [()] * len(pixels)
    caption, setting = annotation.pop("description", None), annotation.pop("setting", "")
    annotation.pop("globalID", None)
    if release.detailed:
        entry = release.segments.get(clip)
        if entry is None:
            raise Reject("the clip has no entry", record=clip, file="cleaned_annotations.json")
        if caption is not None and caption != entry["caption"]:
            extras["annotation_description"] = caption
        caption = entry["caption"]
        extras["cleaned"] = {key: value for key, value in entry.items() if key != "caption"}
        instances = [read_instances(release, clip, entry["segments"], k, shot) for k, shot in enumerate(pixels)]
        labels = labels or [segment["word"] for segment in entry["segments"]]
    for name, table in (("labels", release.labels), ("background_labels", release.backgrounds)):
        if clip in table:
            extras[name] = np.asarray(table[clip]).tolist()
    return Frame(
        frame_id=clip,
        caption=caption,
        pictures=tuple(
            Picture(path=f"{clip}-frame{k}.png", pixels=shot, instances=tuple(instances[k]))
            for k, shot in enumerate(pixels)
        ),
        key=len(pixels) // 2,
        characters=tuple(dict.fromkeys(label.strip().lower() for label in labels)),
        setting=setting,
        file=file,
        extras=extras,
    )


def read_pixels(raw: Raw, file: str) -> np.ndarray:
    """The kept pictures of a clip, uint8 (n, h, w, 3); the releases do not promise a dtype."""
    array = raw.npy(file)
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise Reject(f"shape {array.shape} where (pictures, height, width, 3) is expected", file=file)
    if array.dtype != np.uint8:
        if array.dtype.kind not in "iuf" or array.min() < 0 or array.max() > 255 or (array != np.rint(array)).any():
            raise Reject(f"{array.dtype} values that are not whole numbers from 0 to 255", file=file)
        array = array.astype(np.uint8)
    return array


def read_instances(release: Release, clip: str, segments: list[dict], k: int, shot: np.ndarray):
    """The instances of picture k: boxes are shared by all pictures of the clip, masks are not."""
    height, width = shot.shape[:2]
    mask_file = f"{release.masks}/{clip}-frame{k}.npy"
    combined = release.raw.npy(mask_file) if release.masks and segments else None
    for segment in segments:
        x1, y1, x2, y2 = (
            min(max(float(value) * side / BOX_SCALE, 0.0), float(side))
            for value, side in zip(segment["bbox"], (width, height, width, height), strict=True)
        )
        if x2 <= x1 or y2 <= y1:
            reason = f"box {segment['bbox']} of segment {segment['id']} has no area inside the picture"
            raise Reject(reason, record=clip, file="cleaned_annotations.json")
        word = segment["word"].strip()
        yield Instance(
            label=word,
            character=word.lower() if word.lower() in CAST else "",
            bbox=(x1, y1, x2 - x1, y2 - y1),
            mask=None if combined is None else combined == int(segment["id"]),
        )


def fake(raw: RawWriter) -> None:
    """Both variants in small: B zipped inside nested folders would do as well; C is written here with masks.

    Three episodes (one a split). The test episode has a clip without pixels; every split lists story starts only.
    """
    write_release(raw, {"train": ("s_01_e_01", 9), "val": ("s_01_e_02", 7), "test": ("s_02_e_01", 7)}, detailed=True)
    (raw.path / "video_frames_sampled_4x/s_02_e_01_shot_000600_000674.npy").unlink()


SCRIPT = (
    (("fred", "barney"), "Fred and Barney are in the kitchen.", "kitchen"),
    (("fred",), "Fred talks to Barney about the car.", "kitchen"),
    (("fred", "barney"), "Barney and Fred are walking outside. ", "yard"),
    (("wilma", "fred"), "Wilma is holding Wilma's hat while Fred talks.", "living room"),
    (("wilma",), "Wilma sits on the sofa.", "living room"),
    (("mr slate", "fred"), "Mr. Slate is shouting at Fred in the office.", "office"),
    (("pebbles", "dino"), "Pebbles sits next to Dino.", "living room"),
)


def write_release(raw: RawWriter, episodes: dict, *, detailed: bool, list_all: bool = False, size: int = 128) -> None:
    """Write a synthetic release: `episodes` maps a source split to (episode, clips) or a list of such pairs."""
    split, following, labels, annotations, cleaned = {}, {}, {}, [], {}
    for name, given in episodes.items():
        split[name] = []
        for episode, count in [given] if isinstance(given, tuple) else given:
            clips = [f"{episode}_shot_{at * 100:06d}_{at * 100 + 74:06d}" for at in range(1, count + 1)]
            following |= {c: clips[i + 1 : i + LENGTH] for i, c in enumerate(clips[: 1 - LENGTH])}
            split[name] += clips if list_all else clips[: 1 - LENGTH]
            for at, clip in enumerate(clips):
                cast, caption, place = SCRIPT[at % len(SCRIPT)]
                labels[clip] = [int(c.name in cast) for c in INFO.characters]
                boxes = write_clip(raw, clip, cast, place, detailed=detailed, size=size)
                rectangles = [[[v * 640 // size for v in box]] * 3 for box in boxes]
                entries = [
                    {"globalID": f"{clip}_char_{i}", "entityLabel": f" {who}", "rectangles": r}
                    for i, (who, r) in enumerate(zip(cast, rectangles, strict=True))
                ]
                annotations.append(
                    {
                        "globalID": clip,
                        "description": caption,
                        "setting": place,
                        "characters": entries,
                        "objects": [],
                        "keyFrames": [f"{clip}_{n}.png" for n in (10, 40, 70)],
                    }
                )
                segments = [
                    {
                        "id": i + 1,
                        "start": i,
                        "end": str(i + 1),
                        "bbox": [v * BOX_SCALE / size for v in box],
                        "word": who,
                    }
                    for i, (who, box) in enumerate(zip(cast, boxes, strict=True))
                ]
                cleaned[clip] = {"caption": caption, "tokens": caption.split(), "segments": segments}
    raw.json(ANNOTATIONS, annotations)
    raw.pickle("labels.pkl", labels)
    if detailed:
        raw.json("split.json", split)
        raw.json("cleaned_annotations.json", cleaned)
        raw.pickle("following_cache3.pkl", {clip: ids[:3] for clip, ids in following.items()})
    else:
        raw.json("train-val-test_split.json", split)
        raw.pickle("following_cache4.pkl", following)


def write_clip(raw: RawWriter, clip: str, cast: tuple, place: str, *, detailed: bool, size: int) -> list:
    """Five drawn pictures of one clip (and their masks); returns the boxes of the middle one."""
    drawn = [scene(cast, size=size, step=k, place=place) for k in range(LENGTH)]
    folder = "video_frames_sampled_4x" if detailed else "video_frames_sampled"
    raw.npy(f"{folder}/{clip}.npy", np.stack([pixels for pixels, _, _ in drawn]))
    if detailed:
        for k, (_, mask, _) in enumerate(drawn):
            raw.npy(f"seg_mask_4x_comb/{clip}-frame{k}.npy", mask)
    return drawn[LENGTH // 2][2]


class FlintstonesSV(StoryBuilder):
    """FlintstonesSV as a Hugging Face builder: `FlintstonesSV(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

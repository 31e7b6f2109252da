"""Openstory++: keyframes of videos and single images, with a caption and instance masks named by words of it.

Samples of jpg, png (the mask) and json come in any of the forms of `openstory_hf.forms.keyed`, alone or together, in
any folders; `INFO.tree` lists them. json has caption, origin_caption and mask, a list of what is in the mask
(`openstory_hf.forms.labels`). A key {video}_keyframe_{H-M-S-ms} is a keyframe; any other, or none, a single image.

Defects of the source, and what is done about each (those of the masks are told in `openstory_hf.forms.labels`):

* A keyframe with too few or too many objects repeats the sample before it as {key before}_override_{own key}: left
  out; one reject per video counts and names them. So are keyframes that are there again; the first one counts.
* Stories are not recorded: the keyframes of a video, from whatever files, are put in the order of their times and cut
  into groups of 5. A group of one is no story; its frame is kept in `frames`.
* The mask is a palette PNG, or mode L where a shard's first sample had no objects: values are read, not colours.
* Masks and boxes belong to the centre crop of a picture scaled to a shorter side of 512. For pictures of another size
  they are scaled to the centre square instead; `extras` gives it as crop: [left, top, side].
* The story set ships no pictures. Keyframes are joined by video and time; those that no sample describes are named in
  one reject per video. Frames without a picture have a null image, and `extras` names the picture.
* The words of story captions were lemmatised ("ha" for "has"), and origin_caption may be a neighbour's: both are kept.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from operator import mul
from typing import Any

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter
from openstory_hf.forms.keyed import KeyedSamples, picture_bytes, plain, take_picture, write_saved
from openstory_hf.forms.keyframes import Keyframe, keyframe
from openstory_hf.forms.labels import draw, read_instances
from openstory_hf.info import Info, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Picture, Reject, Sequence, Unit, Window

INFO = Info(
    title="Openstory++",
    summary="Keyframes of videos in runs of up to five, and single images, with captions and open-vocabulary masks.",
    license="cc-by-4.0",
    rights="The annotations are tagged CC BY 4.0. The pictures belong to the owners of the videos and pages they are "
    "from: build them for your own research, and do not publish them without the owners' permission.",
    third_party=True,
    languages=("en",),
    homepage="https://huggingface.co/datasets/MAPLE-WestLake-AIGC/OpenstoryPlusPlus",
    citation="""@article{ye2024openstory,
  title={Openstory++: A Large-scale Dataset and Benchmark for Instance-aware Open-domain Visual Storytelling},
  author={Ye, Zilyu and others}, journal={arXiv preprint arXiv:2408.03695}, year={2024}}""",
    splits={"train": Split()},
    sequence="a video's keyframes in time order; a single image",
    story="up to 5 consecutive keyframes of a video, a lone one left out; a single image is a story of one frame",
    frames_table=True,
    obtain="Download story/ or unique_v2/ from the homepage; the folder is --raw. The story set ships no pictures: "
    "cut the keyframes into frames/ with the code of github.com/YeLuoSuiYou/openstorypp, or build without. The unique "
    "set ships addresses: fetch the pictures with img2dataset. Unpack zips first: tars in them are slow.",
    tree="at least one of\n"
    "   *.tar                  {key}.jpg, {key}.png (mask), {key}.json\n"
    "   *.parquet              json (or caption and mask); __key__, png (mask), jpg or image, url if there\n"
    "   *.arrow, state.json    the same columns, a folder of Dataset.save_to_disk\n"
    "optional: frames/{video}/{video}_keyframe_{H-M-S-ms}.jpg\n"
    "Assumed, as it is not documented: json is an object or the text of one; png, jpg and image are bytes or {bytes,\n"
    "path}; parts of times may be padded; masks are of the 512x512 centre crop, and boxes in its pixels.",
    not_needed=("cache-*.arrow", "dataset_info.json", "dataset_dict.json", "*_stats.json"),
    tags=("instance-segmentation", "open-vocabulary"),
)

LENGTH = 5
REPEAT = "_override_"
keyframe_of = partial(keyframe, video=r"[\w-]{11}|\d{6}")  # None for the key of a single image


class Release:
    """The samples of a release, and the keyframes to join: video -> keyframe -> file."""

    def __init__(self, raw: Raw) -> None:
        self.raw, self.samples = raw, KeyedSamples(raw)
        self.frames: dict[str, dict[Keyframe, str]] = defaultdict(dict)
        self.again: list[str] = []  # pictures of keyframes that have one
        for name in raw.names("", ".jpg"):
            found = keyframe_of(name.rpartition("/")[2].removesuffix(".jpg"))
            if found and self.frames[found.video].setdefault(found, name) != name:
                self.again.append(name)


def units(raw: Raw, split: str) -> list[Unit]:
    """A video is a unit, and so are the single images of a tar or of a group of rows, and all that no sample has."""
    release, found, sizes = raw.once(Release), [], defaultdict[str, int](int)
    videos: dict[str, list[tuple[str, str, Any]]] = defaultdict(list)
    for file, number, size, keys in release.samples.groups():  # samples stay in the order of the files
        singles = 0
        for place, key in keys or ():
            if own := keyframe_of(key.rpartition(REPEAT)[2]):
                videos[own.video].append((key, file, place))
                sizes[own.video] += size
            else:
                singles += 1
        if singles or keys is None:  # a damaged group is refused by `sequences`
            facts = {"records": singles or 1, "size": singles * size, "data": {"file": file, "group": number}}
            found.append(Unit(unit_id=f"{file}/{number}", split=split, **facts))
    for video, samples in videos.items():
        data = {"samples": samples}
        found.append(Unit(unit_id=video, split=split, records=len(samples), size=sizes[video], data=data))
    alone = [name for video, names in release.frames.items() if video not in videos for name in names.values()]
    left = {
        "pictures of videos that have no samples": sorted(alone),
        "second pictures of a keyframe": release.again,
        "members of a tar that has one of their name before": release.samples.again,
    }
    if any(left.values()):
        found.append(Unit(unit_id="left out", split=split, data={"left": left}))
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence | Reject]:
    """The keyframes of a video with a window for every story, or single images one by one."""
    release = raw.once(Release)
    if "left" in unit.data:
        for fault, names in unit.data["left"].items():
            yield from named(fault, names, *names[:1])
        return
    if "samples" in unit.data:
        yield from video_sequence(release, unit)
        return
    file, repeats = unit.data["file"], []
    for place, key in release.samples.keys(file, unit.data["group"]):
        name = f"{file}/{place}"
        if keyframe_of(key.rpartition(REPEAT)[2]):
            continue  # it belongs to its video's unit
        if REPEAT in key:
            repeats.append(key)
        elif "_keyframe_" in key:
            yield Reject("the key is not of the form VIDEO_keyframe_H-M-S-MS", record=key, file=file)
        else:
            read = partial(read_sample, release, {name: (key, file, place)})
            windows = (Window(story_id=name, start=0, stop=1),)
            yield Sequence(sequence_id=name, frame_ids=(name,), read=read, windows=windows, file=file, language="en")
    yield from named("repeats of the sample before", repeats, file)


def video_sequence(release: Release, unit: Unit) -> Iterator[Sequence | Reject]:
    """The one sequence of a video; it has no frames if all its samples are repeats."""
    samples = [(keyframe_of(sample[0]), tuple(sample)) for sample in unit.data["samples"]]
    first = {shown: sample for shown, sample in reversed(samples) if shown}  # of one keyframe the first sample
    repeats = [sample[0] for shown, sample in samples if not shown]
    twice = [f"{sample[0]} in {sample[1]}" for shown, sample in samples if shown and first[shown] != sample]
    unmatched = sorted(name for shown, name in release.frames.get(unit.unit_id, {}).items() if shown not in first)
    file = unit.data["samples"][0][1]
    places = {sample[0]: sample for _, sample in sorted(first.items())}
    keys = tuple(places)
    starts = range(0, len(keys) - 1, LENGTH)  # the last frame alone starts no story
    yield Sequence(
        sequence_id=unit.unit_id,
        frame_ids=keys,
        read=partial(read_sample, release, places),
        windows=tuple(Window(story_id=keys[at], start=at, stop=min(at + LENGTH, len(keys))) for at in starts),
        rejects=(
            *named("repeats of the sample before", repeats, file),
            *named("samples of a keyframe that was there before", twice, file),
            *named("pictures that no sample describes", unmatched, *unmatched[:1]),
        ),
        file=file,
        language="en",
    )


def named(fault: str, names: list[str], file: str = "") -> list[Reject]:
    """One reject for all with the same fault: a chain of a hundred repeats does not make a damaged release."""
    reason = f"{fault} ({len(names)}): {', '.join(names)}"
    return [Reject(reason, record=names[0].partition(" ")[0], file=file, known=True)] if names else []


def read_sample(release: Release, places: dict[str, tuple[str, str, Any]], frame_id: str) -> Frame:
    """One sample: caption, its picture if there is one, and its instances in the coordinates of that picture."""
    key, file, place = places[frame_id]
    sample = release.samples.read(file, place, facts=("caption", "origin_caption", "mask"))
    facts = dict(sample.pop("json"))
    if "caption" not in facts:
        raise Reject("the sample has no json with a caption", record=frame_id, file=file)
    caption, entries = facts.pop("caption"), facts.pop("mask", None) or ()
    data, shown = take_picture(sample), keyframe_of(key)
    joined = release.frames.get(shown.video, {}).get(shown, "") if shown else ""
    path = joined or (f"{key}.jpg" if key else f"{frame_id}.jpg")
    if data is None and joined:
        data = release.raw.read(joined)
    found = [entry for entry in entries if entry["value"] != 0]
    extras = {**sample, **facts, "key": key, "entities": [entity(entry, caption) for entry in found]}
    png = picture_bytes(extras.pop("png", None))
    instances, crop = read_instances(release.raw, found, (png, f"{frame_id}.png"), (data, path))
    if crop:
        extras["crop"] = crop
    if data is None:
        extras["picture_not_shipped"] = path
    return Frame(
        frame_id=frame_id,
        caption=caption,
        pictures=(Picture(path=path.rpartition("/")[2], data=data, instances=instances),),
        timestamp=sum(map(mul, shown.time, (3600, 60, 1, 0.001))) if shown else None,
        file=file,
        extras=plain(extras),
    )


def entity(entry: dict[str, Any], caption: str) -> dict[str, Any]:
    """What an entry of the mask list says beyond the instance: its value, where the caption has its label, the rest.

    `mentions` are the [start, end) of the label, or its simple plural, as whole words of the caption.
    """
    word = rf"(?<!\w){re.escape(entry['label'])}(?:e?s)?(?!\w)"
    mentions = [list(found.span()) for found in re.finditer(word, caption, re.IGNORECASE)] if entry["label"] else []
    rest = {name: value for name, value in entry.items() if name not in ("label", "box", "logit")}
    return {**{name: value for name, value in rest.items() if value is not None}, "mentions": mentions}


SCRIPT = (
    ("river", ("man", "dog"), "a man walk two dogs along the river"),
    ("market", ("woman",), "the woman and a mailwoman buy bread"),
    ("hill", ("boy", "kite", "tree"), "a boy fly a kite behind a tree"),
)


def drawn(number: int, size: int = 128, mode: str = "P") -> dict[str, bytes]:
    """A drawn sample as a tar holds it: jpg, png and json."""
    place, cast, caption = SCRIPT[number % len(SCRIPT)]
    return draw(cast, caption, size=size, step=number, place=place, mode=mode)


def fake(raw: RawWriter) -> None:
    """All forms side by side: tars with every broken record, a story set, a unique set, a saved folder."""
    keys = [f"a_b-cKEY_01_keyframe_0-{number}-5-{number}0" for number in range(12)]
    samples = {key: drawn(number, mode="P" if number else "L") for number, key in enumerate(keys)}
    whole, nameless = drawn(0), json.dumps({"caption": "no names", "mask": []}).encode()
    jpg, png = whole["jpg"], whole["png"]
    damage = (("jpg", jpg[:200]), ("png", png[:60]), ("png", b"?"), ("json", b"{"), ("json", nameless))
    samples |= {f"10203{at}_keyframe_0-0-1-0": whole | {ending: data} for at, (ending, data) in enumerate(damage)}
    samples |= {"104050_keyframe_0-0-9-0": whole, "104050_keyframe_0-0-8-0": {"jpg": jpg}}
    samples |= {f"{keys[2]}_override_{keys[3]}": samples[keys[2]], "10203_keyframe_1": whole}
    first = {key: samples.pop(key) for key in (keys[6], keys[0], keys[2])} | {"000000001": drawn(1)}
    raw.samples("tars/00000.tar", {**first, "000000001_override_000000002": drawn(1)})
    raw.samples("tars/00001.tar", {**samples, keys[1].replace("-10", "-010"): whole})
    raw.bytes("tars/00002.tar", (raw.path / "tars/00000.tar").read_bytes()[:700])
    video, rows = "-story-set-", []
    for number in range(8):
        sample, key = drawn(number), f"{video}_keyframe_00-00-{number:02d}-500"
        facts = json.loads(sample["json"])
        rows.append({"__key__": key, "video_id": video, "time_stamp": number, "png": sample["png"], "json": facts})
        if number < 3:  # the last one at a time that no sample has
            raw.bytes(f"frames/{video}/{video}_keyframe_0-{number // 2}-{number}-500.jpg", sample["jpg"])
    raw.table("story/train-00000-of-00001.parquet", rows)
    texts = [{**drawn(number), "json": drawn(number)["json"].decode(), "url": f"{number}.jpg"} for number in range(3)]
    raw.table("unique_v2/part1/train-00000-of-00001.parquet", [{**texts[0], "jpg": None}, *texts[1:]])
    write_saved(raw, "saved", [{"__key__": f"saved_video_keyframe_0-0-{at}-0", **row} for at, row in enumerate(texts)])


class OpenstoryPP(StoryBuilder):
    """Openstory++ as a Hugging Face builder: `OpenstoryPP(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

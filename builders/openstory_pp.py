"""Openstory++: keyframes of videos and single images, with a caption and instance masks named by words of it.

Raw tree; any of the forms, alone or together, in any folders:

    *.tar                   WebDataset: {key}.jpg, {key}.png (the mask), {key}.json
    *.parquet               columns __key__, png (the mask), json and others: the story set has no pictures, the unique
                            set has url, and jpg or image once the pictures were fetched
    *.arrow, state.json     a folder of Dataset.save_to_disk with the same columns, as the authors' organiser writes it
    frames/{video}/{video}_keyframe_{H-M-S-ms}.jpg     optional: keyframes cut from the videos

A key {video}_keyframe_{H-M-S-ms} is a keyframe; any other, or none, is a single image. json is {"caption": ...,
"origin_caption": ..., "mask": [{"value": 1, "label": ..., "logit": ..., "box": [x1, y1, x2, y2]}, ...]}.

Defects of the source, and what is done about each:

* A keyframe with too few or too many objects repeats the sample before it as {key before}_override_{own key}: left
  out; one reject per video counts and names them. So are keyframes that are there again; the first one counts.
* Stories are not recorded: the keyframes of a video, from whatever files, are put in the order of their times and cut
  into groups of 5. A group of one is no story; its frame is kept in `frames`.
* The mask is a palette PNG, or mode L where a shard's first sample had no objects: values are read, not colours.
* Small instances are painted over large ones: a value absent from the mask gives an instance with a box and no mask.
  A value of the mask that the list does not name (colours were saved for values, or damage) is a reject.
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
from functools import lru_cache, partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.info import Info, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Instance, Picture, Reject, Sequence, Unit, Window, box_from_corners

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
KEYFRAME = re.compile(r"([\w-]{11}|\d{6})_keyframe_(\d+)[-_.:](\d+)[-_.:](\d+)[-_.:](\d+)", re.ASCII)
CROP = (512, 512)
PICTURES = ("jpg", "jpeg", "image", "webp")
Moment = tuple[int, ...]


def moment(key: str) -> tuple[str, Moment] | None:
    """`AbCdEfGhIjK_keyframe_0-1-2-30` -> ("AbCdEfGhIjK", (0, 1, 2, 30)), None for the key of a single image."""
    found = KEYFRAME.fullmatch(key)
    return (found[1], tuple(map(int, found.groups()[1:]))) if found else None


class Release:
    """The files of a release: those with samples, and the keyframes to join."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        saved = {name.removesuffix("state.json"): raw.json(name) for name in raw.names("", "state.json")}
        listed = {folder + file["filename"] for folder, state in saved.items() for file in state["_data_files"]}
        loose = {name for name in raw.names("", ".arrow") if name[: name.rfind("/") + 1] not in saved}
        self.files = sorted({*raw.names("", ".tar"), *raw.names("", ".parquet"), *listed, *loose})
        self.frames: dict[str, dict[Moment, str]] = defaultdict(dict)
        for name in raw.names("", ".jpg"):
            if found := moment(name.rpartition("/")[2].removesuffix(".jpg")):
                self.frames[found[0]].setdefault(found[1], name)
        self.open = lru_cache(maxsize=4)(raw.samples)  # few at a time: memory must not grow with their number


def units(raw: Raw, split: str) -> list[Unit]:
    """A video is a unit, and so are the single images of a tar or of a group of rows."""
    release, found = raw.once(Release), []
    videos: dict[str, list[tuple[str, str, Any]]] = defaultdict(list)
    sizes = {}
    for file in release.files:
        try:
            groups = release.open(file).groups
        except Reject:
            groups = (0,)  # `sequences` opens it again and is refused again
        sizes[file] = raw.size(file) // max(1, sum(groups))
        for group in range(len(groups)):
            name, data = f"{file}/{group}", {"file": file, "group": group}
            try:
                places = release.open(file).keys(group)
            except Reject:
                found.append(Unit(unit_id=name, split=split, data=data))
                continue
            owners = [(moment(key.rpartition("_override_")[2]), key, place) for place, key in places]
            for own, key, place in owners:
                if own:
                    videos[own[0]].append((key, file, place))
            if singles := sum(own is None for own, _, _ in owners):
                found.append(Unit(unit_id=name, split=split, records=singles, size=singles * sizes[file], data=data))
    for video, samples in videos.items():  # as they stand in the files, which are then read from front to back
        size = sum(sizes[file] for _, file, _ in samples)
        found.append(Unit(unit_id=video, split=split, records=len(samples), size=size, data={"samples": samples}))
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence | Reject]:
    """The keyframes of a video with a window for every story, or single images one by one."""
    release = raw.once(Release)
    if "samples" in unit.data:
        yield from video_sequence(release, unit)
        return
    file, repeats = unit.data["file"], []
    for place, key in release.open(file).keys(unit.data["group"]):
        name = f"{file}/{place}"
        if moment(key.rpartition("_override_")[2]):
            continue  # it belongs to its video's unit
        if "_override_" in key:
            repeats.append(key)
        elif "_keyframe_" in key:
            yield Reject("the key is not of the form VIDEO_keyframe_H-M-S-MS", record=key, file=file)
        else:
            read = partial(read_sample, release, {name: (key, file, place)})
            windows = (Window(story_id=name, start=0, stop=1),)
            yield Sequence(sequence_id=name, frame_ids=(name,), read=read, windows=windows, file=file, language="en")
    yield from named("repeats of the sample before", repeats, file)


def video_sequence(release: Release, unit: Unit) -> Iterator[Sequence | Reject]:
    """The one sequence of a video, or its rejects alone."""
    moments: dict[Moment, str] = {}
    places: dict[str, tuple[str, str, Any]] = {}
    repeats, twice = [], []
    for key, file, place in unit.data["samples"]:
        time = moment(key)
        if time is None:
            repeats.append(key)
        elif time[1] in moments:
            twice.append(f"{key} in {file}")
        else:
            moments[time[1]], places[key] = key, (key, file, place)
    unmatched = sorted(name for time, name in release.frames.get(unit.unit_id, {}).items() if time not in moments)
    file = unit.data["samples"][0][1]
    rejects = (
        *named("repeats of the sample before", repeats, file),
        *named("samples of a keyframe that was there before", twice, file),
        *named("pictures that no sample describes", unmatched, unmatched[0] if unmatched else ""),
    )
    if not places:
        yield from rejects
        return
    keys = [key for _, key in sorted(moments.items())]
    starts = range(0, len(keys) - 1, LENGTH)  # the last frame alone starts no story
    yield Sequence(
        sequence_id=unit.unit_id,
        frame_ids=tuple(keys),
        read=partial(read_sample, release, places),
        windows=tuple(Window(story_id=keys[at], start=at, stop=min(at + LENGTH, len(keys))) for at in starts),
        rejects=rejects,
        file=file,
        language="en",
    )


def named(fault: str, names: list[str], file: str) -> list[Reject]:
    """One reject for all with the same fault: a chain of a hundred repeats does not make a damaged release."""
    reason = f"{fault} ({len(names)}): {', '.join(names)}"
    return [Reject(reason, record=names[0].partition(" ")[0], file=file)] if names else []


def read_sample(release: Release, places: dict[str, tuple[str, str, Any]], frame_id: str) -> Frame:
    """One sample: caption, its picture if there is one, and its instances in the coordinates of that picture."""
    key, file, place = places[frame_id]
    sample = release.open(file).read(place)
    facts = sample.pop("json", None)
    if facts is None:  # columns of their own instead
        facts = {name: sample.pop(name) for name in ("caption", "origin_caption", "mask") if name in sample}
    facts = dict(json.loads(facts) if isinstance(facts, str | bytes) else facts)
    if "caption" not in facts:
        raise Reject("the sample has no json with a caption", record=frame_id, file=file)
    caption, entries = facts.pop("caption"), facts.pop("mask", None) or ()
    data = next((encoded(sample.pop(name)) for name in PICTURES if name in sample), None)
    video, time = moment(key) or ("", ())
    joined = release.frames.get(video, {}).get(time, "")
    path = joined or (f"{key}.jpg" if key else f"{frame_id}.jpg")
    if data is None and joined:
        data = release.raw.read(joined)
    found = [entry for entry in entries if entry["value"] != 0]
    extras = {**sample, **facts, "key": key, "entities": [entity(entry, caption) for entry in found]}
    png = extras.pop("png", None)
    labels = release.raw.labels(encoded(png), f"{frame_id}.png") if png else np.zeros(CROP, np.uint8)
    crop, values = labels.shape, {entry["value"] for entry in found}
    labels = np.asfortranarray(labels)  # run lengths count by columns
    if sum(np.count_nonzero(labels == value) for value in values) != np.count_nonzero(labels):
        odd = np.setdiff1d(labels, [0, *values]).tolist()
        raise Reject(f"the mask holds the values {odd}, which the list does not name", record=frame_id, file=file)
    size = crop if data is None else release.raw.picture_size(data, path)
    left, top, scale = 0, 0, 1.0
    if size != crop:
        labels, (left, top, side) = on_centre_square(labels, size)
        extras["crop"], scale = [left, top, side], side / crop[0]
    instances = []
    for entry in found:
        mask = labels == entry["value"]
        corners = [value * scale + shift for value, shift in zip(entry["box"], (left, top) * 2, strict=True)]
        box = box_from_corners(corners, scale=(1, 1), size=size)
        shown = mask if mask.any() else None
        instances.append(Instance(label=entry["label"], bbox=box, mask=shown, score=entry.get("logit")))
    if data is None:
        extras["picture_not_shipped"] = path
    return Frame(
        frame_id=frame_id,
        caption=caption,
        pictures=(Picture(path=path.rpartition("/")[2], data=data, instances=tuple(instances)),),
        timestamp=sum(part * unit for part, unit in zip(time, (3600, 60, 1, 0.001), strict=True)) if time else None,
        file=file,
        extras=json.loads(json.dumps(extras, default=as_text)),
    )


def encoded(value: Any) -> bytes:
    """The bytes of a picture, alone or in the struct of a `datasets.Image`."""
    data: bytes = value["bytes"] if isinstance(value, dict) else value
    return data


def on_centre_square(labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The values of a centre crop (s, s), scaled to the centre square of a picture (h, w); its left, top and side."""
    if labels.shape[0] != labels.shape[1]:
        raise Reject(f"the mask is {labels.shape}, neither of the picture's size {size} nor a square crop of it")
    side = min(size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    pick = np.arange(side) * len(labels) // side
    values = np.zeros(size, np.uint8, order="F")
    values[top : top + side, left : left + side] = labels[np.ix_(pick, pick)]
    return values, (left, top, side)


def entity(entry: dict[str, Any], caption: str) -> dict[str, Any]:
    """What an entry of the mask list says beyond the instance: its value, where the caption has its label, the rest.

    `mentions` are the [start, end) of the label, or its simple plural, as whole words of the caption.
    """
    word = rf"(?<!\w){re.escape(entry['label'])}(?:e?s)?(?!\w)"
    mentions = [list(found.span()) for found in re.finditer(word, caption, re.IGNORECASE)] if entry["label"] else []
    rest = {
        name: value for name, value in entry.items() if name not in ("label", "box", "logit") and value is not None
    }
    return {**rest, "mentions": mentions}


def as_text(value: object) -> str:
    """What JSON cannot hold: the text in bytes, the name of anything else."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


SCRIPT = (
    ("river", ("man", "dog"), "a man walk two dogs along the river"),
    ("market", ("woman",), "the woman and a mailwoman buy bread"),
    ("hill", ("boy", "kite", "tree"), "a boy fly a kite behind a tree"),
)


def drawn(number: int, size: int = 128, mode: str = "P") -> dict[str, bytes]:
    """A drawn sample as a tar holds it: jpg, png and json."""
    place, cast, caption = SCRIPT[number % len(SCRIPT)]
    pixels, labels, boxes = scene(cast, size=size, step=number, place=place)
    picture, mask = BytesIO(), BytesIO()
    Image.fromarray(pixels).save(picture, "JPEG", quality=90)
    values = Image.fromarray(labels.astype(np.uint8))
    if mode == "P":
        values.putpalette([(colour * 37 + 80) % 256 for colour in range(27)])
    values.save(mask, "PNG")
    listed: list[dict[str, Any]] = [{"value": 0, "label": "background"}]
    for value, (label, box) in enumerate(zip(cast, boxes, strict=True), 1):
        listed.append(
            {"value": value, "label": label, "logit": 0.5 + value / 100, "box": [float(side) for side in box]}
        )
    facts = {"caption": caption, "origin_caption": f"{caption}.", "mask": listed}
    return {"jpg": picture.getvalue(), "png": mask.getvalue(), "json": json.dumps(facts).encode()}


def members(samples: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    """The members of a WebDataset tar."""
    return {f"{key}.{ending}": data for key, sample in samples.items() for ending, data in sample.items()}


def fake(raw: RawWriter) -> None:
    """All forms side by side: tars with every broken record, a story set, a unique set, a saved folder."""
    keys = [f"a_b-cKEY_01_keyframe_0-{number}-5-{number}0" for number in range(12)]
    samples = {key: drawn(number, mode="P" if number else "L") for number, key in enumerate(keys)}
    whole, nameless = drawn(0), json.dumps({"caption": "no names", "mask": []}).encode()
    damage = [
        {"jpg": whole["jpg"][:200]},
        {"png": whole["png"][:60]},
        {"png": b"?"},
        {"json": b"{"},
        {"json": nameless},
    ]
    samples |= {f"10203{at}_keyframe_0-0-1-0": whole | part for at, part in enumerate(damage)}
    samples |= {"104050_keyframe_0-0-9-0": whole, "104050_keyframe_0-0-8-0": {"jpg": whole["jpg"]}}
    samples |= {f"{keys[2]}_override_{keys[3]}": samples[keys[2]], "10203_keyframe_1": whole}
    first = {key: samples.pop(key) for key in (keys[6], keys[0], keys[2])} | {"000000001": drawn(1)}
    raw.tar("tars/00000.tar", members({**first, "000000001_override_000000002": drawn(1)}))
    raw.tar("tars/00001.tar", members({**samples, keys[1].replace("-10", "-010"): whole}))
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
    saved = [{"__key__": f"saved_video_keyframe_0-0-{number}-0", **sample} for number, sample in enumerate(texts)]
    raw.table("saved/data-00000-of-00001.arrow", saved)
    raw.json("saved/state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})


class OpenstoryPP(StoryBuilder):
    """Openstory++ as a Hugging Face builder: `OpenstoryPP(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

"""StoryStream (SEED-Story): 30-frame stories from Curious George, Rabbids Invasion and The Land Before Time.

The raw tree is in `INFO.tree`; archives are read as they are or unpacked (`openstory_hf.forms.packed`), in folders of
any name and depth. A line is {"id": 0, "images": [30 paths], "captions": [30 texts], "orders": [0, ..., 29]}.

Defects of the source, and what is done about each:

* `id` repeats over files and chunks: a story is called {subset}/{JSONL file}/{line}, the `id` goes to `extras`.
* The names of the JSONL files are not documented: "val" or "test" in a path decides the split, all else is train.
* A story may be there again, whole or in chunks of 10: a line whose pictures all belong to lines before it, or one of
  whose pictures belongs to a line of another split, is a reject that names them. Test comes first, then validation,
  then train, so what is held out stays held out.
* Paths have backslashes, lack the folder, or start at another root: folder and file name find the picture. A picture
  that is missing, or of which there are two, is a reject that names the path.
* Lists of different lengths are rejects with both counts; stories of fewer than 30 frames are published as they are.
* Times in names are not padded, so sorting names is wrong: the list's order is kept, `orders` goes to `extras`.
* Intermediate files hold Python text instead of JSON: each line is a reject, and nothing is ever evaluated.
"""

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.forms.keyframes import keyframe, seconds
from openstory_hf.forms.packed import KeyedPictures, find_texts, is_hidden
from openstory_hf.info import Info, Option, Split
from openstory_hf.raw import Raw, parse_json
from openstory_hf.records import Frame, Picture, Reject, Sequence, Unit, Window

INFO = Info(
    title="StoryStream",
    summary="Long cartoon stories of 30 keyframes with a narrative text each; 8,595 stories are published in all.",
    license="other",
    license_name="apache-2.0-annotations-third-party-frames",
    rights="The texts are published under apache-2.0. The frames are copyrighted material of the owners of the three "
    "series: build them for your own research; do not publish them without the owners' permission.",
    third_party=True,
    languages=("en",),
    homepage="https://github.com/TencentARC/SEED-Story",
    citation="""@article{yang2024seedstory,
  title={SEED-Story: Multimodal Long Story Generation with Large Language Model},
  author={Yang, Shuai and Ge, Yuying and Li, Yang and Chen, Yukang and Ge, Yixiao and Shan, Ying and Chen, Yingcong},
  journal={arXiv preprint arXiv:2407.08683}, year={2024}}""",
    splits={"train": Split(), "validation": Split(source_name="val"), "test": Split()},
    sequence="a story's keyframes in the order of its list",
    story="the whole line of a JSONL file: 30 keyframes, or as many as it has",
    obtain="Download the StoryStream folders George, Rabbids and The_Land (28, 12 and 8 GB; any of them) linked from "
    "github.com/TencentARC/SEED-Story, the newest story zip of each, and give the folder that holds them as --raw. "
    "Unpack each tar.gz in its folder for --num-proc and shards of normal size; in place it gives one per split. "
    "Unpacked files are preferred to archives beside them. Assumed, because it is not documented: JSONL files and "
    "folders with val or test in their names are those splits, all else is train; pictures go by folder and name.",
    tree="{George,Rabbids,The_Land}/*.tar.gz       or unpacked: **/{clip}/{clip}_keyframe_{H}-{M}-{S}-{ms}.jpg\n"
    "{George,Rabbids,The_Land}/*_story.zip    or unpacked: **/*.jsonl",
    not_needed=("older story zips", "intermediate .txt and .json files"),
    options={"subsets": Option(help="subsets to build, e.g. --subsets George The_Land")},
    tags=("cartoon", "long-story"),
)

SUBSET = re.compile(r"(?:^|/)(?:(?P<George>george)|(?P<Rabbids>rabbids)|(?P<The_Land>the[_ -]?land))(?![a-z])", re.I)
HELD_OUT = re.compile(r"(?<![a-z])(?:e?(?P<validation>val)(?:id|idation|set)?|(?P<test>test)(?:set)?)(?![a-z])", re.I)
RUN = 50  # stories


def units(raw: Raw, split: str, subsets: tuple[str, ...] = ()) -> list[Unit]:
    """A run of lines of a JSONL file is a unit; where the pictures are in a tar, all lines of the split are."""
    there, found = raw.once(releases), []
    if missing := sorted(set(subsets) - set(there)):
        raise Reject(f"no {', '.join(missing)}; the release has {', '.join(there) or 'none'}", file=str(raw.path))
    for name in sorted(subsets or there):
        runs, tar = there[name].runs[split], there[name].pictures.tar
        for part in [runs] if runs and tar else [[run] for run in runs]:
            records, size = sum(run["records"] for run in part), sum(run["size"] for run in part) or raw.size(tar)
            facts: dict[str, Any] = {"records": records, "size": size, "data": {"subset": name, "runs": part}}
            found.append(Unit(unit_id=part[0]["first"], split=split, **facts))
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence | Reject]:
    """The stories of a unit; from a tar, in the order in which they become complete."""
    release = raw.once(releases)[unit.data["subset"]]
    left = {}  # the stories whose pictures have not all come by in a tar
    for run in unit.data["runs"]:
        for _, _, keys, story in islice(release.stories(run["file"], run["offset"], run["line"]), run["records"]):
            if isinstance(story, Sequence) and (reason := run["repeats"].get(story.sequence_id)):
                story = refuse(story.sequence_id, story.file, reason, known=True)
            if isinstance(story, Sequence) and release.pictures.tar:
                left[story.sequence_id] = story, keys
            else:
                yield story
    try:
        for story_id in release.pictures.gather({one: keys for one, (_, keys) in left.items()}):
            yield left.pop(story_id)[0]
    except Reject as reject:
        reject.stories = tuple(f"story_stream/{story_id}" for story_id in left)
        raise


def refuse(story_id: str, file: str, reason: str, *, known: bool = False) -> Reject:
    """A line that is no story, or none of its own."""
    return Reject(reason, record=story_id, file=file, stories=(f"story_stream/{story_id}",), known=known)


def picture_key(path: object) -> str:
    """Folder and file name; a file name alone tells its folder: `000001_keyframe_0-0-1-5.jpg` lies in `000001/`."""
    *_, folder, name = ["", "", *(part for part in str(path).replace("\\", "/").split("/") if part not in ("", "."))]
    named = keyframe(name.partition(".")[0])
    return f"{named.video if named and not folder.isdecimal() else folder}/{name}"


def releases(raw: Raw) -> dict[str, "Release"]:
    """Subset -> its files, wherever its name stands in their paths."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in raw.names():
        subset = SUBSET.search(name)
        if subset and subset.lastgroup and not is_hidden(name):
            found[subset.lastgroup].append(name)
        elif not subset and name.endswith(".jsonl"):
            raise Reject("its path names no subset; put it below George, Rabbids or The_Land", file=name)
    return {name: Release(raw, name, names) for name, names in found.items()}


class Release:
    """One subset: where its texts and pictures are, and which lines are read together."""

    def __init__(self, raw: Raw, name: str, names: list[str]) -> None:
        self.name, self.pictures = name, KeyedPictures(raw, names, picture_key)
        self.texts, self.zip, self.files = find_texts(raw, names, ".jsonl")

    @cached_property
    def runs(self) -> dict[str, list[dict[str, Any]]]:
        """Split -> runs of lines: first story, file, byte and line, records, bytes of pictures, why lines are none."""
        counts = (
            f"{len(self.files)} JSONL files, {len(self.pictures.files)} pictures and {len(self.pictures.tars)} tars"
        )
        if not self.files or len(self.pictures.tars) + bool(self.pictures.files) != 1:
            raise Reject(f"{self.name} has {counts}; it needs texts, and pictures or one tar of them", file=self.name)
        runs: dict[str, list[dict[str, Any]]] = {split: [] for split in INFO.splits}
        shown: dict[str, tuple[str, str]] = {}  # picture -> the first story that shows it, and its split
        order = {split: -at for at, split in enumerate(INFO.splits)}  # what is held out comes first
        for file in sorted(self.files, key=lambda file: (order[self.split_of(file)], file)):
            run: dict[str, Any] = {"records": RUN}
            for offset, number, keys, story in self.stories(file):
                if run["records"] == RUN:
                    run = {"file": file, "offset": offset, "line": number, "records": 0, "size": 0, "repeats": {}}
                    run["first"] = f"{self.name}/{self.stem(file)}/{number}"
                    runs[self.split_of(file)].append(run)
                run["records"] += 1
                if isinstance(story, Sequence):  # else it is met again, and refused, when the unit is read
                    own = story.sequence_id, self.split_of(file)
                    others = {shown.setdefault(key, own) for key in keys}
                    held_out = {one for one, split in others if split != own[1]}
                    if held_out or own not in others:
                        names = ", ".join(sorted(held_out or {one for one, _ in others}))
                        run["repeats"][own[0]] = (
                            f"{names} showed {'some' if held_out else 'all'} of its pictures before"
                        )
                    run["size"] += self.pictures.size(keys)
        return runs

    def stories(
        self, file: str, start: int = 0, line: int = 1
    ) -> Iterator[tuple[int, int, list[str], Sequence | Reject]]:
        """First byte, number, pictures and story of the lines from one on; empty ones do not count."""
        for number, (offset, text) in enumerate(self.texts.lines(file, start), line):
            if not text.strip():
                continue
            story_id = f"{self.name}/{self.stem(file)}/{number}"
            try:
                yield offset, number, *self.parse(story_id, self.zip + file, text)
            except (ValueError, RecursionError) as error:
                what = "Python text, which is never evaluated" if text.startswith(b"{'") else "not a story"
                yield offset, number, [], refuse(story_id, self.zip + file, f"{what}: {error}")

    def parse(self, story_id: str, file: str, text: bytes) -> tuple[list[str], Sequence]:
        """The pictures and the story of one line; raises ValueError if it is none."""
        record = parse_json(text.decode("utf-8-sig"))
        fields = record if isinstance(record, dict) else {}
        images, captions = fields.pop("images", None) or fields.pop("image", None), fields.pop("captions", None)
        if not isinstance(images, list) or not isinstance(captions, list):
            raise ValueError("an object with the lists images and captions is expected")
        if len(images) != len(captions) or not images:
            raise ValueError(f"{len(images)} images and {len(captions)} captions")
        json.dumps(fields, ensure_ascii=False).encode()  # a lone surrogate is no text
        keys = [picture_key(path) for path in images]
        frames = {f"{story_id}-{at:02d}": at for at in range(len(keys))}

        def read(frame_id: str) -> Frame:
            at = frames[frame_id]
            data, source = self.pictures.read(story_id, keys[at])
            if data is None:
                reason = f"the release has no picture {images[at]!r}, or two of this folder and file name"
                raise Reject(reason, file=file, hint="Complete the raw release")
            pictures = (Picture(path=keys[at], data=data),)
            facts = {"timestamp": seconds(keys[at]), "file": source, "extras": {"image": images[at]}}
            return Frame(frame_id=frame_id, caption=captions[at], pictures=pictures, **facts)

        whole = (Window(story_id=story_id, start=0, stop=len(keys)),)
        facts: dict[str, Any] = {"file": file, "language": "en", "extras": {"subset": self.name, "line": fields}}
        return keys, Sequence(sequence_id=story_id, frame_ids=tuple(frames), read=read, windows=whole, **facts)

    def stem(self, file: str) -> str:
        """The name of a JSONL file, with the folders that not all of them share."""
        top = posixpath.commonpath([posixpath.dirname(f"/{name}") for name in self.files])
        return posixpath.relpath(f"/{file}", top).removesuffix(".jsonl")

    def split_of(self, file: str) -> str:
        """The split that the file, or a folder of it below the subset, is named after; the last such name counts."""
        found = [match.lastgroup for match in HELD_OUT.finditer(SUBSET.sub("", file, count=1))]
        return (found and found[-1]) or "train"


def fake(raw: RawWriter) -> None:
    """George as downloaded, with a broken line of every kind; Rabbids unpacked, with bad pictures; a short story."""
    broken = [line_of(4), line_of(5, captions=29), f"{line_of(6)}\n", '{"id": 9, "images": [\n', ["no story"]]
    write_subset(raw, "George", {"george_train": [*map(line_of, (1, 2, 3)), *broken], "george_val": [line_of(4)]})
    backslashes, bare, missing, torn = map(line_of, (3, 4, 5, 6))
    backslashes["images"] = [path.replace("/", "\\") for path in backslashes["images"]]
    bare["images"] = [path.partition("/")[2] for path in bare["images"]]
    train = [line_of(1), missing, torn, line_of(2)]
    write_subset(raw, "Rabbids", {"train": train, "test": [backslashes, bare]}, packed=False)
    (raw.path / "Rabbids/rabbids" / missing["images"][3]).unlink()
    raw.cut(f"Rabbids/rabbids/{torn['images'][5]}", 400)
    write_subset(raw, "The_Land", {"the_land": [line_of(1), line_of(2, length=10)]})


def line_of(clip: int, *, length: int = 30, captions: int | None = None) -> dict[str, Any]:
    """A line of a JSONL file: one keyframe in 7.25 seconds of an episode."""
    times = [divmod(at * 7250, 1000) for at in range(length)]
    images = [f"{clip:06d}/{clip:06d}_keyframe_0-{s // 60}-{s % 60}-{ms}.jpg" for s, ms in times]
    texts = [f"Part {at + 1}: the friends of clip {clip} walk on.\n" for at in range(length)]
    return {"id": clip % 2, "images": images, "captions": texts[:captions], "orders": list(range(length))}


def write_subset(raw: RawWriter, name: str, lists: dict[str, list[Any]], *, packed: bool = True) -> None:
    """Write the JSONL files and the pictures of a subset, in its two archives or unpacked."""
    folder, low = RawWriter(raw.path / name), name.lower()
    for stem, lines in lists.items():
        folder.json_lines(f"{low}_story/{stem}.jsonl", lines)
        for key in {picture_key(path) for line in lines if isinstance(line, dict) for path in line["images"]}:
            drawn = scene(("monkey", "man"), size=96, step=int(key.split("-")[2]), place=name + key[:6])
            folder.jpeg(f"{low}/{key}", drawn[0])
    for packing, form in ((f"{low}_story", "zip"), (low, "gztar")) if packed else ():
        folder.pack(packing, form)


class StoryStream(StoryBuilder):
    """StoryStream as a Hugging Face builder: `StoryStream(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

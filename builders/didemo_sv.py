"""DiDeMoSV: stories of three described moments of everyday Flickr videos, made for story continuation.

Raw tree (the folder may have any name, and may be nested in others, zipped or not):

    didemo/train.json, val.json, test.json    [{"desc_to_frame": [["a caption", "didemo/.../x.jpg"], ...]}, ...]
    didemo/.../x.jpg                          one picture per pair, in folders of any shape

An entry of a JSON file is a sequence, its first three pairs are the published story. Entries have no id that is known
of, so their position in the file serves: story `val/00012` is the 13th entry of `val.json`.

Defects of the source, and what is done about each:

* Frame paths start with `didemo/` and count from the folder above. They are looked up in the folder that holds the
  JSON files, under whatever name it has, and then below a folder `didemo` inside it.
* An entry with fewer than three pairs is no story; its frames are in the `frames` table.
* The published loader leaves out an entry of which any frame is missing, also one behind the third. So it is a
  reject, story and all, and the counts are those of the loader.
* The published loader looks captions up by frame path, so that of several descriptions of one frame, in one entry or
  in many, only the last in the file is ever shown. Here every pair keeps its own; where the loader shows another, that
  one is in the frame's `extras` as `loader_caption`. A frame that an entry has twice gets the ids `x.jpg`, `x.jpg#2`.
* The same three pairs in two splits would leak test data: the story counts in the first of train, val, test, and is
  a reject in the other. Twice in one split it stays, as in the published counts.
"""

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain, count
from typing import Any

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.info import Info, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Picture, Reject, Sequence, Unit, Window

INFO = Info(
    title="DiDeMoSV",
    summary="Stories of three described moments of everyday Flickr videos, one frame and one sentence each.",
    license="other",
    license_name="third-party-flickr-frames",
    rights="The frames are from videos that people put on Flickr, each under terms of its owner that the release does "
    "not state. Build them for your own research; do not publish them without the owners' permission.",
    third_party=True,
    languages=("en",),
    homepage="https://github.com/adymaharana/storydalle",
    citation="""@inproceedings{hendricks2017localizing,
  title={Localizing Moments in Video with Natural Language},
  author={Hendricks, Lisa Anne and Wang, Oliver and Shechtman, Eli and Sivic, Josef and Darrell, Trevor
    and Russell, Bryan},
  booktitle={ICCV}, year={2017}}
@inproceedings{maharana2022storydalle,
  title={StoryDALL-E: Adapting Pretrained Text-to-Image Transformers for Story Continuation},
  author={Maharana, Adyasha and Hannan, Darryl and Bansal, Mohit}, booktitle={ECCV}, year={2022}}""",
    splits={
        "train": Split(stories=11550, source_name="train"),
        "validation": Split(stories=2707, source_name="val"),
        "test": Split(stories=3378, source_name="test"),
    },
    sequence="an entry's described frames in the order of the file",
    story="the first 3 frames of an entry that has as many",
    frames_table=True,
    obtain="Download the 'DiDeMoSV dataset and associated files' linked from the README of "
    "github.com/adymaharana/storydalle. Unpack it or leave it zipped, and give its path as --raw.\n"
    "Assumed, since only the loader is public and not the layout: frames of any size and format Pillow reads, in any\n"
    "folders; the published counts are those usually quoted, not recounted.",
    tree="{folder}/train.json, {folder}/val.json, {folder}/test.json\n"
    "{folder}/... or {folder}/didemo/...: the frames, which the JSON files name didemo/...",
    not_needed=("didemo_use_embeds.pkl", "img_cache*.npy", "following_cache*.npy", "dalle_vocab.pkl"),
    tags=("didemo", "video", "story-continuation"),
)

LENGTH = 3
PREFIX = "didemo/"


class Release:
    """The three index files, a few MB each."""

    def __init__(self, raw: Raw) -> None:
        files = {split: f"{facts.source_name}.json" for split, facts in INFO.splits.items()}
        root = raw.locate(*files.values())
        if root is None:
            raise Reject(f"none of {', '.join(files.values())} is in the release")
        self.raw = root
        self.files = files
        self.entries = {split: root.json(file) for split, file in files.items()}
        self.loader_captions: dict[str, dict[str, Any]] = {}
        self.twins: dict[str, str] = {}  # a story -> the same one in an earlier split
        first: dict[str, tuple[str, str]] = {}
        for split, entries in self.entries.items():
            if not isinstance(entries, list):
                raise Reject(f"a list of entries is expected, found {type(entries).__name__}", file=files[split])
            self.loader_captions[split] = {path: text for entry in entries for text, path in pairs_of(entry) or ()}
            for number, entry in enumerate(entries):
                pairs, story = pairs_of(entry) or [], entry_id(split, number)
                if len(pairs) >= LENGTH:
                    where, other = first.setdefault(json.dumps(pairs[:LENGTH]), (split, story))
                    if where != split:
                        self.twins[story] = other

    def mean_picture(self) -> int:
        """Mean bytes of a picture."""
        others = (".json", ".npy", ".pkl")
        sizes = [self.raw.size(name) for name in self.raw.names() if not name.endswith(others)]
        return sum(sizes) // max(1, len(sizes))

    def picture_file(self, path: str) -> str:
        """Where the frame that the index calls `path` lies, "" if it is not there.

        Raises:
            Reject: if the path leaves the release.
        """
        return next((name for name in (path.removeprefix(PREFIX), path) if self.raw.exists(name)), "")


def entry_id(split: str, number: int) -> str:
    """`val/00012`: an entry by the file it is in and its position there."""
    return f"{INFO.splits[split].source_name}/{number:05d}"


def pairs_of(entry: Any) -> list[tuple[Any, str]] | None:
    """The (description, frame path) pairs of an entry in order, None if it does not have the published form."""
    try:
        pairs = [(text, path) for text, path in entry["desc_to_frame"]]
    except (KeyError, TypeError, ValueError):
        return None
    return pairs if all(isinstance(path, str) for _, path in pairs) else None


def units(raw: Raw, split: str) -> list[Unit]:
    """An entry is a unit."""
    release = raw.once(Release)
    size = release.mean_picture()
    return [
        Unit(
            unit_id=entry_id(split, number),
            split=split,
            size=size * len(pairs_of(entry) or ()),
            data={"number": number},
        )
        for number, entry in enumerate(release.entries[split])
    ]


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence]:
    """The one sequence of an entry, with its first three frames as the story."""
    release = raw.once(Release)
    entry, file = release.entries[unit.split][unit.data["number"]], release.files[unit.split]
    pairs = pairs_of(entry)
    is_story = pairs is None or len(pairs) >= LENGTH  # an entry that cannot be read was meant as one
    stories = (f"didemo_sv/{unit.unit_id}",) if is_story else ()
    refuse = partial(Reject, record=unit.unit_id, file=file, stories=stories)
    if not pairs:
        raise refuse(f"desc_to_frame is not a list of [description, frame path] pairs: {json.dumps(entry)[:200]}")
    if twin := release.twins.get(unit.unit_id):
        raise refuse(f"the same three frames and descriptions are story {twin}, of an earlier split")
    try:
        places = {path: release.picture_file(path) for _, path in pairs}
    except Reject as reject:
        raise refuse(reject.reason) from None
    if missing := [path for path, place in places.items() if not place]:
        reason = f"{len(missing)} of {len(places)} frames are missing from the release: {', '.join(missing)}"
        raise refuse(reason, hint="Complete the raw release")
    frames: dict[str, tuple[Any, str]] = {}
    for text, path in pairs:
        names = chain([path], (f"{path}#{use}" for use in count(2)))
        frames[next(name for name in names if name not in frames)] = (text, path)

    def read(frame_id: str) -> Frame:
        caption, path = frames[frame_id]
        shown = release.loader_captions[unit.split][path]
        return Frame(
            frame_id=frame_id,
            caption=caption,
            pictures=(Picture(path=path.rpartition("/")[2], data=release.raw.read(places[path])),),
            file=places[path],
            extras={"loader_caption": shown} if shown != caption else {},
        )

    yield Sequence(
        sequence_id=unit.unit_id,
        frame_ids=tuple(frames),
        read=read,
        windows=(Window(story_id=unit.unit_id, start=0, stop=LENGTH),) if is_story else (),
        file=file,
        language="en",
        extras={key: value for key, value in entry.items() if key != "desc_to_frame"},
    )


def fake(raw: RawWriter) -> None:
    """Sound entries of two to five moments in every split, and one of each kind of broken entry."""
    dog = moments("dog", "The dog runs to the water.", "A dog shakes itself. ", "the dog lies down")
    kite = moments("kite", "A child holds a kite.", "The kite flies.", "it is above the trees", "They go home.")
    cut = moments("cut", "Somebody opens the door.", "A cat comes in.", "The cat sits.", "The cat sleeps.")
    torn = moments("torn", "A boat.", "The boat turns.", "The boat is far away.")
    twice = [*dog[:2], ["Drops fly from the dog.", dog[1][1]]]
    number = [dog[0], [7, dog[1][1]], dog[2]]
    outside = [*dog[:2], ["Somewhere else.", "didemo/../../secret.jpg"]]
    write_release(
        raw,
        {
            "train": [
                dog,
                kite,
                moments("short", "A door.", "It closes."),
                cut,
                torn,
                twice,
                number,
                outside,
                [],
                "?",
            ],
            "val": [moments("band", "The band enters.", "They play.", "People clap."), kite],
            "test": [moments("snow", "It snows.", "Someone waves.", "A car stops.", "It drives off."), [["A word."]]],
        },
    )
    (raw.path / cut[3][1]).unlink()
    picture = raw.path / torn[1][1]
    picture.write_bytes(picture.read_bytes()[:400])


def moments(video: str, *captions: str) -> list[list[str]]:
    """The [description, frame path] pairs of an invented video."""
    return [[caption, f"{PREFIX}frames/{video}/{at}.jpg"] for at, caption in enumerate(captions)]


def write_release(raw: RawWriter, entries: dict[str, list[Any]]) -> None:
    """Write a synthetic release; `entries` maps source split -> the value of `desc_to_frame` of each entry."""
    for split, listed in entries.items():
        raw.json(f"{PREFIX}{split}.json", [{"desc_to_frame": pairs} for pairs in listed])
        for _, path in (pair for pairs in listed for pair in pairs if len(pair) == 2 and ".." not in pair[1]):
            video, at = path.removesuffix(".jpg").split("/")[-2:]
            raw.jpeg(path, scene((video, "passer-by")[: 1 + int(at) % 2], size=160, step=int(at), place=video)[0])


class DiDeMoSV(StoryBuilder):
    """DiDeMoSV as a Hugging Face builder: `DiDeMoSV(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

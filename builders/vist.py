"""VIST: stories that people wrote about five Flickr photos of an album, one sentence per photo.

Raw tree (files are found by their own names, in whatever folders they lie, zipped or not):

    sis/{train,val,test}.story-in-sequence.json           the stories
    dii/{train,val,test}.description-in-isolation.json    descriptions of single photos, optional
    images/{photo id}.jpg, or images/{train,val,test}/{photo id}.jpg, .jpeg, .png or .gif

A JSON file is an object of the arrays `albums`, `images` and `annotations`; an annotation is a list of one object.

Defects of the source, and what is done about each:

* The sentences of a story come in any order: they are sorted by `worker_arranged_photo_order`, which the loaders of
  AR-LDM and GILL do not do. A story whose places are not five different numbers is a reject.
* Stories with fewer or more than five sentences are rejects, and so are those with a photo that is not there (many
  were taken off Flickr) or does not decode. Only the story is lost: others with the same photo keep theirs.
* Sentences without a `story_id` cannot be placed: one reject counts them.
* A story id in two splits would leak test data: it counts in the first of train, val, test, and is a reject in the
  others. Within a split, the sentences of an id are one story, however far apart they stand.
* Descriptions pooled over the splits, as AR-LDM pools them, leak as well: a photo's `extras` have all descriptions
  from the file of the story's own split and none from the others.
* `original_text` is the caption; the lower-cased, tokenised `text`, which GILL uses, is in `extras`.
* A photo on disk twice is taken as JPEG rather than PNG rather than GIF, and then from the largest file.
* Photos are stored as found: downloaders that resize them, or failed and wrote an empty file, are not undone.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.info import Info, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Picture, Reject, Sequence, Unit, Window, check_text

INFO = Info(
    title="VIST",
    summary="Visual Storytelling: stories of five Flickr photos, with one sentence per photo.",
    license="other",
    license_name="flickr-photos-licensed-one-by-one",
    rights="Every photo belongs to the person who put it on Flickr, under the licence chosen there; the number in the "
    "photo's `license`, where the release has it, is Flickr's code for it. Check it before you publish a photo.",
    third_party=True,
    languages=("en",),
    homepage="https://visionandlanguage.net/VIST",
    citation="""@inproceedings{huang2016visual,
  title={Visual Storytelling},
  author={Huang, Ting-Hao Kenneth and Ferraro, Francis and Mostafazadeh, Nasrin and Misra, Ishan and Agrawal, Aishwarya
    and Devlin, Jacob and Girshick, Ross and He, Xiaodong and Kohli, Pushmeet and Batra, Dhruv and others},
  booktitle={NAACL}, year={2016}}""",
    splits={
        "train": Split(stories=40155, source_name="train"),
        "validation": Split(stories=4990, source_name="val"),
        "test": Split(stories=5055, source_name="test"),
    },
    sequence="the photos of a story in the order its worker arranged them",
    story="all 5 photos of a story id",
    obtain="Download the Stories of Images-in-Sequence (SIS), the Descriptions of Images-in-Isolation (DII) and the "
    "images from visionandlanguage.net/VIST/dataset.html; or fetch the photos from the `url_o` or `url_m` that the "
    "JSON files name, as {photo id}.jpg. Unpack all below one folder, and give it (or a zip of it) as --raw.\n"
    "Assumed, since no complete release was seen: ids are text or numbers, photos lie in any folders; the published\n"
    "counts are those usually quoted, and include the stories of which photos are gone.",
    tree="**/{train,val,test}.story-in-sequence.json\n"
    "**/{photo id}.jpg (or .jpeg, .png, .gif), in one folder or one per split\n"
    "optional: **/{train,val,test}.description-in-isolation.json (or descriptions-in-isolation)",
    not_needed=("*.tar.gz", "{train,val,test}.description-in-sequence.json", "vist.h5"),
    tags=("flickr", "photos", "visual-storytelling"),
)

LENGTH = 5
STORIES = ("story-in-sequence",)
DESCRIPTIONS = ("description-in-isolation", "descriptions-in-isolation")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif")  # the preferred first


class Release:
    """Where the photos are, and the annotation files of each split, indexed when first asked for."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.splits: dict[str, Annotations] = {}
        self.photos: dict[str, str] = {}
        for name in raw.names():
            path = PurePosixPath(name)
            if path.suffix.lower() in SUFFIXES:
                self.photos[path.stem] = min(self.photos.get(path.stem, name), name, key=self.rank)
        if not self.photos or not any(self.find(facts.source_name, STORIES) for facts in INFO.splits.values()):
            reason = f"{len(self.photos)} photos, where photos and a *.story-in-sequence.json are expected"
            raise Reject(reason, file=str(raw.path))

    def rank(self, name: str) -> tuple[int, int, str]:
        """Which file of a photo is best; the least is."""
        return SUFFIXES.index(PurePosixPath(name).suffix.lower()), -self.raw.size(name), name

    def find(self, source_name: str, kinds: tuple[str, ...]) -> str:
        """The one file `{source_name}.{kind}.json`, "" when there is none."""
        wanted = {f"{source_name}.{kind}.json" for kind in kinds}
        found = [name for name in self.raw.names("", ".json") if name.rpartition("/")[2] in wanted]
        if len(found) > 1:
            raise Reject(f"{' and '.join(found)} are the same file of the release; keep one", file=found[0])
        return found[0] if found else ""

    def split(self, split: str) -> "Annotations":
        """The annotations of a split."""
        if split not in self.splits:
            self.splits[split] = Annotations(self, INFO.splits[split].source_name)
        return self.splits[split]


class Annotations:
    """The stories of one split by story id, and the descriptions, photos and albums by theirs."""

    def __init__(self, release: Release, source_name: str) -> None:
        self.file = release.find(source_name, STORIES)
        described = release.find(source_name, DESCRIPTIONS)
        read = release.raw.grouped
        sis = read(self.file, annotations="story_id", images="id", albums="id") if self.file else {}
        dii = read(described, annotations="photo_flickr_id", images="id", albums="id") if described else {}
        self.stories = sis.get("annotations", {})
        self.descriptions = dii.get("annotations", {})
        self.photos = [table["images"] for table in (dii, sis) if table]
        self.albums = [table["albums"] for table in (dii, sis) if table]
        if self.file and not self.stories:
            raise Reject("the file has no annotations", file=self.file)


def units(raw: Raw, split: str) -> list[Unit]:
    """A story is a unit."""
    release = raw.once(Release)
    earlier = list(INFO.splits)[: list(INFO.splits).index(split)]
    found = []
    for story, sentences in release.split(split).stories.items():
        known = next((other for other in earlier if story and story in release.split(other).stories), "")
        size = sum(raw.size(release.photos.get(photo_of(sentence), "")) for sentence in sentences)
        data = {"story": story, "known_in": known}
        found.append(Unit(unit_id=story or "(no story_id)", split=split, records=len(sentences), size=size, data=data))
    return found


def photo_of(sentence: Any) -> str:
    """The photo id of an annotation, "" if it has none."""
    return str(sentence.get("photo_flickr_id", "")) if isinstance(sentence, dict) else ""


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence]:
    """The one story of a unit, or the reason why it cannot be used."""
    release, story = raw.once(Release), unit.data["story"]
    annotations = release.split(unit.split)
    sentences = annotations.stories[story]
    if not story:
        raise Reject(f"sentences without a story_id: {len(sentences)}", record=unit.unit_id, file=annotations.file)
    refuse = partial(Reject, record=story, file=annotations.file, stories=(f"vist/{story}",))
    if unit.data["known_in"]:
        raise refuse(f"the {unit.data['known_in']} split has a story of this id already")
    if len(sentences) != LENGTH:
        raise refuse(f"{len(sentences)} sentences, where a story has {LENGTH}")
    places = [str(sentence.get("worker_arranged_photo_order")) for sentence in sentences]
    if not all(map(str.isdecimal, places)) or len(set(map(int, places))) != LENGTH:
        raise refuse(f"the places {', '.join(places)} of the photos are not {LENGTH} different numbers")
    ordered = sorted(sentences, key=lambda sentence: int(sentence["worker_arranged_photo_order"]))
    if missing := [photo_of(s) or "(no id)" for s in ordered if photo_of(s) not in release.photos]:
        raise refuse(f"photos that are not in the release, {len(missing)} of {LENGTH}: {', '.join(missing)}")
    frames = {f"{story}/{number}": sentence for number, sentence in enumerate(ordered)}
    album = merged(annotations.albums, str(ordered[0].get("album_id")))
    yield Sequence(
        sequence_id=story,
        frame_ids=tuple(frames),
        read=lambda frame_id: read_frame(release, annotations, frame_id, frames[frame_id]),
        windows=(Window(story_id=story, start=0, stop=LENGTH),),
        file=annotations.file,
        language="en",
        extras={"album": album} if album else {},
    )


def read_frame(release: Release, annotations: Annotations, frame_id: str, sentence: dict[str, Any]) -> Frame:
    """One photo with its sentence; all else that is known of the two is in `extras`."""
    photo = photo_of(sentence)
    file = release.photos[photo]
    caption = check_text(sentence.get("original_text"), name="original_text", record=frame_id, file=annotations.file)
    extras = {
        "sentence": {key: value for key, value in sentence.items() if key != "original_text"},
        "descriptions": annotations.descriptions.get(photo, []),
        "photo": merged(annotations.photos, photo),
    }
    return Frame(
        frame_id=frame_id,
        caption=caption,
        pictures=(Picture(path=PurePosixPath(file).name, data=release.raw.read(file)),),
        file=file,
        extras={name: value for name, value in extras.items() if value},
    )


def merged(tables: list[Any], wanted: str) -> dict[str, Any]:
    """What all entries of an id say; where they differ the last, which is of the stories' own file, is right."""
    return {key: value for table in tables for entry in table.get(wanted, ()) for key, value in entry.items()}


def fake(raw: RawWriter) -> None:
    """Three splits with a photo folder each, and one story of every kind that is refused."""
    whole = (0, 1, 2, 3, 4)
    refused = {"103": whole[:4], "104": (*whole, 5), "105": (0, 1, 1, 3, 4), "106": whole, "107": whole}
    write_split(raw, "train", {"101": whole, "102": (4, 2, 0, 1, 3), **refused})
    write_split(raw, "val", {"201": (3, 4, 0, 1, 2), "101": whole, "": (0,)}, suffix="png")
    write_split(raw, "test", {"301": whole, "302": (1, 0, 3, 2, 4), "303": whole})
    (raw.path / "images/test/30303.jpg").unlink()
    torn = raw.path / "images/train/10602.jpg"
    torn.write_bytes(torn.read_bytes()[:500])
    file = "sis/train.story-in-sequence.json"
    text = (raw.path / file).read_text(encoding="utf-8")
    raw.text(file, text.replace('"original_text": "Step 2 of 107', '"unknown_text": "Step 2 of 107'))


def write_split(raw: RawWriter, split: str, stories: dict[str, tuple[int, ...]], *, suffix: str = "jpg") -> None:
    """Write a split; `stories` maps a story id to the places of its sentences in the order of the file."""
    album = {"id": f"album-{split}", "title": f"Walks of {split}", "photos": "30", "owner": "somebody"}
    images, sentences, descriptions = {}, [], []
    for story, place in [(story, place) for story, places in stories.items() for place in places]:
        photo, walkers = f"{story or 9}{place:02d}", ("ann", "ben")[: 1 + place % 2]
        ids = {"album_id": album["id"], "photo_flickr_id": photo, "worker_id": "W1"}
        url = f"https://example.org/{photo}.{suffix}"
        images[photo] = {"id": photo, "album_id": album["id"], "url_o": url, "license": "4", "tags": "walk hill"}
        text = {"original_text": f"Step {place} of {story}: we walked on.", "text": f"step {place} : we walked on ."}
        told = {"story_id": story, "storylet_id": f"{len(sentences)}", "worker_arranged_photo_order": place}
        told = (told if story else {}) | {"setting": "first-2-pick-and-tell", "tier": "story-in-sequence"}
        sentences.append([{**ids, **text, **told}])
        for words in ("A hill.", "People on a hill in the sun."):
            order = {"photo_order_in_story": place, "tier": "descriptions-in-isolation"}
            descriptions.append([{**ids, "original_text": words, "text": words.lower(), **order}])
        drawn = scene(walkers, size=160, step=place, place=f"{story} hill")[0]
        (raw.jpeg if suffix == "jpg" else raw.png)(f"images/{split}/{photo}.{suffix}", drawn)
    shared = {"albums": [album], "images": list(images.values())}
    raw.json(f"sis/{split}.story-in-sequence.json", {**shared, "annotations": sentences})
    raw.json(f"dii/{split}.description-in-isolation.json", {**shared, "annotations": descriptions})


class VIST(StoryBuilder):
    """VIST as a Hugging Face builder: `VIST(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

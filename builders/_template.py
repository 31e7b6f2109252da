"""My Stories: replace this line by what the dataset is; `openstory list` shows it.

Raw tree (replace by a listing of the real one):

    stories/{story}/story.json      {"split": "train", "pages": [{"picture": "1.png", "text": "..."}, ...]}
    stories/{story}/{picture}

Defects of the source, and what is done about each:

* A page may name a picture that is not there: that page is a reject, and its story is lost with it.
* A story.json may be damaged: its story is a reject.
"""

from collections.abc import Iterator

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.info import Info, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Picture, Reject, Sequence, Unit, Window, costing

INFO = Info(
    title="My Stories",
    summary="One sentence for the dataset card.",
    license="cc-by-4.0",
    rights="Who owns the pictures and the texts, and what may be done with them.",
    languages=("en",),
    citation="@misc{my_stories, title={My Stories}}",
    splits={"train": Split(stories=3), "test": Split(stories=1)},  # what the paper reports; None if it does not
    sequence="a story's pages in order",
    story="the whole story",  # and set frames_table=True if stories overlap or a frame has several pictures
    obtain="Where to get the raw release, step by step.",
    tree="stories/{story}/story.json, stories/{story}/{picture}",
)


def units(raw: Raw, split: str) -> list[Unit]:
    """A story is a unit: list the independent pieces of work of one split, in a fixed order."""
    found = []
    for name in raw.names("stories/", "/story.json"):
        if split_of(raw, name) == split:
            found.append(Unit(unit_id=name.split("/")[1], split=split, data={"file": name}))
    return found


def split_of(raw: Raw, file: str) -> str:
    """The split a story names; "train" if it names none, or its file is damaged, for `sequences` to refuse it."""
    try:
        named = raw.json(file)["split"]
        return named if named in INFO.splits else "train"
    except (Reject, KeyError, TypeError):
        return "train"


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence]:
    """The one story of a unit, or the reason why it cannot be used, which then counts as a story that is lost."""
    with costing(f"template/{unit.unit_id}"):
        yield story_of(raw, unit)


def story_of(raw: Raw, unit: Unit) -> Sequence:
    """Parse a unit: name its frames in order, say how to read one, and which windows are published stories."""
    file = unit.data["file"]
    story = raw.json(file)
    if not isinstance(story, dict) or story.get("split") != unit.split or not story.get("pages"):
        raise Reject("a story has a split and pages", record=unit.unit_id, file=file)
    pages = {f"{unit.unit_id}/{number}": page for number, page in enumerate(story["pages"], 1)}

    def read(frame_id: str) -> Frame:
        page = pages[frame_id]
        path = f"stories/{unit.unit_id}/{page['picture']}"
        picture = Picture(path=page["picture"], data=raw.read(path))
        return Frame(frame_id=frame_id, caption=page["text"], pictures=(picture,), file=path)

    return Sequence(
        sequence_id=unit.unit_id,
        frame_ids=tuple(pages),
        read=read,
        windows=(Window(story_id=unit.unit_id, start=0, stop=len(pages)),),
        file=file,
        language="en",
    )


def fake(raw: RawWriter) -> None:
    """A tiny release in the true layout, with one broken record of every kind the format can have."""
    raw.text("stories/torn/story.json", '{"split": "test", "pages": [')
    for story, split, texts in (
        ("kite", "train", ["The wind blows.", "The kite flies away."]),
        ("boat", "train", ["A boat.", "A bigger boat.", "The sea."]),
        ("lost", "train", ["A page whose picture is missing."]),
        ("empty", "train", []),
        ("moon", "test", ["The moon.", "The night."]),
    ):
        pages = [{"picture": f"{number}.jpg", "text": text} for number, text in enumerate(texts, 1)]
        raw.json(f"stories/{story}/story.json", {"split": split, "pages": pages})
        for number, page in enumerate(pages if story != "lost" else ()):
            raw.jpeg(f"stories/{story}/{page['picture']}", scene((story,), step=number, place=story)[0])


class MyStories(StoryBuilder):
    """My Stories as a Hugging Face builder: `MyStories(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

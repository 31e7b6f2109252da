"""Small sound releases of every builder, in every form it reads: each fault is put into a copy of one of them.

They are written by what the builders' own `fake()` are made of, less their broken records, so that whatever is
refused is the fault that was put in.
"""

import json
from dataclasses import dataclass

from openstory_hf.builders import (
    african_storybook,
    clevr_sv,
    didemo_sv,
    flintstones_sv,
    openstory_pp,
    pororo_sv,
    story_salon,
    story_stream,
    vist,
)

from openstory_hf import catalogue
from openstory_hf.fakes import RawWriter
from openstory_hf.forms.keyed import write_saved
from openstory_hf.forms.strips import write_index


def african_storybook_release(raw):
    for name in ("en/0001_the-kite", "fr/0001_le-cerf-volant", "en/0002_the-market"):
        african_storybook.write_book(raw, name, ["One.", "Two.", "Three."], pictures=4)
    raw.text("asp-imagebank/README.md", "ID# | License\n--- | ---\n0001 | _Kite_ | CC BY\n")


def clevr_release(raw):
    vectors = {name: vector for story in (100, 101, 173) for name, vector in clevr_sv.write_story(raw, story).items()}
    raw.objects(clevr_sv.VECTORS, vectors)
    raw.json("scenes/CLEVR_new_000100.json", {"objects": []})


def didemo_release(raw):
    told = {
        "train": [
            ("dog", "It runs.", "It jumps.", "It sleeps."),
            ("kite", "A kite.", "It flies.", "It falls.", "Up."),
        ],
        "val": [("band", "They enter.", "They play.", "People clap.")],
        "test": [("snow", "It snows.", "A car stops.", "It drives off.")],
    }
    entries = {split: [didemo_sv.moments(*story) for story in stories] for split, stories in told.items()}
    didemo_sv.write_release(raw, entries)


def flintstones_release(variant):
    episodes = {"train": {"s_01_e_01": 6}, "val": {"s_01_e_02": 5}}
    return lambda raw: flintstones_sv.write_release(raw, episodes, variant=variant)


def openstory_tar(raw):
    keys = [f"a_b-cKEY_01_keyframe_0-{number}-5-{number}0" for number in range(4)]
    raw.samples("tars/00000.tar", {key: openstory_pp.drawn(number) for number, key in enumerate(keys)})
    raw.samples("tars/00001.tar", {f"{number:09d}": openstory_pp.drawn(number) for number in range(2)})


def openstory_table(write):
    def release(raw):
        rows = []
        for number in range(6):
            sample = openstory_pp.drawn(number)
            facts = sample["json"].decode()
            rows.append({"__key__": f"{number:09d}", "jpg": sample["jpg"], "png": sample["png"], "json": facts})
        write(raw, rows)

    return release


def pororo_release(raw):
    first, second = "Pororo_ENGLISH1_1_ep1", "Pororo_ENGLISH1_2_ep2"
    index = pororo_sv.draw(raw, {first: 6, second: 5})
    start = pororo_sv.segment_id
    write_index(raw, {"train": [start(first, 1), start(first, 2)], "val": [], "test": [start(second, 1)]}, **index)


def salon_release(raw):
    for book in ("Bloom/000001", "Book/000002"):
        story_salon.write_book(raw, book, [str(page) for page in range(7, 13)])
    raw.text("PDF_test_set.txt", "000002\n")


def stream_release(packed):
    def release(raw):
        lines = [story_stream.line_of(clip, length=6) for clip in (1, 2, 3)]
        lists = {"george_train": lines[:2], "george_val": lines[2:]}
        story_stream.write_subset(raw, "George", lists, packed=packed)

    return release


def vist_release(raw):
    whole = (0, 1, 2, 3, 4)
    vist.write_split(raw, "train", {"101": whole, "102": (4, 2, 0, 1, 3)})
    vist.write_split(raw, "val", {"201": whole}, suffix="png")


RELEASES = {
    "african_storybook": african_storybook_release,
    "clevr_sv": clevr_release,
    "didemo_sv": didemo_release,
    "flintstones_sv-B": flintstones_release("B"),
    "flintstones_sv-C": flintstones_release("C"),
    "openstory_pp-tar": openstory_tar,
    "openstory_pp-parquet": openstory_table(lambda raw, rows: raw.table("set/0.parquet", rows)),
    "openstory_pp-arrow": openstory_table(lambda raw, rows: write_saved(raw, "saved", rows)),
    "pororo_sv": pororo_release,
    "story_salon": salon_release,
    "story_stream-packed": stream_release(packed=True),
    "story_stream-files": stream_release(packed=False),
    "vist": vist_release,
}


def builder_of(release):
    """The builder that reads a release."""
    return catalogue.get(release.partition("-")[0])


@dataclass(frozen=True)
class Slot:
    """A picture of a release that only one frame shows, and where it is kept."""

    release: str
    file: str
    frame: str
    member: str = ""  # of a tar
    row: int = -1  # of a table


SLOTS = (
    Slot("african_storybook", "asp-imagebank/medium/0002/03.jpg", "0002/02"),
    Slot("clevr_sv", "images/CLEVR_new_000101_2.png", "000101_2"),
    Slot("didemo_sv", "didemo/frames/kite/1.jpg", "didemo/frames/kite/1.jpg"),
    Slot("openstory_pp-tar", "tars/00001.tar", "tars/00001.tar/000000001", member="000000001.jpg"),
    Slot("openstory_pp-parquet", "set/0.parquet", "set/0.parquet/3", row=3),
    Slot("pororo_sv", "Pororo_ENGLISH1_1/Pororo_ENGLISH1_1_ep1/1.png", "Pororo_ENGLISH1_1/Pororo_ENGLISH1_1_ep1/1"),
    Slot("story_salon", "Image_inpainted/Bloom/000001/12.jpg", "Bloom/000001/12"),
    Slot("story_stream-files", "George/george/000001/000001_keyframe_0-0-14-500.jpg", "George/george_train/1-02"),
    Slot("vist", "images/train/10102.jpg", "101/2"),
)


class Damaged(RawWriter):
    """A copy of a sound release, with what it takes to damage it."""

    def edit(self, name, change):
        """Replace the bytes of a file by what `change` makes of them."""
        self.bytes(name, change((self.path / name).read_bytes()))

    def edit_json(self, name, change):
        """Replace a JSON file by what `change` makes of its value, which it may also change in place."""

        def changed(data):
            value = json.loads(data)
            new = change(value)
            return json.dumps(value if new is None else new).encode()

        self.edit(name, changed)

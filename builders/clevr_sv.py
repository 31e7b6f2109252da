"""CLEVR-SV: four-picture stories in which one rendered object after the other is put on a table (StoryGAN).

Raw tree, the folder `clevr_dataset` of the StoryGAN repository, or what the generator writes for the full set:

    CLEVR_dict.npy                         dict: picture name -> 75 numbers, see below; a pickle inside
    images/CLEVR_new_{NNNNNN}_{1-4}.png    320x240 RGBA; picture k shows the first k objects of story NNNNNN
    scenes/CLEVR_new_{NNNNNN}.json         the generator's ground truth, optional; not in the StoryGAN repository

A vector is four blocks of 18 (one-hot shape, colour, material and size, then x, y, z; zero from block k on) and the
direction that is right for the camera. The classes' names are the generator's, and the pictures bear them out.

Defects of the source, and what is done about each:

* There is no text. Captions are empty; `extras` has the vector, its objects and a plain English list of them.
* The released code ends train with story 172 and starts test with it: it stays in train, the one in test is a reject.
* Story 196 has pictures but no vectors, and the released code fails on it. Any story without its four pictures and its
  four vectors is a reject, also one of which only the vectors are there because the download is not complete.
* The released code knows no split for the numbers of a set generated anew: `units` asks for it instead of guessing.
* The generator can write shorter vectors as well (13 + 3, RGB colours): rejects, with the length.
* Alpha is opaque throughout and the released code drops it; the PNG bytes stay as they are.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from openstory_hf.builder import StoryBuilder
from openstory_hf.fakes import RawWriter, scene
from openstory_hf.info import Info, Option, Split
from openstory_hf.raw import Raw
from openstory_hf.records import Frame, Picture, Reject, Sequence, Unit, Window, costing

INFO = Info(
    title="CLEVR-SV",
    summary="Stories of four rendered pictures, each with one more object than the last, described by attribute "
    "vectors instead of captions.",
    license="other",
    license_name="not-stated",
    rights="Rendered by the authors of StoryGAN with a changed CLEVR generator; their repository states no licence. "
    "Ask them before you publish the pictures.",
    languages=("zxx",),  # ISO 639: no linguistic content
    homepage="https://github.com/yitong91/StoryGAN",
    citation="""@inproceedings{li2019storygan,
  title={StoryGAN: A Sequential Conditional GAN for Story Visualization},
  author={Li, Yitong and Gan, Zhe and Shen, Yelong and Liu, Jingjing and Cheng, Yu and Wu, Yuexin and Carin, Lawrence
    and Carlson, David and Gao, Jianfeng},
  booktitle={CVPR}, year={2019}}""",
    splits={"train": Split(stories=73, source_name="100-172"), "test": Split(stories=25, source_name="172-196")},
    sequence="a scene, one object after the other",
    story="the whole scene: 4 pictures",
    obtain="Clone github.com/yitong91/StoryGAN and give its folder clevr_dataset as --raw. Of the 98 stories the "
    "released code counts, 73 are built for train and 23 for test: 172 is counted twice, 196 has no vectors.\n"
    "The paper's set (10,000 training stories) was not released. Generate one with "
    "github.com/CrickWu/Clevr-for-StoryGAN (4 objects, vectors of 18 * 4 + 3 numbers), give its folder inc_output as "
    "--raw, and choose the numbers of train and test. That its files lie like the released ones is assumed.",
    tree="CLEVR_dict.npy, images/CLEVR_new_{NNNNNN}_{1-4}.png\noptional: scenes/CLEVR_new_{NNNNNN}.json",
    not_needed=("CLEVR_scenes*.json", "CLEVR_single_obj_dict_rgb.npy"),
    options={
        "train_stories": Option(help="ranges of story numbers to train on", default=("100-172",)),
        "test_stories": Option(help="ranges of story numbers to test on", default=("172-196",)),
    },
    tags=("clevr", "synthetic"),
)

LENGTH = 4
VECTORS = "CLEVR_dict.npy"
NAME = re.compile(r"CLEVR_new_(?P<story>\d+)_\d+\.png")
CLASSES = {
    "shape": ("cube", "sphere", "cylinder"),
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    "material": ("rubber", "metal"),
    "size": ("large", "small"),
}
BLOCK = sum(map(len, CLASSES.values())) + 3
OBJECTS = LENGTH * BLOCK


class Release:
    """The vectors, and the picture names of every story that has a picture or a vector."""

    def __init__(self, raw: Raw) -> None:
        root = raw.locate(VECTORS)
        if root is None:
            raise Reject(f"{VECTORS} is not in the release")
        self.raw = root
        self.vectors = root.object_npy(VECTORS)
        pictures = [name.removeprefix("images/") for name in root.names("images/CLEVR_new_", ".png")]
        if not isinstance(self.vectors, dict) or not pictures:
            kind = type(self.vectors).__name__
            raise Reject(f"{kind} and {len(pictures)} pictures in images/, expected a dict of vectors", file=VECTORS)
        self.pictures: dict[str, list[str]] = defaultdict(list)
        for name in sorted({*pictures, *self.vectors}):
            match = NAME.fullmatch(name)
            if match is None:
                raise Reject("not a name of the form CLEVR_new_{number}_{picture}.png", record=name, file=VECTORS)
            self.pictures[match["story"]] += [name] if root.exists(f"images/{name}") else []


def units(raw: Raw, split: str, train_stories: tuple[str, ...], test_stories: tuple[str, ...]) -> list[Unit]:
    """A story is a unit."""
    release = raw.once(Release)
    train, test = numbers(train_stories), numbers(test_stories)
    if left := [story for story in release.pictures if not any(int(story) in chosen for chosen in train + test)]:
        ranges = f"train has {', '.join(train_stories)}, test has {', '.join(test_stories)}"
        hint = "Choose with --train-stories FIRST-LAST ... and --test-stories FIRST-LAST ..."
        raise Reject(f"{len(left):,} stories, {left[0]} to {left[-1]}, are in no split: {ranges}", hint=hint)
    return [
        Unit(
            unit_id=story,
            split=split,
            records=LENGTH,
            size=sum(release.raw.size(f"images/{name}") for name in names),
            data={"in_train": any(int(story) in chosen for chosen in train)},
        )
        for story, names in release.pictures.items()
        if any(int(story) in chosen for chosen in (train if split == "train" else test))
    ]


def numbers(ranges: tuple[str, ...]) -> list[range]:
    """`("100-172",)` -> `[range(100, 173)]`."""
    found = []
    for text in ranges:
        match = re.fullmatch(r"(\d+)-(\d+)", text)
        if match is None:
            raise Reject(f"{text!r} is not a range of story numbers such as 100-172")
        found.append(range(int(match[1]), int(match[2]) + 1))
    return found


def sequences(raw: Raw, unit: Unit) -> Iterator[Sequence]:
    """The one story of a unit, or the reason why it cannot be used."""
    with costing(f"clevr_sv/{unit.unit_id}"):
        yield story_of(raw.once(Release), unit)


def story_of(release: Release, unit: Unit) -> Sequence:
    """The story of a unit."""
    story = unit.unit_id
    refuse = partial(Reject, record=story, file=VECTORS)
    if unit.split == "test" and unit.data["in_train"]:
        raise refuse("the story is in both splits, and stays in train", hint="Or give --test-stories without it")
    wanted = [f"CLEVR_new_{story}_{k}.png" for k in range(1, LENGTH + 1)]
    pictures, vectors = release.pictures[story], [name for name in wanted if name in release.vectors]
    if odd := sorted({*wanted}.symmetric_difference(pictures).union({*wanted}.difference(vectors))):
        counts = f"{len(pictures)} pictures and {len(vectors)} vectors where {LENGTH} of each are expected"
        raise refuse(f"{counts}; missing or unexpected: {', '.join(odd)}")
    file = f"scenes/CLEVR_new_{story}.json"
    return Sequence(
        sequence_id=story,
        frame_ids=tuple(f"{story}_{k}" for k in range(1, LENGTH + 1)),
        read=partial(read_frame, release),
        windows=(Window(story_id=story, start=0, stop=LENGTH),),
        file=VECTORS,
        language="zxx",
        extras={"scene": release.raw.json(file)} if release.raw.exists(file) else {},
    )


def read_frame(release: Release, frame_id: str) -> Frame:
    """One picture and what its vector says."""
    name = f"CLEVR_new_{frame_id}.png"
    vector = np.asarray(release.vectors[name], dtype=np.float64)
    if vector.shape != (OBJECTS + 3,) or not np.isfinite(vector).all():
        what = f"a vector of shape {vector.shape}, expected {OBJECTS + 3} finite numbers"
        raise Reject(what, record=frame_id, file=VECTORS)
    objects = read_objects(vector.tolist(), int(frame_id.rpartition("_")[2]), frame_id)
    words = (" ".join(item[key] for key in ("size", "color", "material", "shape")) for item in objects)
    return Frame(
        frame_id=frame_id,
        caption="",
        pictures=(Picture(path=name, data=release.raw.read(f"images/{name}")),),
        file=f"images/{name}",
        extras={
            "description": ", ".join(words),
            "objects": objects,
            "right": vector[OBJECTS:].tolist(),
            "vector": vector.tolist(),
        },
    )


def read_objects(vector: list[float], count: int, frame_id: str) -> list[dict[str, Any]]:
    """The objects in the first `count` blocks: a word for every kind of class, and the position x, y, z."""
    objects = []
    for start in range(0, count * BLOCK, BLOCK):
        found: dict[str, Any] = {}
        at = start
        for key, words in CLASSES.items():
            one_hot = vector[at : at + len(words)]
            if sorted(one_hot) != [0] * (len(words) - 1) + [1]:
                what = f"the {key} of object {start // BLOCK + 1} is {one_hot}, which names none of {', '.join(words)}"
                raise Reject(what, record=frame_id, file=VECTORS)
            found[key] = words[one_hot.index(1)]
            at += len(words)
        objects.append(found | {"position": vector[at : start + BLOCK]})
    if any(vector[count * BLOCK : OBJECTS]):
        raise Reject(f"the vector has more objects than the {count} of the picture", record=frame_id, file=VECTORS)
    return objects


def fake(raw: RawWriter) -> None:
    """Stories 100, 101 and 172 are good for train, 173 and 174 for test; every later one is broken in another way."""
    stories = [100, 101, 172, 173, 174, 175, 176, 177, 178, 179, 195, 196]
    vectors = {name: vector for story in stories for name, vector in write_story(raw, story).items()}
    images = raw.path / "images"
    (images / "CLEVR_new_000175_3.png").unlink()
    raw.cut("images/CLEVR_new_000176_2.png", 300)
    vectors["CLEVR_new_000177_1.png"] = vectors["CLEVR_new_000177_1.png"][:16]  # the generator's other vectors
    vectors["CLEVR_new_000178_1.png"][[0, 1]] = 0.5
    vectors["CLEVR_new_000179_2.png"] = vectors["CLEVR_new_000179_3.png"]
    (images / "CLEVR_new_000195_4.png").rename(images / "CLEVR_new_000195_5.png")
    raw.objects(VECTORS, {name: vector for name, vector in vectors.items() if "000196" not in name})


def write_story(raw: RawWriter, story: int) -> dict[str, Any]:
    """Draw the four pictures of a story, and return their vectors by picture name."""
    vector = np.zeros(OBJECTS + 3)
    vector[OBJECTS:] = 0.6, 0.8, -0.0
    chosen = [[story // (k + 1) % len(words) for words in CLASSES.values()] for k in range(LENGTH)]
    cast = [" ".join(words[pick] for words, pick in zip(CLASSES.values(), picks, strict=True)) for picks in chosen]
    (full, labels, _), (empty, _, _) = scene(cast, size=320, place="table"), scene((), size=320, place="table")
    vectors = {}
    for k, picks in enumerate(chosen):
        at = k * BLOCK
        for words, pick in zip(CLASSES.values(), picks, strict=True):
            vector[at + pick] = 1
            at += len(words)
        vector[at : at + 3] = k - 1.5, story % 7 - 3, (0.7, 0.35)[picks[-1]]
        pixels = np.where((labels > k + 1)[..., None], empty, full)[80:]
        name = f"CLEVR_new_{story:06d}_{k + 1}.png"
        raw.png(f"images/{name}", np.insert(pixels, 3, 255, axis=2))  # an opaque alpha
        vectors[name] = vector.copy()
    return vectors


class ClevrSV(StoryBuilder):
    """CLEVR-SV as a Hugging Face builder: `ClevrSV(data_dir=RAW)`."""

    INFO, units, sequences, fake = INFO, staticmethod(units), staticmethod(sequences), staticmethod(fake)

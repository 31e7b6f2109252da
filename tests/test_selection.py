"""Filters against a plain look at every story."""

import pytest
from openstory_hf.builders.african_storybook import AfricanStorybook
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from openstory_hf.build import build
from openstory_hf.errors import UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.load import load_stories
from openstory_hf.mix import mix_stories
from openstory_hf.selection import Where
from openstory_hf.sources import MappedPictures


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Overlapping windows, several pictures a clip, masks on some of them."""
    folder = tmp_path_factory.mktemp("clips")
    write_release(RawWriter(folder / "raw"), {"train": {"s_01_e_01": 9, "s_01_e_02": 12}}, variant="C")
    build(FlintstonesSV, folder / "raw", folder / "out", splits=["train"], row_group_bytes=30_000)
    return folder / "out"


@pytest.fixture(scope="session")
def books(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    AfricanStorybook.fake(RawWriter(folder / "raw"))
    build(AfricanStorybook, folder / "raw", folder / "out", on_error="quarantine")
    return folder / "out"


def ids(rows):
    return [row["story_id"] for row in rows]


def kept(row, where):
    seen = {name for names in row["characters"] for name in names}
    instances = sum(len(items) for items in row["instances"])
    return (
        set(where.get("characters", ())) <= seen
        and row["language"] in where.get("languages", [row["language"]])
        and row["license"] in where.get("licenses", [row["license"]])
        and all(
            least <= count and (most is None or count <= most)
            for count, (least, most) in (
                (len(row["captions"]), where.get("frames", (0, None))),
                (instances, where.get("instances", (0, None))),
            )
        )
    )


CLIPS = [
    {"characters": ["fred"]},
    {"characters": ["wilma", "fred"]},
    {"characters": ["dino"], "instances": (1, None)},
    {"instances": (4, 7)},
    {"instances": (0, 3)},
    {"frames": (2, 3)},
]


@pytest.mark.parametrize("where", CLIPS, ids=str)
@pytest.mark.parametrize("request_", [{}, {"length": 2}, {"length": 3, "stride": 2}, {"frame": "random"}], ids=str)
def test_a_filter_keeps_what_a_look_at_every_story_keeps(clips, where, request_):
    rows = load_stories(clips, **request_) if request_.get("frame") != "random" else load_stories(clips)
    expected = [row["story_id"] for row in rows if kept(row, where)]
    if expected:
        assert ids(load_stories(clips, where=Where(**where), **request_)) == expected
    else:
        with pytest.raises(UsageError, match=r"none of the .* stories of split train meets"):
            load_stories(clips, where=Where(**where), **request_)


def test_the_filters_of_the_test_tell_stories_apart(clips):
    rows = list(load_stories(clips, length=2))
    counts = [sum(kept(row, where) for row in rows) for where in CLIPS]
    assert sum(0 < count < len(rows) for count in counts) >= 3


@pytest.mark.parametrize("length", [None, 2])
@pytest.mark.parametrize(
    "where",
    [{"languages": ["fr"]}, {"languages": ["en", "fr"], "frames": (3, None)}, {"licenses": ["CC-BY"]}],
    ids=str,
)
def test_books_are_kept_by_language_licence_and_length(books, where, length):
    expected = [row["story_id"] for row in load_stories(books, length=length) if kept(row, where)]
    if not expected:
        with pytest.raises(UsageError, match="none of the"):
            load_stories(books, length=length, where=Where(**where))
        return
    assert ids(load_stories(books, length=length, where=Where(**where))) == expected


def test_a_filter_touches_no_picture_and_keeps_the_state_apart(clips, monkeypatch):
    monkeypatch.setattr(MappedPictures, "get", lambda *given: pytest.fail(f"a picture was read: {given}"))
    where = Where(characters=["fred", "wilma"], instances=(5, None))
    stream = load_stories(clips, length=3, where=where, columns=["captions"])
    assert 0 < sum(1 for _ in stream) == stream.num_stories < load_stories(clips, length=3).num_stories
    with pytest.raises(UsageError, match="where="):
        load_stories(clips, length=3).load_state_dict(stream.state_dict())


def test_the_order_of_names_does_not_make_another_filter(clips):
    one, two = (load_stories(clips, where=Where(characters=names)) for names in (["fred", "wilma"], ["wilma", "fred"]))
    assert one.identity == two.identity


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"characters": "fred"}, "characters='fred': give a list"),
        ({"frames": (3, 2)}, "the least is more than the most"),
    ],
)
def test_conditions_that_cannot_be_meant_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        Where(**options)


def test_sources_of_different_kinds_mix(clips, books):
    streams = {"clips": load_stories(clips, length=2, shuffle=True), "books": load_stories(books)}
    found = list(mix_stories(streams))
    assert sorted(ids(found)) == sorted(ids(load_stories(clips, length=2)) + ids(load_stories(books)))
    assert len({tuple(row) for row in found}) == 1  # one schema


def test_only_the_columns_asked_for_come_and_are_the_same(clips):
    whole = list(load_stories(clips, length=3, captions="referential", frame="random", shuffle=True))
    for columns in (["captions"], ["texts"], ["images", "mentions"], ["instances", "extras"], []):
        found = list(
            load_stories(clips, length=3, captions="referential", frame="random", shuffle=True, columns=columns)
        )
        names = list(dict.fromkeys(["story_id", *columns, "draw"]))
        assert found == [{name: row[name] for name in names} for row in whole]
    with pytest.raises(UsageError, match="there is no column 'caption'; the columns are story_id"):
        load_stories(clips, columns=["caption"])


def test_random_captions_are_one_of_the_two_texts_and_differ_from_epoch_to_epoch(clips):
    stream = load_stories(clips, length=2, captions="random")
    seen = []
    for epoch in range(4):
        stream.set_epoch(epoch)
        rows = list(stream)
        assert all(row["texts"] in (row["captions"], row["referential_captions"]) for row in rows)
        seen.append(
            [row["texts"] == row["captions"] for row in rows if row["captions"] != row["referential_captions"]]
        )
    assert len({tuple(choices) for choices in seen}) > 1
    assert {True, False} == {choice for choices in seen for choice in choices}

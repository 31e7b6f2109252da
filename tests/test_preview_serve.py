"""The local web page: what it finds, what it refuses, and what a browser makes of it."""

import contextlib
import http.client
import io
import json
import os
import random
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import get_args
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from openstory_hf.builders import _template
from PIL import Image

from openstory_hf import codecs, fakes, masks
from openstory_hf.build import build
from openstory_hf.builder import StoryBuilder
from openstory_hf.collate.interleaved import InterleavedCollator, Preset
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.info import Character, Split
from openstory_hf.preview import browse, character_colours, tokens
from openstory_hf.preview.serve import PreviewServer, serve
from openstory_hf.preview.shelf import PAGE, Shelf
from openstory_hf.records import Frame, Instance, Picture, Sequence, Unit, Window
from openstory_hf.rows import read_stories
from openstory_hf.testing import FileServer, tiny_tokenizer

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"
NAMES = ["fred", "wilma", "barney", 'O"Hara & <Sons>']


def facts_of(split, number):
    """Everything about a story that a filter may ask for."""
    draw = random.Random(f"{split} {number}")
    frames = draw.randint(1, 7)
    return {
        "id": f"{split}-{number:03d}",
        "language": draw.choice(["en", "fr", "sw"]),
        "license": draw.choice(["CC BY", "CC0"]),
        "characters": [draw.sample(NAMES, draw.randint(0, 2)) for _ in range(frames)],
    }


STORIES = {
    "train": [facts_of("train", number) for number in range(40)],
    "validation": [facts_of("validation", number) for number in range(5)],
    "test": [],
}


def picture_of(names, step):
    """A drawn PNG with a masked and boxed figure for each name."""
    pixels, labels, corners = fakes.scene(names, size=48, step=step)
    boxes = [(float(x1), float(y1), float(x2 - x1), float(y2 - y1)) for x1, y1, x2, y2 in corners]
    found = [
        Instance(label=name, character=name, bbox=box, mask=labels == at)
        for at, (name, box) in enumerate(zip(names, boxes, strict=True), 1)
    ]
    return Picture(path=f"{step}.png", data=codecs.encode_png(pixels), instances=tuple(found))


def stored(kind, size):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, format=kind)
    return buffer.getvalue()


class Zoo(StoryBuilder):
    """Stories of one to seven frames, and two whose every text is markup; one of them has unusual pictures."""

    INFO = replace(
        _template.INFO,
        title="Zoo <b>",
        splits={"train": Split(), "validation": Split(), "test": Split()},
        characters=tuple(
            Character(name=n, pronouns=p) for n, p in {"fred": "he", "wilma": "she", "barney": "he"}.items()
        ),
    )

    @staticmethod
    def fake(raw):
        raw.json("zoo.json", {})

    @staticmethod
    def units(raw, split):
        known = [Unit(unit_id=story["id"], split=split, data=story) for story in STORIES[split]]
        texts = {"language": "en", "license": "", "characters": []}
        evil = [
            Unit(unit_id=f"z{kind}", split=split, data={**texts, "id": f"{kind} {EVIL}"}) for kind in ("odd", "plain")
        ]
        return known + evil * (split == "validation")

    @staticmethod
    def sequences(raw, unit):
        story = unit.data
        unusual = [
            Picture(path="a.bmp", data=stored("BMP", (30, 20))),
            Picture(path="b.png", data=stored("PNG", (3000, 1500))),
            Picture(path="c.png", instances=(Instance(label=EVIL, mask=np.eye(20, dtype=bool)),)),
        ]

        def read(frame_id):
            step = int(frame_id.rpartition("_")[2])
            if EVIL in story["id"]:
                picture = unusual[step] if story["id"].startswith("odd") else picture_of([EVIL], step)
                return Frame(frame_id=frame_id, caption=EVIL, pictures=(picture,), characters=(EVIL,), setting=EVIL)
            names = story["characters"][step]
            caption = f"{' and '.join(name.title() for name in names) or 'Nobody'} walked {step} steps."
            return Frame(
                frame_id=frame_id, caption=caption, pictures=(picture_of(names, step),), characters=tuple(names)
            )

        frames = len(unusual) if EVIL in story["id"] else len(story["characters"])
        yield Sequence(
            sequence_id=story["id"],
            frame_ids=tuple(f"{story['id']}_{step}" for step in range(frames)),
            read=read,
            windows=(Window(story_id=story["id"], start=0, stop=frames),),
            language=story["language"],
            license=story["license"],
            extras={"credit": EVIL},
        )


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    Zoo.fake(RawWriter(folder / "raw"))
    build(Zoo, folder / "raw", folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def server(out):
    with running(Shelf(str(out))) as found:
        yield found


@contextlib.contextmanager
def running(shelf, **options):
    """A server in a thread."""
    with PreviewServer(shelf, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, target, method="GET", headers=None):
    """The response to a request, and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.request(method, target, headers=headers or {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


class Page(HTMLParser):
    """Tags with their attributes, the text, and the heading of every story."""

    def __init__(self, html):
        super().__init__()
        self.html, self.tags, self.text, self.headings, self.inside = html, [], "", [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "wbr":
            self.inside = tag
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside != "style":
            self.text += data
        if self.inside == "h2":
            self.headings[-1] += data

    def find(self, tag, css_class=""):
        found = [attrs for name, attrs in self.tags if name == tag]
        return [attrs for attrs in found if set(css_class.split()) <= set((attrs.get("class") or "").split())]


def page(server, path="/", **query):
    response, body = ask(server, f"{path}?{urlencode(query, doseq=True)}")
    assert response.status == 200, body
    return Page(body.decode())


def browsed(server, **query):
    """The ids on all pages of a query, in order."""
    found, number = [], 0
    while True:
        number += 1
        seen = page(server, page=number, **query)
        assert len(seen.headings) <= PAGE
        if seen.headings == ["No story found"]:
            return []
        found += [heading.partition("/")[2] for heading in seen.headings]
        if not [
            attrs for attrs in seen.find("button") if "disabled" not in attrs and attrs.get("value") == f"{number + 1}"
        ]:
            return found


# -- stories


QUERIES = [
    {},
    {"split": "validation", "story": "validation"},
    {"character": "fred"},
    {"character": ["fred", "wilma"], "least": 3},
    {"character": 'O"Hara & <Sons>'},
    {"character": "nobody"},
    {"character": ["", "barney"], "most": 4},
    {"least": 2, "most": 3},
    {"least": 7},
    {"most": 0},
    {"language": "sw", "license": "CC0"},
    {"language": "fr", "least": 2, "character": "wilma", "story": "N-0"},
    {"story": "TRAIN-01"},
    {"character": "fred", "story": "N-02"},
    {"story": "%"},
]


def meets(story, query):
    """The conditions of a query, told once more."""
    names = {name for frame in story["characters"] for name in frame}
    wanted = query.get("character", [])
    return (
        {name for name in ([wanted] if isinstance(wanted, str) else wanted) if name} <= names
        and query.get("least", 0) <= len(story["characters"]) <= query.get("most", 99)
        and query.get("language", story["language"]) == story["language"]
        and query.get("license", story["license"]) == story["license"]
        and query.get("story", "").lower() in story["id"].lower()
    )


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_filters_find_what_a_plain_loop_finds(server, query):
    stories = STORIES[query.get("split", "train")]
    assert browsed(server, **query) == [story["id"] for story in stories if meets(story, query)]


def test_the_queries_above_find_something_and_leave_something_out():
    counts = [sum(meets(story, query) for story in STORIES["train"]) for query in QUERIES]
    assert sum(0 < count < len(STORIES["train"]) for count in counts) >= 8


def test_a_page_beyond_the_last_is_the_last(server):
    assert page(server, page=10**8).headings == page(server, page=-(-len(STORIES["train"]) // PAGE)).headings


def test_the_form_shows_what_was_asked(server):
    seen = page(server, character=["fred"], least=2, language="fr", story='a"b', show=["", "masks"])
    inputs = seen.find("input")
    assert [a["value"] for a in inputs if a.get("name") == "character" and "checked" in a] == ["fred"]
    assert [a["value"] for a in inputs if a.get("name") in ("least", "most", "story")] == ["2", "", 'a"b']
    assert [a["value"] for a in seen.find("option") if "selected" in a] == ["train", "fr", ""]
    assert "Filters (4 set)" in seen.text


def test_every_character_is_offered_the_frequent_ones_to_tick(out, monkeypatch):
    counts = Counter(name for story in STORIES["train"] for frame in story["characters"] for name in frame)
    frequent = sorted(counts, key=lambda name: (-counts[name], name))
    monkeypatch.setattr(browse, "_TICKED", 2)
    with running(Shelf(str(out))) as server:
        seen = page(server)
        ticks = [a["value"] for a in seen.find("input") if a.get("name") == "character" and a["type"] == "checkbox"]
        assert ticks == frequent[:2]
        assert all(f"{name} {counts[name]}" in seen.text for name in ticks)
        assert [a["value"] for a in seen.find("option") if a["value"] in counts] == frequent[2:]
        chosen = page(server, character=frequent[3])
        ticks = [a["value"] for a in chosen.find("input") if a.get("name") == "character" and "checked" in a]
        assert ticks == [frequent[3]]


def test_layers_stay_as_they_were_switched(server):
    """A layer that a page has not is sent along in its state."""
    for show, expected in (([], ["masks", "boxes", "pronouns"]), (["", "boxes"], ["boxes"]), ([""], [])):
        for query in ({}, {"character": "nobody"}):
            seen = page(server, show=show, **query)
            sent = [a for a in seen.find("input") if a.get("name") == "show" and a["value"]]
            on = [a["value"] for a in sent if a["type"] == "hidden" or "checked" in a]
            assert on == expected
            assert all(a.get("form") == "filters" for a in sent)


def test_empty_splits_are_not_offered_and_a_folder_of_nothing_is_refused(server, out, tmp_path):
    assert Shelf(str(out)).splits == ("train", "validation")
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "files": {}}), encoding="utf-8")
    with pytest.raises(OutputError, match="no stories"):
        serve(str(tmp_path), 0)
    with pytest.raises(OutputError, match="manifest"):
        serve(str(tmp_path / "nothing"), 0)


@pytest.mark.parametrize(
    "query", ["split=nope", "least=x", "least=-1", "least=5&most=2", "page=1e3", "&".join("ab" * 99)]
)
def test_a_query_that_means_nothing_is_refused_with_the_reason(server, query):
    response, body = ask(server, f"/?{query}")
    assert response.status == 400
    assert "Traceback" not in body.decode()
    assert Page(body.decode()).find("a", "button")


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/tokens/train/40",
        "/tokens/test/0",
        "/tokens/train/x",
        "/picture/0/train/0/0",
        "/../manifest.json",
    ],
)
def test_what_is_not_there_is_not_found(server, path):
    response, _ = ask(server, path)
    assert response.status == 404


# -- pictures


def sources(seen):
    return [a["src"] for a in seen.find("img") if "masks" not in (a.get("class") or "")]


def test_pictures_are_the_stored_bytes_and_may_be_kept(server, out):
    row = story(out, "train-003")
    shown = sources(page(server, story="train-003"))
    assert len(shown) == len(row["images"])
    for source, image in zip(shown, row["images"], strict=True):
        response, body = ask(server, source)
        assert body == image["bytes"]
        assert response.headers["Content-Type"] == "image/png"
        assert "immutable" in response.headers["Cache-Control"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        head, nothing = ask(server, source, "HEAD")
        assert (head.headers["Content-Length"], nothing) == (str(len(body)), b"")


def story(out, name, split="train"):
    """The row of a story."""
    ids = Shelf(str(out)).folder.column("stories", split, ["story_id"])["story_id"]
    (found,) = [full for full in ids if full.endswith(name)]
    return read_stories(str(out), split, story_ids=[found])[0]


def test_masks_are_those_of_the_row_in_the_colours_of_the_story(server, out):
    row = next(s for s in STORIES["train"] if len(s["characters"][0]) == 2)
    row = story(out, row["id"])
    layer = page(server, story=row["sequence_id"]).find("img", "masks")[0]
    overlay = np.asarray(Image.open(io.BytesIO(ask(server, layer["src"])[1])))
    names = {name for frame in row["characters"] for name in frame}
    colours = character_colours(names | {m["character"] for ms in row["mentions"] for m in ms})
    for item in row["instances"][0]:
        inside = masks.decode(item["segmentation"]).astype(bool)
        assert inside.any()
        assert (overlay[inside][:, :3] == colours[item["character"]]).all()


def test_what_browsers_cannot_show_or_is_large_becomes_a_jpeg_and_what_is_lost_is_said(server):
    seen = page(server, split="validation", story="odd")
    first, second = sources(seen)
    sizes = []
    for source in (first, second):
        response, body = ask(server, source)
        assert response.headers["Content-Type"] == "image/jpeg"
        sizes.append(Image.open(io.BytesIO(body)).size)
    assert sizes == [(30, 20), (1280, 640)]
    assert seen.text.count("no picture") == 1
    assert ask(server, re.sub("1$", "2", second))[0].status == 404  # the third, which the source does not ship
    assert ask(server, re.sub("1$", "3", second))[0].status == 404
    assert ask(server, seen.find("img", "masks")[0]["src"])[0].status == 200


def test_no_more_than_a_page_of_stories_is_kept(out):
    shelf = Shelf(str(out))
    for start in range(0, 40, 4):
        shelf.stories("train", range(start, start + 4))
        assert len(shelf._kept) <= PAGE
    again = shelf.stories("train", [39, 0])
    assert [row["sequence_id"] for row in again] == ["train-039", "train-000"]


def test_a_url_gives_the_pages_of_the_folder(out, server):
    with FileServer(out) as files, running(Shelf(files.url)) as remote:
        for target in ("/?page=2", "/tokens/validation/0?preset=openstory_pp"):
            assert ask(remote, target)[1] == ask(server, target)[1]
        source = sources(page(server))[0]
        assert ask(remote, source)[1] == ask(server, source)[1]


# -- safety


def test_nothing_a_dataset_or_a_query_says_becomes_markup(server):
    number = len(STORIES["validation"])
    targets = [
        "/?split=validation&story=script",
        f"/?{urlencode({'story': EVIL, 'character': EVIL, 'language': EVIL, 'license': EVIL})}",
        f"/?{urlencode({'split': EVIL})}",
        f"/?{urlencode({'least': EVIL})}",
        f"/{urlencode({EVIL: ''})}",
        "/<script>alert(1)</script>".replace("<", "%3C"),
        f"/tokens/validation/{number}",  # whose picture is missing
        *(f"/tokens/validation/{number + 1}?preset={preset}" for preset in tokens.PRESETS),
        f"/tokens/validation/{number}?{urlencode({'preset': EVIL})}",
    ]
    for target in targets:
        html = ask(server, target)[1].decode()
        seen = Page(html)
        assert "<script" not in html, target
        assert "onerror" not in str([list(attrs) for _, attrs in seen.tags]), target
        assert all(a["src"].startswith(("/picture/", "/masks/")) for a in seen.find("img")), target
    seen = page(server, split="validation", story="script")
    assert seen.text.count(EVIL) >= 8  # captions, ids, setting, chips, credits: all legible
    assert "Zoo <b>" in seen.text


def test_tokens_that_look_like_markup_become_none(out, tmp_path):
    own = tiny_tokenizer([])
    own.add_tokens([EVIL])
    own.save_pretrained(tmp_path / "own")
    with running(Shelf(str(out)), tokenizer=str(tmp_path / "own")) as server:
        seen = page(server, f"/tokens/validation/{len(STORIES['validation']) + 1}", preset="openstory_pp")
    assert "<script" not in seen.html
    assert sum(EVIL in a.get("title", "") for a in seen.find("span", "token")) == 3
    assert seen.text.count(EVIL) == 2 + 3  # the id in title and heading, three captions in the decoded text
    assert seen.text.count(EVIL.replace(" ", "␣")) == 3


def test_only_this_machine_is_listened_to(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9999", 200),  # the other end of an ssh tunnel
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("0.0.0.0", 421),
        ("[bad", 421),
        ("", 421),
    ],
)
def test_other_names_of_this_machine_are_not_answered(server, host, status):
    for target in ("/", sources(page(server))[0]):
        response, body = ask(server, target, headers={"Host": host})
        assert response.status == status
        assert (b"train-000" in body) == (status == 200 and target == "/")


def test_a_request_without_a_host_or_with_two_is_not_answered(server):
    for lines in (
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n",
    ):
        with socket.create_connection(server.server_address, timeout=30) as connection:
            connection.sendall(lines.encode())
            assert b" 421 " in connection.makefile("rb").readline()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_is_allowed(server, method):
    response, _ = ask(server, "/", method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_pages_allow_no_script_and_nothing_from_elsewhere(server):
    for target in ("/", "/tokens/train/0", "/nope", sources(page(server))[0]):
        policy = ask(server, target)[0].headers["Content-Security-Policy"]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["img-src"] == rules["form-action"] == "'self'"
        assert rules["frame-ancestors"] == "'none'"
        assert "script-src" not in rules
        assert ask(server, target)[0].headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_taken_port_is_an_error_with_a_way_out(server, out):
    port = server.server_address[1]
    with pytest.raises(UsageError, match=f"port {port}.*Choose another"):
        serve(str(out), port)


# -- tokens


def chips(seen):
    """(id, text, trained) of every token on the page, by what a reader sees."""
    return [
        (int(re.search(r"id (\d+)", a["title"])[1]), "trained" in a["class"].split())
        for a in seen.find("span", "token")
        if "title" in a
    ]


def long_story():
    return next(number for number, s in enumerate(STORIES["train"]) if len(s["characters"]) == 5)


def test_every_preset_is_offered():
    assert set(tokens.PRESETS) == set(get_args(Preset))


@pytest.mark.parametrize("preset", tokens.PRESETS)
@pytest.mark.parametrize("draw", [None, 0, 1, 7])
def test_the_tokens_on_the_page_are_the_sample_of_the_collator(server, out, preset, draw):
    number = long_story()
    row = story(out, STORIES["train"][number]["id"]) | ({} if draw is None else {"draw": draw})
    seen = page(server, f"/tokens/train/{number}", preset=preset, **({} if draw is None else {"draw": draw}))
    words = ["\n", *row["captions"], *row["referential_captions"]]
    markers = [f"[IMG{k}]" for k in range(8)]
    if preset == "seed_story":
        markers = ["<img>", "</img>", *(f"<img_{k:05d}>" for k in range(64))]
        words += ["[INST]"]
    words += {"storygpt_v": [" Image: <img></img> Caption: "]}.get(preset, [])
    tokenizer = tiny_tokenizer(words)
    tokenizer.add_tokens(markers, special_tokens=True)
    sample = InterleavedCollator.preset(preset, tokenizer=tokenizer).sample(row)
    assert [trained for _, trained in chips(seen)] == [label != -100 for label in sample.labels]
    assert len({token for token, _ in chips(seen)}) == len(set(sample.ids))
    assert tokenizer.unk_token_id not in sample.ids
    kinds = [a["class"].split()[1] for a in seen.find("details", "slot")]
    shown = [int(source.rpartition("/")[2]) for source in sources(seen)]
    assert list(zip(kinds, shown, strict=True)) == runs(sample)
    assert tokenizer.decode(sample.ids) in seen.text
    sums = [int(number.replace(",", "")) for number in re.findall("<dd>([0-9,]+)</dd>", seen.html)]
    assert sums == [
        len(sample.ids),
        sum(label != -100 for label in sample.labels),
        sum(k >= 0 for k, _ in sample.visual),
        sum(k >= 0 for k in sample.generated),
        sample.frames_dropped,
    ]


def runs(sample):
    """(read or generated, frame of the story) of each picture, in order."""
    of = [
        ("read", k) if k >= 0 else ("generated", g) for (k, _), g in zip(sample.visual, sample.generated, strict=True)
    ]
    starts = [kind for at, kind in enumerate(of) if kind[1] >= 0 and (at == 0 or of[at - 1] != kind)]
    return [(kind, sample.frames[k]) for kind, k in starts]


def test_words_that_speak_of_a_figure_say_of_which(server):
    number = next(n for n, s in enumerate(STORIES["train"]) if s["characters"][0] == ["fred"])
    seen = page(server, f"/tokens/train/{number}", preset="openstory_pp")
    first = next(a for a in seen.find("span", "token") if "speaks of" in a.get("title", ""))
    assert first["title"].endswith("Fred · trained · speaks of fred")


def test_a_tokenizer_of_ones_own_gets_the_tokens_it_lacks(out, tmp_path):
    number = long_story()
    row = story(out, STORIES["train"][number]["id"])
    own = tiny_tokenizer(row["captions"])
    own.add_tokens(["[IMG3]"], special_tokens=True)
    own.save_pretrained(tmp_path / "own")
    with running(Shelf(str(out)), tokenizer=str(tmp_path / "own")) as server:
        seen = page(server, f"/tokens/train/{number}", preset="gill")
        assert "with 7 tokens of the recipe added" in seen.text
        own.add_tokens([f"[IMG{k}]" for k in range(8)], special_tokens=True)
        sample = InterleavedCollator.preset("gill", tokenizer=own).sample(row)
        assert chips(seen) == [(i, label != -100) for i, label in zip(sample.ids, sample.labels, strict=True)]
    with running(Shelf(str(out)), tokenizer=str(tmp_path / "none")) as server:
        assert "cannot be loaded" in page(server, f"/tokens/train/{number}").text


def test_a_story_that_a_recipe_cannot_use_is_named_with_the_reason(server):
    number = next(n for n, s in enumerate(STORIES["train"]) if len(s["characters"]) == 1)
    seen = page(server, f"/tokens/train/{number}", preset="storygpt_v")
    assert f"train-{number:03d}': it has one frame" in unescape(seen.text)
    assert len(seen.find("a", "button")) == len(tokens.PRESETS)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_stories_are_shown_without_torch_and_the_token_view_says_what_it_needs(out, missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None  # any import of it now fails
from openstory_hf.preview.serve import PreviewServer
from openstory_hf.preview.shelf import Shelf
server = PreviewServer(Shelf({str(out)!r}))
assert b"train-000" in server.answer("/").body
assert b"pip install torch transformers" in server.answer("/tokens/train/0").body
"""
    env = {**os.environ, "USE_TORCH": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


# -- the command


def test_it_tells_its_address_and_runs_until_interrupted(out, monkeypatch):
    told, served = [], []

    def interrupted(server):
        served.append(server)
        raise KeyboardInterrupt

    monkeypatch.setattr(PreviewServer, "serve_forever", interrupted)
    serve(str(out), 0, announce=told.append)
    address = urlsplit(told[0].split()[0])
    assert (address.hostname, address.port) == served[0].server_address
    assert served[0].socket.fileno() == -1  # closed


# -- a browser


class Chromium:
    """Headless Chromium, spoken to over a pipe (the DevTools protocol)."""

    def __init__(self, profile):
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("needs Chromium: apt-get install chromium")
        to_read, self._write = os.pipe()
        self._answers, to_write = os.pipe()
        options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
        options += " --disable-component-update --disable-sync --remote-debugging-pipe --window-size=1280,1600"
        # the browser reads commands from descriptor 3 and answers on 4
        shell = f'exec "$0" {options} --user-data-dir="$1" about:blank 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, program, str(profile)],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._count, self._session, self._rest, self._events = 0, None, b"", []

    def __enter__(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        return self

    def __exit__(self, *_):
        self._session = None
        self.call("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._answers)
        os.close(self._write)

    def _message(self):
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], 60)[0], "the browser does not answer"
            data = os.read(self._answers, 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def call(self, method, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._count:
            self._events.append(answer.get("method"))
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url="", act=""):
        """Go to a page, or do what leads to one, and wait until it has loaded."""
        self._events.clear()
        self.run(act) if act else self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._events.append(self._message().get("method"))

    def run(self, expression):
        """The value of a JavaScript expression, which the page's own policy does not bind."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def visible(self, selector):
        """How many elements like that are shown."""
        return self.run(f"[...document.querySelectorAll({selector!r})].filter(e => e.checkVisibility()).length")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def test_switches_work_in_a_browser_at_once_and_go_along_to_the_next_page(server, browser):
    layers = {"masks": "img.masks", "boxes": "svg.boxes", "pronouns": ".referential"}

    def seen():
        return {layer: browser.visible(selector) for layer, selector in layers.items()}

    browser.open(server.url)
    whole = seen()
    assert min(whole.values()) > 0
    for layer in layers:
        browser.run(f"document.getElementById('{layer}').click()")
        assert seen() == {**whole, layer: 0}
        browser.run(f"document.getElementById('{layer}').click()")
        assert seen() == whole
    browser.run("document.getElementById('boxes').click()")
    browser.open(act="[...document.querySelectorAll('.pager button')].at(-1).click()")
    assert browser.run("document.querySelector('h2').textContent").endswith(f"train-{PAGE:03d}")
    assert browser.visible(layers["boxes"]) == 0
    assert browser.visible(layers["masks"]) > 0
    assert browser.run("let i = document.images[0]; i.loading = 'eager'; i.decode().then(() => i.naturalWidth)") == 48


def test_nothing_is_wider_than_a_phone_and_filters_fold(server, browser):
    evil = len(STORIES["validation"]) + 1
    browser.open(server.url)
    assert browser.visible("#filters") == 1
    browser.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    try:
        targets = ["", "?story=none", "?split=validation&story=script", "nope"]
        targets += [f"tokens/train/{long_story()}?preset={preset}" for preset in tokens.PRESETS]
        targets += [f"tokens/validation/{evil}"]
        for target in targets:
            browser.open(server.url + target)
            assert browser.run("document.documentElement.scrollWidth") <= 400, target
        browser.open(server.url)
        assert browser.visible("#filters") == 0
        browser.run("document.querySelector('.filters summary').click()")
        assert browser.visible("#filters") == 1
        assert browser.run("document.documentElement.scrollWidth") <= 400
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def test_markup_in_texts_does_not_run_in_a_browser(server, browser):
    for target in ("?split=validation&story=script", f"tokens/validation/{len(STORIES['validation']) + 1}"):
        browser.open(server.url + target)
        assert browser.run("document.scripts.length") == 0
        assert browser.run("document.querySelectorAll('[onerror], [src=x]').length") == 0
    browser.open(f"{server.url}?{urlencode({'story': EVIL})}")
    assert browser.run("document.querySelector('input[name=story]').value") == EVIL

"""Raw releases: whatever a download holds, the answer is right or a refusal that names the file; nothing runs."""

import collections
import contextlib
import copyreg
import functools
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openstory_hf.errors import OpenStoryError, SourceError, UnsafePickleError
from openstory_hf.fakes import RawWriter
from openstory_hf.raw import NUMPY_GLOBALS, JsonRecords, Raw
from openstory_hf.raw import records as records_room
from openstory_hf.raw import release as release_room
from openstory_hf.records import Reject

SHARED = Path(__file__).parents[2] / "shared"
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def release(folder, files, kind="folder"):
    """A release of the given name -> bytes, as a folder or as a zip."""
    if kind == "folder":
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            RawWriter(folder).bytes(name, data)
        return Raw(folder)
    path = folder.with_suffix(".zip")
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return Raw(path)


@pytest.fixture(params=["folder", "zip"])
def make(request, tmp_path):
    """Build a release from name -> bytes in either form."""
    return lambda files, name="release": release(tmp_path / name, files, request.param)


@pytest.fixture
def one(tmp_path):
    """A folder release that holds only the file `x`, with the given bytes."""
    return lambda data: release(tmp_path / "one", {"x": data})


def refused(call, *args):
    with pytest.raises(Reject) as caught:
        call(*args)
    assert caught.value.file
    assert caught.value.reason
    return caught.value


# -- names -------------------------------------------------------------------------------------------------


class TestNames:
    FILES = {  # noqa: RUF012
        "b/two.txt": b"22",
        "a.json": b"{}",
        "b/c/deep.npy": b"",
        "b/pics/é 1.jpg": b"jpeg",
    }

    def test_a_folder_and_a_zip_give_the_same_answers(self, make):
        raw = make(self.FILES)
        assert raw.names() == sorted(self.FILES)
        assert raw.names("b/", ".jpg") == ["b/pics/é 1.jpg"]
        assert raw.names("nothing") == []
        for again in (raw, Raw(raw.path)):  # with the listing loaded and without
            assert [again.exists(name) for name in (*self.FILES, "b", "b/", "missing", "", ".")] == [True] * 4 + [
                False
            ] * 5
            assert [again.size(name) for name in ("b/two.txt", "b/c/deep.npy", "b", "missing")] == [2, 0, 0, 0]
            assert [again.read(name) for name in self.FILES] == list(self.FILES.values())
            assert again.read("./b//two.txt") == b"22"
            assert again.exists("./b//two.txt")
            assert again.text("b/two.txt") == "22"
            assert again.json("a.json") == {}
            assert refused(again.read, "missing").reason == "the file is missing"
            assert refused(again.open, "b").reason == "the file is missing"
            with pytest.raises(Reject, match="the file is missing"):
                again.open("")

    @pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "x\0.jpg", "//x", ".."])
    def test_names_that_leave_the_release_are_refused_by_every_method(self, make, name):
        raw = make(self.FILES)
        for _ in range(2):
            for method in (raw.exists, raw.size, raw.open, raw.read, raw.text, raw.json, raw.npy, raw.pickle):
                assert "leave the release" in refused(method, name).reason
            raw.names()  # again with the listing loaded
        with pytest.raises(Reject):
            Raw(raw.path, root="../" + name)

    @pytest.mark.parametrize("name", ["x" * 5000, "lone \ud800 surrogate", "a.json/below a file"])
    def test_names_no_file_system_can_hold_are_missing(self, make, name):
        raw = make(self.FILES)
        assert not raw.exists(name)
        assert raw.size(name) == 0
        assert refused(raw.read, name).reason == "the file is missing"

    def test_a_nested_release_is_located(self, make):
        inner = {f"My Drive/set (1)/{name}": data for name, data in self.FILES.items()}
        raw = make({**inner, "My Drive/set (1)/old/backup/a.json": b"[]", "readme": b"", "__MACOSX/._a.json": b""})
        found = raw.locate("nowhere.json", "a.json")
        assert found.root == "My Drive/set (1)"
        assert found.json("a.json") == {}
        assert found.names("b/c") == ["b/c/deep.npy"]
        assert found.exists("b/two.txt")
        assert not found.exists("readme")
        assert "leave the release" in refused(found.read, "../../readme").reason
        assert found.locate("two.txt").root == "My Drive/set (1)/b"
        assert raw.locate("nothing") is None

    def test_the_shallowest_place_wins(self, make):
        assert make({"a/z/m": b"", "b/m": b"", "c/m": b""}).locate("m").root == "b"
        raw = make({"a/m": b"", "m": b""}, "top")
        assert raw.locate("m") is raw

    def test_a_raw_can_be_pickled_with_its_root_and_reads_on(self, make):
        raw = make({"in/a.txt": b"A"}).locate("a.txt")
        assert raw.read("a.txt") == b"A"
        again = pickle.loads(pickle.dumps(raw))
        assert (again.path, again.root, again.is_zip) == (raw.path, raw.root, raw.is_zip)
        assert again.read("a.txt") == b"A"

    def test_once_is_called_once_for_each_release(self, make):
        calls = []
        raw = make({"a": b""})

        def index(given):
            calls.append(given)
            return len(calls)

        assert [raw.once(index), raw.once(index), Raw(raw.path).once(index)] == [1, 1, 2]
        assert calls[0] is raw

    def test_paths_that_are_no_release(self, tmp_path):
        with pytest.raises(SourceError, match="does not exist"):
            Raw(tmp_path / "nothing")
        whole = release(tmp_path / "r", {"a": os.urandom(500)}, "zip").path.read_bytes()
        (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SourceError, match="cut short must be downloaded again"):
            Raw(tmp_path / "cut.zip")


class TestFolders:
    def test_linked_folders_are_read_and_listed(self, tmp_path):
        """Large folders are often links to another disk; names used to skip them while exists() saw them."""
        RawWriter(tmp_path / "other disk").bytes("deep/1.npy", b"one")
        raw = release(tmp_path / "r", {"index.json": b"{}"})
        (raw.path / "frames").symlink_to(tmp_path / "other disk")
        assert raw.exists("frames/deep/1.npy")
        assert raw.names() == ["frames/deep/1.npy", "index.json"]
        assert raw.exists("frames/deep/1.npy")
        assert raw.read("frames/deep/1.npy") == b"one"

    def test_links_in_circles_and_to_nowhere_end(self, tmp_path):
        raw = release(tmp_path / "r", {"a/x/1": b"1", "b/2": b"2"})
        (raw.path / "a/up").symlink_to(raw.path)
        (raw.path / "a/other").symlink_to(raw.path / "b")
        (raw.path / "b/other").symlink_to(raw.path / "a")
        (raw.path / "self").symlink_to(raw.path / "self")
        (raw.path / "dangling").symlink_to(raw.path / "nothing")
        assert raw.names() == ["a/other/2", "a/x/1", "b/2", "b/other/x/1"]
        for name in ("dangling", "self"):
            assert not raw.exists(name)
            assert refused(Raw(raw.path).read, name).reason == "the file is missing"

    def test_only_regular_files_are_seen(self, tmp_path):
        """A named pipe would block for ever, /dev/zero would fill the memory."""
        raw = release(tmp_path / "r", {"a.json": b"1"})
        os.mkfifo(raw.path / "pipe.json")
        (raw.path / "zero.json").symlink_to("/dev/zero")
        for name in ("pipe.json", "zero.json"):
            assert not raw.exists(name)
            assert refused(raw.read, name).reason == "the file is missing"
        assert raw.names() == ["a.json"]
        assert raw.fingerprint()

    def test_too_large_a_file_is_refused_before_it_is_read(self, make, monkeypatch):
        monkeypatch.setattr(release_room, "MAX_MEMBER_BYTES", 1000)
        raw = make({"bomb.json": b"0" * 1001, "fits.json": b"0" * 1000})
        assert len(raw.read("fits.json")) == 1000
        for method in (raw.read, raw.open, raw.json, raw.npy, raw.pickle, raw.records):
            assert "1,001 bytes unpacked" in refused(method, "bomb.json").reason


class TestFingerprint:
    FILES = {"a.json": b"[1]", "b.jpg": b"jpeg", "c/d.pkl": b"dd"}  # noqa: RUF012

    def test_it_depends_on_names_sizes_and_index_contents_only(self, make):
        first = make(self.FILES).fingerprint()
        assert make(dict(reversed(self.FILES.items())), "order").fingerprint() == first
        assert make({**self.FILES, "b.jpg": b"JPEG"}, "pixels").fingerprint() == first
        others = [
            {**self.FILES, "a.json": b"[2]"},
            {**self.FILES, "c/d.pkl": b"DD"},
            {**self.FILES, "b.jpg": b"jpeg2"},
            {**self.FILES, "e.jpg": b""},
            {"a.json": b"[1]", "B.jpg": b"jpeg", "c/d.pkl": b"dd"},
            {"a.json": b"[1]", "b.jpg": b"jpeg"},
        ]
        seen = {first, *(make(files, f"other{n}").fingerprint() for n, files in enumerate(others))}
        assert len(seen) == len(others) + 1

    def test_a_folder_and_its_zip_agree(self, tmp_path):
        prints = {release(tmp_path / kind, self.FILES, kind).fingerprint() for kind in ("folder", "zip")}
        assert len(prints) == 1


class TestZips:
    def test_members_whose_names_leave_are_not_part_of_the_release(self, tmp_path):
        evil = {"../up.json": b"{}", "/etc/x.json": b"{}", "a\\b.json": b"{}", "ok.json": b"{}", "a/../b.json": b"{}"}
        raw = release(tmp_path / "evil", evil, "zip")
        assert raw.names() == ["ok.json"]
        assert raw.fingerprint()
        assert all(raw.read(name) == b"{}" for name in raw.names())

    def test_a_damaged_member_is_refused_whichever_byte_is_hit(self, tmp_path):
        """zlib.error used to escape: it is neither an OSError nor a BadZipFile."""
        text = json.dumps([{"id": str(n), "text": "words " * (n % 7)} for n in range(80)]).encode()
        path = release(tmp_path / "r", {"a.json": text}, "zip").path
        whole = path.read_bytes()
        end = whole.index(b"PK\1\2")
        outcomes = set()
        for position in range(0, end, 3):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
            for call in (Raw(path).read, Raw(path).json, Raw(path).records, lambda _: Raw(path).fingerprint()):
                try:
                    call("a.json")
                except Reject as reject:
                    outcomes.add((reject.file, reject.reason.split(":")[1]))
        assert {("a.json", " BadZipFile"), ("a.json", " error")} <= outcomes
        assert {file for file, _ in outcomes} == {"a.json"}

    @FEW
    @given(data=st.data())
    def test_a_damaged_table_of_contents_is_refused(self, tmp_path, data):
        path = release(tmp_path / "r", {"a.json": b"[1]", "b/ü.txt": b"text"}, "zip").path
        whole = bytearray(path.read_bytes())
        start = whole.index(b"PK\1\2")
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(start, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
        try:
            raw = Raw(path)
            for name in raw.names():
                assert raw.exists(name)
                raw.read(name)
        except (SourceError, Reject):
            pass

    def test_an_encrypted_member_is_refused(self, tmp_path):
        path = release(tmp_path / "r", {"a.txt": b"secret"}, "zip").path
        data = bytearray(path.read_bytes())
        data[6] |= 1  # the encryption flags of the local and the central header
        data[data.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(data)
        assert "encrypted" in refused(Raw(path).read, "a.txt").reason

    def test_a_member_that_lies_about_its_size_is_not_unpacked_beyond_it(self, tmp_path):
        path = release(tmp_path / "r", {"a.txt": bytes(5_000_000)}, "zip").path
        data = path.read_bytes()
        assert data.count(struct.pack("<I", 5_000_000)) == 2
        path.write_bytes(data.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 10)))
        assert "BadZipFile" in refused(Raw(path).read, "a.txt").reason

    def test_a_zip_of_several_disks_is_a_source_error(self, tmp_path):
        """`zipfile.is_zipfile` does not only answer, it raises."""
        locator = b"PK\6\7" + struct.pack("<LQL", 0, 0, 2)
        (tmp_path / "x.zip").write_bytes(locator + b"PK\5\6" + b"\xff" * 16 + b"\0\0")
        with pytest.raises(SourceError, match="not a folder or a zip"):
            Raw(tmp_path / "x.zip")

    def test_a_member_shorter_than_its_listed_size_is_refused(self, tmp_path):
        """The checksum of nothing is that of an empty member, so `zipfile` is content."""
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("empty.txt", b"")
        data = bytearray((tmp_path / "x.zip").read_bytes())
        data[data.index(b"PK\1\2") + 24] = 7  # the size in the table of contents
        (tmp_path / "x.zip").write_bytes(data)
        assert "0 bytes where the zip lists 7" in refused(Raw(tmp_path / "x.zip").read, "empty.txt").reason

    def test_a_zip_that_vanishes_is_a_source_error(self, tmp_path):
        raw = release(tmp_path / "r", {"a.txt": b""}, "zip")
        raw.path.unlink()
        with pytest.raises(SourceError):
            raw.names()


# -- text and JSON -----------------------------------------------------------------------------------------


class TestText:
    def test_the_byte_order_mark_goes_and_the_rest_stays(self, make):
        raw = make({"a": b"\xef\xbb\xbfz\xc3\xa9\r\n ", "bad": b"abc\xff", "j": b"\xef\xbb\xbf[1]"})
        assert raw.text("a") == "zé\r\n "
        assert refused(raw.text, "bad").reason == "not UTF-8 text at byte 3"
        assert raw.json("j") == [1]

    @pytest.mark.parametrize(
        "text", ["", "[1", '{"a":}', "[" * 100_000, "1" * 5000, "\ud800".encode("utf-8", "surrogatepass")]
    )
    def test_json_that_cannot_be_read_is_refused(self, one, text):
        """Numbers of more than 4300 digits raise a plain ValueError, deep nesting a RecursionError."""
        raw = one(text if isinstance(text, bytes) else text.encode())
        refused(raw.json, "x")
        refused(raw.records, "x")


class TestJsonRecords:
    ANY = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    )
    STYLES = st.sampled_from(
        [
            {},
            {"indent": 2},
            {"separators": (",", ":")},
            {"ensure_ascii": False, "indent": "\t"},
            {"separators": (" ,\r\n", " : ")},
        ]
    )

    @staticmethod
    def same(left, right):
        return json.dumps(left) == json.dumps(right)  # NaN is not equal to itself

    @FEW
    @given(
        st.dictionaries(st.text(max_size=6), ANY, max_size=6),
        STYLES,
        st.sampled_from(["", "\ufeff"]),
        st.integers(1, 50),
    )
    @pytest.mark.parametrize("kind", ["folder", "zip"])
    def test_an_object_is_read_as_json_load_reads_it(self, tmp_path, kind, records, style, mark, chunk):
        text = mark + json.dumps(records, **style) + "\n"
        self.compare(tmp_path, kind, text, chunk, "", json.loads(text.removeprefix("\ufeff")))

    @FEW
    @given(
        st.dictionaries(st.text(min_size=1, max_size=6) | st.integers(), ANY, max_size=6), STYLES, st.integers(1, 50)
    )
    @pytest.mark.parametrize("kind", ["folder", "zip"])
    def test_an_array_is_indexed_by_its_key(self, tmp_path, kind, records, style, chunk):
        records = {str(name): (name, value) for name, value in records.items()}
        entries = [{"x": value, "the id": name, "": 7} for name, value in records.values()]
        text = json.dumps([*entries, {"x": 1}, {"the id": None}, {"the id": ""}, 5, "text", [1]], **style)
        self.compare(tmp_path, kind, text, chunk, "the id", dict(zip(records, entries, strict=True)))

    def compare(self, tmp_path, kind, text, chunk, key, expected):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(records_room, "_CHUNK", chunk)
            try:
                data = text.encode()
            except UnicodeEncodeError:  # ensure_ascii=False with a lone surrogate: not UTF-8, so not JSON
                return
            found = release(tmp_path / kind, {"r.json": data}, kind).records("r.json", key)
            assert list(found) == list(expected)
            assert len(found) == len(expected)
            assert self.same(dict(found), expected)
            assert "never an id of the above" not in found

    @pytest.mark.parametrize("number", ["1.5e+10", "-0.25E-3", "123456", "-Infinity", "NaN", "true"])
    def test_a_bare_number_is_whole_wherever_a_chunk_ends(self, one, monkeypatch, number):
        """A chunk that ended at `1.5e` used to give 1.5 and then a refusal of a whole file."""
        raw = one(f'{{"a":{number},"b":{number}}}'.encode())
        for chunk in range(1, 30):
            monkeypatch.setattr(records_room, "_CHUNK", chunk)
            assert self.same(dict(raw.records("x")), {"a": json.loads(number), "b": json.loads(number)})

    @pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
    @pytest.mark.parametrize(
        "text", ['[{"id": "a", "t": "é\\n"}, {"id": "b", "n": [1, {"z": null}]}]', '{"a": {"x": -1.5}, "b": "text"}']
    )
    def test_a_file_cut_anywhere_is_refused(self, one, monkeypatch, text, chunk):
        monkeypatch.setattr(records_room, "_CHUNK", chunk)
        data = text.encode()
        for stop in range(len(data)):
            refused(one(data[:stop]).records, "x", "id")

    @pytest.mark.parametrize(
        "text",
        [
            "[1,,2]",
            "[,1]",
            "[1,]",
            "[1 2]",
            '{"a" 1}',
            '{"a":1,}',
            '{"a"::1}',
            "[1}",
            "[1]]",
            "[1] x",
            "{5: 1}",
            '{"a":1}{"b":2}',
            "[\u00a01]",
            "5",
            "",
            " ",
            "[01]",
            "[tru]",
        ],
    )
    def test_what_json_load_refuses_is_refused(self, one, text):
        """Missing, doubled and trailing separators and text behind the end used to pass."""
        with contextlib.suppress(json.JSONDecodeError):
            assert not isinstance(json.loads(text), list | dict)
        refused(one(text.encode()).records, "x", "id")

    @pytest.mark.parametrize("text", ["[]", " { } ", "[\n]", "\ufeff{}"])
    def test_nothing_is_fine(self, one, text):
        assert dict(one(text.encode()).records("x")) == {}

    @pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 3}', '[{"": "a", "v": 1}, {"": "b"}, {"": "a", "v": 1}]'])
    def test_an_id_that_occurs_twice_is_refused_when_it_is_read(self, one, text):
        records = one(text.encode()).records("x")
        assert list(records) == ["a", "b"]
        assert records["b"] in (2, {"": "b"})
        reject = refused(records.__getitem__, "a")
        assert (reject.record, reject.file) == ("a", "x")
        with pytest.raises(KeyError):
            records["c"]

    def test_damage_is_named_by_its_place_in_the_file(self, one):
        assert "at byte 10" in refused(one(b'[{"id":1},{"id" 2}]').records, "x", "id").reason

    def test_damage_early_in_a_large_file_is_found_without_reading_on(self, one, monkeypatch):
        """The scanner used to take in the whole rest of the file before it gave up."""
        raw = one(b'[{"id" 1},' + b'{"id": 2},' * 2000 + b"3]")
        monkeypatch.setattr(records_room, "_CHUNK", 100)
        asked = []
        more = records_room._Scanner.more
        monkeypatch.setattr(records_room._Scanner, "more", lambda self: (asked.append(1), more(self)))
        refused(raw.records, "x", "id")
        assert len(asked) <= 2

    def test_forked_readers_do_not_disturb_each_other(self, make):
        """They used to share one file position."""
        records = make({"r.json": json.dumps({str(n): "x" * n for n in range(300)}).encode()}).records("r.json")
        child = os.fork()
        if not child:
            wrong = any(records[str(n)] != "x" * n for _ in range(20) for n in range(300))
            os._exit(int(wrong))
        mine = all(records[str(n)] == "x" * n for _ in range(20) for n in reversed(range(300)))
        assert mine
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_whether_there_is_a_record_is_known_without_parsing_it(self, one, monkeypatch):
        """Every frame of FlintstonesSV used to be parsed twice."""
        records = one(b'{"a": 1}').records("x")
        monkeypatch.setattr(records_room, "parse_json", None)
        assert "a" in records
        assert "b" not in records

    def test_it_is_a_mapping_of_the_release(self, one):
        assert isinstance(one(b"{}").records("x"), JsonRecords)
        assert one(b'{"a": 1}').records("x").get("b", "none") == "none"


# -- pickles -----------------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def payloads(target):
    """Pickles that would write the file `target`, or reach for what could, by the global each asks for first."""
    command, write = f"touch {target}", f"open({str(target)!r}, 'w')"
    return {
        "posix.system": pickle.dumps(Calls(os.system, command)),
        "os.system": f"cos\nsystem\n(S{command!r}\ntR.".encode(),
        "builtins.eval": pickle.dumps(Calls(eval, write)),
        "__builtin__.eval": pickle.dumps(Calls(eval, write), protocol=0),
        "builtins.exec": pickle.dumps({"nested": [1, ({"deeper": Calls(exec, write)},)]}),
        "functools.partial": pickle.dumps(Calls(functools.partial, os.system, command)),
        "numpy.load": f"cnumpy\nload\n(S{str(target)!r}\ntR.".encode(),
        "builtins.getattr": pickle.dumps(Calls(getattr, os.system, "__call__")),
        "numpy.f2py.os.system": b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93" + text_opcode(command) + b"\x85R.",
        "numpy.ndarray.tofile": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "os.open": f"(S{command!r}\nios\nopen\n.".encode(),
        "subprocess.Popen": f"(csubprocess\nPopen\nS{command!r}\no.".encode(),
        "collections.OrderedDict": pickle.dumps(collections.OrderedDict()),
        "builtins.bytearray": pickle.dumps(Calls(bytearray, 10**13)),
    }


def text_opcode(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


NAMES = sorted(payloads("x"))


class TestUnsafePickles:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("allow", [frozenset(), NUMPY_GLOBALS], ids=["plain", "numpy"])
    def test_a_payload_is_refused_by_name_and_never_run(self, tmp_path, one, name, allow):
        target = tmp_path / "executed"
        data = payloads(target)[name]
        with pytest.raises(UnsafePickleError, match=f"global {name},") as caught:
            one(data).pickle("x", allow)
        assert "x: " in str(caught.value)
        assert not target.exists()

    @pytest.mark.parametrize("name", NAMES)
    def test_a_payload_inside_an_object_array_is_refused(self, tmp_path, one, name):
        target = tmp_path / "executed"
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
        raw = one(header.getvalue() + payloads(target)[name])
        with pytest.raises(UnsafePickleError, match=f"global {name},"):
            raw.object_npy("x")
        assert "object" in refused(raw.npy, "x").reason
        assert not target.exists()

    def test_a_payload_behind_harmless_arrays_is_refused(self, tmp_path, one):
        target = tmp_path / "executed"
        data = pickle.dumps([np.arange(3), np.float64(1), Calls(os.system, f"touch {target}")])
        with pytest.raises(UnsafePickleError, match="system"):
            one(data).pickle("x", NUMPY_GLOBALS)
        assert not target.exists()

    @pytest.mark.parametrize("cached", [False, True])
    def test_extension_codes_are_refused_even_if_the_process_has_resolved_them(self, tmp_path, one, cached):
        copyreg.add_extension("posix", "system", 0xF1)
        try:
            if cached:
                assert pickle.loads(b"\x82\xf1.") is os.system
            for opcode in (b"\x82\xf1", b"\x83\xf1\0", b"\x84\xf1\0\0\0"):
                with pytest.raises(UnsafePickleError, match="extension 241"):
                    one(opcode + text_opcode(f"touch {tmp_path / 'executed'}") + b"\x85R.").pickle("x")
        finally:
            copyreg.remove_extension("posix", "system", 0xF1)
        assert not (tmp_path / "executed").exists()

    def test_persistent_ids_are_refused(self, one):
        refused(one(b"Pabc\n.").pickle, "x")

    def test_arrays_are_not_plain_unless_asked_for(self, one):
        with pytest.raises(UnsafePickleError, match=r"multiarray\._reconstruct"):
            one(pickle.dumps(np.arange(3))).pickle("x")

    def test_the_list_of_harmless_globals_cannot_be_widened(self, one):
        with pytest.raises(ValueError, match="not harmless"):
            one(b"N.").pickle("x", NUMPY_GLOBALS | {("os", "system")})

    def test_forged_object_pointers_are_refused(self, one):
        """A dtype's state can call bytes object pointers; reading such an array crashed the process."""
        forged = Calls(np.dtype, "V8", False, True, state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))
        array = Calls(
            np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, (1,), forged, False, b"A" * 8)
        )
        refused(one(pickle.dumps(array)).pickle, "x", NUMPY_GLOBALS)
        plain = Calls(np.dtype, "u8", False, True, state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0x3F))
        array = Calls(
            np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, (1,), plain, False, b"A" * 8)
        )
        refused(one(pickle.dumps(array)).pickle, "x", NUMPY_GLOBALS)

    @pytest.mark.parametrize(
        ("code", "shape", "content"),
        [
            ("u1", (10**13,), b""),
            ("u1", (10**13,), b"short"),
            ("f8", (2**62, 2**62), b""),
            ("O", (10**13,), []),
            ("O", (3,), ["one"]),
            ("O", (1,), b"A" * 8),
            ("u1", (-2, -3), b"abcdef"),
            ("u1", (2.0,), b"ab"),
            ("u1", (1,) * 100, b"a"),
            ("S0", (3,), [b"a"]),
            ("u1", 5, b"abcde"),
            ("u1", (3,), None),
        ],
    )
    def test_arrays_without_the_content_for_their_shape_are_refused(self, one, code, shape, content):
        """numpy took memory by the shape, and for objects read behind the list."""
        dtype = Calls(np.dtype, code, False, True)
        array = Calls(
            np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, content)
        )
        refused(one(pickle.dumps(array)).pickle, "x", NUMPY_GLOBALS)

    @pytest.mark.parametrize("shape", [(10**13,), (10**6, 10**6)])
    def test_calls_that_ask_for_terabytes_give_no_memory(self, one, shape):
        for call in (Calls(np.ndarray, shape, "u1"), Calls(np._core.multiarray._reconstruct, np.ndarray, shape, b"O")):
            assert one(pickle.dumps(call)).pickle("x", NUMPY_GLOBALS).nbytes == 0
        refused(
            one(pickle.dumps(Calls(np._core.multiarray.scalar, Calls(np.dtype, "V2000000000")))).pickle,
            "x",
            NUMPY_GLOBALS,
        )

    @pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x96"])
    def test_strings_that_announce_terabytes_are_refused(self, one, opcode):
        refused(one(b"\x80\x05" + opcode + struct.pack("<Q", 10**14) + b"abc.").pickle, "x")

    @pytest.mark.parametrize(
        "name",
        ["numpy\nndarray", "numpy\ndtype", "numpy.core.multiarray\nscalar", "numpy.core.multiarray\n_reconstruct"],
    )
    @pytest.mark.parametrize("state", [b"(dS'tampered'\nI1\ns", b"(N(dS'__init__'\nI1\nst", b"(I1\n(I1\ntN", b"I1\n"])
    def test_no_state_can_be_set_on_the_harmless_types_themselves(self, one, name, state):
        state = state + b"t" if state.startswith(b"(I1") else state
        refused(one(b"c" + name.encode() + b"\n" + state + b"b.").pickle, "x", NUMPY_GLOBALS)
        np.testing.assert_array_equal(one(pickle.dumps(np.arange(2))).pickle("x", NUMPY_GLOBALS), [0, 1])


class TestPicklesThatExhaust:
    """A few bytes that took all memory, all time, or the process itself."""

    @pytest.mark.parametrize("opcode", [b"r" + struct.pack("<I", 1 << 26), b"p67108864\n"], ids=["binary", "text"])
    def test_the_index_of_a_memo_takes_no_memory(self, one, opcode):
        tracemalloc.start()
        try:
            assert one(b"N" + opcode + b".").pickle("x") is None
            assert tracemalloc.get_traced_memory()[1] < 10 << 20
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("wrap", [b"\x85", b"2\x86"], ids=["deep", "shared"])
    @pytest.mark.parametrize("use", [b"})%bNs.", b"}()%bNu.", b"()%bNd.", b"()%b\x91.", b"\x8f()%b\x90."])
    def test_tuples_are_not_hashed(self, one, wrap, use):
        """A hundred thousand of them in each other ended the process, sixty that each occur twice would never end."""
        found = refused(one(use % (wrap * 25)).pickle, "x")
        assert "key of a dictionary" in found.reason

    def test_integers_of_one_hash_do_not_fill_a_dictionary(self, one):
        refused(one(pickle.dumps({(2**61 - 1) * 10**9: 1})).pickle, "x")
        assert one(pickle.dumps({2**63: 1, -(2**63): 2})).pickle("x") == {2**63: 1, -(2**63): 2}

    @pytest.mark.parametrize("state", [b"(I1\n((I1\nlI100000000\ntcnumpy\ndtype\n(S'u1'\ntRI00\nS''\nt"])
    def test_shapes_are_whole_numbers_before_they_are_multiplied(self, one, state):
        """A list times a number, both of the file, was a gigabyte or a thousand."""
        tracemalloc.start()
        try:
            assert (
                "whole numbers"
                in refused(one(b"cnumpy\nndarray\n)\x81" + state + b"b.").pickle, "x", NUMPY_GLOBALS).reason
            )
            assert tracemalloc.get_traced_memory()[1] < 10 << 20
        finally:
            tracemalloc.stop()

    def test_the_name_of_a_type_is_not_printed_from_a_list_of_lists(self, one):
        """Sixteen doublings here; sixty would print for ever."""
        data = b"cnumpy\ndtype\n(N" + b"2\x86" * 16 + b"tR."
        assert "code of a type" in refused(one(data).pickle, "x", NUMPY_GLOBALS).reason

    @pytest.mark.parametrize("code", ["S0", "U0"])
    def test_values_without_bytes_are_not_counted_in_billions(self, one, code):
        dtype = Calls(np.dtype, code, False, True)
        state = (1, (10**12,), dtype, False, b"")
        array = Calls(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=state)
        assert "no bytes" in refused(one(pickle.dumps(array)).pickle, "x", NUMPY_GLOBALS).reason
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": f"|{code}", "fortran_order": False, "shape": (10**12,)})
        assert "no bytes" in refused(one(stream.getvalue()).npy, "x").reason

    def test_what_holds_itself_or_nests_too_deeply_is_refused(self, one):
        circle = []
        circle.append(circle)
        assert "in each other" in refused(one(pickle.dumps(circle)).pickle, "x").reason
        assert one(b"N" + b"\x85" * 100 + b".").pickle("x")
        for deep in (
            b"N" + b"\x85" * 101 + b".",
            b"N" + b"\x85" * 60 + b"2" + b"\x85" * 41 + b"\x86.",
            b"N" + b"\x85" * 10**6 + b".",
        ):
            assert "in each other" in refused(one(deep).pickle, "x").reason

    def test_what_unfolds_to_far_more_than_the_file_is_refused(self, one):
        assert len(one(b"N" + b"2\x86" * 5 + b".").pickle("x")) == 2
        assert "unfold" in refused(one(b"N" + b"2\x86" * 60 + b".").pickle, "x").reason
        lists = b"]q\0" + b"](h\0h\0eq\0" * 60 + b"."
        assert "unfold" in refused(one(lists).pickle, "x").reason

    def test_a_key_that_stands_twice_is_refused(self, one):
        assert "twice" in refused(one(b"}(K\1K\2K\1K\3u.").pickle, "x").reason


class TestPickles:
    PLAIN = {"s": "é", "b": [1, 2.5, None, True, 10**30], "t": ("x", ("y",)), 4: {"set"}, "raw": b"\x00\xff"}  # noqa: RUF012

    @pytest.mark.parametrize("protocol", [4, 5])
    def test_plain_containers_pass(self, make, protocol):
        assert make({"a.pkl": pickle.dumps(self.PLAIN, protocol)}).pickle("a.pkl") == self.PLAIN

    def test_what_the_fakes_write_is_read(self, tmp_path):
        value = {"clip": ["a", "b"], "é": [0, 1.5], "n": {"deep": (None, True)}}
        RawWriter(tmp_path).pickle("p/labels.pkl", value)
        assert Raw(tmp_path).pickle("p/labels.pkl") == value

    @pytest.mark.parametrize("protocol", [3, 4])
    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6, dtype="<f8").reshape(2, 3),
            np.arange(6, dtype=">i4"),
            np.asfortranarray(np.arange(6).reshape(2, 3)),
            np.array([True, False]),
            np.array(["é", "text"]),
            np.array([b"ab", b"c"]),
            np.zeros((0, 3), np.float32),
            np.array(7),
            np.array([1 + 2j]),
            np.array([[1, 2], "three", None], dtype=object),
        ],
        ids=lambda array: f"{array.dtype.str}{array.shape}",
    )
    def test_arrays_pass_when_allowed(self, one, array, protocol):
        found = one(pickle.dumps({"a": array}, protocol)).pickle("x", NUMPY_GLOBALS)["a"]
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape) == (pickle.loads(pickle.dumps(array)).dtype, array.shape)
        np.testing.assert_array_equal(found, array)
        again = pickle.loads(pickle.dumps(found))  # to another process, as the loaded tables may travel
        np.testing.assert_array_equal(again, array)

    @pytest.mark.parametrize(
        "scalar", [np.float64(2.5), np.int32(-3), np.bool_(True), np.str_("é"), np.float32("nan")]
    )
    def test_scalars_pass_when_allowed(self, one, scalar):
        found = one(pickle.dumps([scalar])).pickle("x", NUMPY_GLOBALS)[0]
        assert type(found) is type(scalar)
        np.testing.assert_equal(found, scalar)

    @pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
    @pytest.mark.parametrize("protocol", [0, 1, 2])
    def test_python_2_arrays_pass(self, one, module, protocol):
        values = np.array([1.5, -2.0, 1e300])
        content = values.tobytes()
        assert max(content) > 127
        assert one(python_2_pickle(module, protocol, content)).pickle("x", NUMPY_GLOBALS).tolist() == values.tolist()

    @FEW
    @given(
        st.binary(max_size=40)
        | st.lists(
            st.sampled_from(
                [bytes([n]) for n in range(256) if chr(n) in "().0123NIXUKJR}]aesub\x80\x85\x86\x93cndarystp\n"]
            ),
            max_size=30,
        ).map(b"".join)
    )
    def test_random_bytes_are_read_or_refused(self, one, data):
        for allow in (frozenset(), NUMPY_GLOBALS):
            try:
                one(data).pickle("x", allow)
            except OpenStoryError as error:
                assert "x" in str(error)  # noqa: PT017

    def test_a_cut_pickle_is_refused_at_every_length(self, one):
        data = pickle.dumps({"a": [np.arange(4), "text"], "b": (1, 2.5)})
        for stop in range(len(data)):
            refused(one(data[:stop]).pickle, "x", NUMPY_GLOBALS)


def python_2_pickle(module, protocol, content):
    """What Python 2 writes for a little-endian float64 array: its strings are bytes."""
    if protocol == 0:

        def text(value):
            return b"S'" + b"".join(b"\\x%02x" % byte for byte in value) + b"'\n"
    else:

        def text(value):
            return b"U" + bytes([len(value)]) + value

    shape = b"(I%d\nt" % (len(content) // 8) if protocol < 2 else b"K%c\x85" % (len(content) // 8)
    return b"".join(
        [
            b"\x80\x02" if protocol == 2 else b"",
            b"c" + module + b"\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\n" + text(b"b") + b"tRp3\n",
            b"(I1\n" + shape + b"cnumpy\ndtype\n(" + text(b"f8") + b"I0\nI1\ntR(I3\n" + text(b"<"),
            b"NNNI-1\nI-1\nI0\ntbI00\n" + text(content) + b"tb.",
        ]
    )


# -- arrays ------------------------------------------------------------------------------------------------


def npy(array, version=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def header(text, version=1):
    data = text.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(data))
    return b"\x93NUMPY" + bytes([version, 0]) + size + data


class TestNpy:
    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    @pytest.mark.parametrize(
        "array",
        [
            np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
            np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
            np.arange(5, dtype=">f4"),
            np.zeros((0, 4)),
            np.zeros((3, 0, 2), np.int16),
            np.array(5.5),
            np.array(["clip_é", "b"]),
            np.array([b"x"]),
            np.array([True]),
        ],
        ids=lambda array: f"{array.dtype.str}{array.shape}",
    )
    def test_plain_arrays_are_read_as_numpy_reads_them(self, make, array, version):
        raw = make({"a.npy": npy(array, version)})
        found = raw.npy("a.npy")
        expected = np.load(io.BytesIO(npy(array, version)))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(raw.object_npy("a.npy"), expected)

    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    def test_a_cut_file_is_refused_at_every_length(self, one, version):
        data = npy(np.arange(6, dtype=np.uint16).reshape(2, 3), version)
        for stop in range(len(data)):
            refused(one(data[:stop]).npy, "x")
        assert "truncated" in refused(one(data[:-1]).npy, "x").reason
        assert "2x3 uint16 = 12 bytes, the file holds 11" in refused(one(data[:-1]).npy, "x").reason
        assert "overlong" in refused(one(data + b"\0").npy, "x").reason

    @pytest.mark.parametrize(
        "data",
        [
            b"PK\3\4 an npz",
            b"<!DOCTYPE html> a page of the download site",
            npy(np.arange(3)).replace(b"\x93NUMPY\1", b"\x93NUMPY\4"),
            npy(np.array([{}, None], dtype=object)),
            npy(np.zeros(3, dtype=[("a", "f4"), ("b", "O")])),
            npy(np.zeros(3, dtype=[("a", "f4"), ("b", "i2")])),
            npy(np.zeros(3, dtype="V4")),
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4), }\n"),
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -3), }\n") + b"abcdef",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }\n"),
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 99999999999999999999), }\n"),
            header("{'descr': ('<f8', (100000, 100000)), 'fortran_order': False, 'shape': (1,), }\n"),
            header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(1,) * 99}, }}\n") + b"a",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (open('executed', 'w'),), }\n"),
            header("{'descr': 'no such type', 'fortran_order': False, 'shape': (1,), }\n"),
            header("{'descr': 1, 2: 'fortran_order'}\n"),
            header("{'descr': '|u1',\n   'x': (((\n"),
            header("'''"),
            header("(" * 9000),
            header("{" + " " * 20000 + "}"),
            b"\x93NUMPY\2\0\xff\xff\xff\xff{'descr'",
        ],
        ids=range(22),
    )
    def test_what_is_no_plain_array_is_refused(self, one, data):
        """A header that asks for terabytes, that Python cannot parse, or of an unknown version, among others."""
        assert refused(one(data).npy, "x").file == "x"
        with pytest.raises(Reject):
            one(data).pictures_npy("x")

    @FEW
    @given(st.binary(max_size=60), st.integers(0, 140), st.binary(max_size=6))
    @pytest.mark.filterwarnings("ignore")
    def test_random_bytes_are_read_or_refused(self, one, data, at, patch):
        whole = npy(np.arange(6, dtype=np.uint8).reshape(2, 3))
        patched = whole[:at] + patch + whole[at + len(patch) :]
        for candidate in (data, b"\x93NUMPY\1\0" + data, b"\x93NUMPY\3\0" + data, patched):
            raw = one(candidate)
            for method in (raw.npy, raw.object_npy, raw.pictures_npy, raw.json, raw.records, raw.text):
                try:
                    method("x")
                except OpenStoryError as error:
                    assert "x" in str(error)  # noqa: PT017

    def test_an_object_array_goes_through_the_list_of_harmless_types(self, make):
        table = {"a.png": np.arange(3.0), "b.png": [1, "two"]}
        stream, pair = io.BytesIO(), np.array([{"x": 1}, [2]], dtype=object)
        np.save(stream, np.array(table, dtype=object), allow_pickle=True)
        raw = make({"d.npy": stream.getvalue(), "pair.npy": npy(pair), "damaged.npy": stream.getvalue()[:-20]})
        found = raw.object_npy("d.npy")
        assert list(found) == list(table)
        np.testing.assert_array_equal(found["a.png"], [0, 1, 2])
        assert found["b.png"] == [1, "two"]
        assert raw.object_npy("pair.npy").tolist() == pair.tolist()
        refused(raw.object_npy, "damaged.npy")

    def test_the_real_python_2_dictionary_of_clevr_sv(self):
        folder = SHARED / "data" / "clevr_sv"
        if not (folder / "CLEVR_dict.npy").exists():
            pytest.skip("the CLEVR-SV sample is not here")
        vectors = Raw(folder).object_npy("CLEVR_dict.npy")
        assert len(vectors) == 384
        assert {(vector.shape, vector.dtype) for vector in vectors.values()} == {((75,), np.dtype("f8"))}
        expected = np.load(folder / "CLEVR_dict.npy", allow_pickle=True, encoding="latin1").item()  # of known origin
        assert list(vectors) == list(expected)
        assert all(np.array_equal(vectors[name], expected[name]) for name in expected)


class TestPicturesNpy:
    PIXELS = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)

    @pytest.mark.parametrize("dtype", ["u1", "i8", ">i4", "f2", "f4", ">f8", "u2"])
    def test_whole_numbers_pass_in_any_type(self, one, dtype):
        found = one(npy(self.PIXELS.astype(dtype))).pictures_npy("x")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, self.PIXELS)

    @pytest.mark.filterwarnings("ignore:invalid value")
    @pytest.mark.parametrize("value", [255.5, 0.5, -1, 256, float("nan"), float("inf"), float("-inf"), -0.001])
    def test_other_values_are_refused(self, one, value):
        pixels = self.PIXELS.astype("f8")
        pixels[1, 2, 3, 1] = value
        assert "whole numbers" in refused(one(npy(pixels)).pictures_npy, "x").reason

    @pytest.mark.parametrize(
        "array", [np.zeros((1, 2, 2, 3), bool), np.full((1, 1, 1, 3), "1"), np.zeros((1, 1, 1, 3), complex)]
    )
    def test_other_types_are_refused(self, one, array):
        assert "whole numbers" in refused(one(npy(array)).pictures_npy, "x").reason

    @pytest.mark.parametrize(
        "shape", [(3, 4, 3), (2, 3, 4), (2, 3, 4, 4), (0, 3, 4, 3), (2, 0, 4, 3), (), (1, 2, 3, 4, 3)]
    )
    def test_other_shapes_are_refused(self, one, shape):
        assert "(pictures, height, width, 3)" in refused(one(npy(np.zeros(shape, np.uint8))).pictures_npy, "x").reason


def test_the_payloads_would_work_without_the_list(tmp_path):
    """The payloads above are real: plain pickle runs them."""
    target = tmp_path / "executed"
    pickle.loads(payloads(target)["os.system"])
    assert target.exists()

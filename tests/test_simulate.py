"""What a simulation says, against ranks and workers that really read from a server which counts."""

import json

import pytest
import torch  # noqa: F401 - streams of workers that a loader starts
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from benchmarks import huge
from openstory_hf import order, schedule
from openstory_hf.build import build
from openstory_hf.cli import main
from openstory_hf.errors import OutputError, UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.folder import BuiltFolder
from openstory_hf.forecast import after, fetched, shares
from openstory_hf.load import load_stories
from openstory_hf.simulate import HUB_LIMITS, simulate
from openstory_hf.testing import FileServer

PICTURE = 3000
FEW_WORLDS = [(1, 1), (3, 2)]


@pytest.fixture
def small_blocks(monkeypatch):
    """The proportions of a large dataset in a small one."""
    monkeypatch.setattr(order, "SMALL", 0)
    monkeypatch.setattr(order, "BLOCK_BYTES", (100_000, 600_000))
    monkeypatch.setattr(order, "BLOCK_ROWS", 4)
    monkeypatch.setattr(order, "PIECE_BYTES", 60_000)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """6 shards of 10 row groups of 20 stories, all pictures of one size."""
    folder = tmp_path_factory.mktemp("many")
    return huge.write(folder / "out", shards=6, groups=10, rows=20, picture_bytes=PICTURE)


def read(stream, server, start=0):
    """Stories, requests for pictures and for indexes, and bytes of pictures that a stream makes of a server."""
    stories = sum(1 for _ in stream)
    asked = server.requests[start:]
    pictures = [request for request in asked if request.path.startswith("/stories/")]
    index = [request for request in asked if request.path.startswith("/index/") and "contents" not in request.path]
    return stories, len(pictures), len(index), sum(request.bytes for request in pictures)


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": 4}, {"shuffle": True, "length": 2}], ids=str)
@pytest.mark.parametrize(("ranks", "workers"), FEW_WORLDS)
def test_a_forecast_is_what_every_worker_of_every_rank_reads(many, small_blocks, options, ranks, workers):
    forecast = load_stories(many, **options).forecast(ranks, workers, epoch=2)
    found = []
    with FileServer(many) as server:
        for rank in range(ranks):
            for worker in range(workers):
                stream = load_stories(server.url, rank=rank, world_size=ranks, **options)
                stream.set_epoch(2)
                stream.take_part(worker, workers)
                found.append(read(stream, server, len(server.requests)))
    stories, requests, files, size = (list(column) for column in zip(*found, strict=True))
    assert stories == forecast.stories.tolist()
    assert requests == forecast.requests.tolist()
    assert files == forecast.index_files.tolist()
    for real, told in zip(size, forecast.bytes.tolist(), strict=True):
        assert told == pytest.approx(real, rel=0.02)  # the texts between row groups, and lengths of pictures


def test_a_forecast_of_planning_in_segments_counts_what_is_read_twice(many, small_blocks, monkeypatch):
    monkeypatch.setattr(schedule, "SEGMENT", 150)
    monkeypatch.setattr("openstory_hf.forecast.SEGMENT", 150)
    forecast = load_stories(many, shuffle=True).forecast(2)
    with FileServer(many) as server:
        for rank in range(2):
            before = len(server.requests)
            found = read(load_stories(server.url, shuffle=True, rank=rank, world_size=2), server, before)
            assert found[:2] == (forecast.stories[rank], forecast.requests[rank])


def test_resuming_costs_what_is_told(many, small_blocks):
    whole = load_stories(many, shuffle=True)
    [part] = shares(whole.schedule, 1, 1)
    taken = len(whole.schedule) // 2
    layout = BuiltFolder(str(many)).layout("stories", "train")
    [[asked, size]] = fetched(whole.schedule, layout, [part], [taken]).tolist()
    with FileServer(many) as server:
        stream = load_stories(server.url, shuffle=True)
        rows = iter(stream)
        for _ in range(taken):
            next(rows)
        state = stream.state_dict()
        rows.close()
        begun = [request for request in server.requests if request.path.startswith("/stories/")]
        assert asked - 2 <= len(begun) <= asked  # those read ahead may not have been sent yet
        assert sum(request.bytes for request in begun) <= 1.02 * size
    with FileServer(many) as server:  # a new one: what the first has read ahead may still be under way
        resumed = load_stories(server.url, shuffle=True)
        resumed.load_state_dict(state)
        stories, requests, _, real = read(resumed, server, 0)
    from openstory_hf.forecast import forecast

    rest = forecast(whole.schedule, layout, [after(part, taken)])
    assert (stories, requests) == (rest.stories[0], rest.requests[0])
    assert rest.bytes[0] == pytest.approx(real, rel=0.02)


def test_what_is_held_is_what_is_entered_and_read_ahead(many, small_blocks, monkeypatch):
    from openstory_hf import sources

    most = 0

    class Watched(sources.FetchedPictures):
        def enter(self, run):
            nonlocal most
            super().enter(run)
            sent = [future.result() for future in self._sent.values()]
            most = max(most, sum(len(data) for parts in sent for *_, data in parts))

    monkeypatch.setattr(sources, "FetchedPictures", Watched)
    with FileServer(many) as server:
        stream = load_stories(server.url, shuffle=True)
        told = int(stream.forecast(1).held[0])
        for _ in stream:
            pass
    assert told == pytest.approx(most, rel=0.05)


def test_the_manifest_alone_is_enough_for_published_stories(many, tmp_path):
    (tmp_path / "stats.json").write_bytes((many / "manifest.json").read_bytes())
    alone = simulate(tmp_path / "stats.json", ranks=8, workers=2).as_dict()
    beside = simulate(many / "manifest.json", ranks=8, workers=2).as_dict()
    assert alone == beside
    assert sum(alone["per_rank"]["stories"]) == alone["stories"] == 1200
    with pytest.raises(OutputError, match=r"contents\.parquet is missing"):
        simulate(tmp_path / "stats.json", ranks=8, workers=2, length=3)


def test_a_folder_and_a_url_are_as_good_as_a_manifest(many):
    folder = simulate(many, ranks=3, workers=1).as_dict()
    with FileServer(many) as server:
        assert simulate(server.url, ranks=3, workers=1).as_dict() == folder
        assert {request.path for request in server.requests} == {"/manifest.json"}


def test_thousands_of_workers_are_told_their_equal_shares(many):
    found = simulate(many, ranks=64, workers=8, rate=5).as_dict()
    assert len(found["per_rank"]["bytes"]) == 64
    assert found["idle_workers"] == 0
    stories = found["per_rank"]["stories"]
    assert max(stories) - min(stories) <= 8  # one for each worker
    assert found["seconds"] == pytest.approx(max(found["per_rank"]["stories"]) / 5)
    assert found["memory"]["node"] == 8 * 8 * found["memory"]["worker"]


def test_workers_without_stories_and_a_hub_that_would_refuse_are_warned_of(many, small_blocks):
    found = simulate(many / "manifest.json", ranks=512, workers=8, rate=1000)
    warnings = "\n".join(found.warnings())
    assert "2,896 of 4,096 workers get no story. Take fewer ranks or workers" in warnings
    assert "opening makes 4,608 requests in five minutes" not in warnings  # as many as a free user may
    assert "opening makes 9,216 requests" in warnings
    assert "it takes a PRO user (12,000)" in warnings
    assert "huggingface.co/docs/hub/rate-limits" in warnings
    assert list(simulate(many, ranks=2, workers=2, rate=1000).warnings()) == []  # of a local folder
    assert list(HUB_LIMITS.values()) == sorted(HUB_LIMITS.values())


def test_a_rank_that_reads_more_than_others_is_named(tmp_path):
    manifest = json.loads(
        (huge.write(tmp_path / "out", shards=4, groups=4, rows=20, picture_bytes=100) / "manifest.json").read_text()
    )
    for number, facts in enumerate(manifest["files"].values()):
        facts["bytes"] = 10**9 * (1 + 9 * (number == 3))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    uneven = simulate(tmp_path / "manifest.json", ranks=4, workers=1, shuffle=False)
    assert uneven.as_dict()["imbalance"]["bytes"] == pytest.approx(10 / 3.25, rel=0.01)
    assert any("one rank reads 3.08 times the mean" in warning for warning in uneven.warnings())
    mixed = simulate(tmp_path / "manifest.json", ranks=4, workers=1)
    assert mixed.as_dict()["imbalance"]["bytes"] < 2


@pytest.mark.parametrize("options", [{"ranks": 0}, {"workers": 0}, {"rate": 0}, {"ranks_per_node": 0}])
def test_numbers_that_make_no_job_are_refused(many, options):
    with pytest.raises(UsageError, match="must be more than 0"):
        simulate(many, **{"ranks": 1, "workers": 1, **options})


def test_a_split_without_stories_is_refused(many, tmp_path):
    manifest = json.loads((many / "manifest.json").read_text())
    manifest["splits"]["test"] = manifest["splits"]["train"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="split test has no stories to read"):
        simulate(tmp_path / "manifest.json", ranks=1, workers=1, split="test")


def test_the_command_prints_a_table_or_json(many, capsys):
    arguments = ["simulate", "--ranks", "6", "--workers", "2", "--repo-stats", str(many / "manifest.json")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for words in ("1,200 stories, 6 ranks of 2 workers", "most/mean", "requests/s", "memory", "resuming", "opening"):
        assert words in printed
    assert main([*arguments, "--json", "--shuffle", "4", "--length", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stories"] == 4 * 1200
    assert found == simulate(many / "manifest.json", ranks=6, workers=2, shuffle=4, length=2).as_dict()
    with pytest.raises(SystemExit):
        main([*arguments, "--shuffle", "sometimes"])


def test_simulating_reads_no_data(tmp_path):
    write_release(RawWriter(tmp_path / "raw"), {"train": {"s_01_e_01": 9}}, variant="B")
    build(FlintstonesSV, tmp_path / "raw", tmp_path / "out", splits=["train"])
    for folder in ("stories", "frames"):
        for file in (tmp_path / "out" / folder).iterdir():
            file.unlink()
    found = simulate(tmp_path / "out", ranks=2, workers=1, length=3)
    with BuiltFolder(str(tmp_path / "out")).contents("frames", "train") as contents:
        assert found.stories == 7 == contents.all_runs().sum() - 2

"""Order, shares and states: nothing lost, nothing twice, whatever the number of ranks and workers."""

import copy
import json
import pickle
import random
from itertools import chain, islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release
from torch.utils.data import DataLoader

from openstory_hf import mix, order
from openstory_hf.build import build
from openstory_hf.errors import UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.layout import Layout
from openstory_hf.load import load_stories
from openstory_hf.mix import mix_stories
from openstory_hf.order import ByBlocks
from openstory_hf.stream import cut, left_over, merge_states, share, size_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

WORLDS = [(1, 0), (1, 2), (2, 1), (2, 3), (4, 2)]
LENGTHS = [1, 4, 5, 10, 50]
EPISODES = {"s_01_e_01": 61, "s_01_e_02": 53, "s_01_e_03": 70}


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    write_release(RawWriter(folder / "raw"), {"train": EPISODES}, variant="B")
    build(FlintstonesSV, folder / "raw", folder / "out", row_group_bytes=40_000, splits=["train"])
    return folder / "out"


LEAN = ()


def ids(rows):
    return [row["story_id"] for row in rows]


def windows(length):
    return sum(clips - length + 1 for clips in EPISODES.values())


class Trainer:
    """A data-parallel job seen from outside: ranks in step, each asking its workers in turn as a DataLoader does.

    The workers are copies of the stream, told apart as torch tells them apart; no processes are started.
    """

    def __init__(self, make, ranks, workers, batch, monkeypatch):
        self.workers, self.batch = workers, batch
        self.streams = [[make(rank, ranks) for _ in range(max(1, workers))] for rank in range(ranks)]
        self.patch = monkeypatch

    def begin(self, state=None, epoch=0, per_worker=None):
        self.iterators = []
        for rank, copies in enumerate(self.streams):
            turn = []
            for worker, stream in enumerate(copies):
                stream.set_epoch(epoch)
                if per_worker is not None:
                    stream.load_state_dict(per_worker[rank][worker])
                elif state is not None:
                    stream.load_state_dict(state)
                turn.append((worker, self.iterate(worker, stream)))
            self.iterators.append(turn)

    def iterate(self, worker, stream):
        iterator = None
        while True:
            with self.patch.context() as patch:
                self.as_worker(patch, worker)
                iterator = iter(stream) if iterator is None else iterator
                rows = list(islice(iterator, self.batch))
            yield rows
            if len(rows) < self.batch:
                return

    def as_worker(self, patch, worker):
        if self.workers:
            info = type("Info", (), {"id": worker, "num_workers": self.workers, "seed": 5 + worker})()
            patch.setattr(torch.utils.data, "get_worker_info", lambda: info)

    def step(self):
        """One batch of every rank; false when there is none."""
        self.found = []
        for turn in self.iterators:
            while turn:
                worker, batches = turn.pop(0)
                rows = next(batches, [])
                if len(rows) == self.batch:
                    turn.append((worker, batches))
                if rows:
                    self.found += ids(rows)
                    break
        return bool(self.found)

    def states(self):
        found = []
        for copies in self.streams:
            found.append([])
            for worker, stream in enumerate(copies):
                with self.patch.context() as patch:
                    self.as_worker(patch, worker)
                    found[-1].append(json.loads(json.dumps(stream.state_dict())))
        return found


def maker(out, **options):
    return lambda rank, ranks: load_stories(out, columns=LEAN, rank=rank, world_size=ranks, **options)


# -- the acceptance of elasticity ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_the_union_over_ranks_and_workers_is_the_same_in_every_world(out, length, monkeypatch):
    plain = ids(load_stories(out, length=length, columns=LEAN))
    assert len(set(plain)) == len(plain) == windows(length)
    for shuffle in (False, True, "full"):
        make = maker(out, length=length, shuffle=shuffle, seed=3)
        whole = make(0, 1)
        whole.set_epoch(2)
        expected = ids(whole)
        assert sorted(expected) == sorted(plain)
        place = {story_id: number for number, story_id in enumerate(expected)}
        for ranks, workers in WORLDS:
            trainer = Trainer(make, ranks, workers, 4, monkeypatch)
            trainer.begin(epoch=2)
            found = []
            while trainer.step():
                found += trainer.found
            assert len(found) == len(expected)
            assert sorted(found, key=place.__getitem__) == expected


@pytest.mark.parametrize(("ranks", "workers"), WORLDS)
def test_two_hundred_interruptions_resumed_in_other_worlds_lose_and_repeat_nothing(out, ranks, workers, monkeypatch):
    draw = random.Random(ranks * 10 + workers)
    interruptions = 0
    while interruptions < 200:
        length, batch = draw.choice(LENGTHS), draw.choice([1, 2, 3, 7])
        epoch, shuffle = draw.randrange(3), draw.choice([False, True, "full"])
        make = maker(out, length=length, shuffle=shuffle, seed=1)
        whole = make(0, 1)
        whole.set_epoch(epoch)
        expected = ids(whole)
        found, state, world = [], None, (ranks, workers)
        while True:
            trainer = Trainer(make, *world, batch, monkeypatch)
            trainer.begin(state, epoch)
            for _ in range(draw.randrange(1, 2 + len(expected) // (3 * world[0] * batch))):
                if not trainer.step():
                    break
                found += trainer.found
            else:
                interruptions += 1
                states = trainer.states()
                # ranks in step: the workers of rank 0 say it all
                state = merge_states(*(states[0] if len(found) % 2 else chain(*states)))
                world = draw.choice([other for other in WORLDS if other != world])
                continue
            break
        assert len(found) == len(expected)
        assert sorted(found) == sorted(expected)


def test_each_rank_resumes_from_its_own_state_in_the_same_world_even_out_of_step(out, monkeypatch):
    make = maker(out, length=5, shuffle=True)
    expected = sorted(ids(make(0, 1)))
    streams = [make(rank, 3) for rank in range(3)]
    found, states = [], []
    for steps, stream in zip((5, 0, 17), streams, strict=True):
        found += [row["story_id"] for row in islice(stream, steps)]
        states.append(stream.state_dict())
    for rank, state in enumerate(states):
        again = make(rank, 3)
        again.load_state_dict(state)
        rest = ids(again)
        if rank == 0:
            assert len(rest) == len(ids(make(0, 3))) - 5
        found += rest
    assert sorted(found) == expected
    # in another world all states together are needed, and enough
    found = [row["story_id"] for steps, rank in ((5, 0), (17, 2)) for row in islice(make(rank, 3), steps)]
    for rank in range(2):
        again = make(rank, 2)
        again.load_state_dict(merge_states(*states))
        found += ids(again)
    assert sorted(found) == expected


def test_a_state_is_small_json_whatever_the_size(out):
    stream = load_stories(out, length=5, shuffle=True)
    for _ in islice(stream, 30):
        pass
    text = json.dumps(stream.state_dict())
    assert len(text) < 1000
    again = load_stories(out, length=5, shuffle=True)
    again.load_state_dict(json.loads(text))
    assert ids(again) == ids(load_stories(out, length=5, shuffle=True))[30:]
    assert ids(again) == ids(load_stories(out, length=5, shuffle=True))  # a state is used once


def test_the_state_of_one_worker_is_not_taken_for_that_of_all(out, monkeypatch):
    make = maker(out, length=5)
    trainer = Trainer(make, 1, 2, 3, monkeypatch)
    trainer.begin()
    trainer.step()
    stream = make(0, 1)
    stream.load_state_dict(trainer.states()[0][0])
    with pytest.raises(UsageError, match=r"knows nothing of worker 1 of 2.*merge_states"):
        list(stream)


def test_a_rank_that_is_through_is_not_taken_for_one_that_is_not(out):
    total = load_stories(out, length=1).num_stories
    assert total % 3 == 1  # rank 0 has one story more
    streams = [load_stories(out, length=1, columns=LEAN, rank=rank, world_size=3) for rank in range(3)]
    found = ids(streams[0]) + ids(streams[1])
    stream = load_stories(out, length=1, columns=LEAN)
    stream.load_state_dict(streams[1].state_dict())
    with pytest.raises(UsageError, match=r"rank 1 was through with its share.*state of rank 0"):
        list(stream)
    stream.load_state_dict(streams[0].state_dict())
    assert ids(stream) == []
    assert len(found) == total - len(ids(streams[2]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 4}, "seed=3, this one has 4"),
        ({"length": 4}, "length=5, this one has 4"),
        ({"shuffle": False}, "shuffle=True, this one has False"),
        ({"frame": "random"}, "frame='middle', this one has 'random'"),
    ],
)
def test_a_state_of_another_request_is_refused_with_both_values(out, options, words):
    state = load_stories(out, length=5, shuffle=True, seed=3).state_dict()
    with pytest.raises(UsageError) as caught:
        load_stories(out, **{"length": 5, "shuffle": True, "seed": 3, **options}).load_state_dict(state)
    assert words in str(caught.value)


def test_a_state_of_another_dataset_or_version_is_refused_with_both_values(out, tmp_path):
    write_release(RawWriter(tmp_path / "raw"), {"train": {"s_01_e_01": 9}}, variant="B")
    build(FlintstonesSV, tmp_path / "raw", tmp_path / "out")
    here, there = load_stories(out), load_stories(tmp_path / "out")
    with pytest.raises(UsageError) as caught:
        here.load_state_dict(there.state_dict())
    assert here.identity["data"] in str(caught.value)
    assert there.identity["data"] in str(caught.value)
    state = here.state_dict()
    state["identity"]["order_version"] = 0
    with pytest.raises(UsageError, match=f"order_version=0, this one has {order.ORDER_VERSION}"):
        here.load_state_dict(state)
    with pytest.raises(UsageError, match="version 99, this package reads 1"):
        here.load_state_dict({**here.state_dict(), "openstory_hf_stream": 99})
    with pytest.raises(UsageError, match="no state of a story stream"):
        here.load_state_dict({"step": 3})


# -- real loaders ---------------------------------------------------------------------------------------------


def loader(stream, workers, kind=DataLoader, **options):
    return kind(stream, batch_size=4, num_workers=workers, collate_fn=ids, **options)


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn"), (8, "fork")])
def test_torch_workers_of_either_kind_give_each_story_once(out, workers, method):
    stream = load_stories(out, length=5, shuffle=True, columns=LEAN)
    expected = sorted(ids(stream))
    found = [story for batch in loader(stream, workers, multiprocessing_context=method) for story in batch]
    assert sorted(found) == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_persistent_workers_see_set_epoch(out, method):
    stream = load_stories(out, length=5, shuffle=True, columns=LEAN)
    batches = loader(stream, 2, persistent_workers=True, multiprocessing_context=method)
    seen = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        seen.append(list(batches))
    assert seen[0] == seen[2] != seen[1]
    assert sorted(chain(*seen[0])) == sorted(chain(*seen[1]))


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("steps", [0, 1, 5, 20])
def test_a_stateful_dataloader_resumes_in_the_same_and_in_another_number_of_workers(out, workers, steps):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata").StatefulDataLoader

    def fresh():
        stream = load_stories(out, length=5, shuffle=True, columns=LEAN)
        stream.set_epoch(1)
        return stream

    expected = sorted(ids(fresh()))
    first = loader(fresh(), workers, stateful)
    found = [story for batch in islice(first, steps) for story in batch]
    state = copy.deepcopy(first.state_dict())
    same = loader(fresh(), workers, stateful)
    same.load_state_dict(state)
    assert sorted(found + [story for batch in same for story in batch]) == expected
    for others in {0, 1, 3} - {workers}:
        stream = fresh()
        stream.load_state_dict(state)
        other = loader(stream, others, stateful)
        assert sorted(found + [story for batch in other for story in batch]) == expected
        # the next epoch begins at its beginning, though its new workers inherit the state that was loaded
        assert sorted(story for batch in other for story in batch) == expected


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("steps", [0, 1, 4, 29, 44, 1000])
def test_a_plain_dataloader_resumes_by_the_number_of_batches_it_gave(out, workers, steps):
    stream = load_stories(out, length=5, shuffle=True, columns=LEAN)
    expected = sorted(ids(stream))
    found = [story for batch in islice(loader(stream, workers), steps) for story in batch]
    state = stream.state_after(steps, batch_size=4, num_workers=workers)
    again = load_stories(out, length=5, shuffle=True, columns=LEAN)
    again.load_state_dict(state)
    more = [story for batch in islice(loader(again, 2), 3) for story in batch]
    last = load_stories(out, length=5, shuffle=True, columns=LEAN)
    last.load_state_dict(again.state_after(3, batch_size=4, num_workers=2))
    assert sorted(found + more + ids(last)) == expected


def test_accelerate_shares_out_a_stream_that_is_told_not_to(out):
    accelerate = pytest.importorskip("accelerate.data_loader", reason="needs accelerate")
    found = []
    for rank in range(2):
        stream = load_stories(out, length=5, shuffle=True, columns=LEAN, rank=0, world_size=1)
        prepared = accelerate.prepare_data_loader(
            loader(stream, 0), num_processes=2, process_index=rank, dispatch_batches=False, put_on_device=False
        )
        found += [story for batch in prepared for story in batch]
    expected = ids(load_stories(out, length=5, columns=LEAN))
    assert sorted(set(found)) == sorted(expected)
    assert len(found) - len(expected) < 2 * 4  # accelerate fills up the last batches


# -- order ----------------------------------------------------------------------------------------------------


def layout_of(files):
    """The layout of files, each its bytes and the rows of its row groups."""
    return Layout.of([{"rows": sum(groups), "bytes": size, "row_groups": groups} for size, groups in files])


def table_of(rows, row_bytes):
    """The layout of one file of equal rows, a hundred to the row group."""
    return layout_of([(rows * row_bytes, [len(part) for part in np.array_split(range(rows), rows // 100 or 1)])])


def before(sizes):
    return np.cumsum([0, *sizes])


def everything(by_blocks, stories):
    return by_blocks.at(0, stories)


@given(
    st.lists(st.tuples(st.integers(0, 200_000_000), st.lists(st.integers(1, 40), max_size=6)), min_size=1, max_size=5),
    st.integers(1, 12),
    st.booleans(),
)
@settings(deadline=None)
def test_blocks_cover_the_rows_in_order_and_none_is_of_two_files(files, length, largest):
    layout = layout_of(files)
    found = order.blocks(layout, length, largest=largest)
    assert found.first[0] == 0
    assert found.first[-1] == len(layout)
    assert (np.diff(found.first) > 0).all()
    assert set(layout.files.tolist()) <= set(found.first.tolist())
    assert (found.pieces >= 1).all()
    assert (found.pieces <= np.diff(found.first)).all()


def test_blocks_have_as_many_bytes_as_each_other_and_pieces_are_requests_of_4_mb():
    found = order.blocks(layout_of([(2400 << 20, [20] * 100)] * 12), 1)  # 29 GB
    assert set(np.diff(found.first).tolist()) == {20}
    assert set(found.pieces.tolist()) == {6}
    assert found.at_a_time == order.AT_A_TIME
    small = order.blocks(layout_of([(480 << 20, [240] * 20)]), 1)
    assert len(small) == 300  # of at least 16 rows; 1 MB would be 480
    assert set(small.pieces.tolist()) == {1}


def test_where_rows_are_large_blocks_and_pieces_have_fewer_of_them():
    found = order.blocks(layout_of([(480 << 20, [1000] * 10 + [20] * 10)]), 1)  # 24 MB each
    rows = np.diff(found.first)
    assert rows[found.first[:-1] < 10_000].max() < 50
    assert rows[found.first[:-1] > 10_050].max() <= 16
    most = np.diff(layout_of([(480 << 20, [1000] * 10 + [20] * 10)]).bytes_before(found.first)) / found.pieces
    assert most.max() < 1.5 * order.PIECE_BYTES


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
@settings(deadline=None)
def test_a_shuffle_is_a_permutation_that_reads_few_blocks_at_a_time(stories, width, seed, epoch):
    block = np.sort(np.random.default_rng(seed).integers(0, 60, stories))
    sizes = np.bincount(block, minlength=60)
    found = everything(ByBlocks(before(sizes), width, seed, epoch), stories)
    assert sorted(found.tolist()) == list(range(stories))
    assert (found == everything(ByBlocks(before(sizes), width, seed, epoch), stories)).all()
    # each block is read from its beginning to its end
    for one in set(block.tolist()):
        assert (np.diff(found[block[found] == one]) > 0).all()
    # at no time are more blocks begun and not finished
    left = dict(zip(*np.unique(block, return_counts=True), strict=True))
    begun, most = set(), 0
    for number in found.tolist():
        begun.add(block[number])
        most = max(most, len(begun))
        left[block[number]] -= 1
        if left[block[number]] == 0:
            begun.discard(block[number])
    assert most <= width


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(1, 40), st.data())
@settings(deadline=None)
def test_any_positions_of_an_order_can_be_asked_for(sizes, width, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_CELLS", data.draw(st.sampled_from([1, 50, 1 << 20])))
        stories = sum(sizes)
        by_blocks = ByBlocks(before(sizes), width, 3, 1)
        whole = everything(by_blocks, stories)
        start = data.draw(st.integers(0, stories))
        stop = data.draw(st.integers(start, stories))
        assert (by_blocks.at(start, stop) == whole[start:stop]).all()


def test_stories_move_far_and_within_the_stated_memory():
    found = order.blocks(table_of(20_000, 50_000), 1)  # 1 GB in stories of 50 kB
    assert found.at_a_time * found.bytes / found.pieces.sum() <= order.AT_A_TIME_BYTES
    orders = [everything(ByBlocks(found.first, found.at_a_time, 0, epoch), 20_000) for epoch in (0, 1)]
    assert (orders[0] != orders[1]).mean() > 0.99
    for one in orders:
        moved = np.abs(np.argsort(one) - np.arange(len(one)))
        assert moved.mean() >= 0.3 * len(one)


def test_batches_are_as_mixed_as_those_of_a_full_shuffle():
    found = order.blocks(table_of(3000, 130_000), 5)  # 24 sequences of 125 frames
    sequence = np.arange(3000) // 125

    def spread(one):
        batches = sequence[everything(one, 3000)][: 3000 // 16 * 16].reshape(-1, 16)
        return np.mean([len(set(batch)) for batch in batches.tolist()])

    first, full = found.first, spread(order.Freely(3000, 0, 0))
    assert spread(ByBlocks(first, found.at_a_time, 0, 0)) > 0.97 * full > 11
    assert spread(ByBlocks(first, 4, 0, 0)) < 5


def test_a_small_table_is_shuffled_fully():
    assert order.blocks(table_of(100, 100_000), 1).at_a_time == 0


@pytest.mark.parametrize("blocks", [33, 40, 64, 200])
def test_few_blocks_move_as_far_as_many(blocks):
    for epoch in range(50):
        found = everything(ByBlocks(before([15] * blocks), max(1, blocks // 3), 0, epoch), 15 * blocks)
        assert np.abs(np.argsort(found) - np.arange(len(found))).mean() >= 0.3 * len(found)


def test_the_draws_of_a_story_do_not_depend_on_its_place():
    ten = np.arange(10)
    assert (order.draws(ten, 1, 2)[[7, 3]] == order.draws(np.array([7, 3]), 1, 2)).all()
    assert (order.draws(ten, 1, 2) != order.draws(ten, 1, 3)).all()
    assert order.draws(np.arange(4000), 0, 0).min() >= 0
    picks = [order.pick(int(draw), place, 5) for draw in order.draws(np.arange(4000), 0, 0) for place in range(3)]
    counts = np.bincount(picks, minlength=5)
    assert counts.min() > 0.9 * len(picks) / 5


# -- intervals against lists ----------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 9), max_size=6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.integers(0, 30), min_size=12, max_size=12),
)
def test_intervals_do_what_lists_of_positions_would(gaps, ranks, workers, counts):
    intervals, at = [], 0
    for gap in gaps:
        intervals.append((at + 1, at + 1 + gap))
        at += gap + 2
    positions = [place for start, stop in intervals for place in range(start, stop)]
    consumers = ranks * workers
    assert size_of(intervals) == len(positions)
    taken, left = [], []
    for number in range(consumers):
        low = sum(len(range(other, len(positions), consumers)) for other in range(number))
        high = low + len(range(number, len(positions), consumers))
        mine = positions[low:high]
        assert [p for start, stop in share(intervals, number, consumers) for p in range(start, stop)] == mine
        assert [p for start, stop in cut(intervals, low, high) for p in range(start, stop)] == mine
        taken.append([*divmod(number, workers), min(counts[number], len(mine))])
        left += mine[counts[number] :]
    rest = left_over(intervals, {"ranks": ranks, "workers": workers, "taken": taken})
    assert [place for start, stop in rest for place in range(start, stop)] == left


# -- mixtures -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    write_release(RawWriter(folder / "raw"), {"train": {"s_02_e_01": 30}}, variant="B")
    build(FlintstonesSV, folder / "raw", folder / "out", splits=["train"])
    return folder / "out"


def mixture(out, other, rank=None, ranks=None, **options):
    streams = {
        "a": load_stories(out, length=5, shuffle=True, columns=LEAN),
        "b": load_stories(other, length=3, columns=LEAN),
    }
    return mix_stories(streams, rank=rank, world_size=ranks, **options)


def test_a_mixture_without_weights_gives_every_story_once(out, other):
    found = ids(mixture(out, other))
    assert sorted(found) == sorted(ids(load_stories(out, length=5)) + ids(load_stories(other, length=3)))
    assert found != sorted(found)
    b = [story for story in found if "s_02" in story]
    assert b == ids(load_stories(other, length=3))  # each stream keeps its own order


@pytest.mark.parametrize("stop", ["first", "all"])
def test_weights_decide_how_often_a_stream_is_drawn_and_when_an_epoch_ends(out, other, stop):
    sizes = {"a": windows(5), "b": 28}
    stream = mixture(out, other, weights={"a": 1, "b": 1}, stop=stop)
    assert sizes["a"] == 172
    assert stream.num_stories == {"first": 2 * 28, "all": 2 * 172}[stop]
    found = ids(stream)
    counts = {name: sum(("s_02" in story) == (name == "b") for story in found) for name in "ab"}
    assert counts == {"a": stream.num_stories // 2, "b": stream.num_stories // 2}
    times = {story: found.count(story) for story in found}
    if stop == "first":
        assert set(times.values()) == {1}
    else:
        assert all(times[story] == 1 for story in times if "s_02" not in story)
        laps = 172 / 28
        assert all(int(laps) <= times[story] <= int(laps) + 1 for story in times if "s_02" in story)


@pytest.mark.parametrize(("ranks", "workers"), WORLDS)
def test_a_mixture_is_as_elastic_as_its_parts(out, other, ranks, workers, monkeypatch):
    def make(rank, world):
        return mixture(out, other, rank, world, weights={"a": 2, "b": 1}, stop="all", seed=9)

    expected = ids(make(0, 1))
    draw = random.Random(ranks + workers)
    for _ in range(8):
        found, state, world = [], None, (ranks, workers)
        for _ in range(3):
            trainer = Trainer(make, *world, 3, monkeypatch)
            trainer.begin(state)
            for _ in range(draw.randrange(1, 15)):
                if trainer.step():
                    found += trainer.found
            state = merge_states(*trainer.states()[0])
            world = draw.choice([other_world for other_world in WORLDS if other_world != world])
        trainer = Trainer(make, *world, 3, monkeypatch)
        trainer.begin(state)
        while trainer.step():
            found += trainer.found
        assert sorted(found) == sorted(expected)


def test_a_mixture_survives_pickling_and_refuses_other_weights(out, other):
    stream = mixture(out, other, weights={"a": 2, "b": 1})
    stream.set_epoch(3)
    assert ids(pickle.loads(pickle.dumps(stream))) == ids(stream)
    with pytest.raises(UsageError, match="weights="):
        mixture(out, other, weights={"a": 1, "b": 1}).load_state_dict(stream.state_dict())
    with pytest.raises(UsageError, match="a positive number for each of a, b"):
        mixture(out, other, weights={"a": 1})
    with pytest.raises(UsageError, match="a positive number for each of a, b"):
        mixture(out, other, weights={"a": 1, "b": 0})
    with pytest.raises(UsageError, match="stop='x'"):
        mixture(out, other, stop="x")


@pytest.mark.parametrize("more", [0, 1, 2])
def test_state_after_counts_from_the_state_that_a_pass_in_this_process_began_with(out, more):
    begun = load_stories(out)
    for _ in islice(begun, 5):
        pass
    resumed = load_stories(out)
    resumed.load_state_dict(begun.state_dict())
    batches = iter(DataLoader(resumed, batch_size=3, collate_fn=list))
    for _ in range(more):
        next(batches)
    assert resumed.state_after(more, 3)["taken"] == [[0, 0, 5 + 3 * more]]


def test_a_copy_for_a_process_that_knows_of_no_ranks_keeps_its_own(out, other, monkeypatch):
    """Workers that are spawned see no torch.distributed: each would read everything."""
    streams = [load_stories(out, seed=3), mix_stories({"a": load_stories(out), "b": load_stories(other)})]
    with monkeypatch.context() as patch:
        for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 3)):
            patch.setattr(torch.distributed, name, lambda value=value: value)
        expected = [[row["story_id"] for row in stream] for stream in streams]
        copies = pickle.loads(pickle.dumps(streams))  # our own
    assert [[row["story_id"] for row in stream] for stream in copies] == expected
    assert all(0 < len(ids) < stream.num_stories for ids, stream in zip(expected, streams, strict=True))


def test_a_world_of_no_ranks_is_refused(out):
    with pytest.raises(UsageError, match="world_size=0"):
        load_stories(out, rank=0, world_size=0)


def test_any_stride_and_length_is_a_number(out):
    assert len(list(load_stories(out, length=2, stride=2**40))) == len(list(load_stories(out, length=2, stride=2**20)))
    with pytest.raises(UsageError):
        load_stories(out, length=2**40)


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    data=st.data(),
    stop=st.sampled_from(["first", "all"]),
)
def test_a_mixture_repeats_nothing_until_the_first_is_through_and_misses_nothing_until_the_last(sizes, data, stop):
    weights = [data.draw(st.floats(0.05, 5)) for _ in sizes]
    named = {str(at): size for at, size in enumerate(sizes)}
    total = sum(weights)
    counts = mix._counts(named, {str(at): weight / total for at, weight in enumerate(weights)}, stop)
    if stop == "first":
        assert all(count <= size for count, size in zip(counts, sizes, strict=True))
        assert any(size - count <= 1 for count, size in zip(counts, sizes, strict=True))
    else:
        assert all(count >= size for count, size in zip(counts, sizes, strict=True))

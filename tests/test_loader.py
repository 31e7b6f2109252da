"""StoryLoader: the batches of a DataLoader, exact states, memory that is used again only when nobody needs it."""

import os
import re
import signal
import subprocess
import sys
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release
from torch.utils.data import DataLoader

from openstory_hf.build import build
from openstory_hf.collate import StoryTensorCollator
from openstory_hf.collate.buffers import Reused, allocating, empty
from openstory_hf.errors import UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.load import load_stories
from openstory_hf.loader import StoryLoader, WorkerError
from openstory_hf.views import RowError

COLUMNS = ("captions", "images")


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    write_release(RawWriter(folder / "raw"), {"train": {"s_01_e_01": 31, "s_01_e_02": 28}}, variant="B")
    build(FlintstonesSV, folder / "raw", folder / "out", splits=["train"])
    return folder / "out"


def stream(out, **options):
    return load_stories(out, length=4, frame="random", shuffle=True, columns=COLUMNS, **options)


class Collate:
    """Two large tensors, a small one and a list."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at

    def __call__(self, rows):
        if self.fail_at in [row["story_id"] for row in rows]:
            raise ValueError(f"cannot collate {self.fail_at}")
        sizes = torch.tensor([[len(image["bytes"]) for image in row["images"]] for row in rows])
        pixels = empty((len(rows), 3, 40, 40), torch.float32)
        for place, row in enumerate(rows):
            pixels[place] = row["draw"] % 1000
        other = torch.arange(5000) + rows[0]["draw"] % 7
        return {"ids": [row["story_id"] for row in rows], "pixels": pixels, "sizes": sizes, "other": other}


def same(one, two):
    assert list(one) == list(two)
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == two[name].dtype
            assert torch.equal(value, two[name])
        else:
            assert value == two[name]


@pytest.mark.parametrize(("workers", "method"), [(0, None), (1, "fork"), (3, "fork"), (2, "spawn")])
def test_batches_are_those_of_a_dataloader(out, workers, method):
    collate = Collate()
    expected = list(DataLoader(stream(out), batch_size=4, num_workers=workers, collate_fn=collate))
    loader = StoryLoader(stream(out), collate, 4, num_workers=workers, start_method=method)
    for _ in range(2):
        found = list(loader)  # all kept, so no memory may be used twice
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):
            same(one, two)
    loader.close()
    for one, two in zip(found, expected, strict=True):
        same(one, two)


def test_epochs_differ_and_workers_live_on(out):
    loader = StoryLoader(stream(out), Collate(), 4, num_workers=2)
    seen, processes = [], set()
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        seen.append([batch["ids"] for batch in loader])
        processes.add(tuple(worker.process.pid for worker in loader._workers))
    assert seen[0] == seen[2] != seen[1]
    assert len(processes) == 1
    loader.close()


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_state_resumes_in_any_number_of_workers(out, workers, taken):
    expected = sorted(row["story_id"] for row in stream(out))
    loader = StoryLoader(stream(out), Collate(), 3, num_workers=workers)
    found = [story for batch in islice(loader, taken) for story in batch["ids"]]
    state = loader.state_dict()
    loader.close()
    for others in (0, 1, 3):
        again = StoryLoader(stream(out), Collate(), 3, num_workers=others)
        again.load_state_dict(state)
        more = [story for batch in islice(again, 2) for story in batch["ids"]]
        last = stream(out)
        last.load_state_dict(again.state_dict())
        assert sorted(found + more + [row["story_id"] for row in last]) == expected
        # a state is used once
        assert sorted(story for batch in again for story in batch["ids"]) == expected
        again.close()


def test_memory_is_used_again_only_when_nothing_refers_to_it(out):
    loader = StoryLoader(stream(out), Collate(), 2, num_workers=1)
    kept, copies, places = [], [], set()
    for number, batch in enumerate(loader):
        if number % 5 == 0:
            kept.append(batch["pixels"][0].view(-1))  # part of a tensor of a batch
            copies.append(kept[-1].clone())
        places.add(batch["pixels"].data_ptr())
        del batch
    assert number > 20
    assert len(kept) < len(places) <= len(kept) + 6  # those kept, and a few that take turns
    loader.close()
    for one, two in zip(kept, copies, strict=True):
        assert torch.equal(one, two)


def test_the_same_without_workers():
    reused = Reused()
    with allocating(reused):
        first = empty((100, 100), torch.float32)
        first.fill_(1)
        part = first[3]
        place = first.data_ptr()
        del first
        second = empty((100, 100), torch.float32)
        assert second.data_ptr() != place
        assert (part == 1).all()
        del part
        third = empty((50, 100), torch.float32)
    assert third.data_ptr() == place
    assert empty((2, 3), torch.uint8).shape == (2, 3)


def test_batches_may_grow(out):
    class Growing(Collate):
        def __call__(self, rows):
            batch = super().__call__(rows)
            batch["more"] = torch.full((3000 * (1 + rows[0]["draw"] % 5),), rows[0]["draw"] % 11)
            return batch

    collate = Growing()
    expected = list(DataLoader(stream(out), batch_size=4, num_workers=1, collate_fn=collate))
    loader = StoryLoader(stream(out), collate, 4, num_workers=1)
    for one, two in zip(loader, expected, strict=True):
        same(one, two)
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_is_raised_here(out, workers):
    story = next(iter(stream(out)))["story_id"]
    loader = StoryLoader(stream(out), Collate(fail_at=story), 2, num_workers=workers)
    with pytest.raises((RuntimeError, ValueError), match=f"cannot collate {story}"):
        list(loader)
    loader.close()
    loader = StoryLoader(load_stories(out, columns=["captions"]), StoryTensorCollator(image_size=8), 2, num_workers=1)
    with pytest.raises(RowError, match="pictures are missing"):
        list(loader)
    loader.close()


def test_a_killed_worker_is_named(out):
    loader = StoryLoader(stream(out), Collate(), 2, num_workers=2)
    batches = iter(loader)
    next(batches)
    os.kill(loader._workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"exit code -9.*Resume from the last state"):
        list(batches)
    loader.close()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="counts files in /dev/shm")
@pytest.mark.parametrize("end", ["close", "kill"])
def test_shared_memory_of_batches_nobody_took_is_removed(out, end):
    loader = StoryLoader(stream(out), Collate(), 2, num_workers=1, ahead=4)
    batches = iter(loader)
    next(batches)
    process = loader._workers[0].process
    while not loader._workers[0].connection.poll():
        pass  # until a batch is waiting that will not be taken
    if end == "kill":
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    loader.close()
    assert not list(Path("/dev/shm").glob(f"openstory-{process.pid}-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_short_soak_loses_repeats_and_leaks_nothing():
    script = Path(__file__).parents[1] / "scripts/soak.py"
    options = ["--minutes", "0.1", "--workers", "2", "--interval", "2", "--kills", "0.02"]
    run = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    *_, last, left = run.stdout.splitlines()
    assert " 0 lost, 0 repeated, " in last
    assert int(re.search(r" (\d+) stories", last)[1]) > 0
    assert left.startswith("left over: 0 processes, 0 file descriptors, 0 shared files")


def test_an_iteration_that_was_left_does_not_disturb_the_next(out):
    loader = StoryLoader(stream(out), Collate(), 2, num_workers=2)
    first = next(iter(loader))
    found = list(loader)
    same(found[0], first)
    assert len({story for batch in found for story in batch["ids"]}) == loader.stream.num_stories
    loader.close()


def test_ranks_get_their_own_shares(out):
    found = []
    for rank in range(2):
        loader = StoryLoader(stream(out, rank=rank, world_size=2), Collate(), 4, num_workers=2)
        found += [story for batch in loader for story in batch["ids"]]
        loader.close()
    assert sorted(found) == sorted(row["story_id"] for row in stream(out))


def test_drop_last_leaves_small_batches_out(out):
    loader = StoryLoader(stream(out), Collate(), 5, num_workers=2, drop_last=True)
    assert {len(batch["ids"]) for batch in loader} == {5}
    loader.close()


def test_options_that_cannot_work_are_refused(out):
    with pytest.raises(UsageError, match="batch_size=0"):
        StoryLoader(stream(out), Collate(), 0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [3, None])
def test_set_epoch_behind_a_state_begins_that_epoch(out, workers, taken):
    begun = StoryLoader(stream(out), Collate(), 4, num_workers=workers)
    begun.set_epoch(3)
    for _ in islice(begun, taken):
        pass
    resumed = StoryLoader(stream(out), Collate(), 4, num_workers=workers)
    resumed.load_state_dict(begun.state_dict())
    resumed.set_epoch(4)
    begun.set_epoch(4)
    assert [batch["ids"] for batch in resumed] == [batch["ids"] for batch in begun]
    begun.close()
    resumed.close()


class Flaky(Collate):
    """Fails with every batch for as long as a file is there."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def __call__(self, rows):
        if self.file.exists():
            raise ValueError("the network is gone")
        return super().__call__(rows)


def test_a_failure_of_all_workers_does_not_cost_the_state(out, tmp_path):
    expected = [batch["ids"] for batch in StoryLoader(stream(out), Collate(), 4, num_workers=2)]
    loader = StoryLoader(stream(out), Flaky(tmp_path / "gone"), 4, num_workers=2, ahead=1)
    batches = iter(loader)
    found = [batch["ids"] for batch in islice(batches, 4)]
    (tmp_path / "gone").touch()
    with pytest.raises(RuntimeError, match="the network is gone"):
        found += (batch["ids"] for batch in batches)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="the network is gone"):  # still
        next(iter(loader))
    (tmp_path / "gone").unlink()
    loader.load_state_dict(loader.state_dict())
    found += [batch["ids"] for batch in loader]
    assert sorted(chain(*found)) == sorted(chain(*expected))
    loader.close()


def test_a_failure_in_batches_that_nobody_wants_any_more_is_not_that_of_others(out, tmp_path):
    loader = StoryLoader(stream(out), Flaky(tmp_path / "gone"), 4, num_workers=2, ahead=3)
    for _ in loader:
        (tmp_path / "gone").touch()
        break
    loader._workers[0].connection.poll(5)
    (tmp_path / "gone").unlink()
    expected = [batch["ids"] for batch in StoryLoader(stream(out), Collate(), 4, num_workers=2)]
    assert [batch["ids"] for batch in loader] == expected
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_and_arrays_without_entries_keep_their_shape(out, workers):
    loader = StoryLoader(
        stream(out), lambda rows: {"n": torch.tensor(len(rows)), "none": torch.zeros(0, 3)}, 4, num_workers=workers
    )
    batch = next(iter(loader))
    assert (batch["n"].shape, batch["none"].shape) == ((), (0, 3))
    loader.close()


def test_what_a_worker_cannot_begin_with_or_send_is_said(out):
    with_two = StoryLoader(stream(out), Collate(), 4, num_workers=2)
    next(iter(with_two))
    one = {**with_two.state_dict(), "taken": with_two.state_dict()["taken"][:1]}
    with_two.load_state_dict(one)
    with pytest.raises(UsageError, match="knows nothing of worker 1"):
        next(iter(with_two))
    with_two.close()
    unsendable = StoryLoader(stream(out), lambda rows: {"f": (row for row in rows)}, 4, num_workers=1)
    with pytest.raises(RuntimeError, match="cannot pickle"):
        next(iter(unsendable))
    unsendable.close()


def test_two_iterations_at_once_are_refused(out):
    loader = StoryLoader(stream(out), Collate(), 4, num_workers=2)
    with pytest.raises(UsageError, match="another iteration"):
        list(zip(loader, loader, strict=True))
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_drop_last_drops_is_gone_for_those_who_resume_at_the_end_too(out, workers):
    loader = StoryLoader(stream(out), Collate(), 4, num_workers=workers, drop_last=True)
    assert sum(len(batch["ids"]) for batch in loader) < loader.stream.num_stories
    resumed = StoryLoader(stream(out), Collate(), 4)
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == []
    loader.close()

"""DeviceLoader: the loader's batches on a device, with the states of those that were taken."""

import threading
from itertools import islice

import pytest
import torch
from openstory_hf.builders.flintstones_sv import FlintstonesSV, write_release

from openstory_hf.build import build
from openstory_hf.collate import StoryTensorCollator
from openstory_hf.device import DeviceLoader
from openstory_hf.errors import UsageError
from openstory_hf.fakes import RawWriter
from openstory_hf.load import load_stories
from openstory_hf.loader import StoryLoader
from openstory_hf.views import RowError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    write_release(RawWriter(folder / "raw"), {"train": {"s_01_e_01": 9, "s_01_e_02": 8}}, variant="B")
    build(FlintstonesSV, folder / "raw", folder / "out", splits=["train"])
    return folder / "out"


def loader(out, workers=0):
    stories = load_stories(str(out), length=3, frame="random", shuffle=True, columns=("captions", "images"))
    return StoryLoader(stories, StoryTensorCollator(image_size=32, keep_captions=True), 2, num_workers=workers)


def same(one, two):
    return all(
        torch.equal(value.cpu(), two[name]) if isinstance(value, torch.Tensor) else value == two[name]
        for name, value in one.items()
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_batches_are_those_of_the_loader_and_stay_what_they_are(out, device, workers, ahead):
    plain = loader(out, workers)
    expected = [{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()} for batch in plain]
    moved = DeviceLoader(loader(out, workers), device, ahead=ahead)
    found = list(moved)  # all are kept, while the loader's memory is used again and again
    assert len(found) == len(expected) > 4
    assert all(map(same, found, expected))
    assert all(batch["pixel_values"].device.type == device for batch in found)
    plain.close()
    moved.close()


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_of_any_dtype_and_layout_are_copied(out, device):
    made = {
        "bfloat16": torch.randn(2, 3).bfloat16(),
        "bool": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
        "number": torch.tensor(7),
        "transposed": torch.arange(6).view(2, 3).T,
        "trained": torch.ones(3, requires_grad=True),
    }
    moved = next(iter(DeviceLoader(StoryLoader(loader(out).stream, lambda rows: dict(made), 2), device)))
    assert same(moved, made)
    assert [(moved[name].dtype, moved[name].shape) for name in made] == [(v.dtype, v.shape) for v in made.values()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ahead", [1, 3])
def test_the_state_is_that_of_the_batches_taken_whatever_is_copied_ahead(out, device, ahead):
    whole = [batch["captions"] for batch in loader(out)]
    for taken in range(len(whole)):
        begun = DeviceLoader(loader(out), device, ahead=ahead)
        some = [batch["captions"] for batch in islice(begun, taken)]
        resumed = DeviceLoader(loader(out), device, ahead=ahead)
        resumed.load_state_dict(begun.state_dict())
        assert some + [batch["captions"] for batch in resumed] == whole


def test_what_a_collator_raises_reaches_the_thread_that_trains(out):
    stories = load_stories(str(out), length=3, columns=("captions",))
    moved = DeviceLoader(StoryLoader(stories, StoryTensorCollator(image_size=32), 2), "cpu")
    with pytest.raises(RowError, match="pictures are missing"):
        next(iter(moved))


def test_copying_ends_with_an_iteration_that_is_left(out):
    before = threading.active_count()
    for _ in islice(DeviceLoader(loader(out), "cpu"), 2):
        pass
    assert threading.active_count() == before


def test_at_least_one_batch_is_copied_ahead(out):
    with pytest.raises(UsageError, match="ahead=0"):
        DeviceLoader(loader(out), "cpu", ahead=0)

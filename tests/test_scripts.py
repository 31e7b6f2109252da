"""The training scripts run on a synthetic release, each in a process of its own, and learn."""

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from openstory_hf import catalogue  # noqa: E402
from openstory_hf.build import build  # noqa: E402
from openstory_hf.fakes import RawWriter  # noqa: E402

SCRIPTS = Path(__file__).parents[1] / "scripts"
TRAINING = ("train_diffusion_masks", "train_interleaved_lm", "train_trl_vlm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A built dataset with masks, mentions and windows."""
    there = tmp_path_factory.mktemp("scripts")
    builder = catalogue.get("flintstones_sv")
    builder.fake(RawWriter(there / "raw"))
    build(builder, there / "raw", there / "out", on_error="quarantine")
    return there / "out"


def run(script, *arguments):
    """What a script prints; fails if the script does."""
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), *map(str, arguments)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def first_and_last_loss(printed):
    return [float(number) for number in re.findall(r"(-?\d+\.\d+) (?:over|at)", printed.splitlines()[-1])]


def loaded(script):
    """A script as a module, without running it."""
    spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestDiffusion:
    def test_noise_and_attention_losses_fall(self, folder):
        sizes = ["--steps", 40, "--image-size", 16, "--batch-size", 2, "--captions", "referential"]
        printed = run("train_diffusion_masks", folder, *sizes)
        first, last = first_and_last_loss(printed)
        assert last < 0.7 * first
        pulls = [float(number) for number in re.findall(r"attention (-?\d+\.\d+)", printed)]
        assert len(pulls) == 2
        assert max(pulls) < -0.05  # more attention inside the masks than outside

    def test_the_attention_loss_is_the_difference_of_two_means(self):
        script = loaded("train_diffusion_masks")
        draw = torch.Generator().manual_seed(0)
        attention = torch.rand(2, 3, 4, 5, generator=draw)
        words = (torch.rand(2, 3, 5, generator=draw) > 0.5).float()
        masks = (torch.rand(2, 3, 3, 4, generator=draw) > 0.5).float()
        words[0, 1], masks[1, 2] = 0, 0  # not spoken of; not seen
        differences = []
        for frame, character in itertools.product(range(2), range(3)):
            if not words[frame, character].any() or not masks[frame, character].any():
                continue
            inside, outside = [], []
            for y, x in itertools.product(range(3), range(4)):
                heat = sum(attention[frame, y, x, word].item() for word in words[frame, character].nonzero().flatten())
                (inside if masks[frame, character, y, x] else outside).append(heat)
            differences.append(sum(outside) / len(outside) - sum(inside) / len(inside))
        assert len(differences) == 4
        found = script.attention_loss(attention, words, masks)
        assert found.item() == pytest.approx(sum(differences) / 4, abs=1e-5)

    def test_masks_are_summed_over_the_instances_of_a_character(self, folder):
        from functools import partial

        from openstory_hf import masks as rle
        from openstory_hf.collate.character_tokens import CharacterTokens
        from openstory_hf.collate.story_tensor import StoryTensorCollator
        from openstory_hf.load import load_stories
        from openstory_hf.testing import tiny_tokenizer

        script, rows, cast = (
            loaded("train_diffusion_masks"),
            list(load_stories(str(folder), "train")),
            ["fred", "wilma"],
        )
        tokenizer = tiny_tokenizer(text for row in rows for text in row["texts"])
        collate = partial(
            script.collate,
            pictures=StoryTensorCollator(image_size=16, cast=cast, mask_grid=(4, 4)),
            captions=CharacterTokens(tokenizer=tokenizer, characters=cast),
        )
        batch = collate(rows)
        frames = [frame for row in rows for frame in row["instances"]]
        assert len(batch["pixels"]) == len(batch["input_ids"]) == len(frames) == len(batch["masks"])
        for number, instances in enumerate(frames):
            for place, name in enumerate(cast):
                own = [
                    rle.grid([entry["segmentation"]], (4, 4))[0] for entry in instances if entry["character"] == name
                ]
                expected = torch.from_numpy(sum(own)).clamp(max=1) if own else torch.zeros(4, 4)
                assert torch.allclose(batch["masks"][number, place], expected)


class TestInterleaved:
    def test_the_loss_falls(self, folder):
        sizes = ["--steps", 25, "--image-size", 16, "--batch-size", 2, "--length", 2]
        first, last = first_and_last_loss(run("train_interleaved_lm", folder, *sizes))
        assert last < 0.7 * first

    def test_patches_stand_at_the_placeholders_and_nothing_sees_the_future(self):
        script = loaded("train_interleaved_lm")
        torch.manual_seed(0)
        model = script.InterleavedLM(vocabulary=11, longest=12, patch=4, width=16).eval()
        ids = torch.randint(11, (2, 7))
        positions = torch.tensor([[-1, 0, 0, 0, 0, -1, -1], [1, 1, 1, 1, -1, -1, -1]])
        pixels = torch.randn(2, 3, 8, 8)  # 2 x 2 patches
        logits = model(ids, pixels, positions)

        def changed(new_ids, new_pixels):
            difference = (model(new_ids, new_pixels, positions) - logits).abs().amax(-1) > 1e-6
            return [row.nonzero().flatten().tolist() for row in difference]

        other = pixels.clone()
        other[0, :, 4:, :4] += 1  # the third patch of the first picture
        assert changed(ids, other) == [[3, 4, 5, 6], []]
        behind = ids.clone()
        behind[1, 1], behind[0, 5] = (ids[1, 1] + 1) % 11, (ids[0, 5] + 1) % 11  # behind a patch; a word
        assert changed(behind, pixels) == [[5, 6], []]


class TestTrl:
    def test_sft_trains_on_streamed_stories(self, folder):
        pytest.importorskip("trl", reason="trl is not installed: pip install 'openstory_hf[trl]'")
        printed = run("train_trl_vlm", folder, "--max-steps", 5, "--length", 2, "--text", "referential_captions")
        first, last = first_and_last_loss(printed)
        assert last < first


@pytest.mark.parametrize("script", TRAINING)
def test_scripts_are_short_enough_to_read_in_a_sitting(script):
    assert len((SCRIPTS / f"{script}.py").read_text(encoding="utf-8").splitlines()) < 150

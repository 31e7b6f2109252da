"""The tables, and all contenders of each, in the order of their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.loading.keyframes import VIDEOS, open_keyframes
from benchmarks.loading.source import EPISODES, Stories, open_source


@dataclass(frozen=True)
class Contender:
    """A row of a table.

    Args:
        name: what it is called on the command line.
        title: in the table.
        module: of `contenders`; its LOAD has the way of loading by name, its WRITE that of writing by form.
        form: the form of the data that it loads; "release" for the source itself, "" for what is given in memory.
        random: whether it draws a picture of every clip anew; the others show the middle one.
    """

    name: str
    title: str
    module: str
    form: str
    random: bool = True

    @property
    def limit(self) -> bool:
        """Whether it is no loader: what it loads is in memory."""
        return self.module == "limits"

    def imported(self) -> Any:
        """The module, with the library of the contender; other contenders' libraries stay out of the process."""
        return import_module(f"benchmarks.loading.contenders.{self.module}")


@dataclass(frozen=True)
class Table:
    """A table of contenders that do the same work.

    Args:
        folder: name of the folder of its data, with the size for {}.
        open: opens the source in a folder, of a size, and writes it first if it is not there.
        size: episodes or videos.
        contenders: the rows.
        own: those that the others are compared with -> what they are called then.
        workers: numbers of workers, a column each; 0 is one process.
        rounds: by default.
    """

    folder: str
    open: Callable[..., Stories]
    size: int
    contenders: tuple[Contender, ...]
    own: Mapping[str, str]
    workers: tuple[int, ...] = (0,)
    rounds: int = 3

    def contender(self, name: str) -> Contender:
        """The row of this name."""
        return next(contender for contender in self.contenders if contender.name == name)

    def folder_in(self, work: Path, size: int) -> Path:
        """Where its data lies."""
        return (work / self.folder.format(size)).resolve()

    def source(self, folder: Path) -> Stories:
        """The source in the folder of its data, where it is written already."""
        return self.open(folder / "source")


CLIPS = (
    Contender("ours", "openstory_hf", "ours", "openstory"),
    Contender(
        "ours-per-epoch", "openstory_hf, one picture of a clip for all windows of an epoch", "ours", "openstory"
    ),
    Contender("hdf5", "AR-LDM: HDF5, a PNG strip of 5 pictures per clip, per window", "hdf5", "hdf5"),
    Contender("npy", "StoryGPT-V: one `.npy` per clip", "npy", "release"),
    Contender("npy-mapped", "StoryGPT-V: `.npy`, memory-mapped", "npy", "release"),
    Contender("npy-batch", "StoryGPT-V: `.npy`, normalised by the batch", "npy", "release"),
    Contender("npy-kept", "StoryGPT-V: `.npy`, all maps kept open, normalised by the batch", "npy", "release"),
    Contender("wds-fixed", "WebDataset, 5 fixed pictures", "tars", "wds-fixed", random=False),
    Contender("wds", "WebDataset, 5×5 pictures", "tars", "wds"),
    Contender("wds-fast", "WebDataset, 5×5, with our decoder", "tars", "wds"),
    Contender("energon", "Megatron Energon, 5×5", "energon", "energon"),
    Contender("energon-fast", "Megatron Energon, 5×5, with our decoder", "energon", "energon"),
    Contender("mds", "MosaicML Streaming (MDS), 5×5", "mds", "mds"),
    Contender("mds-fast", "MDS, 5×5, with our decoder", "mds", "mds"),
    Contender("mds-ours", "MDS, 5×5, with our decoder, of PNGs as we write them", "mds", "mds-ours"),
    Contender("litdata", "LitData, 5×5", "lit_data", "litdata"),
    Contender("litdata-fast", "LitData, 5×5, with our decoder", "lit_data", "litdata"),
    Contender("hf-fixed", "HF streaming Parquet, 5 fixed pictures", "hugging_face", "hf-fixed", random=False),
    Contender("hf", "HF streaming Parquet, 5×5, decoded by `datasets`", "hugging_face", "hf"),
    Contender(
        "hf-fast", "HF streaming Parquet, 5×5, bytes of the drawn pictures, with our decoder", "hugging_face", "hf"
    ),
    Contender("hf-map", "HF Arrow map-style, a row per picture, decoded by `datasets`", "hugging_face", "hf-map"),
    Contender(
        "hf-map-fast", "HF Arrow map-style, a row per picture, bytes, with our decoder", "hugging_face", "hf-map"
    ),
    Contender("limit-decode", "limit: decode our 5 PNGs from memory, normalise", "limits", "png"),
    Contender("limit-pixels", "limit: gather raw pixels from memory, normalise", "limits", ""),
    Contender("limit-copy", "limit: copy raw pixels, uint8", "limits", ""),
)

MASKS = (
    Contender("ours-masks", "openstory_hf", "ours", "openstory"),
    Contender("ours", "openstory_hf, without masks", "ours", "openstory"),
    Contender("hdf5", "AR-LDM: HDF5", "hdf5", "hdf5"),
    Contender("npy-batch", "StoryGPT-V: one `.npy` per clip, normalised by the batch", "npy", "release"),
    Contender("wds", "WebDataset, 5×5 pictures", "tars", "wds"),
    Contender("mds", "MosaicML Streaming (MDS), 5×5", "mds", "mds"),
    Contender("mds-fast", "MDS, 5×5, with our decoder", "mds", "mds"),
    Contender("litdata", "LitData, 5×5", "lit_data", "litdata"),
    Contender("hf-fast", "HF streaming Parquet, 5×5, bytes, with our decoder", "hugging_face", "hf"),
    Contender("limit-decode", "limit: decode our 5 PNGs from memory, normalise; masks", "limits", "png"),
)

KEYFRAMES = (
    Contender("ours-published", "openstory_hf", "ours", "openstory-pp"),
    Contender("wds", "WebDataset", "tars", "wds"),
    Contender("wds-fast", "WebDataset, with our decoder", "tars", "wds"),
    Contender("hf", "HF streaming Parquet, decoded by `datasets`", "hugging_face", "hf"),
    Contender("hf-fast", "HF streaming Parquet, bytes, with our decoder", "hugging_face", "hf"),
    Contender("limit-jpeg", "limit: decode the 5 JPEGs from memory, normalise", "limits", ""),
)

TABLES = {
    "clips": Table(
        "{}-episodes", open_source, EPISODES, CLIPS, {"ours": "ours", "ours-per-epoch": "ours, per epoch,"}, (0, 2), 5
    ),
    "masks": Table("{}-episodes-masks", partial(open_source, masks=True), EPISODES, MASKS, {"ours-masks": "ours"}),
    "keyframes": Table("{}-videos", open_keyframes, VIDEOS, KEYFRAMES, {"ours-published": "ours"}),
}

"""All contenders, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Args:
        name: what it is called on the command line.
        title: in the table.
        module: of `contenders`; its LOAD has the way of loading by name, its WRITE that of writing by form.
        form: the form of the data that it loads; "" for what is given in memory.
        random: whether it draws a picture of every clip anew; the others show the middle one.
        workers: whether it can have worker processes.
    """

    name: str
    title: str
    module: str
    form: str
    random: bool = True
    workers: bool = True

    def imported(self) -> Any:
        """The module, with the library of the contender; other contenders' libraries stay out of the process."""
        return import_module(f"benchmarks.loading.contenders.{self.module}")


ROSTER = (
    Contender("ours", "openstory_hf", "ours", "openstory"),
    Contender("hdf5", "AR-LDM: HDF5, a PNG strip of 5 pictures per clip, per window", "hdf5", "hdf5"),
    Contender("npy", "StoryGPT-V: one `.npy` per clip", "npy", "release"),
    Contender("npy-mapped", "… memory-mapped", "npy", "release"),
    Contender("npy-batch", "… read whole, normalised by the batch", "npy", "release"),
    Contender("npy-kept", "… memory-mapped, all maps kept open, normalised by the batch", "npy", "release"),
    Contender("wds-fixed", "WebDataset, 5 fixed pictures", "tars", "wds-fixed", random=False),
    Contender("wds", "WebDataset, 5×5 pictures", "tars", "wds"),
    Contender("wds-kornia", "… with our decoder", "tars", "wds"),
    Contender("mds", "MosaicML Streaming (MDS), 5×5", "mds", "mds"),
    Contender("mds-kornia", "… with our decoder", "mds", "mds"),
    Contender("litdata", "LitData, 5×5", "lit_data", "litdata"),
    Contender("litdata-kornia", "… with our decoder", "lit_data", "litdata"),
    Contender("hf-fixed", "HF streaming Parquet, 5 fixed pictures", "hugging_face", "hf-fixed", random=False),
    Contender("hf", "HF streaming Parquet, 5×5, decoded by `datasets`", "hugging_face", "hf"),
    Contender("hf-kornia", "… bytes of the drawn pictures, with our decoder", "hugging_face", "hf"),
    Contender("hf-map", "HF Arrow map-style, a row per picture, decoded by `datasets`", "hugging_face", "hf-map"),
    Contender("hf-map-kornia", "… bytes, with our decoder", "hugging_face", "hf-map"),
    Contender("limit-decode", "limit: decode the 5 pictures from memory, normalise", "limits", "", workers=False),
    Contender("limit-pixels", "limit: gather raw pixels from memory, normalise", "limits", "", workers=False),
    Contender("limit-copy", "limit: copy raw pixels, uint8", "limits", "", workers=False),
)

NAMES = {contender.name: contender for contender in ROSTER}

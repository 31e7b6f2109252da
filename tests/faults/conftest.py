"""Sound releases and what they are built into, each written once."""

import pytest
from judge import rows_of
from sound_releases import RELEASES, Damaged, builder_of

from openstory_hf import write
from openstory_hf.build import build


@pytest.fixture(scope="module", autouse=True)  # and no longer: tests of power cuts may run in the same process
def _no_sync():
    """What a power cut leaves is no question here, and hundreds of builds would wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "_sync", lambda path: None)
        yield


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """Release -> (its folder, its rows when it is built undamaged)."""
    made = {}

    def get(release):
        if release not in made:
            folder = tmp_path_factory.mktemp(release)
            RELEASES[release](Damaged(folder / "raw"))
            build(builder_of(release), folder / "raw", folder / "out")
            made[release] = folder / "raw", rows_of(folder / "out")
        return made[release]

    return get

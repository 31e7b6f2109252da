"""Every dataset of the catalogue, and the template newcomers copy, keeps the promises of `conformance`."""

import pytest

from openstory_hf import catalogue
from openstory_hf.conformance import conform


@pytest.mark.parametrize("name", [*catalogue.names(), "_template"])
def test_conformance(name, tmp_path):
    conform(catalogue.get(name), tmp_path)


@pytest.mark.parametrize("name", catalogue.names())
def test_info_tells_how_to_obtain_the_release(name):
    info = catalogue.get(name).INFO
    text = info.describe(name)
    for fact in (info.title, info.obtain.split()[0], info.tree.splitlines()[0], info.rights.split()[0]):
        assert fact in text
    for split, facts in info.splits.items():
        assert split in text
        assert facts.stories is None or f"{facts.stories:,}" in text

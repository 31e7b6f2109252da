"""Builds that end in the middle."""

import pytest

from openstory_hf import shard as shard_room
from openstory_hf.build import build


def interrupt(monkeypatch, shard_name, *args, **options):
    """A build that ends with KeyboardInterrupt before the shard of that name."""
    build_shard = shard_room.build_shard

    def stopping(plan, shard, *rest):
        if shard.name == shard_name:
            raise KeyboardInterrupt
        return build_shard(plan, shard, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(shard_room, "build_shard", stopping)
        with pytest.raises(KeyboardInterrupt):
            build(*args, **options)

"""Damaged data makes decoders raise almost anything; here all of it becomes a `Reject`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from openstory_hf.errors import OpenStoryError, reason_of
from openstory_hf.records import Reject

DAMAGED = "Download it again"


@contextlib.contextmanager
def refusing(what: str, name: str) -> Iterator[None]:
    """Turn whatever damaged data makes a decoder raise (which is almost anything) into a `Reject`."""
    try:
        yield
    except OpenStoryError:
        raise
    except Exception as error:
        raise Reject(f"{what}: {reason_of(error)}", file=name, hint=DAMAGED) from None

"""The errors a user can meet. Every message says what happened, where, and what to do next."""

from __future__ import annotations

import re


class OpenStoryError(Exception):
    """Base of every error this package raises on purpose; the command line prints it without a traceback."""


class UsageError(OpenStoryError):
    """The request itself is wrong (an unknown dataset, split or option)."""


class SourceError(OpenStoryError):
    """A raw release that is missing, incomplete or contradicts itself as a whole."""


class UnsafePickleError(SourceError):
    """A pickled file that asks for something other than plain containers and arrays; nothing of it was run."""


class BuildError(OpenStoryError):
    """A build that cannot go on (too many bad records, another build in the same folder, other inputs)."""


class OutputError(OpenStoryError):
    """A built dataset folder that is missing, incomplete or damaged."""


def reason_of(error: Exception) -> str:
    """What an exception of a library says, without the memory addresses that would differ from build to build."""
    return f"{type(error).__name__}: {re.sub(r' at 0x[0-9a-fA-F]+', '', str(error))}"

"""Names of the processes that build, so that files can carry them, and whether one of these is known to be gone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """A name of this machine, or container, that no other and no restart of it has; fit for file names."""
    facts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            facts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text(encoding="ascii"))
    return re.sub(r"[^A-Za-z0-9]", "_", facts[0]) + "." + hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def identity(pid: int | None = None) -> str:
    """The name of a builder process in the names of its files."""
    return f"{machine()}.{pid or os.getpid()}"


def is_gone(builder: str) -> bool:
    """Whether the process of that name is known to be gone; of those on other machines nobody can tell."""
    where, _, pid = builder.rpartition(".")
    if where != machine() or not pid.isdecimal() or os.name == "nt":  # there, signal 0 is no question
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def owner(name: str) -> str:
    """The process that a temporary file or a hint belongs to by its name; "" if it is none."""
    found = re.search(r"(?:^|\.)(?:tmp-|builder-|begun\.)(\w+\.[0-9a-f]{8}\.\d+)(?:-|$)", name)
    return found[1] if found else ""

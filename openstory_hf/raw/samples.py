"""Keyed samples: a WebDataset tar and a table of the same columns, read alike."""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openstory_hf.raw.release import Raw

KEY = "__key__"


class Samples:
    """The samples of one file: of a tar the members that share a name up to the first dot, of a table the rows.

    Args:
        raw: the release.
        name: a plain `.tar`, or a table (`Raw.table`).

    Attributes:
        name: the file.
        groups: number of samples of every group that is read at once, in order; a tar is one group.
        again: members of a tar that are passed over, because one of the same name comes before.

    Raises:
        Reject: if the file is missing or damaged.
    """

    def __init__(self, raw: Raw, name: str) -> None:
        self.name = name
        self._members: dict[str, dict[str, str]] = defaultdict(dict)
        self.again: list[str] = []
        if name.endswith(".tar"):
            self._tar, self._table = raw.tar(name), None
            for member in self._tar.names():
                start = member.rfind("/") + 1
                stem, _, ending = member[start:].partition(".")
                self._members[member[:start] + stem][ending.lower()] = member
            self.groups: tuple[int, ...] = (len(self._members),)
            self.again = self._tar.again
        else:
            self._table = raw.table(name)
            self.groups = self._table.groups
        self._starts = (0, *accumulate(self.groups))

    def keys(self, group: int) -> list[tuple[str | int, str]]:
        """(place, key) of the samples of a group: member name without folder and endings, or column `__key__`.

        The place is where `read` finds the sample: the members' name with its folder, or the number of the row. The
        key is "" for rows without one.

        Raises:
            Reject: if the group is damaged.
        """
        if self._table is None:
            return [(place, place.rpartition("/")[2]) for place in self._members]
        first = self._starts[group]
        if KEY not in self._table.columns:
            return [(first + row, "") for row in range(self.groups[group])]
        return [(place, str(row[KEY] or "")) for place, row in enumerate(self._table.rows([KEY], group), first)]

    def read(self, place: str | int) -> dict[str, Any]:
        """A sample's fields, without its key: ending -> bytes for a tar, column -> value unless null for a table.

        Raises:
            Reject: if it cannot be read.
        """
        if isinstance(place, int):
            assert self._table is not None
            return {name: value for name, value in self._table.row(place).items() if value is not None and name != KEY}
        return {ending: self._tar.read(member) for ending, member in self._members[place].items()}

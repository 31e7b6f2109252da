"""A read-only, suspicious view of a raw release: a folder or a zip, read in place.

Nothing a user downloaded is ever executed: pickles pass an allow-list, arrays are read without pickling, names
cannot leave the release, and sizes are checked before memory is taken.
"""

from openstory_hf.raw.pickles import NUMPY_GLOBALS
from openstory_hf.raw.records import JsonGroups, JsonRecords
from openstory_hf.raw.release import MAX_MEMBER_BYTES, Raw
from openstory_hf.raw.samples import Samples
from openstory_hf.raw.strict import parse_json
from openstory_hf.raw.tables import Table
from openstory_hf.raw.tars import Tar

__all__ = [
    "MAX_MEMBER_BYTES",
    "NUMPY_GLOBALS",
    "JsonGroups",
    "JsonRecords",
    "Raw",
    "Samples",
    "Table",
    "Tar",
    "parse_json",
]

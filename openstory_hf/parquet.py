"""The Parquet writer of pyarrow, less its last words."""

from __future__ import annotations

import pyarrow.parquet as pq


class ParquetWriter(pq.ParquetWriter):
    """Is closed by whoever made it, and not by the garbage collector.

    A writer whose disk is full would then try to write its footer again, and print a traceback below the error.
    """

    def __del__(self) -> None: ...

"""Stories to look at: a PNG contact sheet, one self-contained HTML page, and a local web page (`preview.serve`).

All read rows of the `stories` table (`schema.STORIES`); for the first two, pictures may be encoded, decoded or left
out. A character has one colour per story, in its mentions, masks, boxes and chips.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from openstory_hf.errors import UsageError
from openstory_hf.preview.page import html_page
from openstory_hf.preview.sheet import contact_sheet
from openstory_hf.preview.shown import Row, character_colours

__all__ = ["character_colours", "contact_sheet", "html_page", "save"]


def save(rows: Sequence[Row], path: str | Path, *, title: str) -> None:
    """Write a contact sheet (`.png`) or a page (`.html`), as the suffix says.

    Args:
        rows: rows of the `stories` table.
        path: the file to write.
        title: heading of the page; kept as metadata in a PNG.

    Raises:
        UsageError: for any other suffix, or a sheet of no rows.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        info = PngInfo()
        info.add_text("Title", title)
        contact_sheet(rows).save(path, format="PNG", pnginfo=info)
    elif suffix == ".html":
        path.write_bytes(html_page(rows, title=title).encode("utf-8"))  # bytes: line ends in captions stay as they are
    else:
        raise UsageError(f"cannot write a preview to {path}: choose a name that ends in .png or .html")

"""What the served pages share: their frame, addresses and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import parse_qs, quote, urlencode

from openstory_hf.errors import OpenStoryError, UsageError
from openstory_hf.preview.page import Links
from openstory_hf.preview.shelf import Shelf
from openstory_hf.preview.shown import Row, segmentations
from openstory_hf.preview.style import SERVED, STYLE

Query = Mapping[str, Sequence[str]]


class NotFoundError(OpenStoryError):
    """There is nothing at this address."""


def document(name: str, body: str, *, title: str, tools: str = "") -> str:
    """A whole page.

    Args:
        name: of the page, as text.
        body: HTML below the header.
        title: heading of the site, as text.
        tools: HTML to stand beside it.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}</title>
<style>{STYLE}{SERVED}</style>
</head>
<body>
<header class="page">
<h1><a href="/">{escape(title)}</a></h1>
{tools}
</header>
{body}
</body>
</html>
"""


def message_page(heading: str, message: str) -> str:
    """A page that says why there is no other."""
    main = f"""<main><article class="empty"><h2>{escape(heading)}</h2>
<p>{escape(message)}</p>
<p><a class="button" href="/">All stories</a></p></article></main>"""
    return document(heading, main, title="openstory preview")


def story_at(shelf: Shelf, split: str, number: int) -> Row:
    """A story by its number in file order.

    Raises:
        NotFoundError: if there is none.
        OutputError: if it cannot be read.
    """
    if split not in shelf.splits or not 0 <= number < shelf.count(split):
        raise NotFoundError(f"There is no story number {number} in split {split!r}.")
    return shelf.stories(split, [number])[0]


def picture_links(shelf: Shelf, split: str, number: int) -> Links:
    """The addresses of a story's pictures; they name the data, so that what they lead to never changes."""
    at = f"{shelf.folder.fingerprint}/{quote(split, safe='')}/{number}"
    return Links(
        picture=lambda frame: f"/picture/{at}/{frame.number - 1}",
        masks=lambda frame, _: f"/masks/{at}/{frame.number - 1}" if segmentations(frame.instances) else "",
    )


def parse(query: str) -> Query:
    """The values of each name of a query.

    Raises:
        UsageError: if there are too many.
    """
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise UsageError(f"the query cannot be read: {error}") from None


def one(values: Query, name: str) -> str:
    """The last value of a name, "" without one."""
    return values.get(name, [""])[-1].strip()


def number(values: Query, name: str) -> int | None:
    """The value of a name as a number, None without one.

    Raises:
        UsageError: if it is none.
    """
    text = one(values, name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{name}={text!r} is not a whole number from 0")
    return int(text)


def href(path: str, **query: str) -> str:
    """An address, as the value of an attribute."""
    return escape(f"{path}?{urlencode(query)}")

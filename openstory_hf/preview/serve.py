"""`openstory preview DIR --serve`: a local web page to browse stories, without scripts and without a network.

Only this machine can reach it, and only by a name of this machine: other web pages cannot read it by having their
name lead here (DNS rebinding). Other people who are logged in to the machine can.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from openstory_hf import pictures
from openstory_hf.errors import OpenStoryError, UsageError, reason_of
from openstory_hf.preview.browse import stories_page
from openstory_hf.preview.page import WEB_SIDE, encoded, web_picture
from openstory_hf.preview.shelf import Shelf
from openstory_hf.preview.shown import character_colours, coloured_names, mask_overlay, opened, shown_frames
from openstory_hf.preview.site import NotFoundError, message_page, story_at
from openstory_hf.preview.token_page import tokens_page
from openstory_hf.version import __version__

PORT = 8765

_NAMES = ("127.0.0.1", "localhost", "::1")
"""What a browser on this machine, or at the other end of an ssh tunnel, calls it."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP response."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Cache-Control": "no-cache"})


def serve(path: str, port: int = PORT, *, tokenizer: str = "", announce: Callable[[str], None] = print) -> None:
    """Serve stories until interrupted.

    Args:
        path: a built folder, `user/repo` of the Hub, or a URL.
        port: of 127.0.0.1; 0 for any that is free.
        tokenizer: of the token view: a name or folder for `transformers.AutoTokenizer`; "" for one of whole words.
        announce: is told the address.

    Raises:
        OutputError: if `path` is not a finished build.
        UsageError: if the port is taken.
    """
    with PreviewServer(Shelf(path), port, tokenizer) as server:
        announce(f"{server.url}  (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


class PreviewServer(ThreadingHTTPServer):
    """The server of the pages, on 127.0.0.1.

    Args:
        shelf: the stories.
        port: 0 for any that is free.
        tokenizer: of the token view; see `serve`.

    Raises:
        UsageError: if the port is taken.
    """

    daemon_threads = True

    def __init__(self, shelf: Shelf, port: int = 0, tokenizer: str = "") -> None:
        self.shelf, self.tokenizer = shelf, tokenizer
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"cannot listen on port {port}: {error}. Choose another, or 0 for any free one") from None

    @property
    def url(self) -> str:
        """The address of the first page."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def answer(self, target: str) -> Answer:
        """What is at a path and query; errors are raised."""
        path, _, query = target.partition("?")
        match [unquote(part) for part in path.split("/")[1:]]:
            case [""]:
                return Answer(body=stories_page(self.shelf, query).encode())
            case ["tokens", split, number]:
                page = tokens_page(self.shelf, split, _index(number), query, self.tokenizer)
                return Answer(body=page.encode())
            case ["picture" | "masks" as kind, data, split, number, frame] if data == self.shelf.folder.fingerprint:
                return self._picture(kind, split, _index(number), _index(frame))
        raise NotFoundError(f"There is no page {path}.")

    def _picture(self, kind: str, split: str, number: int, frame: int) -> Answer:
        row = story_at(self.shelf, split, number)
        if frame >= len(row["images"]) or (kind == "picture" and row["images"][frame] is None):
            raise NotFoundError(f"There is no picture of frame {frame} of {row['story_id']}.")
        if kind == "picture":
            try:
                media, data = web_picture(row["images"][frame])
            except pictures.UndecodableError as error:
                raise NotFoundError(f"{row['story_id']}, frame {frame}: {error}") from None
            return _kept(media, data)
        frames = list(shown_frames(row, opened))
        shown = frames[frame]
        scale = min(1, WEB_SIDE / max(shown.size))
        width, height = (max(1, round(side * scale)) for side in shown.size)
        overlay = mask_overlay(shown.instances, character_colours(coloured_names(frames)), (width, height))
        if overlay is None:
            raise NotFoundError(f"{row['story_id']}, frame {frame}, has no masks.")
        return _kept("image/png", encoded(overlay, "PNG"))


class _Handler(BaseHTTPRequestHandler):
    server: PreviewServer
    protocol_version = "HTTP/1.1"
    server_version = f"openstory/{__version__}"
    sys_version = ""
    timeout = 60  # seconds that an idle connection is kept

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the reader has gone to another page
            super().handle()

    def do_GET(self) -> None:
        self._send(self._answer())

    def do_HEAD(self) -> None:
        self._send(self._answer())

    def _refuse(self) -> None:
        self.close_connection = True  # its body is not read
        self._send(_message(HTTPStatus.METHOD_NOT_ALLOWED, "This page can only be read.", {"Allow": "GET, HEAD"}))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _answer(self) -> Answer:
        if not _is_ours(self.headers.get_all("Host", [])):
            return _message(HTTPStatus.MISDIRECTED_REQUEST, f"Open this page as {self.server.url}")
        try:
            return self.server.answer(self.path)
        except NotFoundError as error:
            return _message(HTTPStatus.NOT_FOUND, str(error))
        except UsageError as error:
            return _message(HTTPStatus.BAD_REQUEST, str(error))
        except OpenStoryError as error:
            return _message(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except Exception as error:  # a bug here, or in a tokenizer
            traceback.print_exc()
            return _message(HTTPStatus.INTERNAL_SERVER_ERROR, reason_of(error))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {**_HEADERS, **answer.headers, "Content-Type": answer.type}
        for name, value in {**headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line."""


def _is_ours(hosts: list[str]) -> bool:
    try:
        return len(hosts) == 1 and urlsplit(f"//{hosts[0]}").hostname in _NAMES
    except ValueError:
        return False


def _kept(media: str, data: bytes) -> Answer:
    """A picture; its address has the fingerprint of the data, so that it never changes."""
    return Answer(body=data, type=media, headers={"Cache-Control": "private, max-age=31536000, immutable"})


def _message(status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = message_page(status.phrase, message).encode()
    return Answer(body=body, status=status, headers={"Cache-Control": "no-cache", **(headers or {})})


def _index(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise NotFoundError(f"{text!r} is not a number.")
    return int(text)

"""An HTTP server for tests: ranges, a log of what was asked and sent, and faults on request."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from openstory_hf.errors import UsageError

_Server = TypeVar("_Server", bound="LoggedServer")

_BLOCK = 1 << 16
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Request(NamedTuple):
    """One answered request."""

    method: str
    path: str  # unquoted, without the query
    range: str  # the Range header as sent, "" without one
    status: int
    bytes: int  # of the answer's body, as handed to the connection
    received: int  # bytes of the request's body


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request as the server's code sees it; `path` is still quoted, so that its slashes are separators."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer. A `body` that is a file is read only where it is asked for."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Path = b""

    @classmethod
    def of(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
        """A value as JSON."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        return cls(status=status, headers=headers, body=json.dumps(value).encode())

    @property
    def size(self) -> int:
        """Bytes of the whole body."""
        return self.body.stat().st_size if isinstance(self.body, Path) else len(self.body)

    def part(self, asked: str) -> Reply:
        """The answer to a Range header: 206 with the bytes asked for, 416, or all of it if that is not one range.

        Source: RFC 9110, section 14.
        """
        match = _RANGE.fullmatch(asked)
        first, last = match.groups() if match else ("", "")
        if not (first or last) or (first and last and int(last) < int(first)):
            return self
        start = int(first) if first else max(0, self.size - int(last))
        stop = min(int(last) + 1, self.size) if first and last else self.size
        if start >= stop:
            return Reply(status=416, headers={**self.headers, "Content-Range": f"bytes */{self.size}"})
        if isinstance(self.body, Path):
            with self.body.open("rb") as stream:
                stream.seek(start)
                body = stream.read(stop - start)
        else:
            body = self.body[start:stop]
        headers = {**self.headers, "Content-Range": f"bytes {start}-{stop - 1}/{self.size}"}
        return Reply(status=206, headers=headers, body=body)


class RefusedError(Exception):
    """An answer that is not the one hoped for; the Hub's clients choose their exception by `code`."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}

    def reply(self) -> Reply:
        """The answer."""
        message = str(self).encode("ascii", "replace").decode().replace("\n", " ")
        code = {"X-Error-Code": self.code} if self.code else {}
        headers = {"X-Error-Message": message, **code, **self.headers}
        return Reply.of({"error": str(self)}, self.status, headers)


@dataclass
class _Fault:
    match: re.Pattern[str]
    left: int
    status: int | None
    retry_after: int | None
    cut: int | None


class LoggedServer:
    """A server on 127.0.0.1 that keeps a log and makes faults; a subclass says what it answers.

    A context manager; it listens in threads of its own, and leaving it closes every connection.

    Attributes:
        latency: seconds each request waits before it is answered; may be changed at any time.
    """

    def __init__(self, *, latency: float = 0.0) -> None:
        self.latency = latency
        self._faults: list[_Fault] = []
        self._log: list[Request] = []
        self._under_way = 0
        self._change = threading.Condition()

    def __enter__(self: _Server) -> _Server:
        self._listener = _Listener(self)
        self._thread = threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._listener.server_port}"

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in the order in which they ended.

        Those under way are waited for, at most five seconds: a download whose client no longer reads never ends.
        """
        with self._change:
            self._change.wait_for(lambda: self._under_way == 0, timeout=5)
            return list(self._log)

    def faults(
        self,
        match: str = "",
        *,
        times: int = 1,
        status: int | None = None,
        retry_after: int | None = None,
        cut: int | None = None,
    ) -> None:
        r"""Disturb the next requests that match; faults given first strike first.

        Args:
            match: a regular expression searched in "METHOD /unquoted/path", e.g. r"GET .*\.parquet$".
            times: how many requests.
            status: answer with this status in place of the answer, and change nothing: 429, 500, 503; a commit that
                another client has overtaken is 412 for r"POST .*/commit/".
            retry_after: seconds for the header Retry-After that goes with `status`.
            cut: close the connection after this many bytes of the body, of answers longer than that.

        Raises:
            UsageError: unless exactly one of `status` and `cut` is given.
        """
        if (status is None) == (cut is None):
            raise UsageError(f"status={status} and cut={cut}: give one of them")
        with self._change:
            self._faults.append(_Fault(re.compile(match), times, status, retry_after, cut))

    def respond(self, call: Call) -> Reply:
        """Answer a request; runs in the thread of its connection.

        Raises:
            RefusedError: for an answer that is an error.
        """
        raise NotImplementedError

    def answer(self, call: Call) -> tuple[Reply, int]:
        """The answer to send, faults included, and after how many bytes of its body the connection is closed."""
        line = f"{call.method} {unquote(call.path)}"
        time.sleep(self.latency)
        try:
            if fault := self._strike(line):
                wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                raise RefusedError(fault.status or 0, "a fault of the test server", headers=wait)
            reply = self.respond(call)
            if "Accept-Ranges" in reply.headers:
                reply = reply.part(call.headers.get("Range", ""))
        except RefusedError as refused:
            reply = refused.reply()
        except Exception as error:  # clients do not try again after 501, and show the message
            reply = RefusedError(501, f"{type(self).__name__} failed: {error!r}").reply()
        fault = self._strike(line, reply.size) if call.method == "GET" else None
        return reply, reply.size if fault is None or fault.cut is None else fault.cut

    def _strike(self, line: str, size: int | None = None) -> _Fault | None:
        """The fault for a request before it is answered, or for its answer of that size."""
        with self._change:
            for fault in self._faults:
                fits = fault.cut is None if size is None else fault.cut is not None and fault.cut < size
                if fits and fault.left and fault.match.search(line):
                    fault.left -= 1
                    return fault
        return None

    @contextlib.contextmanager
    def logged(self) -> Iterator[list[Request]]:
        """Count a request as under way until its log entries are in."""
        with self._change:
            self._under_way += 1
        entries: list[Request] = []
        try:
            yield entries
        finally:
            with self._change:
                self._log += entries
                self._under_way -= 1
                self._change.notify_all()


class FileServer(LoggedServer):
    """The files of a folder over HTTP, with ranges; folders are not listed.

    >>> import tempfile, urllib.request
    >>> with tempfile.TemporaryDirectory() as folder, FileServer(folder) as server:
    ...     _ = (Path(folder) / "a.txt").write_text("story")
    ...     asked = urllib.request.Request(f"{server.url}/a.txt", headers={"Range": "bytes=1-3"})
    ...     urllib.request.urlopen(asked).read(), server.requests[0].bytes
    (b'tor', 3)
    """

    def __init__(self, folder: str | Path, *, latency: float = 0.0) -> None:
        super().__init__(latency=latency)
        self._root = Path(folder).resolve()

    def respond(self, call: Call) -> Reply:
        """GET or HEAD of a file."""
        path = (self._root / unquote(call.path).lstrip("/")).resolve()
        if call.method not in ("GET", "HEAD"):
            raise RefusedError(405, f"{call.method} is not for files")
        if not path.is_file() or not path.is_relative_to(self._root):
            raise RefusedError(404, f"{self._root} has no file {unquote(call.path)}")
        return Reply(headers={"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}, body=path)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: LoggedServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):  # clients keep theirs for the next request
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that has gone is no error here, and failing answers are answered."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the head and the body are two small writes
    server: _Listener

    def _answer(self) -> None:
        with self.server.owner.logged() as log:
            url = urlsplit(self.path)
            call = Call(
                method=self.command,
                path=url.path,
                query=parse_qs(url.query),
                headers=self.headers,
                body=self._body(),
            )
            reply, stop = self.server.owner.answer(call)
            sent = 0
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(reply.size))
                self.end_headers()
                if call.method != "HEAD":
                    body = memoryview(reply.body.read_bytes() if isinstance(reply.body, Path) else reply.body)
                    while sent < stop:
                        sent += self.connection.send(body[sent : min(sent + _BLOCK, stop)])
                    self.close_connection |= stop < reply.size
            except OSError:  # the client has gone
                self.close_connection = True
            asked = self.headers.get("Range", "")
            log.append(Request(call.method, unquote(call.path), asked, reply.status, sent, len(call.body)))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _body(self) -> bytes:
        """The body of the request: http.server leaves "chunked", which uploads use, to us."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `requests` has it."""

"""What an HTTP request gets: a status, fields and a body, which leave in one piece, or the head of a stream.

1. A reply goes straight to the socket, as the events of turns do. aiohttp's own response looks for much that no answer
   of this server has (cookies, compression, ranges); a `POST /chat` takes a ninth less time without.
2. The fields that every reply carries, and whether the connection ends with it, are decided in one place, `Reply.head`.
3. An error is problem+json.
"""

import functools
import itertools
import secrets
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proto import VERSION
from proto.answers import Problem
from proto.errors import CODES, ChatError
from proto.events import dumps
from proto.requests import sane_request_id
from server.clock import http_date

JSON_TYPE = "application/json; charset=utf-8"
PROBLEM_TYPE = "application/problem+json"
SERVER = f"fivewire/{VERSION}"

_ALLOWED: web.RequestKey[dict[str, str]] = web.RequestKey("allowed")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_prefix = secrets.token_hex(4)
_numbers = itertools.count(1)


def request_id(request: web.BaseRequest) -> str:
    """The caller's, if sane, else a new one."""
    return sane_request_id(request.headers.get("X-Request-Id")) or f"{_prefix}-{next(_numbers):x}"


@functools.lru_cache(256)
def _lines(fields: tuple[tuple[str, str], ...]) -> str:
    """Most answers have the same fields as one before."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    if not lines.count("\n") == lines.count("\r") == len(fields):
        raise ValueError("a line break in a field's value")
    return lines


def allow(request: web.BaseRequest, origin: str, exposed: str) -> None:
    """Have the answer say that a page of this foreign origin may read it, and these of its fields."""
    request[_ALLOWED] = {
        "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": exposed, "Vary": "Origin"
    }  # fmt: skip


def common_fields(request: web.BaseRequest) -> dict[str, str]:
    """What an answer carries that aiohttp writes: the handshake of a WebSocket."""
    return {**request.get(_ALLOWED, {}), "X-Request-Id": request_id(request), "Server": SERVER}


class Reply(web.StreamResponse):
    """A whole answer, which aiohttp sends by calling `prepare`; or a stream, whose `head` has been taken before."""

    def __init__(
        self, body: bytes | None, fields: dict[str, str], status: int = 200, request_id: str | None = None
    ) -> None:
        """Without a body (None) it has no `Content-Length` either: a stream, or a status that allows none."""
        # aiohttp's fields, cookies and state are not made: nobody asks for them.
        self._status = status
        self.body = body
        self.fields = fields
        self._request_id = request_id  # where the body tells it, too
        self._last = False  # on its connection
        self._writer: AbstractStreamWriter | None = None  # from the head on

    def head(self, request: web.BaseRequest) -> bytes:
        """Status line and fields, to be sent now."""
        protocol: Any = request.protocol  # an HttpProtocol
        self._writer = request.writer
        spoilt = request.content.exception() is not None  # nobody knows where the next request would begin
        self._last = self._last or spoilt or not request.keep_alive or protocol.leaving()
        fields = self.fields
        if len(request):  # most requests hold nothing; to look for what is not there costs more than all the rest
            fields = {**fields, **request.get(_ALLOWED, {})}
        if self._last:
            fields = {**fields, "Connection": "close"}
        elif request.version < (1, 1):
            fields = {**fields, "Connection": "keep-alive"}
        lines = _lines(tuple(fields.items()))
        if self.body is not None:
            lines += f"Content-Length: {len(self.body)}\r\n"
        head = (
            f"{_STATUS_LINES[self._status]}{lines}X-Request-Id: {self._request_id or request_id(request)}\r\n"
            f"Server: {SERVER}\r\nDate: {http_date()}\r\n\r\n"
        )
        return head.encode("utf-8", "surrogateescape")

    def send(self, request: web.BaseRequest) -> None:
        """The whole of it, unless it is a stream, which has been sent."""
        if self._writer is None:
            protocol: Any = request.protocol  # an HttpProtocol
            head = self.head(request)
            protocol.direct.write(head if request.method == "HEAD" else head + (self.body or b""))

    # aiohttp's side

    @property
    def prepared(self) -> bool:
        return self._writer is not None

    @property
    def keep_alive(self) -> bool:
        return not self._last

    def force_close(self) -> None:
        self._last = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self.send(request)
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """The connection's next request is taken when there is room for its answer."""
        assert self._writer is not None and not data
        await self._writer.drain()


def json_reply(word: Any, status: int = 200) -> Reply:
    """A word as JSON."""
    return Reply(dumps(word).encode(), {"Content-Type": JSON_TYPE, "Cache-Control": "no-store"}, status)


def problem(error: ChatError, request: web.BaseRequest) -> Reply:
    """An error as problem+json."""
    told = request_id(request)
    word = Problem(
        "about:blank", CODES[error.code].title, error.http, error.message, error.code, error.retryable, told,
        error.turn_id,
    )  # fmt: skip
    fields = {"Content-Type": PROBLEM_TYPE, "Cache-Control": "no-store"}
    if error.retry_after is not None:
        fields["Retry-After"] = str(max(1, round(error.retry_after)))
    # Text that is quoted from a request may not be valid UTF-8.
    reply = Reply(dumps(word).encode("utf-8", "replace"), fields, error.http, told)
    if error.http == 408 or ("Expect" in request.headers and not request.content.is_eof()):
        reply.force_close()  # the body does not come: the client's next request would be taken for it
    return reply

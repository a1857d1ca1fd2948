"""What an HTTP request gets: a status, fields and a body, which leave in one piece, or the head of a stream.

1. A reply goes straight to the socket, as the events of turns do. aiohttp's own response looks for much that no answer
   of this server has (cookies, compression, ranges); a `POST /chat` takes a ninth less time without.
2. The fields that every reply carries, and whether the connection ends with it, are decided in one place, `Reply.head`.
3. An error is problem+json.
"""

import itertools
import secrets
from collections.abc import Mapping
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

_ID: web.RequestKey[str] = web.RequestKey("request_id")
_ALLOWED: web.RequestKey[dict[str, str]] = web.RequestKey("allowed")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_prefix = secrets.token_hex(4)
_numbers = itertools.count(1)


def request_id(request: web.BaseRequest) -> str:
    """The caller's, if sane, else made; the same for the life of the request."""
    if len(request) and _ID in request:
        return request[_ID]
    made = sane_request_id(request.headers.get("X-Request-Id")) or f"{_prefix}-{next(_numbers):x}"
    request[_ID] = made
    return made


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

    def __init__(self, body: bytes | None, fields: Mapping[str, str], status: int = 200) -> None:
        """Without a body (None) it has no `Content-Length` either: a stream, or a status that allows none."""
        # aiohttp's fields, cookies and state are not made: nobody asks for them.
        self._status = status
        self.body = body
        self.fields = dict(fields)
        self._last = False  # on its connection
        self._writer: AbstractStreamWriter | None = None  # from the head on

    def head(self, request: web.BaseRequest) -> bytes:
        """Status line and fields, to be sent now."""
        protocol: Any = request.protocol  # an HttpProtocol
        self._writer = request.writer
        spoilt = request.content.exception() is not None  # nobody knows where the next request would begin
        self._last = self._last or spoilt or not request.keep_alive or protocol.leaving()
        fields, body = self.fields, self.body
        if len(request):  # most requests hold nothing; to look for what is not there costs more than all the rest
            fields.update(request.get(_ALLOWED, {}))
        if self._last:
            fields["Connection"] = "close"
        elif request.version < (1, 1):
            fields["Connection"] = "keep-alive"
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        own = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        lines = (
            f"{_STATUS_LINES[self._status]}{own}X-Request-Id: {request_id(request)}\r\nServer: {SERVER}\r\n"
            f"Date: {http_date()}\r\n{length}\r\n"
        )
        if not lines.count("\n") == lines.count("\r") == len(fields) + 5 + (body is not None):
            raise ValueError("a line break in a field's value")
        return lines.encode("utf-8", "surrogateescape")

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
    word = Problem(
        "about:blank", CODES[error.code].title, error.http, error.message, error.code, error.retryable,
        request_id(request), error.turn_id,
    )  # fmt: skip
    fields = {"Content-Type": PROBLEM_TYPE, "Cache-Control": "no-store"}
    if error.retry_after is not None:
        fields["Retry-After"] = str(max(1, round(error.retry_after)))
    # Text that is quoted from a request may not be valid UTF-8.
    reply = Reply(dumps(word).encode("utf-8", "replace"), fields, error.http)
    if error.http == 408 or ("Expect" in request.headers and not request.content.is_eof()):
        reply.force_close()  # the body does not come: the client's next request would be taken for it
    return reply

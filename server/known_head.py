"""The head of a request that is sent again. On a connection that is kept, clients send the same head each time, but for
the length of the body; to parse it anew takes a tenth of a `POST /chat`.

1. Only a request that is all that has come, from its first byte to its last, is compared, and only with the one right
   before it, of which that was true as well: so it is certain that a request begins here.
2. Nothing may differ but the digits of `Content-Length`. What does goes to the parser, as does what comes in pieces.
3. What the head says is found once. So its `Content-Length` is left out: the body is there, and whoever has it does not
   ask how long it will be.
"""

import re
from typing import Any

from aiohttp import hdrs
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

MAX_DIGITS = 16  # of a length
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)


class WholeBody(StreamReader):
    """A body that is there: as much of a reader as they need who look whether it is, and how much has come."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.total_bytes = len(data)

    def is_eof(self) -> bool:
        return True

    def read_nowait(self, n: int = -1) -> bytes:
        data, self._data = self._data, b""
        return data

    def exception(self) -> BaseException | None:
        return None

    def set_exception(self, *failure: object) -> None:
        """What is there is not lost any more."""


class KnownHead:
    """A head in its bytes, without the digits of its length, and what it says."""

    __slots__ = ("_after", "_before", "message")

    def __init__(self, before: bytes, after: bytes, message: RawRequestMessage) -> None:
        self._before = before
        self._after = after  # what follows those digits; empty where there is no length
        self.message = message

    def again(self, data: bytes) -> StreamReader | None:
        """The body, if these bytes are the head once more and nothing but a body."""
        before = self._before
        if not data.startswith(before):
            return None
        if not self._after:
            return EMPTY_PAYLOAD if len(data) == len(before) else None
        start = len(before)
        end = data.find(b"\r", start)
        body = end + len(self._after)
        digits = data[start:end]
        if (
            not digits.isdigit()
            or len(digits) > MAX_DIGITS
            or not data.startswith(self._after, end)
            or len(data) != body + int(digits)
        ):
            return None
        return WholeBody(data[body:])


def known_head(data: bytes, message: RawRequestMessage, body: StreamReader) -> KnownHead | None:
    """The head of a request that the parser has found in these bytes, if there is nothing else in them."""
    size = data.find(b"\r\n\r\n") + 4
    if len(data) != size + body.total_bytes or message.chunked or message.upgrade or not body.is_eof():
        return None
    found = [*_LENGTH.finditer(data, 0, size)]
    if message.headers.getall(hdrs.CONTENT_LENGTH, []) != [length[1].decode() for length in found] or len(found) > 1:
        return None
    if not found:
        return KnownHead(data[:size], b"", message)
    fields = message.headers.copy()
    del fields[hdrs.CONTENT_LENGTH]
    raw = tuple([field for field in message.raw_headers if field[0].lower() != b"content-length"])
    said: Any = message._replace(headers=type(message.headers)(fields), raw_headers=raw)
    length = found[0]
    return KnownHead(data[: length.start(1)], data[length.end(1) : size], said)

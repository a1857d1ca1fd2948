"""A response body that follows a turn: what the HTTP transports that stream have in common.

1. After the head, events are written straight to the socket by the turn itself (`server.lane`), with the chunked
   framing of HTTP/1.1 made once per event. aiohttp writes the head before and the last chunk after.
2. The request's task only waits. When the peer leaves, aiohttp cancels it; the turn goes on for the grace time.
"""

import asyncio

from aiohttp import web

from proto.events import Event, chunk_maker
from server.edge import LEAVING, HttpProtocol, Sink, answer_headers
from server.lane import Follower, Framing
from server.turn import Turn

STREAM_HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}
# The first lines of chunks of the usual sizes: to format the number takes longer than the rest.
_SIZES = [f"{size:x}\r\n" for size in range(1024)]


class BodyFraming(Framing):
    """How a turn's events become a body."""

    content_type: str
    head = b""

    def tail(self, late: bool) -> bytes:
        """What ends the body; `late` when the caller's time was up before the turn's."""
        return b""


class TextFraming(BodyFraming):
    """One whose events are text: whoever frames a chunk further does so before it becomes bytes, in four fifths of the
    time."""

    start = ""  # of an event's text, before its JSON
    end: str

    def __init__(self) -> None:
        self._text_of = chunk_maker(self.start, self.end)

    def chunk(self, turn: Turn, text: str, number: int, final: bool, timestamp: str, seq: int) -> bytes:
        return self._text_of(text, number, final, timestamp, turn.id, seq).encode()


class Chunked(BodyFraming):
    """A framing in HTTP/1.1's chunked coding."""

    def __init__(self, plain: BodyFraming) -> None:
        self.plain = plain
        self.name = plain.name
        self.content_type = plain.content_type
        self.head = chunked(plain.head)

    def encode(self, turn: Turn, event: Event) -> bytes:
        return chunked(self.plain.encode(turn, event))

    def heartbeat(self) -> bytes | None:
        beat = self.plain.heartbeat()
        return None if beat is None else chunked(beat)

    def tail(self, late: bool) -> bytes:
        return chunked(self.plain.tail(late))


class ChunkedText(Chunked):
    """A framing of text in the chunked coding."""

    def __init__(self, plain: TextFraming) -> None:
        super().__init__(plain)
        self._text_of = chunk_maker(plain.start, f"{plain.end}\r\n")

    def chunk(self, turn: Turn, text: str, number: int, final: bool, timestamp: str, seq: int) -> bytes:
        data = self._text_of(text, number, final, timestamp, turn.id, seq)
        size = len(data) - 2
        if size < len(_SIZES) and data.isascii():
            return (_SIZES[size] + data).encode()
        return chunked(data[:-2].encode())


def chunked(data: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1); none for no data, because an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class BodyReader(Sink):
    """A body that follows a turn."""

    __slots__ = ("_transport", "done", "follower", "framing", "write")

    def __init__(
        self, protocol: HttpProtocol, transport: asyncio.Transport, framing: BodyFraming, done: "asyncio.Future[None]"
    ) -> None:
        self.framing = framing
        self.write = protocol.direct.write
        self.done = done
        self.follower: Follower | None = None
        self._transport = transport

    def ended(self, follower: Follower) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    def drop(self) -> None:
        self._transport.abort()

    def pause(self) -> None:
        if self.follower is not None:
            self.follower.pause()

    def resume(self) -> None:
        if self.follower is not None:
            self.follower.resume()


async def stream_turn(
    request: web.Request, turn: Turn, after: int, chunked: Chunked, seconds: float | None = None
) -> web.StreamResponse:
    """Answer with the turn's events after a (checked) cursor, to the end, or for so many seconds."""
    response = web.StreamResponse(
        headers={
            **STREAM_HEADERS, "Content-Type": chunked.content_type, "X-Turn-Id": turn.id, **answer_headers(request)
        }
    )  # fmt: skip
    framing: BodyFraming = chunked
    if request.version >= (1, 1):
        response.enable_chunked_encoding()
    else:  # HTTP/1.0, where a stream ends with the connection
        framing = chunked.plain
    if request.version < (1, 1) or LEAVING in request:
        response.force_close()
        del response.headers["Connection"]
    protocol, transport = request.protocol, request.transport
    turn.attend()
    try:
        await response.prepare(request)
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the peer has left")
        assert isinstance(protocol, HttpProtocol)
        reader = BodyReader(protocol, transport, framing, asyncio.get_running_loop().create_future())
        if framing.head:
            reader.write(framing.head)
        protocol.sink = reader
        follower = turn.follow(reader, after, protocol.writing_paused)
    finally:
        turn.neglect()
    late = False
    try:
        async with asyncio.timeout(seconds):
            await reader.done
    except TimeoutError:
        late = True
    finally:
        protocol.sink = None
        follower.close()
    tail = framing.tail(late)
    if tail:
        reader.write(tail)
    await response.write_eof()
    return response

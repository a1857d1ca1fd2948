"""A response body that follows a turn: what the HTTP transports that stream have in common.

1. Events are written straight to the socket by the turn itself (`server.lane`), the first of them together with the
   head, with the chunked framing of HTTP/1.1 made once per event.
2. The request's task only waits. When the peer leaves, aiohttp cancels it; the turn goes on for the grace time.
"""

import asyncio

from aiohttp import web

from proto.events import Event, chunk_maker
from server.http_protocol import STREAMED, HttpProtocol, Sink
from server.lane import Follower, Framing
from server.reply import Reply
from server.turn import Turn

STREAM_FIELDS = {
    "Cache-Control": "no-cache, no-transform",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}
LAST_CHUNK = b"0\r\n\r\n"
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

    __slots__ = ("_direct", "_head", "_transport", "done", "follower", "framing", "write")

    def __init__(self, protocol: HttpProtocol, transport: asyncio.Transport, framing: BodyFraming, head: bytes) -> None:
        self.framing = framing
        self.write = self.begin
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.follower: Follower | None = None
        self._direct = protocol.direct
        self._transport = transport
        self._head = head

    def begin(self, data: bytes) -> None:
        """The first write takes the head along."""
        head, self._head = self._head, b""
        self.write = self._direct.write
        self.write(head + data)

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
    reply = Reply(None, {**STREAM_FIELDS, "Content-Type": chunked.content_type, "X-Turn-Id": turn.id})
    framing: BodyFraming = chunked
    end = LAST_CHUNK
    if request.version >= (1, 1):
        reply.fields["Transfer-Encoding"] = "chunked"
    else:  # HTTP/1.0, where a stream ends with the connection
        framing, end = chunked.plain, b""
        reply.force_close()
    protocol, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        turn.check_attendance()
        raise ConnectionResetError("the peer has left")
    assert isinstance(protocol, HttpProtocol)
    head = reply.head(request) + framing.head
    request[STREAMED] = True
    reader = BodyReader(protocol, transport, framing, head)
    if after == turn.last_seq:  # there is nothing yet that could take the head along
        reader.begin(b"")
    protocol.sink = reader
    follower = turn.follow(reader, after, protocol.writing_paused)
    late = False
    try:
        async with asyncio.timeout(seconds):
            await reader.done
    except TimeoutError:
        late = True
    finally:
        protocol.sink = None
        follower.close()
    reader.write(framing.tail(late) + end)
    return reply

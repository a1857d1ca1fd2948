"""A response body that follows a turn: what the HTTP transports that stream have in common.

1. Events are written straight to the socket by the turn itself (`server.lane`), the first of them together with the
   head, with the chunked framing of HTTP/1.1 made once per event.
2. The request's task only waits. When the peer leaves, aiohttp cancels it; the turn goes on for the grace time.
"""

import asyncio

from aiohttp import web

from proto.events import ChunkFramer, Event, chunk_framer
from server.direct import Opening, Writer
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
PROBE_SECONDS = 0.5  # longer than a reset takes to come back


class BodyFraming(Framing):
    """How a turn's events become a body."""

    content_type: str
    head = b""

    def tail(self, late: bool) -> bytes:
        """What ends the body; `late` when the caller's time was up before the turn's."""
        return b""


class TextFraming(BodyFraming):
    """One whose events are lines of text."""

    start = ""  # of an event's text, before its JSON
    end: str


class Chunked(BodyFraming):
    """A framing in HTTP/1.1's chunked coding."""

    def __init__(self, plain: BodyFraming) -> None:
        self.plain = plain
        self.name = plain.name
        self.content_type = plain.content_type
        self.head = chunked(plain.head)
        self.beats = plain.beats

    def encode(self, turn: Turn, event: Event) -> bytes:
        return chunked(self.plain.encode(turn, event))

    def heartbeat(self) -> bytes:
        return chunked(self.plain.heartbeat())

    def tail(self, late: bool) -> bytes:
        return chunked(self.plain.tail(late))


class ChunkedText(Chunked):
    """A framing of text in the chunked coding."""

    def __init__(self, plain: TextFraming) -> None:
        super().__init__(plain)
        self._framer = chunk_framer(plain.start, f"{plain.end}\r\n", _HEADS, lambda data: chunked(data[:-2]))

    def of_turn(self, turn: Turn) -> str:
        return turn.id

    @property
    def framer(self) -> ChunkFramer:
        return self._framer


def chunked(data: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1); none for no data, because an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


# The first lines of short chunks, by the size of the rest with its line end.
_HEADS = [b"%x\r\n" % max(0, size - 2) for size in range(1024)]


class BodyReader(Sink):
    """A body that follows a turn."""

    __slots__ = ("_transport", "done", "follower", "framing", "writer")

    def __init__(self, protocol: HttpProtocol, transport: asyncio.Transport, framing: BodyFraming, head: bytes) -> None:
        self.framing = framing
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.follower: Follower | None = None
        self.writer: Writer = Opening(self, head, protocol.direct)
        self._transport = transport

    def ended(self, follower: Follower) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def drop(self) -> None:
        self._transport.abort()

    def half_closed(self) -> None:
        """A peer that has left answers a sign of life with a reset, at which the next one fails. Where there is no such
        sign, nothing would tell for as long as the model is silent: such a peer is taken for one that has left."""
        if not self.framing.beats:
            self._transport.close()
            return
        for times in (1, 2):
            asyncio.get_running_loop().call_later(times * PROBE_SECONDS, self._probe)

    def _probe(self) -> None:
        if self.follower is not None:
            self.writer.write(self.framing.heartbeat())

    def pause(self) -> None:
        if self.follower is not None:
            self.follower.pause()

    def resume(self) -> None:
        if self.follower is not None:
            self.follower.resume()


async def stream_turn(
    request: web.Request, turn: Turn, after: int, chunked: Chunked, seconds: float | None = None
) -> web.StreamResponse:
    """Answer with the turn's events after a (checked) cursor, to the end, or for so many seconds; a HEAD is
    told how that would begin."""
    reply = Reply(None, {**STREAM_FIELDS, "Content-Type": chunked.content_type, "X-Turn-Id": turn.id})
    framing: BodyFraming = chunked
    end = LAST_CHUNK
    if request.version >= (1, 1):
        reply.fields["Transfer-Encoding"] = "chunked"
    else:  # HTTP/1.0, where a stream ends with the connection
        framing, end = chunked.plain, b""
        reply.force_close()
    if request.method == "HEAD":
        return reply
    protocol, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        turn.check_attendance()
        raise ConnectionResetError("the peer has left")
    assert isinstance(protocol, HttpProtocol)
    head = reply.head(request) + framing.head
    request[STREAMED] = True
    reader = BodyReader(protocol, transport, framing, head)
    if after == turn.last_seq:  # there is nothing yet that could take the head along
        reader.writer.write(b"")
    protocol.sink = reader
    follower = turn.follow(reader, after, protocol.writing_paused)
    if protocol.half_closed:
        reader.half_closed()
    try:
        if seconds is None:
            await reader.done
        else:  # not `asyncio.timeout`, which needs a task
            await asyncio.wait([reader.done], timeout=seconds)
        late = not reader.done.done()
    finally:
        protocol.sink = None
        follower.close()
    reader.writer.write(framing.tail(late) + end)
    return reply

"""The server's end of one gRPC call: its messages, pushed straight into the socket as DATA frames.

1. A message is written at once where the stream's and the connection's windows and the socket have room, and h2's
   windows are lowered by hand, for many messages at a time. By way of grpclib's `send_message` it costs three times
   as much.
2. Order: what has been written first leaves first. While anything waits, everything waits. Whoever uses an outflow
   sends all messages of the call through it, between the headers and the trailers. Both are ready-made, and left to
   grpclib and h2 where those have something of their own to say in them.
3. A peer that does not open its window, or does not read, pauses the readers; the turn's log waits for them. One that
   makes no progress is dropped, and so is one that lets other messages pile up.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import encode_grpc_message
from h2.errors import ErrorCodes
from h2.stream import StreamInputs

from proto import pb
from proto.errors import ChatError
from proto.grpc_stream import GZIP_MIN_BYTES, PREFIX, STALL_SECONDS, Headers, SmallEvent, Stream
from server.direct import Opening, Sender, Whole, Writer

if TYPE_CHECKING:
    from server.h2 import ServerConnection

MAX_PENDING_BYTES = 8 * 2**20
SHORT_BYTES = 512

# Our code for what fails below the service; for any other status, the peer has sent what is no good call. A deadline is
# the caller's own, and none of our codes says that.
_CODES = {
    Status.UNKNOWN: "internal",
    Status.DEADLINE_EXCEEDED: None,
    Status.NOT_FOUND: "not_found",
    Status.RESOURCE_EXHAUSTED: "too_large",
    Status.UNAVAILABLE: "unavailable",
}


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field that is not to be remembered (RFC 7541 section 6.2.2)."""
    assert len(value) < 127
    return b"\0%c%b%c%b" % (len(name), name, len(value), value)


# Header blocks that use HPACK's static table only, and so are the same on every connection.
_HEAD = (
    b"\x88"  # :status 200
    + _literal(b"content-type", b"application/grpc+proto")
    + _literal(b"grpc-accept-encoding", b"identity,gzip")
)
_TAIL = _literal(b"grpc-status", b"0")


def _headers(block: bytes, number: bytes, end: bool) -> bytes:
    """A HEADERS frame with END_HEADERS, and END_STREAM at the end of a call."""
    return b"%b\x01%c%b%b" % (len(block).to_bytes(3), 5 if end else 4, number, block)


class Paused(Protocol):
    """Somebody who writes, and stops for a while when told so."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@lru_cache(maxsize=128)
def _short_heads(stream: int) -> dict[int, bytes]:
    """The heads of short DATA frames by their size, as far as they have been used: first calls of connections share
    them."""
    return {}


class _Nowhere(Whole):
    """Takes the messages of a call that has ended."""

    __slots__ = ()

    def write(self, data: bytes) -> None: ...


_NOWHERE = _Nowhere()


class _Hot:
    """What every message touches, side by side, as in `server.turn`."""

    __slots__ = ("_heads", "_room", "_sender")


class Outflow(_Hot, Whole):
    """The messages of one call. Those who write are paused while the peer takes no more; what they write nevertheless
    waits in `_pending`."""

    __slots__ = ("_drained", "_h2", "_h2_stream", "_paused", "_pending", "_stream", "readers", "writer")

    def __init__(self, stream: "ServerStream", headers: bytes = b"") -> None:
        """`headers`: the answer's HEADERS frame, which goes out with the first message, or when told to `open`."""
        assert stream.id is not None
        self._stream = stream
        self._h2: Any = stream.connection.h2
        self._h2_stream: Any = self._h2.streams[stream.id]
        self._heads = _short_heads(stream.id)
        direct = stream.connection.direct
        self._sender: Sender = direct.sender
        self.writer: Writer = Opening(self, headers, direct) if headers else direct
        self._pending = bytearray()
        self._room: float = 0  # taken out of both windows in advance; none while anything waits, endless when closed
        self._paused = not stream.connection.write_ready.is_set()
        self._drained: asyncio.Future[None] | None = None
        self.readers: dict[Paused, None] = {}
        stream.outflow = self

    def write(self, data: bytes) -> None:
        """A message with its prefix, or several of them."""
        self.send(data)

    def send(self, data: bytes) -> int:
        """The same. The hot path: once per chunk and call."""
        size = len(data)
        if size <= self._room:  # there is none before the first message, nor while the transport is full
            self._room -= size
            try:
                frame = self._heads[size] + data
            except KeyError:
                frame = self._head(size) + data
            try:
                sent = self._sender.send(frame)
            except OSError:
                sent = 0
            if sent != len(frame):
                self.writer.write(frame[sent:])
        elif self._make_room(size):
            self._room -= size
            self._write(data)
        else:
            self._pending += data
            self._flush()
            if len(self._pending) > MAX_PENDING_BYTES:
                self.drop()
        return size

    def _make_room(self, size: int) -> bool:
        """Take room for a message out of the windows; for many at once, if nobody else of the connection has done so:
        to look at h2 for each would take a twentieth of a chunk's time."""
        h2, stream = self._h2, self._h2_stream
        if self._paused:
            return False
        if h2.holder is self:
            h2.reclaim()
        most = min(stream.outbound_flow_control_window, h2.outbound_flow_control_window, h2.max_outbound_frame_size)
        if size > most:
            return False
        taken = size
        if h2.holder is None:
            h2.holder, taken = self, most
        stream.outbound_flow_control_window -= taken
        h2.outbound_flow_control_window -= taken
        self._room = taken
        return True

    @property
    def room(self) -> float:
        """What is left of what was taken in advance."""
        return self._room

    def give_back(self) -> None:
        """What was taken in advance."""
        self._h2_stream.outbound_flow_control_window += self._room
        self._h2.outbound_flow_control_window += self._room
        self._room = 0

    def open(self) -> None:
        """Where no message has left yet, the headers do."""
        if isinstance(self.writer, Opening):
            self.writer.write(b"")

    def _head(self, size: int) -> bytes:
        """Of a DATA frame."""
        assert self._stream.id is not None
        head = b"%b\0\0%b" % (size.to_bytes(3), self._stream.id.to_bytes(4))
        if size < SHORT_BYTES:
            self._heads[size] = head
        return head

    def _write(self, data: bytes) -> None:
        self.writer.write(self._head(len(data)) + data)

    def _flush(self) -> None:
        h2, stream, pending = self._h2, self._h2_stream, self._pending
        h2.reclaim()
        ready = self._stream.connection.write_ready
        while pending and ready.is_set():
            window = min(stream.outbound_flow_control_window, h2.outbound_flow_control_window)
            size = min(len(pending), window, h2.max_outbound_frame_size)
            if size <= 0:
                break
            stream.outbound_flow_control_window -= size
            h2.outbound_flow_control_window -= size
            self._write(bytes(pending[:size]))
            del pending[:size]
        if pending:
            self.pause()
        elif self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def pause(self) -> None:
        """The peer takes no more for now."""
        self._paused = True
        self._h2.reclaim()
        for reader in tuple(self.readers):
            reader.pause()

    def opened(self) -> None:
        """A window or the socket takes more again."""
        if self._pending:
            self._flush()
        if self._paused and not self._pending and self._stream.connection.write_ready.is_set():
            self._paused = False
            for reader in tuple(self.readers):
                if self._paused:  # again: what the one before wrote was enough
                    break
                if reader in self.readers:
                    del self.readers[reader]  # to the end: the next time it is the others' turn
                    self.readers[reader] = None
                    reader.resume()

    @property
    def waiting(self) -> bool:
        """Whether something waits for the peer."""
        return bool(self._pending)

    def buffered(self) -> int:
        return len(self._pending) + self._stream._transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Everything is on its way; it must not take for ever."""
        while self._pending:
            before = len(self._pending)
            self._drained = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await self._drained
                    return  # a reader that catches up has written more by now; that is not waited for
            except TimeoutError:
                if len(self._pending) >= before:
                    self.drop()

    def drop(self) -> None:
        """The peer takes too little: end this call; the connection, where the windows would let more through."""
        stream = self._stream
        self._h2.reclaim()
        window = min(self._h2_stream.outbound_flow_control_window, self._h2.outbound_flow_control_window)
        if window > 0 and not stream.connection.write_ready.is_set():
            stream._transport.abort()
        elif stream.closable:
            stream.reset_nowait(ErrorCodes.ENHANCE_YOUR_CALM)  # which gRPC defines as: out of bandwidth
        self.close()
        if stream.wrapper is not None:
            stream.wrapper.cancel(GRPCError(Status.RESOURCE_EXHAUSTED, "The answer was not taken in time."))

    def close(self) -> None:
        """The call has ended; what is still written goes nowhere."""
        if self._stream.closable:
            self.open()
        self.writer = self._sender = _NOWHERE
        self._h2.reclaim()
        self._room = math.inf
        self._paused = False
        self._pending.clear()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


UNUSED_EVENT = asyncio.Event()


class ServerStream(Stream):
    """A call at the server. It waits for no headers and no trailers: grpclib has an event for each, of 800 bytes, in
    every call however long it lasts."""

    connection: "ServerConnection"
    outflow: Outflow | None = None
    deadline: asyncio.TimerHandle | None = None

    def __init__(self, connection: "ServerConnection", h2: Any, transport: Any, stream_id: int, wrapper: None) -> None:
        self.connection = connection
        self._h2_connection = h2
        self._transport = transport
        self.wrapper = wrapper
        self.init_stream(stream_id, connection)
        self.headers = self.trailers = None
        self.headers_received = self.trailers_received = UNUSED_EVENT
        self.window_updated = SmallEvent()

    @property
    def write(self) -> Callable[[bytes], object]:
        return self.connection.direct.write

    def window_opened(self) -> bool:
        if self.outflow is not None:
            self.outflow.opened()
        return super().window_opened()

    async def send_headers(self, headers: Headers, end_stream: bool = False) -> None:
        if end_stream:
            if self.outflow is not None:
                self.outflow.close()  # what still waits for the peer must not come behind the trailers
            headers = [*headers, *self._reason(dict(headers))]
        await super().send_headers(headers, end_stream)

    def __terminated__(self, reason: str) -> None:
        if self.outflow is not None:
            self.outflow.close()
        super().__terminated__(reason)

    def answer(self, payload: bytes) -> bool:
        """Send the whole answer of a unary call in one write; False where that is h2's business. By way of grpclib and
        h2 the same bytes cost three writes, and a quarter of the call's time."""
        assert self.id is not None
        h2: Any = self._h2_connection
        stream = h2.streams.get(self.id)
        size = PREFIX.size + len(payload)
        if (
            not self._can_say_headers()
            or size > h2.local_flow_control_window(self.id)
            or size > h2.max_outbound_frame_size
            or (len(payload) >= GZIP_MIN_BYTES and "gzip" in self.peer_header("grpc-accept-encoding"))
        ):
            return False
        stream.outbound_flow_control_window -= size
        h2.outbound_flow_control_window -= size
        number = self.id.to_bytes(4)
        data = (size.to_bytes(3), b"\0\0", number, PREFIX.pack(0, len(payload)), payload)
        self.write(b"".join((self._say_headers(_HEAD), *data, self._say_headers(_TAIL, end=True))))
        return True

    def headers_frame(self, metadata: dict[str, str]) -> bytes:
        """What begins an answer, for its outflow to send before anything is awaited; none where that is h2's business:
        h2 then thinks that it is sent."""
        if not self._can_say_headers():
            return b""
        more = [_literal(name.encode(), value.encode()) for name, value in metadata.items()]
        return self._say_headers(b"".join((_HEAD, *more)))

    def finish(self) -> bool:
        """Send the trailers of a call that went well; False where that is h2's business."""
        if not self._can_say_headers():
            return False
        assert self.outflow is not None
        self.outflow.close()
        self.write(self._say_headers(_TAIL, end=True))
        return True

    def _can_say_headers(self) -> bool:
        # A new size of HPACK's table must be told in the next header block.
        table: Any = self._h2_connection.encoder
        return self.closable and self.connection.write_ready.is_set() and not table.table_size_changes

    def _say_headers(self, block: bytes, end: bool = False) -> bytes:
        assert self.id is not None
        state = self._h2_connection.streams[self.id].state_machine
        state.process_input(StreamInputs.SEND_HEADERS)
        if end:
            state.process_input(StreamInputs.SEND_END_STREAM)
            self.ended = True
        return _headers(block, self.id.to_bytes(4), end)

    def refuse(self, status: Status, message: str) -> None:
        """Answer a call that has not begun."""
        assert self.id is not None
        headers = {":status": "200", "content-type": "application/grpc", "grpc-status": str(status.value)}
        headers["grpc-message"] = encode_grpc_message(message)
        self._h2_connection.send_headers(self.id, [*headers.items(), *self._reason(headers)], end_stream=True)
        self.ended = True

    def _reason(self, headers: Mapping[str, str]) -> Headers:
        """What the service adds to a status, where the service has had no say."""
        status = Status(int(headers.get("grpc-status", "0")))
        if status is Status.OK or "fivewire-code" in headers:
            return []
        code = _CODES.get(status, "invalid_request")
        if self.wrapper is None:  # grpclib has not got as far as to the method
            code = "not_found" if status is Status.UNIMPLEMENTED else "invalid_request"
        return list(pb.error_metadata(ChatError(code, "")).items()) if code else []

"""The server's end of one gRPC call: its messages, pushed straight into the socket as DATA frames.

1. A message is written at once where the stream's and the connection's windows and the socket have room, and h2's
   windows are lowered by hand, for many messages at a time. By way of grpclib's `send_message` it costs three times
   as much.
2. Order: what has been written first leaves first. While anything waits, everything waits. Whoever uses an outflow
   sends all messages of the call through it, between the headers and the trailers (`server.call`).
3. A peer that does not open its window, or does not read, pauses the readers; the turn's log waits for them. One that
   makes no progress is dropped, and so is one that lets other messages pile up.
"""

import asyncio
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from proto.grpc_stream import STALL_SECONDS, in_task
from server.direct import Opening, Sender, Whole, Writer

if TYPE_CHECKING:
    from server.call import ServerStream

MAX_PENDING_BYTES = 8 * 2**20
SHORT_BYTES = 512


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

    def taken(self) -> int:
        return 0


_NOWHERE = _Nowhere()


class _Hot:
    """What every message touches, side by side, as in `server.turn`."""

    __slots__ = ("_heads", "_room", "_sender")


class Outflow(_Hot, Whole):
    """The messages of one call. Those who write are paused while the peer takes no more; what they write nevertheless
    waits in `_pending`."""

    __slots__ = (
        "_drained", "_flushed", "_h2", "_h2_stream", "_paused", "_pending", "_seen", "_stream", "readers", "writer",
    )  # fmt: skip

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
        self._flushed = 0  # bytes of that, so far
        self._seen = 0  # how much the connection's peer had taken when this call's window was open
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
            size = min(len(pending), self._window(), h2.max_outbound_frame_size)
            if size <= 0:
                break
            stream.outbound_flow_control_window -= size
            h2.outbound_flow_control_window -= size
            self._write(bytes(pending[:size]))
            del pending[:size]
            self._flushed += size
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

    def taken(self) -> int:
        """While its window is shut, a call has no part in what the connection's peer takes."""
        if not self._pending or self._window() > 0:
            self._seen = self._stream.connection.direct.taken()
        return self._seen + self._flushed

    def _window(self) -> int:
        window: int = min(self._h2_stream.outbound_flow_control_window, self._h2.outbound_flow_control_window)
        return window

    async def drained(self) -> None:
        """Everything is on its way; it must not take for ever."""
        while self._pending:
            if not await in_task():
                continue
            before = self.taken()
            self._drained = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await self._drained
                    return  # a reader that catches up has written more by now; that is not waited for
            except TimeoutError:
                if self.taken() <= before:
                    self.drop()

    def drop(self) -> None:
        """The peer takes too little: end this call; the connection, where the windows would let more through."""
        stream = self._stream
        self._h2.reclaim()
        if self._window() > 0 and not stream.connection.write_ready.is_set():
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

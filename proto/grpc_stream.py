"""One gRPC call on HTTP/2, at either end: what grpclib 0.4.9's stream lacks, added by subclassing.

1. Messages are bounded, before and after decompression: grpclib buffers whatever length a peer declares.
2. Messages are gzipped where both ends want it, and only from `GZIP_MIN_BYTES` on: grpclib cannot compress at all. It
   reads a message as `recv_data(5)` and `recv_data(length)`, and writes it as one `send_data(prefix + payload)`, so a
   stream can put compression between, and grpclib's client and server need not know.
3. A large message must come, and an answer must be taken, in time: grpclib waits for ever.
4. A message that is cut short, badly compressed or no protobuf ends its call with the status that says so, where
   grpclib says UNKNOWN and logs a traceback.
"""

import asyncio
import gzip
import struct
import zlib
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import DecodeError
from grpclib import protocol
from grpclib.const import Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError
from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

if TYPE_CHECKING:
    from proto.h2 import Connection

MAX_MESSAGE_BYTES = 4 * 2**20  # as gRPC's own libraries
GZIP_MIN_BYTES = 1024
GZIP_LEVEL = 6
LATER_BYTES = 2**12  # of what a peer has said to the end: so few may take room in the windows until the call is over
# Must come within STALL_SECONDS, a smaller one may idle, as a call may; and is gzipped beside the loop.
LARGE_MESSAGE_BYTES = 2**16
STALL_SECONDS = 30.0
PREFIX = struct.Struct(">BI")  # compressed or not, length

Headers = list[tuple[str, str]]


def gunzip(data: bytes, limit: int) -> bytes:
    """The message in a gzip member, of at most `limit` bytes, whatever it claims."""
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        message = inflate.decompress(data, limit + 1)
    except zlib.error:
        raise GRPCError(Status.INTERNAL, "The message is not valid gzip.") from None
    if len(message) > limit:
        raise too_large(limit)
    if not inflate.eof or inflate.unused_data:
        raise GRPCError(Status.INTERNAL, "The message is not one whole gzip member.")
    return message


async def _packed(message: bytes) -> bytes:
    """A message as a gzip member. A history of megabytes takes half a second, in which all else would wait."""
    if len(message) < LARGE_MESSAGE_BYTES:
        return gzip.compress(message, GZIP_LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, message, GZIP_LEVEL, mtime=0)


def too_large(limit: int) -> GRPCError:
    return GRPCError(Status.RESOURCE_EXHAUSTED, f"The message has more than {limit} bytes.")


async def in_task() -> bool:
    """What follows is in a task, as `asyncio.timeout` needs it: a call's first step may be outside (`server.calls`).
    Whether it was; if not, a pass of the loop has gone by."""
    if asyncio.current_task() is not None:
        return True
    await asyncio.sleep(0)
    return False


def cut_short() -> GRPCError:
    return GRPCError(Status.INTERNAL, "The message is cut short.")


class Codec(ProtoCodec):
    """Protobuf, where bytes that are none get the status that says whose fault it is."""

    def __init__(self, bad_bytes: Status) -> None:
        self._bad_bytes = bad_bytes

    def decode(self, data: bytes, message_type: Any) -> Any:
        try:
            return message_type.FromString(data)
        except (DecodeError, UnicodeDecodeError):  # the latter in pure Python, where protobuf has no wheel
            raise GRPCError(self._bad_bytes, f"The message is not a {message_type.DESCRIPTOR.full_name}.") from None


class SmallEvent(asyncio.Event):
    """An event with a list of those who wait. asyncio has a deque, the smallest of which takes 760 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters: Any = []


class Inbox:
    """What has come of a call and has not been read yet. The peer is given room for more as it is read. grpclib's own
    takes 3 kB when it is empty, and five times as long to get a message through."""

    __slots__ = ("_acknowledged", "_arrived", "_connection", "_data", "_owed", "_stream_id", "ended")

    def __init__(self, connection: "Connection", stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._data = bytearray()
        self._acknowledged = 0  # bytes of `_data` that the peer has had room for already
        self._owed = 0  # bytes that are not in `_data`, and that the peer still has to be given room for
        self._arrived: asyncio.Future[None] | None = None
        self.ended = False  # nothing more will come

    def add(self, data: bytes, size: int) -> None:
        """Data that took so much of the peer's window."""
        self._data += data
        self._owed += size - len(data)
        self._wake()

    def eof(self) -> None:
        self.ended = True
        self._wake()

    async def read(self, size: int) -> bytes:
        """Exactly so many bytes; fewer where no more will come."""
        while len(self._data) < size and not self.ended:
            self._acknowledge(len(self._data))  # a message may be larger than the window
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        return self._take(min(size, len(self._data)))

    def only(self) -> bytes | None:
        """The message that is all there is, where that is so, and it is short and not compressed: the usual request."""
        size, data = len(self._data), self._data
        if not self.ended or size > LATER_BYTES or data[: PREFIX.size] != PREFIX.pack(0, max(0, size - PREFIX.size)):
            return None
        return self._take(size)[PREFIX.size :]

    def _take(self, size: int) -> bytes:
        if not self.ended or size + self._owed > LATER_BYTES:  # else it can wait for the end of the call
            self._acknowledge(size)
        data = bytes(self._data[:size])
        del self._data[:size]
        acknowledged = min(size, self._acknowledged)
        self._acknowledged -= acknowledged
        self._owed += size - acknowledged
        return data

    def unacked_size(self) -> int:
        """What the peer has no room for yet. The call is over: it is given that by the caller."""
        size = len(self._data) - self._acknowledged + self._owed
        self._acknowledged, self._owed = len(self._data), 0
        return size

    def _acknowledge(self, size: int) -> None:
        room = size - self._acknowledged + self._owed
        if room > 0:
            self._acknowledged, self._owed = size, 0
            self._connection.ack(self._stream_id, room)

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


class Stream(protocol.Stream):
    """One call: what crosses it is bounded, and gzipped where both ends want it."""

    connection: "Connection"
    buffer: Inbox  # type: ignore[assignment]
    max_message_bytes = MAX_MESSAGE_BYTES  # that are taken
    gzip_sent = False  # whether this end may compress
    ended = False  # whether this end has said its last
    _payload: bytes | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.window_updated = SmallEvent()

    def init_stream(self, stream_id: int, connection: protocol.Connection) -> None:
        self.id = stream_id
        self.buffer = Inbox(cast("Connection", connection), stream_id)

    def peer_header(self, name: str) -> str:
        return next((value for key, value in self.headers or () if key == name), "")

    @property
    def closable(self) -> bool:
        if self.connection.is_closing() or self._h2_connection.state_machine.state is ConnectionState.CLOSED:
            return False
        stream = self._h2_connection.streams.get(cast(int, self.id))
        return stream is not None and not stream.closed

    def reset_nowait(self, error_code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Also where the socket is full: behind what waits for it. grpclib leaves it to whoever writes next."""
        self._h2_connection.reset_stream(cast(int, self.id), error_code=error_code)
        if not self.connection.is_closing():
            self.connection.flush()

    async def recv_data(self, size: int) -> bytes:
        if self._payload is not None:
            payload, self._payload = self._payload, None
            return payload
        prefix = await self.buffer.read(PREFIX.size)
        if not prefix:
            return b""
        if len(prefix) < PREFIX.size:
            raise cut_short()
        compressed, length = PREFIX.unpack(prefix)
        if length > self.max_message_bytes:
            raise too_large(self.max_message_bytes)
        if length < LARGE_MESSAGE_BYTES:
            payload = await self.buffer.read(length)
        else:
            await in_task()
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    payload = await self.buffer.read(length)
            except TimeoutError:
                raise GRPCError(Status.DEADLINE_EXCEEDED, "The message did not come in time.") from None
        if len(payload) < length:
            raise cut_short()
        if compressed:
            coding = self.peer_header("grpc-encoding")
            if compressed != 1 or coding in ("", "identity"):
                raise GRPCError(Status.INTERNAL, "The message is marked as compressed, but no grpc-encoding is named.")
            if coding != "gzip":
                raise GRPCError(Status.UNIMPLEMENTED, f"The grpc-encoding {coding[:32]!r} is not known here; gzip is.")
            payload = gunzip(payload, self.max_message_bytes)
        self._payload = payload
        return PREFIX.pack(0, len(payload))

    async def send_headers(self, headers: Headers, end_stream: bool = False) -> None:
        if not self.closable:  # nor is there anything to wait for, if the socket is full
            raise StreamClosedError(self.id or 0)
        if headers[0][0] == ":status":  # a server's first headers, not its trailers
            offered = self.peer_header("grpc-accept-encoding").replace(" ", "").split(",")
            self.gzip_sent = not end_stream and "gzip" in offered
            headers = [*headers, ("grpc-accept-encoding", "identity,gzip")]
            if self.gzip_sent:
                headers.append(("grpc-encoding", "gzip"))
        await super().send_headers(headers, end_stream)
        self.ended = end_stream

    async def send_data(self, data: bytes, end_stream: bool = False) -> None:
        assert self.id is not None
        if self.gzip_sent and len(data) >= PREFIX.size + GZIP_MIN_BYTES:
            packed = await _packed(data[PREFIX.size :])
            if len(packed) < len(data) - PREFIX.size:
                data = PREFIX.pack(1, len(packed)) + packed
        position = 0
        while True:
            size = await self._room(len(data) - position)
            if self.connection.is_closing():
                raise StreamClosedError(self.id)
            piece = data[position : position + size]
            position += size
            last = position == len(data)
            self._h2_connection.send_data(self.id, piece, end_stream=end_stream and last)
            self.connection.flush()
            if last:
                return

    async def _room(self, wanted: int) -> int:
        """How many bytes the peer takes now, at least one."""
        assert self.id is not None
        while True:
            window = self._h2_connection.local_flow_control_window(self.id)  # can be negative
            if self.connection.write_ready.is_set() and (window > 0 or not wanted):
                return min(wanted, max(0, window), self._h2_connection.max_outbound_frame_size)
            if not await in_task():
                continue
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    if not self.connection.write_ready.is_set():
                        await self.connection.write_ready.wait()  # by then the window may have opened
                    else:
                        self.window_updated.clear()
                        await self.window_updated.wait()
            except TimeoutError:
                self.reset_nowait(ErrorCodes.ENHANCE_YOUR_CALM)
                raise GRPCError(Status.RESOURCE_EXHAUSTED, "The answer was not taken in time.") from None

    def window_opened(self) -> bool:
        """The peer takes more, of this stream or of all. Whether a task has waited for that: it goes on in a moment,
        and is not to find the room gone."""
        waits = bool(self.window_updated._waiters)
        self.window_updated.set()
        # The call may be over, and h2 have forgotten it, before its task has been told.
        return waits and self.closable and self._h2_connection.local_flow_control_window(cast(int, self.id)) > 0

"""A gRPC call at the server: what begins and ends its answer, ready-made, where h2 has nothing of its own to say there;
and the codes of calls that fail below the service."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from grpclib.const import Status
from grpclib.metadata import encode_grpc_message
from h2.stream import StreamInputs

from proto import pb
from proto.errors import ChatError
from proto.grpc_stream import GZIP_MIN_BYTES, PREFIX, Headers, SmallEvent, Stream
from server.outflow import Outflow

if TYPE_CHECKING:
    from server.h2 import ServerConnection

# Our code for what fails below the service; for any other status, the peer has sent what is no good call. A deadline is
# the caller's own, and none of our codes says that.
_CODES = {
    Status.UNKNOWN: "internal",
    Status.DEADLINE_EXCEEDED: None,
    Status.NOT_FOUND: "not_found",
    Status.RESOURCE_EXHAUSTED: "too_large",
    Status.UNAVAILABLE: "unavailable",
}
_CODES_OF_NO_CALL = {Status.UNIMPLEMENTED: "not_found", Status.RESOURCE_EXHAUSTED: "too_large"}


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


UNUSED_EVENT = asyncio.Event()


class Ending:
    """Ends a call's method from outside, with an error that the peer is told. grpclib's own needs a task from the
    beginning."""

    __slots__ = ("_error", "_over", "_task")

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._over = False
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()

    def __exit__(self, *failure: object) -> None:
        self._over = True
        if self._error is not None:
            raise self._error

    def goes_on_in(self, task: "asyncio.Task[None]") -> None:
        self._task = task
        if self._error is not None:
            self._cancel()

    def cancel(self, error: Exception) -> None:
        self._error = error
        if self._task is asyncio.current_task():  # what it says next, behind the method, is not to be cancelled
            asyncio.get_running_loop().call_soon(self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._over:
            self._task.cancel()


class ServerStream(Stream):
    """A call at the server. It waits for no headers and no trailers: grpclib has an event for each, of 800 bytes, in
    every call however long it lasts."""

    connection: "ServerConnection"
    outflow: Outflow | None = None
    deadline: asyncio.TimerHandle | None = None
    wrapper: Any  # an `Ending`, from when the call's method is reached

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

    def refuse(self, http: int, status: Status | None, message: str) -> None:
        """Answer a call that is not taken."""
        assert self.id is not None
        headers = {":status": str(http), "content-type": "application/grpc"}
        if status is not None:
            headers |= {"grpc-status": str(status.value), "grpc-message": encode_grpc_message(message)}
        self._h2_connection.send_headers(self.id, [*headers.items(), *self._reason(headers)], end_stream=True)
        self.ended = True

    def _reason(self, headers: Mapping[str, str]) -> Headers:
        """What the service adds to a status, where the service has had no say."""
        status = Status(int(headers.get("grpc-status", "0")))
        if status is Status.OK or "fivewire-code" in headers:
            return []
        code = _CODES.get(status, "invalid_request")
        if self.wrapper is None:
            code = _CODES_OF_NO_CALL.get(status, "invalid_request")
        return list(pb.error_metadata(ChatError(code, "")).items()) if code else []

"""The server's end of HTTP/2 for gRPC: hostile peers, and leaving gracefully.

1. A peer has a budget of frames that cost work and bring nothing (PING, SETTINGS, RST_STREAM, empty DATA ...). It fills
   up with time, and with what the peer is sent: grpc-go answers each message with a PING and a WINDOW_UPDATE, while it
   measures the line. A peer that overdraws it gets GOAWAY with ENHANCE_YOUR_CALM.
2. A call beyond `MAX_CONCURRENT_STREAMS` is refused, the others live on. Calls count until their task has ended, so
   that a peer which opens and resets calls faster than they end runs into the limit, not into our memory.
3. grpclib leaves a call unanswered when its task is cancelled, and keeps it for ever when that happens before the
   task's first step. Therefore the end of the task, not grpclib, is what closes and releases a call.
4. Deadlines are kept here: grpclib takes one that is over when the call's task begins for a bug.
5. Leaving is in two steps (RFC 9113 section 6.8): a GOAWAY that refuses nothing asks the peer to come no more; when the
   last call has ended, the final GOAWAY names it, and the connection closes. No call falls between.
"""

import asyncio
import contextlib
import logging
import re
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import grpclib.server
from grpclib.const import Status
from grpclib.events import _DispatchServerEvents
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_timeout
from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.events import Event as H2Event
from h2.exceptions import DenialOfServiceError
from hyperframe.frame import DataFrame, Frame, HeadersFrame, WindowUpdateFrame

from proto.grpc_stream import Codec, Headers
from proto.h2 import (
    DEFAULT_WINDOW_BYTES,
    H2,
    LINGER_SECONDS,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_BYTES,
    MAX_STREAM_ID,
    Connection,
    Protocol,
)
from server.call import UNUSED_EVENT, ServerStream
from server.direct import DirectWriter
from server.outflow import Outflow

if TYPE_CHECKING:
    from grpclib._typing import IServable

BUDGET_FRAMES = 2000.0
BUDGET_FRAMES_PER_SECOND = 200.0
BUDGET_BYTES_SENT = 32  # of messages, for one frame more; the shortest message that there is, a PONG, has 41
BUDGET_FRAMES_PER_ANSWER = 2  # more, however short its message
WINDOW_UPDATE_COST = 0.1  # a fast reader sends many of them in good faith
MAX_BUFFERED_BYTES = 4 * 2**20  # for the socket; more is what comes of replies that are not read
PREFACE_SECONDS = 10.0
IDLE_SECONDS = 600.0
LAST_CALL_SECONDS = 0.1  # for calls that a peer has made before it heard that it should not

ENTRY_BYTES = 32  # that a header counts for, besides its own (RFC 9113 section 6.5.2)

# Of a call's headers, those that mean something here.
_USED = {":method", ":path", "te", "content-type", "grpc-encoding", "grpc-accept-encoding"}
_TIMEOUT = re.compile(r"[0-9]{1,8}[HMSmun]")
log = logging.getLogger(__name__)


class ServerConnection(Connection):
    h2: "ServerH2"
    stream_class = ServerStream

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.stream_close_waiter = UNUSED_EVENT  # which only a client waits for
        self.direct = DirectWriter(self._transport)

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self.direct.write(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.direct.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.direct.resume()

    def close(self) -> None:
        """Also by a peer that answers no ping: its calls live on until the connection is gone, and say things."""
        super().close()
        self.direct.lost()

    def lost(self) -> None:
        super().lost()
        self.direct.lost()


class ServerH2(H2):
    """Counts what costs, and knows who has taken room out of the windows in advance."""

    # A proxy that has not heard of our limit (Envoy lets 60 kB pass) sends calls of many clients by one connection:
    # those of the others are not to end with the one that has too much.
    max_decoded_header_bytes = 4 * MAX_HEADER_LIST_BYTES

    budget = BUDGET_FRAMES
    holder: Outflow | None = None
    _window: float = DEFAULT_WINDOW_BYTES  # of the connection, as far as its fall is in the budget

    def fill_budget(self, seconds: float) -> None:
        window = self.outbound_flow_control_window + (0.0 if self.holder is None else self.holder.room)
        more = seconds * BUDGET_FRAMES_PER_SECOND + (self._window - window) / BUDGET_BYTES_SENT
        self.budget = min(BUDGET_FRAMES, self.budget + more)
        self._window = window

    def reclaim(self) -> None:
        if self.holder is not None:
            self.holder.give_back()
            self.holder = None

    def local_flow_control_window(self, stream_id: int) -> int:
        self.reclaim()
        return super().local_flow_control_window(stream_id)

    def _receive_frame(self, frame: Frame) -> list[H2Event]:
        if isinstance(frame, WindowUpdateFrame):
            self.budget -= WINDOW_UPDATE_COST
            if not frame.stream_id:
                self._window += frame.window_increment
        elif not isinstance(frame, (DataFrame, HeadersFrame)) or (
            isinstance(frame, DataFrame) and not frame.data and "END_STREAM" not in frame.flags
        ):
            self.budget -= 1
        if self.budget < 0:
            raise DenialOfServiceError("Too many frames that bring nothing.")
        return super()._receive_frame(frame)


class ServerProtocol(Protocol):
    """One connection of a client."""

    handler: "Calls"
    connection: ServerConnection
    h2_class = ServerH2
    connection_class = ServerConnection

    def __init__(self, server: "GrpcServer") -> None:
        super().__init__(Calls(server, self), client_side=False)
        self._server = server
        self._draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport = cast(asyncio.Transport, transport)
        self._fed_at = self.idle_since = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(self._server.preface_seconds, self._watch)
        self._server.connections[self] = None

    def _watch(self) -> None:
        idle = 0.0 if self.processor.streams else time.monotonic() - self.idle_since
        if self.connection.is_closing():
            return
        if self.connection.h2.state_machine.state is ConnectionState.IDLE:
            self._transport.abort()  # not even the preface
        elif idle >= IDLE_SECONDS:
            self.bye()
        else:
            self._timer = asyncio.get_running_loop().call_later(max(1.0, IDLE_SECONDS - idle), self._watch)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self.connection.h2.fill_budget(now - self._fed_at)
        self._fed_at = now
        super().data_received(data)

    def fed(self, events: list[H2Event]) -> None:
        if self._transport.get_write_buffer_size() > MAX_BUFFERED_BYTES:
            log.info("A peer does not read what it asks for; its connection is dropped")
            self.bye(ErrorCodes.ENHANCE_YOUR_CALM)

    def pause_writing(self) -> None:
        super().pause_writing()
        for stream in tuple(self.processor.streams.values()):
            outflow = cast(ServerStream, stream).outflow
            if outflow is not None:
                outflow.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        # Not at once: asyncio calls from within its own write, and loses a connection twice that breaks meanwhile.
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        for stream in self.processor.in_turn():
            if not self.connection.write_ready.is_set():
                break
            outflow = cast(ServerStream, stream).outflow
            if outflow is not None:
                outflow.opened()

    def drain(self) -> None:
        """Ask the peer to come no more, and leave when its calls have ended, also those that are on the way."""
        self._draining = True
        self.connection.goaway(ErrorCodes.NO_ERROR, MAX_STREAM_ID)
        self._leave_soon()

    def _leave_soon(self) -> None:
        asyncio.get_running_loop().call_later(LAST_CALL_SECONDS, self._leave)

    def _leave(self) -> None:
        if self.processor.streams:
            return
        if self.connection.direct.held():  # of the last answer, which a slow peer has yet to take
            self._leave_soon()
        else:
            self.bye()

    def call_ended(self) -> None:
        if not self.processor.streams:
            self.idle_since = time.monotonic()
            if self._draining:
                self._leave_soon()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)
        self._server.lost(self)


class Calls(grpclib.server.Handler):
    """The calls of one connection."""

    def __init__(self, server: "GrpcServer", protocol: ServerProtocol) -> None:
        super().__init__(server.mapping, server.codec, None, server.dispatch)
        self._protocol = protocol
        self._headers: Headers = []  # of the last call that was accepted, and what they come to
        self._used: Headers = []
        self._seconds: float | None = None

    @property
    def tasks(self) -> set["asyncio.Task[None]"]:
        return {*self._tasks.values(), *self._cancelled}

    def accept(self, stream: Any, headers: Headers, release_stream: Callable[[], Any]) -> None:
        if len(self._protocol.processor.streams) > MAX_CONCURRENT_STREAMS:
            stream.connection.h2.budget -= 1
            return self._refuse(stream, release_stream, ErrorCodes.REFUSED_STREAM)
        if headers is not self._headers:  # the same list comes as long as the peer sends the same
            names = {name for name, _ in headers}
            if ":method" not in names or ":path" not in names:
                return self._refuse(stream, release_stream, ErrorCodes.PROTOCOL_ERROR)
            if sum(len(name) + len(value) + ENTRY_BYTES for name, value in headers) > MAX_HEADER_LIST_BYTES:
                stream.connection.h2.budget -= 1
                stream.refuse(Status.RESOURCE_EXHAUSTED, f"A call may have {MAX_HEADER_LIST_BYTES} bytes of headers.")
                return self._refuse(stream, release_stream, ErrorCodes.NO_ERROR)
            problem = _bad_header(headers)
            if problem:
                stream.refuse(Status.INVALID_ARGUMENT, problem)
                return self._refuse(stream, release_stream, ErrorCodes.NO_ERROR)
            timeouts = [decode_timeout(value) for name, value in headers if name == "grpc-timeout"]
            self._seconds = min(timeouts, default=None)
            self._used = [(name, _plain(name, value)) for name, value in headers if name in _USED]
            self._headers = headers
        if self._seconds is not None:
            stream.deadline = self.loop.call_later(self._seconds, _time_is_up, stream)
        stream.headers = self._used  # grpclib holds on to them as long as the call lasts
        super().accept(stream, stream.headers, release_stream)
        self._tasks[stream].add_done_callback(partial(self._ended, stream, release_stream))
        return None

    def _refuse(self, stream: ServerStream, release: Callable[[], Any], code: ErrorCodes) -> None:
        if stream.closable:
            stream.reset_nowait(code)
        release()

    def _ended(self, stream: ServerStream, release: Callable[[], Any], task: "asyncio.Task[None]") -> None:
        self._tasks.pop(stream, None)
        self._cancelled.discard(task)
        if stream.deadline is not None:
            stream.deadline.cancel()
        if stream.closable:
            stream.reset_nowait(ErrorCodes.NO_ERROR if stream.ended else ErrorCodes.CANCEL)
        if stream.outflow is not None:
            stream.outflow.close()
        if stream.ended:
            stream.connection.h2.budget += BUDGET_FRAMES_PER_ANSWER
        release()
        self._protocol.call_ended()

    def cancel(self, stream: Any) -> None:
        if stream in self._tasks:
            super().cancel(stream)


def _time_is_up(stream: ServerStream, seconds: float = 0.001) -> None:
    """End the call; where its task has not got as far as to let itself be ended, look again, less and less often: it
    may answer by itself, and have to wait until the peer reads."""
    if stream.wrapper is None:
        stream.deadline = asyncio.get_running_loop().call_later(seconds, _time_is_up, stream, 2 * seconds)
    else:
        stream.wrapper.cancel(GRPCError(Status.DEADLINE_EXCEEDED, "The time of the call is up."))


def _plain(name: str, value: str) -> str:
    """A header as grpclib knows it: a content type without the parameters that gRPC's own servers pass over, too."""
    return value.partition(";")[0].rstrip() if name == "content-type" else value


def _bad_header(headers: Headers) -> str | None:
    """What grpclib would stumble over, and leave the call without an answer."""
    for name, value in headers:
        if name == "grpc-timeout" and not _TIMEOUT.fullmatch(value):
            return "grpc-timeout must be up to 8 digits and a unit."
        if name.endswith("-bin"):
            try:
                for part in map(str.strip, value.split(",")):  # those of one name may come joined
                    b64decode(part + "=" * (-len(part) % 4), validate=True)
            except (Base64Error, ValueError):
                return "A -bin header is not base64."
    return None


class GrpcServer:
    """The services, and the connections that use them. A listener makes the connections with `protocol`."""

    preface_seconds = PREFACE_SECONDS

    def __init__(self, services: Collection["IServable"]) -> None:
        self.mapping = {path: method for service in services for path, method in service.__mapping__().items()}
        self.codec = Codec(Status.INVALID_ARGUMENT)
        self.dispatch = _DispatchServerEvents()
        self.connections: dict[ServerProtocol, None] = {}
        self._none_left = asyncio.Event()

    def protocol(self) -> asyncio.Protocol:
        return ServerProtocol(self)

    def lost(self, connection: ServerProtocol) -> None:
        self.connections.pop(connection, None)
        if not self.connections:
            self._none_left.set()

    def drain(self) -> None:
        """Ask every client to come no more on its connection."""
        for connection in tuple(self.connections):
            connection.drain()

    async def stop(self, seconds: float) -> None:
        """Let the calls in flight end, for so long, then end what is left."""
        await self._until_none_left(seconds)
        tasks = {task for connection in self.connections for task in connection.handler.tasks}
        for connection in tuple(self.connections):
            connection.bye()
        if tasks:
            await asyncio.wait(tasks, timeout=2 * LINGER_SECONDS)
        await self._until_none_left(2 * LINGER_SECONDS)

    async def _until_none_left(self, seconds: float) -> None:
        self._none_left.clear()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._none_left.wait()

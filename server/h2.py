"""The server's end of HTTP/2 for gRPC: hostile peers, and leaving gracefully.

1. A peer has a budget of frames that cost work and bring nothing (PING, SETTINGS, RST_STREAM, empty DATA ...). It fills
   up with time, and with what the peer is sent: grpc-go answers each message with a PING and a WINDOW_UPDATE, while it
   measures the line. A peer that overdraws it gets GOAWAY with ENHANCE_YOUR_CALM.
2. What its calls are and come to is in `server.calls`.
3. Leaving is in two steps (RFC 9113 section 6.8): a GOAWAY that refuses nothing asks the peer to come no more; when the
   last call has ended, the final GOAWAY names it, and the connection closes. No call falls between.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

from grpclib.const import Status
from grpclib.events import _DispatchServerEvents
from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.events import Event as H2Event
from h2.exceptions import DenialOfServiceError
from hyperframe.frame import DataFrame, Frame, HeadersFrame, WindowUpdateFrame

from proto.grpc_stream import Codec
from proto.h2 import (
    DEFAULT_WINDOW_BYTES,
    H2,
    LINGER_SECONDS,
    MAX_HEADER_LIST_BYTES,
    MAX_STREAM_ID,
    Connection,
    Protocol,
)
from server.call import UNUSED_EVENT, ServerStream
from server.calls import Calls
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

    def answered(self) -> None:
        self.budget += BUDGET_FRAMES_PER_ANSWER

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

    handler: Calls
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
        self.handler.begin()
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

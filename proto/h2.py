"""HTTP/2 connections for gRPC, at both ends: what grpclib 0.4.9 and h2 lack, added by subclassing.

1. Unknown frames and events are ignored, as RFC 9113 section 5.5 demands: grpclib dies on them.
2. GOAWAY without an error lets the calls in flight finish: grpclib drops them, even those that are complete.
3. A protocol error is answered by GOAWAY with its code: grpclib just closes.
4. A connection that ends lingers: it is half-closed, what the peer still sends is thrown away for a moment, then it is
   aborted. Closed at once, the kernel would answer unread input with a reset, and the GOAWAY would never arrive.
5. A stream's window is far smaller than its connection's, so that one stalled stream does not stall all of them.
6. Header lists, header tables, frames and what is remembered of ended calls are bounded, tighter than h2 does it.

This relies on private names of grpclib, hence the upper bound on its version in setup.cfg, and of h2, which comes with
it: the tests say when they change.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

from grpclib import protocol
from grpclib.config import Configuration
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RemoteSettingsChanged, StreamReset, WindowUpdated
from h2.exceptions import FrameTooLargeError, ProtocolError
from h2.frame_buffer import CONTINUATION_BACKLOG
from h2.settings import ChangedSetting, SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame, WindowUpdateFrame

from proto.grpc_stream import SmallEvent, Stream
from proto.h2_frames import Config, Receiving

LINGER_SECONDS = 1.0
BITE_BYTES = 2**14  # read so much at once, so that abuse is seen before it has cost much
CONNECTION_WINDOW_BYTES = 2**24
STREAM_WINDOW_BYTES = 2**18
DEFAULT_WINDOW_BYTES = 2**16 - 1
OWED_BYTES = 2**16
MAX_HEADER_LIST_BYTES = 2**14
MAX_HEADER_TABLE_BYTES = 4096
MAX_CONCURRENT_STREAMS = 100
MAX_STREAM_ID = 2**31 - 1

CONFIG = Configuration(
    http2_connection_window_size=CONNECTION_WINDOW_BYTES,
    http2_stream_window_size=STREAM_WINDOW_BYTES,
    _keepalive_time=30.0,
    _keepalive_timeout=10.0,
    _keepalive_permit_without_calls=True,
    _http2_max_pings_without_data=0,  # 0: as many as it takes
    _http2_min_sent_ping_interval_without_data=1.0,
)

log = logging.getLogger(__name__)


class Connection(protocol.Connection):
    """A connection that makes our streams, says GOAWAY, and lingers."""

    stream_class: type[Stream] = Stream
    _owed = 0
    _lingering: asyncio.TimerHandle | None = None

    def __init__(self, h2: "H2", *args: Any, **options: Any) -> None:
        super().__init__(h2, *args, **options)
        self.h2 = h2
        self.write_ready = SmallEvent()
        self.write_ready.set()

    def create_stream(self, *, stream_id: int | None = None, wrapper: Any = None) -> Stream:
        return self.stream_class(self, self._connection, self._transport, stream_id=stream_id, wrapper=wrapper)

    def ack(self, stream_id: int, size: int) -> None:
        if not self.is_closing():  # what is buffered may still be read when the connection has gone
            super().ack(stream_id, size)

    def owe(self, size: int) -> None:
        """What has come of a call that is over took room in the connection's window, which is given back now and then:
        for each call that would take a sixtieth of its instructions."""
        self._owed += size
        if self._owed >= OWED_BYTES and not self.is_closing():
            self.h2.acknowledge(self._owed)
            self._owed = 0
            self.flush()

    def goaway(self, code: ErrorCodes, last_stream_id: int) -> None:
        # Not by h2, for which a connection that has said GOAWAY is closed.
        if not self.is_closing():
            frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=code)
            self._transport.write(frame.serialize())

    def close(self) -> None:
        transport: asyncio.Transport | None = self.__dict__.pop("_transport", None)
        if transport is None:
            return
        for timer in (self._ping_handle, self._close_by_ping_handler):
            if timer is not None:
                timer.cancel()
        if not transport.is_closing():
            if transport.can_write_eof():
                with contextlib.suppress(OSError):  # the peer was faster
                    transport.write_eof()
            else:
                transport.close()  # TLS has no half-close
            self._lingering = asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)

    def lost(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()


class Events(protocol.EventsProcessor):
    """What h2's events mean; those that mean nothing here are passed over."""

    connection: Connection
    leaving = False  # the peer takes no more calls: GOAWAY came
    closed = False

    def __init__(self, handler: protocol.AbstractHandler, connection: Connection) -> None:
        super().__init__(handler, connection)
        self.processors = {}  # a table of its own for every connection is 1.5 kB, and a cycle

    def process(self, event: Event) -> None:
        name = _PROCESSORS.get(event.__class__)
        if name is not None and not self.closed:
            getattr(self, name)(event)

    def register(self, stream: protocol.Stream) -> Callable[[], None]:
        stream_id = cast(int, stream.id)
        self.streams[stream_id] = stream

        def release() -> None:
            del self.streams[stream_id]
            self.connection.stream_close_waiter.set()
            self.connection.owe(cast(Stream, stream).buffer.unacked_size())
            self.released()

        return release

    def released(self) -> None:
        """A call has ended."""
        if self.leaving and not self.streams:
            self.close()

    def process_stream_reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream_id or 0)
        client = self.connection.h2.config.client_side
        whole = stream is not None and cast(Stream, stream).buffer.ended
        if client and whole and event.error_code == ErrorCodes.NO_ERROR:
            return  # the answer is whole, and may still have to be read (RFC 9113 section 8.1): grpclib throws it away
        super().process_stream_reset(event)

    def process_window_updated(self, event: WindowUpdated) -> None:
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                cast(Stream, stream).window_opened()
        else:
            self.windows_opened()

    def process_remote_settings_changed(self, event: RemoteSettingsChanged) -> None:
        h2 = self.connection.h2
        h2.reclaim()  # what was taken in advance may be more than a frame may now have
        encoder = h2.encoder
        if encoder.table_size_changes:
            # A peer may offer 4 GiB, again and again. Nobody has to use it, and of all the changes only the least and
            # the last need be told (RFC 7541 section 4.2).
            encoder.header_table_size = min(encoder.header_table_size, MAX_HEADER_TABLE_BYTES)
            last = encoder.header_table_size
            least = min(last, *encoder.table_size_changes)
            encoder.table_size_changes = [least, last] if least < last else [last]
            encoder.header_table.resized = True  # else hpack tells nothing: the last of its values was no change
        if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
            self.windows_opened()

    def windows_opened(self) -> None:
        h2 = self.connection.h2
        h2.reclaim()
        for stream in self.in_turn() if not self.closed and h2.outbound_flow_control_window > 0 else ():
            if stream.window_opened():
                asyncio.get_running_loop().call_soon(self.windows_opened)  # for the others, when that task has gone on
                break
            h2.reclaim()
            if h2.outbound_flow_control_window <= 0:
                break

    def in_turn(self) -> Iterator[Stream]:
        """The calls, those first that were not reached the last time: the first ones may take all the room there is."""
        for stream_id, stream in tuple(self.streams.items()):
            if self.streams.get(stream_id) is stream:
                self.streams[stream_id] = self.streams.pop(stream_id)
                yield cast(Stream, stream)

    def process_connection_terminated(self, event: ConnectionTerminated) -> None:
        self.leaving = True
        if event.error_code or not self.streams:
            super().process_connection_terminated(event)
            return
        if self.connection.h2.config.client_side:
            cast(Any, self.handler).connection_lost = True  # new calls get a new connection
            for stream_id, stream in tuple(self.streams.items()):
                if stream_id > (event.last_stream_id or 0):
                    stream.__terminated__("The server is going away, and has not looked at this call.")

    def close(self, reason: str = "Connection closed") -> None:
        self.connection.close()
        self.handler.close()
        client = self.connection.h2.config.client_side
        for stream in tuple(self.streams.values()):
            if not (client and cast(Stream, stream).buffer.ended):  # a call that has had its answer has not failed
                stream.__terminated__(reason)
        self.closed = True


_PROCESSORS = {
    kind: process.__name__
    for kind, process in protocol.EventsProcessor(cast(Any, None), cast(Any, None)).processors.items()
}


class SmallSettings(Settings):
    """Settings of the known kinds only: h2 keeps whatever a peer makes up, 65,536 of them. It keeps the values of each
    in a deque, the smallest of which takes 760 bytes; here is the present value, and the one that waits to be
    acknowledged."""

    def __init__(self, client: bool, initial_values: dict[SettingCodes, int] | None = None) -> None:
        super().__init__(client, initial_values)
        self._settings: Any = {code: values[0] for code, values in self._settings.items()}
        self._next: dict[SettingCodes | int, int] = {}

    def __getitem__(self, code: SettingCodes | int) -> int:
        value: int = self._settings[code]
        return value

    def __setitem__(self, code: SettingCodes | int, value: int) -> None:
        if code in _KNOWN_SETTINGS:
            self.validate_received_setting(code, value)
            self._next[code] = value

    def acknowledge(self) -> dict[SettingCodes | int, ChangedSetting]:
        changes = {code: ChangedSetting(code, self._settings.get(code), value) for code, value in self._next.items()}
        self._settings.update(self._next)
        self._next = {}
        return changes


_KNOWN_SETTINGS = frozenset(SettingCodes)


class _Entries(list[tuple[bytes, bytes]]):
    """The entries of a header table, of which there are few. hpack has a deque."""

    __slots__ = ()

    def appendleft(self, entry: tuple[bytes, bytes]) -> None:
        self.insert(0, entry)


class H2(Receiving):
    """h2, with less memory and more patience."""

    MAX_CLOSED_STREAMS = 1000  # remembered per connection; h2 has 65,536
    max_decoded_header_bytes = MAX_HEADER_LIST_BYTES  # more ends the connection
    DEFAULT_MAX_HEADER_LIST_SIZE = MAX_HEADER_LIST_BYTES

    _forget_at = 64

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            SettingCodes.ENABLE_PUSH: 0,
        }
        self.local_settings = SmallSettings(config.client_side, settings)
        self.remote_settings = SmallSettings(not config.client_side)
        self.decoder.max_header_list_size = self.max_decoded_header_bytes
        for coder in (self.encoder, self.decoder):
            cast(Any, coder.header_table).dynamic_entries = _Entries()

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        if frame.error_code:
            return super()._receive_goaway_frame(frame)
        # For h2 the connection would be closed now, though more may be behind it in the same packet.
        event = ConnectionTerminated()
        event.error_code = ErrorCodes.NO_ERROR
        event.last_stream_id = frame.last_stream_id
        return [], [event]

    def acknowledge(self, size: int) -> None:
        """Give back so much room of the connection's window, whose calls are over."""
        increment = self._inbound_flow_control_window_manager.process_bytes(size)
        if increment:
            self._prepare_for_sending([WindowUpdateFrame(0, window_increment=increment)])

    def reclaim(self) -> None:
        """Have the windows whole again, where a call has taken room out of them in advance."""

    @property
    def open_inbound_streams(self) -> int:
        # One stream too many ends the connection, if h2 may count: we refuse that one stream (RFC 9113 section 5.1.2).
        # Counting is also when h2 forgets the streams that have ended, each time looking at all of them; we do it
        # when they have doubled, or a flood of new streams costs its square.
        if len(self.streams) >= self._forget_at:
            self._forget_at = 64 + 2 * super().open_inbound_streams
        return 0


class Protocol(protocol.H2Protocol):
    """One connection of either end."""

    connection: Connection
    processor: Events
    h2_class: type[H2] = H2
    connection_class: type[Connection] = Connection
    events_class: type[Events] = Events

    def __init__(self, handler: protocol.AbstractHandler, client_side: bool) -> None:
        config = CONFIG.__for_client__() if client_side else CONFIG.__for_server__()
        super().__init__(handler, config, Config(client_side))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        h2 = self.h2_class(cast(Config, self.h2_config))
        h2.initiate_connection()
        h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)
        self.connection = self.connection_class(h2, cast(asyncio.Transport, transport), config=self.config)
        self.connection.flush()
        self.connection.initialize()
        self.processor = self.events_class(self.handler, self.connection)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), BITE_BYTES):
            if self.connection.is_closing():
                return
            try:
                events = self.connection.feed(data[start : start + BITE_BYTES])
                self._check_next_frame()
            except ProtocolError as error:
                self.fail(error)
                return
            self.connection.flush()
            for event in events:
                self.processor.process(event)
            if not self.connection.is_closing():
                self.connection.flush()
                self.fed(events)

    def _check_next_frame(self) -> None:
        """h2 refuses a frame that is too long, but only when it has all 16 MiB of it."""
        h2 = self.connection.h2
        rest = h2.incoming_buffer._data
        if len(rest) >= 3 and int.from_bytes(rest[:3]) > h2.max_inbound_frame_size:
            raise FrameTooLargeError("The next frame is too long.")

    def fed(self, events: list[Event]) -> None:
        """Something was received and dealt with."""

    def fail(self, error: ProtocolError) -> None:
        """The peer does not speak HTTP/2 as it should: say so, and go."""
        h2 = self.connection.h2
        log.debug("HTTP/2 protocol error: %s", error)
        endless = len(h2.incoming_buffer._headers_buffer) > CONTINUATION_BACKLOG
        self.bye(ErrorCodes.ENHANCE_YOUR_CALM if endless else error.error_code)

    def bye(self, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """GOAWAY, and the end of every call that is left."""
        self.connection.goaway(code, self.connection.h2.highest_inbound_stream_id)
        self.processor.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.connection.lost()
        super().connection_lost(exc)

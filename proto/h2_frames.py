"""Receiving HTTP/2 frames without what h2 and hyperframe do for every one of them and nobody here needs: a fifth of
a unary call's instructions.

1. A frame of a call is nearly always plain: HEADERS that are whole, DATA, neither padded nor with a priority. Such a
   one is made at once; every other is hyperframe's business.
2. h2 describes every frame, its bytes in hexadecimal, for a log that nobody keeps, and looks its settings up by way of
   descriptors in Python.
3. The headers of a call are nearly always those of the call before: what they mean is found out once.
"""

from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import StreamClosedError, StreamIDTooLowError
from h2.frame_buffer import FrameBuffer
from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame

HEAD_BYTES = 9
DATA, HEADERS = 0, 1
END_STREAM, END_HEADERS = 1, 4
_STREAM_ID = 2**31 - 1  # without the reserved bit


class PlainHeaders(HeadersFrame):
    """A whole block of headers."""

    def __init__(self, stream_id: int, flags: frozenset[str], data: bytes) -> None:
        self.stream_id, self.flags, self.data = stream_id, flags, data  # type: ignore[assignment]


class PlainData(DataFrame):
    """A piece of a message."""

    def __init__(self, stream_id: int, flags: frozenset[str], data: bytes) -> None:
        self.stream_id, self.flags, self.data = stream_id, flags, data  # type: ignore[assignment]

    @property
    def flow_controlled_length(self) -> int:
        return len(self.data)


_PLAIN: dict[tuple[int, int], tuple[type[PlainHeaders] | type[PlainData], frozenset[str]]] = {
    (HEADERS, END_HEADERS): (PlainHeaders, frozenset({"END_HEADERS"})),
    (HEADERS, END_HEADERS | END_STREAM): (PlainHeaders, frozenset({"END_HEADERS", "END_STREAM"})),
    (DATA, 0): (PlainData, frozenset()),
    (DATA, END_STREAM): (PlainData, frozenset({"END_STREAM"})),
}


class Frames(FrameBuffer):
    """The frames in what has come."""

    def __next__(self) -> Frame:
        data = self._data
        if len(data) >= HEAD_BYTES and not self._headers_buffer:
            plain = _PLAIN.get((data[3], data[4]))
            size = int.from_bytes(data[:3])
            end = HEAD_BYTES + size
            stream_id = int.from_bytes(data[5:HEAD_BYTES]) & _STREAM_ID
            if plain is not None and stream_id and size <= self.max_frame_size and end <= len(data):
                kind, flags = plain
                frame = kind(stream_id, flags, bytes(data[HEAD_BYTES:end]))
                del data[:end]
                return frame
        return super().__next__()


# One string each for all calls, where its value is usual.
_USUAL = {
    text.encode(): text
    for text in (
        ":method", "POST", ":scheme", "http", "https", ":path", ":authority", "te", "trailers", "content-type",
        "application/grpc", "application/grpc+proto", "grpc-encoding", "grpc-accept-encoding", "identity", "gzip",
        "identity,gzip", "user-agent", ":status", "200", "grpc-status", "0",
    )
}  # fmt: skip


def _text(raw: bytes) -> str:
    return _USUAL.get(raw) or raw.decode("latin-1")  # any byte; with ASCII an odd one would end the connection


class HeaderDecoder(Decoder):
    """Once a table has all the headers of a peer's calls, the next call's block is the same few bytes, and means what
    it meant the last time. hpack takes a third of a call's receipt to find that out."""

    texts: list[tuple[str, str]]  # what was decoded last; the same list as long as the same comes
    _block = b""
    _headers: list[Any]

    def decode(self, data: bytes, raw: bool = False) -> Any:
        if not data or data != self._block:
            self._headers = list(super().decode(data, raw))
            self.texts = [(_text(name), _text(value)) for name, value in self._headers]
            # Bytes above 0x80 are places in the table, one each; whatever has another may change the table.
            self._block = data if data and min(data) > 0x80 else b""
        return self._headers


class _Quiet:
    """A log that nobody keeps."""

    # Whatever it is given, `str.format` of an empty string does nothing, and in C.
    debug = trace = staticmethod("".format)


class Config(H2Configuration):
    """Plain attributes where h2 has descriptors."""

    client_side = False
    header_encoding = None  # `HeaderDecoder` has decoded them
    # An offence would end the connection; grpclib and we look at what we use.
    validate_inbound_headers = validate_outbound_headers = False
    normalize_inbound_headers = normalize_outbound_headers = split_outbound_cookies = False

    def __init__(self, client_side: bool) -> None:
        self.client_side = client_side
        self.logger: Any = _Quiet


class Receiving(H2Connection):
    """h2, with the above."""

    decoder: HeaderDecoder

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.decoder = HeaderDecoder()
        self.incoming_buffer = Frames(server=not config.client_side)
        for plain, kind in ((PlainHeaders, HeadersFrame), (PlainData, DataFrame)):
            self._frame_dispatch_table[plain] = self._frame_dispatch_table[kind]

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        frames, events = super()._receive_headers_frame(frame)
        received: Any = events[0]
        received.headers = self.decoder.texts
        return frames, events

    def _receive_frame(self, frame: Frame) -> list[Event]:
        events: list[Event]
        try:
            frames, events = self._frame_dispatch_table[frame.__class__](frame)
        except (StreamClosedError, StreamIDTooLowError) as error:
            if self._stream_is_closed_by_reset(error.stream_id):  # it has crossed the reset
                reset = RstStreamFrame(error.stream_id)
                reset.error_code = ErrorCodes.STREAM_CLOSED
                self._prepare_for_sending([reset])
                events = getattr(error, "_events", [])
                return events
            if isinstance(error, StreamIDTooLowError) and self._stream_is_closed_by_end(error.stream_id):
                raise StreamClosedError(error.stream_id) from error
            raise
        self._prepare_for_sending(frames)
        return events

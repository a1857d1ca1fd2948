"""Frames are received as h2 receives them: the same events, answers and refusals, whatever the frames look like."""

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from proto.h2_frames import Config, PlainData, PlainHeaders, Receiving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
FIELDS = [(":method", "POST"), (":path", "/chat.ChatService/Chat"), (":scheme", "http"), ("te", "trailers")]
BLOCK = Encoder().encode(FIELDS)


def frame(kind, stream, flags=(), **values) -> bytes:
    made: Frame = kind(stream, flags=flags)
    for name, value in values.items():
        setattr(made, name, value)
    return made.serialize()


def headers(stream, *flags, data=BLOCK, **values) -> bytes:
    return frame(HeadersFrame, stream, ("END_HEADERS", *flags), data=data, **values)


def data(stream, *flags, of=b"hello", **values) -> bytes:
    return frame(DataFrame, stream, flags, data=of, **values)


UNKNOWN = b"\x00\x00\x03\xbb\x00\x00\x00\x00\x01abc"
RESERVED = bytearray(data(1))
RESERVED[5] |= 0x80
CONVERSATIONS = {
    "a call": headers(1) + data(1, "END_STREAM"),
    "a call without a message": headers(1, "END_STREAM"),
    "many messages": headers(1) + 5 * data(1) + data(1, of=b"") + data(1, "END_STREAM", of=b""),
    "two calls in turns": headers(1) + headers(3) + data(3) + data(1, "END_STREAM") + data(3, "END_STREAM"),
    "padded": headers(1, "PADDED", pad_length=7) + data(1, "PADDED", "END_STREAM", pad_length=9),
    "with a priority": headers(1, "PRIORITY", depends_on=0, stream_weight=9, exclusive=False) + frame(PriorityFrame, 1),
    "torn headers": (
        frame(HeadersFrame, 1, data=BLOCK[:9])
        + frame(ContinuationFrame, 1, ("END_HEADERS",), data=BLOCK[9:])
        + data(1, "END_STREAM")
    ),
    "a plain frame amid torn headers": frame(HeadersFrame, 1, data=BLOCK[:9]) + data(1),
    "control frames between": (
        headers(1)
        + frame(PingFrame, 0, opaque_data=b"12345678")
        + frame(WindowUpdateFrame, 0, window_increment=5)
        + data(1)
        + frame(WindowUpdateFrame, 1, window_increment=5)
        + frame(RstStreamFrame, 1)
    ),
    "an unknown frame, a reserved bit": headers(1) + UNKNOWN + bytes(RESERVED),
    "GOAWAY": headers(1) + frame(GoAwayFrame, 0),
    "data before headers": data(1),
    "data on no stream": headers(1) + b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x",
    "data after the end": headers(1, "END_STREAM") + data(1),
    "data after a reset": headers(1) + frame(RstStreamFrame, 1) + data(1),
    "a stream that is too low": headers(3) + headers(1),
    "headers of a stream that has ended": headers(1, "END_STREAM") + headers(1),
    "a frame that is too long": headers(1) + data(1, of=bytes(2**14 + 1)),
    "more than the window": headers(1) + b"".join(data(1, of=bytes(2**14)) for _ in range(5)),
    "no headers": headers(1, data=b"\xff\xff\xff"),
}


def of_h2():
    return H2Connection(
        H2Configuration(
            client_side=False, header_encoding="latin-1", validate_inbound_headers=False,
            validate_outbound_headers=False, normalize_inbound_headers=False, normalize_outbound_headers=False,
        )
    )  # fmt: skip


def told(connection, pieces):
    """What comes of it: the kinds of events with their fields, and the refusal, if there is one."""
    events, refusal = [], ""
    try:
        for piece in pieces:
            events += connection.receive_data(piece)
    except ProtocolError as error:
        refusal = f"{type(error).__name__} {error.error_code!r}"
    # Copies: in Python 3.13.0 the fields of an event may be those that it began with, once it is gone.
    fields = [dict(vars(event)) if hasattr(event, "__dict__") else repr(event) for event in events]
    return list(zip(map(type, events), fields, strict=True)), refusal


def plain(events):
    """Without what differs from object to object."""
    return [
        (
            kind,
            {name: value for name, value in fields.items() if isinstance(value, (str, bytes, int, list, type(None)))},
        )
        if isinstance(fields, dict)
        else (kind, fields)
        for kind, fields in events
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_comes_of_frames_is_what_comes_of_them_in_h2(name, size):
    stock = of_h2()
    ours = Receiving(Config(client_side=False))
    raw = PREFACE + CONVERSATIONS[name]
    pieces = [raw[place : place + size] for place in range(0, len(raw), size)]
    expected, refusal = told(stock, pieces)
    events, refused = told(ours, pieces)
    assert plain(events) == plain(expected)
    assert refused == refusal
    assert ours.data_to_send() == stock.data_to_send()


def test_frames_that_cross_our_reset_are_answered_as_h2_does():
    stock, ours = of_h2(), Receiving(Config(client_side=False))
    for connection in (stock, ours):
        connection.receive_data(PREFACE + headers(1))
        connection.reset_stream(1)
        connection.data_to_send()
        connection.receive_data(data(1) + headers(1, "END_STREAM"))
    sent = ours.data_to_send()
    assert sent == stock.data_to_send() and sent


def test_the_usual_frames_are_plain_and_the_others_are_not():
    connection = Receiving(Config(client_side=False))
    connection.receive_data(PREFACE)
    frames = connection.incoming_buffer
    usual, others = headers(1) + data(1) + data(1, "END_STREAM"), data(1, "PADDED", pad_length=1) + frame(PingFrame, 0)
    frames.add_data(usual + others)
    assert [type(one) for one in frames] == [PlainHeaders, PlainData, PlainData, DataFrame, PingFrame]

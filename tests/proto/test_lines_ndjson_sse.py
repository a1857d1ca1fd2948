"""Line codecs: each row is fed whole, in pieces of 1, 2, 3 and 7 bytes, and with trailing data."""

import time

import pytest

from proto import ndjson, sse
from proto.errors import ProtocolError
from proto.events import Chunk, Complete, Error, Heartbeat, SessionInfo, Status, Usage

NOW = "2026-01-02T03:04:05.000006+00:00"
NASTY = 'line\nfeed\r\n "quoted" \\ tab\t nul\0 \u2028\u2029\x85 grüße 🌊'
EVENTS = [
    SessionInfo("s", "demo", NOW, "t", 1, True, NASTY),
    Status("Generating response...", 3, 0, "t", 2),
    Chunk(NASTY, 1, False, NOW, "t", 3),
    Chunk("", 2, True, NOW, "t", 4),
    Complete(2, 0.5, 2, "s", NOW, "t", 5, "stop", Usage(1, 2, True), None, "ab"),
    Complete(2, 0.5, 2, "s", NOW, "t", 5, "stop", Usage(1, 2, False, 0.25), 0.1, "ab"),
    Error("it broke", "s", "t", 5, "model_error", True, NOW),
]


def pieces(data, size):
    return [data[i : i + size] for i in range(0, len(data), size)] if size else [data]


SIZES = pytest.mark.parametrize("size", [0, 1, 2, 3, 7])


@SIZES
def test_ndjson_round_trip(size):
    data = b"".join(ndjson.encode(event) for event in [*EVENTS, Heartbeat(NOW)])
    decoder = ndjson.Decoder()
    decoded = [event for piece in pieces(data + b'{"type":"chu', size) for event in decoder.feed(piece)]
    assert decoded == [*EVENTS, Heartbeat(NOW)]


@SIZES
def test_sse_round_trip(size):
    data = sse.RETRY + b"".join(sse.encode(event) + sse.KEEP_ALIVE for event in EVENTS)
    decoder = sse.Decoder()
    frames = [frame for piece in pieces(data + b"data: cut off\n", size) for frame in decoder.feed(piece)]
    assert [sse.event_of(frame) for frame in frames] == EVENTS
    assert [frame.id for frame in frames] == [f"t:{event.seq}" for event in EVENTS]
    assert decoder.retry == 1000


def test_our_sse_frame_to_the_byte():
    assert sse.encode(EVENTS[3]) == (
        b'id: t:4\ndata: {"type":"chunk","text":"","chunk_number":2,"is_final":true,'
        b'"timestamp":"2026-01-02T03:04:05.000006+00:00","turn_id":"t","seq":4}\n\n'
    )


@SIZES
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"data: a\n\n", [sse.Frame("a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [sse.Frame("a")]),
        (b"data: a\r\n\r\n", [sse.Frame("a")]),
        (b"data: a\r\rdata: b\r\r", [sse.Frame("a"), sse.Frame("b")]),
        (b"data: a\ndata: b\ndata\n\n", [sse.Frame("a\nb\n")]),
        (b"data:a\ndata:  b\n\n", [sse.Frame("a\n b")]),
        (
            b"event: x\nid: 7\nretry: 20\ndata: a\n\ndata: b\n\n",
            [sse.Frame("a", "x", "7", 20), sse.Frame("b", "", "7")],
        ),
        (b": comment\nunknown: x\nevent: lost\n\ndata: a\n\n", [sse.Frame("a")]),
        (b"id: a\0b\nretry: 1x\ndata: a\n\n", [sse.Frame("a")]),
        ("data: a\u2028b\x85c\n\n".encode(), [sse.Frame("a\u2028b\x85c")]),
        (b"data: no end\n", []),
    ],
)
def test_sse_frames_of_any_server(text, expected, size):
    decoder = sse.Decoder()
    assert [frame for piece in pieces(text, size) for frame in decoder.feed(piece)] == expected


@pytest.mark.parametrize("line", [b"{\n", b"[]\n", b"1\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_bad_lines_are_refused(line):
    with pytest.raises(ProtocolError):
        ndjson.Decoder().feed(line)


def test_unknown_types_and_fields_are_ignored():
    assert ndjson.Decoder().feed(b'{"type":"new"}\n{"type":"heartbeat","timestamp":"x","more":1}\n') == [Heartbeat("x")]


def test_a_long_line_takes_linear_time_and_is_bounded():
    decoder = ndjson.Decoder(max_line_bytes=1_000_000)
    with pytest.raises(ProtocolError):
        for _ in range(1000):
            decoder.feed(b"x" * 1001)


def test_a_long_line_is_read_in_linear_time():
    def seconds(size):
        line = ndjson.encode(Chunk("x" * size, 1, True, NOW, "t", 3))
        decoder, started = ndjson.Decoder(), time.process_time()
        events = [event for piece in pieces(line, 512) for event in decoder.feed(piece)]
        assert len(events[0].text) == size
        return time.process_time() - started

    assert seconds(4_000_000) < 60 * max(seconds(400_000), 0.001)  # a naive search takes 100 times as long, and more

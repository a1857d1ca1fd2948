"""gRPC-Web's frames: each row is fed whole, in pieces of 1, 2, 3 and 7 bytes, and with trailing data."""

import base64

import pytest

from proto import chat_pb2, events, grpc_web, pb, pb_json
from proto.errors import ChatError, ProtocolError
from proto.grpc_web import BINARY, JSON, TEXT, Decoder, Frame, frame, parse_trailers, trailers

NOW = "2026-01-02T03:04:05.000006+00:00"
NASTY = 'line\nfeed "quoted" \0 grüße 🌊'
PAYLOADS = [b"", b"a", b"ab", b"abc", bytes(range(256)) * 5]


def text_of(data):
    """As an encoder may do it: each frame padded on its own, or all in one."""
    return base64.b64encode(data)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("form", [BINARY, TEXT, JSON], ids=lambda form: form.name)
@pytest.mark.parametrize("together", [False, True])
def test_frames_come_out_as_they_went_in(form, size, together):
    parts = [frame(payload) for payload in PAYLOADS] + [trailers("OK")]
    if form.text:
        parts = [text_of(b"".join(parts))] if together else [text_of(part) for part in parts]
    data = b"".join(parts)
    decoder = Decoder(form)
    frames = []
    for start in range(0, len(data), size or len(data)):
        frames += decoder.feed(data[start : start + (size or len(data))])
    assert [frame.payload for frame in frames[:-1]] == PAYLOADS
    assert frames[-1].is_trailers and not decoder.torn
    assert decoder.feed(text_of(b"\0\0\0") if form.text else b"\0\0\0") == []
    assert decoder.torn


def test_trailers():
    data = trailers("NOT_FOUND", "no: 100 % grüße\r\n", {"fivewire-code": "not_found"})
    (only,) = Decoder(BINARY).feed(data)
    assert only.is_trailers and only.payload.count(b"\r\n") == 3 and only.payload.isascii()
    assert parse_trailers(only.payload) == {
        "grpc-status": "5",
        "grpc-message": "no: 100 % grüße\r\n",
        "fivewire-code": "not_found",
    }
    assert parse_trailers(b"Grpc-Status:0\r\n") == {"grpc-status": "0"}


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"", BINARY),
        (b"\0\0\0\0", BINARY),
        (frame(b"abc")[:-1], BINARY),
        (frame(b"abc") + b"x", BINARY),
        (frame(b"a") + frame(b"b"), BINARY),
        (trailers("OK"), BINARY),
        (frame(b"a", 1), BINARY),
        (b"\0\xff\xff\xff\xff", BINARY),
        (b"AAAA*AAA", TEXT),
        (b"====", TEXT),
        (text_of(frame(b"abcd"))[:-1], TEXT),
    ],
)
def test_a_body_that_is_not_one_message(body, form):
    with pytest.raises(ProtocolError):
        grpc_web.message(body, form)


def test_the_message_of_a_body():
    assert grpc_web.message(frame(b"abc"), BINARY) == b"abc"
    assert grpc_web.message(text_of(frame(b"abc")), TEXT) == b"abc"


@pytest.mark.parametrize(("header", "seconds"), [("1S", 1), ("250m", 0.25), ("00000010u", 1e-5), ("2H", 7200)])
def test_timeouts(header, seconds):
    assert grpc_web.seconds(header) == pytest.approx(seconds)


@pytest.mark.parametrize("header", ["", "S", "1", "-1S", "1s", "123456789S", "1 S", "１S"])
def test_a_timeout_that_is_none(header):
    with pytest.raises(ProtocolError):
        grpc_web.seconds(header)


USAGE = events.Usage(1, 2**40, True)
EVENTS = [
    events.SessionInfo("s", "demo", NOW, "t", 1, True, NASTY),
    events.Status("Generating response...", 3, 5, "t", 2),
    events.Chunk(NASTY, 1, False, NOW, "t", 3),
    events.Chunk("", 2, True, NOW, "t", 4),
    events.Complete(2, 0.5, 2, "s", NOW, "t", 5, "stop", USAGE, None, "ab"),
    events.Error("it broke", "s", "t", 5, "model_error", True, NOW),
]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_in_json_is_the_message(event):
    parsed = pb_json.parse_json(chat_pb2.ChatResponse, pb_json.event_json(event, "s").encode())
    assert parsed == pb.parse(chat_pb2.ChatResponse, pb.encode_event(event, "s"))
    assert pb_json.parse_json(chat_pb2.ChatResponse, pb_json.message_json(parsed).encode()) == parsed


def test_json_says_what_is_there_and_numbers_are_numbers():
    stats = chat_pb2.ServerStatsResponse(usage=chat_pb2.Usage(input_tokens=2**40))
    stats.transports["grpc"].requests = 5
    data = pb_json.message_json(stats)
    assert '"input_tokens":1099511627776' in data and '"total_requests":0' in data and "cost" not in data
    assert '"transports":{"grpc":{"requests":5,' in data
    assert pb_json.parse_json(chat_pb2.ServerStatsResponse, data.encode()) == stats


@pytest.mark.parametrize(
    "data",
    [
        b"[]", b"{", b'{"after": "x"}', b'{"after": 4294967296}', b'{"message": 5}', b"\xff",
        b'{"\\ud800": 1}', b'{"type": "\\ud800"}', b'{"message": "\\ud800"}',
    ],
)  # fmt: skip
def test_json_that_is_no_message(data):
    with pytest.raises((ProtocolError, ChatError)):
        pb_json.parse_json(chat_pb2.ChatRequest, data)


def test_unknown_fields_are_passed_over():
    assert pb_json.parse_json(chat_pb2.ChatRequest, b'{"message": "hi", "new": [1]}').message == "hi"


def test_a_frame_knows_its_kind():
    assert Frame(0x80, b"").is_trailers and not Frame(0, b"").is_trailers

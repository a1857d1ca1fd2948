"""The WebSocket codec: what each side says, in words, as JSON, and in frames."""

import json
import zlib
from typing import Any

import pytest

from proto import events
from proto.errors import ChatError, ProtocolError
from proto.events import Chunk, Complete, Error, SessionInfo, Status, Usage
from proto.requests import ChatRequest
from proto.websocket import (
    CLIENT,
    PING,
    SERVER,
    Cancel,
    Connected,
    Created,
    CreateSession,
    Joined,
    JoinSession,
    LeaveSession,
    Left,
    Ping,
    Pong,
    Refusal,
    Resume,
    ServerInfo,
    TypingStart,
    TypingStop,
    Update,
    decode_client,
    decode_server,
    encode,
    encode_event,
    frame,
    refusal,
)  # fmt: skip

NOW = "2026-11-21T10:00:00.000000+00:00"
INFO = SessionInfo("s", "demo", NOW, "t", 1, True, "Hi")
STATUS = Status(events.GENERATING, 1, 0, "t", 2)
CHUNK = Chunk('a "quoted"\n☃', 1, True, NOW, "t", 3)
COMPLETE = Complete(1, 0.5, 2, "s", NOW, "t", 4, "stop", Usage(1, 2, True), 0.25, "0" * 64)
ERROR = Error("It broke.", "s", "t", 4, "model_error", False, NOW)

CLIENT_MESSAGES = [
    (CreateSession(), {"type": "create_session"}),
    (CreateSession("demo?rate=0"), {"type": "create_session", "model_id": "demo?rate=0"}),
    (JoinSession("s"), {"type": "join_session", "session_id": "s"}),
    (LeaveSession(), {"type": "leave_session"}),
    (LeaveSession("s"), {"type": "leave_session", "session_id": "s"}),
    (ChatRequest("Hi"), {"type": "chat", "message": "Hi"}),
    (
        ChatRequest("Hi", "s", "demo", "key"),
        {"type": "chat", "message": "Hi", "session_id": "s", "model_id": "demo", "idempotency_key": "key"},
    ),
    (TypingStart(), {"type": "typing_start"}),
    (TypingStop("s"), {"type": "typing_stop", "session_id": "s"}),
    (Ping(), {"type": "ping"}),
    (Cancel("t"), {"type": "cancel", "turn_id": "t"}),
    (Resume("t", 7), {"type": "resume", "turn_id": "t", "after": 7}),
]
SERVER_MESSAGES = [
    Connected("c", "Welcome", ServerInfo("demo", "aiohttp", ["resume"]), NOW),
    Created("s", "demo", "c", NOW),
    Joined("s", "demo", 2, "c", NOW),
    Left("s", "c", NOW),
    Update("s", "user_typing", NOW, {"connection_id": "c", "typing": True}),
    Update("s", "session_cleared", NOW, {}),
    Pong(NOW),
    Refusal("invalid_request", "No.", False, NOW),
    Refusal("session_busy", "Wait.", True, NOW, "s", "t"),
]


@pytest.mark.parametrize(("word", "fields"), CLIENT_MESSAGES)
def test_a_client_message_is_its_fields_and_back(word: Any, fields: dict[str, Any]) -> None:
    assert json.loads(encode(word)) == fields
    assert decode_client(json.dumps(fields), 100) == word
    assert decode_client(json.dumps({**fields, "of_the_future": [1]}), 100) == word


def test_every_client_message_is_in_the_table() -> None:
    assert {type(word) for word, _ in CLIENT_MESSAGES} == set(CLIENT.values())


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("", "invalid_request", "not valid JSON"),
        ("{", "invalid_request", "not valid JSON"),
        ('{"type": NaN}', "invalid_request", "not valid JSON"),
        ("[" * 100, "invalid_request", "nested"),
        ('["ping"]', "invalid_request", "JSON object"),
        ("null", "invalid_request", "JSON object"),
        ("{}", "invalid_request", "'type'"),
        ('{"type": null}', "invalid_request", "'type'"),
        ('{"type": 1}', "invalid_request", "'type'"),
        ('{"type": ["ping"]}', "invalid_request", "'type'"),
        ('{"type": "connected"}', "invalid_request", "'type'"),
        ('{"type": "chat"}', "invalid_request", "'message' is missing"),
        ('{"type": "chat", "message": 1}', "invalid_request", "'message' must be a string"),
        ('{"type": "chat", "message": " "}', "invalid_request", "empty"),
        ('{"type": "chat", "message": "\\ud800"}', "invalid_request", "surrogate"),
        ('{"type": "chat", "message": "Hi", "session_id": ""}', "invalid_request", "session_id"),
        ('{"type": "chat", "message": "Hi", "idempotency_key": ""}', "invalid_request", "key"),
        ('{"type": "chat", "message": "%s"}' % ("x" * 101), "too_large", "101"),
        ('{"type": "join_session"}', "invalid_request", "'session_id' is missing"),
        ('{"type": "join_session", "session_id": null}', "invalid_request", "'session_id' is missing"),
        ('{"type": "join_session", "session_id": "../x"}', "invalid_request", "session_id"),
        ('{"type": "join_session", "session_id": 5}', "invalid_request", "must be a string"),
        ('{"type": "leave_session", "session_id": {}}', "invalid_request", "must be a string"),
        ('{"type": "typing_start", "session_id": "a b"}', "invalid_request", "session_id"),
        ('{"type": "create_session", "model_id": "a b"}', "invalid_request", "model_id"),
        ('{"type": "cancel"}', "invalid_request", "'turn_id' is missing"),
        ('{"type": "cancel", "turn_id": "?"}', "invalid_request", "turn_id"),
        ('{"type": "resume", "turn_id": "t"}', "invalid_request", "'after' is missing"),
        ('{"type": "resume", "turn_id": "t", "after": -1}', "invalid_request", "'after' must be"),
        ('{"type": "resume", "turn_id": "t", "after": 1.5}', "invalid_request", "'after' must be"),
        ('{"type": "resume", "turn_id": "t", "after": true}', "invalid_request", "'after' must be"),
        ('{"type": "resume", "after": 1}', "invalid_request", "'turn_id' is missing"),
    ],
)
def test_what_a_client_may_not_say(text: str, code: str, says: str) -> None:
    with pytest.raises(ChatError) as caught:
        decode_client(text, 100)
    assert caught.value.code == code
    assert says in caught.value.message


@pytest.mark.parametrize("word", SERVER_MESSAGES)
def test_a_server_message_is_its_fields_and_back(word: Any) -> None:
    text = encode(word)
    fields = json.loads(text)
    assert SERVER[fields["type"]] is type(word)
    assert fields["timestamp"] == NOW
    assert decode_server(text) == word
    assert decode_server(json.dumps({**fields, "of_the_future": [1]})) is not None


def test_the_fields_of_an_update_stand_in_the_message() -> None:
    fields = json.loads(encode(SERVER_MESSAGES[4]))
    assert fields == {
        "type": "session_update", "session_id": "s", "update_type": "user_typing", "timestamp": NOW,
        "connection_id": "c", "typing": True,
    }  # fmt: skip


def _sent(event: events.Event) -> list[dict[str, Any]]:
    return [json.loads(text) for text in encode_event(event, lambda: INFO, lambda: "the answer")]


def test_a_turn_opens_with_status_then_response_start() -> None:
    assert _sent(INFO) == []
    status, start = _sent(STATUS)
    assert status == {
        "type": "status", "message": "Generating response...", "context_messages": 1, "omitted_messages": 0,
        "turn_id": "t", "seq": 2, "timestamp": NOW,
    }  # fmt: skip
    assert start == {**json.loads(events.as_json(INFO)), "type": "response_start"}
    assert start["seq"] == 1


def test_events_as_messages_and_back() -> None:
    assert _sent(CHUNK) == [json.loads(events.as_json(CHUNK))]
    assert _sent(ERROR) == [json.loads(events.as_json(ERROR))]
    (complete,) = _sent(COMPLETE)
    told = json.loads(events.as_json(COMPLETE))
    assert complete == {**told, "type": "response_complete", "full_response": "the answer"}
    for event in (STATUS, CHUNK, COMPLETE, ERROR):
        texts = encode_event(event, lambda: INFO, lambda: "the answer")
        assert decode_server(texts[0]) == event
    assert decode_server(encode_event(STATUS, lambda: INFO, str)[1]) == INFO


def test_an_error_without_seq_is_no_event() -> None:
    answer = refusal(ChatError("session_busy", "Wait.", turn_id="t"), NOW, ChatRequest("Hi", "s"))
    assert answer == Refusal("session_busy", "Wait.", True, NOW, "s", "t")
    assert decode_server(encode(answer)) == answer
    assert refusal(ChatError("not_found", "No."), NOW, Resume("t", 1)).turn_id == "t"
    assert refusal(ChatError("not_found", "No."), NOW, None) == Refusal("not_found", "No.", False, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "1", '"pong"', '{"type": "pong"}', '{"type": "session_joined"}', "[" * 9999,
        '{"type": "pong", "timestamp": 5}', '{"type": "chunk", "text": null}', '{"type": "error", "seq": "4"}',
        '{"type": "error", "code": ["x"], "message": "no", "retryable": false, "timestamp": "now"}',
        '{"type": "error", "code": "x", "message": "no", "retryable": false, "timestamp": "now", "retry_after": "1"}',
        '{"type": "session_update", "session_id": [], "update_type": "user_typing", "timestamp": "now"}',
        '{"type": "session_update", "session_id": "s", "timestamp": "now"}',
        '{"type": "connected", "connection_id": "c", "message": "hi", "server_info": [], "timestamp": "now"}',
    ],
)  # fmt: skip
def test_what_a_server_may_not_say(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode_server(text)


@pytest.mark.parametrize("text", ["{}", '{"type": "of_the_future"}', '{"type": 5}', '{"type": ["chunk"]}'])
def test_types_that_a_client_does_not_know_are_ignored(text: str) -> None:
    assert decode_server(text) is None


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1023, 1024, 65535, 65536, 100_000])
def test_a_frame_says_its_length(size: int) -> None:
    payload = b"x" * size
    data = frame(payload)
    assert data[0] == 0x81
    if size < 126:
        length, head = data[1], 2
    elif size < 65536:
        length, head = int.from_bytes(data[2:4], "big"), 4
        assert data[1] == 126
    else:
        length, head = int.from_bytes(data[2:10], "big"), 10
        assert data[1] == 127
    assert length == size
    assert data[head:] == payload


def test_control_frames() -> None:
    assert frame(b"", opcode=PING) == b"\x89\x00"


@pytest.mark.parametrize("window_bits", range(9, 16))
def test_a_long_frame_is_deflated_from_a_fresh_window(window_bits: int) -> None:
    payload = json.dumps({"text": "The same words again and again. " * 3000, "n": list(range(2000))}).encode()
    first, second = frame(payload, window_bits), frame(payload, window_bits)
    assert first == second, "no memory of the frame before"
    assert first[0] == 0xC1, "RSV1 says that it is compressed"
    assert len(first) < len(payload) / 3
    head = 4 if first[1] == 126 else 10
    # As the peer would: one window for all messages, no larger than agreed on, the tail put back.
    inflate = zlib.decompressobj(-window_bits)
    for data in (first, second):
        assert inflate.decompress(data[head:] + b"\x00\x00\xff\xff") == payload


def test_a_short_frame_is_not_deflated() -> None:
    assert frame(b"x" * 1023, 15) == frame(b"x" * 1023)
    assert frame(b"x" * 1024, 15) != frame(b"x" * 1024)

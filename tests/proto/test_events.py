"""The JSON of words: what the standard library makes of the same fields, made faster."""

import json

import pytest

from proto.answers import SessionList, SessionSummary, TransportStats
from proto.errors import ProtocolError
from proto.events import (
    TYPES,
    Chunk,
    Complete,
    Error,
    Heartbeat,
    SessionInfo,
    Status,
    Usage,
    as_json,
    dumps,
    from_dict,
    tagged,
)  # fmt: skip

NOW = "2026-01-02T03:04:05.000006+00:00"
NASTY = 'line\nfeed\r\n "quoted" \\ tab\t nul\0 \u2028 \x7f grüße 🌊'
EVENTS = {
    "session_info": [SessionInfo("s", "demo", NOW, "t", 1, True, NASTY)],
    "status": [Status("Generating response...", 3, 0, "t", 2)],
    "chunk": [Chunk(NASTY, 1, False, NOW, "t", 3), Chunk("", 2, True, NOW, "t", 4)],
    "complete": [
        Complete(2, 1e-06, 2, "s", NOW, "t", 5, "stop", Usage(1, 2, True), None, "ab"),
        Complete(2, 0.5, 2, "s", NOW, "t", 5, "stop", Usage(1, 2**40, False, 0.25), 0.1, "ab"),
    ],
    "error": [Error("it broke", "s", "t", 5, "model_error", True, NOW)],
    "heartbeat": [Heartbeat(NOW)],
}


def standard(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fields(word):
    """What a word says: its fields, without those that are not set."""
    return {
        name: fields(value) if hasattr(value, "_fields") else value
        for name, value in word._asdict().items()
        if value is not None
    }


@pytest.mark.parametrize(("kind", "event"), [(kind, event) for kind in TYPES for event in EVENTS[kind]])
def test_an_event_as_json(kind, event):
    assert as_json(event) == tagged(kind, event) == standard({"type": kind, **fields(event)})
    assert from_dict(json.loads(as_json(event))) == event


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("chunk", "text", 5), ("chunk", "text", None), ("chunk", "text", ["a"]), ("chunk", "seq", "3"),
        ("chunk", "seq", True), ("chunk", "seq", 3.0), ("chunk", "is_final", 1), ("chunk", "turn_id", {}),
        ("session_info", "message", None), ("status", "context_messages", "1"), ("complete", "processing_time", "0.5"),
        ("complete", "time_to_first_chunk", False), ("complete", "usage", None), ("complete", "usage", [1, 2, True]),
        ("complete", "usage", {"output_tokens": "2"}), ("complete", "usage", {"cost": "free"}),
        ("error", "code", []), ("heartbeat", "timestamp", 1),
    ],
)  # fmt: skip
def test_what_a_word_says_has_its_type(kind, name, value):
    told = {**json.loads(as_json(EVENTS[kind][0])), name: value}
    with pytest.raises(ProtocolError, match="has a wrong type"):
        from_dict(told)


def test_what_a_word_does_not_say_is_empty():
    assert from_dict({"type": "chunk"}) == Chunk("", 0, False, "", "", 0)
    whole = from_dict({"type": "complete", "processing_time": 1, "time_to_first_chunk": None})
    assert whole == Complete(0, 1.0, 0, "", "", "", 0, "", Usage(0, 0, True), None, "")
    assert from_dict({"type": "complete", "usage": {"input_tokens": 1, "cost": 2}}).usage == Usage(1, 0, True, 2.0)


def test_more_stands_behind_a_word_s_own_fields():
    more = {"b": NASTY, "c": None}
    assert tagged("a", Heartbeat("x"), **more) == standard({"type": "a", "timestamp": "x", **more})


@pytest.mark.parametrize(
    "value",
    [
        NASTY, 0, -1, 2**70, 0.1, 1e300, -0.0, True, False, None, [], {}, [[], {}], {"a": [1, None, {"b": NASTY}]},
        {NASTY: (1, 2)}, ["x", True, 1.5],
    ],
)  # fmt: skip
def test_json_is_that_of_the_standard_library(value):
    assert dumps(value) == standard(value)


def test_words_in_words():
    listed = SessionList(2, [SessionSummary("s", "demo", 2, 1, NOW, 0)], None)
    assert dumps(listed) == standard({"active_sessions": 2, "sessions": [fields(listed.sessions[0])]})
    transport = TransportStats(1, 2, 3, 4, None, 0.25)
    assert dumps({"transports": {"sse": transport}}) == standard({"transports": {"sse": fields(transport)}})


def test_what_has_no_json_is_refused():
    with pytest.raises(TypeError, match="set has no JSON"):
        dumps({"a": {1}})

"""Words and messages: both ways without loss, and no field that exists in one of words, JSON and `.proto` only."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from proto import answers, chat_pb2, events, pb
from proto.errors import CODES, ChatError, ProtocolError
from proto.requests import ChatRequest

ROOT = Path(__file__).parents[2]
NOW = "2026-01-02T03:04:05.000006+00:00"
NASTY = 'line\nfeed "quoted" \0 grüße 🌊'
USAGE = events.Usage(1, 2**40, True)
EVENTS = [
    events.SessionInfo("s", "demo", NOW, "t", 1, True, NASTY),
    events.Status("Generating response...", 3, 5, "t", 2),
    events.Chunk(NASTY, 1, False, NOW, "t", 3),
    events.Chunk("", 2, True, NOW, "t", 4),
    events.Complete(2, 0.5, 2, "s", NOW, "t", 5, "stop", USAGE, None, "ab"),
    events.Complete(2, 0.5, 2, "s", NOW, "t", 5, "stop", events.Usage(1, 2, False, 0.0), 0.0, "ab"),
    events.Error("it broke", "s", "t", 5, "model_error", True, NOW),
]
STATS = answers.TransportStats(1, 2, 3, 2**40, None, 0.25)
ANSWERS = [
    answers.SessionCreated("s", "demo", NOW),
    answers.SessionList(2, [answers.SessionSummary("s", "demo", 4, 1, NOW, 2)], None),
    answers.SessionList(0, [], "next"),
    answers.HistoryMessage("user", NASTY, "t", NOW),
    answers.HistoryMessage("model", NASTY, "t", NOW, "cancelled"),
    answers.HistoryMessage("user", NASTY, "t", NOW, None, "model_error", NASTY),
    answers.TurnSnapshot("t", "s", "m", "running", NASTY, "", 3, NOW, None, None, None, None, None, None, None, None),
    answers.TurnSnapshot("t", "s", "m", "failed", "", "x", 3, NOW, NOW, 1.5, 0.5, "stop", USAGE, "ab", "internal", "?"),
    answers.ModelList("demo", [answers.ModelInfo("demo", "demo")]),
    answers.ServerStats(
        "healthy", "demo", 5.0, 1, 2, 3, 4, 5, 6, 0.5, NOW, 7, "aiohttp", 8, USAGE, {"grpc": STATS, "sse": STATS}
    ),
]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_comes_back_as_it_was(event):
    data = pb.encode_event(event, "s")
    response = pb.parse(chat_pb2.ChatResponse, data)
    assert pb.from_response(response) == event
    assert response.session_id == "s"


@pytest.mark.parametrize("text", ["", "a", NASTY, "é" * 63, "é" * 64, "x" * 127, "x" * 2047, "🌊" * 5000])
@pytest.mark.parametrize("number", [1, 125, 126, 127, 2045, 2046, 16382, 2**31 - 3])
def test_a_chunk_is_what_protobuf_makes_of_it(text, number):
    for final in (False, True):
        for session_id in ("s", "s" * 128):
            event = events.Chunk(text, number, final, NOW, "t-1", number + 2)
            message = chat_pb2.ChatResponse(
                type="CHUNK", session_id=session_id, chunk_text=text, chunk_number=number, is_final=final,
                timestamp=NOW, turn_id="t-1", seq=number + 2,
            )  # fmt: skip
            encoded = pb.encode_event(event, session_id)
            assert pb.parse(chat_pb2.ChatResponse, encoded) == message
            assert len(encoded) == message.ByteSize()  # each field once, in whichever order


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_comes_back_as_it_was(answer):
    message = pb.to_message(answer)
    assert pb.to_word(pb.parse(type(message), message.SerializeToString())) == answer


def test_a_session_comes_in_two_answers():
    messages = [answers.HistoryMessage("user", "hi", "t", NOW), answers.HistoryMessage("model", "yes", "t", NOW)]
    detail = answers.SessionDetail("s", "demo", 2, 61.0, 1, 1, NOW, USAGE, messages, "t")
    info = pb.session_info(detail)
    assert info.success
    assert pb.session_detail(info, pb.session_history(detail)) == detail


def test_updates_pongs_and_requests():
    update = pb.SessionUpdate("s", "user_typing", {"typing": True, "connection_id": "c"}, NOW)
    assert pb.from_response(pb.update_response(update)) == update
    assert pb.from_response(chat_pb2.ChatResponse(type="PONG", timestamp=NOW)) == pb.Pong(NOW)
    assert pb.from_response(chat_pb2.ChatResponse(type=99)) is None
    for data in ("{", "[]", "1", "null", "[" * 100_000):
        with pytest.raises(ProtocolError):
            pb.from_response(chat_pb2.ChatResponse(type="SESSION_UPDATE", update_data=data))
    with pytest.raises(ProtocolError, match="'turn_id'"):
        pb.from_response(chat_pb2.ChatResponse(type="CHUNK", turn_id="t\nX: y"))
    for request in (ChatRequest("hi"), ChatRequest("hi", "s", "demo", "key")):
        assert pb.asked(pb.ask(request), 100) == request


def test_an_answer_of_an_older_server_has_zeros_not_holes():
    old = chat_pb2.ChatResponse(type="RESPONSE_COMPLETE", session_id="s", total_chunks=2)
    assert pb.from_response(old) == events.Complete(2, 0.0, 0, "s", "", "", 0, "", events.Usage(0, 0, True), None, "")


@pytest.mark.parametrize("data", [b"\xff", b"\x2a\x05abc", b"\x2a\x02\xff\xfe"], ids=["tag", "cut", "utf-8"])
def test_bad_bytes_are_a_protocol_error(data):
    with pytest.raises(ProtocolError):
        pb.parse(chat_pb2.ChatResponse, data)


IN_PURE_PYTHON = """
from google.protobuf.internal import api_implementation
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from proto import chat_pb2, pb
from proto.errors import ProtocolError
from proto.grpc_stream import Codec

print(api_implementation.Type())
for decode in (pb.parse, lambda kind, data: Codec(Status.INTERNAL).decode(data, kind)):
    try:
        decode(chat_pb2.ChatResponse, b"\\x2a\\x02\\xff\\xfe")
    except (ProtocolError, GRPCError) as error:
        print(type(error).__name__)
"""


def test_bad_bytes_where_protobuf_has_no_wheel():
    environ = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    run = subprocess.run([sys.executable, "-c", IN_PURE_PYTHON], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (run.stdout.split(), run.stderr) == (["python", "ProtocolError", "GRPCError"], "")


@pytest.mark.parametrize("code", CODES)
def test_a_failure_comes_back_as_it_was(code):
    error = ChatError(code, "no", retry_after=2.5, turn_id="t", retryable=True)
    back = pb.chat_error(CODES[code].grpc, "no", pb.error_metadata(error))
    assert vars(back) == vars(error)


@pytest.mark.parametrize(
    ("code", "known"), [("session_busy", "session_busy"), ("of_the_future", "internal"), ("", "internal")]
)
def test_a_refusal_on_chat_comes_back_as_it_was(code, known):
    response = pb.error_response(ChatError("session_busy", "no", turn_id="t"), "s", NOW)
    response.code = code
    expected = ChatError(known, "no", retryable=True, turn_id="t")
    assert vars(pb.refused(pb.from_response(response))) == vars(expected)


def test_a_failure_that_is_not_ours_gets_the_nearest_code():
    assert pb.chat_error("NOT_FOUND", "no", {}).code == "not_found"
    assert pb.chat_error("DATA_LOSS", "no", {"retry-after": "soon"}).code == "internal"


# --- words, JSON and .proto are one ---

K_ONLY = {"success", "message"}  # of the unary answers: REST says the same by its status


def names(message):
    return {field.name for field in message.DESCRIPTOR.fields}


def test_events_have_the_same_fields_everywhere():
    used = {"type", "update_type", "update_data"}
    for word, (_, renamed) in pb.EVENTS.items():
        in_proto = {renamed.get(name, name) for name in word._fields}
        assert in_proto <= names(chat_pb2.ChatResponse), word
        used |= in_proto
    assert names(chat_pb2.ChatResponse) == used
    assert set(pb.EVENTS) == set(events.TYPES.values()) - {events.Heartbeat}
    for event in EVENTS:
        in_json = {name for name, value in event._asdict().items() if value is not None}
        assert json.loads(events.as_json(event)).keys() == in_json | {"type"}


@pytest.mark.parametrize("word", pb.ANSWERS)
def test_answers_have_the_same_fields_everywhere(word):
    message = pb.ANSWERS[word]
    in_words = {pb.RENAMED.get(name, name) for name in word._fields}
    extra = K_ONLY if "success" in names(message) else set()
    assert names(message) == in_words | extra


def test_every_answer_is_there_but_those_that_grpc_gives_otherwise():
    otherwise = {
        answers.ChatAnswer,  # StreamChat
        answers.SessionDetail,  # below
        answers.Note,  # DeleteSessionResponse and ClearSessionResponse
        answers.Health,  # grpc.health.v1, and a part of ServerStats
        answers.Problem,  # a status and its metadata
    }
    words = {word for word in vars(answers).values() if isinstance(word, type) and word.__module__ == "proto.answers"}
    assert words == (set(pb.ANSWERS) | otherwise) - {events.Usage}
    in_words = {pb.RENAMED.get(name, name) for name in answers.SessionDetail._fields}
    assert names(chat_pb2.SessionInfoResponse) | names(chat_pb2.HistoryResponse) == in_words | K_ONLY
    assert set(answers.Health._fields) <= set(answers.ServerStats._fields)
    request = names(chat_pb2.ChatRequest) - {"type", "timestamp", "turn_id", "after"}
    assert request == set(ChatRequest._fields)


def test_the_committed_code_is_what_the_proto_says(tmp_path):
    text = (ROOT / "proto/chat.proto").read_text()
    command = re.search(r"^// +(python -m grpc_tools\.protoc .*)$", text, re.MULTILINE)
    arguments = shlex.split(command[1].replace("_out=.", f"_out={tmp_path}"))[1:]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env={"PATH": path}, check=True, timeout=60)
    generated = sorted(path.name for path in (tmp_path / "proto").iterdir())
    assert generated == ["chat_grpc.py", "chat_pb2.py", "chat_pb2.pyi"]
    for name in generated:
        assert (tmp_path / "proto" / name).read_text() == (ROOT / "proto" / name).read_text(), f"regenerate {name}"

"""One gRPC call, frame by frame: odd headers and messages, gzip."""

import asyncio
import gzip
import struct
import threading

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame

from proto import chat_pb2, pb
from proto.grpc_stream import MAX_MESSAGE_BYTES
from proto.grpc_web import frame
from proto.requests import ChatRequest

WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE


@pytest.mark.parametrize(
    ("extra", "without", "end"),
    [
        ([], (":path",), ErrorCodes.PROTOCOL_ERROR),
        ([], (":method",), ErrorCodes.PROTOCOL_ERROR),
        ([("x-bin", "a")], (), 3),
        ([("x-bin", "*")], (), 3),
        ([("grpc-timeout", "9" * 400 + "S")], (), 3),
        ([("grpc-timeout", "soon")], (), 3),
        ([("grpc-timeout", "0n")], (), 4),
        ([("x-name", "grüße")], (), 0),
        ([("x-name", b"\xff\xfe")], (), 0),
        ([("x-bin", "AAA")], (), 0),
        ([("x-bin", "YWJj,ZGVm, YQ==,")], (), 0),
        ([("x-bin", "YWJj,*")], (), 3),
        ([("X-Upper", "x"), ("x-empty", "")], (), 0),
        ([("x-long", "a" * 2**14)], (), 8),
        ([("content-type", "application/grpc;charset=utf-8")], ("content-type",), 0),
        ([("content-type", "application/grpc+proto ; v=1")], ("content-type",), 0),
        ([("content-type", "application/grpc-web;v=1")], ("content-type",), 2),
    ],
)
def test_odd_headers_have_an_answer_and_the_connection_lives_on(serving, peer, run, extra, without, end):
    async def scenario():
        async with serving() as app, peer(app) as one:
            head = one.headers(extra=extra, without=without)
            one.send(head, DataFrame(head.stream_id, frame(b""), flags=["END_STREAM"]))
            assert await one.end(head.stream_id) == end
            if end in (3, 8):
                assert await one.code(head.stream_id) == ("invalid_request" if end == 3 else "too_large")
            await one.well()

    run(scenario())


def test_calls_that_say_the_same_headers_have_each_a_deadline_of_their_own(serving, peer, run):
    """Their blocks are a few bytes, from the table: what they come to is found out once."""

    async def scenario():
        async with serving() as app, peer(app) as one:
            forever = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=1000&rate=1").SerializeToString()
            hurried, without, spoilt = [("grpc-timeout", "50m")], [], [("grpc-timeout", "soon")]
            for extra, end in (
                [(hurried, 4)] * 3 + [(without, 0)] * 2 + [(spoilt, 3)] * 2 + [(hurried, 4), (without, 0)]
            ):
                call = one.call("StreamChat", forever, extra) if end else one.call(extra=extra)
                assert await one.end(call) == end
            await one.well()

    run(scenario())


# mtime: a test's name is made of its bytes, and has to be the same in every process that runs a part of the tests
EMPTY = gzip.compress(b"", mtime=0)
BOMB = gzip.compress(bytes(MAX_MESSAGE_BYTES + 1), mtime=0)


@pytest.mark.parametrize(
    ("body", "extra", "status"),
    [
        (b"", [], 3),
        (b"\0\0", [], 13),
        (frame(b"abc")[:-1], [], 13),
        (struct.pack(">BI", 0, 2**17) + b"x", [], 13),
        (struct.pack(">BI", 0, MAX_MESSAGE_BYTES + 1), [], 8),
        (struct.pack(">BI", 0, 2**32 - 1) + b"x" * 1000, [], 8),
        (frame(EMPTY, 1), [], 13),
        (frame(EMPTY, 1), [("grpc-encoding", "identity")], 13),
        (frame(EMPTY, 1), [("grpc-encoding", "br")], 12),
        (frame(EMPTY, 2), [("grpc-encoding", "gzip")], 13),
        (frame(b"no gzip", 1), [("grpc-encoding", "gzip")], 13),
        (frame(EMPTY[:-1], 1), [("grpc-encoding", "gzip")], 13),
        (frame(EMPTY + b"x", 1), [("grpc-encoding", "gzip")], 13),
        (frame(BOMB, 1), [("grpc-encoding", "gzip")], 8),
        (frame(b"\xff", 0), [], 3),
        (frame(EMPTY, 1), [("grpc-encoding", "gzip")], 0),
        (frame(b"", 0), [("grpc-encoding", "gzip")], 0),
    ],
)
def test_odd_messages_have_a_status_and_the_connection_lives_on(serving, peer, run, body, extra, status):
    async def scenario():
        async with serving() as app, peer(app) as one:
            for begins_at_once in (True, False):
                head = one.headers(extra=extra)
                pieces = [
                    DataFrame(head.stream_id, body[start : start + 2**14]) for start in range(0, len(body), 2**14)
                ]
                last = DataFrame(head.stream_id, b"", flags=["END_STREAM"])
                if begins_at_once:
                    one.send(head, *pieces, last)
                else:
                    one.send(head)
                    await one.heard()
                    one.send(*pieces, last)
                assert await one.end(head.stream_id) == status
                code = {0: None, 8: "too_large"}.get(status, "invalid_request")
                assert await one.code(head.stream_id) == code
                await one.well()

    run(scenario())


@pytest.mark.parametrize(
    ("method", "without", "extra", "end", "code"),
    [
        ("Nothing", (), [], 12, "not_found"),
        ("ListModels", ("content-type",), [], 2, "invalid_request"),
        ("ListModels", ("content-type",), [("content-type", "application/json")], 2, "invalid_request"),
        ("ListModels", ("te",), [], 2, "invalid_request"),
        ("ListModels", (), [("grpc-timeout", "0n")], 4, None),
    ],
)
def test_a_call_that_no_service_has_seen_has_a_code_too(serving, peer, run, method, without, extra, end, code):
    async def scenario():
        async with serving() as app, peer(app) as one:
            head = one.headers(method, extra, without=without)
            one.send(head, DataFrame(head.stream_id, frame(b""), flags=["END_STREAM"]))
            assert (await one.end(head.stream_id), await one.code(head.stream_id)) == (end, code)
            await one.well()

    run(scenario())


def test_a_bug_is_internal_and_keeps_its_traceback_to_itself(serving, peer, run, caplog):
    async def scenario():
        async with serving() as app, peer(app) as one:

            async def broken(*_, **__):
                raise RuntimeError("the secret inside")

            app.chat.detail = broken
            stream = one.call("GetSessionInfo")
            assert (await one.end(stream), await one.code(stream)) == (13, "internal")
            assert "secret" not in str([frame.fields for frame in one.frames if isinstance(frame, HeadersFrame)])
            assert "the secret inside" in caplog.text

    run(scenario())


def test_a_message_in_crumbs_with_empty_frames_between(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            request = chat_pb2.ChatRequest(message="hi", model_id="demo?chunks=3&rate=0").SerializeToString()
            head = one.headers("StreamChat")
            crumbs = [DataFrame(head.stream_id, bytes([byte])) for byte in frame(request)]
            empty = DataFrame(head.stream_id, b"")
            one.send(head, *[frame for crumb in crumbs for frame in (empty, crumb)])
            one.send(DataFrame(head.stream_id, b"", flags=["END_STREAM"]))
            assert await one.end(head.stream_id) == 0
            assert [response.seq for response in responses(one.data(head.stream_id))] == list(range(1, 7))

    run(scenario())


def responses(data):
    parsed = []
    while data:
        flags, length = struct.unpack(">BI", data[:5])
        assert flags == 0 and len(data) >= 5 + length
        parsed.append(pb.parse(chat_pb2.ChatResponse, data[5 : 5 + length]))
        data = data[5 + length :]
    return parsed


@pytest.mark.parametrize(("offered", "flags"), [("identity", 0), ("gzip", 1), ("deflate, gzip", 1)])
def test_answers_are_gzipped_where_it_is_offered_and_pays(serving, peer, run, offered, flags):
    async def scenario():
        async with serving() as app, peer(app) as one:
            offer = [("grpc-accept-encoding", offered)]
            await one.end(one.call(extra=offer))
            request = chat_pb2.ChatRequest(message="long " * 1000, model_id="demo?chunks=1&rate=0")
            stream = one.call("StreamChat", request.SerializeToString(), extra=offer)
            assert await one.end(stream) == 0
            session = responses(one.data(stream))[0].session_id
            history = one.call("GetHistory", chat_pb2.HistoryRequest(session_id=session).SerializeToString(), offer)
            assert await one.end(history) == 0
            data = one.data(history)
            assert data[0] == flags and (len(data) < 2000) is bool(flags)
            payload = gzip.decompress(data[5:]) if flags else data[5:]
            assert pb.parse(chat_pb2.HistoryResponse, payload).messages[0].text == request.message
            small = one.call("ListModels", extra=offer)
            assert await one.end(small) == 0 and one.data(small)[0] == 0

    run(scenario())


def test_a_large_answer_is_gzipped_beside_the_loop(serving, peer, run, monkeypatch):
    compress = gzip.compress
    went_on = []

    async def scenario():
        loop = asyncio.get_running_loop()

        def slow(*arguments, **options):
            passed = threading.Event()
            loop.call_soon_threadsafe(passed.set)
            went_on.append(passed.wait(5))
            return compress(*arguments, **options)

        async with serving() as app, peer(app) as one:
            long = "long " * 5000
            for _ in range(3):
                turn = await app.chat.send(ChatRequest(long, "s", "demo?chunks=1&rate=0"), "rest", "me")
                await turn.ended()
            monkeypatch.setattr(gzip, "compress", slow)
            asked = chat_pb2.HistoryRequest(session_id="s").SerializeToString()
            history = one.call("GetHistory", asked, [("grpc-accept-encoding", "gzip")])
            assert await one.end(history) == 0 and went_on == [True]
            payload = gzip.decompress(one.data(history)[5:])
            assert pb.parse(chat_pb2.HistoryResponse, payload).messages[4].text == long

    run(scenario())


def test_one_who_follows_from_the_end_need_not_wait_for_the_headers(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=9&rate=0.001").SerializeToString()
            one.call("StreamChat", request)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            (turn,) = (asking.turn for asking in app.chat._running.values())
            follow = chat_pb2.FollowTurnRequest(turn_id=turn.id, after=turn.last_seq).SerializeToString()
            stream = one.call("FollowTurn", follow)
            head = await one.until(lambda frame: isinstance(frame, HeadersFrame) and frame.stream_id == stream)
            assert head.fields["fivewire-turn-id"] == turn.id
            await app.chat.cancel(turn.id)
            assert await one.end(stream) == 0

    run(scenario())

"""One gRPC call, frame by frame: odd headers and messages, gzip, and windows of every size."""

import asyncio
import gzip
import struct

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from proto import chat_pb2, pb
from proto.grpc_stream import MAX_MESSAGE_BYTES
from proto.grpc_web import frame
from proto.requests import ChatRequest
from server import lane, outflow

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
        ([("X-Upper", "x"), ("x-empty", "")], (), 0),
    ],
)
def test_odd_headers_have_an_answer_and_the_connection_lives_on(serving, peer, run, extra, without, end):
    async def scenario():
        async with serving() as app, peer(app) as one:
            head = one.headers(extra=extra, without=without)
            one.send(head, DataFrame(head.stream_id, frame(b""), flags=["END_STREAM"]))
            assert await one.end(head.stream_id) == end
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
            head = one.headers(extra=extra)
            one.send(head)
            for start in range(0, len(body), 2**14):
                one.send(DataFrame(head.stream_id, body[start : start + 2**14]))
            one.send(DataFrame(head.stream_id, b"", flags=["END_STREAM"]))
            assert await one.end(head.stream_id) == status
            await one.well()

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


@pytest.mark.parametrize("window", [3, 100, 5000])
def test_a_small_window_gets_everything_in_order(serving, peer, run, window):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 0}) as one:
            request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=20&rate=0")
            stream = one.call("StreamChat", request.SerializeToString())
            turn = None
            while turn is None:
                await asyncio.sleep(0)
                turn = next(iter(app.chat._kept.turns.values()), None)
            size = sum(map(len, encoded(turn)))
            taken = 0
            while taken < size:
                one.send(WindowUpdateFrame(stream, window_increment=window))
                taken = min(size, taken + window)
                await one.until(lambda frame, taken=taken: one.data_bytes >= taken)
            assert await one.end(stream) == 0
            assert one.data(stream) == b"".join(encoded(turn))
            assert max(len(frame.data) for frame in one.frames if isinstance(frame, DataFrame)) <= max(window, 2**14)

    run(scenario())


def encoded(turn):
    return [frame(pb.encode_event(event, turn.session_id)) for event in turn.log]


def test_one_who_does_not_read_misses_nothing(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 2**31 - 1}) as one:
            one.send(WindowUpdateFrame(0, window_increment=2**30))
            one.reader._transport.pause_reading()
            request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=60000&rate=0")
            stream = one.call("StreamChat", request.SerializeToString())
            while not app.chat._running:
                await asyncio.sleep(0)
            (turn,) = (asking.turn for asking in app.chat._running.values())
            await turn.ended()
            (connection,) = app._grpc._server.connections
            assert connection._transport.get_write_buffer_size() < 2**20
            one.reader._transport.resume_reading()
            assert await one.end(stream) == 0
            assert one.data(stream) == b"".join(encoded(turn))

    run(scenario())


def test_a_call_that_ends_before_its_first_message_left_has_headers_and_trailers(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 0}) as one:
            request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=1000&rate=50").SerializeToString()
            stream = one.call("StreamChat", request, [("grpc-timeout", "100m")])
            assert await one.end(stream) == 4
            first, last = (frame.fields for frame in one.frames if isinstance(frame, HeadersFrame))
            (turn,) = app.chat._running
            assert (first[":status"], first["fivewire-turn-id"]) == ("200", turn)
            assert ":status" not in last
            assert one.data_bytes == 0
            one.send(SettingsFrame(0, settings={WINDOW: 2**16}))
            await one.well()

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


def test_a_window_that_never_opens(serving, peer, run, monkeypatch):
    for module in ("proto.grpc_stream", "server.outflow", "server.lane"):
        monkeypatch.setattr(f"{module}.STALL_SECONDS", 0.1)

    async def scenario():
        async with serving(resume_grace=20) as app, peer(app) as good, peer(app, {WINDOW: 0}) as bad:
            request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=1000&rate=50").SerializeToString()
            calls = [bad.call("StreamChat", request) for _ in range(20)] + [bad.call() for _ in range(20)]
            chat = bad.headers("Chat")
            bad.send(chat, DataFrame(chat.stream_id, frame(chat_pb2.ChatRequest(type="PING").SerializeToString())))
            await good.well()
            for stream in (*calls, chat.stream_id):
                assert await bad.end(stream) is ErrorCodes.ENHANCE_YOUR_CALM
            assert app.chat.tell().running_turns == 20 and app.chat.tell().streaming_connections == 0
            await good.well()
            bad.send(SettingsFrame(0, settings={WINDOW: 2**16}))
            await bad.well()

    assert lane.STALL_SECONDS == outflow.STALL_SECONDS == 0.1
    run(scenario())


async def read_bit_by_bit(one):
    """Take 320 kB, opening the connection's window by a little whenever it is used up."""
    given = 2**16 - 1
    while given < 20 * 2**14:
        await one.until(lambda frame, given=given: one.data_bytes == given)
        one.send(WindowUpdateFrame(0, window_increment=2**14))
        given += 2**14


def test_calls_that_catch_up_share_the_connection(serving, peer, run):
    """The peer opens the connection's window bit by bit: no call may take all of it."""

    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 2**31 - 1}) as one:
            turns = []
            for number in range(3):
                request = ChatRequest("Hi", f"s{number}", "demo?chunks=2000&rate=0")
                turns.append(await app.chat.send(request, "rest", "me"))
                await turns[-1].ended()
            calls = [
                one.call("FollowTurn", chat_pb2.FollowTurnRequest(turn_id=turn.id).SerializeToString())
                for turn in turns
            ]
            await read_bit_by_bit(one)
            taken = {call: len(one.data(call)) for call in calls}
            assert min(taken.values()) > 50_000, taken

    run(scenario())


def test_a_large_answer_shares_the_connection_with_turns_that_catch_up(serving, peer, run):
    """It is sent by a task, which has to wait for its moment; the turns are not."""

    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 2**31 - 1}) as one:
            turns = []
            for number in range(3):
                turns.append(
                    await app.chat.send(ChatRequest("Hi", f"s{number}", "demo?chunks=20000&rate=0"), "rest", "me")
                )
                await turns[-1].ended()
            for turn in turns[:2]:
                one.call("FollowTurn", chat_pb2.FollowTurnRequest(turn_id=turn.id).SerializeToString())
            history = one.call("GetHistory", chat_pb2.HistoryRequest(session_id="s2").SerializeToString())
            await read_bit_by_bit(one)
            assert len(one.data(history)) > 30_000

    run(scenario())


def test_a_call_that_catches_up_is_heard(serving, peer, run):
    """The peer has yet to read a long turn when it stops another one on the same call."""

    async def scenario():
        async with serving() as app, peer(app) as one:
            long = await app.chat.send(ChatRequest("Hi", "long", "demo?chunks=8000&rate=0"), "rest", "me")
            await long.ended()
            running = await app.chat.send(ChatRequest("Hi", "running", "demo?chunks=9&rate=0.01"), "rest", "me")
            head = one.headers("Chat")
            asked = chat_pb2.ChatRequest
            requests = asked(type=asked.RESUME, turn_id=long.id), asked(type=asked.CANCEL, turn_id=running.id)
            one.send(head, *[DataFrame(head.stream_id, frame(each.SerializeToString())) for each in requests])
            given = 2**16 - 1
            while running.running:
                await one.until(lambda frame, given=given: one.data_bytes == given)
                assert given < 2**18, "it is not heard before the long turn is read"
                for stream in (0, head.stream_id):
                    one.send(WindowUpdateFrame(stream, window_increment=2**14))
                given += 2**14

    run(scenario())


def test_updates_that_a_call_does_not_take_are_bounded(serving, peer, run, monkeypatch):
    monkeypatch.setattr(outflow, "MAX_PENDING_BYTES", 10_000)

    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 0}) as one:
            session = await app.chat.new_session()
            head = one.headers("Chat")
            join = chat_pb2.ChatRequest(type=chat_pb2.ChatRequest.JOIN, session_id=session.id)
            one.send(head, DataFrame(head.stream_id, frame(join.SerializeToString())))
            while not session.members:
                await asyncio.sleep(0.005)
            told = 0
            while session.members:
                session.tell("message_added", {"message_count": 1, "last_message_preview": "x" * 1000, "turn_id": "t"})
                told += 1
                assert told < 50
                await asyncio.sleep(0)
            assert await one.end(head.stream_id) == ErrorCodes.ENHANCE_YOUR_CALM
            one.send(SettingsFrame(0, settings={WINDOW: 2**16}))
            await one.well()

    run(scenario())


def test_a_window_that_opens_just_when_a_waiting_call_is_reset_and_forgotten(serving, peer, run, caplog):
    """All in one read: before the call's task hears of it."""

    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 2**31 - 1}) as one:
            turn = await app.chat.send(ChatRequest("Hi", "s", "demo?chunks=20000&rate=0"), "rest", "me")
            await turn.ended()
            history = one.call("GetHistory", chat_pb2.HistoryRequest(session_id="s").SerializeToString())
            await one.until(lambda frame: one.data_bytes == 2**16 - 1)
            frames = [RstStreamFrame(history)]
            for _ in range(70):  # so many that h2 looks which calls it may forget
                head = one.headers()
                frames += head, DataFrame(head.stream_id, frame(b""), flags=["END_STREAM"])
            one.send(*frames, WindowUpdateFrame(0, window_increment=2**20))
            await one.well()
        assert "Traceback" not in caplog.text

    run(scenario())

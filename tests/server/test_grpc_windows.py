"""How gRPC calls share the windows of a connection: small ones, such that shrink, and such that never open."""

import asyncio

import pytest
from grpclib.const import Status
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from proto import chat_pb2, pb
from proto.grpc_web import frame
from proto.h2 import CONNECTION_WINDOW_BYTES
from proto.requests import ChatRequest
from server import lane, outflow

WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE
SLOW = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=9&rate=0.001").SerializeToString()


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


def test_frames_are_no_longer_than_the_peer_allows_by_now(serving, peer, run):
    """The room for the next messages was taken when they could be longer."""

    async def scenario():
        allowed = {WINDOW: 2**20, SettingsFrame.MAX_FRAME_SIZE: 2**20}
        async with serving() as app, peer(app, allowed) as one:
            one.send(WindowUpdateFrame(0, window_increment=2**20))
            stream = one.call("StreamChat", SLOW)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            one.send(SettingsFrame(0, settings={SettingsFrame.MAX_FRAME_SIZE: 2**14}))
            await one.heard()
            running(app).chunk("x" * 50_000)
            await one.until(lambda frame: one.data_bytes > 50_000)
            assert max(len(frame.data) for frame in one.frames if isinstance(frame, DataFrame)) == 2**14
            await app.chat.cancel(running(app).id)
            assert await one.end(stream) == 0

    run(scenario())


def test_the_room_that_calls_have_taken_is_given_back_when_they_are_over(serving, peer, run):
    """Together they send more than the connection's window."""
    request = chat_pb2.SessionInfoRequest(session_id="x" * 4000).SerializeToString()

    async def scenario():
        async with serving() as app, peer(app) as one:
            for _ in range(CONNECTION_WINDOW_BYTES // len(request) // 50 + 1):
                for call in [one.call("GetSessionInfo", request) for _ in range(50)]:
                    assert await one.end(call) == Status.INVALID_ARGUMENT.value
                one.frames.clear()

    run(scenario())


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


def running(app):
    (turn,) = (asking.turn for asking in app.chat._running.values())
    return turn


def test_a_call_gets_the_whole_window_of_the_connection_though_another_may_need_some(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 2**31 - 1}) as one:
            one.call("StreamChat", SLOW)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            slow = running(app)
            turn = await app.chat.send(ChatRequest("Hi", "s", "demo?chunks=2000&rate=0"), "rest", "me")
            await turn.ended()
            one.call("FollowTurn", chat_pb2.FollowTurnRequest(turn_id=turn.id).SerializeToString())
            await one.until(lambda frame: one.data_bytes == 2**16 - 1)
            slow.chunk("There is no room for this.")
            await one.heard()
            assert one.data_bytes == 2**16 - 1
            one.send(WindowUpdateFrame(0, window_increment=2**14))
            await one.until(lambda frame: one.data_bytes == 2**16 - 1 + 2**14)

    run(scenario())


def test_a_turn_uses_the_window_to_the_last_byte_however_often_it_takes_some_of_it(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 2**31 - 1}) as one:
            stream = one.call("StreamChat", SLOW)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            turn = running(app)
            for _ in range(50):
                turn.chunk("x" * 1500)
                await asyncio.sleep(0)
            await one.until(lambda frame: one.data_bytes == 2**16 - 1)
            one.send(WindowUpdateFrame(0, window_increment=2**16))
            await one.until(lambda frame: one.data(stream) == b"".join(encoded(turn)))

    run(scenario())


def test_an_answer_gets_the_room_that_a_turn_may_need_later(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 60_000}) as one:
            long = await app.chat.send(ChatRequest("Hi", "s", "demo?chunks=2000&rate=0"), "rest", "me")
            await long.ended()
            one.call("FollowTurn", chat_pb2.FollowTurnRequest(turn_id=long.id).SerializeToString())
            await one.until(lambda frame: one.data_bytes == 60_000)
            one.call("StreamChat", SLOW)  # takes the rest of the connection's window
            await one.until(lambda frame: one.data_bytes > 60_000)
            await one.well()

    run(scenario())


def test_a_window_that_shrinks_is_kept_to(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            stream = one.call("StreamChat", SLOW)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            turn, had = running(app), one.data_bytes
            one.send(SettingsFrame(0, settings={WINDOW: had - 1}))
            await one.heard()
            turn.chunk("There is no room for this.")
            await one.heard()
            assert one.data_bytes == had
            one.send(SettingsFrame(0, settings={WINDOW: had + 10}))
            await one.until(lambda frame: one.data_bytes == had + 10)
            assert one.data(stream) == encoded(turn)[2][:10]

    run(scenario())

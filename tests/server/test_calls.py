"""How gRPC calls begin and end: at once where that can be, in a task where not, and each to its end."""

import asyncio

import pytest
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from proto import chat_pb2
from proto.answers import SessionList
from proto.errors import ChatError
from proto.grpc_web import frame
from server.call import Ending
from server.calls import Calls
from server.first_step import RestOf

ASK = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=3&rate=0").SerializeToString()
SLOW = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=9&rate=0.001").SerializeToString()
PING = chat_pb2.ChatRequest(type=chat_pb2.ChatRequest.PING).SerializeToString()
WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE


@pytest.fixture
def tasks(monkeypatch):
    """One entry for each call that has ended in a task."""
    ended = []
    in_task = Calls._task_ended
    monkeypatch.setattr(Calls, "_task_ended", lambda *call: (ended.append(call), in_task(*call)))
    return ended


def served(app, call):
    """Let `ListModels` be this."""
    app._grpc._server.mapping["/chat.ChatService/ListModels"] = Handler(
        call, Cardinality.UNARY_UNARY, chat_pb2.ListModelsRequest, chat_pb2.ListModelsResponse
    )


def test_a_call_that_has_come_in_full_begins_at_once_and_has_a_task_where_it_waits(serving, peer, run, tasks):
    async def scenario():
        async with serving() as app, peer(app) as one:
            asked = one.call("CreateSession")
            assert await one.end(asked) == 0
            tasks.clear()  # the store may be waited for
            created = chat_pb2.CreateSessionResponse.FromString(one.data(asked)[5:])
            request = chat_pb2.SessionInfoRequest(session_id=created.session_id).SerializeToString()
            assert await one.end(one.call("GetSessionInfo", request)) == 0
            assert await one.end(one.call("GetSessionInfo")) == 3
            assert not tasks
            assert await one.end(one.call("StreamChat", ASK)) == 0
            assert len(tasks) == 1
            head = one.headers("GetSessionInfo")
            one.send(head)
            await one.heard()
            one.send(DataFrame(head.stream_id, frame(request), flags=["END_STREAM"]))
            assert await one.end(head.stream_id) == 0
            assert len(tasks) == 2

    run(scenario())


@pytest.mark.parametrize("end", [["END_STREAM"], []])
@pytest.mark.parametrize("how", ["at once", "headers before", "in two bites"])
@pytest.mark.parametrize("leaves", [False, True])
def test_a_call_that_is_over_with_the_packet_that_brings_it_is_not_begun(
    serving, peer, run, tasks, caplog, end, how, leaves
):
    async def scenario():
        async with serving() as app, peer(app) as one, peer(app) as other:
            await one.heard()
            (mine, _) = app._grpc._server.connections
            head = one.headers("StreamChat")
            data = DataFrame(head.stream_id, frame(ASK), flags=end)
            over = GoAwayFrame(0, 0, ErrorCodes.INTERNAL_ERROR) if leaves else RstStreamFrame(head.stream_id)
            if how == "headers before":
                one.send(head)
                await one.heard()
                one.send(data, over)
            elif how == "at once":
                one.send(head, data, over)
            else:
                one.send(head, one.unknown, data, over)
            if leaves:
                assert await one.until(lambda frame: False) is None
            else:
                await one.well()
            assert app.chat.tell().total_requests == 0 and not mine.processor.streams and not mine.handler.tasks
            assert not caplog.records
            await other.well()

    run(scenario())


@pytest.mark.parametrize("bad", [{"method": "Nothing"}, {"extra": [("grpc-timeout", "soon")]}])
def test_a_refused_call_that_is_over_already_is_no_matter_for_the_others(serving, peer, run, caplog, bad):
    async def scenario():
        async with serving() as app, peer(app) as one:
            lasting = one.call("StreamChat", SLOW)
            head = one.headers(**bad)
            one.send(head, RstStreamFrame(head.stream_id))
            await one.well()
            one.send(RstStreamFrame(lasting))
            (protocol,) = app._grpc._server.connections
            while protocol.processor.streams:
                await asyncio.sleep(0.005)
            assert not caplog.records

    run(scenario())


def test_a_refused_call_is_told_also_one_who_leaves(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            head = one.headers("Nothing", end=True)
            one.send(head, GoAwayFrame(0, 0, ErrorCodes.NO_ERROR))
            assert await one.end(head.stream_id) == 12

    run(scenario())


def test_refused_calls_that_are_answered_and_reset_cost_a_peer_nothing(serving, peer, run):
    """So do gRPC's own clients where the answer comes before they have said all."""

    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.heard()
            (protocol,) = app._grpc._server.connections
            protocol.connection.h2.budget = 20.0
            for _ in range(5):
                heads = [one.headers("Nothing") for _ in range(10)]
                one.send(*heads)
                for head in heads:
                    assert await one.end(head.stream_id) == 12
                one.send(*[RstStreamFrame(head.stream_id, error_code=ErrorCodes.NO_ERROR) for head in heads])
            await one.well()

    run(scenario())


def test_calls_with_too_many_headers_cost_a_peer_more_than_their_answers_bring(serving, peer, run, monkeypatch):
    monkeypatch.setattr("server.h2.BUDGET_FRAMES_PER_SECOND", 0.0)

    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.heard()
            (protocol,) = app._grpc._server.connections
            protocol.connection.h2.budget = 10.0
            await one.flood(b"".join(one.headers(extra=[("x-long", "a" * 2**14)]).serialize() for _ in range(20)))
            assert await one.goaway() is ErrorCodes.ENHANCE_YOUR_CALM

    run(scenario())


def test_first_steps_that_wait_for_the_same_or_are_cancelled_end_like_any(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            first = asyncio.get_running_loop().create_future()

            async def waits(call):
                await first
                await call.send_message(chat_pb2.ListModelsResponse())

            served(app, waits)
            heads = [one.headers() for _ in range(2)]
            ends = [DataFrame(head.stream_id, frame(b""), flags=["END_STREAM"]) for head in heads]
            one.send(*heads, *ends)
            await one.heard()
            first.set_result(None)
            for head in heads:
                assert await one.end(head.stream_id) == 0
            first = asyncio.get_running_loop().create_future()
            first.cancel()
            assert await one.end(one.call()) is ErrorCodes.CANCEL
            assert await one.end(one.call("CreateSession")) == 0

    run(scenario())


def test_a_call_that_is_reset_as_soon_as_it_has_begun_is_cancelled_where_it_waits(serving, peer, run):
    seen = []

    async def waits(call):
        try:
            await asyncio.get_running_loop().create_future()
        except BaseException as failure:
            seen.append(type(failure))
            await asyncio.sleep(0)  # as one who has something to undo
            seen.append("undone")
            raise

    async def scenario():
        async with serving() as app, peer(app) as one:
            served(app, waits)
            await one.heard()
            (protocol,) = app._grpc._server.connections
            head = one.headers()
            data = DataFrame(head.stream_id, frame(b""), flags=["END_STREAM"])
            one.send(head, data, one.unknown, RstStreamFrame(head.stream_id))
            await one.heard()
            while protocol.processor.streams:
                await asyncio.sleep(0.005)
            assert seen == [asyncio.CancelledError, "undone"]
            assert not protocol.handler.tasks
            await one.heard()

    run(scenario())


def test_a_half_closed_chat_that_is_reset_while_its_reader_is_paused_follows_nothing_any_more(serving, peer, run):
    long = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=2000&rate=0").SerializeToString()

    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 3000}) as one:
            stream = one.call("Chat", long)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            await one.heard()
            assert app.chat.stats.open_streams == 1
            one.send(RstStreamFrame(stream, error_code=ErrorCodes.CANCEL))
            await one.heard()
            while app.chat.stats.open_streams:
                await asyncio.sleep(0.005)

    run(scenario())


@pytest.mark.parametrize(("method", "request_"), [("ListSessions", b""), ("Chat", PING)])
def test_a_window_that_opens_before_the_task_s_first_step_is_not_overlooked(serving, peer, run, method, request_):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 0}) as one:
            await one.heard()
            head = one.headers(method)
            stream = head.stream_id
            data = DataFrame(stream, frame(request_), flags=["END_STREAM"])
            one.send(head, data, one.unknown, WindowUpdateFrame(stream, window_increment=2**14))
            async with asyncio.timeout(10):
                assert await one.end(stream) == 0

    run(scenario())


def test_a_call_that_is_no_post_has_no_status_of_grpc(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            head = one.headers(extra=[(":method", "GET")], without=(":method",), end=True)
            one.send(head)
            answer = await one.until(lambda frame: isinstance(frame, HeadersFrame))
            assert answer.fields[":status"] == "405" and "grpc-status" not in answer.fields
            await one.well()

    run(scenario())


def test_a_bug_below_the_service_is_logged_and_told(serving, peer, run, caplog):
    async def broken(call):
        raise RuntimeError("the secret inside")

    async def says_nothing(call):
        return

    async def scenario():
        async with serving() as app, peer(app) as one:
            for call, logged in ((broken, "the secret inside"), (says_nothing, "requires a single message")):
                served(app, call)
                assert await one.end(one.call()) == 2
                assert logged in caplog.text
            assert "secret" not in str([frame.fields for frame in one.frames if isinstance(frame, HeadersFrame)])
            assert await one.end(one.call("CreateSession")) == 0

    run(scenario())


@pytest.mark.parametrize("fails", [True, False])
def test_a_peer_that_has_left_is_no_bug(serving, peer, run, caplog, fails):
    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.heard()
            (protocol,) = app._grpc._server.connections

            async def leaves(*_, **__):
                protocol._transport.abort()
                if fails:
                    raise ChatError("not_found", "It is gone, and so is who asks for it.")
                return SessionList(0, [], None)

            app.chat.sessions = leaves
            one.call("ListSessions")
            assert await one.until(lambda frame: False) is None
            assert not caplog.records

    run(scenario())


def test_what_ends_a_call_in_its_first_step_ends_it_where_it_waits(run):
    error = GRPCError(Status.UNAVAILABLE)

    async def method(ending, seen):
        with ending:
            ending.cancel(error)
            seen.append("went on")
            await asyncio.get_running_loop().create_future()

    async def scenario():
        ending, seen = Ending(), []
        first = method(ending, seen)
        tasks = []

        def begin():  # outside of a task
            tasks.append(loop.create_task(RestOf(first, first.send(None))))
            ending.goes_on_in(tasks[0])

        loop = asyncio.get_running_loop()
        loop.call_soon(begin)
        await asyncio.sleep(0)
        with pytest.raises(GRPCError):
            await tasks[0]
        assert seen == ["went on"]

    run(scenario())


def test_what_ends_a_call_does_not_touch_what_comes_behind_its_method(run):
    error = GRPCError(Status.UNAVAILABLE)

    async def scenario():
        ending = Ending()
        with pytest.raises(GRPCError), ending:
            ending.cancel(error)
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # would be cancelled
        ending.cancel(error)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(scenario())


@pytest.mark.parametrize("early", [True, False])
def test_what_ends_a_call_whose_first_step_got_behind_its_method_does_not_keep_its_end_from_being_told(run, early):
    error = GRPCError(Status.UNAVAILABLE)

    async def told(ending, socket):
        try:
            with ending:
                if early:
                    ending.cancel(error)
        except GRPCError:
            pass
        await socket
        return "told"

    async def scenario():
        loop, tasks, ending = asyncio.get_running_loop(), [], Ending()
        socket = loop.create_future()
        call = told(ending, socket)

        def begin():  # outside of a task
            tasks.append(loop.create_task(RestOf(call, call.send(None))))
            ending.goes_on_in(tasks[0])

        loop.call_soon(begin)
        await asyncio.sleep(0)
        if not early:
            ending.cancel(error)
        loop.call_soon(socket.set_result, None)
        assert await tasks[0] == "told"

    run(scenario())

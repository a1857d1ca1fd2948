"""gRPC calls while the connection's socket takes nothing."""

import asyncio

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, ExtensionFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from proto import chat_pb2
from proto.requests import ChatRequest

WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE
SLOW = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=9&rate=0.001").SerializeToString()


def outflow_of(app, stream):
    (protocol,) = app._grpc._server.connections
    return protocol, protocol.processor.streams[stream].outflow


@pytest.mark.parametrize("shut", [True, False])
def test_who_is_dropped_while_the_socket_is_full_takes_the_connection_along_unless_its_window_is_shut(
    serving, peer, run, shut
):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 0}) as one:
            stream = one.call("StreamChat", SLOW)
            while not app.chat.stats.open_streams:
                await asyncio.sleep(0.005)
            protocol, slow = outflow_of(app, stream)
            if not shut:
                one.send(WindowUpdateFrame(stream, window_increment=2**14))
                await one.until(lambda frame: isinstance(frame, DataFrame))
            one.reader._transport.pause_reading()
            protocol.connection.direct.write(one.unknown * 2**9)
            assert not protocol.connection.write_ready.is_set()
            slow.drop()
            one.reader._transport.resume_reading()
            if shut:
                assert await one.end(stream) is ErrorCodes.ENHANCE_YOUR_CALM
                one.send(SettingsFrame(0, settings={WINDOW: 2**16}))
                await one.well()
            else:
                assert await one.until(lambda frame: False) is None

    run(scenario())


@pytest.mark.parametrize("messages", [(b"long" * 5000, b"short"), (b"short", b"long" * 5000)])
def test_what_is_written_while_the_socket_is_full_stays_in_order(serving, peer, run, messages):
    """The long one does not fit into the room that was taken in advance, the short one would."""

    async def scenario():
        async with serving() as app, peer(app) as one:
            stream = one.call("StreamChat", SLOW)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            protocol, slow = outflow_of(app, stream)
            had = len(one.data(stream))
            protocol.pause_writing()
            for message in messages:
                slow.write(message)
                assert slow.waiting
            protocol.resume_writing()
            await one.until(lambda frame: one.data_bytes == had + 20_005)
            assert one.data(stream)[had:] == b"".join(messages)

    run(scenario())


def test_a_call_whose_window_is_shut_has_no_part_in_what_the_peer_takes(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 0}) as one:
            stream = one.call("StreamChat", SLOW)
            while not app.chat.stats.open_streams:
                await asyncio.sleep(0.005)
            protocol, shut = outflow_of(app, stream)
            assert shut.waiting
            taken = shut.taken()
            for opened in (False, True):
                if opened:
                    one.send(WindowUpdateFrame(stream, window_increment=1))
                    await one.until(lambda frame: isinstance(frame, DataFrame))
                    assert taken < shut.taken()
                    one.send(WindowUpdateFrame(stream, window_increment=2**14))
                    await one.heard()
                    taken = shut.taken()
                one.reader._transport.pause_reading()
                protocol.connection.direct.write(one.unknown * 2**9)
                assert not protocol.connection.write_ready.is_set()
                one.reader._transport.resume_reading()
                one.frames.clear()
                await one.until(lambda frame: protocol.connection.write_ready.is_set())
                assert (taken < shut.taken()) is opened

    run(scenario())


def test_who_has_yet_to_take_the_end_of_an_answer_is_not_left(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.well()
            (protocol,) = app._grpc._server.connections
            one.reader._transport.pause_reading()
            protocol.connection.direct.write(one.unknown * 2**9)
            protocol.drain()
            protocol._leave()
            assert not protocol.connection.is_closing()
            one.reader._transport.resume_reading()
            assert await one.goaway() is ErrorCodes.NO_ERROR
            assert len([frame for frame in one.frames if isinstance(frame, ExtensionFrame)]) == 2**9

    run(scenario())


def test_what_h2_has_to_say_is_not_taken_for_less_progress(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.well()
            (protocol,) = app._grpc._server.connections
            one.reader._transport.pause_reading()
            protocol.connection.direct.write(one.unknown * 2**9)
            assert not protocol.connection.write_ready.is_set()
            taken = protocol.connection.direct.taken()
            protocol.connection.h2.ping(b"12345678")
            protocol.connection.flush()
            assert protocol.connection.direct.taken() == taken

    run(scenario())


def test_a_large_answer_goes_on_when_its_window_opened_while_the_socket_was_full(serving, peer, run, monkeypatch):
    monkeypatch.setattr("proto.grpc_stream.STALL_SECONDS", 3.0)

    async def scenario():
        async with serving() as app, peer(app, {WINDOW: 2**14}) as one:
            turn = await app.chat.send(ChatRequest("Hi", "s", "demo?chunks=20000&rate=0"), "rest", "me")
            await turn.ended()
            await one.well()
            (protocol,) = app._grpc._server.connections
            connection, flush = protocol.connection, protocol.connection.flush

            def flush_into_a_full_socket():
                flush()
                stream = connection.h2.streams.get(call)
                if stream is not None and stream.outbound_flow_control_window == 0:
                    protocol.pause_writing()

            connection.flush = flush_into_a_full_socket
            call = one.call("GetHistory", chat_pb2.HistoryRequest(session_id="s").SerializeToString())
            while connection.write_ready.is_set():
                await asyncio.sleep(0.005)
            for stream in (call, 0):
                one.send(WindowUpdateFrame(stream, window_increment=2**24))
            await one.heard()
            protocol.resume_writing()
            assert await one.end(call) == 0
            assert len(one.data(call)) > 2**16

    run(scenario())


def test_a_call_that_is_reset_while_the_socket_is_full_ends_with_its_connection(serving, peer, run):
    async def scenario():
        async with serving(resume_grace=0.05) as app, peer(app, {WINDOW: 2**31 - 1}) as one:
            one.send(WindowUpdateFrame(0, window_increment=2**30))
            one.reader._transport.pause_reading()
            request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=90000&rate=0")
            stream = one.call("StreamChat", request.SerializeToString())
            while not app.chat.stats.open_streams:
                await asyncio.sleep(0.005)
            (protocol,) = app._grpc._server.connections
            while protocol.connection.write_ready.is_set():
                await asyncio.sleep(0.005)
            (task,) = protocol.handler.tasks
            one.send(RstStreamFrame(stream, error_code=ErrorCodes.CANCEL))
            while app.chat.stats.open_streams:
                await asyncio.sleep(0.005)
            one.writer.transport.abort()
            await task
            assert not protocol.handler.tasks

    run(scenario())


def test_refusals_and_deadlines_are_told_when_the_socket_takes_them(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.well()
            (protocol,) = app._grpc._server.connections
            protocol.pause_writing()
            soon = [("grpc-timeout", "1m")]
            calls = [(one.call(method, extra=soon), end) for method, end in (("Nothing", 12), ("ListSessions", 4))]
            one.send(PingFrame(0, b"behind.."))
            await one.until(lambda frame: isinstance(frame, PingFrame))
            while protocol.processor.streams[calls[1][0]].deadline.when() > asyncio.get_running_loop().time():
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            protocol.resume_writing()
            for call, end in calls:
                assert await one.end(call) == end

    run(scenario())

"""Hostile and clumsy HTTP/2, frame by frame: the offender gets the right answer, everybody else is served."""

import asyncio
import contextlib
import struct
from dataclasses import replace

import pytest
from grpclib.const import Status
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from proto import chat_pb2, pb
from proto.grpc_web import frame
from proto.h2 import CONFIG, MAX_CONCURRENT_STREAMS, MAX_HEADER_TABLE_BYTES
from server.listen import PREFACE

WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE
LIST = "ListModels"


def floods():
    def resets(one):
        head = [one.headers() for _ in range(20_000)]
        return b"".join(frame.serialize() + RstStreamFrame(frame.stream_id).serialize() for frame in head)

    def opened(one):
        return b"".join(one.headers().serialize() for _ in range(20_000))

    def continuations(one):
        return HeadersFrame(1, b"").serialize() + ContinuationFrame(1, b"").serialize() * 20_000

    def long_headers(one):
        bomb = one.encoder.encode([("bomb", "x" * 4000)])
        block = bomb + b"\xbe" * 10_000  # the same field again and again, of one byte each
        return HeadersFrame(1, block, flags=["END_HEADERS"]).serialize()

    def updates(one):
        return WindowUpdateFrame(0, window_increment=1).serialize() * 200_000

    def after_call(frames):
        return lambda one: one.headers().serialize() + frames.serialize() * 20_000

    return {
        "rapid reset": resets,
        "streams": opened,
        "ping": lambda one: PingFrame(0, b"12345678").serialize() * 200_000,
        "ping ack": lambda one: PingFrame(0, b"12345678", flags=["ACK"]).serialize() * 20_000,
        "settings": lambda one: SettingsFrame(0, settings={WINDOW: 5}).serialize() * 20_000,
        "empty data": after_call(DataFrame(1, b"")),
        "padded data": after_call(DataFrame(1, b"", pad_length=0, flags=["PADDED"])),
        "priority": after_call(PriorityFrame(1, depends_on=3)),
        "window update": updates,
        "unknown frames": lambda one: bytes([0, 0, 0, 99, 0, 0, 0, 0, 0]) * 20_000,
        "continuation": continuations,
        "header bomb": long_headers,
    }


@pytest.mark.parametrize("flood", floods())
def test_a_flood_is_answered_by_goaway_and_others_are_served(serving, peer, run, monkeypatch, flood):
    # One that does not read is cut off; the others have the time to read why, on a busy machine too, and go then.
    monkeypatch.setattr("proto.h2.LINGER_SECONDS", 0.5 if flood == "ping" else 10)

    async def scenario():
        async with serving() as app, peer(app) as good, peer(app) as bad:
            await good.well()
            sending = asyncio.ensure_future(bad.flood(floods()[flood](bad)))
            await good.well()
            if flood != "ping":  # whose sender does not read
                assert await bad.goaway() is ErrorCodes.ENHANCE_YOUR_CALM
                bad.writer.transport.abort()
            await sending
            await good.well()
            while len(app._grpc._server.connections) > 1:
                await asyncio.sleep(0.01)
            (left,) = app._grpc._server.connections
            assert not left.handler.tasks and not left.processor.streams

    run(scenario())


@pytest.mark.parametrize("asked", ["streams", "answers"])
def test_who_measures_the_line_with_each_message_is_served(serving, peer, run, asked):
    """As grpc-go does: a PING and the room for more behind all that comes, be it thousands of messages a second."""

    async def scenario():
        async with serving() as app, peer(app) as one:
            pings = 0

            def measures(frame):
                nonlocal pings
                if isinstance(frame, (DataFrame, HeadersFrame)):
                    one.send(PingFrame(0, b"12345678"))
                    pings += 1
                if isinstance(frame, DataFrame) and frame.data:
                    one.send(WindowUpdateFrame(0, window_increment=len(frame.data)))
                return "END_STREAM" in frame.flags

            async def take(calls):
                for _ in range(calls):
                    assert await one.until(measures) is not None, pings
                    one.frames.clear()

            if asked == "streams":
                request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=200&rate=200").SerializeToString()
                for _ in range(20):
                    one.call("StreamChat", request)
                await take(20)
                assert pings > 4000
            else:
                for _ in range(30):
                    for _ in range(50):
                        one.call()
                    await take(50)
                assert pings > 4000
            await one.well()

    run(scenario())


def test_who_measures_the_line_with_each_of_the_shortest_messages_is_served(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            head = one.headers("Chat")
            one.send(head)
            await one.heard()
            (protocol,) = app._grpc._server.connections
            protocol.connection.h2.budget = 100
            ping = DataFrame(head.stream_id, frame(chat_pb2.ChatRequest(type="PING").SerializeToString()))
            for number in range(1000):
                one.send(ping)
                pong = await one.until(lambda frame: isinstance(frame, DataFrame))
                assert pong is not None, number
                one.frames.clear()
                one.send(PingFrame(0, b"12345678"), WindowUpdateFrame(0, window_increment=len(pong.data)))
            await one.well()

    run(scenario())


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([bytes([255, 255, 255, 0, 0, 0, 0, 0, 1])], ErrorCodes.FRAME_SIZE_ERROR),  # its length alone
        ([bytes([0, 0, 1, 6, 0, 0, 0, 0, 0, 1])], ErrorCodes.FRAME_SIZE_ERROR),  # PING of one byte
        ([DataFrame(1, b"x")], ErrorCodes.PROTOCOL_ERROR),  # on a stream that was never opened
        ([HeadersFrame(2, b"\x82", flags=["END_HEADERS"])], ErrorCodes.PROTOCOL_ERROR),  # a server's stream
        ([HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"])], None),  # no HPACK
        ([HeadersFrame(1, b"\x82"), DataFrame(1, b"x")], ErrorCodes.PROTOCOL_ERROR),  # inside of a header block
        ([WindowUpdateFrame(0, window_increment=2**31 - 1)], ErrorCodes.FLOW_CONTROL_ERROR),
        ([SettingsFrame(0, settings={WINDOW: 2**31})], ErrorCodes.FLOW_CONTROL_ERROR),
    ],
)
def test_what_is_not_http2_is_answered_by_goaway(serving, peer, run, frames, code):
    async def scenario():
        async with serving() as app, peer(app) as good, peer(app) as bad:
            bad.send(*frames)
            said = await bad.goaway()
            assert said is code if code is not None else said not in (None, ErrorCodes.NO_ERROR)
            await good.well()

    run(scenario())


def test_more_than_the_window_is_answered_by_goaway(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as good, peer(app) as bad:
            head = bad.headers("StreamChat")
            bad.send(head)
            frame = DataFrame(head.stream_id, b"\0" * 2**14).serialize()
            # A message of 4 MiB begins, but the stream's window is of 256 KiB, and nobody may run ahead of it.
            await bad.flood(DataFrame(head.stream_id, struct.pack(">BI", 0, 2**22)).serialize() + frame * 300)
            assert await bad.goaway() is ErrorCodes.FLOW_CONTROL_ERROR
            await good.well()

    run(scenario())


def test_a_preface_that_never_comes_or_never_ends(serving, peer, run, monkeypatch):
    monkeypatch.setattr("server.h2.GrpcServer.preface_seconds", 0.05)

    async def scenario():
        async with serving(grpc_port=0) as app:
            host, _, port = app.grpc_addresses[0].rpartition(":")
            for sent in (b"", PREFACE[:10], PREFACE):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(sent)
                with contextlib.suppress(ConnectionError):
                    while await reader.read(1000):
                        pass
                writer.transport.abort()
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert bytes(GoAwayFrame(0, error_code=ErrorCodes.PROTOCOL_ERROR).serialize()) in await reader.read()
            writer.transport.abort()
            while app._grpc._server.connections:
                await asyncio.sleep(0.01)

    run(scenario())


def test_too_many_streams_are_refused_and_the_others_live_on(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            heads = [one.headers("Chat") for _ in range(MAX_CONCURRENT_STREAMS + 1)]
            one.send(*heads)
            assert await one.end(heads[-1].stream_id) is ErrorCodes.REFUSED_STREAM
            first = heads[0].stream_id
            one.send(DataFrame(first, frame(chat_pb2.ChatRequest(type="PING").SerializeToString())))
            assert await one.until(lambda frame: isinstance(frame, DataFrame) and frame.stream_id == first)
            one.send(RstStreamFrame(heads[1].stream_id))
            one.send(PingFrame(0, b"12345678"))
            await one.until(lambda frame: isinstance(frame, PingFrame))
            await one.well()

    run(scenario())


def test_what_http2_says_to_ignore_is_ignored(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            one.send(bytes([0, 0, 4, 16, 0, 0, 0, 0, 0]) + b"u=1,", bytes([0, 0, 1, 99, 255, 0, 0, 0, 7, 0]))
            one.send(SettingsFrame(0, settings={0x99: 5}))
            one.send(PriorityFrame(9, depends_on=3))
            await one.well()

    run(scenario())


def test_a_client_that_goes_away_gets_the_rest(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one:
            request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=5&rate=50").SerializeToString()
            stream = one.call("StreamChat", request)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            one.send(GoAwayFrame(0, error_code=0), PingFrame(0, b"together"))
            pong = await one.until(lambda frame: isinstance(frame, PingFrame))
            assert pong.opaque_data == b"together"
            assert await one.end(stream) == 0
            (turn,) = app.chat._kept.turns.values()
            sent = [frame(pb.encode_event(event, turn.session_id)) for event in turn.log]
            assert one.data(stream) == b"".join(sent) and len(sent) == 8
            assert await one.goaway() is None  # the server closes, too

    run(scenario())


def test_a_drain_says_goaway_and_ends_what_runs(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app) as one, peer(app) as idle:
            await idle.well()
            request = chat_pb2.ChatRequest(message="x", model_id="demo?chunks=20&rate=40").SerializeToString()
            stream = one.call("StreamChat", request)
            await one.until(lambda frame: isinstance(frame, DataFrame))
            stopping = asyncio.create_task(app.stop(drain_seconds=20))
            goaway = await one.until(lambda frame: isinstance(frame, GoAwayFrame))
            assert ErrorCodes(goaway.error_code) is ErrorCodes.NO_ERROR
            assert await idle.goaway() is ErrorCodes.NO_ERROR
            assert await one.end(stream) == 0
            assert len(next(iter(app.chat._kept.turns.values())).log) == 23
            assert await one.goaway() is ErrorCodes.NO_ERROR
            await stopping

    run(scenario())


def test_a_call_that_is_on_the_way_when_the_server_leaves_is_answered(serving, peer, run, monkeypatch):
    monkeypatch.setattr("server.h2.LAST_CALL_SECONDS", 0.5)

    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.well()
            stopping = asyncio.create_task(app.stop())
            await one.until(lambda frame: isinstance(frame, GoAwayFrame))
            request = chat_pb2.ChatRequest(message="x").SerializeToString()
            assert await one.end(one.call("StreamChat", request)) == Status.UNAVAILABLE.value
            assert await one.goaway() is ErrorCodes.NO_ERROR
            await stopping

    run(scenario())


def test_what_a_peer_offers_to_remember_is_not_used(serving, peer, run):
    async def scenario():
        async with serving() as app, peer(app, {SettingsFrame.HEADER_TABLE_SIZE: 2**32 - 1}) as one:
            for first in range(100, 40_000, 2000):
                body = b"".join(struct.pack(">HI", code, 1) for code in range(first, first + 2000))
                one.send(len(body).to_bytes(3) + b"\4\0\0\0\0\0" + body)
            for size in (0, 2**32 - 1) * 50:
                one.send(SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: size}))
            await one.well()
            (connection,) = app._grpc._server.connections
            assert len(connection.connection.h2.remote_settings) < 10
            encoder = connection.connection.h2.encoder
            assert encoder.header_table_size <= MAX_HEADER_TABLE_BYTES and len(encoder.table_size_changes) <= 2
            for _ in range(300):
                await one.well()
            assert len(connection.connection.h2._closed_streams) + len(connection.connection.h2.streams) < 400

    run(scenario())


@pytest.mark.parametrize("sizes", [(0,), (100,), (0, 4096), (2**16,), (2**16, 100), (4096,)])
def test_a_peer_is_told_how_much_is_remembered_of_what_it_allows(serving, peer, run, sizes):
    def acknowledged(one):
        return sum(isinstance(frame, SettingsFrame) and "ACK" in frame.flags for frame in one.frames)

    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.well()
            one.send(*[SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: size}) for size in sizes])
            await one.until(lambda _: acknowledged(one) > len(sizes))
            one.decoder.max_allowed_table_size = sizes[-1]  # and it sees to that
            for _ in range(3):
                missing = one.call("FollowTurn", chat_pb2.FollowTurnRequest(turn_id="none").SerializeToString())
                assert await one.end(missing) == 5
                await one.well()
            (connection,) = app._grpc._server.connections
            encoder = connection.connection.h2.encoder
            assert encoder.header_table_size == one.decoder.header_table_size == min(sizes[-1], MAX_HEADER_TABLE_BYTES)
            assert not encoder.table_size_changes

    run(scenario())


@pytest.mark.parametrize("frozen", [True, False])
def test_a_peer_that_answers_no_ping_is_gone(serving, peer, run, monkeypatch, frozen):
    quick = replace(
        CONFIG, _keepalive_time=0.05, _keepalive_timeout=0.2, _http2_min_sent_ping_interval_without_data=0.01
    )
    monkeypatch.setattr("proto.h2.CONFIG", quick)

    async def scenario():
        async with serving() as app, peer(app) as one:
            for _ in range(10):
                ping = await one.until(lambda frame: isinstance(frame, PingFrame) and "ACK" not in frame.flags)
                if ping is None:
                    break
                one.frames.clear()
                if not frozen:
                    one.send(PingFrame(0, ping.opaque_data, flags=["ACK"]))
            assert (ping is None) is frozen

    run(scenario())


def test_an_idle_connection_is_closed(serving, peer, run, monkeypatch):
    monkeypatch.setattr("server.h2.GrpcServer.preface_seconds", 0.05)
    monkeypatch.setattr("server.h2.IDLE_SECONDS", 0.01)

    async def scenario():
        async with serving() as app, peer(app) as one:
            await one.well()
            assert await one.goaway() is ErrorCodes.NO_ERROR

    run(scenario())


def test_memory_stays_bounded(start_server, peer, run):
    """What the table of attacks costs a server process, measured from outside."""
    process = start_server()

    class App:
        http_url = process.url

    def resident_mb():
        with open(f"/proc/{process.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    async def scenario():
        async with peer(App) as good:
            await good.well()
            before = resident_mb()
            for name, flood in floods().items():
                async with peer(App) as bad:
                    await bad.flood(flood(bad))
                    if name == "ping":
                        assert resident_mb() - before < 30
            for _ in range(3):
                async with peer(App, {WINDOW: 0}) as bad:
                    head = bad.headers("StreamChat")
                    bad.send(head, DataFrame(head.stream_id, struct.pack(">BI", 0, 300 * 2**20)))
                    await bad.flood(DataFrame(head.stream_id, bytes(2**14)).serialize() * 1000)
            await good.well()
            assert resident_mb() - before < 30

    run(scenario())

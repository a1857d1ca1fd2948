"""A peer that is gone at the worst moment: the log has no traceback."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hyperframe.frame import DataFrame
from websockets.asyncio.client import connect

from proto import chat_pb2
from proto.grpc_web import frame
from proto.h2 import CONFIG
from proto.requests import ChatRequest
from server.listen import PREFACE


@contextlib.asynccontextmanager
async def silent(app: Any, kind: str) -> AsyncIterator[tuple[socket.socket, Any]]:
    """A peer that has said enough to be known as one of this kind, and the server's end of its connection."""
    host, port = app.http_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(peer, b"GET /health HTTP/1.1\r\n" if kind == "http" else PREFACE)
        server = app._runner.server if kind == "http" else app._grpc._server
        while not server.connections:
            await asyncio.sleep(0.005)
        (protocol,) = server.connections
        yield peer, protocol


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_peer_that_goes_just_when_there_is_room_again(run: Any, serving: Any, caplog: Any, kind: str) -> None:
    """asyncio would lose the connection twice, and say so with a traceback."""

    async def test() -> None:
        async with serving() as app, silent(app, kind) as (peer, protocol):
            transport, resumed = protocol.transport if kind == "http" else protocol._transport, asyncio.Event()

            def resume() -> None:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
                transport.write(b"more")
                resumed.set()

            if kind == "http":
                protocol.sink = SimpleNamespace(pause=lambda: None, resume=resume, lost=lambda: None)
            else:
                protocol._go_on = resume
            transport.write(bytes(2**23))
            while not resumed.is_set():
                with contextlib.suppress(BlockingIOError):
                    peer.recv(2**20)
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
        assert "Exception in callback" not in caplog.text

    run(test())


@pytest.mark.parametrize("closed", [False, True])
def test_a_peer_that_says_no_more_but_reads_on(run: Any, serving: Any, caplog: Any, closed: bool) -> None:
    """It gets everything. A connection that is `closed` at this end goes when it has taken what waits: in the middle
    of asyncio's write."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with serving() as app:
            turn = await app.chat.send(ChatRequest("Hi", None, "demo?chunks=30000&rate=0"), "rest", "me")
            await turn.ended()
            host, port = app.http_url.removeprefix("http://").split(":")
            request = f"GET /turns/{turn.id} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n"
            with socket.create_connection((host, int(port))) as peer:
                peer.setblocking(False)
                await loop.sock_sendall(peer, request.encode())
                while not any(protocol.writing_paused for protocol in app._runner.server.connections):
                    await asyncio.sleep(0.005)
                (protocol,) = app._runner.server.connections
                if closed:
                    protocol.transport.close()
                peer.shutdown(socket.SHUT_WR)
                body = b""
                while data := await loop.sock_recv(peer, 2**16):
                    body = body[-1000:] + data
                assert closed or b'"type":"complete"' in body
            await asyncio.sleep(0.01)
        assert "Traceback" not in caplog.text

    run(test())


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_peer_that_has_caught_up_is_written_to_at_once_again(run: Any, serving: Any, kind: str) -> None:
    async def test() -> None:
        async with serving() as app, silent(app, kind) as (peer, protocol):
            direct = protocol.direct if kind == "http" else protocol.connection.direct
            assert direct.at_once
            direct.write(bytes(2**23))
            assert not direct.at_once
            while not direct.at_once:
                await asyncio.get_running_loop().sock_recv(peer, 2**20)

    run(test())


@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/health"])
def test_peers_that_ask_and_leave_are_no_bug(run: Any, serving: Any, dial: Any, bugs: Any, path: str) -> None:
    async def test() -> None:
        async with serving(model="demo?chunks=90000&rate=40", resume_grace=0.02) as app, dial(app) as other:
            for abort in (True, False) * 5:
                async with dial(app) as wire:
                    wire.request("GET" if path == "/health" else "POST", path, {"message": "Hello"})
                    if abort:
                        await asyncio.sleep(0)  # until it is sent
                        wire.writer.transport.abort()
                    elif path == "/chat/stream":
                        wire.writer.close()
                    else:
                        wire.writer.write_eof()
                        assert b"internal" not in await wire.reader.read()
            assert (await other.ask("GET", "/health")).status == 200
            while app.chat.tell().running_turns:  # nobody reads them: their grace time is up
                await asyncio.sleep(0.01)

    run(test())


def test_websockets_that_vanish_are_no_bug(run: Any, serving: Any, script: Any, caplog: Any) -> None:
    async def scene() -> None:
        model = script()
        async with serving(providers=[model], model="scripted", resume_grace=0.05) as app:
            for moment in range(6):
                async with connect(app.http_url.replace("http", "ws") + "/ws") as peer:
                    for _ in range(moment):
                        await peer.send('{"type": "chat", "message": "Hi"}')
                    peer.transport.abort()
            while app.chat.stats.websockets or app.chat.tell().running_turns:
                await asyncio.sleep(0.01)

    run(scene())
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_member_that_vanishes_over_grpc_is_no_bug_and_nobody_elses_trouble(
    run: Any, serving: Any, peer: Any, monkeypatch: Any, bugs: Any
) -> None:
    """It answers no ping, and is given up; for a moment its call lives on, and is shown what others ask."""
    quick = replace(
        CONFIG, _keepalive_time=0.05, _keepalive_timeout=0.1, _http2_min_sent_ping_interval_without_data=0.01
    )
    monkeypatch.setattr("proto.h2.CONFIG", quick)
    monkeypatch.setattr("proto.h2.LINGER_SECONDS", 5.0)

    async def scene() -> None:
        async with serving() as app, peer(app) as member:
            session = await app.chat.new_session("demo?chunks=50&rate=0")
            head = member.headers("Chat")
            join = chat_pb2.ChatRequest(type=chat_pb2.ChatRequest.JOIN, session_id=session.id)
            member.send(head, DataFrame(head.stream_id, frame(join.SerializeToString())))
            while not session.members:
                await asyncio.sleep(0.005)
            (protocol,) = app._grpc._server.connections
            while not protocol.connection.is_closing():
                await asyncio.sleep(0.005)
            for _ in range(2):
                turn = await app.chat.send(ChatRequest("Hello", session.id), "rest", "me")
                await turn.ended()
                assert (turn.state, turn.chunk_count) == ("complete", 50)
            assert session.members, "it was a member all the time"

    run(scene())

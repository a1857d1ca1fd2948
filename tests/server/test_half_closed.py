"""A client that says no more, and reads on, as `nc -N` does; and one that has left, which looks the same."""

import asyncio
import json
import socket
import ssl
from typing import Any

import pytest
from websockets.asyncio.client import connect

from proto import grpc_web
from server import body
from server.models import End
from server.models.demo import Demo
from tests.server.transports.streams import NDJSON, SSE, until

QUICK = "demo?chunks=20&rate=400"
CHAT = b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def gone(app: Any) -> None:
    """The server has let go of every connection."""
    while app._http_connections():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("path", "accept", "last"),
    [
        ("/chat", "*/*", '"finish_reason":"stop"'),
        ("/chat/stream", NDJSON, '"type":"complete"'),
        ("/chat/stream", SSE, '"type":"complete"'),
    ],
)
def test_an_answer_comes_whole(
    run: Any, serving: Any, dial: Any, bugs: Any, version: str, path: str, accept: str, last: str
) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            head = f"POST {path} HTTP/{version}\r\nHost: x\r\nAccept: {accept}\r\nContent-Type: application/json\r\n"
            wire.send(head.encode() + b'Content-Length: 19\r\n\r\n{"message":"Hello"}')
            wire.writer.write_eof()
            answer = await wire.head()
            assert answer.status == 200
            if path == "/chat":  # from Python 3.12 on a stream's head has left before that is known
                assert answer.headers["connection"] == "close"
            said = (await wire.reader.read()).decode()
            assert last in said and (path == "/chat" or said.count('"type":"chunk"') == 20)
            await gone(app)

    run(test())


def test_what_was_asked_before_is_answered_in_its_turn(run: Any, serving: Any, dial: Any, bugs: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            for _ in range(2):
                wire.request("POST", "/chat/stream", {"message": "Hello"})
                wire.request("GET", "/health")
            wire.send(b"GET /health HT")  # the beginning of one more
            wire.writer.write_eof()
            answers = [await wire.answer() for _ in range(4)]
            assert [answer.status for answer in answers] == [200] * 4
            assert [answer.headers.get("connection") for answer in answers] == [
                "keep-alive",
                None,
                "keep-alive",
                "close",
            ]
            assert await wire.reader.read() == b""
            await gone(app)

    run(test())


UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket"}


@pytest.mark.parametrize("path", ["/health", "/chat/stream"])
@pytest.mark.parametrize("behind", [0, 1, 2])
@pytest.mark.parametrize("first", [{}, UPGRADE])
def test_an_upgrade_that_is_declined_is_answered_and_what_comes_behind_it(
    run: Any, serving: Any, dial: Any, bugs: Any, script: Any, path: str, behind: int, first: Any
) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models, Demo()]) as app, dial(app) as wire:
            wire.request("POST", "/chat", {"message": "Hello"}, **first)
            body = {"message": "Hello", "model_id": QUICK} if path == "/chat/stream" else None
            wire.request("POST" if body else "GET", path, body, **UPGRADE)
            for _ in range(behind):
                wire.request("GET", "/health")
            wire.writer.write_eof()
            asked = await models.asked()
            while not app._http_connections()[0].half_closed:
                await asyncio.sleep(0)
            asked.say("Well.", End())
            answers = [await wire.answer() for _ in range(2 + behind)]
            assert [answer.status for answer in answers] == [200] * (2 + behind)
            assert answers[-1].headers["connection"] == "close" and await wire.reader.read() == b""
            await gone(app)

    run(test())


@pytest.mark.parametrize("pause", [0, 0.02])
def test_it_comes_in_the_middle_of_a_stream(run: Any, serving: Any, dial: Any, script: Any, pause: float) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "Hello"})
            await wire.head()
            asked = await models.asked()
            asked.say("one ")
            wire.writer.write_eof()
            await asyncio.sleep(pause)
            asked.say("two ", End("three"))
            said = b""
            while piece := await wire.chunk():
                said += piece
            assert json.loads(said.splitlines()[-1])["total_chunks"] == 3
            assert await wire.reader.read() == b"", "it is closed, though its head did not say so"
            await gone(app)

    run(test())


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /hea",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
        b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_who_has_asked_for_nothing_is_let_go_at_once(
    run: Any, serving: Any, dial: Any, bugs: Any, said: bytes, before: bool
) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            if before:
                assert (await wire.ask("GET", "/health")).status == 200
            wire.send(said)
            await asyncio.sleep(0.02)
            wire.writer.write_eof()
            async with asyncio.timeout(2):
                assert await wire.reader.read() == b""
                await gone(app)

    run(test())


def test_a_whole_answer_has_the_grace_time_left_for_nothing_tells_whether_anybody_waits(
    run: Any, serving: Any, dial: Any, script: Any
) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models], resume_grace=0.05) as app, dial(app) as wire:
            wire.request("POST", "/chat", {"message": "Hello"})
            asked = await models.asked()
            asked.say("as far as ")
            asked.say("it came")
            wire.writer.write_eof()
            await asked.stopped.wait()
            answer = (await wire.answer()).json
            assert (answer["response"], answer["finish_reason"]) == ("as far as it came", "cancelled")
            await gone(app)

    run(test())


def test_somebody_else_may_attend_meanwhile(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with (
            serving(model="script", providers=[models], resume_grace=0.02) as app,
            dial(app) as wire,
            dial(app) as other,
        ):
            wire.request("POST", "/chat", {"message": "Hello"})
            asked = await models.asked()
            (turn_id,) = app.chat._running
            other.request("GET", f"/turns/{turn_id}", Accept=SSE)
            await other.head()
            wire.writer.write_eof()
            await asyncio.sleep(0.1)
            asked.say("still ", End("here"))
            assert (await wire.answer()).json["response"] == "still here"

    run(test())


@pytest.mark.parametrize("pause", [0, 0.05])
def test_a_silent_stream_has_two_signs_of_life_by_which_it_is_known_whether_anybody_reads(
    run: Any, serving: Any, dial: Any, script: Any, monkeypatch: Any, pause: float
) -> None:
    monkeypatch.setattr(body, "PROBE_SECONDS", 0.02)

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "Hello"}, Accept=SSE)
            await asyncio.sleep(pause)
            wire.writer.write_eof()
            await wire.head()
            await until(wire, SSE, 2)
            asked = await models.asked()
            assert [await wire.chunk() for _ in range(2)] == [b": keep-alive\n\n"] * 2
            await asyncio.sleep(0.1)
            asked.say(End("and then"))
            assert b"keep-alive" not in await wire.reader.read()
            await gone(app)

    run(test())


@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/chat.ChatService/StreamChat"])
def test_who_has_left_is_noticed(
    run: Any, serving: Any, dial: Any, bugs: Any, script: Any, monkeypatch: Any, path: str
) -> None:
    """It has read everything, so that its system says no more than one that reads on would, until it is written to."""
    monkeypatch.setattr(body, "PROBE_SECONDS", 0.02)

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models], resume_grace=0.05) as app, dial(app) as wire:
            if path.startswith("/chat.ChatService"):
                message = grpc_web.frame(b'{"message": "Hello"}')
                wire.request("POST", path, message, Content_Type="application/grpc-web+json")
            else:
                wire.request("POST", path, {"message": "Hello"})
            asked = await models.asked()
            if path != "/chat":
                await wire.head()
                await wire.chunk()
            wire.writer.close()
            async with asyncio.timeout(2):
                await asked.stopped.wait()
                await gone(app)

    run(test())


SHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_websocket_is_closed_as_it_always_was(run: Any, serving: Any, dial: Any, bugs: Any) -> None:
    async def test() -> None:
        async with serving() as app:
            async with connect(app.http_url.replace("http", "ws") + "/ws") as peer:
                await peer.recv()
                peer.transport.write_eof()
                async with asyncio.timeout(2):
                    await gone(app)
            async with dial(app) as wire:
                wire.send(SHAKE)
                wire.writer.write_eof()
                async with asyncio.timeout(2):
                    await wire.reader.read()
                    await gone(app)
            assert app.chat.stats.websockets == 0

    run(test())


def test_a_websocket_is_not_opened_for_who_says_no_more(
    run: Any, serving: Any, dial: Any, script: Any, bugs: Any
) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            wire.request("POST", "/chat", {"message": "Hello"})
            wire.send(SHAKE)
            wire.writer.write_eof()
            asked = await models.asked()
            while not app._http_connections()[0].half_closed:
                await asyncio.sleep(0)
            asked.say("Well.", End())
            assert (await wire.answer()).json["response"] == "Well."
            assert await wire.reader.read() == b"" and app.chat.stats.websockets == 0
            await gone(app)

    run(test())


def test_tls_has_no_half_close(run: Any, serving: Any, certificate: Any, bugs: Any, script: Any, caplog: Any) -> None:
    """asyncio would warn of it, and close all the same."""

    def ask_and_say_goodbye(port: int) -> bytes:
        context = ssl.create_default_context(cafile=certificate[0])
        plain = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(plain, server_hostname="localhost") as peer:
            peer.sendall(CHAT + b'Content-Length: 16\r\n\r\n{"message":"Hi"}')
            with peer.unwrap() as plain:
                return plain.recv(100)

    async def test() -> None:
        models = script()
        async with serving(
            model="script", providers=[models], resume_grace=0.05, tls_cert=certificate[0], tls_key=certificate[1]
        ) as app:
            port = int(app.http_url.rpartition(":")[2])
            assert await asyncio.to_thread(ask_and_say_goodbye, port) == b""
            await (await models.asked()).stopped.wait()
            await gone(app)
        assert "eof_received" not in caplog.text

    run(test())

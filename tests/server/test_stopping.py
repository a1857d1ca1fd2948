"""How the server leaves: what runs, what has begun and what is on the way is answered; nobody holds it up for long."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.models import End
from tests.server.test_known_head import ASKED, HEALTH, watched

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(start_server: Any, run: Any, dial: Any, number: signal.Signals) -> None:
    server = start_server()

    async def test() -> None:
        async with dial(server) as one, dial(server) as two:
            one.request("POST", "/chat/stream", {"message": "Hello", "model_id": "demo?chunks=40&rate=40"})
            await one.head()
            while b'"chunk"' not in await one.chunk():
                pass
            server.process.send_signal(number)
            while (health := await two.ask("GET", "/health")).status == 200:
                pass
            assert (health.status, health.json["status"]) == (503, "draining")
            async with dial(server) as new:
                refused = await new.ask("POST", "/chat", {"message": "More"})
                assert (refused.status, refused.json["code"]) == (503, "unavailable")
                assert refused.headers["connection"] == "close"
            last = b""
            while piece := await one.chunk():
                last = piece
            end = json.loads(last)
            assert (end["type"], end["finish_reason"], end["total_chunks"]) == ("complete", "stop", 40)

    run(test())
    server.process.communicate(timeout=20)
    assert server.process.returncode == 0


def test_an_interrupt_while_it_starts_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "server", "--port", "0", "--grpc-port", "off", "--store", "memory"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "asyncio.events" not in (line := process.stderr.readline()):  # each module that is imported is told there
        assert line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    told = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, told) == (130, [])


def test_a_second_signal_ends_it_at_once(start_server: Any, run: Any, dial: Any) -> None:
    server = start_server()

    async def test() -> None:
        async with dial(server) as one, dial(server) as two:
            one.request("POST", "/chat/stream", {"message": "Hello", "model_id": "demo?chunks=5000&rate=40"})
            await one.head()
            server.process.send_signal(signal.SIGTERM)
            while (await two.ask("GET", "/health")).status == 200:
                pass

    run(test())
    assert server.stop()[0] == 1


def test_a_turn_that_outlasts_the_drain_is_cancelled_with_its_text_kept(
    run: Any, serving: Any, dial: Any, script: Any, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'chat.db'}"

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models], store=store) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "Hello", "session_id": "s"})
            await wire.head()
            (await models.asked()).say("kept")
            while b"kept" not in await wire.chunk():
                pass
            await app.stop(drain_seconds=0.05)
            body = b""
            while piece := await wire.chunk():
                body += piece
            assert json.loads(body.splitlines()[-1])["finish_reason"] == "cancelled"
        async with serving(model="script", providers=[script(End())], store=store) as app, dial(app) as wire:
            messages = (await wire.ask("GET", "/sessions/s")).json["messages"]
            assert [message["text"] for message in messages] == ["Hello", "kept"]

    run(test())


@pytest.mark.parametrize("first", [5, 30, -5])
def test_a_request_that_has_begun_when_it_stops_is_answered(run: Any, serving: Any, dial: Any, first: int) -> None:
    """Torn in its first line, its head or its body; on a connection that has had an answer."""
    body = json.dumps({"message": "Hello"}).encode()
    head = f"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            assert (await wire.ask("GET", "/health")).status == 200
            (connection,) = app._http_connections()
            while not connection.idle:
                await asyncio.sleep(0.005)
            wire.send(request[:first])
            while connection.idle:
                await asyncio.sleep(0.005)
            stopping = asyncio.create_task(app.stop())
            await asyncio.sleep(0.05)
            assert not stopping.done()
            wire.send(request[first:])
            answer = await wire.answer()
            assert (answer.status, answer.json["code"], answer.headers["connection"]) == (503, "unavailable", "close")
            await stopping

    run(test())


@pytest.mark.parametrize("together", [False, True])
def test_a_request_that_begins_while_another_is_handled_is_answered(
    run: Any, serving: Any, dial: Any, script: Any, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    come = watched(monkeypatch, "data_received")

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            wire.send(ASKED + HEALTH[:20] * together)
            asked = await models.asked()
            if not together:
                wire.send(HEALTH[:20])
                while len(come) < 2:
                    await asyncio.sleep(0)
            asked.say("Well.", End())
            assert (await wire.answer()).json["response"] == "Well."
            stopping = asyncio.create_task(app.stop())
            await asyncio.sleep(0.05)
            assert not stopping.done()
            wire.send(HEALTH[20:])
            answer = await wire.answer()
            assert (answer.status, answer.json["status"], answer.headers["connection"]) == (503, "draining", "close")
            await stopping

    run(test())


NOPE = b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
CHUNKED = (
    ASKED.replace(b"Content-Length: 16", b"Transfer-Encoding: chunked").replace(b"{", b"10\r\n{") + b"\r\n0\r\n\r\n"
)


def singly(data: bytes) -> list[bytes]:
    """Every byte on its own, but for those by which HTTP/2 is told from it."""
    return [data[:3], *(data[place : place + 1] for place in range(3, len(data)))]


@pytest.mark.parametrize(
    ("pieces", "answers"),
    [
        ([HEALTH], 1),
        ([HEALTH + HEALTH], 2),
        ([HEALTH, b"\r\n"], 1),
        (singly(HEALTH), 1),
        ([HEALTH[:-2], HEALTH[-2:] + b"\r\n"], 1),
        ([ASKED, ASKED], 2),
        ([ASKED[:-16], ASKED[-16:]], 1),
        ([ASKED[:-17], ASKED[-17:]], 1),
        (singly(ASKED), 1),
        ([CHUNKED], 1),
        ([CHUNKED[:-2], CHUNKED[-2:]], 1),
        (singly(CHUNKED), 1),
        ([NOPE, b"hello"], 1),  # a body that nobody reads, behind the answer
        ([NOPE, b"he", b"llo" + HEALTH], 2),
    ],
)
@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\n", HEALTH[:-1]])
def test_it_waits_for_what_has_begun_and_for_nothing_else(
    run: Any, serving: Any, dial: Any, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], answers: int, begun: bytes
) -> None:
    """Also where it has begun with the end of another request, and where that has come in pieces."""
    come = watched(monkeypatch, "data_received")
    ways = [[*pieces[:-1], pieces[-1] + begun], [*pieces, begun]]

    async def test() -> None:
        async with serving(model="demo?chunks=1&rate=0") as app:
            for sent in ways:
                come.clear()
                async with dial(app) as wire:
                    for number, piece in enumerate(filter(None, sent), 1):
                        wire.send(piece)
                        while len(come) < number:
                            await asyncio.sleep(0)
                    for _ in range(answers):
                        await wire.answer()
                    (connection,) = app._http_connections()
                    while connection._waiter is None or connection._waiter.done():
                        await asyncio.sleep(0)
                    assert connection.idle is not bool(begun), sent
                while app._http_connections():
                    await asyncio.sleep(0)

    run(test())


def test_a_stream_that_is_asked_of_a_server_that_leaves(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire, dial(app) as late:
            wire.request("POST", "/chat/stream", {"message": "Hello"})
            turn_id = (await wire.head()).headers["x-turn-id"]
            asked = await models.asked()
            stopping = asyncio.create_task(app.stop(drain_seconds=20))
            while not app.chat.draining:
                await asyncio.sleep(0)
            late.request("GET", f"/turns/{turn_id}", Accept="text/event-stream")
            assert (await late.head()).headers["connection"] == "close"
            asked.say("text", End())
            while await late.chunk():
                pass
            assert await late.reader.read() == b""
            await stopping

    run(test())


def test_half_a_request_holds_it_up_for_a_moment_only(
    run: Any, serving: Any, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.app.LAST_WORDS_SECONDS", 0.05)

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            wire.send(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            while not app._http_connections() or app._http_connections()[0].idle:
                await asyncio.sleep(0.005)
            async with asyncio.timeout(1.5):
                await app.stop()

    run(test())


def test_who_asks_for_nothing_does_not_hold_it_up(run: Any, serving: Any, dial: Any) -> None:
    """Connections that have had their answers, the last of them to a request that came in pieces."""

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            for _ in range(2):
                for piece in (b"POST /sessions/n", b"ew HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", b" "):
                    wire.send(piece)
                    await asyncio.sleep(0.02)
                assert (await wire.answer()).status == 200
            (connection,) = app._http_connections()
            while not connection.idle:
                await asyncio.sleep(0.005)
            async with asyncio.timeout(1.5):
                await app.stop()

    run(test())

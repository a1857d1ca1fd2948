"""Those who read an NDJSON or SSE stream: they leave and come back, do not read, are too many; a server restarts."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from server import lane
from server.models import End
from tests.server.loop_clock import LoopClock
from tests.server.transports.streams import BOTH, NDJSON, QUICK, SSE, events_of, until


def test_an_idempotency_key_attaches_to_the_same_stream(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as one, dial(app) as other:
            one.request("POST", "/chat/stream", {"message": "Hello"}, Idempotency_Key="k")
            first = await one.head()
            asked = await models.asked()
            asked.say("a")
            other.request("POST", "/chat/stream", {"message": "Hello", "idempotency_key": "k"}, Accept=SSE)
            second = await other.head()
            assert first.headers["x-turn-id"] == second.headers["x-turn-id"]
            await until(other, SSE, 3)
            asked.say(End("b"))
            body = b""
            while piece := await one.chunk():
                body += piece
            assert [event["type"] for event in events_of(NDJSON, body)][-1] == "complete"
            async with dial(app) as third:
                conflict = await third.ask("POST", "/chat", {"message": "Other"}, Idempotency_Key="k")
                assert (conflict.status, conflict.json["code"]) == (409, "conflict")
                same = await third.ask("POST", "/chat", {"message": "Hello"}, Idempotency_Key="k")
                assert same.json["response"] == "ab" and models.asks.empty()

    run(test())


def test_a_client_that_leaves_and_comes_back(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models], resume_grace=20) as app:
            async with dial(app) as wire:
                wire.request("POST", "/chat/stream", {"message": "Hello"}, Accept=SSE)
                turn_id = (await wire.head()).headers["x-turn-id"]
                asked = await models.asked()
                asked.say("one ")
                await until(wire, SSE, 3)
            while app.chat.tell().streaming_connections:
                await asyncio.sleep(0.005)
            asked.say("two ")
            async with dial(app) as wire:
                wire.request("GET", f"/turns/{turn_id}", Accept=NDJSON, Last_Event_ID=f"{turn_id}:3")
                await wire.head()
                asked.say(End("three"))
                body = b""
                while piece := await wire.chunk():
                    body += piece
                events = events_of(NDJSON, body)
                assert [event.get("text") for event in events] == ["two ", "three", None]
                assert events[-1]["finish_reason"] == "stop"

    run(test())


def test_a_client_that_leaves_for_good(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models], resume_grace=0.05) as app:
            for path in ("/chat/stream", "/chat"):
                async with dial(app) as wire:
                    wire.request("POST", path, {"message": "Hello", "session_id": "s"})
                    asked = await models.asked()
                    asked.say("kept")
                    while app.chat.tell().running_turns == 0:
                        await asyncio.sleep(0.005)
                await asked.stopped.wait()
                while app.chat.tell().running_turns:
                    await asyncio.sleep(0.005)
            async with dial(app) as wire:
                messages = (await wire.ask("GET", "/sessions/s")).json["messages"]
                assert [message["text"] for message in messages] == ["Hello", "kept"] * 2

    run(test())


def test_more_streams_than_the_maximum(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with (
            serving(model="script", providers=[models], max_streams=1) as app,
            dial(app) as one,
            dial(app) as two,
        ):
            one.request("POST", "/chat/stream", {"message": "Hello"})
            turn_id = (await one.head()).headers["x-turn-id"]
            for answer in (
                await two.ask("POST", "/chat/stream", {"message": "More"}),
                await two.ask("GET", f"/turns/{turn_id}", Accept=SSE),
            ):
                assert (answer.status, answer.json["code"]) == (503, "unavailable")
                assert int(answer.headers["retry-after"]) >= 1 and answer.json["retryable"]
            assert (await two.ask("GET", f"/turns/{turn_id}")).status == 200
            (await models.asked()).say(End("x"))

    run(test())


@BOTH
def test_a_reader_that_stops_reading_is_dropped_and_comes_back(
    run: Any, serving: Any, dial: Any, script: Any, monkeypatch: Any, accept: str
) -> None:
    monkeypatch.setattr(lane, "STALL_SECONDS", 5)

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as well, dial(app, 1024) as wire:
            wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            well.request("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)
            turn_id = (await well.head()).headers["x-turn-id"]
            wire.request("GET", f"/turns/{turn_id}", Accept=accept)
            await wire.head()
            asked, clock = await models.asked(), LoopClock()
            asked.say(*(f"{number} ".ljust(50_000, "x") for number in range(200)))  # 10 MB
            body, chunks = b"", 0
            while chunks < 200:
                body += (piece := await well.chunk())
                chunks += piece.count(b'"chunk"')
            await clock.passes_until(lambda: app.chat.tell().streaming_connections == 1)
            asked.say(End("end"))
            while piece := await well.chunk():
                body += piece
            events = events_of(accept, body)
            assert len(events) == 204 and events[-1]["type"] == "complete"
            async with dial(app, 2**25) as again:
                rest = await again.ask("GET", f"/turns/{turn_id}?after=2", Accept=accept)
                assert events_of(accept, rest.body) == events[2:]

    run(test())


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_readers_that_stop_reading_cost_bounded_memory(run: Any, start_server: Any, dial: Any) -> None:
    """Thirty of them do not cost more than a few: the log is the only buffer."""
    server = start_server()

    async def grown(stalled: int) -> int:
        before = rss_bytes(server.process.pid)
        sockets = []
        loop = asyncio.get_running_loop()
        async with dial(server) as wire:
            model = "demo?chunks=30000&rate=0"
            wire.request("POST", "/chat/stream", {"message": "Hello", "model_id": model})
            turn_id = (await wire.head()).headers["x-turn-id"]
            for _ in range(stalled):
                idle = socket.socket()
                idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                idle.setblocking(False)
                await loop.sock_connect(idle, ("127.0.0.1", server.port))
                await loop.sock_sendall(
                    idle, f"GET /turns/{turn_id} HTTP/1.1\r\nHost: t\r\nAccept: {SSE}\r\n\r\n".encode()
                )
                sockets.append(idle)
            lines = 0
            while piece := await wire.chunk():
                lines += piece.count(b"\n")
            assert lines == 30_003, "another reader gets everything meanwhile"
            size = rss_bytes(server.process.pid) - before
            for idle in sockets:
                idle.close()
            return size

    async def test() -> None:
        few, many = await grown(3), await grown(30)
        assert many < few + 30 * 500_000, (few, many)  # each would need 6 MB of its own

    run(test())


@pytest.mark.parametrize("graceful", [True, False])
def test_from_every_cursor_after_a_restart(
    run: Any, start_server: Any, dial: Any, tmp_path: Path, graceful: bool
) -> None:
    """Of a turn that had ended, and of one that was running when the server was killed."""
    store = f"sqlite:{tmp_path / 'chat.db'}"
    seen: dict[str, list[Any]] = {}

    async def before(server: Any) -> None:
        async with dial(server) as wire:
            ended = await wire.ask("POST", "/chat/stream", {"message": "Hello", "model_id": QUICK})
            seen["ended"] = events_of(NDJSON, ended.body)
            slow = {"message": "Go on", "model_id": "demo?chunks=5000&rate=100", "session_id": "s"}
            wire.request("POST", "/chat/stream", slow)
            await wire.head()
            seen["cut"] = await until(wire, NDJSON, 120)
            if graceful:
                async with dial(server) as other:
                    await other.ask("POST", f"/turns/{seen['cut'][0]['turn_id']}/cancel")
                body = b""
                while piece := await wire.chunk():
                    body += piece
                seen["cut"] += events_of(NDJSON, body)

    async def after(server: Any) -> None:
        async with dial(server) as wire:
            for name, events in seen.items():
                path = f"/turns/{events[0]['turn_id']}"
                snapshot = (await wire.ask("GET", path)).json
                last = snapshot["last_seq"]
                whole = events_of(NDJSON, (await wire.ask("GET", path, Accept=NDJSON)).body)
                assert len(whole) == last
                if graceful or name == "ended":
                    assert whole == events
                else:
                    assert snapshot["status"] == "interrupted"
                    assert last > 20, "the answer is checkpointed while it grows"
                    kept = whole[:-1]
                    both = min(len(kept), len(events))  # the server may be ahead of us, and we of its disk
                    assert kept[:both] == events[:both], "what was seen is what is kept"
                    assert (whole[-1]["code"], whole[-1]["retryable"]) == ("interrupted", True)
                    tail = await wire.ask("GET", f"{path}?after={last + 50}", Accept=NDJSON)
                    assert events_of(NDJSON, tail.body) == whole[-1:]
                for accept in (NDJSON, SSE):
                    for cursor in range(last):
                        answer = await wire.ask("GET", f"{path}?after={cursor}", Accept=accept)
                        assert events_of(accept, answer.body) == whole[cursor:]
                    assert (await wire.ask("GET", f"{path}?after={last}", Accept=accept)).status == 204
            again = await wire.ask("POST", "/chat", {"message": "Hello again", "session_id": "s", "model_id": QUICK})
            assert again.status == 200 and not again.json["is_new_session"]

    server = start_server("--store", store)
    run(before(server))
    if graceful:
        assert server.stop()[0] == 0
    else:
        server.kill()
    run(after(start_server("--store", store)))

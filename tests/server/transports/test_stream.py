"""NDJSON and SSE through a raw socket: to the byte, from every cursor, and with readers that misbehave."""

import asyncio
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from proto.errors import ChatError
from server import lane
from server.models import End

NDJSON, SSE = "application/x-ndjson", "text/event-stream"
BOTH = pytest.mark.parametrize("accept", [NDJSON, SSE])
QUICK = "demo?chunks=6&rate=0"

# Every field of every event, exactly.
FIELDS: dict[str, dict[str, type]] = {
    "session_info": {
        "type": str, "session_id": str, "model": str, "timestamp": str, "turn_id": str, "seq": int,
        "is_new_session": bool, "message": str,
    },
    "status": {
        "type": str, "message": str, "context_messages": int, "omitted_messages": int, "turn_id": str, "seq": int,
    },
    "chunk": {
        "type": str, "text": str, "chunk_number": int, "is_final": bool, "timestamp": str, "turn_id": str, "seq": int,
    },
    "complete": {
        "type": str, "total_chunks": int, "processing_time": float, "message_count": int, "session_id": str,
        "timestamp": str, "turn_id": str, "seq": int, "finish_reason": str, "usage": dict,
        "time_to_first_chunk": float, "text_sha256": str,
    },
    "error": {
        "type": str, "message": str, "session_id": str, "turn_id": str, "seq": int, "code": str, "retryable": bool,
        "timestamp": str,
    },
}  # fmt: skip
FRAME = re.compile(rb"id: ([A-Za-z0-9_-]+):([0-9]+)\ndata: (\{.*\})\n\n")


def events_of(accept: str, body: bytes) -> list[Any]:
    """The events of a body, read strictly; heartbeats are left out."""
    if accept == NDJSON:
        assert body.endswith(b"\n") or not body
        return [event for line in body.splitlines() if (event := json.loads(line))["type"] != "heartbeat"]
    assert body.startswith(b"retry: 1000\n\n")
    rest, events = body.removeprefix(b"retry: 1000\n\n").replace(b": keep-alive\n\n", b""), []
    while rest:
        frame = FRAME.match(rest)
        assert frame, rest[:200]
        event = json.loads(frame[3])
        assert (event["turn_id"].encode(), event["seq"]) == (frame[1], int(frame[2]))
        events.append(event)
        rest = rest[frame.end() :]
    return events


async def until(wire: Any, accept: str, count: int) -> list[Any]:
    """The first events of a chunked stream, at least so many."""
    body = b""
    while len(events := events_of(accept, body) if body else []) < count:
        piece = await wire.chunk()
        assert piece, body
        body += piece
    return events


@BOTH
def test_a_stream_to_the_byte(run: Any, serving: Any, dial: Any, accept: str) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            answer = await wire.ask("POST", "/chat/stream", {"message": "Hé\u2028llo\n"}, Accept=accept)
            assert answer.status == 200
            headers = {
                "content-type": accept, "cache-control": "no-cache, no-transform", "connection": "keep-alive",
                "x-accel-buffering": "no", "transfer-encoding": "chunked",
            }  # fmt: skip
            assert {name: answer.headers.get(name) for name in headers} == headers
            assert answer.headers["x-request-id"]
            events = events_of(accept, answer.body)
            assert [event["type"] for event in events] == ["session_info", "status", *["chunk"] * 6, "complete"]
            assert [event["seq"] for event in events] == list(range(1, 10))
            for event in events:
                assert {name: type(value) for name, value in event.items()} == FIELDS[event["type"]]
                assert event["turn_id"] == answer.headers["x-turn-id"]
                if "timestamp" in event:
                    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", event["timestamp"])
            info, status, *chunks, complete = events
            assert (info["message"], info["is_new_session"], info["model"]) == ("Hé\u2028llo\n", True, QUICK)
            assert (status["message"], status["context_messages"]) == ("Generating response...", 1)
            assert [chunk["chunk_number"] for chunk in chunks] == [1, 2, 3, 4, 5, 6]
            assert [chunk["is_final"] for chunk in chunks] == [False] * 5 + [True]
            assert (complete["total_chunks"], complete["message_count"], complete["finish_reason"]) == (6, 2, "stop")
            usage = {name: type(value) for name, value in complete["usage"].items()}
            assert usage == {"input_tokens": int, "output_tokens": int, "estimated": bool}
            said = (await wire.ask("GET", f"/sessions/{info['session_id']}")).json["messages"][1]["text"]
            assert said == "".join(chunk["text"] for chunk in chunks), "the connection lives on"

    run(test())


@BOTH
def test_the_stream_starts_before_the_model_and_flows_while_it_works(
    run: Any, serving: Any, dial: Any, script: Any, accept: str
) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)
            head = await wire.head()
            assert head.status == 200 and head.headers["x-turn-id"]
            assert [event["type"] for event in await until(wire, accept, 2)] == ["session_info", "status"]
            asked = await models.asked()
            for word in ("one ", "two "):
                asked.say(word)
                piece = await wire.chunk()  # and nothing else is under way
                assert piece.count(b"\n") == (1 if accept == NDJSON else 3) and word.encode() in piece
            asked.say(End("three"))
            rest = b""
            while piece := await wire.chunk():
                rest += piece
            assert rest.count(b'"is_final":true') == 1 and rest.count(b'"complete"') == 1

    run(test())


@BOTH
def test_a_silent_stream_has_a_heartbeat(run: Any, serving: Any, dial: Any, script: Any, accept: str) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models], heartbeat=0.05) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)
            await wire.head()
            await until(wire, accept, 2)
            for _ in range(3):
                beat = await wire.chunk()
                if accept == SSE:
                    assert beat == b": keep-alive\n\n"
                else:
                    fields = json.loads(beat)
                    assert set(fields) == {"type", "timestamp"} and fields["type"] == "heartbeat"
            (await models.asked()).say(End("x"))

    run(test())


@pytest.mark.parametrize(
    ("accept", "stream", "turn"),
    [
        ("", NDJSON, "json"),
        ("*/*", NDJSON, "json"),
        ("application/json", NDJSON, "json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", NDJSON, "json"),
        (NDJSON, NDJSON, NDJSON),
        (SSE, SSE, SSE),
        ("text/event-stream, */*;q=0.1", SSE, SSE),
        ("Text/Event-Stream", SSE, SSE),
        (f"{NDJSON};charset=utf-8", NDJSON, NDJSON),
    ],
)
def test_accept(run: Any, serving: Any, dial: Any, accept: str, stream: str, turn: str) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            answer = await wire.ask("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)
            assert answer.headers["content-type"] == stream
            followed = await wire.ask("GET", f"/turns/{answer.headers['x-turn-id']}", Accept=accept)
            if turn == "json":
                assert followed.headers["content-type"].startswith("application/json")
                assert followed.json["status"] == "complete"
            else:
                assert followed.headers["content-type"] == turn
                assert followed.body == answer.body

    run(test())


@BOTH
def test_from_every_cursor_of_an_ended_turn(run: Any, serving: Any, dial: Any, accept: str) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            events = events_of(
                accept, (await wire.ask("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)).body
            )
            turn_id = events[0]["turn_id"]
            path = f"/turns/{turn_id}"
            for after in range(9):
                answer = await wire.ask("GET", f"{path}?after={after}", Accept=accept)
                assert events_of(accept, answer.body) == events[after:]
                assert answer.headers["x-turn-id"] == turn_id
                last = await wire.ask("GET", f"{path}?after=3", Accept=accept, Last_Event_ID=f"{turn_id}:{after}")
                assert last.body == answer.body, "Last-Event-ID wins"
            for done in (
                await wire.ask("GET", f"{path}?after=9", Accept=accept),
                await wire.ask("GET", path, Accept=accept, Last_Event_ID=f"{turn_id}:9"),
            ):
                assert (done.status, done.body) == (204, b"")
            for beyond in (10, 99, 2**53 - 1):
                answer = await wire.ask("GET", f"{path}?after={beyond}", Accept=accept)
                assert (answer.status, answer.json["code"]) == (400, "invalid_request")

    run(test())


@BOTH
def test_from_every_cursor_of_a_running_turn(run: Any, serving: Any, dial: Any, script: Any, accept: str) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)
            turn_id = (await wire.head()).headers["x-turn-id"]
            asked = await models.asked()
            asked.say("a", "b", "c")
            await until(wire, accept, 5)

            async def follow(after: int) -> list[Any]:
                async with dial(app) as other:
                    other.request("GET", f"/turns/{turn_id}?after={after}", Accept=accept)
                    assert (await other.head()).status == 200
                    if after < 5:
                        await other.chunk()
                    joined.release()
                    body = b""
                    while piece := await other.chunk():
                        body += piece
                    return [int(seq) for seq in re.findall(rb'"seq":([0-9]+)', body)]

            joined = asyncio.Semaphore(0)
            followers = [asyncio.create_task(follow(after)) for after in range(6)]
            for _ in followers:
                await joined.acquire()
            asked.say("d", End("e"))
            for after, seqs in enumerate(await asyncio.gather(*followers)):
                assert seqs[-3:] == [6, 7, 8] and seqs == list(range(seqs[0], 9)), (after, seqs)

    run(test())


def test_snapshots_and_cancel(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire, dial(app) as other:
            wire.request("POST", "/chat/stream", {"message": "Hello", "session_id": "s"})
            turn_id = (await wire.head()).headers["x-turn-id"]
            asked = await models.asked()
            asked.say("one ", "two ")
            await until(wire, NDJSON, 4)
            snapshot = (await other.ask("GET", f"/turns/{turn_id}")).json
            assert snapshot["status"] == "running" and snapshot["text"] == "one two " and snapshot["last_seq"] == 4
            assert {"turn_id", "session_id", "model", "message", "started_at"} <= set(snapshot)
            assert "ended_at" not in snapshot
            busy = await other.ask("POST", "/chat/stream", {"message": "More", "session_id": "s"})
            assert (busy.status, busy.json["code"], busy.json["turn_id"]) == (409, "session_busy", turn_id)
            assert busy.json["retryable"]
            cancelled = await other.ask("POST", f"/turns/{turn_id}/cancel")
            assert cancelled.status == 200 and cancelled.json["status"] == "cancelled"
            assert asked.stopped.is_set()
            rest = b""
            while piece := await wire.chunk():
                rest += piece
            end = json.loads(rest.splitlines()[-1])
            assert (end["type"], end["finish_reason"], end["seq"]) == ("complete", "cancelled", 6)
            again = await other.ask("POST", f"/turns/{turn_id}/cancel")
            assert again.json == cancelled.json and again.json["text"] == "one two "
            assert again.json["usage"]["estimated"] and again.json["ended_at"]

    run(test())


@BOTH
def test_an_error_after_the_first_byte_is_an_event(run: Any, serving: Any, dial: Any, script: Any, accept: str) -> None:
    async def test() -> None:
        models = script("so far", ChatError("model_error", "It broke.", retryable=True))
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            answer = await wire.ask("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)
            assert answer.status == 200
            events = events_of(accept, answer.body)
            assert {name: type(value) for name, value in events[-1].items()} == FIELDS["error"]
            assert (events[-1]["code"], events[-1]["message"], events[-1]["retryable"]) == (
                "model_error",
                "It broke.",
                True,
            )
            assert sum(event["type"] in ("complete", "error") for event in events) == 1
            snapshot = (await wire.ask("GET", f"/turns/{events[0]['turn_id']}")).json
            assert (snapshot["status"], snapshot["code"], snapshot["text"]) == ("failed", "model_error", "so far")

    run(test())


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


@BOTH
def test_an_old_peer_gets_a_stream_that_ends_with_the_connection(
    run: Any, serving: Any, dial: Any, accept: str
) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            body = b'{"message":"Hello"}'
            head = f"Content-Type: application/json\r\nAccept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
            wire.send(b"POST /chat/stream HTTP/1.0\r\n" + head.encode() + body)
            answer = await wire.answer()
            assert "transfer-encoding" not in answer.headers
            assert answer.headers.get("connection") != "keep-alive"
            assert events_of(accept, answer.body)[-1]["type"] == "complete"

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
    monkeypatch.setattr(lane, "STALL_SECONDS", 0.5)

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as well, dial(app, 1024) as wire:
            wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            well.request("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)
            turn_id = (await well.head()).headers["x-turn-id"]
            wire.request("GET", f"/turns/{turn_id}", Accept=accept)
            await wire.head()
            asked = await models.asked()
            asked.say(*(f"{number} ".ljust(50_000, "x") for number in range(200)))  # 10 MB
            body, chunks = b"", 0
            while chunks < 200:
                body += (piece := await well.chunk())
                chunks += piece.count(b'"chunk"')
            while app.chat.tell().streaming_connections > 1:
                await asyncio.sleep(0.01)
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

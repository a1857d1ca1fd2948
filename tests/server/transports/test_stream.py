"""NDJSON and SSE through a raw socket: to the byte, and from every cursor."""

import asyncio
import json
import re
from typing import Any

import pytest

from proto.errors import ChatError
from server.models import End
from tests.server.transports.streams import BOTH, NDJSON, QUICK, SSE, events_of, until

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
        ("application/json, text/event-stream", SSE, SSE),
        ("application/x-ndjson, text/event-stream", SSE, SSE),
        ("text/*", SSE, SSE),
        # weights: RFC 9110 section 12.5.1
        ("text/event-stream;q=0, application/x-ndjson", NDJSON, NDJSON),
        ("text/event-stream ; q=0.5 ,application/x-ndjson;q=0.8", NDJSON, NDJSON),
        ("text/event-stream;Q=0.8,application/x-ndjson;charset=utf-8;q=0.75", SSE, SSE),
        ("application/json, text/event-stream;q=0.9", SSE, "json"),
        ("application/json;q=0.1, text/event-stream;q=0.9", SSE, SSE),
        ("text/event-stream;q=0.5, */*", NDJSON, "json"),
        ("text/event-stream;q=0, text/*", NDJSON, "json"),
        ("text/event-stream;q=0", NDJSON, "json"),
        ("*/*, application/json;q=0, application/x-ndjson;q=0", SSE, SSE),
        ("text/event-stream;q=wrong, */*;q=0.1", SSE, SSE),
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
def test_head_tells_what_a_stream_would_be_and_follows_nothing(
    run: Any, serving: Any, dial: Any, script: Any, accept: str
) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire, dial(app) as other:
            wire.request("POST", "/chat/stream", {"message": "Hello"}, Accept=accept)
            started = await wire.head()
            turn_id = started.headers["x-turn-id"]
            head = await other.ask("HEAD", f"/turns/{turn_id}", Accept=accept)
            own = {"x-request-id", "date"}
            assert {**head.headers, **dict.fromkeys(own)} == {**started.headers, **dict.fromkeys(own)}
            assert app.chat.stats.open_streams == 1
            (await models.asked()).say(End("x"))
            while await wire.chunk():
                pass
            for after, status in ((3, 200), (4, 204), (5, 400)):
                for method in ("HEAD", "GET"):
                    answer = await other.ask(method, f"/turns/{turn_id}?after={after}", Accept=accept)
                    assert answer.status == status, "the connection lives on"
            assert (await other.ask("HEAD", "/turns/unknown", Accept=accept)).status == 404

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

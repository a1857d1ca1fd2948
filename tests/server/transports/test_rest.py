"""REST through a raw socket: every route of the contract, every field with its exact type."""

import asyncio
import re
from typing import Any

import pytest

from proto.errors import ChatError
from server.models import End

QUICK = "demo?chunks=6&rate=0"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")

CHAT = {
    "response": str, "session_id": str, "processing_time": float, "model": str, "timestamp": str,
    "message_count": int, "is_new_session": bool, "turn_id": str, "finish_reason": str, "usage": dict,
}  # fmt: skip
SUMMARY = {
    "session_id": str, "model": str, "message_count": int, "duration_minutes": int, "created_at": str,
    "connected_clients": int,
}  # fmt: skip
DETAIL = {
    "session_id": str, "model": str, "message_count": int, "session_duration_seconds": float, "user_messages": int,
    "model_messages": int, "created_at": str, "usage": dict, "messages": list,
}  # fmt: skip
HEALTH = {
    "status": str, "model": str, "uptime_seconds": float, "total_requests": int, "successful_requests": int,
    "failed_requests": int, "active_sessions": int, "streaming_connections": int, "websocket_connections": int,
}  # fmt: skip
STATS = HEALTH | {
    "average_response_time": float, "start_time": str, "total_sessions_created": int, "framework": str,
    "running_turns": int, "usage": dict, "transports": dict,
}  # fmt: skip


def check(answer: Any, fields: dict[str, type]) -> Any:
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-request-id"]
    assert {name: type(value) for name, value in answer.json.items()} == fields
    for name in ("timestamp", "created_at", "start_time"):
        assert name not in fields or TIMESTAMP.fullmatch(answer.json[name])
    return answer.json


def test_chat(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            first = check(await wire.ask("POST", "/chat", {"message": "Hello"}), CHAT)
            assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first["session_id"])
            assert (first["message_count"], first["is_new_session"], first["model"]) == (2, True, QUICK)
            assert first["finish_reason"] == "stop" and len(first["response"].split()) == 6
            again = {"message": "More", "session_id": first["session_id"], "model_id": "demo?chunks=2&rate=0"}
            second = check(await wire.ask("POST", "/chat", again), CHAT)
            assert (second["message_count"], second["is_new_session"]) == (4, False)
            assert second["model"] == "demo?chunks=2&rate=0"
            third = await wire.ask("POST", "/chat", {"message": "Even more", "session_id": first["session_id"]})
            assert third.json["model"] == "demo?chunks=2&rate=0", "the switch holds from then on"
            named = check(await wire.ask("POST", "/chat", {"message": "a", "session_id": "My_own.id-1"}), CHAT)
            assert (named["session_id"], named["is_new_session"]) == ("My_own.id-1", True)
            nulls = {"message": "a", "session_id": None, "model_id": None, "idempotency_key": None, "extra": [1, {}]}
            check(await wire.ask("POST", "/chat", nulls), CHAT)
            for content_type in ("application/json; charset=utf-8", "Application/JSON"):
                answer = await wire.ask("POST", "/chat", b'{"message": "a"}', Content_Type=content_type)
                assert answer.status == 200

    run(test())


def test_chat_is_aware_of_the_conversation(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model="demo?rate=0") as app, dial(app) as wire:
            for message in ("My name is Ada", "What is my name?"):
                answer = await wire.ask("POST", "/chat", {"message": message, "session_id": "s"})
            assert "My name is Ada" in answer.json["response"]

    run(test())


@pytest.mark.parametrize("length", [1, 32_000])
def test_messages_up_to_the_limit(run: Any, serving: Any, dial: Any, length: int) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            for letter in ("x", "é", "\U0001f600", "\0"):
                answer = await wire.ask("POST", "/chat", {"message": letter * length, "session_id": f"s{ord(letter)}"})
                assert answer.status == 200, letter
                messages = (await wire.ask("GET", f"/sessions/s{ord(letter)}")).json["messages"]
                assert messages[0]["text"] == letter * length

    run(test())


@pytest.mark.parametrize(
    ("code", "status"),
    [("model_error", 502), ("model_timeout", 504), ("rate_limited", 429), ("invalid_request", 400)],
)
def test_a_model_that_breaks_is_a_status(
    run: Any, serving: Any, dial: Any, script: Any, code: str, status: int
) -> None:
    async def test() -> None:
        models = script("so far", ChatError(code, "It broke."))
        async with serving(model="script", providers=[models]) as app, dial(app) as wire:
            answer = await wire.ask("POST", "/chat", {"message": "Hello"})
            assert (answer.status, answer.json["code"], answer.json["detail"]) == (status, code, "It broke.")
            assert answer.headers["content-type"] == "application/problem+json"
            assert (status == 429) == ("retry-after" in answer.headers)
            assert (await wire.ask("GET", f"/turns/{answer.json['turn_id']}")).json["text"] == "so far"

    run(test())


def test_a_session_answers_one_turn_at_a_time(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as one, dial(app) as two:
            one.request("POST", "/chat", {"message": "Hello", "session_id": "s"})
            asked = await models.asked()
            busy = await two.ask("POST", "/chat", {"message": "Hello", "session_id": "s"})
            assert (busy.status, busy.json["code"], busy.json["retryable"]) == (409, "session_busy", True)
            detail = (await two.ask("GET", "/sessions/s")).json
            assert detail["active_turn"] == busy.json["turn_id"]
            asked.say(End("done"))
            assert (await one.answer()).json["turn_id"] == busy.json["turn_id"]

    run(test())


def test_sessions(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            made = check(await wire.ask("POST", "/sessions/new"), {"session_id": str, "model": str, "timestamp": str})
            assert made["model"] == QUICK
            for body in ({}, {"model_id": None}, b"", b"{}"):
                assert (await wire.ask("POST", "/sessions/new", body)).status == 200
            other = (await wire.ask("POST", "/sessions/new", {"model_id": "demo"})).json
            assert other["model"] == "demo"
            path = f"/sessions/{made['session_id']}"
            empty = check(await wire.ask("GET", path), DETAIL)
            assert (empty["message_count"], empty["messages"]) == (0, [])
            await wire.ask("POST", "/chat", {"message": "Hello", "session_id": made["session_id"]})
            detail = check(await wire.ask("GET", path), DETAIL)
            assert (detail["user_messages"], detail["model_messages"], detail["message_count"]) == (1, 1, 2)
            assert [message["role"] for message in detail["messages"]] == ["user", "model"]
            for message, end in zip(detail["messages"], ({}, {"finish_reason": "stop"}), strict=True):
                assert message == {**{name: message[name] for name in ("role", "text", "turn_id", "timestamp")}, **end}
                assert TIMESTAMP.fullmatch(message["timestamp"])

            listed = (await wire.ask("GET", "/sessions")).json
            assert {name: type(value) for name, value in listed.items()} == {"active_sessions": int, "sessions": list}
            assert listed["active_sessions"] == len(listed["sessions"]) == 6
            assert listed["sessions"][0]["session_id"] == made["session_id"], "newest activity first"
            for row in listed["sessions"]:
                assert {name: type(value) for name, value in row.items()} == SUMMARY
            paged, before = [], ""
            while True:
                page = (await wire.ask("GET", f"/sessions?limit=4{before}")).json
                paged += page["sessions"]
                if "next" not in page:
                    break
                before = f"&before={page['next']}"
            assert [row["session_id"] for row in paged] == [row["session_id"] for row in listed["sessions"]]

            note = check(await wire.ask("POST", f"{path}/clear"), {"message": str})
            assert made["session_id"] in note["message"]
            assert (await wire.ask("GET", path)).json["message_count"] == 0
            check(await wire.ask("DELETE", path), {"message": str})
            for method in ("GET", "DELETE"):
                gone = await wire.ask(method, path)
                assert (gone.status, gone.json["code"]) == (404, "not_found")
            turn = await wire.ask("GET", f"/turns/{detail['messages'][0]['turn_id']}")
            assert (turn.status, turn.json["code"]) == (404, "not_found")

    run(test())


@pytest.mark.parametrize(("method", "suffix"), [("DELETE", ""), ("POST", "/clear")])
def test_changing_a_session_that_is_answering(
    run: Any, serving: Any, dial: Any, script: Any, method: str, suffix: str
) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as one, dial(app) as two:
            one.request("POST", "/chat", {"message": "Hello", "session_id": "s"})
            asked = await models.asked()
            asked.say("part")
            assert (await two.ask(method, f"/sessions/s{suffix}")).status == 200
            assert asked.stopped.is_set()
            answer = await one.answer()
            assert answer.json["finish_reason"] == "cancelled"

    run(test())


def test_figures(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire, dial(app) as stream:
            health = check(await wire.ask("GET", "/health"), HEALTH)
            assert (health["status"], health["total_requests"], health["model"]) == ("healthy", 0, "script")
            stream.request("POST", "/chat/stream", {"message": "Hello"})
            await stream.head()
            asked = await models.asked()
            health = (await wire.ask("GET", "/health")).json
            assert (health["total_requests"], health["successful_requests"], health["streaming_connections"]) == (
                1,
                0,
                1,
            )
            asked.say("a", End("b"))
            while await stream.chunk():
                pass
            await wire.ask("POST", "/chat", {"message": ""})
            stats = check(await wire.ask("GET", "/stats"), STATS)
            assert (stats["successful_requests"], stats["total_sessions_created"], stats["running_turns"]) == (1, 1, 0)
            assert stats["streaming_connections"] == 0 and stats["average_response_time"] > 0
            assert set(stats["transports"]) >= {"rest", "ndjson", "sse", "websocket", "grpc", "grpc_web"}
            ndjson = stats["transports"]["ndjson"]
            assert (ndjson["requests"], ndjson["open_streams"], ndjson["chunks"]) == (1, 0, 2)
            assert ndjson["bytes"] > 500 and 0 < ndjson["first_chunk_p50"] <= ndjson["first_chunk_p99"]
            assert "first_chunk_p50" not in stats["transports"]["sse"]

            metrics = await wire.ask("GET", "/metrics")
            assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
            samples = {}
            for line in metrics.body.decode().splitlines():
                if not line.startswith("#"):
                    found = re.fullmatch(r"([a-z_0-9]+(?:\{[a-z]+=\"[^\"]*\"(?:,[a-z]+=\"[^\"]*\")*\})?) (\S+)", line)
                    assert found, line
                    samples[found[1]] = float(found[2])
            assert samples['fivewire_transport_chunks_total{transport="ndjson"}'] == 2
            assert samples['fivewire_status{status="healthy"}'] == 1

    run(test())


def test_health_while_draining(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as one, dial(app) as two:
            one.request("POST", "/chat", {"message": "Hello"})
            asked = await models.asked()
            draining = asyncio.create_task(app.chat.drain(20))
            await asyncio.sleep(0)
            health = await two.ask("GET", "/health")
            assert (health.status, health.json["status"]) == (503, "draining")
            for path in ("/chat", "/chat/stream", "/sessions/new"):
                refused = await two.ask("POST", path, {"message": "More"})
                assert (refused.status, refused.json["code"]) == (503, "unavailable")
                assert int(refused.headers["retry-after"]) >= 1
            asked.say(End("done"))
            assert (await one.answer()).json["response"] == "done"
            await draining

    run(test())


def test_no_cache_on_the_way_keeps_what_is_true_now(run: Any, serving: Any, dial: Any) -> None:
    """Nor what depends on `Accept`: without a word on it, 200 and 204 may be kept (RFC 9110 section 15.1)."""

    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            turn = (await wire.ask("POST", "/chat", {"message": "Hello"})).json["turn_id"]
            for path, accept, status in (
                ("/", "text/html", 303), ("/", "*/*", 200), ("/metrics", "*/*", 200), ("/health", "*/*", 200),
                (f"/turns/{turn}", "*/*", 200), (f"/turns/{turn}?after=9", "text/event-stream", 204),
            ):  # fmt: skip
                answer = await wire.ask("GET", path, Accept=accept)
                assert (answer.status, answer.headers.get("cache-control")) == (status, "no-store"), path

    run(test())


def test_what_the_server_says_about_itself(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            index = (await wire.ask("GET", "/")).json
            assert index["name"] == "fivewire" and index["model"] == QUICK
            routes = {(route["method"], route["path"]) for route in index["endpoints"]}
            assert {("POST", "/chat"), ("POST", "/chat/stream"), ("GET", "/turns/{turn_id}")} <= routes
            page = await wire.ask("GET", "/", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
            assert (page.status, page.headers["location"]) == (303, "demo")
            assert (await wire.ask("GET", "/", Accept="application/json, text/html;q=0.5")).status == 200
            models = (await wire.ask("GET", "/models")).json
            assert models == {"default": QUICK, "models": [{"id": "demo", "provider": "demo"}]}

    run(test())


def test_many_requests_behind_one_whose_body_is_late(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire, dial(app) as other:
            head = (
                b"POST /sessions/new HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
            )
            first = head + b"{"
            wire.send(first)
            assert (await other.ask("GET", "/health")).status == 200  # the head is known by then
            wire.send(b"}" + 60 * (first + b"}"))
            assert len({(await wire.answer()).json["session_id"] for _ in range(61)}) == 61

    run(test())


def test_many_requests_on_one_connection_and_pipelined(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving(model=QUICK) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "1", "session_id": "a"})
            wire.request("POST", "/chat", {"message": "2", "session_id": "b"})
            wire.request("GET", "/sessions/b")
            assert b'"complete"' in (await wire.answer()).body
            assert (await wire.answer()).json["session_id"] == "b"
            assert (await wire.answer()).json["message_count"] == 2

    run(test())

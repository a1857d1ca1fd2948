"""gRPC-Web as a page uses it, in every form; and beside the other transports."""

import asyncio
import base64
import json

import aiohttp
import pytest
from grpclib.const import Status

from proto import chat_pb2, grpc_web, pb, pb_json
from proto.errors import CODES
from proto.events import as_json
from proto.grpc_web import BINARY, FORMS, JSON, TEXT, Decoder, frame, parse_trailers

FAST = "demo?chunks=5&rate=0"
EACH_FORM = pytest.mark.parametrize("form", [BINARY, TEXT, JSON], ids=lambda form: form.name)


class Page:
    """The calls, as a page makes them."""

    def __init__(self, http, form):
        self.http = http
        self.form = form

    async def call(self, method, request, gives=chat_pb2.ChatResponse, headers=None):
        """The messages and the trailers."""
        payload = pb_json.message_json(request).encode() if self.form.json else request.SerializeToString()
        return await self.send(method, frame(payload), gives, headers)

    async def send(self, method, body, gives=chat_pb2.ChatResponse, headers=None):
        if self.form.text:
            body = base64.b64encode(body)
        headers = {"Content-Type": self.form.content_type, "X-Grpc-Web": "1", **(headers or {})}
        async with self.http.post(f"/chat.ChatService/{method}", data=body, headers=headers) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == self.form.content_type
            decoder = Decoder(self.form)
            frames = [frame async for data in response.content.iter_any() for frame in decoder.feed(data)]
        assert not decoder.torn
        *messages, end = frames
        assert end.is_trailers and not any(frame.flags for frame in messages)
        parse = pb_json.parse_json if self.form.json else pb.parse
        return [parse(gives, frame.payload) for frame in messages], parse_trailers(end.payload)


@EACH_FORM
def test_calls(serving, run, form):
    async def scenario():
        async with serving() as app, aiohttp.ClientSession(app.http_url) as http:
            page = Page(http, form)
            (created,), end = await page.call(
                "CreateSession", chat_pb2.CreateSessionRequest(model_id=FAST), chat_pb2.CreateSessionResponse
            )
            assert end == {"grpc-status": "0"} and created.success
            asked = chat_pb2.ChatRequest(session_id=created.session_id, message="grüße 🌊")
            responses, end = await page.call("StreamChat", asked)
            assert end == {"grpc-status": "0"}
            assert [response.seq for response in responses] == list(range(1, 9))
            assert responses[0].message == "grüße 🌊"
            for after in range(9):
                follow = chat_pb2.FollowTurnRequest(turn_id=responses[0].turn_id, after=after)
                assert await page.call("FollowTurn", follow) == (responses[after:], {"grpc-status": "0"})
            for method, request, gives in (
                ("GetSessionInfo", chat_pb2.SessionInfoRequest, chat_pb2.SessionInfoResponse),
                ("GetHistory", chat_pb2.HistoryRequest, chat_pb2.HistoryResponse),
                ("ClearSession", chat_pb2.ClearSessionRequest, chat_pb2.ClearSessionResponse),
                ("DeleteSession", chat_pb2.DeleteSessionRequest, chat_pb2.DeleteSessionResponse),
            ):
                (_,), end = await page.call(method, request(session_id=created.session_id), gives)
                assert end == {"grpc-status": "0"}, method
                _, end = await page.call(method, request(session_id="unknown"), gives)
                assert (end["grpc-status"], end["fivewire-code"]) == ("5", "not_found"), method
            (listed,), _ = await page.call(
                "ListSessions", chat_pb2.ListSessionsRequest(), chat_pb2.ListSessionsResponse
            )
            assert listed.active_sessions == 0
            (stats,), _ = await page.call("GetServerStats", chat_pb2.ServerStatsRequest(), chat_pb2.ServerStatsResponse)
            assert stats.transports["grpc_web"].requests == 1
            (models,), _ = await page.call("ListModels", chat_pb2.ListModelsRequest(), chat_pb2.ListModelsResponse)
            assert models.default == "demo"

    run(scenario())


@EACH_FORM
def test_what_goes_wrong_is_in_the_trailers(serving, run, form):
    async def scenario():
        async with serving(max_message_chars=100) as app, aiohttp.ClientSession(app.http_url) as http:
            page = Page(http, form)
            for method, request, status in (
                ("FollowTurn", chat_pb2.FollowTurnRequest(turn_id="unknown"), "5"),
                ("FollowTurn", chat_pb2.FollowTurnRequest(turn_id="unknown", after=-1), "3"),
                ("StreamChat", chat_pb2.ChatRequest(message=""), "3"),
                ("StreamChat", chat_pb2.ChatRequest(message="x" * 101), "8"),
                ("StreamChat", chat_pb2.ChatRequest(message="hi", model_id="none"), "3"),
                ("Chat", chat_pb2.ChatRequest(message="hi"), "12"),
                ("Nothing", chat_pb2.ChatRequest(message="hi"), "12"),
            ):
                messages, end = await page.call(method, request)
                assert (messages, end["grpc-status"]) == ([], status), (method, request)
                assert end["grpc-message"]
                code = {"5": "not_found", "3": "invalid_request", "8": "too_large", "12": "not_found"}[status]
                assert (end["fivewire-code"], end["fivewire-retryable"]) == (code, "false")
            for body in (b"", b"\0\0\0\0\5abc", frame(b"\xff\xff"), frame(b"{}") * 2, frame(b"", 1)):
                messages, end = await page.send("StreamChat", body)
                assert (messages, end["grpc-status"], end["fivewire-code"]) == ([], "3", "invalid_request"), body
            for body in (b'{"\\ud800": 1}', b'{"type": "\\ud800"}', b'{"message": "\\ud800"}'):
                messages, end = await page.send("StreamChat", frame(body))
                assert (messages, end["grpc-status"]) == ([], "3"), body
            messages, end = await page.send("StreamChat", frame(b"x" * 50_000))
            assert (messages, end["grpc-status"]) == ([], "8")
            broken = chat_pb2.ChatRequest(message="hi", model_id="demo?chunks=9&rate=0&fail_after=2")
            messages, end = await page.call("StreamChat", broken)
            assert (messages[-1].code, end) == ("model_error", {"grpc-status": "0"})

    run(scenario())


@EACH_FORM
def test_a_time_limit(serving, run, form):
    async def scenario():
        async with serving() as app, aiohttp.ClientSession(app.http_url) as http:
            page = Page(http, form)
            slow = chat_pb2.ChatRequest(message="hi", model_id="demo?chunks=1000&rate=20")
            messages, end = await page.call("StreamChat", slow, headers={"grpc-timeout": "300m"})
            assert end["grpc-status"] == "4" and messages[0].seq == 1
            assert (await app.chat.turn(messages[0].turn_id)).running
            _, end = await page.call("StreamChat", slow, headers={"grpc-timeout": "soon"})
            assert end["grpc-status"] == "3"

    run(scenario())


@EACH_FORM
@pytest.mark.parametrize("method", ["StreamChat", "FollowTurn"])
def test_a_time_limit_holds_before_the_turn_has_been_found_too(serving, run, monkeypatch, form, method):
    async def never(*_, **__):
        await asyncio.get_running_loop().create_future()

    async def scenario():
        async with serving() as app, aiohttp.ClientSession(app.http_url) as http:
            monkeypatch.setattr(app.chat, "send", never)
            monkeypatch.setattr(app.chat, "turn", never)
            asked = {"StreamChat": chat_pb2.ChatRequest(message="hi"), "FollowTurn": chat_pb2.FollowTurnRequest()}
            messages, end = await Page(http, form).call(method, asked[method], headers={"grpc-timeout": "20m"})
            assert not messages and end["grpc-status"] == "4"

    run(scenario())


def test_the_forms_names(serving, run):
    async def scenario():
        async with serving() as app, aiohttp.ClientSession(app.http_url) as http:
            for name, form in FORMS.items():
                body = base64.b64encode(frame(b"")) if form.text else frame(b"{}" if form.json else b"")
                headers = {"Content-Type": name}
                async with http.post("/chat.ChatService/ListModels", data=body, headers=headers) as response:
                    assert (response.status, response.headers["Content-Type"]) == (200, form.content_type)
            for name in ("application/json", "application/grpc", "application/grpc-web+thrift"):
                headers = {"Content-Type": name}
                async with http.post("/chat.ChatService/ListModels", data=b"", headers=headers) as response:
                    assert response.status == 415
                    assert (await response.json(content_type=None))["code"] == "invalid_request"

    run(scenario())


def test_pages_of_other_origins(serving, run):
    async def scenario():
        async with serving(allow_origin=("https://a.example",)) as app, aiohttp.ClientSession(app.http_url) as http:
            url = "/chat.ChatService/ListModels"
            headers = {"Origin": "https://a.example", "Content-Type": JSON.content_type}
            preflight = {
                "Origin": "https://a.example",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type,x-grpc-web,x-user-agent,grpc-timeout",
            }
            async with http.options(url, headers=preflight) as response:
                allowed = response.headers["Access-Control-Allow-Headers"].lower().replace(" ", "").split(",")
                assert {"content-type", "x-grpc-web", "x-user-agent", "grpc-timeout"} <= set(allowed)
            async with http.post(url, data=frame(b"{}"), headers=headers) as response:
                assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"
            headers["Origin"] = "https://b.example"
            async with http.post(url, data=frame(b"{}"), headers=headers) as response:
                assert response.status == 403

    run(scenario())


def test_a_turn_changes_to_grpc_web_and_back(serving, run):
    async def scenario():
        async with serving() as app, aiohttp.ClientSession(app.http_url) as http:
            page = Page(http, JSON)
            slow = {"message": "hi", "model_id": "demo?chunks=30&rate=100"}
            async with http.post("/chat/stream", json=slow) as response:
                first = [json.loads(await response.content.readline()) for _ in range(5)]
            follow = chat_pb2.FollowTurnRequest(turn_id=first[0]["turn_id"], after=5)
            messages, _ = await page.call("FollowTurn", follow)
            rest = [json.loads(as_json(pb.from_response(message))) for message in messages]
            async with http.get(
                f"/turns/{first[0]['turn_id']}?after=0", headers={"Accept": "application/x-ndjson"}
            ) as response:
                whole = [json.loads(line) async for line in response.content]
            assert first + rest == whole

    run(scenario())


def test_the_events_come_as_they_are_made(serving, run):
    async def scenario():
        async with serving() as app, aiohttp.ClientSession(app.http_url) as http:
            body = frame(json.dumps({"message": "hi", "model_id": "demo?chunks=1000&rate=20"}).encode())
            headers = {"Content-Type": JSON.content_type}
            decoder = Decoder(JSON)
            async with http.post("/chat.ChatService/StreamChat", data=body, headers=headers) as response:
                turn_id = response.headers["X-Turn-Id"]
                seen = []
                async with asyncio.timeout(10):
                    async for data in response.content.iter_any():
                        seen += [json.loads(frame.payload) for frame in decoder.feed(data)]
                        if seen[-1]["seq"] >= 4:
                            break
            assert seen[2]["chunk_text"] and seen[2]["is_final"] is False
            assert (await app.chat.turn(turn_id)).running

    run(scenario())


def test_the_status_numbers_are_those_of_grpc():
    assert all(Status[name].value == number for name, number in grpc_web.STATUS.items())
    assert {row.grpc for row in CODES.values()} <= set(grpc_web.STATUS)

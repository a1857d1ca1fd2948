"""Every protocol over a line that is cut again and again: the answer comes whole, each event once."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web

from client.app import open_transport
from client.conversation import Conversation
from client.duplex import Duplex
from client.settings import PROTOCOLS
from client.transports import ConnectionLost, NotUnderstood, Update
from client.transports.rest import Rest
from client.transports.stream import Stream
from client.transports.websocket import WebSocket
from proto.errors import ChatError
from proto.events import Chunk, Complete, Event, SessionInfo, Status
from proto.requests import ChatRequest
from server.models import End

CHUNKS = 60


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.cuts: list[str] = []
        self.updates: list[Update] = []
        self.events: list[Event] = []
        self.losses: list[ConnectionLost] = []

    def cut(self, error: Exception, seconds: float) -> None:
        self.cuts.append(str(error))

    def mended(self) -> None:
        pass

    def moved(self) -> None:
        pass

    def joined(self) -> None:
        pass

    def updated(self, update: Update) -> None:
        self.updates.append(update)

    def overheard(self, event: Event) -> None:
        self.events.append(event)

    def lost(self, error: ConnectionLost) -> None:
        self.losses.append(error)


class Line:
    """A TCP proxy. Each connection but the last few is cut when so many bytes have come back over it."""

    def __init__(self, url: str, cuts: list[int]) -> None:
        self._port = int(url.rpartition(":")[2])
        self._cuts = cuts
        self._passing: set[asyncio.Task[None]] = set()
        self.done = 0

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._passing.discard, task)
            stack.callback(writer.transport.abort)
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            stack.callback(far_writer.transport.abort)
            ways = [
                asyncio.create_task(self._copy(reader, far_writer, None)),
                asyncio.create_task(self._copy(far_reader, writer, self._cuts)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cuts: list[int] | None) -> None:
        passed = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(256):
                if cuts and passed + len(data) > cuts[0]:
                    writer.write(data[: cuts.pop(0) - passed])
                    self.done += 1
                    await writer.drain()
                    return
                passed += len(data)
                writer.write(data)
                await writer.drain()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in tuple(self._passing):
                task.cancel()
            await asyncio.gather(*self._passing, return_exceptions=True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_event_once_over_a_bad_line(protocol: str, serving: Callable[..., Any], run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        model = f"demo?chunks={CHUNKS}&rate=200"
        listener = Listener()
        async with serving(model=model) as app:
            # Behind the greetings of HTTP/2 and WebSocket, at odd places.
            line = Line(app.http_url, [900, 1601, 2222, 3003] if protocol != "rest" else [150, 2222, 3003])
            async with line.open() as url:
                talk = Conversation(open_transport, protocol, url, listener)
                async with aclosing(talk.ask("hello")) as answer:
                    events = [event async for event in answer]
                assert talk.session_id is not None
                await talk.disconnect()
            said = await messages(app.http_url, talk.session_id)
        assert [event.seq for event in events] == list(range(1, CHUNKS + 4))
        text = "".join(event.text for event in events if isinstance(event, Chunk))
        assert said == ["hello", text], "it was asked once"
        assert isinstance(events[-1], Complete) and events[-1].finish_reason == "stop"
        assert line.done >= 2 and len(listener.cuts) >= 2

    run(scenario())


async def messages(url: str, session_id: str) -> list[str]:
    transport = Rest(url)
    try:
        return [message.text for message in (await transport.session(session_id)).messages]
    finally:
        await transport.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_long_history_is_read(
    protocol: str, serving: Callable[..., Any], connected: Callable[..., Any], script: Any, run: Callable[..., Any]
) -> None:
    async def scenario() -> None:
        answer = str(list(range(10**6)))  # more than the 4 MiB that gRPC takes of old
        async with (
            serving(providers=[script(answer, End())], model="said") as app,
            connected(protocol, app.http_url) as transport,
        ):
            events = [event async for event in transport.send(ChatRequest("hello"))]
            detail = await transport.session(events[0].session_id)
        assert [message.text for message in detail.messages] == ["hello", answer]

    run(scenario())


# Answers that are none, over HTTP


async def answered(respond: Callable[[web.Request], Any], use: Callable[[Any], Any], protocol: str = "ndjson") -> Any:
    """What a transport makes of such a server."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    transport = open_transport(protocol, f"http://127.0.0.1:{runner.addresses[0][1]}", Listener())
    try:
        return await use(transport)
    finally:
        await transport.close()
        await runner.cleanup()


async def followed(transport: Stream) -> list[Event]:
    return [event async for event in transport.follow("t", 0)]


START = '{"type":"status","message":"","context_messages":1,"omitted_messages":0,"turn_id":"t","seq":2}\n'


@pytest.mark.parametrize(
    ("status", "content_type", "body", "told"),
    [
        (502, "text/html", "<h1>Bad gateway</h1>", "Nobody answers behind"),
        (404, "text/html", "not here", "is no fivewire server"),
        (200, "text/html", "<h1>Welcome</h1>", "does not speak this protocol"),
        (200, "application/x-ndjson", "no json\n", "does not speak this protocol"),
        (
            200,
            "application/x-ndjson",
            '{"type":"chunk","text":5}\n',
            "does not speak this protocol: 'text' has a wrong type",
        ),
        (200, "application/x-ndjson", START, "was cut before its end"),
        (200, "application/x-ndjson", "", "was cut before its end"),
    ],
)
def test_what_is_no_answer(status: int, content_type: str, body: str, told: str, run: Callable[..., Any]) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(status=status, content_type=content_type, text=body)

    with pytest.raises(ConnectionLost, match=told):
        run(answered(respond, followed))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('{"type":"chunk","text":5}', "'text' has a wrong type"),
        ('{"type":"error","code":[],"message":"no","retryable":false,"timestamp":""}', "'code' has a wrong type"),
        ("no json", "is not valid JSON"),
    ],
)
def test_what_is_no_answer_over_a_websocket(said: str, told: str, run: Callable[..., Any]) -> None:
    async def respond(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            await socket.send_str(said)
        return socket

    async def asked(transport: WebSocket) -> None:
        async for _ in transport.send(ChatRequest("hi")):
            pass

    with pytest.raises(NotUnderstood, match=told):
        run(answered(respond, asked, "websocket"))


def test_nothing_left(run: Callable[..., Any]) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(status=204)

    assert run(answered(respond, followed)) == []


@pytest.mark.parametrize(("later", "seconds"), [("7", 7), ("²", None), ("Fri, 31 Dec 1999 23:59:59 GMT", None)])
def test_a_problem_is_the_error_that_it_was(later: str, seconds: int | None, run: Callable[..., Any]) -> None:
    problem = {"detail": "busy", "code": "session_busy", "retryable": True, "turn_id": "t9"}

    async def respond(request: web.Request) -> web.Response:
        body, kind = json.dumps(problem).encode(), "application/problem+json"
        return web.Response(status=409, content_type=kind, body=body, headers={"Retry-After": later})

    with pytest.raises(ChatError, match="busy") as caught:
        run(answered(respond, followed, "sse"))
    assert (caught.value.code, caught.value.turn_id, caught.value.retry_after) == ("session_busy", "t9", seconds)


def test_a_problem_of_no_known_code_has_that_of_its_status(run: Callable[..., Any]) -> None:
    for code in ("of_the_future", ["session_busy"], None):

        async def respond(request: web.Request, code: Any = code) -> web.Response:
            return web.json_response({"code": code}, status=404, content_type="application/problem+json")

        with pytest.raises(ChatError, match="Not found") as caught:
            run(answered(respond, followed))
        assert caught.value.code == "not_found"


def test_a_server_of_another_version_is_read_leniently(run: Callable[..., Any]) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "news": 1, "uptime_seconds": 3, "model": None})

    health = run(answered(respond, lambda transport: transport.health()))
    assert (health.status, health.model, health.uptime_seconds, health.total_requests) == ("healthy", "", 3.0, 0)


# Whose event it is, on a connection that carries everybody's

INFO = SessionInfo("s", "demo", "now", "t", 1, False, "hi")
STATUS = Status("...", 1, 0, "t", 2)
CHUNK = Chunk("hello", 1, False, "now", "t", 3)


def test_an_answer_is_told_from_what_others_ask(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        listener = Listener()
        duplex = Duplex(listener, status_first=True)
        others = [STATUS._replace(turn_id="x"), INFO._replace(turn_id="x", message="their words")]

        async def say() -> None:
            for event in (*others, STATUS, INFO):
                duplex.event(event)

        async with aclosing(duplex.ask(ChatRequest("hi", "s"), say)) as events:
            assert [await anext(events), await anext(events)] == [INFO, STATUS]
        assert listener.events == [others[1], others[0]]

    run(scenario())


def test_an_answer_that_is_read_is_none_to_another_question(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        duplex = Duplex(Listener())

        async def begin() -> None:
            duplex.event(INFO)

        async def ping() -> None:
            duplex.event(STATUS)
            duplex.answered("pong")

        async def resume() -> None:
            duplex.event(CHUNK)
            duplex.answered("another pong")
            duplex.refused(ChatError("not_found", "no such turn"))
            duplex.lost(ConnectionLost("cut"))

        async with aclosing(duplex.ask(ChatRequest("hi", "s"), begin)) as events:
            assert await anext(events) == INFO
            assert await duplex.question(ping, str) == "pong"
            with pytest.raises(ChatError, match="no such turn"):
                await anext(aiter(duplex.follow("x", resume)))
            assert [await anext(events), await anext(events)] == [STATUS, CHUNK]

    run(scenario())


def test_a_turn_that_is_followed_is_known_by_its_first_event(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        duplex = Duplex(Listener())

        async def resume() -> None:
            duplex.event(CHUNK)

        async with aclosing(duplex.follow("t", resume)) as events:
            assert await anext(events) == CHUNK

    run(scenario())


def test_a_refusal_is_for_whoever_asked(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        duplex = Duplex(Listener())

        async def say() -> None:
            duplex.answered("of an earlier question")
            duplex.refused(ChatError("session_busy", "busy"))

        with pytest.raises(ChatError, match="busy"):
            await anext(aiter(duplex.ask(ChatRequest("hi"), say)))
        duplex.refused(ChatError("internal", "nobody asked"))

    run(scenario())


def test_an_answer_that_comes_late_is_none_to_the_next_question(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        duplex = Duplex(Listener())
        asked = asyncio.Event()

        async def ping() -> None:
            asked.set()

        async def join() -> None:
            duplex.answered("pong")
            duplex.answered(["joined"])

        given_up = asyncio.create_task(duplex.question(ping, str))
        await asked.wait()
        given_up.cancel()
        assert await duplex.question(join, list) == ["joined"]

    run(scenario())

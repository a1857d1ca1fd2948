"""What breaks, broken for real against a whole server: killed processes, full disks, locked files, drains, overload."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from client.transports import ConnectionLost, Transport
from proto.errors import ChatError
from proto.events import Chunk, Complete, Error, Event
from proto.requests import ChatRequest
from server.models import End
from server.stores import sqlite_file, sqlite_writer
from server.stores.packed import unpacked
from server.turn import sha256

STREAMING = ("ndjson", "sse", "websocket", "grpc")
EVERY = ("rest", *STREAMING)


class Reading:
    """Reads a turn in the background, and keeps what has come."""

    def __init__(self, source: Any) -> None:
        self.events: list[Event] = []
        self.failure: Exception | None = None
        self._came = asyncio.Event()
        self.task = asyncio.create_task(self._read(source))

    async def _read(self, source: Any) -> None:
        try:
            async for event in source:
                self.events.append(event)
                self._came.set()
        except (ConnectionLost, ChatError) as failure:
            self.failure = failure
        self._came.set()

    async def until(self, count: int) -> "Reading":
        while len(self.events) < count and not self.task.done():
            self._came.clear()
            await self._came.wait()
        assert len(self.events) >= count, self.failure
        return self

    async def whole(self) -> list[Event]:
        await self.task
        assert self.failure is None, self.failure
        check_whole(self.events)
        return self.events


def check_whole(events: list[Event]) -> None:
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert [chunk.chunk_number for chunk in chunks] == list(range(1, len(events) - 2))
    end = events[-1]
    assert isinstance(end, Complete | Error)
    if isinstance(end, Complete):
        assert end.text_sha256 == sha256("".join(chunk.text for chunk in chunks))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    while not condition():
        await asyncio.sleep(0.01)


async def followed(connected: Any, url: str, turn_id: str, after: int, name: str = "ndjson") -> list[Event]:
    async with connected(name, url) as transport:
        return [event async for event in transport.follow(turn_id, after)]


@contextlib.asynccontextmanager
async def clients(connected: Any, url: str, names: tuple[str, ...]) -> Any:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(name, url)) for name in names]


async def refusal_of(transport: Transport, request: ChatRequest) -> ChatError:
    with pytest.raises(ChatError) as refusal:
        async for _ in transport.send(request):
            raise AssertionError("it was taken")
    return refusal.value


def kept_chunks(path: Path) -> dict[str, int]:
    """Of each turn on disk, how many chunks are there."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as disk:
        rows = disk.execute(
            "SELECT turns.id, chunks.first, chunks.chunks FROM turns JOIN chunks ON turns.n = chunks.turn"
        )
        return {turn: first - 1 + len(unpacked(chunks)) // 2 for turn, first, chunks in rows}


def test_kill_9_several_times(run: Any, start_server: Any, connected: Any, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    flags = ("--store", f"sqlite:{path}", "--model", "demo?chunks=2000&rate=100", "--quiet")

    async def test() -> None:
        before: dict[str, list[Event]] = {}  # of each turn of the servers before, the whole log
        sessions: dict[str, list[str]] = {}
        server = start_server(*flags)
        for kill in range(3):
            async with clients(connected, server.url, STREAMING) as transports:
                readings = []
                for number, transport in enumerate(transports):
                    session = list(sessions)[number] if kill else (await transport.new_session(None)).session_id
                    message = f"{kill} on {transport.name}"
                    readings.append(Reading(transport.send(ChatRequest(message, session))))
                    sessions.setdefault(session, []).append(message)
                turns = [(await reading.until(10)).events[0].turn_id for reading in readings]
                while min((kept := kept_chunks(path)).get(turn, 0) for turn in turns) < 20:
                    await asyncio.sleep(0.02)
                server.kill()
                for reading in readings:
                    await reading.task
                    assert isinstance(reading.failure, ConnectionLost)
            server = start_server(*flags)
            for number, reading in enumerate(readings):
                events, turn = reading.events, turns[number]
                whole = await followed(connected, server.url, turn, 0)
                check_whole(whole)
                assert isinstance(whole[-1], Error) and whole[-1].code == "interrupted"
                assert len(whole) >= kept[turn] + 3, "what was on disk is lost"
                known = min(len(events), len(whole) - 1)
                assert events[:known] == whole[:known], "something changed under the cursor"
                other = STREAMING[(number + kill) % 4]
                after = len(events) - (len(events) == len(whole))  # a lost event with the seq that the end has now
                rest = await followed(connected, server.url, turn, after, other)
                assert rest == (whole[after:] or whole[-1:])
                before[turn] = whole
            async with connected("rest", server.url) as rest:
                for session, messages in sessions.items():
                    detail = await rest.session(session)
                    assert [message.text for message in detail.messages if message.role == "user"] == messages
                    assert detail.active_turn is None
            for turn, whole in before.items():
                assert await followed(connected, server.url, turn, 0, "sse") == whole, "an ended turn has changed"
        code, log = server.stop()
        assert code == 0 and "Traceback" not in log

    run(test())


def test_a_drain_on_every_transport(run: Any, serving: Any, script: Any, connected: Any) -> None:
    """One turn ends in time, the others are cut with their text kept; nobody begins another."""

    async def test() -> None:
        models = script()
        async with (
            serving(model="script", providers=[models]) as app,
            clients(connected, app.http_url, EVERY) as transports,
        ):
            readings, asks = [], []
            for transport in transports:
                session = (await transport.new_session(None)).session_id
                readings.append(Reading(transport.send(ChatRequest("Hello", session))))
                asks.append(await models.asked())
                asks[-1].say("kept ")
            for reading in readings[1:]:
                await reading.until(3)
            idle = [await transport.new_session(None) for transport in transports]
            stopping = asyncio.create_task(app.stop(drain_seconds=2.0))
            await until(lambda: app.chat.draining)
            async with clients(connected, app.http_url, ("rest", "ndjson", "sse", "grpc")) as late:
                assert (await late[0].health()).status == "draining"
                for transport, session in zip(late, idle, strict=False):
                    refused = await refusal_of(transport, ChatRequest("More", session.session_id))
                    assert (refused.code, refused.retryable) == ("unavailable", True)
                    assert refused.retry_after
            refused = await refusal_of(transports[3], ChatRequest("More", idle[3].session_id))
            assert (refused.code, refused.retryable) == ("unavailable", True)
            asks[2].say(End("said"))
            await stopping
            ends = [(await reading.whole())[-1] for reading in readings[1:]]
            await readings[0].task  # its answer came, and it asks for the events of a server that is gone
            reasons = [end.finish_reason for end in ends if isinstance(end, Complete)]
            assert reasons == ["cancelled", "stop", "cancelled", "cancelled"]
            for reading in readings[1:]:
                assert isinstance(reading.events[2], Chunk) and reading.events[2].text == "kept "

    run(test())


@pytest.mark.parametrize("kind", EVERY)
def test_overload(run: Any, serving: Any, script: Any, connected: Any, dial: Any, kind: str) -> None:
    async def test() -> None:
        models = script()
        async with (
            serving(model="script", providers=[models], max_streams=2) as app,
            clients(connected, app.http_url, ("ndjson", "grpc")) as running,
            connected(kind, app.http_url) as late,
        ):
            sessions = [(await running[0].new_session(None)).session_id for _ in range(3)]
            readings = [Reading(one.send(ChatRequest("Hi", sessions[n]))) for n, one in enumerate(running)]
            asks = [await models.asked() for _ in running]
            for reading in readings:
                await reading.until(2)
            for _ in range(3):
                refused = await refusal_of(late, ChatRequest("More", sessions[2]))
                assert (refused.code, refused.retryable) == ("unavailable", True)
                assert refused.retry_after == (1 if kind == "grpc" else 5)  # `Chat` only says that it is retryable
            for ask in asks:
                ask.say("undisturbed", End())
            for reading in readings:
                assert len(await reading.whole()) == 5
            await until(lambda: app.chat.stats.open_streams == 0)
            again = Reading(late.send(ChatRequest("More", sessions[2])))
            (await models.asked()).say(End("taken"))
            assert len(await again.whole()) == 4

    run(test())


async def check_trouble(
    connected: Any, url: str, begin: Callable[[], object], end: Callable[[], object]
) -> list[list[Event]]:
    """While the store cannot write: refusals, a health that says so, running turns that go on; then all is well."""
    async with clients(connected, url, STREAMING) as transports, connected("rest", url) as rest:
        model = "demo?chunks=5000&rate=100"
        readings = [Reading(transport.send(ChatRequest("Hi", None, model))) for transport in transports]
        for reading in readings:
            await reading.until(10)
        session = (await rest.new_session("demo?chunks=3&rate=0")).session_id
        begin()
        for transport in (rest, *transports):
            refused = await refusal_of(transport, ChatRequest("More", session))
            assert (refused.code, refused.retryable) == ("unavailable", True), transport.name
        for reading in readings:
            await reading.until(len(reading.events) + 20)
        assert (await rest.health()).status == "degraded"
        end()
        while (await rest.health()).status != "healthy":
            await asyncio.sleep(0.02)
        for transport in (rest, *transports):
            assert len([event async for event in transport.send(ChatRequest("More", session))]) == 6
        for transport, reading in zip(transports, readings, strict=True):
            await transport.cancel(reading.events[0].turn_id)
        return [await reading.whole() for reading in readings]


def test_a_locked_database(
    run: Any, serving: Any, connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)  # seconds in earnest
    monkeypatch.setattr(sqlite_writer, "RETRY_SECONDS", 0.05)
    path = tmp_path / "chat.db"

    async def test() -> None:
        async with serving(store=f"sqlite:{path}") as app:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                wholes = await check_trouble(
                    connected, app.http_url, lambda: other.execute("BEGIN EXCLUSIVE"), lambda: other.execute("ROLLBACK")
                )
        async with serving(store=f"sqlite:{path}") as app:
            for whole in wholes:
                assert await followed(connected, app.http_url, whole[0].turn_id, 0) == whole

    run(test())
    said = [record for record in caplog.records if record.name.startswith("server.stores")]
    assert [record.levelname for record in said] == ["ERROR", "WARNING"]
    assert "another program has locked" in said[0].getMessage()


def test_a_full_disk(run: Any, start_server: Any, connected: Any, tmp_path: Path) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting a small file system takes root and unshare")
    mount = f"mount -t tmpfs -o size=4m none '{tmp_path}' && exec \"$@\""
    flags = ("--store", f"sqlite:{tmp_path / 'chat.db'}", "--quiet")
    try:
        server = start_server(*flags, prefix=("unshare", "-m", "sh", "-c", mount, "sh"))
    except RuntimeError as failure:
        if "mount" in str(failure) and "denied" in str(failure):
            pytest.skip("mounting is not allowed here")
        raise
    disk = Path(f"/proc/{server.process.pid}/root{tmp_path}")  # as the server sees it

    def fill() -> None:
        with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))

    async def test() -> None:
        wholes = await check_trouble(connected, server.url, fill, lambda: os.truncate(disk / "filler", 0))
        for whole in wholes:
            assert await followed(connected, server.url, whole[0].turn_id, 0) == whole

    run(test())
    code, log = server.stop(signal.SIGTERM)
    assert code == 0 and "Traceback" not in log
    told = [json.loads(line) for line in log.splitlines()]
    assert [line["level"] for line in told] == ["error", "warning"], log
    assert "the disk is full" in log.splitlines()[0]

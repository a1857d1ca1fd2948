"""Everything goes wrong for some minutes, and nothing may be lost: `python -m tests.soak --minutes 3`.

1. Conversations go on over all five transports at once, each through a relay that can be pulled or is slow, while the
   server is killed and restarted. Whatever happens, a turn is read on from its cursor, on another transport.
2. Events are counted as they come from the wire, below the client's own care for what comes twice.
3. At the end every turn is read again, whole, and must be what was received; every message must be in its session. The
   sessions are deleted; the server then idles, and must hold no stream, no turn, and no more file descriptors, threads
   or memory than the last time.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from client.transports import ConnectionLost, Transport
from proto.errors import ChatError
from proto.events import TERMINAL, Chunk, Complete, Error, Event
from proto.requests import ChatRequest
from server.turn import sha256
from tests.conftest import Cable, Process, connect_client

NAMES = ("rest", "ndjson", "sse", "websocket", "grpc")
MODELS = (
    *(f"demo?chunks={chunks}&rate={rate}" for chunks, rate in ((5, 0), (20, 50), (60, 40), (120, 60), (200, 200))),
    "demo?chunks=40&rate=40&fail_after=25",
)
FLOOD = "demo?chunks=4000&rate=0"
AWAY_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
MAX_MORE_MEMORY_BYTES = 16 * 2**20  # a phase: what is kept for those who resume fills up to its bounds


class Wrong(Exception):
    """What must not happen has happened."""


class Figures:
    """Of one process, from outside."""

    def __init__(self, pid: int) -> None:
        self.files = len(os.listdir(f"/proc/{pid}/fd"))
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        self.threads = int(status["Threads"])
        self.memory_bytes = int(status["VmRSS"].split()[0]) * 1024

    def __str__(self) -> str:
        return f"{self.files} files, {self.threads} threads, {self.memory_bytes / 2**20:.0f} MiB"


class Server:
    """The server, on one port through all its lives."""

    def __init__(self, folder: str, counts: Counter[str]) -> None:
        self._flags = ("--store", f"sqlite:{folder}/chat.db", "--grpc-port", "off", "--quiet", "--model", "demo")
        self._counts = counts
        self.process = Process(*self._flags)
        self.port = self.process.port

    async def fall(self, kill: bool) -> None:
        """Die or leave, and come back."""
        if kill:
            await asyncio.to_thread(self.process.kill)
        else:
            await asyncio.to_thread(self.stop)
        self._counts["kill -9" if kill else "graceful restarts"] += 1
        self.process = await asyncio.to_thread(Process, *self._flags, "--port", str(self.port))

    def stop(self) -> None:
        code, log = self.process.stop()
        if code != 0 or log.strip():
            raise Wrong(f"the server ended with {code} and said: {log[-2000:]}")

    def figures(self) -> Figures:
        return Figures(self.process.process.pid)


class Line:
    """A transport over a relay of its own."""

    def __init__(self, name: str, port: int, slow: bool) -> None:
        self.name = name
        self._cable = Cable(port, slow)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Line":
        cable = await self._stack.enter_async_context(self._cable)
        self.transport: Transport = await self._stack.enter_async_context(connect_client(self.name, cable.url))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def pull(self) -> None:
        self._cable.pull()


class Log:
    """The events of one turn, as they came."""

    def __init__(self, counts: Counter[str]) -> None:
        self.events: list[Event] = []
        self._counts = counts
        self._early: Event | None = None

    @property
    def cursor(self) -> int:
        return len(self.events)

    @property
    def turn_id(self) -> str:
        return self.events[0].turn_id

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], TERMINAL)

    def take(self, event: Event, name: str, before: int) -> None:
        """One event of a stream that began behind `before`."""
        if event.seq == self.cursor + 1:
            self.events.append(event)
            if self._early is not None and self._early.seq == self.cursor + 1:
                self.events.append(self._early)
                self._early = None
        elif isinstance(event, Error) and event.code == "interrupted":
            self.events.append(event)  # the server was killed, and had kept less than it had sent
        elif name == "websocket" and event.seq <= 2 and before < 2:
            if event.seq > self.cursor:  # `status` comes before `response_start`
                self._early = event
        elif event.seq <= self.cursor:
            self._counts["doubled"] += 1
        else:
            self._counts["lost"] += 1
            raise Wrong(f"{name}: {event.seq} came behind {self.cursor}")

    def check(self) -> None:
        chunks = [event for event in self.events if isinstance(event, Chunk)]
        self._counts["chunks"] += len(chunks)
        if [chunk.chunk_number for chunk in chunks] != list(range(1, len(chunks) + 1)):
            raise Wrong(f"turn {self.turn_id} has other chunks than it should")
        end = self.events[-1]
        if isinstance(end, Complete):
            if (end.total_chunks, end.text_sha256) != (len(chunks), sha256("".join(chunk.text for chunk in chunks))):
                raise Wrong(f"turn {self.turn_id} has another text than it should")
            self._counts[f"ended: {end.finish_reason}"] += 1
        elif isinstance(end, Error):
            self._counts[f"ended: {end.code}"] += 1

    def check_again(self, whole: list[Event]) -> None:
        """The same turn, read once more: what was received is still there, but what a killed server had not kept."""
        known = min(len(self.events), len(whole)) - 1
        if whole[:known] != self.events[:known] or whole[-1] != self.events[-1]:
            raise Wrong(f"turn {self.turn_id} has changed")
        if len(whole) < len(self.events) and getattr(whole[-1], "code", "") != "interrupted":
            raise Wrong(f"turn {self.turn_id} has become shorter")


class Soak:
    def __init__(self, server: Server, counts: Counter[str], dice: random.Random) -> None:
        self._server = server
        self._counts = counts
        self._dice = dice
        self._logs: list[Log] = []
        self._said: dict[str, list[str]] = {}
        self.over = False

    async def converse(self, number: int) -> None:
        """One conversation, a turn after the other."""
        session_id = None
        while session_id is None:
            async with Line("rest", self._server.port, False) as line:
                with contextlib.suppress(ConnectionLost, ChatError):
                    session_id = (await line.transport.new_session(None)).session_id
        messages = self._said[session_id] = []
        while not self.over:
            message = f"message {len(messages)} of conversation {number}"
            model = FLOOD if self._dice.random() < 0.05 else self._dice.choice(MODELS)
            messages.append(message)
            log = Log(self._counts)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._turn(ChatRequest(message, session_id, model, f"{number}-{len(messages)}"), log)
            self._counts["turns"] += 1
            log.check()
            self._logs.append(log)

    async def _turn(self, request: ChatRequest, log: Log) -> None:
        names = set()
        back = 0
        while not log.ended:
            name = self._dice.choice(NAMES)
            slow = self._dice.random() < 0.2
            before = log.cursor - back
            if log.events:
                self._counts["changes of transport"] += name not in names
                self._counts["resumed"] += 1
            names.add(name)
            try:
                async with Line(name, self._server.port, slow) as line:
                    self._counts["slow readers"] += slow
                    source: Any = line.transport.follow(log.turn_id, before) if log.events else None
                    await self._read(line, source or line.transport.send(request), log, before)
                    if not log.ended and log.cursor == before and not back:
                        back = 1  # nothing left, but no end: the lost last event had the seq that the end has now
                        continue
                back = 0
            except ConnectionLost:
                self._counts["connections lost"] += 1
                await asyncio.sleep(AWAY_SECONDS)
            except ChatError as error:
                if error.code == "unavailable":  # it drains
                    await asyncio.sleep(AWAY_SECONDS)
                elif error.code != "session_busy" or error.turn_id is None:
                    raise Wrong(f"{name}: {error.code}: {error.message}") from error

    async def _read(self, line: Line, source: AsyncIterator[Event], log: Log, before: int) -> None:
        """Read until the end, or until something is done to the stream."""
        left = self._dice.choice((1, 2, 3, 10, 30, 100, None, None, None))
        doing = self._dice.choice(("pull", "stop", "cancel", "rest"))
        async with aclosing(source):  # type: ignore[type-var]
            async for event in source:
                log.take(event, line.name, before)
                if log.ended:
                    return
                if left is not None and (left := left - 1) == 0:
                    self._counts[{"pull": "cables pulled", "stop": "readers gone"}.get(doing, doing)] += 1
                    if doing == "pull":
                        line.pull()  # what is on this side of it is still read
                    elif doing == "stop":
                        return
                    elif doing == "cancel" and log.events:
                        await line.transport.cancel(log.turn_id)
                    else:
                        await asyncio.sleep(self._dice.random())

    async def disturb(self, until: float) -> None:
        while (rest := until - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, self._dice.uniform(3, 9)))
            await self._server.fall(kill=self._dice.random() < 0.6)

    async def check(self) -> None:
        """Read everything again, and delete it: what the server still holds then is for nothing."""
        async with contextlib.AsyncExitStack() as stack:
            port = self._server.port
            lines = [await stack.enter_async_context(Line(name, port, False)) for name in NAMES]
            for log in self._logs:
                transport = self._dice.choice(lines).transport
                whole = sorted([event async for event in transport.follow(log.turn_id, 0)], key=lambda event: event.seq)
                log.check_again(whole)
                self._counts["turns read again"] += 1
            for session_id, messages in self._said.items():
                detail = await lines[0].transport.session(session_id)
                kept = [message.text for message in detail.messages if message.role == "user"]
                if kept != messages:
                    raise Wrong(f"session {session_id} has {len(kept)} messages, and {len(messages)} were sent")
                await self._dice.choice(lines).transport.delete(session_id)
                self._counts["messages kept"] += len(kept)
        self._logs.clear()
        self._said.clear()

    async def idle(self) -> Figures:
        """When nobody is there any more: the server's figures."""
        async with Line("rest", self._server.port, False) as line, asyncio.timeout(PATIENCE_SECONDS):
            while True:
                stats = await line.transport.stats()
                if not (stats.running_turns or stats.streaming_connections or stats.websocket_connections):
                    break
                await asyncio.sleep(AWAY_SECONDS)
        await asyncio.sleep(1)  # what was just closed is let go of
        return self._server.figures()

    async def run(self, seconds: float, conversations: int, *, disturbed: bool) -> None:
        """So long, then until the running turns have ended."""
        self.over = False
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for number in range(conversations):
                tasks.create_task(self.converse(number))
            if disturbed:
                await self.disturb(until)
            else:
                await asyncio.sleep(seconds)
            self.over = True


async def soak(minutes: float, conversations: int, seed: int, counts: Counter[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        server = Server(folder, counts)
        own = Figures(os.getpid())
        try:
            soaking = Soak(server, counts, random.Random(seed))
            await soaking.run(minutes * 60 / 2, conversations, disturbed=True)
            await soaking.check()
            before = await soaking.idle()
            figures = []
            for _ in range(2):  # the last life is long, so that a leak shows
                await soaking.run(minutes * 60 / 4, conversations, disturbed=False)
                await soaking.check()
                figures.append(await soaking.idle())
            server.stop()
        finally:
            if server.process.process.poll() is None:
                server.process.kill()
        print(f"server, idle: {before}; then {figures[0]}; then {figures[1]}")
        gc.collect()
        mine = Figures(os.getpid())
        print(f"clients, idle: {own}; then {mine}; tasks: {len(asyncio.all_tasks()) - 1}")
        first, last = figures
        if last.files > first.files or last.threads > first.threads:
            raise Wrong("the server has leaked file descriptors or threads")
        if last.memory_bytes > first.memory_bytes + MAX_MORE_MEMORY_BYTES:
            raise Wrong("the server has leaked memory")
        if len(asyncio.all_tasks()) > 1 or mine.files > own.files + 2:
            raise Wrong("the clients have leaked tasks or file descriptors")
    if counts["lost"] or counts["doubled"]:
        raise Wrong(f"{counts['lost']} events were lost, {counts['doubled']} came twice")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=3, help="how long (3)")
    parser.add_argument("--conversations", type=int, default=30, help="how many at once (30)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the dice")
    chosen = parser.parse_args()
    print(f"{chosen.minutes:g} minutes, {chosen.conversations} conversations, seed {chosen.seed}", flush=True)
    counts: Counter[str] = Counter(lost=0, doubled=0)
    wrong: list[BaseException] = []
    try:
        asyncio.run(soak(chosen.minutes, chosen.conversations, chosen.seed, counts))
    except* Wrong as group:
        wrong += group.exceptions
    for name, count in sorted(counts.items()):
        print(f"{name:24}{count:10,}")
    for failure in wrong:
        print(f"WRONG: {failure}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

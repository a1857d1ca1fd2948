"""What tests share: a server as a process of its own, and one inside the test's own loop."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from client.transports import ConnectionLost, Transport, Update
from client.transports.grpc import Grpc
from client.transports.rest import Rest
from client.transports.stream import Stream
from client.transports.websocket import WebSocket
from proto.answers import ModelInfo
from proto.events import Event
from server.app import App
from server.models import End, Message, Pieces, Provider
from server.settings import Settings
from tests.forks import Piped

ROOT = Path(__file__).parent.parent
WAIT_SECONDS = 30
OURS = ("FIVEWIRE_", "GENAI_", "GEMINI_", "GOOGLE_", "LOCAL_LLM_")  # variables that say how a server runs
# Where grpcio has run in this process, its threads wake in a child between fork and exec, and may take the child down.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Servers and clients start as with a user: compiled by the first that starts, not by each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# All the authorities of the system in one file take 0.04 s to read, in each process that starts and several times for
# each of Google's clients. This is one that has signed nothing; its key was thrown away.
os.environ["SSL_CERT_FILE"] = str(ROOT / "tests" / "nobody.pem")
# A shell has its background jobs ignore SIGINT, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Process:
    """`python -m server` as its users run it."""

    def __init__(self, *flags: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        arguments = ["--port", "0", "--log-format", "json", *flags]
        self.process: Any
        if env is None and not prefix:
            self.process = Piped("server", arguments, clean)
        else:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "server", *arguments],
                cwd=ROOT,
                env={**clean, **(env or {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=WAIT_SECONDS)
            raise RuntimeError(f"the server did not start: {errors}")
        self.listening: dict[str, Any] = json.loads(line)
        self.url: str = self.listening["http"]
        self.grpc: str | None = self.listening["grpc"]
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """As a power cut would: `kill -9`."""
        self.process.kill()
        self.process.communicate(timeout=WAIT_SECONDS)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Ask it to stop; its exit code and its log."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, errors


@pytest.fixture
def start_server() -> Iterator[Callable[..., Process]]:
    """A function that starts a server process (`--port 0`; a gRPC port only where it is asked for)."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str, **options: Any) -> Process:
            chosen = flags if "--grpc-port" in flags else ("--grpc-port", "off", *flags)
            chosen = chosen if "--store" in chosen else ("--store", "memory", *chosen)
            process = Process(*chosen, **options)
            stack.callback(lambda: process.process.poll() is None and process.kill())
            return process

        yield start


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Process]:
    """One server process for all tests that leave it as they found it."""
    process = Process("--store", "memory", "--grpc-port", "off", "--model", "demo", "--quiet")
    yield process
    process.kill()


@pytest.fixture(autouse=True)
def nobody_calls_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in the test's loop need not wait for calls that crossed its GOAWAY."""
    monkeypatch.setattr("server.h2.LAST_CALL_SECONDS", 0.005)


@pytest.fixture
def serving() -> Callable[..., contextlib.AbstractAsyncContextManager[App]]:
    """`async with serving(heartbeat=0.1) as app`: a server inside the test's loop, on a free port, in memory."""

    @contextlib.asynccontextmanager
    async def serve(
        environ: dict[str, str] | None = None, providers: Sequence[Provider] | None = None, **chosen: Any
    ) -> AsyncIterator[App]:
        settings = {"port": 0, "grpc_port": None, "store": "memory", **chosen}
        app = App(Settings(**settings), environ or {}, providers)
        await app.start()
        try:
            yield app
        finally:
            await app.stop(drain_seconds=0)

    return serve


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run a coroutine to its end, within a time that no healthy test needs."""

    def runner(coroutine: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(WAIT_SECONDS):
                return await coroutine

        return asyncio.run(bounded())

    return runner


class Ask:
    """One question to a scripted model: the test says what comes, piece by piece."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = list(messages)
        self.stopped = asyncio.Event()
        self._said: asyncio.Queue[str | End | BaseException] = asyncio.Queue()

    def say(self, *pieces: str | End | BaseException) -> None:
        for piece in pieces:
            self._said.put_nowait(piece)

    async def pieces(self) -> Pieces:
        try:
            while True:
                piece = await self._said.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.stopped.set()


class ScriptedModel:
    def __init__(self, model_id: str, script: "Script") -> None:
        self.id = model_id
        self._script = script

    def answer(self, messages: Sequence[Message]) -> Pieces:
        ask = Ask(messages)
        ask.say(*self._script.always)
        self._script.asks.put_nowait(ask)
        return ask.pieces()


class Script:
    """A provider whose models (every id but demo's and Gemini's) say what the test tells them to say, or `always`."""

    name = "openai"

    def __init__(self, *always: str | End | BaseException) -> None:
        self.always = always
        self.asks: asyncio.Queue[Ask] = asyncio.Queue()

    def model(self, model_id: str) -> ScriptedModel:
        return ScriptedModel(model_id, self)

    async def asked(self) -> Ask:
        return await self.asks.get()

    async def models(self) -> list[ModelInfo]:
        return []

    async def close(self) -> None:
        pass


@pytest.fixture
def script() -> type[Script]:
    return Script


class Answer(NamedTuple):
    """An HTTP response; the names of its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A raw HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        self.request(method, path, body, **headers)
        return await self.answer(method)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        """A request; a body that is no bytes goes as JSON; `Last_Event_ID=...` is a header."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        known = {"Host": "test", **({"Content-Type": "application/json"} if body is not None else {})}
        known |= {name.replace("_", "-"): value for name, value in headers.items()}
        known |= {"Content-Length": str(len(data))} if data and "Transfer-Encoding" not in known else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in known.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + data)

    async def head(self) -> Answer:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines), "a header came twice"
        return Answer(int(first.split()[1]), {name.lower(): value for name, value in headers.items()}, b"")

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self, method: str = "GET") -> Answer:
        head = await self.head()
        body = b""
        if method == "HEAD" or head.status in (204, 304):
            pass
        elif head.headers.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                body += piece
        elif "content-length" in head.headers:
            body = await self.reader.readexactly(int(head.headers["content-length"]))
        else:
            body = await self.reader.read()
        return head._replace(body=body)


@pytest.fixture
def dial() -> Callable[..., contextlib.AbstractAsyncContextManager[Wire]]:
    """`async with dial(app) as wire`: a raw connection to an `App` or a `Process`, closed at the end."""

    @contextlib.asynccontextmanager
    async def connect(server: App | Process, limit: int = 2**20) -> AsyncIterator[Wire]:
        url = server.http_url if isinstance(server, App) else server.url
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=limit)
        try:
            yield Wire(reader, writer)
        finally:
            writer.transport.abort()

    return connect


class Deaf:
    """A listener that wants to know nothing."""

    def updated(self, update: Update) -> None: ...

    def overheard(self, event: Event) -> None: ...

    def lost(self, error: ConnectionLost) -> None: ...


@contextlib.asynccontextmanager
async def connect_client(name: str, url: str) -> AsyncIterator[Transport]:
    transports: dict[str, Callable[[], Transport]] = {
        "rest": lambda: Rest(url),
        "ndjson": lambda: Stream(url, "ndjson"),
        "sse": lambda: Stream(url, "sse"),
        "websocket": lambda: WebSocket(url, Deaf()),
        "grpc": lambda: Grpc(url, Deaf()),
    }
    transport = transports[name]()
    try:
        yield transport
    finally:
        await transport.close()


@pytest.fixture
def connected() -> Callable[[str, str], contextlib.AbstractAsyncContextManager[Transport]]:
    """`async with connected("grpc", url) as transport`: one of the client's transports, closed at the end."""
    return connect_client


class Cable:
    """A relay to a server, which can be pulled; `slow` takes a few kB at a time, with a rest after each."""

    def __init__(self, port: int, slow: bool = False) -> None:
        self._port = port
        self._slow = slow
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Cable":
        self._server = await asyncio.start_server(self._plugged, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pull()
        self._server.close()
        await asyncio.gather(*self._tasks)

    async def _plugged(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.append(writer)
        line = socket.socket()
        if self._slow:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", self._port))
        except ConnectionError:
            line.close()
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(sock=line, limit=4096 if self._slow else 2**16)
        self._ends.append(back)
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(one, other, self._slow and one is there))
            self._tasks.add(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slow: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while (data := await reader.read(2048 if slow else 2**16)) and not writer.transport.is_closing():
                writer.write(data)
                if slow:
                    await asyncio.sleep(0.003)
        writer.transport.abort()

    def pull(self) -> None:
        for writer in self._ends:
            writer.transport.abort()


@pytest.fixture
def cable() -> type[Cable]:
    return Cable

"""What the tests of the server share: a chat on either store, a certificate, a reader made slow or fast, an HTTP/2
client without manners."""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from h2.errors import ErrorCodes
from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from proto import ndjson
from proto.events import Event, Heartbeat
from proto.grpc_web import frame as message
from proto.h2 import BITE_BYTES
from server.catalog import Catalog
from server.chat import Chat
from server.direct import Whole
from server.lane import Follower, Framing
from server.listen import PREFACE
from server.models.demo import Demo
from server.settings import Settings
from server.stores.memory import MemoryStore
from server.stores.sqlite import SqliteStore
from server.turn import Turn
from tests.server.chats import Open


class Counted(Framing):
    """A framing that counts how often each event is encoded."""

    name = "ndjson"
    beats = True

    def __init__(self) -> None:
        self.encoded: dict[int, int] = {}

    def encode(self, turn: Turn, event: Event) -> bytes:
        self.encoded[event.seq] = self.encoded.get(event.seq, 0) + 1
        return ndjson.encode(event)

    def heartbeat(self) -> bytes:
        return ndjson.encode(Heartbeat("now"))


class Recorder(Whole):
    """Records what is written; its peer takes everything, or nothing while the follower is paused."""

    def __init__(self, framing: Counted, pause_at: Callable[[int], bool] = lambda number: False) -> None:
        self.framing = framing
        self.writes: list[bytes] = []
        self._follower: Follower | None = None
        self.ends = self.drops = self.waiting = 0
        self._pause_at = pause_at

    @property
    def follower(self) -> Follower | None:
        """Also of one who has had everything."""
        return self._follower

    @follower.setter
    def follower(self, follower: Follower | None) -> None:
        self._follower = follower or self._follower

    @property
    def writer(self) -> "Recorder":
        return self

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        if self.follower is not None and self._pause_at(len(self.writes)):
            self.waiting += len(data)
            self.follower.pause()

    def follow(self, turn: Turn, after: int = 0, paused: bool = False) -> "Recorder":
        self.follower = turn.follow(self, after, paused)
        return self

    def resume(self) -> None:
        assert self.follower is not None
        self.waiting = 0
        self.follower.resume()

    def ended(self, follower: Follower) -> None:
        self.ends += 1

    def taken(self) -> int:
        return -self.waiting

    def drop(self) -> None:
        self.drops += 1
        assert self.follower is not None
        self.follower.close()

    @property
    def events(self) -> list[Event | Heartbeat]:
        return ndjson.Decoder().feed(b"".join(self.writes))


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """`async with opened(provider, **settings) as chat`; opened again, SQLite knows what was."""

    @contextlib.asynccontextmanager
    async def open_chat(provider: Any, **settings: Any) -> AsyncIterator[Chat]:
        store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "chat.db")
        chat = Chat(Catalog([provider, Demo()], "script", "the test"), store, Settings(**settings))
        await chat.open()
        try:
            yield chat
        finally:
            await chat.drain(0)
            await chat.close()

    return open_chat


@pytest.fixture
def framing() -> type[Counted]:
    return Counted


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def bugs(caplog: pytest.LogCaptureFixture) -> Any:
    """Fails the test where the server has logged a traceback."""
    yield
    assert [
        record.getMessage() for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR
    ] == []


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


class Peer:
    """A client of HTTP/2 that sends what it is told, and remembers what it gets."""

    unknown = BITE_BYTES.to_bytes(3) + b"\xfa" + bytes(5 + BITE_BYTES)  # a frame of a type that nobody knows

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.encoder, self.decoder = Encoder(), Decoder()
        self.frames = []
        self.data_bytes = 0
        self.next_stream = 1
        self._rest = b""

    def send(self, *frames):
        self.writer.write(b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames))

    def headers(self, method="ListModels", extra=(), end=False, without=(), stream=None):
        """The HEADERS of a call on a new stream."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/chat.ChatService/{method}",
            ":authority": "x",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        stream = stream or self.next_stream
        self.next_stream = max(self.next_stream, stream + 2)
        block = self.encoder.encode([(k, v) for k, v in fields.items() if k not in without] + list(extra))
        return HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"])

    def call(self, method="ListModels", request=b"", extra=()):
        """Send a call of one message; its stream."""
        head = self.headers(method, extra)
        self.send(head, DataFrame(head.stream_id, message(request), flags=["END_STREAM"]))
        return head.stream_id

    async def until(self, wanted):
        """Read until a frame is wanted, and give it; None at the end of the connection."""
        for frame in self.frames:
            if wanted(frame):
                return frame
        while True:
            while len(self._rest) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self._rest[:9]))
                if len(self._rest) < 9 + length:
                    break
                frame.parse_body(memoryview(self._rest[9 : 9 + length]))
                self._rest = self._rest[9 + length :]
                if isinstance(frame, HeadersFrame):
                    frame.fields = dict(self.decoder.decode(frame.data))
                elif isinstance(frame, DataFrame):
                    self.data_bytes += len(frame.data)
                self.frames.append(frame)
                if wanted(frame):
                    return frame
            try:
                data = await self.reader.read(2**16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._rest += data

    async def end(self, stream):
        """The status of a call, or the error code of its reset."""

        def is_end(frame):
            return frame.stream_id == stream and ("END_STREAM" in frame.flags or isinstance(frame, RstStreamFrame))

        frame = await self.until(is_end)
        if isinstance(frame, RstStreamFrame):
            return ErrorCodes(frame.error_code)
        return int(frame.fields["grpc-status"])

    async def code(self, stream):
        """Our code of a call that has failed."""
        await self.end(stream)
        heads = [frame for frame in self.frames if isinstance(frame, HeadersFrame) and frame.stream_id == stream]
        return heads[-1].fields.get("fivewire-code")

    def data(self, stream):
        return b"".join(
            frame.data for frame in self.frames if isinstance(frame, DataFrame) and frame.stream_id == stream
        )

    async def goaway(self):
        """The error code of the last GOAWAY before the end of the connection."""
        assert await self.until(lambda frame: False) is None
        codes = [ErrorCodes(frame.error_code) for frame in self.frames if isinstance(frame, GoAwayFrame)]
        return codes[-1] if codes else None

    async def flood(self, data, chunk=2**16):
        """Send as long as it is taken."""
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), chunk):
                self.writer.write(data[start : start + chunk])
                await self.writer.drain()

    async def heard(self):
        """The server has dealt with everything so far."""
        self.frames.clear()
        self.send(PingFrame(0, b"heard...", flags=[]))
        await self.until(lambda frame: isinstance(frame, PingFrame))

    async def well(self):
        """The connection still serves."""
        assert await self.end(self.call()) == 0


@pytest.fixture
def peer():
    """`async with peer(app) as one`: a connection of a `Peer`; `settings` are those that it announces."""

    @contextlib.asynccontextmanager
    async def connected(app, settings=None, preface=True):
        host, port = app.http_url.partition("//")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
        try:
            one = Peer(reader, writer)
            if preface:
                one.send(PREFACE, SettingsFrame(0, settings=settings or {}))
            yield one
        finally:
            writer.transport.abort()

    return connected

"""The WebSocket below its messages: hostile frames, compression, dead peers, the ways in which it closes."""

import asyncio
import base64
import collections
import contextlib
import json
import os
import signal
import struct
import zlib

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from server.connection import Connection
from server.models import End

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN, RSV1, RSV2 = 0x80, 0x40, 0x20
DEFLATE = "permessage-deflate"


def frame(payload, opcode=TEXT, bits=FIN, mask=True, claimed=None):
    """A client's frame, right or wrong."""
    size = len(payload) if claimed is None else claimed
    masked = 0x80 if mask else 0
    if size < 126:
        head = struct.pack(">BB", bits | opcode, masked | size)
    elif size < 65536:
        head = struct.pack(">BBH", bits | opcode, masked | 126, size)
    else:
        head = struct.pack(">BBQ", bits | opcode, masked | 127, size)
    return head + (b"\0\0\0\0" if mask else b"") + payload


async def read_frame(wire):
    """One frame of the server: opcode with its bits, and payload."""
    first, size = await wire.reader.readexactly(2)
    if size == 126:
        size = int.from_bytes(await wire.reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await wire.reader.readexactly(8), "big")
    return first, await wire.reader.readexactly(size)


@pytest.fixture
def shake(dial):
    """`async with shake(app) as wire`: a raw connection after the handshake and the greeting."""

    @contextlib.asynccontextmanager
    async def shaken(server, extensions=None, limit=2**20):
        async with dial(server, limit) as wire:
            key = base64.b64encode(os.urandom(16)).decode()
            offer = {"Sec_WebSocket_Extensions": extensions} if extensions else {}
            wire.request(
                "GET", "/ws", Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Key=key,
                Sec_WebSocket_Version="13", **offer,
            )  # fmt: skip
            wire.shaken = await wire.head()
            assert wire.shaken.status == 101
            assert json.loads((await read_frame(wire))[1])["type"] == "connected"
            yield wire

    return shaken


async def closed_with(wire):
    """The code of the close frame, whatever comes before it; then the connection must end."""
    while True:
        first, payload = await read_frame(wire)
        if first & 0x0F == CLOSE:
            break
    wire.send(frame(payload[:2], CLOSE))
    with contextlib.suppress(ConnectionError):
        await wire.reader.read()
    return int.from_bytes(payload[:2], "big")


BOMB = zlib.compressobj(9, zlib.DEFLATED, -15)
BOMB = BOMB.compress(b" " * 50_000_000) + BOMB.flush(zlib.Z_SYNC_FLUSH)[:-4]
HOSTILE = {
    "invalid UTF-8": (frame(b'{"type": "\xff"}'), 1007),
    "half a character": (frame("é".encode()[:1]), 1007),
    "a reserved bit": (frame(b"{}", bits=FIN | RSV2), 1002),
    "compressed, though that was not agreed on": (frame(b"{}", bits=FIN | RSV1), 1002),
    "an opcode that does not exist": (frame(b"", opcode=3), 1002),
    "a control frame that does not exist": (frame(b"", opcode=11), 1002),
    "a huge control frame": (frame(b"x" * 126, PING), 1002),
    "a control frame in fragments": (frame(b"x", PING, bits=0), 1002),
    "a continuation of nothing": (frame(b"x", opcode=0), 1002),
    "a message within a message": (frame(b"{", bits=0) + frame(b"{}"), 1002),
    "a close code that may not be sent": (frame(struct.pack(">H", 1005), CLOSE), 1002),
    "half a close code": (frame(b"\x03", CLOSE), 1002),
    "a close reason that is no UTF-8": (frame(struct.pack(">H", 1000) + b"\xff", CLOSE), 1007),
    "too large": (frame(b"x" * 17_000), 1009),
    "a claim to be too large": (frame(b"", claimed=2**62), 1009),
    "a claim to be impossibly large": (frame(b"", claimed=2**63 + 1), 1009),
    "fragments without end": (frame(b"x" * 100, bits=0) + frame(b"x" * 100, opcode=0, bits=0) * 200, 1009),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_close_the_connection(run, serving, shake, name):
    data, code = HOSTILE[name]

    async def scene():
        async with serving(max_message_chars=10) as app, shake(app) as wire:
            wire.send(data)
            assert await closed_with(wire) == code
        assert app.chat.stats.websockets == 0

    run(scene())


@pytest.mark.parametrize("bomb", [BOMB, b"\x00\x00\x00\xff\xff" * 100 + BOMB])
def test_an_inflate_bomb_is_too_big(run, serving, shake, bomb):
    async def scene():
        async with serving(max_message_chars=5000) as app, shake(app, DEFLATE) as wire:
            wire.send(frame(bomb, bits=FIN | RSV1))
            assert await closed_with(wire) == 1009

    run(scene())


@pytest.mark.parametrize(("head", "code"), [((TEXT, 0xC0), 1007), ((PING, 0xC0), 1002), ((PING, FIN, False), 1002)])
def test_frames_that_may_not_be_close_the_connection(run, serving, shake, caplog, head, code):
    async def scene():
        async with serving() as app, shake(app, DEFLATE) as wire:
            wire.send(frame(b"\xff\xff\xff\xff", *head))
            assert await closed_with(wire) == code
        assert app.chat.stats.websockets == 0

    run(scene())
    assert not caplog.records


def test_frames_in_the_smallest_pieces(run, serving, shake):
    """Fragments, a ping between them, and every byte on its own."""

    async def scene():
        async with serving() as app, shake(app) as wire:
            data = frame(b'{"type"', bits=0) + frame(b"are you there", PING) + frame(b': "ping"}', opcode=0)
            for byte in data:
                wire.send(bytes([byte]))
                await asyncio.sleep(0)
            assert await read_frame(wire) == (FIN | PONG, b"are you there")
            assert json.loads((await read_frame(wire))[1])["type"] == "pong"

    run(scene())


HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: %b\r\n\r\n" % base64.b64encode(b"k" * 16)
)
KEY = HANDSHAKE[-28:-4]


@pytest.mark.parametrize(("old", "new"), [(b"GET", b"HEAD"), (b"1.1", b"1.0"), (b"13", b"8"), (KEY, b"\xc3\xa9" * 12)])
def test_what_is_no_handshake_is_refused(run, serving, dial, bugs, old, new):
    async def scene():
        async with serving() as app, dial(app) as wire:
            wire.send(HANDSHAKE.replace(old, new))
            told = await wire.head()
            version = told.headers.get("sec-websocket-version")
            assert (told.status, version) == ((426, "13") if new == b"8" else (400, None))

    run(scene())


def test_pipelined_with_the_handshake(run, serving, dial):
    """A client that does not wait for the 101 before it speaks."""

    async def scene():
        async with serving() as app, dial(app) as wire:
            wire.send(HANDSHAKE + frame(b'{"type": "ping"}'))
            assert (await wire.head()).status == 101
            assert [json.loads((await read_frame(wire))[1])["type"] for _ in range(2)] == ["connected", "pong"]

    run(scene())


# Compression


@pytest.mark.parametrize(
    ("offer", "agreed", "bits"),
    [
        (None, None, 0),
        (DEFLATE, DEFLATE, 15),
        (f"{DEFLATE}; client_max_window_bits", DEFLATE, 15),
        (f"{DEFLATE}; server_max_window_bits=9", f"{DEFLATE}; server_max_window_bits=9", 9),
        (f"{DEFLATE}; server_no_context_takeover", f"{DEFLATE}; server_no_context_takeover", 15),
        ("x-webkit-deflate-frame", None, 0),
    ],
)
def test_long_frames_are_deflated_where_that_was_agreed_on(run, serving, shake, script, offer, agreed, bits):
    answer = " ".join(f"word{number % 200}" for number in range(5000))

    async def scene():
        async with (
            serving(providers=[script(answer[:600], answer[600:], End())], model="scripted") as app,
            shake(app, offer) as wire,
        ):
            assert wire.shaken.headers.get("sec-websocket-extensions") == agreed
            inflate = zlib.decompressobj(-bits) if bits else None  # one window for the life of the connection
            for _ in range(3):
                wire.send(frame(b'{"type": "chat", "message": "Hi", "session_id": "s"}'))
                message, large = {"type": ""}, 0
                while message["type"] != "response_complete":
                    first, payload = await read_frame(wire)
                    assert first in (FIN | TEXT, FIN | RSV1 | TEXT)
                    if first & RSV1:
                        assert inflate is not None
                        packed, payload = payload, inflate.decompress(payload + b"\x00\x00\xff\xff")
                        assert len(packed) < len(payload) / 2
                        large += 1
                    else:
                        assert inflate is None or len(payload) < 1024
                    message = json.loads(payload)
                assert message["full_response"] == answer
                assert large == (2 if bits else 0)  # the long chunk and the whole answer

    run(scene())


@pytest.mark.parametrize("compression", [None, "deflate", 9, 15])  # or the bits of the server's window
def test_deflate_both_ways_with_websockets(run, serving, meet, script, compression):
    options = {"compression": compression}
    if isinstance(compression, int):
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=compression, client_max_window_bits=9)
        options = {"compression": None, "extensions": [factory]}
    long = "A long message compresses well. " * 900

    async def scene():
        async with (
            serving(providers=[script(long, End())], model="scripted") as app,
            meet(app, **options) as peer,
        ):
            assert [extension.name for extension in peer.socket.protocol.extensions] == (
                [DEFLATE] if compression else []
            )
            for _ in range(2):
                await peer.say("chat", message=long, session_id="s")
                heard = await peer.until("response_complete")
                assert next(message for message in heard if message["type"] == "response_start")["message"] == long
                assert heard[-1]["full_response"] == long

    run(scene())


# Dead peers, and the end


async def until(condition):
    """Wait for what happens on the other side of a socket."""
    while not condition():
        await asyncio.sleep(0.005)


def test_a_dead_peer_is_noticed_within_two_heartbeats(run, serving, meet, shake, monkeypatch):
    monkeypatch.setattr("server.connection.CLOSE_SECONDS", 0.05)
    beats, beat = collections.Counter(), Connection._beat

    def counted(self):
        beats[self.connection_id] += 1
        beat(self)

    monkeypatch.setattr(Connection, "_beat", counted)

    async def scene():
        async with serving(heartbeat=0.2) as app, meet(app) as alive, shake(app) as dead:
            session_id = await alive.create()
            dead.send(frame(json.dumps({"type": "join_session", "session_id": session_id}).encode()))
            who = (await alive.next("session_update", update_type="user_joined"))["connection_id"]
            await alive.next("session_update", update_type="user_disconnected", connection_id=who)
            assert beats[who] == 2
            assert await closed_with(dead) == 4408
            while beats[alive.connection_id] < 5:
                await asyncio.sleep(0.05)
            await alive.quiet()  # who answers pings stays, however silent otherwise

    run(scene())


# Comings and goings


def test_no_more_connections_than_streams(run, serving, meet):
    async def scene():
        async with serving(max_streams=2) as app, meet(app, 2) as (one, two):
            with pytest.raises(ConnectionClosed) as refused:
                async with meet(app):
                    pass
            assert refused.value.rcvd.code == 1013
            await one.quiet()
            await two.socket.close()
            await until(lambda: app.chat.stats.websockets == 1)
            async with meet(app) as three:
                await three.quiet()

    run(scene())


def test_while_draining(run, serving, meet, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, meet(app, 2) as (one, two):
            await one.say("chat", message="Hi")
            ask = await model.asked()
            await one.until("response_start")
            stopping = asyncio.create_task(app.stop(drain_seconds=20))
            await until(lambda: app.chat.draining)
            await two.say("chat", message="Hi")
            await two.next("error", code="unavailable", retryable=True)
            await two.say("create_session")
            await two.next("error", code="unavailable")
            with pytest.raises(ConnectionClosed) as refused:
                async with meet(app):
                    pass
            assert refused.value.rcvd.code == 1013
            ask.say(End("Goodbye"))
            assert (await one.until("response_complete"))[-1]["full_response"] == "Goodbye"
            for peer in (one, two):
                with pytest.raises(ConnectionClosed) as closed:
                    await peer.hear()
                assert closed.value.rcvd.code == 1001
            await stopping

    run(scene())


def test_goodbyes_are_heard(run, serving, meet, monkeypatch):
    """Who answers the close at once is not waited for."""
    monkeypatch.setattr("server.connection.CLOSE_SECONDS", 60)
    monkeypatch.setattr("server.transports.websocket.CLOSE_SECONDS", 60)

    async def scene():
        async with serving() as app, meet(app, 10) as peers:
            await peers[0].create()
            await app.stop(drain_seconds=0)
            for peer in peers:
                await peer.socket.wait_closed()
                assert (peer.socket.protocol.close_rcvd.code, peer.socket.protocol.close_sent.code) == (1001, 1001)

    run(scene())


def test_sigterm_closes_every_connection_with_1001(run, start_server, meet):
    server = start_server("--model", "demo?rate=40&chunks=40")

    async def scene():
        async with meet(server, 20) as peers:
            for peer in peers[:10]:
                await peer.say("chat", message="Hi")
                await peer.until("chunk")
            server.process.send_signal(signal.SIGTERM)
            ends = []
            for peer in peers:
                with pytest.raises(ConnectionClosed) as closed:
                    while True:
                        ends.append(await peer.hear())
                assert closed.value.rcvd.code == 1001
            ends = [message for message in ends if message["type"] == "response_complete"]
            assert [message["total_chunks"] for message in ends] == [40] * 10

    run(scene())
    _, log = server.process.communicate(timeout=20)
    assert server.process.returncode == 0
    assert "Traceback" not in log


def test_a_peer_that_does_not_say_goodbye_does_not_hold_up_the_end(run, serving, shake, monkeypatch):
    monkeypatch.setattr("server.connection.CLOSE_SECONDS", 0.2)

    async def scene():
        async with serving() as app, shake(app) as wire:
            await app.stop(drain_seconds=0)
            first, payload = await read_frame(wire)
            assert (first, int.from_bytes(payload[:2], "big")) == (FIN | CLOSE, 1001)
            with contextlib.suppress(ConnectionError):
                assert await wire.reader.read() == b""

    run(scene())


def test_too_large_a_message_closes_with_1009_also_while_it_is_being_sent(run, serving, meet):
    async def scene():
        async with serving(max_message_chars=100) as app:
            for _ in range(20):
                async with meet(app, max_size=None, compression=None) as peer:
                    with pytest.raises(ConnectionClosed) as closed:
                        await peer.say("chat", message="x" * 3_000_000)
                        await peer.hear()
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 1009

    run(scene())

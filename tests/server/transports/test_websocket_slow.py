"""WebSocket peers that read slowly, or nothing: they lose nothing, disturb nobody, and are heard all the same."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct

from proto.requests import ChatRequest
from server.connection import Connection
from server.models import End
from tests.server.loop_clock import LoopClock

TEXT, CLOSE = 1, 8


def masked(payload, opcode=TEXT):
    """A client's frame; with the mask 0, which leaves the text as it is."""
    size = len(payload)
    length = struct.pack(">B", 0x80 | size) if size < 126 else struct.pack(">BH", 0x80 | 126, size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


async def until(condition):
    """Wait for what happens on the other side of a socket."""
    while not condition():
        await asyncio.sleep(0.005)


def small_window(url):
    """A connected socket that takes little before it is full."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    host, _, port = url.removeprefix("http://").partition(":")
    peer.connect((host, int(port)))
    peer.setblocking(False)
    return peer


class Slow:
    """A raw peer that reads when it is told to."""

    def __init__(self, app):
        self.socket = small_window(app.http_url)
        self.loop = asyncio.get_running_loop()
        self.messages = []
        self.closed = None  # the code of the close frame
        self._data = b""

    async def __aenter__(self):
        key = base64.b64encode(os.urandom(16))
        await self.send(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: " + key + b"\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await self.loop.sock_recv(self.socket, 1)
        return self

    async def __aexit__(self, *_):
        self.socket.close()

    async def send(self, data):
        await self.loop.sock_sendall(self.socket, data)

    async def say(self, **fields):
        await self.send(masked(json.dumps(fields).encode()))

    async def read(self):
        """Some bytes; the whole frames among them become messages. False at the end."""
        data = await self.loop.sock_recv(self.socket, 2**18)
        self.take(data)
        return bool(data)

    def take(self, data):
        self._data += data
        while len(self._data) >= 2:
            size, head = self._data[1], 2
            if size == 126:
                size, head = int.from_bytes(self._data[2:4], "big"), 4
            elif size == 127:
                size, head = int.from_bytes(self._data[2:10], "big"), 10
            if len(self._data) < head + size:
                break
            opcode, payload = self._data[0] & 0x0F, self._data[head : head + size]
            self._data = self._data[head + size :]
            if opcode == TEXT:
                self.messages.append(json.loads(payload))
            elif opcode == CLOSE:
                self.closed = int.from_bytes(payload[:2], "big")

    async def read_until(self, kind):
        while not any(message["type"] == kind for message in self.messages):
            assert await self.read(), "the server closed"
        return self.messages

    async def read_to_the_end(self):
        with contextlib.suppress(ConnectionError):
            while await self.read():
                pass


def paused(app):
    """How many followers have fallen behind."""
    return sum(follower._paused for follower in app.chat.stats.transports["websocket"].followers)


def test_what_several_turns_say_while_the_socket_fills_up_stays_in_order(run, serving, script, monkeypatch):
    """The peer makes room at the very moment: what the other turns have to say must not overtake what waits."""

    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, Slow(app) as slow:
            real = Connection.pause
            pauses = []

            def pause(self):
                pauses.append(self)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        slow.take(slow.socket.recv(2**18))
                real(self)

            monkeypatch.setattr(Connection, "pause", pause)
            asks = []
            for name in "abcdefgh":
                await slow.say(type="chat", message="Hi", session_id=name)
                asks.append(await model.asked())
            turns = [asking.turn for asking in app.chat._running.values()]
            said = 0
            while not pauses:
                said += 1
                for turn in turns:
                    turn.chunk(f"{said} ".ljust(3000))
                await asyncio.sleep(0)
            for ask in asks:
                ask.say(End())
            while sum(message["type"] == "response_complete" for message in slow.messages) < len(turns):
                assert await slow.read(), "the server closed"
            for turn in turns:
                texts = [m["text"] for m in slow.messages if m["type"] == "chunk" and m["turn_id"] == turn.id]
                assert "".join(texts) == turn.text
                assert len(texts) == said + 1

    run(scene())


def test_a_slow_member_catches_up_and_the_others_notice_nothing(run, serving, meet, script):
    piece = "x" * 10_000

    async def scene():
        model = script()
        async with (
            serving(providers=[model], model="scripted") as app,
            contextlib.AsyncExitStack() as stack,
            meet(app, max_size=None) as fast,
        ):
            session_id = await fast.create()
            slow = await stack.enter_async_context(Slow(app))
            await slow.say(type="join_session", session_id=session_id)
            await slow.read_until("session_joined")
            await fast.say("chat", message="Hi")
            ask = await model.asked()
            said = 0
            while not paused(app):
                ask.say(piece)
                said += 1
                await fast.until("chunk")
            for _ in range(400):
                ask.say(piece)
                said += 1
            await fast.until("chunk", chunk_number=said)
            (behind,) = [f for f in app.chat.stats.transports["websocket"].followers if f._paused]
            assert behind.cursor < said
            assert behind.reader._connection.buffered() < 2**20, "what it has not read stays in the log"
            catching = asyncio.create_task(slow.read_until("response_complete"))
            ask.say(End("the end"))
            await fast.until("response_complete")
            turn = [message for message in await catching if "seq" in message]
            assert [message["seq"] for message in turn] == [2, 1, *range(3, said + 5)]
            assert turn[-1]["full_response"] == piece * said + "the end"

    run(scene())


def test_a_member_that_reads_nothing_is_closed(run, serving, meet, script, monkeypatch):
    monkeypatch.setattr("server.lane.STALL_SECONDS", 5)
    monkeypatch.setattr("server.connection.CLOSE_SECONDS", 5)

    async def scene():
        model = script()
        async with (
            serving(providers=[model], model="scripted") as app,
            contextlib.AsyncExitStack() as stack,
            meet(app, max_size=None) as fast,
        ):
            session_id = await fast.create()
            slow = await stack.enter_async_context(Slow(app))
            await slow.say(type="join_session", session_id=session_id)
            await slow.read_until("session_joined")
            await fast.say("chat", message="Hi")
            ask = await model.asked()
            clock = LoopClock()
            while not paused(app):
                ask.say("x" * 10_000)
                await fast.until("chunk")
            await clock.passes_until(lambda: app.chat.stats.websockets == 1)
            gone = (await fast.until("session_update", update_type="user_disconnected"))[-1]
            assert gone["session_id"] == session_id
            ask.say(End("still here"))
            await fast.until("response_complete")
            # The connection is cut, whatever the peer does.
            await clock.passes_until(asyncio.create_task(slow.read_to_the_end()).done)

    run(scene())


def test_who_reads_slowly_and_follows_many_turns_is_not_taken_for_one_that_reads_nothing(run, serving, monkeypatch):
    """Each turn has to wait for its moment, for longer than a turn that nobody takes may wait."""
    monkeypatch.setattr("server.lane.STALL_SECONDS", 2)

    async def scene():
        async with serving() as app, Slow(app) as slow:
            turns = [
                await app.chat.send(ChatRequest("Hi", f"s{number}", "demo?chunks=1000&rate=0"), "rest", "me")
                for number in range(6)
            ]
            for turn in turns:
                await turn.ended()
                await slow.say(type="resume", turn_id=turn.id, after=0)
            clock = LoopClock()
            await until(lambda: paused(app))
            while sum(message["type"] == "response_complete" for message in slow.messages) < len(turns):
                assert await slow.read(), "the server closed"
                await clock.passes(0.6)

    run(scene())


def test_who_comes_back_in_time_reads_why_it_was_closed(run, serving, meet, script, monkeypatch):
    monkeypatch.setattr("server.lane.STALL_SECONDS", 5)
    monkeypatch.setattr("server.connection.CLOSE_SECONDS", 10.0)

    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, contextlib.AsyncExitStack() as stack:
            slow = await stack.enter_async_context(Slow(app))
            await slow.say(type="chat", message="Hi", session_id="s")
            ask, clock = await model.asked(), LoopClock()
            ask.say(*["x" * 10_000] * 600)
            await until(lambda: paused(app))
            await clock.passes_until(lambda: not app.chat.stats.websockets)
            while slow.closed is None:
                assert await slow.read(), "the server closed"
            assert slow.closed == 4408
            await slow.send(masked(struct.pack(">H", 4408), CLOSE))
            await slow.read_to_the_end()
            turn = [message for message in slow.messages if "seq" in message]
            cursor = max(message["seq"] for message in turn)
            assert 2 < cursor < 602
            slow = await stack.enter_async_context(Slow(app))
            await slow.say(type="resume", turn_id=turn[0]["turn_id"], after=cursor)
            ask.say(End("the end"))
            rest = [message for message in await slow.read_until("response_complete") if "seq" in message]
            assert [message["seq"] for message in rest] == list(range(cursor + 1, 605))

    run(scene())


def test_updates_that_nobody_reads_are_bounded(run, serving, meet, monkeypatch):
    """No turn runs: only updates pile up for a member that does not read."""
    monkeypatch.setattr("server.connection.CLOSE_SECONDS", 0.1)
    monkeypatch.setattr("server.connection.MAX_UNREAD_BYTES", 2**17)

    async def scene():
        async with serving() as app, contextlib.AsyncExitStack() as stack, meet(app) as one:
            session_id = await one.create()
            slow = await stack.enter_async_context(Slow(app))
            await slow.say(type="join_session", session_id=session_id)
            await one.next("session_update", update_type="user_joined")
            session = await app.chat.session(session_id)
            (connection,) = [member for member in session.members if member.connection_id != one.connection_id]
            most = 0
            while app.chat.stats.websockets == 2:
                connection.updated(
                    session_id, "message_added", {"message_count": 1, "last_message_preview": "x" * 1000}
                )
                most = max(most, connection.buffered())
                await asyncio.sleep(0)
            assert most < 2**17 + 200_000

    run(scene())


def test_who_asks_and_does_not_read_is_not_read(run, serving, monkeypatch):
    for limit in ("BURST_MESSAGES", "MESSAGES_PER_SECOND"):  # which would stop the flood too
        monkeypatch.setattr(f"server.hearing.{limit}", 1e9)

    async def scene():
        async with serving() as app, contextlib.AsyncExitStack() as stack:
            slow = await stack.enter_async_context(Slow(app))
            flood = masked(json.dumps({"type": "typing_start", "session_id": "s" * 128}).encode()) * 100
            sent = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(0.3):
                        await slow.send(flood)
                    sent += len(flood)
                    assert sent < 50_000_000, "the server reads without end"

    run(scene())


LONG = "demo?chunks=8000&rate=0"  # more than a megabyte: many times what a socket takes


def test_who_catches_up_is_heard(run, serving):
    """The peer has yet to read a long turn when it stops another one."""

    async def scene():
        async with serving() as app, contextlib.AsyncExitStack() as stack:
            long = await app.chat.send(ChatRequest("Hi", "long", LONG), "rest", "me")
            await long.ended()
            running = await app.chat.send(ChatRequest("Hi", "running", "demo?chunks=9&rate=0.01"), "rest", "me")
            slow = await stack.enter_async_context(Slow(app))
            await slow.say(type="resume", turn_id=long.id, after=0)
            await until(lambda: paused(app))
            await slow.say(type="cancel", turn_id=running.id)
            await running.ended()
            ends = set()
            while len(ends) < 2:
                assert await slow.read(), "the server closed"
                ends = {message["turn_id"] for message in slow.messages if message["type"] == "response_complete"}
            seqs = [message["seq"] for message in slow.messages if message.get("turn_id") == long.id]
            assert ends == {long.id, running.id} and sorted(seqs) == [*range(1, long.last_seq + 1)]

    run(scene())


def test_who_catches_up_with_large_pieces_is_heard(run, serving, script):
    async def scene():
        model = script()
        async with serving(providers=[model], model="scripted") as app, contextlib.AsyncExitStack() as stack:
            long = await app.chat.send(ChatRequest("Hi", "long"), "rest", "me")
            (await model.asked()).say(*["x" * 10_000] * 1000, End(""))
            await long.ended()
            running = await app.chat.send(ChatRequest("Hi", "running"), "rest", "me")
            slow = await stack.enter_async_context(Slow(app))
            await slow.say(type="resume", turn_id=long.id, after=0)
            await until(lambda: paused(app))
            await slow.say(type="cancel", turn_id=running.id)
            while running.running:
                await slow.read()
                assert slow.messages[-1].get("seq", 0) < 500, "it is not heard before the long turn is read"
                await asyncio.sleep(0)

    run(scene())


def test_turns_that_catch_up_on_one_connection_share_it(run, serving):
    async def scene():
        async with serving() as app, contextlib.AsyncExitStack() as stack:
            turns = [await app.chat.send(ChatRequest("Hi", f"s{n}", LONG), "rest", "me") for n in range(3)]
            for turn in turns:
                await turn.ended()
            slow = await stack.enter_async_context(Slow(app))
            for turn in turns:
                await slow.say(type="resume", turn_id=turn.id, after=0)
            while not any(message["type"] == "response_complete" for message in slow.messages):
                await slow.read()
            seqs = {turn.id: 0 for turn in turns} | {m["turn_id"]: m["seq"] for m in slow.messages if "seq" in m}
            assert min(seqs.values()) > max(seqs.values()) / 3, seqs

    run(scene())

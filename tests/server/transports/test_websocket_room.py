"""A room of 1,000: every member gets the whole answer, in order, and it is encoded once."""

import asyncio
import base64
import json
import os
import resource

import pytest

from server.frames import WebSocket

MEMBERS, CHUNKS = 1000, 200
JOIN = b'{"type":"join_session","session_id":"room"}'


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * MEMBERS
    if soft < wanted:
        if hard not in (resource.RLIM_INFINITY,) and hard < wanted:
            pytest.skip(f"only {hard} open files are allowed here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Member(asyncio.Protocol):
    """As little of a client as can join and keep what comes: the test is about the server."""

    def __init__(self):
        self.data = bytearray()
        loop = asyncio.get_running_loop()
        self.joined, self.ended = loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        key = base64.b64encode(os.urandom(16))
        transport.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: " + key + b"\r\n\r\n\x81" + bytes([0x80 | len(JOIN)]) + bytes(4) + JOIN
        )

    def data_received(self, data):
        self.data += data
        if not self.joined.done():
            if b"session_joined" in self.data:
                self.joined.set_result(None)
        elif b"response_complete" in self.data[-len(data) - 20 :]:
            self.ended.set_result(None)

    def turn(self):
        """The messages of the turn, as bytes."""
        data, found = bytes(self.data), []
        place = data.index(b"\r\n\r\n") + 4
        while place < len(data):
            size, place = data[place + 1], place + 2
            if size == 126:
                size, place = int.from_bytes(data[place : place + 2], "big"), place + 2
            found.append(data[place : place + size])
            place += size
        assert place == len(data)
        return [payload for payload in found if b'"seq":' in payload]


def test_a_thousand_members(serving, meet, many_files, monkeypatch):
    encoded = []
    opening, encode, framer = WebSocket.opening, WebSocket.encode, WebSocket(0).framer

    def counting_opening(self, turn):
        encoded.extend((1, 2))
        return opening(self, turn)

    def counting(self, turn, event):
        encoded.append(event.seq)
        return encode(self, turn, event)

    def counting_framer(turn_id, text, seq, timestamp):
        encoded.append(seq)
        return framer(turn_id, text, seq, timestamp)

    monkeypatch.setattr(WebSocket, "opening", counting_opening)
    monkeypatch.setattr(WebSocket, "encode", counting)
    monkeypatch.setattr(WebSocket, "framer", staticmethod(counting_framer))
    monkeypatch.setattr("server.connection.CLOSE_SECONDS", 0.5)  # these members do not say goodbye

    async def scene():
        loop = asyncio.get_running_loop()
        async with (
            serving(model=f"demo?chunks={CHUNKS}&rate=200", heartbeat=60) as app,
            meet(app, compression=None) as asker,
        ):
            port = int(app.http_url.rpartition(":")[2])
            await asker.say("chat", message="first", session_id="room", model_id="demo?chunks=1&rate=0")
            await asker.until("response_complete")
            # Each joining is told to all who are there: the asker comes last.
            await asker.say("leave_session")
            await asker.next("session_left")
            members = []
            for _ in range(MEMBERS // 50):
                dialling = (loop.create_connection(Member, "127.0.0.1", port) for _ in range(50))
                batch = await asyncio.gather(*dialling)
                members += [member for _, member in batch]
                await asyncio.gather(*(member.joined for _, member in batch))
            assert (await app.chat.sessions()).sessions[0].connected_clients == MEMBERS
            encoded.clear()
            await asker.say("chat", message="Hi", session_id="room", model_id=app.catalog.default)
            await asyncio.gather(*(member.ended for member in members))
            whole = await asker.until("response_complete")

            assert encoded == [*range(1, CHUNKS + 4)]
            assert [message["seq"] for message in whole if "seq" in message] == [2, 1, *range(3, CHUNKS + 4)]
            first = members[0].turn()
            assert [json.loads(payload)["seq"] for payload in first] == [2, 1, *range(3, CHUNKS + 4)]
            assert json.loads(first[-1])["full_response"] == whole[-1]["full_response"]
            assert all(member.turn() == first for member in members)
            assert app.chat.stats.transports["websocket"].chunks == (MEMBERS + 1) * CHUNKS + 1

    asyncio.run(asyncio.wait_for(scene(), 120))  # some seconds, but a busy machine may take its time

"""A WebSocket peer that is not aiohttp's own: the package `websockets`."""

import asyncio
import contextlib
import json

import pytest
from websockets.asyncio.client import connect


class Peer:
    """One connection, and what it was told."""

    def __init__(self, socket):
        self.socket = socket
        self.connection_id = ""

    async def say(self, kind, **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def hear(self):
        return json.loads(await self.socket.recv())

    async def until(self, kind, **wanted):
        """All messages up to and including the first of this type with these fields."""
        heard = [await self.hear()]
        while not _is(heard[-1], kind, wanted):
            heard.append(await self.hear())
        return heard

    async def next(self, kind, **wanted):
        """The very next message, which must be this one."""
        message = await self.hear()
        assert _is(message, kind, wanted), message
        return message

    async def quiet(self):
        """Nothing is waiting: the very next answer is the one to a ping."""
        await self.say("ping")
        await self.next("pong")

    async def create(self, **fields):
        await self.say("create_session", **fields)
        return (await self.until("session_created"))[-1]["session_id"]

    async def join(self, session_id):
        await self.say("join_session", session_id=session_id)
        return await self.next("session_joined", session_id=session_id)


def _is(message, kind, wanted):
    return message["type"] == kind and all(message.get(name) == value for name, value in wanted.items())


@pytest.fixture
def meet():
    """`async with meet(app, 2) as (one, two)`: connections that have been greeted. What is not compressed may be taken
    at once; aiohttp's reader is on the way of everything else (`tests/server/transports/test_websocket_wire.py`)."""

    @contextlib.asynccontextmanager
    async def meeting(server, count=1, compression=None, **options):
        url = (server.http_url if hasattr(server, "http_url") else server.url).replace("http", "ws", 1) + "/ws"
        async with contextlib.AsyncExitStack() as stack:
            opening = [
                stack.enter_async_context(connect(url, compression=compression, **options)) for _ in range(count)
            ]
            peers = [Peer(socket) for socket in await asyncio.gather(*opening)]
            for peer in peers:
                peer.connection_id = (await peer.next("connected"))["connection_id"]
            yield peers[0] if count == 1 else peers

    return meeting

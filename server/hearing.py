"""What the peer of a WebSocket says: its messages, one at a time and not too fast.

1. aiohttp's reader gives what comes to a task. A short text message for which nothing else has to be finished first is
   taken at once instead, in the call that brings it, and what of it has to wait goes on in the task.
2. Before the next message there must be room for its answer: whoever does not read is not read either.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol

from aiohttp import WSMsgType, web

from server.client_frames import ClientFrames
from server.first_step import RestOf

MESSAGES_PER_SECOND = 100.0  # read from one connection, in the long run
BURST_MESSAGES = 300.0


class Hearer(Protocol):
    """Who is told."""

    async def take(self, text: str) -> None:
        """A text message. Whatever is wrong with it has been answered when this returns."""

    def take_other(self, kind: WSMsgType, data: bytes) -> None:
        """A binary message, or a ping."""

    async def room(self) -> None:
        """Wait until the peer has taken enough of its answers."""


class Hearing:
    """The reading side of one connection."""

    __slots__ = ("_begun", "_budget", "_frames", "_paced_at", "_who", "_ws", "busy", "heard")

    _who: Hearer

    def __init__(self, ws: web.WebSocketResponse, frames: ClientFrames) -> None:
        self._ws = ws
        self._frames = frames
        self._begun: Awaitable[None] | None = None  # what is left of a message that was taken at once
        self._budget = BURST_MESSAGES
        self._paced_at = time.monotonic()
        self.heard = True  # something, since that was last set to False
        self.busy = False

    async def run(self, who: Hearer) -> None:
        """Until the peer says goodbye, or breaks the protocol, or is gone."""
        self._who = who
        try:
            await self._run()
        finally:
            self._frames.hear = self._begun = None
            del self._who  # no cycle

    async def _run(self) -> None:
        while True:
            self._frames.hear = self._hear
            message = await self._ws.receive()
            self._frames.hear = None
            self.heard = True
            if self._begun is not None:
                begun, self._begun = self._begun, None
                await begun
            elif message.type is WSMsgType.TEXT:
                await self._take(message.data)
            elif message.type in (WSMsgType.BINARY, WSMsgType.PING):
                self._who.take_other(message.type, message.data)
                await self._pace()
            elif message.type is WSMsgType.PONG:
                await self._pace()
            else:
                return
            del message  # else it is kept until the next one comes

    def _hear(self, text: str) -> None:
        """A message that nothing comes before."""
        self.heard = True
        taking = self._take(text)
        try:
            waits_for = taking.send(None)
        except StopIteration:
            return
        self._begun = RestOf(taking, waits_for)
        self._frames.wake()

    async def _take(self, text: str) -> None:
        self.busy = True
        await self._who.take(text)
        self.busy = False
        await self._pace()

    async def _pace(self) -> None:
        await self._who.room()
        now = time.monotonic()
        self._budget = min(BURST_MESSAGES, self._budget + (now - self._paced_at) * MESSAGES_PER_SECOND) - 1
        self._paced_at = now
        if self._budget < 0:
            await asyncio.sleep(-self._budget / MESSAGES_PER_SECOND)

"""What one standing connection brings, sorted: events to whoever reads their turn, answers to whoever asked, and what
others do to the listener. WebSocket and gRPC share it.

1. Questions go one after the other: the next is sent when the last has got its answer, its refusal or the first event
   of the turn that it asks for, so that an answer, which names no question, can only be meant for one; unless that was
   given up meanwhile, and the answer is none to what is asked now.
2. Whose turn it is shows in its first event, which quotes the message. Over WebSocket `status` is earlier, and is held.
   Two members who send the same words at the same time get the same turn: one is refused as busy, and reads along.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from client.transports import REPLY_SECONDS, ConnectionLost, Listener, Update
from proto.errors import ChatError
from proto.events import TERMINAL, Event, SessionInfo, Status
from proto.requests import ChatRequest

Send = Callable[[], Awaitable[None]]
_Queue = asyncio.Queue[Event | Exception]


class Duplex:
    def __init__(self, listener: Listener, *, status_first: bool = False) -> None:
        self._listener = listener
        self._status_first = status_first
        self._turns: dict[str, list[_Queue]] = {}
        self._early: dict[str, Event] = {}
        self._asked: ChatRequest | None = None
        self._followed: str | None = None
        self._answer: type[Any] | None = None
        self._reply: asyncio.Future[Any] | None = None
        self._lock = asyncio.Lock()

    # What the connection brings.

    def event(self, event: Event) -> None:
        queues = self._turns.get(event.turn_id)
        if queues is None and isinstance(event, SessionInfo) and self._is_mine(event):
            queues = self._turns[event.turn_id] = [asyncio.Queue()]
            self._asked = None
            self._settle(event.turn_id)
        if queues is None and isinstance(event, Status) and self._status_first:
            self._early[event.turn_id] = event
            return
        events = [event, self._early.pop(event.turn_id)] if event.turn_id in self._early else [event]
        for ready in events:
            if queues is None:
                self._listener.overheard(ready)
            for queue in queues or ():
                queue.put_nowait(ready)
        if event.turn_id == self._followed:
            self._settle(event.turn_id)

    def _is_mine(self, event: SessionInfo) -> bool:
        asked = self._asked
        return asked is not None and asked.message == event.message and asked.session_id in (None, event.session_id)

    def answered(self, reply: Any) -> None:
        if self._answer is not None and isinstance(reply, self._answer):
            self._settle(reply)

    def refused(self, error: ChatError) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)

    def updated(self, update: Update) -> None:
        self._listener.updated(update)

    def lost(self, error: ConnectionLost, *, quietly: bool = False) -> None:
        """The connection is gone; `quietly` where the listener need not be told."""
        self._early.clear()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)
        for queue in [queue for queues in self._turns.values() for queue in queues]:
            queue.put_nowait(error)
        if not quietly:
            self._listener.lost(error)

    def _settle(self, reply: Any) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)

    # What is asked over it.

    async def question(
        self,
        send: Send,
        answer: type[Any] | None = None,
        asked: ChatRequest | None = None,
        followed: str | None = None,
    ) -> Any:
        """Send it and wait: for an answer of this type, or the id of the turn that begins or goes on."""
        async with self._lock:
            self._answer, self._asked, self._followed = answer, asked, followed
            self._reply = asyncio.get_running_loop().create_future()
            try:
                try:
                    await send()
                except ConnectionLost:
                    if not self._reply.done():
                        raise  # else the reason has come already
                return await asyncio.wait_for(self._reply, REPLY_SECONDS)
            except TimeoutError:
                raise ConnectionLost("The server does not answer any more.") from None
            finally:
                self._answer = self._asked = self._followed = self._reply = None

    async def ask(self, request: ChatRequest, send: Send) -> AsyncGenerator[Event, None]:
        turn_id = await self.question(send, asked=request)
        queue = self._turns[turn_id][0]
        async for event in self._read(turn_id, queue):
            yield event

    async def follow(self, turn_id: str, send: Send) -> AsyncGenerator[Event, None]:
        queue: _Queue = asyncio.Queue()
        self._turns.setdefault(turn_id, []).append(queue)
        try:
            await self.question(send, followed=turn_id)
        except BaseException:
            self._forget(turn_id, queue)
            raise
        async for event in self._read(turn_id, queue):
            yield event

    async def _read(self, turn_id: str, queue: _Queue) -> AsyncGenerator[Event, None]:
        try:
            while True:
                event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, TERMINAL):
                    return
        finally:
            self._forget(turn_id, queue)

    def _forget(self, turn_id: str, queue: _Queue) -> None:
        queues = self._turns.get(turn_id, [])
        if queue in queues:
            queues.remove(queue)
        if not queues:
            self._turns.pop(turn_id, None)

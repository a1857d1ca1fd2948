"""One answer, whole: every event of a turn exactly once and in order, whatever happens to the connection meanwhile.

1. The cursor is the highest seq without a gap below it. An event that is known is dropped, one that is early is held
   until the gap closes, so that what comes out is the same on every transport.
2. A cut is mended from the cursor, after growing waits, on whatever transport is current then; an event that comes
   starts the waits anew. Before the first event there is no cursor: the message is sent again, and its idempotency
   key makes sure that it is asked once. A key counts within its session, so a new session is named by us (as the key):
   but gRPC makes none that has a name. Where it does not know ours, the message had got nowhere, and needs no name.
3. The terminal event is news whatever its seq: a server that was killed may have kept less than it had sent, and ends
   the turn behind what it has. Where "nothing is left" but no end was seen, its seq may be our cursor's: one step back
   tells.
4. What the server refuses is final, except `unavailable` while resuming (it is restarting). So is what cannot be
   understood, when it comes again. A server that does not answer the very first connect is not waited for: whoever asks
   wants to know at once.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing

from client.transports import ConnectionLost, NotUnderstood, Transport
from proto.errors import ChatError
from proto.events import TERMINAL, Event
from proto.requests import ChatRequest, Cursor

WAITS_SECONDS = (0.2, 0.5, 1, 2, 3, 5, 5, 5, 5, 5, 5, 5, 5, 5)
MAX_HELD = 1024  # events ahead of a gap; a server that leaves more of them is not believed

OnCut = Callable[[Exception, float], None]


class Answer:
    """Asks once and reads to the end; `on_cut(error, seconds)` is told before every wait."""

    def __init__(
        self,
        transport: Callable[[], Transport],
        ask: ChatRequest | Cursor,
        on_cut: OnCut,
        waits: Sequence[float] = WAITS_SECONDS,
    ) -> None:
        self._transport = transport
        self._request: ChatRequest | None = None
        self.turn_id: str | None = None
        self.cursor = 0
        if isinstance(ask, Cursor):
            self.turn_id, self.cursor = ask
        else:
            key = ask.idempotency_key or str(uuid.uuid4())
            named = ask.session_id or (None if transport().name == "grpc" else key)
            self._request = ask._replace(session_id=named, idempotency_key=key)
        self._on_cut = on_cut
        self._waits = waits
        self._held: dict[int, Event] = {}
        self._hurry = asyncio.Event()
        self._unwanted = False
        self.finished = False
        self.resumed = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        cuts = 0
        broken = False
        back = 0
        cut: Exception | None = None  # the last one, until it moves again
        await self._transport().connect()
        while True:
            transport = self._transport()
            try:
                async with aclosing(self._open(transport, back)) as source:
                    async for event in source:
                        if self._unwanted:  # cancelled before the turn had said its name
                            self._unwanted = False
                            await transport.cancel(event.turn_id)
                        for ready in self._in_order(event):
                            self.resumed += broken
                            cuts, broken, cut = 0, False, None
                            self.finished = isinstance(ready, TERMINAL)
                            yield ready
                            if self.finished:
                                return
                if not self._held:
                    if back or not self.cursor:
                        self.finished = True
                        return
                    back = 1
                    continue
                cut = ConnectionLost("The stream has a gap.")
            except ConnectionLost as error:
                if isinstance(error, NotUnderstood) and isinstance(cut, NotUnderstood):
                    raise
                cut = error
            except ChatError as error:
                if error.code == "not_found" and self._forget_our_name():
                    continue
                if self.turn_id is None or error.code != "unavailable":
                    raise
                cut = error
            self._held.clear()
            broken = True
            if self._transport() is not transport:
                continue
            if cuts >= len(self._waits):
                raise cut
            self._on_cut(cut, self._waits[cuts])
            await self._wait(self._waits[cuts])
            cuts += 1

    def _open(self, transport: Transport, back: int) -> AsyncGenerator[Event, None]:
        if self.turn_id is not None:
            return transport.follow(self.turn_id, self.cursor - back)
        assert self._request is not None
        return transport.send(self._request)

    def _in_order(self, event: Event) -> Iterator[Event]:
        if self.turn_id is None:
            self.turn_id = event.turn_id
        if event.turn_id != self.turn_id:
            return
        if event.seq <= self.cursor:
            if isinstance(event, TERMINAL):
                yield event
            return
        self._held[event.seq] = event
        if len(self._held) > MAX_HELD:
            raise ConnectionLost("The stream has a gap.")
        while (ready := self._held.pop(self.cursor + 1, None)) is not None:
            self.cursor += 1
            yield ready

    def _forget_our_name(self) -> bool:
        """Whether the session that is not found has its name from us."""
        request = self._request
        if self.turn_id is not None or request is None or request.session_id != request.idempotency_key:
            return False
        self._request = request._replace(session_id=None)
        return True

    async def _wait(self, seconds: float) -> None:
        self._hurry.clear()
        try:
            await asyncio.wait_for(self._hurry.wait(), seconds)
        except TimeoutError:
            pass

    def hurry(self) -> None:
        """Try again now: there is a new transport, or somebody is impatient."""
        self._hurry.set()

    async def cancel(self) -> None:
        """Stop the model on the server. The terminal event then comes as an event like any other."""
        self._unwanted = self.turn_id is None
        await self._transport().cancel(self.turn_id)

"""The conversation: one session, asked over whatever transport is current, also when that changes in mid-answer."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Protocol

from client.answer import WAITS_SECONDS, Answer
from client.figures import Figures, Progress
from client.transports import ConnectionLost, Listener, Transport, Update
from proto.errors import ChatError
from proto.events import Event, SessionInfo
from proto.requests import ChatRequest, Cursor

Open = Callable[[str, str, Listener], Transport]
CANCEL_SECONDS = 3.0


class Audience(Protocol):
    """Who is told what nobody asked for: the terminal."""

    def updated(self, update: Update) -> None: ...

    def overheard(self, event: Event) -> None: ...

    def cut(self, error: Exception, seconds: float) -> None:
        """The connection is gone; the next attempt is in so many seconds."""

    def mended(self) -> None:
        """It is back."""

    def moved(self) -> None:
        """What others do is heard no more; or it is that in another session, or over another connection, from now on.
        Told before anything comes from there."""

    def joined(self) -> None:
        """What others do in the session is heard from now on."""


class Conversation:
    def __init__(self, open_transport: Open, protocol: str, url: str, audience: Audience) -> None:
        self._open = open_transport
        self._audience = audience
        self.protocol = protocol
        self.url = url
        self.transport = open_transport(protocol, url, self)
        self.connected = False
        self.session_id: str | None = None
        self.model: str | None = None  # as the session's last turn had it
        self.wanted_model: str | None = None
        self.has_messages = False  # the session, as far as we know
        self.default_model: str | None = None  # the server's
        self.figures = Figures()
        self.answer: Answer | None = None
        self.progress: Progress | None = None
        self.cursor: Cursor | None = None  # of the last answer
        self.finished = True  # the last answer was read to its end
        self._mine: set[str] = set()
        self._doing: set[tuple[str, str]] = set()
        self._mending: asyncio.Task[None] | None = None
        self._cut = False
        self._left = False

    # The connection

    async def connect(self) -> None:
        self.figures.attempts += 1
        await self.transport.connect()
        self._up()
        self.default_model = (await self.transport.health()).model

    async def disconnect(self) -> None:
        self.connected = False
        if self._mending is not None:
            self._mending.cancel()
            self._mending = None
        await self.transport.close()
        self._audience.moved()

    async def use(self, protocol: str, url: str) -> None:
        """Go on over another transport, also in mid-answer. The old one is kept until the new one works."""
        self.figures.attempts += 1
        new = self._open(protocol, url, self)
        try:
            await new.connect()
            default_model = (await new.health()).model
        except BaseException:
            await new.close()
            raise
        old, self.transport = self.transport, new
        if url != self.url:
            self.leave()
        self.protocol, self.url, self.default_model = protocol, url, default_model
        if self._mending is not None:
            self._mending.cancel()
            self._mending = None
        self._up()
        await old.close()
        self._audience.moved()
        if self.answer is not None:
            self.answer.hurry()
        await self._join()

    async def _join(self) -> None:
        if self.session_id is not None and self.transport.live:
            try:
                await self.transport.join(self.session_id)
            except ChatError as error:
                if error.code != "not_found":
                    raise
            self._audience.joined()

    def _up(self) -> None:
        self.connected = True
        if self._cut:
            self._cut = False
            self.figures.reconnections += 1
            self._audience.mended()

    def _down(self, error: Exception, seconds: float) -> None:
        self.connected = False
        self._cut = True
        self.figures.attempts += 1
        self._audience.cut(error, seconds)

    # What the transport tells

    def updated(self, update: Update) -> None:
        self._audience.updated(update)

    def overheard(self, event: Event) -> None:
        self._up()
        if event.turn_id not in self._mine:
            if isinstance(event, SessionInfo) and event.session_id == self.session_id:
                self.model = event.model
            self._audience.overheard(event)

    async def overhear(self, cursor: Cursor) -> None:
        """The rest of somebody else's answer, if it can be had."""
        transport = self.transport
        answer = Answer(lambda: transport, cursor, lambda error, seconds: None, ())
        async with aclosing(answer.events()) as events:
            async for event in events:
                self.overheard(event)

    def lost(self, error: ConnectionLost) -> None:
        """Try until somebody answers again."""
        self.connected = False
        if self._mending is None or self._mending.done():
            self._mending = asyncio.create_task(self._mend(error))

    def failed(self, error: ConnectionLost) -> bool:
        """A request has found nobody. Whether the audience is told by the attempts to connect that begin now."""
        tells = self.answer is None and not self._cut
        self.lost(error)
        return tells

    async def _mend(self, error: Exception) -> None:
        attempt = 0
        while True:
            wait = WAITS_SECONDS[min(attempt, len(WAITS_SECONDS) - 1)]
            if self.answer is None:  # else the answer's own attempts tell
                self._down(error, wait)
            await asyncio.sleep(wait)
            try:
                await self.transport.ping()
                await self._join()  # the session may have been named before anybody answered
                self.default_model = (await self.transport.health()).model  # it may be another server now
                break
            except (ConnectionLost, ChatError) as again:
                error = again
                attempt += 1
        self._up()

    # The session

    def leave(self) -> None:
        """The next message begins another session."""
        self._go_to(None, None, False)

    async def enter(self, session_id: str, model: str | None = None, has_messages: bool = False) -> None:
        left = self.session_id
        self._go_to(session_id, model, has_messages)
        if left is not None and left != session_id and self.connected:
            await self.transport.leave(left)
        await self._join()

    def _go_to(self, session_id: str | None, model: str | None, has_messages: bool) -> None:
        if session_id != self.session_id:
            self.cursor, self.finished = None, True  # an answer that was cut stays where it was asked for
            self._audience.moved()
        self.session_id, self.model, self.has_messages = session_id, model, has_messages

    async def clear(self, session_id: str) -> None:
        with self._doing_it("session_cleared", session_id):
            await self.transport.clear(session_id)
        self.has_messages = False

    async def delete(self, session_id: str) -> None:
        with self._doing_it("session_deleted", session_id):
            await self.transport.delete(session_id)
        if session_id == self.session_id:
            self.leave()

    @contextmanager
    def _doing_it(self, update_type: str, session_id: str) -> Iterator[None]:
        """What has an echo, where it is done, in the session that we are in."""
        doing = (update_type, session_id)
        if self.transport.live and session_id == self.session_id:
            self._doing.add(doing)
        try:
            yield
        except BaseException:
            self._doing.discard(doing)
            raise

    def is_our_doing(self, update: Update) -> bool:
        """Whether this is the echo of what we have asked for ourselves."""
        known = (update.type, update.session_id) in self._doing
        self._doing.discard((update.type, update.session_id))
        return known

    # Asking

    async def ask(self, message: str) -> AsyncGenerator[Event, None]:
        """The events of the answer, each once; what is said meanwhile is in `progress`."""
        self.figures.messages += 1
        message = message.encode(errors="replace").decode()  # bytes of a shell that are no text become a ?
        # The model that is shown, also where it was the session's: another member may have changed that.
        async with aclosing(self._read(ChatRequest(message, self.session_id, self.wanted_model))) as events:
            async for event in events:
                yield event

    async def resume(self, cursor: Cursor) -> AsyncGenerator[Event, None]:
        async with aclosing(self._read(cursor)) as events:
            async for event in events:
                yield event

    async def _read(self, ask: ChatRequest | Cursor) -> AsyncGenerator[Event, None]:
        if not self.connected:
            self.figures.attempts += 1
        self.answer = answer = Answer(lambda: self.transport, ask, self._down)
        self.progress = progress = Progress()
        if isinstance(ask, Cursor):
            self._mine.add(ask.turn_id)
        try:
            async with aclosing(answer.events()) as events:
                async for event in events:
                    self._up()
                    progress.add(event)
                    progress.resumed = answer.resumed
                    self.cursor = Cursor(event.turn_id, answer.cursor)
                    self.finished = answer.finished
                    if isinstance(event, SessionInfo):
                        self._mine.add(event.turn_id)
                        self._entered(event)
                    yield event
            self._up()
            self.finished = answer.finished
        except asyncio.CancelledError:
            await self._abandon(answer)
            raise
        except ChatError as error:
            self.finished |= error.code == "not_found"
            raise
        finally:
            self.figures.count(progress)
            self.answer = None

    def _entered(self, info: SessionInfo) -> None:
        self.figures.sessions += info.is_new_session
        self.model = info.model
        self.session_id = info.session_id
        self.has_messages = True

    async def cancel(self) -> None:
        """Stop the answer on the server; it then ends as any other."""
        if self.answer is not None:
            await asyncio.wait_for(self.answer.cancel(), CANCEL_SECONDS)

    def go(self) -> None:
        """We leave: an answer that still grows is left to the others in the session, and to the server's grace time."""
        self._left = True

    async def _abandon(self, answer: Answer) -> None:
        """It is not wanted any more: then the model need not go on."""
        if self._left:
            return
        try:
            await asyncio.wait_for(answer.cancel(), CANCEL_SECONDS)
        except (ChatError, ConnectionLost, TimeoutError):
            pass  # the server's grace time ends it

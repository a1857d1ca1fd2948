"""The chat: the service that every transport calls, and the rules that hold on all of them.

1. One turn runs per session. Between the look at a session and the taking of it nothing awaits.
2. A request with an idempotency key attaches to the turn that the key has begun. Those with the same key are taken one
   at a time: between a look for the turn and its beginning another one could begin it, and even end.
3. What changes a session is done whole, also where the caller leaves in the middle: else the store and what is in
   memory would differ.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from proto.answers import Health, HistoryMessage, ServerStats, SessionDetail, SessionList, SessionSummary
from proto.errors import ChatError
from proto.requests import ChatRequest, check_session_id, check_turn_id, invalid
from server import ids, pieces
from server.asking import Asking, Desk
from server.catalog import Catalog
from server.checkpoints import Checkpoints
from server.clock import rfc3339, timestamp
from server.kept import KeptTurns, restored
from server.lane import Outbox
from server.models import Message, Model
from server.sessions import Member, Session, Sessions, unknown
from server.settings import Settings
from server.stats import Stats
from server.stores import Key, SavedTurn, Store
from server.turn import Turn

MAX_PAGE = 500
PAGE = 100

T = TypeVar("T")


class Chat:
    """Starts, finds and cancels turns; lists, clears and deletes sessions; counts."""

    def __init__(self, catalog: Catalog, store: Store, settings: Settings) -> None:
        self.catalog = catalog
        self.settings = settings
        self.stats = Stats()
        self._sessions = Sessions(store)
        self.draining = False
        self._store = store
        self._outbox = Outbox()
        self._running: dict[str, Asking] = {}
        self._desk = Desk(store, self._sessions, self.stats, settings, self._turn_ended, self._running)
        self._kept = KeptTurns()
        self._keys: dict[Key, str] = {}  # of running turns; the store knows those of all others
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._checkpoints = Checkpoints(store, self._running)
        self._idle: list[asyncio.Future[None]] = []

    # Life

    async def open(self) -> None:
        await self._store.open(partial(pieces.usage_of_interrupted, self.settings))
        await self._sessions.open()

    async def drain(self, seconds: float) -> None:
        """No new turns; running ones get so many seconds, then are cancelled with their partial text kept."""
        self.draining = True
        if not await self._all_ended(seconds):
            for asking in tuple(self._running.values()):
                asking.stop()
            await self._all_ended(5.0)

    async def close(self) -> None:
        self._checkpoints.stop()
        await self.catalog.close()
        await self._store.close()

    async def _all_ended(self, seconds: float) -> bool:
        if self._running:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await asyncio.wait([idle], timeout=seconds)
        return not self._running

    # Turns

    async def send(
        self, request: ChatRequest, transport: str, client: str, asker: Member | None = None, *,
        make: bool = True, whole: bool = False,
    ) -> Turn:  # fmt: skip
        """Begin a turn with a (checked) request, or attach to the one that the same idempotency key has begun. When
        this returns, the message is stored and the model is being asked, whether or not the caller is still there. An
        asker is shown the turn as members are, the moment it begins. Without `make`, an unknown session is `not_found`;
        with `whole`, only the end is waited for and shown."""
        self.stats.asked(transport)
        try:
            if request.idempotency_key is None:
                return await self._begin(request, None, transport, client, asker, make, whole)
            key = Key(request.session_id or f"client {client}", request.idempotency_key)
            async with self._locks.setdefault(key, asyncio.Lock()):
                known = await self._keyed(key, request.message)
                return known or await self._begin(request, key, transport, client, asker, make, whole)
        except Exception:  # not where the caller has left: the turn may begin all the same
            self.stats.refused()
            raise

    async def _begin(
        self, request: ChatRequest, key: Key | None, transport: str, client: str, asker: Member | None,
        make: bool, whole: bool,
    ) -> Turn:  # fmt: skip
        self.admit()
        model = self.catalog.model(request.model_id) if request.model_id is not None else None
        session = None
        if request.session_id is not None:
            session = await self._sessions.find(request.session_id)
            self.admit()  # once more: by now it may drain, or be full
            # From here to `begin` nothing awaits.
            session = self._sessions.in_memory(request.session_id) or session
        if session is None:
            if request.session_id is not None and not make:
                raise unknown(request.session_id)
            session = self._new_session(request.session_id, model)
        elif session.turn is not None or session.changing:
            raise ChatError(
                "session_busy",
                "The session is answering already: wait for that turn to end, follow it, or cancel it.",
                turn_id=session.turn.id if session.turn is not None else None,
            )
        asking = self._asking(session, model or self.catalog.model(session.model), request.message, transport, client)
        turn = asking.turn
        if key is not None:
            self._keys[key] = turn.id
        self._running[turn.id] = asking
        asking.begin(key, asker, whole)
        self._checkpoints.one_more()
        if not asking.has_begun:  # a store without a disk has answered at once
            await asking.begun()
        return turn

    async def turn(self, turn_id: str) -> Turn:
        """A turn, running or ended, or `not_found`."""
        asking = self._running.get(turn_id)
        if asking is not None:
            await asking.begun()  # whoever followed before would miss the first events
            return asking.turn
        turn = self._kept.get(turn_id)
        while turn is None:
            deletions = self._sessions.deletions
            saved = await self._store.turn(check_turn_id(turn_id))
            if saved is None:
                raise ChatError("not_found", "There is no such turn: its session was deleted, or it never was.")
            turn = self._kept.get(turn_id)
            if turn is None and deletions == self._sessions.deletions:
                turn = restored(saved, self.stats)
                self._kept.keep(turn)
        return turn

    async def cancel(self, turn_id: str) -> Turn:
        """Stop the model at once; answers when the turn has ended."""
        turn = await self.turn(turn_id)
        turn.stop()
        await turn.ended()
        return turn

    def admit(self) -> None:
        """Whether one more stream can be served; ChatError `unavailable` if not."""
        if self.draining:
            raise ChatError("unavailable", "The server is going down: try again in a moment.", retry_after=2)
        limit = self.settings.max_streams
        if len(self._running) >= limit or self.stats.open_streams >= limit:
            raise _full(limit)

    def admit_reader(self) -> None:
        """Whether one more reader of a running turn can be served."""
        if self.stats.open_streams >= self.settings.max_streams:
            raise _full(self.settings.max_streams)

    async def _keyed(self, key: Key, message: str) -> Turn | None:
        turn_id = self._keys.get(key) or await self._store.keyed(key)
        if turn_id is None:
            return None
        asking = self._running.get(turn_id)
        if asking is not None:
            await asking.begun()
            turn = asking.turn
        else:
            try:
                turn = await self.turn(turn_id)
            except ChatError as error:
                if error.code != "not_found":  # or what cannot be read now would be asked a second time
                    raise
                return None
        if turn.message != message:
            raise ChatError("conflict", "This idempotency key was used for another message: take a new key.")
        if turn.running:
            self.admit_reader()
        return turn

    def _asking(self, session: Session, model: Model, message: str, transport: str, client: str) -> Asking:
        settings = self.settings
        turn_id = ids.turn_id()
        messages: list[Message] = [*session.messages, Message("user", message)]
        kept, omitted = pieces.bounded(messages, settings.context_messages, settings.context_chars)
        turn = Turn(
            SavedTurn(
                turn_id, session.id, model.id, message, time.time(), timestamp(), not session.stored, len(kept), omitted
            ),
            transport=transport,
            client=client,
            observer=self.stats,
            grace=settings.resume_grace,
            heartbeat=settings.heartbeat,
            outbox=self._outbox,
        )
        return Asking(self._desk, turn, session, model, kept)

    def _turn_ended(self, asking: Asking) -> None:
        turn = asking.turn
        del self._running[turn.id]
        if asking.key is not None:
            del self._keys[asking.key]
        if turn.last_seq:
            self._kept.keep(turn)
        if not self._running:
            for idle in self._idle:
                if not idle.done():
                    idle.set_result(None)
            self._idle.clear()

    # Sessions

    def _new_session(self, session_id: str | None, model: Model | None) -> Session:
        return self._sessions.add(
            session_id or ids.session_id(), model.id if model is not None else self.catalog.default
        )

    async def new_session(self, model_id: str | None = None) -> Session:
        if self.draining:
            self.admit()
        return await _whole(self._create(self.catalog.model(model_id)))

    async def _create(self, model: Model) -> Session:
        session = self._new_session(None, model)
        with self._sessions.using(session):
            await self._store.create(session.saved())
            self._sessions.was_stored(session)
        self.stats.sessions_created += 1
        return session

    async def session(self, session_id: str) -> Session:
        """A session that exists, or `not_found`."""
        return await self._sessions.get(check_session_id(session_id))

    async def session_of(self, turn: Turn) -> Session:
        """The session of a turn; of one that runs it is at hand."""
        asking = self._running.get(turn.id)
        return asking.session if asking is not None else await self.session(turn.session_id)

    async def detail(self, session_id: str, history: bool = True) -> SessionDetail:
        session = await self.session(session_id)
        turn = session.turn
        messages: list[HistoryMessage] = []
        said, answered = session.user_messages, session.model_messages
        if history:
            with self._sessions.using(session):
                messages = await self._store.history(session_id)
            said = [message.role for message in messages].count("user")
            answered = len(messages) - said
            if session.deleted:  # meanwhile
                raise unknown(session_id)
        # A turn that ended while its session was read is running still, as far as these messages go.
        shown = {message.turn_id: message.ends_turn for message in messages}  # and whether they tell its end
        active = session.turn
        if active is None and turn is not None and turn.id in shown:
            active = turn
        if active is not None and shown.get(active.id):
            active = None
        return SessionDetail(
            session_id=session.id,
            model=session.model,
            message_count=said + answered,
            session_duration_seconds=round(time.time() - session.created_at, 3),
            user_messages=said,
            model_messages=answered,
            created_at=rfc3339(session.created_at),
            usage=session.usage,
            messages=messages,
            active_turn=active.id if active is not None else None,
        )

    async def sessions(self, limit: int = PAGE, before: str | None = None) -> SessionList:
        """A page of the sessions, newest activity first; `before` is the `next` of the page before."""
        rows = await self._store.sessions(limit + 1, _place(before) if before else None)
        more, rows = len(rows) > limit, rows[:limit]
        return SessionList(
            active_sessions=self._sessions.count,
            sessions=[
                SessionSummary(
                    session_id=row.id,
                    model=row.model,
                    message_count=row.user_messages + row.model_messages,
                    duration_minutes=int((time.time() - row.created_at) / 60),
                    created_at=rfc3339(row.created_at),
                    connected_clients=self._sessions.members(row.id),
                )
                for row in rows
            ],
            next=f"{rows[-1].active_at!r}:{rows[-1].id}" if more else None,
        )

    async def clear(self, session_id: str) -> None:
        """Empty the history; the session stays, its turns can still be followed."""
        await _whole(self._clear(session_id))

    async def _clear(self, session_id: str) -> None:
        session = await self.session(session_id)
        async with self._changing(session):
            figures = session.saved()._replace(user_messages=0, model_messages=0, active_at=time.time())
            await self._store.clear(figures)
            session.forget()
            session.active_at = figures.active_at
        session.tell("session_cleared", {})

    async def delete(self, session_id: str) -> None:
        """Remove the session and its turns; its members are told."""
        await _whole(self._delete(session_id))

    async def _delete(self, session_id: str) -> None:
        session = await self.session(session_id)
        async with self._changing(session):
            await self._store.delete(session_id)
            self._sessions.was_deleted(session)
            self._kept.forget(session_id)
        session.tell("session_deleted", {})
        for member in tuple(session.members):
            self._sessions.leave(session, member)

    @asynccontextmanager
    async def _changing(self, session: Session) -> AsyncIterator[None]:
        """The session for oneself: its running turn is cancelled, and none begins meanwhile."""
        if session.changing:
            raise ChatError("session_busy", "The session is being cleared or deleted already.")
        session.changing = True
        try:
            with self._sessions.using(session):
                if session.turn is not None:
                    with suppress(ChatError):  # it never began, because the store could not take it
                        await self.cancel(session.turn.id)
                yield
        finally:
            session.changing = False

    def join(self, session: Session, member: Member) -> None:
        """Make somebody a member: the others are told, and a turn that runs is shown from its beginning."""
        if member not in session.members:
            session.tell("user_joined", {"connection_id": member.connection_id})
            self._sessions.join(session, member)
            if session.turn is not None and session.turn.last_seq:
                member.turn_started(session.turn)

    def leave(self, session: Session, member: Member) -> None:
        if member in session.members:
            self._sessions.leave(session, member)
            session.tell("user_disconnected", {"connection_id": member.connection_id})

    # Figures

    def health(self) -> Health:
        status = "draining" if self.draining else "healthy" if self._store.healthy else "degraded"
        return self.stats.health(status, self.catalog.default, self._sessions.count)

    def tell(self) -> ServerStats:
        return self.stats.tell(self.health(), len(self._running))


def _full(limit: int) -> ChatError:
    return ChatError("unavailable", f"The server streams {limit} at once, and no more: try again soon.", retry_after=5)


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """Rule 3."""
    return await asyncio.shield(asyncio.ensure_future(work))


def _place(before: str) -> tuple[float, str]:
    active_at, colon, session_id = before.partition(":")
    try:
        place = float(active_at)
    except ValueError:
        colon = ""
    if not colon or not math.isfinite(place):
        raise invalid("'before' must be the 'next' value of the page before.")
    return place, check_session_id(session_id)

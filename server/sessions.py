"""Sessions: the conversations, those in use in memory, the others in the store.

1. A session in use (a running turn, members, a request under way) stays in memory; idle ones are kept while there is
   room, and read back from the store when asked for.
2. Between a look at the store and the use of what it said, things may change; whoever comes first wins, and a session
   deleted meanwhile stays deleted (`deletions` tells).
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from proto.errors import ChatError
from proto.events import Usage
from server.models import Message
from server.stores import SavedSession, Store
from server.turn import Turn

log = logging.getLogger(__name__)

MAX_IDLE_SESSIONS = 1024
MAX_IDLE_CHARS = 32_000_000  # of their messages
MAX_JOINED = 100  # sessions that one connection may be a member of
MAX_UNREAD_BYTES = 2**20  # that a member has yet to take, and still gets updates: it is gone


class Member(Protocol):
    """Somebody who has joined a session and sees everything in it live."""

    @property
    def connection_id(self) -> str: ...

    def turn_started(self, turn: Turn) -> None:
        """A turn of the session begins: follow it."""

    def updated(self, session_id: str, update_type: str, fields: dict[str, Any]) -> None:
        """Something else happened: `update_type` and its fields are the contract's `session_update`."""


def check_joined(count: int) -> None:
    """Whether a connection that has joined so many sessions may join one more: they all stay in memory."""
    if count >= MAX_JOINED:
        raise ChatError(
            "rate_limited", f"A connection joins at most {MAX_JOINED} sessions: leave one, or open another."
        )


def unknown(session_id: str) -> ChatError:
    return ChatError("not_found", f"There is no session '{session_id}'. Create it, or list those that exist.")


class Session:
    """A session in memory: its figures, its messages as the model sees them, its members, its running turn."""

    __slots__ = (
        "active_at", "changing", "chars", "cost", "created_at", "deleted", "id", "input_tokens", "members", "messages",
        "model", "model_messages", "output_tokens", "stored", "turn", "user_messages", "uses",
    )  # fmt: skip

    def __init__(
        self,
        session_id: str,
        model: str,
        created_at: float,
        active_at: float,
        user_messages: int = 0,
        model_messages: int = 0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost: float = 0.0,
    ) -> None:
        """A new one; or one that was saved, with its figures as `SavedSession` has them."""
        self.id = session_id
        self.model = model
        self.created_at = created_at
        self.active_at = active_at
        self.user_messages = user_messages
        self.model_messages = model_messages
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cost = cost
        self.messages: list[Message] = []
        self.chars = 0  # of the messages: what they take in memory
        self.members: dict[Member, None] = {}
        self.turn: Turn | None = None
        self.stored = False  # until the store has a row of it
        self.changing = False  # being cleared or deleted: no turn may begin
        self.deleted = False
        self.uses = 0

    @property
    def usage(self) -> Usage:
        """The sum over all turns, which counts as estimated: some may be."""
        return Usage(self.input_tokens, self.output_tokens, True, self.cost or None)

    @property
    def message_count(self) -> int:
        return self.user_messages + self.model_messages

    def say(self, message: Message) -> None:
        self.messages.append(message)
        self.chars += len(message.text)

    def forget(self) -> None:
        self.messages, self.chars = [], 0
        self.user_messages = self.model_messages = 0

    def saved(self) -> SavedSession:
        return SavedSession(
            self.id, self.model, self.created_at, self.active_at, self.user_messages, self.model_messages,
            self.input_tokens, self.output_tokens, self.cost,
        )  # fmt: skip

    def tell(self, update_type: str, fields: dict[str, Any], but: Member | None = None) -> None:
        """Tell every member, but not the one whose doing it is."""
        for member in tuple(self.members):
            if member is not but:
                try:
                    member.updated(self.id, update_type, fields)
                except Exception:  # a bug of one member is no matter for the session
                    log.exception("a member failed")

    def show(self, turn: Turn, asker: Member | None) -> None:
        """A turn has begun: show it to every member, and to the one who asks."""
        members = self.members if asker is None else {**self.members, asker: None}
        for member in tuple(members):
            try:
                member.turn_started(turn)
            except Exception:
                log.exception("a member failed")


class Sessions:
    """The sessions in memory, in front of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._live: dict[str, Session] = {}
        self._idle: OrderedDict[str, Session] = OrderedDict()
        self._idle_chars = 0
        self.deletions = 0
        self.count = 0

    async def open(self) -> None:
        self.count = await self._store.count()

    def in_memory(self, session_id: str) -> Session | None:
        return self._live.get(session_id)

    def members(self, session_id: str) -> int:
        session = self._live.get(session_id)
        return len(session.members) if session is not None else 0

    async def get(self, session_id: str) -> Session:
        """The session with this id, or `not_found`."""
        session = await self.find(session_id)
        if session is None:
            raise unknown(session_id)
        return session

    async def find(self, session_id: str) -> Session | None:
        while True:
            session = self._live.get(session_id)
            if session is not None:
                return session if session.stored and not session.deleted else None
            deletions = self.deletions
            saved = await self._store.session(session_id)
            history = await self._store.history(session_id) if saved is not None else []
            if deletions != self.deletions or session_id in self._live:
                continue
            if saved is None:
                return None
            session = self._live[session_id] = Session(*saved)
            for message in history:
                session.say(Message(message.role, message.text))
            session.stored = True
            self._rest(session)
            return session

    def add(self, session_id: str, model: str) -> Session:
        """A new session, which the store does not have yet: to be held at once."""
        now = time.time()
        session = self._live[session_id] = Session(session_id, model, now, now)
        return session

    @contextmanager
    def using(self, session: Session) -> Iterator[Session]:
        """Keep the session in memory across an await."""
        self.hold(session)
        try:
            yield session
        finally:
            self.let_go(session)

    def hold(self, session: Session) -> None:
        session.uses += 1
        if session.uses == 1:
            self._wake(session)

    def let_go(self, session: Session) -> None:
        session.uses -= 1
        if not session.uses:
            if session.stored and not session.deleted:
                self._rest(session)
            elif self._live.get(session.id) is session:
                del self._live[session.id]

    def join(self, session: Session, member: Member) -> None:
        session.members[member] = None
        self.hold(session)

    def leave(self, session: Session, member: Member) -> None:
        del session.members[member]
        self.let_go(session)

    def was_stored(self, session: Session) -> None:
        if not session.stored:
            session.stored = True
            self.count += 1

    def was_deleted(self, session: Session) -> None:
        self.deletions += 1
        self.count -= 1
        session.deleted = True
        self._wake(session)
        if self._live.get(session.id) is session:
            del self._live[session.id]

    def _rest(self, session: Session) -> None:
        """Idle, the youngest of them: the oldest leave memory."""
        self._idle[session.id] = session
        self._idle_chars += session.chars
        while len(self._idle) > MAX_IDLE_SESSIONS or (self._idle_chars > MAX_IDLE_CHARS and len(self._idle) > 1):
            _, oldest = self._idle.popitem(last=False)
            self._idle_chars -= oldest.chars
            del self._live[oldest.id]

    def _wake(self, session: Session) -> None:
        """Idle no longer. While it was, its messages did not change."""
        idle = self._idle.pop(session.id, None)
        if idle is not None:
            self._idle_chars -= idle.chars

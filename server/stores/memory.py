"""The store without a disk: sessions and turns live as long as the process, and only `delete` drops one.

Everything is answered at once. `begin` and `end` are on the path of every request, so they only file what they are
given; sorting and joining are left to the reads.
"""

import time
from bisect import bisect_left, insort
from collections.abc import Sequence

from proto.answers import HistoryMessage
from proto.events import Complete, Error
from server.stores import IDEMPOTENCY_SECONDS, Done, Key, Part, SavedSession, SavedTurn, Used, joined, messages


class _Log:
    """A turn as it came: its opening, its parts, its end."""

    __slots__ = ("chunks", "cleared", "final", "key", "opening", "parts", "terminal")

    def __init__(self, opening: SavedTurn, key: Key | None) -> None:
        self.opening = opening
        self.key = key
        self.parts: tuple[Part, ...] = ()
        self.final = False
        self.terminal: Complete | Error | None = None
        self.cleared = False
        self.chunks: tuple[str, ...] = ()

    def end(self, final: bool, terminal: Complete | Error) -> None:
        self.final = final
        self.terminal = terminal
        whole = len(self.parts) == 1 and self.parts[0].first == 1
        self.chunks = self.parts[0].chunks if whole else joined(self.parts)
        self.parts = ()

    def saved(self) -> SavedTurn:
        chunks = self.chunks if self.terminal else joined(self.parts)
        return self.opening._replace(chunks=chunks, final=self.final, terminal=self.terminal)


class MemoryStore:
    name = "memory"
    healthy = True

    def __init__(self) -> None:
        self._sessions: dict[str, SavedSession] = {}
        self._turns: dict[str, _Log] = {}
        self._turns_of: dict[str, list[str]] = {}
        self._keys: dict[Key, tuple[float, str]] = {}  # in the order of begin: the oldest expires first
        self._listed: list[tuple[float, str]] = []  # (active_at, id), in order, as of the last listing
        self._moved: dict[str, float | None] = {}  # sessions that changed since, and where they stand in `_listed`

    async def open(self, used: Used | None = None) -> None:
        pass

    async def close(self) -> None:
        pass

    async def session(self, session_id: str) -> SavedSession | None:
        return self._sessions.get(session_id)

    async def sessions(self, limit: int, before: tuple[float, str] | None) -> list[SavedSession]:
        self._sort()
        end = len(self._listed) if before is None else bisect_left(self._listed, before)
        page = self._listed[max(0, end - limit) : end]
        return [self._sessions[session_id] for _, session_id in reversed(page)]

    async def count(self) -> int:
        return len(self._sessions)

    async def history(self, session_id: str) -> list[HistoryMessage]:
        logs = [self._turns[turn_id] for turn_id in self._turns_of.get(session_id, ())]
        return [message for log in logs if not log.cleared for message in messages(log.saved())]

    async def turn(self, turn_id: str) -> SavedTurn | None:
        log = self._turns.get(turn_id)
        return log.saved() if log else None

    async def keyed(self, key: Key) -> str | None:
        begun_at, turn_id = self._keys.get(key, (0.0, None))
        return turn_id if begun_at > time.time() - IDEMPOTENCY_SECONDS else None

    async def create(self, session: SavedSession) -> None:
        self._put(session)

    def begin(self, session: SavedSession, turn: SavedTurn, key: Key | None, done: Done) -> None:
        self._put(session)
        self._turns[turn.id] = _Log(turn, key)
        self._turns_of.setdefault(session.id, []).append(turn.id)
        if key:
            self._forget_keys()
            for scope in {key.scope, session.id}:
                self._keys.pop(Key(scope, key.key), None)
                self._keys[Key(scope, key.key)] = (turn.started_at, turn.id)
        done(None)

    def checkpoint(self, parts: Sequence[Part]) -> None:
        for part in parts:
            log = self._turns.get(part.turn_id)
            if log and log.terminal is None:
                log.parts += (part,)

    def end(self, session: SavedSession, part: Part, final: bool, terminal: Complete | Error, done: Done) -> None:
        log = self._turns.get(part.turn_id)
        if log and log.terminal is None:  # else it was deleted meanwhile
            log.parts += (part,)
            log.end(final, terminal)
            self._put(session)
        done(None)

    async def clear(self, session: SavedSession) -> None:
        if session.id in self._sessions:
            self._put(session)
            for turn_id in self._turns_of.get(session.id, ()):
                self._turns[turn_id].cleared = True

    async def delete(self, session_id: str) -> None:
        session = self._sessions.pop(session_id, None)
        if session and self._moved.setdefault(session_id, session.active_at) is None:
            del self._moved[session_id]  # it was never listed
        for turn_id in self._turns_of.pop(session_id, ()):
            key = self._turns.pop(turn_id).key
            if key:
                for scope in {key.scope, session_id}:
                    if self._keys.get(Key(scope, key.key), (0.0, ""))[1] == turn_id:
                        del self._keys[Key(scope, key.key)]

    def _put(self, session: SavedSession) -> None:
        session_id = session.id
        if session_id not in self._moved:
            before = self._sessions.get(session_id)
            self._moved[session_id] = before.active_at if before else None
        self._sessions[session_id] = session

    def _sort(self) -> None:
        """Bring `_listed` up to date: move what has moved, or start over when that is most of them."""
        if len(self._moved) > 100 + len(self._listed) // 100:
            self._listed = sorted([(session.active_at, session.id) for session in self._sessions.values()])
        else:
            for session_id, listed_at in self._moved.items():
                if listed_at is not None:
                    del self._listed[bisect_left(self._listed, (listed_at, session_id))]
                session = self._sessions.get(session_id)
                if session:
                    insort(self._listed, (session.active_at, session_id))
        self._moved.clear()

    def _forget_keys(self) -> None:
        expired = time.time() - IDEMPOTENCY_SECONDS
        while self._keys:
            oldest = next(iter(self._keys))
            if self._keys[oldest][0] > expired:
                break
            del self._keys[oldest]

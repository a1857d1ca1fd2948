"""The store on disk: one SQLite file; one thread writes, another reads, and the event loop waits for neither.

1. Writes are a queue (`sqlite_writer`); reads run on a thread of their own: with a write-ahead log neither blocks the
   other.
2. What could not be written yet is laid over what is read: a turn's end does not go back while the disk is full. (The
   list of sessions may show older figures meanwhile.)
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from proto.answers import HistoryMessage
from proto.errors import ChatError
from proto.events import Complete, Error, as_json, from_dict
from server.stores import (
    IDEMPOTENCY_SECONDS,
    Done,
    Key,
    Part,
    SavedSession,
    SavedTurn,
    StoreRefused,
    Used,
    interrupted,
    joined,
    messages,
)
from server.stores.packed import unpacked
from server.stores.sqlite_file import DatabaseFile
from server.stores.sqlite_writer import Begin, Checkpoint, Clear, Create, Delete, End, Write, Writer

T = TypeVar("T")

_SESSION = "id, model, created_at, active_at, user_messages, model_messages, input_tokens, output_tokens, cost"
_LOGS = (
    "SELECT t.id, t.session_id, t.model, t.message, t.started_at, t.timestamp, t.is_new_session, t.context_messages, "
    "t.omitted_messages, c.first, c.chunks, c.final, c.terminal FROM turns t LEFT JOIN chunks c ON c.turn = t.n WHERE "
)
_HISTORY = _LOGS + "t.session_id = ? AND NOT t.cleared ORDER BY t.n, c.first"


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self.name = f"sqlite:{path}"
        self._file = DatabaseFile(path)
        self._thread: ThreadPoolExecutor
        self._connection: sqlite3.Connection
        self._writer: Writer

    async def open(self, used: Used | None = None) -> None:
        self._thread = ThreadPoolExecutor(1, "sqlite-reader")
        try:
            self._writer = await self._on_thread(self._open, asyncio.get_running_loop(), used)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def close(self) -> None:
        await self._on_thread(self._close)
        self._thread.shutdown(wait=False)

    @property
    def healthy(self) -> bool:
        return self._writer.trouble is None

    async def session(self, session_id: str) -> SavedSession | None:
        return await self._read(self._session, session_id)

    async def sessions(self, limit: int, before: tuple[float, str] | None) -> list[SavedSession]:
        return await self._read(self._sessions, limit, before)

    async def count(self) -> int:
        return await self._read(self._count)

    async def history(self, session_id: str) -> list[HistoryMessage]:
        return await self._read(self._history, session_id)

    async def turn(self, turn_id: str) -> SavedTurn | None:
        return await self._read(self._turn, turn_id)

    async def keyed(self, key: Key) -> str | None:
        return await self._read(self._keyed, key)

    async def create(self, session: SavedSession) -> None:
        await self._written(lambda done: Create(session, done))

    def begin(self, session: SavedSession, turn: SavedTurn, key: Key | None, done: Done) -> None:
        self._writer.put(Begin(session, turn, key, done))

    def checkpoint(self, parts: Sequence[Part]) -> None:
        self._writer.put(Checkpoint(parts))

    def end(self, session: SavedSession, part: Part, final: bool, terminal: Complete | Error, done: Done) -> None:
        self._writer.put(End(session, part, final, terminal, done))

    async def clear(self, session: SavedSession) -> None:
        await self._written(lambda done: Clear(session, done))

    async def delete(self, session_id: str) -> None:
        await self._written(lambda done: Delete(session_id, done))

    async def _written(self, write: Callable[[Done], Write]) -> None:
        written = asyncio.get_running_loop().create_future()

        def done(error: ChatError | None) -> None:
            if not written.done():  # the caller may have been cancelled
                written.set_result(error)

        self._writer.put(write(done))
        error = await written
        if error:
            raise error

    async def _on_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._on_thread(read, *arguments)
        except sqlite3.Error as error:
            raise ChatError("unavailable", f"Saved conversations cannot be read now: {error}.") from error

    # What follows runs on the reader's thread.

    def _open(self, loop: asyncio.AbstractEventLoop, used: Used | None) -> Writer:
        self._file.claim()
        try:
            writing = self._file.connect()
            _interrupt(writing, used)
            _forget_keys(writing)
            self._connection = self._file.connect()
            self._connection.execute("PRAGMA query_only = 1")
        except BaseException as error:
            self._file.release()
            if isinstance(error, sqlite3.Error):
                raise StoreRefused(f"{self._file.path} cannot be used: {error}.") from error
            raise
        return Writer(self._file, writing, loop)

    def _close(self) -> None:
        self._writer.stop()
        self._connection.close()
        self._file.release()

    def _rows(self, query: str, *values: Any) -> list[Any]:
        return self._connection.execute(query, values).fetchall()

    def _session(self, session_id: str) -> SavedSession | None:
        owed = self._writer.owed  # before the rows are read: what is written in between is then seen twice, not never
        rows = self._rows(f"SELECT {_SESSION} FROM sessions WHERE id = ?", session_id)
        for write in owed if rows else ():
            if isinstance(write, End) and write.session.id == session_id:
                rows = [write.session]
        return SavedSession(*rows[0]) if rows else None

    def _sessions(self, limit: int, before: tuple[float, str] | None) -> list[SavedSession]:
        where = "WHERE (active_at, id) < (?, ?)" if before else ""
        query = f"SELECT {_SESSION} FROM sessions {where} ORDER BY active_at DESC, id DESC LIMIT ?"
        return [SavedSession(*row) for row in self._rows(query, *(before or ()), limit)]

    def _count(self) -> int:
        count: int = self._rows("SELECT count(*) FROM sessions")[0][0]
        return count

    def _history(self, session_id: str) -> list[HistoryMessage]:
        owed = self._writer.owed
        rows = self._rows(_HISTORY, session_id)
        return [message for turn in _turns(rows, owed) for message in messages(turn)]

    def _turn(self, turn_id: str) -> SavedTurn | None:
        owed = self._writer.owed
        turns = _turns(self._rows(_LOGS + "t.id = ? ORDER BY c.first", turn_id), owed)
        return turns[0] if turns else None

    def _keyed(self, key: Key) -> str | None:
        query = (  # not with ?1 and ?2, which some of Python's versions take for names
            "SELECT id FROM turns WHERE (scope = ? AND key = ? OR session_id = ? AND key = ?) AND started_at > ? "
            "ORDER BY n DESC LIMIT 1"
        )
        rows = self._rows(query, *key, *key, time.time() - IDEMPOTENCY_SECONDS)
        return rows[0][0] if rows else None


def _turns(rows: Iterable[Any], owed: Sequence[Checkpoint | End]) -> list[SavedTurn]:
    """Turns out of rows, one for each of their parts, with what has yet to be written."""
    turns = []
    for _, group in groupby(rows, itemgetter(0)):
        whole = list(group)
        turn_id = whole[0][0]
        rest = [row[9:] for row in whole]
        parts = [Part(turn_id, first, unpacked(chunks)) for first, chunks, _, _ in rest if chunks]
        final, terminal = next(((bool(final), _terminal(text)) for _, _, final, text in rest if text), (False, None))
        for write in owed:
            for part in [write.part] if isinstance(write, End) else write.parts:
                if part.turn_id == turn_id:
                    parts.append(part)
                    if isinstance(write, End):
                        final, terminal = write.final, write.terminal
        opening = SavedTurn(*whole[0][:9])
        turns.append(
            opening._replace(
                is_new_session=bool(opening.is_new_session), chunks=joined(parts), final=final, terminal=terminal
            )
        )
    return turns


def _terminal(text: str) -> Complete | Error | None:
    event = from_dict(json.loads(text))
    return event if isinstance(event, (Complete, Error)) else None


def _interrupt(connection: sqlite3.Connection, used: Used | None) -> None:
    """End the turns that a dead process was still answering."""
    rows = connection.execute(_LOGS + "t.n IN (SELECT turn FROM running) ORDER BY t.n, c.first").fetchall()
    if not rows:
        return
    connection.execute("BEGIN IMMEDIATE")
    for turn in _turns(rows, ()):
        if used is not None and any(turn.chunks[::2]):
            before = _turns(connection.execute(_HISTORY, (turn.session_id,)), ())
            usage = used(turn, [message for known in before for message in messages(known)])
            connection.execute(
                "UPDATE sessions SET input_tokens = input_tokens + ?, output_tokens = output_tokens + ?, "
                "cost = cost + ? WHERE id = ?",
                (usage.input_tokens, usage.output_tokens, usage.cost or 0.0, turn.session_id),
            )
        connection.execute(
            "INSERT INTO chunks (turn, first, final, terminal) SELECT n, ?, 0, ? FROM turns WHERE id = ?",
            (len(turn.chunks) // 2 + 1, as_json(interrupted(turn)), turn.id),
        )
        if any(turn.chunks[::2]):
            connection.execute(
                "UPDATE sessions SET model_messages = model_messages + 1 WHERE id = ? "
                "AND EXISTS (SELECT 1 FROM turns WHERE id = ? AND NOT cleared)",
                (turn.session_id, turn.id),
            )
    connection.execute("DELETE FROM running")
    connection.execute("COMMIT")


def _forget_keys(connection: sqlite3.Connection) -> None:
    """`keyed` looks at the time itself; this is housekeeping."""
    connection.execute(
        "UPDATE turns SET scope = NULL, key = NULL WHERE key IS NOT NULL AND started_at <= ?",
        (time.time() - IDEMPOTENCY_SECONDS,),
    )

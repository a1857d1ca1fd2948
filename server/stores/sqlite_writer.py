"""The one thread that writes to the database.

1. Whatever was asked while the last transaction ran goes into the next one together (group commit): under load many
   turns share one commit, and where many run, and one commit follows another, it waits for a moment for more of them:
   a commit costs more of the processor than all the rest of a turn's begin. Their callbacks are run by one call into
   the event loop.
2. Order is kept, always: a later write may hold a session's newer figures. What must not get lost (the parts and ends
   of turns) is therefore kept, in order, in front of everything newer, until it can be written.
3. While the disk refuses, everything else is refused at once, and a write is tried every second, with or without
   something to keep: so the store is healthy again as soon as the disk is.
4. A write that fails for its own reason does not take the others of its group with it.
5. A file that was moved or removed is noticed within a second, and refused as a full disk is.
"""

import logging
import sqlite3
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from proto.errors import ChatError
from proto.events import Complete, Error, as_json
from server.stores import Done, Key, Part, SavedSession, SavedTurn
from server.stores.packed import packed
from server.stores.sqlite_file import DatabaseFile

MANY_TURNS = 8  # that run: then the next one to begin is not far
GATHER_SECONDS = 0.012  # a commit costs as much as the begin of four turns in it
RETRY_SECONDS = 1.0
LOOK_SECONDS = 1.0  # whether the file is still there; each look may cost a wait for the interpreter lock
PROBE_BYTES = 256 * 1024  # so much room must there be before turns are taken again

log = logging.getLogger(__name__)


class Create(NamedTuple):
    session: SavedSession
    done: Done | None


class Begin(NamedTuple):
    session: SavedSession
    turn: SavedTurn
    key: Key | None
    done: Done | None


class Checkpoint(NamedTuple):
    parts: Sequence[Part]
    done: Done | None = None


class End(NamedTuple):
    session: SavedSession
    part: Part
    final: bool
    terminal: Complete | Error
    done: Done | None


class Clear(NamedTuple):
    session: SavedSession
    done: Done | None


class Delete(NamedTuple):
    session_id: str
    done: Done | None


class Probe(NamedTuple):
    """Is there room again? Asked by the writer itself."""

    done: Done | None = None


class Stop(NamedTuple):
    done: Done | None = None


Write = Create | Begin | Checkpoint | End | Clear | Delete | Probe | Stop
Told = list[tuple[Done, ChatError | None]]

# What is wrong with the disk or the file, and not with what is written: the reason in words.
_TROUBLE = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another program has locked the database",
    sqlite3.SQLITE_LOCKED: "another program has locked the database",
    sqlite3.SQLITE_READONLY: "the database cannot be written any more",
    sqlite3.SQLITE_PERM: "the database cannot be written any more",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened any more",
    sqlite3.SQLITE_PROTOCOL: "another program has locked the database",
    sqlite3.SQLITE_CORRUPT: "the database is damaged",
    sqlite3.SQLITE_NOTADB: "the database is damaged",
}

# One write is one statement, whatever it does: where it does several things, by views of the connection's own, with
# triggers behind them. A statement costs the writer several turns of waiting for the interpreter lock while the loop is
# busy (5 ms each at worst), and one that is alone needs no BEGIN and COMMIT around it.
_FIGURES = "model, created_at, active_at, user_messages, model_messages, input_tokens, output_tokens, cost"
_NEW = ", ".join([f"NEW.{name}" for name in _FIGURES.split(", ")])
_OPENING = "message, started_at, timestamp, is_new_session, context_messages, omitted_messages, scope, key"
_NEW_OPENING = ", ".join([f"NEW.{name}" for name in _OPENING.split(", ")])
# A part of a deleted turn goes nowhere; of two that start alike the longer one has the shorter in it.
_LONGER = """CASE WHEN length(CAST(excluded.chunks AS BLOB)) > ifnull(length(CAST(chunks AS BLOB)), 0)
    THEN excluded.chunks ELSE chunks END"""
_PUT_PART = f"""INSERT INTO chunks (turn, first, chunks) SELECT n, ?, ? FROM turns WHERE id = ?
    ON CONFLICT (turn, first) DO UPDATE SET chunks = {_LONGER}"""
_PUT_END = f"""INSERT INTO chunks (turn, first, chunks, final, terminal)
    SELECT n, NEW.first, NEW.chunks, NEW.final, NEW.terminal FROM turns WHERE id = NEW.turn_id
    ON CONFLICT (turn, first) DO UPDATE SET chunks = {_LONGER}, final = excluded.final, terminal = excluded.terminal;
    DELETE FROM running WHERE turn = (SELECT n FROM turns WHERE id = NEW.turn_id);"""
_PUT_SESSION = f"""INSERT INTO sessions (id, {_FIGURES}) VALUES (NEW.session_id, {_NEW})
    ON CONFLICT (id) DO UPDATE SET ({_FIGURES}) = ({_NEW});"""
_UPDATE_SESSION = f"UPDATE sessions SET ({_FIGURES}) = ({_NEW}) WHERE id = NEW.session_id"
_DOES = {
    "create": (f"session_id, {_FIGURES}", _PUT_SESSION),
    "begin": (
        f"session_id, {_FIGURES}, turn_id, turn_session_id, turn_model, {_OPENING}",
        f"""{_PUT_SESSION} INSERT INTO turns (id, session_id, model, {_OPENING})
            VALUES (NEW.turn_id, NEW.turn_session_id, NEW.turn_model, {_NEW_OPENING});
            INSERT INTO running VALUES (last_insert_rowid());""",
    ),
    # A turn that was deleted meanwhile has no end, even where there is a new session under the same id.
    "end": (
        f"session_id, {_FIGURES}, turn_id, first, chunks, final, terminal",
        f"{_PUT_END} {_UPDATE_SESSION} AND EXISTS (SELECT 1 FROM turns WHERE id = NEW.turn_id);",
    ),
    "clear": (
        f"session_id, {_FIGURES}",
        f"UPDATE turns SET cleared = 1 WHERE session_id = NEW.session_id AND NOT cleared; {_UPDATE_SESSION};",
    ),
    "remove": (
        "session_id",
        """DELETE FROM chunks WHERE turn IN (SELECT n FROM turns WHERE session_id = NEW.session_id);
            DELETE FROM running WHERE turn IN (SELECT n FROM turns WHERE session_id = NEW.session_id);
            DELETE FROM turns WHERE session_id = NEW.session_id; DELETE FROM sessions WHERE id = NEW.session_id;""",
    ),
    "try": ("room", "INSERT OR REPLACE INTO probe VALUES (1, zeroblob(NEW.room)); UPDATE probe SET room = NULL;"),
}


_RUNNING = {Begin: 1, End: -1}  # what a write does to the number of running turns


def _prepare(connection: sqlite3.Connection) -> dict[str, str]:
    """Make the views; the statement for each write."""
    statements = {"checkpoint": _PUT_PART}
    for name, (columns, does) in _DOES.items():
        nothing = ", ".join([f"NULL AS {column}" for column in columns.split(", ")])
        connection.execute(f"CREATE TEMP VIEW do_{name} AS SELECT {nothing}")
        connection.execute(f"CREATE TEMP TRIGGER on_{name} INSTEAD OF INSERT ON do_{name} BEGIN {does} END")
        statements[name] = f"INSERT INTO do_{name} VALUES ({', '.join('?' * len(columns.split(', ')))})"
    return statements


def _rows(write: Write) -> tuple[str, list[tuple[Any, ...]]]:
    """What a write does, and to which rows. Numbers are no bools: sqlite3 would ask around for what to make of them."""
    if isinstance(write, Checkpoint):
        return "checkpoint", [(part.first, packed(part.chunks), part.turn_id) for part in write.parts if part.chunks]
    if isinstance(write, End):
        session, part, final, terminal, _ = write
        return "end", [session + part[:2] + (packed(part.chunks), +final, as_json(terminal))]
    if isinstance(write, Begin):
        session, turn, key, _ = write
        return "begin", [session + turn[:6] + (+turn.is_new_session, *turn[7:9], *(key or (None, None)))]
    if isinstance(write, (Create, Clear)):
        return "create" if isinstance(write, Create) else "clear", [write.session]
    if isinstance(write, Delete):
        return "remove", [(write.session_id,)]
    return ("try", [(PROBE_BYTES,)]) if isinstance(write, Probe) else ("", [])


class Writer:
    """The thread, its queue, and what it still owes to the disk."""

    def __init__(self, file: DatabaseFile, connection: sqlite3.Connection, loop: AbstractEventLoop) -> None:
        self._file = file
        self._name = f"sqlite:{file.path}"
        self._connection = connection
        self._cursor = connection.cursor()
        self._statements = _prepare(connection)
        self._loop = loop
        self._queue: SimpleQueue[Write] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self.put: Callable[[Write], None] = self._queue.put
        self.owed: tuple[Checkpoint | End, ...] = ()
        self.trouble: str | None = None  # why nothing can be written at the moment
        self._running = 0  # turns that have begun and not ended
        self._committed_at = 0.0
        self._looked_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Write what is pending and close the connection; blocks."""
        self._queue.put(Stop())
        self._thread.join()

    def refusal(self) -> ChatError:
        return ChatError("unavailable", f"Conversations cannot be saved now: {self.trouble}. Try again in a moment.")

    def _run(self) -> None:
        writes: list[Write] = []
        while not any(type(write) is Stop for write in writes):
            writes = self._next()
            told: Told = []
            missing = self._missing()
            count, error = (0, missing) if missing else self._write(writes, told)
            self._committed_at = time.monotonic()
            self._judge(error)
            self.owed = self._refuse(writes[count:], told)  # at once: a reader sees the old ones until then
            self._call_back(told)
        if self.owed:
            log.error("%s: %d parts of answers are lost, because %s", self._name, len(self.owed), self.trouble)
        self._cursor.close()
        self._connection.close()

    def _next(self) -> list[Write]:
        """What has been asked; in trouble, after a while, what is owed and a probe."""
        if self.trouble is None:
            writes = [self._queue.get()]
            if self._running >= MANY_TURNS and time.monotonic() < self._committed_at + GATHER_SECONDS:
                time.sleep(GATHER_SECONDS)
            with suppress(Empty):
                while True:
                    writes.append(self._queue.get_nowait())
            return writes
        until = time.monotonic() + RETRY_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                write = self._queue.get(timeout=left)
            except Empty:
                break
            if type(write) is Stop:
                return [*self.owed, write]
            told: Told = []
            self.owed += self._refuse([write], told)
            self._call_back(told)
        return [*self.owed, Probe()]

    def _missing(self) -> FileNotFoundError | None:
        if self.trouble is None and time.monotonic() < self._looked_at + LOOK_SECONDS:
            return None
        self._looked_at = time.monotonic()
        return None if self._file.is_there() else FileNotFoundError(f"no file {self._file.path}")

    def _write(self, writes: Sequence[Write], told: Told) -> tuple[int, Exception | None]:
        """Write them together or, if one of them is to blame, each for itself: how many were dealt with before the
        disk refused, and what it said."""
        error = self._transact(writes)
        if error is None:
            self._running += sum([_RUNNING.get(type(write), 0) for write in writes])
            told.extend([(write.done, None) for write in writes if write.done])
        elif _reason(error):
            return 0, error
        elif len(writes) == 1:
            log.error("%s: %s failed", self._name, type(writes[0]).__name__, exc_info=error)
            if writes[0].done:
                told.append((writes[0].done, ChatError("internal", "The conversation could not be saved.")))
        else:
            for count, write in enumerate(writes):
                _, trouble = self._write([write], told)
                if trouble:
                    return count, trouble
        return len(writes), None

    def _transact(self, writes: Sequence[Write]) -> Exception | None:
        execute, statements = self._cursor.execute, self._statements
        try:
            rows = [(statements[does], row) for does, rows in map(_rows, writes) for row in rows]
            if len(rows) == 1:
                execute(*rows[0])
            elif rows:
                execute("BEGIN IMMEDIATE")
                for statement, row in rows:
                    execute(statement, row)
                execute("COMMIT")
        except Exception as error:
            if self._connection.in_transaction:  # on some failures SQLite has rolled back already
                with suppress(sqlite3.Error):
                    self._cursor.execute("ROLLBACK")
            return error
        return None

    def _judge(self, error: Exception | None) -> None:
        """Say once that writing fails, and once that it works again."""
        trouble = _reason(error) if error else None
        if trouble and self.trouble is None:
            log.error(
                "%s cannot be written: %s (%s). No new turns until it can; ends of running ones are kept and tried "
                "again every second.",
                self._name,
                trouble,
                error,
            )
        elif self.trouble and trouble is None:
            log.warning("%s can be written again; %d kept writes are on disk.", self._name, len(self.owed))
        self.trouble = trouble

    def _refuse(self, writes: Sequence[Write], told: Told) -> tuple[Checkpoint | End, ...]:
        """Tell that they are not written; what must not get lost, to be tried again."""
        told.extend([(write.done, self.refusal()) for write in writes if write.done])
        return tuple([write._replace(done=None) for write in writes if isinstance(write, (Checkpoint, End))])

    def _call_back(self, told: Told) -> None:
        if told:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(self._tell, iter(told))

    def _tell(self, told: Iterator[tuple[Done, ChatError | None]]) -> None:
        try:
            for done, error in told:
                done(error)
        except BaseException:
            self._loop.call_soon(self._tell, told)  # the others wait for their word
            raise


def _reason(error: Exception) -> str | None:
    if isinstance(error, FileNotFoundError):
        return "the database file was moved or removed"
    return _TROUBLE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)

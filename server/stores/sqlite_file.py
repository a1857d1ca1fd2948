"""The SQLite file: is it ours, is it whole, is it free; its schema, and how an older one becomes today's.

1. A file is judged before SQLite may write to it: its header by plain reading, its content through a connection that
   cannot write. A file that is refused is left as it was, with nothing new beside it.
2. A new file is built beside its place and renamed into it: a killed start leaves no half-made database.
3. One server owns the file, by a lock on a file beside it: the kernel frees it, however the server dies.
"""

import errno
import fcntl
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from server.stores import StoreRefused

APPLICATION_ID = 0x66697665  # "five", at offset 68 of the file
VERSION = 5
BUSY_SECONDS = 2.0
LOG_PAGES = 4000  # 16 MB: the write-ahead log is worked into the file every few hundred turns
CHECKED_BYTES = 256 * 2**20  # looked through at the start, some 0.3 s; a bigger file only in its outline

# A turn's end stands with its last part, not here: a row that grows moves all that stand behind it. A key that named no
# session is looked for in the one that was made, too.
TURNS = """
CREATE TABLE turns (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, session_id TEXT NOT NULL, model TEXT NOT NULL,
    message TEXT NOT NULL, started_at REAL NOT NULL, timestamp TEXT NOT NULL, is_new_session INTEGER NOT NULL,
    context_messages INTEGER NOT NULL, omitted_messages INTEGER NOT NULL, scope TEXT, key TEXT,
    cleared INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX turns_of ON turns (session_id);
CREATE INDEX turns_keyed ON turns (scope, key) WHERE key IS NOT NULL;
CREATE INDEX turns_asked ON turns (session_id, key) WHERE key IS NOT NULL;
CREATE TABLE running (turn INTEGER PRIMARY KEY);
"""
# Parts of answers in the order in which they come: those of a commit then lie side by side. In a table that is sorted
# by turn each had a page of its own, and one more for what a row of such a table cannot hold: 2 to 8 times the cost.
CHUNKS = """
CREATE TABLE chunks (
    n INTEGER PRIMARY KEY, turn INTEGER NOT NULL, first INTEGER NOT NULL, chunks TEXT, final INTEGER, terminal TEXT
);
CREATE UNIQUE INDEX chunks_of ON chunks (turn, first);
"""
SCHEMA = f"""
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, created_at REAL NOT NULL, active_at REAL NOT NULL,
    user_messages INTEGER NOT NULL, model_messages INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0, cost REAL NOT NULL DEFAULT 0.0
) WITHOUT ROWID;
CREATE INDEX sessions_active ON sessions (active_at, id);
{TURNS}
{CHUNKS}
CREATE TABLE probe (n INTEGER PRIMARY KEY, room BLOB);
"""

# From which version: the statements that lead to the next one.
MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE sessions ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE sessions ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE sessions ADD COLUMN cost REAL NOT NULL DEFAULT 0.0",
        "ALTER TABLE turns ADD COLUMN omitted_messages INTEGER NOT NULL DEFAULT 0",
        "CREATE TABLE probe (n INTEGER PRIMARY KEY, room BLOB)",
    ),
    2: (
        "ALTER TABLE chunks RENAME TO chunks_before",
        "CREATE TABLE chunks "
        "(n INTEGER PRIMARY KEY, turn INTEGER NOT NULL, first INTEGER NOT NULL, chunks TEXT NOT NULL)",
        "CREATE UNIQUE INDEX chunks_of ON chunks (turn, first)",
        "INSERT INTO chunks (turn, first, chunks) SELECT turn, first, chunks FROM chunks_before ORDER BY turn, first",
        "DROP TABLE chunks_before",
    ),
    3: ("CREATE INDEX turns_asked ON turns (session_id, key) WHERE key IS NOT NULL",),
    4: (
        *("DROP INDEX " + name for name in ("turns_of", "turns_running", "turns_keyed", "turns_asked", "chunks_of")),
        "ALTER TABLE turns RENAME TO turns_before",
        "ALTER TABLE chunks RENAME TO chunks_before",
        *(TURNS + CHUNKS).split(";")[:-1],
        "INSERT INTO turns SELECT n, id, session_id, model, message, started_at, timestamp, is_new_session, "
        "context_messages, omitted_messages, scope, key, cleared FROM turns_before",
        "INSERT INTO running SELECT n FROM turns_before WHERE terminal IS NULL",
        "INSERT INTO chunks (turn, first, chunks) SELECT turn, first, chunks FROM chunks_before ORDER BY n",
        "INSERT INTO chunks (turn, first, final, terminal) SELECT n, 1, final, terminal FROM turns_before "
        "WHERE terminal IS NOT NULL ON CONFLICT DO NOTHING",
        "UPDATE chunks SET (final, terminal) = (SELECT final, terminal FROM turns_before WHERE n = turn) "
        "WHERE first = (SELECT max(first) FROM chunks other WHERE other.turn = chunks.turn)",
        "DROP TABLE turns_before",
        "DROP TABLE chunks_before",
    ),
}

_ELSEWHERE = "Move it away, or choose another file with --store sqlite:PATH."


class DatabaseFile:
    """One server's hold on a database file, from `claim` to `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = Path(os.path.realpath(path))
        self._lock_path = self._place.with_name(self._place.name + ".lock")
        self._lock: int | None = None
        self._claimed: os.stat_result

    def claim(self) -> None:
        """Make the file ready for `connect`, or raise StoreRefused."""
        try:
            self._check_header()
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            try:
                if self._size() == 0:
                    self._build()
                else:
                    self._check_content()
                    self._migrate()
                self._claimed = self._place.stat()
            except BaseException:
                self.release()
                raise
        except (OSError, sqlite3.Error) as error:
            raise StoreRefused(f"{self.path} cannot be used: {_sentence(error)}") from error

    def is_there(self) -> bool:
        """Not if it was moved or removed: SQLite would go on writing to a file that has no name."""
        try:
            return os.path.samestat(self._place.stat(), self._claimed)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # nobody can tell from here: writing to it will

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._place, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        return connection

    def release(self) -> None:
        if self._lock is not None:
            self._lock_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _size(self) -> int:
        try:
            return self._place.stat().st_size
        except FileNotFoundError:
            return 0

    def _check_header(self) -> None:
        if self._place.exists() and not self._place.is_file():
            # The new file would be renamed into the place of `/dev/null`.
            raise StoreRefused(f"{self.path} is no file. Choose another one with --store sqlite:PATH.")
        if self._size() == 0:
            return
        with open(self._place, "rb") as file:
            header = file.read(100)
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise StoreRefused(f"{self.path} is not a SQLite database, or its beginning is damaged. {_ELSEWHERE}")
        if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            raise StoreRefused(f"{self.path} is a database of another program. {_ELSEWHERE}")
        self._check_version(int.from_bytes(header[60:64], "big"))

    def _check_version(self, version: int) -> None:
        if version > VERSION:
            raise StoreRefused(
                f"{self.path} was written by a newer version of this program (schema {version}, this one knows "
                f"{VERSION}). Update the program, or choose another file with --store sqlite:PATH."
            )
        if version != VERSION and version not in MIGRATIONS:
            raise StoreRefused(f"{self.path} has the unknown schema {version}. {_ELSEWHERE}")

    def _take_lock(self) -> None:
        while True:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A server that just stopped may have removed the file between our open and our lock.
                if os.path.exists(self._lock_path) and os.path.samestat(os.fstat(lock), os.stat(self._lock_path)):
                    os.ftruncate(lock, 0)
                    os.write(lock, b"%d\n" % os.getpid())
                    self._lock = lock
                    return
                os.close(lock)
            except BlockingIOError:
                owner = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
                os.close(lock)
                raise StoreRefused(
                    f"{self.path} is in use by another server (process {owner}). Stop that one, or choose another "
                    "file with --store sqlite:PATH."
                ) from None
            except BaseException:
                os.close(lock)
                raise

    def _build(self) -> None:
        built = self._place.with_name(self._place.name + ".new")
        built.unlink(missing_ok=True)
        try:
            os.close(os.open(built, os.O_CREAT | os.O_EXCL, 0o600))
            with closing(sqlite3.connect(built, isolation_level=None)) as connection:
                connection.executescript(
                    f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
                    "COMMIT; PRAGMA journal_mode = WAL;"
                )
            for left in ("-wal", "-shm"):  # of a file that was removed: SQLite would work them into the new one
                self._place.with_name(self._place.name + left).unlink(missing_ok=True)
            os.replace(built, self._place)
            folder = os.open(self._place.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            with suppress(OSError):
                built.unlink(missing_ok=True)
            raise

    def _check_content(self) -> None:
        """Through a connection that cannot write. After a crash the newest pages are in the write-ahead log, else the
        file is all there is, and `immutable` keeps SQLite from making a log."""
        log = self._place.with_name(self._place.name + "-wal")
        crashed = log.exists() and log.stat().st_size > 0
        uri = self._place.as_uri() + ("?mode=ro" if crashed else "?immutable=1")
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                self._check_version(version)
                tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
                found = "ok"
                if not {"sessions", "turns", "chunks"} <= tables:
                    found = "tables are missing"
                elif self._size() <= CHECKED_BYTES:
                    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                found = str(error)
            else:
                raise
        if found != "ok":
            raise StoreRefused(f"{self.path} is damaged ({found}). Put a copy of it back, or: {_ELSEWHERE}")

    def _migrate(self) -> None:
        with closing(self.connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == VERSION:
                return
            copy = self._place.with_name(f"{self._place.name}.v{version}.bak")
            copy.unlink(missing_ok=True)
            os.close(os.open(copy, os.O_CREAT | os.O_EXCL, 0o600))
            connection.execute("VACUUM INTO ?", (str(copy),))
            connection.execute("BEGIN IMMEDIATE")
            try:
                while version < VERSION:
                    for statement in MIGRATIONS[version]:
                        connection.execute(statement)
                    version += 1
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _sentence(error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        reason = os.strerror(error.errno) if error.errno else str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    else:
        reason = str(error)
        full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
    advice = "Make room on the disk" if full else "Check the path and its permissions"
    return f"{reason}. {advice}, or choose another file with --store sqlite:PATH."

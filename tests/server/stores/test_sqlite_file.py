"""Which files are taken, which are refused and left alone, and what a killed server leaves."""

import asyncio
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proto.answers import HistoryMessage
from proto.events import Error
from server.stores import INTERRUPTED, Key, SavedSession, SavedTurn, StoreRefused
from server.stores.sqlite import SqliteStore
from server.stores.sqlite_file import APPLICATION_ID, MIGRATIONS, VERSION, DatabaseFile

VERSION_1 = f"""
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, created_at REAL NOT NULL, active_at REAL NOT NULL,
    user_messages INTEGER NOT NULL, model_messages INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_active ON sessions (active_at, id);
CREATE TABLE turns (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, session_id TEXT NOT NULL, model TEXT NOT NULL,
    message TEXT NOT NULL, started_at REAL NOT NULL, timestamp TEXT NOT NULL, is_new_session INTEGER NOT NULL,
    context_messages INTEGER NOT NULL, scope TEXT, key TEXT,
    cleared INTEGER NOT NULL DEFAULT 0, final INTEGER NOT NULL DEFAULT 0, terminal TEXT
);
CREATE INDEX turns_of ON turns (session_id);
CREATE INDEX turns_running ON turns (n) WHERE terminal IS NULL;
CREATE INDEX turns_keyed ON turns (scope, key) WHERE key IS NOT NULL;
CREATE TABLE chunks (
    turn INTEGER NOT NULL, first INTEGER NOT NULL, chunks TEXT NOT NULL, PRIMARY KEY (turn, first)
) WITHOUT ROWID;
INSERT INTO sessions VALUES ('s1', 'demo', 1.5, 2.5, 1, 0);
INSERT INTO turns VALUES (5, 't-', 's1', 'demo', 'Hello', 2.3, 'then', 1, 0, NULL, NULL, 0, 0,
    '{{"type":"error","seq":3,"timestamp":"then","code":"model_error","message":"Broken."}}');
INSERT INTO turns VALUES (6, 't0', 's1', 'demo', 'Hello', 2.4, 'then', 1, 0, NULL, NULL, 0, 1,
    '{{"type":"complete","seq":5,"timestamp":"then","finish_reason":"cancelled"}}');
INSERT INTO chunks VALUES (6, 2, '[" way", "later"]');
INSERT INTO chunks VALUES (6, 1, '["Half", "then"]');
INSERT INTO turns VALUES (7, 't1', 's1', 'demo', 'Hello', 2.5, 'then', 1, 0, NULL, NULL, 0, 0, NULL);
INSERT INTO chunks VALUES (7, 1, '["Hi", "later"]');
PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
"""

CHILD = """
import asyncio, sys
from pathlib import Path
from server.stores import *
from server.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    session = SavedSession("s1", "demo", 1.0, 2.0, 1, 0, 0, 0, 0.0)
    turn = SavedTurn("t1", "s1", "demo", "Hello", 2.0, "then", True, 0, 0)
    begun = asyncio.get_running_loop().create_future()
    store.begin(session, turn, Key("s1", "k"), begun.set_result)
    assert await begun is None
    print("begun", flush=True)
    for n in range(1, 1_000_000):
        store.checkpoint([Part("t1", n, [f"word{n} ", f"time{n}"])])
        await store.create(session)  # it waits its turn in the same queue
        print(n, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "chat.db"


@pytest.fixture
def child(path: Path) -> Iterator[Any]:
    """A server that has begun a turn, and goes on writing it."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


async def nothing(store: Any) -> None:
    pass


def refused(path: Path) -> str:
    """Open, be refused, and find everything as it was."""

    def everything() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in path.parent.iterdir() if file.is_file()}

    before = everything()
    with pytest.raises(StoreRefused) as refusal:
        asyncio.run(SqliteStore(path).open())
    assert everything() == before
    assert str(path) in str(refusal.value)
    return str(refusal.value)


def test_a_new_file_is_private_and_its_folder_is_made(path: Path, with_store: Any) -> None:
    async def test(store: Any) -> None:
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes["chat.db"] == 0o600
        assert set(modes.values()) == {0o600}

    with_store(SqliteStore(path), test)
    assert [file.name for file in path.parent.iterdir()] == ["chat.db"]


def test_everything_is_there_after_a_restart(path: Path, tell: Any, with_store: Any) -> None:
    turn: SavedTurn = tell.turn(started_at=4e9)

    async def write(store: Any) -> None:
        await tell.begin(store, tell.session(), turn, Key("s1", "k"))
        store.checkpoint([tell.part(1, 5)])
        await tell.end(store, tell.session(messages=1), tell.part(6, 9), tell.complete(9))

    async def read(store: Any) -> None:
        expected = turn._replace(chunks=tell.chunks(1, 9), final=True, terminal=tell.complete(9))
        assert await store.turn("t1") == expected
        assert await store.session("s1") == tell.session(messages=1)
        assert await store.sessions(10, None) == [tell.session(messages=1)]
        assert await store.keyed(Key("s1", "k")) == "t1"

    with_store(SqliteStore(path), write)
    with_store(SqliteStore(path), read)


def test_a_key_is_forgotten_after_a_day(path: Path, tell: Any, with_store: Any) -> None:
    async def write(store: Any) -> None:
        await tell.begin(store, tell.session(), tell.turn(), Key("s1", "private"))

    with_store(SqliteStore(path), write)
    with_store(SqliteStore(path), nothing)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT scope, key FROM turns").fetchall() == [(None, None)]


def test_the_log_of_a_file_that_was_removed_is_not_worked_into_a_new_one(
    path: Path, tell: Any, with_store: Any
) -> None:
    log, kept = path.with_name("chat.db-wal"), path.with_name("kept")

    async def write(store: Any) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        shutil.copy(log, kept)  # as a kill -9 leaves it

    async def read(store: Any) -> None:
        assert await store.count() == 0
        await tell.begin(store, tell.session("s2"), tell.turn("t2", "s2"))

    async def again(store: Any) -> None:
        assert [session.id for session in await store.sessions(9, None)] == ["s2"]

    with_store(SqliteStore(path), write)
    path.unlink()
    kept.rename(log)
    with_store(SqliteStore(path), read)
    with_store(SqliteStore(path), again)


def test_a_folder_that_may_not_be_looked_into_is_no_removed_file(path: Path) -> None:
    file, root = DatabaseFile(path), os.geteuid() == 0
    file.claim()
    path.parent.chmod(0)
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(PermissionError):
            path.stat()
        assert file.is_there()
    finally:
        if root:
            os.seteuid(0)
        path.parent.chmod(0o700)
    path.unlink()
    assert not file.is_there()
    file.release()


def test_an_empty_file_is_a_new_one(path: Path, with_store: Any) -> None:
    path.parent.mkdir()
    path.touch()
    with_store(SqliteStore(path), nothing)
    with_store(SqliteStore(path), nothing)


def test_other_files_are_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"Dear diary, " * 500)
    assert "not a SQLite database" in refused(path)
    path.write_bytes(b"SQLite format 3\0")
    assert "damaged" in refused(path)
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE bookmarks (url TEXT)")
    assert "another program" in refused(path)
    path.unlink()
    path.mkdir()
    refused(path)
    path.rmdir()
    os.mkfifo(path)  # as empty as a new file, by its size
    assert "no file" in refused(path)
    assert path.is_fifo()


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreRefused, match=r"file/chat\.db"):
        asyncio.run(SqliteStore(tmp_path / "file" / "chat.db").open())


@pytest.mark.parametrize("how", ["zeros", "noise", "cut"])
def test_a_damaged_file_is_refused_and_left_alone(path: Path, tell: Any, with_store: Any, how: str) -> None:
    async def write(store: Any) -> None:
        for n in range(50):
            await tell.begin(store, tell.session(f"s{n}"), tell.turn(f"t{n}", f"s{n}"))
            await tell.end(store, tell.session(f"s{n}"), tell.part(1, 50, f"t{n}"), tell.complete(50, f"t{n}"))

    with_store(SqliteStore(path), write)
    good = path.read_bytes()
    middle = len(good) // 8192 * 4096
    if how == "cut":
        path.write_bytes(good[:middle])
    else:
        bad = bytes(8192) if how == "zeros" else os.urandom(8192)
        path.write_bytes(good[:8192] + bad + good[16384:])
    assert "damaged" in refused(path)
    path.write_bytes(good)
    with_store(SqliteStore(path), nothing)


def test_a_newer_schema_is_refused_and_left_alone(path: Path, with_store: Any) -> None:
    with_store(SqliteStore(path), nothing)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    assert "newer version" in refused(path)


def build(path: Path, version: int) -> list[str]:
    """A file of an older schema; its dump."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
        for older in range(1, version):
            connection.executescript(";".join((*MIGRATIONS[older], f"PRAGMA user_version = {older + 1}")))
        return list(connection.iterdump())


@pytest.mark.parametrize("version", MIGRATIONS)
def test_an_older_schema_is_migrated_and_a_copy_kept(path: Path, tell: Any, with_store: Any, version: int) -> None:
    old = build(path, version)

    async def test(store: Any) -> None:
        assert await store.session("s1") == SavedSession("s1", "demo", 1.5, 2.5, 1, 1, 0, 0, 0.0)
        turn = await store.turn("t1")
        assert turn and turn[:10] == ("t1", "s1", "demo", "Hello", 2.5, "then", True, 0, 0, ("Hi", "later"))
        before = await store.turn("t0")
        assert before and before.final and before.chunks == ("Half", "then", " way", "later")
        assert before.terminal and before.terminal.seq == 5
        await tell.begin(store, tell.session(), tell.turn("t2"))
        await tell.end(store, tell.session(), tell.part(1, 2, "t2"), tell.complete(2, "t2"))
        assert await store.session("s1") == tell.session()
        history = await store.history("s1")
        assert [message.turn_id for message in history] == ["t-", "t0", "t0", "t1", "t1", "t2", "t2"]
        ends = [None, None, "cancelled", None, None, None, "stop"]
        assert [message.finish_reason for message in history] == ends
        assert [message.code for message in history if message.code] == ["model_error", "interrupted"]

    with_store(SqliteStore(path), test)
    copy = path.with_name(f"chat.db.v{version}.bak")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert list(connection.iterdump()) == old
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    with_store(SqliteStore(path), nothing)
    copy.rename(path)  # going back is putting the copy in its place
    with_store(SqliteStore(path), nothing)


@pytest.mark.parametrize("version", MIGRATIONS)
def test_a_migrated_file_has_the_schema_of_a_new_one(path: Path, with_store: Any, version: int) -> None:
    build(path, version)
    new = path.with_name("new.db")
    columns = []
    for file in (path, new):
        with_store(SqliteStore(file), nothing)
        with closing(sqlite3.connect(file)) as connection:
            tables = (
                "SELECT m.type, m.name, c.name, c.type, c.dflt_value FROM sqlite_master m, pragma_table_info(m.name) c"
            )
            columns.append(sorted(connection.execute(tables).fetchall(), key=str))
    assert columns[0] == columns[1]


def test_two_stores_do_not_share_a_file(path: Path, with_store: Any) -> None:
    async def test(store: Any) -> None:
        with pytest.raises(StoreRefused, match=rf"in use by another server \(process {os.getpid()}\)"):
            await SqliteStore(path).open()

    with_store(SqliteStore(path), test)
    with_store(SqliteStore(path), nothing)


def test_a_second_server_is_told_who_is_first(path: Path, child: Any) -> None:
    with pytest.raises(StoreRefused, match=rf"{path} is in use by another server \(process {child.pid}\)"):
        asyncio.run(SqliteStore(path).open())


def test_after_a_kill_the_turn_is_interrupted_behind_its_last_chunk(path: Path, child: Any, with_store: Any) -> None:
    for line in child.stdout:
        if line == "50\n":
            break
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()  # what it said after that, whole lines or not
    child.wait()

    async def test(store: Any) -> None:
        turn = await store.turn("t1")
        count = len(turn.chunks) // 2
        assert count >= max([50, *[int(line) for line in rest[:-1]]])
        assert turn.chunks == tuple(field for n in range(1, count + 1) for field in (f"word{n} ", f"time{n}"))
        assert not turn.final
        error = turn.terminal
        assert error == Error(INTERRUPTED, "s1", "t1", count + 3, "interrupted", True, error.timestamp)
        text = "".join(turn.chunks[::2])
        assert (await store.history("s1"))[1:] == [
            HistoryMessage("model", text, "t1", error.timestamp, None, "interrupted", INTERRUPTED)
        ]
        session = await store.session("s1")
        assert (session.user_messages, session.model_messages) == (1, 1)

    with_store(SqliteStore(path), test)
    with_store(SqliteStore(path), test)  # and it stays so


def test_an_interrupted_turn_without_text_is_only_a_question(path: Path, tell: Any, with_store: Any) -> None:
    async def write(store: Any) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        await tell.begin(store, tell.session("s2"), tell.turn("t2", "s2"))
        store.checkpoint([tell.part(1, 4, "t2")])
        await store.clear(tell.session("s2"))

    async def read(store: Any) -> None:
        turn = await store.turn("t1")
        assert (turn.terminal.code, turn.terminal.seq) == ("interrupted", 3)
        (asked,) = await store.history("s1")
        assert asked[4:] == (None, "interrupted", INTERRUPTED)
        assert await store.session("s1") == tell.session()
        assert (await store.turn("t2")).terminal.seq == 7
        assert await store.history("s2") == []
        assert await store.session("s2") == tell.session("s2")

    with_store(SqliteStore(path), write)
    with_store(SqliteStore(path), read)

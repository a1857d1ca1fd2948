"""A full disk, a locked database, a write that is itself at fault: injected for real, and over again."""

import asyncio
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from proto.errors import ChatError
from server.stores import Store, sqlite_file, sqlite_writer
from server.stores.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are seconds in earnest are short here."""
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(sqlite_writer, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(sqlite_writer, "LOOK_SECONDS", 0.0)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def full(path: Path) -> Iterator[None]:
    """No file may grow: the system refuses the bytes, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    grown = max(file.stat().st_size for file in path.parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (grown, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


@contextmanager
def removed(path: Path) -> Iterator[None]:
    """The file is away, though SQLite still has it open."""
    path.rename(path.with_name("elsewhere"))
    yield
    path.with_name("elsewhere").rename(path)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("trouble", "words"), [(locked, "another program has locked"), (full, "disk"), (removed, "moved or removed")]
)
def test_while_nothing_can_be_written(
    path: Path, tell: Any, with_store: Any, caplog: Any, trouble: Any, words: str
) -> None:
    last = tell.session(active_at=3000.0, messages=1)
    whole = tell.turn()._replace(chunks=tell.chunks(1, 90), final=True, terminal=tell.complete(90))

    async def test(store: Store) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        store.checkpoint([tell.part(1, 10)])
        await tell.begin(store, tell.session("s2"), tell.turn("t2", "s2"))
        with trouble(path):
            store.checkpoint([tell.part(11, 40)])
            store.checkpoint([tell.part(41, 60)])
            with pytest.raises(ChatError, match=words) as refusal:
                await tell.end(store, last, tell.part(61, 90), tell.complete(90))
            assert (refusal.value.code, refusal.value.retryable) == ("unavailable", True)
            assert not store.healthy
            for refused in (
                tell.begin(store, tell.session("s3"), tell.turn("t3", "s3", message="x" * 9000)),
                store.create(tell.session("s3")),
                store.clear(tell.session("s2")),
                store.delete("s2"),
            ):
                with pytest.raises(ChatError, match=words):
                    await refused
            assert await store.turn("t1") == whole
            assert await store.session("s1") == last
            assert len(await store.history("s1")) == 2
            assert await store.session("s3") is None
            assert len(await store.history("s2")) == 1
        await until(lambda: store.healthy)
        await tell.begin(store, tell.session("s4"), tell.turn("t4", "s4"))
        assert await store.turn("t1") == whole

    async def again(store: Store) -> None:
        assert await store.turn("t1") == whole
        assert await store.session("s1") == last
        assert await store.turn("t3") is None
        assert await store.count() == 3

    with_store(SqliteStore(path), test)
    said = [record for record in caplog.records if record.name == "server.stores.sqlite_writer"]
    assert [record.levelno for record in said] == [logging.ERROR, logging.WARNING]
    assert str(path) in said[0].getMessage()
    assert words in said[0].getMessage()
    with_store(SqliteStore(path), again)


@pytest.mark.usefixtures("soon")
def test_the_store_recovers_with_nothing_to_keep(path: Path, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        for _ in range(2):
            with locked(path):
                with pytest.raises(ChatError):
                    await store.create(tell.session())
                assert not store.healthy
            await until(lambda: store.healthy)
        await store.create(tell.session())

    with_store(SqliteStore(path), test)


@pytest.mark.usefixtures("soon")
def test_what_is_kept_is_written_at_the_latest_on_close(path: Path, tell: Any, with_store: Any, caplog: Any) -> None:
    async def test(lock: Any) -> None:
        store = SqliteStore(path)
        await store.open()
        await tell.begin(store, tell.session(), tell.turn())
        with locked(path):
            with pytest.raises(ChatError):
                await tell.end(store, tell.session(), tell.part(1, 9), tell.complete(9))
            if lock:
                await store.close()
        if not lock:
            await store.close()

    async def read(store: Store) -> Any:
        turn = await store.turn("t1")
        assert turn and turn.terminal
        return turn.terminal

    asyncio.run(test(False))

    async def complete(store: Store) -> None:
        assert await read(store) == tell.complete(9)
        await store.delete("s1")

    with_store(SqliteStore(path), complete)
    assert "lost" not in caplog.text
    asyncio.run(test(True))
    assert "parts of answers are lost" in caplog.text

    async def interrupted(store: Store) -> None:
        assert (await read(store)).code == "interrupted"

    with_store(SqliteStore(path), interrupted)


def test_a_write_at_fault_does_not_take_the_others_with_it(path: Path, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        store.checkpoint([tell.part(1, 3)])
        turns = [tell.turn(f"t{n // 2}", message="\ud800" if n == 8 else "Hello") for n in range(4, 22)]
        begun = await asyncio.gather(
            *[tell.begin(store, tell.session(), turn) for turn in turns], return_exceptions=True
        )
        codes = [outcome.code if isinstance(outcome, ChatError) else outcome for outcome in begun]
        assert codes == [None, "internal"] * 2 + ["internal", None] + [None, "internal"] * 6
        await tell.end(store, tell.session(), tell.part(4, 5), tell.complete(5))
        turn = await store.turn("t1")
        assert turn and turn.chunks == tell.chunks(1, 5)
        assert store.healthy

    with_store(SqliteStore(path), test)


def test_a_callback_that_breaks_does_not_take_the_others_with_it(path: Path, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        broken: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: broken.append(context["exception"]))

        def breaks(error: ChatError | None) -> None:
            raise ZeroDivisionError

        for n in range(20):
            store.begin(tell.session(), tell.turn(f"bad{n}"), None, breaks)
            store.begin(tell.session(), tell.turn(f"good{n}"), None, lambda error: None)
        await asyncio.gather(*[tell.begin(store, tell.session(), tell.turn(f"t{n}")) for n in range(20)])
        assert [type(error) for error in broken] == [ZeroDivisionError] * 20

    with_store(SqliteStore(path), test)


def test_a_caller_who_leaves_does_not_undo_the_write(path: Path, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        creating = asyncio.ensure_future(store.create(tell.session()))
        await asyncio.sleep(0)
        creating.cancel()
        await store.create(tell.session("s2"))  # behind it in the queue
        assert await store.count() == 2
        assert creating.cancelled()

    with_store(SqliteStore(path), test)


@pytest.mark.usefixtures("soon")
def test_the_loop_goes_on_while_the_writer_waits(path: Path, tell: Any, with_store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 5.0)

    async def test(store: Store) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        with locked(path):
            creating = asyncio.ensure_future(store.create(tell.session("s2")))
            for _ in range(20):
                assert await store.session("s1") == tell.session()
            assert not creating.done()
        await creating
        assert store.healthy

    with_store(SqliteStore(path), test)


@pytest.mark.parametrize(("running", "lately", "together"), [(1, 0, False), (2, 0, True), (3, 0, True), (3, 9, False)])
def test_where_many_turns_run_and_begin_the_next_ones_begin_together(
    path: Path, tell: Any, with_store: Any, monkeypatch: Any, running: int, lately: float, together: bool
) -> None:
    """`lately`: how many seconds ago the last commit was."""
    monkeypatch.setattr(sqlite_writer, "MANY_TURNS", 2)
    monkeypatch.setattr(sqlite_writer, "GATHER_SECONDS", 0.2)

    async def test(store: Any) -> None:
        writer = store._writer
        for number in range(3):
            await tell.begin(store, tell.session(), tell.turn(f"t{number}"))
        for number in range(3 - running):
            await tell.end(store, tell.session(), tell.part(1, 1, f"t{number}"), tell.complete(1))
        commits: list[int] = []
        writer._committed_at -= lately
        transact = writer._transact
        writer._transact = lambda writes: commits.append(len(writes)) or transact(writes)  # type: ignore[func-returns-value]
        begun = []
        for number in (3, 4):
            begun.append(asyncio.ensure_future(tell.begin(store, tell.session(), tell.turn(f"t{number}"))))
            await asyncio.sleep(0)
            await until(lambda: bool(writer._queue.empty() if together else len(commits) == len(begun)))  # it has it
        await asyncio.gather(*begun)
        assert commits == ([2] if together else [1, 1])

    with_store(SqliteStore(path), test)


def test_a_page_of_sessions_is_read_off_the_index(path: Path, with_store: Any) -> None:
    async def nothing(store: Store) -> None:
        pass

    with_store(SqliteStore(path), nothing)
    with closing(sqlite3.connect(path)) as connection:
        for where in ("", "WHERE (active_at, id) < (5.0, 'x')"):
            query = f"EXPLAIN QUERY PLAN SELECT * FROM sessions {where} ORDER BY active_at DESC, id DESC LIMIT 5"
            plan = [row[3] for row in connection.execute(query)]
            assert len(plan) == 1
            assert "sessions_active" in plan[0]


SMALL_DISK = """
import asyncio, os, sys
from pathlib import Path
from proto.errors import ChatError
from proto.events import Error
from server.stores import *
from server.stores.sqlite import SqliteStore

folder = Path(sys.argv[1])
session = SavedSession("s1", "demo", 1.0, 2.0, 1, 0, 0, 0, 0.0)
chunks = ("x" * 1000, "then") * 100
error = Error("Broken.", "s1", "t1", 103, "model_error", False, "then")

async def told(ask):
    answer = asyncio.get_running_loop().create_future()
    ask(answer.set_result)
    return await answer

async def main():
    store = SqliteStore(folder / "chat.db")
    await store.open()
    turn = SavedTurn("t1", "s1", "demo", "Hello", 2.0, "then", True, 0, 0)
    assert await told(lambda done: store.begin(session, turn, None, done)) is None
    with open(folder / "filler", "wb", buffering=0) as filler:  # everything that is left
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    refused = await told(lambda done: store.end(session, Part("t1", 1, chunks), False, error, done))
    print(refused.code, refused.message, store.healthy)
    refused = await told(lambda done: store.begin(session, turn._replace(id="t2"), None, done))
    print(refused.code, (await store.turn("t1")).terminal == error)
    os.truncate(folder / "filler", 0)
    async with asyncio.timeout(20):
        while not store.healthy:
            await asyncio.sleep(0.01)
    assert await told(lambda done: store.begin(session, turn._replace(id="t2"), None, done)) is None
    await store.close()
    store = SqliteStore(folder / "chat.db")
    await store.open()
    ended = await store.turn("t1")
    print(ended.terminal == error, ended.chunks == chunks, (await store.turn("t2")).terminal.code)
    await store.close()

asyncio.run(main())
"""


def test_a_small_disk_that_is_full(tmp_path: Path) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting a small file system takes root and unshare")
    mount = f"mount -t tmpfs -o size=2m none '{tmp_path}' && exec \"$@\""
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "mount" in child.stderr and "denied" in child.stderr:
        pytest.skip("mounting is not allowed here")
    assert child.stdout.splitlines() == [
        "unavailable Conversations cannot be saved now: the disk is full. Try again in a moment. False",
        "unavailable True",
        "True True interrupted",
    ], child.stderr

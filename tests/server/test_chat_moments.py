"""Two things at the same moment: what a session says while a turn ends in it, deletes that overtake reads, keys."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from proto.errors import ChatError
from proto.requests import ChatRequest
from server import checkpoints, kept
from server.catalog import Catalog
from server.chat import Chat
from server.models import End
from server.settings import Settings
from server.stores.memory import MemoryStore
from server.stores.sqlite import SqliteStore
from tests.server.chats import on_disk

Ask = ChatRequest


@asynccontextmanager
async def held(store: SqliteStore, name: str, work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """The work, which is held up in its next read of this name, between what the database says and what is done with
    it, for as long as the block takes."""
    waiting, go = asyncio.Event(), asyncio.Event()
    read: Callable[..., Awaitable[Any]] = getattr(store, name)

    async def slowly(*arguments: Any) -> Any:
        setattr(store, name, read)
        found = await read(*arguments)
        waiting.set()
        await go.wait()
        return found

    setattr(store, name, slowly)
    working = asyncio.ensure_future(work)
    await waiting.wait()
    yield working
    go.set()


def test_a_turn_that_ends_while_its_session_is_read_is_there_whole_or_running(
    run: Any, tmp_path: Path, script: Any
) -> None:
    async def test() -> None:
        models = script()
        async with on_disk(tmp_path, models) as (chat, store):
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            asked = await models.asked()
            asked.say("half ")
            while not (saved := await store.turn(turn.id)) or not saved.chunks:
                await asyncio.sleep(0.02)  # until it is saved in part
            async with held(store, "history", chat.detail("s")) as reading:
                asked.say(End("whole"))
                await turn.ended()
            early = await reading
            assert ([m.text for m in early.messages], early.message_count) == (["Hello"], 1)
            assert (early.model_messages, early.active_turn) == (0, turn.id)
            late = await chat.detail("s")
            assert ([m.text for m in late.messages], late.message_count) == (["Hello", "half whole"], 2)
            assert (late.model_messages, late.active_turn) == (1, None)

    run(test())


def test_a_turn_whose_end_is_told_is_not_running_though_nothing_came(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with on_disk(tmp_path, models) as (chat, store):
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            session = await chat.session("s")
            reading = asyncio.Event(), asyncio.Event()
            history = store.history

            async def late(session_id: str) -> Any:
                reading[0].set()
                await reading[1].wait()
                return await history(session_id)

            store.history = late
            detail = asyncio.create_task(chat.detail("s"))
            await reading[0].wait()
            assert session.turn is turn
            (await models.asked()).say(ChatError("model_error", "It broke."))
            await turn.ended()
            reading[1].set()
            told = await detail
            (asked,) = told.messages
            assert (asked.code, asked.error, told.active_turn) == ("model_error", "It broke.", None)

    run(test())


def test_a_session_that_is_cleared_or_deleted_while_it_is_read(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with on_disk(tmp_path, models) as (chat, store):
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            async with held(store, "history", chat.detail("s")) as reading:
                await chat.clear("s")
            before = await reading  # as it was
            assert [m.text for m in before.messages] == ["Hello"] and before.active_turn == turn.id
            after = await chat.detail("s")
            assert after.messages == [] and after.active_turn is None
            async with held(store, "history", chat.detail("s")) as reading:
                await chat.delete("s")
            with pytest.raises(ChatError) as refused:
                await reading
            assert refused.value.code == "not_found"

    run(test())


def test_a_turn_that_is_deleted_while_it_is_read_is_not_kept(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        async with on_disk(tmp_path, script(End("yes"))) as (chat, _):
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            await turn.ended()
        async with on_disk(tmp_path, script()) as (chat, store):  # which has it on disk only
            async with held(store, "turn", chat.turn(turn.id)) as reading:
                await chat.delete("s")
            for look in (reading, chat.turn(turn.id)):
                with pytest.raises(ChatError) as refused:
                    await look
                assert refused.value.code == "not_found"

    run(test())


def test_a_session_that_is_deleted_while_it_is_read_stays_deleted(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        async with on_disk(tmp_path, script(End("yes"))) as (chat, _):
            await (await chat.send(Ask("Hello", "s"), "rest", "me")).ended()
        async with on_disk(tmp_path, script()) as (chat, store):
            async with held(store, "session", chat.session("s")) as reading:
                await chat.delete("s")
            with pytest.raises(ChatError) as refused:
                await reading
            assert refused.value.code == "not_found"

    run(test())


def test_two_who_look_for_a_session_at_once_get_the_same_one(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        async with on_disk(tmp_path, script(End("yes"))) as (chat, _):
            await (await chat.send(Ask("Hello", "s"), "rest", "me")).ended()
        async with on_disk(tmp_path, script()) as (chat, store):
            async with held(store, "session", chat.session("s")) as first:
                second = await chat.session("s")
            assert await first is second

    run(test())


def test_no_turn_begins_once_the_running_ones_were_stopped(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        async with on_disk(tmp_path, script(End("yes"))) as (chat, store):
            async with held(store, "session", chat.send(Ask("Hello", "s"), "rest", "me")) as sending:
                await chat.drain(0)
            with pytest.raises(ChatError) as refused:
                await sending
            assert refused.value.code == "unavailable"

    run(test())


def test_no_more_turns_than_allowed_though_their_sessions_are_looked_for(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        async with on_disk(tmp_path, script(), max_streams=2) as (chat, _):
            asks = [chat.send(Ask("Hello", f"s{number}"), "rest", "me") for number in range(5)]
            asked = await asyncio.gather(*asks, return_exceptions=True)
            assert [getattr(one, "code", "") for one in asked] == ["", "", *["unavailable"] * 3]

    run(test())


def test_a_turn_whose_end_could_not_be_saved_has_one(run: Any, tmp_path: Path, script: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(kept, "MAX_EVENTS", 0)  # only the last turn is kept

    async def test() -> None:
        async with on_disk(tmp_path, script(End("yes"))) as (chat, _):
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            await turn.ended()
            await (await chat.send(Ask("Hello", "other"), "rest", "me")).ended()
            with closing(sqlite3.connect(tmp_path / "chat.db")) as other:
                turn_row = "SELECT n FROM turns WHERE id = ?"
                other.execute(f"UPDATE chunks SET terminal = NULL WHERE turn = ({turn_row})", (turn.id,))
                other.commit()
            read = await chat.cancel(turn.id)  # which waits for the end
            assert (read.state, read.text) == ("interrupted", "yes")

    run(test())


def test_a_key_is_good_in_the_session_that_its_turn_has_made(run: Any, tmp_path: Path, script: Any) -> None:
    """While the turn runs, after its end, and after a restart; with the session named or not."""

    async def test() -> None:
        models = script()
        async with on_disk(tmp_path, models) as (chat, _):
            first = await chat.send(Ask("Pay", None, None, "k"), "rest", "me")
            session_id = first.session_id
            requests = (Ask("Pay", None, None, "k"), Ask("Pay", session_id, None, "k"))
            for request in requests:
                assert await chat.send(request, "rest", "me") is first
            (await models.asked()).say(End("paid"))
            await first.ended()
            assert not chat._keys, "the store knows the keys of ended turns"
            for request in requests:
                assert (await chat.send(request, "rest", "me")).id == first.id
        async with on_disk(tmp_path, script()) as (chat, _):
            for request in requests:
                assert (await chat.send(request, "rest", "me")).id == first.id
            with pytest.raises(ChatError) as refused:
                await chat.send(Ask("Pay more", session_id, None, "k"), "rest", "me")
            assert refused.value.code == "conflict"

    run(test())


def test_who_attaches_by_a_key_is_one_more_reader(
    run: Any, tmp_path: Path, script: Any, framing: Any, recorder: Any
) -> None:
    async def test() -> None:
        async with on_disk(tmp_path, script(), max_streams=1) as (chat, _):
            turn = await chat.send(Ask("Hello", None, None, "k"), "ndjson", "me")
            recorder(framing()).follow(turn)
            with pytest.raises(ChatError) as refused:
                await chat.send(Ask("Hello", None, None, "k"), "ndjson", "me")
            assert refused.value.code == "unavailable"

    run(test())


def test_a_store_that_refuses_a_turn_leaves_the_session_and_the_key_as_they_were(
    run: Any, tmp_path: Path, script: Any
) -> None:
    async def test() -> None:
        models = script(End("yes"))
        async with on_disk(tmp_path, models) as (chat, store):
            await (await chat.send(Ask("Hello", "s", "one"), "rest", "me")).ended()
            begin = store.begin
            store.begin = lambda session, turn, key, done: done(ChatError("unavailable", "Full."))  # type: ignore[assignment]
            with pytest.raises(ChatError) as refused:
                await chat.send(Ask("Again", "s", "two", "k"), "rest", "me")
            assert refused.value.code == "unavailable"
            session = await chat.session("s")
            assert (session.model, session.user_messages, session.turn, chat._keys) == ("one", 1, None, {})
            store.begin = begin  # type: ignore[method-assign]
            turn = await chat.send(Ask("Again", "s", None, "k"), "rest", "me")
            await turn.ended()
            assert (turn.model, session.message_count) == ("one", 4)

    run(test())


def test_a_turn_that_cannot_be_read_now_is_not_asked_a_second_time(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        async with on_disk(tmp_path, script(End("yes"))) as (chat, _):
            await (await chat.send(Ask("Pay", "s", None, "k"), "rest", "me")).ended()
        async with on_disk(tmp_path, script(End("twice"))) as (chat, store):

            async def broken(turn_id: str) -> Any:
                raise ChatError("unavailable", "Saved conversations cannot be read now.")

            store.turn = broken  # type: ignore[assignment]
            with pytest.raises(ChatError) as refused:
                await chat.send(Ask("Pay", "s", None, "k"), "rest", "me")
            assert refused.value.code == "unavailable"
            assert (await chat.detail("s")).user_messages == 1

    run(test())


def test_many_turns_are_saved_in_slices_and_each_in_every_round(run: Any, script: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(checkpoints, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(checkpoints, "SLICE_TURNS", 2)

    async def test() -> None:
        saved: list[list[str]] = []

        class Watched(MemoryStore):
            def checkpoint(self, parts: Any) -> None:
                saved.append([part.turn_id for part in parts])

        models = script()
        chat = Chat(Catalog([models], "script", "the test"), Watched(), Settings())
        await chat.open()
        turns = [await chat.send(Ask("Hello", f"s{number}"), "rest", "me") for number in range(6)]
        asks = [await models.asked() for _ in turns]
        while len(saved) < 12:
            for asked in asks:
                asked.say("more ")
            await asyncio.sleep(0.005)
        for start in range(3, 9):  # three slices make a round
            assert sorted(turn for slice_ in saved[start : start + 3] for turn in slice_) == sorted(t.id for t in turns)
        assert {len(slice_) for slice_ in saved[3:]} == {2}
        await chat.drain(0)
        await chat.close()

    run(test())


@pytest.mark.parametrize(("read", "session_id"), [("keyed", "s"), ("keyed", None), ("session", "s")])
def test_a_key_begins_one_turn_though_it_ends_before_another_has_looked(
    run: Any, tmp_path: Path, script: Any, read: str, session_id: str | None
) -> None:
    async def test() -> None:
        models = script(End("yes"))
        async with on_disk(tmp_path, models) as (chat, store):

            async def ask(asked: Ask) -> str:
                turn = await chat.send(asked, "rest", "me")
                await turn.ended()
                return turn.id

            pay = Ask("Pay", session_id, None, "k")
            async with held(store, read, ask(pay)) as first:
                second = asyncio.ensure_future(ask(pay))
                for number in range(5):  # meanwhile it would be answered
                    await ask(Ask("Hello", f"other {number}"))
            assert await first == await second

    run(test())

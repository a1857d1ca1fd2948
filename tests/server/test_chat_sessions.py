"""The chat's sessions: their models, what of them a model sees, lists, members; cleared and deleted; on both stores."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from server.catalog import Catalog
from server.chat import Chat
from server.models import End, Message
from server.settings import Settings
from server.stores.sqlite import SqliteStore
from server.turn import Turn
from tests.server.chats import Ask, Open, refused, whole


@pytest.mark.parametrize("what", ["clear", "delete"])
def test_clear_and_delete_while_a_turn_runs(run: Any, opened: Open, script: Any, what: str) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            asked = await models.asked()
            asked.say("part")
            while not turn.chunk_count:
                await asyncio.sleep(0)
            await (chat.clear("s") if what == "clear" else chat.delete("s"))
            assert turn.state == "cancelled" and asked.stopped.is_set()
            if what == "delete":
                await refused("not_found", chat.detail("s"))
                await refused("not_found", chat.turn(turn.id))
                await refused("not_found", chat.delete("s"))
                assert chat.tell().active_sessions == 0
            else:
                detail = await chat.detail("s")
                assert (detail.message_count, detail.messages, detail.active_turn) == (0, [], None)
                assert (await chat.turn(turn.id)).text == "part", "its turns can still be followed"
            after = await chat.send(Ask("New", "s"), "rest", "me")
            assert (await models.asked()).messages == [Message("user", "New")]
            assert after.info.is_new_session == (what == "delete")

    run(test())


def test_clear_and_delete_while_a_turn_begins(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        async with opened(script("x", End())) as chat:
            for change in (chat.clear, chat.delete):
                await whole(chat, Ask("Hello", "s"))
                sending = asyncio.create_task(chat.send(Ask("Again", "s"), "rest", "me"))
                await asyncio.sleep(0)
                await change("s")
                turn = await sending
                await turn.ended()
            assert (await chat.sessions()).sessions == []

    run(test())


def test_the_model_of_a_session_and_its_switch(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        async with opened(script(End("x"))) as chat:
            assert (await whole(chat, Ask("1", "s"))).model == "script"
            assert (await whole(chat, Ask("2", "s", "other"))).model == "other"
            assert (await whole(chat, Ask("3", "s"))).model == "other", "from this turn on"
            assert (await chat.detail("s")).model == "other"
            await refused("invalid_request", chat.send(Ask("4", "s", "demo?rate=x"), "rest", "me"))
            assert (await chat.detail("s")).user_messages == 3
            session = await chat.new_session("demo?chunks=2&rate=0")
            assert (await whole(chat, Ask("1", session.id))).chunk_count == 2

    run(test())


def test_context_bounds(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models, context_messages=3) as chat:
            for number in range(4):
                turn = await chat.send(Ask(f"Q{number}", "s"), "rest", "me")
                asked = await models.asked()
                asked.say(End(f"A{number}"))
                await turn.ended()
            assert [message.text for message in asked.messages] == ["Q2", "A2", "Q3"]
            assert (turn.status.context_messages, turn.status.omitted_messages) == (3, 4)

    run(test())


def test_the_conversation_goes_on_after_a_restart(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        log: list[Any] = []
        for number in range(3):
            models = script()
            chat = Chat(Catalog([models], "script", ""), SqliteStore(tmp_path / "chat.db"), Settings())
            await chat.open()
            if log:
                kept = await chat.turn(log[0].turn_id)
                assert kept.log == log, "events read back are those that were sent"
            turn = await chat.send(Ask(f"Q{number}", "s"), "rest", "me")
            asked = await models.asked()
            assert len(asked.messages) == 2 * number + 1
            asked.say("A", End(str(number)))
            await turn.ended()
            log = turn.log
            await chat.close()

    run(test())


def test_sessions_are_listed_newest_activity_first_in_pages(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        async with opened(script(End("x"))) as chat:
            for number in range(7):
                await whole(chat, Ask("Hello", f"s{number}"))
            await whole(chat, Ask("Hello", "s2"))
            expected = ["s2", "s6", "s5", "s4", "s3", "s1", "s0"]
            assert [row.session_id for row in (await chat.sessions()).sessions] == expected
            seen, before = [], None
            while True:
                page = await chat.sessions(3, before)
                assert page.active_sessions == 7 and len(page.sessions) <= 3
                seen += [row.session_id for row in page.sessions]
                before = page.next
                if before is None:
                    break
            assert seen == expected

    run(test())


class Listener:
    connection_id = "c1"

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.turns: list[Turn] = []

    def turn_started(self, turn: Turn) -> None:
        self.turns.append(turn)

    def updated(self, session_id: str, update_type: str, fields: Any) -> None:
        self.told.append((update_type, fields))


def test_members_are_told(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            session = await chat.new_session()
            first, second = Listener(), Listener()
            chat.join(session, first)
            turn = await chat.send(Ask("Hello", session.id), "rest", "me")
            chat.join(session, second)
            assert first.turns == second.turns == [turn]
            (await models.asked()).say(End("x"))
            await turn.ended()
            assert (await chat.sessions()).sessions[0].connected_clients == 2
            chat.leave(session, second)
            await chat.clear(session.id)
            await chat.delete(session.id)
            kinds = [kind for kind, _ in first.told]
            assert kinds == ["message_added", "user_joined", "user_disconnected", "session_cleared", "session_deleted"]
            assert first.told[0][1]["last_message_preview"] == "Hello"

    run(test())


class Broken(Listener):
    def turn_started(self, turn: Turn) -> None:
        raise RuntimeError("a bug")

    def updated(self, session_id: str, update_type: str, fields: Any) -> None:
        raise RuntimeError("a bug")


def test_a_member_that_fails_is_no_matter_for_the_session(run: Any, opened: Open, script: Any, caplog: Any) -> None:
    async def test() -> None:
        async with opened(script("x", End())) as chat:
            session = await chat.new_session()
            for member in (Broken(), Listener(), Broken()):
                chat.join(session, member)
            listener = list(session.members)[1]
            assert isinstance(listener, Listener)
            turn = await chat.send(Ask("Hello", session.id), "websocket", "me", Broken())
            await turn.ended()
            assert turn.state == "complete" and listener.turns == [turn]
            assert [kind for kind, _ in listener.told] == ["user_joined", "message_added"]
            assert caplog.text.count("RuntimeError: a bug") == 1 + 1 + 2 + 3

    run(test())


def test_an_asker_is_shown_the_turn_when_it_begins(run: Any, opened: Open, script: Any) -> None:
    """Once, member or not, before the model is asked, and not the turn to which a key leads."""

    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            asker = Listener()
            request = Ask("Hello", "s", None, "key")
            turn = await chat.send(request, "websocket", "me", asker)
            assert asker.turns == [turn] and not asker.told and models.asks.empty()
            assert await chat.send(request, "websocket", "me", asker) is turn
            await refused("session_busy", chat.send(Ask("Hello", "s"), "websocket", "me", asker))
            chat.join(await chat.session_of(turn), asker)
            assert asker.turns == [turn, turn], "whoever joins is shown what runs"
            (await models.asked()).say(End("x"))
            await turn.ended()
            second = await chat.send(Ask("Hello", "s"), "websocket", "me", asker)
            assert asker.turns[2:] == [second] and [kind for kind, _ in asker.told] == ["message_added"]
            (await models.asked()).say(End("x"))
            await second.ended()
            assert await chat.send(request, "websocket", "me", asker) is turn
            assert len(asker.turns) == 3

    run(test())


def test_a_session_of_the_servers_making_has_a_uuid(run: Any, serving: Any) -> None:
    async def test() -> None:
        async with serving() as app:
            ids = [(await app.chat.new_session()).id for _ in range(100)]
            assert len(set(ids)) == 100
            for made in ids:
                known = uuid.UUID(made)
                assert (str(known), known.version, known.variant) == (made, 8, uuid.RFC_4122)

    run(test())


def test_idle_sessions_with_much_to_remember_leave_memory(
    run: Any, opened: Open, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.sessions.MAX_IDLE_CHARS", 100)

    async def test() -> None:
        async with opened(script(*[End("done")])) as chat:
            for _ in range(2):
                for session in "abc":
                    turn = await whole(chat, Ask("x" * 40, session))
            assert turn.status.context_messages == 3
            assert [chat._sessions.in_memory(session) is not None for session in "abc"] == [False, False, True]
            await chat.clear("c")
            for session in "cb":
                await chat.delete(session)
            assert chat._sessions._idle_chars == len("x" * 40 + "done") * 2 * (
                chat._sessions.in_memory("a") is not None
            )

    run(test())

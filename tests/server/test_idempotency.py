"""Idempotency keys: one turn per key, over restarts and deletes; on both stores."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from server.catalog import Catalog
from server.chat import Chat
from server.models import End
from server.settings import Settings
from server.stores.sqlite import SqliteStore
from tests.server.chats import Ask, Open, refused, whole


@pytest.mark.parametrize("session_id", ["s", None])
def test_idempotency(run: Any, opened: Open, script: Any, session_id: str | None) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            request = Ask("Hello", session_id, None, "key-1")
            turns = await asyncio.gather(*(chat.send(request, "rest", "me") for _ in range(5)))
            assert len({turn.id for turn in turns}) == 1
            (await models.asked()).say("a", End("b"))
            await turns[0].ended()
            again = await chat.send(request, "sse", "me")
            assert again.id == turns[0].id and again.text == "ab"
            await refused("conflict", chat.send(request._replace(message="Other"), "rest", "me"))
            other_key = await chat.send(request._replace(idempotency_key="key-2"), "rest", "me")
            assert other_key.id != again.id
            (await models.asked()).say(End())
            await other_key.ended()
            assert models.asks.empty()
            stranger = await chat.send(request, "rest", "somebody else")
            assert (stranger.id == again.id) == (session_id is not None), "without a session a key counts per client"

    run(test())


def test_the_figures_count_a_turn_once(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            request = Ask("Hello", "s", None, "k")
            turn = await chat.send(request, "rest", "me")
            for _ in range(3):
                await chat.send(request, "sse", "me")
            await refused("conflict", chat.send(request._replace(message="Other"), "sse", "me"))
            await refused("session_busy", chat.send(Ask("Hello", "s"), "sse", "me"))
            figures = chat.tell()
            assert (figures.total_requests, figures.failed_requests, figures.running_turns) == (3, 2, 1)
            (await models.asked()).say(End("Yes"))
            await turn.ended()
            await chat.send(request, "sse", "me")
            figures = chat.tell()
            assert (figures.total_requests, figures.failed_requests, figures.successful_requests) == (3, 2, 1)
            assert [figures.transports[name].requests for name in ("rest", "sse")] == [1, 6]

    run(test())


@pytest.mark.parametrize("session_id", ["s", None])
def test_idempotency_over_a_restart(run: Any, tmp_path: Path, script: Any, session_id: str | None) -> None:
    async def test() -> None:
        request, texts, ids = Ask("Hello", session_id, None, "key-1"), ["first", "second"], []
        for text in texts:
            store = SqliteStore(tmp_path / "chat.db")
            chat = Chat(Catalog([script(End(text))], "script", ""), store, Settings())
            await chat.open()
            both = await asyncio.gather(*(whole(chat, request) for _ in range(3)))
            ids += [turn.id for turn in both]
            assert {turn.text for turn in both} == {"first"}
            await refused("conflict", chat.send(request._replace(message="Other"), "rest", "me"))
            await chat.drain(0)
            await chat.close()
        assert len(set(ids)) == 1

    run(test())


def test_a_key_of_a_deleted_session_is_free_again(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        async with opened(script(End("x"))) as chat:
            request = Ask("Hello", "s", None, "key-1")
            first = await whole(chat, request)
            await chat.delete("s")
            second = await whole(chat, request)
            assert second.id != first.id

    run(test())

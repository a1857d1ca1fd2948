"""Turns to store, and a way to run a test's coroutine with an open store."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from proto.errors import ChatError
from proto.events import Complete, Usage
from server.stores import Key, Part, SavedSession, SavedTurn, Store

NOW = "2026-03-01T12:00:00.000001+00:00"


class Teller:
    """Makes sessions, turns and their ends, and talks to a store as the chat does."""

    def session(self, session_id: str = "s1", active_at: float = 1000.25, messages: int = 0) -> SavedSession:
        return SavedSession(session_id, "demo", 1000.1, active_at, messages, messages, 10, 20, 0.0125)

    def turn(self, turn_id: str = "t1", session_id: str = "s1", message: str = "Hello", **more: Any) -> SavedTurn:
        fields = {"started_at": 1000.2, "timestamp": NOW, "is_new_session": True, "context_messages": 3}
        return SavedTurn(turn_id, session_id, "demo", message, **{**fields, "omitted_messages": 1, **more})

    def chunks(self, first: int, last: int) -> tuple[str, ...]:
        numbers = range(first, last + 1)
        return tuple(field for n in numbers for field in (f"word{n} ", f"2026-03-01T12:00:00.{n:06d}+00:00"))

    def part(self, first: int, last: int, turn_id: str = "t1") -> Part:
        return Part(turn_id, first, self.chunks(first, last))

    def complete(self, chunks: int, turn_id: str = "t1", session_id: str = "s1") -> Complete:
        usage = Usage(7, chunks, True, 0.00025)
        return Complete(chunks, 0.1234567, 2, session_id, NOW, turn_id, chunks + 3, "stop", usage, 0.001, "ab" * 32)

    async def begin(self, store: Store, session: SavedSession, turn: SavedTurn, key: Key | None = None) -> None:
        await self.done(lambda done: store.begin(session, turn, key, done))

    async def end(self, store: Store, session: SavedSession, part: Part, terminal: Any, final: bool = True) -> None:
        await self.done(lambda done: store.end(session, part, final, terminal, done))

    async def done(self, ask: Callable[[Callable[[ChatError | None], None]], None]) -> None:
        told: asyncio.Future[ChatError | None] = asyncio.get_running_loop().create_future()
        ask(told.set_result)
        error = await asyncio.wait_for(told, 10)
        if error:
            raise error


@pytest.fixture
def tell() -> Teller:
    return Teller()


@pytest.fixture
def with_store() -> Callable[[Store, Callable[[Store], Awaitable[Any]]], Any]:
    """Opens the store, runs the test in it, closes it."""

    def run(store: Store, test: Callable[[Store], Awaitable[Any]]) -> Any:
        async def opened() -> Any:
            await store.open()
            try:
                return await asyncio.wait_for(test(store), 30)
            finally:
                await store.close()

        return asyncio.run(opened())

    return run

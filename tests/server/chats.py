"""What the tests of the chat say and ask."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proto.errors import ChatError
from proto.requests import ChatRequest
from server.catalog import Catalog
from server.chat import Chat
from server.settings import Settings
from server.stores.sqlite import SqliteStore
from server.turn import Turn

Open = Callable[..., AbstractAsyncContextManager[Chat]]
Ask = ChatRequest


async def refused(code: str, coroutine: Any) -> ChatError:
    with pytest.raises(ChatError) as caught:
        await coroutine
    assert caught.value.code == code, caught.value.message
    return caught.value


async def whole(chat: Chat, request: ChatRequest, client: str = "me") -> Turn:
    turn = await chat.send(request, "rest", client)
    await turn.ended()
    return turn


@asynccontextmanager
async def on_disk(path: Path, provider: Any, **settings: Any) -> AsyncIterator[tuple[Chat, SqliteStore]]:
    """A chat with a store that was there before, or will be there after it."""
    store = SqliteStore(path / "chat.db")
    chat = Chat(Catalog([provider], "script", "the test"), store, Settings(**settings))
    await chat.open()
    try:
        yield chat, store
    finally:
        await chat.drain(0)
        await chat.close()

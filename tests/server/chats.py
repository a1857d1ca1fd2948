"""What the tests of the chat say and ask."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from proto.errors import ChatError
from proto.requests import ChatRequest
from server.chat import Chat
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

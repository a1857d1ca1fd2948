"""REST: one request, the whole answer. Its events are the turn's, read when it is done."""

from collections.abc import AsyncGenerator

import aiohttp

from client.api import Api, Framing, chat_body
from client.transports import CONNECT_SECONDS
from proto import ndjson
from proto.answers import ChatAnswer
from proto.errors import ChatError
from proto.events import Event
from proto.requests import ChatRequest

_LOG = Framing(ndjson.CONTENT_TYPE, lambda: ndjson.Decoder().feed)
_WHOLE_ANSWER = aiohttp.ClientTimeout(total=600, sock_connect=CONNECT_SECONDS)  # then it is asked for again, by its key


class Rest(Api):
    name = "rest"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._asked: str | None = None

    async def send(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self._asked = request.session_id  # the only way to find the turn, should it be cancelled
        try:
            body = chat_body(request)
            turn_id = (await self.ask(ChatAnswer, "POST", "/chat", json=body, timeout=_WHOLE_ANSWER)).turn_id
        except ChatError as error:
            self._asked = None
            if error.turn_id is None or error.code == "session_busy":
                raise
            turn_id = error.turn_id  # the turn began, and broke: its log tells how
        self._asked = None
        async for event in self.follow(turn_id, 0):
            yield event

    async def follow(self, turn_id: str, after: int) -> AsyncGenerator[Event, None]:
        async for event in self.events(_LOG, "GET", f"/turns/{turn_id}", params={"after": after}):
            yield event

    async def cancel(self, turn_id: str | None) -> None:
        if turn_id is None and self._asked is not None:
            turn_id = (await self.session(self._asked)).active_turn
        await super().cancel(turn_id)

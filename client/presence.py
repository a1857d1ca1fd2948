"""Who is typing: the others in the session, and us, told to each other."""

import asyncio
import time
from contextlib import suppress

from client.conversation import Conversation
from client.transports import ConnectionLost
from proto.errors import ChatError

PAUSE_SECONDS = 2.5  # who has not touched a key for so long has stopped
FORGET_SECONDS = 10.0  # somebody who never says so has stopped after that


class Presence:
    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._others: dict[str, float] = {}
        self._told = False
        self._pause: asyncio.TimerHandle | None = None
        self._telling: set[asyncio.Task[None]] = set()

    # The others

    def heard(self, who: str, active: bool) -> None:
        self._others.pop(who, None)
        if active:
            self._others[who] = time.monotonic() + FORGET_SECONDS

    def forget(self) -> None:
        self._others.clear()

    @property
    def somebody_types(self) -> bool:
        now = time.monotonic()
        return any(until > now for until in self._others.values())

    @property
    def worth_a_look(self) -> bool:
        """Whether it may change without a word."""
        return bool(self._others)

    # Us

    def typed(self, text: str) -> None:
        """The line being written has changed."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        active = bool(text) and not text.startswith("/")
        if active:
            self._pause = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.tell, False)
        self.tell(active)

    def tell(self, active: bool) -> None:
        talk = self._talk
        if active == self._told or talk.session_id is None or not (talk.transport.live and talk.connected):
            return
        self._told = active
        task = asyncio.create_task(self._tell(talk.session_id, active))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, session_id: str, active: bool) -> None:
        with suppress(ChatError, ConnectionLost):  # nothing that anybody would miss
            await self._talk.transport.typing(session_id, active)

"""Who is typing: the others in the session, and us, told to each other."""

import asyncio
import time
from contextlib import suppress

from client.conversation import Conversation
from client.transports import ConnectionLost
from proto.errors import ChatError

PAUSE_SECONDS = 2.5  # who has not touched a key for so long has stopped
FORGET_SECONDS = 10.0  # somebody who never says so has stopped after that
AGAIN_SECONDS = 5.0  # who goes on typing says so again, for the others not to forget it


class Presence:
    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._others: dict[str, float] = {}
        self._types = False
        self._told: float | None = None  # when the others were told that we type
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

    def joined(self) -> None:
        """There is somebody who was told nothing yet: we have joined a session, or somebody has joined ours."""
        self._told = None
        self.tell(self._types)

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
        self._types = active
        talk, now = self._talk, time.monotonic()
        known = not active if self._told is None else active and now < self._told + AGAIN_SECONDS
        if known or talk.session_id is None or not talk.transport.live:
            return
        self._told = now if active else None
        task = asyncio.create_task(self._tell(talk.session_id, active))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, session_id: str, active: bool) -> None:
        with suppress(ChatError, ConnectionLost):  # nothing that anybody would miss
            await self._talk.transport.typing(session_id, active)

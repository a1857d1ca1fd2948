"""What others ask and are answered in the session, written above the prompt as it happens.

An answer that is heard no further (the connection is lost, another session or protocol is gone to) keeps its place, and
goes on there. Who joins a session is shown an answer that runs from its beginning, but not one that has ended meanwhile
(its rest is therefore asked for). Over gRPC, where nobody leaves a session, who comes back is shown nothing again: what
began meanwhile was heard from afar, and is asked for likewise.
"""

import asyncio
from collections.abc import Callable

from client.conversation import Conversation
from client.paint import Style
from client.render import Growing, summary
from client.screen import Screen
from client.text import clean_line
from client.transports import ConnectionLost
from proto.errors import ChatError
from proto.events import TERMINAL, Chunk, Error, Event, SessionInfo
from proto.requests import Cursor


class Others:
    def __init__(self, talk: Conversation, screen: Screen, raw: bool) -> None:
        self._talk = talk
        self._screen = screen
        self._raw = raw
        self._growing: dict[str, Growing] = {}
        self._cut: dict[str, Growing] = {}
        self._catching: asyncio.Task[None] | None = None
        self.last: str | None = None  # the turn that was heard of last

    @property
    def growing(self) -> Growing | None:
        """An answer that is being written for somebody else."""
        return next(iter(self._growing.values()), None)

    def hear(self, event: Event) -> bool:
        """An event of somebody else's turn; whether that has just begun."""
        turn_id = event.turn_id
        growing = self._growing.get(turn_id) or self._cut.get(turn_id)
        if growing is None:
            if not isinstance(event, SessionInfo):
                return False  # of a session that was left meanwhile
            growing = self._cut[turn_id] = Growing(self._screen, self._raw, event.session_id)
        begun = not growing.seen
        if growing.session_id != self._talk.session_id:
            if begun and isinstance(event, TERMINAL):
                del self._cut[turn_id]  # it has come and gone without us
            return False
        if event.seq > growing.seen + 1:
            return False  # what comes early comes once more, in its order
        if begun and isinstance(event, SessionInfo):
            self._growing[turn_id] = self._cut.pop(turn_id)
            self.last = turn_id
            self._screen.said("Somebody", event.message, Style.ACCENT)
        elif turn_id in self._cut:
            self._growing[turn_id] = self._cut.pop(turn_id)
            growing.progress.resumed += 1
            self._screen.note("Somebody's answer goes on:")
            self._screen.grow(growing.tail)
        # What comes twice is known; but an end is news also where a crash took what was heard before it.
        if event.seq > growing.seen or isinstance(event, TERMINAL):
            self._add(event, growing)
        return begun

    def _add(self, event: Event, growing: Growing) -> None:
        growing.seen = event.seq
        growing.progress.add(event)
        growing.add(event)
        if isinstance(event, TERMINAL):
            growing.close()
            del self._growing[event.turn_id]
            if isinstance(event, Error):
                self._screen.fail(clean_line(event.message))
            self._screen.lines([*summary(self._talk, growing.progress, self._screen), ""])
        elif not isinstance(event, Chunk):
            self._screen.grow(growing.tail)

    def cut(self) -> None:
        """There is no more to be heard of them for now."""
        if self._catching is not None:
            self._catching.cancel()
            self._catching = None
        for turn_id in tuple(self._growing):
            self._rest(turn_id)

    def _rest(self, turn_id: str) -> None:
        growing = self._growing.pop(turn_id, None)
        if growing is not None:
            growing.rest()
            self._screen.note("Somebody's answer is heard no further.")
            self._cut[turn_id] = growing

    def joined(self, caught_up: Callable[[], None]) -> None:
        """What happens in the session is heard again."""
        if self._catching is None or self._catching.done():
            self._catching = asyncio.create_task(self._catch_up())
            self._catching.add_done_callback(lambda _: caught_up())

    async def _catch_up(self) -> None:
        for turn_id, growing in tuple(self._cut.items()):
            if growing.session_id == self._talk.session_id:
                try:
                    await self._talk.overhear(Cursor(turn_id, growing.seen))
                except ConnectionLost:  # who joins again tries again
                    self._rest(turn_id)
                except ChatError as error:
                    self._rest(turn_id)
                    if self._cut.pop(turn_id, None) is not None:
                        self._screen.note(f"The rest of somebody's answer cannot be had: {error.message}")

"""What others ask and are answered in the session, written above the prompt as it happens."""

from client.conversation import Conversation
from client.paint import Style
from client.render import Growing, summary
from client.screen import Screen
from proto.events import TERMINAL, Chunk, Event, SessionInfo


class Others:
    def __init__(self, talk: Conversation, screen: Screen, raw: bool) -> None:
        self._talk = talk
        self._screen = screen
        self._raw = raw
        self._growing: dict[str, Growing] = {}
        self._heard: dict[str, int] = {}  # how far, of answers that were cut
        self.last: str | None = None  # the turn that was heard of last

    @property
    def growing(self) -> Growing | None:
        """An answer that is being written for somebody else."""
        return next(iter(self._growing.values()), None)

    def hear(self, event: Event) -> bool:
        """An event of somebody else's turn; whether that has just begun."""
        growing = self._growing.get(event.turn_id)
        begun = False
        if growing is None:
            if not isinstance(event, SessionInfo) or event.session_id != self._talk.session_id:
                return False  # of a session that was left meanwhile
            growing = self._growing[event.turn_id] = Growing(self._screen, self._raw)
            self.last = event.turn_id
            growing.progress.add(event)
            growing.seen = self._heard.pop(event.turn_id, 0)
            begun = not growing.seen
            if begun:
                self._screen.said("Somebody", event.message, Style.ACCENT)
        if growing.progress.info is not None and growing.progress.info.session_id != self._talk.session_id:
            self._growing.pop(event.turn_id).close()
        elif event.seq > growing.seen:  # else it is shown from its beginning once more: we have joined again
            self._add(event, growing)
        return begun

    def _add(self, event: Event, growing: Growing) -> None:
        growing.seen = event.seq
        growing.progress.add(event)
        growing.add(event)
        if isinstance(event, TERMINAL):
            growing.close()
            del self._growing[event.turn_id]
            self._screen.lines([*summary(self._talk, growing.progress, self._screen), ""])
        elif not isinstance(event, Chunk):
            self._screen.grow(growing.tail)

    def cut(self) -> None:
        """There is no more to be heard of them; who joins again is shown what runs from its beginning."""
        for turn_id, growing in self._growing.items():
            growing.close()
            self._heard[turn_id] = growing.seen
        self._growing.clear()

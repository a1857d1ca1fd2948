"""Ended turns at hand for those who resume: the youngest of them, within a bound of memory."""

from collections import OrderedDict

from proto.events import HEAD_EVENTS
from server.lane import Observer
from server.stores import SavedTurn, interrupted
from server.turn import Turn

MAX_EVENTS = 100_000
CHARS_PER_EVENT = 256  # long texts weigh as much as the events whose memory they take


class KeptTurns:
    def __init__(self) -> None:
        self.turns: OrderedDict[str, Turn] = OrderedDict()
        self.events = 0

    def get(self, turn_id: str) -> Turn | None:
        turn = self.turns.get(turn_id)
        if turn is not None:
            self.turns.move_to_end(turn_id)
        return turn

    def keep(self, turn: Turn) -> None:
        if turn.id not in self.turns:
            self.events += _weight(turn)
            self.turns[turn.id] = turn
            while self.events > MAX_EVENTS and len(self.turns) > 1:
                self.events -= _weight(self.turns.popitem(last=False)[1])

    def forget(self, session_id: str) -> None:
        """The session's turns are gone."""
        for turn in [turn for turn in self.turns.values() if turn.session_id == session_id]:
            del self.turns[turn.id]
            self.events -= _weight(turn)


def restored(saved: SavedTurn, observer: Observer) -> Turn:
    """A turn out of what a store kept."""
    turn = Turn(saved, observer=observer)
    # Without an end where that could not be written: nobody will ever say another one.
    turn.restore(saved.chunks, saved.final, saved.terminal or interrupted(saved))
    return turn


def _weight(turn: Turn) -> int:
    """The events of an ended turn's log, also when its last is just about to be written, and what its texts take."""
    return HEAD_EVENTS + turn.chunk_count + 1 + (len(turn.message) + turn.chars) // CHARS_PER_EVENT

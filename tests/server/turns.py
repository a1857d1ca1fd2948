"""A turn without a chat, as the tests of its log and of its readers have it."""

from typing import Any

from proto.events import Complete, Usage
from server.stores import SavedTurn
from server.turn import Turn, sha256

NOW = "2026-01-01T00:00:00.000000+00:00"
OPENING = SavedTurn("t", "s", "demo", "Hello", 0.0, NOW, True, 1, 0)


def new_turn(**options: Any) -> Turn:
    turn = Turn(OPENING, **{"grace": 60.0, **options})
    turn.begin()
    return turn


def seal(turn: Turn) -> None:
    turn.last_chunk("")
    text, seq = turn.text, turn.last_seq + 1
    turn.seal(Complete(turn.chunk_count, 1.0, 2, "s", NOW, "t", seq, "stop", Usage(1, 1, True), 0.5, sha256(text)))

"""A chunk is the same bytes whether it is pushed as it comes, or encoded again from the log for one who comes later."""

import pytest

from proto.events import Chunk
from server.frames import WebSocket
from server.stores import SavedTurn
from server.transports import grpc_web
from server.transports.grpc import GRPC
from server.transports.stream import NDJSON, SSE
from server.turn import Turn

NOW = "2026-01-01T00:00:00.000000+00:00"
CHUNKED = (NDJSON, SSE, *grpc_web.FRAMINGS.values())
FRAMINGS = (*CHUNKED, *(framing.plain for framing in CHUNKED), WebSocket(0), WebSocket(15), GRPC)


@pytest.mark.parametrize("text", ["a ", 'grüße \u2028 "🌊"\n', "long " * 1000])
@pytest.mark.parametrize("framing", FRAMINGS, ids=lambda framing: f"{type(framing).__name__} {framing.name}")
def test_a_pushed_chunk_is_that_of_the_log(framing, text):
    turn = Turn(SavedTurn("t-1", "s-1", "demo", "Hello", 0.0, NOW, True, 1, 0))
    for number in (1, 126, 2045, 2046, 3000):
        chunk = Chunk(text, number, False, NOW, turn.id, number + 2)
        assert framing.framer(framing.of_turn(turn), text, number + 2, NOW) == framing.encode(turn, chunk)


@pytest.mark.parametrize("text", ["Hello", 'grüße \u2028 "🌊"\n', "long " * 1000])
@pytest.mark.parametrize("framing", FRAMINGS, ids=lambda framing: f"{type(framing).__name__} {framing.name}")
def test_the_opening_is_the_first_two_events_of_the_log(framing, text):
    turn = Turn(SavedTurn("t-1", "s-1", 'de"mo', text, 0.0, NOW, True, 1, 0))
    assert framing.opening(turn) == (framing.encode(turn, turn.info), framing.encode(turn, turn.status))

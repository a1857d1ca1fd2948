"""Turns: their log, from every cursor at every time; who attends; heartbeats; read back from a store."""

import asyncio
import time
from typing import Any

import pytest

from proto.errors import ChatError
from proto.events import Chunk, Complete, Error, Heartbeat, Usage
from server.turn import Turn, sha256
from tests.server.turns import NOW, OPENING, new_turn, seal


def test_the_log_numbers_its_events(run: Any) -> None:
    async def test() -> None:
        turn = new_turn()
        assert (turn.last_seq, turn.running, turn.state, turn.text) == (2, True, "running", "")
        turn.chunk("a")
        turn.chunk("b")
        seal(turn)
        assert [event.seq for event in turn.log] == [1, 2, 3, 4, 5, 6]
        assert [event.chunk_number for event in turn.log if isinstance(event, Chunk)] == [1, 2, 3]
        assert [event.is_final for event in turn.log if isinstance(event, Chunk)] == [False, False, True]
        assert (turn.text, turn.state, turn.running, turn.chunk_count) == ("ab", "complete", False, 3)
        assert turn.snapshot().text_sha256 == sha256("ab")

    run(test())


@pytest.mark.parametrize("after", range(8))
@pytest.mark.parametrize("joins_at", range(9))
def test_from_every_cursor_at_every_time(run: Any, framing: Any, recorder: Any, after: int, joins_at: int) -> None:
    """Five chunks, then the end; the reader comes after `joins_at` of these steps."""

    async def test() -> None:
        turn, reader = new_turn(), recorder(framing())
        for step in range(7):
            if step == joins_at:
                if after > turn.last_seq:
                    with pytest.raises(ChatError) as refused:
                        reader.follow(turn, after)
                    assert refused.value.code == "invalid_request"
                    return
                reader.follow(turn, after)
            if step < 5:
                turn.chunk(f"{step} ")
            elif step == 5:
                seal(turn)
        if joins_at > 6:
            reader.follow(turn, after)
        assert reader.events == turn.log[after:]
        assert reader.ends == 1
        assert turn.nothing_left(turn.last_seq) and not turn.nothing_left(after)

    run(test())


class Broken:
    def write(self, data: bytes) -> None:
        raise RuntimeError("a bug")


def test_a_reader_that_fails_keeps_no_heartbeat_from_the_others(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        turn, shared = new_turn(heartbeat=0.02), framing()
        broken, reader = recorder(shared).follow(turn), recorder(shared)
        broken.follower.lane.live[broken.follower] = Broken()
        reader.follow(turn)
        for _ in range(2000):
            if [type(event) for event in reader.events].count(Heartbeat) == 3:
                break
            await asyncio.sleep(0.005)
        else:
            pytest.fail("no heartbeat came")
        seal(turn)

    run(test())


def test_only_readers_that_need_a_sign_of_life_have_a_timer(run: Any, framing: Any, recorder: Any) -> None:
    """And get one, though another reader came first."""

    async def test() -> None:
        turn, without = new_turn(heartbeat=0.02), framing()
        without.beats = False
        first = recorder(without).follow(turn)
        assert turn._beat_timer is None
        second = recorder(framing()).follow(turn)
        while Heartbeat not in map(type, second.events):
            await asyncio.sleep(0.005)
        assert Heartbeat not in map(type, first.events)
        seal(turn)

    run(test())


def test_heartbeats_are_for_silence_only(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        turn = new_turn(heartbeat=0.02)
        reader = recorder(framing()).follow(turn)
        paused = recorder(framing(), lambda number: number == 2).follow(turn)
        for number in range(20):
            turn.chunk(f"{number} ")
            await asyncio.sleep(0.002)
        written = len(reader.writes)
        for _ in range(2000):
            if len(reader.writes) >= written + 3:
                break
            await asyncio.sleep(0.005)
        assert all(event in reader.events for event in turn.log)
        assert [type(event) for event in reader.events[-3:]] == [Heartbeat] * 3
        seal(turn)
        paused.resume()
        assert [event for event in reader.events if not isinstance(event, Heartbeat)] == turn.log
        assert paused.events == turn.log
        written = len(reader.writes)
        await asyncio.sleep(0.05)
        assert len(reader.writes) == written, "no heartbeat after the end"

    run(test())


@pytest.mark.parametrize(("silence", "beats"), [(0, 0), (59, 0), (61, 1), (-3600, 0)])
def test_a_heartbeat_is_due_after_so_much_silence(
    run: Any, framing: Any, recorder: Any, monkeypatch: Any, silence: float, beats: int
) -> None:
    async def test() -> None:
        turn = new_turn(heartbeat=60.0)
        reader = recorder(framing()).follow(turn)
        turn.chunk("a")
        await asyncio.sleep(0)
        now = time.time() + silence
        monkeypatch.setattr("server.turn.time.time", lambda: now)
        turn._beat()  # what the timer calls
        assert [type(event) for event in reader.events].count(Heartbeat) == beats

    run(test())


def test_the_grace_time_runs_only_while_nobody_follows(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        stopped = asyncio.Event()
        turn = new_turn(grace=0.05)
        turn.stop = stopped.set
        first, second = recorder(framing()).follow(turn), recorder(framing()).follow(turn)
        first.follower.close()
        await asyncio.sleep(0.1)
        assert not stopped.is_set(), "somebody follows"
        second.follower.close()
        third = recorder(framing()).follow(turn, 2)
        await asyncio.sleep(0.1)
        assert not stopped.is_set(), "somebody came back in time"
        third.follower.close()
        await stopped.wait()

    run(test())


def test_a_turn_that_is_awaited_is_attended(run: Any) -> None:
    async def test() -> None:
        stopped = asyncio.Event()
        turn = new_turn(grace=0.02)
        turn.stop = stopped.set
        waiting = [asyncio.create_task(turn.ended()) for _ in range(2)]
        await asyncio.sleep(0.06)
        assert not stopped.is_set()
        waiting[0].cancel()
        seal(turn)
        await waiting[1]
        await turn.ended()
        assert not stopped.is_set()

    run(test())


@pytest.mark.parametrize(
    ("terminal", "state"),
    [
        (Complete(0, 1.0, 2, "s", NOW, "t", 5, "cancelled", Usage(1, 1, True), None, sha256("ab")), "cancelled"),
        (Complete(0, 1.0, 2, "s", NOW, "t", 5, "length", Usage(1, 1, True), None, sha256("ab")), "complete"),
        (Error("broke", "s", "t", 5, "model_error", True, NOW), "failed"),
        (Error("died", "s", "t", 5, "interrupted", True, NOW), "interrupted"),
    ],
)
def test_a_turn_read_back(run: Any, framing: Any, recorder: Any, terminal: Any, state: str) -> None:
    async def test() -> None:
        turn = Turn(OPENING)
        turn.restore(["a", NOW, "b", NOW], isinstance(terminal, Complete), terminal)
        assert turn.state == turn.snapshot().status == state
        for after in range(5):
            assert recorder(framing()).follow(turn, after).events == turn.log[after:]
        beyond = recorder(framing())
        if state == "interrupted":  # a crash may have taken events that somebody has seen
            assert beyond.follow(turn, 99).events == [terminal]
        else:
            with pytest.raises(ChatError):
                beyond.follow(turn, 99)

    run(test())

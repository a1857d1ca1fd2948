"""Turns and lanes: whoever follows, however slowly, from whatever cursor, gets exactly the rest of the log."""

import asyncio
import random
import time
from typing import Any

import pytest

from proto.errors import ChatError
from proto.events import GENERATING, HEAD_EVENTS, Chunk, Complete, Error, Heartbeat, SessionInfo, Status, Usage
from server import lane
from server.stats import Stats
from server.turn import Turn, sha256

NOW = "2026-01-01T00:00:00.000000+00:00"


def new_turn(**options: Any) -> Turn:
    turn = Turn(
        SessionInfo("s", "demo", NOW, "t", 1, True, "Hello"), Status(GENERATING, 1, 0, "t", 2),
        **{"grace": 60.0, **options},
    )  # fmt: skip
    turn.begin()
    return turn


def seal(turn: Turn) -> None:
    turn.chunk("", final=True)
    text, seq = turn.text, turn.last_seq + 1
    turn.seal(Complete(turn.chunk_count, 1.0, 2, "s", NOW, "t", seq, "stop", Usage(1, 1, True), 0.5, sha256(text)))


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


def test_every_place_to_pause(run: Any, framing: Any, recorder: Any) -> None:
    """One reader per write at which it may pause and per event after which it resumes; together, so that readers
    behind, live and new share a lane."""

    async def test() -> None:
        turn, shared = new_turn(), framing()
        readers = [
            (recorder(shared, lambda number, at=at: number == at).follow(turn), resumes)
            for at in range(1, 9)
            for resumes in range(3, 12)
        ]
        for step in range(6):
            turn.chunk(f"{step} ")
            for reader, resumes in readers:
                if turn.last_seq == resumes:
                    reader.resume()
        seal(turn)
        for reader, _ in readers:
            reader.resume()
        for reader, _ in readers:
            assert reader.events == turn.log
            assert reader.ends == 1
        assert all(count == 1 for seq, count in shared.encoded.items() if seq > HEAD_EVENTS), shared.encoded

    run(test())


def test_each_event_is_encoded_once_for_a_thousand_readers(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        turn, one, other = new_turn(), framing(), framing()
        readers = [recorder(one, lambda number, n=n: n % 3 == 0 and number == 2).follow(turn) for n in range(500)]
        readers += [recorder(other).follow(turn) for _ in range(500)]
        for step in range(20):
            turn.chunk(f"{step} ")
        seal(turn)
        for reader in readers:
            reader.resume()
            assert reader.ends == 1
        assert len({b"".join(reader.writes) for reader in readers}) == 1
        for shared in (one, other):
            assert {shared.encoded[seq] for seq in range(1, turn.last_seq + 1)} == {1}

    run(test())


def test_a_reader_that_is_behind_is_written_large_slices(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        stats = Stats()
        turn = new_turn(observer=stats)
        reader = recorder(framing(), lambda number: number == 2).follow(turn)
        for step in range(1000):
            turn.chunk(f"{step} ")
        written = len(reader.writes)
        assert written == 2
        reader.resume()
        assert len(reader.writes) - written == -(-999 // lane.SLICE_EVENTS)
        assert reader.follower.cursor == turn.last_seq
        assert reader.follower.chunks == 1000
        seal(turn)
        assert stats.transports["ndjson"].bytes == sum(map(len, reader.writes))
        assert reader.events == turn.log

    run(test())


def test_slices_are_bounded_whatever_the_pieces(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        turn = new_turn()
        behind = recorder(framing(), lambda number: number == 2).follow(turn)
        for _ in range(100):
            turn.chunk("x" * 20_000)
        behind.resume()
        late = recorder(framing()).follow(turn)
        seal(turn)
        for reader in (behind, late):
            assert reader.events == turn.log
            assert max(map(len, reader.writes)) < lane.SLICE_BYTES + 21_000
            assert len(reader.writes) < 12

    run(test())


@pytest.mark.parametrize("ends_meanwhile", [False, True])
def test_a_reader_may_come_while_its_transport_is_full(
    run: Any, framing: Any, recorder: Any, ends_meanwhile: bool
) -> None:
    async def test() -> None:
        turn, reader = new_turn(), recorder(framing())
        turn.chunk("a")
        reader.follower = turn.follow(reader, 1, paused=True)
        turn.chunk("b")
        if ends_meanwhile:
            seal(turn)
        assert (reader.writes, reader.ends, reader.follower.cursor) == ([], 0, 1)
        reader.resume()
        if not ends_meanwhile:
            turn.chunk("c")
            seal(turn)
        assert reader.events == turn.log[1:]
        assert reader.ends == 1

    run(test())


def test_a_reader_that_closes_in_the_midst_is_written_no_more(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        turn = new_turn()
        for step in range(3 * lane.SLICE_EVENTS):
            turn.chunk(f"{step} ")
        reader = recorder(framing(), lambda number: reader.follower.close())
        reader.follow(turn)
        assert len(reader.events) == lane.SLICE_EVENTS
        seal(turn)
        assert (len(reader.writes), reader.ends) == (1, 0)

    run(test())


def test_frames_are_kept_only_while_somebody_is_behind(run: Any, framing: Any, recorder: Any) -> None:
    """A hundred readers that have stopped cost what one costs: the frames, once."""

    async def test() -> None:
        turn, shared = new_turn(), framing()
        readers = [recorder(shared, lambda number: number == 2).follow(turn) for _ in range(100)]
        for step in range(50):
            turn.chunk(f"{step} ")
            await asyncio.sleep(0)
        lanes = {reader.follower.lane for reader in readers}
        assert len(lanes) == 1
        (only,) = lanes
        assert len(only.frames) == 49
        assert all(len(reader.writes) == 2 for reader in readers)
        for reader in readers[1:]:
            reader.follower.close()
        assert len(only.frames) == 49
        readers[0].resume()
        assert only.frames == []

    run(test())


def test_what_was_written_to_those_who_came_is_kept_until_the_next_event(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        turn, shared = new_turn(), framing()
        for _ in range(3):
            recorder(shared).follow(turn)
        (lane,) = turn._lanes
        assert lane.recent is not None and shared.encoded == {1: 1, 2: 1}
        turn.chunk("Hello")
        await asyncio.sleep(0)
        assert lane.recent is None
        seal(turn)

    run(test())


def test_seal_reaches_readers_that_have_paused(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        turn, shared = new_turn(), framing()
        live = recorder(shared).follow(turn)
        behind = recorder(shared, lambda number: number == 2).follow(turn)
        at_the_end = recorder(shared, lambda number: number == 4).follow(turn)
        turn.chunk("a")
        await asyncio.sleep(0)
        seal(turn)
        assert (live.ends, behind.ends) == (1, 0)
        behind.resume()
        at_the_end.resume()
        assert (live.ends, behind.ends, at_the_end.ends) == (1, 1, 1)
        assert live.events == behind.events == at_the_end.events == turn.log
        for reader in (live, behind, at_the_end):
            reader.follower.close()
            reader.follower.pause()
            reader.follower.resume()
            assert reader.ends == 1

    run(test())


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("seed", range(50))
def test_random_schedules(run: Any, framing: Any, recorder: Any, seed: int, gathered: bool) -> None:
    """Append, join, pause, resume and close in any order: every reader ends with exactly the log's rest, also where
    much happens in one pass of the loop."""
    chance = random.Random(seed)

    async def test() -> None:
        turn, framings = new_turn(), [framing(), framing()]
        readers: list[tuple[Any, int]] = []

        def join() -> None:
            pauses = chance.choice([0.0, 0.1, 0.5])
            reader = recorder(chance.choice(framings), lambda number: chance.random() < pauses)
            after = chance.randint(0, turn.last_seq - (not turn.running))
            readers.append((reader.follow(turn, after, paused=chance.random() < 0.2), after))

        for _ in range(chance.randrange(20, 200)):
            if not gathered or chance.random() < 0.3:
                await asyncio.sleep(0)  # the end of a pass
            match chance.randrange(8):
                case 0:
                    join()
                case 1 if readers:
                    chance.choice(readers)[0].follower.pause()
                case 2 | 3 if readers:
                    chance.choice(readers)[0].resume()
                case 4 if readers and chance.random() < 0.2:
                    chance.choice(readers)[0].follower.close()
                case _:
                    for _ in range(300 if chance.random() < 0.02 else 1):
                        turn.chunk(chance.choice(["a", "é\n", "  ", '"', "\u2028"]))
        seal(turn)
        join()
        for reader, after in readers:
            for _ in range(2000):  # each of which may pause again
                if reader.follower._closed:
                    break
                reader.resume()
            rest = turn.log[after:]
            if reader.ends:
                assert reader.events == rest
                assert reader.follower.cursor == turn.last_seq
            else:  # closed on the way: a beginning of the rest, and the cursor tells how much of it
                assert reader.events == rest[: reader.follower.cursor - after]
            assert reader.ends <= 1
        assert turn._lanes == ()

    run(test())


def test_stalled_readers_are_dropped_and_slow_ones_are_not(
    run: Any, framing: Any, recorder: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(lane, "STALL_SECONDS", 0.02)

    async def test() -> None:
        turn, shared = new_turn(), framing()
        stalled = recorder(shared, lambda number: number == 2).follow(turn)
        slow = recorder(shared, lambda number: number == 2).follow(turn)
        live = recorder(shared).follow(turn)
        turn.chunk("some text that has to be taken")
        while not stalled.drops:
            slow.waiting -= 1
            await asyncio.sleep(0.005)
        assert (slow.drops, live.drops) == (0, 0)
        turn.chunk("more")
        seal(turn)
        slow.resume()
        assert slow.events == live.events == turn.log
        # The one that was dropped comes back with its cursor.
        again = recorder(shared).follow(turn, stalled.follower.cursor)
        assert stalled.events + again.events == turn.log

    run(test())


def test_a_reader_that_fails_keeps_no_heartbeat_from_the_others(run: Any, framing: Any, recorder: Any) -> None:
    async def test() -> None:
        turn, shared = new_turn(heartbeat=0.02), framing()
        broken, reader = recorder(shared).follow(turn), recorder(shared)
        broken.follower.lane.live[broken.follower] = lambda data: 1 / 0
        reader.follow(turn)
        for _ in range(2000):
            if [type(event) for event in reader.events].count(Heartbeat) == 3:
                break
            await asyncio.sleep(0.005)
        else:
            pytest.fail("no heartbeat came")
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
        turn = Turn(SessionInfo("s", "demo", NOW, "t", 1, True, "Hello"), Status(GENERATING, 1, 0, "t", 2))
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

"""Readers and the lane they share: slow ones, late ones, those that come and go; nothing lost, nothing twice."""

import asyncio
import itertools
import random
from typing import Any

import pytest

from proto.events import HEAD_EVENTS
from server import lane
from server.stats import Stats
from tests.server.loop_clock import LoopClock
from tests.server.turns import new_turn, seal


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


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_lanes_go_in_any_order(run: Any, framing: Any, recorder: Any, order: tuple[int, ...]) -> None:
    """And come again: those of the other framings hear on."""

    async def test() -> None:
        turn, framings = new_turn(), [framing() for _ in range(3)]
        readers = [recorder(one).follow(turn) for one in framings]
        for number in order:
            turn.chunk("a ")
            left = readers[number]
            left.follower.close()
            had = turn.last_seq
            turn.chunk("b ")
            readers[number] = recorder(framings[number]).follow(turn)
            await asyncio.sleep(0)
            assert left.events == turn.log[:had]
            assert len(turn._lanes) == 3
        seal(turn)
        assert [reader.events for reader in readers] == [turn.log] * 3
        assert turn._lanes == []

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
        log = turn.log
        for reader, after in readers:
            for _ in range(2000):  # each of which may pause again
                if reader.follower._closed:
                    break
                reader.resume()
            rest = log[after:]
            if reader.ends:
                assert reader.events == rest
                assert reader.follower.cursor == turn.last_seq
            else:  # closed on the way: a beginning of the rest, and the cursor tells how much of it
                assert reader.events == rest[: reader.follower.cursor - after]
            assert reader.ends <= 1
        assert turn._lanes == []

    run(test())


def test_stalled_readers_are_dropped_and_slow_ones_are_not(
    run: Any, framing: Any, recorder: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(lane, "STALL_SECONDS", 5)

    async def test() -> None:
        clock, turn, shared = LoopClock(), new_turn(), framing()
        stalled = recorder(shared, lambda number: number == 2).follow(turn)
        slow = recorder(shared, lambda number: number == 2).follow(turn)
        live = recorder(shared).follow(turn)
        turn.chunk("some text that has to be taken")
        while not stalled.drops:
            slow.waiting -= 1
            await clock.passes(1)
        assert (slow.drops, live.drops) == (0, 0)
        turn.chunk("more")
        seal(turn)
        slow.resume()
        assert slow.events == live.events == turn.log
        # The one that was dropped comes back with its cursor.
        again = recorder(shared).follow(turn, stalled.follower.cursor)
        assert stalled.events + again.events == turn.log

    run(test())

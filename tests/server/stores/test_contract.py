"""What every store does, tried on each."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest

from proto.answers import HistoryMessage
from proto.events import Error
from server.stores import IDEMPOTENCY_SECONDS, Key, Part, Store
from server.stores.memory import MemoryStore
from server.stores.sqlite import SqliteStore

NASTY = [
    "a",
    " ",
    "\n",
    "\r\n",
    "\0",
    '"',
    "'",
    "\\",
    "\u2028",
    "\u2029",
    "\x7f",
    "é",
    "漢",
    "😀",
    "\ufeff",
    "</",
    "\\u0000",
]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "chat.db")


def test_a_turn_is_read_back_as_it_was_sent(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        chance = random.Random(5)
        texts = ["".join(chance.choices(NASTY, k=chance.randrange(20))) for _ in range(100)]
        chunks = tuple(field for n, text in enumerate(texts) for field in (text, f"2026-03-01T12:00:00.{n:06d}+00:00"))
        turn = tell.turn(message="".join(NASTY), started_at=1 / 3, is_new_session=False)
        await tell.begin(store, tell.session(), turn)
        assert await store.turn("t1") == turn._replace(chunks=())
        store.checkpoint([Part("t1", 1, chunks[:80])])
        store.checkpoint([Part("t1", 41, chunks[80:82])])
        await tell.end(store, tell.session(messages=1), Part("t1", 42, chunks[82:]), tell.complete(100))
        assert await store.turn("t1") == turn._replace(chunks=chunks, final=True, terminal=tell.complete(100))
        assert await store.session("s1") == tell.session(messages=1)
        assert await store.history("s1") == [
            HistoryMessage("user", turn.message, "t1", turn.timestamp),
            HistoryMessage("model", "".join(texts), "t1", tell.complete(1).timestamp, "stop"),
        ]
        assert await store.turn("t2") is None
        assert await store.session("s2") is None
        assert await store.history("s2") == []

    with_store(store, test)


BROKE = Error('It "broke"\n.', "s1", "t1", 3, "model_error", False, "2026-03-01T12:00:01.000000+00:00")


def test_an_error_without_any_text_leaves_only_the_question(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        await tell.end(store, tell.session(), tell.part(1, 0), BROKE, final=False)
        assert await store.turn("t1") == tell.turn()._replace(chunks=(), terminal=BROKE)
        assert [message.role for message in await store.history("s1")] == ["user"]

    with_store(store, test)


@pytest.mark.parametrize("chunks", [0, 2])
@pytest.mark.parametrize("end", ["stop", "length", "safety", "cancelled", BROKE])
def test_the_last_message_of_a_turn_tells_how_it_ended(
    store: Any, tell: Any, with_store: Any, chunks: int, end: Any
) -> None:
    broke = isinstance(end, Error)
    told = (None, BROKE.code, BROKE.message) if broke else (end, None, None)

    async def test(store: Store) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        (asked,) = await store.history("s1")
        assert asked == HistoryMessage("user", "Hello", "t1", tell.turn().timestamp), "it has not ended"
        terminal = BROKE._replace(seq=chunks + 3) if broke else tell.complete(chunks)._replace(finish_reason=end)
        await tell.end(store, tell.session(), tell.part(1, chunks), terminal, final=not broke)
        *said, last = await store.history("s1")
        assert [message[:4] for message in (*said, last)] == [
            asked[:4],
            *([("model", "word1 word2 ", "t1", terminal.timestamp)] if chunks else []),
        ]
        assert last[4:] == told
        assert all(not message.ends_turn for message in said) and last.ends_turn

    with_store(store, test)


def test_a_running_turn_has_its_part_and_its_session_no_answer_yet(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        store.checkpoint([tell.part(1, 2)])
        await tell.begin(store, tell.session("s2"), tell.turn("t2", "s2"))  # behind the checkpoint
        assert (await store.turn("t1")).chunks == tell.chunks(1, 2)  # type: ignore[union-attr]
        assert [message.role for message in await store.history("s1")] == ["user"]
        await tell.end(store, tell.session(), tell.part(3, 3), tell.complete(3))
        assert [message.role for message in await store.history("s1")] == ["user", "model"]

    with_store(store, test)


@pytest.mark.parametrize(
    ("spans", "known"),
    [
        ([(1, 3), (4, 9)], 9),
        ([(1, 3), (1, 9)], 9),
        ([(1, 5), (3, 9)], 9),
        ([(1, 5), (2, 3), (4, 9)], 9),
        ([(4, 9), (1, 3)], 9),
        ([(1, 9), (1, 9), (10, 9)], 9),
        ([(1, 9), (1, 4)], 9),
        ([(1, 3), (5, 9)], 3),
        ([(2, 9)], 0),
        ([], 0),
    ],
)
def test_chunk_numbers_decide(store: Any, tell: Any, with_store: Any, spans: Any, known: int) -> None:
    async def test(store: Store) -> None:
        await tell.begin(store, tell.session(), tell.turn())
        for first, last in spans[:-1]:
            store.checkpoint([tell.part(first, last)])
        first, last = spans[-1] if spans else (1, 0)
        await tell.end(store, tell.session(), tell.part(first, last), tell.complete(known))
        turn = await store.turn("t1")
        assert turn and turn.chunks == tell.chunks(1, known)

    with_store(store, test)


def test_of_two_parts_that_start_alike_the_longer_is_kept_whatever_is_said(
    store: Any, tell: Any, with_store: Any
) -> None:
    async def test(store: Store) -> None:
        chunks = ("\0", "then", "\0", "later", "\x1f", "at last")
        await tell.begin(store, tell.session(), tell.turn())
        for parts in (2, 4, 2):
            store.checkpoint([Part("t1", 1, chunks[:parts])])
        await tell.begin(store, tell.session("s2"), tell.turn("t2", "s2"))  # behind the checkpoints
        assert (await store.turn("t1")).chunks == chunks[:4]  # type: ignore[union-attr]
        await tell.end(store, tell.session(), Part("t1", 1, chunks), tell.complete(3))
        assert (await store.turn("t1")).chunks == chunks  # type: ignore[union-attr]

    with_store(store, test)


def test_one_checkpoint_holds_parts_of_many_turns(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        for n in range(5):
            await tell.begin(store, tell.session(f"s{n}"), tell.turn(f"t{n}", f"s{n}"))
        store.checkpoint([tell.part(1, n, f"t{n}") for n in range(5)])
        for n in range(5):
            await tell.end(
                store, tell.session(f"s{n}"), tell.part(n + 1, n + 1, f"t{n}"), tell.complete(n + 1, f"t{n}")
            )
        for n in range(5):
            turn = await store.turn(f"t{n}")
            assert turn and turn.chunks == tell.chunks(1, n + 1)

    with_store(store, test)


def test_history_is_in_the_order_of_the_turns(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        for n in (3, 1, 2):
            await tell.begin(store, tell.session(), tell.turn(f"t{n}", message=f"question {n}"))
            await tell.end(store, tell.session(), tell.part(n, n, f"t{n}")._replace(first=1), tell.complete(1, f"t{n}"))
        texts = [message.text for message in await store.history("s1")]
        assert texts == ["question 3", "word3 ", "question 1", "word1 ", "question 2", "word2 "]

    with_store(store, test)


def test_sessions_are_listed_newest_first_in_pages(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        chance = random.Random(7)
        sessions = [tell.session(f"s{n}", float(chance.randrange(20))) for n in range(60)]
        for session in sessions:
            await store.create(session)
        assert await store.count() == 60
        for turn in range(3):  # list, change, list again
            expected = sorted(sessions, key=lambda session: (session.active_at, session.id), reverse=True)
            listed: list[Any] = []
            before = None
            while page := await store.sessions(7, before):
                listed += page
                before = (page[-1].active_at, page[-1].id)
            assert listed == expected
            moved = tell.session(f"s{chance.randrange(60)}", 30.0 + turn, messages=turn)
            await tell.begin(store, moved, tell.turn(f"t{turn}", moved.id))
            gone = expected[5].id if expected[5].id != moved.id else expected[6].id
            await store.delete(gone)
            sessions = [session for session in sessions if session.id not in (moved.id, gone)] + [moved]
        assert await store.count() == len(sessions)
        assert await store.sessions(5, (-1.0, "")) == []

    with_store(store, test)


def test_create_begin_and_end_put_the_sessions_new_figures(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        await store.create(tell.session())
        await tell.begin(store, tell.session(active_at=2000.0)._replace(model="other", user_messages=1), tell.turn())
        saved = await store.session("s1")
        assert saved == tell.session(active_at=2000.0)._replace(model="other", user_messages=1)
        last = tell.session(active_at=3000.0, messages=1)._replace(input_tokens=99, output_tokens=98, cost=0.3)
        await tell.end(store, last, tell.part(1, 3), tell.complete(3))
        assert await store.session("s1") == last
        assert await store.count() == 1

    with_store(store, test)


def test_a_key_finds_its_turn_for_24_hours(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        now = time.time()
        times = {"old": now - IDEMPOTENCY_SECONDS - 1, "young": now - IDEMPOTENCY_SECONDS + 60, "new": now}
        for name, started_at in times.items():
            turn = tell.turn(name, started_at=started_at)
            await tell.begin(store, tell.session(), turn, Key("s1", name))
        assert await store.keyed(Key("s1", "old")) is None
        assert await store.keyed(Key("s1", "young")) == "young"
        assert await store.keyed(Key("s1", "new")) == "new"
        assert await store.keyed(Key("s2", "new")) is None
        await tell.begin(store, tell.session(), tell.turn("again", started_at=now), Key("s1", "old"))
        assert await store.keyed(Key("s1", "old")) == "again"

    with_store(store, test)


def test_the_memory_store_forgets_keys_that_are_too_old(tell: Any, with_store: Any) -> None:
    async def test(store: Any) -> None:
        old = time.time() - IDEMPOTENCY_SECONDS - 1
        for number in range(10):
            turn = tell.turn(f"t{number}", started_at=old + number / 100)
            await tell.begin(store, tell.session(), turn, Key("s1", f"k{number}"))
        await tell.begin(store, tell.session(), tell.turn("new", started_at=time.time()), Key("s1", "new"))
        assert [key.key for key in store._keys] == ["new"]

    with_store(MemoryStore(), test)


def test_a_key_that_named_no_session_is_found_in_the_session_that_was_made(
    store: Any, tell: Any, with_store: Any
) -> None:
    async def test(store: Store) -> None:
        await tell.begin(store, tell.session(), tell.turn(started_at=time.time()), Key("client 1", "k"))
        assert await store.keyed(Key("client 1", "k")) == "t1" == await store.keyed(Key("s1", "k"))
        for other in (Key("client 2", "k"), Key("s2", "k"), Key("s1", "l")):
            assert await store.keyed(other) is None
        await store.delete("s1")
        assert await store.keyed(Key("client 1", "k")) is await store.keyed(Key("s1", "k")) is None

    with_store(store, test)


def test_clear_empties_the_history_and_leaves_the_turns(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        now = time.time()
        await tell.begin(store, tell.session(), tell.turn(started_at=now), Key("s1", "k"))
        await tell.end(store, tell.session(), tell.part(1, 2), tell.complete(2))
        await tell.begin(store, tell.session(), tell.turn("t2"))
        await store.clear(tell.session(active_at=5000.0))
        await tell.end(store, tell.session(active_at=6000.0), tell.part(1, 2, "t2"), tell.complete(2, "t2"))
        assert await store.history("s1") == []
        turn = await store.turn("t1")
        assert turn and turn.terminal == tell.complete(2)
        assert await store.keyed(Key("s1", "k")) == "t1"
        assert await store.session("s1") == tell.session(active_at=6000.0)
        await tell.begin(store, tell.session(), tell.turn("t3"))
        assert [message.turn_id for message in await store.history("s1")] == ["t3"]

    with_store(store, test)


def test_delete_takes_everything_even_what_comes_late(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        now = time.time()
        await tell.begin(store, tell.session(), tell.turn(started_at=now), Key("client", "k"))
        await tell.begin(store, tell.session("s2"), tell.turn("t2", "s2"))
        store.checkpoint([tell.part(1, 2), tell.part(1, 2, "t2")])
        await store.delete("s1")
        await store.create(tell.session(active_at=7000.0))  # another one under the same id
        store.checkpoint([tell.part(3, 4)])
        await tell.end(store, tell.session(active_at=8000.0), tell.part(5, 6), tell.complete(6))
        assert await store.turn("t1") is None
        assert await store.keyed(Key("client", "k")) is None
        assert await store.history("s1") == []
        assert await store.session("s1") == tell.session(active_at=7000.0)
        assert (await store.turn("t2")).chunks == tell.chunks(1, 2)  # type: ignore[union-attr]
        await store.delete("nobody")
        await store.delete("s2")
        assert await store.count() == 1
        await tell.begin(store, tell.session("s3"), tell.turn("t3", "s3"))  # it may take the place of one that is gone
        assert (await store.turn("t3")).chunks == ()  # type: ignore[union-attr]

    with_store(store, test)


def test_many_turns_at_once(store: Any, tell: Any, with_store: Any) -> None:
    async def test(store: Store) -> None:
        async def one(n: int) -> None:
            turn_id, session_id = f"t{n}", f"s{n % 10}"
            await tell.begin(store, tell.session(session_id), tell.turn(turn_id, session_id))
            store.checkpoint([tell.part(1, 5, turn_id)])
            await tell.end(store, tell.session(session_id), tell.part(6, 9, turn_id), tell.complete(9, turn_id))
            turn = await store.turn(turn_id)
            assert turn and turn.chunks == tell.chunks(1, 9) and turn.terminal == tell.complete(9, turn_id)

        await asyncio.gather(*[one(n) for n in range(200)])
        assert store.healthy
        assert await store.count() == 10

    with_store(store, test)


def test_names(tmp_path: Path) -> None:
    assert MemoryStore().name == "memory"
    assert SqliteStore(tmp_path / "x.db").name == f"sqlite:{tmp_path / 'x.db'}"

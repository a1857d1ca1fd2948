"""Resuming, against transports that break on cue: every event once and in order, or a clear reason why not."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from client.answer import Answer
from client.transports import ConnectionLost, NotUnderstood
from proto.errors import ChatError
from proto.events import Chunk, Complete, Event, SessionInfo, Status, Usage
from proto.requests import ChatRequest, Cursor

CUT = ConnectionLost("cut")
NONSENSE = NotUnderstood("nonsense")
BUSY = ChatError("session_busy", "busy", turn_id="other")


def log(chunks: int = 3) -> list[Event]:
    """A turn's log: 1 session_info, 2 status, chunks, complete."""
    events: list[Event] = [SessionInfo("s", "demo", "now", "t", 1, True, "hi"), Status("...", 1, 0, "t", 2)]
    events += [Chunk(f"w{n} ", n, n == chunks, "now", "t", n + 2) for n in range(1, chunks + 1)]
    events.append(Complete(chunks, 0.1, 2, "s", "now", "t", chunks + 3, "stop", Usage(1, 1, True), 0.1, ""))
    return events


LOG = log()
Script = Sequence[Event | Exception]


class Scripted:
    """A transport that plays one script per call, and notes what it was asked."""

    name = "sse"

    def __init__(self, *scripts: Script, connect: Exception | None = None) -> None:
        self.scripts = list(scripts)
        self.calls: list[Any] = []
        self._connect = connect

    async def connect(self) -> None:
        if self._connect is not None:
            raise self._connect

    async def send(self, request: ChatRequest) -> AsyncIterator[Event]:
        self.calls.append(request)
        async for event in self._play():
            yield event

    async def follow(self, turn_id: str, after: int) -> AsyncIterator[Event]:
        self.calls.append((turn_id, after))
        async for event in self._play():
            yield event

    async def cancel(self, turn_id: str | None) -> None:
        self.calls.append(("cancel", turn_id))

    async def _play(self) -> AsyncIterator[Event]:
        for step in self.scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step


async def read(transport: Scripted, ask: Any = None, waits: Sequence[float] = (0, 0, 0)) -> tuple[list[Event], Answer]:
    answer = Answer(lambda: transport, ask or ChatRequest("hi"), lambda error, seconds: None, waits)  # type: ignore[arg-type,return-value]
    async with aclosing(answer.events()) as events:
        return [event async for event in events], answer


SURVIVED = {
    "nothing happens": [LOG],
    "cut before the first event": [[CUT], LOG],
    "cut after the first": [[*LOG[:1], CUT], LOG[1:]],
    "cut in the middle, twice": [[*LOG[:3], CUT], [*LOG[3:4], CUT], LOG[4:]],
    "cut before the end": [[*LOG[:5], CUT], LOG[5:]],
    "more cuts than waits, but it moves": [[*LOG[:n], CUT] for n in range(1, 6)] + [LOG],
    "a resume repeats what is known": [[*LOG[:4], CUT], LOG],
    "everything comes twice": [[event for event in LOG for _ in range(2)]],
    "status before the response": [[LOG[1], LOG[0], *LOG[2:]]],
    "cut between status and response": [[LOG[1], CUT], LOG],
    "a gap, filled by resuming": [[*LOG[:2], *LOG[3:]], LOG[2:]],
    "it restarts while we resume": [[*LOG[:3], CUT], [ChatError("unavailable", "draining")], LOG[3:]],
    "nonsense, once": [[NONSENSE], LOG],
    "nonsense, and it moves": [[*LOG[:n], NONSENSE] for n in range(1, 4)] + [LOG],
    "nonsense, but not the same again": [[NONSENSE], [CUT], [NONSENSE], LOG],
    "somebody else's event": [[LOG[0], LOG[1]._replace(turn_id="x"), *LOG[1:]]],
}


@pytest.mark.parametrize("scripts", SURVIVED.values(), ids=SURVIVED.keys())
def test_every_event_once_and_in_order(scripts: list[Script], run: Callable[..., Any]) -> None:
    transport = Scripted(*scripts)
    events, answer = run(read(transport))
    assert events == LOG
    assert answer.finished
    assert transport.scripts == []


def test_an_end_at_the_cursor_is_found(run: Callable[..., Any]) -> None:
    end = LOG[-1]._replace(seq=5)
    transport = Scripted([*LOG[:5], CUT], [], [end])
    events, _ = run(read(transport))
    assert events == [*LOG[:5], end]
    assert transport.calls[1:] == [("t", 5), ("t", 4)]


def test_it_resumes_from_its_cursor(run: Callable[..., Any]) -> None:
    transport = Scripted([*LOG[:3], CUT], [CUT], LOG[3:])
    _, answer = run(read(transport))
    assert transport.calls[1:] == [("t", 3), ("t", 3)]
    assert answer.resumed == 1


def test_what_is_sent_again_has_the_same_key(run: Callable[..., Any]) -> None:
    transport = Scripted([CUT], LOG)
    run(read(transport))
    first, second = transport.calls
    assert first == second
    assert first.idempotency_key == first.session_id


def test_a_name_of_ours_that_is_not_known_is_forgotten(run: Callable[..., Any]) -> None:
    unknown = ChatError("not_found", "gRPC makes no session that has a name")
    transport = Scripted([CUT], [unknown], LOG)
    events, _ = run(read(transport))
    first, _, last = transport.calls
    assert events == LOG
    assert last == first._replace(session_id=None)
    with pytest.raises(ChatError, match="gRPC"):
        run(read(Scripted([unknown]), ChatRequest("hi", "named")))


def test_nothing_left_is_an_end(run: Callable[..., Any]) -> None:
    transport = Scripted([], [LOG[4]])
    events, answer = run(read(transport, Cursor("t", 5)))
    assert events == []
    assert answer.finished
    assert transport.calls == [("t", 5), ("t", 4)]


@pytest.mark.parametrize("seq", [4, 5, 6])
def test_a_killed_server_ends_the_turn_behind_what_it_had_kept(seq: int, run: Callable[..., Any]) -> None:
    end = LOG[-1]._replace(seq=seq)
    events, answer = run(read(Scripted([*LOG[:5], CUT], [end])))
    assert events == [*LOG[:5], end]
    assert answer.finished


@pytest.mark.parametrize(
    ("scripts", "error"),
    [
        ([[BUSY]], BUSY),
        ([[*LOG[:3], CUT], [ChatError("not_found", "gone")]], None),
        ([[CUT]] * 4, CUT),
        ([[*LOG[:3], CUT], *([[CUT]] * 3)], CUT),
        ([[NONSENSE]] * 2, NONSENSE),
        ([[*LOG[:3], NONSENSE], [NONSENSE]], NONSENSE),
        ([[ChatError("unavailable", "draining")]], None),
    ],
)
def test_what_is_final(scripts: list[Script], error: Exception | None, run: Callable[..., Any]) -> None:
    with pytest.raises((ChatError, ConnectionLost)) as caught:
        run(read(Scripted(*scripts)))
    assert error is None or caught.value is error


def test_a_server_that_is_not_there_is_told_at_once(run: Callable[..., Any]) -> None:
    transport = Scripted(LOG, connect=CUT)
    with pytest.raises(ConnectionLost):
        run(read(transport))
    assert transport.calls == []


def test_a_new_transport_goes_on_at_once(run: Callable[..., Any]) -> None:
    second = Scripted(LOG[3:])
    current: list[Scripted] = [Scripted([*LOG[:3], CUT])]
    cuts: list[float] = []

    async def switched() -> list[Event]:
        answer = Answer(lambda: current[0], ChatRequest("hi"), lambda error, wait: cuts.append(wait), (60,))  # type: ignore[arg-type,return-value]
        events = []
        async with aclosing(answer.events()) as source:
            async for event in source:
                events.append(event)
                if len(events) == 2:
                    current[0] = second
        return events

    assert run(switched()) == LOG
    assert second.calls == [("t", 3)]
    assert cuts == []


def test_waits_grow_and_begin_anew_when_it_moves(run: Callable[..., Any]) -> None:
    waits: list[float] = []
    transport = Scripted([*LOG[:2], CUT], [CUT], [LOG[2], CUT], LOG[3:])

    async def told() -> None:
        answer = Answer(lambda: transport, ChatRequest("hi"), lambda error, wait: waits.append(wait), (0, 0.01, 0.02))  # type: ignore[arg-type,return-value]
        async with aclosing(answer.events()) as source:
            async for _ in source:
                pass

    run(told())
    assert waits == [0, 0.01, 0]


def test_cancel_before_the_turn_has_a_name(run: Callable[..., Any]) -> None:
    transport = Scripted(LOG)

    async def cancelled() -> None:
        answer = Answer(lambda: transport, ChatRequest("hi"), lambda error, wait: None)  # type: ignore[arg-type,return-value]
        await answer.cancel()
        async with aclosing(answer.events()) as source:
            async for _ in source:
                pass

    run(cancelled())
    assert ("cancel", None) in transport.calls
    assert transport.calls.count(("cancel", "t")) == 1

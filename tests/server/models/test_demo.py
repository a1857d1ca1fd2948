"""The demo model: both ways of answering say the same, and answers that are due together do not disturb each other."""

import asyncio
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from proto.errors import ChatError
from proto.events import Error
from server.models import End, Message, demo
from server.models.demo import Demo, DemoModel
from tests.server.chats import Ask, whole

ASKED = [Message("user", "hello"), Message("model", "hi"), Message("user", "and now?")]


class Heard(list[Any]):
    """Keeps the pieces."""

    chunk = list.append


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


async def pushed(model: DemoModel, listener: Any) -> Any:
    """Its last word, when the listener has heard everything."""
    done = asyncio.get_running_loop().create_future()
    model.push(ASKED, listener, done.set_result)
    return await done


@pytest.mark.parametrize("model_id", ["demo?rate=5000", "demo?chunks=40&rate=0", "demo?chunks=1&rate=2000"])
def test_it_says_the_same_in_both_ways(model_id: str) -> None:
    async def work() -> None:
        model = Demo().model(model_id)
        answered = [piece async for piece in model.answer(ASKED)]
        said = Heard()
        end = await pushed(model, said)
        assert [*said, end] == answered
        assert isinstance(end, End) and end.text

    run(work())


@pytest.mark.parametrize(
    "query",
    [
        "chunks=0", "chunks=2.5", "fail_after=1.9", "rate=1e3", "rate=20000", "colour=red", "chunks=", "chunks=1&x=1",
        "rate=1&" * 9 + "pace=1", "chunks=abc&chunks=5",
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused(query: str) -> None:
    with pytest.raises(ChatError) as refused:
        Demo().model(f"demo?{query}")
    assert refused.value.code == "invalid_request"


def test_one_that_is_stopped_holds_nobody_until_its_next_beat() -> None:
    """Which may be a quarter of an hour away."""

    async def work() -> None:
        listener = Heard()
        gone = weakref.ref(listener)
        stop = Demo().model("demo?chunks=9&rate=0.001").push(ASKED, listener, lambda end: None)
        stop()
        del listener
        assert gone() is None
        stop()

    run(work())


@pytest.mark.parametrize("rate", [0, 2000])
def test_it_breaks_after_as_many_pieces_as_asked(rate: int) -> None:
    async def work() -> None:
        model = Demo().model(f"demo?chunks=9&rate={rate}&fail_after=3")
        said = Heard()
        end = await pushed(model, said)
        assert isinstance(end, ChatError) and "after 3 pieces" in end.message and end.retryable
        assert len(said) == 3
        with pytest.raises(ChatError, match="after 3 pieces"):
            said += [str(piece) async for piece in model.answer(ASKED)]

    run(work())


@pytest.mark.parametrize("rate", [1000, 0])
def test_one_that_stops_or_fails_leaves_the_others_speaking(caplog: pytest.LogCaptureFixture, rate: int) -> None:
    async def work() -> None:
        model = Demo().model(f"demo?chunks=20&rate={rate}")
        said = Heard()
        stopped = Heard()

        class Broken:
            def chunk(self, text: str) -> None:
                raise RuntimeError("the listener broke")

        stop = model.push(ASKED, stopped, stopped.append)
        stop()
        before = len(stopped)  # what was said at once
        failed, end = await asyncio.gather(pushed(model, Broken()), pushed(model, said))
        assert isinstance(failed, ChatError) and failed.code == "internal"
        assert isinstance(end, End) and len(said) == 19 and len(stopped) == before
        assert len(caplog.records) == 1 and "the listener broke" in caplog.text

    run(work())


def test_a_bug_before_the_first_piece_ends_the_turn(
    opened: Any, script: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(demo, "Speech", None)

    async def work() -> None:
        async with opened(script()) as chat:
            for _ in range(2):  # the session is free again
                turn = await whole(chat, Ask("Hello", "s", "demo?chunks=3"))
                assert isinstance(turn.terminal, Error) and turn.terminal.code == "internal"
                assert "NoneType" in caplog.text and "NoneType" not in turn.terminal.message

    run(work())


def test_one_that_is_stopped_between_two_breaths_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Heard()
    breaths: list[bool] = []
    advance = demo.advance

    def counted(speeches: Any) -> bool:
        breaths.append(advance(speeches))
        return breaths[-1]

    monkeypatch.setattr(demo, "advance", counted)

    async def work() -> None:
        stop = Demo().model("demo?chunks=1000&rate=0").push(ASKED, said, lambda end: None)
        await asyncio.sleep(0)
        assert breaths == [False] * 2
        stop()
        before = len(said)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(breaths) == 2 and len(said) == before == 2 * demo.BREATH_PIECES

    run(work())


class Timed:
    """Keeps when the pieces came."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def chunk(self, text: str) -> None:
        self.at.append(asyncio.get_running_loop().time())


def test_the_pace_is_kept() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        model = Demo().model("demo?chunks=21&rate=100")
        for _ in range(2):  # the second follows at once, and does not make up for the time before it
            asked, timed = loop.time(), Timed()
            await pushed(model, timed)
            # Never faster; how much slower is the machine's affair.
            assert len(timed.at) == 20
            assert all(time - asked >= number / 100 - 0.02 for number, time in enumerate(timed.at))
            await asyncio.sleep(0.1)

    run(work())


def test_rates_of_strangers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MAX_PACES", 2)

    async def work() -> None:
        provider = Demo()
        ends = [pushed(provider.model(f"demo?chunks=3&rate={rate}"), Heard()) for rate in range(1000, 1010)]
        assert all(isinstance(end, End) for end in await asyncio.gather(*ends))
        assert len(provider._paces) <= 2

    run(work())

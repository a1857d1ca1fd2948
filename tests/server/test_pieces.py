"""Context bounds, estimated usage, cost, and the regrouping of a model's pieces."""

import asyncio
import re
from collections.abc import Callable, Sequence

import pytest

from proto.errors import ChatError
from proto.events import Usage
from server.models import End, Message, Pieces
from server.pieces import bounded, estimated_tokens, estimated_usage, priced, regrouped

U, M = (lambda text: Message("user", text)), (lambda text: Message("model", text))
LONG = [U("one"), M("two"), U("three"), M("four"), U("five")]


@pytest.mark.parametrize(
    ("max_messages", "max_chars", "omitted"),
    [
        (None, None, 0),
        (5, 100, 0),
        (4, None, 2),  # the fourth from the end is an answer: it goes too
        (3, None, 2),
        (1, None, 4),
        (0, None, 4),  # the question itself is always asked
        (None, 13, 2),  # three + four + five are 13
        (None, 12, 4),
        (None, 0, 4),
        (3, 8, 4),
    ],
)
def test_the_newest_messages_are_kept_from_a_question_on(
    max_messages: int | None, max_chars: int | None, omitted: int
) -> None:
    kept, left_out = bounded(LONG, max_messages, max_chars)
    assert left_out == omitted
    assert list(kept) == LONG[omitted:]


def test_two_questions_in_a_row_are_kept() -> None:
    """A turn that failed before its first piece leaves a question without an answer."""
    assert bounded([M("a"), U("b"), U("c")], 2, None) == ([U("b"), U("c")], 1)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("four", 1), ("fiver", 2), ("x" * 400, 100)])
def test_tokens_are_estimated(text: str, tokens: int) -> None:
    assert estimated_tokens(text) == tokens


def test_usage_is_estimated_and_priced() -> None:
    usage = estimated_usage([U("four"), M("fiver")], "system..", "x" * 40)
    assert usage == Usage(5, 10, True)
    assert priced(usage, None, None) is usage
    assert priced(Usage(1_000_000, 2_000_000, False), 0.5, 3.0).cost == pytest.approx(6.5)
    assert priced(Usage(1_000_000, 2_000_000, False), None, 3.0).cost == pytest.approx(6.0)
    assert priced(usage, 0.0, 0.0).cost == 0.0


async def scripted(pieces: Sequence[str | End | Exception], closed: list[bool]) -> Pieces:
    try:
        for piece in pieces:
            await asyncio.sleep(0)
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        closed.append(True)


def cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


TEXT = "  The quick\n\nbrown fox   jumps over the lazy dog. And  again, to the end "


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("words", [1, 3, 5, 100])
@pytest.mark.parametrize("text", [TEXT, TEXT.strip(), "", " ", "word", "x" * 500, "这是一个没有空格的句子。" * 40])
def test_the_text_is_the_same_in_groups_of_words(text: str, words: int, size: int) -> None:
    async def run() -> None:
        closed: list[bool] = []
        usage = Usage(1, 2, False)
        script = [*cut(text, size), End("", "length", usage)]
        got = [piece async for piece in regrouped(scripted(script, closed), words, 0)]
        *groups, end = got
        assert isinstance(end, End) and (end.finish_reason, end.usage) == ("length", usage)
        assert "".join([*map(str, groups), end.text]) == text
        assert closed == [True]
        for group in groups:
            assert sum(-(-len(word) // 32) for word in re.findall(r"\S+", str(group))) == words
        assert len(re.findall(r"\S{1,32}", end.text)) <= words

    asyncio.run(run())


def test_a_model_without_a_last_word_ends_well_and_its_last_text_is_in_the_end() -> None:
    async def run() -> None:
        got = [piece async for piece in regrouped(scripted(["a b c", " d"], []), 2, 0)]
        assert got == ["a b ", End("c d")]

    asyncio.run(run())


def test_a_failure_comes_after_the_text_before_it() -> None:
    async def run() -> None:
        got: list[str | End] = []
        broken = ChatError("model_error", "broke")
        with pytest.raises(ChatError) as told:
            async for piece in regrouped(scripted(["a b c d e", broken], []), 2, 0):
                got.append(piece)
        assert told.value is broken
        assert got == ["a b ", "c d ", "e"]

    asyncio.run(run())


def test_groups_are_evenly_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of ours: sleeping is what moves it."""

    async def run() -> list[tuple[float, str | End]]:
        loop = asyncio.get_running_loop()
        now = 100.0
        monkeypatch.setattr(loop, "time", lambda: now)
        sleep: Callable[[float], object] = asyncio.sleep

        async def slept(seconds: float) -> None:
            nonlocal now
            now += max(0.0, seconds)
            await sleep(0)  # type: ignore[misc]

        monkeypatch.setattr(asyncio, "sleep", slept)
        return [(now, piece) async for piece in regrouped(scripted(["a b c d e f g"], []), 2, 0.5)]

    got = asyncio.run(run())
    assert got == [(100.0, "a b "), (100.5, "c d "), (101.0, "e f "), (101.5, End("g"))]


@pytest.mark.parametrize("how", ["cancel", "aclose"])
def test_stopping_ends_the_model_at_once(how: str) -> None:
    async def run() -> None:
        stopped = asyncio.Event()
        asked = asyncio.Event()

        async def endless() -> Pieces:
            try:
                yield "a b c "
                asked.set()
                await asyncio.Event().wait()
            finally:
                stopped.set()

        groups = regrouped(endless(), 2, 3600)
        assert await anext(groups) == "a b "
        if how == "aclose":
            await groups.aclose()
        else:
            reading = asyncio.ensure_future(anext(groups))
            await asked.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert stopped.is_set()

    asyncio.run(run())

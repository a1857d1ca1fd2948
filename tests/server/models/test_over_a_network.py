"""What holds for every provider over a network, on real sockets: pieces as they come, failures, patience, stopping."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from proto.errors import ChatError
from proto.events import Usage
from server.models import End, Message

ASKED = [Message("user", "Hello")]
WHOLE = 10.0


async def answered(wire: Any, url: str, messages: Sequence[Message] = ASKED, **more: Any) -> list[str | End]:
    provider = wire.provider(url, **more)
    try:
        async with asyncio.timeout(WHOLE):
            return [piece async for piece in provider.model(wire.model_id).answer(messages)]
    finally:
        await provider.close()


async def failure(wire: Any, url: str, before: Sequence[str] = (), **more: Any) -> ChatError:
    """The failure of an answer, after exactly these pieces."""
    provider = wire.provider(url, **more)
    got = []
    try:
        with pytest.raises(ChatError) as told:
            async with asyncio.timeout(WHOLE):
                async for piece in provider.model(wire.model_id).answer(ASKED):
                    got.append(piece)
    finally:
        await provider.close()
    assert got == list(before)
    return told.value


def test_pieces_arrive_as_the_model_makes_them(wire: Any, playing: Any, upstream_words: Any) -> None:
    """The upstream sends two pieces and then nothing: they are here all the same."""

    async def run() -> None:
        hanging = upstream_words.Answer([wire.piece("Hel"), wire.piece("lo")], "hang")
        async with playing(hanging) as upstream:
            provider = wire.provider(upstream.url)
            pieces = provider.model(wire.model_id).answer(ASKED)
            async with asyncio.timeout(WHOLE):
                assert [await anext(pieces), await anext(pieces)] == ["Hel", "lo"]
            await pieces.aclose()
            await provider.close()

    asyncio.run(run())


def test_a_whole_answer_has_its_text_its_reason_and_its_usage(wire: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        text = 'Grüße, 世界 🌍! \u2028 "quoted"\n'
        async with playing(upstream_words.Answer([wire.piece(c) for c in text] + wire.ending())) as upstream:
            assert await answered(wire, upstream.url) == [*text, End("", "stop", Usage(5, 5, False))]

    asyncio.run(run())


@pytest.mark.parametrize("asked", [-5, 2**31, 10**30])
def test_a_usage_that_is_none_is_not_believed(wire: Any, playing: Any, upstream_words: Any, asked: int) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([wire.piece("Hi"), *wire.ending(asked=asked)])) as upstream:
            assert await answered(wire, upstream.url) == ["Hi", End("", "stop", None)]

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_bytes_may_be_torn_anywhere(wire: Any, playing: Any, upstream_words: Any, size: int) -> None:
    async def run() -> None:
        data = b"".join([wire.piece("Grüße 世界 "), wire.piece("🌍"), *wire.ending()])
        writes = [data[i : i + size] for i in range(0, len(data), size)]
        async with playing(upstream_words.Answer(writes)) as upstream:
            got = await answered(wire, upstream.url)
            assert got == ["Grüße 世界 ", "🌍", End("", "stop", Usage(5, 5, False))]

    asyncio.run(run())


BREAKS: dict[str, Callable[[Any], tuple[Sequence[bytes], str]]] = {
    "cut between two frames": lambda wire: ([], "cut"),
    "cut in the middle of a character": lambda wire: ([wire.piece("世")[:-9]], "cut"),
    "ended in the middle of a character": lambda wire: ([wire.piece("世").partition("世".encode()[2:])[0]], "end"),
    "ended without a finish reason": lambda wire: ([], "end"),
    "no JSON": lambda wire: ([b'data: {"candidates": [{"content": {"par\n\n'], "hang"),
    "no object": lambda wire: ([b"data: [1, 2]\n\n"], "end"),
    "an error in the middle": lambda wire: ([wire.frame({"error": {"code": 503, "message": "overloaded"}})], "hang"),
    "an error without a code": lambda wire: ([wire.frame({"error": {"message": "oops"}})], "hang"),
    "an error that is a text": lambda wire: ([wire.frame({"error": "oops"})], "hang"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_answer_is_an_error_that_may_be_tried_again(
    wire: Any, playing: Any, upstream_words: Any, how: str
) -> None:
    async def run() -> None:
        writes, then = BREAKS[how](wire)
        async with playing(upstream_words.Answer([wire.piece("Hel"), wire.piece("lo"), *writes], then)) as upstream:
            told = await failure(wire, upstream.url, ["Hel", "lo"])
            assert (told.code, told.retryable) == ("model_error", True)
            assert len(upstream.seen) == 1, "what has been read cannot be taken back: no second attempt"

    asyncio.run(run())


def test_bytes_that_are_no_text_are_an_error(wire: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([b'data: {"choices": "\xff"}\n\n'], "hang")) as upstream:
            told = await failure(wire, upstream.url)
            assert (told.code, told.retryable) == ("model_error", True)

    asyncio.run(run())


def test_an_empty_answer_is_broken(wire: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([])) as upstream:
            told = await failure(wire, upstream.url)
            assert (told.code, told.retryable) == ("model_error", True)

    asyncio.run(run())


def test_a_failure_after_the_finish_reason_takes_nothing_back(wire: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        finish = {"gemini-3.8-flash": "STOP"}.get(wire.model_id, "stop")
        async with playing(upstream_words.Answer([wire.piece("Hi"), wire.piece("!", finish)], "cut")) as upstream:
            *pieces, end = await answered(wire, upstream.url)
            assert isinstance(end, End) and end.finish_reason == "stop"
            assert "".join([*map(str, pieces), end.text]) == "Hi!"

    asyncio.run(run())


def test_before_the_first_piece_there_are_further_attempts(wire: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        well = upstream_words.Answer([wire.piece("Hi"), *wire.ending()])
        async with playing(wire.overloaded(), upstream_words.Answer([], "cut"), well) as upstream:
            assert await answered(wire, upstream.url) == ["Hi", End("", "stop", Usage(5, 5, False))]
            assert len(upstream.seen) == 3
        async with playing(wire.overloaded()) as upstream:
            told = await failure(wire, upstream.url)
            assert (told.code, told.retryable, len(upstream.seen)) == ("model_error", True, 3)

    asyncio.run(run())


def test_a_quota_is_obeyed_when_short_and_told_when_long(wire: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        well = upstream_words.Answer([wire.piece("Hi"), *wire.ending()])
        async with playing(wire.quota("0.01"), well) as upstream:
            assert (await answered(wire, upstream.url))[0] == "Hi"
        async with playing(wire.quota("42"), well) as upstream:
            told = await failure(wire, upstream.url)
            assert (told.code, told.retry_after, told.retryable) == ("rate_limited", 42, True)
            assert len(upstream.seen) == 1

    asyncio.run(run())


def test_silence_has_an_end(wire: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        for before in ([], ["Hel", "lo"]):
            hanging = upstream_words.Answer([wire.piece(text) for text in before], "hang")
            limit = {"next_piece": 0.1} if before else {"first_piece": 0.1}
            async with playing(hanging) as upstream:
                patience = upstream_words.patience._replace(**limit)
                told = await failure(wire, upstream.url, before, patience=patience)
                assert (told.code, told.retryable) == ("model_timeout", True)
                async with asyncio.timeout(WHOLE):
                    await upstream.left.wait()

    asyncio.run(run())


def test_a_slow_answer_is_no_silence(wire: Any, playing: Any, upstream_words: Any) -> None:
    """The limit is for each piece: the whole answer takes longer than it."""

    async def run() -> None:
        patience = upstream_words.patience._replace(first_piece=0.5, next_piece=0.5)
        async with playing(upstream_words.Answer([wire.piece("x")] * 12 + wire.ending())) as upstream:
            started = asyncio.get_running_loop().time()
            provider = wire.provider(upstream.url, patience=patience)
            count = 0
            async for _ in provider.model(wire.model_id).answer(ASKED):
                await asyncio.sleep(0.06)  # a reader's pace is not the model's either
                count += 1
            assert count == 13
            assert asyncio.get_running_loop().time() - started > patience.next_piece
            await provider.close()

    asyncio.run(run())


@pytest.mark.parametrize("before", [0, 2])
def test_cancelling_ends_the_request_upstream_at_once(
    wire: Any, playing: Any, upstream_words: Any, before: int
) -> None:
    """Within 250 ms, seen from the upstream: a stopped answer must stop costing money."""

    async def run() -> None:
        writes = [wire.piece("Hel"), wire.piece("lo")][:before]
        async with playing(upstream_words.Answer(writes, "hang")) as upstream:
            provider = wire.provider(upstream.url)
            pieces = provider.model(wire.model_id).answer(ASKED)
            for _ in range(before):
                await anext(pieces)
            reading = asyncio.ensure_future(anext(pieces))
            await asyncio.wait_for(upstream.sent.wait(), WHOLE)
            cancelled = asyncio.get_running_loop().time()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await asyncio.wait_for(upstream.left.wait(), WHOLE)
            assert upstream.left_at - cancelled < 0.25
            await provider.close()

    asyncio.run(run())


def test_closing_between_two_pieces_ends_the_request_upstream_at_once(
    wire: Any, playing: Any, upstream_words: Any
) -> None:
    """Also while there is more to read already than can be read in that time."""

    async def run() -> None:
        async with playing(upstream_words.Answer([wire.piece("more") * 5000], "hang")) as upstream:
            provider = wire.provider(upstream.url)
            pieces = provider.model(wire.model_id).answer(ASKED)
            assert await anext(pieces) == "more"
            await asyncio.wait_for(upstream.sent.wait(), WHOLE)
            closed = asyncio.get_running_loop().time()
            await pieces.aclose()
            await asyncio.wait_for(upstream.left.wait(), WHOLE)
            assert upstream.left_at - closed < 0.25
            await provider.close()

    asyncio.run(run())


def test_nobody_there_is_said_at_once(wire: Any, playing: Any, upstream_words: Any) -> None:
    """At once: no attempt is hidden in somebody's library."""

    async def run() -> None:
        async with playing(upstream_words.Answer([])) as upstream:
            pass
        async with asyncio.timeout(0.9):
            told = await failure(wire, upstream.url)
        assert (told.code, told.retryable) == ("model_error", True)

    asyncio.run(run())


def test_no_key_in_any_message(wire: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        key = upstream_words.key
        for status in (400, 401, 403, 404, 409, 429, 500):
            refusal = upstream_words.Refusal(status, {"error": {"code": status, "message": f"Bad key '{key}'."}})
            async with playing(refusal) as upstream:
                told = await failure(wire, upstream.url, patience=upstream_words.patience._replace(retries=0))
                assert key not in told.message
                assert told.__cause__ is None and (told.__context__ is None or told.__suppress_context__)

    asyncio.run(run())


def test_many_answers_at_once_do_not_wait_for_each_other(wire: Any, playing: Any, upstream_words: Any) -> None:
    """More than the hundred connections that an HTTP client allows where nobody tells it otherwise."""

    async def run() -> None:
        async with playing(upstream_words.Answer([wire.piece("Hi")], "hang")) as upstream:
            provider = wire.provider(upstream.url)
            streams = [provider.model(wire.model_id).answer(ASKED) for _ in range(130)]
            async with asyncio.timeout(WHOLE):
                assert set(await asyncio.gather(*map(anext, streams))) == {"Hi"}
            await asyncio.gather(*(stream.aclose() for stream in streams))
            await provider.close()

    asyncio.run(run())

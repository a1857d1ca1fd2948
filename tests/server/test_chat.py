"""The chat: one turn per session, cancelling, grace, draining; on both stores, with scripted models."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proto.errors import ChatError
from proto.events import Chunk, Complete, Error, SessionInfo, Status, Usage
from server.catalog import Catalog
from server.chat import Chat
from server.models import End, Message
from server.settings import Settings
from server.stores.sqlite import SqliteStore
from server.turn import Turn, sha256
from tests.server.chats import Ask, Open, refused, whole


def test_a_turn_from_start_to_end(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            turn = await chat.send(Ask("Hello"), "rest", "me")
            asked = await models.asked()
            assert asked.messages == [Message("user", "Hello")]
            info, status = turn.log
            assert isinstance(info, SessionInfo) and isinstance(status, Status)
            assert (info.is_new_session, info.message, info.model) == (True, "Hello", "script")
            assert (status.message, status.context_messages) == ("Generating response...", 1)
            asked.say("Good ", "", "day", End("!", "length", Usage(3, 4, False)))
            await turn.ended()
            chunks = [event for event in turn.log if isinstance(event, Chunk)]
            assert [(chunk.text, chunk.is_final) for chunk in chunks] == [("Good ", False), ("day", False), ("!", True)]
            end = turn.log[-1]
            assert isinstance(end, Complete)
            assert (end.total_chunks, end.message_count, end.finish_reason) == (3, 2, "length")
            assert end.usage == Usage(3, 4, False) and end.text_sha256 == sha256("Good day!")
            assert 0 <= (end.time_to_first_chunk or 0) <= end.processing_time
            detail = await chat.detail(turn.session_id)
            assert [(message.role, message.text) for message in detail.messages] == [
                ("user", "Hello"), ("model", "Good day!"),
            ]  # fmt: skip
            assert (detail.user_messages, detail.model_messages, detail.active_turn) == (1, 1, None)

            second = await chat.send(Ask("And now?", turn.session_id), "rest", "me")
            asked = await models.asked()
            assert asked.messages == [
                Message("user", "Hello"), Message("model", "Good day!"), Message("user", "And now?"),
            ]  # fmt: skip
            assert not second.info.is_new_session
            asked.say(End())

    run(test())


def test_an_end_without_a_word_and_an_empty_answer(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        async with opened(script(End())) as chat:
            turn = await whole(chat, Ask("Hello"))
            assert [event.text for event in turn.log if isinstance(event, Chunk)] == [""]
            assert (turn.state, turn.text) == ("complete", "")
            detail = await chat.detail(turn.session_id)
            assert (detail.message_count, len(detail.messages)) == (1, 1)
            usage = turn.snapshot().usage
            assert usage is not None and usage.estimated and usage.input_tokens > 0

    run(test())


def test_one_turn_per_session(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            both = await asyncio.gather(
                *(chat.send(Ask(text, "s"), "rest", "me") for text in ("one", "two", "three")), return_exceptions=True
            )
            (turn,) = [answer for answer in both if isinstance(answer, Turn)]
            for error in both:
                if not isinstance(error, Turn):
                    assert isinstance(error, ChatError) and (error.code, error.turn_id) == ("session_busy", turn.id)
                    assert error.retryable
            (await models.asked()).say(End("done"))
            await turn.ended()
            another = await chat.send(Ask("four", "s"), "rest", "me")
            assert another.id != turn.id
            assert (await chat.detail("s")).active_turn == another.id
            (await models.asked()).say(End("done"))

    run(test())


def test_whoever_follows_a_turn_that_is_just_beginning_misses_nothing(
    run: Any, opened: Open, script: Any, framing: Any, recorder: Any
) -> None:
    async def test() -> None:
        async with opened(script("a", End("b"))) as chat:
            sending = asyncio.create_task(chat.send(Ask("one", "s"), "rest", "me"))
            while not chat._running:
                await asyncio.sleep(0)
            with pytest.raises(ChatError) as busy:
                await chat.send(Ask("two", "s"), "rest", "me")
            turn = await chat.turn(busy.value.turn_id or "")
            reader = recorder(framing()).follow(turn)
            await turn.ended()
            assert reader.events == turn.log and len(turn.log) == 5
            assert await sending is turn

    run(test())


def test_cancel(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            asked = await models.asked()
            asked.say("partial ", "answer")
            while turn.chunk_count < 2:
                await asyncio.sleep(0)
            cancelled = await asyncio.gather(*(chat.cancel(turn.id) for _ in range(3)))
            assert all(each is turn for each in cancelled)
            assert asked.stopped.is_set(), "the model was stopped"
            assert (turn.state, turn.text, turn.snapshot().finish_reason) == (
                "cancelled",
                "partial answer",
                "cancelled",
            )
            finals = [event.is_final for event in turn.log if isinstance(event, Chunk)]
            assert finals == [False, False, True]
            assert (await chat.cancel(turn.id)).last_seq == turn.last_seq
            assert [message.text for message in (await chat.detail("s")).messages] == ["Hello", "partial answer"]
            await refused("not_found", chat.cancel("no-such-turn"))

    run(test())


def test_to_cancel_once_more_leaves_the_model_time_to_clean_up(run: Any, opened: Open) -> None:
    cleaned = asyncio.Event()

    class Model:
        id = "tidy"

        async def answer(self, messages: Any) -> Any:
            try:
                yield "some"
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                cleaned.set()

    class Tidy:
        name = "openai"  # who is asked for a model that nobody knows

        def model(self, model_id: str) -> Model:
            return Model()

        async def models(self) -> Any:
            return []

        async def close(self) -> None:
            pass

    async def test() -> None:
        async with opened(Tidy()) as chat:
            turn = await chat.send(Ask("Hello"), "rest", "me")
            while not turn.chunk_count:
                await asyncio.sleep(0)
            turn.stop()
            await asyncio.sleep(0)
            turn.stop()
            await turn.ended()
            assert cleaned.is_set()

    run(test())


def test_cancel_before_the_first_step(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            turn.stop()
            await turn.ended()
            assert turn.state == "cancelled" and turn.text == ""
            # Its task never ran a step: the model was not even asked, and the session is free.
            assert models.asks.empty()
            assert turn.snapshot().time_to_first_chunk is None, "none came"
            again = await chat.send(Ask("Again", "s"), "rest", "me")
            (await models.asked()).say(End("yes"))
            await again.ended()
            assert again.text == "yes"

    run(test())


@pytest.mark.parametrize("model", ["demo?chunks=9&rate=0", "demo?chunks=9"])
def test_cancel_before_a_model_that_pushes_is_asked(run: Any, opened: Open, script: Any, model: str) -> None:
    async def test() -> None:
        async with opened(script()) as chat:
            turn = await chat.send(Ask("Hello", "s", model), "rest", "me")
            turn.stop()
            await turn.ended()
            assert (turn.state, turn.text) == ("cancelled", "")
            again = await whole(chat, Ask("Again", "s", "demo?chunks=9&rate=0"))
            assert (again.state, again.chunk_count) == ("complete", 9)

    run(test())


def test_a_model_that_breaks(run: Any, opened: Open, script: Any, caplog: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            for failure, code, retryable, words in [
                (ChatError("model_error", "It broke.", retryable=True), "model_error", True, "It broke."),
                (ChatError("model_timeout", "Too slow."), "model_timeout", True, "Too slow."),
                (ChatError("rate_limited", "Slowly!"), "rate_limited", True, "Slowly!"),
                (RuntimeError("the secret"), "internal", False, "The server failed"),
            ]:
                turn = await chat.send(Ask("Hello", "s"), "rest", "me")
                (await models.asked()).say("so far", failure)
                await turn.ended()
                end = turn.log[-1]
                assert isinstance(end, Error) and (end.code, end.retryable) == (code, retryable)
                assert end.message.startswith(words) and "secret" not in end.message
                assert (turn.state, turn.text) == ("failed", "so far")
                assert not any(event.is_final for event in turn.log if isinstance(event, Chunk))
            assert "the secret" in caplog.text
            figures = chat.tell()
            assert (figures.total_requests, figures.failed_requests, figures.successful_requests) == (4, 4, 0)
            assert (await chat.detail("s")).model_messages == 4

    run(test())


def test_a_model_that_sends_half_a_character(run: Any, opened: Open, script: Any, framing: Any, recorder: Any) -> None:
    """Lone surrogates cannot leave on any wire; they must not break the stream either."""

    async def test() -> None:
        async with opened(script("a\ud83d", "b", End("\udc00"))) as chat:
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            reader = recorder(framing()).follow(turn)
            await turn.ended()
            assert turn.state == "complete"
            assert turn.text == "a�b�"
            assert reader.events == turn.log
            assert (await chat.detail("s")).messages[1].text == turn.text

    run(test())


def test_with_nobody_following_a_turn_ends_after_the_grace_time(
    run: Any, opened: Open, script: Any, framing: Any, recorder: Any
) -> None:
    async def test() -> None:
        models = script()
        async with opened(models, resume_grace=0.05) as chat:
            turn = await chat.send(Ask("Hello", "s"), "sse", "me")
            asked = await models.asked()
            asked.say("kept")
            recorder(framing()).follow(turn).follower.close()
            back = recorder(framing()).follow(turn, 2)
            await asyncio.sleep(0.1)
            assert turn.running, "it came back"
            back.follower.close()
            await asked.stopped.wait()
            while turn.running:
                await asyncio.sleep(0.005)
            assert (turn.state, turn.text) == ("cancelled", "kept")

    run(test())


@pytest.mark.parametrize("patient", [True, False])
def test_drain(run: Any, opened: Open, script: Any, patient: bool) -> None:
    async def test() -> None:
        models = script()
        async with opened(models) as chat:
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            asked = await models.asked()
            asked.say("part")
            while not turn.chunk_count:
                await asyncio.sleep(0)
            draining = asyncio.create_task(chat.drain(20 if patient else 0.02))
            await asyncio.sleep(0)
            error = await refused("unavailable", chat.send(Ask("More"), "rest", "me"))
            assert error.retry_after
            await refused("unavailable", chat.new_session())
            assert chat.health().status == "draining"
            if patient:
                asked.say(End("ner"))
            await draining
            assert (turn.state, turn.text) == (("complete", "partner") if patient else ("cancelled", "part"))
            assert (await chat.detail("s")).messages[1].text == turn.text

    run(test())


def test_max_streams(run: Any, opened: Open, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with opened(models, max_streams=2) as chat:
            first = await chat.send(Ask("1"), "rest", "me")
            await chat.send(Ask("2"), "rest", "me")
            error = await refused("unavailable", chat.send(Ask("3"), "rest", "me"))
            assert error.retryable and error.retry_after
            await chat.cancel(first.id)
            await chat.send(Ask("3"), "rest", "me")

    run(test())


def test_ended_turns_stay_in_memory_up_to_a_bound(run: Any, opened: Open, script: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("server.kept.MAX_EVENTS", 50)

    async def test() -> None:
        async with opened(script(*"abc", End("d"))) as chat:
            turns = [await whole(chat, Ask("Hello", "s")) for _ in range(40)]
            assert sum(turn.last_seq for turn in chat._kept.turns.values()) == chat._kept.events <= 50
            assert (await chat.turn(turns[0].id)).log == turns[0].log, "the others are read from the store"
        async with opened(script("x" * 4000, End("y" * 4000))) as chat:  # few events, and much to remember
            for _ in range(4):
                await whole(chat, Ask("Hello"))
            assert len(chat._kept.turns) == 1

    run(test())


def test_the_answer_is_in_the_store_while_it_grows(run: Any, tmp_path: Path, script: Any) -> None:
    async def test() -> None:
        models, store = script(), SqliteStore(tmp_path / "chat.db")
        chat = Chat(Catalog([models], "script", ""), store, Settings())
        await chat.open()
        turn = await chat.send(Ask("Hello", "s"), "rest", "me")
        saved = await store.turn(turn.id)
        assert saved is not None and saved.message == "Hello", "the message is stored before the first event is seen"
        (await models.asked()).say("one ", "two ")
        while len((await store.turn(turn.id)).chunks) < 2:  # type: ignore[union-attr]
            await asyncio.sleep(0.02)
        await chat.drain(0)
        await chat.close()

    run(test())


def test_whoever_leaves_in_the_middle_leaves_nothing_half_done(run: Any, opened: Open, script: Any) -> None:
    async def left(work: Any) -> None:
        task = asyncio.ensure_future(work)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test() -> None:
        async with opened(script(End("one"), End("two"))) as chat:
            await left(chat.new_session())
            await whole(chat, Ask("Hello", "s"))
            await left(chat.clear("s"))
            while (await chat.detail("s")).message_count:
                await asyncio.sleep(0.001)
            assert (await chat.detail("s")).messages == []
            turn = await whole(chat, Ask("Again", "s"))
            assert turn.status.context_messages == 1
            await left(chat.delete("s"))
            while chat.tell().active_sessions > 1:
                await asyncio.sleep(0.001)
            await refused("not_found", chat.detail("s"))
            assert len((await chat.sessions()).sessions) == 1

    run(test())


def test_half_a_character_in_a_failure_reaches_every_reader(
    run: Any, opened: Open, script: Any, framing: Any, recorder: Any
) -> None:
    async def test() -> None:
        async with opened(script("a", ChatError("model_error", "It said \ud83d."))) as chat:
            turn = await chat.send(Ask("Hello", "s"), "rest", "me")
            reader = recorder(framing()).follow(turn)
            await turn.ended()
            assert reader.events == turn.log and reader.ends == 1
            assert isinstance(turn.terminal, Error) and turn.terminal.message == "It said \ufffd."

    run(test())

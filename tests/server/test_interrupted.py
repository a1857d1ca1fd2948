"""A crash in the middle of an answer, as the disk has it then."""

import shutil
from pathlib import Path
from typing import Any

from proto.requests import ChatRequest
from server.models import End
from tests.server.chats import on_disk

SETTINGS = {"price_in": 1e6, "price_out": 1e6, "context_messages": 3, "system": "Be brief."}


def test_what_an_answer_has_used_that_a_crash_has_cut_is_counted_once(run: Any, tmp_path: Path, script: Any) -> None:
    """As much as if it had been cancelled there, and nothing where nothing had come."""
    crashed = tmp_path / "crashed"
    crashed.mkdir()

    async def test() -> None:
        models = script()
        async with on_disk(tmp_path, models, **SETTINGS) as (chat, store):
            for message in ("This the model is not shown any more", "Hello"):
                turn = await chat.send(ChatRequest(message, "cut"), "rest", "me")
                (await models.asked()).say(End("An answer."))
                await turn.ended()
            await chat.send(ChatRequest("Hello", "silent"), "rest", "me")
            await models.asked()
            turn = await chat.send(ChatRequest("And now?", "cut"), "rest", "me")
            (await models.asked()).say("This one ", "is cut")
            while not (saved := await store.turn(turn.id)) or not saved.chunks:
                chat._checkpoints._save()
            for file in tmp_path.glob("chat.db*"):
                shutil.copy(file, crashed)
            before = (await chat.detail("cut", history=False)).usage
            await chat.cancel(turn.id)
            cancelled = await chat.detail("cut", history=False)
            assert before != cancelled.usage and cancelled.usage.cost
        for _ in range(2):
            async with on_disk(crashed, models, **SETTINGS) as (chat, store):
                cut, silent = [await chat.detail(session) for session in ("cut", "silent")]
                assert [message.code for message in cut.messages + silent.messages][-2:] == ["interrupted"] * 2
                assert (cut.usage, cut.model_messages) == (cancelled.usage, cancelled.model_messages)
                assert silent.usage.output_tokens == silent.usage.input_tokens == 0

    run(test())

"""Which model answers: the choice of the default, the way from an id to its provider, and the list of models."""

import asyncio
from collections.abc import Sequence

import pytest

from proto.answers import ModelInfo
from proto.errors import ChatError
from server import catalog
from server.catalog import Catalog, choose_default
from server.models import Message, Pieces


class Named:
    """A model that answers with the name of its provider."""

    def __init__(self, provider: str, model_id: str) -> None:
        self.provider, self.id = provider, model_id

    async def answer(self, messages: Sequence[Message]) -> Pieces:
        yield self.provider


class Family:
    def __init__(self, name: str, failure: Exception | None = None, wait: asyncio.Event | None = None) -> None:
        self.name, self.failure, self.wait = name, failure, wait
        self.asked, self.closed = 0, False

    def model(self, model_id: str) -> Named:
        if self.failure:
            raise self.failure
        return Named(self.name, model_id)

    async def models(self) -> list[ModelInfo]:
        self.asked += 1
        if self.wait:
            await self.wait.wait()
        if self.failure:
            raise self.failure
        return [ModelInfo(f"{self.name}-1", self.name)]

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("flag", "environ", "model_id", "told"),
    [
        (None, {}, "demo", "GEMINI_API_KEY"),
        (None, {"GEMINI_API_KEY": ""}, "demo", "GEMINI_API_KEY"),
        (None, {"LOCAL_LLM_URL": "http://127.0.0.1:11434"}, "demo", "--model"),
        (None, {"GEMINI_API_KEY": "k"}, "gemini-3.8-flash", "GEMINI_API_KEY"),
        (None, {"GOOGLE_API_KEY": "k", "GEMINI_API_KEY": "k"}, "gemini-3.8-flash", "GOOGLE_API_KEY"),
        (None, {"GOOGLE_GENAI_USE_VERTEXAI": "True"}, "gemini-3.8-flash", "GOOGLE_GENAI_USE_VERTEXAI"),
        (None, {"GOOGLE_GENAI_USE_VERTEXAI": "false"}, "demo", "built in"),
        (None, {"GOOGLE_GENAI_USE_ENTERPRISE": "0", "GOOGLE_GENAI_USE_VERTEXAI": "1"}, "demo", "built in"),
        (None, {"GENAI_MODEL_ID": "gemini-x", "GEMINI_API_KEY": "k"}, "gemini-x", "GENAI_MODEL_ID"),
        ("llama3", {"GENAI_MODEL_ID": "gemini-x", "GEMINI_API_KEY": "k"}, "llama3", "--model"),
    ],
)
def test_the_default_is_chosen_and_says_why(
    flag: str | None, environ: dict[str, str], model_id: str, told: str
) -> None:
    chosen, reason = choose_default(flag, environ)
    assert chosen == model_id
    assert told in reason


@pytest.mark.parametrize(
    ("there", "model_id", "provider"),
    [
        ("demo", None, "demo"),
        ("demo gemini openai", "demo", "demo"),
        ("demo gemini openai", "demo?chunks=3&rate=0", "demo"),
        ("demo gemini openai", "demolition", "openai"),
        ("demo gemini openai", "gemini-3.8-flash", "gemini"),
        ("demo gemini openai", "models/gemini-3.8-flash", "gemini"),
        ("demo gemini openai", "google/gemini-3.8-flash", "openai"),
        ("demo gemini openai", "llama3:8b", "openai"),
        ("demo openai", "gemini-3.8-flash", "openai"),
    ],
)
def test_an_id_goes_to_its_provider(there: str, model_id: str | None, provider: str) -> None:
    model = Catalog([Family(name) for name in there.split()], "demo", "").model(model_id)
    assert isinstance(model, Named)
    assert (model.provider, model.id) == (provider, model_id or "demo")


@pytest.mark.parametrize(
    ("there", "model_id", "told"),
    [
        ("demo", "gemini-3.8-flash", "GEMINI_API_KEY"),
        ("demo", "llama3", "LOCAL_LLM_URL"),
        ("demo gemini", "llama3", "LOCAL_LLM_URL"),
        ("demo openai", "two words", "printable"),
        ("demo openai", "x" * 257, "256"),
    ],
)
def test_an_id_that_nobody_answers_for_is_refused_and_says_what_to_set(there: str, model_id: str, told: str) -> None:
    there_is = [Family(name) for name in there.split()]
    with pytest.raises(ChatError, match=told) as refused:
        Catalog(there_is, "demo", "").model(model_id)
    assert refused.value.code == "invalid_request"
    with pytest.raises(ChatError, match=told):
        Catalog(there_is, model_id, "chosen by --model")


def test_models_that_strangers_name_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_KNOWN_MODELS", 2)
    here = Catalog([Family("demo")], "demo", "")
    assert here.model("demo") is here.model("demo"), "it is known"
    for number in range(10):
        assert here.model(f"demo?chunks={number}").id == f"demo?chunks={number}"
    assert len(here._known) == 2


def test_models_are_told_by_those_who_can_in_time_and_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MODELS_TIMEOUT_SECONDS", 0.05)

    async def run() -> None:
        demo = Family("demo")
        down = Family("gemini", ChatError("unavailable", "down"))
        stuck = Family("openai", wait=asyncio.Event())
        there = Catalog([demo, down, stuck], "demo", "")
        lists = await asyncio.gather(*(there.models() for _ in range(5)))
        assert all(told == ("demo", [ModelInfo("demo-1", "demo")]) for told in lists)
        assert (demo.asked, down.asked, stuck.asked) == (1, 1, 1)
        await there.close()
        assert demo.closed and down.closed and stuck.closed

    asyncio.run(run())

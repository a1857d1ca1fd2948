"""Gemini's own: the real google-genai client against an upstream that speaks Gemini's streaming wire format."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proto.answers import ModelInfo
from proto.errors import ChatError
from server.models import End, Message

LONG = [Message("user", "One"), Message("user", "Two"), Message("model", "Three"), Message("user", "Four")]


async def answered(provider: Any, model_id: str = "gemini-3.8-flash") -> list[str | End]:
    try:
        async with asyncio.timeout(10):
            return [piece async for piece in provider.model(model_id).answer(LONG)]
    finally:
        await provider.close()


def test_the_conversation_in_geminis_form(gemini: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([gemini.piece("Hi", "STOP")])) as upstream:
            assert await answered(gemini.provider(upstream.url, system="Be brief.")) == [End("Hi", "stop", None)]
            (seen,) = upstream.seen
            assert seen.path == "/v1/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
            assert {name.lower(): value for name, value in seen.headers.items()}["x-goog-api-key"] == upstream_words.key
            assert seen.body["contents"] == [
                {"role": "user", "parts": [{"text": "One\n\nTwo"}]},
                {"role": "model", "parts": [{"text": "Three"}]},
                {"role": "user", "parts": [{"text": "Four"}]},
            ]
            assert seen.body["systemInstruction"]["parts"] == [{"text": "Be brief."}]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "safety"),
        ("RECITATION", "safety"),
        ("PROHIBITED_CONTENT", "safety"),
        ("MALFORMED_RESPONSE", None),
        ("OTHER", None),
    ],
)
def test_finish_reasons(gemini: Any, playing: Any, upstream_words: Any, reason: str, ours: str | None) -> None:
    async def run() -> None:
        writes = [gemini.piece("Well", "FINISH_REASON_UNSPECIFIED"), gemini.piece(", no", reason)]
        async with playing(upstream_words.Answer(writes)) as upstream:
            if ours:
                assert await answered(gemini.provider(upstream.url)) == ["Well", End(", no", ours, None)]
            else:
                with pytest.raises(ChatError, match=reason) as told:
                    await answered(gemini.provider(upstream.url))
                assert (told.value.code, told.value.retryable) == ("model_error", True)

    asyncio.run(run())


def test_a_finish_reason_with_every_piece(gemini: Any, playing: Any, upstream_words: Any) -> None:
    """As older models do."""

    async def run() -> None:
        async with playing(upstream_words.Answer([gemini.piece(text, "STOP") for text in "abc"])) as upstream:
            assert await answered(gemini.provider(upstream.url)) == ["a", "b", End("c", "stop", None)]

    asyncio.run(run())


def test_no_password_from_netrc_goes_with_the_key(
    gemini: Any, playing: Any, upstream_words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login joe password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "*")

    async def run() -> None:
        async with playing(upstream_words.Answer(gemini.ending())) as upstream:
            await answered(gemini.provider(upstream.url))
            names = [name.lower() for name in upstream.seen[0].headers]
            assert "x-goog-api-key" in names and "authorization" not in names

    asyncio.run(run())


def test_thoughts_are_not_text(gemini: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        parts = [{"text": "Let me think. ", "thought": True}, {"text": "Yes"}, {"text": "."}]
        thinking = gemini.frame({"candidates": [{"content": {"role": "model", "parts": parts}}]})
        async with playing(upstream_words.Answer([thinking, *gemini.ending()])) as upstream:
            assert (await answered(gemini.provider(upstream.url)))[0] == "Yes."

    asyncio.run(run())


def test_a_blocked_message_is_refused_with_its_reason(gemini: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        blocked = gemini.frame({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}})
        async with playing(upstream_words.Answer([blocked])) as upstream:
            with pytest.raises(ChatError, match="SAFETY") as told:
                await answered(gemini.provider(upstream.url))
            assert (told.value.code, told.value.retryable) == ("model_error", False)
            assert len(upstream.seen) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable", "told"),
    [
        (400, {"error": {"code": 400, "message": "API key not valid."}}, "model_error", False, "check the key"),
        (401, {"error": {"code": 401, "message": "No."}}, "model_error", False, "check the key"),
        (403, {"error": {"code": 403, "message": "Suspended."}}, "model_error", False, "check the key"),
        (404, {"error": {"code": 404, "message": "Not found."}}, "invalid_request", False, "gemini-3.8-flash"),
        (400, {"error": {"code": 400, "message": "Input too long."}}, "model_error", False, "Input too long."),
        (429, {"error": {"code": 429, "message": "Quota."}}, "rate_limited", True, "quota"),
        (500, {"error": {"code": 500, "message": "Internal."}}, "model_error", True, "500"),
        (502, "<html>Bad gateway</html>", "model_error", True, "502"),
        (503, [{"error": {"code": 503, "message": "Overloaded."}}], "model_error", True, "503"),
    ],
)
def test_refusals_by_kind(
    gemini: Any, playing: Any, upstream_words: Any, status: int, body: Any, code: str, retryable: bool, told: str
) -> None:
    async def run() -> None:
        async with playing(upstream_words.Refusal(status, body)) as upstream:
            patience = upstream_words.patience._replace(retries=0)
            with pytest.raises(ChatError, match=told) as refused:
                await answered(gemini.provider(upstream.url, patience))
            assert (refused.value.code, refused.value.retryable) == (code, retryable)
            assert "<html>" not in refused.value.message

    asyncio.run(run())


@pytest.mark.parametrize("model_id", ["gemini-", "gemini-x/../../files", "gemini-x?key=1", "gemini-x:y", "gpt-5"])
def test_an_id_that_would_change_the_path_is_refused(gemini: Any, model_id: str) -> None:
    async def run() -> None:
        provider = gemini.provider("http://127.0.0.1:9")
        with pytest.raises(ChatError) as told:
            provider.model(model_id)
        assert told.value.code == "invalid_request"
        await provider.close()

    asyncio.run(run())


def test_the_models_that_can_be_asked(gemini: Any, playing: Any) -> None:
    async def run() -> None:
        listing = {
            "models": [
                {"name": "models/gemini-3.8-flash", "supportedGenerationMethods": ["generateContent"]},
                {"name": "models/gemini-embedding-1", "supportedGenerationMethods": ["embedContent"]},
                {"name": "models/imagen-4", "supportedGenerationMethods": ["predict"]},
            ]
        }
        async with playing(listing=listing) as upstream:
            provider = gemini.provider(upstream.url)
            assert await provider.models() == [ModelInfo("gemini-3.8-flash", "gemini")]
            await provider.close()

    asyncio.run(run())


def test_without_credentials_it_is_refused(gemini: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ChatError, match="API key") as told:
        type(gemini.provider("http://127.0.0.1:9"))()
    assert told.value.code == "invalid_request"


def test_vertex_ai_without_credentials_is_refused(gemini: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "europe-west1")
    with pytest.raises(ChatError, match="credentials") as told:
        type(gemini.provider("http://127.0.0.1:9"))(vertex=True)
    assert told.value.code == "invalid_request"


def test_vertex_ai_by_its_usual_variables(
    gemini: Any, playing: Any, upstream_words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([gemini.piece("Hi", "STOP")])) as upstream:
            monkeypatch.setenv("GOOGLE_API_KEY", upstream_words.key)
            monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", upstream.url)
            provider = type(gemini.provider(upstream.url))(vertex=True)
            assert await answered(provider) == [End("Hi", "stop", None)]
            assert "publishers/google/models/gemini-3.8-flash:streamGenerateContent" in upstream.seen[0].path

    asyncio.run(run())

"""What is OpenAI's own on the wire: its form of a conversation, its variants, its failures."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proto.answers import ModelInfo
from proto.errors import ChatError
from proto.events import Usage
from server.listen import HTTP_ALPN, tls_context
from server.models import End, Message
from server.models.openai import OpenAI

LONG = [Message("user", "One"), Message("model", "Two"), Message("user", "Three")]
USAGE = Usage(5, 5, False)


async def answered(provider: Any) -> list[str | End]:
    try:
        async with asyncio.timeout(10):
            return [piece async for piece in provider.model("llama3:8b").answer(LONG)]
    finally:
        await provider.close()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_conversation_in_openais_form(openai: Any, playing: Any, upstream_words: Any, path: str) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([openai.piece("Hi"), *openai.ending("length")])) as upstream:
            got = await answered(openai.provider(upstream.url + path, system="Be brief."))
            assert got == ["Hi", End("", "length", USAGE)]
            (seen,) = upstream.seen
            assert seen.path == "/v1/chat/completions"
            assert seen.headers["Authorization"] == f"Bearer {upstream_words.key}"
            assert seen.body == {
                "model": "llama3:8b",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "One"},
                    {"role": "assistant", "content": "Two"},
                    {"role": "user", "content": "Three"},
                ],
                "stream": True,
                "stream_options": {"include_usage": True},
            }

    asyncio.run(run())


def test_a_version_in_the_path_is_kept_and_no_key_sends_no_header(
    openai: Any, playing: Any, upstream_words: Any
) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer(openai.ending())) as upstream:
            assert await answered(OpenAI(upstream.url + "/v1beta/openai")) == [End("", "stop", USAGE)]
            assert upstream.seen[0].path == "/v1beta/openai/chat/completions"
            assert "Authorization" not in upstream.seen[0].headers

    asyncio.run(run())


@pytest.mark.parametrize(
    "url", ["", "localhost:11434", "ftp://localhost", "http://", "http://[::1", "http://x:y/", "http://10.0..1:11434"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ChatError, match="LOCAL_LLM_URL"):
        OpenAI(url)


def test_a_server_without_stream_options_is_asked_again_and_once_only(
    openai: Any, playing: Any, upstream_words: Any
) -> None:
    async def run() -> None:
        refusal = upstream_words.Refusal(400, {"error": {"message": "unknown field stream_options"}})
        well = upstream_words.Answer([openai.piece("Hi"), b"data: [DONE]\n\n"])
        async with playing(refusal, well) as upstream:
            provider = openai.provider(upstream.url)
            for _ in range(2):
                assert [p async for p in provider.model("x").answer(LONG)] == ["Hi", End("", "stop", None)]
            assert ["stream_options" in seen.body for seen in upstream.seen] == [True, False, False]
            await provider.close()

    asyncio.run(run())


def test_a_connection_serves_the_next_turn(openai: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([openai.piece("Hi"), *openai.ending()])) as upstream:
            provider = openai.provider(upstream.url)
            for _ in range(3):
                assert [p async for p in provider.model("x").answer(LONG)] == ["Hi", End("", "stop", USAGE)]
            connector = provider._client().connector
            assert connector is not None and len([c for held in connector._conns.values() for c in held]) == 1
            await provider.close()

    asyncio.run(run())


def test_the_end_does_not_wait_for_a_server_that_stays(openai: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([openai.piece("Hi"), *openai.ending()], "hang")) as upstream:
            provider = openai.provider(upstream.url)
            pieces = provider.model("x").answer(LONG)
            assert [await anext(pieces), await anext(pieces)] == ["Hi", End("", "stop", USAGE)]
            await pieces.aclose()
            await asyncio.wait_for(upstream.left.wait(), 10)
            await provider.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("reason", "ours"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "safety"), ("eos", "stop"), ("tool_calls", "stop")],
)
def test_finish_reasons_without_done(openai: Any, playing: Any, upstream_words: Any, reason: str, ours: str) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer([openai.piece("Hi"), openai.piece("!", reason)])) as upstream:
            assert await answered(openai.provider(upstream.url)) == ["Hi", "!", End("", ours, None)]

    asyncio.run(run())


def test_half_a_surrogate_waits_for_the_other(openai: Any, playing: Any, upstream_words: Any) -> None:
    """Servers that cut their text as UTF-16 do send halves, escaped."""

    async def run() -> None:
        halves = [
            b'data: {"choices":[{"delta":{"content":"a\\ud83c"}}]}\n\n',
            b'data: {"choices":[{"delta":{"content":"\\udf0db"}}]}\n\n',
            b'data: {"choices":[{"delta":{"content":"\\udf0d!"}}]}\n\n',
        ]
        async with playing(upstream_words.Answer(halves + openai.ending())) as upstream:
            assert await answered(openai.provider(upstream.url)) == ["a", "🌍b", "\ufffd!", End("", "stop", USAGE)]

    asyncio.run(run())


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"delta": {"role": "assistant", "content": None}}]},
        {"choices": [{"delta": {"reasoning_content": "Hm."}}]},
        {"choices": [{"delta": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}}]},
        {"choices": [{"delta": {"content": ["Hm.", {"type": "text", "text": None}]}}]},
        {"usage": {"prompt_tokens": "many"}},
    ],
)
def test_frames_without_text_are_none(openai: Any, playing: Any, upstream_words: Any, frame: Any) -> None:
    async def run() -> None:
        writes = [b": ping\n\n", openai.frame(frame), openai.piece("Hi"), *openai.ending()]
        async with playing(upstream_words.Answer(writes)) as upstream:
            assert await answered(openai.provider(upstream.url)) == ["Hi", End("", "stop", USAGE)]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable", "told"),
    [
        (401, {"error": {"message": "Incorrect API key."}}, "model_error", False, "LOCAL_LLM_API_KEY"),
        (403, "no", "model_error", False, "LOCAL_LLM_API_KEY"),
        (404, {"error": {"message": "model not found, try pulling it first"}}, "invalid_request", False, "llama3:8b"),
        (404, "404 page not found", "model_error", False, "LOCAL_LLM_URL"),
        (302, "elsewhere", "model_error", False, "LOCAL_LLM_URL"),
        (400, {"error": {"message": "no", "code": "model_not_found"}}, "invalid_request", False, "llama3:8b"),
        (400, {"error": {"message": "context length exceeded"}}, "model_error", False, "context length"),
        (422, {"detail": "messages: too many"}, "model_error", False, "too many"),
        (429, {"error": {"message": "slow down"}}, "rate_limited", True, "slow down"),
        (500, {"error": "out of memory"}, "model_error", True, "out of memory"),
        (502, "<html>Bad gateway</html>", "model_error", True, "502"),
        (200, {"choices": [{"message": {"content": "Hi"}}]}, "model_error", False, "does not stream"),
        (200, {"error": {"message": "loading", "code": 503}}, "model_error", True, "loading"),
        (404, {"object": "error", "message": "no such model"}, "invalid_request", False, "llama3:8b"),
        (400, {"object": "error", "message": "context length exceeded"}, "model_error", False, "context length"),
        (200, {"object": "error", "message": "loading", "code": 503}, "model_error", True, "loading"),
    ],
)
def test_refusals_by_kind(
    openai: Any, playing: Any, upstream_words: Any, status: int, body: Any, code: str, retryable: bool, told: str
) -> None:
    async def run() -> None:
        async with playing(upstream_words.Refusal(status, body)) as upstream:
            patience = upstream_words.patience._replace(retries=0)
            with pytest.raises(ChatError, match=told) as refused:
                await answered(openai.provider(upstream.url, patience))
            assert (refused.value.code, refused.value.retryable) == (code, retryable)
            assert "<html>" not in refused.value.message

    asyncio.run(run())


def test_text_may_come_as_a_list_of_parts(openai: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        parts = [{"type": "text", "text": "Hel"}, {"type": "reference", "reference_ids": [1]}]
        writes = [openai.piece(parts), openai.piece([{"type": "text", "text": "lo"}]), *openai.ending()]
        async with playing(upstream_words.Answer(writes)) as upstream:
            assert await answered(openai.provider(upstream.url)) == ["Hel", "lo", End("", "stop", USAGE)]

    asyncio.run(run())


def test_a_failure_in_the_middle_without_an_object_around_it(openai: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        failure = openai.frame({"object": "error", "message": "out of memory", "code": 500})
        async with playing(upstream_words.Answer([openai.piece("Hi"), failure, b"data: [DONE]\n\n"])) as upstream:
            with pytest.raises(ChatError, match="out of memory"):
                await answered(openai.provider(upstream.url))

    asyncio.run(run())


@pytest.mark.parametrize("speaks_tls", [True, False])
def test_who_answers_without_a_certificate_to_trust_is_not_nobody(
    certificate: tuple[str, str], upstream_words: Any, speaks_tls: bool
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def run() -> None:
        tls = tls_context(*certificate, HTTP_ALPN) if speaks_tls else None
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=tls) as upstream:
            url = f"https://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
            with pytest.raises(ChatError, match=f"No TLS with {url}") as told:
                await answered(OpenAI(url, patience=upstream_words.patience))
            assert (told.value.code, told.value.retryable) == ("model_error", False)

    asyncio.run(run())


@pytest.mark.parametrize(("url", "key"), [("http://joe:s3cret@x", "k"), ("http://x", "k\nk"), ("http://x", "k\x7f")])
def test_a_key_that_cannot_be_sent_is_refused(url: str, key: str) -> None:
    with pytest.raises(ChatError, match="LOCAL_LLM_API_KEY"):
        OpenAI(url, key)


def test_the_line_break_of_a_keys_file_is_no_part_of_it(openai: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        async with playing(upstream_words.Answer(openai.ending())) as upstream:
            assert await answered(OpenAI(upstream.url, " key\n")) == [End("", "stop", USAGE)]
            assert upstream.seen[0].headers["Authorization"] == "Bearer key"

    asyncio.run(run())


def test_the_key_is_sent_whatever_is_in_netrc(
    openai: Any, playing: Any, upstream_words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 0.0.0.0 login joe password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "*")

    async def run() -> None:
        async with playing(upstream_words.Answer(openai.ending())) as upstream:
            elsewhere = upstream.url.replace("127.0.0.1", "0.0.0.0")  # for 127.0.0.1 neither proxies nor netrc count
            assert await answered(openai.provider(elsewhere)) == [End("", "stop", USAGE)]
            assert upstream.seen[0].headers["Authorization"] == f"Bearer {upstream_words.key}"

    asyncio.run(run())


def test_a_password_in_the_address_is_used_and_never_shown(openai: Any, playing: Any, upstream_words: Any) -> None:
    async def run() -> None:
        async with playing(upstream_words.Refusal(500, {"error": "oops"})) as upstream:
            url = upstream.url.replace("//", "//joe:s3cret@")
            with pytest.raises(ChatError) as told:
                await answered(OpenAI(url, patience=upstream_words.patience))
            assert "s3cret" not in told.value.message
            assert upstream.seen[0].headers["Authorization"].startswith("Basic ")

    asyncio.run(run())


BAD = [5, "my model", "\ud800", ""]  # what no request may name


def test_the_models_that_can_be_asked(openai: Any, playing: Any) -> None:
    async def run() -> None:
        async with playing(
            listing={"object": "list", "data": [{"id": "llama3:8b"}, *({"id": bad} for bad in BAD), "x"]}
        ) as upstream:
            provider = openai.provider(upstream.url)
            assert await provider.models() == [ModelInfo("llama3:8b", "openai")]
            assert upstream.seen[0].path == "/v1/models"
            await provider.close()
        with pytest.raises(ChatError):
            provider = openai.provider(upstream.url)
            try:
                await provider.models()
            finally:
                await provider.close()

    asyncio.run(run())

"""An upstream of ours on a real socket, which plays answers in Gemini's wire format or in OpenAI's."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from server.models import Patience, Provider
from server.models.gemini import Gemini
from server.models.openai import OpenAI

KEY = "AIza-very-secret"
BRISK = Patience(first_piece=20, next_piece=20, first_wait=0.001, longest_wait=0.05)


class Refusal(NamedTuple):
    status: int
    body: Any = ""
    headers: Mapping[str, str] = {}


class Answer(NamedTuple):
    """Bytes to send, each as its own write, and what then happens: end, cut (the connection breaks) or hang."""

    writes: Sequence[bytes]
    then: str = "end"


class Seen(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Upstream:
    """Plays its script, one entry a request, the last one for ever."""

    script: Sequence[Refusal | Answer]
    listing: Any = None
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    left_at: float = 0.0

    async def play(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.method == "POST" else None
        self.seen.append(Seen(request.path_qs, dict(request.headers), body))
        if request.method == "GET":
            return web.json_response(self.listing)
        now = self.script[min(len([seen for seen in self.seen if seen.body is not None]), len(self.script)) - 1]
        if isinstance(now, Refusal):
            text = now.body if isinstance(now.body, str) else json.dumps(now.body)
            kind = "text/html" if isinstance(now.body, str) else "application/json"
            return web.Response(status=now.status, text=text, content_type=kind, headers=dict(now.headers))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for data in now.writes:
                await response.write(data)
            self.sent.set()
            if now.then == "cut":
                assert request.transport
                request.transport.abort()
            if now.then == "hang":
                await asyncio.Event().wait()
        except (asyncio.CancelledError, ConnectionError):
            self.left_at = asyncio.get_running_loop().time()
            self.left.set()
            raise
        return response


Playing = Callable[..., AbstractAsyncContextManager[Upstream]]


@asynccontextmanager
async def play(*script: Refusal | Answer, listing: Any = None) -> AsyncIterator[Upstream]:
    upstream = Upstream(script, listing)
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", upstream.play)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield upstream
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class GeminiWire:
    """What Gemini sends: one object a frame, the finish reason and the usage with the last."""

    model_id: str = "gemini-3.8-flash"
    line_end: bytes = b"\r\n\r\n"

    def frame(self, value: Any) -> bytes:
        return b"data: " + json.dumps(value, ensure_ascii=False).encode() + self.line_end

    def piece(self, text: str, finish: str | None = None, **extra: Any) -> bytes:
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
        if finish:
            candidate["finishReason"] = finish
        return self.frame({"candidates": [candidate], **extra})

    def ending(self, finish: str = "STOP", asked: int = 5) -> list[bytes]:
        usage = {"promptTokenCount": asked, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 10}
        return [self.piece("", finish, usageMetadata=usage)]

    def overloaded(self) -> Refusal:
        return Refusal(503, {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})

    def quota(self, seconds: str) -> Refusal:
        info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds}s"}
        error = {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "x"}, info]}
        return Refusal(429, {"error": error})

    def provider(self, url: str, patience: Patience = BRISK, system: str | None = None) -> Provider:
        return Gemini(system, patience, KEY, url)


@dataclass(frozen=True)
class OpenAIWire:
    """What OpenAI and its likes send: deltas, the finish reason, the usage, `[DONE]`."""

    model_id: str = "llama3:8b"

    def frame(self, value: Any) -> bytes:
        return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"

    def piece(self, text: str, finish: str | None = None, **extra: Any) -> bytes:
        return self.frame({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **extra})

    def ending(self, finish: str = "stop", asked: int = 5) -> list[bytes]:
        return [
            self.frame({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": None}),
            self.frame({"choices": [], "usage": {"prompt_tokens": asked, "completion_tokens": 5, "total_tokens": 10}}),
            b"data: [DONE]\n\n",
        ]

    def overloaded(self) -> Refusal:
        return Refusal(503, {"error": {"message": "overloaded"}})

    def quota(self, seconds: str) -> Refusal:
        return Refusal(429, {"error": {"message": "slow down"}}, {"Retry-After": seconds})

    def provider(self, url: str, patience: Patience = BRISK, system: str | None = None) -> Provider:
        return OpenAI(url, KEY, system, patience)


Wire = GeminiWire | OpenAIWire


@pytest.fixture
def playing() -> Playing:
    return play


@pytest.fixture
def gemini() -> GeminiWire:
    return GeminiWire()


@pytest.fixture
def openai() -> OpenAIWire:
    return OpenAIWire()


@pytest.fixture(params=[GeminiWire(), OpenAIWire()], ids=["gemini", "openai"])
def wire(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def upstream_words() -> Any:
    """The words that scripts are written in."""
    return Words()


class Words:
    Answer, Refusal, key, patience = Answer, Refusal, KEY, BRISK

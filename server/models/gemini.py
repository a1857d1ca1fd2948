"""Gemini, through google-genai's asynchronous streaming: by a key, or as Vertex AI by its usual variables.

1. The SDK closes its HTTP request only when a pending read is cancelled: breaking off or `aclose()` leaves it open
   until the garbage collector comes by, and a stopped answer goes on costing money. So the HTTP session is ours, a
   trace of it shows the response, and `ask` closes that. (Reading on just to be cancelled works too, but not while
   more comes than can be read.)
2. The SDK's timeout covers a whole stream, and one of its retries is hidden: both are off, `patient` does them.
3. To the SDK an end without a finish reason is an end like any other; here it is a broken answer.
4. Importing the SDK takes longer than starting the rest of the server: this module is imported at start-up, and only
   where there are credentials.
"""

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any

import aiohttp
import google.auth
from google import genai
from google.auth.exceptions import GoogleAuthError
from google.genai import errors, types
from google.genai.models import AsyncModels

from proto.answers import ModelInfo
from proto.errors import ChatError
from proto.events import Usage
from proto.requests import invalid
from server.models import PATIENCE, End, Message, Patience, Pieces, alternating, broken, patient, quoted, told_usage

LISTED_AT_ONCE = 1000
# The id becomes a part of the path of a request that carries the operator's key.
_MODEL_ID = re.compile(r"(models/)?gemini-[A-Za-z0-9._-]{1,128}\Z")
_SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s\Z")
_FINISH_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"} | dict.fromkeys(
    ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"), "safety"
)
_responses: ContextVar[list[aiohttp.ClientResponse] | None] = ContextVar("responses", default=None)


class Gemini:
    name = "gemini"

    def __init__(
        self,
        system: str | None = None,
        patience: Patience = PATIENCE,
        api_key: str | None = None,
        base_url: str | None = None,
        vertex: bool | None = None,
    ) -> None:
        """What is not given, the SDK takes from its usual variables."""
        self._patience = patience
        self._config = types.GenerateContentConfig(
            system_instruction=system,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        options = types.HttpOptions(base_url=base_url, retry_options=types.HttpRetryOptions(attempts=1))
        try:
            self._client = genai.Client(vertexai=vertex, api_key=api_key, http_options=options)
            self._sdk = self._client._api_client
            if self._sdk.vertexai and self._sdk.project and not self._sdk.api_key:
                google.auth.default()  # the SDK would look for them at the first question
        except (ValueError, GoogleAuthError) as error:
            raise invalid(f"Gemini cannot be asked: {quoted(error, api_key)}") from None
        self._session: aiohttp.ClientSession | None = None

    def model(self, model_id: str) -> "GeminiModel":
        if not _MODEL_ID.match(model_id):
            raise invalid(f"'{model_id}' cannot be a model of Google's: they look like gemini-3.8-flash.")
        return GeminiModel(self, model_id)

    async def models(self) -> list[ModelInfo]:
        listed = []
        with self._translated("models"):
            async for model in await self._models().list(config={"page_size": LISTED_AT_ONCE}):
                model_id = (model.name or "").rpartition("/")[2]
                answers = model.supported_actions is None or "generateContent" in model.supported_actions
                if answers and _MODEL_ID.match(model_id):
                    listed.append(ModelInfo(model_id, self.name))
        return listed

    async def close(self) -> None:
        await self._client.aio.aclose()
        if self._session is not None:
            await self._session.close()
        self._client.close()

    async def ask(
        self, model_id: str, messages: Sequence[Message]
    ) -> AsyncGenerator[types.GenerateContentResponse, None]:
        """One attempt: what the SDK yields, with its failures as ours."""
        contents: Any = [types.Content(role=role, parts=[types.Part(text=text)]) for role, text in messages]
        responses: list[aiohttp.ClientResponse] = []
        _responses.set(responses)
        try:
            with self._translated(model_id):
                async for response in await self._models().generate_content_stream(
                    model=model_id, contents=contents, config=self._config
                ):
                    yield response
        finally:
            for opened in responses:
                opened.close()

    def _models(self) -> AsyncModels:
        """Over a session of ours, made at the first request, on the loop that it then belongs to."""
        if self._session is None:
            self._session = self._sdk._http_options.aiohttp_client = _session()
        return self._client.aio.models

    def answer(self, model_id: str, messages: Sequence[Message]) -> Pieces:
        return _pieces(patient(lambda: self.ask(model_id, messages), self._patience))

    @contextmanager
    def _translated(self, model_id: str) -> Iterator[None]:
        try:
            yield
        except errors.APIError as error:
            raise _failure(error, model_id, self._sdk.api_key) from None
        except GoogleAuthError:
            raise ChatError("model_error", "Google gives no credentials for Vertex AI: check them.") from None
        except aiohttp.ClientConnectorError:
            raise ChatError("model_error", "Google cannot be reached.", retryable=True) from None
        except (aiohttp.ClientError, OSError):
            raise broken() from None
        except (ValueError, TypeError, AttributeError):
            # What the SDK makes of bytes that are not Gemini's: a torn character, JSON that is none, a missing code.
            raise ChatError("model_error", "Google's answer cannot be read.", retryable=True) from None


class GeminiModel:
    def __init__(self, gemini: Gemini, model_id: str) -> None:
        self.id = model_id
        self._gemini = gemini

    def answer(self, messages: Sequence[Message]) -> Pieces:
        return self._gemini.answer(self.id, alternating(messages))


async def _pieces(responses: AsyncGenerator[types.GenerateContentResponse, None]) -> Pieces:
    """The text as it comes. Only that of the response with the finish reason waits, for the stream to end: older
    models give a finish reason with every response."""
    usage: Usage | None = None
    finish_reason: str | None = None
    last = ""
    async with aclosing(responses):
        try:
            async for response in responses:
                usage = _usage(response) or usage
                text, finished = _candidate(response)
                if finished is None and finish_reason is None:
                    if text:
                        yield text
                    continue
                if last:
                    yield last
                last, finish_reason = text, finished or finish_reason
        except ChatError:
            if finish_reason is None:
                raise
    if finish_reason is None:
        raise broken()
    if finish_reason not in _FINISH_REASONS:
        if last:
            yield last
        raise ChatError("model_error", f"The model broke off ({finish_reason}).", retryable=True)
    yield End(last, _FINISH_REASONS[finish_reason], usage)


def _candidate(response: types.GenerateContentResponse) -> tuple[str, str | None]:
    """The text of a response without the model's thoughts, and its finish reason."""
    if not response.candidates:
        feedback = response.prompt_feedback
        if feedback and feedback.block_reason:
            raise ChatError("model_error", f"The model refuses this message ({feedback.block_reason.value}).")
        return "", None
    candidate = response.candidates[0]
    parts = candidate.content.parts if candidate.content and candidate.content.parts else []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    reason = candidate.finish_reason.value if candidate.finish_reason else "FINISH_REASON_UNSPECIFIED"
    return text, None if reason == "FINISH_REASON_UNSPECIFIED" else reason


def _usage(response: types.GenerateContentResponse) -> Usage | None:
    """Thoughts are paid for as output."""
    told = response.usage_metadata
    if told is None or told.prompt_token_count is None:
        return None
    return told_usage(told.prompt_token_count, (told.candidates_token_count or 0) + (told.thoughts_token_count or 0))


def _failure(error: errors.APIError, model_id: str, key: str | None) -> ChatError:
    code = error.code if isinstance(error.code, int) else 500
    told = quoted(error.message, key)
    if code in (401, 403) or (code == 400 and "API key" in told):
        # Google's own words may carry the key.
        return ChatError("model_error", f"Google refuses the credentials ({code}): check the key that the server has.")
    if code == 404:
        return invalid(f"Google has no model '{model_id}' that can be asked.")
    if code == 429:
        wait = _retry_delay(error.details)
        when = f" Try again in {wait:g} s." if wait else ""
        return ChatError("rate_limited", f"Google's quota for this model is used up.{when}", retry_after=wait)
    if code >= 500 or code == 408:
        return ChatError("model_error", f"Google's model is overloaded or out of order ({code}).", retryable=True)
    return ChatError("model_error", f"Google refuses the request ({code}): {told}")


def _retry_delay(details: Any) -> float | None:
    """The wait that a quota error asks for, in seconds (google.rpc.RetryInfo)."""
    error = details.get("error", details) if isinstance(details, dict) else {}
    infos = error.get("details") if isinstance(error, dict) else None
    for info in infos if isinstance(infos, list) else []:
        found = _SECONDS.match(str(info.get("retryDelay", ""))) if isinstance(info, dict) else None
        if found:
            return float(found.group(1))
    return None


def _session() -> aiohttp.ClientSession:
    """Rule 1. As the SDK would make it, but for the trace: any number of connections, proxies as the system says."""

    async def opened(_session: Any, _context: Any, end: aiohttp.TraceRequestEndParams) -> None:
        responses = _responses.get()
        if responses is not None:
            responses.append(end.response)

    async def with_the_key_alone(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Where aiohttp looks for proxies it looks into `~/.netrc` too, and a password from there goes with the key."""
        if "x-goog-api-key" in request.headers:
            request.headers.popall("Authorization", None)
        return await send(request)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(opened)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        trust_env=True,
        trace_configs=[trace],
        middlewares=[with_the_key_alone],
    )

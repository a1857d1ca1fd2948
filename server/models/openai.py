"""Any server that speaks OpenAI's `/v1/chat/completions` with `stream: true`: Ollama, llama.cpp, vLLM, LiteLLM.

1. Closing the response closes the connection, which is how these servers learn that nobody wants the answer any more.
2. `[DONE]` or a finish reason ends an answer. A body that ends with neither was cut, however cleanly.
3. Not every server knows `stream_options`: one that refuses a request with it is asked again without.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from proto.answers import ModelInfo
from proto.errors import ChatError, ProtocolError
from proto.events import Usage
from proto.requests import check_model_id, invalid
from proto.sse import Decoder
from server.models import PATIENCE, End, Message, Patience, Pieces, alternating, broken, patient, quoted, told_usage

CONNECT_SECONDS = 10.0
DRAIN_SECONDS = 0.1
MAX_BODY_BYTES = 4 * 2**20
DONE = "[DONE]"
_VERSION = re.compile(r"/v[0-9][^/]*(/|$)")
_ROLES = {"model": "assistant"}
_FINISH_REASONS = {"length": "length", "max_tokens": "length", "content_filter": "safety"}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class OpenAI:
    name = "openai"

    def __init__(
        self, url: str, api_key: str | None = None, system: str | None = None, patience: Patience = PATIENCE
    ) -> None:
        """`url` with or without the `/v1` at its end."""
        self._url, self._host, self._where = _address(url)
        self._key = (api_key or "").strip() or None  # a file's line break is no part of it
        if self._key and not self._key.isprintable():
            raise invalid("LOCAL_LLM_API_KEY holds a character that cannot be sent, like a line break.")
        if self._key and urlsplit(self._url).username is not None:
            raise invalid("LOCAL_LLM_URL names a user, and LOCAL_LLM_API_KEY a key: only one of them can be sent.")
        self._system = [{"role": "system", "content": system}] if system else []
        self._patience = patience
        self._tells_usage = True
        self._session: aiohttp.ClientSession | None = None

    def model(self, model_id: str) -> "OpenAIModel":
        return OpenAIModel(self, model_id)

    async def models(self) -> list[ModelInfo]:
        with self._translated():
            async with self._client().get(f"{self._url}/models", allow_redirects=False) as response:
                await self._check(response)
                told = _object(await _body(response)).get("data")
        ids = [model.get("id") for model in told if isinstance(model, dict)] if isinstance(told, list) else []
        return [
            ModelInfo(model_id, self.name) for model_id in ids if isinstance(model_id, str) and _can_be_asked(model_id)
        ]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def answer(self, model_id: str, messages: Sequence[Message]) -> Pieces:
        asked = [{"role": _ROLES.get(role, role), "content": text} for role, text in messages]
        body = {"model": model_id, "messages": [*self._system, *asked], "stream": True}
        return _pieces(patient(lambda: self._ask(body), self._patience))

    async def _ask(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any] | None, None]:
        """One attempt: the object of each frame; None for `[DONE]`."""
        options = {"stream_options": {"include_usage": True}} if self._tells_usage else {}
        with self._translated():
            response = await self._post(body | options)
            try:
                if options and response.status in (400, 422):
                    response.close()
                    response = await self._post(body)
                    if response.status == 200:
                        self._tells_usage = False
                await self._check(response, str(body["model"]))
                decoder = Decoder()
                async for data in response.content.iter_any():
                    for frame in decoder.feed(data):
                        if frame.data.strip() == DONE:
                            await _drain(response)
                            yield None
                            return
                        yield self._checked(_object(frame.data))
            finally:
                response.close()

    async def _post(self, body: dict[str, Any]) -> aiohttp.ClientResponse:
        return await self._client().post(f"{self._url}/chat/completions", json=body, allow_redirects=False)

    def _client(self) -> aiohttp.ClientSession:
        """Made at the first request, on the loop that it then belongs to."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                middlewares=(self._authorized,) if self._key else (),
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                trust_env=self._host not in _LOOPBACK,  # a proxy for the world is none for this machine
            )
        return self._session

    async def _authorized(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """With the key, whatever `~/.netrc` has for this server. As a header of the session it would be one credential
        too many: aiohttp, which looks there where it looks for proxies, refuses to send both."""
        request.headers["Authorization"] = f"Bearer {self._key}"
        return await send(request)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientSSLError:
            trust = "its certificate is not trusted (SSL_CERT_FILE names one that is), or it speaks none"
            raise ChatError("model_error", f"No TLS with {self._where}: {trust}.") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise ChatError("model_error", f"Nothing answers at {self._where}.", retryable=True) from None
        except (aiohttp.ClientError, OSError):
            raise broken() from None
        except ProtocolError:
            raise ChatError("model_error", f"The answer of {self._where} cannot be read.", retryable=True) from None

    async def _check(self, response: aiohttp.ClientResponse, model_id: str | None = None) -> None:
        """Every answer that is not a stream is a failure."""
        if response.status == 200 and (model_id is None or response.content_type != "application/json"):
            return
        body = await _body(response)
        try:
            fields = _object(body)
        except ProtocolError:
            fields = {}
        if response.status == 200 and _error(fields) is None:
            raise ChatError("model_error", f"{self._where} does not stream its answers.")
        raise self._failure(response.status, fields, model_id, _seconds(response.headers.get("Retry-After")))

    def _checked(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A frame, unless it tells of a failure in the middle of the answer."""
        if _error(fields):
            raise self._failure(200, fields, None, None)
        return fields

    def _failure(self, status: int, fields: dict[str, Any], model_id: str | None, wait: float | None) -> ChatError:
        error = _error(fields)
        told = error.get("message") if isinstance(error, dict) else error or fields.get("detail")
        code = error.get("code") if isinstance(error, dict) else None
        if status == 200:
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
        said = f": {quoted(told, self._key)}" if told else "."
        if status in (401, 403):
            return ChatError("model_error", f"{self._where} refuses the key ({status}): check LOCAL_LLM_API_KEY.")
        if code == "model_not_found" or (status == 404 and model_id and told):
            return invalid(f"{self._where} has no model '{model_id}'.")
        if status == 404 or 300 <= status < 400:
            return ChatError("model_error", f"There is no such API at {self._where}: check LOCAL_LLM_URL.")
        if status == 429:
            return ChatError("rate_limited", f"{self._where} has had too many requests{said}", retry_after=wait)
        if status >= 500 or status == 408:
            return ChatError("model_error", f"{self._where} failed ({status}){said}", retryable=True, retry_after=wait)
        return ChatError("model_error", f"{self._where} refuses the request ({status}){said}")


class OpenAIModel:
    def __init__(self, server: OpenAI, model_id: str) -> None:
        self.id = model_id
        self._server = server

    def answer(self, messages: Sequence[Message]) -> Pieces:
        return self._server.answer(self.id, alternating(messages))


async def _pieces(chunks: AsyncGenerator[dict[str, Any] | None, None]) -> Pieces:
    """The text as it comes; the usage follows after the finish reason, so only `[DONE]` or the end is the end."""
    usage: Usage | None = None
    finish_reason: str | None = None
    half = ""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                if chunk is None:
                    finish_reason = finish_reason or "stop"
                    break
                usage = _usage(chunk.get("usage")) or usage
                text, finished = _choice(chunk.get("choices"))
                finish_reason = finished or finish_reason
                text, half = _whole(half + text)
                if text:
                    yield text
        except ChatError:
            if finish_reason is None:
                raise
    if finish_reason is None:
        raise broken()
    yield End("", finish_reason, usage)


def _error(fields: dict[str, Any]) -> Any:
    """What an answer says of a failure. Older versions of vLLM, and Mistral, say it without an object around it."""
    return fields if fields.get("object") == "error" else fields.get("error")


def _choice(choices: Any) -> tuple[str, str | None]:
    """Text and finish reason of the first choice; nothing from what is not in the form that we know."""
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "", None
    delta, finished = choices[0].get("delta"), choices[0].get("finish_reason")
    text = delta.get("content") if isinstance(delta, dict) else None
    reason = _FINISH_REASONS.get(finished, "stop") if isinstance(finished, str) and finished else None
    return text if isinstance(text, str) else _text_of(text), reason


def _text_of(parts: Any) -> str:
    """The text of a list of parts: a model of Mistral's that thinks sends such, and its thoughts are no text."""
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "".join(text for text in texts if isinstance(text, str))


def _usage(told: Any) -> Usage | None:
    if not isinstance(told, dict):
        return None
    return told_usage(told.get("prompt_tokens"), told.get("completion_tokens"))


def _whole(text: str) -> tuple[str, str]:
    """The text as valid Unicode, and the first half of a surrogate pair at its end, which waits for the second."""
    if text.isascii():
        return text, ""
    half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    text = text.removesuffix(half)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), half


def _address(url: str) -> tuple[str, str, str]:
    """The address of the API, with a version in its path; its host; and what may be shown of it: never a password."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
        if host and host.isascii():
            host.encode("idna")  # fails here, and not in the resolver at every question
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise invalid("LOCAL_LLM_URL must be the address of a server, like http://127.0.0.1:11434.")
    path = parts.path.rstrip("/")
    path = path if _VERSION.search(path) else path + "/v1"
    shown = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}" + (f":{port}" if port else "")
    return f"{parts.scheme}://{parts.netloc}{path}", host, shown


def _can_be_asked(model_id: str) -> bool:
    try:
        check_model_id(model_id)
    except ChatError:
        return False
    return True


def _object(data: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError("This is not JSON.") from None
    if not isinstance(value, dict):
        raise ProtocolError("This is no JSON object.")
    return value


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After in seconds; its other form, a date, is not worth a clock that both sides agree on."""
    return float(retry_after) if retry_after and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", retry_after) else None


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > MAX_BODY_BYTES:
            raise ProtocolError(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    return bytes(body)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read on to the end of the body, which is there or on its way, so that the connection serves the next turn."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in response.content.iter_any():
                pass
    except (aiohttp.ClientError, OSError):
        return

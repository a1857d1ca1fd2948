"""The plain HTTP requests that four of the five transports share, and the bodies that stream a turn.

1. Not every 502 to 504 is the server's: a proxy says so while the server is away. Without problem+json it is a cut.
2. A body that ends without the turn's terminal event was cut, also where HTTP thinks that all is well.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import aiohttp

from client.transports import CONNECT_SECONDS, REPLY_SECONDS, SILENCE_SECONDS, ConnectionLost, trouble
from proto.answers import Health, ModelList, Note, ServerStats, SessionCreated, SessionDetail, SessionList, TurnSnapshot
from proto.errors import CODES, ChatError, ProtocolError
from proto.events import TERMINAL, Event, Heartbeat
from proto.requests import ChatRequest, json_object

Word = TypeVar("Word", bound=tuple[Any, ...])
_TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, ProtocolError)
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
_PLAIN = aiohttp.ClientTimeout(total=REPLY_SECONDS, sock_connect=CONNECT_SECONDS)


class Framing(NamedTuple):
    """How a body carries events: its media type, and what makes a decoder."""

    content_type: str
    decoder: Callable[[], Callable[[bytes], list[Event | Heartbeat]]]


def word_of(word: Any, fields: Any) -> Any:
    """A value of this type from decoded JSON, leniently: unknown fields are ignored, absent ones empty."""
    if get_origin(word) is list:
        return [word_of(get_args(word)[0], item) for item in fields] if isinstance(fields, list) else []
    if get_origin(word) is dict:
        entries = fields if isinstance(fields, Mapping) else {}
        return {str(name): word_of(get_args(word)[1], value) for name, value in entries.items()}
    if type(None) in get_args(word):
        return None if fields is None else word_of(get_args(word)[0], fields)
    if isinstance(word, type) and issubclass(word, tuple):
        values = fields if isinstance(fields, Mapping) else {}
        return word(**{name: word_of(hint, values.get(name)) for name, hint in get_type_hints(word).items()})
    if word is float and isinstance(fields, int):
        return float(fields)
    return fields if isinstance(fields, word) else word()


def refusal(fields: Mapping[str, Any], http: int, retry_after: str | None = None) -> ChatError:
    """A problem+json body as the error that it was made from."""
    code = fields.get("code")
    if not isinstance(code, str) or code not in CODES:
        code = next((name for name, row in CODES.items() if row.http == http), "internal")
    return ChatError(
        code,
        str(fields.get("detail") or fields.get("title") or CODES[code].title),
        retryable=bool(fields["retryable"]) if "retryable" in fields else None,
        retry_after=float(retry_after) if retry_after and retry_after.isdecimal() else None,
        turn_id=fields["turn_id"] if isinstance(fields.get("turn_id"), str) else None,
        http=http,
    )


def chat_body(request: ChatRequest) -> dict[str, Any]:
    """What `POST /chat` and `POST /chat/stream` take."""
    return {name: value for name, value in request._asdict().items() if value is not None}


class Api:
    """One server over HTTP."""

    live = False

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http: aiohttp.ClientSession | None = None
        self._reached = False
        self._bodies: set[aiohttp.ClientResponse] = set()

    @property
    def http(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=_PLAIN, headers={"User-Agent": "fivewire-client"})
        return self._http

    def gone(self, error: Exception) -> ConnectionLost:
        """The trouble as one clear sentence."""
        reached, self._reached = self._reached, False
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            error = error.certificate_error
        elif isinstance(error, aiohttp.ClientConnectorError):
            error = error.os_error
        elif isinstance(error, aiohttp.ClientError):  # also a ClientOSError, which is an OSError, but no refusal
            error = ConnectionResetError()
        return trouble(self.url, error, reached)

    async def connect(self) -> None:
        if not self._reached:
            await self.health()

    async def close(self) -> None:
        self._reached = False
        for response in self._bodies:
            response.close()  # closing the session alone would leave whoever reads it waiting for ever
        if self._http is not None:
            http, self._http = self._http, None
            await http.close()

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, *, ok: tuple[int, ...] = (200, 204), **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self.http.request(method, self.url + path, **options) as response:
                if response.status not in ok:
                    if response.content_type == "application/problem+json":
                        raise refusal(
                            json_object(await response.read()), response.status, response.headers.get("Retry-After")
                        )
                    if response.status in (502, 503, 504):
                        raise ConnectionLost(f"Nobody answers behind {self.url} (HTTP {response.status}).")
                    raise ConnectionLost(
                        f"{self.url} answers, but is no fivewire server (HTTP {response.status} for {path})."
                    )
                self._reached = True
                yield response
        except _TROUBLE as error:
            raise self.gone(error) from error

    async def ask(self, word: type[Word], method: str, path: str, **options: Any) -> Word:
        """One request, its answer as a word."""
        async with self._response(method, path, **options) as response:
            body = await response.read()
        try:
            answer: Word = word_of(word, json_object(body))
        except ChatError:
            raise self.gone(ProtocolError("its answer is not JSON")) from None
        return answer

    async def events(self, framing: Framing, method: str, path: str, **options: Any) -> AsyncGenerator[Event, None]:
        """A turn from a streaming body; nothing for 204."""
        headers = {"Accept": framing.content_type, **options.pop("headers", {})}
        async with self._response(method, path, timeout=_STREAM, headers=headers, **options) as response:
            if response.status == 204:
                return
            if response.content_type != framing.content_type:
                raise ProtocolError(f"it answers with {response.content_type or 'nothing'}, not {framing.content_type}")
            feed = framing.decoder()
            self._bodies.add(response)
            try:
                async for data in response.content.iter_any():
                    for event in feed(data):
                        if isinstance(event, Heartbeat):
                            continue
                        yield event
                        if isinstance(event, TERMINAL):
                            return
            finally:
                self._bodies.discard(response)
            raise ConnectionLost("The stream was cut before its end.")

    # What every transport can do, in the plain way.

    async def cancel(self, turn_id: str | None) -> None:
        if turn_id is not None:
            await self.ask(TurnSnapshot, "POST", f"/turns/{turn_id}/cancel")

    async def join(self, session_id: str) -> None:
        """Nobody tells what others do over plain HTTP."""

    async def leave(self, session_id: str) -> None:
        """There is nothing to leave."""

    async def typing(self, session_id: str, active: bool) -> None:
        """Nor tells others."""

    async def new_session(self, model_id: str | None) -> SessionCreated:
        body = {"model_id": model_id} if model_id else {}
        return await self.ask(SessionCreated, "POST", "/sessions/new", json=body)

    async def sessions(self, limit: int, before: str | None = None) -> SessionList:
        params = {"limit": str(limit), **({"before": before} if before else {})}
        return await self.ask(SessionList, "GET", "/sessions", params=params)

    async def session(self, session_id: str) -> SessionDetail:
        return await self.ask(SessionDetail, "GET", f"/sessions/{session_id}")

    async def clear(self, session_id: str) -> None:
        await self.ask(Note, "POST", f"/sessions/{session_id}/clear")

    async def delete(self, session_id: str) -> None:
        await self.ask(Note, "DELETE", f"/sessions/{session_id}")

    async def stats(self) -> ServerStats:
        return await self.ask(ServerStats, "GET", "/stats")

    async def health(self) -> Health:
        health = await self.ask(Health, "GET", "/health", ok=(200, 503))  # 503 while it drains: it is there
        if not health.status:
            raise ConnectionLost(f"{self.url} answers, but is no fivewire server.")
        return health

    async def models(self) -> ModelList:
        return await self.ask(ModelList, "GET", "/models")

    async def ping(self) -> None:
        await self.health()

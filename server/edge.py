"""The HTTP edge: what every request passes before the core sees it, and the form that every error leaves in.

1. Everything from outside has a type, a size and a time limit here. aiohttp bounds the request line and the headers;
   the size of a body, the time that it or a head may take, and the Origin are looked at here.
2. An error is problem+json, also one of aiohttp's own and one about a request that could not be parsed. A bug is logged
   with its traceback and told as `internal`.
3. `Access` decides about Origins for HTTP, WebSocket and gRPC-Web alike: a page of another origin gets 403, because
   neither a WebSocket nor a simple request is held back by CORS. Nor is a page whose own name is made to lead to this
   machine (DNS rebinding): a server that listens on loopback answers to names of this machine only.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from proto.errors import ChatError
from proto.requests import ChatRequest, chat_request, invalid, json_object
from server import lane
from server.direct import DirectWriter
from server.reply import Reply, common_fields, problem

log = logging.getLogger(__name__)

HEAD_SECONDS = 15.0
BODY_SECONDS = 20.0
KEEP_ALIVE_SECONDS = 75.0
MAX_HEADER_BYTES = 8190
MAX_HEADERS = 64
EXPOSED = "X-Request-Id, X-Turn-Id, Retry-After"
ALLOWED_HEADERS = (
    "Content-Type, Accept, Idempotency-Key, Last-Event-ID, X-Request-Id, Authorization, X-Grpc-Web, X-User-Agent, "
    "Grpc-Timeout"
)

GOODBYE = {"Connection": "close"}
STREAMED: web.RequestKey[bool] = web.RequestKey("streamed")  # in a request whose stream has started

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def max_body_bytes(max_message_chars: int) -> int:
    """A character takes up to 12 bytes as JSON escapes; the rest is for the other fields."""
    return 12 * max_message_chars + 16 * 1024


class Access:
    """Which pages may speak to this server: its own, and those of the origins that the operator allows."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self.loopback = False  # whether this machine only can reach the server
        self._any = "*" in allowed
        self._allowed = {origin.rstrip("/").lower() for origin in allowed}
        self._names = {urlsplit(origin).hostname for origin in allowed}
        self._last = ""  # host that was let in

    def check_host(self, host: str) -> None:
        """ChatError `forbidden` for a name that may be anybody's."""
        if host == self._last or not self.loopback or self._any:
            return
        name = _name(host)
        if "." in name and not name.endswith(".localhost") and not _is_address(name) and name not in self._names:
            raise ChatError(
                "forbidden",
                f"This server is for its own machine only, which is not known as {name[:200]}. Its operator can allow "
                f"that: --allow-origin https://{name[:200]}",
            )
        self._last = host

    def check(self, headers: Mapping[str, str]) -> str | None:
        """The foreign origin that is allowed, None if there is none; ChatError `forbidden` for all others."""
        origin = headers.get("Origin")
        if origin is None or _authority(origin) == headers.get("Host", "").lower() != "":
            return None
        if self._any or origin.lower() in self._allowed:
            return origin
        raise ChatError(
            "forbidden",
            f"Pages of this origin may not use this server. Its operator can allow it: --allow-origin {origin[:200]}",
        )


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _allow(request: web.BaseRequest, origin: str) -> None:
    """Have the answer say that a page of this foreign origin may read it."""
    allowed = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"}
    common_fields(request).update(allowed)


def middleware(access: Access, leaving: Callable[[], bool]) -> Any:
    """The one middleware: Host, Origin, errors. Who asks a server that is leaving is told not to ask again on this
    connection."""

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        try:
            if leaving():
                common_fields(request).update(GOODBYE)
            access.check_host(request.headers.get("Host", ""))
            if "Origin" in request.headers:
                origin = access.check(request.headers)
                if origin is not None:
                    _allow(request, origin)
                if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                    response = _preflight()
                else:
                    response = await handler(request)
            else:
                response = await handler(request)
        except ChatError as error:
            response = problem(error, request)
        except web.HTTPException as error:
            response = _refusal(error, request)
        except (asyncio.CancelledError, ConnectionError):
            raise  # the peer has left
        except Exception:
            log.exception("a bug: %s %s failed", request.method, request.path)
            if _started(request):
                raise ConnectionError("the answer has started") from None
            response = problem(ChatError("internal", "The server failed; its log says more."), request)
        if leaving():  # by now
            common_fields(request).update(GOODBYE)
        return response

    return edge


def _started(request: web.BaseRequest) -> bool:
    """Whether aiohttp has written something, or a stream its head: a second answer in it would only confuse."""
    return request.writer.output_size > 0 or STREAMED in request


def _preflight() -> Reply:
    fields = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": ALLOWED_HEADERS,
        "Access-Control-Max-Age": "600",
    }
    return Reply(None, fields, 204)


def _refusal(error: web.HTTPException, request: web.Request) -> Reply:
    """What aiohttp refuses, in our form."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        text = f"{request.path} takes {allowed}, not {request.method[:20]}."
        reply = problem(ChatError("invalid_request", text, http=405), request)
        reply.fields["Allow"] = error.headers["Allow"]
        return reply
    if error.status == 404:
        return problem(ChatError("not_found", "There is no such route: GET / lists those that there are."), request)
    text = error.reason or "The request is not valid."
    return problem(ChatError("invalid_request", text, http=error.status), request)


async def read_body(request: web.Request, limit: int) -> bytes:
    """The whole body, within its limits of size and time."""
    if (request.content_length or 0) > limit:
        raise ChatError("too_large", f"The body may have at most {limit} bytes.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # Small bodies gain nothing from it, and a small one could unfold into a very large one.
        raise ChatError("invalid_request", "Send the body as it is, without a Content-Encoding.", http=415)
    content = request.content
    try:
        if content.is_eof():  # the usual case: head and body came together
            body = content.read_nowait() if not content.at_eof() else b""
        else:
            pieces, size = [], 0
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        break
            body = b"".join(pieces)
    except TimeoutError:
        raise ChatError(
            "invalid_request", f"The body did not arrive within {BODY_SECONDS:.0f} seconds.", http=408
        ) from None
    except web.RequestPayloadError:
        raise invalid("The body could not be read: it is cut off, or not encoded as its headers say.") from None
    if len(body) > limit:
        raise ChatError("too_large", f"The body may have at most {limit} bytes.")
    return body


async def read_json(request: web.Request, limit: int, optional: bool = False) -> dict[str, Any]:
    """The body as a JSON object; with `optional`, no body is an empty object."""
    body = await read_body(request, limit)
    if optional and not body.strip():
        return {}
    if request.content_type != "application/json":
        raise ChatError("invalid_request", "Send the body as Content-Type: application/json.", http=415)
    return json_object(body)


async def read_chat_request(request: web.Request, max_message_chars: int) -> ChatRequest:
    """The chat request in a body, with the idempotency key of the header where there is one."""
    fields = await read_json(request, max_body_bytes(max_message_chars))
    key = request.headers.get("Idempotency-Key")
    if key is not None:
        if fields.get("idempotency_key") not in (None, key):
            raise invalid("The header Idempotency-Key and the field idempotency_key differ.")
        fields["idempotency_key"] = key
    return chat_request(fields, max_message_chars)


def client_name(request: web.BaseRequest) -> str:
    """Who asks, for the log and for idempotency keys without a session."""
    return request.remote or "unknown"


class Sink:
    """What writes straight to a connection's socket, and so must know when that takes no more."""

    __slots__ = ()

    def pause(self) -> None:
        """The socket takes no more for now."""

    def resume(self) -> None:
        """It has taken everything."""

    def lost(self) -> None:
        """The connection is gone."""


class HttpProtocol(RequestHandler):
    """aiohttp's protocol, which also tells a sink of the transport's flow, bounds the time of a head, and answers what
    it cannot parse in our form."""

    __slots__ = ("_head_timer", "_stall_timer", "_torn", "direct", "sink")

    direct: DirectWriter

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sink: Sink | None = None
        self._torn = False  # the head of a request has begun, and goes on in the next packet
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.direct = DirectWriter(cast(asyncio.Transport, transport))
        self._head_timer = self._loop.call_later(HEAD_SECONDS, self._too_slow)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._torn = not self._messages and self._current_request is None

    @property
    def idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""
        return not self._torn and self._waiter is not None and not self._waiter.done()

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self.direct.lost()
        if self.sink is not None:
            self.sink.lost()
        super().connection_lost(exc)

    def _too_slow(self) -> None:
        """aiohttp has no limit for the first head; for those after it the keep-alive timer is one."""
        self._head_timer = None
        if not self._request_count:
            self.force_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.direct.pause()
        if self.sink is not None:
            self.sink.pause()
        self._watch(0)

    def _watch(self, buffered: int) -> None:
        """Plain answers, and what is left of a stream whose turn has ended, have no follower that would notice that the
        peer takes nothing. A follower, which may have something to say about it, notices first."""
        transport = self.transport
        now = transport.get_write_buffer_size() if isinstance(transport, asyncio.WriteTransport) else 0
        if transport is not None and buffered and now >= buffered:
            transport.abort()
        else:
            self._stall_timer = self._loop.call_later(1.1 * lane.STALL_SECONDS, self._watch, now)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.direct.resume()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self.sink is not None:
            # Not at once: asyncio calls from within its own write, and loses a connection twice that breaks meanwhile.
            self._loop.call_soon(self._resume_sink)

    def _resume_sink(self) -> None:
        if self.sink is not None and self.transport is not None and not self.writing_paused:
            self.sink.resume()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A request that aiohttp could not parse, or an exception that no handler caught."""
        if isinstance(exc, ConnectionError) or _started(request):
            raise ConnectionError("the peer has left, or the answer has started")
        if isinstance(exc, HttpProcessingError):
            error = ChatError("invalid_request", "The request is not valid HTTP/1.1, or its head is too large.")
        else:
            log.error("a bug: the request failed outside of its handler", exc_info=exc)
            error = ChatError("internal", "The server failed; its log says more.")
        reply = problem(error, request)
        reply.force_close()
        return reply

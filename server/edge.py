"""The HTTP edge: what every request passes before the core sees it, and the form that every error leaves in.

1. Everything from outside has a type, a size and a time limit: heads in `server.http_protocol`, bodies here. Who may
   ask at all is decided in `server.access`.
2. An error is problem+json, also one of aiohttp's own. A bug is logged with its traceback and told as `internal`.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proto.errors import ChatError
from proto.requests import ChatRequest, chat_request, invalid, json_object
from server.access import Access
from server.http_protocol import started
from server.reply import Reply, allow, problem

log = logging.getLogger(__name__)

BODY_SECONDS = 20.0
JSON = "application/json"
EXPOSED = "X-Request-Id, X-Turn-Id, Retry-After"
ALLOWED_HEADERS = (
    "Content-Type, Accept, Idempotency-Key, Last-Event-ID, X-Request-Id, Authorization, X-Grpc-Web, X-User-Agent, "
    "Grpc-Timeout"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def max_body_bytes(max_message_chars: int) -> int:
    """A character takes up to 12 bytes as JSON escapes; the rest is for the other fields."""
    return 12 * max_message_chars + 16 * 1024


def edge(access: Access, exact: Mapping[tuple[str, str], Handler], others: Handler) -> Handler:
    """What every request passes: Host, Origin, the way to its handler, errors. `exact` are the handlers of the methods
    and paths that have no parameter: where one is found at once, a `POST /chat` takes a twenty-fifth fewer instructions
    than by aiohttp's router and middlewares."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            access.check_host(request.headers.get("Host", ""))
            if "Origin" in request.headers:
                origin = access.check(request.headers)
                if origin is not None:
                    allow(request, origin, EXPOSED)
                if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                    return _preflight()
            return await exact.get((request.method, request.rel_url.raw_path), others)(request)
        except ChatError as error:
            return problem(error, request)
        except web.HTTPException as error:
            return _refusal(error, request)
        except (asyncio.CancelledError, ConnectionError):
            raise  # the peer has left
        except Exception:
            log.exception("a bug: %s %s failed", request.method, request.path)
            if started(request):
                raise ConnectionError("the answer has started") from None
            return problem(ChatError("internal", "The server failed; its log says more."), request)

    return handle


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
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # Small bodies gain nothing from it, and a small one could unfold into a very large one.
        raise ChatError("invalid_request", "Send the body as it is, without a Content-Encoding.", http=415)
    content = request.content
    try:
        if content.is_eof():  # the usual case: head and body came together
            body = content.read_nowait()
        elif (request.content_length or 0) > limit:
            raise _too_large(limit)
        else:
            if request.version >= (1, 1) and request.headers.get("Expect", "").lower() == "100-continue":
                protocol: Any = request.protocol  # an HttpProtocol
                protocol.direct.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            pieces, size = [], 0
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        break
            body = b"".join(pieces)
        spoilt = content.exception()
        if spoilt is not None:
            raise spoilt
    except TimeoutError:
        raise ChatError(
            "invalid_request", f"The body did not arrive within {BODY_SECONDS:.0f} seconds.", http=408
        ) from None
    except (web.RequestPayloadError, HttpProcessingError):  # the latter without aiohttp's extensions in C
        raise invalid("The body could not be read: it is cut off, or not encoded as its headers say.") from None
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> ChatError:
    return ChatError("too_large", f"The body may have at most {limit} bytes.")


async def read_json(request: web.Request, limit: int, optional: bool = False) -> dict[str, Any]:
    """The body as a JSON object; with `optional`, no body is an empty object."""
    body = await read_body(request, limit)
    if optional and not body.strip():
        return {}
    usual = request.headers.get("Content-Type") == JSON  # which needs no parsing
    if not usual and request.content_type != JSON:
        raise ChatError("invalid_request", f"Send the body as Content-Type: {JSON}.", http=415)
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


def preferred(request: web.BaseRequest, offers: tuple[str, ...]) -> str:
    """Which of these media types the request would rather have. The first one is for those who do not mind; of two
    that are named alike, the later wins."""
    return _preferred(", ".join(request.headers.getall("Accept", ())), offers)


@functools.lru_cache(64)
def _preferred(accept: str, offers: tuple[str, ...]) -> str:
    """By RFC 9110 section 12.5.1: of the ranges that cover a type, the closest has its weight."""
    weights = {}
    for item in accept.lower().split(","):
        covered, *parameters = map(str.strip, item.split(";"))
        weights[covered] = next((_weight(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
    chosen, best = offers[0], (0.0, 3)  # what has no weight does not come before it
    for offer in offers:
        ranges = (2, offer), (1, offer.partition("/")[0] + "/*"), (0, "*/*")
        rank = next(((weights[covered], close) for close, covered in ranges if covered in weights), (0.0, 0))
        if rank > best or (rank == best and best[1] == 2):
            chosen, best = offer, rank
    return chosen


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 1.0


def client_name(request: web.BaseRequest) -> str:
    """Who asks, for the log and for idempotency keys without a session."""
    return request.remote or "unknown"

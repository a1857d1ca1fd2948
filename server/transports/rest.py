"""REST: the whole answer at once, the sessions, the figures, and what the server says about itself."""

import functools
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from proto import VERSION
from proto.answers import (
    ChatAnswer,
    Health,
    ModelList,
    Note,
    ServerStats,
    SessionCreated,
    SessionDetail,
    SessionList,
)  # fmt: skip
from proto.errors import ChatError
from proto.events import Error, dumps
from proto.requests import ChatRequest, NewSession, invalid, text_field
from server.chat import MAX_PAGE, PAGE, Chat
from server.clock import rfc3339, timestamp
from server.edge import client_name, max_body_bytes, preferred, read_chat_request, read_json
from server.http_protocol import Sink
from server.openapi import Messages, document
from server.reply import JSON_TYPE, Reply, json_reply
from server.stats import prometheus
from server.transports import IDEMPOTENCY_KEY, Parameter, Route
from server.turn import Turn

PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Waiting(Sink):
    """A client that waits for the end of a turn. Nothing is written until then that would tell a client that says no
    more from one that has left: its turn has the grace time left, and it gets what that comes to."""

    __slots__ = ("_turn",)

    def __init__(self, turn: Turn) -> None:
        self._turn: Turn | None = turn
        turn.attend()

    def leave(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.neglect()

    half_closed = leave


async def until_over(turn: Turn, protocol: Any) -> None:
    """Wait for the end of a turn, as a client would. The protocol is an `HttpProtocol`."""
    waiting = protocol.sink = Waiting(turn)
    if protocol.half_closed:
        waiting.leave()
    try:
        await turn.over()
    finally:
        protocol.sink = None
        waiting.leave()


def answer_of(turn: Turn) -> ChatAnswer:
    """The whole answer of an ended turn; its error, if it ended with one."""
    end = turn.terminal
    assert end is not None
    if isinstance(end, Error):
        raise ChatError(end.code, end.message, retryable=end.retryable, retry_after=turn.retry_after, turn_id=turn.id)
    return ChatAnswer(
        turn.text, turn.session_id, end.processing_time, turn.model, end.timestamp, end.message_count,
        turn.opening.is_new_session, turn.id, end.finish_reason, end.usage,
    )  # fmt: skip


def routes(chat: Chat, everything: Sequence[Route], websocket: Messages) -> list[Route]:
    """`everything` is the list of all routes, these included: `/` and `/openapi.json` tell of it, and the latter of the
    WebSocket's messages too."""
    limit = max_body_bytes(chat.settings.max_message_chars)
    figures = chat.stats.transports["rest"]

    async def ask(request: web.Request) -> web.StreamResponse:
        asked = await read_chat_request(request, chat.settings.max_message_chars)
        turn = await chat.send(asked, "rest", client_name(request), whole=True)
        if turn.running:
            await until_over(turn, request.protocol)
        reply = json_reply(answer_of(turn))
        figures.chunks += turn.chunk_count
        figures.bytes += len(reply.body or b"")
        return reply

    async def new_session(request: web.Request) -> web.StreamResponse:
        fields = await read_json(request, limit, optional=True)
        session = await chat.new_session(text_field(fields, "model_id"))
        return json_reply(SessionCreated(session.id, session.model, timestamp()))

    async def sessions(request: web.Request) -> web.StreamResponse:
        asked = request.query.get("limit", str(PAGE))
        if not (asked.isascii() and asked.isdigit() and len(asked) < 5 and 1 <= int(asked) <= MAX_PAGE):
            raise invalid(f"'limit' must be a whole number from 1 to {MAX_PAGE}.")
        return json_reply(await chat.sessions(int(asked), request.query.get("before")))

    async def session(request: web.Request) -> web.StreamResponse:
        return json_reply(await chat.detail(request.match_info["session_id"]))

    async def delete(request: web.Request) -> web.StreamResponse:
        session_id = request.match_info["session_id"]
        await chat.delete(session_id)
        return json_reply(Note(f"Session {session_id} deleted"))

    async def clear(request: web.Request) -> web.StreamResponse:
        session_id = request.match_info["session_id"]
        await chat.clear(session_id)
        return json_reply(Note(f"Session {session_id} cleared"))

    async def health(request: web.Request) -> web.StreamResponse:
        return json_reply(chat.health(), status=503 if chat.draining else 200)

    async def stats(request: web.Request) -> web.StreamResponse:
        return json_reply(chat.tell())

    async def metrics(request: web.Request) -> web.StreamResponse:
        return Reply(prometheus(chat.tell()).encode(), {"Content-Type": PROMETHEUS_TYPE, "Cache-Control": "no-store"})

    async def models(request: web.Request) -> web.StreamResponse:
        return json_reply(await chat.catalog.models())

    async def index(request: web.Request) -> web.StreamResponse:
        if preferred(request, ("application/json", "text/html")) == "text/html":
            return Reply(b"", {"Location": "demo", "Cache-Control": "no-store"}, 303)
        endpoints = [
            {"method": route.method, "path": route.path, "summary": route.summary}
            for route in everything
            if route.listed
        ]
        return json_reply(
            {
                "name": "fivewire",
                "version": VERSION,
                "model": chat.catalog.default,
                "transports": ["rest", "ndjson", "sse", "websocket", "grpc"],
                "started": rfc3339(chat.stats.started),
                "endpoints": endpoints,
            }
        )

    @functools.cache
    def described() -> bytes:
        """Drawn at the first request; it takes 5 ms, in which nobody else is served."""
        return dumps(document(everything, VERSION, websocket)).encode()

    async def openapi(request: web.Request) -> web.StreamResponse:
        return Reply(described(), {"Content-Type": JSON_TYPE, "Cache-Control": "no-store"})

    id_parameter = Parameter("session_id", "path", "1 to 128 of `A-Z a-z 0-9 . _ -`.")
    chat_errors = (
        "invalid_request", "session_busy", "conflict", "rate_limited", "model_error", "model_timeout", "unavailable",
        "interrupted",
    )  # fmt: skip
    return [
        Route(
            "POST", "/chat", ask, "Ask, and get the whole answer",
            "An absent `session_id` makes a session; an unknown one makes it under that id. `model_id` chooses the "
            "model of a new session, or switches that of an existing one from this turn on. A client that half-closes "
            "its connection is answered, too; but it looks like one that has left, so its turn has the grace time "
            "left, and what has come by then is the answer (`finish_reason` is `cancelled`).",
            body=ChatRequest, answer=ChatAnswer,
            parameters=(IDEMPOTENCY_KEY,),
            errors=chat_errors, example={"message": "Hello, who are you?"}, at_once=True,
        ),
        Route(
            "POST", "/sessions/new", new_session, "Make a session", body=NewSession, answer=SessionCreated,
            errors=("invalid_request", "unavailable"), example={},
        ),
        Route(
            "GET", "/sessions", sessions, "List the sessions, newest activity first", answer=SessionList,
            parameters=(
                Parameter("limit", "query", f"How many, at most {MAX_PAGE}; {PAGE} if not given.", "integer"),
                Parameter("before", "query", "The `next` of the page before."),
            ),
            errors=("invalid_request", "unavailable"),
        ),
        Route(
            "GET", "/sessions/{session_id}", session, "A session and its messages", answer=SessionDetail,
            parameters=(id_parameter,), errors=("invalid_request", "not_found", "unavailable"),
        ),
        Route(
            "DELETE", "/sessions/{session_id}", delete, "Delete a session",
            "Its running turn is cancelled, its members are told, its turns are gone.", answer=Note,
            parameters=(id_parameter,), errors=("invalid_request", "not_found", "session_busy", "unavailable"),
        ),
        Route(
            "POST", "/sessions/{session_id}/clear", clear, "Empty a session's history",
            "Its running turn is cancelled. The session stays, and its turns can still be followed.", answer=Note,
            parameters=(id_parameter,), errors=("invalid_request", "not_found", "session_busy", "unavailable"),
        ),
        Route("GET", "/models", models, "The models that can be asked", answer=ModelList),
        Route(
            "GET", "/health", health, "Whether the server is well", answer=Health,
            also=((503, "It drains: the figures as ever, and no new turns."),), at_once=True,
        ),
        Route("GET", "/stats", stats, "The figures since the start", answer=ServerStats),
        Route("GET", "/metrics", metrics, "The figures for Prometheus", media=("text/plain",)),
        Route(
            "GET", "/", index, "What this server is", media=("application/json",),
            also=((303, "A browser is sent to the demo page."),),
        ),
        Route("GET", "/openapi.json", openapi, "This document", media=("application/json",)),
    ]  # fmt: skip

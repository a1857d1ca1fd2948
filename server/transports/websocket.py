"""The WebSocket's route: the handshake, who may come in, and what the documentation says of its messages."""

import zlib
from typing import Any, cast

from aiohttp import WSCloseCode, web

from proto.errors import CLOSE_GOING_AWAY, CLOSE_NOT_ALLOWED, CLOSE_TOO_BIG, CLOSE_TOO_SLOW, CLOSE_TRY_LATER, ChatError
from proto.requests import invalid
from proto.websocket import ADDED, CLIENT, SERVER
from server.connection import CLOSE_SECONDS, Connection, Hub
from server.edge import client_name, max_body_bytes
from server.http_protocol import HttpProtocol
from server.openapi import Messages
from server.reply import Reply, common_fields, problem
from server.transports import Route

VERSION = "13"  # of the protocol; aiohttp takes drafts, too
LARGEST_WINDOW = f"server_max_window_bits={zlib.MAX_WBITS}"

MESSAGES = Messages(
    "/ws",
    CLIENT,
    SERVER,
    ADDED,
    {
        CLOSE_GOING_AWAY: "The server goes down.",
        CLOSE_NOT_ALLOWED: "Not allowed. (A page of a foreign origin is refused before, with 403.)",
        CLOSE_TOO_BIG: "A message was larger than the server takes.",
        CLOSE_TRY_LATER: "The server has all the connections that it takes, or goes down.",
        CLOSE_TOO_SLOW: "Nothing was read for too long: come back with your cursors.",
    },
)


class Socket(web.WebSocketResponse):
    """aiohttp's own, with what its handshake and its goodbye lack."""

    def _handshake(self, request: web.BaseRequest) -> Any:
        """A limit of the window that a client asks for is to be agreed to, else it breaks off (RFC 7692 section
        7.1.2.1): also the largest there is, which aiohttp takes for none."""
        fields, protocol, window_bits, fresh = super()._handshake(request)
        if window_bits == zlib.MAX_WBITS and LARGEST_WINDOW in request.headers["Sec-WebSocket-Extensions"]:
            fields["Sec-WebSocket-Extensions"] += f"; {LARGEST_WINDOW}"
        return fields, protocol, window_bits, fresh

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """aiohttp closes with 1000 where what has come does not inflate, and by itself where the peer does or breaks
        the protocol: what the peer is to have comes before that, and nothing behind it (RFC 6455 section 5.5.1)."""
        if self.exception() is not None:
            code = WSCloseCode.INVALID_TEXT
        protocol = cast(HttpProtocol, cast(web.BaseRequest, self._req).protocol)
        if protocol.sink is not None:
            protocol.sink.lost()
        return await super().close(code=code, message=message, drain=drain)


def _refusal(request: web.Request) -> Reply:
    """What is no handshake gets, and one of another version: that is told ours (RFC 6455 section 4.4)."""
    text = f"This route is a WebSocket: connect with 'Upgrade: websocket', version {VERSION}."
    if request.headers.get("Sec-WebSocket-Version", VERSION) == VERSION:
        return problem(invalid(text), request)
    reply = problem(ChatError("invalid_request", text, http=426), request)
    reply.fields |= {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": VERSION}
    return reply


def _shakes(request: web.Request) -> bool:
    """Whether it is a handshake as far as aiohttp does not look: a HEAD cannot be one, nor HTTP/1.0; and it breaks at a
    key that is not ASCII."""
    fields = request.headers
    return (
        request.method == "GET"
        and request.version >= (1, 1)
        and fields.get("Sec-WebSocket-Version") == VERSION
        and fields.get("Sec-WebSocket-Key", "").isascii()
    )


def routes(hub: Hub) -> list[Route]:
    chat = hub.chat
    max_message_bytes = max_body_bytes(chat.settings.max_message_chars)

    async def open_websocket(request: web.Request) -> web.StreamResponse:
        ws = Socket(timeout=CLOSE_SECONDS, autoping=False, max_msg_size=max_message_bytes)
        if not _shakes(request) or not ws.can_prepare(request):
            return _refusal(request)
        ws.headers.update(common_fields(request))
        full = chat.stats.websockets >= chat.settings.max_streams
        protocol = cast(HttpProtocol, request.protocol)
        if protocol.half_closed:
            raise ConnectionResetError("the peer would never say anything")
        await ws.prepare(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the peer has left")
        chat.stats.websockets += 1
        connection = protocol.sink = Connection(hub, ws, protocol, transport, client_name(request))
        hub.connections[connection] = None
        if chat.draining or full:
            await connection.close(CLOSE_TRY_LATER, MESSAGES.close_codes[CLOSE_TRY_LATER])
        else:
            await connection.run()
        return ws

    return [
        Route(
            "GET", "/ws", open_websocket, "The WebSocket: sessions and their answers, live",
            "JSON messages in text frames, both ways; `x-websocket` in this document describes them.",
            errors=("invalid_request",), refused=(426,), status=101,
        ),
    ]  # fmt: skip

"""An HTTP connection: what aiohttp's protocol leaves open.

1. Whoever writes straight to the socket (`server.direct`) is told when that takes no more.
2. A head has a time limit, and so has a peer that takes nothing of a plain answer.
3. What cannot be parsed is answered as every error is, also where that is the rest of a body. The answer is the only
   one to all that has come in the same packet, for aiohttp's parser forgets what it has found there before; and nothing
   can be parsed behind a request that has said `Connection: close`.
4. What a WebSocket's client may not send is not parsed (`server.client_frames`).
5. A client that says no more still gets the answers to what it has asked. aiohttp takes it for one that has left.
6. A request that is there in full is handled at once where its route allows that: aiohttp's way to a handler and back
   are a task and three passes of the loop. What has to wait goes on there.
7. The head that such a request has in common with the one before it is not parsed again (`server.known_head`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import ERROR, RequestHandler, _ErrInfo

from proto.errors import ChatError
from server import lane
from server.client_frames import ClientFrames
from server.direct import DirectWriter
from server.first_step import RestOf
from server.known_head import KnownHead, known_head
from server.reply import Reply, problem

log = logging.getLogger(__name__)

HEAD_SECONDS = 15.0
KEEP_ALIVE_SECONDS = 75.0
MAX_HEADER_BYTES = 8190
MAX_HEADERS = 64

STREAMED: web.RequestKey[bool] = web.RequestKey("streamed")  # in a request whose stream has started


def started(request: web.BaseRequest) -> bool:
    """Whether aiohttp has written something, or a stream its head: a second answer in it would only confuse."""
    return request.writer.output_size > 0 or STREAMED in request


def more_behind(data: bytes, size: int) -> bool:
    """Whether anything comes behind the end of a head, or of a body that has so many bytes in this. The parser does not
    tell. A chunked body ends as a head does; either may do so in two pieces, and before blank lines."""
    ends = data, data[: len(data) - size]
    return not any(end.endswith(b"\r\n\r\n") or not end.strip(b"\r\n") for end in ends)


async def _failing(failure: Exception) -> web.StreamResponse:
    raise failure


class Sink:
    """What writes straight to a connection's socket, and so must know when that takes no more."""

    __slots__ = ()

    def pause(self) -> None:
        """The socket takes no more for now."""

    def resume(self) -> None:
        """It has taken everything."""

    def half_closed(self) -> None:
        """The peer says no more. It reads on, or it has left: only what is written to it tells."""

    def lost(self) -> None:
        """The connection is gone."""


class HttpProtocol(RequestHandler):
    """aiohttp's own, with what it leaves open."""

    __slots__ = (
        "_alone", "_at_once", "_begun", "_body", "_even", "_going_down", "_head_timer", "_known", "_stall_timer",
        "_torn", "direct", "half_closed", "sink",
    )  # fmt: skip

    direct: DirectWriter

    def __init__(
        self,
        manager: web.Server,
        going_down: Callable[[], bool],
        at_once: Collection[tuple[str, str]] = (),
        **options: Any,
    ) -> None:
        """`at_once` are the methods and paths whose handlers may begin outside of a task."""
        super().__init__(manager, **options)
        self._going_down = going_down  # whether the server is
        self._at_once = at_once
        self._alone = False  # the request that is being handled
        self._even = True  # each time that something has come it was one whole request
        self._known: KnownHead | None = None  # of the last one
        # A request, and what is left of its handler.
        self._begun: tuple[web.BaseRequest, Coroutine[Any, Any, web.StreamResponse]] | None = None
        self._request_factory = self._request
        self._request_handler = cast(Any, self._handle)
        self.half_closed = False  # by the peer
        self.sink: Sink | None = None
        self._body: StreamReader = EMPTY_PAYLOAD  # of the last request that has come, read or not
        self._torn = False  # the head of a request has begun, and goes on in the next packet
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.direct = DirectWriter(cast(asyncio.Transport, transport))
        self._head_timer = self._loop.call_later(HEAD_SECONDS, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._payload_parser is not None:  # a WebSocket's
            super().data_received(data)
            return
        waiter, self._waiter = self._waiter, None  # aiohttp's task is not to know of what is answered here
        known = self._known
        if data:  # aiohttp asks with nothing whether the parser has kept something
            self._known = None
        idle = waiter is not None and not waiter.done() and not self._close and not self._force_close
        body = known.again(data) if known is not None and idle else None
        if known is not None and body is not None:
            self._known, self._body, self._waiter = known, body, waiter
            self._messages.append((known.message, body))
            self._request_count += 1
        else:
            try:
                self._parse(data)
            finally:
                self._waiter = waiter
        if self._messages and waiter is not None and not waiter.done() and not self._answered() and not waiter.done():
            waiter.set_result(None)

    def _parse(self, data: bytes) -> None:
        before, whole, had = len(self._messages), self._even or self._body.is_eof(), self._body.total_bytes
        super().data_received(data)
        new = len(self._messages) - before
        head = None
        if self._messages:
            message, body = self._messages[-1]
            if not isinstance(message, _ErrInfo):
                self._body = body
                if self._even and new == 1:
                    head = known_head(data, message, body)
                    if (message.method, message.path) in self._at_once:
                        self._known = head
            elif not self._body.is_eof():
                self._spoil_body()
        if data:
            self._even = head is not None
            if head is not None:
                self._torn = False
            elif new or not whole or data.strip(b"\r\n"):  # else it is as it was
                size = self._body.total_bytes - (0 if new else had)
                self._torn = self._body.is_eof() and more_behind(data, size)

    def _answered(self) -> bool:
        """Whether the request that has come is answered, or has broken: else it is for aiohttp's task."""
        message, body = self._messages[0]
        if (
            len(self._messages) > 1
            or self._current_request is not None
            or isinstance(message, _ErrInfo)
            or (message.method, message.path) not in self._at_once
            or self._upgraded  # or would like to be
            or self.writing_paused
            or not body.is_eof()
        ):
            return False
        manager: Any = self._manager
        try:
            request = manager.request_factory(message, body, self, StreamWriter(self, self._loop), self._task_handler)
        except Exception:
            return False  # it will fail in the task as well, and be answered there
        handler = manager.request_handler(request)
        self._current_request = request
        self._messages.popleft()  # what comes while it is handled goes behind it
        self._alone = True
        try:
            waits_for = handler.send(None)
        except StopIteration as done:
            self._answer(request, done.value)
        except ConnectionError:
            self.force_close()
        else:
            self._begun = request, RestOf(handler, waits_for)
            self._messages.appendleft((message, body))
            return False
        finally:
            self._current_request = None
            self._alone = False
        if self._parser is not None:
            self._parser.message_consumed()
        return True

    def _answer(self, request: web.BaseRequest, reply: Reply) -> None:
        try:
            reply.send(request)
        except Exception:
            log.exception("a bug: the answer could not be written")
            self.force_close()
            return
        if reply.keep_alive:
            self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        elif self.transport is not None:
            self.transport.close()

    def _request(self, message: RawRequestMessage, body: StreamReader, *more: Any) -> web.BaseRequest:
        """What aiohttp's task is to have handled: a new request, or the one that has begun."""
        # What has come behind an upgrade that was declined has not come by `_parse`.
        self._body = self._messages[-1][1] if self._messages else body
        if self._begun is not None:
            return self._begun[0]
        if message.url.absolute:
            # aiohttp would decode its host, and break at what is no name. Nobody asks for it: who may come in is judged
            # by the Host field, in which a client has to say the same (RFC 9112 section 3.2).
            message = message._replace(url=message.url.relative())
        make = cast(Callable[..., web.BaseRequest], cast(Any, self._manager).request_factory)
        try:
            return make(message, body, *more)
        except Exception as failure:  # else it would end aiohttp's task, and nobody would hear of it
            request = make(ERROR, body, *more)
            self._begun = request, _failing(failure)
            return request

    def _handle(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        if self._begun is None:
            return cast(Awaitable[web.StreamResponse], cast(Any, self._manager).request_handler(request))
        (_, rest), self._begun = self._begun, None
        return rest

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called each time that a body is read: the parser may have kept something of what has come. It has not behind
        a request that came alone."""
        if self._reading_paused or not self._alone:
            super().resume_reading(resume_parser)

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        super().set_parser(cast(Any, ClientFrames(parser)), data_received_cb)

    @property
    def client_frames(self) -> ClientFrames:
        """Of a WebSocket, as long as it is connected: the reader behind them leads back here."""
        return cast(ClientFrames, self._payload_parser)

    def _spoil_body(self) -> None:
        """A body goes on with what is none. aiohttp tells nobody who reads it, and would answer that on its own."""
        self._body.feed_eof()
        self._body.set_exception(web.RequestPayloadError("the body is not encoded as its headers say"))
        self._messages.pop()
        if not self._messages:  # else its request waits for its turn
            self.close()

    @property
    def idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""
        return not self._torn and self._waiter is not None and not self._waiter.done()

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self.direct.lost()
        self._body = EMPTY_PAYLOAD
        if self._begun is not None:  # aiohttp's task will not come to it any more
            self._begun[1].close()
            self._begun = None
        if self.sink is not None:
            self.sink.lost()
            self.sink = None  # no cycle
        super().connection_lost(exc)

    def leaving(self) -> bool:
        """Whether no answer here has another one behind it."""
        return self._going_down() or (self.half_closed and not self._messages and not self._message_tail)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays for what is under way. TLS has no half-close, a WebSocket no use for one, and
        who has asked for nothing, or not to the end, waits for nothing."""
        asked = (self._waiter is None or self._waiter.done()) and self._payload_parser is None and self._body.is_eof()
        if not asked or self.transport is None or not self.transport.can_write_eof():
            return False
        self.half_closed = True
        if not self._messages and not self._message_tail:
            self.close()  # behind the answer that is under way
        if self.sink is not None:
            self.sink.half_closed()
        return True

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
        now = self.direct.held()
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
        if isinstance(exc, ConnectionError) or started(request):
            raise ConnectionError("the peer has left, or the answer has started")
        if isinstance(exc, HttpProcessingError):
            error = ChatError("invalid_request", "The request is not valid HTTP/1.1, or its head is too large.")
        else:
            log.error("a bug: the request failed outside of its handler", exc_info=exc)
            error = ChatError("internal", "The server failed; its log says more.")
        reply = problem(error, request)
        reply.force_close()
        return reply

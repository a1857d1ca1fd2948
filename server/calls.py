"""The calls of one gRPC connection: which are taken, how they begin, and how they end. grpclib's own handler looks at
the headers of every call anew, and makes a task for each: a sixth of the time to a first event.

1. A call whose request has come in full begins at once, in the call that brings it; what of it has to wait goes on in a
   task (`server.first_step`). Every other begins in a task.
2. Clients send the same headers with each call: what they come to is found out once.
3. A call beyond `MAX_CONCURRENT_STREAMS` is refused, the others live on. Calls count until they have ended, so that a
   peer which opens and resets them faster than that runs into the limit, not into our memory.
"""

import asyncio
import logging
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.metadata import decode_timeout
from grpclib.protocol import AbstractHandler
from grpclib.server import Stream
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from proto.grpc_stream import Headers
from proto.h2 import MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_BYTES
from server.call import Ending, ServerStream
from server.first_step import RestOf

if TYPE_CHECKING:
    from server.h2 import GrpcServer, ServerProtocol

ENTRY_BYTES = 32  # that a header counts for, besides its own (RFC 9113 section 6.5.2)
TOO_LARGE_COST = 3  # of a peer's budget: a frame, and what the answer brings it
CONTENT_TYPES = ("application/grpc", "application/grpc+proto")

_USED = {"grpc-encoding", "grpc-accept-encoding"}  # of a call's headers, those that mean something while it lasts
_TIMEOUT = re.compile(r"[0-9]{1,8}[HMSmun]")
log = logging.getLogger(__name__)

Release = Callable[[], object]


class Refusal(NamedTuple):
    """Why a call is not taken; with no HTTP status it is not answered at all."""

    http: int | None
    status: Status | None = None
    message: str = ""


class Asked(NamedTuple):
    """What the headers of a call come to."""

    path: str
    method: Handler
    used: Headers
    seconds: float | None


class Calls(AbstractHandler):
    """The calls of one connection."""

    def __init__(self, server: "GrpcServer", protocol: "ServerProtocol") -> None:
        self._server = server
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._new: dict[ServerStream, tuple[Coroutine[Any, Any, None], Release]] = {}  # not begun
        self._tasks: dict[ServerStream, asyncio.Task[None]] = {}
        self._cancelled: set[asyncio.Task[None]] = set()
        self._headers: Headers = []  # of the last call that was taken
        self._asked: Asked | None = None

    @property
    def tasks(self) -> set["asyncio.Task[None]"]:
        return {*self._tasks.values(), *self._cancelled}

    def accept(self, stream: Any, headers: Headers, release_stream: Release) -> None:
        asked = self._asked
        if len(self._protocol.processor.streams) > MAX_CONCURRENT_STREAMS:
            stream.connection.h2.budget -= 1
            return self._ended(stream, release_stream, ErrorCodes.REFUSED_STREAM)
        if headers is not self._headers or asked is None:  # the same list comes as long as the peer sends the same
            found = _asked(headers, self._server.mapping)
            if isinstance(found, Refusal):
                return self._refuse(stream, release_stream, found)
            asked, self._asked, self._headers = found, found, headers
        stream.headers = asked.used
        if asked.seconds is not None:
            stream.deadline = self._loop.call_later(asked.seconds, _time_is_up, stream)
        self._new[stream] = self._serve(stream, asked), release_stream
        return None

    def begin(self) -> None:
        """All that has come in one go has been heard: the calls in it begin."""
        while self._new:
            stream = next(iter(self._new))
            call, release = self._new.pop(stream)
            if stream.buffer.ended:
                try:
                    call = RestOf(call, call.send(None))
                except (StopIteration, asyncio.CancelledError):
                    self._ended(stream, release)
                    continue
            task = self._tasks[stream] = self._loop.create_task(call)
            task.add_done_callback(partial(self._task_ended, stream, release))
            if stream.wrapper is not None:
                stream.wrapper.goes_on_in(task)

    async def _serve(self, stream: ServerStream, asked: Asked) -> None:
        path, method = asked.path, asked.method
        call: Stream[Any, Any] = Stream(
            stream, path, method.cardinality, method.request_type, method.reply_type,
            codec=self._server.codec, status_details_codec=None, dispatch=self._server.dispatch,
        )  # fmt: skip
        try:
            async with call:  # which tells the peer how it has ended
                stream.wrapper = ending = Ending()
                try:
                    with ending:
                        await method.func(call)
                except (GRPCError, StreamTerminatedError, StreamClosedError, ConnectionError):
                    raise  # the last two: the peer has left
                except Exception:
                    log.exception("a bug: %s failed", path)
                    raise
        except Exception:
            log.exception("a bug: the end of %s could not be told", path)

    def _refuse(self, stream: ServerStream, release: Release, refusal: Refusal) -> None:
        if refusal.http is None:
            return self._ended(stream, release, ErrorCodes.PROTOCOL_ERROR)
        if refusal.status is Status.RESOURCE_EXHAUSTED:
            stream.connection.h2.budget -= TOO_LARGE_COST
        if stream.closable:  # else it is over already, by what has come in the same packet
            stream.refuse(refusal.http, refusal.status, refusal.message)
            stream.connection.flush()
        return self._ended(stream, release)

    def _task_ended(self, stream: ServerStream, release: Release, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(stream, None)
        self._cancelled.discard(task)
        self._ended(stream, release)

    def _ended(self, stream: ServerStream, release: Release, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """It is over, one way or another; with this code where no status says how."""
        if stream.deadline is not None:
            stream.deadline.cancel()
        if stream.closable:
            stream.reset_nowait(ErrorCodes.NO_ERROR if stream.ended else code)
        if stream.outflow is not None:
            stream.outflow.close()
        if stream.ended:
            stream.connection.h2.answered()
        release()
        self._protocol.call_ended()

    def cancel(self, stream: Any) -> None:
        """The peer has no use for the answer any more."""
        if stream in self._new:
            call, release = self._new.pop(stream)
            call.close()
            self._ended(stream, release)
        elif stream in self._tasks:
            task = self._tasks.pop(stream)
            self._cancelled.add(task)
            task.cancel()

    def close(self) -> None:
        for stream in (*self._new, *self._tasks):
            self.cancel(stream)


def _time_is_up(stream: ServerStream) -> None:
    if stream.wrapper is not None:
        stream.wrapper.cancel(GRPCError(Status.DEADLINE_EXCEEDED, "The time of the call is up."))


def _asked(headers: Headers, methods: dict[str, Handler]) -> Asked | Refusal:
    names = dict(headers)
    if ":method" not in names or ":path" not in names:
        return Refusal(None)
    if sum(len(name) + len(value) + ENTRY_BYTES for name, value in headers) > MAX_HEADER_LIST_BYTES:
        return Refusal(200, Status.RESOURCE_EXHAUSTED, f"A call may have {MAX_HEADER_LIST_BYTES} bytes of headers.")
    problem = _bad_header(headers)
    if problem:
        return Refusal(200, Status.INVALID_ARGUMENT, problem)
    if names[":method"] != "POST":
        return Refusal(405)
    # The parameters of a content type are passed over, as gRPC's own servers do it.
    if names.get("content-type", "").partition(";")[0].rstrip() not in CONTENT_TYPES:
        return Refusal(415, Status.UNKNOWN, "The content-type of a call is application/grpc.")
    if names.get("te") != "trailers":
        return Refusal(400, Status.UNKNOWN, "A call has te: trailers, for its status comes in one.")
    path = names[":path"]
    if path not in methods:
        return Refusal(200, Status.UNIMPLEMENTED, "Method not found")
    timeouts = [decode_timeout(value) for name, value in headers if name == "grpc-timeout"]
    used = [(name, value) for name, value in headers if name in _USED]
    return Asked(path, methods[path], used, min(timeouts, default=None))


def _bad_header(headers: Headers) -> str | None:
    for name, value in headers:
        if name == "grpc-timeout" and not _TIMEOUT.fullmatch(value):
            return "grpc-timeout must be up to 8 digits and a unit."
        if name.endswith("-bin"):
            try:
                for part in map(str.strip, value.split(",")):  # those of one name may come joined
                    b64decode(part + "=" * (-len(part) % 4), validate=True)
            except (Base64Error, ValueError):
                return "A -bin header is not base64."
    return None

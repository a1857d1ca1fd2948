"""gRPC: the chat service, health and reflection, on grpclib.

1. What a call answers is in `server.rpc`, shared with gRPC-Web; a call of `Chat` is a `server.conversation`.
2. A failure before the first message is a status with our code in the trailing metadata (also one that is met below
   the service, which `server.outflow` sees to); after it, an ERROR response.
3. A deadline or a cancellation ends the call, not the turn: it goes on for the grace time, as with a dropped HTTP
   stream.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_grpc import HealthBase
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.reflection.service import ServerReflection
from grpclib.server import Stream
from h2.exceptions import StreamClosedError

from proto import pb
from proto.errors import CODES, ChatError
from proto.events import Event
from proto.grpc_web import SHORT_PREFIXES, frame
from server.call import ServerStream
from server.chat import Chat
from server.conversation import Call, CallReader, Conversation
from server.h2 import GrpcServer
from server.lane import Framing
from server.outflow import Outflow
from server.rpc import METHODS, SERVICE, Method, Rpc, framed_event
from server.turn import Turn

if TYPE_CHECKING:
    from grpclib._typing import IServable

REQUEST_SECONDS = 30.0

log = logging.getLogger(__name__)


_FRAMER = pb.chunk_framer(SHORT_PREFIXES, frame)


class Grpc(Framing):
    """Messages with their prefix, ready for a DATA frame; HTTP/2 has its own PING as a sign of life."""

    name = "grpc"

    def encode(self, turn: Turn, event: Event) -> bytes:
        return framed_event(turn, event)

    def of_turn(self, turn: Turn) -> str:
        return pb.chunk_parts(turn.session_id, turn.id)

    @property
    def framer(self) -> pb.ChunkFramer:
        return _FRAMER


GRPC = Grpc()


class ChatService:
    """`chat.ChatService`."""

    def __init__(self, chat: Chat) -> None:
        self._rpc = Rpc(chat, GRPC.name)
        self._conversations: set[Conversation] = set()

    def __mapping__(self) -> dict[str, Handler]:
        return {
            f"/{SERVICE}/{method.name}": Handler(
                _told(self._call(method)),
                Cardinality((method.takes_stream, method.gives_stream)),  # type: ignore[call-arg]
                method.takes,
                method.gives,
            )
            for method in METHODS.values()
        }

    def drain(self) -> None:
        """End the conversations that nothing happens in; the others with their turns."""
        for conversation in tuple(self._conversations):
            conversation.drain()

    def _call(self, method: Method) -> Callable[[Any], Awaitable[None]]:
        if method.takes_stream:
            return self._converse
        if method.gives_stream:
            return self._follow

        async def answer(stream: Stream[Any, Any]) -> None:
            message = await self._rpc.answer(method.name, await _request(stream))
            if cast(ServerStream, stream._stream).answer(message.SerializeToString()):
                stream._send_trailing_metadata_done = True  # grpclib has nothing left to say
            else:
                await stream.send_message(message)

        return answer

    async def _follow(self, stream: Stream[Any, Any]) -> None:
        followed = await self._rpc.follow(await _request(stream), _client(stream))
        if followed is None:
            await stream.send_initial_metadata()
            return
        turn = followed.turn
        turn.attend()
        try:
            outflow = await _outflow(stream, {"fivewire-turn-id": turn.id})
            reader = CallReader(GRPC, outflow)
            turn.follow(reader, followed.after)
            outflow.open()  # where no message has left yet, the peer is not to wait for one
        finally:
            turn.neglect()
        try:
            await reader.done
            await outflow.drained()
        finally:
            reader.close()
        if cast(ServerStream, stream._stream).finish():
            stream._send_trailing_metadata_done = True

    async def _converse(self, stream: Call) -> None:
        outflow = await _outflow(stream, {})
        outflow.open()
        conversation = Conversation(self._rpc, GRPC, stream, outflow, _client(stream))
        self._conversations.add(conversation)
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)


async def _request(stream: Stream[Any, Any]) -> Any:
    inbox = cast(ServerStream, stream._stream).buffer
    payload = inbox.only()
    if payload is not None:
        return stream._codec.decode(payload, stream._recv_type)
    try:
        if inbox.ended:
            request = await stream.recv_message()
        else:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await stream.recv_message()
    except TimeoutError:
        raise GRPCError(Status.DEADLINE_EXCEEDED, "The request did not come in time.") from None
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "The call has no message.")
    return request


async def _outflow(stream: Stream[Any, Any], metadata: dict[str, str]) -> Outflow:
    call = cast(ServerStream, stream._stream)
    headers = call.headers_frame(metadata)
    if headers:
        stream._send_initial_metadata_done = True
    else:
        await stream.send_initial_metadata(metadata=metadata)
    return Outflow(call, headers)


def _client(stream: Stream[Any, Any]) -> str:
    """Who asks, for the log and for idempotency keys without a session."""
    address = stream.peer.addr()
    return str(address[0]) if address else "unknown"


def _told(call: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """A call whose failures become a status."""

    async def told(stream: Stream[Any, Any]) -> None:
        try:
            await call(stream)
        except ChatError as error:
            await _fail(stream, error)
        except (GRPCError, StreamClosedError, ConnectionError):
            raise
        except Exception:
            log.exception("a bug: %s failed", stream._method_name)
            await _fail(stream, ChatError("internal", "The server failed; its log says more."))

    return told


async def _fail(stream: Stream[Any, Any], error: ChatError) -> None:
    status = Status[CODES[error.code].grpc]
    await stream.send_trailing_metadata(status=status, status_message=error.message, metadata=pb.error_metadata(error))


class Health(HealthBase):
    """`grpc.health.v1.Health`: serving until the server drains. A watcher is told so, and let go."""

    def __init__(self) -> None:
        self._draining = asyncio.Event()

    def drain(self) -> None:
        self._draining.set()

    def _status(self) -> HealthCheckResponse:
        serves = not self._draining.is_set()
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if serves else HealthCheckResponse.NOT_SERVING)

    async def Check(self, stream: Stream[HealthCheckRequest, HealthCheckResponse]) -> None:
        request = await _request(stream)
        if request.service not in ("", SERVICE):
            raise GRPCError(Status.NOT_FOUND, f"The services here are '' and {SERVICE}.")
        await stream.send_message(self._status())

    async def Watch(self, stream: Stream[HealthCheckRequest, HealthCheckResponse]) -> None:
        request = await _request(stream)
        known = request.service in ("", SERVICE)
        await stream.send_message(
            self._status() if known else HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        )
        await self._draining.wait()
        if known:
            await stream.send_message(self._status())
        raise GRPCError(Status.UNAVAILABLE, "The server is going down.")


class Service:
    """Everything that is served over gRPC."""

    def __init__(self, chat: Chat) -> None:
        self._chat_service = ChatService(chat)
        self._health = Health()
        services: list[IServable] = [self._chat_service, self._health]
        self._server = GrpcServer(ServerReflection.extend(services))

    def protocol(self) -> asyncio.Protocol:
        """A connection's protocol, for a listener."""
        return self._server.protocol()

    def drain(self) -> None:
        """Ask clients to come no more; calls in flight go on."""
        self._health.drain()
        self._chat_service.drain()
        self._server.drain()

    async def stop(self, seconds: float) -> None:
        """Let the calls in flight end, for so long, then end what is left."""
        self.drain()
        await self._server.stop(seconds)

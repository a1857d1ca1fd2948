"""gRPC: one `Chat` stream for asking and for what others do, a call of its own for everything else.

1. A status with our code in the trailing metadata is the server's refusal. One without comes from whatever stands in
   between, or from the connection, and means that the server was not reached.
2. `Chat` may be silent for hours: that somebody is still there is known from the connection's HTTP/2 pings.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from grpclib.client import ServiceMethod, Stream
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.exceptions import ProtocolError as MisusedError
from h2.exceptions import H2Error

from client.channel import Channel
from client.duplex import Duplex
from client.transports import CONNECT_SECONDS, REPLY_SECONDS, ConnectionLost, Listener, Update, trouble
from proto import chat_pb2 as pb2
from proto import pb
from proto.answers import Health, ModelList, ServerStats, SessionCreated, SessionDetail, SessionList
from proto.chat_grpc import ChatServiceStub
from proto.errors import ChatError, ProtocolError
from proto.events import TERMINAL, Error, Event, SessionInfo
from proto.requests import ChatRequest

_TROUBLE = (StreamTerminatedError, MisusedError, H2Error, ProtocolError, TimeoutError, OSError)
_Chat = Stream[pb2.ChatRequest, pb2.ChatResponse]


class Grpc:
    name = "grpc"
    live = True

    def __init__(self, url: str, listener: Listener) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if secure else 80)
        self._tls = _tls() if secure else None
        self._channel: Channel | None = None
        self._duplex = Duplex(listener)
        self._chat: _Chat | None = None
        self._reader: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._joined: str | None = None

    @property
    def _stub(self) -> ChatServiceStub:
        if self._channel is None:
            self._channel = Channel(self._host, self._port, ssl=self._tls)
        return ChatServiceStub(self._channel)

    # The standing stream

    async def connect(self) -> None:
        async with self._connecting:
            if self._chat is not None:
                return
            opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._reader = asyncio.create_task(self._read(opened))
            try:
                await asyncio.wait_for(asyncio.shield(opened), CONNECT_SECONDS)
                await self._duplex.question(lambda: self._say(pb2.ChatRequest(type=pb2.ChatRequest.PING)), pb.Pong)
                if self._joined is not None:
                    await self._rejoin(self._joined)
            except TimeoutError as error:
                await self._hang_up()
                raise self._gone(error) from error
            except ConnectionLost:  # told to whoever connects, so that the reader need not tell it any more
                await self._hang_up()
                raise

    async def _rejoin(self, session_id: str) -> None:
        try:
            await self._join(session_id)
        except ChatError:
            self._joined = None

    async def _read(self, opened: asyncio.Future[None]) -> None:
        """The life of one `Chat` stream."""
        try:
            async with self._translated(self._stub.Chat) as stream:
                await stream.send_request()
                self._chat = stream
                opened.set_result(None)
                while (response := await stream.recv_message()) is not None:
                    self._received(response)
                raise ConnectionLost(f"The server at {self.url} has closed the connection.")
        except (ConnectionLost, ChatError) as error:
            self._chat = None
            if isinstance(error, ChatError) and not error.retryable:
                self._duplex.refused(error)
            lost = error if isinstance(error, ConnectionLost) else ConnectionLost(error.message)
            if opened.done():
                self._duplex.lost(lost, quietly=self._connecting.locked())  # whoever connects is told
            else:
                opened.set_exception(lost)
        finally:
            self._chat = None

    def _received(self, response: pb2.ChatResponse) -> None:
        word = pb.from_response(response)
        if isinstance(word, pb.Pong):
            self._duplex.answered(word)
        elif isinstance(word, pb.SessionUpdate):
            if word.update_type == "session_joined":
                self._duplex.answered(word)
            elif word.update_type != "session_created":  # the turn's first event says it again
                self._duplex.updated(Update(word.update_type, word.session_id, word.fields))
        elif isinstance(word, Error) and not word.seq:
            self._duplex.refused(pb.refused(word))
        elif word is not None:
            self._duplex.event(word)

    def _gone(self, error: Exception) -> ConnectionLost:
        """The trouble as one clear sentence."""
        if self._channel is not None and self._channel.foreign:
            return ConnectionLost(f"{self.url} answers, but is no fivewire server (it does not speak HTTP/2).")
        return trouble(self.url, error, self._channel is None or self._channel.reached)

    async def _say(self, request: pb2.ChatRequest) -> None:
        chat = self._chat
        if chat is None:
            raise self._gone(ConnectionResetError())
        try:
            await chat.send_message(request)
        except _TROUBLE as error:
            raise self._gone(error) from error

    async def _hang_up(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            self._reader = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def close(self) -> None:
        await self._hang_up()
        self._duplex.lost(ConnectionLost("The connection was closed."), quietly=True)

    # The calls

    @asynccontextmanager
    async def _translated(self, method: ServiceMethod[Any, Any], timeout: float | None = None) -> AsyncIterator[Any]:
        """An open call whose failures are the contract's."""
        stream = method.open(timeout=timeout)
        try:
            async with stream:
                yield stream
        except GRPCError as error:
            metadata = {str(name): value for name, value in (stream.trailing_metadata or {}).items()}
            if "fivewire-code" not in metadata and error.status.name in ("UNAVAILABLE", "UNKNOWN", "UNIMPLEMENTED"):
                raise ConnectionLost(
                    f"{self.url} does not speak gRPC: {error.message or error.status.name}."
                ) from error
            raise pb.chat_error(error.status.name, error.message or "", metadata) from error
        except _TROUBLE as error:
            raise self._gone(error) from error

    async def _call(self, method: ServiceMethod[Any, Any], request: Any) -> Any:
        async with self._translated(method, REPLY_SECONDS) as stream:
            await stream.send_message(request, end=True)
            reply = await stream.recv_message()
            if reply is None:
                await stream.recv_trailing_metadata()
                raise ConnectionLost(f"The server at {self.url} gave no answer.")
            return reply

    async def send(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        await self.connect()
        async for event in self._duplex.ask(request, lambda: self._say(pb.ask(request))):
            if isinstance(event, SessionInfo):
                self._joined = event.session_id  # who asks is a member
            yield event

    async def follow(self, turn_id: str, after: int) -> AsyncGenerator[Event, None]:
        seen = False
        async with self._translated(self._stub.FollowTurn) as stream:
            await stream.send_message(pb2.FollowTurnRequest(turn_id=turn_id, after=pb.after(after)), end=True)
            while (response := await stream.recv_message()) is not None:
                event = pb.from_response(response)
                if event is None or isinstance(event, pb.Pong | pb.SessionUpdate):
                    continue
                seen = True
                yield event
                if isinstance(event, TERMINAL):
                    return
        if seen:
            raise ConnectionLost("The stream was cut before its end.")

    async def cancel(self, turn_id: str | None) -> None:
        if turn_id is not None:
            await self._call(self._stub.CancelTurn, pb2.CancelTurnRequest(turn_id=turn_id))

    async def join(self, session_id: str) -> None:
        await self.connect()
        await self._join(session_id)
        self._joined = session_id

    async def _join(self, session_id: str) -> None:
        request = pb2.ChatRequest(type=pb2.ChatRequest.JOIN, session_id=session_id)
        await self._duplex.question(lambda: self._say(request), pb.SessionUpdate)

    async def leave(self, session_id: str) -> None:
        if self._joined == session_id:
            self._joined = None

    async def typing(self, session_id: str, active: bool) -> None:
        kind = pb2.ChatRequest.TYPING_START if active else pb2.ChatRequest.TYPING_STOP
        if self._joined == session_id:  # else the refusal might be taken for the answer to something else
            await self._say(pb2.ChatRequest(type=kind, session_id=session_id))

    async def new_session(self, model_id: str | None) -> SessionCreated:
        reply = await self._call(self._stub.CreateSession, pb2.CreateSessionRequest(model_id=model_id or ""))
        created: SessionCreated = pb.to_word(reply)
        return created

    async def sessions(self, limit: int, before: str | None = None) -> SessionList:
        request = pb2.ListSessionsRequest(limit=limit, before=before or "")
        reply = await self._call(self._stub.ListSessions, request)
        sessions: SessionList = pb.to_word(reply)
        return sessions

    async def session(self, session_id: str) -> SessionDetail:
        info = await self._call(self._stub.GetSessionInfo, pb2.SessionInfoRequest(session_id=session_id))
        history = await self._call(self._stub.GetHistory, pb2.HistoryRequest(session_id=session_id))
        return pb.session_detail(info, history)

    async def clear(self, session_id: str) -> None:
        await self._call(self._stub.ClearSession, pb2.ClearSessionRequest(session_id=session_id))

    async def delete(self, session_id: str) -> None:
        await self._call(self._stub.DeleteSession, pb2.DeleteSessionRequest(session_id=session_id))

    async def stats(self) -> ServerStats:
        stats: ServerStats = pb.to_word(await self._call(self._stub.GetServerStats, pb2.ServerStatsRequest()))
        return stats

    async def health(self) -> Health:
        stats = await self.stats()
        return Health(*(getattr(stats, name) for name in Health._fields))

    async def models(self) -> ModelList:
        models: ModelList = pb.to_word(await self._call(self._stub.ListModels, pb2.ListModelsRequest()))
        return models

    async def ping(self) -> None:
        await self.connect()
        await self._duplex.question(lambda: self._say(pb2.ChatRequest(type=pb2.ChatRequest.PING)), pb.Pong)


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    return context

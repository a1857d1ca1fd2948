"""One call of `Chat`: a stream of requests in, and out the turns and updates of every session that it has joined.

1. A failed request is answered by an ERROR response, and the stream lives on. Bytes that are no request end it.
2. Whoever asks in a session, or types, is a member of it from then on, as with JOIN: clients of older servers know no
   JOIN. A member is shown every turn of the session, whoever asked.
3. The next request is read when the peer has taken what was answered to the one before.
4. When the client has said its last, the call ends with the last turn that it follows; when the server goes down,
   likewise, with UNAVAILABLE.
"""

import asyncio
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from proto import pb
from proto.chat_pb2 import ChatRequest, ChatResponse
from proto.errors import ChatError
from proto.grpc_web import frame
from proto.requests import invalid
from server import ids
from server.chat import Chat
from server.clock import timestamp
from server.lane import Follower, Framing
from server.outflow import Outflow
from server.rpc import Rpc
from server.sessions import MAX_UNREAD_BYTES, Session, check_joined
from server.turn import Turn

Call = Stream[ChatRequest, ChatResponse]


class CallReader:
    """Follows one turn on one call."""

    __slots__ = ("done", "follower", "framing", "writer")

    def __init__(self, framing: Framing, outflow: Outflow) -> None:
        self.framing = framing
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.follower: Follower | None = None
        self.writer = outflow
        outflow.readers[self] = None

    def ended(self, follower: Follower) -> None:
        self.writer.readers.pop(self, None)
        if not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        self.writer.readers.pop(self, None)
        if self.follower is not None:
            self.follower.close()

    def drop(self) -> None:
        self.writer.drop()

    def pause(self) -> None:
        if self.follower is not None:
            self.follower.pause()

    def resume(self) -> None:
        if self.follower is not None:
            self.follower.resume()


class Conversation:
    """A call of `Chat`, and as such a member of sessions."""

    def __init__(self, rpc: Rpc, framing: Framing, call: Call, outflow: Outflow, client: str) -> None:
        self.connection_id = ids.connection_id()
        self._rpc = rpc
        self._chat: Chat = rpc.chat
        self._framing = framing
        self._call = call
        self._outflow = outflow
        self._client = client
        self._sessions: dict[str, Session] = {}
        self._readers: dict[str, CallReader] = {}
        self._busy = self._leaving = False

    async def run(self) -> None:
        try:
            async for request in self._call:
                self._busy = True
                try:
                    await self._take(request)
                except ChatError as error:
                    self._say(pb.error_response(error, request.session_id, timestamp()))
                await self._outflow.drained()
                self._busy = False
                if self._leaving:
                    self.drain()
            while self._readers:
                turn_id, reader = next(iter(self._readers.items()))
                await reader.done
                self._turn_ended(turn_id, reader)  # its own callback may not have had its chance yet
            await self._outflow.drained()
        finally:
            for reader in tuple(self._readers.values()):
                reader.close()
            for session in self._sessions.values():
                self._chat.leave(session, self)

    def drain(self) -> None:
        """The server goes down: end when the last turn has."""
        self._leaving = True
        wrapper = self._call._stream.wrapper
        if not self._readers and not self._busy and not self._outflow.waiting and wrapper is not None:
            wrapper.cancel(GRPCError(Status.UNAVAILABLE, "The server is going down: try again in a moment."))

    async def _take(self, request: ChatRequest) -> None:
        match request.type:
            case ChatRequest.MESSAGE:
                await self._ask(request)
            case ChatRequest.PING:
                self._say(ChatResponse(type=ChatResponse.PONG, session_id=request.session_id, timestamp=timestamp()))
            case ChatRequest.TYPING_START | ChatRequest.TYPING_STOP:
                session = await self._join(request.session_id)
                typing = request.type == ChatRequest.TYPING_START
                session.tell("user_typing", {"connection_id": self.connection_id, "typing": typing}, but=self)
            case ChatRequest.CANCEL:
                followed = request.turn_id in self._readers
                turn = await self._chat.cancel(request.turn_id)
                if not followed:
                    self._show_end(turn)
            case ChatRequest.RESUME:
                await self._resume(request)
            case ChatRequest.JOIN:
                session = await self._join(request.session_id)
                self.updated(
                    session.id,
                    "session_joined",
                    {
                        "model": session.model,
                        "message_count": session.message_count,
                        "connection_id": self.connection_id,
                    },
                )
            case _:
                raise invalid(f"This server does not know requests of the type {request.type}.")

    async def _ask(self, request: ChatRequest) -> None:
        if request.session_id not in self._sessions:
            check_joined(len(self._sessions))
        asked = pb.asked(request, self._chat.settings.max_message_chars)
        turn = await self._chat.send(asked, "grpc", self._client, make=False)
        turn.attend()
        try:
            session = await self._chat.session(turn.session_id)
            if not request.session_id:
                self.updated(
                    session.id, "session_created", {"model": session.model, "connection_id": self.connection_id}
                )
            self._enter(session)
            self._follow(turn, 0)
        finally:
            turn.neglect()

    async def _resume(self, request: ChatRequest) -> None:
        followed = await self._rpc.resume(request.turn_id, request.after)
        if followed is None:
            self._show_end(await self._chat.turn(request.turn_id))
            return
        known = self._readers.pop(request.turn_id, None)
        if known is not None:
            known.close()
        self._follow(followed.turn, followed.after)

    async def _join(self, session_id: str) -> Session:
        if not session_id:
            raise invalid("'session_id' is missing.")
        if session_id not in self._sessions:
            check_joined(len(self._sessions))
        session = await self._chat.session(session_id)
        self._enter(session)
        return session

    def _enter(self, session: Session) -> None:
        if session.id not in self._sessions:
            self._sessions[session.id] = session
            self._chat.join(session, self)

    def _show_end(self, turn: Turn) -> None:
        """The end of a turn, to one who does not follow it."""
        if turn.terminal is not None:
            self._outflow.write(self._framing.encode(turn, turn.terminal))

    def _follow(self, turn: Turn, after: int) -> None:
        if turn.id not in self._readers:
            reader = self._readers[turn.id] = CallReader(self._framing, self._outflow)
            reader.done.add_done_callback(lambda _: self._turn_ended(turn.id, reader))
            turn.follow(reader, after)

    def _turn_ended(self, turn_id: str, reader: CallReader) -> None:
        if self._readers.get(turn_id) is reader:
            del self._readers[turn_id]
            reader.close()  # where the call is cancelled while it waits for the turn, that has not ended
        if self._leaving:
            self.drain()

    def _say(self, response: ChatResponse) -> None:
        self._outflow.write(frame(response.SerializeToString()))

    # As a member of sessions

    def turn_started(self, turn: Turn) -> None:
        self._follow(turn, 0)

    def updated(self, session_id: str, update_type: str, fields: dict[str, Any]) -> None:
        if update_type == "session_deleted":
            self._sessions.pop(session_id, None)
        if self._outflow.buffered() > MAX_UNREAD_BYTES:
            self._outflow.drop()
        else:
            self._say(pb.update_response(pb.SessionUpdate(session_id, update_type, fields, timestamp())))

"""A WebSocket connection: it joins sessions, asks, and sees everything that happens in them.

1. aiohttp does the handshake, reads, and closes. What is written goes straight to the socket: replies as they are
   made, the events of turns as ready-made frames that all members share (`server.lane`).
2. Messages are taken one at a time, and not faster than the peer takes the answers (`server.hearing`).
3. What the peer does not read piles up only as far as the turns' logs and `MAX_UNREAD_BYTES`; then, or without progress
   for 30 s, the connection is closed with 4408. The other members notice nothing.
4. A ping goes out every heartbeat. A peer that has said nothing from one to the next is dead, unless it still takes
   bytes. aiohttp's own heartbeat would wait for a stalled peer's buffer to empty before it closes.
5. `leave` is called at once when the peer is gone, or before it is said goodbye to, and may find a message in the midst
   of being answered: from then on nothing is joined or followed any more.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from proto import websocket
from proto.errors import CLOSE_GOING_AWAY, CLOSE_TOO_SLOW, ChatError
from proto.requests import ChatRequest, invalid
from server import ids
from server.chat import Chat
from server.clock import timestamp
from server.frames import Frames
from server.hearing import Hearing
from server.http_protocol import HttpProtocol, Sink
from server.lane import Follower, Framing
from server.sessions import MAX_UNREAD_BYTES, Session, check_joined
from server.stats import FRAMEWORK
from server.turn import Turn

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0  # for the peer's half of the closing handshake
GATHER_SECONDS = 0.02  # updates of one moment: a thousand who come to a room at once tell it to a thousand
GATHER_UPDATES = 100
MAX_FOLLOWED = 200  # turns that one connection may follow at once


@dataclass(slots=True)
class Hub:
    """What all connections share."""

    chat: Chat
    frames: Frames = field(default_factory=Frames)
    connections: dict["Connection", None] = field(default_factory=dict)
    down: bool = False

    def welcome(self, connection_id: str) -> websocket.Connected:
        info = websocket.ServerInfo(self.chat.catalog.default, FRAMEWORK, websocket.FEATURES)
        return websocket.Connected(connection_id, "Connected: create or join a session, or chat.", info, timestamp())

    async def shut(self) -> None:
        """The server goes down: close every connection. Nobody is told that the others leave."""
        self.down = True
        closing = [
            connection.close(CLOSE_GOING_AWAY, "The server goes down.") for connection in tuple(self.connections)
        ]
        if closing:
            await asyncio.wait(closing)


class SocketReader:
    """Follows one turn on one connection."""

    __slots__ = ("_connection", "follower", "framing", "writer")

    def __init__(self, connection: "Connection", framing: Framing) -> None:
        self._connection = connection
        self.framing = framing
        self.writer = connection.writer
        self.follower: Follower | None = None

    def ended(self, follower: Follower) -> None:
        self._connection.ended(follower.turn, self)

    def drop(self) -> None:
        self._connection.drop()

    def close(self) -> None:
        if self.follower is not None:
            self.follower.close()


class Connection(Sink):
    """One open WebSocket: a member of sessions, and a reader of their turns."""

    __slots__ = (
        "_beat_timer", "_chat", "_client", "_closing", "_drained", "_framing", "_hearing", "_hub", "_left", "_protocol",
        "_readers", "_sessions", "_stopped", "_task", "_transport", "_unread", "_updates", "_ws", "connection_id",
        "writer",
    )  # fmt: skip

    def __init__(
        self, hub: Hub, ws: web.WebSocketResponse, protocol: HttpProtocol, transport: asyncio.Transport, client: str
    ) -> None:
        self.connection_id = ids.connection_id()
        self.writer = protocol.direct
        self._hub = hub
        self._chat = hub.chat
        self._ws = ws
        self._protocol = protocol
        self._hearing = Hearing(ws, protocol.client_frames)
        self._transport = transport
        self._client = client
        self._framing = hub.frames.framing(int(ws.compress))
        self._sessions: dict[str, Session] = {}
        self._readers: dict[str, SocketReader] = {}
        self._drained: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None  # which reads
        self._stopped: asyncio.Future[None] | None = None  # done when that task has: then one can close
        self._left = False
        self._unread = 0
        self._updates: tuple[bytes, ...] = ()  # gathered
        self._beat_timer = asyncio.get_running_loop().call_later(self._chat.settings.heartbeat, self._beat)

    # Reading

    async def run(self) -> None:
        """Take messages until the connection ends."""
        self._say(self._hub.welcome(self.connection_id))
        self._task = asyncio.current_task()
        try:
            await self._hearing.run(self)
        except asyncio.CancelledError:
            if self._task is None or self._closing is None:
                raise
            self._task.uncancel()
        finally:
            self._task = None
            self.leave()
            if self._stopped is not None and not self._stopped.done():
                self._stopped.set_result(None)
        if self._closing is not None:
            await self._closing

    async def take(self, text: str) -> None:
        message = None
        try:
            message = websocket.decode_client(text, self._chat.settings.max_message_chars)
            await self._do(message)
        except ChatError as error:
            self._refuse(error, message)
        except Exception:
            log.exception("a bug: the WebSocket message %s failed", type(message).__name__)
            self._refuse(ChatError("internal", "The server failed; its log says more."), message)

    def take_other(self, kind: WSMsgType, data: bytes) -> None:
        if kind is WSMsgType.PING:
            self.writer.write(websocket.frame(data, opcode=websocket.PONG))
        else:
            self._refuse(invalid("Messages are JSON in text frames; this one was binary."), None)

    async def room(self) -> None:
        """Room for an answer. A turn that catches up fills the transport again and again, but never by much: who does
        so is heard all the same."""
        if self.buffered() > MAX_UNREAD_BYTES and not self._left:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    async def _do(self, message: websocket.ClientMessage) -> None:
        match message:
            case ChatRequest():
                await self._ask(message)
            case websocket.CreateSession():
                check_joined(len(self._sessions))
                session = await self._chat.new_session(message.model_id)
                self._say(websocket.Created(session.id, session.model, self.connection_id, timestamp()))
                self._enter(session)
            case websocket.JoinSession():
                await self._join(message.session_id)
            case websocket.LeaveSession():
                self._depart(self._joined(message.session_id))
            case websocket.TypingStart() | websocket.TypingStop():
                told = {"connection_id": self.connection_id, "typing": type(message) is websocket.TypingStart}
                self._joined(message.session_id).tell("user_typing", told, but=self)
            case websocket.Ping():
                self._say(websocket.Pong(timestamp()))
            case websocket.Cancel():
                self._show_end(await self._chat.cancel(message.turn_id))
            case websocket.Resume():
                await self._resume(message)

    async def _ask(self, request: ChatRequest) -> None:
        """Whoever asks in a session is a member of it from then on. Without a session_id it is the one joined last."""
        if request.session_id is None and self._sessions:
            request = request._replace(session_id=next(reversed(self._sessions)))
        if request.session_id not in self._sessions:
            check_joined(len(self._sessions))
        turn = await self._chat.send(request, "websocket", self._client, self)
        if turn.session_id not in self._sessions:
            self._enter(await self._chat.session_of(turn))
        if request.idempotency_key is not None and turn.id not in self._readers:
            self._follow(turn, 0)  # the key has led to one that has ended

    async def _join(self, session_id: str) -> None:
        if session_id not in self._sessions:
            check_joined(len(self._sessions))
        session = await self._chat.session(session_id)
        self._say(websocket.Joined(session.id, session.model, session.message_count, self.connection_id, timestamp()))
        self._enter(session)

    async def _resume(self, message: websocket.Resume) -> None:
        turn = await self._chat.turn(message.turn_id)
        after = turn.check_cursor(message.after)
        if turn.nothing_left(after):
            self._show_end(turn)
            return
        if turn.id not in self._readers:
            if len(self._readers) >= MAX_FOLLOWED:
                raise ChatError("rate_limited", f"A connection follows at most {MAX_FOLLOWED} turns at once.")
            if turn.running:
                self._chat.admit_reader()
        self._follow(turn, after)

    def _joined(self, session_id: str | None) -> Session:
        """The session with this id, or the one joined last."""
        if session_id is None and self._sessions:
            session_id = next(reversed(self._sessions))
        session = self._sessions.get(session_id or "")
        if session is None:
            raise invalid("Join the session first." if session_id else "Join a session first.")
        return session

    # As a member

    def _enter(self, session: Session) -> None:
        if self._left:
            return
        self._sessions.pop(session.id, None)
        self._sessions[session.id] = session  # the last one is where words without a session_id go
        self._chat.join(session, self)

    def _depart(self, session: Session) -> None:
        del self._sessions[session.id]
        for turn_id, reader in tuple(self._readers.items()):
            if reader.follower is not None and reader.follower.turn.session_id == session.id:
                del self._readers[turn_id]
                reader.close()
        self._chat.leave(session, self)
        self._say(websocket.Left(session.id, self.connection_id, timestamp()))

    def turn_started(self, turn: Turn) -> None:
        if turn.id not in self._readers:
            self._follow(turn, 0)

    def updated(self, session_id: str, update_type: str, fields: dict[str, Any]) -> None:
        if update_type == "session_deleted":
            self._sessions.pop(session_id, None)
        if self._left or self._hub.down:
            return
        if self._protocol.writing_paused:
            if update_type == "user_typing":
                return  # old news by the time that it is read
            if self.buffered() > MAX_UNREAD_BYTES:
                self.drop()
                return
        if not self._updates:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._flush)
        self._updates += (self._hub.frames.update(session_id, update_type, fields),)
        if len(self._updates) >= GATHER_UPDATES:
            self._flush()

    def _flush(self) -> None:
        """What was gathered goes out in one write, before anything that is said after it."""
        if self._updates and not self._left:
            self.writer.write(b"".join(self._updates))
        self._updates = ()

    # As a reader of turns

    def _follow(self, turn: Turn, after: int) -> None:
        if self._left:
            return
        known = self._readers.pop(turn.id, None)
        if known is not None:
            known.close()
        self._flush()
        reader = self._readers[turn.id] = SocketReader(self, self._framing)
        turn.follow(reader, after, self._protocol.writing_paused)

    def _show_end(self, turn: Turn) -> None:
        """The end of a turn, to one who does not follow it any more."""
        if turn.id not in self._readers and turn.terminal is not None:
            self.writer.write(self._framing.encode(turn, turn.terminal))

    def ended(self, turn: Turn, reader: SocketReader) -> None:
        if self._readers.get(turn.id) is reader:
            del self._readers[turn.id]

    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause(self) -> None:
        for reader in tuple(self._readers.values()):
            if reader.follower is not None:
                reader.follower.pause()

    def resume(self) -> None:
        self._hearing.heard = True  # it takes what it is sent
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        for turn_id, reader in tuple(self._readers.items()):
            if self._protocol.writing_paused:
                break
            if reader.follower is not None:
                del self._readers[turn_id]  # to the end: the next time it is the others' turn
                self._readers[turn_id] = reader
                reader.follower.resume()

    def lost(self) -> None:
        self.leave()

    # Writing and closing

    def _say(self, word: websocket.ServerMessage) -> None:
        self._flush()
        self.writer.write(websocket.text_frame(websocket.encode(word)))

    def _refuse(self, error: ChatError, message: websocket.ClientMessage | None) -> None:
        self._say(websocket.refusal(error, timestamp(), message))

    def _beat(self) -> None:
        unread = self.buffered()
        if not self._hearing.heard and not self._hearing.busy and not 0 < unread < self._unread:
            self.drop()
            return
        self._hearing.heard, self._unread = False, unread
        self.writer.write(websocket.frame(b"", opcode=websocket.PING))
        self._beat_timer = asyncio.get_running_loop().call_later(self._chat.settings.heartbeat, self._beat)

    def drop(self) -> None:
        """The peer does not read."""
        self.close(CLOSE_TOO_SLOW, "Nothing was read for too long: come back with your cursors.")

    def close(self, code: int, reason: str) -> "asyncio.Task[None]":
        """Say goodbye, then go, whether or not the peer answers."""
        self._flush()
        self.leave()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(code, reason))
        return self._closing

    async def _close(self, code: int, reason: str) -> None:
        try:
            if self._task is not None:
                # aiohttp, asked to close while somebody receives, would not wait for the peer's half.
                self._stopped = asyncio.get_running_loop().create_future()
                self._task.cancel()
                await self._stopped
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._ws.close(code=code, message=reason.encode(), drain=False)
        finally:
            self._transport.abort()

    def leave(self) -> None:
        """Nothing more is read, and nothing is followed; the others are told. Idempotent."""
        if self._left:
            return
        self._left = True
        self._beat_timer.cancel()
        self._hub.connections.pop(self, None)
        self._chat.stats.websockets -= 1
        for reader in tuple(self._readers.values()):
            reader.close()
        self._readers.clear()
        while self._sessions:
            self._chat.leave(self._sessions.popitem()[1], self)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

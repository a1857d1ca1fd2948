"""WebSocket: one standing connection for asking and for what others do; looking around is plain HTTP."""

import asyncio
from collections.abc import AsyncGenerator

import aiohttp

from client.api import Api
from client.duplex import Duplex
from client.transports import CONNECT_SECONDS, ConnectionLost, Listener, Update, trouble
from proto import websocket as wire
from proto.errors import CLOSE_TOO_BIG, CLOSE_TOO_SLOW, CLOSE_TRY_LATER, CODES, ChatError, ProtocolError
from proto.events import Event, SessionInfo
from proto.requests import ChatRequest

PING_SECONDS = 20.0  # without a pong in half of that nobody is there any more
CLOSE_SECONDS = 2.0
MAX_MESSAGE_BYTES = 16 * 2**20  # the end of a turn carries the whole answer
_CLOSED = {CLOSE_TRY_LATER: "is full", CLOSE_TOO_SLOW: "has given up on this reader"}


class WebSocket(Api):
    name = "websocket"
    live = True

    def __init__(self, url: str, listener: Listener) -> None:
        super().__init__(url)
        self._duplex = Duplex(listener, status_first=True)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._joined: str | None = None

    # The connection

    async def connect(self) -> None:
        async with self._connecting:
            if self._socket is not None:
                return
            timeout = aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    self._socket = await self.http.ws_connect(
                        f"{self.url}/ws", heartbeat=PING_SECONDS, max_msg_size=MAX_MESSAGE_BYTES, timeout=timeout
                    )
            except aiohttp.WSServerHandshakeError as error:
                if error.status == CODES["unavailable"].http:
                    raise ConnectionLost(f"The server at {self.url} takes no connections now.") from error
                raise ConnectionLost(f"{self.url} answers, but is no fivewire server (HTTP {error.status}).") from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self.gone(error) from error
            self._reader = asyncio.create_task(self._read(self._socket))
            if self._joined is not None:
                try:
                    await self._join(self._joined)
                except ChatError:
                    self._joined = None

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """The life of one connection."""
        try:
            lost = await self._read_all(socket)
            self._socket = None
            self._duplex.lost(lost)
        finally:
            self._socket = None
            await socket.close()
            socket._response.close()  # which aiohttp leaves open where the connection broke

    async def _read_all(self, socket: aiohttp.ClientWebSocketResponse) -> ConnectionLost:
        """Why there is nothing more to read."""
        try:
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._received(message.data)
        except ProtocolError as error:
            return trouble(self.url, error)
        if socket.close_code == CLOSE_TOO_BIG:
            self._duplex.refused(ChatError("too_large", "The message is too large for this server."))
        if socket.close_code in _CLOSED:
            return ConnectionLost(f"The server at {self.url} {_CLOSED[socket.close_code]}.")
        return ConnectionLost(f"The connection to {self.url} was lost.")

    def _received(self, text: str) -> None:
        word = wire.decode_server(text)
        if isinstance(word, wire.Refusal):
            code = word.code if word.code in CODES else "internal"
            self._duplex.refused(
                ChatError(
                    code,
                    word.message,
                    retryable=word.retryable,
                    retry_after=word.retry_after,
                    turn_id=word.turn_id,
                )
            )
        elif isinstance(word, wire.Update):
            self._duplex.updated(Update(word.update_type, word.session_id, word.fields))
        elif isinstance(word, wire.Joined | wire.Left | wire.Pong):
            self._duplex.answered(word)
        elif word is not None and not isinstance(word, wire.Connected | wire.Created):
            self._duplex.event(word)

    async def _say(self, message: wire.ClientMessage) -> None:
        socket = self._socket
        try:
            if socket is None:
                raise ConnectionResetError
            await socket.send_str(wire.encode(message))
        except (ConnectionError, aiohttp.ClientError) as error:
            raise ConnectionLost(f"The connection to {self.url} was lost.") from error

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()  # which closes the socket
            await asyncio.wait([reader])
        self._duplex.lost(ConnectionLost("The connection was closed."), quietly=True)
        await super().close()

    # What is said over it

    async def send(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        await self.connect()
        async for event in self._duplex.ask(request, lambda: self._say(request)):
            if isinstance(event, SessionInfo):
                self._joined = event.session_id  # who asks is a member
            yield event

    async def follow(self, turn_id: str, after: int) -> AsyncGenerator[Event, None]:
        await self.connect()
        async for event in self._duplex.follow(turn_id, lambda: self._say(wire.Resume(turn_id, after))):
            yield event

    async def join(self, session_id: str) -> None:
        await self.connect()
        await self._join(session_id)
        self._joined = session_id

    async def _join(self, session_id: str) -> None:
        await self._duplex.question(lambda: self._say(wire.JoinSession(session_id)), wire.Joined)

    async def leave(self, session_id: str) -> None:
        if self._joined == session_id:
            self._joined = None
            await self._duplex.question(lambda: self._say(wire.LeaveSession(session_id)), wire.Left)

    async def typing(self, session_id: str, active: bool) -> None:
        if self._joined == session_id:  # else the refusal might be taken for the answer to something else
            await self._say(wire.TypingStart(session_id) if active else wire.TypingStop(session_id))

    async def ping(self) -> None:
        await self.connect()
        await self._duplex.question(lambda: self._say(wire.Ping()), wire.Pong)

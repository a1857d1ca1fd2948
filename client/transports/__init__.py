"""What a transport is to the client: one way to ask, to follow and to look around, the same on all five protocols.

1. `send` and `follow` are async iterators of a turn's events. One that ends by itself has yielded the terminal event,
   or (only `follow`) there was nothing left to yield; a stream that was cut raises `ConnectionLost`, whatever cut it.
   Events may come twice or out of order (WebSocket says `status` before `response_start`): `client.answer` sorts that.
2. What the server refuses is `ChatError`, read backwards through the table in `proto.errors`; that nobody answers, or
   answers something else than this protocol, is `ConnectionLost`. A transport raises nothing else.
3. Any request may be the first: a transport connects when it has to. `connect` is for knowing now.
4. A transport that is told what others do in a session (WebSocket, gRPC) passes it on to its `Listener`; the others
   do nothing at `join`, `leave` and `typing`.
"""

import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple, Protocol

from proto.answers import Health, ModelList, ServerStats, SessionCreated, SessionDetail, SessionList
from proto.errors import ProtocolError
from proto.events import Event
from proto.requests import ChatRequest

CONNECT_SECONDS = 10.0
REPLY_SECONDS = 30.0
SILENCE_SECONDS = 60.0  # four heartbeats of a server with the default settings

_CUT = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class ConnectionLost(Exception):
    """Nobody answers any more; the message is one clear sentence."""


class NotUnderstood(ConnectionLost):
    """Somebody answers, but not in this protocol."""


def trouble(url: str, error: Exception, reached: bool = True) -> ConnectionLost:
    """The trouble with the way to this server, which has answered before or not, as one clear sentence."""
    kind = NotUnderstood if isinstance(error, ProtocolError) else ConnectionLost
    return kind(_what_is_wrong(url, error, reached))


def _what_is_wrong(url: str, error: Exception, reached: bool) -> str:
    """In words, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate of {url} is not trusted here: {error.verify_message}."
    if isinstance(error, ssl.SSLError):
        return f"The server at {url} does not speak TLS."
    if isinstance(error, socket.gaierror):
        return f"There is no such host: {url}"
    if isinstance(error, TimeoutError):
        return f"The server at {url} does not answer."
    if isinstance(error, ProtocolError):
        return f"The server at {url} does not speak this protocol: {str(error).removesuffix('.')}."
    if isinstance(error, OSError) and not isinstance(error, _CUT):
        return f"No server answers at {url}. Start one with `python -m server`, or name another address."
    if not reached and url.startswith("http:"):
        return f"{url} hangs up at once: if that is TLS, the address begins with https."
    return f"The connection to {url} was lost."


class Update(NamedTuple):
    """What somebody else did in a session: `type` is the contract's update_type."""

    type: str
    session_id: str
    fields: Mapping[str, Any]


class Listener(Protocol):
    """Who wants to know what happens without having been asked for."""

    def updated(self, update: Update) -> None: ...

    def overheard(self, event: Event) -> None:
        """An event of a turn that somebody else started."""

    def lost(self, error: ConnectionLost) -> None:
        """The standing connection is gone."""


class Transport(Protocol):
    @property
    def name(self) -> str:
        """As in `--protocol`."""

    @property
    def live(self) -> bool:
        """Whether it hears what others do."""

    async def connect(self) -> None: ...

    async def close(self) -> None:
        """Let go of everything; whoever still reads gets `ConnectionLost`."""

    def send(self, request: ChatRequest) -> AsyncGenerator[Event, None]: ...

    def follow(self, turn_id: str, after: int) -> AsyncGenerator[Event, None]: ...

    async def cancel(self, turn_id: str | None) -> None:
        """Stop the model. None: the turn being sent, which has not said its name yet; where that can be found out."""

    async def join(self, session_id: str) -> None: ...

    async def leave(self, session_id: str) -> None:
        """Be a member no longer (gRPC has no word for that, and goes on telling)."""

    async def typing(self, session_id: str, active: bool) -> None: ...

    async def new_session(self, model_id: str | None) -> SessionCreated: ...

    async def sessions(self, limit: int, before: str | None = None) -> SessionList:
        """A page of them, the newest first; `before` is the `next` of the page before it."""

    async def session(self, session_id: str) -> SessionDetail: ...

    async def clear(self, session_id: str) -> None: ...

    async def delete(self, session_id: str) -> None: ...

    async def stats(self) -> ServerStats: ...

    async def health(self) -> Health: ...

    async def models(self) -> ModelList: ...

    async def ping(self) -> None:
        """There and back."""

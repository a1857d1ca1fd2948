"""WebSocket: the messages of both directions as words, their JSON, and the frames that carry them (RFC 6455).

1. The events of a turn are the words of `proto.events`. Their order on the wire is older than they are: `status`
   (seq 2) comes first, then `response_start`, which is `session_info` (seq 1) by another name; both go out together.
   The end is `response_complete`, which is `complete` and the whole text in `full_response`.
2. An `error` with a `seq` ends its turn; one without answers a message that the server did not take.
3. A server's frame is never masked, so one frame serves any number of members. A compressed one starts from a fresh
   window: it is valid whatever the peer has agreed to about context takeover, and can be shared as well.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from proto.errors import ChatError, ProtocolError
from proto.events import (
    Chunk,
    Complete,
    Event,
    SessionInfo,
    Status,
    as_json,
    dumps,
    from_dict,
    read,
    tagged,
    teller,
)  # fmt: skip
from proto.requests import (
    ChatRequest,
    after_seq,
    chat_request,
    check_model_id,
    check_session_id,
    check_turn_id,
    invalid,
    json_object,
    text_field,
)  # fmt: skip

TEXT, PING, PONG = 0x1, 0x9, 0xA
COMPRESS_FROM_BYTES = 1024
FEATURES = ["streaming", "sessions", "members", "typing", "cancel", "resume", "permessage-deflate"]


# What a client says


class CreateSession(NamedTuple):
    """Make a session and join it."""

    model_id: str | None = None


class JoinSession(NamedTuple):
    """Become a member of a session: see every turn of it live, and what the other members do."""

    session_id: str


class LeaveSession(NamedTuple):
    """Be a member no longer; without a session_id, of the session joined last."""

    session_id: str | None = None


class TypingStart(NamedTuple):
    """Tell the others that this member types; without a session_id, in the session joined last."""

    session_id: str | None = None


class TypingStop(NamedTuple):
    """Tell the others that this member has stopped typing."""

    session_id: str | None = None


class Ping(NamedTuple):
    """Ask for a `pong`."""


class Cancel(NamedTuple):
    """Stop the answer at once; idempotent. It is answered by the turn's terminal event."""

    turn_id: str


class Resume(NamedTuple):
    """Follow a turn from a cursor: everything after this seq."""

    turn_id: str
    after: int


ClientMessage = (
    CreateSession | JoinSession | LeaveSession | ChatRequest | TypingStart | TypingStop | Ping | Cancel | Resume
)
CLIENT: dict[str, type[Any]] = {
    "create_session": CreateSession,
    "join_session": JoinSession,
    "leave_session": LeaveSession,
    "chat": ChatRequest,
    "typing_start": TypingStart,
    "typing_stop": TypingStop,
    "ping": Ping,
    "cancel": Cancel,
    "resume": Resume,
}


# What the server says, besides the events of turns


class ServerInfo(NamedTuple):
    """What serves here."""

    model: str
    framework: str
    features: list[str]


class Connected(NamedTuple):
    """The first message of every connection."""

    connection_id: str
    message: str
    server_info: ServerInfo
    timestamp: str


class Created(NamedTuple):
    """The answer to `create_session`: the session is there and joined."""

    session_id: str
    model: str
    connection_id: str
    timestamp: str


class Joined(NamedTuple):
    """The answer to `join_session`; a turn that runs is shown from its beginning."""

    session_id: str
    model: str
    message_count: int
    connection_id: str
    timestamp: str


class Left(NamedTuple):
    """The answer to `leave_session`."""

    session_id: str
    connection_id: str
    timestamp: str


class Update(NamedTuple):
    """Something happened in a session. `update_type` is user_joined, user_disconnected (connection_id), user_typing
    (connection_id, typing), message_added (message_count, last_message_preview, turn_id), session_cleared or
    session_deleted; its `fields` stand in the message itself."""

    session_id: str
    update_type: str
    timestamp: str
    fields: Mapping[str, Any]


class Pong(NamedTuple):
    """The answer to `ping`."""

    timestamp: str


class Refusal(NamedTuple):
    """A message was not taken; the connection lives on. `turn_id` is the running turn of a busy session, or the turn
    that was asked for; `retry_after` is in seconds, as HTTP's header."""

    code: str
    message: str
    retryable: bool
    timestamp: str
    session_id: str | None = None
    turn_id: str | None = None
    retry_after: float | None = None


ServerMessage = Connected | Created | Joined | Left | Update | Pong | Refusal
SERVER: dict[str, type[Any]] = {
    "connected": Connected,
    "session_created": Created,
    "session_joined": Joined,
    "session_left": Left,
    "status": Status,
    "response_start": SessionInfo,
    "chunk": Chunk,
    "response_complete": Complete,
    "session_update": Update,
    "pong": Pong,
    "error": Refusal,
}
ADDED: dict[str, dict[str, Any]] = {  # fields of a message that its word does not have
    "status": {"timestamp": str},
    "response_complete": {"full_response": str},
    "session_update": {
        "connection_id": str | None,
        "typing": bool | None,
        "message_count": int | None,
        "last_message_preview": str | None,
        "turn_id": str | None,
    },
}
_NAMES: dict[type[Any], str] = {word: name for names in (CLIENT, SERVER) for name, word in names.items()}
_EVENTS = {
    "status": "status",
    "response_start": "session_info",
    "chunk": "chunk",
    "response_complete": "complete",
    "error": "error",
}
_CHECKS: dict[str, Callable[[str], str]] = {
    "session_id": check_session_id,
    "model_id": check_model_id,
    "turn_id": check_turn_id,
}


def encode(word: ClientMessage | ServerMessage) -> str:
    """A message as JSON text."""
    if type(word) is Update:
        head = word._asdict()
        fields = head.pop("fields")
        return dumps({"type": "session_update", **head, **fields})
    return tagged(_NAMES[type(word)], word)


_tell_status, _tell_start = teller("status", Status), teller("response_start", SessionInfo)


def opening(info: SessionInfo, status: Status) -> tuple[str, str]:
    """The first two events of a turn as messages."""
    return f'{_tell_status(status)[:-1]},"timestamp":"{info.timestamp}"}}', _tell_start(info)


def encode_event(event: Event, info: Callable[[], SessionInfo], answer: Callable[[], str]) -> tuple[str, ...]:
    """An event as no, one or two messages; `info` gives its turn's first event, `answer` the whole text."""
    kind = type(event)
    if kind is SessionInfo:
        return ()  # goes out with `status`
    if isinstance(event, Status):
        return opening(info(), event)
    if kind is Complete:
        return (tagged("response_complete", event, full_response=answer()),)
    return (as_json(event),)


def decode_client(text: str, max_message_chars: int) -> ClientMessage:
    """What a client says, checked field by field; ChatError `invalid_request` or `too_large`."""
    fields = json_object(text, "message")
    kind = fields.get("type")
    word = CLIENT.get(kind) if isinstance(kind, str) else None
    if word is None:
        raise invalid(f"'type' must be one of {', '.join(CLIENT)}.")
    if word is ChatRequest:
        return chat_request(fields, max_message_chars)
    message: ClientMessage = word(**{name: _field(word, fields, name) for name in word._fields})
    return message


def _field(word: type[Any], fields: Mapping[str, Any], name: str) -> Any:
    if fields.get(name) is None:
        if name in word._field_defaults:
            return None
        raise invalid(f"'{name}' is missing.")
    if name == "after":
        return after_seq(fields[name])
    return _CHECKS[name](text_field(fields, name) or "")


def decode_server(text: str | bytes) -> Event | ServerMessage | None:
    """What a server says: an event, or a message; None for a type that this version does not know."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("A message of the server is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise ProtocolError("A message of the server is not a JSON object.")
    kind = fields.get("type")
    if not isinstance(kind, str):
        return None
    if kind in _EVENTS and (kind != "error" or "seq" in fields):
        return from_dict({**fields, "type": _EVENTS[kind]})  # type: ignore[return-value]
    word = SERVER.get(kind)
    if word is None:
        return None
    if word is Update:
        fields["fields"] = {name: value for name, value in fields.items() if name not in ("type", *Update._fields)}
    if any(name not in fields and name not in word._field_defaults for name in word._fields):
        raise ProtocolError(f"A message of the server, {kind}, lacks a field.")
    message: ServerMessage = read(word, fields)
    return message


def refusal(error: ChatError, timestamp: str, message: ClientMessage | None) -> Refusal:
    """The answer to a message that was not taken."""
    asked = message._asdict() if message is not None else {}
    turn_id = error.turn_id or asked.get("turn_id")
    return Refusal(
        error.code, error.message, error.retryable, timestamp, asked.get("session_id"), turn_id, error.retry_after
    )


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return b"%c%c" % (first, size)
    if size < 65536:
        return b"%c\x7e%b" % (first, size.to_bytes(2, "big"))
    return b"%c\x7f%b" % (first, size.to_bytes(8, "big"))


# Of text frames that are too short to be compressed, by the size of the text.
SHORT_HEADS = [_head(0x80 | TEXT, size) for size in range(COMPRESS_FROM_BYTES)]


def text_frame(text: str, window_bits: int = 0) -> bytes:
    """A server's frame of a text."""
    data = text.encode()
    return SHORT_HEADS[len(data)] + data if len(data) < COMPRESS_FROM_BYTES else frame(data, window_bits)


def frame(payload: bytes, window_bits: int = 0, opcode: int = TEXT) -> bytes:
    """A server's frame. With `window_bits` (permessage-deflate, RFC 7692, was agreed on) a long payload is compressed;
    a short one is not: making a chunk's frame would take 25 times as long, to save a tenth of it."""
    first = 0x80 | opcode
    if window_bits and len(payload) >= COMPRESS_FROM_BYTES:
        packer = zlib.compressobj(1, zlib.DEFLATED, -window_bits)
        packed = packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)
        payload, first = packed[:-4], first | 0x40
    return _head(first, len(payload)) + payload

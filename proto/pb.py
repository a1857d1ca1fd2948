"""Words as gRPC messages, and back: the server encodes with it, the client decodes.

1. A word's field and the message's field have the same name, except where the (k) part of `chat.proto` has another
   (`RENAMED`). A test holds words, messages and JSON together: a field exists in all of them or in none.
2. A field that a word leaves None is not set. A field that is not set is the word's default, or the type's zero.
3. A chunk of a running turn is made once per piece of text, so its encoding counts: its wire bytes are put together
   here, in less than half of the time that a message takes. (One message that is filled again and again is no way out:
   what was ever put into it stays in its arena.) A test holds it to what protobuf makes of the same fields.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args

from google.protobuf.message import DecodeError, Message

from proto import answers, chat_pb2, events
from proto.errors import CODES, ChatError, ProtocolError
from proto.requests import ChatRequest, checked

MAX_INT32 = 2**31 - 1

M = TypeVar("M", bound=Message)

EVENTS: dict[type[Any], tuple[chat_pb2.ChatResponse.Type, dict[str, str]]] = {
    events.SessionInfo: (chat_pb2.ChatResponse.RESPONSE_START, {}),
    events.Status: (chat_pb2.ChatResponse.STATUS, {"message": "status_message"}),
    events.Chunk: (chat_pb2.ChatResponse.CHUNK, {"text": "chunk_text"}),
    events.Complete: (chat_pb2.ChatResponse.RESPONSE_COMPLETE, {}),
    events.Error: (chat_pb2.ChatResponse.ERROR, {"message": "error_message"}),
}
ANSWERS: dict[type[Any], type[Message]] = {
    events.Usage: chat_pb2.Usage,
    answers.SessionCreated: chat_pb2.CreateSessionResponse,
    answers.SessionSummary: chat_pb2.SessionSummary,
    answers.SessionList: chat_pb2.ListSessionsResponse,
    answers.HistoryMessage: chat_pb2.HistoryMessage,
    answers.TurnSnapshot: chat_pb2.TurnSnapshot,
    answers.ModelInfo: chat_pb2.ModelInfo,
    answers.ModelList: chat_pb2.ListModelsResponse,
    answers.TransportStats: chat_pb2.TransportStats,
    answers.ServerStats: chat_pb2.ServerStatsResponse,
}
NO_USAGE = events.Usage(0, 0, True)
RENAMED = {"session_duration_seconds": "duration_seconds"}

_WORDS = {message.DESCRIPTOR.full_name: word for word, message in ANSWERS.items()}
_EVENT_WORDS = {kind: (word, renamed) for word, (kind, renamed) in EVENTS.items()}
_FLAT = {str, int, float, bool, NoneType}
_WHOLE = {"uptime_seconds", "duration_seconds"}  # int32 in the (k) part, fractions elsewhere


class Pong(NamedTuple):
    """The answer to a ping on `Chat`."""

    timestamp: str


class SessionUpdate(NamedTuple):
    """What happened in a session that the caller is a member of; `fields` is the decoded `update_data`."""

    session_id: str
    update_type: str
    fields: dict[str, Any]
    timestamp: str


# --- words as messages, field by field ---


def _maker(word: type[Any], kind: type[M], /, *more: str, **given: Any) -> Callable[..., M]:
    """What makes a message of such a word, of the values of `more` fields, and of what is `given` once for all (None: a
    field that the message does not have). One call that names each field: by way of a dict it takes thrice as long."""
    renamed = EVENTS[word][1] if word in EVENTS else RENAMED
    sources = {name: name for name in more} | {name: repr(value) for name, value in given.items()}
    for place, field in enumerate(word._fields):
        name, told = renamed.get(field, field), word.__annotations__[field]
        value = f"word[{place}]"
        if name in _WHOLE:
            value = f"int({value})"
        elif not {*(get_args(told) or (told,))} <= _FLAT:
            value = f"plain({value})"
        sources.setdefault(name, value)
    fields = ", ".join([f"{name}={source}" for name, source in sources.items() if source != "None"])
    maker: Callable[..., M] = eval(
        f"lambda {', '.join(['word', *more])}: make({fields})", {"make": kind, "plain": _plain}
    )
    return maker


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [to_message(item) for item in value]
    if isinstance(value, dict):
        return {key: to_message(item) for key, item in value.items()}
    return to_message(value) if isinstance(value, tuple) else value


_RESPONSES = {
    word: _maker(word, chat_pb2.ChatResponse, "session_id", type=int(kind)) for word, (kind, _) in EVENTS.items()
}
_MESSAGES = {word: _maker(word, message) for word, message in ANSWERS.items()}
_SESSION_INFO = _maker(
    answers.SessionDetail, chat_pb2.SessionInfoResponse, success=True, message="Session found", messages=None
)


# --- a turn's events ---


def _varint(number: int) -> str:
    """As Latin-1, like all bytes that are put together here: text formatting is the fastest way to do that."""
    low = ""
    while number > 0x7F:
        low += chr(number & 0x7F | 0x80)
        number >>= 7
    return low + chr(number)


def _tag(name: str) -> str:
    field = chat_pb2.ChatResponse.DESCRIPTOR.fields_by_name[name]
    return _varint(field.number << 3 | (2 if field.type == field.TYPE_STRING else 0))


_VARINTS = [_varint(number) for number in range(2048)]
_TYPE = f"{_tag('type')}{_varint(chat_pb2.ChatResponse.CHUNK)}"
_SESSION, _TURN, _TEXT = _tag("session_id"), _tag("turn_id"), _tag("chunk_text")
_NUMBER, _TIME, _SEQ = _tag("chunk_number"), _tag("timestamp"), _tag("seq")


ChunkFramer = Callable[[str, str, int, str], bytes]


def chunk_parts(session_id: str, turn_id: str) -> str:
    """What the bytes of all chunks of a turn have in common. It stands before the rest, in one piece: the fields of a
    message may come in any order."""
    ids = f"{_TURN}{_VARINTS[len(turn_id)]}{turn_id}{_SESSION}{_VARINTS[len(session_id)]}{session_id}"
    return f"{_TYPE}{ids}{_TEXT}"  # ids are ASCII and short


_ready: dict[int, tuple[str, str]] = {}


def _of_seq(seq: int) -> tuple[str, str]:
    """What the chunks with this seq have in common, before and after their timestamp."""
    made = f"{_NUMBER}{_varint(seq - events.HEAD_EVENTS)}{_TIME}", f"{_SEQ}{_varint(seq)}"
    if seq < events.READY:
        _ready[seq] = made
    return made


def chunk_framer(heads: Sequence[bytes], framed: Callable[[bytes], bytes]) -> ChunkFramer:
    """A function of a turn's parts, text, seq and timestamp that makes the frame of a chunk that is not the last and
    has text: its `ChatResponse`, framed with `framed`, or with one of the `heads` where it is short: there is one for
    each size. The hot path: it runs once per chunk."""

    def framer(parts: str, text: str, seq: int, timestamp: str) -> bytes:
        if not text.isascii():
            text = text.encode().decode("latin-1")
        size = len(text)
        length = _VARINTS[size] if size < 2048 else _varint(size)
        try:
            number, place = _ready[seq]
        except KeyError:
            number, place = _of_seq(seq)
        data = f"{parts}{length}{text}{number}{_VARINTS[len(timestamp)]}{timestamp}{place}".encode("latin-1")
        try:
            return heads[len(data)] + data
        except IndexError:
            return framed(data)

    return framer


_bare_chunk = chunk_framer([b""] * 1024, bytes)


def encode_event(event: events.Event, session_id: str) -> bytes:
    """An event of a turn of this session as the bytes of a `ChatResponse`."""
    if type(event) is events.Chunk and event.text and not event.is_final:
        return _bare_chunk(chunk_parts(session_id, event.turn_id), event.text, event.seq, event.timestamp)
    return _RESPONSES[type(event)](event, session_id).SerializeToString()


def from_response(response: chat_pb2.ChatResponse) -> events.Event | Pong | SessionUpdate | None:
    """What a response says; None for a type that this version does not know.

    An `Error` with seq 0 is no event of a turn, but the answer to a bad request.
    """
    if response.type == chat_pb2.ChatResponse.PONG:
        return Pong(response.timestamp)
    if response.type == chat_pb2.ChatResponse.SESSION_UPDATE:
        try:
            fields = json.loads(response.update_data or "{}")
        except (ValueError, RecursionError):
            raise ProtocolError("update_data is not valid JSON") from None
        if not isinstance(fields, dict):
            raise ProtocolError("update_data is not a JSON object")
        return SessionUpdate(response.session_id, response.update_type, fields, response.timestamp)
    if response.type not in _EVENT_WORDS:
        return None
    word, renamed = _EVENT_WORDS[response.type]
    event: events.Event = _word(word, response, renamed)
    return events.followable(event)


def update_response(update: SessionUpdate) -> chat_pb2.ChatResponse:
    return chat_pb2.ChatResponse(
        type=chat_pb2.ChatResponse.SESSION_UPDATE,
        session_id=update.session_id,
        update_type=update.update_type,
        update_data=events.dumps(update.fields),
        timestamp=update.timestamp,
    )


def error_response(error: ChatError, session_id: str, timestamp: str) -> chat_pb2.ChatResponse:
    """The answer to a request on `Chat` that failed; it belongs to no turn's log and has no seq."""
    return chat_pb2.ChatResponse(
        type=chat_pb2.ChatResponse.ERROR,
        session_id=session_id,
        error_message=error.message,
        code=error.code,
        retryable=error.retryable,
        turn_id=error.turn_id or "",
        timestamp=timestamp,
    )


def refused(error: events.Error) -> ChatError:
    """The failure in such an answer."""
    code = error.code if error.code in CODES else "internal"
    return ChatError(code, error.message, retryable=error.retryable, turn_id=error.turn_id or None)


# --- requests ---


def ask(request: ChatRequest) -> chat_pb2.ChatRequest:
    """The client's message, for `Chat` and `StreamChat`."""
    return chat_pb2.ChatRequest(**{name: value for name, value in request._asdict().items() if value is not None})


def asked(message: chat_pb2.ChatRequest, max_message_chars: int) -> ChatRequest:
    """What a `MESSAGE` asks; ChatError `invalid_request` or `too_large`. An empty field is an absent one."""
    request = ChatRequest(
        message.message, message.session_id or None, message.model_id or None, message.idempotency_key or None
    )
    return checked(request, max_message_chars)


def after(seq: int) -> int:
    """A cursor's seq as int32. A greater one is beyond the end of every log, and stays so."""
    return min(seq, MAX_INT32)


# --- answers ---


def to_message(word: Any) -> Any:
    """An answer's word as its message."""
    return _MESSAGES[type(word)](word)


def to_word(message: Message) -> Any:
    """The word in an answer."""
    return _word(_WORDS[message.DESCRIPTOR.full_name], message)


# A session's detail comes in two answers: `GetSessionInfo` and `GetHistory`.


def session_info(detail: answers.SessionDetail) -> chat_pb2.SessionInfoResponse:
    return _SESSION_INFO(detail)


def session_history(detail: answers.SessionDetail) -> chat_pb2.HistoryResponse:
    return chat_pb2.HistoryResponse(session_id=detail.session_id, messages=map(to_message, detail.messages))


def session_detail(info: chat_pb2.SessionInfoResponse, history: chat_pb2.HistoryResponse) -> answers.SessionDetail:
    detail: answers.SessionDetail = _word(answers.SessionDetail, info)
    return detail._replace(messages=[to_word(item) for item in history.messages])


# --- failures, in trailing metadata beside the status ---


def error_metadata(error: ChatError) -> dict[str, str]:
    """What a status does not say: the code, whether to try again and when, the turn that is in the way."""
    metadata = {"fivewire-code": error.code, "fivewire-retryable": "true" if error.retryable else "false"}
    if error.retry_after is not None:
        metadata["retry-after"] = f"{error.retry_after:g}"
    if error.turn_id is not None:
        metadata["fivewire-turn-id"] = error.turn_id
    return metadata


def chat_error(status: str, message: str, metadata: Mapping[str, Any]) -> ChatError:
    """The failure in a status (its name in capitals) and its trailing metadata, which a proxy may have made."""
    code = str(metadata.get("fivewire-code", ""))
    if code not in CODES:
        code = next((name for name, row in CODES.items() if row.grpc == status), "internal")
    retryable = {"true": True, "false": False}.get(str(metadata.get("fivewire-retryable", "")))
    try:
        retry_after = float(metadata["retry-after"])
    except (KeyError, ValueError):
        retry_after = None
    turn_id = str(metadata.get("fivewire-turn-id", "")) or None
    return ChatError(code, message, retryable=retryable, retry_after=retry_after, turn_id=turn_id)


def parse(kind: type[M], data: bytes) -> M:
    """A message from bytes that nobody has looked at."""
    try:
        return kind.FromString(data)
    except (DecodeError, UnicodeDecodeError):  # the latter in pure Python, where protobuf has no wheel
        raise ProtocolError(f"not a {kind.DESCRIPTOR.full_name}") from None


# --- messages as words ---


def _word(word: Any, message: Message, renamed: Mapping[str, str] = RENAMED) -> Any:
    fields: dict[str, Any] = {}
    for name in word._fields:
        field = message.DESCRIPTOR.fields_by_name.get(renamed.get(name, name))
        if field is None:
            fields[name] = []  # a session's messages, which come in another answer
            continue
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            value = NO_USAGE if word.__annotations__[name] is events.Usage else None
        elif isinstance(value, Mapping):
            value = {key: to_word(item) for key, item in value.items()}
        elif isinstance(value, Message):
            value = to_word(value)
        elif not isinstance(value, (str, int, float)):
            value = [to_word(item) for item in value]
        fields[name] = value
    return word(**fields)

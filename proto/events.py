"""The words of a turn: the events of its log, as plain values, and their JSON form.

1. A word is a NamedTuple: immutable, and several times cheaper to make than a frozen dataclass, which counts
   where one is made per chunk.
2. `as_json` (and for chunks alone `chunk_json`) is the only JSON encoder of events: NDJSON, SSE and WebSocket carry
   the same objects.
3. Reading is lenient: unknown fields and unknown types are ignored, that is how the contract grows.
"""

import json
from collections.abc import Mapping
from json.encoder import encode_basestring as quote
from typing import Any, NamedTuple, Union

GENERATING = "Generating response..."


class Usage(NamedTuple):
    """Tokens of one turn; `cost` only where the operator has set a price."""

    input_tokens: int
    output_tokens: int
    estimated: bool
    cost: float | None = None


class SessionInfo(NamedTuple):
    """First event of every turn: what was asked, where, and which model answers."""

    session_id: str
    model: str
    timestamp: str
    turn_id: str
    seq: int
    is_new_session: bool
    message: str


class Status(NamedTuple):
    """Before the model is asked: how much of the conversation it is shown."""

    message: str
    context_messages: int
    omitted_messages: int
    turn_id: str
    seq: int


class Chunk(NamedTuple):
    """A piece of the answer, verbatim: joining all texts gives the answer."""

    text: str
    chunk_number: int
    is_final: bool
    timestamp: str
    turn_id: str
    seq: int


class Complete(NamedTuple):
    """Terminal: the answer ended well, or was cancelled."""

    total_chunks: int
    processing_time: float
    message_count: int
    session_id: str
    timestamp: str
    turn_id: str
    seq: int
    finish_reason: str
    usage: Usage
    time_to_first_chunk: float | None
    text_sha256: str


class Error(NamedTuple):
    """Terminal: the answer broke; `code` is one of `proto.errors.CODES`."""

    message: str
    session_id: str
    turn_id: str
    seq: int
    code: str
    retryable: bool
    timestamp: str


class Heartbeat(NamedTuple):
    """Sign of life on a silent NDJSON stream; not part of the log."""

    timestamp: str


Event = Union[SessionInfo, Status, Chunk, Complete, Error]
TYPES: dict[str, type[Any]] = {
    "session_info": SessionInfo,
    "status": Status,
    "chunk": Chunk,
    "complete": Complete,
    "error": Error,
    "heartbeat": Heartbeat,
}
NAMES: dict[type[Any], str] = {word: name for name, word in TYPES.items()}
TERMINAL = (Complete, Error)

_SCALARS = frozenset((str, int, float, bool))
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps would make one each time


def plain(word: Any) -> Any:
    """A word as dicts and scalars; optional fields that are not set are left out."""
    if type(word) in _SCALARS:
        return word
    if isinstance(word, tuple) and hasattr(word, "_fields"):
        return {
            name: value if type(value) in _SCALARS else plain(value)
            for name, value in zip(word._fields, word, strict=True)
            if value is not None
        }
    if isinstance(word, (list, tuple)):
        return [plain(item) for item in word]
    if isinstance(word, dict):
        return {name: plain(value) for name, value in word.items()}
    return word


def dumps(value: Any) -> str:
    """Compact JSON, as everywhere on our wires."""
    return _encode(value)


def as_dict(event: Event | Heartbeat) -> dict[str, Any]:
    """An event as the object that crosses the wire, `type` first."""
    return {"type": NAMES[type(event)], **plain(event)}


def as_json(event: Event | Heartbeat) -> str:
    """An event as JSON text."""
    return chunk_json(*event) if type(event) is Chunk else dumps(as_dict(event))


def chunk_json(text: str, number: int, final: bool, timestamp: str, turn_id: str, seq: int) -> str:
    """A chunk takes one format string: it is made once per chunk and framing, and often without a `Chunk`."""
    return (
        f'{{"type":"chunk","text":{quote(text)},"chunk_number":{number},"is_final":{"true" if final else "false"},'
        f'"timestamp":"{timestamp}","turn_id":"{turn_id}","seq":{seq}}}'
    )


def from_dict(fields: Mapping[str, Any]) -> Event | Heartbeat | None:
    """The event in a decoded JSON object; None for a type that this version does not know."""
    kind = fields.get("type")
    word = TYPES.get(kind) if isinstance(kind, str) else None
    if word is None:
        return None
    known = {name: fields[name] for name in word._fields if name in fields}
    if isinstance(known.get("usage"), Mapping):
        known["usage"] = Usage(**{name: known["usage"][name] for name in Usage._fields if name in known["usage"]})
    for name in word._fields:
        if name not in known and name not in word._field_defaults:
            known[name] = None if name == "time_to_first_chunk" else _EMPTY[word.__annotations__[name]]
    event: Event | Heartbeat = word(**known)
    return event


_EMPTY: dict[Any, Any] = {str: "", int: 0, bool: False, float: 0.0, Usage: Usage(0, 0, True)}

"""The words of a turn: the events of its log, as plain values, and their JSON form.

1. A word is a NamedTuple: immutable, and several times cheaper to make than a frozen dataclass, which counts
   where one is made per chunk.
2. `tagged` and, for chunks, `_CHUNK` are the only JSON encoders of events: NDJSON, SSE and WebSocket carry the same
   objects, the last with other names for two of them.
3. Reading is lenient: unknown fields and unknown types are ignored, that is how the contract grows. Known fields have
   their type.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from json.encoder import encode_basestring as quote
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin

from proto.errors import ProtocolError

GENERATING = "Generating response..."
HEAD_EVENTS = 2  # session_info and status; chunk n has seq HEAD_EVENTS + n


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


Event = SessionInfo | Status | Chunk | Complete | Error
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


class _Makers(dict[type[Any], Callable[[Any], str]]):
    """What makes JSON of the values of each type."""

    def __missing__(self, kind: Any) -> Callable[[Any], str]:
        if hasattr(kind, "_fields"):
            self[kind] = _members(kind, end="}}")
        elif issubclass(kind, Mapping):
            self[kind] = lambda table: (
                f"{{{','.join([f'{quote(name)}:{dumps(item)}' for name, item in table.items()])}}}"
            )
        elif issubclass(kind, (list, tuple)):
            self[kind] = lambda items: f"[{','.join(map(dumps, items))}]"
        else:
            raise TypeError(f"{kind.__name__} has no JSON")
        return self[kind]


_MAKERS = _Makers(
    {str: quote, int: repr, float: repr, bool: ("false", "true").__getitem__, NoneType: lambda nothing: "null"}
)


@cache
def _members(kind: Any, tag: str = "", end: str = "") -> Callable[[Any], str]:
    """What makes the beginning of an object of such a word, with that `type` if there is one: `"name":value` of each
    field that is not None, in one format string. A loop over the fields takes half as long again."""
    form = f'{{{{"type":"{tag}"' if tag else "{{"
    for place, name in enumerate(kind._fields):
        told, value = kind.__annotations__[name], f"word[{place}]"
        if told is bool:
            made = f'"true" if {value} else "false"'
        else:
            made = {str: f"quote({value})", int: value, float: value}.get(told, f"dumps({value})")
        member = f'{"," if tag or place else ""}"{name}":{{{made}}}'
        optional = NoneType in get_args(told)
        assert tag or place or not optional  # or there would be a comma before nothing
        form += f"""{{"" if {value} is None else f'{member}'}}""" if optional else member
    members: Callable[[Any], str] = eval(f"lambda word: f'''{form}{end}'''", {"quote": quote, "dumps": dumps})
    return members


def dumps(value: Any) -> str:
    """Compact JSON, as everywhere on our wires; a word is an object, without those of its fields that are None. For
    what a turn says it takes a third of the time of making dicts and giving them to the `json` module."""
    return _MAKERS[value.__class__](value)


def teller(kind: str, word: Any) -> Callable[[Any], str]:
    """What makes such words into objects that say what they are, `type` first."""
    return _members(word, kind, "}}")


def tagged(kind: str, word: Any, **more: Any) -> str:
    """A word as such an object, with more behind its fields."""
    text = _members(word.__class__, kind)(word)
    for name, item in more.items():
        text += f',"{name}":{dumps(item)}'
    return text + "}"


# A chunk's JSON, as source of a format string: `tagged` takes twice as long, for it quotes what cannot need it.
_CHUNK = (
    '{{"type":"chunk","text":{quote(text)},"chunk_number":{number},"is_final":{final},"timestamp":"{timestamp}",'
    '"turn_id":"{turn_id}","seq":{seq}}}'
)
_chunk_json: Callable[[str, int, str, str, str, int], str] = eval(
    f"lambda text, number, final, timestamp, turn_id, seq: f{_CHUNK!r}", {"quote": quote}
)


def _tell_chunk(chunk: Chunk) -> str:
    text, number, final, timestamp, turn_id, seq = chunk
    return _chunk_json(text, number, "true" if final else "false", timestamp, turn_id, seq)


_TELLERS = {word: teller(name, word) for name, word in TYPES.items()} | {Chunk: _tell_chunk}


def as_json(event: Event | Heartbeat) -> str:
    """An event as JSON text."""
    return _TELLERS[event.__class__](event)


ChunkFramer = Callable[[str, str, int, str], bytes]
READY = 1024  # up to this seq, what the chunks with a seq have in common is made once, by the first that needs it


def chunk_framer(before: str, after: str, heads: Sequence[bytes], framed: Callable[[bytes], bytes]) -> ChunkFramer:
    """A function of turn_id, text, seq and timestamp that makes the frame of a chunk that is not the last. A codec puts
    `before` and `after` around its JSON (both are source of a format string, in which `{turn_id}` and `{seq}` may
    stand) and frames that with `framed`, or with one of its `heads` where it is short: there is one for each size.

    The hot path: it runs once per chunk and framing. Therefore one call, no `Chunk`, and one format string, in which
    what depends on the seq alone is put in ready-made: each of its pieces takes a twentieth of the time."""
    form = before + _CHUNK.replace("{final}", "false") + after
    ends = [part.rpartition("{turn_id}")[2] for part in re.split(r"{quote\(text\)}|{timestamp}", form)]
    for name, end in zip(("first", "second", "third"), ends, strict=True):
        form = form.replace(end, f"{{{name}}}")
    source = f"""
def framer(turn_id, text, seq, timestamp):
    try:
        first, second, third = ready[seq]
    except KeyError:
        first, second, third = of_seq(seq)
    data = f{form!r}.encode()
    try:
        return heads[len(data)] + data
    except IndexError:
        return framed(data)
"""

    ready: dict[int, tuple[str, ...]] = {}

    def of_seq(seq: int) -> tuple[str, ...]:
        made = tuple(end.format(seq=seq, number=seq - HEAD_EVENTS) for end in ends)
        if seq < READY:
            ready[seq] = made
        return made

    names: dict[str, Any] = {"quote": quote, "ready": ready, "of_seq": of_seq, "heads": heads, "framed": framed}
    exec(source, names)
    framer: ChunkFramer = names["framer"]
    return framer


def from_dict(fields: Mapping[str, Any]) -> Event | Heartbeat | None:
    """The event in a decoded JSON object; None for a type that this version does not know."""
    kind = fields.get("type")
    word = TYPES.get(kind) if isinstance(kind, str) else None
    if word is None:
        return None
    event: Event | Heartbeat = read(word, fields)
    return event if isinstance(event, Heartbeat) else followable(event)


def followable(event: Event) -> Event:
    """The event, if the id of its turn can stand where whoever follows it puts it: in a URL, in a header."""
    if not (event.turn_id.isascii() and event.turn_id.isprintable()):
        raise ProtocolError("'turn_id' is none")
    return event


def read(word: Any, fields: Mapping[str, Any]) -> Any:
    """The word in a decoded JSON object. What is absent is empty, but what is there has its type, on which whoever gets
    the word relies. A client does this once per chunk."""
    values = []
    for name, kinds, absent, inner in _rows(word):
        value = fields.get(name, absent)
        if value.__class__ not in kinds:
            raise ProtocolError(f"'{name}' has a wrong type")
        values.append(value if inner is None else read(inner, {**_EMPTY.get(inner, {}), **value}))
    return word(*values)


_EMPTY: dict[Any, Any] = {str: "", int: 0, bool: False, float: 0.0, Usage: {"estimated": True}}
_KINDS: dict[Any, tuple[Any, ...]] = {float: (float, int), Mapping: (dict,)}  # JSON has numbers and objects only


@cache
def _rows(word: Any) -> list[tuple[str, tuple[Any, ...], Any, Any]]:
    """Of each field its name, the classes of what JSON may say there, what it is where absent, and the word in it."""
    rows = []
    for name, told in word.__annotations__.items():
        absent = word._field_defaults.get(name, _EMPTY.get(told))
        rows.append((name, _kinds(told), absent, told if hasattr(told, "_fields") else None))
    return rows


def _kinds(told: Any) -> tuple[Any, ...]:
    if isinstance(told, UnionType):
        return tuple([kind for one in get_args(told) for kind in _kinds(one)])
    kind = get_origin(told) or told
    return (dict,) if hasattr(kind, "_fields") else _KINDS.get(kind, (kind,))

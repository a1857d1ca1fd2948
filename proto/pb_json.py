"""gRPC messages as JSON, for gRPC-Web: field names as in the `.proto`, types by name.

Two liberties within what proto3's JSON mapping allows its readers: whole numbers are numbers, also those of 64 bits
(which pages would get as strings); and an event has all of its fields, those with an empty value too.
"""

from collections.abc import Mapping
from json.encoder import encode_basestring as quote
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from proto import chat_pb2, events, pb
from proto.errors import ProtocolError
from proto.requests import json_object

M = TypeVar("M", bound=Message)

_CHUNK = (
    '{"type":"CHUNK","session_id":"%s","chunk_text":%s,"chunk_number":%d,"is_final":%s,"timestamp":"%s",'
    '"turn_id":"%s","seq":%d}'
)


def event_json(event: events.Event, session_id: str) -> str:
    """An event of a turn of this session as a `ChatResponse`."""
    if type(event) is events.Chunk:
        text, number, final, timestamp, turn_id, seq = event
        return _CHUNK % (session_id, quote(text), number, "true" if final else "false", timestamp, turn_id, seq)
    kind, renamed = pb.EVENTS[type(event)]
    fields = {renamed.get(name, name): value for name, value in event._asdict().items() if value is not None}
    return events.dumps({"type": chat_pb2.ChatResponse.Type.Name(kind), "session_id": session_id, **fields})


def message_json(message: Message) -> str:
    """An answer. Fields with presence that are not set are left out."""
    return events.dumps(_fields(message))


def parse_json(kind: type[M], data: bytes) -> M:
    """A request from JSON that nobody has looked at. What is not known is passed over, wrong types are not."""
    try:
        return json_format.ParseDict(json_object(data), kind(), ignore_unknown_fields=True)
    except (SystemError, UnicodeError):  # how upb meets half a character in a name
        raise ProtocolError(f"not a {kind.DESCRIPTOR.full_name} in JSON: it has a lone surrogate") from None
    except json_format.ParseError as error:
        raise ProtocolError(f"not a {kind.DESCRIPTOR.full_name} in JSON: {str(error).rstrip('.')}") from None


def _fields(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            continue
        if isinstance(value, Mapping):
            fields[field.name] = {key: _fields(item) for key, item in value.items()}
        elif isinstance(value, Message):
            fields[field.name] = _fields(value)
        elif field.type == FieldDescriptor.TYPE_ENUM and field.enum_type is not None:
            fields[field.name] = field.enum_type.values_by_number[value].name
        elif isinstance(value, (str, int, float)):
            fields[field.name] = value
        else:
            fields[field.name] = [_fields(item) for item in value]
    return fields

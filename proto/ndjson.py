"""NDJSON: one event as JSON a line (`application/x-ndjson`)."""

import json

from proto.errors import ProtocolError
from proto.events import Event, Heartbeat, as_json, from_dict
from proto.lines import MAX_LINE_BYTES, LineBuffer

CONTENT_TYPE = "application/x-ndjson"
END = "\n"  # of an event


def encode(event: Event | Heartbeat) -> bytes:
    return (as_json(event) + END).encode()


class Decoder:
    """Fed the pieces of a body as they come, returns the events that are whole."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._lines = LineBuffer(max_line_bytes)

    def feed(self, data: bytes) -> list[Event | Heartbeat]:
        events = []
        for line in self._lines.feed(data):
            if line.strip():
                event = decode(line)
                if event is not None:
                    events.append(event)
        return events


def decode(line: bytes | str) -> Event | Heartbeat | None:
    """The event in one line; None for a type that this version does not know."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("A line of the stream is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise ProtocolError("A line of the stream is not a JSON object.")
    return from_dict(fields)

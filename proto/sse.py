"""Server-Sent Events (WHATWG HTML, section 9.2), both ways: frames of ours, and any server's.

1. Our frame is `id: turn_id:seq`, `data: {json}`, a blank line, and no `event:` field: `onmessage` gets everything,
   and no event is called `error`, which an EventSource keeps for itself.
2. The decoder takes LF, CR LF and CR as line ends, also where a CR LF is torn apart, and a byte order mark; a frame
   that the end of the stream cuts off is dropped, as the standard says.
3. Lines are split as bytes: `str.splitlines` would also split at U+2028 and the like, inside of somebody's text.
"""

import re
from typing import NamedTuple

from proto.errors import ProtocolError
from proto.events import Event, Heartbeat, as_json
from proto.lines import MAX_LINE_BYTES, LineBuffer
from proto.ndjson import decode

CONTENT_TYPE = "text/event-stream"
START = "id: {turn_id}:{seq}\ndata: "  # of a frame
END = "\n\n"
RETRY = b"retry: 1000\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_BOM = b"\xef\xbb\xbf"
_CR = re.compile(rb"\r\n?")


class Frame(NamedTuple):
    """One dispatched frame. `id` is the last id seen, as in an EventSource; `retry` in milliseconds, if given here."""

    data: str
    event: str = ""
    id: str = ""
    retry: int | None = None


def encode(event: Event) -> bytes:
    return f"{START.format(turn_id=event.turn_id, seq=event.seq)}{as_json(event)}{END}".encode()


def event_of(frame: Frame) -> Event | Heartbeat | None:
    """Our event in a frame's data; None for a type that this version does not know."""
    return decode(frame.data)


class Decoder:
    """Fed the pieces of a body as they come, returns the frames that are whole."""

    def __init__(self, max_frame_bytes: int = MAX_LINE_BYTES) -> None:
        self._lines = LineBuffer(max_frame_bytes)
        self._max = max_frame_bytes
        self._started = False
        self._torn = False  # the last piece ended in a CR: an LF that follows belongs to it
        self._head = b""
        self._data: list[bytes] = []
        self._size = 0
        self._event = b""
        self._id = b""
        self._retry: int | None = None
        self.retry: int | None = None

    def feed(self, data: bytes) -> list[Frame]:
        if not self._started:
            self._head += data
            if len(self._head) < 3 and _BOM.startswith(self._head):
                return []
            data, self._head, self._started = self._head.removeprefix(_BOM), b"", True
        if self._torn and data:
            data = data.removeprefix(b"\n")
            self._torn = False
        if b"\r" in data:
            self._torn = data.endswith(b"\r")
            data = _CR.sub(b"\n", data)
        frames = []
        for line in self._lines.feed(data):
            if line:
                self._field(line)
            else:
                frame = self._dispatch()
                if frame is not None:
                    frames.append(frame)
        return frames

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._max:
                raise ProtocolError(f"A frame is larger than {self._max} bytes.")
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry = self._retry = int(value)

    def _dispatch(self) -> Frame | None:
        data, event, retry = self._data, self._event, self._retry
        self._data, self._event, self._retry, self._size = [], b"", None, 0
        if not data:
            return None
        try:
            return Frame(b"\n".join(data).decode(), event.decode(), self._id.decode(), retry)
        except UnicodeDecodeError:
            raise ProtocolError("A frame is not UTF-8.") from None

"""A WebSocket's frames on their way to aiohttp's reader: what it takes, and no client may send, is found here (frames
without a mask, RFC 6455 section 5.1, and control frames that are compressed, RFC 7692 section 6.1).

1. Only the heads of frames are looked at, where the bytes come in: from head to head, whatever the payloads hold.
2. A head that is cut by the end of a read waits here for the rest of it.
3. From the first frame that is forbidden on, the reader gets a head that it refuses by itself: so it closes with 1002,
   after all that came before, as it does for everything else that breaks the protocol.
4. Who hears (`hear`) is told a short text that comes alone and whole, past the reader, and is let go when something
   else comes: from then on it is the reader that has to be waited for.
"""

from collections.abc import Callable
from typing import Protocol

from aiohttp._websocket.helpers import websocket_mask  # in C, where aiohttp has that

_MASKED, _COMPRESSED_CONTROL = 0x80, 0x48
_WHOLE, _CONTROL, _WHOLE_TEXT = 0x80, 0x08, 0x81
_LONG = 0xFF  # masked, with a length of eight bytes
SHORT_BYTES = 4096  # below the limit of every message
_REFUSED = b"\x70\x80"  # reserved bits that mean nothing, whatever was agreed on
_FOR_EVER = 1 << 64


class Reader(Protocol):
    """As much as matters here of aiohttp's, which it has in C and in Python."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]: ...
    def feed_eof(self) -> None: ...


class ClientFrames:
    """Stands before the reader of one connection."""

    __slots__ = ("_cut", "_next", "_reader", "_whole", "hear")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._cut = b""  # the beginning of a head
        self._next = 0  # where the next head begins, from the first byte that has not come yet
        self._whole = True  # the last message: it does not go on in another frame
        self.hear: Callable[[str], None] | None = None

    def wake(self) -> None:
        """Have the reader give a pong to who waits for it."""
        self.hear = None
        self._reader.feed_data(b"\x8a\x80" + bytes(4))

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        hear = self.hear
        if hear is not None:
            text = _short_text(data) if self._whole and not self._next and not self._cut else None
            if text is not None:
                hear(text)
                return False, b""
            self.hear = None
        if self._cut:
            data, self._cut = self._cut + data, b""
        at, size = self._next, len(data)
        while at + 1 < size:
            if data[at + 1] < _MASKED or data[at] & _COMPRESSED_CONTROL == _COMPRESSED_CONTROL:
                self._next = _FOR_EVER
                return self._reader.feed_data(data[:at] + _REFUSED)
            if not data[at] & _CONTROL:
                self._whole = data[at] >= _WHOLE
            length = data[at + 1] - _MASKED
            head = 2 if length < 126 else 4 if length == 126 else 10
            if head > 2:
                if at + head > size:
                    break
                length = int.from_bytes(data[at + 2 : at + head], "big")
            at += head + 4 + length
        if at < size:
            data, self._cut = data[:at], data[at:]
            at = size
        self._next = at - size
        return self._reader.feed_data(data)

    def feed_eof(self) -> None:
        self._reader.feed_eof()


def _short_text(data: bytes) -> str | None:
    """The text, if that is all that has come, and it is short."""
    if len(data) < 6 or data[0] != _WHOLE_TEXT:
        return None
    size, head = data[1] - _MASKED, 2
    if size > 125:
        size, head = int.from_bytes(data[2:4], "big"), 4
        if data[1] == _LONG or size < 126:  # or a length that is written longer than it may be
            return None
    mask, masked = data[head : head + 4], bytearray(data[head + 4 :])
    if not 0 <= size == len(masked) <= SHORT_BYTES:
        return None
    websocket_mask(mask, masked)
    try:
        return masked.decode()
    except UnicodeDecodeError:
        return None  # the reader refuses it

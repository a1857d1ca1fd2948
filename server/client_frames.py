"""What aiohttp's WebSocket reader takes, and no client may send: frames without a mask (RFC 6455 section 5.1), and
control frames that are compressed (RFC 7692 section 6.1).

1. Only the heads of frames are looked at, where the bytes come in: from head to head, whatever the payloads hold.
2. A head that is cut by the end of a read waits here for the rest of it.
3. From the first frame that is forbidden on, the reader gets a head that it refuses by itself: so it closes with 1002,
   after all that came before, as it does for everything else that breaks the protocol.
"""

from typing import Protocol

_MASKED, _COMPRESSED_CONTROL = 0x80, 0x48
_REFUSED = b"\x70\x80"  # reserved bits that mean nothing, whatever was agreed on
_FOR_EVER = 1 << 64


class Reader(Protocol):
    """As much as matters here of aiohttp's, which it has in C and in Python."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]: ...
    def feed_eof(self) -> None: ...


class ClientFrames:
    """Stands before the reader of one connection."""

    __slots__ = ("_cut", "_next", "_reader")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._cut = b""  # the beginning of a head
        self._next = 0  # where the next head begins, from the first byte that has not come yet

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self._cut:
            data, self._cut = self._cut + data, b""
        at, size = self._next, len(data)
        while at + 1 < size:
            if data[at + 1] < _MASKED or data[at] & _COMPRESSED_CONTROL == _COMPRESSED_CONTROL:
                self._next = _FOR_EVER
                return self._reader.feed_data(data[:at] + _REFUSED)
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

"""The names of turns, sessions and connections: random, so that nobody can guess one."""

import os
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator

DRAWN_BYTES = 6144
TURN_ID_CHARS = 24  # six bits each
UUID_CHARS = 36


def _names(written: Callable[[bytes], str], chars: int) -> Iterator[str]:
    """Names of so many characters, cut from what is written with random bytes. To ask the operating system takes 5 µs,
    however much one asks for, and to write the bytes of one name 1 µs: both are done for many names at once."""
    while True:
        text = written(os.urandom(DRAWN_BYTES))
        for start in range(0, len(text) - chars + 1, chars):
            yield text[start : start + chars]


def _as_uuids(drawn: bytes) -> str:
    """UUIDs (RFC 9562, version 4) behind one another, column by column."""
    digits = drawn.hex().encode()
    text = bytearray(b"-" * (len(digits) // 32 * UUID_CHARS))
    columns = [place for place in range(UUID_CHARS) if place not in (8, 13, 18, 23)]
    for column, place in enumerate(columns):
        text[place::UUID_CHARS] = digits[column::32]
    text[14::UUID_CHARS] = b"4" * (len(digits) // 32)
    text[19::UUID_CHARS] = bytes([b"89ab"[byte >> 6] for byte in drawn[8::16]])
    return text.decode()


turn_id: Callable[[], str] = _names(lambda drawn: urlsafe_b64encode(drawn).decode(), TURN_ID_CHARS).__next__
session_id: Callable[[], str] = _names(_as_uuids, UUID_CHARS).__next__
connection_id: Callable[[], str] = _names(bytes.hex, 16).__next__

"""The names of turns, sessions and connections.

Random, so that nobody can guess one. Those that are stored begin with the time: what is new then lies side by side in
the indexes of a store on disk, and a commit of many turns changes one page of each index, not one per name.
"""

import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator

DRAWN_BYTES = 6240  # a multiple of ten, and of three
TURN_RANDOM_CHARS = 13  # six bits each
UUID_RANDOM_CHARS = 21  # behind the version


def _names(written: Callable[[bytes], str], chars: int) -> Iterator[str]:
    """Names of so many characters, cut from what is written with random bytes. To ask the operating system takes 5 µs,
    however much one asks for, and to write the bytes of one name 1 µs: both are done for many names at once."""
    while True:
        text = written(os.urandom(DRAWN_BYTES))
        for start in range(0, len(text) - chars + 1, chars):
            yield text[start : start + chars]


def _as_ends_of_uuids(drawn: bytes) -> str:
    """What follows the version in UUIDs, behind one another, column by column; ten bytes for each."""
    digits = drawn.hex().encode()
    text = bytearray(b"-" * (len(drawn) // 10 * UUID_RANDOM_CHARS))
    columns = [place for place in range(UUID_RANDOM_CHARS) if place not in (3, 8)]
    for column, place in enumerate(columns):
        text[place::UUID_RANDOM_CHARS] = digits[column::20]
    text[4::UUID_RANDOM_CHARS] = bytes([b"89ab"[byte & 3] for byte in drawn[1::10]])
    return text.decode()


_end_of_turn_id = _names(lambda drawn: urlsafe_b64encode(drawn).decode(), TURN_RANDOM_CHARS).__next__
_end_of_uuid = _names(_as_ends_of_uuids, UUID_RANDOM_CHARS).__next__
connection_id: Callable[[], str] = _names(bytes.hex, 16).__next__


def turn_id() -> str:
    """The time in milliseconds, eleven hexadecimal digits, and 78 random bits."""
    return "%011x%s" % (time.time_ns() // 1_000_000, _end_of_turn_id())  # noqa: UP031 (faster than an f-string)


def session_id() -> str:
    """A UUID (RFC 9562, version 7)."""
    now = time.time_ns() // 1_000_000
    return "%08x-%04x-7%s" % (now >> 16, now & 0xFFFF, _end_of_uuid())  # noqa: UP031

"""The names of turns, sessions and connections.

1. They are random, so that nobody can guess one. To ask the operating system for random bytes takes 5 µs, however many
   they are, and to write those of one name 1 µs: both are done for many names at once, column by column.
2. Those that are stored begin with the second in which they were drawn, and a number: what is new then lies side by
   side in the indexes of a store on disk, and a commit of many turns changes one page of each, not one per name.
"""

import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence

DRAWN = 512  # names at once
TURN_RANDOM_CHARS = 13  # six bits each
SESSION_RANDOM_DIGITS = 19  # four bits each, and two of one more

_VARIANT = bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)
_NUMBERS = [bytes(column) for column in zip(*[b"%03x" % number for number in range(DRAWN)], strict=True)]


def _names(drawn: Callable[[], Sequence[bytes]]) -> Iterator[str]:
    """Names without end; `drawn` gives the columns of the next ones: a character for all, or one for each."""
    while True:
        columns = drawn()
        width = len(columns)
        text = bytearray(DRAWN * width)
        for place, column in enumerate(columns):
            text[place::width] = column if len(column) == DRAWN else column * DRAWN
        names = text.decode()
        for start in range(0, len(names), width):
            yield names[start : start + width]


def _now() -> list[bytes]:
    return [b"%c" % digit for digit in b"%08x" % int(time.time())]


def _turn_ids() -> list[bytes]:
    chars = urlsafe_b64encode(os.urandom(DRAWN * TURN_RANDOM_CHARS * 6 // 8))
    return [*_now(), *_NUMBERS, *[chars[place::TURN_RANDOM_CHARS] for place in range(TURN_RANDOM_CHARS)]]


def _session_ids() -> list[bytes]:
    """UUIDs (RFC 9562, version 8: of our own making)."""
    variant, *rest = _hexadecimal(1 + SESSION_RANDOM_DIGITS)
    second = [*_NUMBERS, rest[0]]
    fourth = [variant.translate(_VARIANT), *rest[4:7]]
    return [*_now(), b"-", *second, b"-", b"8", *rest[1:4], b"-", *fourth, b"-", *rest[7:]]


def _connection_ids() -> list[bytes]:
    return _hexadecimal(16)


def _hexadecimal(width: int) -> list[bytes]:
    digits = os.urandom(DRAWN * width // 2).hex().encode()
    return [digits[place::width] for place in range(width)]


turn_id: Callable[[], str] = _names(_turn_ids).__next__
session_id: Callable[[], str] = _names(_session_ids).__next__
connection_id: Callable[[], str] = _names(_connection_ids).__next__

"""The names of turns, sessions and connections: random, so that nobody can guess one."""

import os
from base64 import urlsafe_b64encode
from collections.abc import Callable

DRAWN_BYTES = 6144
TURN_ID_CHARS = 24  # six bits each


class _Drawn:
    """Random characters of what the operating system gives. To ask it takes 5 µs, however much one asks for, and to
    make text of the bytes of one id takes 1 µs: both are done for many ids at once."""

    def __init__(self, written: Callable[[bytes], str]) -> None:
        self._written = written
        self._text = ""
        self._used = 0

    def take(self, count: int) -> str:
        start = self._used
        end = self._used = start + count
        if end > len(self._text):
            self._text = self._written(os.urandom(DRAWN_BYTES))
            start, end = 0, count
            self._used = count
        return self._text[start:end]


_url_safe = _Drawn(lambda drawn: urlsafe_b64encode(drawn).decode())
_hex = _Drawn(bytes.hex)


def turn_id() -> str:
    return _url_safe.take(TURN_ID_CHARS)


def session_id() -> str:
    """A UUID (RFC 9562, version 4)."""
    digits = _hex.take(32)
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def connection_id() -> str:
    return _hex.take(16)

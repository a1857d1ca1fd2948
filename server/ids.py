"""The names of turns, sessions and connections: random, so that nobody can guess one."""

import os
from binascii import b2a_base64

DRAWN_BYTES = 4096
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

_drawn = b""
_used = 0


def turn_id() -> str:
    return b2a_base64(_random(18), newline=False).translate(_URL_SAFE).decode()


def session_id() -> str:
    """A UUID (RFC 9562, version 4)."""
    digits = _random(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def connection_id() -> str:
    return _random(8).hex()


def _random(size: int) -> bytes:
    """Of what the operating system gives. To ask takes 5 µs, however much one asks for: so it is asked for many."""
    global _drawn, _used
    if _used + size > len(_drawn):
        _drawn, _used = os.urandom(DRAWN_BYTES), 0
    _used += size
    return _drawn[_used - size : _used]

"""Timestamps as the contract writes them: RFC 3339, UTC, microseconds, `+00:00`."""

import time
from datetime import UTC, datetime

SHARED_NANOSECONDS = 1_000_000

_made_at = -SHARED_NANOSECONDS
_made = ""


def timestamp() -> str:
    """Now. This is called for every chunk: those of the same millisecond share the text."""
    global _made_at, _made
    now = time.time_ns()
    if not 0 <= now - _made_at < SHARED_NANOSECONDS:
        _made_at, _made = now, rfc3339(now / 1e9)
    return _made


def rfc3339(seconds: float) -> str:
    """The timestamp of a time given in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def seconds_of(stamp: str) -> float:
    """The time in seconds since the epoch of a timestamp of ours."""
    return datetime.fromisoformat(stamp).timestamp()

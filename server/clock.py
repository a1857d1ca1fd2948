"""Timestamps as the contract writes them: RFC 3339, UTC, microseconds, `+00:00`."""

import time
from datetime import UTC, datetime

_second = -1
_until_second = ""


def timestamp() -> str:
    """Now. What a second has in common is put together once."""
    global _second, _until_second
    second, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    if second != _second:
        _second, _until_second = second, datetime.fromtimestamp(second, UTC).isoformat()[:19]
    return f"{_until_second}.{microseconds:06d}+00:00"


def rfc3339(seconds: float) -> str:
    """The timestamp of a time given in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def seconds_of(stamp: str) -> float:
    """The time in seconds since the epoch of a timestamp of ours."""
    return datetime.fromisoformat(stamp).timestamp()

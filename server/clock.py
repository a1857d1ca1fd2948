"""Timestamps as the contract writes them: RFC 3339, UTC, microseconds, `+00:00`; and as HTTP does."""

import time
from datetime import UTC, datetime
from email.utils import formatdate

_second = -1
_until_second = ""
_dated = -1
_date = ""


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


def http_date() -> str:
    """Now, as HTTP writes it (RFC 9110 section 5.6.7); made once a second."""
    global _dated, _date
    second = int(time.time())
    if second != _dated:
        _dated, _date = second, formatdate(second, usegmt=True)
    return _date

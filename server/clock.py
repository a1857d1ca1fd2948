"""Timestamps as the contract writes them: RFC 3339, UTC, microseconds, `+00:00`; and as HTTP does."""

import time
from datetime import UTC, datetime
from email.utils import formatdate

_DIGITS = [f"{number:03}" for number in range(1000)]  # ready-made, a timestamp takes half the time
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
    return f"{_until_second}.{_DIGITS[microseconds // 1000]}{_DIGITS[microseconds % 1000]}+00:00"


def whole_microseconds(seconds: float) -> float:
    """A time span without what is below a microsecond; `round` takes twice as long."""
    return int(seconds * 1_000_000 + 0.5) / 1_000_000


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

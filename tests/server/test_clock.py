"""Timestamps: what a second has in common is kept, and must not be taken for another's."""

import time
from datetime import UTC, datetime

import pytest

from server import clock

STAMPS = {
    0: "1970-01-01T00:00:00.000000+00:00",
    1: "1970-01-01T00:00:00.000000+00:00",
    999_999_999: "1970-01-01T00:00:00.999999+00:00",
    1_000_000_000: "1970-01-01T00:00:01.000000+00:00",
    951_827_696_000_001_999: "2000-02-29T12:34:56.000001+00:00",
    4_102_444_799_999_999_000: "2099-12-31T23:59:59.999999+00:00",
}


def test_timestamps_are_rfc_3339_to_the_microsecond(monkeypatch):
    moments = iter([*STAMPS, *reversed(STAMPS)])  # the clock may be set back
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    assert [clock.timestamp() for _ in range(2 * len(STAMPS))] == [*STAMPS.values(), *reversed(STAMPS.values())]


def test_a_timestamp_can_be_read_back():
    before = time.time()
    stamp = clock.timestamp()
    assert before - 1e-6 <= clock.seconds_of(stamp) <= time.time()
    assert datetime.fromisoformat(stamp).tzinfo == UTC
    assert clock.rfc3339(clock.seconds_of(stamp)) == stamp


def test_the_date_is_that_of_http(monkeypatch):
    days = {784_111_777.9: "Sun, 06 Nov 1994 08:49:37 GMT", 951_827_696.0: "Tue, 29 Feb 2000 12:34:56 GMT"}
    moments = iter([*days, *days, *reversed(days)])
    monkeypatch.setattr(time, "time", lambda: next(moments))
    assert [clock.http_date() for _ in range(6)] == [*days.values(), *days.values(), *reversed(days.values())]


def test_time_spans_are_told_to_the_microsecond():
    for number in range(1, 200_000, 37):
        seconds = number * 1.234567e-7
        assert clock.whole_microseconds(seconds) == pytest.approx(seconds, rel=0, abs=0.500001e-6)
        assert clock.whole_microseconds(seconds) == round(clock.whole_microseconds(seconds), 6)

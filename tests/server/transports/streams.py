"""NDJSON and SSE, read strictly from a raw socket."""

import json
import re
from typing import Any

import pytest

NDJSON, SSE = "application/x-ndjson", "text/event-stream"
BOTH = pytest.mark.parametrize("accept", [NDJSON, SSE])
QUICK = "demo?chunks=6&rate=0"
FRAME = re.compile(rb"id: ([A-Za-z0-9_-]+):([0-9]+)\ndata: (\{.*\})\n\n")


def events_of(accept: str, body: bytes) -> list[Any]:
    """The events of a body, read strictly; heartbeats are left out."""
    if accept == NDJSON:
        assert body.endswith(b"\n") or not body
        return [event for line in body.splitlines() if (event := json.loads(line))["type"] != "heartbeat"]
    assert body.startswith(b"retry: 1000\n\n")
    rest, events = body.removeprefix(b"retry: 1000\n\n").replace(b": keep-alive\n\n", b""), []
    while rest:
        frame = FRAME.match(rest)
        assert frame, rest[:200]
        event = json.loads(frame[3])
        assert (event["turn_id"].encode(), event["seq"]) == (frame[1], int(frame[2]))
        events.append(event)
        rest = rest[frame.end() :]
    return events


async def until(wire: Any, accept: str, count: int) -> list[Any]:
    """The first events of a chunked stream, at least so many."""
    body = b""
    while len(events := events_of(accept, body) if body else []) < count:
        piece = await wire.chunk()
        assert piece, body
        body += piece
    return events

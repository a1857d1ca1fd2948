"""NDJSON and Server-Sent Events: the answer as one streaming body. They differ in their framing only."""

from collections.abc import AsyncGenerator

from client.api import Api, Framing, chat_body
from proto import ndjson, sse
from proto.events import Event, Heartbeat
from proto.requests import ChatRequest, Cursor


class Stream(Api):
    def __init__(self, url: str, name: str) -> None:
        super().__init__(url)
        self.name = name
        self._framing = _FRAMINGS[name]

    def send(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        return self.events(self._framing, "POST", "/chat/stream", json=chat_body(request))

    def follow(self, turn_id: str, after: int) -> AsyncGenerator[Event, None]:
        headers = {"Last-Event-ID": str(Cursor(turn_id, after))} if after else {}
        return self.events(self._framing, "GET", f"/turns/{turn_id}", headers=headers)


class _SseEvents:
    """Frames are one thing, the events in them another."""

    def __init__(self) -> None:
        self._frames = sse.Decoder()

    def feed(self, data: bytes) -> list[Event | Heartbeat]:
        events = (sse.event_of(frame) for frame in self._frames.feed(data))
        return [event for event in events if event is not None]


_FRAMINGS = {
    "ndjson": Framing(ndjson.CONTENT_TYPE, lambda: ndjson.Decoder().feed),
    "sse": Framing(sse.CONTENT_TYPE, lambda: _SseEvents().feed),
}

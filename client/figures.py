"""What the client counts of its own doing, for `/stats` and the toolbar."""

import time
from dataclasses import dataclass, field

from proto.events import Chunk, Complete, Error, Event, SessionInfo, Status

CHARS_PER_TOKEN = 4  # an estimate, until the server tells
MIN_RATE_SECONDS = 0.2  # of an answer that came at once, a rate tells nothing


@dataclass(slots=True)
class Figures:
    """Since the client's start."""

    started: float = field(default_factory=time.monotonic)
    messages: int = 0
    good: int = 0
    failed: int = 0
    chunks: int = 0
    sessions: int = 0
    attempts: int = 0
    reconnections: int = 0
    seconds: float = 0.0
    first_chunks: list[float] = field(default_factory=list)

    def count(self, progress: "Progress") -> None:
        """One answer more."""
        if progress.failed:
            self.failed += 1
        else:
            self.good += 1
        self.chunks += progress.chunks
        self.seconds += progress.seconds
        if progress.first_chunk is not None:
            self.first_chunks.append(progress.first_chunk)

    @property
    def answers(self) -> int:
        return self.good + self.failed


@dataclass(slots=True)
class Progress:
    """One answer as it grows, as this client sees it: times count from when it asked."""

    asked: float = field(default_factory=time.monotonic)
    info: SessionInfo | None = None
    context_messages: int | None = None
    omitted_messages: int = 0
    chunks: int = 0
    chars: int = 0
    first_chunk: float | None = None
    ended: float | None = None
    end: Complete | Error | None = None
    resumed: int = 0

    def add(self, event: Event) -> None:
        if isinstance(event, SessionInfo):
            self.info = event
        elif isinstance(event, Status):
            self.context_messages = event.context_messages
            self.omitted_messages = event.omitted_messages
        elif isinstance(event, Chunk):
            if self.first_chunk is None:
                self.first_chunk = time.monotonic() - self.asked
            self.chunks += 1
            self.chars += len(event.text)
        elif isinstance(event, Complete | Error):
            self.end = event
            self.ended = time.monotonic()

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.asked

    @property
    def failed(self) -> bool:
        return not isinstance(self.end, Complete)

    @property
    def tokens(self) -> int:
        """As the model counts where it is known, else about."""
        return self.end.usage.output_tokens if isinstance(self.end, Complete) else self.chars // CHARS_PER_TOKEN

    @property
    def rate(self) -> float | None:
        """Tokens a second since the first chunk."""
        writing = self.seconds - (self.first_chunk or 0)
        return self.tokens / writing if self.chunks > 1 and writing > MIN_RATE_SECONDS else None

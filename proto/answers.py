"""The words of the plain answers: what REST sends as JSON and gRPC as messages."""

from typing import NamedTuple

from proto.events import Usage


class ChatAnswer(NamedTuple):
    """`POST /chat`: the whole answer at once."""

    response: str
    session_id: str
    processing_time: float
    model: str
    timestamp: str
    message_count: int
    is_new_session: bool
    turn_id: str
    finish_reason: str
    usage: Usage


class SessionCreated(NamedTuple):
    session_id: str
    model: str
    timestamp: str


class SessionSummary(NamedTuple):
    session_id: str
    model: str
    message_count: int
    duration_minutes: int
    created_at: str
    connected_clients: int


class SessionList(NamedTuple):
    active_sessions: int
    sessions: list[SessionSummary]
    next: str | None


class HistoryMessage(NamedTuple):
    """What was said. The last message of a turn that has ended (the answer or, where nothing came, the question) tells
    how: `finish_reason`, or `code` and `error` where the turn broke."""

    role: str
    text: str
    turn_id: str
    timestamp: str
    finish_reason: str | None = None
    code: str | None = None
    error: str | None = None

    @property
    def ends_turn(self) -> bool:
        return self.finish_reason is not None or self.code is not None


class SessionDetail(NamedTuple):
    session_id: str
    model: str
    message_count: int
    session_duration_seconds: float
    user_messages: int
    model_messages: int
    created_at: str
    usage: Usage
    messages: list[HistoryMessage]
    active_turn: str | None


class Note(NamedTuple):
    """An answer that only says what was done."""

    message: str


class TurnSnapshot(NamedTuple):
    """A turn as it stands: `status` is running, complete, cancelled, failed or interrupted."""

    turn_id: str
    session_id: str
    model: str
    status: str
    message: str
    text: str
    last_seq: int
    started_at: str
    ended_at: str | None
    processing_time: float | None
    time_to_first_chunk: float | None
    finish_reason: str | None
    usage: Usage | None
    text_sha256: str | None
    code: str | None
    error: str | None


class ModelInfo(NamedTuple):
    id: str
    provider: str


class ModelList(NamedTuple):
    default: str
    models: list[ModelInfo]


class Health(NamedTuple):
    """`status` is healthy, draining or degraded (the store cannot write)."""

    status: str
    model: str
    uptime_seconds: float
    total_requests: int
    successful_requests: int
    failed_requests: int
    active_sessions: int
    streaming_connections: int
    websocket_connections: int


class TransportStats(NamedTuple):
    """One transport's figures since the start; times in seconds, None before the first."""

    requests: int
    open_streams: int
    chunks: int
    bytes: int
    first_chunk_p50: float | None
    first_chunk_p99: float | None


class ServerStats(NamedTuple):
    """Health's figures and more."""

    status: str
    model: str
    uptime_seconds: float
    total_requests: int
    successful_requests: int
    failed_requests: int
    active_sessions: int
    streaming_connections: int
    websocket_connections: int
    average_response_time: float
    start_time: str
    total_sessions_created: int
    framework: str
    running_turns: int
    usage: Usage
    transports: dict[str, TransportStats]


class Problem(NamedTuple):
    """Every HTTP error, as application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str
    turn_id: str | None = None

"""The one class for expected failures, the one for bad bytes, and the table of codes for every transport."""

from typing import NamedTuple


class Code(NamedTuple):
    """One row of the table: what an error code is on each transport."""

    http: int
    grpc: str
    retryable: bool
    title: str


CODES: dict[str, Code] = {
    "invalid_request": Code(400, "INVALID_ARGUMENT", False, "The request is not valid"),
    "unauthorized": Code(401, "UNAUTHENTICATED", False, "Credentials are missing or wrong"),
    "forbidden": Code(403, "PERMISSION_DENIED", False, "Not allowed"),
    "not_found": Code(404, "NOT_FOUND", False, "Not found"),
    "session_busy": Code(409, "FAILED_PRECONDITION", True, "The session is busy"),
    "conflict": Code(409, "FAILED_PRECONDITION", False, "In conflict with an earlier request"),
    "too_large": Code(413, "RESOURCE_EXHAUSTED", False, "Too large"),
    "rate_limited": Code(429, "RESOURCE_EXHAUSTED", True, "Too many requests"),
    "model_error": Code(502, "UNAVAILABLE", False, "The model refused or broke"),
    "model_timeout": Code(504, "DEADLINE_EXCEEDED", True, "The model took too long"),
    "unavailable": Code(503, "UNAVAILABLE", True, "Not available now"),
    "interrupted": Code(503, "UNAVAILABLE", True, "The server stopped while answering"),
    "internal": Code(500, "INTERNAL", False, "Internal error"),
}

# WebSocket close codes (RFC 6455 section 7.4, IANA registry; 4408 is ours).
CLOSE_GOING_AWAY = 1001
CLOSE_NOT_ALLOWED = 1008
CLOSE_TOO_BIG = 1009
CLOSE_TRY_LATER = 1013
CLOSE_TOO_SLOW = 4408


class ChatError(Exception):
    """An expected failure: a code of the table and a sentence that says what to do.

    `retryable` and `http` default to the table's; `retry_after` is in seconds; `turn_id` names the turn
    that broke, or that keeps the session busy.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after: float | None = None,
        turn_id: str | None = None,
        http: int | None = None,
    ) -> None:
        super().__init__(message)
        row = CODES[code]
        self.code = code
        self.message = message
        self.retryable = row.retryable if retryable is None else retryable
        self.retry_after = 1.0 if retry_after is None and row.http in (429, 503) else retry_after
        self.turn_id = turn_id
        self.http = http or row.http


class ProtocolError(Exception):
    """Bytes that are not what the protocol says. A codec raises it; the edge decides whose fault it was."""

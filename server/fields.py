"""What every field of the interface means, with an example: said once, for the documentation of every transport.

A name means the same wherever it stands, except where `Word.field` says otherwise.
"""

from typing import Any, NamedTuple


class Field(NamedTuple):
    text: str
    example: Any = None


_SESSION, _TURN = "5f0c6bd2-8a55-4d1e-9f0c-0f8b1f6f2a77", "LxvilFQ5opKGITG99kDSVQ2R"
_TIME = "2026-11-21T08:13:49.045216+00:00"
_DIGEST = "185f8db32271fe25f561a6fc938b2e264306ec304eda518007d1764826381969"

FIELDS: dict[str, Field] = {
    "session_id": Field("The session: 1 to 128 of `A-Z a-z 0-9 . _ -`.", _SESSION),
    "turn_id": Field("The turn: one message and its answer. With `seq` it is a cursor.", _TURN),
    "seq": Field("The event's number in its turn: 1, 2, 3 without gaps.", 3),
    "type": Field("The kind of event."),
    "timestamp": Field("When, as RFC 3339 in UTC.", _TIME),
    "model": Field("The model that answers.", "demo"),
    "model_id": Field("The model of a new session; on an existing one, the model from this turn on.", "demo"),
    "message": Field("The user's text.", "Hello"),
    "idempotency_key": Field(
        "The same key in the same session attaches to the same turn for 24 hours, to one that broke, too: ask again "
        "with a new one.",
        "order-66",
    ),
    "is_new_session": Field("Whether this turn made the session.", True),
    "context_messages": Field("How many messages of the conversation the model is shown.", 1),
    "omitted_messages": Field("How many were too old to be shown to the model.", 0),
    "text": Field("A piece of the answer, verbatim: joining all texts gives the answer.", "Hello "),
    "chunk_number": Field("1, 2, 3 and so on.", 1),
    "is_final": Field("The last chunk; its text may be empty.", False),
    "total_chunks": Field("How many chunks there were.", 24),
    "processing_time": Field("Seconds from asking to the end.", 0.96),
    "time_to_first_chunk": Field("Seconds from asking to the first chunk; absent where none came.", 0.04),
    "message_count": Field("Messages in the session.", 2),
    "finish_reason": Field("`stop`, `length`, `safety` or `cancelled`.", "stop"),
    "usage": Field("Tokens of the turn, or of all turns."),
    "input_tokens": Field("Tokens that the model was given.", 12),
    "output_tokens": Field("Tokens that it produced.", 30),
    "estimated": Field("The model did not tell; counted by rule of thumb.", True),
    "cost": Field("What it cost, where the operator has set a price.", 0.0004),
    "text_sha256": Field("SHA-256 of the whole answer in UTF-8, in hexadecimal.", _DIGEST),
    "code": Field("One of the error codes.", "not_found"),
    "retryable": Field("Whether trying again may help.", False),
    "response": Field("The whole answer.", "Hello there."),
    "duration_minutes": Field("Age of the session.", 3),
    "session_duration_seconds": Field("Age of the session.", 181.2),
    "created_at": Field("When the session was made.", _TIME),
    "connected_clients": Field("Members of the session just now.", 1),
    "active_sessions": Field("Sessions there are.", 1),
    "sessions": Field("One page of them, newest activity first."),
    "next": Field(
        "Where the next page begins: its `before`. Absent on the last page.",
        "1795248829.045216:5f0c6bd2-8a55-4d1e-9f0c-0f8b1f6f2a77",
    ),
    "role": Field("`user` or `model`.", "model"),
    "user_messages": Field("Messages of the user.", 1),
    "model_messages": Field("Answers of the model.", 1),
    "messages": Field("The conversation since it was last cleared, oldest first."),
    "active_turn": Field("The turn that is running, if one is.", _TURN),
    "status": Field("`healthy`, `draining` or `degraded` (the store cannot write).", "healthy"),
    "last_seq": Field("The seq of the last event so far.", 27),
    "started_at": Field("When the turn began.", _TIME),
    "ended_at": Field("When it ended.", _TIME),
    "error": Field("What went wrong, in a sentence.", "The model broke."),
    "id": Field("What to give as `model_id`.", "demo"),
    "provider": Field("Who provides it.", "demo"),
    "default": Field("The model of a session that names none.", "demo"),
    "models": Field("What can be asked here, as far as the providers tell."),
    "uptime_seconds": Field("Since the start.", 3600.0),
    "total_requests": Field(
        "Turns that were begun, or asked for in vain. A retry that attaches to its turn is none.", 100
    ),
    "successful_requests": Field("Turns that ended well.", 99),
    "failed_requests": Field("Turns that did not, or did not begin.", 1),
    "streaming_connections": Field("Readers that follow a turn, over any transport.", 2),
    "websocket_connections": Field("Open WebSockets.", 1),
    "average_response_time": Field("Mean seconds per turn.", 0.9),
    "start_time": Field("When the server started.", _TIME),
    "total_sessions_created": Field("Sessions made since the start.", 12),
    "framework": Field("What serves.", "aiohttp + grpclib"),
    "features": Field("What this server can do.", ["streaming", "resume", "cancel"]),
    "running_turns": Field("Turns that are being answered.", 1),
    "transports": Field("The figures of each transport, by its name."),
    "requests": Field("Requests for turns on it, retries that attach to theirs included.", 20),
    "open_streams": Field("Streams open now.", 1),
    "chunks": Field("Chunks sent.", 480),
    "bytes": Field("Bytes sent.", 76000),
    "first_chunk_p50": Field("Median seconds to the first chunk.", 0.04),
    "first_chunk_p99": Field("99th percentile of the same.", 0.09),
    "title": Field("The code in words.", "Not found"),
    "detail": Field("What went wrong and what to do, in a sentence.", "There is no session of this name."),
    "request_id": Field("The same as the header `X-Request-Id`: quote it when you report a fault.", "381a2b14-1"),
    "connection_id": Field("One connection of a member.", "5d41402abc4b2a76"),
    "server_info": Field("What serves here."),
    "update_type": Field("What happened in the session.", "message_added"),
    "typing": Field("Whether that member types.", True),
    "last_message_preview": Field("How the message begins.", "Hello"),
    "full_response": Field("The whole answer.", "Hello there."),
    "retry_after": Field("Seconds after which trying again may help.", 2.0),
    "after": Field("The seq of the last event that you have; 0 for all.", 0),
    "session_info.seq": Field("Always 1.", 1),
    "status.seq": Field("Always 2.", 2),
    "complete.seq": Field("The last of its turn.", 27),
    "error.seq": Field("The last of its turn.", 8),
    "status.message": Field("Says what happens, for people.", "Generating response..."),
    "error.message": Field("What went wrong, in a sentence.", "The model broke."),
    "Note.message": Field("What was done.", "Session cleared"),
    "HistoryMessage.text": Field("The whole message.", "Hello there."),
    "HistoryMessage.finish_reason": Field(
        "On the last message of a turn that has ended: `stop`, `length`, `safety` or `cancelled`.", "stop"
    ),
    "HistoryMessage.code": Field("The same where the turn broke: why.", "interrupted"),
    "TurnSnapshot.text": Field("The answer so far.", "Hello there."),
    "TurnSnapshot.status": Field("`running`, `complete`, `cancelled`, `failed` or `interrupted`.", "complete"),
    "Problem.status": Field("The HTTP status.", 404),
    "Problem.type": Field("Always `about:blank`.", "about:blank"),
    "Problem.turn_id": Field("The turn that broke, or that keeps the session busy.", _TURN),
}


def described(word: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A field's schema, with what is said about it."""
    field = FIELDS.get(f"{word}.{name}") or FIELDS.get(name)
    if field is None:
        return schema
    said: dict[str, Any] = {**schema, "description": field.text}
    if field.example is not None and "const" not in schema:
        said["examples"] = [field.example]
    return said

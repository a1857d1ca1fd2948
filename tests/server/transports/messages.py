"""What the WebSocket's messages have, by the contract."""

FIELDS = {  # what every message has at least, by the contract
    "connected": {"connection_id", "message", "server_info"},
    "session_created": {"session_id", "model", "connection_id"},
    "session_joined": {"session_id", "model", "message_count", "connection_id"},
    "session_left": {"session_id", "connection_id"},
    "status": {"message", "context_messages", "turn_id", "seq"},
    "response_start": {"session_id", "model", "turn_id", "seq", "is_new_session", "message"},
    "chunk": {"text", "chunk_number", "is_final", "turn_id", "seq"},
    "response_complete": {
        "total_chunks", "processing_time", "message_count", "session_id", "turn_id", "seq", "finish_reason", "usage",
        "time_to_first_chunk", "text_sha256", "full_response",
    },
    "session_update": {"session_id", "update_type"},
    "pong": set(),
    "error": {"code", "message", "retryable"},
}  # fmt: skip


def types(messages):
    for message in messages:
        assert FIELDS[message["type"]] | {"type", "timestamp"} <= set(message), message
    return [message["type"] for message in messages]

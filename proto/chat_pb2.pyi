from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChatRequest(_message.Message):
    __slots__ = ("type", "session_id", "message", "timestamp", "turn_id", "after", "idempotency_key", "model_id")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MESSAGE: _ClassVar[ChatRequest.Type]
        PING: _ClassVar[ChatRequest.Type]
        TYPING_START: _ClassVar[ChatRequest.Type]
        TYPING_STOP: _ClassVar[ChatRequest.Type]
        CANCEL: _ClassVar[ChatRequest.Type]
        RESUME: _ClassVar[ChatRequest.Type]
        JOIN: _ClassVar[ChatRequest.Type]
    MESSAGE: ChatRequest.Type
    PING: ChatRequest.Type
    TYPING_START: ChatRequest.Type
    TYPING_STOP: ChatRequest.Type
    CANCEL: ChatRequest.Type
    RESUME: ChatRequest.Type
    JOIN: ChatRequest.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    TURN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    type: ChatRequest.Type
    session_id: str
    message: str
    timestamp: str
    turn_id: str
    after: int
    idempotency_key: str
    model_id: str
    def __init__(self, type: _Optional[_Union[ChatRequest.Type, str]] = ..., session_id: _Optional[str] = ..., message: _Optional[str] = ..., timestamp: _Optional[str] = ..., turn_id: _Optional[str] = ..., after: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., model_id: _Optional[str] = ...) -> None: ...

class ChatResponse(_message.Message):
    __slots__ = ("type", "session_id", "status_message", "context_messages", "chunk_text", "chunk_number", "is_final", "total_chunks", "processing_time", "message_count", "error_message", "update_type", "update_data", "timestamp", "turn_id", "seq", "code", "retryable", "finish_reason", "usage", "text_sha256", "model", "is_new_session", "message", "omitted_messages", "time_to_first_chunk")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS: _ClassVar[ChatResponse.Type]
        RESPONSE_START: _ClassVar[ChatResponse.Type]
        CHUNK: _ClassVar[ChatResponse.Type]
        RESPONSE_COMPLETE: _ClassVar[ChatResponse.Type]
        ERROR: _ClassVar[ChatResponse.Type]
        PONG: _ClassVar[ChatResponse.Type]
        SESSION_UPDATE: _ClassVar[ChatResponse.Type]
    STATUS: ChatResponse.Type
    RESPONSE_START: ChatResponse.Type
    CHUNK: ChatResponse.Type
    RESPONSE_COMPLETE: ChatResponse.Type
    ERROR: ChatResponse.Type
    PONG: ChatResponse.Type
    SESSION_UPDATE: ChatResponse.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_TEXT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_NUMBER_FIELD_NUMBER: _ClassVar[int]
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    TOTAL_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_TIME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_DATA_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    TURN_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TEXT_SHA256_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IS_NEW_SESSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OMITTED_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    type: ChatResponse.Type
    session_id: str
    status_message: str
    context_messages: int
    chunk_text: str
    chunk_number: int
    is_final: bool
    total_chunks: int
    processing_time: float
    message_count: int
    error_message: str
    update_type: str
    update_data: str
    timestamp: str
    turn_id: str
    seq: int
    code: str
    retryable: bool
    finish_reason: str
    usage: Usage
    text_sha256: str
    model: str
    is_new_session: bool
    message: str
    omitted_messages: int
    time_to_first_chunk: float
    def __init__(self, type: _Optional[_Union[ChatResponse.Type, str]] = ..., session_id: _Optional[str] = ..., status_message: _Optional[str] = ..., context_messages: _Optional[int] = ..., chunk_text: _Optional[str] = ..., chunk_number: _Optional[int] = ..., is_final: bool = ..., total_chunks: _Optional[int] = ..., processing_time: _Optional[float] = ..., message_count: _Optional[int] = ..., error_message: _Optional[str] = ..., update_type: _Optional[str] = ..., update_data: _Optional[str] = ..., timestamp: _Optional[str] = ..., turn_id: _Optional[str] = ..., seq: _Optional[int] = ..., code: _Optional[str] = ..., retryable: bool = ..., finish_reason: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., text_sha256: _Optional[str] = ..., model: _Optional[str] = ..., is_new_session: bool = ..., message: _Optional[str] = ..., omitted_messages: _Optional[int] = ..., time_to_first_chunk: _Optional[float] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("input_tokens", "output_tokens", "estimated", "cost")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    output_tokens: int
    estimated: bool
    cost: float
    def __init__(self, input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., estimated: bool = ..., cost: _Optional[float] = ...) -> None: ...

class CreateSessionRequest(_message.Message):
    __slots__ = ("model_id",)
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    def __init__(self, model_id: _Optional[str] = ...) -> None: ...

class CreateSessionResponse(_message.Message):
    __slots__ = ("session_id", "model", "success", "message", "timestamp")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    success: bool
    message: str
    timestamp: str
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., success: bool = ..., message: _Optional[str] = ..., timestamp: _Optional[str] = ...) -> None: ...

class SessionInfoRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class SessionInfoResponse(_message.Message):
    __slots__ = ("success", "message", "session_id", "model", "message_count", "user_messages", "model_messages", "duration_seconds", "created_at", "usage", "active_turn")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    USER_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MODEL_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_TURN_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    session_id: str
    model: str
    message_count: int
    user_messages: int
    model_messages: int
    duration_seconds: int
    created_at: str
    usage: Usage
    active_turn: str
    def __init__(self, success: bool = ..., message: _Optional[str] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., message_count: _Optional[int] = ..., user_messages: _Optional[int] = ..., model_messages: _Optional[int] = ..., duration_seconds: _Optional[int] = ..., created_at: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., active_turn: _Optional[str] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("limit", "before")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    limit: int
    before: str
    def __init__(self, limit: _Optional[int] = ..., before: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "active_sessions", "next")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionSummary]
    active_sessions: int
    next: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionSummary, _Mapping]]] = ..., active_sessions: _Optional[int] = ..., next: _Optional[str] = ...) -> None: ...

class SessionSummary(_message.Message):
    __slots__ = ("session_id", "model", "message_count", "duration_minutes", "created_at", "connected_clients")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DURATION_MINUTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_CLIENTS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    message_count: int
    duration_minutes: int
    created_at: str
    connected_clients: int
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., message_count: _Optional[int] = ..., duration_minutes: _Optional[int] = ..., created_at: _Optional[str] = ..., connected_clients: _Optional[int] = ...) -> None: ...

class DeleteSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class DeleteSessionResponse(_message.Message):
    __slots__ = ("success", "message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    def __init__(self, success: bool = ..., message: _Optional[str] = ...) -> None: ...

class ServerStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerStatsResponse(_message.Message):
    __slots__ = ("uptime_seconds", "total_requests", "successful_requests", "failed_requests", "active_sessions", "total_sessions_created", "average_response_time", "model", "framework", "status", "streaming_connections", "websocket_connections", "start_time", "running_turns", "usage", "transports")
    class TransportsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: TransportStats
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[TransportStats, _Mapping]] = ...) -> None: ...
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SUCCESSFUL_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SESSIONS_CREATED_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_RESPONSE_TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STREAMING_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    WEBSOCKET_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    RUNNING_TURNS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    uptime_seconds: int
    total_requests: int
    successful_requests: int
    failed_requests: int
    active_sessions: int
    total_sessions_created: int
    average_response_time: float
    model: str
    framework: str
    status: str
    streaming_connections: int
    websocket_connections: int
    start_time: str
    running_turns: int
    usage: Usage
    transports: _containers.MessageMap[str, TransportStats]
    def __init__(self, uptime_seconds: _Optional[int] = ..., total_requests: _Optional[int] = ..., successful_requests: _Optional[int] = ..., failed_requests: _Optional[int] = ..., active_sessions: _Optional[int] = ..., total_sessions_created: _Optional[int] = ..., average_response_time: _Optional[float] = ..., model: _Optional[str] = ..., framework: _Optional[str] = ..., status: _Optional[str] = ..., streaming_connections: _Optional[int] = ..., websocket_connections: _Optional[int] = ..., start_time: _Optional[str] = ..., running_turns: _Optional[int] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., transports: _Optional[_Mapping[str, TransportStats]] = ...) -> None: ...

class TransportStats(_message.Message):
    __slots__ = ("requests", "open_streams", "chunks", "bytes", "first_chunk_p50", "first_chunk_p99")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    OPEN_STREAMS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_P50_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_P99_FIELD_NUMBER: _ClassVar[int]
    requests: int
    open_streams: int
    chunks: int
    bytes: int
    first_chunk_p50: float
    first_chunk_p99: float
    def __init__(self, requests: _Optional[int] = ..., open_streams: _Optional[int] = ..., chunks: _Optional[int] = ..., bytes: _Optional[int] = ..., first_chunk_p50: _Optional[float] = ..., first_chunk_p99: _Optional[float] = ...) -> None: ...

class ClearSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class ClearSessionResponse(_message.Message):
    __slots__ = ("success", "message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    def __init__(self, success: bool = ..., message: _Optional[str] = ...) -> None: ...

class FollowTurnRequest(_message.Message):
    __slots__ = ("turn_id", "after")
    TURN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    turn_id: str
    after: int
    def __init__(self, turn_id: _Optional[str] = ..., after: _Optional[int] = ...) -> None: ...

class CancelTurnRequest(_message.Message):
    __slots__ = ("turn_id",)
    TURN_ID_FIELD_NUMBER: _ClassVar[int]
    turn_id: str
    def __init__(self, turn_id: _Optional[str] = ...) -> None: ...

class TurnSnapshot(_message.Message):
    __slots__ = ("turn_id", "session_id", "model", "status", "message", "text", "last_seq", "started_at", "ended_at", "processing_time", "time_to_first_chunk", "finish_reason", "usage", "text_sha256", "code", "error")
    TURN_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_TIME_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TEXT_SHA256_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    turn_id: str
    session_id: str
    model: str
    status: str
    message: str
    text: str
    last_seq: int
    started_at: str
    ended_at: str
    processing_time: float
    time_to_first_chunk: float
    finish_reason: str
    usage: Usage
    text_sha256: str
    code: str
    error: str
    def __init__(self, turn_id: _Optional[str] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., status: _Optional[str] = ..., message: _Optional[str] = ..., text: _Optional[str] = ..., last_seq: _Optional[int] = ..., started_at: _Optional[str] = ..., ended_at: _Optional[str] = ..., processing_time: _Optional[float] = ..., time_to_first_chunk: _Optional[float] = ..., finish_reason: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., text_sha256: _Optional[str] = ..., code: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("session_id", "messages")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    messages: _containers.RepeatedCompositeFieldContainer[HistoryMessage]
    def __init__(self, session_id: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[HistoryMessage, _Mapping]]] = ...) -> None: ...

class HistoryMessage(_message.Message):
    __slots__ = ("role", "text", "turn_id", "timestamp", "finish_reason", "code", "error")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TURN_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    role: str
    text: str
    turn_id: str
    timestamp: str
    finish_reason: str
    code: str
    error: str
    def __init__(self, role: _Optional[str] = ..., text: _Optional[str] = ..., turn_id: _Optional[str] = ..., timestamp: _Optional[str] = ..., finish_reason: _Optional[str] = ..., code: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("default", "models")
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    default: str
    models: _containers.RepeatedCompositeFieldContainer[ModelInfo]
    def __init__(self, default: _Optional[str] = ..., models: _Optional[_Iterable[_Union[ModelInfo, _Mapping]]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("id", "provider")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    id: str
    provider: str
    def __init__(self, id: _Optional[str] = ..., provider: _Optional[str] = ...) -> None: ...

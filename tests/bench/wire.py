"""What the load generator sends and counts on each transport: requests as bytes, answers as markers.

1. It must cost less than the server: a JSON transport is counted by searching for two field names, gRPC by walking the
   frame headers. Nothing is decoded.
2. A marker may be cut by the end of a read: the last bytes of a read are searched again with the next. They are one
   fewer than a marker has, so none is counted twice.
"""

import json
import re
import secrets
import struct

CHUNK, END = b'"chunk_number"', b'"text_sha256":'
OVERLAP = len(CHUNK) - 1
assert len(CHUNK) == len(END)

TRANSPORTS = ("ndjson", "sse", "websocket", "grpc")
MESSAGE = "How is the weather in Lisbon?"
_TURN_ID = re.compile(rb'"turn_id": ?"([^"]+)"')
_SESSION_ID = re.compile(rb'"session_id": ?"([^"]+)"')
_ACCEPT = {"ndjson": "application/x-ndjson", "sse": "text/event-stream"}


def http_request(method: str, path: str, accept: str, body: bytes = b"") -> bytes:
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n{kind}\r\n".encode() + body


def chat_body(model: str, number: int) -> bytes:
    """People do not say the same twice: what is sent over a connection one after the other is of different lengths."""
    return json.dumps({"message": MESSAGE + "?" * (number % 32), "model_id": model}).encode()


def post_chat(model: str, number: int) -> bytes:
    return http_request("POST", "/chat", "application/json", chat_body(model, number))


def ws_text(value: dict[str, object]) -> bytes:
    """A text frame with the mask 0, which RFC 6455 allows and which leaves the text as it is."""
    data = json.dumps(value).encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack("!BH", 0x80 | 126, len(data))
    return b"\x81" + length + bytes(4) + data


WS_PONG = b"\x8a\x80" + bytes(4)
WS_UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def h2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


# A stream's window and a connection's, as large as they get: nobody waits for a window here.
H2_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + h2_frame(4, 0, 0, struct.pack("!HL", 4, 2**31 - 1))
    + h2_frame(8, 0, 0, struct.pack("!L", 2**31 - 1 - 65535))
)


def _first(name: bytes, value: bytes) -> bytes:
    """A header that goes into the table of those known (RFC 7541 section 6.2.1)."""
    return b"\x40" + bytes([len(name)]) + name + bytes([len(value)]) + value


def grpc_call(method: str, message: bytes, stream: int = 1) -> bytes:
    """A call; as all gRPC clients do, those after a connection's first name the headers by their place in the table."""
    fields = (
        (b":path", b"/chat.ChatService/" + method.encode()),
        (b":authority", b"127.0.0.1"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"bench"),
    )
    known = b"\x83\x86"  # :method POST and :scheme http stand in the static table
    if stream == 1:
        headers = known + b"".join(_first(name, value) for name, value in fields)
    else:
        headers = known + bytes(0x80 | place for place in range(61 + len(fields), 61, -1))
    return h2_frame(1, 4, stream, headers) + h2_frame(0, 1, stream, struct.pack("!BL", 0, len(message)) + message)


def ask(transport: str, model: str, stream: int = 1) -> bytes:
    """A turn of its own."""
    if transport == "grpc":
        from proto.chat_pb2 import ChatRequest

        return grpc_call("StreamChat", ChatRequest(message=MESSAGE, model_id=model).SerializeToString(), stream)
    if transport == "websocket":
        session_id = secrets.token_hex(8)  # a new one, as on the other transports; else the connection's goes on
        return ws_text({"type": "chat", "message": MESSAGE, "model_id": model, "session_id": session_id})
    return http_request("POST", "/chat/stream", _ACCEPT[transport], chat_body(model, stream))


def follow(transport: str, turn_id: str) -> bytes:
    """One more reader of a turn, from its start."""
    if transport == "grpc":
        from proto.chat_pb2 import FollowTurnRequest

        return grpc_call("FollowTurn", FollowTurnRequest(turn_id=turn_id).SerializeToString())
    if transport == "websocket":
        return ws_text({"type": "resume", "turn_id": turn_id, "after": 0})
    return http_request("GET", f"/turns/{turn_id}", _ACCEPT[transport])


class TextCount:
    """Chunks and ends in the JSON of one connection."""

    __slots__ = ("chunks", "ends", "tail")

    def __init__(self) -> None:
        self.chunks = self.ends = 0
        self.tail = b""

    def feed(self, data: bytes) -> bytes:
        """Counts; returns what has to be sent in answer (nothing)."""
        data = self.tail + data
        self.chunks += data.count(CHUNK)
        if END in data:
            self.ends += data.count(END)
        self.tail = data[-OVERLAP:]
        return b""


class GrpcCount:
    """Messages of the types chunk and complete on one HTTP/2 connection, one call at a time."""

    __slots__ = ("chunks", "ends", "events", "heads", "message", "rest", "trailers")

    def __init__(self) -> None:
        self.chunks = self.ends = self.events = self.heads = self.trailers = 0
        self.rest = self.message = b""

    def feed(self, data: bytes) -> bytes:
        data = self.rest + data
        at, size, answer = 0, len(data), b""
        while at + 9 <= size:
            end = at + 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
            if end > size:
                break
            kind = data[at + 3]
            if kind == 0:
                self.messages(data[at + 9 : end])
            elif kind == 1:
                self.heads += 1
                self.trailers += data[at + 4] & 1
            elif kind == 4 and not data[at + 4] & 1:
                answer += h2_frame(4, 1, 0, b"")
            elif kind == 6 and not data[at + 4] & 1:
                answer += h2_frame(6, 1, 0, data[at + 9 : end])
            at = end
        self.rest = data[at:]
        return answer

    def messages(self, data: bytes) -> None:
        data = self.message + data if self.message else data
        at, size = 0, len(data)
        while at + 7 <= size:
            end = at + 5 + (data[at + 1] << 24 | data[at + 2] << 16 | data[at + 3] << 8 | data[at + 4])
            if end > size:
                break
            if data[at + 5] == 8:  # field 1, the type
                kind = data[at + 6]
                self.chunks += kind == 2
                self.ends += kind == 3
            self.events += 1
            at = end
        self.message = data[at:]


def counter(transport: str) -> TextCount | GrpcCount:
    return GrpcCount() if transport == "grpc" else TextCount()


def whole(data: bytes) -> bool:
    """Whether an HTTP answer with a Content-Length is there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = data.lower().find(b"content-length:", 0, end)
    return at > 0 and len(data) >= end + 4 + int(data[at + 15 : data.find(b"\r", at)])


def events(count: TextCount | GrpcCount, data: bytes) -> int:
    """How many events of turns are in these bytes, which were fed to the count (of a gRPC connection: so far)."""
    return count.events if isinstance(count, GrpcCount) else data.count(b'"seq"')


def turn_over(count: TextCount | GrpcCount, data: bytes, turn: int) -> bool:
    """Whether a connection's turn of this number is over, with what the transport adds after its last event."""
    if isinstance(count, GrpcCount):
        return count.trailers == turn
    return count.ends == turn and data.endswith((b"0\r\n\r\n", b"}"))


def named(transport: str, data: bytes) -> tuple[str, str]:
    """The turn's and the session's id, from the bytes of a turn's beginning."""
    if transport == "grpc":
        from proto.chat_pb2 import ChatResponse

        at = 0
        while data[at + 3]:  # up to the first DATA frame, and the message in it
            at += 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
        at += 9
        response = ChatResponse.FromString(data[at + 5 : at + 5 + int.from_bytes(data[at + 1 : at + 5])])
        return response.turn_id, response.session_id
    turn, session = _TURN_ID.search(data), _SESSION_ID.search(data)
    assert turn and session
    return turn[1].decode(), session[1].decode()


def session_info(session_id: str, stream: int) -> bytes:
    """A unary gRPC call."""
    from proto.chat_pb2 import SessionInfoRequest

    return grpc_call("GetSessionInfo", SessionInfoRequest(session_id=session_id).SerializeToString(), stream)

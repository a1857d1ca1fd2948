"""The limit: a bare asyncio protocol that writes ready-made bytes, one write for each event, paced by one ticker.

1. It does as little as Python can do and still send each event when it is there: no parsing beyond a search, no
   session, no log, no check. What it costs is the loop, the kernel and the loopback.
2. It follows nothing but the protocol's framing; its events have all fields, with texts of the usual sizes.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import re
import struct
from functools import cache

from tests.bench.words import pieces, timestamp

_MODEL = re.compile(rb"demo\?chunks=(\d+)&rate=([\d.]+)")
_WS_KEY = re.compile(rb"Sec-WebSocket-Key: (\S+)")
_WS_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TURN, SESSION, TIME = "3f2b6c1e-8a57-4d3f-9a1b-0c5d7e9f1a2b", "8d0e4c7a-1b5f-4e2d-8c3a-6f7b9d0e1c2a", timestamp()
UNARY = json.dumps(
    {
        "response": "".join(pieces(10)),
        "session_id": SESSION,
        "processing_time": 0.000123,
        "model": "demo?chunks=10&rate=0",
        "timestamp": TIME,
        "message_count": 2,
        "is_new_session": True,
        "turn_id": TURN,
        "finish_reason": "stop",
        "usage": {"input_tokens": 6, "output_tokens": 12, "estimated": True},
    },
    separators=(",", ":"),
).encode()
UNARY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(UNARY), UNARY)


def json_events(count: int) -> list[str]:
    """The whole log of a turn, as JSON."""
    ids = {"turn_id": TURN}
    log: list[dict[str, object]] = [
        {"type": "session_info", "session_id": SESSION, "model": "demo", "timestamp": TIME, **ids, "seq": 1}
        | {"is_new_session": True, "message": "How is the weather in Lisbon?"},
        {"type": "status", "message": "Generating response...", "context_messages": 1, "omitted_messages": 0}
        | {**ids, "seq": 2},
    ]  # fmt: skip
    for number, text in enumerate(pieces(count), 1):
        log.append(
            {"type": "chunk", "text": text, "chunk_number": number, "is_final": number == count, "timestamp": TIME}
            | {**ids, "seq": number + 2}
        )
    log.append(
        {"type": "complete", "total_chunks": count, "processing_time": 4.012345, "message_count": 2}
        | {"session_id": SESSION, "timestamp": TIME, **ids, "seq": count + 3, "finish_reason": "stop"}
        | {"usage": {"input_tokens": 6, "output_tokens": count, "estimated": True}, "time_to_first_chunk": 0.000123}
        | {"text_sha256": hashlib.sha256("".join(pieces(count)).encode()).hexdigest()}
    )
    return [json.dumps(event, separators=(",", ":")) for event in log]


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ws_frame(data: bytes) -> bytes:
    size = len(data)
    length = bytes([size]) if size < 126 else struct.pack("!BH", 126, size)
    return b"\x81" + length + data


def h2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def h2_message(data: bytes, stream: int) -> bytes:
    return h2_frame(0, 0, stream, struct.pack("!BL", 0, len(data)) + data)


def header(name: bytes, value: bytes) -> bytes:
    """One HPACK field: literal, never indexed, no Huffman code."""
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


H2_HEAD = header(b":status", b"200") + header(b"content-type", b"application/grpc")
H2_TAIL = header(b"grpc-status", b"0")


@cache
def frames(framing: str, count: int, h2_stream: int) -> list[bytes]:
    """What to write for a turn: the start, one entry for each chunk, the end."""
    if framing == "grpc":
        start, status, *chunks, end = grpc_messages(count)
        return [
            h2_frame(1, 4, h2_stream, H2_HEAD) + h2_message(start, h2_stream) + h2_message(status, h2_stream),
            *(h2_message(chunk, h2_stream) for chunk in chunks),
            h2_message(end, h2_stream) + h2_frame(1, 5, h2_stream, H2_TAIL),
        ]
    info, status, *chunks, end = json_events(count)
    if framing == "websocket":
        out = [ws_frame(text.encode()) for text in (status, info, *chunks)]
        last = ws_frame(end.replace('"complete"', '"response_complete"').encode())
        return [out[0] + out[1], *out[2:], last]
    if framing == "sse":
        kind = b"text/event-stream"
        info, status, *chunks, end = (
            f"id: {TURN}:{seq}\ndata: {text}\n\n" for seq, text in enumerate((info, status, *chunks, end), 1)
        )
    else:
        kind = b"application/x-ndjson"
        info, status, *chunks, end = (text + "\n" for text in (info, status, *chunks, end))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\nX-Turn-Id: %b\r\n\r\n"
    return [
        head % (kind, TURN.encode()) + http_chunk(info.encode()) + http_chunk(status.encode()),
        *(http_chunk(text.encode()) for text in chunks),
        http_chunk(end.encode()) + b"0\r\n\r\n",
    ]


def grpc_messages(count: int) -> list[bytes]:
    from proto.chat_pb2 import ChatResponse

    ids = {"turn_id": TURN, "session_id": SESSION, "timestamp": TIME}
    log = [
        ChatResponse(type=ChatResponse.RESPONSE_START, seq=1, model="demo", **ids),
        ChatResponse(type=ChatResponse.STATUS, seq=2, status_message="Generating response...", **ids),
    ]
    for number, text in enumerate(pieces(count), 1):
        log.append(ChatResponse(type=ChatResponse.CHUNK, seq=number + 2, chunk_text=text, chunk_number=number, **ids))
    log.append(
        ChatResponse(
            type=ChatResponse.RESPONSE_COMPLETE,
            seq=count + 3,
            total_chunks=count,
            processing_time=4.01,
            message_count=2,
            finish_reason="stop",
            text_sha256="0" * 64,
            **ids,
        )
    )
    return [message.SerializeToString() for message in log]


class Ticker:
    """Gives every stream of one pace its next frame at each beat: one timer for all of them."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.streams: list[Stream] = []
        self.due = 0.0

    def add(self, stream: "Stream") -> None:
        if not self.streams:
            self.due = asyncio.get_running_loop().time()
            self.next()
        self.streams.append(stream)

    def next(self) -> None:
        self.due += self.interval
        asyncio.get_running_loop().call_at(self.due, self.beat)

    def beat(self) -> None:
        ended = False
        for stream in self.streams:
            at = stream.at
            stream.at = at + 1
            stream.write(stream.frames[at])
            if at + 1 == stream.end:
                ended = True
        if ended:
            self.streams = [stream for stream in self.streams if stream.at < stream.end]
        if self.streams:
            self.next()


class Stream:
    """One reader of one turn: what it gets, and how far it is."""

    def __init__(self, protocol: "Limit", framing: str, h2_stream: int, count: int, interval: float, at: int) -> None:
        self.write = protocol.transport.write
        self.frames = frames(framing, count, h2_stream)
        self.count, self.end, self.at = count, len(self.frames), at
        self.protocol = protocol
        self.interval = interval
        self.write(b"".join(self.frames[:at]))
        if interval:
            ticker(interval).add(self)
        else:
            self.flat_out()

    def flat_out(self) -> None:
        while self.at < self.end and not self.protocol.paused:
            self.write(self.frames[self.at])
            self.at += 1


ticker = cache(Ticker)
leader: Stream | None = None


class Limit(asyncio.Protocol):
    transport: asyncio.Transport
    stream: Stream | None = None
    paused = False
    grpc = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.stream:
            self.stream.end = 0
            self.stream.write = lambda data: None

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.stream and not self.stream.interval:
            self.stream.flat_out()

    def data_received(self, data: bytes) -> None:
        if self.grpc or data.startswith(b"PRI"):
            self.http2(data)
        elif data.startswith(b"POST /chat "):
            self.transport.write(UNARY)
        elif data.startswith(b"GET /ws"):
            key = _WS_KEY.search(data)
            assert key
            accept = base64.b64encode(hashlib.sha1(key[1] + _WS_GUID).digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n%b" % (accept, ws_frame(b'{"type":"connected"}'))
            )
        elif data.startswith((b"POST", b"GET")):
            self.begin("sse" if b"event-stream" in data else "ndjson", data)
        elif data[0] == 0x81:
            self.begin("websocket", data)

    def begin(self, framing: str, data: bytes, h2_stream: int = 0) -> None:
        """A stream of its own, or one more reader of the turn that was started last."""
        global leader
        model = _MODEL.search(data)
        if model:
            interval = 1 / float(model[2]) if float(model[2]) else 0.0
            self.stream = leader = Stream(self, framing, h2_stream, int(model[1]), interval, 1)
        elif leader:
            self.stream = Stream(self, framing, h2_stream, leader.count, leader.interval, leader.at)

    def http2(self, data: bytes) -> None:
        if not self.grpc:
            self.grpc = True
            self.transport.write(h2_frame(4, 0, 0, b"") + h2_frame(4, 1, 0, b""))
            data = data[24:]
        at = 0
        while at < len(data):
            high, low, kind, flags, stream = struct.unpack_from("!BHBBL", data, at)
            if kind == 0 and flags & 1:
                if b"GetSessionInfo" in data:
                    self.transport.write(
                        h2_frame(1, 4, stream, H2_HEAD)
                        + h2_message(session_info(), stream)
                        + h2_frame(1, 5, stream, H2_TAIL)
                    )
                else:
                    self.begin("grpc", data, stream)
            at += 9 + (high << 16) + low


@cache
def session_info() -> bytes:
    from proto.chat_pb2 import SessionInfoResponse

    return SessionInfoResponse(
        success=True,
        session_id=SESSION,
        model="demo",
        message_count=2,
        user_messages=1,
        model_messages=1,
        created_at=TIME,
    ).SerializeToString()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Limit, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(main(parser.parse_args().port))

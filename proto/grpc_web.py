"""gRPC-Web's bytes: messages and trailers as frames in an HTTP body, binary, in base64, or as JSON.

1. A frame is a flag byte, four bytes of length, and the payload. The flag 0x80 marks the trailers, which end the body;
   0x01 would mark a compressed message, which nobody sends to us and we send to nobody.
2. In the text form the body is base64, each piece padded on its own, so that a stream can be read as it comes.
3. The status is in the trailers, and HTTP says 200 to everything that got as far as a call.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from proto.errors import ProtocolError

FRAME_HEAD_BYTES = 5
TRAILERS_FLAG = 0x80
COMPRESSED_FLAG = 0x01
MAX_FRAME_BYTES = 4 * 2**20
STATUS = {
    "OK": 0, "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5,
    "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "UNIMPLEMENTED": 12, "INTERNAL": 13,
    "UNAVAILABLE": 14, "UNAUTHENTICATED": 16,
}  # fmt: skip
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Form(NamedTuple):
    """One of the forms of the body; answers have the form of their request."""

    name: str
    content_type: str
    text: bool = False
    json: bool = False


BINARY = Form("binary", "application/grpc-web+proto")
TEXT = Form("text", "application/grpc-web-text+proto", text=True)
JSON = Form("json", "application/grpc-web+json", json=True)
FORMS = {
    "application/grpc-web": BINARY,
    "application/grpc-web+proto": BINARY,
    "application/grpc-web-text": TEXT,
    "application/grpc-web-text+proto": TEXT,
    "application/grpc-web+json": JSON,
}


class Frame(NamedTuple):
    flags: int
    payload: bytes

    @property
    def is_trailers(self) -> bool:
        return bool(self.flags & TRAILERS_FLAG)


def _prefix(size: int, flags: int = 0) -> bytes:
    return b"%c%b" % (flags, size.to_bytes(4))


# What stands before short messages, by their size.
SHORT_PREFIXES = [_prefix(size) for size in range(1024)]


def frame(payload: bytes, flags: int = 0) -> bytes:
    return _prefix(len(payload), flags) + payload


def trailers(status: str, message: str = "", metadata: Mapping[str, str] | None = None) -> bytes:
    """The frame that ends a body."""
    lines = {
        "grpc-status": str(STATUS[status]),
        "grpc-message": quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~"),
    }
    if not message:
        del lines["grpc-message"]
    lines.update(metadata or {})
    return frame("".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode(), TRAILERS_FLAG)


def parse_trailers(payload: bytes) -> dict[str, str]:
    """The fields of the trailers, names in lower case, the message as text."""
    fields = {}
    for line in payload.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    if "grpc-message" in fields:
        fields["grpc-message"] = unquote(fields["grpc-message"])
    return fields


def seconds(timeout: str) -> float:
    """The time limit in a `grpc-timeout` header."""
    match = _TIMEOUT.fullmatch(timeout)
    if match is None:
        raise ProtocolError("grpc-timeout must be up to 8 digits and a unit")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def message(body: bytes, form: Form) -> bytes:
    """The payload of the one message in a request's body."""
    decoder = Decoder(form)
    frames = decoder.feed(body)
    messages = [frame for frame in frames if not frame.is_trailers]
    if decoder.torn or len(messages) != 1:
        raise ProtocolError("the body must hold one whole message")
    if messages[0].flags & COMPRESSED_FLAG:
        raise ProtocolError("compressed messages are not taken")
    return messages[0].payload


class Decoder:
    """Fed the pieces of a body as they come, returns the frames that are whole."""

    def __init__(self, form: Form, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._text = form.text
        self._max = max_frame_bytes
        self._coded = b""
        self._data = bytearray()

    @property
    def torn(self) -> bool:
        """Whether the body ends in the middle of a frame, if it ends here."""
        return bool(self._coded or self._data)

    def feed(self, data: bytes) -> list[Frame]:
        self._data += self._plain(data) if self._text else data
        frames, start = [], 0
        while len(self._data) - start >= FRAME_HEAD_BYTES:
            length = int.from_bytes(self._data[start + 1 : start + FRAME_HEAD_BYTES])
            if length > self._max:
                raise ProtocolError(f"a frame has more than {self._max} bytes")
            end = start + FRAME_HEAD_BYTES + length
            if len(self._data) < end:
                break
            frames.append(Frame(self._data[start], bytes(self._data[start + FRAME_HEAD_BYTES : end])))
            start = end
        del self._data[:start]
        return frames

    def _plain(self, data: bytes) -> bytes:
        """Base64, in quartets; a padded one may be followed by more."""
        coded = self._coded + bytes(data)
        whole = len(coded) - len(coded) % 4
        coded, self._coded = coded[:whole], coded[whole:]
        try:
            return b"".join(base64.b64decode(piece, validate=True) for piece in re.findall(rb"[^=]+={0,2}|=+", coded))
        except binascii.Error:
            raise ProtocolError("the body is not base64") from None

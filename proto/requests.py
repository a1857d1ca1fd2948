"""The words of a request, and the checks that everything from outside passes before the core sees it."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from proto.errors import ChatError

MAX_KEY_CHARS = 256
MAX_JSON_DEPTH = 32
MAX_SEQ = 2**53 - 1
_SESSION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_TURN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_MODEL_ID = re.compile(r"[\x21-\x7e]{1,256}\Z")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}\Z")


class ChatRequest(NamedTuple):
    """One user message, wherever it came from."""

    message: str
    session_id: str | None = None
    model_id: str | None = None
    idempotency_key: str | None = None


class NewSession(NamedTuple):
    """What `POST /sessions/new` takes."""

    model_id: str | None = None


class Cursor(NamedTuple):
    """`turn_id:seq`: I have everything of this turn up to and including seq."""

    turn_id: str
    seq: int

    def __str__(self) -> str:
        return f"{self.turn_id}:{self.seq}"


def invalid(message: str) -> ChatError:
    return ChatError("invalid_request", message)


def json_object(data: bytes | str, what: str = "body") -> dict[str, Any]:
    """A JSON object, of bounded depth, from bytes that nobody has looked at."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
            _check_depth(text)
        text = text.strip(" \t\r\n")
        value, end = _decode(text)
        if end < len(text):
            raise ValueError("something behind it")
    except UnicodeDecodeError:
        raise invalid(f"The {what} must be JSON in UTF-8.") from None
    except (ValueError, RecursionError):
        raise invalid(f"The {what} is not valid JSON.") from None
    if not isinstance(value, dict):
        raise invalid(f'The {what} must be a JSON object, like {{"message": "Hello"}}.')
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)


_decode = json.JSONDecoder(parse_constant=_no_constant).raw_decode  # json.loads would make one each time


def _check_depth(text: str) -> None:
    """Depth by the brackets outside strings, in one linear pass, before the parser recurses."""
    depth = 0
    # Possessive, and an open string goes to the end: else each of its escaped quotes would begin a search of its own.
    for match in re.finditer(r'"(?:[^"\\]++|\\.?)*+"?|[\[{]|[\]}]', text, re.DOTALL):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise invalid(f"The JSON is nested deeper than {MAX_JSON_DEPTH} levels.")
        elif token in "]}":
            depth -= 1


def text_field(fields: Mapping[str, Any], name: str) -> str | None:
    """A string field that may be absent or null; anything else is refused."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f"'{name}' must be a string.")
    return value


def chat_request(fields: Mapping[str, Any], max_message_chars: int) -> ChatRequest:
    """A chat request from a decoded object (a JSON body, a frame)."""
    if fields.get("message") is None:
        raise invalid('\'message\' is missing: send {"message": "Hello"}.')
    request = ChatRequest(
        text_field(fields, "message") or "",
        text_field(fields, "session_id"),
        text_field(fields, "model_id"),
        text_field(fields, "idempotency_key"),
    )
    return checked(request, max_message_chars)


def checked(request: ChatRequest, max_message_chars: int) -> ChatRequest:
    """The request, if every field is within its bounds."""
    message, session_id, model_id, key = request
    if len(message) > max_message_chars:
        raise ChatError("too_large", f"'message' has {len(message)} characters; at most {max_message_chars} are taken.")
    if not message.strip():
        raise invalid("'message' must not be empty.")
    if not message.isascii():
        try:
            message.encode("utf-8")
        except UnicodeEncodeError:
            raise invalid("'message' is not valid Unicode: it has a lone surrogate.") from None
    if session_id is not None:
        check_session_id(session_id)
    if model_id is not None:
        check_model_id(model_id)
    if key is not None and not (0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        raise invalid(f"The idempotency key must have 1 to {MAX_KEY_CHARS} printable ASCII characters.")
    return request


def check_session_id(value: str) -> str:
    if not _SESSION_ID.match(value):
        raise invalid("'session_id' must have 1 to 128 of A-Z a-z 0-9 . _ -")
    return value


def check_turn_id(value: str) -> str:
    if not _TURN_ID.match(value):
        raise invalid("'turn_id' is not one of this server's.")
    return value


def check_model_id(value: str) -> str:
    if not _MODEL_ID.match(value):
        raise invalid("'model_id' must have 1 to 256 printable ASCII characters without blanks.")
    return value


def after_seq(value: object) -> int:
    """The seq of a cursor, from a number or its decimal text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQ:
        raise invalid("'after' must be a whole number, 0 or more: the seq of the last event that you have.")
    return value


def cursor(value: str) -> Cursor:
    """A cursor from its text, `turn_id:seq`."""
    turn_id, colon, seq = value.partition(":")
    if not colon:
        raise invalid("A cursor has the form turn_id:seq.")
    return Cursor(check_turn_id(turn_id), after_seq(seq))


def sane_request_id(value: str | None) -> str | None:
    """The caller's request id, if it may be echoed and logged."""
    return value if value and _REQUEST_ID.match(value) else None

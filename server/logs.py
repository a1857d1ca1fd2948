"""The server's log: one JSON object a line, or, on a terminal, lines and boxes for people.

1. A log line never holds a credential, and a user's text only as a short preview: whoever logs passes `preview(text)`.
2. What happens is an event with fields (`tell`); a plain logging call elsewhere becomes the event `log`.
"""

import json
import logging
import sys
import unicodedata
from typing import Any

from server.clock import rfc3339

PREVIEW_CHARS = 40
BOX_WIDTH = 64
_TITLES = {"stream_started": "stream started", "stream_completed": "stream completed"}

events = logging.getLogger("fivewire")


def tell(event: str, **fields: Any) -> None:
    """Log an event with its fields."""
    if heard():
        events.info(event, extra={"fields": fields})


def heard() -> bool:
    """Whether events of the usual kind are logged: to gather their fields has its cost."""
    return events.isEnabledFor(logging.INFO)


def preview(text: str) -> str:
    """The beginning of a text, on one line, without control characters."""
    line = _printable(text[: PREVIEW_CHARS + 1])
    return line if len(line) <= PREVIEW_CHARS else line[: PREVIEW_CHARS - 1] + "…"


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


class JsonFormat(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        line: dict[str, Any] = {"time": rfc3339(record.created), "level": record.levelname.lower()}
        if fields is None:
            line |= {"event": "log", "logger": record.name, "message": record.getMessage()}
        else:
            line |= {"event": record.getMessage(), **fields}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class HumanFormat(logging.Formatter):
    """A box for the life of a stream, a line for the rest. What a stranger has sent may be quoted in any of it: that
    makes no lines of its own, and does not steer the operator's terminal."""

    def format(self, record: logging.LogRecord) -> str:
        message, told = _printable(record.getMessage()), getattr(record, "fields", None)
        fields = {name: _printable(str(value)) for name, value in (told or {}).items()}
        clock = self.formatTime(record, "%H:%M:%S")
        if told is None:
            text = f"{clock} {record.levelname.lower():7} {message}"
        elif message in _TITLES:
            text = _box(f"{_TITLES[message]} · {clock}", fields)
        else:
            text = f"{clock} {message} " + " ".join(f"{name}={value}" for name, value in fields.items())
        if record.exc_info:
            text += "\n" + "\n".join(map(_printable, self.formatException(record.exc_info).split("\n")))
        return text


def _box(title: str, fields: dict[str, str]) -> str:
    lines = [f"╭─ {title} {'─' * max(0, BOX_WIDTH - _columns(title) - 3)}╮"]
    for name, value in fields.items():
        row = f"{name.replace('_', ' ')}: {value}"
        if _columns(row) > BOX_WIDTH - 2:
            while _columns(row) > BOX_WIDTH - 3:
                row = row[:-1]
            row += "…"
        lines.append(f"│ {row}{' ' * (BOX_WIDTH - 2 - _columns(row))} │")
    return "\n".join([*lines, f"╰{'─' * BOX_WIDTH}╯"])


def _columns(text: str) -> int:
    """How wide a terminal shows it: many letters of East Asia and most emoji take two columns."""
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def configure(form: str | None, quiet: bool) -> None:
    """Set the process's logging up: `form` is human or json, by default what suits standard error."""
    if form is None:
        form = "human" if sys.stderr.isatty() else "json"
    out = logging.StreamHandler()
    out.setFormatter(HumanFormat() if form == "human" else JsonFormat())
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(logging.WARNING)
    events.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.getLogger("asyncio").addFilter(_is_news)
    logging.getLogger("server").setLevel(logging.WARNING if quiet else logging.INFO)


def _is_news(record: logging.LogRecord) -> bool:
    """A peer that has left is none: asyncio warns of what is still written to it until it calls `connection_lost`."""
    return record.msg != "socket.send() raised exception."

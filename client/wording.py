"""How figures, times and conversations are put into words."""

import re
from collections.abc import Sequence

from client.text import clean, clean_line
from proto.answers import HistoryMessage

_FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`\n]*$)|~{3,})(.*)$", re.MULTILINE)


def counted(number: int, thing: str) -> str:
    """`1 chunk`, `2 chunks`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def dropped(number: int, thing: str, done: str) -> str:
    """`2 waiting messages were not sent; the Up key recalls them:`"""
    were, them = ("was", "it") if number == 1 else ("were", "them")
    return f"{counted(number, f'waiting {thing}')} {were} not {done}; the Up key recalls {them}:"


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def duration(value: float) -> str:
    whole = int(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def no_session_over_grpc(session_id: str | None) -> str:
    return f"There is no session '{session_id}'. Not over gRPC, but over any other protocol the first message makes it"


def age(minutes: int) -> str:
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h" if minutes < 1440 else f"{minutes // 1440} d"


def when(timestamp: str) -> str:
    return timestamp[:19].replace("T", " ") + " UTC"


def ending(finish_reason: str | None) -> str:
    """How an answer ended that did not break."""
    if finish_reason in (None, "", "stop"):
        return "complete"
    return "cancelled" if finish_reason == "cancelled" else f"stopped: {clean_line(finish_reason)}"


def not_whole(message: HistoryMessage) -> str | None:
    """How the turn ended whose last message this is, unless it ended well."""
    if message.code is not None:
        return f"failed: {clean_line(message.error or message.code)}"
    end = ending(message.finish_reason)
    return None if end == "complete" else end


def as_markdown(session_id: str, model: str, messages: Sequence[HistoryMessage]) -> str:
    parts = [f"# Conversation {clean_line(session_id)}\n\nModel: {clean_line(model)}\n"]
    for message in messages:
        name = "You" if message.role == "user" else clean_line(model)
        head, end = f"## {name}, {clean_line(message.timestamp)}", not_whole(message)
        if end and message.role == "model":
            head += f", {end}"
        parts.append(f"{head}\n\n{_closed(clean(message.text).rstrip())}\n")
        if end and message.role == "user":  # nothing came
            parts.append(f"## {clean_line(model)}, {end}\n")
    return "\n".join(parts)


def _closed(text: str) -> str:
    """An answer that was cut within a code block, with its end: else all that follows would be a part of it."""
    fence = ""
    for mark, rest in _FENCE.findall(text):
        if not fence:
            fence = mark
        elif mark.startswith(fence) and not rest.strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text

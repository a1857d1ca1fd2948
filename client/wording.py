"""How figures, times and conversations are put into words."""

from collections.abc import Sequence

from client.text import clean, clean_line
from proto.answers import HistoryMessage


def counted(number: int, thing: str) -> str:
    """`1 chunk`, `2 chunks`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


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


def as_markdown(session_id: str, model: str, messages: Sequence[HistoryMessage]) -> str:
    parts = [f"# Conversation {session_id}\n\nModel: {clean_line(model)}\n"]
    for message in messages:
        name = "You" if message.role == "user" else clean_line(model)
        parts.append(f"## {name}, {message.timestamp}\n\n{clean(message.text).rstrip()}\n")
    return "\n".join(parts)

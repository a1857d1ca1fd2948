"""The prompt before the line that is typed, and the toolbar at the bottom."""

from prompt_toolkit.formatted_text import ANSI, AnyFormattedText, FormattedText, to_formatted_text

from client.conversation import Conversation
from client.figures import Progress
from client.text import clean_line, shortened, width_of
from client.wording import counted, seconds

NARROW_COLUMNS = 50
LONG_ID_CHARS = 12  # of a longer one the end is shown: those of the server's making begin alike


def prompt_line(talk: Conversation, tail: str, question: str, columns: int) -> AnyFormattedText:
    """The line of the answer that is being written, and below it a question, or who is asked to say something."""
    fragments = to_formatted_text(ANSI(f"{tail}\n")) if tail else FormattedText()
    dot = ("class:connected", "● ") if talk.connected else ("class:disconnected", "○ ")
    if question:
        return FormattedText([*fragments, dot, ("class:prompt", f"{clean_line(question)} y/N › ")])
    name = "You"
    if columns >= NARROW_COLUMNS:
        session = clean_line(talk.session_id or "new session")
        name = f"You [{session if len(session) <= LONG_ID_CHARS else '...' + session[-8:]}]"
    return FormattedText([*fragments, dot, ("class:prompt", f"{name} › ")])


def toolbar(
    talk: Conversation, progress: Progress | None, state: str, waiting: int, somebody_types: bool, columns: int
) -> str:
    """As many facts as there is room for, the most important first."""
    parts = ["somebody is typing…"] if somebody_types else []
    parts += [talk.protocol, clean_line(talk.wanted_model or talk.model or talk.default_model or "default model")]
    if progress is None:
        parts.append("connected" if talk.connected else "not connected")
    else:
        parts.append(state or "answering")
        if waiting:
            parts.append(f"{waiting} waiting")
        parts.append(counted(progress.chunks, "chunk"))
        if progress.rate is not None:
            parts.append(f"{progress.rate:.0f} tokens/s")
        if progress.first_chunk is not None:
            parts.append(f"first chunk {seconds(progress.first_chunk)}")
    text = parts[0]
    for part in parts[1:]:
        if width_of(f" {text} · {part}") <= columns:
            text = f"{text} · {part}"
    return shortened(f" {text}", columns)

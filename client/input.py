"""The line editor: keys, history across runs, completion."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import ConditionalKeyBindings, KeyBindings, KeyBindingsBase, KeyPressEvent
from prompt_toolkit.layout.dimension import Dimension, to_dimension
from prompt_toolkit.styles import Style

from client.completion import Completions
from client.conversation import Conversation

MENU_LINES = 6
# What is typed may take all lines but these: the toolbar, the line of the answer above it, and the terminal's first,
# since some terminals keep what is erased from there on.
OTHER_LINES = 3
_STYLE = Style.from_dict(
    {
        "bottom-toolbar": "noreverse bg:#303030 #c0c0c0",
        "prompt": "bold ansiblue",
        "connected": "ansigreen",
        "disconnected": "ansired",
    }
)


def history_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where typed lines are kept, in the user's state folder."""
    if sys.platform == "win32":
        folder = Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return folder / "fivewire" / "client-history"


def history() -> History:
    """For this user's eyes only; in memory where there is no such place."""
    path = history_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


class Suggestions(AutoSuggestFromHistory):
    """What was typed before, but for what one key too many must not delete."""

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        found = super().get_suggestion(buffer, document)
        return None if found is None or (document.text + found.text).startswith("/del") else found


def _keys(interrupt: Callable[[], None]) -> KeyBindingsBase:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None  # the choice stands; the next Enter sends
        elif buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    def stop(event: KeyPressEvent) -> None:
        interrupt()

    return ConditionalKeyBindings(keys, ~is_searching)  # a search (Ctrl-R) has its own, which end it


def typed_ahead(session: PromptSession[str]) -> AbstractContextManager[None]:
    """Keys are keys in every moment. prompt_toolkit would leave them to the terminal between two prompts, and while
    lines are written above one: a Ctrl-D that comes just then was lost, and letters stood in the text."""
    session.input.cooked_mode = session.input.raw_mode  # type: ignore[method-assign]
    return session.input.raw_mode()


def prompt_session(
    talk: Conversation,
    interrupt: Callable[[], None],
    prompt: Callable[[], AnyFormattedText],
    toolbar: Callable[[], AnyFormattedText],
    changed: Callable[[str], None],
) -> PromptSession[str]:
    session: PromptSession[str] = PromptSession(
        prompt,
        multiline=True,
        prompt_continuation=lambda width, line_number, wrapped: " " * (width - 2) + "… " if width > 1 else "",
        history=history(),
        auto_suggest=Suggestions(),
        completer=Completions(talk),
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
        reserve_space_for_menu=MENU_LINES,
        key_bindings=_keys(interrupt),
        bottom_toolbar=toolbar,
        style=_STYLE,
        erase_when_done=True,
    )
    window = session.layout.current_window
    height = window.height

    def bounded() -> Dimension:
        most = max(session.output.get_size().rows - OTHER_LINES, 1)
        return Dimension(min=min(to_dimension(height).min, most), max=most)

    window.height = bounded
    session.default_buffer.on_text_changed += lambda buffer: changed(buffer.text)
    return session

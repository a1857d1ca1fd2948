"""The terminal while a prompt is on it: finished lines go above the prompt, the line that grows stands on top of it.

1. Lines and tail change together, in one `tick`: a tail that is redrawn before its finished lines are out, or after,
   would flicker. Ticks are at least so far apart that a fast answer costs drawing, not text.
2. Writing above the prompt is `run_in_terminal`'s: it takes the prompt away, lets write, and puts it back.
"""

import asyncio
from collections.abc import Callable
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal

from client.console import Console
from client.paint import Style
from client.text import clean_line

TICK_SECONDS = 0.04


class Screen(Console):
    def __init__(self, out: TextIO, err: TextIO) -> None:
        super().__init__(out, err)
        self.prompt: PromptSession[str] | None = None
        self.shown_tail = ""  # what the prompt draws on top of itself
        self._tail: Callable[[], str] | None = None
        self._pending: list[str] = []
        self._ticking: asyncio.Task[None] | None = None

    def write(self, text: str) -> None:
        self._pending.append(text)
        self.refresh()

    def fail(self, text: str) -> None:
        self.say(text, Style.BAD)

    def said(self, who: str, text: str, style: Style) -> None:
        """What somebody said; further lines under the first."""
        self.say(f"{who} › {text}".replace("\n", "\n" + " " * len(f"{who} › ")), style)

    def note(self, text: str) -> None:
        """Something by the way."""
        self.say(clean_line(text), Style.DIM)

    def grow(self, tail: Callable[[], str] | None) -> None:
        """The line that is being written, asked for when it is drawn."""
        self._tail = tail
        self.refresh()

    def clear(self) -> None:
        """An empty terminal, and the prompt on its second line: some keep what is erased from their first line on."""
        if self.prompt is not None:
            renderer, output = self.prompt.app.renderer, self.prompt.output
            renderer.erase()
            output.erase_screen()
            output.cursor_goto(2, 1)
            output.flush()
            renderer.request_absolute_cursor_position()

    def refresh(self) -> None:
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        await asyncio.sleep(TICK_SECONDS)
        await self.flush()

    async def flush(self) -> None:
        """Show everything now."""
        while True:
            app = self.prompt.app if self.prompt is not None else None
            if app is not None and app.is_running:
                if self._pending:
                    await run_in_terminal(self._out_with_it)
                else:
                    self._out_with_it()
                    app.invalidate()
            else:
                self._out_with_it()
            if not self._pending:
                return

    def _out_with_it(self) -> None:
        pending, self._pending = self._pending, []
        self.shown_tail = self._tail() if self._tail is not None else ""
        if pending:
            super().write("".join(pending))

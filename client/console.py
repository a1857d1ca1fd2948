"""The terminal as a place to write to: its width, what it can show, and words on it that cannot steer it.

1. Output that is no terminal gets no control sequences at all; `NO_COLOR` (https://no-color.org) takes the colours.
2. What is said here goes through `client.text.clean`; `lines` and `write` take what is ready, sequences and all.
"""

import os
import shutil
from collections.abc import Sequence
from typing import TextIO

from client.paint import Paint, Style
from client.text import TAB, clean, clean_line, width_of
from client.wrap import Wrap

MAX_COLUMNS = 100  # longer lines are hard to read
BOX_COLUMNS = 4  # what a box takes of its width


class Unwritable(Exception):
    """The output takes no more; the message says why."""


class Console:
    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._unfinished = False  # the line of the output
        self.terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        self.paint = Paint(self.terminal, not os.environ.get("NO_COLOR"))

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size().columns

    @property
    def columns(self) -> int:
        """Columns to fill with text."""
        return min(self.width, MAX_COLUMNS)

    def write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:  # whoever reads has enough, which is no trouble
            raise
        except OSError as error:
            raise Unwritable(f"The output cannot be written: {error.strerror}.") from None
        if text:
            self._unfinished = not text.endswith("\n")

    def end_line(self) -> None:
        if self._unfinished:
            self.write("\n")

    def lines(self, lines: Sequence[str]) -> None:
        if lines:
            self.write("\n".join(lines) + "\n")

    def say(self, text: str, style: Style = Style.PLAIN) -> None:
        """A paragraph, wrapped."""
        self.lines(self.wrapped(text, style))

    def wrapped(self, text: str, style: Style = Style.PLAIN, columns: int | None = None) -> list[str]:
        wrap = Wrap(lambda: columns or self.columns, self.paint)
        for line in clean(text).replace("\t", TAB).split("\n"):
            wrap.hanging = " " * (len(line) - len(line.lstrip(" ")))
            wrap.put(line, style)
            wrap.newline()
        return wrap.take()

    def fail(self, text: str) -> None:
        """What went wrong, in one line beside the output; on a terminal both are seen."""
        if self._out.isatty():
            self.end_line()
        self._err.write(f"fivewire: {clean_line(text)}\n")
        self._err.flush()

    def box(self, title: str, items: Sequence[str], style: Style = Style.DIM) -> list[str]:
        """A frame around a few facts: as many on a line as fit."""
        columns = self.columns
        rows = [""]
        for item in (clean_line(item) for item in items):
            row = f"{rows[-1]} · {item}" if rows[-1] else item
            if width_of(row) > columns - BOX_COLUMNS and rows[-1]:
                rows.append(item)
            else:
                rows[-1] = row
        if columns < BOX_COLUMNS + max(width_of(row) for row in [title, *rows]):
            return [line for text in (title, *items) for line in self.wrapped(text, style)]
        inner = max(width_of(title) + 1, *(width_of(row) for row in rows))
        paint = self.paint
        rest = "─" * (inner - width_of(title) - 1) + "╮"
        top = f"{paint('╭─', Style.DIM)} {paint(title, style)} {paint(rest, Style.DIM)}"
        side = paint("│", Style.DIM)
        middle = [f"{side} {row}{' ' * (inner - width_of(row))} {side}" for row in rows]
        return [top, *middle, paint(f"╰{'─' * (inner + 2)}╯", Style.DIM)]

    def table(self, rows: Sequence[tuple[str, str]]) -> list[str]:
        """Names and what they stand for, in two columns, the second wrapped."""
        named = [(clean_line(name), clean_line(text)) for name, text in rows]
        first = min(max(width_of(name) for name, _ in named), self.columns // 2)
        lines = []
        for name, text in named:
            wrap = Wrap(lambda: self.columns, self.paint)
            wrap.hanging = " " * (first + 4)
            wrap.put(f"  {name}", Style.BOLD | Style.BLOCK)
            wrap.put(" " * (max(first - width_of(name), 0) + 2), Style.BLOCK)
            wrap.put(text)
            wrap.newline()
            lines += wrap.take()
        return lines

"""Styled text that grows, laid out in lines of a terminal's width without splitting words.

1. A line that has been given out never changes; only the `tail`, the line that is being written, may.
2. Whether a word fits is known as soon as it does not: the tail never gets wider than the terminal.
3. What has no blanks to break at (a wide script, a word longer than a line, a code block) breaks at any character.
"""

from collections.abc import Callable

from client.paint import RESET, Paint, Style
from client.text import width_of

MIN_COLUMNS = 10


class Wrap:
    def __init__(self, columns: Callable[[], int], paint: Paint) -> None:
        self._columns = columns
        self._paint = paint
        self._done: list[str] = []
        self._line: list[str] = []  # settled text of the current line, with its sequences
        self._style = Style.PLAIN  # in force at the end of it
        self._col = 0
        self._room = 0  # columns of the current line, looked up when it begins
        self._indent = 0  # columns of the hanging indent that the current line begins with
        self._blanks = 0
        self._word: list[tuple[str, Style]] = []
        self._word_width = 0
        self.hanging = ""  # what the next lines of this paragraph begin with

    def put(self, text: str, style: Style = Style.PLAIN) -> None:
        for char in text:
            if style & Style.BLOCK:
                self._settle_word()
                self._grow(char, style, 1 if char == " " else width_of(char))
                self._settle_word()
            elif char == " ":
                self._settle_word()
                self._blanks += 1
            else:
                width = width_of(char)
                if width == 2:
                    self._settle_word()
                self._grow(char, style, width)
                if width == 2:
                    self._settle_word()

    def _grow(self, char: str, style: Style, width: int) -> None:
        if not self._line:
            self._room = self.columns
        if self._col + self._blanks + self._word_width + width > self._room:
            if self._col > self._indent or self._blanks:
                self._break()
            if self._col + self._word_width + width > self._room:
                self._settle_word()
                self._break()
        self._word.append((char, style))
        self._word_width += width

    def _break(self) -> None:
        """The current line is full: the word goes on the next."""
        self._finish()
        self._blanks = 0
        self._room = self.columns
        if self.hanging and width_of(self.hanging) < self._room - MIN_COLUMNS // 2:
            self._write(self.hanging, Style.DIM)
        self._indent = self._col

    def _settle_word(self) -> None:
        if self._word:
            self._write(" " * self._blanks, self._word[0][1] & self._style)
            for char, style in self._word:
                self._write(char, style)
            self._word, self._word_width, self._blanks = [], 0, 0

    def _write(self, text: str, style: Style) -> None:
        if not text:
            return
        if style != self._style:
            if self._style and self._paint.start(self._style):
                self._line.append(RESET)
            self._line.append(self._paint.start(style))
            self._style = style
        self._line.append(text)
        self._col += width_of(text)

    def _finish(self) -> None:
        if self._paint.start(self._style):
            self._line.append(RESET)
        self._done.append("".join(self._line))
        self._line, self._style, self._col, self._indent = [], Style.PLAIN, 0, 0

    def newline(self) -> None:
        self._settle_word()
        self._finish()
        self._blanks, self.hanging = 0, ""

    def take(self) -> list[str]:
        """The lines that are finished; each is given out once."""
        done, self._done = self._done, []
        return done

    @property
    def settled(self) -> str:
        """Of the current line what will stay as it is; it only grows until the line is finished."""
        return "".join(self._line)

    @property
    def tail(self) -> str:
        """The current line as it looks now."""
        end = RESET if self._paint.start(self._style) else ""
        word = "".join(self._paint(char, style) for char, style in self._word)
        return "".join(self._line) + end + (" " * self._blanks + word if word else "")

    @property
    def columns(self) -> int:
        return max(self._columns(), MIN_COLUMNS)

    @property
    def empty(self) -> bool:
        return not (self._line or self._word or self._blanks)

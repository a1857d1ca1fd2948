"""Markdown, decently, while it streams: bold, italics, code, headings, lists, quotes, code blocks and rules.

1. It is a filter in front of `Wrap`: every character is looked at once, and held back only while it may be part of a
   mark (a run of `*` or backquotes, the beginning of a line). What has been shown is never taken back.
2. Therefore a mark counts from where it opens, and at the end of a line everything inline is closed: one stray `**`
   can spoil a line, not an answer.
3. What is not understood (tables, links, HTML) is shown as it was written; a row of a table to the last backslash.
"""

import re

from client.paint import Style
from client.text import TAB, clean
from client.wrap import Wrap

_UNDECIDED = re.compile(r" *(?:#{1,6}|[-*+]|\d{1,3}[.)]?|>|-{2,}|\*{2,}|_{1,}|`{1,2}|`{3,}[^`]*|~{1,2}|~{3,}.*)?\Z")
_LIST = re.compile(r"( *)([-*+]|\d{1,3}[.)]) \Z")
_HEADING = re.compile(r" {0,3}#{1,6} \Z")
_QUOTE = re.compile(r" {0,3}>")
_RULE = re.compile(r" {0,3}(?:-{3,}|\*{3,}|_{3,})\Z")
_FENCE = re.compile(r"( *)(`{3,}|~{3,})(.*)\Z")
_EMPHASIS = {1: Style.ITALIC, 2: Style.BOLD, 3: Style.BOLD | Style.ITALIC}
_ESCAPABLE = "\\`*_#-+.!>[](){}~|"
RULE_COLUMNS = 40
MOST_HEAD_CHARS = 1000  # it is looked at again with each of them; one that is longer begins a line of text


class Markdown:
    """Fed the pieces of an answer; `wrap` has the lines."""

    def __init__(self, wrap: Wrap, raw: bool = False) -> None:
        self.wrap = wrap
        self._raw = raw
        self._head: str | None = ""  # the beginning of a line, until it is known what kind of line it is
        self._fence = ""  # the mark that closes the code block
        self._fence_indent = 0  # blanks that may stand before it
        self._row = False  # the line is of a table
        self._base = Style.PLAIN  # of the whole line
        self._inline = Style.PLAIN
        self._ticks = 0  # backquotes that opened the inline code
        self._run = ""  # marks whose meaning hangs on what follows
        self._escaped = False
        self._last = " "

    def feed(self, text: str) -> list[str]:
        for char in clean(text).replace("\t", TAB):
            if self._raw:
                self._plain(char)
            elif self._head is not None:
                self._begin(char)
            elif char == "\n":
                self._end_line()
            elif self._fence:
                self.wrap.put(char, Style.BLOCK)
            elif self._row:
                self.wrap.put(char)
            else:
                self._inside(char)
        return self.wrap.take()

    def close(self) -> list[str]:
        """The text is over: what was held back, and the last line, unless it is empty."""
        if self._head and not self._raw:
            self._end_head()
        self._end_marks()
        if not self.wrap.empty:
            self.wrap.newline()
        return self.wrap.take()

    @property
    def tail(self) -> str:
        """The line that is being written, with what is held back."""
        return self.wrap.tail if self._fence else self.wrap.tail + (self._head or "")[: RULE_COLUMNS // 2]

    def _plain(self, char: str) -> None:
        if char == "\n":
            self.wrap.newline()
        else:
            self.wrap.put(char)

    def _begin(self, char: str) -> None:
        assert self._head is not None
        if char == "\n":
            self._end_head()
            return
        self._head += char
        if self._fence:
            may_close = re.fullmatch(rf" {{0,{self._fence_indent}}}({self._fence[0]}+ *)?", self._head)
            if not may_close or len(self._head) > MOST_HEAD_CHARS:
                head, self._head = self._head, None
                self.wrap.put(head, Style.BLOCK)
        elif len(self._head) > MOST_HEAD_CHARS or not _UNDECIDED.match(self._head):
            self._open(self._head)

    def _open(self, head: str) -> None:
        """The line has shown what it is: a list item, a heading, a quote, or text."""
        self._head = None
        if match := _LIST.match(head):
            mark = "•" if match[2] in "-*+" else match[2]
            self.wrap.put(f"{match[1]}{mark}", Style.ACCENT)
            self.wrap.put(" ")
            self.wrap.hanging = " " * len(f"{match[1]}{mark} ")
        elif _HEADING.match(head):
            self._base = Style.HEADING
        elif match := _QUOTE.match(head):
            self.wrap.put("│", Style.DIM)
            self.wrap.put(" ")
            self.wrap.hanging = "│ "
            self._base = Style.DIM
            for char in head[match.end() :].lstrip(" "):
                self._inside(char)
        elif head.lstrip(" ") == "|":
            self._row = True
            self.wrap.put(head)
        else:
            for char in head:
                self._inside(char)

    def _end_head(self) -> None:
        """A line ends that was held back as a whole."""
        head, self._head = self._head or "", None
        fence = _FENCE.match(head)
        if self._fence:
            if fence and fence[2].startswith(self._fence) and not fence[3].strip():
                self._fence, self._head = "", ""
                return
            self.wrap.put(head, Style.BLOCK)
        elif fence:
            self._fence, self._fence_indent, self._head = fence[2], len(fence[1]) + 3, ""
            if fence[3].strip():
                self.wrap.put(fence[3].strip(), Style.DIM)
                self.wrap.newline()
            return
        elif _RULE.match(head):
            self.wrap.put("─" * min(RULE_COLUMNS, self.wrap.columns), Style.DIM | Style.BLOCK)
        else:
            for char in head:
                self._inside(char)
        self._end_line()

    def _end_line(self) -> None:
        self._end_marks()
        self.wrap.newline()
        self._head, self._base, self._row = "", Style.PLAIN, False

    def _end_marks(self) -> None:
        if self._run:
            self._resolve(" ")
        if self._escaped:
            self.wrap.put("\\", self._base | self._inline)
        self._escaped, self._inline, self._last = False, Style.PLAIN, " "

    def _inside(self, char: str) -> None:
        code = bool(self._inline & Style.CODE)
        if self._escaped:
            self._escaped = False
            self._show(char if char in _ESCAPABLE else f"\\{char}")
            return
        if self._run and char != self._run[0]:
            self._resolve(char)
            code = bool(self._inline & Style.CODE)
        if char == "`" or (char == "*" and not code):
            self._run += char
        elif char == "\\" and not code:
            self._escaped = True
        else:
            self._show(char)

    def _show(self, text: str) -> None:
        self.wrap.put(text, self._base | self._inline)
        self._last = text[-1]

    def _resolve(self, following: str) -> None:
        """A run of marks is over: it opens, closes, or is just text."""
        run, self._run = self._run, ""
        if run[0] == "`":
            if not self._inline & Style.CODE:
                self._inline |= Style.CODE
                self._ticks = len(run)
                return
            if len(run) == self._ticks:
                self._inline &= ~Style.CODE
                self._last = "`"
                return
        elif emphasis := _EMPHASIS.get(len(run)):
            if self._inline & emphasis == emphasis and not self._last.isspace():
                self._inline &= ~emphasis
                return
            within_word = self._last.isascii() and self._last.isalnum()
            if not self._inline & emphasis and not following.isspace() and not within_word:
                self._inline |= emphasis
                return
        self._show(run)

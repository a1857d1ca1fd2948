"""Styles of the terminal's text: what they mean here, and the sequences that show them, where those may be used."""

from enum import IntFlag


class Style(IntFlag):
    """What a piece of text is; they add up."""

    PLAIN = 0
    BOLD = 1
    ITALIC = 2
    CODE = 4
    BLOCK = 8  # of a code block: kept as it is, blanks and all
    HEADING = 16
    DIM = 32
    YOU = 64
    GOOD = 128
    BAD = 256
    ACCENT = 512


_SHAPES = {Style.BOLD: "1", Style.ITALIC: "3", Style.HEADING: "1", Style.DIM: "2", Style.YOU: "1", Style.BAD: "1"}
_COLOURS = {
    Style.CODE: "36",
    Style.BLOCK: "36",
    Style.HEADING: "35",
    Style.YOU: "34",
    Style.GOOD: "32",
    Style.BAD: "31",
    Style.ACCENT: "35",
}
RESET = "\x1b[0m"


class Paint:
    """Makes styles visible: with `shapes` bold and the like, with `colours` colours too; with neither, text only."""

    def __init__(self, shapes: bool, colours: bool) -> None:
        self._shapes = shapes
        self._colours = colours and shapes

    def start(self, style: Style) -> str:
        """The sequence that begins a style; nothing for the plain one."""
        codes = [code for bit, code in _SHAPES.items() if style & bit] if self._shapes else []
        codes += [code for bit, code in _COLOURS.items() if style & bit] if self._colours else []
        return f"\x1b[{';'.join(codes)}m" if codes else ""

    def __call__(self, text: str, style: Style) -> str:
        start = self.start(style)
        return f"{start}{text}{RESET}" if start and text else text

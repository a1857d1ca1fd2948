"""Text on a terminal: what may be shown of a stranger's text, and how wide it is."""

import re

TAB = "    "

# C0 and C1 controls except newline and tab, what turns the direction of writing, invisible tags, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """The text without anything that could steer the terminal; newline and tab stay."""
    return _UNSAFE.sub(_harmless, text) if _UNSAFE.search(text) else text


def _harmless(match: re.Match[str]) -> str:
    char = match.group()
    if char in "\u2028\u2029":
        return "\n"
    return "\ufffd" if "\ud800" <= char <= "\udfff" else ""


def clean_line(text: str) -> str:
    """The same for what has to stay on one line."""
    return " ".join(clean(text).split())


def clean_json(text: str) -> str:
    """JSON that means the same and holds nothing that could steer the terminal."""
    return _UNSAFE.sub(_escaped, text) if _UNSAFE.search(text) else text


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def width_of(text: str) -> int:
    """Columns that the text takes."""
    if text.isascii():
        return len(text)
    from prompt_toolkit.utils import (
        get_cwidth,  # takes the whole of prompt_toolkit along, 60 ms that not everybody needs
    )

    return get_cwidth(text)


def shortened(text: str, columns: int) -> str:
    """The text in at most so many columns; of a long one no more is looked at than is shown."""
    width = end = 0
    for place, char in enumerate(text, 1):
        width += width_of(char)
        if width < columns:
            end = place  # so much leaves room for the ellipsis
        elif width > columns:
            return text[:end] + "…"[:columns]
    return text

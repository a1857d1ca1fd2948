"""No text from outside can steer the terminal, and its width is what the terminal makes of it."""

import io
import json
import time

import pytest

from client.console import Console
from client.text import clean, clean_json, clean_line, shortened, width_of


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]0;title\x07", "]0;title"),
        ("\x9b31m and \x90q\x9c", "31m and q"),
        ("back\x08\x08\rover\x00\x7f", "backover"),
        ("user\u202egnp.exe\u2066\u2069\u200f", "usergnp.exe"),
        ("\U000e0041\ufeff\ufff9", ""),
        ("line\u2028para\u2029", "line\npara\n"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("e\u0301 👩\u200d💻 ok", "e\u0301 👩\u200d💻 ok"),
    ],
)
def test_clean(text: str, shown: str) -> None:
    assert clean(text) == shown
    assert clean_json(json.dumps(text, ensure_ascii=False)).encode()
    assert json.loads(clean_json(json.dumps(text, ensure_ascii=False))) == text


def test_json_keeps_its_meaning_and_loses_its_teeth() -> None:
    shown = clean_json(json.dumps("\x9b31m \u202e \U000e0041", ensure_ascii=False))
    assert shown.isascii()
    assert json.loads(shown) == "\x9b31m \u202e \U000e0041"


def test_one_line() -> None:
    assert clean_line(" two\nlines\tand \x1b[2J more ") == "two lines and [2J more"


def test_width() -> None:
    assert width_of("abc") == 3
    assert width_of("中文") == 4
    assert width_of("e\u0301") == 1


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abc", 4, "abc"),
        ("abc", 3, "abc"),
        ("abcdef", 4, "abc…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
        ("", 0, ""),
        ("中文", 4, "中文"),
        ("中文字", 5, "中文…"),
        ("中文字", 4, "中…"),
        ("中文", 1, "…"),
        ("a中", 2, "a…"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
        ("ab\u0301", 2, "ab\u0301"),
        ("ab\u0301c", 2, "a…"),
    ],
)
def test_shortened(text: str, columns: int, shown: str) -> None:
    assert shortened(text, columns) == shown
    assert width_of(shown) <= columns


def test_a_tab_takes_the_columns_that_it_is_counted_for() -> None:
    console = Console(io.StringIO(), io.StringIO())
    assert console.wrapped("a\tb", columns=20) == ["a    b"]
    assert console.wrapped("\thangs under its word\nno", columns=20) == ["    hangs under its", "    word", "no"]
    assert console.wrapped("1\t2\t3\t4\t5", columns=12) == ["1    2    3", "4    5"]


def test_a_long_text_is_shortened_in_no_more_than_linear_time() -> None:
    def seconds(size: int) -> float:
        started = time.thread_time()
        shortened("wörd " * size, 80)
        return time.thread_time() - started

    assert seconds(800) < 30 * max(seconds(80), 0.001)  # one character after the other from its end: 100 times

"""No text from outside can steer the terminal, and its width is what the terminal makes of it."""

import json

import pytest

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
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("中文字", 4) == "中…"
    assert shortened("abc", 3) == "abc"

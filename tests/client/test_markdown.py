"""Streaming Markdown and wrapping: the same lines whatever the pieces, none wider than the terminal, no word split."""

import re

import pytest

from client.markdown import Markdown
from client.paint import Paint
from client.text import width_of
from client.wrap import Wrap

SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")
NAMES = {"1": "b", "3": "i", "36": "c", "35": "a", "2": "d", "1;3": "bi", "1;35": "h", "2;36": "r", "1;36": "bc"}


def shown(text: str, columns: int = 40, size: int = 10_000, raw: bool = False) -> list[str]:
    """Lines with their styles written as <b>..., so that tests can be read."""
    markdown = Markdown(Wrap(lambda: columns, Paint(True, True)), raw)
    lines: list[str] = []
    for start in range(0, len(text), size):
        lines += markdown.feed(text[start : start + size])
        assert width_of(SEQUENCE.sub("", markdown.wrap.tail)) <= columns
    lines += markdown.close()
    for line in lines:
        assert width_of(SEQUENCE.sub("", line)) <= columns
    return [SEQUENCE.sub(_named, line) for line in lines]


def _named(match: re.Match[str]) -> str:
    codes = match.group()[2:-1]
    return "</>" if codes == "0" else f"<{NAMES[codes]}>"


TABLE = [
    ("plain", ["plain"]),
    ("two\n\nparagraphs\n", ["two", "", "paragraphs"]),
    ("some **bold** text", ["some <b>bold</> text"]),
    ("*it* and ***both***", ["<i>it</> and <bi>both</>"]),
    ("`a ** b` and ``c ` d``", ["<c>a ** b</> and <c>c ` d</>"]),
    ("2 * 3 ** 4 and 2*3*4", ["2 * 3 ** 4 and 2*3*4"]),
    ("stray **bold\nnext line", ["stray <b>bold</>", "next line"]),
    ("ends with **", ["ends with **"]),
    (r"\*not\* \d", [r"*not* \d"]),
    ("# Title", ["<h>Title</>"]),
    ("#hash ####### seven", ["#hash ####### seven"]),
    ("- one\n* two\n  + three", ["<a>•</> one", "<a>•</> two", "  <a>•</> three"]),
    ("1. one\n12) twelve\n1.5 no", ["<a>1.</> one", "<a>12)</> twelve", "1.5 no"]),
    ("**bold** first\n*it* first\n-no", ["<b>bold</> first", "<i>it</> first", "-no"]),
    ("-", ["-"]),
    ("> quoted", ["<d>│ quoted</>"]),
    ("---\n***\n", ["<r>" + "─" * 40 + "</>"] * 2),
    ("```\na  **b**\n\n  `c`\n```\nafter", ["<c>a  **b**</>", "", "<c>  `c`</>", "after"]),
    ("```python\nx\n```", ["<d>python</>", "<c>x</>"]),
    ("~~~\n```\n~~~\n", ["<c>```</>"]),
    ("```inline``` code", ["<c>inline</> code"]),
    ("1. one\n     ```\n     a\n     ```\nafter", ["<a>1.</> one", "<c>     a</>", "after"]),
    ("    ~~~\n       ~~~\nout", ["out"]),
    ("```\na\n```  \n**out**", ["<c>a</>", "<b>out</>"]),
    ("~~~\na\n ~~~~ \t\nout", ["<c>a</>", "out"]),
    ("```\n`` a\n``  \n``` b\n``` ", ["<c>`` a</>", "<c>``  </>", "<c>``` b</>"]),
    ("```\n    ```\n```\nout", ["<c>    ```</>", "out"]),
    ("| a | b |", ["| a | b |"]),
    ("|`a`| **b** \\| c |\n **d**", ["|`a`| **b** \\| c |", " <b>d</>"]),
    ("  | *a* |", ["  | *a* |"]),
    ("a|*b*", ["a|<i>b</>"]),
    ("tab\there", ["tab    here"]),
    ("\x1b[31mno\u202e", ["[31mno"]),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(("text", "lines"), TABLE)
def test_marks(text: str, lines: list[str], size: int) -> None:
    assert shown(text, size=size) == lines


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_wrapping(size: int) -> None:
    text = "The quick brown fox **jumps over the** lazy dog\n- and the item hangs under its first word\n"
    text += "> so does this quote"
    assert shown(text, 20, size) == [
        "The quick brown fox",
        "<b>jumps over the</> lazy",
        "dog",
        "<a>•</> and the item hangs",
        "<d>  </>under its first",
        "<d>  </>word",
        "<d>│ so does this quote</>",
    ]


def test_what_cannot_be_kept_whole_is_cut() -> None:
    assert shown("a word: " + "x" * 25 + " end", 20) == ["a word:", "x" * 20, "xxxxx end"]
    assert shown("一二三四五六七八九十一二", 20) == ["一二三四五六七八九十", "一二"]
    assert shown("```\n" + "x y " * 6 + "\n```", 20) == ["<c>" + "x y " * 5 + "</>", "<c>x y </>"]


@pytest.mark.parametrize("head", ["-", "~", "~~~ x", "```x", "```\n`", "~~~\n ~", "```\n```\n~"])
def test_a_line_whose_beginning_never_ends_is_shown_all_the_same(head: str) -> None:
    markdown = Markdown(Wrap(lambda: 40, Paint(False, True)))
    assert markdown.feed(head + head[-1] * 3000)


def test_raw_is_wrapped_but_not_read() -> None:
    assert shown("# **not** read `at` all\n- as it is", 12, raw=True) == ["# **not**", "read `at`", "all", "- as it is"]


def test_every_word_of_an_answer_arrives_once() -> None:
    words = [f"w{number}" for number in range(500)]
    for columns in (10, 11, 37, 80):
        assert " ".join(shown(" ".join(words), columns, 5)).split() == words


def test_what_is_settled_only_grows() -> None:
    wrap = Wrap(lambda: 30, Paint(True, True))
    markdown = Markdown(wrap)
    before = ""
    for char in "some **bold words** and `code` that fill more than one line of this":
        if markdown.feed(char):
            before = ""
        assert wrap.settled.startswith(before)
        before = wrap.settled


def test_without_paint_there_are_no_sequences() -> None:
    markdown = Markdown(Wrap(lambda: 40, Paint(False, True)))
    assert markdown.feed("# T\n**b** `c`\n> q\n") == ["T", "b c", "│ q"]
    coloured = Markdown(Wrap(lambda: 40, Paint(True, False)))
    assert coloured.feed("**b** `c`\n") == ["\x1b[1mb\x1b[0m c"]

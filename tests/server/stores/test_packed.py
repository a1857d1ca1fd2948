"""A part's chunks in one column: exact, whatever is said."""

import random

import pytest

from server.stores.packed import MARK, packed, unpacked

STAMP = "2026-03-01T12:00:00.000001+00:00"


def chunks(*texts: str) -> tuple[str, ...]:
    return tuple(field for text in texts for field in (text, STAMP))


@pytest.mark.parametrize(
    "texts",
    [
        (),
        ("",),
        ("", ""),
        ("Hi", " there"),
        (MARK,),
        ("", MARK, "\0"),
        ("[", "\0", '["a"]'),
        ("\n" * 3, '"\\', "漢", "😀"),
    ],
)
def test_what_is_packed_is_unpacked(texts: tuple[str, ...]) -> None:
    assert unpacked(packed(chunks(*texts))) == chunks(*texts)


def test_whatever_is_said() -> None:
    chance = random.Random(11)
    for _ in range(500):
        texts = ["".join(chance.choices(MARK + '\0["a漢', k=chance.randrange(5))) for _ in range(chance.randrange(6))]
        assert unpacked(packed(chunks(*texts))) == chunks(*texts)


def test_what_nobody_marks_is_no_json() -> None:
    assert packed(("Hi", STAMP)) == f"{MARK}Hi{MARK}{STAMP}"
    assert packed((MARK, STAMP)) == f'["\\u001f", "{STAMP}"]'
    assert packed(()) is None

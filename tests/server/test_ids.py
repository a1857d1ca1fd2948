"""The names of turns, sessions and connections: of the promised form, and never twice."""

import re

import pytest

from proto.requests import check_session_id, check_turn_id
from server import ids

FORMS = {
    ids.turn_id: r"[A-Za-z0-9_-]{24}",
    ids.session_id: r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    ids.connection_id: r"[0-9a-f]{16}",
}


@pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)
def test_names_are_new_and_of_their_form(make):
    names = [make() for _ in range(2000)]  # more than are drawn at once
    assert all(re.fullmatch(FORMS[make], name) for name in names)
    assert len(set(names)) == len(names)
    assert {char for name in names for char in name} >= set("0123456789abcdef")


def test_the_edge_takes_them():
    assert check_turn_id(ids.turn_id()) and check_session_id(ids.session_id())


def test_names_of_different_kinds_share_no_drawn_characters():
    pieces = [ids.connection_id() if number % 2 else ids.session_id().replace("-", "") for number in range(1000)]
    assert len({piece[:12] for piece in pieces}) == len(pieces)

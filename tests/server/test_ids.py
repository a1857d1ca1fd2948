"""The names of turns, sessions and connections: of the promised form, and never twice."""

import re
import time
from collections import Counter
from itertools import pairwise

import pytest

from proto.requests import check_session_id, check_turn_id
from server import ids

FORMS = {
    "turn_id": r"[0-9a-f]{11}[A-Za-z0-9_-]{13}",
    "session_id": r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "connection_id": r"[0-9a-f]{16}",
}


@pytest.mark.parametrize("kind", FORMS)
def test_names_are_new_and_of_their_form(kind):
    make = getattr(ids, kind)
    names = [make() for _ in range(2000)]  # more than are drawn at once
    assert all(re.fullmatch(FORMS[kind], name) for name in names)
    assert len(set(names)) == len(names)
    assert {char for name in names for char in name} >= set("0123456789abcdef")


def test_the_edge_takes_them():
    assert check_turn_id(ids.turn_id()) and check_session_id(ids.session_id())


def test_names_of_different_kinds_share_no_drawn_characters():
    pieces = [ids.connection_id() if number % 2 else ids.session_id().replace("-", "")[13:] for number in range(1000)]
    assert len({piece[:12] for piece in pieces}) == len(pieces)


@pytest.mark.parametrize("kind", ["turn_id", "session_id"])
def test_a_stored_name_begins_with_the_time_and_a_number(kind):
    names = [getattr(ids, kind)().replace("-", "") for _ in range(3 * ids.DRAWN)]
    times, numbers = [int(name[:8], 16) for name in names], [int(name[8:11], 16) for name in names]
    assert times == sorted(times)
    assert time.time() - 60 < times[-1] <= time.time()
    assert all((after - before) % ids.DRAWN == 1 for before, after in pairwise(numbers))


def test_of_a_uuid_all_but_time_number_version_and_variant_is_random():
    names = [ids.session_id() for _ in range(5000)]
    for place in (12, *range(14, 36)):
        told = 1 if place in (14, 18, 23) else 4 if place == 19 else 16
        counts = Counter(name[place] for name in names)
        assert len(counts) == told and min(counts.values()) > 0.7 * 5000 / told


def test_of_a_turns_name_all_but_time_and_number_is_random():
    names = [ids.turn_id()[11:] for _ in range(5000)]
    for place in range(13):
        counts = Counter(name[place] for name in names)
        assert len(counts) == 64 and min(counts.values()) > 0.4 * 5000 / 64

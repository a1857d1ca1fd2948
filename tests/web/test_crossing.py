"""What is on its way while something else happens: whose turn it is, and where it belongs."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.web.cable import Cable
from tests.web.test_rooms_change import ENDLESS, QUICK, SAID, enter, two_sessions

MINE = 'What "I" asked: \\ & 🙂'


@pytest.fixture
def asked_first(page: Any, cable: Cable, visit: Callable[[], Any]) -> Callable[[str, str], Any]:
    """Another member asks, and the page as well before it hears of that."""

    def cross(message: str, model: str) -> Any:
        page.visit(cable.url)
        page.ask("Hello", "websocket", QUICK)
        page.ended()
        other = visit()
        enter(other, page.session)
        other.ended()
        cable.hold()
        other.ask(message, "ndjson", model)
        if model == QUICK:
            other.ended(turns=2)
        else:
            other.begun(turns=2)  # else the page might be the first
        page.fill("#message", MINE)
        page.press("Enter")
        page.until(f"{page.COUNT} === 2")
        cable.release()
        return other

    return cross


def test_the_answer_to_who_asked_first_is_not_shown_to_who_is_refused(page: Any, asked_first: Any) -> None:
    other = asked_first("What they asked", ENDLESS)
    page.begun(turns=3)
    assert page.run(SAID) == f"Hello,{MINE},What they asked"
    mine = "#log .turn:nth-child(2)"
    assert "session_busy" in page.text(f"{mine} .about")
    assert page.text(f"{mine} .prose") == ""
    other.click("#stop")
    page.ended()
    assert page.shown() == page.answer()


def test_an_answer_that_ends_before_the_next_message_is_taken_is_not_shown_as_that_ones(
    page: Any, asked_first: Any
) -> None:
    asked_first("What they asked", QUICK)
    page.ended(turns=3)
    assert page.run(SAID) == f"Hello,What they asked,{MINE}"
    assert page.shown() == page.answer()


def test_who_says_the_same_words_at_the_same_time_reads_along(page: Any, asked_first: Any) -> None:
    other = asked_first(MINE, ENDLESS)
    page.begun(turns=2)
    other.click("#stop")
    page.ended()
    assert page.run(SAID) == f"Hello,{MINE}"
    assert page.shown() == page.answer()
    assert not page.run("document.querySelector('#log .trouble')")


def test_a_refusal_that_names_a_turn_does_not_end_the_reading_of_it(
    page: Any, cable: Cable, visit: Callable[[], Any]
) -> None:
    page.visit(cable.url)
    page.ask("Hello", "websocket", QUICK)
    page.ended()
    other = visit()
    enter(other, page.session)
    other.ended()
    other.ask("What they asked", "ndjson", ENDLESS)
    page.begun(turns=2)
    cable.cut()
    page.until("document.querySelector('#connection').dataset.state !== 'open'")
    cable.mend()
    page.connected()  # from now on their turn is followed
    page.run("window.theirs = document.querySelector('#log .turn:last-child')")
    page.until("theirs.querySelector('.prose').innerText.length > 200")
    page.ask(MINE, "websocket", QUICK)
    page.until("document.querySelector('#log .turn:last-child .trouble')")
    length = page.run("theirs.textContent.length")
    page.until(f"theirs.textContent.length > {length + 50}")
    assert "session_busy" not in page.run("theirs.innerText")
    other.click("#stop")
    page.until("!document.querySelector('#log .growing')")


@pytest.mark.parametrize("whose", ["mine", "theirs"])
def test_what_begins_in_a_session_that_is_left_is_not_shown_in_the_next(
    whose: str, page: Any, cable: Cable, visit: Callable[[], Any]
) -> None:
    page.visit(cable.url)
    first = two_sessions(page)
    second = page.session
    other = visit()
    enter(other, second)
    other.ended()
    page.choose("#protocol", "websocket")
    page.click("#clear-wire")
    cable.hold()
    if whose == "mine":
        page.fill("#model", ENDLESS)
        page.fill("#message", "And on")
        page.press("Enter")
        page.until("document.querySelector('#frames [aria-label^=\"chat,\"]')")
    else:
        other.ask("And on", "ndjson", ENDLESS)
        other.begun(turns=2)
    enter(page, first)
    page.requests.clear()
    cable.release()
    page.until("document.querySelector('#frames [aria-label^=response_start]')")
    page.until(f"{SAID} === 'The first'")
    assert not [url for _, url in page.requests if "/turns/" in url]
    enter(page, second)
    page.begun(turns=2)
    assert page.run(SAID) == "The second,And on"
    (page if whose == "mine" else other).click("#stop")
    page.ended(turns=2)
    assert page.shown() == page.answer()

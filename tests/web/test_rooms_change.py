"""Sessions that change while nobody looks: what is shown is what the server has, and it stays where it is."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.web.cable import Cable

QUICK = "demo?chunks=6&rate=200"
ENDLESS = "demo?chunks=5000&rate=25"
SAID = "Array.from(document.querySelectorAll('#log .said'), (node) => node.innerText).join()"
LEFT = "document.querySelectorAll('#frames [aria-label^=session_left]').length"
CURRENT = "document.querySelector('#session-list [aria-current]')?.dataset.session"


def told(page: Any, method: str, path: str, **fields: Any) -> Any:
    """What the server answers to somebody else."""
    body = f", headers: {{'Content-Type': 'application/json'}}, body: {json.dumps(json.dumps(fields))}"
    options = f"{{method: '{method}'{body if fields else ''}}}"
    return page.run(f"fetch('{path}', {options}).then((answer) => answer.text())")


def by_another(page: Any, session: str, message: str = "By another") -> None:
    told(page, "POST", "chat", message=message, session_id=session, model_id=QUICK)


def enter(page: Any, session: str) -> None:
    """As a click does, also on a row that moves meanwhile."""
    page.until(f"(row => row && !row.click())(document.querySelector('[data-session=\"{session}\"]'))")


def two_sessions(page: Any) -> str:
    """The first of them; the second is shown."""
    page.ask("The first", model=QUICK)
    page.ended()
    first = str(page.session)
    page.click("#new-session")
    page.ask("The second", model=QUICK)
    page.ended()
    # Until the list is as it stays: a row that moves is not where it is clicked.
    top = "document.querySelector('#session-list [data-session]')"
    page.until(f"{top}.dataset.session === '{page.session}' && {top}.innerText.includes('2 messages')")
    page.until(f"document.querySelector('[data-session=\"{first}\"]')")
    return first


def test_who_comes_back_sees_what_was_said_and_cleared_meanwhile(demo: Any) -> None:
    first = two_sessions(demo)
    second = demo.session
    by_another(demo, first)
    demo.click(f"[data-session='{first}']")
    demo.until(f"{SAID} === 'The first,By another'")
    told(demo, "POST", f"sessions/{second}/clear")
    demo.click(f"[data-session='{second}']")
    demo.until("!document.querySelector('#welcome').hidden")
    assert demo.run(SAID) == ""


def test_a_session_that_was_deleted_meanwhile_is_left_and_not_made_again(demo: Any) -> None:
    first = two_sessions(demo)
    told(demo, "DELETE", f"sessions/{first}")
    demo.run(f"document.querySelector('[data-session=\"{first}\"]').click()")
    demo.until("document.querySelector('#presence').innerText.includes('no longer')")
    assert demo.text("#conversation-title") == "New session"
    demo.ask("Somewhere else", model=QUICK)
    demo.ended()
    assert demo.session != first
    demo.errors.clear()  # the browser logs the 404


def test_what_was_missed_while_the_cable_was_cut_comes_where_it_belongs(
    page: Any, cable: Cable, visit: Callable[[], Any]
) -> None:
    other = visit()
    page.visit(cable.url)
    page.ask("Mine", model="demo?chunks=900&rate=0")
    page.ended()
    page.ask("Refused", model="no-such-model")
    page.until("document.querySelector('#log .trouble')")
    page.fill("#model", "half-typed")
    page.run("window.kept = document.querySelector('#log .turn'); document.querySelector('#log').scrollTop = 40")
    page.until("document.querySelector('#log').scrollTop === 40")
    said = page.text("#announcer")
    cable.cut()
    page.until("document.querySelector('#connection').dataset.state !== 'open'")
    by_another(other, page.session)
    cable.mend()
    page.connected()
    page.until(f"{SAID} === 'Mine,Refused,By another'")
    assert page.run("document.querySelector('#log .turn') === kept")
    assert page.run("document.querySelector('#log').scrollTop") == 40
    assert page.text("#announcer") == said
    assert page.run("document.querySelector('#model').value") == "half-typed"


def test_an_answer_that_was_given_up_is_shown_when_the_server_is_back(page: Any, cable: Cable) -> None:
    page.visit(cable.url)
    page.ask("Hold the line", model="demo?chunks=60&rate=30")
    page.begun()
    cable.cut()
    page.until("document.querySelector('#log .about').innerText.includes('connection lost')")
    page.click("#stop")
    page.until("document.querySelector('#log .trouble')")
    cable.mend()
    page.until("!document.querySelector('#log .trouble')")
    page.ended()
    assert page.run(SAID) == "Hold the line"
    assert page.shown() == page.answer()


def test_a_server_that_has_forgotten_its_sessions_is_not_spoken_to_as_if_it_had_not(
    start_server: Callable[..., Any], page: Any
) -> None:
    server = start_server("--model", "demo")
    page.visit(server.url)
    page.ask("Before", model=QUICK)
    page.ended()
    before = page.session
    server.kill()
    page.until("document.querySelector('#connection').dataset.state !== 'open'")
    start_server("--model", "demo", "--port", str(server.port))
    page.until("document.querySelector('#presence').innerText.includes('no longer')")
    page.ask("After", model=QUICK)
    page.ended()
    assert page.run(SAID) == "After"
    assert page.session != before


@pytest.mark.parametrize("protocol", ["ndjson", "rest"])
def test_turns_stay_in_their_order_after_coming_back(protocol: str, demo: Any, shared_server: Any) -> None:
    demo.ask("Mine", protocol, "demo?chunks=30&rate=40")
    demo.begun(protocol)
    session = demo.session
    demo.open(f"{shared_server.url}/docs")
    active = f"fetch('/sessions/{session}').then((answer) => answer.json()).then((found) => found.active_turn)"
    demo.until(f"{active}.then((turn) => (window.ended = !turn)) && window.ended")
    by_another(demo, session)
    demo.visit(shared_server.url)
    demo.until(f"{SAID} === 'Mine,By another'")
    demo.until("!document.querySelector('#log .growing')")
    assert demo.run(SAID) == "Mine,By another"


def test_an_empty_field_shows_the_model_that_answers(demo: Any) -> None:
    placeholder = "document.querySelector('#model').placeholder"
    assert demo.until(f"{placeholder} !== 'default' && {placeholder}") == "demo"
    demo.ask("Hello", model=QUICK)
    demo.ended()
    demo.ask("Hello again", model="no-such-model")
    demo.until("document.querySelector('#log .trouble')")
    demo.ask("And again", model="")
    demo.ended(turns=3)
    assert demo.run(placeholder) == QUICK
    demo.click("#new-session")
    assert demo.run(placeholder) == "demo"
    demo.errors.clear()  # the browser logs the 400


def test_rooms_are_let_go_but_not_their_running_answers(demo: Any) -> None:
    first = two_sessions(demo)
    demo.run("window.turn = new WeakRef(document.querySelector('#log .turn'))")
    demo.click(f"[data-session='{first}']")
    demo.until(f"{SAID} === 'The first'")
    demo.ask("Go on and on", model=ENDLESS)
    demo.begun(turns=2)
    demo.run("window.growing = document.querySelector('#log .turn:last-child')")
    demo.click("#new-session")
    demo.call("HeapProfiler.collectGarbage")
    assert demo.run("turn.deref() === undefined")
    length = demo.run("growing.textContent.length")
    demo.until(f"growing.textContent.length > {length}")
    demo.click(f"[data-session='{first}']")
    demo.until("growing.isConnected")
    demo.click("#stop")
    demo.ended(turns=2)
    assert demo.shown() == demo.answer()


# Left when the answer grows; when the server has not heard of it; and before the message is sent.
@pytest.mark.parametrize("when", ["growing", "sent", "asked"])
def test_an_answer_over_websocket_goes_on_where_nobody_looks(when: str, page: Any, cable: Cable) -> None:
    page.visit(cable.url)
    first = two_sessions(page)
    second = page.session
    page.choose("#protocol", "websocket")
    page.click("#clear-wire")
    page.fill("#model", ENDLESS)
    page.fill("#message", "Go on and on")
    if when == "sent":
        cable.hold()
    page.run(
        f"""(() => {{
            document.querySelector("#composer").requestSubmit();
            window.growing = document.querySelector("#log .turn:last-child");
            window.leave = () => document.querySelector("[data-session='{first}']").click();
            if ("{when}" === "asked") leave();
        }})()"""
    )
    if when == "growing":
        page.begun("websocket", turns=2)
    page.until("document.querySelector('#frames [aria-label^=\"chat,\"]')")
    if when != "asked":
        page.run("leave()")
    cable.release()
    page.until(f"{LEFT} === {2 if when == 'asked' else 1}")
    length = page.run("growing.textContent.length")
    page.until(f"growing.textContent.length > {length + 50}")
    listed = "fetch('sessions').then((answer) => answer.json()).then(({sessions}) => sessions)"
    members = {row["session_id"]: row["connected_clients"] for row in page.run(listed)}
    assert (members[first], members[second]) == (1, 0)
    enter(page, second)
    page.until("growing.isConnected")
    page.click("#stop")
    page.ended(turns=2)
    assert page.run(SAID) == "The second,Go on and on"
    assert page.shown() == page.answer()


def test_an_answer_over_websocket_bears_coming_and_going(demo: Any) -> None:
    first = two_sessions(demo)
    second = demo.session
    demo.ask("Go on and on", "websocket", ENDLESS)
    demo.begun("websocket", turns=2)
    demo.run("window.growing = document.querySelector('#log .turn:last-child')")
    demo.click("#clear-wire")
    places = json.dumps([first, second, first, second, first])
    demo.run(f"for (const id of {places}) document.querySelector(`[data-session='${{id}}']`).click()")
    demo.until(f"{LEFT} === 5")
    length = demo.run("growing.textContent.length")
    demo.until(f"growing.textContent.length > {length + 50}")
    enter(demo, second)
    demo.click("#stop")
    demo.ended(turns=2)
    assert demo.run(SAID) == "The second,Go on and on"
    assert demo.shown() == demo.answer()


def test_an_answer_over_websocket_ends_where_nobody_looks(demo: Any) -> None:
    first = two_sessions(demo)
    second = demo.session
    demo.ask("Say something", "websocket", "demo?chunks=60&rate=40")
    demo.begun("websocket", turns=2)
    demo.run("window.growing = document.querySelector('#log .turn:last-child')")
    enter(demo, first)
    demo.until("growing.querySelector('.answer:not(.growing)')")
    assert "60 chunks" in demo.run("growing.querySelector('.about').textContent")
    enter(demo, second)
    demo.ended(turns=2)
    assert demo.shown() == demo.answer()


def test_older_sessions_and_the_one_that_is_shown_stay_in_the_list(start_server: Callable[..., Any], page: Any) -> None:
    page.visit(start_server("--model", "demo").url)
    new = "fetch('sessions/new', {method: 'POST'}).then((answer) => answer.json())"
    forty = f"Promise.all(Array.from({{length: 40}}, () => {new})).then((made) => made.length)"
    rows = "document.querySelectorAll('#session-list li').length"
    oldest = page.run(new)["session_id"]
    page.run(forty)
    page.reload()
    page.until("!document.querySelector('#more-sessions').hidden")
    assert page.run(rows) == 30
    names = (
        "new Set(Array.from(document.querySelectorAll('#session-list button'), (row) => row.children[0].textContent))"
    )
    assert page.run(f"{names}.size") == 30, "each is called by what is its own"
    page.click("#more-sessions")
    page.until(f"{rows} === 41")
    page.click(f"[data-session='{oldest}']")
    page.until(f"{CURRENT} === '{oldest}'")
    page.run(forty)
    page.fill("#model", QUICK)
    told(page, "POST", f"sessions/{oldest}/clear")  # it becomes the newest, and the list is refreshed
    page.until(f"document.querySelector('#session-list button').dataset.session === '{oldest}'")
    assert page.run(rows) == 60
    page.run(forty)
    page.run(forty)
    page.reload()
    page.until(f"{rows} === 31")
    assert page.run(CURRENT) == oldest
    assert page.run("document.querySelector('#session-list li:last-child button').dataset.session") == oldest


def test_a_reload_tells_how_answers_ended_that_are_not_whole(demo: Any) -> None:
    demo.ask("Whole", model="demo?chunks=1&rate=0")
    demo.ended()
    assert demo.text("#log .about span:nth-child(2)") == "1 chunk"
    demo.ask("Stop", model="demo?chunks=5000&rate=25")
    demo.begun(turns=2)
    demo.click("#stop")
    demo.ended(turns=2)
    demo.ask("Break", model="demo?chunks=9&rate=0&fail_after=4")
    demo.ended(turns=3)
    demo.ask("Break at once", model="demo?chunks=9&rate=0&fail_after=0")
    demo.ended(turns=4)
    ends = """JSON.stringify(Array.from(document.querySelectorAll('#log .turn'), (turn) => [
        turn.querySelector('.prose').innerText,
        turn.querySelector('.trouble')?.innerText ?? null,
        turn.querySelector('.about > span:nth-last-of-type(2)')?.innerText ?? null,
        Boolean(turn.querySelector('.retry')),
    ]))"""
    live = json.loads(demo.run(ends))
    assert [end for *_, end, _ in live][1:] == ["stopped", "model_error", "model_error"]
    assert live[3][0] == "" and "Press Retry" in live[3][1]
    demo.reload()
    demo.until("document.querySelectorAll('#log .turn').length === 4")
    live[0][2] = None  # what it cost is not kept: it was whole
    assert json.loads(demo.run(ends)) == live
    assert not demo.run("document.querySelector('#log [role=alert]')"), "it is no news"
    assert demo.text("#announcer") == ""

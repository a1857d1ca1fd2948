"""Asking over every protocol, in a real browser: answers grow, stop, break, and survive reloads and dead servers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.web.cable import Cable

QUICK = "demo?chunks=12&rate=200"
ENDLESS = "demo?chunks=5000&rate=25"
LOST = "document.querySelector('#log .turn:last-child .about').innerText.includes('connection lost')"
PROTOCOLS = ["rest", "ndjson", "sse", "websocket", "grpc"]


def test_an_answer_grows_over_every_protocol_and_its_frames_are_drawn(demo: Any) -> None:
    for protocol in PROTOCOLS:
        demo.ask(f"Hello over {protocol}", protocol)
        demo.ended()
        label = demo.run("document.querySelector('#protocol').selectedOptions[0].text")
        assert demo.text("#log .turn:last-child .said") == f"Hello over {protocol}"
        assert demo.shown() == demo.answer()
        assert demo.text("#log .turn:last-child .wire-name") == label
        assert label in demo.text("#wire-sums")
        least = 4 if protocol == "rest" else 12
        frames = demo.until(
            f"(count => count >= {least} && count)(document.querySelector('#frames').childElementCount)"
        )
        assert demo.run("document.querySelectorAll('#sequence g g').length") == frames
        assert demo.run("document.querySelectorAll('#sequence g.out').length") >= 1


def test_stop_ends_the_answer_at_once_and_retry_asks_again_over_every_protocol(demo: Any) -> None:
    for count, protocol in enumerate(PROTOCOLS, 1):
        demo.ask(f"Go on and on over {protocol}", protocol, ENDLESS)
        demo.begun(protocol)
        demo.click("#stop")
        demo.ended()
        assert "stopped" in demo.text("#log .turn:last-child .about")
        demo.fill("#model", QUICK)
        demo.click("#log .turn:last-child .retry")
        demo.ended(turns=2 * count)
        assert demo.text("#log .turn:last-child .said") == f"Go on and on over {protocol}"
        assert demo.shown() == demo.answer()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_reload_in_mid_answer_goes_on_where_it_was(protocol: str, demo: Any) -> None:
    demo.ask("Keep this", protocol, ENDLESS)
    demo.begun(protocol)
    demo.requests.clear()
    length = len(demo.shown())
    demo.reload()
    demo.connected()
    if protocol != "rest":
        demo.until(f"document.querySelector('#log .prose')?.innerText.length > {length}")
    demo.click("#stop")
    demo.ended()
    assert demo.run("document.querySelectorAll('#log .turn').length") == 1
    assert demo.text("#log .said") == "Keep this"
    assert demo.shown() == demo.answer()
    assert demo.run("document.querySelector('#protocol').value") == protocol
    if protocol == "sse":
        followed = [url for kind, url in demo.requests if kind == "EventSource"]
        assert len(followed) == 1 and int(followed[0].rpartition("after=")[2]) > 2


def reload_late(page: Any) -> None:
    """What the server says of a session comes when the page is told to `tell()`."""
    late = """{
        const now = window.fetch;
        const told = new Promise((resolve) => (window.tell = resolve));
        window.fetch = (url, how) => /sessions[/]/.test(url) ? told.then(() => now(url, how)) : now(url, how);
    }"""
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source=late)
    page.reload()
    page.call("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_a_message_for_a_session_that_is_told_late_is_kept_and_that_is_said(demo: Any) -> None:
    demo.ask("Hello", model=QUICK)
    demo.ended()
    reload_late(demo)
    demo.fill("#message", "And on")
    demo.press("Enter")
    demo.until("document.querySelector('#presence').innerText.includes('Wait until the session is there')")
    assert demo.run("document.querySelector('#message').value") == "And on"
    demo.run("tell()")
    demo.until("document.querySelector('#presence').innerText === ''")
    demo.press("Enter")
    demo.ended(turns=2)


def test_a_reload_before_the_turn_is_known_goes_on_also_where_the_session_is_told_late(demo: Any) -> None:
    demo.ask("Keep this", "websocket", ENDLESS)
    demo.begun("websocket")
    key = json.dumps(f"fivewire.turn.{demo.session}")
    forget = "{...JSON.parse(sessionStorage.getItem(key)), turn_id: null, seq: 0, text: ''}"
    demo.run(
        f"""((key) => void window.addEventListener("pagehide", () =>
            sessionStorage.setItem(key, JSON.stringify({forget}))))({key})"""
    )
    reload_late(demo)
    demo.until("document.querySelector('#frames [aria-label^=session_joined]')")
    demo.until("document.querySelector('#frames [aria-label^=chunk]')")
    demo.run("tell()")
    demo.begun("websocket")
    demo.click("#stop")
    demo.ended()
    assert demo.run("document.querySelectorAll('#log .turn').length") == 1
    assert demo.shown() == demo.answer()


def test_a_change_of_protocol_in_mid_answer_goes_on_over_the_other(demo: Any) -> None:
    demo.ask("Hand me over", "ndjson", ENDLESS)
    demo.begun()
    prose = "document.querySelector('#log .turn:last-child .prose')"
    for protocol in ("sse", "websocket", "grpc", "rest", "ndjson"):
        demo.choose("#protocol", protocol)
        length = len(demo.shown())
        demo.until(f"{prose}.innerText.length > {length}")
    demo.click("#stop")
    demo.ended()
    assert demo.shown() == demo.answer()
    assert demo.text("#log .wire-name").startswith("NDJSON → SSE → WebSocket → gRPC")


def test_silence_is_no_cut_where_signs_of_life_cannot_be_seen(demo: Any) -> None:
    demo.ask("Think", "ndjson", ENDLESS)
    demo.begun()
    demo.run("window.later = setTimeout; window.setTimeout = (then, after) => later(then, after < 40_000 ? after : 0)")
    demo.requests.clear()
    length = len(demo.shown())
    demo.choose("#protocol", "sse")  # followed over an EventSource
    demo.until(f"document.querySelector('#log .prose').innerText.length > {length + 20}")
    demo.click("#stop")
    demo.ended()
    assert demo.shown() == demo.answer()
    assert [kind for kind, _ in demo.requests].count("EventSource") == 1


def test_an_answer_that_breaks_says_what_to_do(demo: Any) -> None:
    demo.ask("Break", model="demo?chunks=20&rate=200&fail_after=5")
    demo.ended()
    assert "Retry" in demo.text("#log .trouble .note")
    assert demo.run("document.querySelector('#log .trouble').getAttribute('role')") == "alert"
    assert demo.text("#log .turn .prose")
    demo.fill("#model", QUICK)
    demo.click(".retry")
    demo.ended(turns=2)
    assert not demo.run("document.querySelector('#log .trouble .note, #log .retry').checkVisibility()")
    assert "Retry" not in demo.text("#log .turn")
    assert demo.run("document.querySelector('#log .turn:last-child .retry').checkVisibility()")


def test_a_refused_message_is_kept_and_explained(demo: Any) -> None:
    demo.fill("#model", "no-such-model")
    demo.fill("#message", "Precious words")
    demo.press("Enter")
    demo.until("document.querySelector('#presence').textContent")
    assert demo.run("document.querySelector('#message').value") == "Precious words"
    demo.errors.clear()  # the browser logs the 400


def test_enter_during_an_answer_says_why_nothing_is_sent(demo: Any) -> None:
    demo.ask("Go on and on", model=ENDLESS)
    demo.begun()
    demo.fill("#message", "And this?")
    demo.press("Enter")
    demo.until("document.querySelector('#presence').innerText.includes('Escape')")
    assert demo.run("document.querySelector('#message').value") == "And this?"
    demo.press("Escape")
    demo.ended()
    demo.fill("#model", QUICK)
    demo.focus("#message")
    demo.press("Enter")
    demo.ended(turns=2)
    assert demo.text("#log .turn:last-child .said") == "And this?"


@pytest.mark.parametrize("protocol", ["rest", "sse", "websocket"])
def test_a_killed_server_is_waited_for(
    protocol: str, start_server: Callable[..., Any], page: Any, tmp_path: Path
) -> None:
    store = ("--store", f"sqlite:{tmp_path / 'chat.db'}", "--model", "demo")
    server = start_server(*store)
    page.visit(server.url)
    page.connected()
    page.ask("Will this end?", protocol, ENDLESS)
    page.begun(protocol)
    active = f"fetch('/sessions/{page.session}').then((answer) => answer.json()).then((told) => told.active_turn)"
    while not (turn_id := page.run(active)):  # what the server has never known, the page would ask again
        pass
    assert page.run(f"fetch('/turns/{turn_id}').then((answer) => answer.ok)"), "which waits until it is on disk"
    server.kill()
    page.until("document.querySelector('#connection').dataset.state !== 'open'")
    page.until(LOST)
    start_server(*store, "--port", str(server.port))
    page.ended()
    page.connected()
    assert page.text("#log .trouble .note") == "Press Retry."
    page.fill("#model", QUICK)
    page.click(".retry")
    page.ended(turns=2)
    assert page.shown() == page.answer()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cut_cable_is_waited_for(protocol: str, page: Any, cable: Cable) -> None:
    page.visit(cable.url)
    page.ask("Hold the line", protocol, ENDLESS)
    page.begun(protocol)
    cable.cut()
    page.until(LOST)
    length = len(page.shown())
    cable.mend()
    page.connected()
    if protocol != "rest":
        page.until(f"document.querySelector('#log .turn:last-child .prose').innerText.length > {length}")
        page.until(f"!{LOST} && document.querySelector('#log .about').innerText.includes('answering')")
    page.click("#stop")
    page.ended()
    assert page.shown() == page.answer()
    assert page.run("document.querySelectorAll('#log .turn').length") == 1


def test_a_websocket_that_falls_silent_is_given_up(page: Any, cable: Cable) -> None:
    page.visit(cable.url)
    page.ask("Hold the line", "websocket", ENDLESS)
    page.begun("websocket")
    page.run("window.setInterval = (then) => void (window.tick = then)")  # of the next connection
    cable.cut()
    page.until(LOST)
    cable.mend()
    page.connected()
    page.run("tick()")
    page.until("document.querySelector('#frames [aria-label^=pong]')")
    page.run("tick()")
    assert page.text("#connection") == "Connected"
    cable.hold()
    page.until("document.querySelector('#connection').dataset.state !== 'open' || void tick()")
    page.until(LOST)
    cable.release()
    page.connected()
    page.until(f"!{LOST}")
    page.click("#stop")
    page.ended()
    assert page.shown() == page.answer()


def test_a_session_chosen_while_the_server_is_away_comes_with_the_server(page: Any, cable: Cable) -> None:
    page.visit(cable.url)
    page.ask("The first session")
    page.ended()
    first = page.session
    page.click("#new-session")
    page.reload()  # forgets what it knows of the first
    page.connected()
    page.until(f"document.querySelector('[data-session=\"{first}\"]')")
    cable.cut()
    page.until("document.querySelector('#connection').dataset.state !== 'open'")
    page.click(f"[data-session='{first}']")
    page.until("document.querySelector('#presence.urgent')?.innerText")
    assert "Retry" not in page.text("#presence")
    assert page.run("document.querySelector('#welcome').hidden")
    page.fill("#message", "Kept")
    page.press("Enter")
    assert page.run("document.querySelector('#message').value") == "Kept"
    cable.mend()
    page.connected()
    page.until("document.querySelector('#log .said')?.innerText === 'The first session'")
    assert page.text("#presence") == ""
    page.press("Enter")
    page.ended(turns=2)
    assert page.shown() == page.answer()


def test_stop_ends_the_waiting(page: Any, cable: Cable) -> None:
    page.visit(cable.url)
    page.ask("Hold the line", "ndjson", ENDLESS)
    page.begun()
    cable.cut()
    page.until(LOST)
    page.click("#stop")
    page.ended()
    assert "Stopped waiting" in page.text("#log .trouble")


def test_a_change_of_protocol_does_not_wait_for_a_websocket_that_does_not_open(page: Any, cable: Cable) -> None:
    page.visit(cable.url)
    page.ask("Hand me over", "websocket", ENDLESS)
    page.begun("websocket")
    cable.cut()
    cable.hold()
    cable.mend()
    cable.until_used()  # until then it connects to nobody, and is told so
    page.until("document.querySelector('#connection').dataset.state === 'connecting'")
    page.run(
        """void new MutationObserver(() => (window.waited = true))
            .observe(document.querySelector("#connection"), {attributes: true})"""
    )
    page.choose("#protocol", "ndjson")
    page.until("document.querySelector('#frames [aria-label^=\"GET /turns/\"]')")
    assert not page.run("window.waited")
    cable.release()
    page.click("#stop")
    page.ended()
    assert page.shown() == page.answer()


@pytest.mark.parametrize("protocol", ["ndjson", "websocket"])
def test_stop_does_not_wait_for_a_server_that_is_silent(protocol: str, page: Any, cable: Cable) -> None:
    page.visit(cable.url)
    page.ask("Hold the line", protocol, ENDLESS)
    page.begun(protocol)
    cable.hold()
    page.click("#stop")
    page.until("document.querySelector('#log .trouble')?.innerText.includes('could not be told')")
    assert page.run("document.querySelector('#stop').hidden")
    cable.release()
    page.until("!document.querySelector('#log .trouble')")
    page.ended()
    assert page.text("#log .about span:nth-last-child(2)") == "stopped"
    assert page.shown() == page.answer()

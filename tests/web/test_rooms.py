"""Sessions and the others in them, and what they write, in a real browser."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

ENDLESS = "demo?chunks=5000&rate=25"
PROTOCOLS = ["rest", "ndjson", "sse", "websocket", "grpc"]
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> & <b>bold</b>'


def test_sessions_are_made_switched_cleared_and_deleted(demo: Any) -> None:
    demo.ask("First session")
    demo.ended()
    first = demo.session
    demo.click("#new-session")
    demo.until("!document.querySelector('#welcome').hidden")
    demo.ask("Second session")
    demo.ended()
    assert demo.session != first
    demo.until(f"document.querySelector('#session-list button').dataset.session === '{demo.session}'")
    demo.click(f"#session-list [data-session='{first}']")
    demo.until("document.querySelector('#log .said')?.innerText === 'First session'")
    assert demo.text("#conversation-title") == "First session"
    assert demo.run("document.querySelector('#session-list [aria-current]').dataset.session") == first
    demo.click("#clear-session")
    demo.until("!document.querySelector('#log .turn')")
    demo.click("#delete-session")
    demo.until("document.querySelector('#confirm').open")
    demo.click("#confirm-yes")
    demo.until(f"!document.querySelector(\"#session-list [data-session='{first}']\")")
    assert demo.text("#conversation-title") == "New session"


def test_the_model_that_is_shown_answers_also_where_others_change_it(demo: Any) -> None:
    demo.ask("Hello", model="demo?chunks=3&rate=0")
    demo.ended()
    asked = {"message": "Hi", "session_id": demo.session, "model_id": "demo?chunks=5&rate=0"}
    told = f"{{method: 'POST', headers: {{'Content-Type': 'application/json'}}, body: {json.dumps(json.dumps(asked))}}}"
    assert demo.run(f"fetch('chat', {told}).then((answer) => answer.status)") == 200
    demo.ended(turns=2)
    demo.ask("Hello again", model="demo?chunks=3&rate=0")
    demo.ended(turns=3)
    session = f"fetch('sessions/{demo.session}').then((answer) => answer.json()).then((session) => session.model)"
    assert demo.run(session) == "demo?chunks=3&rate=0" == demo.run("document.querySelector('#model').value")


def test_others_are_seen_typing_and_their_turns_live(visit: Callable[[], Any]) -> None:
    one = visit()
    one.ask("Come in")
    one.ended()
    session = one.session
    other = visit()
    other.click(f"#session-list [data-session='{session}']")
    other.ended()
    assert other.text("#log .said") == "Come in"
    one.until("document.querySelector('#presence').innerText.includes('joined')")
    one.focus("#message")
    one.type("Hm")
    other.until("document.querySelector('#presence').innerText.includes('typing')")
    one.ask(HOSTILE, "grpc", ENDLESS)
    other.begun(turns=2)
    assert other.text("#log .turn:last-child .said") == HOSTILE
    one.click("#stop")
    other.ended()
    one.ended()
    assert other.shown() == one.shown() == one.answer()
    other.ask("My turn", "sse", "demo?chunks=20&rate=200")
    one.ended(turns=3)
    assert one.text("#log .turn:last-child .said") == "My turn"
    other.click("#clear-session")
    one.until("!document.querySelector('#log .turn')")
    other.click("#delete-session")
    other.click("#confirm-yes")
    one.until("document.querySelector('#conversation-title').innerText === 'New session'")


def test_who_types_is_told_until_they_stop_and_only_where_they_do(visit: Callable[[], Any]) -> None:
    one = visit()
    one.ask("The other room")
    one.ended()
    second = f"#session-list [data-session='{one.session}']"
    one.click("#new-session")
    one.ask("Come in")
    one.ended()
    first = f"#session-list [data-session='{one.session}']"
    one.run(
        "window.later = setTimeout; window.setTimeout = (then, after) => later(then, after / 5)"
    )  # notices pass soon
    other, third = visit(), visit()
    text = "document.querySelector('#presence').innerText"
    typing = f"{text} === 'Somebody else is typing …'"
    other.click(first)
    one.until(f"{text}.includes('joined')")
    type_on = "() => document.querySelector('#message').dispatchEvent(new Event('input'))"
    other.run(f"void (window.typing = setInterval({type_on}, 200))")
    one.until(typing)
    third.click(first)
    one.until(f"{text}.includes('joined')")
    one.until(typing)
    one.click(second)
    one.until("document.querySelector('#log .said')?.innerText === 'The other room'")
    assert one.text("#presence") == ""
    third.click(second)
    one.until(f"{text}.includes('joined')")
    third.run(f"({type_on})()")
    one.until(typing)
    third.run("document.querySelector('#message').dispatchEvent(new Event('blur'))")
    one.until(f"{text} === ''")
    other.run("clearInterval(typing)")


class Parrot(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that answers with a page of HTML."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text in (
            HOSTILE,
            "\n\n```html\n" + HOSTILE + "\n```\n\n",
            "[click](javascript:window.hacked=1) ",
            "![x](http://elsewhere.test/x.png)",
        ):
            self.wfile.write(f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode())
        self.wfile.write(b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def parrot() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_html_and_script_are_shown_as_text_everywhere(parrot: str, start_server: Callable[..., Any], page: Any) -> None:
    server = start_server("--model", "demo", env={"LOCAL_LLM_URL": parrot})
    page.visit(server.url)
    page.connected()
    for protocol in PROTOCOLS:
        page.ask(HOSTILE, protocol, "parrot")
        page.ended()
        assert page.text("#log .turn:last-child .said") == HOSTILE
        assert page.shown().count(HOSTILE) == 2
        page.run("document.querySelector('#frames').focus()")
        page.press("End")
        page.until("!document.querySelector('#frame').hidden")
        assert "onerror" in page.text("#frames") + page.text("#frame-bytes")
    assert page.text("#session-list .title") == HOSTILE[:120]
    assert page.text("#conversation-title") == HOSTILE[:120]
    page.run("location.hash = 'race'")
    page.fill("#race-prompt", HOSTILE)
    page.fill("#race-model", "parrot")
    page.click("#race-start")
    page.until("!document.querySelector('#race-copy').disabled")
    page.reload()
    page.until("document.querySelectorAll('#session-list .title').length === 1")
    assert (
        page.run("document.querySelectorAll('#log img, #log script, #wire img, #session-list img, #race img').length")
        == 0
    )
    assert page.run("document.querySelectorAll('a[href^=javascript]').length") == 0
    assert page.run("window.hacked === undefined")
    assert page.errors == []
    assert page.hosts == {server.url.split("/")[2]}


def test_a_long_conversation_is_not_laid_out_where_nobody_sees_it_and_opens_at_its_end(demo: Any) -> None:
    demo.run(
        """(async () => {
            const headers = {"Content-Type": "application/json"};
            for (let turn = 0; turn < 40; turn++) {
                const message = `${turn} ${"many words ".repeat((turn * 37) % 200)}`;
                const body = JSON.stringify({session_id: "long", message, model_id: "demo?chunks=200&rate=0"});
                await fetch("/chat", {method: "POST", headers, body});
            }
            sessionStorage.setItem("fivewire.session", JSON.stringify("long"));
        })()"""
    )
    demo.reload()
    demo.connected()
    demo.until(f"{demo.COUNT} === 40")
    seen = (
        "[...document.querySelectorAll('#log .said')].map(said => said.checkVisibility({contentVisibilityAuto: true}))"
    )
    demo.until(f"(seen => !seen.at(0) && seen.at(-1))({seen})")
    end = "(log => log.scrollHeight - log.scrollTop - log.clientHeight < 2)(document.querySelector('#log'))"
    frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    for _ in range(20):  # the frames in which guesses at heights become true
        demo.run(frame)
    assert demo.run(end)
    demo.ask("And on")
    demo.ended(41)
    assert demo.run(end)
    demo.run("document.querySelector('#log').scrollTop = 0")
    demo.until(f"{seen}.at(0)")
    demo.run(frame)
    assert not demo.run(end), "who has gone up is left there"

"""Messages that the server does not take, in a real browser: they are explained, kept, and lock nothing."""

from typing import Any

import pytest

QUICK = "demo?chunks=12&rate=200"
TROUBLE = "document.querySelector('#log .turn:last-child .trouble')"


def send_long(demo: Any, length: int) -> None:
    """Typing as much would take its time."""
    demo.run(f"document.querySelector('#message').value = 'x'.repeat({length})")
    demo.focus("#message")
    demo.press("Enter")
    demo.until("document.querySelectorAll('#log .turn').length === 2")


@pytest.mark.parametrize("length", [33_000, 401_000])
def test_a_message_that_is_too_large_for_websocket_is_refused_once_and_for_all(length: int, demo: Any) -> None:
    demo.ask("Hello", "websocket", QUICK)
    demo.ended()
    send_long(demo, length)
    demo.until(TROUBLE)
    assert "Send a shorter message." in demo.text("#log .turn:last-child .trouble")
    demo.connected()
    demo.ask("Shorter", "websocket", QUICK)
    demo.ended(turns=3)
    assert demo.shown() == demo.answer()
    frames = "Array.from(document.querySelectorAll('#frames li'), (row) => row.innerText)"
    assert demo.run(f"{frames}.filter((row) => row.includes('xxx')).length") == 1


def test_a_model_that_websocket_does_not_take_is_told(demo: Any) -> None:
    demo.ask("Hello", "websocket", QUICK)
    demo.ended()
    demo.ask("Hello again", "websocket", "m" * 300)
    demo.until(TROUBLE)
    assert "model" in demo.text("#log .turn:last-child .trouble")
    demo.ask("Hello", "websocket", QUICK)
    demo.ended(turns=3)


def test_stop_ends_also_what_the_server_has_never_begun(demo: Any) -> None:
    demo.ask("Hello", "websocket", QUICK)
    demo.ended()
    demo.run("window.said = WebSocket.prototype.send; WebSocket.prototype.send = () => {}")  # lost on its way
    demo.ask("Hello again", "websocket", QUICK)
    demo.click("#stop")
    demo.until(TROUBLE)
    demo.run("WebSocket.prototype.send = said")
    demo.ask("Hello", "websocket", QUICK)
    demo.ended(turns=3)


def test_a_first_message_that_is_refused_comes_back_whole_before_what_was_typed_meanwhile(demo: Any) -> None:
    lines = "One\nTwo\nThree\nFour\nFive"
    field = "document.querySelector('#message')"
    demo.fill("#model", "no-such-model")
    demo.fill("#message", lines)
    height = demo.run(f"{field}.offsetHeight")
    demo.press("Enter")
    demo.until("document.querySelector('#presence').textContent")
    assert demo.run(f"{field}.value") == lines
    assert demo.run(f"{field}.offsetHeight") == height
    # In one go, or the refusal may come before the next is typed.
    demo.run(f"document.querySelector('#composer').requestSubmit(); {field}.value += 'Six'")
    demo.until(f"{field}.value.includes('One') && !document.querySelector('#send').disabled")
    assert demo.run(f"{field}.value") == f"{lines}\n\nSix"
    demo.errors.clear()  # the browser logs the 400

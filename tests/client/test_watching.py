"""Somebody else's answer, as a member of the session sees it: how it ends, where it is cut, and that it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.link import Link
from tests.client.terminal import ENTER, Terminal, get, stop, stream

QUICK, LONG = "demo?chunks=2&rate=0", "demo?chunks=5000&rate=50"
NO_FURTHER, GOES_ON = "Somebody's answer is heard no further.", "Somebody's answer goes on:"
LIVE = pytest.mark.parametrize("name", ["websocket", "grpc"])


@pytest.fixture
def watching(terminal: Callable[..., Terminal]) -> Callable[..., Terminal]:
    def watch(name: str, room: str, url: str, way: str = "") -> Terminal:
        get(url, "/chat", {"message": "hi", "session_id": room, "model_id": QUICK})
        screen = terminal("--server", way or url, "--protocol", name, "--session", room)
        screen.wait("Going on with 2 messages")
        screen.settle()
        return screen

    return watch


def shown(screen: Terminal) -> str:
    """The answer as it stands on the screen: the line that it was cut in stands there twice."""
    before, _, rest = screen.text.partition(f"{NO_FURTHER}\n")
    first = [line for line in before.partition("Somebody › ")[2].split("\n")[1:] if line and "You › " not in line]
    goes_on = rest.partition(f"{GOES_ON}\n")[2].partition("\n╭")[0].split("\n")
    if goes_on[0].startswith(first[-1]):
        first.pop()
    return " ".join([*first, *goes_on])


def answer(url: str, room: str) -> str:
    message = get(url, f"/sessions/{room}")["messages"][-1]
    assert message["role"] == "model"
    return " ".join(message["text"].split())


def lines_of(heard: Any) -> None:
    """So much is said that it comes in several lines at once to whoever joins."""
    for _ in range(40):
        assert heard.readline()


@LIVE
def test_what_one_comes_to_is_told_before_what_is_said_there(
    name: str, shared_server: Any, terminal: Callable[..., Terminal]
) -> None:
    url, room = shared_server.url, f"comes-{name}"
    with stream(url, {"message": "long", "session_id": room, "model_id": LONG}) as heard:
        lines_of(heard)
        screen = terminal("--server", url, "--protocol", name, "--session", room)
        screen.wait("Going on with 1 message;", "Somebody › long", "carries its number,")
        stop(url, room)
        screen.wait("─ cancelled ─")
    assert answer(url, room) in " ".join(screen.text.split())


@LIVE
def test_an_answer_that_breaks_says_why(name: str, shared_server: Any, watching: Callable[..., Terminal]) -> None:
    url, room = shared_server.url, f"breaks-{name}"
    screen = watching(name, room, url)
    broken = {"message": "break", "session_id": room, "model_id": "demo?chunks=9&rate=0&fail_after=3"}
    with stream(url, broken) as heard:
        heard.read()
    screen.wait("Somebody › break", "A stream is", "The demo model broke after 3 pieces", "─ failed ─", "3 chunks")


@LIVE
def test_an_answer_goes_on_where_it_was_cut(
    name: str, shared_server: Any, watching: Callable[..., Terminal], link: Callable[[str], Link]
) -> None:
    url, room, way = shared_server.url, f"goes-on-{name}", link(shared_server.url)
    screen = watching(name, room, url, way.url)
    with stream(url, {"message": "long", "session_id": room, "model_id": LONG}):
        screen.wait("Somebody › long", "carries its number,")
        way.cut()
        screen.wait(NO_FURTHER, "was lost. Trying again.", "Connected.", GOES_ON, "carries its number,")
        screen.wait_bar("answering")
        stop(url, room)
        screen.wait("─ cancelled ─", "resumed once")
    assert shown(screen) == answer(url, room)
    screen.wait_bar("connected")


@LIVE
def test_an_answer_that_has_ended_while_the_connection_was_lost(
    name: str, shared_server: Any, watching: Callable[..., Terminal], link: Callable[[str], Link]
) -> None:
    url, room, way = shared_server.url, f"ended-{name}", link(shared_server.url)
    screen = watching(name, room, url, way.url)
    with stream(url, {"message": "long", "session_id": room, "model_id": LONG}):
        screen.wait("Somebody › long", "carries its number,")
        way.hold()
        way.cut()
        screen.wait(NO_FURTHER, "was lost. Trying again.")
        stop(url, room)
    way.let_go()
    screen.wait("Connected.", GOES_ON, "─ cancelled ─", "resumed once")
    assert shown(screen) == answer(url, room)


@LIVE
def test_an_answer_that_the_server_took_with_it(
    name: str, start_server: Callable[..., Any], watching: Callable[..., Terminal], tmp_path: Path
) -> None:
    flags = ("--store", f"sqlite:{tmp_path}/chat.db", "--model", QUICK)
    server = start_server(*flags)
    screen = watching(name, "taken", server.url)
    with stream(server.url, {"message": "long", "session_id": "taken", "model_id": LONG}):
        screen.wait("Somebody › long", "carries its number,")
        server.kill()
    screen.wait(NO_FURTHER, "was lost. Trying again.")
    start_server(*flags, "--port", str(server.port))
    screen.wait("Connected.", GOES_ON, "The server stopped while it was answering", "─ failed ─")


@LIVE
def test_an_answer_that_is_lost_for_good(
    name: str, start_server: Callable[..., Any], watching: Callable[..., Terminal]
) -> None:
    server = start_server("--model", QUICK)
    screen = watching(name, "lost", server.url)
    with stream(server.url, {"message": "long", "session_id": "lost", "model_id": LONG}):
        screen.wait("Somebody › long", "A stream is")
        server.kill()
    screen.wait(NO_FURTHER)
    start_server("--model", QUICK, "--port", str(server.port))
    screen.wait("Trying again.")
    screen.wait_anywhere("Connected.")
    screen.wait_anywhere("The rest of somebody's answer cannot be had: There is no such turn")


@LIVE
def test_an_answer_in_a_session_that_one_comes_back_to(
    name: str, shared_server: Any, watching: Callable[..., Terminal]
) -> None:
    url, room = shared_server.url, f"back-{name}"
    screen = watching(name, room, url)
    with stream(url, {"message": "long", "session_id": room, "model_id": LONG}):
        screen.wait("Somebody › long", "carries its number,")
        screen.keys("/new", ENTER)
        screen.wait(NO_FURTHER, "A new session")
        screen.wait_bar("connected")
        screen.keys(f"/switch {room}", ENTER)
        screen.wait(GOES_ON, "carries its number,")
        screen.wait_bar("answering")
        stop(url, room)
        screen.wait("─ cancelled ─", "resumed once")


@LIVE
def test_an_answer_that_began_while_one_was_elsewhere(
    name: str, shared_server: Any, watching: Callable[..., Terminal]
) -> None:
    url, room = shared_server.url, f"elsewhere-{name}"
    screen = watching(name, room, url)
    screen.keys("/new", ENTER)
    screen.wait("A new session")
    screen.wait_bar("connected")
    get(url, "/chat", {"message": "short", "session_id": room, "model_id": QUICK})
    with stream(url, {"message": "long", "session_id": room, "model_id": LONG}) as heard:
        lines_of(heard)
        screen.keys(f"/switch {room}", ENTER)
        screen.wait("5 messages with", "Somebody › long", "carries its number,")
        screen.wait_bar("answering")
        stop(url, room)
        screen.wait("─ cancelled ─")
    screen.wait_bar("connected")
    assert "short" not in screen.text and GOES_ON not in screen.text and "resumed" not in screen.text
    assert answer(url, room) in " ".join(screen.text.split())

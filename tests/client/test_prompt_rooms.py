"""Which session it is: of a message behind a command, of what others do, and after the way to the server was gone."""

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.link import Link
from tests.client.terminal import CTRL_C, ENTER, Terminal, get, stop, stream, until

QUICK, LONG = "demo?chunks=2&rate=0", "demo?chunks=5000&rate=50"


def said(url: str, session: str) -> list[str]:
    return [message["text"] for message in get(url, f"/sessions/{session}")["messages"] if message["role"] == "user"]


@pytest.mark.parametrize("name", ["websocket", "grpc"])
def test_an_answer_that_runs_where_one_goes(name: str, shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url, room = shared_server.url, f"runs-{name}"
    get(url, "/chat", {"message": "hi", "session_id": f"{room}-not", "model_id": QUICK})
    screen = terminal("--server", url, "--protocol", name, "--session", f"{room}-not")
    screen.wait("Going on with 2 messages")
    with stream(url, {"message": "long", "session_id": room, "model_id": LONG}):
        screen.keys(f"/switch {room}", ENTER)
        screen.wait("Somebody › long")
        screen.wait_bar("answering")
        screen.keys("/protocol sse", ENTER)
        screen.wait_anywhere("Going on over sse.")
        screen.wait_bar("sse", " connected")
        screen.keys(f"/protocol {name}", ENTER)
        screen.wait_anywhere(f"Going on over {name}.")
        screen.wait_bar(name, "answering")
        stop(url, room)
        screen.wait("─ cancelled ─")


@pytest.mark.parametrize("name", ["sse", "grpc"])
def test_a_first_message_is_asked_once(
    name: str, start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    url = start_server("--model", LONG).url
    screen = terminal("--server", url, "--protocol", "rest")
    screen.wait_bar("●")
    screen.keys("once", ENTER)
    until(lambda: get(url, "/sessions")["sessions"])
    screen.keys(f"/protocol {name}", ENTER)
    screen.wait(f"Going on over {name}.")
    screen.wait_bar("tokens/s")
    (session,) = get(url, "/sessions")["sessions"]
    stop(url, session["session_id"])
    screen.wait("─ cancelled ─")


def test_an_answer_stays_in_its_session(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url = shared_server.url
    with stream(url, {"message": "long", "session_id": "stays", "model_id": LONG}):
        screen = terminal("--server", url, "--session", "other", "--model", QUICK)
        screen.wait("The session is new")
        screen.keys("/switch stays", ENTER)
        screen.wait("Session stays")
        screen.keys(CTRL_C)
        screen.wait("─ cancelled ─")
    with stream(url, {"message": "longer", "session_id": "stays", "model_id": LONG}):
        screen.keys("hi", ENTER)
        screen.wait("The session is answering already", "/new begins another session")
        screen.keys("/new", ENTER)
        screen.wait("A new session")
        screen.keys("/resume", ENTER)
        screen.wait("There is no answer that was cut.")
        stop(url, "stays")


def test_who_types_does_so_in_the_session_that_was_left(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url = shared_server.url
    get(url, "/chat", {"message": "hi", "session_id": "typing", "model_id": QUICK})
    here, there = (terminal("--server", url, "--protocol", "websocket", "--session", "typing") for _ in range(2))
    for screen in (here, there):
        screen.wait("Going on with 2 messages")
    there.keys("half a sent")
    here.wait_bar("somebody is typing")
    here.keys("/new", ENTER)
    here.wait("A new session")
    here.keys("/ping", ENTER)
    here.wait("there and back")
    here.wait_bar("connected")
    assert "somebody is typing" not in here.bar

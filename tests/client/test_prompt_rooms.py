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


def test_a_message_goes_where_the_commands_before_it_lead(
    shared_server: Any, terminal: Callable[..., Terminal], link: Callable[[str], Link]
) -> None:
    url, slow = shared_server.url, link(shared_server.url)
    for room in ("lead-a", "lead-b"):
        get(url, "/chat", {"message": "hi", "session_id": room, "model_id": QUICK})
    screen = terminal("--server", slow.url, "--session", "lead-a")
    screen.wait("Going on with 2 messages")
    slow.hold()
    screen.keys("/switch lead-b", ENTER, "here", ENTER)
    screen.wait("You › /switch lead-b", "Waiting › here")
    slow.let_go()
    screen.wait("Session lead-b: 2 messages", "You › here", "─ complete ─")
    assert (said(url, "lead-a"), said(url, "lead-b")) == (["hi"], ["hi", "here"])
    slow.hold()
    screen.keys("/switch nowhere", ENTER, "there", ENTER)
    screen.wait("You › /switch nowhere", "Waiting › there")
    slow.let_go()
    screen.wait("There is no session 'nowhere'", "1 waiting message was not sent; the Up key recalls it:\n  › there")
    assert said(url, "lead-b") == ["hi", "here"]


def test_what_is_typed_behind_a_command_that_fails_is_not_done(
    shared_server: Any, terminal: Callable[..., Terminal], link: Callable[[str], Link]
) -> None:
    url, slow = shared_server.url, link(shared_server.url)
    get(url, "/chat", {"message": "keep me", "session_id": "fails", "model_id": QUICK})
    screen = terminal("--server", slow.url, "--session", "fails")
    screen.wait("Going on with 2 messages")
    slow.hold()
    screen.keys("/switch nowhere", ENTER, "/reset", ENTER, "hello", ENTER, "/protocol grpc", ENTER)
    screen.wait("You › /switch nowhere", "You › /reset", "Waiting › hello", "You › /protocol grpc")
    slow.let_go()
    screen.wait("There is no session 'nowhere'", "1 waiting message was not sent; the Up key recalls it:\n  › hello\n")
    screen.wait("2 waiting commands were not done; the Up key recalls them: /reset, /protocol grpc\n")
    slow.hold()
    screen.keys("/info", ENTER, "/reset", ENTER)
    screen.wait("You › /info", "You › /reset")
    screen.keys(CTRL_C)
    screen.wait("1 waiting command was not done; the Up key recalls it: /reset\n")
    slow.let_go()
    screen.wait("1 yours, 1 the model's")
    screen.keys("again", ENTER)
    screen.wait("You › again", "─ complete ─")
    assert "Waiting › again" not in screen.text and "Ctrl-D or /quit leaves" not in screen.text
    assert said(url, "fails") == ["keep me", "again"]


def test_commands_do_not_wait_for_what_is_typed_behind_them(
    shared_server: Any, terminal: Callable[..., Terminal]
) -> None:
    url = shared_server.url
    screen = terminal("--server", url, "--session", "behind", "--model", LONG)
    screen.wait_bar("●")
    screen.keys("first", ENTER)
    screen.wait("You › first")
    screen.wait_bar("answering")
    screen.keys("second", ENTER)
    screen.wait("Waiting › second")
    screen.keys("/new", ENTER)
    screen.wait_anywhere("The answer is still growing: Ctrl-C stops it.")
    screen.keys("/ping", ENTER)
    screen.wait_anywhere("there and back over sse")
    stop(url, "behind")
    screen.wait("─ cancelled ─", "You › second")
    until(lambda: said(url, "behind") == ["first", "second"])
    stop(url, "behind")
    screen.wait("─ cancelled ─")
    screen.keys("/new", ENTER, f"/model {QUICK}", ENTER, "fourth", ENTER)
    screen.wait("A new session", "You › fourth", "─ complete ─")
    assert said(url, "behind") == ["first", "second"]


def test_a_session_is_named_before_the_server_is_up(
    start_server: Callable[..., Any], terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    flags = ("--store", f"sqlite:{tmp_path}/chat.db", "--model", QUICK)
    server = start_server(*flags)
    get(server.url, "/chat", {"message": "hi", "session_id": "named"})
    server.kill()
    screen = terminal("--server", server.url, "--session", "named", "--protocol", "websocket")
    screen.wait("No server answers")
    screen.wait_bar("○ You [named] ›")
    start_server(*flags, "--port", str(server.port))
    screen.wait("Connected.")
    get(server.url, "/chat", {"message": "news", "session_id": "named"})
    screen.wait("Somebody › news", "─ complete ─")
    screen.keys("more", ENTER)
    screen.wait("You › more", "─ complete ─")
    assert said(server.url, "named") == ["hi", "news", "more"]


def test_a_session_is_named_before_the_server_answers(
    shared_server: Any, terminal: Callable[..., Terminal], link: Callable[[str], Link]
) -> None:
    slow = link(shared_server.url)
    slow.hold()
    screen = terminal("--server", slow.url, "--session", "early", "--model", QUICK)
    screen.wait_bar("○ You [early] ›")
    screen.keys("hello", ENTER)
    screen.wait("Waiting › hello")
    slow.let_go()
    screen.wait("The session is new", "You › hello", "─ complete ─")
    assert said(shared_server.url, "early") == ["hello"]


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


def test_a_session_that_is_gone_begins_anew(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url, told = shared_server.url, "The server no longer had this session: it begins anew, without its history."
    screen = terminal("--server", url, "--session", "gone", "--model", QUICK)
    screen.wait_bar("●")
    screen.keys("one", ENTER)
    screen.wait("You › one", "─ complete ─")
    request = urllib.request.Request(f"{url}/sessions/gone", method="DELETE")
    with urllib.request.urlopen(request):
        pass
    assert told not in screen.text
    screen.keys("two", ENTER)
    screen.wait("You › two", told, "─ complete ─")


@pytest.mark.parametrize("name", ["websocket", "grpc"])
def test_a_message_waits_where_somebody_was_quicker(
    name: str, shared_server: Any, terminal: Callable[..., Terminal], link: Callable[[str], Link]
) -> None:
    url, room, slow = shared_server.url, f"quicker-{name}", link(shared_server.url)
    get(url, "/chat", {"message": "hi", "session_id": room, "model_id": QUICK})
    screen = terminal("--server", slow.url, "--protocol", name, "--session", room, "--model", QUICK)
    screen.settle()
    slow.hold()
    screen.keys("mine", ENTER)
    screen.wait("You › mine")
    with stream(url, {"message": "theirs", "session_id": room, "model_id": LONG}):
        screen.wait("Somebody › theirs")
        slow.let_go()
        screen.wait("Waiting › mine")
        stop(url, room)
        screen.wait("─ cancelled ─", "You › mine", "─ complete ─")
    assert said(url, room) == ["hi", "theirs", "mine"]


def test_ctrl_c_before_there_is_an_answer(
    shared_server: Any, terminal: Callable[..., Terminal], link: Callable[[str], Link]
) -> None:
    slow = link(shared_server.url)
    screen = terminal("--server", slow.url, "--session", "unsent", "--model", QUICK)
    screen.wait("The session is new")
    slow.hold()
    screen.keys("anybody?", ENTER)
    screen.wait("You › anybody?")
    screen.wait_bar("answering")
    screen.keys(CTRL_C)
    screen.wait("Your message has no answer; the Up key recalls it.")


def test_another_server_has_another_model(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    server = start_server("--model", "demo?chunks=3")
    screen = terminal("--server", server.url)
    screen.wait_bar("demo?chunks=3 · connected")
    server.kill()
    screen.keys("/ping", ENTER)
    screen.wait("Trying again")
    start_server("--model", "demo?chunks=4", "--port", str(server.port))
    screen.wait("Connected.")
    screen.wait_bar("demo?chunks=4 · connected")


def test_what_was_not_our_doing_is_told(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url = shared_server.url
    screen = terminal("--server", url, "--session", "cleared", "--model", QUICK, "--protocol", "websocket")
    screen.wait("The session is new")
    screen.keys("/reset", ENTER)
    screen.wait("There is no session 'cleared'")
    screen.keys("hi", ENTER)
    screen.wait("─ complete ─")
    get(url, "/sessions/cleared/clear", {})
    screen.wait("Somebody has cleared the session's history.")


def test_an_answer_stays_in_its_session(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url = shared_server.url
    with stream(url, {"message": "long", "session_id": "stays", "model_id": LONG}):
        screen = terminal("--server", url, "--session", "stays-not", "--model", QUICK)
        screen.wait("The session is new")
        screen.keys("/switch stays", ENTER)
        screen.wait("Session stays", "A stream")
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
    here.settle()
    assert "somebody is typing" not in here.bar

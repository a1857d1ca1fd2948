"""The prompt, as a user has it: a real client in a real pseudo-terminal, against a real server."""

import json
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.link import Link
from tests.client.terminal import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    CTRL_R,
    ENTER,
    TAB,
    Terminal,
    get,
    stop,
    stream,
    until,
)


def test_a_conversation(start_server: Callable[..., Any], terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    screen = terminal("--server", start_server("--model", "demo?rate=0").url)
    screen.wait("fivewire", "/help lists the commands")
    screen.wait_bar("● You [new session] ›", "connected")
    screen.keys("Hello there", ENTER)
    screen.wait(
        "You › Hello there", "You said “Hello there” (2 words)", "• every word", "─ complete ─", "context 1 message"
    )
    screen.wait_bar("You [...")
    screen.keys("first", ALT_ENTER, "second\\", ENTER, "third", ENTER)
    screen.wait(
        "You › first\n      second\n      third\n", "“first second third”", "“Hello there”", "context 3 messages"
    )
    screen.keys("/stats", ENTER)
    screen.wait("2 good, 0 failed", "sessions created", "connection attempts")
    screen.keys("/hist 1", ENTER)
    screen.wait("1. “Hello there”")
    screen.keys("/h", ENTER)
    screen.wait("/h may be /help or /history or /health")
    screen.keys("/nonsense", ENTER)
    screen.wait("no command /nonsense")
    screen.keys("/export forgotten", CTRL_C, f"/export {tmp_path}/talk.json", ENTER)
    screen.wait("4 messages written to")
    exported = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in exported["messages"]] == ["user", "model"] * 2
    screen.wait_bar(f"You [...{exported['session_id'][-8:]}] ›")
    screen.keys(CTRL_D)
    assert screen.end() == 0
    assert f"To go on with this session: --session {exported['session_id']}" in screen.text
    history = tmp_path / "fivewire" / "client-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "+Hello there" in history.read_text()
    assert "**" not in screen.text, "Markdown is shown, not its marks"


def test_completion(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url = shared_server.url
    get(url, "/chat", {"message": "hi", "session_id": "one-session"})
    screen = terminal("--server", url, "--model", "demo?rate=0")
    screen.wait_bar("●")
    screen.keys("/p")
    screen.wait_bar("/ping", "how long there and back takes", "/protocol [NAME]")
    screen.keys("ro", TAB, " gr", TAB, ENTER, ENTER)
    screen.wait("Going on over grpc")
    screen.wait_bar("grpc · demo?rate=0 · connected")
    screen.keys("/switch one")
    screen.wait_bar("one-session  2 messages")
    screen.keys(TAB)
    screen.wait_bar("/switch one-session")
    screen.keys(ENTER, ENTER)
    screen.wait("Session one-session: 2 messages")
    screen.wait_bar("You [one-session] ›", "grpc")
    screen.keys("/help swi", ENTER)
    screen.wait("/switch N|ID", "go on with a session")


def test_choices_that_nobody_waited_for_are_asked_for_again(
    shared_server: Any, terminal: Callable[..., Terminal], link: Callable[[str], Link]
) -> None:
    url, way = shared_server.url, link(shared_server.url)
    get(url, "/chat", {"message": "hi", "session_id": "asked-again", "model_id": "demo?rate=0"})
    screen = terminal("--server", way.url)
    screen.wait_bar("●")
    way.hold()
    screen.keys("/info 1")
    screen.wait_bar("/info 1")
    screen.keys(ENTER)
    screen.wait("You › /info 1")
    way.let_go()
    screen.wait("There is no session '1'")
    screen.keys("/switch asked")
    screen.wait_bar("asked-again  2 messages")


def test_a_search_among_what_was_typed(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--server", shared_server.url, "--model", "demo?chunks=2&rate=0")
    screen.wait_bar("●")
    for text in ("an early message", "a later one"):
        screen.keys(text, ENTER)
        screen.wait(f"You › {text}", "─ complete ─")
    screen.keys(CTRL_R, "an early")
    screen.wait_bar("› an early message", "I-search backward: an early")
    screen.keys(ENTER, "again ", ENTER)  # the first accepts what was found
    screen.wait("You › again an early message", "─ complete ─")
    screen.keys(CTRL_R, "later")
    screen.wait_bar("› a later one", "I-search backward: later")
    screen.keys(CTRL_C, CTRL_D)
    assert screen.end() == 0
    assert "Ctrl-D or /quit leaves." not in screen.text, "Ctrl-C was for the search"


def test_switching_protocols_in_mid_answer(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url, model = shared_server.url, "demo?chunks=5000&rate=100"
    screen = terminal("--server", url, "--session", "switching", "--model", model, "--plain")
    screen.wait_bar("●")
    screen.keys("a long answer", ENTER)
    for name in ("ndjson", "websocket", "grpc", "sse"):
        screen.wait("its number, and")
        screen.keys(f"/protocol {name}", ENTER)
        screen.wait_anywhere(f"Going on over {name}")  # above the line that is being said
    screen.wait("its number, and")
    screen.keys(CTRL_C)
    screen.wait("─ cancelled ─", "resumed 4 times")
    shown = screen.text[screen.text.index("You › a long answer\n") : screen.text.index("╭─")]
    answer = [line for line in shown.split("\n")[1:] if not line.startswith(("You ›", "Going on"))]
    assert " ".join(answer).split() == get(url, "/sessions/switching")["messages"][-1]["text"].split()


@pytest.mark.parametrize("name", ["rest", "sse", "websocket"])
def test_ctrl_c_stops_the_answer(name: str, shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url, session = shared_server.url, f"stopped-{name}"
    screen = terminal("--server", url, "--protocol", name, "--session", session, "--model", "demo?chunks=5000&rate=100")
    screen.wait_bar("●")
    screen.keys("a long answer", ENTER)
    if name == "rest":  # nothing comes before the whole answer
        until(lambda: session in [known["session_id"] for known in get(url, "/sessions")["sessions"]])
    else:
        screen.wait("A stream is a promise")
    screen.keys(CTRL_C)
    screen.wait("─ cancelled ─")
    assert get(url, f"/turns/{get(url, f'/sessions/{session}')['messages'][0]['turn_id']}")["status"] == "cancelled"
    screen.keys("/ping", ENTER)
    screen.wait("there and back over")
    screen.keys(CTRL_C)
    screen.wait("Ctrl-D or /quit leaves")
    screen.keys("/quit", ENTER)
    assert screen.end() == 0


def test_leaving_does_not_stop_the_answer(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url, model = shared_server.url, "demo?chunks=5000&rate=100"
    screen = terminal("--server", url, "--session", "left", "--model", model)
    screen.wait_bar("●")
    screen.keys("a long answer", ENTER)
    screen.wait("A stream is a promise")
    screen.keys("/reset", ENTER)
    screen.wait_anywhere("The answer is still growing: Ctrl-C stops it.")
    screen.keys(CTRL_D)
    assert screen.end() == 0
    assert get(url, f"/turns/{get(url, '/sessions/left')['active_turn']}/cancel", {})["status"] == "cancelled"


def test_no_key_is_lost_between_two_prompts_or_while_lines_are_written(
    shared_server: Any, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal("--server", shared_server.url, "--model", "demo?chunks=400&rate=400")
    screen.wait_bar("●")
    looks = []
    for number in range(3):
        screen.keys(f"question {number}", ENTER)
        while not screen.seen("─ complete ─"):
            looks += [screen.raw_keys for _ in range(100)]
        screen.wait("─ complete ─")
    assert len(looks) > 1000 and all(looks)
    screen.keys(CTRL_D)
    screen.wait("To go on with this session")
    assert not screen.raw_keys, "the terminal is as it was"
    assert screen.end() == 0


@pytest.mark.parametrize("name", ["sse", "websocket", "grpc"])
def test_a_server_that_restarts_in_mid_answer(
    name: str, start_server: Callable[..., Any], terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    flags = ("--store", f"sqlite:{tmp_path}/chat.db", "--model", "demo?chunks=5000&rate=50")
    server = start_server(*flags)
    screen = terminal("--server", server.url, "--protocol", name)
    screen.wait_bar("●")
    screen.keys("a long answer", ENTER)
    screen.wait("A stream is a promise")
    server.kill()
    screen.wait("Trying again; Ctrl-C stops that.")
    screen.wait_bar("○", "reconnecting")
    start_server(*flags, "--port", str(server.port))
    screen.wait("The server stopped while it was answering", "─ failed ─")
    screen.wait_bar("●")
    assert screen.text.count("Trying again") == 1
    screen.keys("/model demo?chunks=3&rate=0", ENTER, "again", ENTER)
    screen.wait("You › again", "A stream is", "─ complete ─", "context")


@pytest.mark.parametrize("name", ["websocket", "grpc"])
def test_what_others_do(name: str, shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url, room = shared_server.url, f"seen-{name}"
    get(url, "/chat", {"message": "hi", "session_id": room, "model_id": "demo?chunks=5&rate=0"})
    here = terminal("--server", url, "--protocol", name, "--session", room)
    here.wait("Going on with 2 messages")
    there = terminal("--server", url, "--protocol", "ws" if name == "grpc" else "grpc", "--session", room)
    here.wait("Somebody has joined")
    there.wait("Going on with 2 messages")
    here.keys("half a sent")
    there.wait_bar("somebody is typing")
    other = "demo?chunks=6&rate=0"
    get(url, "/chat", {"message": "news \x1b]0;pwned\x07 for you", "session_id": room, "model_id": other})
    for screen in (here, there):
        screen.wait("Somebody › news ]0;pwned for you", "A stream is a promise", "─ complete ─", "context 3 messages")
        assert "\x1b]0;pwned" not in screen.raw
        screen.wait_bar(other)
    here.wait_bar("half a sent")
    here.keys("ence", ENTER)
    here.wait("You › half a sentence", "─ complete ─", "context 5 messages")
    there.wait("Somebody › half a sentence", "─ complete ─")
    there.keys(CTRL_D)
    here.wait("Somebody has left")


@pytest.mark.parametrize("name", ["websocket", "grpc"])
def test_messages_wait_for_somebody_elses_answer(
    name: str, shared_server: Any, terminal: Callable[..., Terminal]
) -> None:
    url, room, quick = shared_server.url, f"busy-{name}", "demo?chunks=2&rate=0"
    get(url, "/chat", {"message": "hi", "session_id": room, "model_id": quick})
    screen = terminal("--server", url, "--protocol", name, "--session", room, "--model", quick)
    screen.wait("Going on with 2 messages")
    with stream(url, {"message": "a while", "session_id": room, "model_id": "demo?chunks=5000&rate=50"}):
        screen.wait("Somebody › a while")
        screen.keys("mine", ENTER)
        screen.wait("Waiting › mine")
        stop(url, room)
        screen.wait("─ cancelled ─", "You › mine", "─ complete ─")
    with stream(url, {"message": "long", "session_id": room, "model_id": "demo?chunks=5000&rate=50"}):
        screen.wait("Somebody › long")
        screen.keys("dropped", ENTER)
        screen.wait("Waiting › dropped")
        screen.keys("/new", ENTER)
        screen.wait("Messages wait to be sent in this session: Ctrl-C drops them.")
        screen.keys(CTRL_C)
        screen.wait("1 waiting message was not sent; the Up key recalls it:\n  › dropped\n")
        screen.keys("/new demo?chunks=2&rate=0", ENTER)
        screen.wait("A new session with demo")
        screen.wait_bar("connected")
        screen.keys("here", ENTER)
        screen.wait("You › here", "─ complete ─")
    assert "Waiting › here" not in screen.text


@pytest.mark.parametrize("left_by", ["/protocol sse", "/disconnect"])
def test_nothing_waits_for_what_is_not_heard_any_more(
    left_by: str, shared_server: Any, terminal: Callable[..., Terminal]
) -> None:
    url, room = shared_server.url, f"left-by-{left_by[1:4]}"
    get(url, "/chat", {"message": "hi", "session_id": room, "model_id": "demo?chunks=2&rate=0"})
    screen = terminal("--server", url, "--protocol", "websocket", "--session", room)
    screen.wait("Going on with 2 messages")
    with stream(url, {"message": "long", "session_id": room, "model_id": "demo?chunks=5000&rate=50"}):
        screen.wait("Somebody › long")
        screen.keys(left_by, ENTER)
        screen.wait(f"You › {left_by}", "Going on over sse." if "sse" in left_by else "Disconnected.")
        screen.keys("hello", ENTER)
        screen.wait("You › hello", "The session is answering already")


def test_a_server_that_is_not_there_yet(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    screen = terminal("--server", f"http://127.0.0.1:{port}")
    screen.wait(f"No server answers at http://127.0.0.1:{port}. Start one with `python -m server`")
    screen.wait_bar("○", "not connected")
    screen.keys("anybody?", ENTER)
    screen.wait("You › anybody?", "No server answers", "Your message has no answer; the Up key recalls it.")
    start_server("--port", str(port), "--model", "demo?rate=0")
    screen.wait("Connected.")
    screen.wait_bar("●")
    screen.keys("now?", ENTER)
    screen.wait("You › now?", "─ complete ─")
    screen.keys(CTRL_D)
    assert screen.end() == 0

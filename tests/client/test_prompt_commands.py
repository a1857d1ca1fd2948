"""Commands, what is typed ahead, and odd terminals: a real client in a real pseudo-terminal."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.terminal import CTRL_C, CTRL_D, ENTER, LINES, Terminal, get, stop


def test_commands(start_server: Callable[..., Any], terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    url = start_server("--model", "demo?rate=0").url
    screen = terminal("--server", url, "--protocol", "websocket", DISPLAY="", WAYLAND_DISPLAY="")
    screen.wait_bar("●")
    screen.keys("one", ENTER)
    screen.wait("─ complete ─")
    for typed, shown in (
        ("/new demo?chunks=3&rate=0", "A new session with demo?chunks=3&rate=0."),
        ("two", "A stream is"),
        ("/info", "2 (1 yours, 1 the model's)"),
        ("/sessions", "  2   "),
        ("/switch 2", "2 messages with demo?rate=0. /history shows them."),
        ("/history", "You said “one”"),
        ("/reset", "Forgotten. The session begins anew."),
        ("/history", "Nothing has been said yet."),
        ("/delete", "is deleted."),
        ("/info", "There is no session yet"),
        ("/switch nonsense", "There is no session 'nonsense'"),
        ("/switch ²", "'session_id' must have 1 to 128"),
        ("/server", "aiohttp + grpclib"),
        ("/health", "healthy, up"),
        ("/ping", "there and back over websocket"),
        ("/new nope", "There is no model 'nope'"),
        ("/docs", f"{url}/docs"),
        ("/demo", f"{url}/demo"),
        ("/model", "● demo"),
        ("/model nope", "The server does not list nope; the next message tries it."),
        ("/model demo?chunks=2&rate=0", "The next message goes to demo?chunks=2&rate=0."),
        ("three", "2 chunks"),
        ("/protocol", "● websocket"),
        ("/protocol smoke", "There is no protocol smoke"),
        ("/resume", "There is no answer that was cut."),
        (f"/export {tmp_path}/talk.md", "2 messages written to"),
        (f"/export {tmp_path}/talk.md", "is there already"),
        ("/export /nope/talk.md", "/nope/talk.md cannot be written: No such file or directory."),
        ("/export ~nobody-here/talk.md", "~nobody-here/talk.md cannot be written: there is no such home folder."),
        ("/disconnect", "Disconnected."),
        ("/connect", f"Connected to {url} over websocket."),
        ("/connect ftp://nowhere", "is no server address"),
        ("/stats", "3 good, 0 failed"),
        ("/reset now", "/reset takes nothing behind it."),
        ("/history ²", "/history shows all messages"),
        ("/history 0", "/history shows all messages"),
        ("/etc/hosts?", "There is no command /etc/hosts?; /help lists them. A blank in front makes it a message."),
        (" /etc/hosts?", "2 chunks"),
    ):
        screen.keys(typed, ENTER)
        screen.wait(f"You › {typed}", shown)
    assert "Somebody" not in screen.text, "our own doing is not told to us"
    assert (tmp_path / "talk.md").read_text().startswith("# Conversation ")


@pytest.mark.parametrize("name", ["sse", "grpc"])
def test_the_history_tells_how_answers_ended_as_they_did_live(
    name: str, shared_server: Any, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    url, room = shared_server.url, f"ends-{name}"
    get(url, "/chat", {"message": "whole", "session_id": room, "model_id": "demo?chunks=2&rate=0"})
    screen = terminal("--server", url, "--protocol", name, "--session", room, "--model", "demo?chunks=5000&rate=50")
    screen.wait("Going on with 2 messages")
    screen.keys("stop", ENTER)
    screen.wait("You › stop")
    screen.wait_bar("tokens/s")
    screen.keys(CTRL_C)
    screen.wait("─ cancelled ─")
    for typed, broken in (("break", 4), ("break at once", 0)):
        screen.keys(f"/model demo?chunks=9&rate=0&fail_after={broken}", ENTER, typed, ENTER)
        screen.wait(f"You › {typed}", f"The demo model broke after {broken} pieces", "─ failed ─")
    screen.keys("/history", ENTER)
    screen.wait("You › /history", "whole\n", "A stream", "\n\nYou\nstop\n", "A stream", "\ncancelled\n\nYou\nbreak\n")
    broke = "\nfailed: The demo model broke after {} pieces"
    screen.wait("A stream is a" + broke.format(4), "\n\nYou\nbreak at once" + broke.format(0))
    screen.keys(f"/export {tmp_path}/ends.json", ENTER)
    screen.wait("7 messages written")
    told = [
        message.get("code", message.get("finish_reason")) for message in json_of(tmp_path / "ends.json")["messages"]
    ]
    assert told == [None, "stop", None, "cancelled", None, "model_error", "model_error"]


def json_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_number_means_the_row_that_was_printed(
    start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    url = start_server("--model", "demo?chunks=3&rate=0").url
    for name in ("s1", "s2", "s3"):
        get(url, "/chat", {"message": "hi", "session_id": name})
    screen = terminal("--server", url)
    screen.wait_bar("●")
    screen.keys("/sessions", ENTER)
    screen.wait("  N   session", "messages    age  model", "  1   s3 ", "  2   s2 ", "  3   s1 ", "/switch N goes on")
    get(url, "/chat", {"message": "hi", "session_id": "s4"})
    screen.keys("/delete s")
    screen.wait_bar("s4", "2 messages, demo")  # the completion knows more than the list
    screen.keys("\b2", ENTER)
    screen.wait_bar("Delete session s2 with 2 messages? y/N ›")
    screen.keys("y", ENTER)
    screen.wait("Delete session s2 with 2 messages? yes", "Session s2 is deleted.")
    screen.keys("/delete 2", ENTER)
    screen.wait("There is no session 's2'.")
    for answer in ("", "n", CTRL_C, "hello"):
        screen.keys("/delete 3", ENTER)
        screen.wait_bar("Delete session s1 with 2 messages? y/N ›")
        screen.keys(answer, *([] if answer == CTRL_C else [ENTER]))
        screen.wait("Delete session s1 with 2 messages? no", "It stays.")
    screen.wait("You › hello", "─ complete ─")  # was no answer to the question
    assert {known["session_id"] for known in get(url, "/sessions")["sessions"]} >= {"s1", "s3", "s4"}


def test_pages_of_sessions(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    url = start_server("--model", "demo?rate=0").url
    oldest, *_ = (get(url, "/sessions/new", {})["session_id"] for _ in range(21))
    for name in ("sse", "grpc"):
        screen = terminal("--server", url, "--protocol", name)
        screen.wait_bar("●")
        screen.keys("/sessions", ENTER)
        screen.wait(" 20   ", "/switch N goes on with one of them. 1 more: /sessions more.")
        screen.keys("/sessions more", ENTER)
        screen.wait(f" 21   {oldest}", "/switch N goes on with one of them.\n")
        screen.keys("/sessions m", ENTER)
        screen.wait("There is no next page")
        screen.keys("/sessions old", ENTER)
        screen.wait("/sessions more the next one.")
        screen.keys("/switch 21", ENTER)
        screen.wait(f"Session {oldest}: 0 messages")


def test_what_is_typed_ahead(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--server", shared_server.url, "--session", "ahead", "--model", "demo?chunks=5000&rate=100")
    screen.wait_bar("●")
    screen.keys("first", ENTER)
    screen.wait("You › first")
    screen.wait_bar("answering")
    screen.keys("second", ENTER)
    screen.wait("Waiting › second")
    stop(shared_server.url, "ahead")
    screen.wait("─ cancelled ─", "You › second", "A stream")
    stop(shared_server.url, "ahead")
    screen.wait("─ cancelled ─")
    screen.keys("third", ENTER)
    screen.wait("You › third")
    screen.wait_bar("answering")
    screen.keys("fourth", ENTER, "a fifth\\", ENTER, "with two lines", ENTER)
    screen.wait("Waiting › fourth", "Waiting › a fifth\n          with two lines")
    screen.wait_bar("2 waiting")
    screen.keys(CTRL_C)
    screen.wait("2 waiting messages were not sent; the Up key recalls them:\n  › fourth\n  › a fifth with two lines")
    screen.wait("─ cancelled ─")


def test_a_server_that_does_not_answer_is_not_gone_to(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    url = shared_server.url
    screen = terminal("--server", url, "--session", "stay", "--model", "demo?rate=0", "--protocol", "websocket")
    screen.wait_bar("●")
    screen.keys("one", ENTER)
    screen.wait("─ complete ─")
    screen.keys("/connect http://127.0.0.1:9", ENTER)
    screen.wait("No server answers at http://127.0.0.1:9.", f"Staying with websocket at {url}.")
    screen.wait_bar("● You [stay] ›", "connected")
    screen.keys("two", ENTER)
    screen.wait("You › two", "you told me:", "“one”", "─ complete ─")
    assert "Trying again" not in screen.text


def test_a_command_finds_out_that_the_server_is_gone(
    start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    server = start_server("--model", "demo?rate=0")
    screen = terminal("--server", server.url)
    screen.wait_bar("●", "connected")
    server.kill()
    screen.keys("/sessions", ENTER)
    screen.wait("You › /sessions", "No server answers", "Trying again.")
    screen.wait_bar("○", "not connected")
    screen.keys("/protocol ndjson", ENTER)
    screen.wait("You › /protocol ndjson", "No server answers", "Staying with sse")
    assert screen.text.count("Trying again") == 1
    start_server("--port", str(server.port))
    screen.wait("Connected.")
    screen.wait_bar("●", " connected")


def test_a_session_that_grpc_does_not_make(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(
        "--server", shared_server.url, "--protocol", "grpc", "--session", "fresh", "--model", "demo?rate=0"
    )
    hint = "There is no session 'fresh'. Not over gRPC, but over any other protocol the first message makes it:\ntry "
    screen.wait(hint)
    screen.keys("hi", ENTER)
    screen.wait("You › hi", hint, "/protocol sse, or /new for another session.")
    screen.keys(CTRL_C, "/protocol sse", ENTER)
    screen.wait("Going on over sse.")
    screen.keys("hi", ENTER)
    screen.wait("You › hi", "─ complete ─")
    screen.wait_bar("You [fresh] ›")


def test_a_terminal_that_cannot_show_the_prompt(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--server", shared_server.url, "--model", "demo?chunks=3&rate=0", TERM="dumb")
    screen.wait("messages are read one a line; Ctrl-D ends")
    screen.keys("/help", ENTER)
    screen.wait("not sent: /help is a command of the prompt")
    screen.keys("/etc is a folder", ENTER)
    screen.wait("A stream is")
    screen.keys(CTRL_D)
    assert screen.end() == 0
    assert "--session" not in screen.text


def test_a_paste_that_is_taller_than_the_terminal(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--server", shared_server.url, "--model", "demo?chunks=3&rate=0")
    screen.wait_bar("●")
    lines = [f"line {number} of a paste" for number in range(1, 2 * LINES)]
    screen.keys("\x1b[200~", "\n".join(lines), "\x1b[201~")
    screen.wait_anywhere(lines[-1])
    assert "… line" not in screen.top, "what is erased from there on, some terminals keep"
    screen.keys(ENTER)
    screen.wait("You › line 1 of a paste", *lines[1:], "─ complete ─")
    screen.keys("/clear", ENTER)
    screen.wait_anywhere("You › /clear")
    assert not screen.top.strip()


def test_no_color(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--server", shared_server.url, "--model", "demo?rate=0", NO_COLOR="1")
    screen.wait_bar("●")
    screen.keys("hi", ENTER)
    screen.wait("─ complete ─")
    codes = {code for match in re.findall(r"\x1b\[([0-9;]*)m", screen.raw) for code in match.split(";")}
    assert codes <= {"", "0", "1", "2", "3", "4", "7"}


def test_one_shot_on_a_terminal(shared_server: Any, terminal: Callable[..., Terminal]) -> None:
    client = ("--server", shared_server.url, "--model", "demo?rate=0")
    screen = terminal(*client, "Hello there")
    assert screen.end() == 0
    assert screen.text.startswith("You said “Hello there” (2 words).")
    assert "\x1b[1m“Hello there”\x1b[0m" in screen.raw
    plain = terminal(*client, "--plain", "Hello there")
    assert plain.end() == 0
    assert "**“Hello there”**" in plain.text

"""The prompt, as a user has it: a real client in a real pseudo-terminal, against a real server."""

import contextlib
import itertools
import json
import os
import re
import socket
import stat
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

ROOT = Path(__file__).parent.parent.parent
WAIT_SECONDS = 20
COLUMNS, LINES = 100, 40
ENTER, TAB, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\t", "\x1b\r", "\x03", "\x04"


class Terminal:
    """A terminal with the client in it: what is on its screen, what has scrolled away, and its keyboard."""

    def __init__(self, state: Path, *arguments: str, **env: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._screen = pyte.HistoryScreen(COLUMNS, LINES, history=5000)
        self._stream = pyte.Stream(self._screen)
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "client", *arguments],
            cwd=str(ROOT),
            # The size is the terminal's: COLUMNS and LINES, which a test runner may have set, would overrule it.
            env={**clean, "TERM": "xterm", "XDG_STATE_HOME": str(state), **env},
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
        )
        self._screen.write_process_input = self._child.send  # it is asked where its cursor is
        self._above: list[str] = []  # has scrolled away
        self.raw = ""
        self._read = 0  # of the text, up to where it was waited for

    @property
    def text(self) -> str:
        for line in itertools.islice(self._screen.history.top, len(self._above), None):
            self._above.append("".join(line[column].data for column in range(COLUMNS)).rstrip())
        return "\n".join([*self._above, *(line.rstrip() for line in self._screen.display)])

    @property
    def top(self) -> str:
        """The first line."""
        return str(self._screen.display[0])

    @property
    def bar(self) -> str:
        """The prompt and what is under it."""
        return self.text[max(self.text.rfind("● "), self.text.rfind("○ ")) :]

    def keys(self, *keys: str) -> None:
        for key in keys:
            self._child.send(key)

    def wait(self, *texts: str) -> None:
        """Until these stand on the screen, each behind the one before it."""
        for text in texts:
            self._until(lambda text=text: self.text.find(text, self._read) >= 0, text)  # type: ignore[misc]
            self._read = self.text.find(text, self._read) + len(text)

    def wait_anywhere(self, text: str) -> None:
        """Also where it has been waited for already."""
        self._until(lambda: text in self.text, text)

    def wait_bar(self, *texts: str) -> None:
        """Until these stand in the prompt or the toolbar."""
        for text in texts:
            self._until(lambda text=text: text in self.bar, text)  # type: ignore[misc]

    def _until(self, condition: Callable[[], bool], text: str) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            try:
                data = self._child.read_nonblocking(65536, max(end - time.monotonic(), 0.01))
            except (pexpect.EOF, pexpect.TIMEOUT) as error:
                raise AssertionError(f"{text!r} did not come ({type(error).__name__}):\n{self.text.rstrip()}") from None
            self.raw += data
            self._stream.feed(data)

    def end(self) -> int:
        """The exit code."""
        with contextlib.suppress(AssertionError):
            self._until(lambda: False, "")
        self._child.close()
        return int(self._child.exitstatus)

    def kill(self) -> None:
        self._child.close(force=True)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """A function that starts the client in a terminal."""
    opened: list[Terminal] = []

    def start(*arguments: str, **env: str) -> Terminal:
        opened.append(Terminal(tmp_path, *arguments, **env))
        return opened[-1]

    yield start
    for one in opened:
        one.kill()


def get(url: str, path: str, body: Any = None) -> dict[str, Any]:
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=WAIT_SECONDS) as answer:
        return dict(json.load(answer))


def stream(url: str, body: Any) -> Any:
    """Somebody who asks, and is answered while this is open."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/stream", json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=WAIT_SECONDS)


def test_a_conversation(start_server: Callable[..., Any], terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    screen = terminal("--server", start_server("--model", "demo?rate=0").url)
    screen.wait("fivewire", "/help lists the commands")
    screen.wait_bar("● You [new session] ›", "connected")
    screen.keys("Hello there", ENTER)
    screen.wait(
        "You › Hello there", "You said “Hello there” (2 words)", "• every word", "─ complete ─", "context 1 message"
    )
    screen.wait_bar("...] ›")
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
    screen.keys(CTRL_D)
    assert screen.end() == 0
    assert f"To go on with this session: --session {exported['session_id']}" in screen.text
    history = tmp_path / "fivewire" / "client-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "+Hello there" in history.read_text()
    assert "**" not in screen.text, "Markdown is shown, not its marks"


def test_completion(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    url = start_server("--model", "demo?rate=0").url
    get(url, "/chat", {"message": "hi", "session_id": "one-session"})
    screen = terminal("--server", url)
    screen.wait_bar("●")
    screen.keys("/p")
    screen.wait_bar("/ping", "how long there and back takes", "/protocol [NAME]")
    screen.keys("ro", TAB, " gr", TAB, ENTER, ENTER)
    screen.wait("Going on over grpc")
    screen.keys("/switch one", TAB)
    screen.wait_bar("/switch one-session")
    screen.keys(ENTER, ENTER)
    screen.wait("Session one-session: 2 messages")
    screen.wait_bar("You [one-session] ›", "grpc")
    screen.keys("/help swi", ENTER)
    screen.wait("/switch N|ID", "go on with a session")


def test_switching_protocols_in_mid_answer(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    url = start_server("--model", "demo?chunks=400&rate=100").url
    screen = terminal("--server", url, "--session", "s", "--plain")
    screen.wait_bar("●")
    screen.keys("a long answer", ENTER)
    for name in ("ndjson", "websocket", "grpc", "sse"):
        screen.wait("its number, and")
        screen.keys(f"/protocol {name}", ENTER)
        screen.wait(f"Going on over {name}")
    screen.wait("─ complete ─", "400 chunks", "resumed 4 times")
    shown = screen.text[screen.text.index("You › a long answer\n") : screen.text.index("╭─")]
    answer = [line for line in shown.split("\n")[1:] if not line.startswith(("You ›", "Going on"))]
    assert " ".join(answer).split() == get(url, "/sessions/s")["messages"][-1]["text"].split()


@pytest.mark.parametrize("name", ["rest", "sse", "websocket"])
def test_ctrl_c_stops_the_answer(
    name: str, start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    url = start_server("--model", "demo?chunks=5000&rate=100").url
    screen = terminal("--server", url, "--protocol", name)
    screen.wait_bar("●")
    screen.keys("a long answer", ENTER)
    if name == "rest":  # nothing comes before the whole answer
        until(lambda: get(url, "/sessions")["sessions"])
    else:
        screen.wait("A stream is a promise")
    screen.keys(CTRL_C)
    screen.wait("─ cancelled ─")
    session = get(url, "/sessions")["sessions"][0]["session_id"]
    assert get(url, f"/turns/{get(url, f'/sessions/{session}')['messages'][0]['turn_id']}")["status"] == "cancelled"
    screen.keys("/ping", ENTER)
    screen.wait("there and back over")
    screen.keys(CTRL_C)
    screen.wait("Ctrl-D or /quit leaves")
    screen.keys("/quit", ENTER)
    assert screen.end() == 0


def test_leaving_does_not_stop_the_answer(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    url = start_server("--model", "demo?chunks=5000&rate=100").url
    screen = terminal("--server", url, "--session", "s")
    screen.wait_bar("●")
    screen.keys("a long answer", ENTER)
    screen.wait("A stream is a promise")
    screen.keys("/reset", ENTER)
    screen.wait("The answer is still growing: Ctrl-C stops it.")
    screen.keys(CTRL_D)
    assert screen.end() == 0
    assert get(url, "/sessions/s")["active_turn"]


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
def test_what_others_do(name: str, start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    url = start_server("--model", "demo?chunks=5&rate=0").url
    get(url, "/chat", {"message": "hi", "session_id": "room"})
    here = terminal("--server", url, "--protocol", name, "--session", "room")
    here.wait("Going on with 2 messages")
    there = terminal("--server", url, "--protocol", "ws" if name == "grpc" else "grpc", "--session", "room")
    here.wait("Somebody has joined")
    there.wait("Going on with 2 messages")
    here.keys("half a sent")
    there.wait_bar("somebody is typing")
    get(url, "/chat", {"message": "news \x1b]0;pwned\x07 for you", "session_id": "room"})
    for screen in (here, there):
        screen.wait("Somebody › news ]0;pwned for you", "A stream is a promise", "─ complete ─")
        assert "\x1b]0;pwned" not in screen.raw
    here.wait_bar("half a sent")
    here.keys("ence", ENTER)
    here.wait("You › half a sentence", "─ complete ─", "context 5 messages")
    there.wait("Somebody › half a sentence", "─ complete ─")
    there.keys(CTRL_D)
    here.wait("Somebody has left")


@pytest.mark.parametrize("name", ["websocket", "grpc"])
def test_messages_wait_for_somebody_elses_answer(
    name: str, start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    url = start_server("--model", "demo?chunks=2&rate=0").url
    get(url, "/chat", {"message": "hi", "session_id": "room"})
    screen = terminal("--server", url, "--protocol", name, "--session", "room")
    screen.wait("Going on with 2 messages")
    with stream(url, {"message": "a while", "session_id": "room", "model_id": "demo?chunks=30&rate=10"}):
        screen.wait("Somebody › a while")
        screen.keys("mine", ENTER)
        screen.wait("Waiting › mine", "─ complete ─", "You › mine", "─ complete ─")
    with stream(url, {"message": "long", "session_id": "room", "model_id": "demo?chunks=5000&rate=50"}):
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
        ("/disconnect", "Disconnected."),
        ("/connect", f"Connected to {url} over websocket."),
        ("/connect ftp://nowhere", "is no server address"),
        ("/stats", "3 good, 0 failed"),
    ):
        screen.keys(typed, ENTER)
        screen.wait(f"You › {typed}", shown)
    assert "Somebody" not in screen.text, "our own doing is not told to us"
    assert (tmp_path / "talk.md").read_text().startswith("# Conversation ")


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


def test_what_is_typed_ahead(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--server", start_server("--model", "demo?chunks=5000&rate=100").url)
    screen.wait_bar("●")
    screen.keys("/model demo?chunks=30&rate=10", ENTER, "first", ENTER)
    screen.wait("You › first")
    screen.wait_bar("answering")
    screen.keys("second", ENTER)
    screen.wait("Waiting › second", "─ complete ─", "You › second", "A stream", "─ complete ─")
    screen.keys("/model demo?chunks=5000&rate=100", ENTER, "third", ENTER)
    screen.wait("You › third")
    screen.wait_bar("answering")
    screen.keys("fourth", ENTER, "a fifth\\", ENTER, "with two lines", ENTER)
    screen.wait("Waiting › fourth", "Waiting › a fifth\n          with two lines")
    screen.wait_bar("2 waiting")
    screen.keys(CTRL_C)
    screen.wait("2 waiting messages were not sent; the Up key recalls them:\n  › fourth\n  › a fifth with two lines")
    screen.wait("─ cancelled ─")


def test_a_server_that_does_not_answer_is_not_gone_to(
    start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    url = start_server("--model", "demo?rate=0").url
    screen = terminal("--server", url, "--session", "s", "--protocol", "websocket")
    screen.wait_bar("●")
    screen.keys("one", ENTER)
    screen.wait("─ complete ─")
    screen.keys("/connect http://127.0.0.1:9", ENTER)
    screen.wait("No server answers at http://127.0.0.1:9.", f"Staying with websocket at {url}.")
    screen.wait_bar("● You [s] ›", "connected")
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


def test_a_session_that_grpc_does_not_make(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    screen = terminal(
        "--server", start_server("--model", "demo?rate=0").url, "--protocol", "grpc", "--session", "fresh"
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


def test_a_terminal_that_cannot_show_the_prompt(
    start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    screen = terminal("--server", start_server("--model", "demo?chunks=3&rate=0").url, TERM="dumb")
    screen.wait("messages are read one a line; Ctrl-D ends")
    screen.keys("/help", ENTER)
    screen.wait("not sent: /help is a command of the prompt")
    screen.keys("/etc is a folder", ENTER)
    screen.wait("A stream is")
    screen.keys(CTRL_D)
    assert screen.end() == 0
    assert "--session" not in screen.text


def test_a_paste_that_is_taller_than_the_terminal(
    start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    screen = terminal("--server", start_server("--model", "demo?chunks=3&rate=0").url)
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


def test_no_color(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--server", start_server("--model", "demo?rate=0").url, NO_COLOR="1")
    screen.wait_bar("●")
    screen.keys("hi", ENTER)
    screen.wait("─ complete ─")
    codes = {code for match in re.findall(r"\x1b\[([0-9;]*)m", screen.raw) for code in match.split(";")}
    assert codes <= {"", "0", "1", "2", "3", "4", "7"}


def test_one_shot_on_a_terminal(start_server: Callable[..., Any], terminal: Callable[..., Terminal]) -> None:
    url = start_server("--model", "demo?rate=0").url
    screen = terminal("--server", url, "Hello there")
    assert screen.end() == 0
    assert screen.text.startswith("You said “Hello there” (2 words).")
    assert "\x1b[1m“Hello there”\x1b[0m" in screen.raw
    plain = terminal("--server", url, "--plain", "Hello there")
    assert plain.end() == 0
    assert "**“Hello there”**" in plain.text


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)

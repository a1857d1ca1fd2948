"""The client in a terminal, as tests use it: its screen, its keyboard; and somebody else at the same server."""

import contextlib
import itertools
import json
import os
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pyte
from pexpect import fdpexpect

from tests.forks import Fork

WAIT_SECONDS = 20
COLUMNS, LINES = 100, 40
ENTER, TAB, ALT_ENTER, CTRL_C, CTRL_D, CTRL_R = "\r", "\t", "\x1b\r", "\x03", "\x04", "\x12"


def written(line: dict[int, Any]) -> str:
    """What stands in a line. pyte's own `display` looks at all cells, also the empty ones, in eight times the time."""
    return "".join([line[column].data for column in range(max(line, default=-1) + 1)]).rstrip()


class Terminal:
    """A terminal with the client in it: what is on its screen, what has scrolled away, and its keyboard."""

    def __init__(self, state: Path, *arguments: str, **env: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._screen = pyte.HistoryScreen(COLUMNS, LINES, history=5000)
        self._stream = pyte.Stream(self._screen)
        ours, its = os.openpty()
        termios.tcsetwinsize(its, (LINES, COLUMNS))
        # The size is the terminal's: COLUMNS and LINES, which a test runner may have set, would overrule it.
        env = {**clean, "TERM": "xterm", "XDG_STATE_HOME": str(state), **env}
        try:
            self._process = Fork("client", arguments, (its, its, its), env)
        finally:
            os.close(its)
        self._child = fdpexpect.fdspawn(ours, encoding="utf-8")
        self._child.delaybeforesend = None  # nobody types as fast, but the terminal takes it
        self._screen.write_process_input = self._child.send  # it is asked where its cursor is
        self._above: list[str] = []  # has scrolled away
        self._shown: str | None = None  # all of the text, once it has been asked for
        self.raw = ""
        self._read = 0  # of the text, up to where it was waited for

    @property
    def text(self) -> str:
        if self._shown is None:
            self._shown = self._all()
        return self._shown

    def _all(self) -> str:
        for line in itertools.islice(self._screen.history.top, len(self._above), None):
            self._above.append(written(line))
        return "\n".join([*self._above, *(written(self._screen.buffer[row]) for row in range(LINES))])

    @property
    def top(self) -> str:
        """The first line."""
        return written(self._screen.buffer[0])

    @property
    def bar(self) -> str:
        """The prompt and what is under it."""
        return self.text[max(self.text.rfind("● "), self.text.rfind("○ ")) :]

    @property
    def _above_prompt(self) -> str:
        """What stays where it is: a text waited for that stood in the prompt or under it would put `_read` too low."""
        return self.text[: max(self.text.rfind("\n● You"), self.text.rfind("\n○ You")) + 1 or None]

    def keys(self, *keys: str) -> None:
        for key in keys:
            self._child.send(key)

    def wait(self, *texts: str) -> None:
        """Until these stand above the prompt, each behind the one before it."""
        for text in texts:
            self._until(lambda text=text: self._above_prompt.find(text, self._read) >= 0, text)  # type: ignore[misc]
            self._read = self._above_prompt.find(text, self._read) + len(text)

    def wait_anywhere(self, text: str) -> None:
        """Also where it has been waited for already."""
        self._until(lambda: text in self.text, text)

    def wait_bar(self, *texts: str) -> None:
        """Until these stand in the prompt or the toolbar."""
        for text in texts:
            self._until(lambda text=text: text in self.bar, text)  # type: ignore[misc]

    def settle(self) -> None:
        """Until it has come to its session, and hears what others do there: commands wait for that."""
        self.keys("/ping", ENTER)
        self.wait("there and back")

    def seen(self, text: str) -> bool:
        """Whether this stands above the prompt by now, behind what was waited for."""
        with contextlib.suppress(pexpect.TIMEOUT):
            self._look(0)
        return self._above_prompt.find(text, self._read) >= 0

    def _until(self, condition: Callable[[], bool], text: str) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            try:
                self._look(max(end - time.monotonic(), 0.01))
            except (pexpect.EOF, pexpect.TIMEOUT) as error:
                raise AssertionError(f"{text!r} did not come ({type(error).__name__}):\n{self.text.rstrip()}") from None

    def _look(self, seconds: float) -> None:
        data = self._child.read_nonblocking(65536, seconds)
        self.raw += data
        self._stream.feed(data)
        self._shown = None

    @property
    def raw_keys(self) -> bool:
        """Whether keys go to the client as they are; else the terminal makes lines and signals of them."""
        flags: int = termios.tcgetattr(self._child.child_fd)[3]
        return not flags & (termios.ICANON | termios.ECHO | termios.ISIG)

    def end(self) -> int:
        """The exit code."""
        with contextlib.suppress(AssertionError):
            self._until(lambda: False, "")
        code = self._process.wait(WAIT_SECONDS)  # it has written its last, and may take a moment yet to go
        self._child.close()
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(WAIT_SECONDS)
        self._child.close()


def get(url: str, path: str, body: Any = None) -> dict[str, Any]:
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=WAIT_SECONDS) as answer:
        return dict(json.load(answer))


def stop(url: str, session: str) -> None:
    """Have the answer end that is being given there, or is about to be."""

    def active_turn() -> Any:
        with contextlib.suppress(urllib.error.HTTPError):  # not even the session is there
            return get(url, f"/sessions/{session}")["active_turn"]

    get(url, f"/turns/{until(active_turn)}/cancel", {})


def stream(url: str, body: Any) -> Any:
    """Somebody who asks, and is answered while this is open."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/stream", json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=WAIT_SECONDS)


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_SECONDS
    while not (result := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return result

"""A real headless Chromium, driven over its DevTools protocol: one browser for all tests, a tab for each."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.web.cable import Cable

START_SECONDS = 30.0
ANSWER_SECONDS = 20.0
NAMES = (
    "chromium-headless-shell",
    "chrome-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--process-per-site",  # else each page that is opened takes a process of its own: half of what opening it costs
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    "--remote-debugging-port=0",
)
KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
    "Home": (36, ""),
    "End": (35, ""),
    " ": (32, " "),
}


class Page:
    """One tab: what it is told, what it logs, what it asks the network for."""

    def __init__(self, browser: "Browser", target: str, attached: str) -> None:
        self.browser = browser
        self.target = target
        self.attached = attached  # DevTools' name for this connection to the tab
        self.errors: list[str] = []
        self.requests: list[tuple[str, str]] = []  # (type, URL)
        self.loaded = threading.Event()

    def call(self, method: str, **params: Any) -> Any:
        return self.browser.call(method, self.attached, **params)

    def on(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())
        elif method == "Network.requestWillBeSent":
            self.requests.append((params.get("type", "Other"), params["request"]["url"]))
        elif method == "Network.webSocketCreated":
            self.requests.append(("WebSocket", params["url"]))
        elif method == "Page.loadEventFired":
            self.loaded.set()

    def open(self, url: str) -> "Page":
        self.loaded.clear()
        self.call("Page.navigate", url=url)
        assert self.loaded.wait(ANSWER_SECONDS), f"{url} did not load"
        return self

    def reload(self) -> None:
        self.loaded.clear()
        self.call("Page.reload")
        assert self.loaded.wait(ANSWER_SECONDS)

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = ANSWER_SECONDS) -> Any:
        """Waits until the expression is true in the page, and gives its value."""
        script = f"""new Promise((resolve, reject) => {{
            const over = performance.now() + {seconds * 1000};
            const look = () => {{
                let value;
                try {{ value = ({expression}); }} catch (problem) {{ return reject(problem); }}
                if (value) resolve(value instanceof Node ? true : value);
                else if (performance.now() > over) resolve(null);
                else setTimeout(look, 15);
            }};
            look();
        }})"""
        value = self.run(script)
        assert value, f"never true: {expression}\n{self.run('document.body.innerText')[:2000]}\nerrors: {self.errors}"
        return value

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """A real click in the middle of the element, which has to be there and to be on top."""
        found = self.until(
            f"""(() => {{
                const node = document.querySelector({json.dumps(selector)});
                if (!node || node.disabled) return null;
                node.scrollIntoView({{block: "nearest"}});
                const box = node.getBoundingClientRect();
                if (!box.width) return null;
                return {{x: box.x + box.width / 2, y: box.y + box.height / 2}};
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=found["x"], y=found["y"], button="left", clickCount=1)

    def focus(self, selector: str) -> None:
        self.until(f"document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def fill(self, selector: str, text: str) -> None:
        self.focus(selector)
        self.run(f"document.querySelector({json.dumps(selector)}).select?.()")
        self.type(text)

    def press(self, key: str, shift: bool = False) -> None:
        code, text = KEYS[key]
        fields = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **fields)
        self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def choose(self, selector: str, value: str) -> None:
        self.run(
            f"""(() => {{
                const node = document.querySelector({json.dumps(selector)});
                node.value = {json.dumps(value)};
                node.dispatchEvent(new Event("change", {{bubbles: true}}));
            }})()"""
        )

    def size(self, width: int, height: int, dark: bool = False, still: bool = True) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
            ],
        )

    def picture(self, path: Path, whole: bool = False) -> None:
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def hosts(self) -> set[str]:
        return {url.split("/")[2] for _, url in self.requests if not url.startswith(("data:", "blob:"))}

    def close(self) -> None:
        """Forgets everything and waits for the next test: a new tab would take a process of its own."""
        forget = "sessionStorage.clear(); localStorage.clear();"
        self.run(f"void window.addEventListener('pagehide', () => {{ try {{ {forget} }} catch {{}} }})")
        self.open("about:blank")
        self.browser.free.append(self)


class Visitor(Page):
    """A tab that shows the demo, and what a visitor does there."""

    TURN = "document.querySelector('#log .turn:last-child')"
    COUNT = "document.querySelectorAll('#log .turn').length"

    def visit(self, url: str) -> "Visitor":
        self.open(f"{url}/demo")
        self.connected()
        return self

    def connected(self) -> None:
        self.until("document.querySelector('#connection').dataset.state === 'open'")

    def ask(self, message: str, protocol: str = "ndjson", model: str = "demo?chunks=12&rate=200") -> None:
        """Sends a message; returns when its turn is there."""
        before = self.run(self.COUNT)
        self.choose("#protocol", protocol)
        self.fill("#model", model)
        self.fill("#message", message)
        self.press("Enter")
        self.until(f"{self.COUNT} > {before}")

    def begun(self, protocol: str = "ndjson", turns: int = 1) -> None:
        """The last answer grows; over REST, it is waited for."""
        if protocol == "rest":
            self.until("!document.querySelector('#stop').hidden")
        else:
            growing = f"{self.TURN}?.querySelector('.answer.growing .prose')?.innerText.length > 12"
            self.until(f"{self.COUNT} >= {turns} && {growing}")

    def ended(self, turns: int = 1) -> None:
        self.until(f"{self.COUNT} >= {turns} && {self.TURN}.querySelector('.answer:not(.growing)')")

    @property
    def session(self) -> str:
        return str(self.run("JSON.parse(sessionStorage.getItem('fivewire.session'))"))

    def answer(self) -> str:
        """The last answer as the server has it, in one line."""
        path = json.dumps(f"/sessions/{self.session}")
        messages = self.run(f"fetch({path}).then((answer) => answer.json())")["messages"]
        assert messages[-1]["role"] == "model"
        return " ".join(messages[-1]["text"].split())

    def shown(self) -> str:
        """The last answer as the page shows it, in one line."""
        return " ".join(self.text("#log .turn:last-child .prose").split())


class Browser:
    """The process and its DevTools connection; a thread sorts what comes into answers and events."""

    def __init__(self, program: str, folder: str) -> None:
        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pages: dict[str, Page] = {}
        self.free: list[Visitor] = []
        self._answers: dict[int, Future[Any]] = {}
        self._last = 0
        self._open = ExitStack()
        self._connection: ClientConnection = self._open.enter_context(
            connect(self._address(Path(folder)), max_size=None)
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _address(self, folder: Path) -> str:
        port_file = folder / "DevToolsActivePort"
        over = time.monotonic() + START_SECONDS
        while time.monotonic() < over:
            lines = port_file.read_text().splitlines() if port_file.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            assert self.process.poll() is None, "Chromium ended while it was starting"
            time.sleep(0.02)
        raise AssertionError("Chromium did not open its DevTools port")

    def _listen(self) -> None:
        try:
            for data in self._connection:
                said = json.loads(data)
                if "id" in said:
                    self._answers.pop(said["id"]).set_result(said)
                elif (page := self.pages.get(said.get("sessionId", ""))) is not None:
                    page.on(said["method"], said["params"])
        except ConnectionClosed:
            pass

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        self._last += 1
        answer: Future[Any] = Future()
        self._answers[self._last] = answer
        message = {"id": self._last, "method": method, "params": params}
        self._connection.send(json.dumps(message | ({"sessionId": session} if session else {})))
        said = answer.result(ANSWER_SECONDS + 5)
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    def page(self) -> Visitor:
        page = self.free.pop() if self.free else self._new_page()
        page.errors.clear()
        page.requests.clear()
        page.size(1280, 800)
        return page

    def _new_page(self) -> Visitor:
        target = self.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Visitor(self, target, attached)
        self.pages[attached] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        return page

    def close(self) -> None:
        try:
            self.call("Browser.close")
        except (AssertionError, ConnectionClosed):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._open.close()
        self._thread.join(5)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        reason = f"no Chromium here (looked for {', '.join(NAMES)}); the pages are tested in a real one"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        opened = Browser(program, folder)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Visitor]:
    opened = browser.page()
    yield opened
    opened.close()


@pytest.fixture
def visit(shared_server: Any, browser: Browser) -> Iterator[Callable[[], Visitor]]:
    """Opens the demo as another visitor; then no page has complained, asked another host, or run what was said."""
    pages: list[Visitor] = []

    def another() -> Visitor:
        pages.append(browser.page())
        return pages[-1].visit(shared_server.url)

    yield another
    for page in pages:
        assert page.errors == []
        assert page.hosts == {shared_server.url.split("/")[2]}
        assert page.run("window.hacked === undefined")
        page.close()


@pytest.fixture
def demo(visit: Callable[[], Visitor]) -> Visitor:
    return visit()


@pytest.fixture
def cable(shared_server: Any) -> Iterator[Cable]:
    opened = Cable(shared_server.port)
    yield opened
    opened.close()

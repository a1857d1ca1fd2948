"""One message, or a pipe of them: the same text and the same events on every protocol, and exit codes that tell."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import aclosing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from client.oneshot import lines_of
from client.settings import PROTOCOLS
from proto import VERSION
from tests.client.terminal import CTRL_C, Terminal

ROOT = Path(__file__).parent.parent.parent
WAIT_SECONDS = 30
TIMES = {"timestamp", "processing_time", "time_to_first_chunk"}
IDS = {"session_id", "turn_id"}
FAST = "demo?chunks=12&rate=0"


def client(url: str, *arguments: str, env: dict[str, str] | None = None, **streams: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "client", "--server", url, *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        **{"text": True, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def result(process: "subprocess.Popen[str]", typed: str | None = None) -> tuple[int, str, str]:
    out, err = process.communicate(typed, timeout=WAIT_SECONDS)
    return process.returncode, out, err


def ask(url: str, *arguments: str, typed: str | None = None, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    streams = {} if typed is None else {"stdin": subprocess.PIPE}
    return result(client(url, *arguments, env=env, **streams), typed)


def bare(lines: str) -> list[dict[str, Any]]:
    """Events without what differs from turn to turn: times, and ids but for which are the same."""
    seen: dict[str, str] = {}
    events = []
    for line in lines.splitlines():
        event = {name: value for name, value in json.loads(line).items() if name not in TIMES}
        for name in IDS & event.keys():
            event[name] = seen.setdefault(event[name], f"{name} {len(seen)}")
        events.append(event)
    return events


CONVERSATION = 'Hello\n\nWhat did I say?  Grüße, 世界 \\ "quoted"\n'


def test_every_protocol_tells_the_same(shared_server: Any) -> None:
    runs = {
        (name, how): client(
            shared_server.url, "--protocol", name, "--model", "demo?rate=0", *flags, stdin=subprocess.PIPE
        )
        for name in PROTOCOLS
        for how, flags in (("text", []), ("json", ["--json"]))
    }
    results = {key: result(process, CONVERSATION) for key, process in runs.items()}
    assert {key: (code, err) for key, (code, _, err) in results.items()} == dict.fromkeys(runs, (0, ""))
    texts = {results[name, "text"][1] for name in PROTOCOLS}
    assert len(texts) == 1
    events = bare(results["sse", "json"][1])
    for name in PROTOCOLS:
        assert bare(results[name, "json"][1]) == events, name
    assert [event["type"] for event in events if event["type"] != "chunk"] == [
        "session_info", "status", "complete", "session_info", "status", "complete",
    ]  # fmt: skip
    joined = "".join(event.get("text", "\0") for event in events if event["type"] in ("chunk", "complete"))
    answers = [answer.rstrip("\n") + "\n" for answer in joined.split("\0")[:2]]
    assert texts == {"".join(answers)}
    assert "世界" in answers[1] and "Hello" in answers[1], "the second answer knows the first message"


def on_every_protocol(url: str, *arguments: str) -> dict[str, tuple[int, str, str]]:
    """The same command line on all of them, at the same time."""
    runs = {name: client(url, "--protocol", name, *arguments) for name in PROTOCOLS}
    return {name: result(process) for name, process in runs.items()}


def test_a_model_that_breaks(shared_server: Any) -> None:
    broken = "demo?chunks=5&rate=0&fail_after=2"
    for name, (code, out, err) in on_every_protocol(shared_server.url, "--model", broken, "--json", "hi").items():
        assert (code, err) == (1, "fivewire: The demo model broke after 2 pieces, as asked.\n"), name
        types = [event["type"] for event in bare(out)]
        assert types == ["session_info", "status", "chunk", "chunk", "error"], name


def test_refusals_are_told(shared_server: Any) -> None:
    for name, (code, out, err) in on_every_protocol(shared_server.url, "--model", "nonsense", "hi").items():
        assert (code, out) == (1, ""), name
        assert err.startswith("fivewire: There is no model 'nonsense'") and err.count("\n") == 1, name


def test_no_connection() -> None:
    for name, (code, out, err) in on_every_protocol("http://127.0.0.1:9", "hi").items():
        assert (code, out) == (3, ""), name
        assert "python -m server" in err and err.count("\n") == 1, name


def test_another_server() -> None:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def finish(self) -> None:
            super().finish()
            self.connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while self.connection.recv(4096):  # what is not read brings a reset, which may overtake the answer
                    pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        for name, (code, out, err) in on_every_protocol(f"http://127.0.0.1:{server.server_port}", "hi").items():
            assert (code, out) == (3, ""), name
            assert "answers, but is no fivewire server" in err and err.count("\n") == 1, (name, err)
        server.shutdown()


def test_a_session_that_is_new_is_told(shared_server: Any) -> None:
    url, quick = shared_server.url, ("--model", "demo?chunks=2&rate=0")
    for name in PROTOCOLS:
        refused = "There is no session 'grpc'. Not over gRPC, but over any other protocol the first message makes it."
        first = (
            (1, "", f"fivewire: {refused}\n")
            if name == "grpc"
            else (0, "A stream \n", f"fivewire: the session '{name}' is new\n")
        )
        assert ask(url, "--protocol", name, "--session", name, *quick, "hi") == first
    assert ask(url, "--session", "rest", *quick, "hi") == (0, "A stream \n", "")
    assert ask(url, "--session", "other", "--json", *quick, "hi")[::2] == (0, "")


def test_usage() -> None:
    code, out, err = ask("ftp://nowhere", "hi")
    assert (code, out) == (2, "")
    assert "no server address" in err
    assert ask("nowhere", "--version") == (0, f"fivewire {VERSION}\n", "")


def test_standard_input_that_cannot_be_read(shared_server: Any) -> None:
    url, quick = shared_server.url, ("--model", "demo?chunks=2&rate=0")
    told = "fivewire: Standard input cannot be read: Bad file descriptor.\n"
    closed: dict[str, Any] = {"preexec_fn": lambda: os.close(0)}
    with open(os.devnull, "w") as written:
        for streams in (closed, {"stdin": written}):
            assert result(client(url, **streams)) == (2, "", told)
            assert result(client(url, *quick, "hi", **streams)) == (0, "A stream \n", ""), "nothing is to be read"


def test_an_output_that_takes_no_more_is_told(shared_server: Any) -> None:
    url, quick = shared_server.url, ("--model", "demo?chunks=2&rate=0")
    with open("/dev/full", "w") as full:
        for flags in (quick, (*quick, "--json")):
            told = "fivewire: The output cannot be written: No space left on device.\n"
            assert result(client(url, *flags, "hi", stdout=full)) == (1, None, told)


def test_lines_that_end_as_on_windows(shared_server: Any) -> None:
    code, out, err = ask(shared_server.url, "--json", "--model", "demo?chunks=2&rate=0", typed="one\r\ntwo\r\n\r\n")
    asked = [event["message"] for event in bare(out) if event["type"] == "session_info"]
    assert (code, asked, err) == (0, ["one", "two"], "")


def test_an_endless_pipe_is_read_as_it_is_wanted(shared_server: Any, run: Callable[..., Any]) -> None:
    class Endless(io.TextIOBase):
        taken = 0

        def readline(self, size: int = -1) -> str:
            self.taken += 1
            return "hi\n"

    async def scenario() -> None:
        endless = Endless()
        async with aclosing(lines_of(endless)) as lines:
            assert [await anext(lines) for _ in range(3)] == ["hi\n"] * 3
        assert endless.taken == 3

    run(scenario())
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes:
        process = client(shared_server.url, "--model", "demo?chunks=5&rate=0&fail_after=2", stdin=yes.stdout)
        assert yes.stdout is not None
        yes.stdout.close()
        code, _, err = result(process)
    assert (code, err) == (1, "fivewire: The demo model broke after 2 pieces, as asked.\n")


def test_interrupt_cancels_on_the_server(shared_server: Any) -> None:
    url, slow = shared_server.url, b'{"model_id":"demo?chunks=5000&rate=50"}'
    sessions = {name: _get(url, "/sessions/new", slow)["session_id"] for name in PROTOCOLS}
    runs = {
        name: client(url, "--protocol", name, "--json", "--session", session_id, "a long answer, please")
        for name, session_id in sessions.items()
    }
    turns = {}
    for name, process in runs.items():
        turns[name] = _until(lambda name=name: _get(url, f"/sessions/{sessions[name]}").get("active_turn"))
        if name != "rest":  # there nothing comes before the whole answer
            assert process.stdout is not None
            while '"chunk"' not in process.stdout.readline():
                pass
        process.send_signal(signal.SIGINT)
    for name, process in runs.items():
        code, _, err = result(process)
        assert (code, err) == (130, ""), name
        assert _get(url, f"/turns/{turns[name]}")["status"] == "cancelled", name


def test_an_interrupt_while_it_starts_is_quiet() -> None:
    process = client("http://127.0.0.1:1", "hi", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert process.stderr is not None
    while "asyncio.events" not in (line := process.stderr.readline()):  # each module that is imported is told there
        assert line
    process.send_signal(signal.SIGINT)
    code, _, err = result(process)
    assert (code, [line for line in err.splitlines() if not line.startswith("import time:")]) == (130, [])


def test_a_second_interrupt_ends_a_write_that_nobody_reads(shared_server: Any) -> None:
    process = client(shared_server.url, "--model", "demo?chunks=50000&rate=0", "hi")

    def writes() -> bool:
        return "pipe_write" in Path(f"/proc/{process.pid}/wchan").read_text()

    def sleeps() -> int:
        """How often it has gone to sleep."""
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    _until(writes)
    before = sleeps()
    process.send_signal(signal.SIGINT)
    _until(lambda: sleeps() > before and writes())  # two at once are one
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_SECONDS) == 130
    process.communicate()


def test_output_that_is_no_terminal_has_no_sequences(shared_server: Any) -> None:
    _, out, _ = ask(shared_server.url, "--model", "demo?rate=0", "tell me about \x1b[31mcolours\x07 and \u202eturns")
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert "**" in out, "Markdown is left alone"


def test_what_goes_wrong_has_a_line_of_its_own(
    start_server: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    server = start_server("--model", "demo?chunks=5000&rate=50")
    for env in ({}, {"TERM": "dumb"}):
        screen = terminal("--server", server.url, "hi", **env)
        screen.wait("A stream is a promise")
        server.kill()
        screen.wait("Trying again.")
        server = start_server("--model", "demo?chunks=5000&rate=50", "--port", str(server.port))
        screen.wait("fivewire: ")
        assert screen.end() == 1
        lines = screen.text.strip().splitlines()
        assert [line.startswith("fivewire: ") for line in lines if "fivewire: " in line] == [True, True]
        screen = terminal("--server", server.url, "hi", **env)
        screen.wait("A stream is a promise")
        screen.keys(CTRL_C)
        assert screen.end() == 130
        assert screen.raw.endswith("\r\n"), "so has the shell's next prompt"


def test_a_reader_that_has_enough(shared_server: Any) -> None:
    with client(shared_server.url, "--model", "demo?chunks=5000&rate=0", "hi", text=False) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1) == b"A"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_too_large_is_told_and_not_tried_again(shared_server: Any) -> None:
    runs = {name: client(shared_server.url, "--protocol", name, stdin=subprocess.PIPE) for name in PROTOCOLS}
    for name, process in runs.items():
        code, out, err = result(process, "x" * 500_000)
        assert (code, out) == (1, ""), name
        assert err.startswith("fivewire: ") and err.count("\n") == 1, name


def test_tls(start_server: Callable[..., Any], tmp_path: Path) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    url = start_server("--tls-cert", cert, "--tls-key", key, "--model", "demo?chunks=2&rate=0").url
    assert url.startswith("https://")
    trusting = {name: client(url, "--protocol", name, "hi", env={"SSL_CERT_FILE": cert}) for name in PROTOCOLS}
    for name, process in trusting.items():
        assert result(process) == (0, "A stream \n", ""), name
    for name, (code, out, err) in on_every_protocol(url, "hi").items():
        assert (code, out) == (3, ""), name
        assert "is not trusted here" in err and err.count("\n") == 1, name
    for name, (code, out, err) in on_every_protocol(url.replace("https", "http"), "hi").items():
        assert (code, out) == (3, "") and "the address begins with https" in err, (name, err)


# Looking at the server, past the client


def _get(url: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url + path, body, headers), timeout=WAIT_SECONDS) as answer:
        return dict(json.load(answer))


def _until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return value

"""The command line: flags and variables, what is printed and logged, and how the server comes and goes."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import signal
import socket
import ssl
import subprocess
import sys
import unicodedata
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pexpect
import pytest

from server import logs
from server.models import End
from server.settings import PREFIX, Settings, default_database, parse

ROOT = Path(__file__).parent.parent.parent

# flag, default, a value in words, what it means
FLAGS: list[tuple[str, Any, str, Any]] = [
    ("host", "127.0.0.1", "0.0.0.0", "0.0.0.0"),
    ("port", 8000, "0", 0),
    ("grpc_port", 50051, "off", None),
    ("model", None, "demo?rate=0", "demo?rate=0"),
    ("store", "sqlite", "memory", "memory"),
    ("chunk_words", None, "4", 4),
    ("chunk_interval", 0.1, "0.5", 0.5),
    ("resume_grace", 15.0, "2.5", 2.5),
    ("heartbeat", 15.0, "1", 1.0),
    ("max_message_chars", 32000, "100", 100),
    ("max_streams", 10000, "7", 7),
    ("system", None, "Be brief.", "Be brief."),
    ("context_messages", None, "9", 9),
    ("context_chars", None, "9000", 9000),
    ("first_piece_timeout", 60.0, "90", 90.0),
    ("next_piece_timeout", 30.0, "45", 45.0),
    ("price_in", None, "0.3", 0.3),
    ("price_out", None, "2", 2.0),
    ("allow_origin", (), "https://a.example", ("https://a.example",)),
    ("log_format", None, "json", "json"),
]
SWITCHES = ["quiet", "verbose", "reload"]


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_without_flags_and_variables() -> None:
    settings = parse([], {})
    for name, default, _, _ in FLAGS:
        assert getattr(settings, name) == default, name


@pytest.mark.parametrize(("name", "default", "text", "value"), FLAGS, ids=[row[0] for row in FLAGS])
def test_flags_and_variables(name: str, default: Any, text: str, value: Any) -> None:
    variable = PREFIX + name.upper()
    assert value != default
    assert getattr(parse([flag_of(name), text], {}), name) == value
    assert getattr(parse([f"{flag_of(name)}={text}"], {}), name) == value
    assert getattr(parse([], {variable: text}), name) == value
    assert getattr(parse([], {variable: ""}), name) == default, "set to nothing is not set"
    if default is not None and default != ():
        assert getattr(parse([flag_of(name), str(default)], {variable: text}), name) == default, "the flag wins"


@pytest.mark.parametrize("name", SWITCHES)
def test_switches(name: str) -> None:
    variable = PREFIX + name.upper()
    assert getattr(parse([], {}), name) is False
    assert getattr(parse([flag_of(name)], {}), name) is True
    for text in ("1", "true", "YES", "on"):
        assert getattr(parse([], {variable: text}), name) is True
        assert getattr(parse([f"--no-{name}"], {variable: text}), name) is False, "the flag wins"
    for text in ("0", "false", "no", "off", ""):
        assert getattr(parse([], {variable: text}), name) is False


def test_origins_are_a_list() -> None:
    origins = ["https://a.example", "http://b.example:8080"]
    variable = {"FIVEWIRE_ALLOW_ORIGIN": "https://a.example, http://b.example:8080"}
    assert parse(["--allow-origin", origins[0], "--allow-origin", origins[1]], {}).allow_origin == tuple(origins)
    assert parse([], variable).allow_origin == tuple(origins)
    assert parse(["--allow-origin", "*"], variable).allow_origin == ("*",), "the flag wins"


@pytest.mark.parametrize(
    "arguments",
    [
        *[["--port", bad] for bad in ("-1", "65536", "x", "", "1.5")],
        *[["--grpc-port", bad] for bad in ("-1", "65536", "on")],
        *[["--store", bad] for bad in ("redis", "sqlite:", "", "Memory")],
        *[["--heartbeat", bad] for bad in ("0", "-1", "nan", "inf", "x")],
        *[["--resume-grace", bad] for bad in ("-1", "nan", "x")],
        *[
            [flag, bad]
            for flag in ("--max-streams", "--max-message-chars", "--chunk-words")
            for bad in ("0", "-1", "x")
        ],
        ["--chunk-interval", "-0.1"],
        ["--log-format", "xml"],
        ["--allow-origin", "example.org"],
        ["--price-in", "-1"],
        ["--tls-cert", "cert.pem"],
        ["--tls-key", "key.pem"],
        ["--no-such-flag"],
        ["something"],
    ],
)
def test_bad_values_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        parse(arguments, {})
    assert exited.value.code == 2
    assert arguments[0].removeprefix("--") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "bad"), [("PORT", "x"), ("QUIET", "maybe"), ("STORE", "redis"), ("ALLOW_ORIGIN", "x")]
)
def test_bad_variables_exit_2(name: str, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        parse([], {PREFIX + name: bad})
    assert exited.value.code == 2
    assert PREFIX + name in capsys.readouterr().err


def test_help_tells_all() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "server", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for setting in dataclasses.fields(Settings):
        assert f"{flag_of(setting.name)} " in told.stdout or f"{flag_of(setting.name)}," in told.stdout, setting.name
    assert "FIVEWIRE_" in told.stdout
    assert {row[0] for row in FLAGS} | set(SWITCHES) <= {setting.name for setting in dataclasses.fields(Settings)}


def test_the_default_database_is_in_the_state_folder(tmp_path: Path) -> None:
    if sys.platform == "linux":
        assert default_database({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "fivewire" / "chat.db"


def post(url: str, path: str, body: Any, **options: Any) -> Any:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json", "Authorization": "Bearer s3cret-b"}
    )
    return urllib.request.urlopen(request, timeout=20, **options)


def refusal(*flags: str, **variables: str) -> str:
    """What a server says that does not start; its exit code is 1."""
    command = [sys.executable, "-m", "server", "--port", "0", "--grpc-port", "off", *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1, ended
    assert ended.stdout == "" and "Traceback" not in ended.stderr
    return ended.stderr


def test_the_log_as_json(start_server: Any) -> None:
    server = start_server(
        "--verbose",
        "--model",
        "demo?chunks=3&rate=0",
        env={"GEMINI_API_KEY": "s3cret-a", "LOCAL_LLM_API_KEY": "s3cret-c"},
    )
    told = server.listening
    assert told["event"] == "listening" and told["grpc"] is None
    assert told["http"] == f"http://127.0.0.1:{server.port}" and server.port > 0
    assert told["model"] == "demo?chunks=3&rate=0" and "--model" in told["reason"]
    text = "My password is \x1b[31mhunter2\n and this goes on and on, far beyond what anybody should log of it"
    with post(server.url, "/chat/stream", {"message": text, "session_id": "s"}) as answer:
        assert b'"complete"' in answer.read()
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server.url, "/chat", {"message": 1})
    refused.value.close()
    code, log = server.stop()
    assert code == 0
    assert server.process.stdout is not None
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    happened = [line["event"] for line in lines]
    assert happened == ["stream_started", "chunk", "chunk", "chunk", "stream_completed", "draining", "stopped"]
    started = next(line for line in lines if line["event"] == "stream_started")
    assert (started["transport"], started["session"], started["client"]) == ("ndjson", "s", "127.0.0.1")
    assert started["active_streams"] == 1
    assert started["message"].startswith("My password is") and len(started["message"]) <= 40
    assert "\x1b" not in log and "far beyond" not in log
    completed = next(line for line in lines if line["event"] == "stream_completed")
    assert (completed["chunks"], completed["status"]) == (3, "stop") and completed["seconds"] >= 0
    assert "s3cret" not in log and "s3cret" not in json.dumps(told)


def test_a_quiet_log(start_server: Any) -> None:
    server = start_server("--quiet", "--model", "demo?chunks=3&rate=0")
    post(server.url, "/chat", {"message": "Hello"}).close()
    assert server.stop(signal.SIGINT) == (0, "")


LEFT = """
import asyncio, socket
from server import logs

async def main():
    ours, theirs = socket.socketpair()
    theirs.close()
    _, writer = await asyncio.open_connection(sock=ours)
    for _ in range(20):
        writer.transport.write(b"to nobody")
    asyncio.get_running_loop().call_exception_handler({"message": "this is news"})

logs.configure("json", quiet=True)
asyncio.run(main())
"""


def test_a_peer_that_leaves_in_the_middle_of_a_burst_is_no_news() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert [json.loads(line)["message"] for line in ended.stderr.splitlines()] == ["this is news"]


def test_on_a_terminal() -> None:
    command = [
        "-m",
        "server",
        "--port",
        "0",
        "--grpc-port",
        "0",
        "--store",
        "memory",
        "--model",
        "demo?chunks=2&rate=0",
    ]
    with contextlib.closing(
        pexpect.spawn(sys.executable, command, cwd=str(ROOT), encoding="utf-8", timeout=20)
    ) as child:
        child.expect(r"fivewire \S+ · model demo\S* \([^\n]*--model[^\n]*\)")
        child.expect(r"listening on (http://127\.0\.0\.1:[0-9]+)")
        url = child.match.group(1)
        child.expect(r"listening on (127\.0\.0\.1:[0-9]+)\s+\(gRPC\)")
        post(url, "/chat", {"message": "Hello box"}).close()
        child.expect("╭─ stream started")
        for row in ("transport: rest", "client: 127.0.0.1", "session: ", "message: Hello box", "active streams: "):
            child.expect(f"│ {row}")
        child.expect("╭─ stream completed")
        for row in ("chunks: 2", "seconds: ", "status: stop"):
            child.expect(f"│ {row}")
        child.sendintr()
        child.expect("stopped")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


@pytest.mark.parametrize("text", ["Hello", "", "x" * 500, "日本語の文" * 4, "😀 and é", "日本語の文" * 40])
def test_boxes_are_boxes(text: str) -> None:
    record = logging.makeLogRecord({"msg": "stream_started", "fields": {"message": text, "active_streams": 1}})
    lines = logs.HumanFormat().format(record).splitlines()
    assert len(lines) == 4 and "active streams: 1" in lines[2]
    assert {len(line) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in line) for line in lines} == {66}


@pytest.mark.parametrize("fields", [None, {"client": "a\nb\x1b[2J\x9bc"}])
def test_what_strangers_send_does_not_steer_a_terminal(fields: Any) -> None:
    try:
        raise ValueError("one\x1b[31m")
    except ValueError:
        failure = sys.exc_info()
    record = logging.makeLogRecord({"msg": "GET /\n\x1b]0;x\x07 failed", "fields": fields, "exc_info": failure})
    first, *traceback = logs.HumanFormat().format(record).split("\n")
    assert "GET /  ]0;x  failed" in first and (fields is None or "client=a b [2J c" in first)
    assert traceback[0].startswith("Traceback") and traceback[-1] == "ValueError: one [31m"
    assert all(line.isprintable() for line in (first, *traceback))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(start_server: Any, run: Any, dial: Any, number: signal.Signals) -> None:
    server = start_server()

    async def test() -> None:
        async with dial(server) as one, dial(server) as two:
            one.request("POST", "/chat/stream", {"message": "Hello", "model_id": "demo?chunks=40&rate=40"})
            await one.head()
            while b'"chunk"' not in await one.chunk():
                pass
            server.process.send_signal(number)
            while (health := await two.ask("GET", "/health")).status == 200:
                pass
            assert (health.status, health.json["status"]) == (503, "draining")
            async with dial(server) as new:
                refused = await new.ask("POST", "/chat", {"message": "More"})
                assert (refused.status, refused.json["code"]) == (503, "unavailable")
                assert refused.headers["connection"] == "close"
            last = b""
            while piece := await one.chunk():
                last = piece
            end = json.loads(last)
            assert (end["type"], end["finish_reason"], end["total_chunks"]) == ("complete", "stop", 40)

    run(test())
    server.process.communicate(timeout=20)
    assert server.process.returncode == 0


def test_a_turn_that_outlasts_the_drain_is_cancelled_with_its_text_kept(
    run: Any, serving: Any, dial: Any, script: Any, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'chat.db'}"

    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models], store=store) as app, dial(app) as wire:
            wire.request("POST", "/chat/stream", {"message": "Hello", "session_id": "s"})
            await wire.head()
            (await models.asked()).say("kept")
            while b"kept" not in await wire.chunk():
                pass
            await app.stop(drain_seconds=0.05)
            body = b""
            while piece := await wire.chunk():
                body += piece
            assert json.loads(body.splitlines()[-1])["finish_reason"] == "cancelled"
        async with serving(model="script", providers=[script(End())], store=store) as app, dial(app) as wire:
            messages = (await wire.ask("GET", "/sessions/s")).json["messages"]
            assert [message["text"] for message in messages] == ["Hello", "kept"]

    run(test())


@pytest.mark.parametrize("first", [5, 30, -5])
def test_a_request_that_has_begun_when_it_stops_is_answered(run: Any, serving: Any, dial: Any, first: int) -> None:
    """Torn in its first line, its head or its body; on a connection that has had an answer."""
    body = json.dumps({"message": "Hello"}).encode()
    head = f"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            assert (await wire.ask("GET", "/health")).status == 200
            (connection,) = app._http_connections()
            while not connection.idle:
                await asyncio.sleep(0.005)
            wire.send(request[:first])
            while connection.idle:
                await asyncio.sleep(0.005)
            stopping = asyncio.create_task(app.stop())
            await asyncio.sleep(0.05)
            assert not stopping.done()
            wire.send(request[first:])
            answer = await wire.answer()
            assert (answer.status, answer.json["code"], answer.headers["connection"]) == (503, "unavailable", "close")
            await stopping

    run(test())


def test_a_stream_that_is_asked_of_a_server_that_leaves(run: Any, serving: Any, dial: Any, script: Any) -> None:
    async def test() -> None:
        models = script()
        async with serving(model="script", providers=[models]) as app, dial(app) as wire, dial(app) as late:
            wire.request("POST", "/chat/stream", {"message": "Hello"})
            turn_id = (await wire.head()).headers["x-turn-id"]
            asked = await models.asked()
            stopping = asyncio.create_task(app.stop(drain_seconds=20))
            while not app.chat.draining:
                await asyncio.sleep(0)
            late.request("GET", f"/turns/{turn_id}", Accept="text/event-stream")
            assert (await late.head()).headers["connection"] == "close"
            asked.say("text", End())
            while await late.chunk():
                pass
            assert await late.reader.read() == b""
            await stopping

    run(test())


def test_half_a_request_holds_it_up_for_a_moment_only(
    run: Any, serving: Any, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.app.LAST_WORDS_SECONDS", 0.05)

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            wire.send(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            while not app._http_connections() or app._http_connections()[0].idle:
                await asyncio.sleep(0.005)
            async with asyncio.timeout(1.5):
                await app.stop()

    run(test())


def test_who_asks_for_nothing_does_not_hold_it_up(run: Any, serving: Any, dial: Any) -> None:
    """Connections that have had their answers, the last of them to a request that came in pieces."""

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            for _ in range(2):
                for piece in (b"POST /sessions/n", b"ew HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", b" "):
                    wire.send(piece)
                    await asyncio.sleep(0.02)
                assert (await wire.answer()).status == 200
            (connection,) = app._http_connections()
            while not connection.idle:
                await asyncio.sleep(0.005)
            async with asyncio.timeout(1.5):
                await app.stop()

    run(test())


def test_a_second_server_on_the_same_file(start_server: Any, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'chat.db'}"
    server = start_server("--store", store)
    assert str(tmp_path / "chat.db") in refusal("--store", store)
    assert server.stop()[0] == 0


def test_what_keeps_it_from_starting(tmp_path: Path, certificate: tuple[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refusal("--store", "memory", "--port", port)
        assert port in said and "--port" in said
    (tmp_path / "foreign.db").write_bytes(b"this is no database")
    assert "foreign.db" in refusal("--store", f"sqlite:{tmp_path / 'foreign.db'}")
    assert "no-such.pem" in refusal("--store", "memory", "--tls-cert", "no-such.pem", "--tls-key", certificate[1])
    assert "no-such-model" in refusal("--store", "memory", "--model", "no-such-model")


def test_tls(start_server: Any, certificate: tuple[str, str]) -> None:
    server = start_server("--tls-cert", certificate[0], "--tls-key", certificate[1], "--model", "demo?chunks=3&rate=0")
    assert server.url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=certificate[0])
    with post(server.url, "/chat/stream", {"message": "Hello"}, context=trusting) as answer:
        assert b'"complete"' in answer.read()
    assert server.stop()[0] == 0

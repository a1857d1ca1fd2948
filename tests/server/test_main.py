"""The command line: flags and variables, what is printed and logged, and what keeps the server from starting."""

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
        ["--tls-cert", "", "--tls-key", ""],
        ["--no-such-flag"],
        ["something"],
    ],
)
def test_bad_values_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        parse(arguments, {})
    assert exited.value.code == 2
    assert arguments[0].removeprefix("--") in capsys.readouterr().err


def test_a_refused_number_is_told_its_bounds_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--max-streams", "0"], {})
    assert "whole number from 1 to 1,000,000" in capsys.readouterr().err


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
    assert "~nosuch" in refusal("--store", "sqlite:~nosuch/chat.db")
    said = refusal("--store", "memory", "--host", "no-such-host.invalid")
    assert "no-such-host.invalid" in said and "--host" in said
    said = refusal("--store", "memory", "--host", "127.0.0..1")
    assert "127.0.0..1" in said and "--host" in said
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

"""`--reload`: the code changes, the server restarts, and no client sees a refused connection."""

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from proto.requests import ChatRequest
from server import reload

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("FIVEWIRE_")}


def ask(url, message):
    request = urllib.request.Request(
        f"{url}/chat",
        json.dumps({"message": message, "session_id": "s", "model_id": "demo?rate=0"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


def start(path):
    """`python -m server --reload` on a copy of the code."""
    for folder in ("server", "proto", "web"):
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    flags = ["--port", "0", "--grpc-port", "0", "--log-format", "json", "--quiet", "--reload", "--model", "demo"]
    return subprocess.Popen(
        [sys.executable, "-m", "server", *flags, "--store", f"sqlite:{path / 'chat.db'}"],
        cwd=path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


@pytest.fixture
def parent(tmp_path):
    """It ends well."""
    parent = start(tmp_path)
    try:
        yield parent
    finally:
        parent.terminate()
        _, log = parent.communicate(timeout=30)
    assert parent.returncode == 0, log
    assert "Traceback" not in log


def change(folder):
    """As an editor does that saves a file."""
    changed = folder / "server" / "clock.py"
    changed.write_text(changed.read_text() + "\n# changed\n")
    before = changed.stat().st_mtime_ns
    os.utime(changed, ns=(before + 1, before + 1))


def test_a_code_change_restarts_the_server_and_refuses_nobody(parent, tmp_path):
    first = json.loads(parent.stdout.readline())
    assert ask(first["http"], "before")["message_count"] == 2
    change(tmp_path)
    count, until = 2, time.monotonic() + 30
    while not select.select([parent.stdout], [], [], 0.02)[0]:
        assert time.monotonic() < until, "the server was not restarted"
        try:
            answered = ask(first["http"], "meanwhile")["message_count"]
        except urllib.error.HTTPError as refusal:  # said by a server that drains, never a refused connection
            assert refusal.code == 503 and refusal.headers["Retry-After"]
            continue
        count += 2
        assert answered == count, "an answer was lost"
    assert json.loads(parent.stdout.readline())["http"] == first["http"]
    assert ask(first["http"], "after")["message_count"] == count + 2


def test_open_streams_end_well_and_go_on_elsewhere(parent, tmp_path, connected, run):
    url = json.loads(parent.stdout.readline())["http"]
    names = ("ndjson", "sse", "websocket", "grpc")

    async def stream(name, reading):
        """A turn that runs while the code changes, from its beginning to its end."""
        async with connected(name, url) as transport:
            events = []
            async for event in transport.send(ChatRequest("Hello", None, "demo?chunks=60&rate=30")):
                events.append(event)
                if len(events) == 5:
                    reading.release()
            return events

    async def resume(name, whole):
        async with connected(name, url) as transport:
            return [event async for event in transport.follow(whole[0].turn_id, 30)]

    async def test():
        reading = asyncio.Semaphore(0)
        streams = [asyncio.create_task(stream(name, reading)) for name in names]
        for _ in names:
            await reading.acquire()
        change(tmp_path)
        wholes = await asyncio.gather(*streams)
        for whole in wholes:
            assert [event.seq for event in whole] == list(range(1, 64))
            assert whole[-1].finish_reason == "stop"
        told = await asyncio.to_thread(parent.stdout.readline)
        assert json.loads(told)["http"] == url
        for name, whole in zip(reversed(names), wholes, strict=True):
            assert await resume(name, whole) == whole[30:]

    run(test())


def test_a_stop_in_the_midst_of_a_restart_lets_answers_end(parent, tmp_path, connected, run):
    url = json.loads(parent.stdout.readline())["http"]

    async def test():
        async with connected("ndjson", url) as transport:
            events = []
            async for event in transport.send(ChatRequest("Hello", None, "demo?chunks=40&rate=30")):
                events.append(event)
                if len(events) == 3:
                    change(tmp_path)
                    while (await transport.health()).status != "draining":
                        await asyncio.sleep(0.01)
                    parent.terminate()
            assert events[-1].finish_reason == "stop"

    run(test())
    assert parent.wait(20) == 0
    assert parent.stdout.readline() == "", "no other server was started"


def test_folders_may_come_and_go_while_the_code_is_looked_through(tmp_path, monkeypatch):
    """As they do when another branch is checked out."""
    page, coming = tmp_path / "web" / "page.js", tmp_path / "server" / "a" / "b"
    page.parent.mkdir()
    page.touch()
    coming.parent.mkdir(parents=True)
    monkeypatch.setattr(reload, "__file__", str(tmp_path / "server" / "reload.py"))
    looked = threading.Event()

    def come_and_go():
        while not looked.is_set():
            coming.mkdir()
            coming.rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        assert all(list(reload._times()) == [page] for _ in range(5000))
    finally:
        looked.set()
        other.join()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_server_runs_without_standard_streams(closed):
    """Here as a child, for it cannot tell where it listens, nor that it does."""
    pipe, ours = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sh = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "server", "--store", "memory"]
        numbers = (listening.fileno(), pipe)
        with subprocess.Popen(
            sh,
            cwd=ROOT,
            env={**ENVIRONMENT, reload.VARIABLE: f"{numbers[0]};;{pipe}"},
            pass_fds=numbers,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child:
            address = listening.getsockname()
            listening.close()  # or nobody would say that the child has ended
            try:
                assert ask(f"http://127.0.0.1:{address[1]}", "Hello")["message_count"] == 2
            finally:
                os.close(ours)
                os.close(pipe)
            assert child.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_the_server_stops_when_its_parent_is_gone(tmp_path, number):
    parent = start(tmp_path)
    parent.stdout.readline()
    child = int((tmp_path / "chat.db.lock").read_text())
    parent.send_signal(number)
    try:
        assert parent.wait(20) == -number
        assert select.select([parent.stdout], [], [], 20)[0], "the child goes on, and holds its output open"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        assert parent.communicate(timeout=20) == ("", "")

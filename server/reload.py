"""`--reload`: a parent that holds the listening sockets, and restarts the server in a child when the code changes.

1. The parent's copies of the sockets stay open and listening across a restart: a client that connects meanwhile waits
   in the backlog and is not refused.
2. The child is stopped as any server is: it drains, its sessions are in the store, and clients resume.
3. A change that does not start is said once, and waits for the next change.
4. The child stops when the parent is gone, however it went: closing the terminal ends the parent alone, and a child
   that went on would keep the port and the store. It holds one end of a pipe, and the parent alone the other.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from server.app import Sockets
from server.listen import BACKLOG_CONNECTIONS

VARIABLE = "FIVEWIRE_INHERITED_SOCKETS"
LOOK_SECONDS = 0.3
WATCHED = ("server", "proto", "web")


def is_child() -> bool:
    return VARIABLE in os.environ


def inherited() -> Sockets | None:
    """The sockets that a parent has handed down, if there is one."""
    if not is_child():
        return None
    http, grpc, _ = _handed_down()
    return Sockets([socket.socket(fileno=number) for number in http], [socket.socket(fileno=number) for number in grpc])


def watch_parent(gone: Callable[[], object]) -> None:
    """In a child, call this once its parent is gone (rule 4)."""
    if not is_child():
        return
    loop = asyncio.get_running_loop()
    _, _, (pipe,) = _handed_down()

    def ended() -> None:
        loop.remove_reader(pipe)
        gone()

    loop.add_reader(pipe, ended)


def _handed_down() -> list[list[int]]:
    """The descriptors of the sockets for HTTP, of those for gRPC, and of the pipe."""
    return [[int(number) for number in numbers.split(",") if number] for numbers in os.environ[VARIABLE].split(";")]


def supervise(sockets: Sockets) -> int:
    """Keep a child running on these sockets until told to stop; its exit code is ours."""
    for bound in (*sockets.http, *sockets.grpc):
        bound.listen(BACKLOG_CONNECTIONS)
    pipe, _ = os.pipe()
    stopping: list[int] = []
    child: subprocess.Popen[bytes] | None = None
    restarting = False  # the child has been told to stop already; told twice, it does not wait for its answers

    def stop(number: int, frame: object) -> None:
        stopping.append(number)
        if child is not None and (not restarting or len(stopping) > 1):
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while True:
        seen = _times()
        child = _start(sockets, pipe)
        if stopping:  # told while it was being started
            child.terminate()
        while child.poll() is None and (stopping or _times() == seen):
            time.sleep(LOOK_SECONDS)
        if child.poll() is None and not stopping:
            print("fivewire: the code has changed, restarting", file=sys.stderr)
            restarting = True
            child.terminate()
            child.wait()
            restarting = False
        elif not stopping:
            print("fivewire: the server has stopped; waiting for a change of the code", file=sys.stderr)
            while _times() == seen and not stopping:
                time.sleep(LOOK_SECONDS)
        if stopping:
            child.wait()
            return 0 if child.returncode == -signal.SIGTERM else child.returncode  # told before it could listen to it


def _start(sockets: Sockets, pipe: int) -> "subprocess.Popen[bytes]":
    numbers = [*([bound.fileno() for bound in some] for some in sockets), [pipe]]
    variable = ";".join(",".join(map(str, some)) for some in numbers)
    return subprocess.Popen(
        [sys.executable, "-m", "server", *sys.argv[1:]],
        env={**os.environ, VARIABLE: variable},
        pass_fds=[number for some in numbers for number in some],
        start_new_session=True,  # a Ctrl-C reaches the parent alone, which passes it on once
    )


def _times() -> dict[Path, int]:
    """When each watched file was last changed."""
    root = Path(__file__).parent.parent
    times = {}
    for folder in WATCHED:
        for inside, _, names in os.walk(root / folder):  # `rglob` fails where a folder is removed meanwhile
            for path in [Path(inside, name) for name in names]:
                if path.suffix in (".py", ".js", ".css", ".html"):
                    with contextlib.suppress(FileNotFoundError):
                        times[path] = path.stat().st_mtime_ns
    return times

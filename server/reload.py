"""`--reload`: a parent that holds the listening sockets, and restarts the server in a child when the code changes.

1. The parent's copies of the sockets stay open and listening across a restart: a client that connects meanwhile waits
   in the backlog and is not refused.
2. The child is stopped as any server is: it drains, its sessions are in the store, and clients resume.
3. A change that does not start is said once, and waits for the next change.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
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
    http, grpc = (
        [socket.socket(fileno=int(number)) for number in numbers.split(",") if number]
        for numbers in os.environ[VARIABLE].split(";")
    )
    return Sockets(http, grpc)


def supervise(sockets: Sockets) -> int:
    """Keep a child running on these sockets until told to stop; its exit code is ours."""
    for bound in (*sockets.http, *sockets.grpc):
        bound.listen(BACKLOG_CONNECTIONS)
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
        child = _start(sockets)
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


def _start(sockets: Sockets) -> "subprocess.Popen[bytes]":
    numbers = [[bound.fileno() for bound in some] for some in sockets]
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
        for path in (root / folder).rglob("*"):
            if path.suffix in (".py", ".js", ".css", ".html"):
                with contextlib.suppress(FileNotFoundError):
                    times[path] = path.stat().st_mtime_ns
    return times

"""`python -m server` and `python -m client` as forks of a process that has imported them: that is most of what it takes
to start one. Where it matters how Python starts, tests start it."""

import fcntl
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

_parent: Any = multiprocessing.get_context("forkserver")
_parent.set_forkserver_preload(
    ["tests.forks", "server.program", "client.program", "client.repl", "client.screen"]
    + [f"client.transports.{name}" for name in ("rest", "stream", "websocket", "grpc")]
)


class Fork:
    """What tests use of a `subprocess.Popen`."""

    def __init__(self, module: str, arguments: Sequence[str], streams: Sequence[int], env: dict[str, str]) -> None:
        """With three open files for its streams, which stay open here."""
        copies = _Copies(streams)
        self._process = _parent.Process(target=_main, args=(module, list(arguments), copies, env), daemon=True)
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Piped(Fork):
    """One whose output is read here."""

    def __init__(self, module: str, arguments: Sequence[str], env: dict[str, str]) -> None:
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            super().__init__(module, arguments, (nothing, its_out, its_err), env)
        finally:
            for stream in (nothing, its_out, its_err):
                os.close(stream)
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it has yet to say, once it has ended."""
        said: dict[Any, str] = {self.stdout: "", self.stderr: ""}

        def read(stream: Any) -> None:
            with stream:
                said[stream] = stream.read()

        readers = [threading.Thread(target=read, args=(stream,), daemon=True) for stream in said if not stream.closed]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return said[self.stdout], said[self.stderr]


class _Copies:
    """Open files on their way into the child."""

    def __init__(self, streams: Sequence[int]) -> None:
        self._streams = streams

    def __reduce__(self) -> Any:
        return _copied, tuple(DupFd(stream) for stream in self._streams)


def _copied(*copies: Any) -> list[int]:
    return [copy.detach() for copy in copies]


def _main(module: str, arguments: list[str], streams: list[int], env: dict[str, str]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.setsid()
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "w" if number else "r") for number in range(3))
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(f"{module}.__main__").main())

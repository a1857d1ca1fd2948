"""The servers under test as subprocesses, pinned to one core; the load generator has another."""

import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = 0, 1
START_SECONDS = 30.0
PEERS = {"fastapi": "tests.bench.peer_fastapi", "grpcio": "tests.bench.peer_grpcio", "limit": "tests.bench.peer_limit"}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Server:
    """One server: `ours` (keeping its turns in memory), `sqlite` (ours, keeping them on disk) or a peer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port, self.grpc_port = free_port(), free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        if name not in PEERS:
            where = f"sqlite:{self.folder.name}/chat.db" if name == "sqlite" else "memory"
            command = ["server", f"--port={self.port}", f"--grpc-port={self.grpc_port}", f"--store={where}", "--quiet"]
        else:
            command = [PEERS[name], f"--port={self.port}"]
            self.grpc_port = self.port
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=pin_server
        )
        self.pid = self.process.pid
        self.wait_for(self.port)

    def wait_for(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    brings = ": pip install '.[bench]' brings what it needs" if self.name in PEERS else ""
                    raise SystemExit(f"{self.name} does not start{brings}") from None
                time.sleep(0.02)

    def port_of(self, transport: str) -> int:
        if transport != "grpc":
            return self.port
        self.wait_for(self.grpc_port)
        return self.grpc_port

    def memory_bytes(self) -> int:
        """Resident memory, shared pages counted in part (see proc_pid_smaps(5))."""
        match = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{self.pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert match
        return int(match[1]) * 1024

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def pin(core: int) -> None:
    """Give the current process one core of its own, where there are two."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[core]})


def pin_server() -> None:
    pin(SERVER_CORE)


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

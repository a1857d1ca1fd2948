"""The load generator: raw non-blocking sockets in one epoll loop, which counts chunks and ends and reads clocks.

1. Streams are measured in a window: it opens when all streams (but a twentieth) have their first chunk, and closes when
   the time is up or the first of them (but a twentieth) have ended. A server that is too busy to have all streams open
   at once for half of that time is measured from the first request to the last end. Opening and closing connections is
   no part of it.
2. The server's CPU time is its process's CPU clock (all threads, user and system, in nanoseconds).
3. Lateness is told by a sample of streams. The first chunk is due one interval after the request, the next ones at the
   asked pace; how much later a chunk is here is its lateness.
4. Sockets are looked at once a millisecond. To wait for each would make every write of the server wake this process,
   which costs the server a third of the write, and which a client on another machine does not cost it.
5. Every stream runs to its end, and must have had all its chunks and one end: else the run fails.
"""

import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.bench import wire

SAMPLES = 100  # streams whose chunks are timed
PATIENCE_SECONDS = 120.0  # a run that takes longer has hung
LOOK_SECONDS = 0.001
TURNS_PER_CONNECTION = 51
ALIVE_SECONDS = 5.0  # how often a WebSocket shows that somebody is there
READ_BYTES = 1 << 14  # a larger one makes every read slower: it is allocated first


class Lost(Exception):
    """Chunks or ends are missing or too many, or the server closed a connection or fell silent."""


class Streamed(NamedTuple):
    """What one run of many streams gave; `kept_up` is the part of the asked pace that was delivered."""

    cpu_us_per_chunk: float
    bytes_per_chunk: float
    chunks_per_second: float
    kept_up: float
    lateness_p50_ms: float
    lateness_p99_ms: float
    load_cpu: float


class Connection:
    __slots__ = ("count", "number", "recv", "sent_at", "socket", "times", "transport")

    def __init__(self, port: int, transport: str, number: int = 0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.transport, self.number = transport, number
        self.count = wire.counter(transport)
        self.times: list[tuple[float, int]] | None = None
        self.recv = self.socket.recv
        self.sent_at = 0.0
        if transport == "websocket":
            self.socket.sendall(wire.WS_UPGRADE)
            data = b""
            while b'"connected"' not in data:
                data += self.read()
                if not data.startswith(b"HTTP/1.1 101"):
                    raise Lost(f"no WebSocket: {data[:100]!r}")
        elif transport == "grpc":
            self.socket.sendall(wire.H2_PREFACE)
            if answer := self.count.feed(self.read()):
                self.socket.sendall(answer)

    def read(self) -> bytes:
        data = self.recv(READ_BYTES)
        if not data:
            raise Lost("the server closed a connection")
        return data

    def read_events(self, events: int) -> bytes:
        """Read until so many events are there."""
        data = b""
        while wire.events(self.count, data) < events:
            part = self.read()
            data += part
            if answer := self.count.feed(part):
                self.socket.sendall(answer)
        return data

    def close(self) -> None:
        self.socket.close()


def cpu_clock(pid: int) -> int:
    """The id of a process's CPU clock (see clock_getcpuclockid(3)), for time.clock_gettime_ns."""
    return (~pid << 3) | 2


def connect(port: int, transport: str, count: int) -> list[Connection]:
    return [Connection(port, transport, number) for number in range(count)]


class Run:
    """Many streams, each sent its request in turn within `ramp` seconds, read until all have ended."""

    def __init__(self, pid: int, connections: list[Connection], requests: list[bytes], ramp: float) -> None:
        self.clock = cpu_clock(pid)
        self.connections, self.requests, self.ramp = connections, requests, ramp
        self.bytes = self.chunks = self.started = self.ended = 0
        step = max(1, len(connections) // SAMPLES)
        for connection in connections[::step]:
            connection.times = []
        self.epoll = select.epoll()
        self.by_fd = {connection.socket.fileno(): connection for connection in connections}
        for fd, connection in self.by_fd.items():
            connection.socket.setblocking(False)
            self.epoll.register(fd, select.EPOLLIN)

    def look(self) -> tuple[int, int, int, float, float]:
        return self.bytes, self.chunks, time.clock_gettime_ns(self.clock), time.process_time(), time.perf_counter()

    def paced(self, chunks: int, rate: float, window: float) -> Streamed:
        """Streams of so many chunks at so many a second, measured in the window."""
        opened = closed = None
        edge = len(self.connections) // 20
        started = self.look()
        self.begin()
        while self.ended < len(self.connections):
            self.turn()
            if opened is None:
                if self.sent == len(self.connections) and self.started + edge >= self.sent:
                    opened = self.look()
            elif closed is None and (self.ended > edge or time.perf_counter() - opened[4] > window):
                closed = self.look()
        self.check(chunks)
        if not opened or not closed or closed[4] - opened[4] < window / 2:
            opened, closed = started, self.look()
        return self.result(opened, closed, rate)

    def begin(self) -> None:
        self.start, self.sent = time.perf_counter(), 0
        self.alive_at = self.start

    def turn(self) -> None:
        """One pass: the requests that are due, and what has come."""
        now = time.perf_counter()
        if self.sent < len(self.connections):
            due = (
                len(self.connections)
                if not self.ramp
                else int((now - self.start) / self.ramp * len(self.connections)) + 1
            )
            for number in range(self.sent, min(due, len(self.connections))):
                self.connections[number].sent_at = time.perf_counter()
                self.connections[number].socket.send(self.requests[number])
                self.sent = number + 1
        if now - self.start > PATIENCE_SECONDS:
            raise Lost(
                f"{self.ended} of {len(self.connections)} streams ended in {PATIENCE_SECONDS} s; {self.chunks} chunks"
            )
        if now > self.alive_at + ALIVE_SECONDS:
            self.alive_at = now
            for connection in self.connections:
                if connection.transport == "websocket":
                    connection.socket.send(wire.WS_PONG)
        time.sleep(LOOK_SECONDS)
        for fd, _ in self.epoll.poll(0):
            connection = self.by_fd[fd]
            data = connection.recv(READ_BYTES)
            count = connection.count
            if not data:
                if not count.ends:
                    raise Lost(f"the server closed connection {connection.number} after {count.chunks} chunks")
                self.epoll.unregister(fd)  # idle for too long, while others were still being served
                continue
            before, ends = count.chunks, count.ends
            if answer := count.feed(data):
                connection.socket.send(answer)
            after = count.chunks
            self.bytes += len(data)
            if after != before:
                self.chunks += after - before
                self.started += before == 0
                if connection.times is not None:
                    connection.times.append((time.perf_counter(), after))
            self.ended += count.ends - ends

    def check(self, chunks: int) -> None:
        for connection in self.connections:
            if connection.count.chunks != chunks or connection.count.ends != 1:
                raise Lost(
                    f"connection {connection.number} had {connection.count.chunks} chunks of {chunks} "
                    f"and {connection.count.ends} ends"
                )

    def result(
        self, opened: tuple[int, int, int, float, float], closed: tuple[int, int, int, float, float], rate: float
    ) -> Streamed:
        size, chunks, cpu, own, wall = (after - before for before, after in zip(opened, closed, strict=True))
        late = sorted(self.lateness(opened[4], closed[4], rate)) if rate else [0.0]
        if not chunks or not late:
            raise Lost("no chunk came in the window: the streams are too short")
        return Streamed(
            cpu_us_per_chunk=cpu / 1000 / chunks,
            bytes_per_chunk=size / chunks,
            chunks_per_second=chunks / wall,
            kept_up=chunks / wall / rate / len(self.connections) if rate else 1.0,
            lateness_p50_ms=late[len(late) // 2] * 1000,
            lateness_p99_ms=late[len(late) * 99 // 100] * 1000,
            load_cpu=own / wall,
        )

    def lateness(self, opened: float, closed: float, rate: float) -> list[float]:
        late: list[float] = []
        for connection in self.connections:
            if connection.times:
                before = 0
                for at, after in connection.times:
                    if opened <= at <= closed:
                        late += [at - connection.sent_at - number / rate for number in range(before + 1, after + 1)]
                    before = after
        return late

    def close(self) -> None:
        self.epoll.close()
        for connection in self.connections:
            connection.close()


def begun(port: int, transport: str, model: str) -> tuple[Connection, str, str]:
    """A turn that has begun, on a connection of its own, with its id and its session's."""
    connection = Connection(port, transport)
    connection.socket.sendall(wire.ask(transport, model))
    return connection, *wire.named(transport, connection.read_events(2))


def idle_followers(server_memory: Callable[[], int], port: int, transport: str, count: int) -> float:
    """Bytes of the server's memory that one more follower of a silent turn takes, its connection with it."""
    leader, turn_id, _ = begun(port, transport, "demo?chunks=2&rate=0.01")
    request = wire.follow(transport, turn_id)
    warm_up = opened_followers(port, transport, count // 10, request)
    before = server_memory()
    followers = opened_followers(port, transport, count, request)
    after = server_memory()
    for connection in (leader, *warm_up, *followers):
        connection.close()
    return (after - before) / count


def opened_followers(port: int, transport: str, count: int, request: bytes) -> list[Connection]:
    followers = connect(port, transport, count)
    for follower in followers:
        follower.socket.sendall(request)
    for follower in followers:
        follower.read_events(2)
    time.sleep(0.2)  # what the server does after a write
    return followers


class FirstEvents(NamedTuple):
    p50_ms: float
    p99_ms: float


def whole(runs: Sequence[Run], chunks: int) -> list[Streamed]:
    """Runs at the same time, each of them measured whole, the requests with it."""
    opened = [run.look() for run in runs]
    for run in runs:
        run.begin()
    while any(run.ended < len(run.connections) for run in runs):
        for run in runs:
            run.turn()
    closed = [run.look() for run in runs]
    for run in runs:
        run.check(chunks)
    return [run.result(*looks, 0) for run, *looks in zip(runs, opened, closed, strict=True)]


def first_events(ports: Sequence[int], transport: str, turns: int, model: str) -> list[FirstEvents]:
    """From the request to the first event, one turn after the other, on connections that have had a turn already; one
    connection to each server in turn: the machine is as fast for one as for the other."""
    times: list[list[float]] = [[] for _ in ports]
    while len(times[-1]) < turns:
        for port, taken in zip(ports, times, strict=True):
            connection = Connection(port, transport)
            took = [first_event(connection, number, model) for number in range(TURNS_PER_CONNECTION)]
            connection.close()
            taken += took[1:]
    return [
        FirstEvents(taken[len(taken) // 2] * 1000, taken[len(taken) * 99 // 100] * 1000) for taken in map(sorted, times)
    ]


def first_event(connection: Connection, number: int, model: str) -> float:
    """The turn of this number of a connection: seconds to its first event; returns when it is over."""
    count, first, data = connection.count, None, b""
    before = wire.events(count, data)
    request = wire.ask(connection.transport, model, 2 * number + 1)
    start = time.perf_counter()
    connection.socket.sendall(request)
    while not wire.turn_over(count, data, number + 1):
        data = connection.read()
        if answer := count.feed(data):
            connection.socket.sendall(answer)
        if first is None and wire.events(count, data) > before:
            first = time.perf_counter() - start
    if first is None:
        raise Lost("a turn without a first event")
    return first

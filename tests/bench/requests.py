"""The load generator for whole answers: requests over kept-alive connections, the next as soon as the answer is there.

As with streams, no write of a server wakes this process: it looks at its sockets, and sleeps a little where there is
nothing. To wait for them costs a server as much as a sixth of a `POST /chat`, and what it costs a virtual machine
depends on the host; a client on another machine does not cost that.
"""

import select
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.bench import load, wire

LOOK_SECONDS = 0.0001
TURNS = 20  # of each server, one after the other's


class Requested(NamedTuple):
    cpu_us_per_request: float
    requests_per_second: float
    load_cpu: float


class Asking:
    """Requests to one server over kept-alive connections, the next as soon as the answer has come."""

    def __init__(self, pid: int, port: int, transport: str, request: Callable[[int], bytes], connections: int) -> None:
        self.clock, self.request = load.cpu_clock(pid), request
        self.by_fd = {
            connection.socket.fileno(): connection for connection in load.connect(port, transport, connections)
        }
        self.epoll = select.epoll()
        for fd in self.by_fd:
            self.epoll.register(fd, select.EPOLLIN)
        self.sent = dict.fromkeys(self.by_fd, 0)
        self.rest = dict.fromkeys(self.by_fd, b"")
        self.forget()

    def forget(self) -> None:
        """What was asked so far was to warm up."""
        self.answered, self.seconds, self.load_seconds = 0, 0.0, 0.0
        self.cpu_before = time.clock_gettime_ns(self.clock)

    def ask(self, seconds: float) -> None:
        """For so long, and then until all is answered."""
        start, own = time.perf_counter(), time.process_time()
        for fd in self.by_fd:
            self.send(fd)
        unanswered, heard = len(self.by_fd), start
        while unanswered:
            ready, now = self.epoll.poll(0), time.perf_counter()
            if ready:
                heard = now
            elif now - heard > load.PATIENCE_SECONDS:
                raise load.Lost("an answer is missing")
            else:
                time.sleep(LOOK_SECONDS)
            goes_on = now - start < seconds
            for fd, _ in ready:
                if self.has_answer(fd):
                    self.answered += 1
                    if goes_on:
                        self.send(fd)
                    else:
                        unanswered -= 1
        self.seconds += time.perf_counter() - start
        self.load_seconds += time.process_time() - own

    def send(self, fd: int) -> None:
        self.by_fd[fd].socket.send(self.request(self.sent[fd]))
        self.sent[fd] += 1

    def has_answer(self, fd: int) -> bool:
        """Reads what is there of it."""
        connection = self.by_fd[fd]
        data = self.rest[fd] + connection.read()
        if isinstance(connection.count, wire.GrpcCount):
            ended = connection.count.trailers
            if answer := connection.count.feed(data):
                connection.socket.send(answer)
            if connection.count.heads < 2 * connection.count.trailers:
                raise load.Lost("a gRPC call failed: its only headers were trailers")
            return connection.count.trailers > ended
        whole = wire.whole(data)
        self.rest[fd] = b"" if whole else data
        if whole and not data.startswith(b"HTTP/1.1 200"):
            raise load.Lost(data[:300].decode("latin-1"))
        return whole

    def result(self) -> Requested:
        cpu = time.clock_gettime_ns(self.clock) - self.cpu_before
        return Requested(cpu / 1000 / self.answered, self.answered / self.seconds, self.load_seconds / self.seconds)

    def close(self) -> None:
        self.epoll.close()
        for connection in self.by_fd.values():
            connection.close()


def requested(askings: Sequence[Asking], seconds: float) -> list[Requested]:
    """Each server for so long, in short turns, once they are warm: the machine is as fast for one as for the other."""
    for asking in askings:
        asking.ask(seconds / 4)
        asking.forget()
    for _ in range(TURNS):
        for asking in askings:
            asking.ask(seconds / TURNS)
    return [asking.result() for asking in askings]

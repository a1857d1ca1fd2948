"""The measures: what is done to a server, and the rows of the table that come of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from tests.bench import load, wire
from tests.bench.requests import Asking, requested
from tests.bench.servers import Server

OURS, LIMIT = "ours", "limit"


class Sizes(NamedTuple):
    """How much of everything: numbers of streams and readers, seconds of a window."""

    few: int = 500
    many: int = 2000
    readers: int = 1000
    followers: int = 2000
    window: float = 2.0
    slack: float = 0.6  # seconds that a stream goes on beyond ramp and window
    flat_streams: int = 100
    flat_chunks: int = 1000
    turns: int = 10_000
    rounds: int = 3


QUICK = Sizes(few=200, many=1000, readers=500, followers=500, window=1.0, flat_chunks=300, turns=100, rounds=1)
TINY = Sizes(
    few=2, many=3, readers=3, followers=3, window=0.1, slack=2.0, flat_streams=2, flat_chunks=20, turns=50, rounds=1
)
RATE = 40.0  # chunks a second and stream
FAN_OUT_RATE = 10.0  # so that the peers keep up with the readers

Figures = dict[str, float]
Measured = Callable[[Server, str, Sizes], Figures]
MeasuredTogether = Callable[[Sequence[Server], str, Sizes], list[Figures]]


class Row(NamedTuple):
    """One figure of a measure, with its goals: at most so much of the peer's and of the limit's, by transport."""

    measure: str
    field: str
    title: str
    of_peer: float | Mapping[str, float] | None = None
    of_limit: float | Mapping[str, float] | None = None


class Measure(NamedTuple):
    name: str
    run: MeasuredTogether
    transports: tuple[str, ...] = wire.TRANSPORTS
    contenders: tuple[str, ...] = (OURS, LIMIT, "peer")  # the limit takes no time, a peer may take a minute
    together: bool = False  # all contenders at once or in short turns, on the one core, instead of one after the other
    fresh: bool = False  # needs servers that have not worked yet
    once: bool = False  # not in every round


def peer(transport: str) -> str:
    return "grpcio" if transport in ("grpc", "unary") else "fastapi"


def streams(server: Server, transport: str, count: int, sizes: Sizes) -> Figures:
    ramp = min(1.5, 0.1 + count / 1000)
    chunks = int(RATE * (ramp + sizes.window + sizes.slack))
    requests = [wire.ask(transport, f"demo?chunks={chunks}&rate={RATE:g}") for _ in range(count)]
    run = load.Run(server.pid, load.connect(server.port_of(transport), transport, count), requests, ramp)
    try:
        return run.paced(chunks, RATE, sizes.window)._asdict()
    finally:
        run.close()


def few_streams(server: Server, transport: str, sizes: Sizes) -> Figures:
    return streams(server, transport, sizes.few, sizes)


def many_streams(server: Server, transport: str, sizes: Sizes) -> Figures:
    return streams(server, transport, sizes.many, sizes)


def flat_out(server: Server, transport: str, sizes: Sizes) -> Figures:
    chunks, count = sizes.flat_chunks, sizes.flat_streams
    requests = [wire.ask(transport, f"demo?chunks={chunks}&rate=0") for _ in range(count)]
    run = load.Run(server.pid, load.connect(server.port_of(transport), transport, count), requests, 0)
    try:
        (streamed,) = load.whole([run], chunks)
        return streamed._asdict()
    finally:
        run.close()


def fan_out(server: Server, transport: str, sizes: Sizes) -> Figures:
    """One turn, and as many readers as there are."""
    port, ramp = server.port_of(transport), min(1.0, sizes.readers / 1000)
    followers = load.connect(port, transport, sizes.readers)
    chunks = int(FAN_OUT_RATE * (ramp + sizes.window + 2 * sizes.slack))
    leader, turn_id, _ = load.begun(port, transport, f"demo?chunks={chunks}&rate={FAN_OUT_RATE:g}")
    run = load.Run(server.pid, followers, [wire.follow(transport, turn_id)] * len(followers), ramp)
    try:
        return run.paced(chunks, FAN_OUT_RATE, sizes.window)._asdict()
    finally:
        run.close()
        leader.close()


def requests(servers: Sequence[Server], transport: str, sizes: Sizes) -> list[Figures]:
    """POST /chat, a turn of ten pieces in a new session; or GetSessionInfo over gRPC."""
    asking = call if transport == "unary" else post
    askings = [asking(server) for server in servers]
    try:
        return [figures._asdict() for figures in requested(askings, sizes.window)]
    finally:
        for asked in askings:
            asked.close()


def post(server: Server) -> Asking:
    request = cache(lambda number: wire.post_chat("demo?chunks=10&rate=0", number))
    return Asking(server.pid, server.port, "ndjson", request, 16)


def call(server: Server) -> Asking:
    port = server.port_of("grpc")
    connection, _, session_id = load.begun(port, "grpc", "demo?chunks=1&rate=0")
    connection.close()
    request = cache(lambda number: wire.session_info(session_id, 2 * number + 1))
    return Asking(server.pid, port, "grpc", request, 16)


def first_event(servers: Sequence[Server], transport: str, sizes: Sizes) -> list[Figures]:
    ports = [server.port_of(transport) for server in servers]
    return [e._asdict() for e in load.first_events(ports, transport, sizes.turns, "demo?chunks=1&rate=0")]


def idle(server: Server, transport: str, sizes: Sizes) -> Figures:
    size = load.idle_followers(server.memory_bytes, server.port_of(transport), transport, sizes.followers)
    return {"kilobytes": size / 1000}


def store(servers: Sequence[Server], transport: str, sizes: Sizes) -> list[Figures]:
    """Turns of 100 chunks, from the request to the end, once a first crowd of them has warmed the servers and their
    files; then the time to the first event.

    Both servers at the same time: a crowd's cost differs by a tenth from the cost of the one before, and what makes the
    difference then weighs on both alike."""
    count, chunks = sizes.few, 100
    asked = [wire.ask(transport, f"demo?chunks={chunks}&rate={RATE:g}") for _ in range(count)]
    for _ in ("warm", "measured"):
        runs = [
            load.Run(server.pid, load.connect(server.port_of(transport), transport, count), asked, 1.0)
            for server in servers
        ]
        try:
            crowds = load.whole(runs, chunks)
        finally:
            for run in runs:
                run.close()
    return [
        {"cpu_us_per_turn": crowd.cpu_us_per_chunk * chunks, "first_ms": first["p50_ms"], "load_cpu": crowd.load_cpu}
        for crowd, first in zip(crowds, first_event(servers, transport, sizes), strict=True)
    ]


def alone(run: Measured) -> MeasuredTogether:
    return lambda servers, transport, sizes: [run(server, transport, sizes) for server in servers]


MEASURES = (
    Measure("streams", alone(few_streams)),
    Measure("many", alone(many_streams)),
    Measure("flat", alone(flat_out)),
    Measure("fanout", alone(fan_out)),
    Measure("requests", requests, ("rest", "unary"), together=True),
    Measure("first", first_event, together=True),
    Measure("idle", alone(idle), fresh=True, once=True),
    Measure("store", store, ("ndjson",), (OURS, "sqlite"), together=True, fresh=True),
)
_PEERS = {"ndjson": 0.55, "sse": 0.42, "websocket": 0.48, "grpc": 0.33}
_LIMITS = {"ndjson": 1.4, "sse": 1.4, "websocket": 1.4, "grpc": 1.5}


def rows(sizes: Sizes) -> tuple[Row, ...]:
    few, many = f"{sizes.few} streams", f"{sizes.many:,} streams"
    return (
        Row("streams", "cpu_us_per_chunk", f"CPU per chunk, {few}, µs", _PEERS, _LIMITS),
        Row("many", "cpu_us_per_chunk", f"CPU per chunk, {many}, µs", _PEERS, _LIMITS),
        Row("flat", "cpu_us_per_chunk", "CPU per chunk, as fast as it can, µs"),
        Row(
            "fanout",
            "cpu_us_per_chunk",
            f"CPU per delivered chunk, 1 turn to {sizes.readers:,} readers, µs",
            None,
            1.15,
        ),
        Row("streams", "lateness_p99_ms", f"lateness of a chunk, {few}, p99, ms"),
        Row("many", "lateness_p99_ms", f"lateness of a chunk, {many}, p99, ms", 1.0),
        Row("many", "kept_up", f"delivered of the asked pace, {many}"),
        Row("first", "p50_ms", "time to the first event, p50, ms", 1.0),
        Row("first", "p99_ms", "time to the first event, p99, ms", 1.0),
        Row("requests", "cpu_us_per_request", "CPU per request, µs", {"rest": 0.5, "unary": 0.9}),
        Row("requests", "requests_per_second", "requests a second"),
        Row("idle", "kilobytes", "memory per idle follower, kB", 0.5),
        Row("streams", "bytes_per_chunk", "bytes on the wire per chunk"),
    )

"""What the server counts, and the shapes in which it tells: health, stats, Prometheus text."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from proto.answers import Health, ServerStats, TransportStats
from proto.events import Usage
from server.clock import rfc3339
from server.lane import Counter, Follower, Framing

FRAMEWORK = "aiohttp + grpclib"
TRANSPORTS = ("rest", "ndjson", "sse", "websocket", "grpc", "grpc_web")
SAMPLES = 1024  # first-chunk times kept per transport: the quantiles speak of the latest


class TransportFigures(Counter):
    """One transport since the start."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.chunks = 0
        self.first_chunks: deque[float] = deque(maxlen=SAMPLES)
        self.followers: dict[Follower, None] = {}

    def tell(self) -> TransportStats:
        """The figures, with those of the streams that are open now."""
        times = sorted(self.first_chunks)
        return TransportStats(
            requests=self.requests,
            open_streams=len(self.followers),
            chunks=self.chunks + sum(follower.chunks for follower in self.followers),
            bytes=self.bytes,
            first_chunk_p50=quantile(times, 0.5),
            first_chunk_p99=quantile(times, 0.99),
        )


class Stats:
    """Counters only: whoever counts calls, nobody is called."""

    def __init__(self) -> None:
        self.started = time.time()
        self.transports = {name: TransportFigures() for name in TRANSPORTS}
        self.total_requests = 0
        self.successful_requests = 0
        self.failed_requests = 0
        self.sessions_created = 0
        self.response_seconds = 0.0
        self.input_tokens = 0
        self.output_tokens = 0
        self.estimated = False
        self.cost: float | None = None
        self.websockets = 0
        self.open_streams = 0

    def asked(self, transport: str) -> None:
        self.transports[transport].requests += 1

    def begun(self) -> None:
        """A request has become a turn. One that attaches to a turn has not: all are good, failed, or running."""
        self.total_requests += 1

    def refused(self) -> None:
        """A request that became no turn."""
        self.total_requests += 1
        self.failed_requests += 1

    def answered(self, transport: str, seconds: float, first_chunk: float | None, usage: Usage) -> None:
        self.successful_requests += 1
        self.response_seconds += seconds
        self._used(transport, first_chunk, usage)

    def failed(self, transport: str, first_chunk: float | None, usage: Usage) -> None:
        self.failed_requests += 1
        self._used(transport, first_chunk, usage)

    def _used(self, transport: str, first_chunk: float | None, usage: Usage) -> None:
        if first_chunk is not None:
            self.transports[transport].first_chunks.append(first_chunk)
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.estimated = self.estimated or usage.estimated
        if usage.cost is not None:
            self.cost = (self.cost or 0.0) + usage.cost

    def counter(self, framing: Framing) -> Counter:
        return self.transports[framing.name]

    def joined(self, follower: Follower) -> None:
        self.transports[follower.reader.framing.name].followers[follower] = None
        self.open_streams += 1

    def left(self, follower: Follower) -> None:
        figures = self.transports[follower.reader.framing.name]
        del figures.followers[follower]
        self.open_streams -= 1
        figures.chunks += follower.chunks

    def health(self, status: str, model: str, sessions: int) -> Health:
        """The figures that cost nothing, however many streams are open: they are asked for every few seconds."""
        return Health(
            status=status,
            model=model,
            uptime_seconds=round(time.time() - self.started, 3),
            total_requests=self.total_requests,
            successful_requests=self.successful_requests,
            failed_requests=self.failed_requests,
            active_sessions=sessions,
            streaming_connections=self.open_streams,
            websocket_connections=self.websockets,
        )

    def tell(self, health: Health, running: int) -> ServerStats:
        return ServerStats(
            **health._asdict(),
            average_response_time=self.response_seconds / max(1, self.successful_requests),
            start_time=rfc3339(self.started),
            total_sessions_created=self.sessions_created,
            framework=FRAMEWORK,
            running_turns=running,
            usage=Usage(self.input_tokens, self.output_tokens, self.estimated, self.cost),
            transports={name: figures.tell() for name, figures in self.transports.items()},
        )


def quantile(ordered: list[float], q: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def prometheus(stats: ServerStats) -> str:
    """The stats in Prometheus text format, version 0.0.4."""
    return "".join(f"{line}\n" for line in _lines(stats))


def _lines(stats: ServerStats) -> Iterator[str]:
    def metric(name: str, kind: str, text: str, values: Iterable[tuple[Mapping[str, str], float]]) -> Iterator[str]:
        yield f"# HELP fivewire_{name} {text}"
        yield f"# TYPE fivewire_{name} {kind}"
        for labels, value in values:
            inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            yield f"fivewire_{name}{'{' + inside + '}' if inside else ''} {value!r}"

    none: Mapping[str, str] = {}
    yield from metric("info", "gauge", "What is served.", [({"model": stats.model, "framework": stats.framework}, 1)])
    for status in ("healthy", "draining", "degraded"):
        if status == "healthy":
            yield "# HELP fivewire_status The state of the server: 1 for the present one."
            yield "# TYPE fivewire_status gauge"
        yield f'fivewire_status{{status="{status}"}} {int(stats.status == status)}'
    for name, kind, text, value in (
        ("uptime_seconds", "gauge", "Seconds since the start.", stats.uptime_seconds),
        ("requests_total", "counter", "Chat requests.", stats.total_requests),
        ("requests_successful_total", "counter", "Chat requests answered to the end.", stats.successful_requests),
        ("requests_failed_total", "counter", "Chat requests that failed.", stats.failed_requests),
        ("sessions", "gauge", "Sessions that exist.", stats.active_sessions),
        ("sessions_created_total", "counter", "Sessions created.", stats.total_sessions_created),
        ("running_turns", "gauge", "Answers being produced.", stats.running_turns),
        ("streaming_connections", "gauge", "Open streams.", stats.streaming_connections),
        ("websocket_connections", "gauge", "Open WebSockets.", stats.websocket_connections),
        ("average_response_seconds", "gauge", "Mean time of an answer.", stats.average_response_time),
        ("input_tokens_total", "counter", "Tokens sent to models.", stats.usage.input_tokens),
        ("output_tokens_total", "counter", "Tokens made by models.", stats.usage.output_tokens),
    ):
        yield from metric(name, kind, text, [(none, value)])
    if stats.usage.cost is not None:
        yield from metric("cost_total", "counter", "Cost at the prices set.", [(none, stats.usage.cost)])
    rows = stats.transports.items()
    for name, kind, text, field in (
        ("transport_requests_total", "counter", "Chat requests by transport.", "requests"),
        ("transport_open_streams", "gauge", "Open streams by transport.", "open_streams"),
        ("transport_chunks_total", "counter", "Chunks delivered by transport.", "chunks"),
        ("transport_bytes_total", "counter", "Bytes of events delivered by transport.", "bytes"),
    ):
        yield from metric(name, kind, text, [({"transport": row}, getattr(figures, field)) for row, figures in rows])
    yield from metric(
        "first_chunk_seconds",
        "summary",
        "Time to the first chunk of the latest answers.",
        [
            ({"transport": row, "quantile": q}, value)
            for row, figures in rows
            for q, value in (("0.5", figures.first_chunk_p50), ("0.99", figures.first_chunk_p99))
            if value is not None
        ],
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

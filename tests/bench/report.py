"""Medians, ratios, the Markdown tables and the README's section."""

import os
import platform
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.rows import LIMIT, OURS, Figures, Row, Sizes, rows

NAMES = {
    "ndjson": "NDJSON",
    "sse": "SSE",
    "websocket": "WebSocket",
    "grpc": "gRPC",
    "rest": "POST /chat",
    "unary": "gRPC unary",
}
PACKAGES = ("aiohttp", "grpclib", "protobuf", "fastapi", "uvicorn", "uvloop", "sse-starlette", "grpcio")
BUSY = 0.9  # a load generator that works for more of the time than this may itself be the limit
START, END = "<!-- bench -->", "<!-- /bench -->"

Results = dict[tuple[str, str, str], list[Figures]]


def medians(results: Results) -> dict[tuple[str, str, str], Figures]:
    return {
        key: {field: median(figures[field] for figures in rounds) for field in rounds[0]}
        for key, rounds in results.items()
        if rounds
    }


def machine() -> str:
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            pass
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {model[1] if model else platform.machine()}, {os.cpu_count()} cores, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, {', '.join(found)}"
    )


def goal(row_goal: float | Mapping[str, float] | None, transport: str) -> float | None:
    return row_goal.get(transport) if isinstance(row_goal, Mapping) else row_goal


def lines(results: Results, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """One entry for each row and transport."""
    found = medians(results)
    for row in rows(sizes):
        for transport in NAMES:
            values = {
                name: found.get((row.measure, transport, name), {}).get(row.field) for name in (OURS, "peer", LIMIT)
            }
            if values[OURS] is not None:
                yield line(row, transport, values)


def line(row: Row, transport: str, values: dict[str, float | None]) -> dict[str, Any]:
    ours = values[OURS]
    ratios = {name: ours / value if value else None for name, value in values.items()}  # type: ignore[operator]
    goals = {"peer": goal(row.of_peer, transport), LIMIT: goal(row.of_limit, transport)}
    met = [ratio <= goals[name] for name, ratio in ratios.items() if ratio is not None and goals.get(name)]  # type: ignore
    return {
        "title": row.title,
        "transport": NAMES[transport],
        **values,
        "of_peer": ratios["peer"],
        "of_limit": ratios[LIMIT],
        "goal_of_peer": goals["peer"],
        "goal_of_limit": goals[LIMIT],
        "met": all(met) if met else None,
    }


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(entries: list[dict[str, Any]]) -> str:
    out = [
        "| measure | transport | here | peer | limit | of the peer | of the limit | goals | |",
        "|---|---|---:|---:|---:|---:|---:|---|---|",
    ]
    last = None
    for entry in entries:
        goals = ", ".join(
            f"{entry['goal_of_' + name]:g} of the {name}" for name in ("peer", "limit") if entry["goal_of_" + name]
        )
        met = {True: "met", False: "MISSED", None: ""}[entry["met"]]
        title = entry["title"] if entry["title"] != last else ""
        last = entry["title"]
        cells = [number(entry[name]) for name in (OURS, "peer", LIMIT, "of_peer", "of_limit")]
        out.append(f"| {title} | {entry['transport']} | {' | '.join(cells)} | {goals} | {met} |")
    return "\n".join(out) + "\n"


def store_lines(results: Results) -> list[str]:
    found = medians(results)
    memory, sqlite = found.get(("store", "ndjson", OURS)), found.get(("store", "ndjson", "sqlite"))
    if not memory or not sqlite:
        return []
    cost = sqlite["cpu_us_per_turn"] / memory["cpu_us_per_turn"] - 1
    later = sqlite["first_ms"] - memory["first_ms"]
    return [
        f"SQLite instead of memory: {cost:+.1%} CPU per streamed turn of 100 chunks "
        f"({memory['cpu_us_per_turn']:.0f} -> {sqlite['cpu_us_per_turn']:.0f} µs; goal: at most +15%), first event "
        f"{later:+.2f} ms at p50 ({memory['first_ms']:.2f} -> {sqlite['first_ms']:.2f} ms; goal: at most +1 ms).",
    ]


def busy_lines(results: Results) -> list[str]:
    """Where the load generator was the brake: the CPU figures hold, the pace and the lateness are its own."""
    busiest: dict[str, float] = {}
    for (measure, transport, name), rounds in results.items():
        busy = max(figures.get("load_cpu", 0.0) for figures in rounds)
        if busy > BUSY:
            busiest[f"{measure} {transport} {name}"] = busy
    if not busiest:
        return ["The load generator always had time to spare."]
    told = ", ".join(f"{what} ({busy:.0%})" for what, busy in busiest.items())
    return [f"The load generator was busy all the time in: {told}. There, the pace is its own."]


def readme_section(results: Results, sizes: Sizes) -> str:
    """Ratios only: absolute figures would speak of the machine."""
    out = ["| measure | transport | of the peer | of the limit |", "|---|---|---:|---:|"]
    for entry in lines(results, sizes):
        if entry["goal_of_peer"] or entry["goal_of_limit"]:
            title = re.sub(r", (µs|ms|kB)$", "", entry["title"])
            out.append(f"| {title} | {entry['transport']} | {number(entry['of_peer'])} | {number(entry['of_limit'])} |")
    out += [
        "",
        *store_lines(results),
        "",
        f"Measured: {machine()}; {'one round' if sizes.rounds == 1 else f'medians of {sizes.rounds} rounds'}.",
    ]
    return "\n".join(out) + "\n"


def write_readme(path: Path, section: str) -> None:
    text = path.read_text()
    before, start, rest = text.partition(START + "\n")
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"{path.name} has no section between {START} and {END}")
    path.write_text(before + start + section + end + after)

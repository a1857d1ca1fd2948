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

# By measure, transport and contender: what each round gave.
Results = dict[tuple[str, str, str], dict[int, Figures]]


def median_of(results: Results, key: tuple[str, str, str], field: str) -> float | None:
    rounds = results.get(key, {}).values()
    return median(figures[field] for figures in rounds) if rounds else None


def ratio(results: Results, ours: tuple[str, str, str], other: tuple[str, str, str], field: str) -> float | None:
    """The median of the rounds' ratios: the machine may be half as fast in one round as in the next, and within a round
    everybody's turn comes soon after the others'."""
    mine, theirs = results.get(ours, {}), results.get(other, {})
    ratios = [mine[number][field] / theirs[number][field] for number in mine if theirs.get(number, {}).get(field)]
    return median(ratios) if ratios else None


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
    for row in rows(sizes):
        for transport in NAMES:
            keys = {name: (row.measure, transport, name) for name in (OURS, "peer", LIMIT)}
            if keys[OURS] in results:
                values = {name: median_of(results, key, row.field) for name, key in keys.items()}
                ratios = {name: ratio(results, keys[OURS], key, row.field) for name, key in keys.items()}
                yield line(row, transport, values, ratios)


def line(row: Row, transport: str, values: dict[str, float | None], ratios: dict[str, float | None]) -> dict[str, Any]:
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
    memory, sqlite = (results.get(("store", "ndjson", name), {}) for name in (OURS, "sqlite"))
    both = [(memory[number], sqlite[number]) for number in memory if number in sqlite]
    if not both:
        return []
    cost = median(disk["cpu_us_per_turn"] / fast["cpu_us_per_turn"] - 1 for fast, disk in both)
    later = median(disk["first_ms"] - fast["first_ms"] for fast, disk in both)
    return [
        f"SQLite instead of memory: {cost:+.1%} CPU per streamed turn of 100 chunks (goal: at most +15%), first event "
        f"{later:+.2f} ms at p50 (goal: at most +1 ms).",
    ]


def busy_lines(results: Results) -> list[str]:
    """Where the load generator was the brake: the CPU figures hold, the pace and the lateness are its own."""
    busiest: dict[str, float] = {}
    for (measure, transport, name), rounds in results.items():
        busy = max(figures.get("load_cpu", 0.0) for figures in rounds.values())
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

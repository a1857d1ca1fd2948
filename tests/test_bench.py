"""The benchmark runs, and loses nothing: this server and the limit, which need none of its extra packages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import report

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="it reads process clocks as Linux has them"
)


def bench(tmp_path: Path, *only: str) -> list[dict[str, Any]]:
    figures = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--tiny", f"--json={figures}", *(f"--only={name}" for name in only)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    rows: list[dict[str, Any]] = json.loads(figures.read_text())["rows"]
    assert all(row["title"] in run.stdout for row in rows)
    return [row for row in rows if row["ours"] and row["limit"]]


def test_a_peer_that_is_not_installed_is_told(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('as where it is not installed')")
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--tiny", "--only=peer", "--only=requests"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 1 and "does not start: pip install '.[bench]' brings" in run.stderr


def test_it_measures_every_transport(tmp_path: Path) -> None:
    measured = {row["transport"] for row in bench(tmp_path, "flat", "requests", "first", "ours", "limit")}
    assert measured == {"NDJSON", "SSE", "WebSocket", "gRPC", "POST /chat", "gRPC unary"}


def test_it_measures_at_a_pace(tmp_path: Path) -> None:
    measured = {row["title"] for row in bench(tmp_path, "streams", "sse", "ours", "limit")}
    assert {title.split(",")[0] for title in measured} == {
        "CPU per chunk",
        "lateness of a chunk",
        "bytes on the wire per chunk",
    }


def test_ratios_are_those_of_a_round() -> None:
    ours, peer = ("first", "sse", "ours"), ("first", "sse", "peer")
    results: report.Results = {
        ours: {0: {"p50_ms": 1.0}, 1: {"p50_ms": 4.0}, 2: {"p50_ms": 3.0}},
        peer: {0: {"p50_ms": 2.0}, 2: {"p50_ms": 2.0}},
    }
    assert report.ratio(results, ours, peer, "p50_ms") == 1.0  # of 0.5 and 1.5; a round that failed has none
    assert report.ratio(results, ours, ("first", "sse", "limit"), "p50_ms") is None
    assert report.median_of(results, ours, "p50_ms") == 3.0

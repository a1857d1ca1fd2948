"""Measures this server beside its peers and the limit: `python -m tests.bench --help`.

1. Servers run on one core and the load generator (this process) on another; the servers that are not being asked wait.
2. Rounds are interleaved: each measure asks every server in turn (requests and first events in many short ones), then
   comes the next round, with new processes: the same code can be half as fast again in one as in another, for as long
   as that lives. Figures are medians of the rounds, ratios medians of the rounds' ratios; only ratios mean anything.
3. All servers send the same events with the same fields, texts of the same sizes, at the same pace.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from tests.bench import load, report, wire
from tests.bench.rows import LIMIT, MEASURES, OURS, QUICK, TINY, Measure, Sizes, peer
from tests.bench.servers import LOAD_CORE, ROOT, Server, pin, raise_file_limit


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition(":")[0] + ".")
    measures = ", ".join(measure.name for measure in MEASURES)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a measure ({measures}), a transport or a server (ours, peer, limit); repeatable",
    )
    parser.add_argument("--rounds", type=int, help="how many rounds (3)")
    parser.add_argument("--quick", action="store_true", help="fewer streams, shorter windows, one round")
    parser.add_argument("--tiny", action="store_true", help="a handful of streams: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds there")
    parser.add_argument("--readme", action="store_true", help="write the ratios into README.md")
    chosen = parser.parse_args()
    known = {m.name for m in MEASURES} | {"rest", "unary", *wire.TRANSPORTS} | {OURS, "peer", LIMIT, "sqlite"}
    for name in chosen.only:
        if name not in known:
            parser.error(f"--only {name}: not one of {', '.join(sorted(known))}")
    return chosen


class Bench:
    """The servers, started when they are first needed in a round, and what was measured of them."""

    def __init__(self, sizes: Sizes, only: list[str]) -> None:
        self.sizes, self.only = sizes, set(only)
        self.servers: dict[str, Server] = {}
        self.results: report.Results = {}
        self.failures = 0

    def run(self) -> None:
        for number in range(self.sizes.rounds):
            try:
                for measure in MEASURES:
                    if not (measure.once and number):
                        self.measure(measure, number)
            finally:
                for server in self.servers.values():
                    server.stop()
                self.servers.clear()

    def chosen(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self.only] or list(names)

    def measure(self, measure: Measure, number: int) -> None:
        if self.only & {other.name for other in MEASURES} and measure.name not in self.only:
            return
        if self.only & {"rest", "unary", *wire.TRANSPORTS} and not self.only & set(measure.transports):
            return
        for transport in self.chosen(measure.transports):
            contenders = self.chosen(measure.contenders)
            for group in [contenders] if measure.together else [[name] for name in contenders]:
                self.once(measure, transport, group, number)

    def once(self, measure: Measure, transport: str, contenders: list[str], number: int) -> None:
        names = [peer(transport) if contender == "peer" else contender for contender in contenders]
        for name in names:
            if measure.fresh and name in self.servers:
                self.servers.pop(name).stop()
            if name not in self.servers:
                self.servers[name] = Server(name)
        what = f"round {number + 1}: {measure.name} {transport}"
        try:
            measured = measure.run([self.servers[name] for name in names], transport, self.sizes)
        except (load.Lost, OSError) as failure:
            print(f"{what} {', '.join(names)}: FAILED: {failure}", file=sys.stderr)
            for name in names:
                self.servers.pop(name).stop()
            self.failures += 1
            return
        for contender, name, figures in zip(contenders, names, measured, strict=True):
            told = " ".join(f"{field}={value:.2f}" for field, value in figures.items())
            print(f"{what} {name}: {told}", file=sys.stderr, flush=True)
            self.results.setdefault((measure.name, transport, contender), {})[number] = figures


def main() -> int:
    chosen = options()
    if not sys.platform.startswith("linux"):
        raise SystemExit("It reads process clocks as Linux has them.")
    sizes = TINY if chosen.tiny else QUICK if chosen.quick else Sizes()
    if chosen.rounds:
        sizes = sizes._replace(rounds=chosen.rounds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of `finally`: the servers are stopped
    raise_file_limit()
    pin(LOAD_CORE)
    bench = Bench(sizes, chosen.only)
    bench.run()
    entries = list(report.lines(bench.results, sizes))
    notes = [*report.store_lines(bench.results), *report.busy_lines(bench.results), report.machine()]
    print(report.table(entries))
    print("\n".join(notes))
    if chosen.json:
        rounds = [
            {"measure": m, "transport": t, "server": s, "rounds": [*r.values()]}
            for (m, t, s), r in bench.results.items()
        ]
        text = json.dumps({"machine": report.machine(), "rows": entries, "rounds": rounds}, indent=1)
        chosen.json.write_text(text + "\n")
    if chosen.readme:
        report.write_readme(ROOT / "README.md", report.readme_section(bench.results, sizes))
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())

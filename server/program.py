"""What `python -m server` does: start, say where it listens and which model answers, drain on SIGTERM and SIGINT."""

import asyncio
import gc
import json
import os
import signal
import sys

from proto import VERSION
from proto.errors import ChatError
from server import logs, reload
from server.app import App, bind_all
from server.settings import Settings, parse
from server.stores import StoreRefused


def main() -> int:
    settings = parse(sys.argv[1:])
    logs.configure(settings.log_format, settings.quiet)
    try:
        if settings.reload and not reload.is_child():
            return reload.supervise(bind_all(settings))
        return asyncio.run(_serve(settings))
    except KeyboardInterrupt:
        return 130
    except StoreRefused as error:
        return _refuse(str(error))
    except ChatError as error:
        return _refuse(error.message)
    except OSError as error:
        reason = error.strerror or error
        return _refuse(f"cannot listen on {settings.host}: {reason}. Choose another --host, --port or --grpc-port.")


def _refuse(reason: str) -> int:
    print(f"fivewire: {reason}", file=sys.stderr)
    return 1


async def _serve(settings: Settings) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopped.is_set():
            os._exit(1)  # the second signal: now
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    reload.watch_parent(stopped.set)
    app = App(settings)
    await app.start(reload.inherited())
    # What exists now lives as long as the process: the collector need not walk through it again. Nothing that ends here
    # is a cycle, so it may look rarely; but what it looks at together must not make streams stutter: the middle
    # generation, two of the youngest, takes some 15 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 1, 200)
    _banner(settings, app)
    await stopped.wait()
    logs.tell("draining", running_turns=app.chat.tell().running_turns)
    await app.stop()
    logs.tell("stopped")
    return 0


def _banner(settings: Settings, app: App) -> None:
    """One line per address; one JSON object where the log is JSON."""
    form = settings.log_format or ("human" if sys.stdout.isatty() else "json")
    if form == "json":
        where = {"event": "listening", "http": app.http_url, "grpc": next(iter(app.grpc_addresses), None)}
        print(json.dumps({**where, "model": app.catalog.default, "reason": app.catalog.reason}), flush=True)
        return
    print(f"fivewire {VERSION} · model {app.catalog.default} ({app.catalog.reason}) · store {app.store.name}")
    for url in app.http_urls:
        print(f"  listening on {url}  (HTTP, WebSocket, gRPC, gRPC-Web; try {url}/demo)")
    for address in app.grpc_addresses:
        print(f"  listening on {address}  (gRPC)")
    print("  Ctrl-C stops it", flush=True)

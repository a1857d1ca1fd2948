"""A server that is none of ours, and says whatever a test has it say."""

import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def lines(events: Sequence[Mapping[str, Any]]) -> str:
    """A turn's events as NDJSON."""
    return "".join([json.dumps(event) + "\n" for event in events])


class Stranger:
    """`answers` has the body for each `METHOD /path`, JSON or lines of it; a path that ends in a slash stands for all
    below it. What is not in there is not found."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = f"{self.command} {self.path.partition('?')[0]}"
                body = answers.get(asked, answers.get(asked[: asked.rindex("/") + 1]))
                self.send_response(404 if body is None else 200)
                streams = "/chat/stream" in asked or "/turns/" in asked
                self.send_header("Content-Type", "application/x-ndjson" if streams else "application/json")
                self.end_headers()
                self.wfile.write((body or "").encode())

            do_GET = do_POST = do_DELETE = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

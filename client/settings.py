"""The command line of the client."""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from proto import VERSION
from proto.errors import ChatError
from proto.requests import check_model_id, check_session_id

PROTOCOLS = ("rest", "ndjson", "sse", "websocket", "grpc")
ALIASES = {"http": "ndjson", "ws": "websocket"}
DEFAULT_SERVER = "http://127.0.0.1:8000"

_EXIT_CODES = """\
With a MESSAGE, or with messages on standard input (one a line), it answers on standard output and exits:
0 well, 1 the server said no or the output cannot be written, 2 wrong usage, 3 no connection, 130 interrupted,
141 whoever reads has enough.
Without, it opens a prompt; /help there lists the commands.
A certificate that the system does not know is trusted through SSL_CERT_FILE."""


class Settings(NamedTuple):
    protocol: str
    server: str
    session: str | None
    model: str | None
    json: bool
    plain: bool
    message: str | None


def protocol_named(text: str) -> str | None:
    """The protocol that is meant: its name, an alias, or a beginning that fits no other."""
    name = text.lower()
    if name in ALIASES or name in PROTOCOLS:
        return ALIASES.get(name, name)
    fits = {protocol for protocol in PROTOCOLS if name and protocol.startswith(name)}
    return fits.pop() if len(fits) == 1 else None


def server_url(text: str) -> str:
    """An HTTP address; `localhost:8000` will do."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # as whoever looks it up does
        is_fine = parts.port != 0
    except ValueError:
        is_fine = False
    if not is_fine or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no server address; it looks like {DEFAULT_SERVER}")
    return url.rstrip("/")


def parse(arguments: Sequence[str]) -> Settings:
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="Chat in the terminal, over any of five protocols.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("message", nargs="*", metavar="MESSAGE", help="ask this, print the answer, and exit")
    parser.add_argument("--protocol", default="sse", metavar="NAME", help=f"{', '.join(PROTOCOLS)} (default: sse)")
    parser.add_argument(
        "--server",
        default=DEFAULT_SERVER,
        metavar="URL",
        help="HTTP address, for every protocol (default: %(default)s)",
    )
    parser.add_argument(
        "--session",
        metavar="ID",
        help="go on with this session; one that is new is made by the first message, but not over gRPC",
    )
    parser.add_argument("--model", metavar="ID", help="the model to ask (default: the server's)")
    parser.add_argument(
        "--json", action="store_true", help="print the events as JSON lines, the same on every protocol"
    )
    parser.add_argument("--plain", action="store_true", help="show the answer's Markdown as it was written")
    parser.add_argument("--version", action="version", version=f"fivewire {VERSION}")
    options = parser.parse_args(arguments)
    message = " ".join(options.message) if options.message else None
    if message is not None and not message.strip():
        parser.error("the message is empty")
    if options.json and message is None and sys.stdin.isatty():
        parser.error("--json needs a MESSAGE, or messages on standard input")
    protocol = protocol_named(options.protocol)
    if protocol is None:
        parser.error(f"there is no protocol {options.protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    try:
        server = server_url(options.server)
        if options.session is not None:
            check_session_id(options.session)
        if options.model is not None:
            check_model_id(options.model)
    except (ValueError, ChatError) as error:
        parser.error(str(error))
    return Settings(protocol, server, options.session, options.model, options.json, options.plain, message)

"""The command line of the server: every setting once, with its default, its flag, its variable and its help."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from proto import VERSION

PREFIX = "FIVEWIRE_"


def _flag(help_text: str, default: Any, kind: Callable[[str], Any] = str, meta: str | None = None) -> Any:
    return field(default=default, metadata={"help": help_text, "kind": kind, "meta": meta})


def _number(low: float, high: float, kind: type[int] | type[float]) -> Callable[[str], Any]:
    def number(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    number.__name__ = f"{'whole ' if kind is int else ''}number from {low:,} to {high:,}"
    return number


def _switch(text: str) -> bool:
    value = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    return value[text.strip().lower()] if text.strip() else False


_switch.__name__ = "yes or no"


def _grpc_port(text: str) -> int | None:
    return None if text == "off" else int(_number(0, 65535, int)(text))


_grpc_port.__name__ = "port number, or off"


def _store(text: str) -> str:
    if text in ("memory", "sqlite") or (text.startswith("sqlite:") and len(text) > len("sqlite:")):
        return text
    raise ValueError


_store.__name__ = "store: memory, sqlite or sqlite:PATH"


def _log_format(text: str) -> str:
    if text not in ("human", "json"):
        raise ValueError
    return text


_log_format.__name__ = "format: human or json"


def _origin(text: str) -> str:
    parts = urlsplit(text)  # of any scheme: pages in an app's shell have one of their own, like capacitor://localhost
    if text != "*" and not (parts.scheme and parts.hostname):
        raise ValueError
    return text


_origin.__name__ = "origin, like https://example.org"


def _file(text: str) -> str:
    if not text:  # `--tls-cert "$CERT"`, where that is not set, shall not mean: without TLS
        raise ValueError
    return text


_file.__name__ = "file name"

_port = _number(0, 65535, int)
_seconds = _number(0.05, 86400, float)
_price = _number(0, 1_000_000, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator has chosen; times in seconds."""

    host: str = _flag("address to listen on", "127.0.0.1")
    port: int = _flag("HTTP/1.1, WebSocket, gRPC and gRPC-Web on one port; 0 picks one and prints it", 8000, _port)
    grpc_port: int | None = _flag("a port of gRPC's own; off for none", 50051, _grpc_port, "PORT|off")
    model: str | None = _flag(
        "default model of new sessions: demo, gemini-..., or one of the server at LOCAL_LLM_URL; by default "
        "GENAI_MODEL_ID, else a Gemini model where credentials are set, else demo", None
    )  # fmt: skip
    store: str = _flag("memory, or sqlite:PATH; by default a file in the user's state folder", "sqlite", _store)
    chunk_words: int | None = _flag("regroup the model's pieces into so many words", None, _number(1, 1000, int), "N")
    chunk_interval: float = _flag("seconds between two such pieces", 0.1, _number(0, 60, float), "SECONDS")
    resume_grace: float = _flag(
        "how long an answer goes on with nobody following", 15.0, _number(0, 86400, float), "SECONDS"
    )
    heartbeat: float = _flag("silence after which a stream gets a sign of life", 15.0, _seconds, "SECONDS")
    max_message_chars: int = _flag("longest message taken", 32_000, _number(1, 1_000_000, int), "N")
    max_streams: int = _flag(
        "most turns, most streams and most WebSockets at once", 10_000, _number(1, 1_000_000, int), "N"
    )
    system: str | None = _flag("system instruction for the models", None, str, "TEXT")
    context_messages: int | None = _flag("most messages shown to the model", None, _number(1, 1_000_000, int), "N")
    context_chars: int | None = _flag("most characters shown to the model", None, _number(1, 100_000_000, int), "N")
    first_piece_timeout: float = _flag("how long a model may take to its first piece", 60.0, _seconds, "SECONDS")
    next_piece_timeout: float = _flag("how long a model may take from piece to piece", 30.0, _seconds, "SECONDS")
    price_in: float | None = _flag("price per million input tokens, whichever model answers", None, _price, "PRICE")
    price_out: float | None = _flag("price per million output tokens, whichever model answers", None, _price, "PRICE")
    allow_origin: tuple[str, ...] = _flag(
        "an origin whose pages may use this server (repeatable, in the environment comma-separated; * for all)",
        (),
        _origin,
        "ORIGIN",
    )
    log_format: str | None = _flag("human or json; by default human on a terminal", None, _log_format, "human|json")
    quiet: bool = _flag("log warnings and errors only", False, _switch)
    verbose: bool = _flag("log every chunk", False, _switch)
    reload: bool = _flag("restart when the code changes; sessions survive, clients resume", False, _switch)
    tls_cert: str | None = _flag("certificate (PEM) for TLS on all ports", None, _file, "FILE")
    tls_key: str | None = _flag("its key (PEM)", None, _file, "FILE")


def parse(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings: a flag wins over its variable, which wins over the default. Exits with 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="One multi-turn AI chat over REST, NDJSON, SSE, WebSocket and gRPC.",
        epilog=f"Every flag also reads {PREFIX}<FLAG> from the environment, like {PREFIX}PORT=0.",
    )
    parser.add_argument("--version", action="version", version=f"fivewire {VERSION}")
    for setting in fields(Settings):
        _add(parser, setting, environ)
    chosen = parser.parse_args(arguments)
    values = vars(chosen)
    for name in [name for name in values if name.endswith("_default")]:  # repeatable: the command line replaces
        default, name = values.pop(name), name.removesuffix("_default")
        values[name] = tuple(values[name]) if values[name] else default
    if (values["tls_cert"] is None) != (values["tls_key"] is None):
        parser.error("--tls-cert and --tls-key go together")
    return Settings(**values)


def _add(parser: argparse.ArgumentParser, setting: "Field[Any]", environ: Mapping[str, str]) -> None:
    kind, default = setting.metadata["kind"], setting.default
    assert default is not MISSING
    flag = "--" + setting.name.replace("_", "-")
    variable = PREFIX + setting.name.upper()
    text = environ.get(variable)
    if text:  # set to nothing is not set
        try:
            default = tuple(kind(part.strip()) for part in text.split(",")) if default == () else kind(text)
        except (ValueError, KeyError):
            parser.error(f"{variable}: {text!r} is not a valid {kind.__name__}")
    shown = setting.metadata["help"]
    if setting.default not in (None, False, ()):
        shown += f" (default {setting.default})"
    if kind is _switch:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=shown)
    elif setting.default == ():
        parser.add_argument(flag, action="append", type=kind, help=shown, metavar=setting.metadata["meta"])
        parser.set_defaults(**{setting.name: None, f"{setting.name}_default": default})
    else:
        parser.add_argument(flag, type=kind, default=default, help=shown, metavar=setting.metadata["meta"])


def default_database(environ: Mapping[str, str] = os.environ) -> Path:
    """The file of `--store sqlite`, in the user's state folder."""
    if sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return folder / "fivewire" / "chat.db"

"""The dependency rule: words, bytes, core, edges, root. One table says which module may import which."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("proto", "server", "client", "web")
MAX_LINES = 400
GENERATED = ("proto.chat_pb2", "proto.chat_grpc")

WORDS = ("proto", "proto.errors", "proto.events", "proto.requests", "proto.answers")
CODECS = ("proto.lines", "proto.ndjson", "proto.sse", "proto.websocket", "proto.grpc_web")
MESSAGES = ("proto.chat_pb2", "proto.chat_grpc", "proto.pb", "proto.pb_json")
HTTP2 = ("proto.h2", "proto.h2_frames", "proto.grpc_stream")
CORE = (
    "server", "server.asking", "server.catalog", "server.chat", "server.checkpoints", "server.clock", "server.direct",
    "server.fields", "server.first_step", "server.ids", "server.kept", "server.lane", "server.listen", "server.logs",
    "server.openapi", "server.pieces", "server.sessions", "server.settings", "server.stats", "server.turn",
)  # fmt: skip
CONTRACTS = ("server.models", "server.stores")
HTTP_EDGE = (
    "server.access", "server.body", "server.client_frames", "server.connection", "server.edge", "server.frames",
    "server.hearing", "server.http_protocol", "server.known_head", "server.reply",
)  # fmt: skip
GRPC_EDGE = ("server.call", "server.calls", "server.conversation", "server.h2", "server.outflow", "server.rpc")
ROOT_OF_ALL = ("server.app", "server.reload", "server.program", "server.__main__")

GRPCLIB = ("grpclib", "h2", "hpack", "hyperframe", "google.protobuf")
CLIENT = ("client", "prompt_toolkit", *WORDS)

# Who may import what, besides the standard library; the first row that a module fits counts. `package.*` is every
# module below a package, and a name from outside stands for everything below it.
TABLE: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("proto",), ()),
    (WORDS, WORDS),
    (("proto.chat_pb2",), ("google.protobuf",)),
    (("proto.chat_grpc",), ("grpclib", "proto.chat_pb2")),
    (("proto.pb", "proto.pb_json"), (*WORDS, *MESSAGES, "google.protobuf")),
    (HTTP2, (*HTTP2, *GRPCLIB)),
    (("proto.*",), (*WORDS, *CODECS)),
    (("server.models", "server.stores"), WORDS),
    (("server.models.gemini",), (*WORDS, "server.models", "google.genai", "google.auth", "aiohttp")),
    (("server.models.openai",), (*WORDS, "server.models", "proto.sse", "aiohttp")),
    (("server.models.*",), (*WORDS, "server.models")),
    (
        ("server.stores.sqlite", "server.stores.sqlite_file", "server.stores.sqlite_writer"),
        (*WORDS, "server.stores", "server.stores.packed", "server.stores.sqlite_file", "server.stores.sqlite_writer"),
    ),
    (("server.stores.*",), (*WORDS, "server.stores")),
    (("server.openapi",), (*WORDS, *CORE, "server.transports")),
    (CORE, (*WORDS, *CORE, *CONTRACTS)),
    (HTTP_EDGE, (*WORDS, *CODECS, *CORE, *HTTP_EDGE, "aiohttp")),
    (GRPC_EDGE, (*WORDS, *CODECS, *MESSAGES, *HTTP2, *CORE, *GRPC_EDGE, *GRPCLIB)),
    (
        ("server.transports.grpc",),
        (*WORDS, *CODECS, *MESSAGES, *HTTP2, *CORE, *GRPC_EDGE, *GRPCLIB, "server.transports"),
    ),
    (
        ("server.transports.grpc_web",),
        (*WORDS, *CODECS, *MESSAGES, *CORE, *HTTP_EDGE, "server.rpc", "server.transports", "aiohttp"),
    ),
    (
        ("server.transports", "server.transports.*"),
        (*WORDS, *CODECS, *CORE, *HTTP_EDGE, "server.transports", "aiohttp"),
    ),
    (ROOT_OF_ALL, (*WORDS, *CORE, *CONTRACTS, *HTTP_EDGE, "server.*", "aiohttp")),
    (("client.channel",), (*WORDS, *HTTP2, *GRPCLIB, "client")),
    (("client.api",), (*WORDS, "client.transports", "aiohttp")),
    (
        ("client.transports.grpc",),
        (*WORDS, *MESSAGES, *HTTP2, *GRPCLIB, "client.api", "client.channel", "client.duplex", "client.transports"),
    ),
    (
        ("client.transports", "client.transports.*"),
        (*WORDS, *CODECS, "client.api", "client.duplex", "client.transports", "aiohttp"),
    ),
    (("client", "client.*"), (*WORDS, "client", "client.*", "prompt_toolkit")),
    (("web",), ()),
]


def modules() -> dict[str, Path]:
    """Every module of ours by its name."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(source: str) -> set[str]:
    """The modules that a source imports, wherever in it that stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in MODULES or node.module == "google" else node.module)
    return names


def fits(name: str, rules: tuple[str, ...]) -> bool:
    for rule in rules:
        if name == rule or (rule.endswith(".*") and name.startswith(rule[:-1])):
            return True
        if rule.split(".")[0] not in FOLDERS and name.startswith(rule + "."):
            return True
    return False


def forbidden(module: str, source: str) -> list[str]:
    """What this module imports and may not."""
    allowed = next((allowed for who, allowed in TABLE if fits(module, who)), None)
    assert allowed is not None, f"{module} has no row in the table"
    return sorted(
        name
        for name in imported(source)
        if name.split(".")[0] not in sys.stdlib_module_names and not fits(name, allowed)
    )


@pytest.mark.parametrize("module", MODULES)
def test_the_dependency_rule(module: str) -> None:
    assert forbidden(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("proto.events", "import aiohttp"),
        ("proto.events", "from proto import ndjson"),
        ("proto.sse", "from proto.pb import event_message"),
        ("server.chat", "import aiohttp"),
        ("server.chat", "from proto.ndjson import encode"),
        ("server.turn", "def f():\n    from server.transports import stream"),
        ("server.chat", "from server.stores.sqlite import SqliteStore"),
        ("server.sessions", "from server import edge"),
        ("server.models.gemini", "from server.models import openai"),
        ("server.models.demo", "import aiohttp"),
        ("server.stores.memory", "from server.stores.sqlite import SqliteStore"),
        ("server.transports.rest", "from server.transports.stream import NDJSON"),
        ("server.transports.rest", "import grpclib.server"),
        ("server.transports.stream", "from server.app import App"),
        ("client.app", "from server.chat import Chat"),
        ("client.transports.rest", "from client.transports import stream"),
    ],
)
def test_a_planted_violation_is_found(module: str, planted: str) -> None:
    assert forbidden(module, planted) != []


def test_every_row_of_the_table_is_used() -> None:
    for who, allowed in TABLE:
        for rule in (*who, *(name for name in allowed if name.split(".")[0] in FOLDERS)):
            assert any(fits(module, (rule,)) for module in MODULES), f"{rule} names nothing"


def test_only_the_way_in_knows_the_root() -> None:
    for module, path in MODULES.items():
        if module not in ROOT_OF_ALL:
            assert not imported(path.read_text()) & set(ROOT_OF_ALL), module


def test_no_module_is_named_like_one_of_the_standard_library_or_like_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "base", "manager", "handler", "handlers", "common", "misc"}
    for module in MODULES:
        name = module.rpartition(".")[2]
        assert name == "__main__" or name not in sys.stdlib_module_names, module
        assert name not in vague, module


def test_files_are_short_and_say_what_they_hold() -> None:
    for module, path in MODULES.items():
        if module not in GENERATED:
            text = path.read_text()
            assert text.count("\n") <= MAX_LINES, module
            assert ast.get_docstring(ast.parse(text)), f"{module} does not say what lives in it"
    for path in (ROOT / "web").iterdir():
        if path.suffix in (".js", ".css", ".html"):
            assert path.read_text().count("\n") < MAX_LINES, path.name


def test_packages_are_shipped() -> None:
    shipped = (ROOT / "setup.cfg").read_text().partition("packages =")[2].partition("install_requires")[0].split()
    folders = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    assert folders == set(shipped)

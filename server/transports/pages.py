"""The pages: `/demo` and `/docs` with their files, and the `.proto` file that clients are generated from.

1. Files are read once, at start-up: no path of a request ever reaches the file system.
2. A page may load and connect to nothing but this server, and runs no inline script or style: whatever a model or a
   stranger writes into a conversation cannot become code.
3. What leads to a page is relative: a proxy may serve all of this below a prefix.
"""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from aiohttp import web

from proto.errors import ChatError
from server.reply import Reply
from server.transports import Route

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FIELDS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".proto": "text/plain; charset=utf-8",
}


class File(NamedTuple):
    body: bytes
    fields: dict[str, str]
    etag: str


def _read(entry: Traversable) -> File:
    body = entry.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    suffix = "." + entry.name.rpartition(".")[2]
    return File(body, {**FIELDS, "Content-Type": TYPES[suffix], "ETag": etag}, etag)


def _tree(folder: Traversable, below: str = "") -> dict[str, File]:
    """Every file of a folder that a page can use, by its path below the folder."""
    found = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found.update(_tree(entry, f"{below}{entry.name}/"))
        elif entry.name.endswith((".html", ".css", ".js", ".svg")):
            found[below + entry.name] = _read(entry)
    return found


def _answer(request: web.Request, file: File) -> Reply:
    known = request.headers.get("If-None-Match", "")
    if known == "*" or file.etag in known:
        return Reply(None, {**FIELDS, "ETag": file.etag}, 304)
    return Reply(file.body, file.fields)


def routes() -> list[Route]:
    tree = _tree(files("web"))
    proto = _read(files("proto") / "chat.proto")

    async def demo(request: web.Request) -> web.StreamResponse:
        return _answer(request, tree["demo.html"])

    async def docs(request: web.Request) -> web.StreamResponse:
        return _answer(request, tree["docs.html"])

    async def without_slash(request: web.Request) -> web.StreamResponse:
        return Reply(b"", {"Location": f"../{request.match_info['page']}"}, 308)

    async def asset(request: web.Request) -> web.StreamResponse:
        file = tree.get(request.match_info["path"])
        if file is None:
            raise ChatError("not_found", "The pages have no such file.")
        return _answer(request, file)

    async def definition(request: web.Request) -> web.StreamResponse:
        return _answer(request, proto)

    html = ("text/html",)
    known = ((304, "It is still what `If-None-Match` names."),)
    return [
        Route("GET", "/demo", demo, "The demo: one chat over five wires, in a browser", media=html, also=known),
        Route("GET", "/docs", docs, "The interactive documentation", media=html, also=known),
        Route(
            "GET", "/chat.proto", definition, "The gRPC service, to generate a client from", media=("text/plain",),
            also=known,
        ),
        Route("GET", "/{page:demo|docs}/", without_slash, "The page's own address", listed=False),
        Route("GET", "/web/{path:.+}", asset, "The files of the pages", listed=False),
    ]  # fmt: skip

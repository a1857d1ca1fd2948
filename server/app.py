"""The composition root: from settings to a running server, and back down again in order."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, cast

from aiohttp import web

from proto.requests import invalid
from server.access import Access
from server.catalog import VERTEX_SWITCHES, Catalog, choose_default, gemini_credentials
from server.chat import Chat
from server.connection import Hub
from server.edge import Handler, edge
from server.http_protocol import KEEP_ALIVE_SECONDS, MAX_HEADER_BYTES, MAX_HEADERS, HttpProtocol
from server.listen import GRPC_ALPN, HTTP_ALPN, Listener, bind, tls_context
from server.models import Patience, Provider
from server.models.demo import Demo
from server.settings import Settings, default_database
from server.stores import Store, StoreRefused
from server.stores.memory import MemoryStore
from server.stores.sqlite import SqliteStore
from server.transports import Route, grpc, grpc_web, pages, rest, stream, websocket

DRAIN_SECONDS = 10.0
LAST_WORDS_SECONDS = 2.0  # for answers under way once every turn has ended
CLOSE_SECONDS = 0.1  # for what has to be cancelled after that


class Sockets(NamedTuple):
    """The bound sockets of a server: they may outlive it, where it is restarted on a code change."""

    http: list[socket.socket]
    grpc: list[socket.socket]

    def close(self) -> None:
        for bound in (*self.http, *self.grpc):
            bound.close()


def bind_all(settings: Settings) -> Sockets:
    """Bind every port of the settings, or none; OSError names what failed."""
    http = bind(settings.host, settings.port)
    try:
        return Sockets(http, bind(settings.host, settings.grpc_port) if settings.grpc_port is not None else [])
    except OSError:
        Sockets(http, []).close()
        raise


class App:
    """One server: its chat, its HTTP application, its listening sockets."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] = os.environ,
        providers: Sequence[Provider] | None = None,
    ) -> None:
        self.settings = settings
        default, reason = choose_default(settings.model, environ)
        self.catalog = Catalog(_providers(settings, environ) if providers is None else providers, default, reason)
        self.store = _store(settings)
        self.chat = Chat(self.catalog, self.store, settings)
        self.access = Access(settings.allow_origin)
        self._listeners: list[Listener] = []
        self._runner: web.AppRunner | None = None
        self._grpc = grpc.Service(self.chat)
        self._websockets = Hub(self.chat)
        self._stopping = False
        self._at_once: set[tuple[str, str]] = set()

    async def start(self, sockets: Sockets | None = None) -> None:
        """Open the store, then listen; on sockets that are bound already where they are handed in."""
        settings, shared = self.settings, sockets is not None
        tls, grpc_tls = _tls(settings, HTTP_ALPN), _tls(settings, GRPC_ALPN)
        sockets = sockets or bind_all(settings)
        self.access.loopback = all(ip_address(bound.getsockname()[0]).is_loopback for bound in sockets.http)
        try:
            await self.chat.open()
        except BaseException:
            sockets.close()
            raise
        self._runner = await self._serve()
        self._listeners = [Listener(sockets.http, self._http_protocol, self._grpc.protocol, tls, shared=shared)]
        if sockets.grpc:
            self._listeners.append(Listener(sockets.grpc, None, self._grpc.protocol, grpc_tls, shared=shared))
        for listener in self._listeners:
            await listener.start()

    @property
    def http_urls(self) -> list[str]:
        scheme = "https" if self.settings.tls_cert else "http"
        return [f"{scheme}://{address}" for address in self._listeners[0].addresses]

    @property
    def http_url(self) -> str:
        return self.http_urls[0]

    @property
    def grpc_addresses(self) -> list[str]:
        return [str(address) for listener in self._listeners[1:] for address in listener.addresses]

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Drain: the port still answers, with `unavailable` for new turns, until the running ones have ended."""
        if self._stopping:
            return
        self._stopping = True
        self._grpc.drain()
        await self.chat.drain(drain_seconds)
        await asyncio.gather(*(listener.stop() for listener in self._listeners))
        await asyncio.gather(self._grpc.stop(LAST_WORDS_SECONDS), self._stop_http())
        await self.chat.close()

    async def _stop_http(self) -> None:
        """From `cleanup` on aiohttp reads nothing: no goodbye of a WebSocket, and not the rest of a request that has
        begun. So these come first."""
        await self._websockets.shut()
        if self._runner is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    while not all(connection.idle for connection in self._http_connections()):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            await self._runner.cleanup()

    def _http_connections(self) -> list[HttpProtocol]:
        assert self._runner is not None and self._runner.server is not None
        return cast(list[HttpProtocol], self._runner.server.connections)

    def _http_protocol(self) -> asyncio.Protocol:
        assert self._runner is not None and self._runner.server is not None
        return HttpProtocol(
            self._runner.server,
            lambda: self._stopping,
            self._at_once,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )

    async def _serve(self) -> web.AppRunner:
        """The HTTP application, ready for connections; whoever comes passes the edge before."""
        application = web.Application()
        everything: list[Route] = []
        everything += stream.routes(self.chat)
        everything += websocket.routes(self._websockets)
        everything += grpc_web.routes(self.chat)
        everything += rest.routes(self.chat, everything, websocket.MESSAGES)
        everything += pages.routes()
        for route in everything:
            if route.method == "GET":  # HEAD comes with it
                application.router.add_get(route.path, route.handler, expect_handler=_expected)
            else:
                application.router.add_route(route.method, route.path, route.handler, expect_handler=_expected)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        assert runner.server is not None
        self._at_once = {(route.method, route.path) for route in everything if route.at_once}
        exact = {(route.method, route.path): route.handler for route in everything if "{" not in route.path}
        routed = cast(Handler, runner.server.request_handler)

        async def others(request: web.Request) -> web.StreamResponse:
            if "Expect" in request.headers:  # the routes that aiohttp has for what is not found know no `_expected`
                refusal = (await application.router.resolve(request)).http_exception
                if refusal is not None:
                    raise refusal
            return await routed(request)

        runner.server.request_handler = cast(Any, edge(self.access, exact, others))
        return runner


async def _expected(request: web.Request) -> None:
    """aiohttp would ask for every body, and refuse what it does not know. Whoever reads a body asks for it, if it has
    to be asked for (`server.edge`)."""


def _tls(settings: Settings, alpn: Sequence[str]) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    try:
        return tls_context(settings.tls_cert, settings.tls_key, alpn)
    except OSError as error:  # a file that is not there, or is no PEM
        raise invalid(f"no TLS with {settings.tls_cert} and {settings.tls_key}: {error.strerror or error}") from None


def _store(settings: Settings) -> Store:
    if settings.store == "memory":
        return MemoryStore()
    path = settings.store.removeprefix("sqlite").removeprefix(":")
    try:
        return SqliteStore(Path(path).expanduser() if path else default_database())
    except RuntimeError as error:  # there is no such user, or this one has no home
        raise StoreRefused(f"{settings.store}: {error} Choose another file with --store sqlite:PATH.") from None


def _providers(settings: Settings, environ: Mapping[str, str]) -> list[Provider]:
    """The providers that are configured. An SDK is imported here, at start-up, and only where it is needed: its import
    takes longer than the rest of the start."""
    providers: list[Provider] = [Demo()]
    patience = Patience(settings.first_piece_timeout, settings.next_piece_timeout)
    credentials = gemini_credentials(environ)
    if credentials is not None:
        from server.models.gemini import Gemini

        vertex = credentials in VERTEX_SWITCHES
        key = None if vertex else environ[credentials]
        address = environ.get("GOOGLE_VERTEX_BASE_URL" if vertex else "GOOGLE_GEMINI_BASE_URL")
        providers.append(Gemini(settings.system, patience, key, address, vertex))
    if environ.get("LOCAL_LLM_URL"):
        from server.models.openai import OpenAI

        key = environ.get("LOCAL_LLM_API_KEY")
        providers.append(OpenAI(environ["LOCAL_LLM_URL"], key, settings.system, patience))
    return providers

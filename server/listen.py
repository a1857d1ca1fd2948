"""Listening: one port for HTTP/1.1 (with WebSocket) and HTTP/2 (gRPC), told apart by the first bytes or by ALPN.

1. Under TLS the order of the ALPN list decides. A browser offers both names, and must get HTTP/1.1, because only gRPC
   speaks HTTP/2 here; gRPC clients offer `h2` alone and get it.
2. In clear text an HTTP/2 client starts with a preface of 24 bytes (RFC 9113 section 3.4, prior knowledge) that no
   HTTP/1.1 request starts with. The first byte that differs decides.
3. A connection that says nothing is closed after `FIRST_BYTES_SECONDS`. Until it has said something it belongs to
   nobody, so it is kept track of here. When listening stops, who has just connected is about to ask, and cannot know
   that it may safely ask elsewhere: it is heard first. The others are dropped.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIRST_BYTES_SECONDS = 10.0
HELLO_SECONDS = 1.0  # in which who has just connected says what it came for
TLS_HANDSHAKE_SECONDS = 10.0
TLS_SHUTDOWN_SECONDS = 2.0
BACKLOG_CONNECTIONS = 1024
UNSENT_BYTES = 2**17  # that the kernel takes of one connection
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # an address that this machine does not have

HTTP_ALPN = ("http/1.1", "h2")
GRPC_ALPN = ("h2",)

Factory = Callable[[], asyncio.Protocol]


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind(host: str, port: int) -> list[socket.socket]:
    """Bound sockets for every address of a host that this machine has, all on one port, also where the port is 0.
    Raises OSError."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # an empty part, or one that is too long
        raise OSError("no host can have this name") from None
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                bound = _bound(family, kind, protocol, (address[0], port, *address[2:]))
            except OSError as error:
                missing = OSError(error.errno, f"port {port}: {error.strerror}")
                if error.errno in NOT_HERE:  # as that of `localhost` for IPv6 in many a container
                    continue
                raise missing from None
            port = bound.getsockname()[1]
            sockets.append(opened.enter_context(bound))
        opened.pop_all()
    if missing and not sockets:
        raise missing
    return sockets


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Without this the IPv6 socket of "all addresses" takes the IPv4 ones too, and the next bind fails.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def tls_context(certificate: str, key: str | None, alpn: Sequence[str]) -> ssl.SSLContext:
    """A server's TLS from PEM files."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(alpn)
    return context


class Listener:
    """Accepts connections on bound sockets and gives each to the protocol that it speaks; without `http` every one is
    gRPC's."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        http: Factory | None,
        grpc: Factory,
        tls: ssl.SSLContext | None = None,
        first_bytes_seconds: float = FIRST_BYTES_SECONDS,
        hello_seconds: float = HELLO_SECONDS,
        shared: bool = False,
    ) -> None:
        """`shared`: who waits to be accepted when this one stops, another will accept."""
        self._sockets = sockets
        self._http = http
        self._grpc = grpc
        self._tls = tls
        self._first_bytes_seconds = first_bytes_seconds
        self._hello_seconds = hello_seconds
        self._shared = shared
        self._servers: list[asyncio.Server] = []
        # Weakly, because a failed TLS handshake tells nobody. Such a one is waited for until it is collected.
        self._undecided: weakref.WeakSet[_FirstBytes] = weakref.WeakSet()
        self._late: set[asyncio.Task[Any]] = set()

    @property
    def addresses(self) -> list[Address]:
        return [Address(*bound.getsockname()[:2]) for bound in self._sockets]

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for bound in self._sockets:
            self._servers.append(
                await loop.create_server(self._protocol, sock=bound, backlog=BACKLOG_CONNECTIONS, **self._options())
            )

    def _options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {
            "ssl": self._tls,
            "ssl_handshake_timeout": TLS_HANDSHAKE_SECONDS,
            "ssl_shutdown_timeout": TLS_SHUTDOWN_SECONDS,
        }

    async def stop(self) -> None:
        """Accept who has connected, then no more, and drop those who have said nothing yet, unless they have just come.
        The others belong to their protocols.

        There is no `wait_closed()`: from Python 3.12 on it waits for connections that are not ours to close.
        """
        loop = asyncio.get_running_loop()
        servers, self._servers = self._servers, []
        if not servers:
            return
        for bound in self._sockets:
            loop.remove_reader(bound)
        await asyncio.sleep(0)  # a closed server would lose those that asyncio has accepted and not yet told us of
        if not self._shared:
            self._accept_the_rest()  # whom the system would reset
        for server in servers:
            server.close()
        await asyncio.sleep(0)  # until they are among the undecided
        since = loop.time() - self._hello_seconds
        if fresh := [waiting.decided for waiting in self._undecided if waiting.since > since]:
            await asyncio.wait(fresh, timeout=self._hello_seconds)
        for silent in tuple(self._undecided):
            silent.drop()

    def _accept_the_rest(self) -> None:
        loop = asyncio.get_running_loop()
        for bound in self._sockets:
            with contextlib.suppress(OSError):  # BlockingIOError: that was all
                while True:
                    connection, _ = bound.accept()
                    connection.setblocking(False)
                    making = loop.connect_accepted_socket(self._protocol, connection, **self._options())
                    task = loop.create_task(making)
                    self._late.add(task)
                    task.add_done_callback(self._made)

    def _made(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # a handshake that fails is no news

    def _protocol(self) -> asyncio.Protocol:
        return _FirstBytes(self._http, self._grpc, self._undecided, self._first_bytes_seconds)


def _bound_what_waits(connection: socket.socket) -> None:
    """The kernel takes megabytes that a slow peer has yet to read, and then says nothing for as long as that takes. So
    little lets it tell early whether such a peer reads at all."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with contextlib.suppress(OSError):  # not everywhere
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


class _FirstBytes(asyncio.Protocol):
    """Looks at the first bytes of a connection, then hands it and them to HTTP or gRPC."""

    def __init__(
        self,
        http: Factory | None,
        grpc: Factory,
        undecided: "weakref.WeakSet[_FirstBytes]",
        first_bytes_seconds: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.since = loop.time()
        self.decided: asyncio.Future[None] = loop.create_future()
        self._http = http
        self._grpc = grpc
        self._undecided = undecided
        self._seconds = first_bytes_seconds
        self._head = b""
        self._dropped = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        undecided.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._dropped:
            self._transport.abort()
            return
        _bound_what_waits(transport.get_extra_info("socket"))
        tls = transport.get_extra_info("ssl_object")
        if self._http is None or (tls is not None and tls.selected_alpn_protocol() == "h2"):
            self._hand_over(self._grpc)  # which speaks first, and has a time limit of its own
            return
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self.drop)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._head.startswith(PREFACE):
            self._hand_over(self._grpc)
        elif not PREFACE.startswith(self._head):
            assert self._http is not None
            self._hand_over(self._http)

    def connection_lost(self, exc: Exception | None) -> None:
        self._decided()

    def drop(self) -> None:
        """Now, or when its TLS handshake has ended."""
        self._dropped = True
        if self._transport is not None:
            self._transport.abort()

    def _decided(self) -> None:
        if not self.decided.done():
            self.decided.set_result(None)
        self._undecided.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _hand_over(self, factory: Factory) -> None:
        self._decided()
        protocol = factory()
        assert self._transport is not None
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._head:
            protocol.data_received(self._head)

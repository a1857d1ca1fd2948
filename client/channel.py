"""A gRPC channel: grpclib's, with our HTTP/2 (proto/h2.py) and gzip on request."""

import ssl as tls

import grpclib.client
from grpclib.const import Status
from grpclib.protocol import H2Protocol

from proto.grpc_stream import Codec
from proto.h2 import CONFIG, Connection, Protocol


class _GzipConnection(Connection):
    gzip = True


class Channel(grpclib.client.Channel):
    """Connects when it is first used, and again when the connection has gone.

    A TLS context must offer ALPN `h2` and nothing else: the server's HTTP port speaks HTTP/1.1 to everybody else.
    """

    def __init__(self, host: str, port: int, *, ssl: tls.SSLContext | bool | None = None, gzip: bool = False) -> None:
        super().__init__(host, port, codec=Codec(Status.INTERNAL), ssl=ssl, config=CONFIG)
        self._gzip = gzip

    def _protocol_factory(self) -> H2Protocol:
        protocol = Protocol(grpclib.client.Handler(), client_side=True)
        if self._gzip:
            protocol.connection_class = _GzipConnection
        return protocol

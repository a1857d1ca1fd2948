"""A gRPC channel: grpclib's, with our HTTP/2 (proto/h2.py)."""

import ssl as tls

import grpclib.client
from grpclib.const import Status
from grpclib.protocol import H2Protocol

from proto.grpc_stream import Codec
from proto.h2 import CONFIG, Protocol


class Channel(grpclib.client.Channel):
    """Connects when it is first used, and again when the connection has gone.

    A TLS context must offer ALPN `h2` and nothing else: the server's HTTP port speaks HTTP/1.1 to everybody else.
    """

    def __init__(self, host: str, port: int, *, ssl: tls.SSLContext | bool | None = None) -> None:
        super().__init__(host, port, codec=Codec(Status.INTERNAL), ssl=ssl, config=CONFIG)

    def _protocol_factory(self) -> H2Protocol:
        return Protocol(grpclib.client.Handler(), client_side=True)

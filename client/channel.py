"""A gRPC channel: grpclib's, with our HTTP/2 (proto/h2.py)."""

import ssl as tls

import grpclib.client
from grpclib.const import Status
from h2.exceptions import ProtocolError

from proto.grpc_stream import Codec, Stream
from proto.h2 import CONFIG, Connection, Protocol


class _Stream(Stream):
    max_message_bytes = 64 * 2**20  # a session's whole history comes in one


class _Connection(Connection):
    stream_class = _Stream


class _Peer(Protocol):
    """The connection to a server, or to something else."""

    connection_class = _Connection
    foreign = False  # what came was no HTTP/2
    reached = False  # something came

    def data_received(self, data: bytes) -> None:
        self.reached = True
        super().data_received(data)

    def fail(self, error: ProtocolError) -> None:
        self.foreign = True
        super().fail(error)


class Channel(grpclib.client.Channel):
    """Connects when it is first used, and again when the connection has gone.

    A TLS context must offer ALPN `h2` and nothing else: the server's HTTP port speaks HTTP/1.1 to everybody else.
    """

    def __init__(self, host: str, port: int, *, ssl: tls.SSLContext | bool | None = None) -> None:
        super().__init__(host, port, codec=Codec(Status.INTERNAL), ssl=ssl, config=CONFIG)
        self._peer: _Peer | None = None  # of the last connection

    @property
    def foreign(self) -> bool:
        """Whether somebody has answered who does not speak HTTP/2."""
        return self._peer is not None and self._peer.foreign

    @property
    def reached(self) -> bool:
        """Whether anybody has answered."""
        return self._peer is not None and self._peer.reached

    def _protocol_factory(self) -> _Peer:
        self._peer = _Peer(grpclib.client.Handler(), client_side=True)
        return self._peer

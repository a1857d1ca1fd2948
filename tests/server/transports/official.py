"""The official client of gRPC, as tests use it: the calls of the service, and how they end."""

from pathlib import Path

import grpc
import grpc.aio
import pytest

from server.rpc import METHODS

FAST = "demo?chunks=5&rate=0"
SLOW = "demo?chunks=1000&rate=20"


class Stub:
    """The calls of the service on an official channel."""

    def __init__(self, channel):
        for method in METHODS.values():
            sides = ["stream" if streams else "unary" for streams in (method.takes_stream, method.gives_stream)]
            call = getattr(channel, "_".join(sides))(
                f"/chat.ChatService/{method.name}",
                request_serializer=lambda request: (
                    request if isinstance(request, bytes) else request.SerializeToString()
                ),
                response_deserializer=method.gives.FromString,
            )
            setattr(self, method.name, call)


def connect(app, port="http", gzip=False, certificate=None):
    address = app.http_url.partition("//")[2] if port == "http" else app.grpc_addresses[0]
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    if certificate is None:
        return grpc.aio.insecure_channel(address, compression=compression)
    credentials = grpc.ssl_channel_credentials(Path(certificate[0]).read_bytes())
    return grpc.aio.secure_channel(address, credentials, compression=compression)


async def status_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return caught.value.code().name, dict(caught.value.trailing_metadata()).get("fivewire-code")


async def until(call, kind):
    """The responses up to and including the first of this type."""
    responses = []
    while not responses or responses[-1].type != kind:
        response = await call.read()
        assert response is not grpc.aio.EOF, responses
        responses.append(response)
    return responses

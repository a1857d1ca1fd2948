"""One port: the first bytes, however they come, and ALPN decide who gets a connection."""

import asyncio
import contextlib
import socket
import ssl

import pytest

from server.listen import GRPC_ALPN, HTTP_ALPN, PREFACE, Listener, bind, tls_context


class Named(asyncio.Protocol):
    """Says its name at once, then echoes."""

    def __init__(self, name):
        self.name = name

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.name)

    def data_received(self, data):
        self.transport.write(data)


@contextlib.asynccontextmanager
async def listening(http=b"http:", grpc=b"grpc:", **options):
    factories = [name and (lambda name=name: Named(name)) for name in (http, grpc)]
    listener = Listener(bind("127.0.0.1", 0), *factories, **options)
    await listener.start()
    try:
        yield listener
    finally:
        listener.stop()


async def connect(listener, **options):
    host, port = listener.addresses[0]
    return await asyncio.open_connection(host, port, **options)


async def ask(listener, pieces, **options):
    reader, writer = await connect(listener, **options)
    sent = b"".join(pieces)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(5):
        answer = await reader.readexactly(5 + len(sent))
    writer.close()
    assert answer[5:] == sent
    return answer[:5]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (PREFACE + b"more", b"grpc:"),
        (b"GET / HTTP/1.1\r\n\r\n", b"http:"),
        (b"PRI * HTTP/1.1\r\n\r\n", b"http:"),
        (b"P", None),
    ],
)
def test_the_first_bytes_decide(sent, name, size):
    async def run():
        async with listening() as listener:
            if name is None:
                reader, writer = await connect(listener)
                writer.write(sent)
                listener.stop()
                async with asyncio.timeout(5):
                    with contextlib.suppress(ConnectionResetError):
                        assert await reader.read() == b""
                writer.close()
            else:
                assert await ask(listener, [sent[i : i + size] for i in range(0, len(sent), size)]) == name

    asyncio.run(run())


def test_a_silent_connection_is_closed():
    async def run():
        async with listening(first_bytes_seconds=0.01) as listener:
            reader, writer = await connect(listener)
            writer.write(PREFACE[:10])
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_a_port_of_ones_own():
    async def run():
        async with listening(None) as listener:
            assert await ask(listener, [b"x"]) == b"grpc:"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("offered", "sent", "name"),
    [
        (["h2"], b"x", b"grpc:"),
        (["http/1.1"], b"x", b"http:"),
        (["h2", "http/1.1"], b"x", b"http:"),
        ([], b"GET", b"http:"),
        ([], PREFACE, b"grpc:"),
    ],
)
def test_alpn_decides_and_a_browser_gets_http(certificate, offered, sent, name):
    async def run():
        client = ssl.create_default_context(cafile=certificate[0])
        if offered:
            client.set_alpn_protocols(offered)
        async with listening(tls=tls_context(*certificate, HTTP_ALPN)) as listener:
            assert await ask(listener, [sent], ssl=client, server_hostname="localhost") == name
        async with listening(None, tls=tls_context(*certificate, GRPC_ALPN)) as listener:
            assert await ask(listener, [sent], ssl=client, server_hostname="localhost") == b"grpc:"

    asyncio.run(run())


def test_every_address_of_a_host_gets_the_same_port():
    sockets = bind("", 0)
    try:
        assert len({bound.getsockname()[1] for bound in sockets}) == 1
        assert socket.AF_INET in {bound.family for bound in sockets}
    finally:
        for bound in sockets:
            bound.close()

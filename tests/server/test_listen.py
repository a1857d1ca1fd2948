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
        await listener.stop()


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
    ],
)
def test_the_first_bytes_decide(sent, name, size):
    async def run():
        async with listening() as listener:
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


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("shared", [False, True])
def test_a_connection_is_heard_or_left_to_another_when_listening_stops(steps, shared):
    """However far asyncio has come with it."""

    async def run():
        async with listening(shared=shared) as listener:
            (bound,) = listener._sockets
            with bound.dup() as another, socket.create_connection(listener.addresses[0]) as client:
                client.sendall(b"GET")
                for _ in range(steps):
                    await asyncio.sleep(0)
                await listener.stop()
                with contextlib.suppress(BlockingIOError):
                    another.accept()[0].close()
                    assert shared
                    return
                reader, writer = await asyncio.open_connection(sock=client.dup())
                async with asyncio.timeout(5):
                    assert await reader.readexactly(8) == b"http:GET"
                writer.close()

    asyncio.run(run())


def test_who_has_just_connected_is_waited_for_when_listening_stops():
    async def run():
        async with listening(hello_seconds=20) as listener:
            reader, writer = await connect(listener)
            while not listener._undecided:
                await asyncio.sleep(0.005)
            stopping = asyncio.create_task(listener.stop())
            await asyncio.sleep(0.02)
            assert not stopping.done()
            writer.write(b"GET")
            assert await reader.readexactly(8) == b"http:GET"
            await stopping
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(("patience", "silent_for"), [(0.05, 0), (20, 20)])
def test_who_says_nothing_for_longer_is_dropped_when_listening_stops(patience, silent_for):
    async def run():
        async with listening(hello_seconds=patience) as listener:
            reader, writer = await connect(listener)
            writer.write(b"P")
            while not listener._undecided:
                await asyncio.sleep(0.005)
            (silent,) = listener._undecided
            silent.since -= silent_for
            async with asyncio.timeout(5):
                await listener.stop()
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_who_has_said_something_may_take_its_time():
    async def run():
        async with listening(first_bytes_seconds=0.01) as listener:
            reader, writer = await connect(listener)
            writer.write(b"GET")
            assert await reader.readexactly(8) == b"http:GET"
            await asyncio.sleep(0.05)
            writer.write(b" more")
            assert await reader.readexactly(5) == b" more"
            writer.close()

    asyncio.run(run())


def test_a_handshake_that_ends_too_late_is_dropped(certificate):
    async def run():
        client = ssl.create_default_context(cafile=certificate[0])
        async with listening(tls=tls_context(*certificate, HTTP_ALPN), hello_seconds=0.05) as listener:
            reader, writer = await connect(listener)
            while not listener._undecided:
                await asyncio.sleep(0.005)
            await listener.stop()
            with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
                async with asyncio.timeout(5):
                    await writer.start_tls(client, server_hostname="localhost")
                    writer.write(b"GET")
                    await reader.readexactly(8)
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


def test_an_address_of_a_host_that_this_machine_does_not_have_is_left_out(monkeypatch):
    not_here, here = "192.0.2.1", "127.0.0.1"  # RFC 5737 keeps the first for examples
    with pytest.raises(OSError, match="port 0: "):
        bind(not_here, 0)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in (not_here, here)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    (bound,) = bind("a-name-for-both", 0)
    with bound:
        assert bound.getsockname()[0] == here

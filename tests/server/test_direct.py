"""Writing straight into sockets: nothing is lost, doubled or out of order, whatever the socket takes."""

import asyncio
import contextlib
import socket
import ssl

import pytest

from server.direct import DirectWriter


class Pausing(asyncio.Protocol):
    """Tells its writer what the transport tells it, as the protocols of the server do."""

    def __init__(self, made):
        self.made = made

    def connection_made(self, transport):
        self.transport, self.writer = transport, DirectWriter(transport)
        self.paused = 0
        self.gone = asyncio.get_running_loop().create_future()
        self.made.set_result(self)

    def pause_writing(self):
        self.paused += 1
        self.writer.pause()

    def resume_writing(self):
        self.writer.resume()

    def connection_lost(self, exc):
        self.writer.lost()
        self.gone.set_result(None)


async def connected(**options):
    """Our end of a connection, and the peer's streams."""
    loop = asyncio.get_running_loop()
    made = loop.create_future()
    server = await loop.create_server(lambda: Pausing(made), "127.0.0.1", 0, ssl=options.get("server"))
    streams = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=options.get("client"))
    server.close()
    return await made, *streams


def pieces(count):
    return [b"%06d " % number * (1 + number % 3000) for number in range(count)]


def test_what_the_socket_does_not_take_stays_in_front(run):
    """The peer makes room before the loop has noticed: what is written then must not overtake what waits."""

    async def scenario():
        ours, reader, writer = await connected()
        reader._transport.pause_reading()
        peer = writer.get_extra_info("socket")._sock
        sent = pieces(2000)
        got = bytearray()
        for number, piece in enumerate(sent):
            (ours.transport.write if number % 7 == 0 else ours.writer.write)(piece)
            if ours.transport.get_write_buffer_size():
                with contextlib.suppress(BlockingIOError):  # it has all that was sent
                    got += peer.recv(2**16)
            if number % 100 == 0:
                await asyncio.sleep(0)
        assert ours.paused
        expected = b"".join(sent)
        reader._transport.resume_reading()
        got += await reader.readexactly(len(expected) - len(got))
        assert got == expected
        writer.close()

    run(scenario())


def test_what_a_full_socket_refuses_waits_in_the_transport(run):
    async def scenario():
        ours, reader, writer = await connected()
        reader._transport.pause_reading()
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += ours.transport.get_extra_info("socket")._sock.send(bytes(2**16))
        ours.writer.write(b"last")
        assert ours.transport.get_write_buffer_size() == 4 and ours.paused == 1
        reader._transport.resume_reading()
        assert (await reader.readexactly(sent + 4)).endswith(b"\0last")
        writer.close()

    run(scenario())


def test_what_fits_into_the_socket_never_reaches_the_transport(run, monkeypatch):
    async def scenario():
        ours, reader, writer = await connected()
        monkeypatch.setattr(type(ours.transport), "write", None)
        ours.writer.write(b"Hello")
        monkeypatch.undo()
        assert await reader.readexactly(5) == b"Hello"
        writer.close()

    run(scenario())


@pytest.fixture
def tls(certificate):
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*certificate)
    return {"server": server, "client": ssl.create_default_context(cafile=certificate[0])}


def test_tls_writes_by_its_transport(run, tls):
    async def scenario():
        ours, reader, writer = await connected(**tls)
        for piece in pieces(300):
            ours.writer.write(piece)
        assert await reader.readexactly(sum(map(len, pieces(300)))) == b"".join(pieces(300))
        writer.close()

    run(scenario())


def test_over_tls_too_it_is_told_what_a_slow_peer_takes(run, tls):
    async def scenario():
        ours, reader, writer = await connected(**tls)
        ours.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**12)
        for _ in range(2):
            ours.writer.write(bytes(2**20))  # the first leaves TLS at once, whether the socket takes it or not
        assert ours.paused
        waiting, taken = ours.transport.get_write_buffer_size(), ours.writer.taken()
        while ours.writer.taken() == taken:
            await reader.readexactly(2**12)
        assert taken < ours.writer.taken() and ours.transport.get_write_buffer_size() == waiting
        writer.transport.abort()

    run(scenario())


def test_over_tls_too_who_takes_a_plain_answer_slowly_is_not_dropped(run, serving, tls, certificate):
    async def scenario():
        async with serving(tls_cert=certificate[0], tls_key=certificate[1]) as app:
            host, port = app.http_url.partition("//")[2].split(":")
            reader, writer = await asyncio.open_connection(host, int(port), ssl=tls["client"])
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            (protocol,) = app._http_connections()
            protocol.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**12)
            for _ in range(2):
                protocol.direct.write(bytes(2**20))
            before, waiting = protocol.direct.held(), protocol.transport.get_write_buffer_size()
            (known,) = protocol._stall_timer._args
            while protocol.direct.held() == before:
                await reader.readexactly(2**12)
            assert protocol.transport.get_write_buffer_size() == waiting
            protocol._stall_timer.cancel()
            protocol._watch(known)
            assert not protocol.transport.is_closing()
            writer.transport.abort()

    run(scenario())


def test_a_connection_that_breaks_is_lost_once(run, caplog):
    async def scenario():
        ours, _, writer = await connected()
        writer.transport.abort()
        while not ours.gone.done():
            ours.writer.write(b"x" * 2**16)
            await asyncio.sleep(0)
        ours.writer.write(b"x")

    run(scenario())
    assert "Traceback" not in caplog.text

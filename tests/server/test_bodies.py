"""Bodies of requests: such as are cut off, late, endless or spoilt, and such as wait to be asked for."""

import asyncio
from typing import Any

import pytest

from proto.grpc_web import frame
from server import edge
from tests.server.test_edge import CHAT, OK, TURN, check_problem

CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def test_a_body_that_is_cut_off_or_slow_or_endless(run: Any, serving: Any, dial: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(edge, "BODY_SECONDS", 0.05)

    async def test() -> None:
        async with serving() as app:
            async with dial(app) as wire:
                wire.send(CHAT + b'Content-Length: 100\r\n\r\n{"message":')
                answer = await wire.answer()
                assert check_problem(answer, 408)["code"] == "invalid_request"
                assert answer.headers["connection"] == "close"
            async with dial(app) as wire:
                wire.send(CHAT + b"Content-Length: 100000000\r\n\r\n{")
                check_problem(await wire.answer(), 413)
            async with dial(app) as wire:
                wire.send(CHAT + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(8):
                    wire.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                check_problem(await wire.answer(), 413)
            async with dial(app) as wire:
                wire.send(CHAT + b'Content-Length: 100\r\n\r\n{"message":')
                wire.writer.write_eof()
                assert b"200 OK" not in await wire.reader.read()
            async with dial(app) as wire:
                assert (await wire.ask("GET", "/health")).status == 200

    run(test())


@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/sessions/new"])
@pytest.mark.parametrize("pause", [0, 0.02])
def test_a_body_that_goes_on_with_what_is_none(
    run: Any, serving: Any, dial: Any, bugs: Any, path: str, pause: float
) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            wire.send(CHAT.replace(b"/chat", path.encode()) + CHUNKED)
            await asyncio.sleep(pause)
            wire.send(b"2\r\n{}\r\n")
            await asyncio.sleep(pause)
            wire.send(b"zz\r\n{}\r\n")
            async with asyncio.timeout(5):
                answer = await wire.answer()
                check_problem(answer, 400)
                assert answer.headers["connection"] == "close" and await wire.reader.read() == b""
        assert not app.chat.tell().total_requests and not app.chat.tell().active_sessions

    run(test())


@pytest.mark.parametrize(
    ("before", "path", "statuses"),
    [("", f"{TURN}/cancel", [404]), ("/chat", "/chat", [200, 400]), ("/chat", f"{TURN}/cancel", [200, 404])],
)
def test_a_spoilt_body_that_nobody_reads_yet(
    run: Any, serving: Any, dial: Any, bugs: Any, before: str, path: str, statuses: list[int]
) -> None:
    """Its request needs none and has its answer, or waits for that of another request."""

    async def test() -> None:
        async with serving(model="demo?chunks=2&rate=20") as app, dial(app) as wire:
            if before:
                wire.request("POST", before, OK)
            wire.send(CHAT.replace(b"/chat", path.encode()) + CHUNKED)
            await asyncio.sleep(0.02)
            wire.send(b"zz\r\n")
            async with asyncio.timeout(5):
                assert [(await wire.answer()).status for _ in statuses] == statuses
                assert await wire.reader.read() == b""

    run(test())


def test_a_body_behind_an_upgrade_that_is_declined_goes_on_with_what_is_none(
    run: Any, serving: Any, dial: Any, bugs: Any
) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            wire.request("GET", "/health", Connection="Upgrade", Upgrade="websocket")
            wire.send(CHAT + CHUNKED + b"2\r\n{}\r\n")
            assert (await wire.answer()).status == 200
            wire.send(b"zz\r\n{}\r\n")
            async with asyncio.timeout(5):
                check_problem(await wire.answer(), 400)
                assert await wire.reader.read() == b""

    run(test())


def expecting(path: str, body: bytes = b"{}", expect: str = "100-continue", more: str = "") -> bytes:
    """The head of a request whose peer would wait before it sends the body."""
    kind = "application/grpc-web+json" if "Service" in path else "application/json"
    return (
        f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: {kind}\r\nExpect: {expect}\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/chat.ChatService/StreamChat"])
def test_a_body_is_asked_for_when_it_is_wanted(run: Any, serving: Any, dial: Any, bugs: Any, path: str) -> None:
    body = b'{"message":"Hi"}'
    body = frame(body) if "Service" in path else body

    async def test() -> None:
        async with serving(model="demo?chunks=1&rate=0") as app, dial(app) as wire:
            wire.send(expecting(path, body, expect="100-Continue"))
            assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            wire.send(body)
            assert (await wire.answer()).status == 200
            for head in (expecting(path, body), expecting(path, body, expect="more")):
                wire.send(head + body)  # it is there, or the expectation is one that nobody knows
                assert (await wire.answer()).status == 200
            wire.send(expecting(path, body).replace(b"HTTP/1.1", b"HTTP/1.0"))
            await asyncio.sleep(0.02)
            wire.send(body)
            assert (await wire.answer()).status == 200

    run(test())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (expecting("/chat", more="Origin: https://evil.example\r\n"), 403),
        (expecting("/chat", b" " * 2_000_000), 413),
        (expecting("/chat", more="Content-Encoding: gzip\r\n"), 415),
        (expecting(f"{TURN}/cancel"), 404),
        (expecting("/nope"), 404),
        (expecting("/nope", expect="more"), 404),
        (expecting("/health"), 405),
        (expecting(TURN), 405),
    ],
)
def test_a_body_that_is_not_wanted_is_not_asked_for(
    run: Any, serving: Any, dial: Any, bugs: Any, head: bytes, status: int
) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            wire.send(head)
            answer = await wire.answer()
            check_problem(answer, status)
            assert answer.headers["connection"] == "close", "what comes next would be taken for the body"

    run(test())

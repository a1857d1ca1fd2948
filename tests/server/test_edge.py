"""The HTTP edge against strangers: every bad request gets problem+json with the right status, and never a traceback."""

import asyncio
import gzip
import json
import random
import time
from typing import Any

import pytest

from proto.errors import CODES, ChatError
from proto.requests import json_object
from server import http_protocol, lane

OK = {"message": "Hello"}
DEEP = b'{"message":' + b"[" * 5000 + b"]" * 5000 + b"}"
TURN = "/turns/" + "x" * 24

# Bodies of POST /chat that are refused with this status.
BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"nonsense", 400),
    (b"[]", 400),
    (b'"text"', 400),
    (b"null", 400),
    (b"{}", 400),
    (b'{"message": NaN}', 400),
    (b'{"message": Infinity}', 400),
    (b'{"message": "a"} trailing', 400),
    (b'{"message": "a",}', 400),
    (b'{"message": "\xff\xfe"}', 400),
    ('{"message": "a"}'.encode("utf-16"), 400),
    (b'{"message": "\\ud800"}', 400),
    (b'{"message": "tab\tin string"}', 400),
    (DEEP, 400),
    (b'{"message": 1' + b"0" * 10_000 + b"}", 400),
    (b'{"message": 1e999}', 400),
    *[(b'{"message": %b}' % value, 400) for value in (b"null", b"1", b"true", b"false", b"[]", b"{}", b"0.5", b'""')],
    *[
        (b'{"message": "a", "%b": %b}' % (name, value), 400)
        for name in (b"session_id", b"model_id", b"idempotency_key")
        for value in (b"1", b"true", b"[]", b"{}", b'""', b'"\\u00e9"', b'"\\ud800"', b'"%b"' % (b"x" * 300))
    ],
    *[
        (b'{"message": "a", "session_id": "%b"}' % value, 400)
        for value in (b"a b", b"a/b", b"..\\n", b"%00", b"x" * 129)
    ],
    (b'{"message": " \\n\\t\\u00a0 "}', 400),
    (b'{"message": "a", "model_id": "no-such-model"}', 400),
    (b'{"message": "a", "model_id": "demo?chunks=x"}', 400),
    (b'{"message": "a", "model_id": "demo?chunks=0"}', 400),
    (b'{"message": "a", "model_id": "gemini-3.8-flash"}', 400),
    (b'{"message": "%b"}' % (b"x" * 32_001), 413),
    (b'{"message": "%b"}' % (b"\\u00e9" * 32_001), 413),
    (b'{"message": "a", "extra": "%b"}' % (b"x" * 500_000), 413),
]

# method, path, headers, body, status
REQUESTS: list[tuple[str, str, dict[str, str], Any, int]] = [
    ("GET", "/nowhere", {}, None, 404),
    ("GET", "/chat/", {}, None, 404),
    ("GET", "//chat", {}, None, 404),
    ("GET", "/../etc/passwd", {}, None, 404),
    ("GET", "/sessions/..%2f..%2fetc%2fpasswd", {}, None, 400),
    ("GET", "/sessions/%00", {}, None, 400),
    ("GET", "/sessions/%ff", {}, None, 400),
    ("GET", "/sessions/%", {}, None, 400),
    ("GET", "/sessions/%zz", {}, None, 400),
    ("GET", "/sessions/%ed%a0%80", {}, None, 400),
    ("GET", "/sessions/" + "x" * 129, {}, None, 400),
    ("GET", "/sessions/" + "x" * 7000, {}, None, 400),
    ("GET", "/sessions/unknown", {}, None, 404),
    ("DELETE", "/sessions/unknown", {}, None, 404),
    ("DELETE", "/sessions/a%20b", {}, None, 400),
    ("POST", "/sessions/unknown/clear", {}, None, 404),
    ("POST", "/sessions/new", {}, {"model_id": 1}, 400),
    ("POST", "/sessions/new", {}, {"model_id": "no-such"}, 400),
    ("POST", "/sessions/new", {}, b"[]", 400),
    ("POST", "/sessions/new", {"Content-Type": "text/plain"}, b"{}", 415),
    *[("GET", f"/sessions?limit={limit}", {}, None, 400) for limit in ("0", "-1", "501", "x", "1e2", "", "%D9%A3")],
    *[("GET", f"/sessions?before={before}", {}, None, 400) for before in ("x", "1", ":", "nan:a", "inf:a", "1:a%20b")],
    ("GET", TURN, {}, None, 404),
    ("GET", "/turns/a.b", {}, None, 400),
    ("GET", "/turns/%ff", {}, None, 400),
    ("GET", "/turns/" + "x" * 129, {}, None, 400),
    ("POST", f"{TURN}/cancel", {}, None, 404),
    ("POST", "/turns/a%20b/cancel", {}, None, 400),
    *[
        ("GET", f"{TURN}?after={after}", {"Accept": "text/event-stream"}, None, 400)
        for after in ("-1", "x", "1.5", "", "1e3", "9" * 17, "%D9%A3", "9007199254740992")
    ],
    *[
        ("GET", TURN, {"Accept": "text/event-stream", "Last-Event-ID": last}, None, 400)
        for last in ("x", ":", ":1", "other:1", f"{'x' * 24}:", f"{'x' * 24}:-1", f"{'x' * 24}:x", "\xff:1", "x" * 5000)
    ],
    ("GET", "/chat", {}, None, 405),
    ("PUT", "/chat", {}, OK, 405),
    ("DELETE", "/chat/stream", {}, None, 405),
    ("POST", "/health", {}, None, 405),
    ("OPTIONS", "/chat", {}, None, 405),
    ("TRACE", "/", {}, None, 405),
    ("PROPFIND", "/health", {}, None, 405),
    ("HEAD", "/chat", {}, None, 405),
    ("CONNECT", "test:80", {}, None, 404),
    ("CONNECT", "xn--a:80", {}, None, 404),
    ("POST", "/chat", {"Content-Type": "text/plain"}, b'{"message":"a"}', 415),
    ("POST", "/chat", {"Content-Type": "application/x-www-form-urlencoded"}, b"message=a", 415),
    ("POST", "/chat", {"Content-Type": ""}, b'{"message":"a"}', 415),
    ("POST", "/chat", {"Content-Type": "\xff/\xff"}, b'{"message":"a"}', 415),
    ("POST", "/chat", {"Content-Encoding": "gzip"}, gzip.compress(b'{"message":"a"}', mtime=0), 415),
    ("POST", "/chat", {"Content-Encoding": "gzip"}, gzip.compress(b" " * 50_000_000, mtime=0), 415),
    ("POST", "/chat", {"Content-Encoding": "br"}, b"x", 415),
    ("POST", "/chat", {"Idempotency-Key": "x" * 257}, OK, 400),
    ("POST", "/chat", {"Idempotency-Key": "\xe9"}, OK, 400),
    ("POST", "/chat", {"Idempotency-Key": ""}, OK, 400),
    ("POST", "/chat", {"Idempotency-Key": "a"}, {**OK, "idempotency_key": "b"}, 400),
    ("POST", "/chat/stream", {"Accept": "text/event-stream"}, {}, 400),
    ("POST", "/chat/stream", {"Accept": "\xff"}, {"message": 1}, 400),
    *[
        ("GET", "/health", {"Origin": origin}, None, 403)
        for origin in ("https://evil.example", "null", "http://[", "http://test.evil.example", "\xff", "http://test@evil")
    ],
    ("OPTIONS", "/chat", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, None, 403),
    ("POST", "/chat/stream", {"Origin": "https://evil.example"}, OK, 403),
]  # fmt: skip

# What is not HTTP/1.1, or not acceptable as such: the whole of what is sent.
CHAT = b"POST /chat HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
RAW: dict[str, bytes] = {
    "garbage": b"\x00\x01\x02\xff\xfe\r\n\r\n",
    "words": b"hello there, server\r\n\r\n",
    "unknown method": b"NONSENSE /health HTTP/1.1\r\nHost: t\r\n\r\n",
    "bad version": b"GET /health HTTP/9.x\r\n\r\n",
    "method with blanks": b"GE T /health HTTP/1.1\r\n\r\n",
    "header without colon": b"GET /health HTTP/1.1\r\nHost: t\r\nnonsense\r\n\r\n",
    "header with a blank name": b"GET /health HTTP/1.1\r\nHost: t\r\nA b: c\r\n\r\n",
    "header with NUL": b"GET /health HTTP/1.1\r\nHost: t\r\nA: b\0c\r\n\r\n",
    "folded header": b"GET /health HTTP/1.1\r\nHost: t\r\nA: b\r\n\0 c\r\n\r\n",
    "long line": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n",
    "long header": b"GET /health HTTP/1.1\r\nHost: t\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nHost: t\r\n" + b"".join(b"A%d: x\r\n" % n for n in range(200)) + b"\r\n",
    "two lengths": CHAT + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}  ",
    "negative length": CHAT + b"Content-Length: -1\r\n\r\n{}",
    "length in words": CHAT + b"Content-Length: ten\r\n\r\n{}",
    "length and chunked": CHAT + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "odd coding": CHAT + b"Transfer-Encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "bad chunk size": CHAT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "negative chunk size": CHAT + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
    "chunk without end": CHAT + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
}


def check_problem(answer: Any, status: int, where: Any = "") -> Any:
    """The answer is a problem with this status, whose words are ours and tell nothing of the inside."""
    assert answer.status == status, (where, answer)
    assert answer.headers["content-type"] == "application/problem+json", where
    assert answer.headers["x-request-id"]
    problem = answer.json
    assert {name: type(value) for name, value in problem.items() if name != "turn_id"} == {
        "type": str, "title": str, "status": int, "detail": str, "code": str, "retryable": bool, "request_id": str,
    }  # fmt: skip
    assert problem["type"] == "about:blank" and problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["code"] in CODES and problem["title"] == CODES[problem["code"]].title
    assert not any(word in answer.body for word in (b"Traceback", b'File "', b".py", b"aiohttp", b"Error:")), (
        answer.body
    )
    return problem


def test_bad_bodies(run: Any, serving: Any, dial: Any, bugs: Any) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            for path in ("/chat", "/chat/stream"):
                for body, status in BODIES:
                    check_problem(await wire.ask("POST", path, body), status, body[:80])
            assert (await wire.ask("GET", "/sessions")).json["sessions"] == []

    run(test())


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), REQUESTS)
def test_bad_requests(
    run: Any, serving: Any, dial: Any, bugs: Any, method: str, path: str, headers: Any, body: Any, status: int
) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            answer = await wire.ask(method, path, body, **headers)
            if method == "HEAD":
                assert answer.status == status and answer.body == b""
            else:
                problem = check_problem(answer, status)
                if status in (405, 415):
                    assert problem["code"] == "invalid_request"
                if status == 405:
                    assert answer.headers["allow"]
            if "Content-Encoding" not in headers:
                assert (await wire.ask("GET", "/health")).status == 200, "the connection lives on"

    run(test())


@pytest.mark.parametrize("name", RAW)
def test_bad_http(run: Any, serving: Any, dial: Any, bugs: Any, name: str) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            wire.send(RAW[name])
            check_problem(await wire.answer(), 400)
            wire.writer.write_eof()
            await wire.reader.read()

    run(test())


def test_a_head_that_never_ends(run: Any, serving: Any, dial: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.05)

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            wire.send(b"GET /health HTTP/1.1\r\nHost: ")
            assert await wire.reader.read() == b""

    run(test())


def test_a_peer_that_takes_nothing_of_a_plain_answer_is_dropped(
    run: Any, serving: Any, dial: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(lane, "STALL_SECONDS", 0.05)

    async def test() -> None:
        async with serving() as app, dial(app) as well, dial(app, limit=1024) as wire:
            long = {"session_id": "s", "message": "x" * 30_000, "model_id": "demo?chunks=1&rate=0"}
            for _ in range(4):
                assert (await well.ask("POST", "/chat", long)).status == 200
            for _ in range(200):  # 24 MB, more than both sockets hold
                wire.request("GET", "/sessions/s")
            while not wire.writer.transport.is_closing():
                wire.send(b"GET /health HTTP/1.1\r\n\r\n")
                await asyncio.sleep(0.01)
            assert (await well.ask("GET", "/health")).status == 200

    run(test())


@pytest.mark.parametrize("insane", ["", "a b", "\xff", "x" * 129, "<script>", "a\tb", '"'])
def test_request_ids(run: Any, serving: Any, dial: Any, insane: str) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            for path in ("/health", "/nowhere"):
                answer = await wire.ask("GET", path, X_Request_Id="mine-1")
                assert answer.headers["x-request-id"] == "mine-1"
                made = {(await wire.ask("GET", path, X_Request_Id=insane)).headers["x-request-id"] for _ in range(3)}
                assert len(made) == 3 and insane not in made

    run(test())


def test_head_is_get_without_its_body(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            said = (await wire.ask("POST", "/chat", {"message": "Hi", "model_id": "demo?chunks=3&rate=0"})).json
            turn = f"/turns/{said['turn_id']}"
            for path in ("/health", "/stats", "/metrics", "/models", "/", "/openapi.json", "/sessions", turn):
                head, get = await wire.ask("HEAD", path), await wire.ask("GET", path)
                assert (head.status, head.body) == (200, b"")
                assert head.headers["content-type"] == get.headers["content-type"]

    run(test())


def test_a_path_is_found_however_it_is_written(run: Any, serving: Any, dial: Any) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            for path in ("/health", "/health?a=1", "/%68ealth", f"{app.http_url}/health", "http://xn--a/health"):
                assert (await wire.ask("GET", path)).json["status"] == "healthy"
            for path in ("/health/", "//health", "/Health"):
                assert (await wire.ask("GET", path)).status == 404

    run(test())


def test_a_bug_is_internal_and_keeps_its_traceback_to_itself(run: Any, serving: Any, dial: Any, caplog: Any) -> None:
    async def test() -> None:
        async with serving() as app, dial(app) as wire:

            async def broken(*_: Any) -> None:
                raise RuntimeError("the secret inside")

            app.chat.detail = broken
            problem = check_problem(await wire.ask("GET", "/sessions/s"), 500)
            assert problem["code"] == "internal" and "secret" not in str(problem)
            assert "the secret inside" in caplog.text

    run(test())


def test_a_request_that_cannot_be_made_is_a_bug_as_well(run: Any, serving: Any, dial: Any, caplog: Any) -> None:
    """It would break outside of all that answers, in aiohttp's task."""

    async def test() -> None:
        async with serving() as app, dial(app) as wire:
            make = app._runner.server.request_factory

            def broken(message: Any, *more: Any) -> Any:
                if message.path == "/health":
                    raise RuntimeError("the secret inside")
                return make(message, *more)

            assert (await wire.ask("GET", "/models")).status == 200  # the next one would be handled at once
            app._runner.server.request_factory = broken
            wire.request("GET", "/health")
            assert check_problem(await wire.answer(), 500)["code"] == "internal"
            assert await wire.reader.read() == b"" and "the secret inside" in caplog.text

    run(test())


def test_nested_json_is_refused_in_linear_time() -> None:
    def seconds(quotes: int) -> float:
        start = time.thread_time()  # others of this machine may come between
        with pytest.raises(ChatError):
            json_object("[" + "[]," * 40 + '"' + '\\"' * quotes)
        return time.thread_time() - start

    # Twenty times the size; in quadratic time it would be four hundred times as long.
    assert min(seconds(20_000) for _ in range(3)) < 100 * max(min(seconds(1_000) for _ in range(5)), 0.0001)
    assert json_object('{"a": "' + "[" * 100 + '\\""}') == {"a": "[" * 100 + '"'}


def test_random_bytes(run: Any, serving: Any, dial: Any, bugs: Any) -> None:
    """A seeded storm on the raw socket: each connection gets a 4xx or a close, and the server lives."""
    chance = random.Random(20)
    good = CHAT + b'Content-Length: 15\r\n\r\n{"message":"a"}'

    def damaged() -> bytes:
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(data))
            match chance.randrange(3):
                case 0:
                    data[place] = chance.randrange(256)
                case 1:
                    del data[place : place + chance.randrange(1, 9)]
                case _:
                    data[place:place] = chance.randbytes(chance.randrange(1, 9))
        return bytes(data)

    async def test() -> None:
        async with serving(model="demo?chunks=1&rate=0") as app:
            for number in range(300):
                async with dial(app) as wire:
                    wire.send(damaged() if number % 3 else chance.randbytes(chance.randrange(1, 400)))
                    wire.writer.write_eof()
                    answer = await wire.reader.read()
                    assert answer == b"" or answer.split(b" ", 2)[1][:1] in (b"2", b"4"), answer
            async with dial(app) as wire:
                assert (await wire.ask("GET", "/health")).status == 200

    run(test())


def test_random_json(run: Any, serving: Any, dial: Any, bugs: Any) -> None:
    chance = random.Random(21)

    def value(depth: int = 0) -> Any:
        match chance.randrange(9 if depth < 3 else 7):
            case 0:
                return chance.choice([None, True, False])
            case 1:
                return chance.choice([0, -1, 2**63, 10**400, 0.1, 1e308])
            case 2 | 3 | 4:
                return "".join(chr(chance.choice([9, 32, 65, 233, 0x2028, 0xD83D, 0x1F600, 0])) for _ in range(4))
            case 5 | 6:
                return chance.choice(["demo?chunks=1&rate=0", "s1", "Hello", ""])
            case 7:
                return [value(depth + 1) for _ in range(chance.randrange(3))]
        return {str(value(3)): value(depth + 1) for _ in range(chance.randrange(3))}

    async def test() -> None:
        async with serving(model="demo?chunks=1&rate=0") as app, dial(app) as wire:
            for _ in range(400):
                body = {name: value() for name in ("message", "session_id", "model_id", "idempotency_key", "x")}
                for name in chance.sample(list(body), chance.randrange(4)):
                    del body[name]
                answer = await wire.ask("POST", chance.choice(["/chat", "/sessions/new"]), json.dumps(body).encode())
                if answer.status != 200:
                    assert 400 <= answer.status < 500, (body, answer)
                    check_problem(answer, answer.status, body)

    run(test())
